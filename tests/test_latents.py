"""Gaussians: closed forms, draws, and which side of a choice gets a gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from i2vae_lib.model.latents import Gaussian, kl, kl_per_dimension, sample, scatter, standard_like, where


def gaussian(rows: int, d: int, seed: int) -> Gaussian:
    numbers = torch.randn(2, rows, d, generator=torch.Generator().manual_seed(seed))
    return Gaussian(numbers[0].requires_grad_(), numbers[1].requires_grad_())


@pytest.mark.parametrize(
    ("mean", "log_variance", "nats"),
    [
        (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.5),
        (-3.0, 0.0, 4.5),
        (0.0, math.log(4.0), 0.5 * (4.0 - 1.0 - math.log(4.0))),
        (1.0, -2.0, 0.5 * (math.exp(-2.0) + 1.0 - 1.0 + 2.0)),
    ],
)
def test_kl_when_prior_is_standard(mean: float, log_variance: float, nats: float) -> None:
    q = Gaussian(torch.full((3, 8), mean), torch.full((3, 8), log_variance))
    torch.testing.assert_close(kl(q, standard_like(q)), torch.full((3,), 8 * nats), rtol=1e-6, atol=0.0)


def test_kl_when_compared_with_torch_distributions() -> None:
    q, p = gaussian(5, 7, 0), gaussian(5, 7, 1)
    scales = [torch.exp(0.5 * one.log_variance) for one in (q, p)]
    expected = kl_divergence(Normal(q.mean, scales[0]), Normal(p.mean, scales[1]))
    torch.testing.assert_close(kl_per_dimension(q, p), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kl(q, p), expected.sum(dim=1), rtol=1e-5, atol=1e-6)


def test_kl_when_prior_is_one_line_for_all_rows() -> None:
    q, p = gaussian(5, 7, 0), gaussian(1, 7, 1)
    repeated = Gaussian(p.mean.expand(5, 7), p.log_variance.expand(5, 7))
    assert torch.equal(kl(q, Gaussian(p.mean[0], p.log_variance[0])), kl(q, repeated))


def test_sample_when_drawn_many_times() -> None:
    mean, sigma = torch.tensor([-2.0, 1.0, 5.0]), torch.tensor([0.5, 1.0, 2.0])
    q = Gaussian(mean.expand(200_000, 3), (2 * sigma.log()).expand(200_000, 3))
    drawn = sample(q, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(dim=0), mean, rtol=0.005, atol=0.0)
    torch.testing.assert_close(drawn.std(dim=0), sigma, rtol=0.005, atol=0.0)


def test_sample_when_generator_is_none() -> None:
    q = gaussian(4, 3, 0)
    assert sample(q, None) is q.mean


def test_sample_when_seed_repeats() -> None:
    q = gaussian(4, 3, 0)
    first, again, differing = (sample(q, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.isclose(first, differing).any()


def test_sample_when_differentiated() -> None:
    """dz / dmean = 1 and dz / dlog_variance = sigma eps / 2 = (z - mean) / 2."""
    q = gaussian(4, 3, 0)
    drawn = sample(q, torch.Generator().manual_seed(5))
    drawn.sum().backward()
    assert torch.equal(q.mean.grad, torch.ones(4, 3))
    torch.testing.assert_close(q.log_variance.grad, ((drawn - q.mean) / 2).detach(), rtol=1e-4, atol=1e-6)


def test_where_when_rows_differ() -> None:
    a, b = gaussian(4, 3, 0), gaussian(4, 3, 1)
    mask = torch.tensor([True, False, False, True])
    chosen = where(mask, a, b)
    for got, yes, no in ((chosen.mean, a.mean, b.mean), (chosen.log_variance, a.log_variance, b.log_variance)):
        assert torch.equal(got[mask], yes[mask])
        assert torch.equal(got[~mask], no[~mask])
        got.square().sum().backward()
        assert torch.equal(yes.grad, torch.where(mask[:, None], 2 * yes, 0.0))
        assert torch.equal(no.grad, torch.where(mask[:, None], 0.0, 2 * no))


def test_scatter_when_rows_are_missing() -> None:
    q = gaussian(2, 3, 0)
    full = scatter(q, torch.tensor([3, 1]), 5)
    assert full.mean.shape == full.log_variance.shape == (5, 3)
    for got, own in ((full.mean, q.mean), (full.log_variance, q.log_variance)):
        assert torch.equal(got[[3, 1]], own)
        assert torch.equal(got[[0, 2, 4]], torch.zeros(3, 3))
        got[3].sum().backward()
        assert torch.equal(own.grad, torch.tensor([[1.0] * 3, [0.0] * 3]))


def test_scatter_when_no_row_is_there() -> None:
    empty = Gaussian(torch.zeros(0, 3), torch.zeros(0, 3))
    full = scatter(empty, torch.zeros(0, dtype=torch.int64), 2)
    assert torch.equal(full.mean, torch.zeros(2, 3))
    assert torch.equal(full.log_variance, torch.zeros(2, 3))
