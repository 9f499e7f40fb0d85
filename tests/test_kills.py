"""Sweeps, searches and tables are killed twice, and end with what one that nobody killed ends with, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from i2vae_lib.recommenders.registry import SYSTEMS
from tests.helpers.sweeps import CONTENT
from tests.helpers.worlds import LONG, TINY

pytestmark = pytest.mark.slow
ALONE = {key: value for key, value in TINY.items() if not key.startswith("references")}
BEGUN = {
    "preset": "smoke",
    "data": "synthetic",
    "protocol": "chronological",
    "seed": 0,
    "epochs": 12,
    "overrides": ALONE,
}
WORDS = {
    "sweep": ["sweep", "sweep.yaml", "--workers", "2"],
    "search": ["search", "search.yaml", "--trials", "3", "--workers", "1"],  # two would propose other trials
    "table": ["table", "--preset", "smoke", "--epochs", "12", "--trials", "1", "--workers", "2"]
    + ["--tuning", "tuning.yaml", "--systems", "sasrec-bce-s", "svae-s"]
    + [f"--set={key}={json.dumps(value)}" for key, value in ALONE.items()],
}


def started(folder: Path, kind: str) -> subprocess.Popen[bytes]:
    """The command, with a cache of its own: what was made before a kill is not found elsewhere."""
    (folder / "sweep.yaml").write_text(yaml.safe_dump(CONTENT | {"epochs": 12, "seeds": [0]}))
    (folder / "search.yaml").write_text(yaml.safe_dump(BEGUN | {"space": {"model.T": {"low": 5, "high": 10}}}))
    tuning = {"shared": {}, "points": {name: [{}] for name in SYSTEMS}}
    (folder / "tuning.yaml").write_text(json.dumps(tuning))  # no aliases
    return subprocess.Popen(
        [sys.executable, "-m", "i2vae_lib", *WORDS[kind], "--out", "out"],
        cwd=folder,
        env=os.environ | {"I2VAE_CACHE_DIR": str(folder / "cache")},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def checkpoints(folder: Path) -> set[tuple[Path, int]]:
    return {(path, path.stat().st_mtime_ns) for path in folder.glob("out/cells/*/last.ckpt")}


def killed_in_training(folder: Path, kind: str, target: str, by: signal.Signals) -> bool:
    """Start the command, end it or one of its workers after an epoch, and whatever is left of it must end."""
    before = checkpoints(folder)
    command = started(folder, kind)
    deadline = time.monotonic() + LONG
    while not checkpoints(folder) - before and command.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if command.poll() is not None:  # there was nothing left to train
        return False
    family = psutil.Process(command.pid).children(recursive=True)
    if target == "parent":
        command.send_signal(by)
    else:  # the busiest
        psutil.Process(max(family, key=lambda one: one.cpu_times().user).pid).send_signal(by)
    command.wait(timeout=LONG)
    left = psutil.wait_procs(family, timeout=30)[1]
    assert not [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    return True


def made(folder: Path) -> dict[str, bytes | str]:
    """What is left in the cells, without the seconds that it took."""
    found: dict[str, bytes | str] = {}
    for pattern in ("*.safetensors", "ranks.parquet", "metrics.json", "pseudo.parquet"):
        found |= {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(f"out/cells/*/**/{pattern}")}
    for path in folder.glob("out/cells/*/history.parquet"):
        history = pd.read_parquet(path)
        losses = history[[name for name in history if "seconds" not in name and name != "rows/s"]]
        found[str(path.relative_to(folder))] = losses.to_csv(float_format="%.17g")
    return found


@pytest.fixture(scope="module", params=WORDS)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, bytes | str]]:
    """A command, and what it makes if nobody kills it."""
    folder = tmp_path_factory.mktemp(request.param)
    assert started(folder, request.param).wait(timeout=LONG) == 0
    found = made(folder)
    assert sum(name.endswith("weights.safetensors") for name in found) >= 2
    return request.param, found


@pytest.mark.tries("kills")
@pytest.mark.parametrize("target", ["parent", "worker"])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_command_killed_twice_ends_as_one_that_nobody_killed(
    whole: tuple[str, dict[str, bytes | str]], target: str, by: signal.Signals, tmp_path: Path
) -> None:
    """One whose worker is killed makes its cell again by itself, and may end before the second kill."""
    kind, expected = whole
    killed = [killed_in_training(tmp_path, kind, target, by) for _ in range(2)]
    assert killed[0] and (killed[1] or target == "worker")
    assert started(tmp_path, kind).wait(timeout=LONG) == 0
    assert made(tmp_path) == expected
