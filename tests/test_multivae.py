"""Multi-VAE: its two costs, its bags, its schedule, and what it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows
from i2vae_lib.data.user_sequences import user_sequences
from i2vae_lib.evaluation import rank, sample_negatives
from i2vae_lib.model.latents import annealing
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import Popularity
from i2vae_lib.recommenders.systems.multivae import (
    Bags,
    Decoder,
    MultiVAEM,
    MultiVAES,
    VariationalAutoencoder,
    draw,
    shuffled,
)
from i2vae_lib.training import Callbacks

ITEMS, HIDDEN, LATENT = 30, 12, 6
BLOCK = [slice(0, ITEMS)]
LISTS = [[3, 17, 8], [30], [], [1, 2, 3, 4, 5], [8, 3, 17]]


def autoencoder(seed: int = 0, size: int = ITEMS) -> VariationalAutoencoder:
    module = VariationalAutoencoder(size, HIDDEN, LATENT)
    draw(module, torch.Generator().manual_seed(seed))
    return module


def bags(lists: list[list[int]]) -> Bags:
    return Bags.of(Ragged.from_lists(lists).distinct())


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fit(kind: Any, rows: Rows, params: Parameters, validation: Rows | None = None) -> Any:
    return kind(rows.catalogue, params).fit(
        rows,
        rows if validation is None else validation,
        params=params,
        generator=None,
        rng=np.random.default_rng(0),
        callbacks=Callbacks(),
    )


def changed(params: Parameters, **groups: Mapping[str, object]) -> Parameters:
    """Parameters with some fields of some groups replaced."""
    return params.model_copy(
        update={name: getattr(params, name).model_copy(update=fields) for name, fields in groups.items()}
    )


def hit_rate_at_10(system: object, rows: Rows, params: Parameters) -> float:
    negatives = sample_negatives(rows, params.evaluation.negatives, 0)
    ranks = rank(system, rows, negatives, full=False, batch_size=64)  # type: ignore[arg-type]
    above, ties = ranks["greater_sampled"].to_numpy(), ranks["ties_sampled"].to_numpy()
    return float(np.clip((10 - above) / (ties + 1), 0, 1).mean())


def popularity_of(rows: Rows, params: Parameters) -> Popularity:
    return Popularity(rows.catalogue).fit(
        rows, rows, params=params, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks()
    )


# --- bags -------------------------------------------------------------------------------------------------------------


def test_distinct_when_sequences_repeat_items() -> None:
    found = Ragged.from_lists([[5, 2, 5, 5], [], [7], [2, 1, 2]]).distinct()
    assert [found[i].tolist() for i in range(4)] == [[2, 5], [], [7], [1, 2]]


def test_distinct_when_there_is_nothing() -> None:
    assert len(Ragged.from_lists([[], []]).distinct()) == 2
    assert len(Ragged.from_lists([]).distinct()) == 0


def test_bags_when_made() -> None:
    made = bags([[5, 2, 5], [], [7]])
    assert made.items.tolist() == [1, 4, 6] and made.offsets.tolist() == [0, 2, 2, 3]
    assert made.counts.tolist() == [2, 0, 1] and made.owner.tolist() == [0, 0, 2] and len(made) == 3


@pytest.mark.parametrize("kind", [MultiVAES, MultiVAEM])
def test_bags_when_of_training_rows(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    train = dataset.splits["train"]
    found = kind(dataset.catalogue, tiny).bags(train)
    everyone, expected = user_sequences(train), {}
    for stream, domains in {"x": ["x"], "y": ["y"], "xy": ["x", "y"]}.items():
        shift = {d: 120 * domains.index(d) for d in domains}
        sets = [
            {i + shift[d] for d in domains for i in everyone.sequences[d][u].tolist()} for u in range(len(everyone))
        ]
        expected[stream] = [sorted(one) for one in sets if one]
    assert list(found) == list(kind.reading_of.streams)
    for stream, one in found.items():
        assert [one[i].tolist() for i in range(len(one))] == expected[stream]
    if kind is MultiVAEM:
        assert len(found["xy"]) == len(everyone)  # a user with a row in each domain is one bag


def test_shuffled_when_an_epoch_is_drawn() -> None:
    drawn = list(shuffled({"x": range(10), "y": range(3)}, 4, np.random.default_rng(0)))
    assert sorted(len(at) for _, at in drawn) == [2, 3, 4, 4]
    for stream, count in (("x", 10), ("y", 3)):
        assert sorted(np.concatenate([at for name, at in drawn if name == stream])) == list(range(count))
    again = list(shuffled({"x": range(10), "y": range(3)}, 4, np.random.default_rng(0)))
    assert all(one[0] == two[0] and (one[1] == two[1]).all() for one, two in zip(drawn, again, strict=True))


# --- the module -------------------------------------------------------------------------------------------------------


def test_encoder_when_compared_with_dense_inputs() -> None:
    module, made = autoencoder().encoder, bags(LISTS)
    with torch.no_grad():
        module.bias.uniform_(-1.0, 1.0, generator=noise())
    dense = torch.zeros(len(LISTS), ITEMS)
    for row, items in enumerate(LISTS):
        dense[row, torch.tensor(items, dtype=torch.int64) - 1] = 1.0
    dense = dense / dense.norm(dim=1, keepdim=True).clamp(min=1.0)
    expected = torch.tanh(dense @ module.items + module.bias) @ module.head.weight.T + module.head.bias
    q = module(made, 0.5, None)
    torch.testing.assert_close(torch.cat([q.mean, q.log_variance], dim=1), expected, rtol=1e-5, atol=1e-6)


def test_encoder_when_items_are_dropped() -> None:
    # each item stays with its weight doubled, or goes: one of the four sums of two items
    module = autoencoder().encoder
    q = module(bags([[4, 9]] * 400), 0.5, noise())
    subsets = [0.0, 2.0 * module.items[3], 2.0 * module.items[8], 2.0 * (module.items[3] + module.items[8])]
    hidden = torch.stack([torch.tanh(one / math.sqrt(2.0) + module.bias) for one in subsets])
    possible = module.head(hidden)[:, :LATENT]
    distance = torch.cdist(q.mean, possible)
    assert (distance.min(dim=1).values < 1e-3).all()
    share = torch.bincount(distance.argmin(dim=1), minlength=4) / 400
    assert ((share - 0.25).abs() < 0.1).all()


def test_encoder_when_a_bag_is_empty() -> None:
    module = autoencoder().encoder
    for lists in ([[], [5], []], [[]]):
        q = module(bags(lists), 0.5, None)
        assert torch.isfinite(q.mean).all()
        torch.testing.assert_close(q.mean[0], module.head(torch.tanh(module.bias))[:LATENT])
    q = module(bags([[], [5], []]), 0.5, None)
    assert torch.equal(q.mean[0], q.mean[2]) and not torch.equal(q.mean[0], q.mean[1])


def test_costs_when_there_is_no_generator() -> None:
    module, made = autoencoder(), bags(LISTS)
    first, second = (module.costs(made, BLOCK, 0.5, None) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    drawn, other = (module.costs(made, BLOCK, 0.5, noise(seed)) for seed in (0, 1))
    assert not torch.equal(drawn[0], other[0]) and not torch.equal(drawn[1], other[1])
    assert first[0][2] == 0.0  # nothing to reconstruct of an empty bag
    assert torch.equal(first[0][0], first[0][4])  # the same set in another order


def test_costs_when_compared_with_torch_distributions() -> None:
    module, made = autoencoder(), bags(LISTS)
    q = module.encoder(made, 0.0, None)
    expected = kl_divergence(Normal(q.mean, torch.exp(0.5 * q.log_variance)), Normal(0.0, 1.0)).sum(dim=1)
    found = module.costs(made, BLOCK, 0.0, None)[1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for name, nats in (("zero", 0.0), ("one", LATENT / 2)):
            module.encoder.head.weight.zero_()
            module.encoder.head.bias[:LATENT] = float(name == "one")
            found = module.costs(made, BLOCK, 0.0, None)[1]
            torch.testing.assert_close(found, torch.full((len(LISTS),), nats))


@pytest.fixture
def decoder() -> Decoder:
    found = Decoder(LATENT, HIDDEN, ITEMS)
    draw(found, noise())
    with torch.no_grad():
        found.items.bias.normal_(generator=noise(1))
    return found


def test_reconstruction_when_bags_have_one_item(decoder: Decoder) -> None:
    z = torch.randn(4, LATENT, generator=noise())
    logits = decoder.logits(decoder(z), BLOCK[0])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 4, 29, 4]), reduction="none")
    torch.testing.assert_close(decoder.reconstruction(z, bags([[1], [5], [30], [5]]), BLOCK), expected)


def test_reconstruction_when_compared_with_a_loop(decoder: Decoder) -> None:
    z = torch.randn(len(LISTS), LATENT, generator=noise())
    logits = decoder.items(torch.tanh(decoder.hidden(z))).detach()
    for blocks in (BLOCK, [slice(0, 7), slice(7, 30)]):
        expected = torch.zeros(len(LISTS))
        for row, items in enumerate(LISTS):
            for one in blocks:
                logs = torch.log_softmax(logits[row, one], dim=0)
                expected[row] -= sum(float(logs[i - 1 - one.start]) for i in items if one.start < i <= one.stop)
        torch.testing.assert_close(decoder.reconstruction(z, bags(LISTS), blocks), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lists", [[[1, 3], [2]], [[20, 11]], [[], []]])
def test_reconstruction_when_a_domain_has_no_items(decoder: Decoder, lists: list[list[int]]) -> None:
    # a softmax a domain: without items of it, its logits cost nothing and get no gradient
    z = torch.randn(len(lists), LATENT, generator=noise())
    decoder.reconstruction(z, bags(lists), [slice(0, 10), slice(10, 30)]).sum().backward()  # type: ignore[no-untyped-call]
    gradient = decoder.items.bias.grad
    assert gradient is not None
    held = [item for one in lists for item in one]
    for part, any_held in ((gradient[:10], any(i <= 10 for i in held)), (gradient[10:], any(i > 10 for i in held))):
        assert (part != 0).all() if any_held else (part == 0).all()
        assert float(part.sum()) == pytest.approx(0.0, abs=1e-5)  # of each softmax


def test_draw_when_weights_are_looked_at() -> None:
    module = VariationalAutoencoder(2000, 40, LATENT)
    draw(module, noise())
    for weight in (module.encoder.items, module.encoder.head.weight, module.decoder.items.weight):
        limit = math.sqrt(6.0 / sum(weight.shape))
        assert 0.99 * limit < float(weight.detach().abs().max()) <= limit
    for bias in (module.encoder.bias, module.encoder.head.bias, module.decoder.hidden.bias, module.decoder.items.bias):
        assert (bias == 0).all()


def test_module_when_it_overfits_ten_users() -> None:
    # the best that a multinomial can do: 1 / N_u for each of a user's items
    rng = np.random.default_rng(0)
    lists = [(rng.permutation(ITEMS)[: 2 + u % 4] + 1).tolist() for u in range(10)]
    made, module = bags(lists), autoencoder()
    optimizer, generator = torch.optim.Adam(module.parameters(), lr=0.03), noise()
    for _ in range(250):
        nats, divergence = module.costs(made, BLOCK, 0.0, generator)
        value = (nats + 1e-4 * divergence).mean()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    expected = torch.tensor([len(one) * math.log(len(one)) for one in lists])
    found = module.costs(made, BLOCK, 0.0, None)[0]
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.05)
    assert (found >= expected - 1e-4).all()


# --- the system -------------------------------------------------------------------------------------------------------


def test_loss_when_streams_are_mixed(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = MultiVAES(dataset.catalogue, tiny)
    system.module = system.build(noise())
    [stage] = system.stages(dataset.splits["train"])
    drawn = list(stage.batches(np.random.default_rng(0)))
    assert len(drawn) == stage.steps and {name for one in drawn for name in one} == {"x", "y"}
    assert sum(len(made) for one in drawn for made in one.values()) == stage.rows
    for epoch in (0, 50):
        value, parts = system.loss(drawn[0], epoch, noise())
        [(name, made)] = drawn[0].items()
        nats, divergence = system.module[name].costs(made, [slice(0, 120)], tiny.multivae.dropout, noise())
        beta = tiny.multivae.beta * annealing(epoch, tiny.multivae.annealing_epochs)
        torch.testing.assert_close(value, (nats + beta * divergence).mean())
        torch.testing.assert_close(parts[f"reconstruction/{name}"], nats.mean())
    value.backward()  # type: ignore[no-untyped-call]
    [absent] = {"x", "y"} - {name}
    assert all(weight.grad is None for weight in system.module[absent].parameters())


@pytest.fixture(scope="module")
def merged(dataset: CrossDomainDataset, tiny: Parameters) -> Any:
    return fit(MultiVAEM, dataset.splits["train"], tiny, dataset.splits["validation"])


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def test_scores_when_compared_with_all_logits(merged: Any, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"].take(np.arange(60))
    rows = rows.take(rows.lengths("own") + rows.lengths("other") > 0)
    found = merged.score(rows, everything(rows))
    module = merged.module["xy"]
    for row in range(len(rows)):
        lists = [rows.history["x"][row].tolist() + (rows.history["y"][row] + 120).tolist()]
        with torch.no_grad():
            logits = module.decoder.logits(module.decoder(module.encoder(bags(lists), 0.0, None).mean), slice(0, 240))[
                0
            ]
        low = 120 * int(rows.domain[row])
        np.testing.assert_allclose(found[row], logits[low : low + 120].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["order", "repeats"])
def test_scores_when_histories_are_other_sequences_of_the_same_sets(
    merged: Any, dataset: CrossDomainDataset, change: str
) -> None:
    rows = dataset.splits["test"]
    histories = {}
    for d in DOMAINS:
        lists = [rows.history[d][i].tolist() for i in range(len(rows))]
        lists = [one[::-1] if change == "order" else one * 3 for one in lists]
        histories[d] = Ragged.from_lists(lists)
    found = merged.score(replace(rows, history=histories), everything(rows))
    np.testing.assert_array_equal(found, merged.score(rows, everything(rows)))


def test_scores_when_rows_are_cold(merged: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    rows = dataset.splits["test"]
    cold = rows.take(rows.kinds()["cold"])
    cold = cold.take(cold.of("x"))
    assert len(cold) > 5
    # merged: other histories make other lists
    assert (merged.score(cold, everything(cold)).std(axis=0) > 0).all()
    # a model a domain has nothing to say: popularity, by rule
    alone = fit(MultiVAES, dataset.splits["train"], tiny, dataset.splits["validation"])
    assert not alone.can_rank(cold).any() and merged.can_rank(cold).all()
    expected = np.tile(alone.popularity["x"][1:].astype(np.float32), (len(cold), 1))
    np.testing.assert_array_equal(alone.score(cold, everything(cold)), expected)


@pytest.mark.parametrize("kind", [MultiVAES, MultiVAEM])
def test_fit_when_there_are_twenty_users(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    train = dataset.splits["train"]
    rows = train.take(np.flatnonzero(train.lengths("own") > 1)[:20])
    params = changed(
        tiny, training={"epochs": 40, "learning_rate": 0.02}, multivae={"beta": 0.01, "annealing_epochs": 0}
    )
    system = fit(kind, rows, params)
    assert hit_rate_at_10(system, rows, params) > 0.95
    assert hit_rate_at_10(popularity_of(rows, params), rows, params) < 0.75
