"""SVAE: next-k sets, prefixes, one log-variance, users' means; and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Ragged, Rows, popularity
from i2vae_lib.model.encoders import initialise
from i2vae_lib.model.latents import Gaussian, kl, standard_like
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import SVAEM, SVAES
from i2vae_lib.recommenders.contract import gather
from i2vae_lib.recommenders.systems.svae import Steps, Stream, next_items
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY


def built(kind: type[Any], dataset: CrossDomainDataset, p: Parameters) -> Any:
    found = kind(dataset.catalogue, p)
    found.module = found.build(torch.Generator().manual_seed(3)).to(found.device)
    return found


def hit_rate(scores: np.ndarray, rows: Rows) -> float:
    """HR@10 over the whole catalogue; a tie counts against the target."""
    aim = scores[np.arange(len(rows)), rows.target - 1]
    return float(((scores >= aim[:, None]).sum(axis=1) <= 10).mean())


def everything(rows: Rows) -> np.ndarray:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


# --- what a step predicts ---------------------------------------------------------------------------------------------


def test_next_items_when_the_tail_is_short() -> None:
    found = next_items(np.array([[1, 2, 3, 4, 5], [8, 9, 0, 0, 0]]), 3)
    assert found[0].tolist() == [[2, 3, 4], [3, 4, 5], [4, 5, 0], [5, 0, 0], [0, 0, 0]]
    assert found[1].tolist() == [[9, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_next_items_when_an_item_comes_twice() -> None:
    # a set, as the multi-hot vector of the released code
    assert next_items(np.array([[1, 2, 2, 3]]), 3)[0].tolist() == [[2, 0, 3], [2, 3, 0], [3, 0, 0], [0, 0, 0]]


def test_steps_when_a_sequence_is_long(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    model = built(SVAES, dataset, tiny)
    batch = model.steps(Ragged.from_lists([np.arange(1, 101), [7, 8]]))
    length = tiny.model.T + tiny.svae.next_items
    assert batch.inputs.shape == (2, length - 1) and batch.targets.shape == (2, length - 1, tiny.svae.next_items)
    assert batch.inputs[0].tolist() == list(range(101 - length, 100))
    assert batch.targets[0, -1].tolist() == [100, 0, 0, 0] and batch.targets[0, 0, 0] == 102 - length
    assert batch.targets[1].sum() == 8  # the last item is no step: nothing follows it


# --- the loss ---------------------------------------------------------------------------------------------------------


def slow_loss(model: Any, name: str, sequence: list[int], beta: float) -> float:
    """One user without noise, step by step, as the module docstring has it."""
    stream, k = model.module[name], model.params.svae.next_items
    total = 0.0
    for t in range(1, len(sequence)):
        states = stream.states(torch.tensor([sequence[:t]]))[:, -1]
        mean, log_variance = stream.encoder(states).chunk(2, dim=-1)
        logits = stream.output(stream.decoder(mean))[0]
        following = set(sequence[t : t + k])
        for d in model.reading.domains(name):
            low, size = model.reading.offset(d), model.catalogue.size(d)
            log_p = torch.log_softmax(logits[low : low + size], dim=0)
            total -= sum(float(log_p[i - 1 - low]) for i in following if low < i <= low + size) / len(following)
        total += beta * float(0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum())
    return total / (len(sequence) - 1)


SEQUENCES = {"x": [[3, 9, 4, 4, 70, 11, 5], [8, 2]], "xy": [[130, 200, 7, 4, 230, 120], [8, 121, 3]]}


@pytest.mark.parametrize(("kind", "name"), [(SVAES, "x"), (SVAEM, "xy")])
@torch.no_grad()
def test_loss_when_compared_with_a_slow_one(
    kind: type[Any], name: str, dataset: CrossDomainDataset, tiny: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(kind, dataset, tiny)
    monkeypatch.setattr("i2vae_lib.recommenders.systems.svae.sample", lambda q, generator: q.mean)
    sequences = SEQUENCES[name]
    value, parts = model.loss({name: model.steps(Ragged.from_lists(sequences))}, 99, torch.Generator())
    expected = [slow_loss(model, name, one, tiny.svae.beta) for one in sequences]
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-4)
    assert parts[f"reconstruction/{name}"].item() == pytest.approx(
        np.mean([slow_loss(model, name, one, 0.0) for one in sequences]), rel=1e-4
    )
    # a batch of two is the mean of two batches of one
    alone = [model.loss({name: model.steps(Ragged.from_lists([one]))}, 99, torch.Generator())[0] for one in sequences]
    assert float(value) == pytest.approx(float(sum(alone)) / 2, rel=1e-5)


@torch.no_grad()
def test_loss_when_epochs_pass(dataset: CrossDomainDataset, tiny: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    """The KL's weight grows over epochs of the whole training and then stays; the released code starts each at 0."""
    p = tiny.model_copy(update={"svae": tiny.svae.model_copy(update={"annealing_epochs": 4, "beta": 100.0})})
    model = built(SVAES, dataset, p)
    monkeypatch.setattr("i2vae_lib.recommenders.systems.svae.sample", lambda q, generator: q.mean)
    batch = {"x": model.steps(Ragged.from_lists(SEQUENCES["x"]))}
    values = [float(model.loss(batch, epoch, torch.Generator())[0]) for epoch in range(7)]
    bare, whole = (np.mean([slow_loss(model, "x", one, beta) for one in SEQUENCES["x"]]) for beta in (0, p.svae.beta))
    shares = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
    assert values == pytest.approx([bare + share * (whole - bare) for share in shares], rel=1e-4)
    assert whole - bare > 1e-2 * bare  # so that the tolerance can tell a share from the next


