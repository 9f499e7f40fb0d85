"""Linear probes on fakes: perfect, useless, rotated, and more inputs than the truth needs."""

from __future__ import annotations

import numpy as np
import pytest

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.inspection import CountsAlone, latent_probes, linear_probe
from i2vae_lib.model.latents import kl, standard_like
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import I2VAERecommender, ItemKNN
from i2vae_lib.training import Callbacks
from tests.conftest import TINY

N, K = 4000, 3


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, K))


@pytest.fixture
def owner() -> np.ndarray:
    return np.arange(N) // 2


def probe(inputs: np.ndarray, truth: np.ndarray, owner: np.ndarray) -> float:
    return linear_probe(inputs, truth, owner, np.random.default_rng(1))


def test_linear_probe_when_inputs_are_perfect(truth: np.ndarray, owner: np.ndarray) -> None:
    assert probe(truth, truth, owner) == pytest.approx(1.0, abs=1e-5)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(K, K)))[0]
    assert probe(truth @ rotation * 7 + 3, truth, owner) == pytest.approx(1.0, abs=1e-5)


def test_linear_probe_when_inputs_are_useless(truth: np.ndarray, owner: np.ndarray) -> None:
    noise = np.random.default_rng(3).normal(size=(N, 5))
    assert abs(probe(noise, truth, owner)) < 0.01


def test_linear_probe_when_noise_is_known(truth: np.ndarray, owner: np.ndarray) -> None:
    """Signal and noise of equal variance: half of it."""
    noisy = truth + np.random.default_rng(4).normal(size=truth.shape)
    assert probe(noisy, truth, owner) == pytest.approx(0.5, abs=0.03)
    assert probe(np.hstack([noisy, noisy]), truth, owner) == pytest.approx(0.5, abs=0.03)  # duplicated


def test_linear_probe_when_a_user_has_several_rows() -> None:
    """Rows of a user never stand on both sides: a user's own constant helps nobody else."""
    owner = np.repeat(np.arange(200), 20)
    truth = np.random.default_rng(5).normal(size=(200, 1))[owner]
    identity = np.eye(200)[owner]
    assert probe(identity, truth, owner) < 0.05


def test_latent_probes_when_read(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    table = latent_probes(trained, dataset.splits["test"], dataset.truth, np.random.default_rng(0))
    assert list(table["latent"]) == ["specific", "transferable", "augmented"] * 2
    rows = dataset.splits["test"]
    warm = (rows.lengths("own") > 0) & (rows.lengths("other") > 0)
    assert dict(zip(table["domain"], table["n"])) == {
        d: int((warm & (rows.domain == i)).sum()) for i, d in enumerate("xy")
    }
    assert (table[["shared", "specific"]] < 1).all(axis=None) and (table["kl"] > 0).all()
    [(_, _, latents)] = trained.infer(rows.take(np.flatnonzero(warm & (rows.domain == 0))))
    expected = float(kl(latents.specific, standard_like(latents.specific)).mean())
    assert table["kl"][0] == pytest.approx(expected, rel=1e-5)


def test_counts_alone_when_sequences_are_bags_are_itemknn(dataset: CrossDomainDataset) -> None:
    p: Parameters = load("smoke", TINY | {"references.neighbours": [0], "references.shrinkage": [10.0]})
    train, rows = dataset.splits["train"], dataset.splits["test"]
    knn = ItemKNN.unfitted(dataset.catalogue).fit(
        train,
        dataset.splits["validation"],
        params=p,
        generator=None,
        rng=np.random.default_rng(0),
        callbacks=Callbacks(),
    )
    everything = np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))
    alone = CountsAlone(train, p.psg.model_copy(update={"shrinkage": 10.0}))
    np.testing.assert_allclose(alone.score(rows, everything), knn.score(rows, everything), rtol=1e-4, atol=1e-7)
