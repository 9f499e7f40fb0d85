"""Session-scoped fixtures: one tiny world, one tiny model, trained once a worker."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vae_lib import psg
from i2vae_lib.data import CrossDomainDataset, load_dataset
from i2vae_lib.data.rows import Rows
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.training import Callbacks
from i2vae_lib.workers import InThisProcess

TINY = {
    "synthetic.users": 600,
    "synthetic.items": 120,
    "synthetic.linked_items": 20,
    "evaluation.negatives": 49,
    "psg.epochs": 3,
    "psg.recalled": 8,
    "model.d": 16,
    "model.T": 10,
    "model.T_pseudo": 18,
}


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


def one_a_user(rows: Rows, count: int) -> Rows:
    """Rows of ``count`` users, one of each, of either domain (a log's rows stand user by user)."""
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    first = np.unique(shuffled.user.astype(str), return_index=True)[1]
    return shuffled.take(np.sort(first)[:count])


@pytest.fixture(scope="session")
def generator(dataset: CrossDomainDataset, tiny: Parameters) -> psg.Generator:
    return psg.fit(dataset.splits["train"], tiny.psg)


def fitted(system: Any, dataset: CrossDomainDataset, params: Parameters, generator: psg.Generator | None = None) -> Any:
    """A system trained on a dataset's rows, seed 0."""
    return system.fit(
        dataset.splits["train"],
        dataset.splits["validation"],
        params=params,
        generator=generator,
        rng=np.random.default_rng(0),
        callbacks=Callbacks(),
    )


@pytest.fixture(scope="session")
def trained(dataset: CrossDomainDataset, tiny: Parameters, generator: psg.Generator) -> I2VAERecommender:
    """i2VAE after two epochs on the tiny world. Do not change it."""
    return fitted(I2VAERecommender(dataset.catalogue, tiny), dataset, tiny, generator)


@pytest.fixture(scope="session")
def released_folder() -> Path:
    """Folder of the released files; the tests that need it are skipped, loudly, without it."""
    folder = os.environ.get("I2VAE_DATA_DIR")
    if not folder or not (Path(folder) / "released").is_dir():
        pytest.skip("I2VAE_DATA_DIR does not name a folder with released/: tests on the real files are SKIPPED")
    return Path(folder)


@contextlib.contextmanager
def in_this_process(*words: Any, **named: Any) -> Iterator[InThisProcess]:
    """In place of ``workers.connect``, for what does not ask about processes; seconds less."""
    yield InThisProcess()
