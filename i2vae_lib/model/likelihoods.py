"""Likelihoods of items given scores, as costs in nats: one formula each, for i2VAE and every system beside it."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def bernoulli(positive: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(positive) - sum over negatives of log sigmoid(-negative): [...] and [..., k] -> [...]."""
    return F.softplus(-positive) + F.softplus(negatives).sum(dim=-1)


def pairwise(positive: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """BPR: mean over negatives of -log sigmoid(positive - negative): [...] and [..., k] -> [...]."""
    return F.softplus(negatives - positive[..., None]).mean(dim=-1)


def categorical(logits: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits) at one item: [B, n] and 0-based items [B] -> [B]."""
    return F.cross_entropy(logits, items, reduction="none")


def multinomial(logits: torch.Tensor, owner: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """-sum over a row's items of log softmax(logits): a bag of any size, not divided by it (Multi-VAE).

    Parameters
    ----------
    logits
        [B, n].
    owner, items
        [m] each: row and 0-based item of every member of the bags.

    Returns
    -------
    Tensor [B]
        0 for an empty bag.
    """
    taken = logits[owner, items]
    count = torch.bincount(owner, minlength=len(logits)).to(logits.dtype)
    total = torch.zeros_like(count).index_add(0, owner, taken)
    return count * torch.logsumexp(logits, dim=1) - total
