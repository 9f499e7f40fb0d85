"""Sanity of trained systems where the truth is known: the floors that a broken one falls through.

On the predictable end of the planted world, against 99 sampled negatives: chance finds the target among the ten best in
one row of ten.
"""

from __future__ import annotations

import numpy as np
import pytest

from i2vae_lib import evaluation
from i2vae_lib.data import CrossDomainDataset, load_dataset
from i2vae_lib.data.rows import Array
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import SYSTEMS, Popularity
from tests.helpers.worlds import fitted

SETTINGS = {
    "synthetic.users": 3000,
    "synthetic.items": 240,
    "synthetic.dial": 2.0,
    "evaluation.negatives": 99,
    "model.d": 32,
    "model.T": 10,
    "training.learning_rate": 5e-3,
    "training.batch_size": 256,
}
EPOCHS = 12


@pytest.fixture(scope="module")
def params() -> Parameters:
    return load("smoke", SETTINGS, epochs=EPOCHS)


@pytest.fixture(scope="module")
def world(params: Parameters) -> CrossDomainDataset:
    return load_dataset(params)


@pytest.fixture(scope="module")
def hits(params: Parameters, world: CrossDomainDataset) -> dict[str, Array]:
    """HR@10 of each test row with an own history, by system."""
    rows = world.splits["test"]
    negatives = evaluation.sample_negatives(rows, 99, 0)
    found: dict[str, Array] = {}
    trained = (SYSTEMS[name](world.catalogue, params) for name in ("sasrec-bce-s", "savae", "ravae"))
    for system in (Popularity(world.catalogue), *trained):
        fitted(system, world, params)
        ranks = evaluation.rank(system, rows, negatives, full=False, batch_size=512)
        greater, ties = (ranks[name].to_numpy() for name in ("greater_sampled", "ties_sampled"))
        found[system.name] = evaluation.hit_rate(greater, ties, 10)
    warm = rows.lengths("own") > 0
    return {name: one[warm] for name, one in found.items()}


def standard_errors(values: Array) -> float:
    """How many standard errors a mean is above 0."""
    return float(values.mean() * np.sqrt(len(values)) / values.std())


def test_warm_rows_when_chance_is_a_tenth(hits: dict[str, Array]) -> None:
    for name, values in hits.items():
        assert len(values) == 626
        assert standard_errors(values - 0.1) > 10, name


@pytest.mark.parametrize("name", ["sasrec-bce-s", "savae"])
def test_warm_rows_when_popularity_is_the_floor(hits: dict[str, Array], name: str) -> None:
    assert standard_errors(hits[name] - hits["popularity"]) > 6  # paired by row; some 0.21 of them


def test_warm_rows_when_the_rigid_alignment_gives_up_the_own_history(hits: dict[str, Array]) -> None:
    assert standard_errors(hits["savae"] - hits["ravae"]) > 6  # 0.18
