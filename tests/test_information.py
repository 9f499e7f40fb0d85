"""Estimators on Gaussians of known information, and on what must give nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from i2vae_lib.disentanglement import information
from i2vae_lib.disentanglement.information import (
    alignment,
    cap,
    contrastive,
    dependent,
    gaussian,
    ksg,
    reduced,
    with_interval,
)

N = 4000
OWNER = np.arange(N)


def pairs(nats: float, d: int, seed: int = 0, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """d independent pairs of columns that share nats / d each."""
    rng = np.random.default_rng(seed)
    rho = math.sqrt(1 - math.exp(-2 * nats / d))
    x, noise = rng.normal(size=(2, n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize(("nats", "d"), [(0.5, 1), (2.0, 1), (2.0, 8), (2.0, 32), (8.0, 32)])
def test_gaussian_on_gaussians(nats: float, d: int) -> None:
    x, y = pairs(nats, d)
    bias = d * d / (2 * N)
    assert gaussian(x, y) == pytest.approx(nats + bias, abs=0.05 + 0.02 * nats)


def test_gaussian_when_pairs_are_torn_apart_has_the_bias_that_is_said() -> None:
    x, _ = pairs(2.0, 32)
    y = pairs(2.0, 32, seed=1)[1]
    assert gaussian(x, y) == pytest.approx(32 * 32 / (2 * N), rel=0.1)


def test_gaussian_is_blind_to_what_is_no_correlation() -> None:
    x = np.random.default_rng(0).normal(size=(N, 1))
    assert gaussian(x, x**2) < 0.01
    assert ksg(x, x**2) > 1.5
    assert dependent(x, x**2, np.random.default_rng(0))[1] < 0.01


@pytest.mark.parametrize(("nats", "d", "tolerance"), [(0.5, 1, 0.05), (2.0, 1, 0.06), (1.0, 2, 0.06)])
def test_ksg_on_gaussians_in_few_dimensions(nats: float, d: int, tolerance: float) -> None:
    assert ksg(*pairs(nats, d)) == pytest.approx(nats, abs=tolerance)


def test_ksg_in_four_dimensions_is_too_low() -> None:
    assert 0.75 < ksg(*pairs(1.0, 4)) < 0.95
    assert 0.6 < np.mean([ksg(*pairs(1.0, 4, seed, 510)) for seed in range(10)]) < 0.76


def test_ksg_is_refused_in_many_dimensions() -> None:
    with pytest.raises(ValueError, match="KSG in 8 dimensions is far too low: reduce to 4"):
        ksg(*pairs(2.0, 8))
    x, y = (reduced(one) for one in pairs(2.0, 8))
    assert x.shape == (N, 4) and ksg(x, y) < 1.5  # what lies beyond four components is lost


def test_reduced_keeps_the_widest_directions() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(500, 2)) * [5, 3]
    turned = np.hstack([wide, 0.01 * rng.normal(size=(500, 6))]) @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert alignment(reduced(turned, 2), wide) > 0.999


@pytest.mark.parametrize(("nats", "d", "low", "high"), [(2.0, 1, 1.6, 2.05), (2.0, 8, 1.2, 2.05), (0.0, 8, -0.6, 0.05)])
def test_contrastive_is_a_lower_bound(nats: float, d: int, low: float, high: float) -> None:
    x, y = pairs(nats, d)
    assert low < contrastive(x, y, OWNER, np.random.default_rng(0)) < high


@pytest.mark.parametrize(("nats", "d", "n", "low", "high"), [(2.0, 16, 510, 0.2, 1.5), (2.0, 32, 1600, 0.1, 1.5)])
def test_contrastive_of_few_pairs_in_many_dimensions(nats: float, d: int, n: int, low: float, high: float) -> None:
    """Loose, and never the nonsense of a critic that knows its pairs by heart."""
    found = [contrastive(*pairs(nats, d, seed, n), np.arange(n), np.random.default_rng(seed)) for seed in range(3)]
    assert low < np.mean(found) < high and min(found) > -0.2
    nothing = [
        contrastive(pairs(0.0, d, seed, n)[0], pairs(0.0, d, 50 + seed, n)[1], np.arange(n), np.random.default_rng(1))
        for seed in range(3)
    ]
    assert max(map(abs, nothing)) < 0.2


def test_contrastive_never_exceeds_its_cap() -> None:
    x, y = pairs(20.0, 4)
    assert cap(N, 64) == math.log(64) and cap(100) == math.log(50)
    assert 3.0 < contrastive(x, y, OWNER, np.random.default_rng(0), batch=64) <= math.log(64)


def test_contrastive_keeps_a_users_pairs_on_one_side() -> None:
    """A constant of the user's own helps nobody else."""
    owner = np.repeat(np.arange(300), 10)
    constant = np.random.default_rng(0).normal(size=(300, 6))
    noise = np.random.default_rng(1).normal(size=(300, 6))
    assert contrastive(constant[owner], noise[owner], owner, np.random.default_rng(0)) < 0.05


@pytest.mark.parametrize("d", [1, 8, 32])
def test_dependence_is_found_where_it_is(d: int) -> None:
    x, y = pairs(2.0, d, n=1500)
    assert dependent(x, y, np.random.default_rng(0))[1] == pytest.approx(1 / 201)


def test_independence_is_rejected_in_one_of_twenty() -> None:
    rng = np.random.default_rng(0)
    found = [dependent(*rng.normal(size=(2, 100, 4)), rng, permutations=99)[1] for _ in range(200)]
    assert 2 <= sum(p <= 0.05 for p in found) <= 20  # 10 expected; outside with probability below 0.01


def test_hsic_is_the_trace_of_centred_kernels() -> None:
    x, y = pairs(1.0, 2, n=60)
    left, right = information._kernel(x), information._kernel(y)
    centre = np.eye(60) - 1 / 60
    expected = np.trace(left @ centre @ right @ centre) / 60**2
    assert dependent(x, y, np.random.default_rng(0), permutations=1)[0] == pytest.approx(expected, rel=1e-9)


def test_alignment_up_to_rotation_and_scale() -> None:
    x = np.random.default_rng(0).normal(size=(500, 6))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert alignment(x, 3 * x @ rotation + 1) == pytest.approx(1.0)
    assert alignment(x, np.random.default_rng(2).normal(size=(500, 6))) < 0.05


def test_interval_covers_what_other_samples_give() -> None:
    """Its width is the spread over samples, within what 20 halves can tell."""
    spread = np.std([gaussian(*pairs(1.0, 3, seed=seed, n=600)) for seed in range(60)])
    widths = []
    for seed in range(8):
        x, y = pairs(1.0, 3, seed=100 + seed, n=600)
        found, low, high = with_interval(gaussian, x, y, np.arange(600), np.random.default_rng(seed))
        assert low < found < high
        widths.append((high - low) / (2 * 1.96))
    assert np.mean(widths) == pytest.approx(spread, rel=0.25)


def test_table_of_a_pair() -> None:
    x, y = pairs(2.0, 8)
    found = information.table(x, y, OWNER, np.random.default_rng(0))
    assert found["pairs"] == N and found["cap"] == math.log(256)
    assert found["gaussian_low"] < 2.0 < found["gaussian_high"]
    assert found["gaussian_shuffled"] == pytest.approx(64 / (2 * N), rel=0.5)
    assert found["hsic_p"] < 0.01 and 0 < found["cka"] < 1 and found["ksg"] < found["gaussian"]
