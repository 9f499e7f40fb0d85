"""Diagonal Gaussians: the six posteriors, the two r's and their priors are all one of these.

Only the log-variance exists; it becomes a scale in one place, :func:`sample`.
"""

from dataclasses import dataclass

import torch

from i2vae_lib.data.batches import Part


@dataclass(frozen=True)
class Gaussian:
    """N(mean, exp(log_variance)), diagonal. Both [B, d] (a prior may be [d])."""

    mean: torch.Tensor
    log_variance: torch.Tensor


def standard_like(q: Gaussian) -> Gaussian:
    """N(0, I) of the shape of ``q``."""
    return Gaussian(torch.zeros_like(q.mean), torch.zeros_like(q.log_variance))


def sample(q: Gaussian, generator: torch.Generator | None, part: Part | None = None) -> torch.Tensor:
    """Reparameterised draw z = mean + sigma * eps (paper Eq. 3); without a generator, the mean.

    Parameters
    ----------
    part
        Which rows of a whole batch these are: a row's eps is the same as if all were drawn for. None: all.

    Returns
    -------
    Tensor [B, d]
    """
    if generator is None:
        return q.mean
    shape = q.mean.shape if part is None else (part.whole, *q.mean.shape[1:])
    noise = torch.randn(shape, generator=generator, device=q.mean.device, dtype=q.mean.dtype)
    noise = noise if part is None else noise[part.rows]
    return q.mean + torch.exp(0.5 * q.log_variance) * noise


def kl_per_dimension(q: Gaussian, p: Gaussian) -> torch.Tensor:
    """KL[q || p] of each dimension in closed form, in nats: [B, d]."""
    ratio = q.log_variance - p.log_variance
    shift = (q.mean - p.mean).square() * torch.exp(-p.log_variance)
    return 0.5 * (torch.exp(ratio) + shift - 1.0 - ratio)


def kl(q: Gaussian, p: Gaussian) -> torch.Tensor:
    """KL[q || p] summed over dimensions, in nats: [B]."""
    return kl_per_dimension(q, p).sum(dim=-1)


def where(mask: torch.Tensor, a: Gaussian, b: Gaussian) -> Gaussian:
    """``a`` in the rows where ``mask`` [B] is true, ``b`` elsewhere; the other side gets no gradient."""
    column = mask[:, None]
    return Gaussian(
        torch.where(column, a.mean, b.mean.expand_as(a.mean)),
        torch.where(column, a.log_variance, b.log_variance.expand_as(a.log_variance)),
    )


def scatter(q: Gaussian, index: torch.Tensor, rows: int) -> Gaussian:
    """Put the lines of ``q`` at ``index`` of ``rows`` lines; N(0, I) elsewhere."""
    full = q.mean.new_zeros(rows, q.mean.shape[1])
    return Gaussian(full.index_copy(0, index, q.mean), full.index_copy(0, index, q.log_variance))


def annealing(epoch: int, epochs: int) -> float:
    """Linear warm-up of the KL weight: (epoch + 1) / (epochs + 1) up to 1; always 1 if ``epochs`` is 0."""
    return min(1.0, (epoch + 1) / (epochs + 1))
