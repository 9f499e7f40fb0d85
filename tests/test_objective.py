"""Every term against a closed form or a slow loop; what a mask or a weight of 0 takes away, exactly."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from i2vae_lib.data.batches import Side
from i2vae_lib.data.rows import Ragged
from i2vae_lib.model.i2vae import I2VAENetwork, build
from i2vae_lib.model.latents import Gaussian, annealing, standard_like
from i2vae_lib.model.objective import (
    Term,
    active_units,
    build_objective,
    cross_domain,
    denoising,
    denoising_weight,
    disentangling,
    joint_information,
    kl_to_prior,
    reconstruction_bce,
    reconstruction_softmax,
    total,
)
from i2vae_lib.params import load

D, T = 8, 6
MASK = torch.tensor([True, False, True, False])
TERMS = ("reconstruction", "joint", "disentangling", "cross_domain", "denoising")
NAMES = {f"{name}/{d}" for name in TERMS for d in "xy"} | {
    f"kl/{latent}" for latent in ("x", "y", "t_x", "t_y", "a_x", "a_y")
}


def objective(**changes: object) -> Any:
    return build_objective(load("paper", {f"objective.{key}": value for key, value in changes.items()}).objective, T)


def model_of(shared_prior: bool = True) -> I2VAENetwork:
    """A small model whose every weight is random, priors included."""
    overrides = {"d": D, "T": T, "T_pseudo": 9, "blocks": 1, "shared_prior": shared_prior}
    p = load("paper", {f"model.{key}": value for key, value in overrides.items()} | {"psg.recalled": 3}).model
    generator = torch.Generator().manual_seed(0)
    model = build(p, {"x": 10, "y": 7}, generator)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3, generator=generator)
    return model


def side_of(own: list[list[int]], theirs: list[list[int]], negatives: int = 3) -> Side:
    rows = len(own)
    pad = [torch.from_numpy(Ragged.from_lists(lists).last(T)).long() for lists in (own, theirs, [o + [6] for o in own])]
    return Side(
        *pad,
        own_length=torch.tensor([len(one) for one in own]),
        target=1 + torch.arange(rows),
        negatives=(torch.arange(rows)[:, None] + torch.arange(2, 2 + negatives)) % 7 + 1,
        position=torch.arange(rows),
    )


def mixed() -> Side:
    """Own and other, own only, other only (cold), neither, and another with both."""
    return side_of([[1, 2, 3], [4, 5], [], [], [7]], [[6, 7], [], [1, 2], [], [3]])


def gaussian(seed: int, rows: int = 4) -> Gaussian:
    numbers = torch.randn(2, rows, D, generator=torch.Generator().manual_seed(seed))
    return Gaussian(numbers[0].requires_grad_(), numbers[1].requires_grad_())


def slow_kl(q: Gaussian, p: Gaussian, row: int, free_bits: float = 0.0) -> float:
    """KL of one row, dimension by dimension, with standard deviations as in a textbook."""
    summed = 0.0
    for i in range(D):
        m, s = float(q.mean[row, i].detach()), math.exp(0.5 * float(q.log_variance[row, i].detach()))
        n, t = float(p.mean[row, i].detach()), math.exp(0.5 * float(p.log_variance[row, i].detach()))
        summed += max(free_bits, math.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5)
    return summed


def slow_scores(model: I2VAENetwork, interest: torch.Tensor, domain: str, row: int, items: list[int]) -> list[float]:
    table = model.items[domain].weight.detach()
    return [sum(float(interest[row, i] * table[item, i]) for i in range(D)) for item in items]


def interests(rows: int) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("domain", ["x", "y"])
def test_reconstruction_bce_when_compared_with_a_loop(domain: str, negatives: int) -> None:
    model, interest, side = model_of(), interests(2), side_of([[1], [2]], [[], []], negatives)
    found = reconstruction_bce(model, interest, side, domain).detach()
    for row in range(2):
        items = [int(side.target[row]), *side.negatives[row].tolist()]
        assert len(items) == 1 + negatives
        positive, *others = slow_scores(model, interest, domain, row, items)
        expected = -math.log(1 / (1 + math.exp(-positive)))
        expected -= sum(math.log(1 - 1 / (1 + math.exp(-score))) for score in others)
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("domain", "size"), [("x", 10), ("y", 7)])
def test_reconstruction_softmax_when_compared_with_a_loop(domain: str, size: int) -> None:
    model, interest, side = model_of(), interests(2), side_of([[1], [2]], [[], []])
    found = reconstruction_softmax(model, interest, side, domain).detach()
    for row in range(2):
        scores = slow_scores(model, interest, domain, row, list(range(1, size + 1)))
        expected = math.log(sum(math.exp(score) for score in scores)) - scores[int(side.target[row]) - 1]
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)


def test_reconstruction_when_scores_are_equal() -> None:
    """An interest of 0 knows nothing: log n for the softmax, log 2 an item for the BCE."""
    model, side = model_of(), side_of([[1], [2]], [[], []], 3)
    nothing = torch.zeros(2, D)
    assert reconstruction_softmax(model, nothing, side, "x").tolist() == pytest.approx([math.log(10)] * 2, rel=1e-6)
    assert reconstruction_bce(model, nothing, side, "x").tolist() == pytest.approx([4 * math.log(2)] * 2, rel=1e-6)


def test_reconstruction_when_a_score_is_huge() -> None:
    """Finite, and its gradient too, where exp would overflow."""
    model, side = model_of(), side_of([[1], [2]], [[], []])
    for term in (reconstruction_bce, reconstruction_softmax):
        interest = (1e4 * interests(2)).requires_grad_()
        term(model, interest, side, "x").sum().backward()
        assert torch.isfinite(interest.grad).all()


@pytest.mark.parametrize("free_bits", [0.0, 0.5])
def test_kl_to_prior_when_compared_with_a_loop(free_bits: float) -> None:
    q, p = gaussian(0), gaussian(1)
    found = kl_to_prior(q, p, MASK, free_bits).value
    for row in range(4):
        expected = slow_kl(q, p, row, free_bits) if MASK[row] else 0.0
        assert float(found[row].detach()) == pytest.approx(expected, rel=1e-5)


def test_kl_to_prior_when_a_dimension_is_free() -> None:
    """Below the free nats a dimension costs them and is not pressed."""
    q = Gaussian(torch.tensor([[0.1, 3.0]]).requires_grad_(), torch.zeros(1, 2))
    term = kl_to_prior(q, standard_like(q), torch.tensor([True]), 0.5)
    term.value.sum().backward()
    assert float(term.value.detach()) == pytest.approx(0.5 + 4.5, rel=1e-6)
    assert q.mean.grad.tolist() == [[0.0, 3.0]]


@pytest.mark.parametrize("term", [disentangling, cross_domain])
def test_divergence_terms_when_compared_with_a_loop(term: object) -> None:
    q, p = gaussian(0), gaussian(1)
    found = term(q, p, MASK)
    for row in range(4):
        expected = slow_kl(q, p, row) if MASK[row] else 0.0
        assert float(found.value[row].detach()) == pytest.approx(expected, rel=1e-5)


def test_denoising_when_compared_with_a_loop() -> None:
    q, p, lengths = gaussian(0), gaussian(1), [1, 3, 6, 221]
    weight = denoising_weight(torch.tensor(lengths), T, 0.8, 0.8)
    found = denoising(q, p, weight, torch.ones(4, dtype=torch.bool)).value
    for row, length in enumerate(lengths):
        expected = (math.exp(0.8 * min(length, T) / T) - 0.8) * slow_kl(q, p, row)
        assert float(found[row].detach()) == pytest.approx(expected, rel=1e-5)


def test_denoising_weight_when_length_varies() -> None:
    lengths = torch.arange(0, 300)
    weight = denoising_weight(lengths, 20, 0.8, 0.8)
    assert float(weight[0]) == 0.0
    assert weight[1:21].tolist() == pytest.approx([math.exp(0.04 * n) - 0.8 for n in range(1, 21)], rel=1e-5)
    assert torch.equal(weight[20:], weight[20].expand(280))
    assert float(weight[1:].min()) >= 0.2
    assert float(weight.max()) == pytest.approx(1.4255, abs=1e-4)


@pytest.mark.parametrize(
    "term",
    [
        lambda q, p: kl_to_prior(q, p, MASK),
        lambda q, p: kl_to_prior(q, p, MASK, 0.3),
        lambda q, p: disentangling(q, p, MASK),
        lambda q, p: cross_domain(q, p, MASK),
        lambda q, p: denoising(q, p, torch.ones(4), MASK),
        lambda q, p: joint_information((q.mean + q.log_variance + p.mean + p.log_variance).sum(dim=1), MASK),
    ],
)
def test_terms_when_rows_are_masked(term: object) -> None:
    q, p = gaussian(0), gaussian(1)
    found = term(q, p)
    found.mean().backward()
    assert torch.equal(found.mask, MASK)
    assert torch.equal(found.value[~MASK], torch.zeros(2))
    assert (found.value[MASK] != 0).all()
    for tensor in (q.mean, q.log_variance, p.mean, p.log_variance):
        assert torch.equal(tensor.grad[~MASK], torch.zeros(2, D))
        assert tensor.grad[MASK].any(dim=1).all()


def test_joint_information_when_rows_have_both() -> None:
    value = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert joint_information(value, MASK).value.tolist() == [1.0, 0.0, 3.0, 0.0]


def test_term_mean_when_rows_are_masked() -> None:
    term = Term(torch.tensor([1.0, 2.0, 0.0, 0.0]), torch.tensor([True, True, False, False]))
    assert float(term.mean()) == 1.5
    assert float(Term(torch.zeros(2), torch.zeros(2, dtype=torch.bool)).mean()) == 0.0
    assert float(Term(torch.zeros(0), torch.zeros(0, dtype=torch.bool)).mean()) == 0.0


@pytest.mark.parametrize("domain", ["x", "y"])
def test_terms_when_rows_of_all_kinds_mix(domain: str) -> None:
    """Which rows a term concerns, and what it is made of."""
    model, side = model_of(shared_prior=False), mixed()
    latents = model.infer(side, domain)
    interest = model.decode(model.draw(latents, None), domain)
    found = objective().terms(model, side, domain, latents, interest)
    everyone, own, theirs = [True] * 5, [True, True, False, False, True], [True, False, True, False, True]
    both = [True, False, False, False, True]
    masks = {"reconstruction": everyone, "kl_specific": own, "kl_transferable": theirs, "kl_augmented": own}
    masks |= {"joint": both, "disentangling": both, "cross_domain": both, "denoising": own}
    assert {name: term.mask.tolist() for name, term in found.items()} == masks
    for name, term in found.items():
        assert (term.value != 0).tolist() == masks[name], name
    fit = reconstruction_bce(model, interest, side, domain)
    assert torch.equal(found["reconstruction"].value, fit)
    assert torch.equal(found["joint"].value, torch.where(torch.tensor(both), fit, 0.0))
    prior, augmented_prior = (
        Gaussian(one.mean.expand(5, D), one.log_variance.expand(5, D))
        for one in (model.prior[domain], model.augmented_prior[domain])
    )
    standard = standard_like(latents.transferable)
    length_weight = [math.exp(0.8 * length / T) - 0.8 for length in (3, 2, 0, 0, 1)]
    for row in range(5):
        expected = {
            "kl_specific": slow_kl(latents.specific, prior, row),
            "kl_transferable": slow_kl(latents.transferable, standard, row),
            "kl_augmented": slow_kl(latents.augmented, augmented_prior, row),
            "disentangling": slow_kl(latents.specific, prior, row),
            "cross_domain": slow_kl(latents.transferable, latents.auxiliary, row),
            "denoising": length_weight[row] * slow_kl(latents.specific, latents.augmented, row),
        }
        for name, value in expected.items():
            wanted = value if masks[name][row] else 0.0
            assert float(found[name].value[row].detach()) == pytest.approx(wanted, rel=1e-4), (name, row)


def test_terms_when_a_row_is_cold() -> None:
    """z_t is r there: its KL is r's, and no term but the reconstruction and that KL touches the row."""
    model, side = model_of(), mixed()
    latents = model.infer(side, "x")
    interest = model.decode(model.draw(latents, None), "x")
    found = objective().terms(model, side, "x", latents, interest)
    r = Gaussian(latents.auxiliary.mean[2:3], latents.auxiliary.log_variance[2:3])
    expected = slow_kl(r, standard_like(r), 0)
    assert float(found["kl_transferable"].value[2].detach()) == pytest.approx(expected, rel=1e-5)
    assert [name for name, term in found.items() if term.mask[2]] == ["reconstruction", "kl_transferable"]


