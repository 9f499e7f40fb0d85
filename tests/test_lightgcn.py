"""LightGCN as a recommender: its loss against dense references, folding in by hand, its two readings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vae_lib import evaluation
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows, interactions, other, popularity
from i2vae_lib.generators import graphs
from i2vae_lib.generators.lightgcn import Triples, terms
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import LightGCNM, LightGCNS, Popularity
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import one_a_user

READINGS = [LightGCNS, LightGCNM]


def changed(p: Parameters, group: str, **values: Any) -> Parameters:
    return p.model_copy(update={group: getattr(p, group).model_copy(update=values)})


def fit(kind: Any, train: Rows, validation: Rows, p: Parameters, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return kind(train.catalogue, p).fit(train, validation, params=p, generator=None, rng=rng, callbacks=Callbacks())


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def emptied(rows: Rows, side: str) -> Rows:
    """The rows without their own or their other history."""
    history = dict(rows.history)
    for i, d in enumerate(DOMAINS):
        whose = d if side == "own" else other(d)
        history[whose] = history[whose].keep((rows.domain != i)[history[whose].owner])
    return replace(rows, history=history)


@pytest.fixture(scope="module")
def fitted(dataset: CrossDomainDataset, tiny: Parameters) -> dict[str, Any]:
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    return {kind.name: fit(kind, train, validation, tiny) for kind in READINGS}


# --- the loss ---------------------------------------------------------------------------------------------------------


def problem(layers: int, users: int = 7, items: int = 9, d: int = 5, batch: int = 6) -> dict[str, Any]:
    """A random graph with an isolated user and item, and a batch of nodes."""
    rng = np.random.default_rng(3)
    dense = rng.random((users, items)) < 0.4
    dense[-1], dense[:, -1] = False, False
    graph = graphs.binary(*np.nonzero(dense), dense.shape)
    nodes = [rng.integers(0, users, batch), *(users + rng.integers(0, items, (2, batch)))]
    table = torch.from_numpy(rng.normal(size=(users + items, d))).float()
    adjacency = graphs.Adjacency.of(graphs.normalised(graph))
    return {"dense": dense, "table": table, "adjacency": adjacency, "rows": torch.from_numpy(np.concatenate(nodes))}


def reference(one: dict[str, Any], layers: int, decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The same two terms, triple by triple, from dense powers of A_hat."""
    users, items = one["dense"].shape
    matrix = np.zeros((users + items, users + items))
    matrix[:users, users:], matrix[users:, :users] = one["dense"], one["dense"].T
    degree = matrix.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0)
    hat = torch.from_numpy(scale[:, None] * matrix * scale)
    start = one["table"].double()
    mean = sum(torch.linalg.matrix_power(hat, layer) @ start for layer in range(layers + 1)) / (layers + 1)
    triples = one["rows"].view(3, -1).T
    ranking = -sum(torch.log(torch.sigmoid(mean[u] @ (mean[i] - mean[j]))) for u, i, j in triples) / len(triples)
    penalty = decay / 2 * sum((start[n] ** 2).sum() for triple in triples for n in triple) / len(triples)
    return ranking, penalty


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_terms_when_compared_with_dense_powers(layers: int) -> None:
    one = problem(layers)
    one["table"].requires_grad_()
    for found, expected in zip(
        terms(one["table"], one["adjacency"], layers, one["rows"], 0.1), reference(one, layers, 0.1), strict=True
    ):
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
        [own] = torch.autograd.grad(found, one["table"], retain_graph=True)
        [theirs] = torch.autograd.grad(expected, one["table"])
        np.testing.assert_allclose(own, theirs, atol=1e-6)


def test_terms_when_there_are_no_layers_are_those_of_bpr_mf() -> None:
    # d loss / du = -sigmoid(-(s_i - s_j)) (v_i - v_j) / B + decay u / B, and alike for i and j
    one, decay = problem(0), 0.3
    table = one["table"].clone().requires_grad_()
    ranking, penalty = terms(table, None, 0, one["rows"], decay)
    (ranking + penalty).backward()
    vectors, expected, loss = one["table"].double().numpy(), np.zeros(one["table"].shape), 0.0
    triples = one["rows"].view(3, -1).T.numpy()
    for u, i, j in triples:
        margin = vectors[u] @ (vectors[i] - vectors[j])
        loss += np.log1p(np.exp(-margin)) + decay / 2 * (vectors[[u, i, j]] ** 2).sum()
        pull = 1 / (1 + np.exp(margin))
        expected[u] += decay * vectors[u] - pull * (vectors[i] - vectors[j])
        expected[i] += decay * vectors[i] - pull * vectors[u]
        expected[j] += decay * vectors[j] + pull * vectors[u]
    assert float((ranking + penalty).detach()) == pytest.approx(loss / len(triples), rel=1e-6)
    assert table.grad is not None
    np.testing.assert_allclose(table.grad, expected / len(triples), atol=1e-6)


