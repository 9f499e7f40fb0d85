"""Session-scoped fixtures: one tiny world, one tiny model, trained once a worker."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from i2vae_lib import stages
from i2vae_lib.data import CrossDomainDataset, load_dataset
from i2vae_lib.generators import psg
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import I2VAERecommender
from tests.helpers.worlds import LONG, TINY, fitted


@pytest.fixture(scope="session", autouse=True)
def _quiet(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One thread (two processes on two threads each crawl), no progress bars, a cache of the session's own."""
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["I2VAE_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny() -> Parameters:
    """Parameters of the tiny world: seconds for everything together."""
    return load("smoke", TINY, epochs=2)


@pytest.fixture(scope="session")
def dataset(tiny: Parameters) -> CrossDomainDataset:
    return load_dataset(tiny)


@pytest.fixture(scope="session")
def published(tiny: Parameters) -> CrossDomainDataset:
    """The tiny world in its older form: published splits without times, under ``strict``."""
    return load_dataset(tiny.model_copy(update={"protocol": "strict"}))


@pytest.fixture(scope="session")
def generator(dataset: CrossDomainDataset, tiny: Parameters) -> psg.Generator:
    return psg.fit(dataset.splits["train"], tiny.psg)


@pytest.fixture(scope="session")
def trained(dataset: CrossDomainDataset, tiny: Parameters, generator: psg.Generator) -> I2VAERecommender:
    """i2VAE after two epochs on the tiny world. Do not change it."""
    return fitted(I2VAERecommender(dataset.catalogue, tiny), dataset, tiny, generator)


@pytest.fixture(scope="session")
def whole_run(tiny: Parameters, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Folder of a finished run of the tiny world, and what was said meanwhile. Copy it before changing it."""
    run = stages.open_run(tiny, tmp_path_factory.mktemp("run") / "a")
    said: list[str] = []
    stages.run_all(run, said.append)
    return run.folder, said


@pytest.fixture(scope="session")
def released_folder() -> Path:
    """Folder of the released files; the tests that need it are skipped, loudly, without it."""
    folder = os.environ.get("I2VAE_DATA_DIR")
    if not folder or not (Path(folder) / "released").is_dir():
        pytest.skip("I2VAE_DATA_DIR does not name a folder with released/: tests on the real files are SKIPPED")
    return Path(folder)


@pytest.fixture(scope="session")
def logs_folder() -> Path:
    """Folder with the real logs; the tests that need it are skipped, loudly, without it."""
    folder = os.environ.get("I2VAE_DATA_DIR")
    if not folder or not (Path(folder) / "logs").is_dir():
        pytest.skip("I2VAE_DATA_DIR does not name a folder with logs/: tests on the real logs are SKIPPED")
    return Path(folder)


# --- slow tests -------------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests begin with the longest, the wheel, and have time to end on a busy machine (:data:`LONG` and again)."""
    items.sort(key=lambda item: item.path.name != "test_wheel.py")
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(2 * LONG))


# --- what was tried ---------------------------------------------------------------------------------------------------


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.tries("kill", 2)``: the test makes two kills, and passes only if nothing is lost."""
    for mark in item.iter_markers("tries"):
        what, count = (*mark.args, 1)[:2]
        item.user_properties.append(("tries", [what, count]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How much hostile input, how many kills and faults were tried, and after how many something was wrong or lost."""
    tried, lost = Counter[str](), Counter[str]()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            for what, count in (value for name, value in getattr(report, "user_properties", ()) if name == "tries"):
                tried[what] += count
                lost[what] += count * (outcome != "passed")
    if tried:
        told = ", ".join(f"{count:,} {what} ({lost[what]} lost)" for what, count in sorted(tried.items()))
        terminalreporter.write_line(f"tried: {told}")