@pytest.mark.parametrize("name", ["lambda_a", "lambda_c", "kl_weight"])
def test_weights_when_a_parameter_changes(name: str) -> None:
    before, after = objective().weights(0), objective(**{name: 0.25}).weights(0)
    changed = {
        "lambda_a": {"denoising"},
        "lambda_c": {"joint", "disentangling", "cross_domain"},
        "kl_weight": {"kl_specific", "kl_transferable", "kl_augmented"},
    }[name]
    assert {term for term in before if before[term] != after[term]} == changed
    assert {after[term] for term in changed} == {0.25}
    assert after["reconstruction"] == 1.0


def test_weights_when_annealed() -> None:
    one = objective(kl_weight=0.5, kl_annealing_epochs=3)
    assert [one.weights(epoch)["kl_specific"] for epoch in range(5)] == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert {one.weights(epoch)["denoising"] for epoch in range(5)} == {0.005}


@pytest.mark.parametrize(
    ("epochs", "table"), [(0, [1.0] * 5), (1, [0.5, 1.0, 1.0, 1.0, 1.0]), (3, [0.25, 0.5, 0.75, 1.0, 1.0])]
)
def test_annealing_when_epochs_are(epochs: int, table: list[float]) -> None:
    assert [annealing(epoch, epochs) for epoch in range(5)] == table


