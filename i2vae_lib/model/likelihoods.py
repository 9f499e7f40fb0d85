"""Likelihoods of items given scores, as costs in nats: one formula each, for i2VAE and every system beside it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F


def bernoulli(positive: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(positive) - sum over negatives of log sigmoid(-negative): [...] and [..., k] -> [...]."""
    return F.softplus(-positive) + F.softplus(negatives).sum(dim=-1)


class _Categorical(torch.autograd.Function):
    """Cross-entropy of rows, a few at a time; the backward pass writes the gradient over the logits.

    The scores of a large catalogue are most of what a step holds, and torch would hold them four times: as logits, as
    their softmax, and as the gradients of both.
    """

    AT_ONCE = 2**20

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits, items)
        parts = _Categorical.parts(logits, items)
        return torch.cat([F.cross_entropy(part, of_part, reduction="none") for part, of_part in parts])

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, items = ctx.saved_tensors
        for part, of_part, above_part in _Categorical.parts(logits, items, above[0]):
            with torch.enable_grad():
                alone = part.detach().requires_grad_()
                value = F.cross_entropy(alone, of_part, reduction="none")
            part.copy_(torch.autograd.grad(value, alone, above_part)[0])
        return logits.detach(), None

    @staticmethod
    def parts(*by_row: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Some rows of each."""
        rows = max(1, _Categorical.AT_ONCE // by_row[0].shape[1])
        yield from zip(*(torch.split(one, rows) for one in by_row), strict=True)


def categorical(logits: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits) at one item: [B, n] and 0-based items [B] -> [B].

    The backward pass can run only once. It overwrites ``logits``; torch raises an error if another operation needs
    them.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    return _Categorical.apply(logits.to(exact), items)  # type: ignore[no-untyped-call]


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


class _Normaliser(torch.autograd.Function):
    """sum_m w_m logsumexp_i (h_m . W_i + b_i) without ever holding all logits.

    Its gradients are W's softmax averages, so they are made a block of lines at a time along with the value: no [M, n]
    is written to memory, kept for the way back and read again, which takes as long as the products themselves.
    """

    BLOCK = 256

    @staticmethod
    def forward(
        ctx: Any, lines: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        value = lines.new_zeros(())
        gradients = torch.empty_like(lines), torch.zeros_like(weight), torch.zeros_like(bias)
        for start in range(0, len(lines), _Normaliser.BLOCK):
            at = slice(start, start + _Normaliser.BLOCK)
            scores = torch.addmm(bias, lines[at], weight.T)
            highest = scores.amax(dim=1, keepdim=True)
            total = scores.sub_(highest).exp_().sum(dim=1)
            value += (share[at] * (highest[:, 0] + total.log())).sum()
            scores.mul_((share[at] / total)[:, None])
            gradients[0][at] = scores @ weight
            gradients[1].addmm_(scores.T, lines[at])
            gradients[2].add_(scores.sum(dim=0))
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*(above[0] * one for one in ctx.saved_tensors), None)


def multinomial_sum(
    lines: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    owner: torch.Tensor,
    items: torch.Tensor,
    share: torch.Tensor,
) -> torch.Tensor:
    """-sum_m w_m sum_{i in Y_m} log softmax(W h_m + b)_i.

    The sum of :func:`multinomial` over rows, weighted, for logits that are linear in something small: in half the
    time and without [M, n] numbers, by :class:`_Normaliser`.

    Parameters
    ----------
    lines
        h, [M, hidden].
    weight, bias
        [n, hidden] and [n].
    owner, items
        [m] each: line of ``lines`` and 0-based item of every member of the sets.
    share
        w, [M].

    Returns
    -------
    Tensor []
    """
    count = torch.bincount(owner, minlength=len(lines))
    taken = (lines[owner] * weight[items]).sum(dim=1) + bias[items]
    total: torch.Tensor = _Normaliser.apply(lines, weight, bias, share * count)  # type: ignore[no-untyped-call]
    return total - (share[owner] * taken).sum()


def categorical_mean(
    lines: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, items: torch.Tensor
) -> torch.Tensor:
    """Mean over lines of -log softmax(W h + b) at one 0-based item each, 0 of none (by :func:`multinomial_sum`)."""
    owner = torch.arange(len(lines), device=lines.device)
    share = lines.new_full((len(lines),), 1.0 / max(1, len(lines)))
    return multinomial_sum(lines, weight, bias, owner, items, share)