def test_terms_when_nodes_are_outside_the_batch() -> None:
    # the penalty is of the batch's layer-0 vectors alone, ranking reaches the whole neighbourhood
    one = problem(3)
    table = one["table"].requires_grad_()
    ranking, penalty = terms(table, one["adjacency"], 3, one["rows"], 0.1)
    outside = np.setdiff1d(np.arange(16), one["rows"])
    [decayed] = torch.autograd.grad(penalty, table, retain_graph=True)
    [ranked] = torch.autograd.grad(ranking, table)
    assert not decayed[outside].any() and ranked[outside].any()


# --- triples ----------------------------------------------------------------------------------------------------------


def test_triples_when_there_is_one_domain() -> None:
    graph = graphs.binary(np.array([0, 0, 1]), np.array([0, 2, 1]), (2, 4))
    for d in DOMAINS:
        user, positive, negative = Triples(graph, {d: np.arange(4)}, np.random.default_rng(0)).draw(8000)
        assert set(positive[user == 0]) == {0, 2} and set(positive[user == 1]) == {1}
        assert set(negative[user == 0]) == {1, 3} and set(negative[user == 1]) == {0, 2, 3}
        counts = np.bincount(negative[user == 1], minlength=4)[[0, 2, 3]]
        assert counts / counts.sum() == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("kind", READINGS)
