"""DASL: attention, shared GRUs, split head and dual embedding against slow references; newcomers and cold rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.batches import as_indices
from i2vae_lib.data.rows import DOMAINS, Array, Rows, other
from i2vae_lib.data.user_sequences import right_padded, user_sequences
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import DASL, Popularity
from i2vae_lib.recommenders.systems.dasl import orthogonality, shares
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import one_a_user


def changed(params: Parameters, values: Mapping[str, Mapping[str, Any]]) -> Parameters:
    groups = {group: getattr(params, group).model_copy(update=one) for group, one in values.items()}
    return params.model_copy(update=groups)


def prepared(dataset: CrossDomainDataset, params: Parameters) -> Any:
    """Not trained, but every weight and bias random, users' vectors large, W no identity."""
    system = DASL(dataset.catalogue, params)
    system.prepare(dataset.splits["train"], None)
    draw = torch.Generator().manual_seed(0)
    system.module = system.build(draw)
    with torch.no_grad():
        for name, weight in system.module.named_parameters():
            if "bias" in name or "users" in name:
                weight.normal_(std=0.5, generator=draw)
        nn.init.orthogonal_(system.module.map, generator=draw)
    system.popularity = {d: np.zeros(121) for d in DOMAINS}
    system.update_tables()
    return system


@pytest.fixture(scope="module")
def system(dataset: CrossDomainDataset, tiny: Parameters) -> Any:
    """Do not change it."""
    return prepared(dataset, tiny)


@pytest.fixture(scope="module")
def rows(dataset: CrossDomainDataset) -> Rows:
    """Test rows with something to go by, cold ones among them."""
    test = dataset.splits["test"]
    return test.take(~test.kinds()["no_history"])


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def slow_preference(module: Any, d: str, own: list[int], opposite: list[int], user: torch.Tensor) -> torch.Tensor:
    """One row, step by step, nothing padded."""
    states = []
    for domain, items in ((d, own), (other(d), opposite)):
        side, state = module.side(domain), torch.zeros(1, 16)
        cell = nn.GRUCell(32, 16)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        cell.load_state_dict({name: getattr(side.gru, f"{name}_l0") for name in names})
        for item in items:
            state = cell(torch.cat([side.items.weight[item], user])[None], state)
            states.append(state[0])
    first, _, last = module.side(d).attention
    energy = [float(last.weight[0] @ torch.tanh(first.weight @ one + first.bias)) for one in states]
    total = sum(math.exp(one) for one in energy)
    return sum((math.exp(e) / total * one for e, one in zip(energy, states, strict=True)), torch.zeros(16))


def slow_logit(module: Any, d: str, preference: torch.Tensor, item: int, user: torch.Tensor) -> torch.Tensor:
    """The MLP of the three vectors side by side."""
    side = module.side(d)
    x = torch.cat([preference, side.items.weight[item], user])
    for layer in (side.head.first, side.head.second):
        x = torch.sigmoid(layer.weight @ x + layer.bias)
    return side.head.last.weight[0] @ x + side.head.last.bias[0] + side.item_bias[item]


# --- parts ------------------------------------------------------------------------------------------------------------


def test_shares_when_steps_are_masked() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    valid = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    found = shares(logits, valid)
    torch.testing.assert_close(found.sum(dim=1), torch.tensor([1.0, 1.0, 0.0]))
    assert not found[~valid].any() and found[1, 2] == 1.0
    torch.testing.assert_close(found[0, valid[0]], torch.softmax(logits[0, valid[0]], dim=0))
    (gradient,) = torch.autograd.grad(found.square().sum(), logits)
    assert gradient.isfinite().all() and not gradient[2].any()


def test_orthogonality_when_the_matrix_is_known() -> None:
    permutation = torch.eye(5)[[3, 0, 4, 1, 2]]
    assert orthogonality(permutation).item() == 0.0
    assert orthogonality(2 * torch.eye(3)).item() == pytest.approx(27.0)  # three times (4 - 1)^2
    assert orthogonality(torch.tensor([[1.0, 1.0], [0.0, 1.0]])).item() == pytest.approx(3.0)  # [[0, 1], [1, 1]]


