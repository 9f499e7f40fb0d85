"""The tiny world's parameters, and what is done with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import Rows
from i2vae_lib.data.user_sequences import EveryEvent
from i2vae_lib.experiments.workers import InThisProcess
from i2vae_lib.generators import psg
from i2vae_lib.params import Parameters
from i2vae_lib.training import Callbacks

ROOT = Path(__file__).parent.parent.parent
LONG = 600
"""Seconds that a process under test may take on a machine with a dozen others: the end of a wait, never a pause."""

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


def one_a_user(rows: Rows, count: int) -> Rows:
    """Rows of ``count`` users, one of each, of either domain (a log's rows stand user by user)."""
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    first = np.unique(shuffled.user.astype(str), return_index=True)[1]
    return shuffled.take(np.sort(first)[:count])


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


@contextlib.contextmanager
def in_this_process(*words: Any, **named: Any) -> Iterator[InThisProcess]:
    """In place of ``workers.connect``, for what does not ask about processes; seconds less."""
    yield InThisProcess()


def asked_by_event(train: Rows, length: int) -> Rows:
    """The rows that ask for all events of training users."""
    every = EveryEvent.of(train)
    return every.rows(np.arange(len(every.domain)), length)
