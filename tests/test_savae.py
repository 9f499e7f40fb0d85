"""SA-VAE and RA-VAE: what is frozen, what a prior is, and the two limits: Multi-VAE and the rigid model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows, other
from i2vae_lib.data.user_sequences import user_sequences
from i2vae_lib.evaluation import rank, sample_negatives
from i2vae_lib.model.latents import Gaussian, kl, sample, standard_like
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import Popularity
from i2vae_lib.recommenders.systems.multivae import (
    Bags,
    Decoder,
    Encoder,
    MultiVAES,
    VariationalAutoencoder,
    draw,
)
from i2vae_lib.recommenders.systems.savae import RAVAE, SAVAE, Pairs, source_prior
from i2vae_lib.training import Callbacks

ITEMS, HIDDEN, LATENT = 30, 32, 6
BLOCK = [slice(0, ITEMS)]
BOTH = pytest.mark.parametrize("kind", [SAVAE, RAVAE])


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bags(lists: list[list[int]]) -> Bags:
    return Bags.of(Ragged.from_lists(lists).distinct())


def drawn(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    draw(module, noise(seed))
    return module


def pairs_of(users: int, seed: int) -> Pairs:
    """Users with random bags, and priors as far apart as a source VAE's that did not collapse."""
    rng = np.random.default_rng(seed)
    lists = [(rng.permutation(ITEMS)[: 2 + u % 4] + 1).tolist() for u in range(users)]
    numbers = torch.randn(2, users, LATENT, generator=noise(seed))
    return Pairs(bags(lists), numbers[0], 0.3 * numbers[1] - 2.0)


def fit(kind: type, rows: Rows, params: Parameters, validation: Rows) -> RAVAE:
    system: RAVAE = kind(rows.catalogue, params).fit(
        rows, validation, params=params, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks()
    )
    return system


@pytest.fixture(scope="module")
def soft(dataset: CrossDomainDataset, tiny: Parameters) -> RAVAE:
    return fit(SAVAE, dataset.splits["train"], tiny, dataset.splits["validation"])


@pytest.fixture(scope="module")
def rigid(dataset: CrossDomainDataset, tiny: Parameters) -> RAVAE:
    return fit(RAVAE, dataset.splits["train"], tiny, dataset.splits["validation"])


def built(kind: type, dataset: CrossDomainDataset, params: Parameters) -> RAVAE:
    system: RAVAE = kind(dataset.catalogue, params)
    system.module = system.build(noise())
    return system


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def swapped(rows: Rows, side: str) -> Rows:
    """The rows with the own (or the other) histories of somebody else, where they have any."""
    histories = dict(rows.history)
    for d in DOMAINS:
        lists = [rows.history[d][i].tolist() for i in range(len(rows))]
        asked = rows.domain == DOMAINS.index(d if side == "own" else other(d))
        at = np.flatnonzero(asked & (rows.history[d].lengths > 0))
        for one, another in zip(at, np.roll(at, 1), strict=True):
            lists[one] = rows.history[d][another].tolist()
        histories[d] = Ragged.from_lists(lists)
    return replace(rows, history=histories)


# --- the prior --------------------------------------------------------------------------------------------------------


def test_source_prior_when_bags_are_of_every_kind() -> None:
    encoder = drawn(Encoder(ITEMS, HIDDEN, LATENT))
    assert isinstance(encoder, Encoder)
    with torch.no_grad():
        encoder.head.bias[LATENT:] = torch.tensor([-20.0, -5.0, 0.0, 1.0, 20.0, 0.5])
    made = bags([[3, 5], [], [7]])
    prior, q = source_prior(encoder, made), encoder(made, 0.5, None)
    assert not prior.mean.requires_grad and not prior.log_variance.requires_grad
    assert (prior.mean[1] == 0).all() and (prior.log_variance[1] == 0).all()
    assert torch.equal(prior.mean[[0, 2]], q.mean[[0, 2]])  # clean: nothing dropped, nothing drawn
    assert (prior.log_variance[[0, 2], 0] == -6.0).all() and (prior.log_variance[[0, 2], 4] == 2.0).all()
    assert torch.equal(prior.log_variance[[0, 2]][:, [1, 2, 3, 5]], q.log_variance[[0, 2]][:, [1, 2, 3, 5]])