def test_total_when_computed_by_hand() -> None:
    yes, no = torch.ones(2, dtype=torch.bool), torch.tensor([True, False])
    terms = {
        "x": {
            "reconstruction": Term(torch.tensor([1.0, 3.0]), yes),
            "kl_transferable": Term(torch.tensor([4.0, 0]), no),
        },
        "y": {
            "reconstruction": Term(torch.tensor([5.0, 6.0]), yes),
            "kl_transferable": Term(torch.tensor([8.0, 2]), yes),
        },
    }
    loss, parts = total(terms, {"reconstruction": 1.0, "kl_transferable": 0.5})
    assert float(loss) == (2.0 + 5.5) + 0.5 * (4.0 + 5.0)
    assert {name: float(part) for name, part in parts.items()} == {
        "reconstruction/x": 2.0,
        "reconstruction/y": 5.5,
        "kl/t_y": 4.0,
        "kl/t_x": 5.0,
    }


def test_total_when_a_weight_is_zero() -> None:
    """Left out, not multiplied by 0: an infinite term of weight 0 changes neither the loss nor a gradient."""
    yes, leaf = torch.ones(2, dtype=torch.bool), torch.tensor([1.0, 3.0], requires_grad=True)
    one = {"reconstruction": Term(leaf, yes), "joint": Term(leaf * torch.inf, yes)}
    loss, parts = total({"x": one, "y": one}, {"reconstruction": 1.0, "joint": 0.0})
    loss.backward()
    assert (float(loss.detach()), float(parts["joint/x"])) == (4.0, torch.inf)
    assert leaf.grad.tolist() == [1.0, 1.0]