def test_gru_when_either_domain_reads_its_items(system: Any) -> None:
    # one GRU a domain of items: x's is trained by rows that ask for x and by those for y that show an x history
    module = system.module
    assert sum(isinstance(one, nn.GRU) for one in module.modules()) == 2
    history, nothing = torch.tensor([[3, 9]]), torch.zeros(1, 1, dtype=torch.int64)
    user = module.x.users.weight[:1].detach()
    for d, own, opposite in (("x", history, nothing), ("y", nothing, history)):
        value = module.preference(d, own, opposite, user).sum()
        gradients = torch.autograd.grad(value, [*module.x.gru.parameters()])
        assert all(one.abs().max() > 0 for one in gradients)
        unused = torch.autograd.grad(
            module.preference(d, own, opposite, user).sum(), [*module.y.gru.parameters()], allow_unused=True
        )
        assert all(one is None for one in unused)


def test_preference_when_compared_with_a_loop(system: Any, rows: Rows) -> None:
    for d in DOMAINS:
        part = rows.take(rows.of(d))
        user = torch.randn(len(part), 16, generator=torch.Generator().manual_seed(1))
        own, opposite = (as_indices(right_padded(part.history[one], 10)) for one in (d, other(d)))
        with torch.no_grad():
            found = system.module.preference(d, own, opposite, user)
            for i in range(len(part)):
                histories = [part.history[one][i][-10:].tolist() for one in (d, other(d))]
                expected = slow_preference(system.module, d, *histories, user[i])
                torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)