def test_costs_with_a_source_prior_when_compared_with_torch_distributions() -> None:
    target, pairs = drawn(VariationalAutoencoder(ITEMS, HIDDEN, LATENT)), pairs_of(8, 0)
    assert isinstance(target, VariationalAutoencoder)
    q = target.encoder(pairs.bags, 0.0, None)
    scales = [torch.exp(0.5 * one) for one in (q.log_variance, pairs.log_variance)]
    expected = kl_divergence(Normal(q.mean, scales[0]), Normal(pairs.mean, scales[1])).sum(dim=1)
    found = target.costs(pairs.bags, BLOCK, 0.5, None, pairs.prior)
    torch.testing.assert_close(found[1], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0], target.decoder.reconstruction(q.mean, pairs.bags, BLOCK))
    equal = Pairs(pairs.bags, q.mean.detach(), q.log_variance.detach())
    divergence = target.costs(equal.bags, BLOCK, 0.0, None, equal.prior)[1]
    torch.testing.assert_close(divergence, torch.zeros(8), atol=1e-6, rtol=0.0)


# --- identities -------------------------------------------------------------------------------------------------------


def test_loss_when_the_source_has_collapsed(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # a source posterior N(0, I) leaves Multi-VAE, to the bit: same weights, same noise, same epoch
    group = tiny.multivae.model_copy(update=tiny.savae.model_dump())
    params = tiny.model_copy(update={"multivae": group})
    system, plain = built(SAVAE, dataset, params), MultiVAES(dataset.catalogue, params)
    with torch.no_grad():
        for source in system.module["source"].values():
            source.encoder.head.weight.zero_()
            source.encoder.head.bias.zero_()
    plain.module = system.module["target"]
    stages = system.stages(dataset.splits["train"])
    next(stages)
    stage = next(stages)
    for number, batch in enumerate(stage.batches(np.random.default_rng(0))):
        [(d, pairs)] = batch.items()
        assert (pairs.mean == 0).all() and (pairs.log_variance == 0).all()
        found, parts = system.loss(batch, number, noise(number))
        expected, others = plain.loss({d: pairs.bags}, number, noise(number))
        assert torch.equal(found, expected) and parts.keys() == others.keys()


def test_source_loss_when_compared_with_multivae(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    group = tiny.multivae.model_copy(update=tiny.savae.model_dump())
    params = tiny.model_copy(update={"multivae": group})
    system, plain = built(SAVAE, dataset, params), MultiVAES(dataset.catalogue, params)
    plain.module = system.module["source"]
    train = dataset.splits["train"]
    first, [second] = next(system.stages(train)), plain.stages(train)
    assert (first.rows, first.steps) == (second.rows, second.steps)
    ours, theirs = (list(stage.batches(np.random.default_rng(0))) for stage in (first, second))
    for one, two in zip(ours[:4], theirs[:4], strict=True):
        assert torch.equal(system.source_loss(one, 1, noise())[0], plain.loss(two, 1, noise())[0])


def test_costs_with_a_source_prior_when_beta_is_large() -> None:
    # the encoder ends on the source posterior, and SA-VAE's cost on RA-VAE's of the same decoder
    target, pairs = drawn(VariationalAutoencoder(ITEMS, HIDDEN, LATENT)), pairs_of(12, 0)
    assert isinstance(target, VariationalAutoencoder)
    optimizer, generator = torch.optim.Adam(target.parameters(), lr=0.01), noise()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    before = float(target.costs(pairs.bags, BLOCK, 0.0, None, pairs.prior)[1].detach().mean())
    for _ in range(400):
        nats, divergence = target.costs(pairs.bags, BLOCK, 0.0, generator, pairs.prior)
        optimizer.zero_grad()
        (nats + 1000.0 * divergence).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    q = target.encoder(pairs.bags, 0.0, None)
    after = float(kl(q, pairs.prior).detach().mean())
    assert before > 10.0 and after < 5e-4 * before
    torch.testing.assert_close(q.mean, pairs.mean, rtol=0.0, atol=0.03)
    found = target.decoder.reconstruction(sample(pairs.prior, noise(1)), pairs.bags, BLOCK).mean()
    expected = target.costs(pairs.bags, BLOCK, 0.0, noise(1), pairs.prior)[0].mean()
    torch.testing.assert_close(found, expected, rtol=0.005, atol=0.0)


def test_rigid_cost_when_compared_with_its_formula() -> None:
    decoder, pairs = drawn(Decoder(LATENT, HIDDEN, ITEMS)), pairs_of(6, 1)
    assert isinstance(decoder, Decoder)
    z = pairs.mean + torch.exp(0.5 * pairs.log_variance) * torch.randn(6, LATENT, generator=noise(3))
    expected = torch.zeros(6)
    logs = torch.log_softmax(decoder.logits(decoder(z), BLOCK[0]), dim=1)
    for user in range(6):
        items = pairs.bags.items[pairs.bags.owner == user]
        expected[user] = -logs[user, items].sum()
    found = decoder.reconstruction(sample(pairs.prior, noise(3)), pairs.bags, BLOCK)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# --- stages -----------------------------------------------------------------------------------------------------------


@BOTH
def test_stages_when_their_modules_are_read(kind: type, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(kind, dataset, tiny)
    stages = system.stages(dataset.splits["train"])
    first = next(stages)
    assert first.name == "source" and first.module is system.module["source"] and not system.aligned
    second = next(stages)
    assert second.name == "target" and second.module is system.module["target"] and system.aligned
    trained = {name.split(".")[1] for name, _ in second.module.named_parameters()}
    assert trained == ({"encoder", "decoder"} if kind is SAVAE else {"decoder"})
    with pytest.raises(StopIteration):
        next(stages)
    sources = {id(one) for one in first.module.parameters()}
    assert not sources & {id(one) for one in second.module.parameters()}


@BOTH
def test_stages_when_the_second_is_trained(kind: type, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(kind, dataset, tiny)
    stages = system.stages(dataset.splits["train"])
    next(stages)
    stage = next(stages)
    drawn_batches = list(stage.batches(np.random.default_rng(0)))
    assert len(drawn_batches) == stage.steps
    assert sum(len(pairs.bags) for one in drawn_batches for pairs in one.values()) == stage.rows
    for batch in drawn_batches[:6]:
        system.loss(batch, 0, noise())[0].backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is None for one in system.module["source"].parameters())
    assert all(one.grad is not None for one in system.module["target"].parameters())


def test_stages_when_priors_are_compared_with_a_loop(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(SAVAE, dataset, tiny)
    train = dataset.splits["train"]
    stages = system.stages(train)
    next(stages)
    batches = list(next(stages).batches(np.random.default_rng(0)))
    everyone = user_sequences(train)
    for d in DOMAINS:
        expected: dict[tuple[int, ...], list[Gaussian]] = {}
        for user in range(len(everyone)):
            own, source = (sorted(set(everyone.sequences[one][user].tolist())) for one in (d, other(d)))
            if own:
                q = system.module["source"][other(d)].encoder(bags([source]), 0.0, None)
                q = q if source else standard_like(q)
                expected.setdefault(tuple(own), []).append(q)
        count = 0
        for pairs in (batch[d] for batch in batches if d in batch):
            for user in range(len(pairs.bags)):
                key = tuple((pairs.bags.items[pairs.bags.owner == user] + 1).tolist())
                near = [torch.allclose(q.mean.flatten(), pairs.mean[user], atol=1e-5) for q in expected[key]]
                assert any(near)
                count += 1
        assert count == sum(len(one) for one in expected.values())


def test_fit_when_stages_are_over(soft: RAVAE, rigid: RAVAE, dataset: CrossDomainDataset) -> None:
    for system in (soft, rigid):
        assert [one["stage"] for one in system.state.history] == [1.0, 1.0, 2.0, 2.0] and system.aligned
    assert soft.state.history[0]["ndcg@10"] == rigid.state.history[0]["ndcg@10"]  # one stage 1, whichever comes next
    for name, weight in soft.module["source"].named_parameters():
        assert torch.equal(weight, dict(rigid.module["source"].named_parameters())[name])


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_when_compared_with_all_logits(soft: RAVAE, rigid: RAVAE, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    rows = rows.take(np.flatnonzero(rows.lengths("other") > 0)[:50])
    found = {system.name: system.score(rows, everything(rows)) for system in (soft, rigid)}
    for row in range(len(rows)):
        d = DOMAINS[rows.domain[row]]
        own, source = ([rows.history[one][row].tolist()] for one in (d, other(d)))
        with torch.no_grad():
            for system in (soft, rigid):
                side = system.module["target"][d]
                use_own = system is soft and bool(own[0])
                encoder = side.encoder if use_own else system.module["source"][other(d)].encoder
                states = side.decoder(encoder(bags(own if use_own else source), 0.0, None).mean)
                logits = side.decoder.logits(states, slice(0, 120))[0]
                np.testing.assert_allclose(found[system.name][row], logits.numpy(), rtol=1e-5, atol=1e-5)


def test_scores_when_a_history_is_another(soft: RAVAE, rigid: RAVAE, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    kinds = rows.kinds()
    warm, cold = rows.take(kinds["overlapping"]), rows.take(kinds["cold"])
    # what each of them reads: SA-VAE the own history or else the other, RA-VAE the other
    reads = {(soft, "own"): True, (soft, "other"): False, (rigid, "own"): False, (rigid, "other"): True}
    for (system, side), matters in reads.items():
        equal = system.score(warm, everything(warm)) == system.score(swapped(warm, side), everything(warm))
        assert equal.all(axis=1).mean() < 0.1 if matters else equal.all()
    for system in (soft, rigid):
        assert (system.score(cold, everything(cold)) != system.score(swapped(cold, "other"), everything(cold))).any()


def test_evident_when_rows_are_of_every_kind(soft: RAVAE, rigid: RAVAE, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    own, source = rows.lengths("own") > 0, rows.lengths("other") > 0
    np.testing.assert_array_equal(soft.can_rank(rows), own | source)
    np.testing.assert_array_equal(rigid.can_rank(rows), source)
    alone = rows.take(own & ~source)
    scores = rigid.score(alone, everything(alone))
    for row in range(len(alone)):
        expected = rigid.popularity[DOMAINS[alone.domain[row]]][1:]
        np.testing.assert_array_equal(scores[row], expected.astype(np.float32))


def test_score_when_only_stage_one_is_over(soft: RAVAE, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # what selects stage 1: the source VAEs on their own domains
    system, plain = built(SAVAE, dataset, tiny), MultiVAES(dataset.catalogue, tiny)
    system.popularity = plain.popularity = soft.popularity
    next(system.stages(dataset.splits["train"]))
    plain.module = system.module["source"]
    rows = dataset.splits["validation"]
    np.testing.assert_array_equal(system.score(rows, everything(rows)), plain.score(rows, everything(rows)))


@BOTH
def test_fit_when_there_are_twenty_users(kind: type, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    train = dataset.splits["train"]
    rows = train.take(np.flatnonzero(train.kinds()["overlapping"])[:20])
    training = tiny.training.model_copy(update={"epochs": 30, "learning_rate": 0.03})
    group = tiny.savae.model_copy(update={"beta": 0.01, "annealing_epochs": 0})
    params = tiny.model_copy(update={"training": training, "savae": group})
    popular = Popularity(rows.catalogue).fit(
        rows, rows, params=params, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks()
    )
    found = {}
    for system in (fit(kind, rows, params, rows), popular):
        ranks = rank(system, rows, sample_negatives(rows, 49, 0), full=False, batch_size=64)
        above, ties = ranks["greater_sampled"].to_numpy(), ranks["ties_sampled"].to_numpy()
        found[system.name] = float(np.clip((10 - above) / (ties + 1), 0, 1).mean())
    assert found[kind.name] > 0.95 and found["popularity"] < 0.75  # type: ignore[attr-defined]


def test_rigid_cost_when_the_domains_are_the_same() -> None:
    # duplicate domain: with the own bag as the source's, RA-VAE's cost is that of Multi-VAE's own encoder, KL aside
    source = drawn(VariationalAutoencoder(ITEMS, HIDDEN, LATENT))
    assert isinstance(source, VariationalAutoencoder)
    made = bags([[3, 17, 8], [30], [1, 2, 3, 4, 5]])
    prior = source_prior(source.encoder, made)
    found = source.decoder.reconstruction(sample(prior, noise()), made, BLOCK)
    expected = source.costs(made, BLOCK, 0.0, noise())[0]
    torch.testing.assert_close(found, expected)