def test_objective_when_both_domains_are_there() -> None:
    """The loss is the weighted sum of its named parts, which carry no gradient."""
    one = objective(lambda_a=0.3, lambda_c=0.2, kl_weight=0.7)
    loss, parts = one(model_of(), {"x": mixed(), "y": mixed()}, 0, torch.Generator().manual_seed(0))
    assert set(parts) == NAMES
    assert not any(part.requires_grad for part in parts.values())
    weights = {"reconstruction": 1.0, "kl": 0.7, "denoising": 0.3}
    expected = sum(weights.get(name.split("/")[0], 0.2) * float(part) for name, part in parts.items())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_objective_when_one_domain_is_absent() -> None:
    loss, parts = objective()(model_of(), {"y": mixed()}, 0, torch.Generator().manual_seed(0))
    assert set(parts) == {f"{name}/y" for name in TERMS} | {"kl/y", "kl/t_x", "kl/a_y"}
    assert torch.isfinite(loss)


def gradients(model: I2VAENetwork, module: nn.Module, one: Any, side: Side) -> list[bool]:
    """For each weight of the module whether the loss moves it (posterior means: no draws)."""
    model.zero_grad(set_to_none=True)
    loss, _ = one(model, {"x": side}, 0, None)
    loss.backward()
    return [w.grad is not None and bool(w.grad.any()) for w in module.parameters()]