def test_preference_when_a_segment_is_empty(system: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    items, nothing = torch.randint(1, 121, (4, 6), generator=draw), torch.zeros(4, 3, dtype=torch.int64)
    user = torch.randn(4, 16, generator=draw, requires_grad=True)
    module = system.module
    for own, opposite in ((nothing, items), (items, nothing)):
        found = module.preference("x", own, opposite, user)
        assert found.isfinite().all() and (found.abs().amax(dim=1) > 1e-3).all()
        # as much padding as one likes
        wider = torch.cat([own, nothing], dim=1), torch.cat([opposite, nothing, nothing], dim=1)
        torch.testing.assert_close(module.preference("x", *wider, user), found, atol=1e-6, rtol=1e-6)
    empty = module.preference("x", nothing, nothing, user)
    assert not empty.any()
    (gradient,) = torch.autograd.grad(empty.sum(), user, allow_unused=True, materialize_grads=True)
    assert not gradient.any()


def test_preference_when_a_row_comes_alone(system: Any) -> None:
    draw = torch.Generator().manual_seed(2)
    lengths = torch.arange(32)[:, None] % 9
    own, opposite = (
        torch.randint(1, 121, (32, 8), generator=draw) * (torch.arange(8) < one) for one in (lengths, 8 - lengths)
    )
    user = torch.randn(32, 16, generator=draw)
    together = system.module.preference("y", own, opposite, user)
    for i in range(32):
        alone = system.module.preference("y", own[[i]], opposite[[i]], user[[i]])[0]
        torch.testing.assert_close(alone, together[i], atol=1e-6, rtol=1e-6)


# --- training ---------------------------------------------------------------------------------------------------------


def test_batches_when_read_for_an_epoch(system: Any, dataset: CrossDomainDataset) -> None:
    """Each training row once, with its own and other history, its target not among them nor among the negatives."""
    train = dataset.splits["train"]
    found = user_sequences(train)
    (stage,) = system.stages(train)
    expected, read = [], []
    for i in range(len(train)):
        d = DOMAINS[train.domain[i]]
        histories = (tuple(train.history[one][i][-10:].tolist()) for one in (d, other(d)))
        expected.append((d, train.user[i], int(train.target[i]), *histories))
    batches = list(stage.batches(np.random.default_rng(0)))
    overlapping = {
        str(user) for i, user in enumerate(found.users) if all(found.sequences[d].lengths[i] for d in DOMAINS)
    }
    for batch in batches:
        [(d, one)] = batch.items()
        users = [str(system.users[d][i]) for i in one.user]
        for i, user in enumerate(users):
            own, opposite = (tuple(j for j in items[i].tolist() if j) for items in (one.own, one.other))
            target, negatives = int(one.items[i, 0]), one.items[i, 1:].tolist()
            read.append((d, user, target, own, opposite))
            assert len(negatives) == 4 and not {target, *own} & set(negatives)
            assert min(negatives) >= 1 and max(negatives) <= 120
        pairs = [tuple(str(system.users[s][line]) for s, line in zip(DOMAINS, two, strict=True)) for two in one.pairs]
        assert all(a == b for a, b in pairs) and sorted(a for a, _ in pairs) == sorted(set(users) & overlapping)
    assert sorted(read) == sorted(expected)
    assert len(batches) == stage.steps and len(read) == stage.rows


def test_target_when_histories_are_strictly_before(system: Any, dataset: CrossDomainDataset) -> None:
    # the released code's windows hold the target; here a user who takes nothing twice never shows it
    train = dataset.splits["train"]
    (stage,) = system.stages(
        train.take(~np.isin(np.arange(len(train)), train.history["x"].owner[train.holds_target("x")]))
    )
    for batch in stage.batches(np.random.default_rng(0)):
        if "x" in batch:
            assert not (batch["x"].own == batch["x"].items[:, :1]).any()


def test_loss_when_compared_with_a_loop(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    values = {"dasl": {"dropout": 0.0, "dual_weight": 0.3, "orthogonality": 0.7}, "training": {"batch_size": 9}}
    system = prepared(dataset, changed(tiny, values))
    module = system.module
    with torch.no_grad():
        module.map.add_(0.1)
    (stage,) = system.stages(dataset.splits["train"])
    batch = next(one for one in stage.batches(np.random.default_rng(0)) if "y" in one and len(one["y"].pairs) > 1)
    value, parts = system.loss(batch, 0, torch.Generator().manual_seed(0))
    one, costs, distances = batch["y"], [], []
    with torch.no_grad():
        for i, line in enumerate(one.user.tolist()):
            user = module.y.users.weight[line]
            histories = [[j for j in items[i].tolist() if j] for items in (one.own, one.other)]
            preference = slow_preference(module, "y", *histories, user)
            logits = [
                float(slow_logit(module, "y", preference, j, user) + module.y.user_bias[line])
                for j in one.items[i].tolist()
            ]
            costs.append(math.log1p(math.exp(-logits[0])) + sum(math.log1p(math.exp(j)) for j in logits[1:]))
        for x, y in one.pairs.tolist():
            a, b = module.x.users.weight[x], module.y.users.weight[y] @ module.map
            distances.append(1 - float(a @ b / (a.norm() * b.norm())))
    reconstruction, distance = sum(costs) / len(costs), sum(distances) / len(distances)
    assert parts["reconstruction/y"].item() == pytest.approx(reconstruction, rel=1e-5)
    assert parts["dual"].item() == pytest.approx(distance, rel=1e-5)
    expected = reconstruction + 0.3 * distance + 0.7 * orthogonality(module.map).item()
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_loss_when_no_user_has_both_domains(system: Any, dataset: CrossDomainDataset) -> None:
    (stage,) = system.stages(dataset.splits["train"])
    [(d, one)] = next(iter(stage.batches(np.random.default_rng(0)))).items()
    value, parts = system.loss({d: replace(one, pairs=one.pairs[:0])}, 0, torch.Generator().manual_seed(0))
    assert parts["dual"].item() == 0.0 and value.isfinite()


def test_loss_when_dropout_is_drawn(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = prepared(dataset, changed(tiny, {"dasl": {"dropout": 0.5}}))
    (stage,) = system.stages(dataset.splits["train"])
    batch = next(iter(stage.batches(np.random.default_rng(0))))
    losses = [system.loss(batch, 0, torch.Generator().manual_seed(seed))[0].item() for seed in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_dual_when_vectors_are_each_other_s_image(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = prepared(dataset, tiny)
    module, lines = system.module, torch.arange(20)
    with torch.no_grad():
        vectors = module.y.users.weight[:20]
        module.x.users.weight[:20] = 3.0 * module.turned("x", vectors)
    pairs = torch.stack([lines, lines], dim=1)
    assert module.distance(pairs).item() == pytest.approx(0.0, abs=1e-6)  # of directions: the length does not count
    assert module.distance(pairs + torch.tensor([0, 1])).item() > 0.5
    torch.testing.assert_close(module.turned("y", module.turned("x", vectors)), vectors, atol=1e-5, rtol=1e-5)


def test_dual_when_trained(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    params = changed(tiny, {"training": {"epochs": 15}})
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    found = DASL(dataset.catalogue, params).fit(
        train, validation, params=params, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks()
    )
    first, last = found.state.history[0], found.state.history[-1]
    assert first["dual"] > 0.5 and last["dual"] < 0.2
    assert last["orthogonality"] < 0.1 and last["loss"] < first["loss"]


# --- scores -----------------------------------------------------------------------------------------------------------


def test_score_when_compared_with_a_loop(system: Any, rows: Rows) -> None:
    """Newcomers' vectors, the whole row and every candidate's MLP by hand, no user bias; cold rows through W."""
    scores, module = system.score(rows, everything(rows)), system.module
    with torch.no_grad():
        for i in range(0, len(rows), 3):
            d = DOMAINS[rows.domain[i]]
            histories = {one: rows.history[one][i].tolist() for one in DOMAINS}
            source = d if histories[d] else other(d)
            mean = module.side(source).items.weight[sorted(set(histories[source]))].mean(dim=0)
            user = mean @ torch.from_numpy(system.frozen[f"mapping {source}"].numpy())
            if source != d:
                user = user @ (module.map if d == "x" else module.map.T)
            preference = slow_preference(module, d, histories[d][-10:], histories[other(d)][-10:], user)
            expected = [float(slow_logit(module, d, preference, item, user)) for item in range(1, 121)]
            np.testing.assert_allclose(scores[i], expected, atol=1e-4, rtol=1e-4)
    assert (rows.lengths("own") == 0)[::3].any()


def test_score_when_candidates_come_in_chunks(system: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = np.random.default_rng(0).integers(1, 121, (len(rows), 30)).astype(np.int32)
    expected = [system.score(rows, one) for one in (candidates, everything(rows))]
    for block in (1, 5 * 30 * 80):
        monkeypatch.setattr("i2vae_lib.recommenders.systems.dasl.BLOCK", block)
        for one, before in zip((candidates, everything(rows)), expected, strict=True):
            np.testing.assert_allclose(system.score(rows, one), before, atol=1e-5, rtol=1e-5)


def test_score_when_asked_twice(system: Any, rows: Rows) -> None:
    np.testing.assert_array_equal(system.score(rows, everything(rows)), system.score(rows, everything(rows)))


@pytest.mark.parametrize("side", ["own", "other"])
def test_score_when_a_history_is_taken_away(system: Any, rows: Rows, side: str) -> None:
    # both segments are pooled: each reaches the score
    both = rows.take(rows.kinds()["overlapping"])
    emptied = dict(both.history)
    for i, d in enumerate(DOMAINS):
        whose = d if side == "own" else other(d)
        emptied[whose] = emptied[whose].keep((both.domain != i)[emptied[whose].owner])
    after = system.score(replace(both, history=emptied), everything(both))
    assert (np.abs(after - system.score(both, everything(both))).max(axis=1) > 1e-4).all()


# --- newcomers --------------------------------------------------------------------------------------------------------


def test_mapping_when_fitted_by_least_squares(system: Any, dataset: CrossDomainDataset) -> None:
    found = user_sequences(dataset.splits["train"])
    for d in DOMAINS:
        sequences = [one for one in (found.sequences[d][i] for i in range(len(found))) if len(one)]
        table, users = (
            one.weight.detach().numpy() for one in (system.module.side(d).items, system.module.side(d).users)
        )
        means = np.array([table[np.unique(one)].mean(axis=0) for one in sequences], dtype=np.float64)
        assert means.shape == users.shape
        expected = np.linalg.lstsq(means, users.astype(np.float64), rcond=None)[0]
        np.testing.assert_allclose(system.frozen[f"mapping {d}"], expected, rtol=1e-3, atol=1e-3)


def test_mapping_when_user_vectors_are_means(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # a planted matrix comes back, and every training user's history gives the user's own vector
    system = prepared(dataset, tiny)
    planted = torch.randn(16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for d in DOMAINS:
            table = system.module.side(d).items.weight
            means = [table[np.unique(system.whole[d][i])].mean(dim=0) for i in range(len(system.whole[d]))]
            system.module.side(d).users.weight.copy_(torch.stack(means) @ planted)
    system.update_tables()
    for d in DOMAINS:
        np.testing.assert_allclose(system.frozen[f"mapping {d}"], planted.numpy(), atol=1e-4)


def test_user_vectors_when_users_are_known(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    """``temporal`` alone: known users keep their vectors, and a vector of one domain is mapped to the other."""
    strict = prepared(dataset, tiny)
    temporal = prepared(dataset, tiny.model_copy(update={"protocol": "temporal"}))
    train = dataset.splits["train"]
    module = temporal.module
    for d in DOMAINS:
        lines = {str(user): i for i, user in enumerate(temporal.users[d])}
        opposite = {str(user): i for i, user in enumerate(temporal.users[other(d)])}
        part = train.take(np.array([str(user) in lines for user in train.user]) & (train.history[d].lengths > 0))
        with torch.no_grad():
            expected = module.side(d).users.weight[[lines[str(user)] for user in part.user]]
            torch.testing.assert_close(temporal.user_vectors(part, d), expected)
            assert not torch.allclose(strict.user_vectors(part, d), expected, atol=0.1)
            # users without anything in d
            part = train.take(np.array([str(user) not in lines for user in train.user]))
            assert len(part) > 20 and not part.history[d].lengths.any()
            vectors = module.side(other(d)).users.weight[[opposite[str(user)] for user in part.user]]
            turned = vectors @ (module.map if d == "x" else module.map.T)
            torch.testing.assert_close(temporal.user_vectors(part, d), turned)


def test_user_vectors_when_the_user_is_a_training_user_s_namesake(system: Any, rows: Rows) -> None:
    known = np.resize(system.users["x"], len(rows)).astype(object)
    np.testing.assert_array_equal(
        system.score(replace(rows, user=known), everything(rows)), system.score(rows, everything(rows))
    )


@pytest.mark.parametrize("protocol", ["strict", "temporal"])
def test_save_when_known_users_matter_or_not(
    dataset: CrossDomainDataset, tiny: Parameters, rows: Rows, protocol: str, tmp_path: Path
) -> None:
    system = prepared(dataset, tiny.model_copy(update={"protocol": protocol}))
    system.save(tmp_path)
    assert ("frozen/known x" in load_file(tmp_path / "weights.safetensors")) == (protocol == "temporal")
    again = DASL.load(tmp_path)
    half = replace(rows, user=np.where(np.arange(len(rows)) % 2, rows.user, np.resize(system.users["y"], len(rows))))
    np.testing.assert_array_equal(again.score(half, everything(half)), system.score(half, everything(half)))


def test_fit_when_there_are_twenty_users(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    values = {
        "training": {"epochs": 100, "learning_rate": 0.015, "batch_size": 4},
        "dasl": {"dropout": 0.0, "negatives": 20},
    }
    params = changed(tiny, values).model_copy(update={"protocol": "temporal"})
    train = dataset.splits["train"]
    rows = one_a_user(train.take(train.kinds()["overlapping"]), 20)
    negatives = sample_negatives(rows, 49, 0)

    def ndcg(system: Any) -> float:
        ranks = rank(system, rows, negatives, full=False, batch_size=64)
        return selection_metric(ranks, rows)["ndcg@10"]

    def fitted(system: Any) -> Any:
        rng = np.random.default_rng(0)
        return system.fit(rows, rows, params=params, generator=None, rng=rng, callbacks=Callbacks())

    found = fitted(DASL(dataset.catalogue, params))
    assert ndcg(found) > 0.8  # the item biases alone get to 0.7
    # as newcomers: the same histories, vectors folded in
    found.params = params.model_copy(update={"protocol": "strict"})
    assert ndcg(found) > 0.7
    assert ndcg(fitted(Popularity(dataset.catalogue))) < 0.4  # though these rows' targets are in its counts