def test_loss_when_padded_further(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    model = built(SVAES, dataset, tiny)
    batch = model.steps(Ragged.from_lists(SEQUENCES["x"]))
    wide = Steps(torch.nn.functional.pad(batch.inputs, (0, 5)), torch.nn.functional.pad(batch.targets, (0, 0, 0, 5)))
    first, second = (model.loss({"x": one}, 1, torch.Generator().manual_seed(0))[0] for one in (batch, wide))
    assert float(first.detach()) == pytest.approx(float(second.detach()), rel=1e-6)
    again = model.loss({"x": batch}, 1, torch.Generator().manual_seed(1))[0]
    assert abs(float((again - first).detach())) > 1e-4  # another draw of z


def test_states_when_a_later_item_changes(tiny: Parameters) -> None:
    stream = Stream(50, tiny)
    initialise(stream, torch.Generator().manual_seed(0))
    before, after = (stream.states(torch.tensor([[4, 8, 15, last, 0]])) for last in (16, 23))
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)
    assert (before[:, 3] - after[:, 3]).abs().max() > 1e-3


def test_posterior_when_its_kl_is_compared_with_torch(tiny: Parameters) -> None:
    stream = Stream(50, tiny)
    initialise(stream, torch.Generator().manual_seed(0))
    q = stream.posterior(torch.randn(6, tiny.svae.recurrent, generator=torch.Generator().manual_seed(1)))
    assert q.mean.shape == (6, tiny.svae.latent)
    normal = torch.distributions.Normal(q.mean, torch.exp(0.5 * q.log_variance))
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl(q, standard_like(q)), expected, rtol=1e-4, atol=1e-5)
    unit = Gaussian(torch.ones(1, 8), torch.zeros(1, 8))
    assert float(kl(unit, standard_like(unit))) == 4.0


# --- the system -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SVAES, SVAEM])
def test_scores_when_compared_with_a_slow_one(kind: type[Any], dataset: CrossDomainDataset, tiny: Parameters) -> None:
    model = built(kind, dataset, tiny)
    rows = dataset.splits["test"]
    model.popularity = popularity(dataset.splits["train"])
    rows = rows.take(model.can_rank(rows)).take(np.arange(40))
    scores = model.score(rows, everything(rows))
    np.testing.assert_array_equal(scores, model.score(rows, everything(rows)))  # nothing is drawn
    for i in range(len(rows)):
        d = DOMAINS[rows.domain[i]]
        name, low = model.reading.stream(d), model.reading.offset(d)
        sequence = model.reading.histories(rows.take(np.array([i])), d)[0][-tiny.model.T :]
        stream = model.module[name]
        with torch.no_grad():
            states = stream.states(torch.from_numpy(sequence.astype(np.int64))[None])[:, -1]
            logits = stream.output(stream.decoder(stream.posterior(states).mean))[0, low : low + 120]
        np.testing.assert_allclose(scores[i], logits.numpy(), atol=1e-5)


def test_score_when_the_own_history_is_empty(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    rows = dataset.splits["test"]
    cold = rows.take(rows.kinds()["cold"])
    single, merged = (built(kind, dataset, tiny) for kind in (SVAES, SVAEM))
    single.popularity = merged.popularity = popularity(dataset.splits["train"])
    expected = gather(single.popularity, cold, everything(cold))
    np.testing.assert_array_equal(single.score(cold, everything(cold)), expected)
    assert not single.can_rank(cold).any() and merged.can_rank(cold).all()
    found = merged.score(cold.take(cold.of("x")), everything(cold.take(cold.of("x"))))
    assert (found.std(axis=0) > 1e-4).all()  # the other history tells


@pytest.mark.parametrize("kind", [SVAES, SVAEM])
def test_fit_when_there_are_twenty_users(kind: type[Any], dataset: CrossDomainDataset) -> None:
    p = load("smoke", TINY | {"training.learning_rate": 1e-2, "svae.beta": 0.01, "training.batch_size": 10}, epochs=30)
    train = dataset.splits["train"]
    rows = train.take(np.flatnonzero(train.lengths("own") > 1)[:20])
    model = kind(dataset.catalogue, p)
    model.fit(rows, rows, params=p, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks())
    found = hit_rate(model.score(rows, everything(rows)), rows)
    popular = hit_rate(gather(popularity(rows), rows, everything(rows)), rows)
    assert found >= 0.9 and found > popular + 0.4
