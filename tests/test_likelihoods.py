"""Costs of items given scores: closed forms, slow loops, and how they hang together."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from i2vae_lib.model.likelihoods import (
    bernoulli,
    categorical,
    categorical_mean,
    multinomial,
    multinomial_sum,
)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(4, 9, generator=torch.Generator().manual_seed(0))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# --- bernoulli --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", [0, 1, 7])
def test_bernoulli_when_all_scores_are_zero(negatives: int) -> None:
    cost = bernoulli(torch.zeros(3), torch.zeros(3, negatives))
    assert cost.tolist() == pytest.approx([(1 + negatives) * math.log(2)] * 3, rel=1e-6)


def test_bernoulli_when_compared_with_a_loop() -> None:
    positive, negatives = [1.5, -2.0], [[0.3, -1.0, 2.0], [0.0, 4.0, -0.5]]
    expected = [-log_sigmoid(p) - sum(log_sigmoid(-n) for n in row) for p, row in zip(positive, negatives, strict=True)]
    assert bernoulli(torch.tensor(positive), torch.tensor(negatives)).tolist() == pytest.approx(expected, rel=1e-6)


def test_bernoulli_when_compared_with_labels() -> None:
    # the binary cross-entropy of labels 1, 0, 0, summed
    scores = torch.tensor([0.7, -0.2, 1.1])
    expected = F.binary_cross_entropy_with_logits(scores, torch.tensor([1.0, 0.0, 0.0]), reduction="sum")
    torch.testing.assert_close(bernoulli(scores[0], scores[1:]), expected)


def test_bernoulli_when_scores_are_huge() -> None:
    cost = bernoulli(torch.tensor([200.0, -200.0]), torch.tensor([[-200.0], [200.0]]))
    assert cost.tolist() == pytest.approx([0.0, 400.0], abs=1e-6)


# --- categorical ------------------------------------------------------------------------------------------------------


def test_categorical_when_logits_are_equal() -> None:
    assert categorical(torch.zeros(1, 40), torch.tensor([3])).item() == pytest.approx(math.log(40), rel=1e-6)


def test_categorical_when_compared_with_its_formula(logits: torch.Tensor) -> None:
    items = torch.tensor([0, 8, 3, 3])
    expected = [
        -math.log(math.exp(row[i]) / sum(map(math.exp, row))) for row, i in zip(logits.tolist(), items.tolist())
    ]
    assert categorical(logits, items).tolist() == pytest.approx(expected, rel=1e-5)


def test_categorical_when_its_gradient_takes_the_place_of_the_logits() -> None:
    """Value and gradient are cross-entropy's to the bit; 700 rows of 3,001 are three parts."""
    draw = torch.Generator().manual_seed(0)
    source, above = torch.randn(700, 3001, generator=draw), torch.rand(700, generator=draw)
    items = torch.randint(3001, (700,), generator=draw)
    costs, gradients = [], []
    for cost in (categorical, lambda logits, items: F.cross_entropy(logits, items, reduction="none")):
        given = source.clone().requires_grad_()
        logits = given * 2.0
        costs.append(cost(logits, items))
        costs[-1].backward(above)
        gradients.append(given.grad)
    assert torch.equal(costs[0], costs[1]) and torch.equal(gradients[0], gradients[1])


def test_categorical_when_the_logits_are_needed_elsewhere() -> None:
    shares = torch.randn(3, 5).requires_grad_().softmax(dim=1)  # keeps its result for its own way back
    with pytest.raises(RuntimeError, match="inplace operation"):
        categorical(shares, torch.tensor([0, 1, 4])).sum().backward()


# --- multinomial ------------------------------------------------------------------------------------------------------


def test_multinomial_when_each_bag_has_one_item(logits: torch.Tensor) -> None:
    items = torch.tensor([2, 0, 8, 5])
    torch.testing.assert_close(multinomial(logits, torch.arange(4), items), categorical(logits, items))


def test_multinomial_when_a_bag_is_empty(logits: torch.Tensor) -> None:
    logits = logits.requires_grad_()
    cost = multinomial(logits, torch.tensor([3, 3]), torch.tensor([1, 4]))
    assert cost[:3].tolist() == [0.0, 0.0, 0.0] and cost[3] > 0
    (gradient,) = torch.autograd.grad(cost.sum(), logits)
    assert not gradient[:3].any() and gradient.isfinite().all()


def test_multinomial_when_no_bag_has_an_item(logits: torch.Tensor) -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert multinomial(logits, nothing, nothing).tolist() == [0.0] * 4


def test_multinomial_when_compared_with_a_loop(logits: torch.Tensor) -> None:
    # a sum over the bag, not a mean; members in any order
    bags = {0: [1, 4, 8], 2: [0], 3: [7, 2]}
    pairs = [(row, item) for row, bag in bags.items() for item in bag][::-1]
    owner, items = (torch.tensor(one) for one in zip(*pairs, strict=True))
    logs = torch.log_softmax(logits, dim=1)
    expected = [-sum(float(logs[row, item]) for item in bags.get(row, [])) for row in range(4)]
    assert multinomial(logits, owner, items).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_multinomial_when_the_bag_is_learnt_by_heart() -> None:
    # at best every member has probability 1 / N: N log N
    logits = torch.full((1, 50), -40.0)
    logits[0, :6] = 40.0
    cost = multinomial(logits, torch.zeros(6, dtype=torch.int64), torch.arange(6))
    assert cost.item() == pytest.approx(6 * math.log(6), rel=1e-5)


def test_multinomial_sum_when_compared_with_the_multinomial() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, size, hidden = 600, 40, 7  # three blocks
    tensors = [torch.randn(shape, generator=generator) for shape in ((rows, hidden), (size, hidden), (size,))]
    owner = torch.randint(rows, (900,), generator=generator).sort().values
    items, share = torch.randint(size, (900,), generator=generator), torch.rand(rows, generator=generator)
    leaves = [[one.clone().requires_grad_() for one in tensors] for _ in range(2)]
    decoded, weight, bias = leaves[0]
    slow = (share * multinomial(decoded @ weight.T + bias, owner, items)).sum()
    fast = multinomial_sum(*leaves[1], owner, items, share)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=0.0)
    (2 * slow).backward()  # type: ignore[no-untyped-call]
    (2 * fast).backward()  # type: ignore[no-untyped-call]
    for one, other in zip(*leaves):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_multinomial_sum_when_logits_are_large() -> None:
    weight = torch.tensor([[300.0], [-300.0]])
    value = multinomial_sum(
        torch.ones(1, 1), weight, torch.zeros(2), torch.tensor([0]), torch.tensor([1]), torch.ones(1)
    )
    assert float(value) == pytest.approx(600.0)


def test_categorical_mean_when_compared_with_cross_entropy() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(31, 8, generator=draw), torch.randn(31, generator=draw)
    states = torch.randn(600, 8, generator=draw)  # more than two blocks
    items = torch.randint(31, (600,), generator=draw)
    found = []
    for cost in (categorical_mean, lambda h, w, b, i: F.cross_entropy(h @ w.T + b, i)):
        leaves = [one.clone().requires_grad_() for one in (states, weight, bias)]
        value = 3 * cost(*leaves, items)
        value.backward()
        found.append((value.detach(), *(one.grad for one in leaves)))
    for one, expected in zip(*found, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-6)
    assert categorical_mean(states[:0], weight, bias, items[:0]) == 0.0