@pytest.mark.parametrize(
    ("weights", "module"),
    [
        (("lambda_c",), "auxiliary.x"),  # no cold row below: r is trained by Eq. 11 alone
        (("lambda_c", "kl_weight"), "prior.x"),
        (("lambda_a", "kl_weight"), "augmented.x.log_variance"),
    ],
)
def test_objective_when_a_weight_is_zero(weights: tuple[str, ...], module: str) -> None:
    """A term of weight 0 is gone exactly: what only it touches gets no gradient at all."""
    model, side = model_of(), side_of([[1, 2, 3], [4, 5], [7]], [[6, 7], [], [3]])
    on = {"lambda_a": 0.3, "lambda_c": 0.2, "kl_weight": 0.7}
    assert all(gradients(model, model.get_submodule(module), objective(**on), side))
    off = objective(**(on | dict.fromkeys(weights, 0.0)))
    assert not any(gradients(model, model.get_submodule(module), off, side))


def test_objective_when_all_weights_are_zero() -> None:
    one = objective(lambda_a=0.0, lambda_c=0.0, kl_weight=0.0)
    loss, parts = one(model_of(), {"x": mixed(), "y": mixed()}, 0, None)
    assert torch.equal(loss.detach(), parts["reconstruction/x"] + parts["reconstruction/y"])


def test_objective_when_a_row_gets_a_twin() -> None:
    """Means over rows: every row twice leaves loss and parts as they are."""
    one, side = objective(lambda_a=0.3, lambda_c=0.2), mixed()
    twice = Side(
        **{f.name: getattr(side, f.name).repeat_interleave(2, 0) for f in dataclasses.fields(side) if f.name != "part"}
    )
    model = model_of()
    loss, parts = one(model, {"x": side}, 0, None)
    doubled, doubled_parts = one(model, {"x": twice}, 0, None)
    torch.testing.assert_close(doubled, loss, rtol=1e-5, atol=0.0)
    for name, part in parts.items():
        torch.testing.assert_close(doubled_parts[name], part, rtol=1e-4, atol=0.0)


def test_active_units_when_variances_are_planted() -> None:
    signs = torch.tensor([1.0, -1.0] * 50)[:, None]  # a column of amplitude a has variance a^2
    means = signs * torch.tensor([0.2, 0.11, 0.09, 0.0, 1.0]) + torch.tensor([0.0, 5.0, 5.0, 5.0, -3.0])
    assert active_units(means) == 3
    assert active_units(means[:0]) == 0