def test_batches_when_an_epoch_is_drawn(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    train = dataset.splits["train"]
    system = kind(dataset.catalogue, tiny)
    system.prepare(train, None)
    system.module = system.build(torch.Generator().manual_seed(0))
    [stage] = system.stages(train)
    found = list(stage.batches(np.random.default_rng(0)))
    sizes = {name: graph.nnz for name, graph in system.taken.items()}
    size = tiny.lightgcn.batch_size
    assert stage.rows == sum(sizes.values()) and len(found) == stage.steps
    assert stage.steps == sum(-(-count // size) for count in sizes.values())
    for [(name, nodes)] in (batch.items() for batch in found):
        users = system.taken[name].shape[0]
        user, positive, negative = nodes.view(3, size).numpy()
        taken = system.taken[name].toarray() > 0
        assert user.max() < users <= positive.min() and taken[user, positive - users].all()
        assert not taken[user, negative - users].any()
        if name == "xy":  # a linked item is in both domains, and as a positive counts as x
            pool = {d: graphs.Unified(dataset.catalogue).of[d][1:] for d in DOMAINS}
            in_x = np.isin(positive - users, pool["x"])
            assert np.isin(negative[in_x] - users, pool["x"]).all()
            assert np.isin(negative[~in_x] - users, pool["y"]).all()


# --- the graph --------------------------------------------------------------------------------------------------------


def test_graph_when_built(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # training interactions, each once, and nobody else's
    train = dataset.splits["train"]
    separate, united = (kind(dataset.catalogue, tiny) for kind in READINGS)
    for system in (separate, united):
        system.prepare(train, None)
        assert list(system.users) == list(dict.fromkeys(train.user))
        assert not set(system.users) & set(dataset.splits["validation"].user)
        assert all((graph.data == 1).all() and graph.shape[0] == len(system.users) for graph in system.taken.values())
    pairs = interactions(train)
    for d in DOMAINS:
        users, items = separate.taken[d].nonzero()
        assert set(zip(users, items + 1, strict=True)) == set(zip(*pairs[d], strict=True))
    linked = len(dataset.catalogue.links)
    assert linked and united.taken["xy"].shape[1] == 240 - linked


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READINGS)
def test_scores_when_computed_by_hand(
    kind: Any, fitted: dict[str, Any], dataset: CrossDomainDataset, tiny: Parameters
) -> None:
    # 1 / (L + 1) sum_{l<L} sum_{i in H} e_i^l / sqrt(|H| deg(i)) against the mean of an item's layers
    system, rows = fitted[kind.name], dataset.splits["test"]
    rows = rows.take(np.arange(0, len(rows), 12))
    scores, evident = system.score(rows, everything(rows)), system.can_rank(rows)
    counts = popularity(dataset.splits["train"])
    for row in range(len(rows)):
        d = DOMAINS[rows.domain[row]]
        name = "xy" if kind is LightGCNM else d
        dense = system.taken[name].toarray()
        users, items = dense.shape
        matrix = np.block([[np.zeros((users, users)), dense], [dense.T, np.zeros((items, items))]])
        scale = 1 / np.sqrt(np.maximum(matrix.sum(axis=1), 1))
        layers = [system.module[name].detach().double().numpy()]
        for _ in range(tiny.lightgcn.layers):
            layers.append((scale[:, None] * matrix * scale) @ layers[-1])
        shown = {
            "x": rows.history["x"][row] - 1,
            "y": graphs.Unified(dataset.catalogue).of["y"][rows.history["y"][row]],
        }
        history = set(np.concatenate([shown["x"], shown["y"]])) if kind is LightGCNM else set(rows.history[d][row] - 1)
        degree = dense.sum(axis=0)
        seen = [i for i in history if degree[i]]
        assert evident[row] == bool(seen)
        if not seen:
            np.testing.assert_array_equal(scores[row], counts[d][1:].astype(np.float32))
            continue
        vector = sum(one[users + i] / np.sqrt(len(history) * degree[i]) for i in seen for one in layers[:-1])
        final = np.mean(layers, axis=0)[users:] * (degree > 0)[:, None]
        numbers = graphs.Unified(dataset.catalogue).of[d][1:] if kind is LightGCNM else np.arange(120)
        np.testing.assert_allclose(scores[row], final[numbers] @ (vector / len(layers)), atol=1e-5)


@pytest.mark.parametrize("kind", READINGS)
def test_scores_when_a_row_is_cold(kind: Any, fitted: dict[str, Any], dataset: CrossDomainDataset) -> None:
    system, rows = fitted[kind.name], dataset.splits["test"]
    cold = emptied(rows.take(rows.kinds()["overlapping"]), "own")
    counts = popularity(dataset.splits["train"])
    scores = system.score(cold, everything(cold))
    expected = np.stack([counts[DOMAINS[d]][1:] for d in cold.domain])
    if kind is LightGCNS:
        assert not system.can_rank(cold).any()
        np.testing.assert_array_equal(scores, expected)
    else:
        assert system.can_rank(cold).all() and (np.abs(scores - expected).max(axis=1) > 0.5).all()
        assert (scores.std(axis=1) > 0).all() and (scores[cold.of("x")].std(axis=0) > 0).all()


@pytest.mark.parametrize("kind", READINGS)
def test_scores_when_the_other_history_changes(kind: Any, fitted: dict[str, Any], dataset: CrossDomainDataset) -> None:
    system, rows = fitted[kind.name], dataset.splits["test"]
    rows = rows.take(rows.kinds()["overlapping"])
    before, after = system.score(rows, everything(rows)), system.score(emptied(rows, "other"), everything(rows))
    if kind is LightGCNS:
        np.testing.assert_allclose(after, before, atol=1e-6)
    else:
        assert (np.abs(after - before).max(axis=1) > 1e-4).all()


@pytest.mark.parametrize("kind", READINGS)
def test_scores_when_histories_are_reversed(kind: Any, fitted: dict[str, Any], dataset: CrossDomainDataset) -> None:
    system, rows = fitted[kind.name], dataset.splits["test"]
    history = {
        d: Ragged.from_lists([one[::-1] for one in map(rows.history[d].__getitem__, range(len(rows)))]) for d in DOMAINS
    }
    found = system.score(replace(rows, history=history), everything(rows))
    np.testing.assert_allclose(found, system.score(rows, everything(rows)), atol=1e-6)


@pytest.mark.parametrize("kind", READINGS)
def test_scores_when_nobody_took_an_item(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # without the training rows that hold item 5 of x: it scores 0, and says nothing where it is all that a row shows
    train = dataset.splits["train"]
    links = dataset.catalogue.linked("x")
    alone = int(np.flatnonzero(links[1:] == 0)[0]) + 1
    holds = (train.domain == 0) & (train.target == alone)
    holds[train.history["x"].owner[train.history["x"].values == alone]] = True
    assert 0 < holds.sum() < len(train) / 4
    train = train.take(~holds)
    system = fit(kind, train, dataset.splits["validation"], tiny)
    rows = dataset.splits["test"]
    rows = rows.take((rows.domain == 0) & rows.kinds()["overlapping"])
    scores = system.score(rows, everything(rows))
    assert not scores[:, alone - 1].any() and (scores[:, :2] != 0).any()
    nothing = Ragged.from_lists([[] for _ in range(len(rows))])
    blank = replace(rows, history={"x": Ragged.from_lists([[alone]] * len(rows)), "y": nothing})
    assert not system.can_rank(blank).any()
    np.testing.assert_array_equal(system.score(blank, everything(rows))[0], popularity(train)["x"][1:])


@pytest.mark.parametrize("kind", READINGS)
def test_scores_when_users_are_known(
    kind: Any, dataset: CrossDomainDataset, tiny: Parameters, fitted: dict[str, Any], tmp_path: Path
) -> None:
    # under temporal a training user has its trained vector whatever the row shows; elsewhere an id changes nothing
    train, rows = dataset.splits["train"], dataset.splits["test"]
    rows = rows.take(rows.kinds()["overlapping"])
    system = fit(kind, train, dataset.splits["validation"], tiny.model_copy(update={"protocol": "temporal"}))
    degree = np.stack([graphs.domain_takers(train, d).getnnz(axis=1) for d in DOMAINS])
    line = int(np.flatnonzero((degree > 0).all(axis=0))[0])
    user = np.full(len(rows), list(dict.fromkeys(train.user))[line], dtype=object)
    renamed = replace(rows, user=user)
    scores = system.score(renamed, everything(rows))
    for d in DOMAINS:
        at = rows.of(d)
        name = "xy" if kind is LightGCNM else d
        graph = system.taken[name]
        start = system.module[name].detach().numpy()
        mean = graphs.tables_of(graph, (start[: graph.shape[0]], start[graph.shape[0] :]), tiny.lightgcn.layers)[0]
        expected = system.finals[d].numpy() @ mean[line]
        np.testing.assert_allclose(scores[at], np.tile(expected, (len(at), 1)), atol=1e-5)
    np.testing.assert_array_equal(
        system.score(rows, everything(rows)), fitted[kind.name].score(renamed, everything(rows))
    )
    system.save(tmp_path)
    np.testing.assert_array_equal(kind.load(tmp_path).score(renamed, everything(rows)), scores)


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READINGS)
def test_fit_when_there_are_twenty_users(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    rows = one_a_user(dataset.splits["train"], 20)
    p = changed(tiny, "training", epochs=20, learning_rate=0.05, patience=0)
    system = fit(kind, rows, rows, changed(p, "lightgcn", batch_size=128))
    popular = fit(lambda catalogue, p: Popularity(catalogue), rows, rows, p)
    found = {}
    for one in (system, popular):
        ranks = evaluation.rank(one, rows, None, full=True, batch_size=64)
        found[one.name] = float((ranks.greater_full < 10).mean())
    assert found[kind.name] > 0.8 and found[kind.name] > 0.2 + found["popularity"], found


def test_fit_when_there_are_no_layers(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # BPR-MF: the layer-0 item vectors are the final ones, and a row's vector is |H|^-1/2 sum of v_i / sqrt(deg(i))
    train = dataset.splits["train"]
    system = fit(LightGCNS, train, dataset.splits["validation"], changed(tiny, "lightgcn", layers=0))
    rows = dataset.splits["test"]
    rows = rows.take(np.flatnonzero((rows.domain == 0) & (rows.lengths("own") > 0))[:20])
    degree = system.taken["x"].toarray().sum(axis=0)
    assert degree.all()
    items = system.module["x"].detach().numpy()[len(system.users) :]
    scores = system.score(rows, everything(rows))
    for row in range(len(rows)):
        own = np.unique(rows.history["x"][row]) - 1
        vector = (items[own] / np.sqrt(degree[own])[:, None]).sum(axis=0) / np.sqrt(len(own))
        np.testing.assert_allclose(scores[row], items @ vector, atol=1e-5)
