"""Folding in: closed forms and slow loops, and what it equals and loses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import Array, DataError, Rows
from i2vae_lib.generators import graphs, lightgcn, psg
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.systems.fold_in import mean_mapped, propagated, user_vectors


def matrix(dense: Any) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.asarray(dense, dtype=np.float32))


def histories(rows: int = 23, items: int = 17, seed: int = 0) -> sparse.csr_matrix:
    """Binary rows x items of many lengths; rows 3 and the last are empty, row 5 holds everything."""
    rng = np.random.default_rng(seed)
    dense = rng.random((rows, items)) < rng.random((rows, 1))
    dense[np.arange(rows), rng.integers(items, size=rows)] = True
    dense[3], dense[-1], dense[5] = False, False, True
    return matrix(dense)


@pytest.fixture
def edges() -> sparse.csr_matrix:
    return histories()


@pytest.fixture
def items() -> Array:
    return np.random.default_rng(1).normal(size=(17, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(dataset: CrossDomainDataset) -> sparse.csr_matrix:
    """Training users x unified items of the tiny world."""
    train = dataset.splits["train"]
    return graphs.user_items(train, Unified(train.catalogue))


@pytest.fixture(scope="module")
def shares(graph: sparse.csr_matrix) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """The graph in two: 80 % of the edges to learn from and to fold in, 20 % to find."""
    coo = graph.tocoo()
    hidden = np.random.default_rng(0).random(coo.nnz) < 0.2
    known, wanted = (graphs.binary(coo.row[part], coo.col[part], graph.shape) for part in (~hidden, hidden))
    return known, wanted


# --- propagated -------------------------------------------------------------------------------------------------------


def layers_of(taken: Array, vectors: Array, layers: int) -> list[Array]:
    """E^0 ... E^L of a dense users x items graph, users first."""
    users, items = taken.shape
    adjacency = np.zeros((users + items, users + items))
    adjacency[:users, users:], adjacency[users:, :users] = taken, taken.T
    scale = 1 / np.sqrt(np.maximum(adjacency.sum(axis=1), 1))
    found = [vectors]
    for _ in range(layers):
        found.append((scale[:, None] * adjacency * scale) @ found[-1])
    return found


def grown_vector(taken: Array, start: tuple[Array, Array], history: Array, layers: int) -> Array:
    """The vector of one user more, by real propagation in the larger graph: its layer-0 vector is zero."""
    users = np.concatenate([start[0], np.zeros((1, start[0].shape[1]))])
    found = layers_of(np.concatenate([taken, history[None]]), np.concatenate([users, start[1]]), layers)
    vector: Array = np.mean(found, axis=0)[len(taken)]
    return vector


def start_of(graph: sparse.csr_matrix, d: int = 6, seed: int = 2) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    users, items = (rng.normal(size=(n, d)).astype(np.float32) for n in graph.shape)
    return users, items


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_propagated_when_summed_by_hand(layers: int) -> None:
    graph, rows = histories(12, 9, seed=3), histories(11, 9, seed=4)
    graph = matrix(graph.toarray() * (np.arange(9) != 8))  # nobody took the last item
    start = start_of(graph)
    _, table, final = graphs.tables_of(graph, start, layers)
    found = layers_of(graph.toarray(), np.concatenate(start), layers)
    degree = graph.toarray().sum(axis=0)
    expected = np.zeros((11, 6))
    for row, taken in enumerate(rows.toarray()):
        for i in np.flatnonzero(taken * (degree > 0)):
            for layer in found[:-1]:
                expected[row] += layer[12 + i] / np.sqrt(taken.sum() * degree[i]) / (layers + 1)
    vectors = propagated(rows, table)
    assert vectors.dtype == np.float32 and table.dtype == final.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(final[:8], np.mean(found, axis=0)[12:20], atol=1e-6)
    assert not table[8].any() and not final[8].any() and table[:8].any(axis=1).all()


def test_propagated_when_there_is_one_layer() -> None:
    # two items, taken by 4 and 1 users: u = 1/2 (v_0 / sqrt(2 * 4) + v_1 / sqrt(2 * 1))
    graph = matrix([[1, 0], [1, 0], [1, 0], [1, 1]])
    users, items = np.ones((4, 2), dtype=np.float32), np.array([[4, 0], [0, 2]], dtype=np.float32)
    _, table, _ = graphs.tables_of(graph, (users, items), 1)
    np.testing.assert_allclose(propagated(matrix([[1, 1]]), table), [[0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_propagated_when_the_generator_is_asked(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # the formula stands in psg: this fails should one of the two ever be another
    train, p = dataset.splits["train"], tiny.psg.model_copy(update={"epochs": 1, "folds": 1, "rounds": 1})
    generator = psg.LightGCNGenerator.fit(train, p)
    graph = graphs.user_items(train, generator.unified)
    start = lightgcn.train_lightgcn(graph, generator.unified.items, p, np.random.default_rng([p.seed, 0]))
    _, table, final = graphs.tables_of(graph, start, p.layers)
    np.testing.assert_array_equal(table, generator.tables["fold_in"][0, 0])
    np.testing.assert_array_equal(final, generator.tables["final"][0, 0])
    rows = generator.unified.histories(dataset.splits["validation"])
    np.testing.assert_array_equal(propagated(rows, table), generator.user_vectors(rows, 0, 0))


def test_propagated_when_the_graph_is_grown(
    graph: sparse.csr_matrix, dataset: CrossDomainDataset, tiny: Parameters
) -> None:
    # A node that is really added also acts on the items: their degrees grow by one, and its own history comes back to
    # it through them. That is left out, since rows would see each other. In one layer it is a matter of degrees alone,
    # and exact; in three it moves a row's vector by 4 % of its length in the median and hardly turns it (cosine
    # 0.9998), most where a history holds an item that hardly anybody took.
    test = dataset.splits["test"]
    rows = Unified(test.catalogue).histories(test)
    rows = rows[rows.getnnz(axis=1) > 0][:15]
    p = tiny.psg.model_copy(update={"epochs": 10})
    start = lightgcn.train_lightgcn(graph, Unified(test.catalogue).items, p, np.random.default_rng(0))
    taken = graph.toarray()
    degree = taken.sum(axis=0)
    _, table, _ = graphs.tables_of(graph, start, 1)
    for row, vector in zip(rows.toarray(), propagated(rows, table), strict=True):
        on = np.flatnonzero(row * (degree > 0))
        damped = table.copy()
        damped[on] *= np.sqrt(degree[on] / (degree[on] + 1))[:, None]
        alone = matrix(row[None])
        if len(on) == row.sum():  # an item that only the new user took reaches it in the grown graph alone
            np.testing.assert_allclose(propagated(alone, damped)[0], grown_vector(taken, start, row, 1), atol=1e-6)
        np.testing.assert_allclose(propagated(alone, table)[0], vector, atol=1e-6)
    _, table, _ = graphs.tables_of(graph, start, 3)
    vectors = propagated(rows, table)
    real = np.stack([grown_vector(taken, start, row, 3) for row in rows.toarray()])
    norms = np.linalg.norm(real, axis=1)
    effect = np.linalg.norm(real - vectors, axis=1) / norms
    cosine = (real * vectors).sum(axis=1) / norms / np.linalg.norm(vectors, axis=1)
    assert 0.02 < np.median(effect) < 0.08 and np.median(cosine) > 0.99


# --- mean_mapped ------------------------------------------------------------------------------------------------------


def test_mean_mapped_when_computed_by_hand() -> None:
    vectors = np.array([[1, 2], [3, 4], [100, 100]], dtype=np.float32)
    mapping = np.array([[1, 0, 1], [0, 10, 1]], dtype=np.float32)
    # mean (2, 3); item 1 alone (3, 4)
    found = mean_mapped(matrix([[1, 1, 0], [0, 1, 0]]), vectors, mapping)
    np.testing.assert_allclose(found, [[2, 30, 5], [3, 40, 7]], rtol=1e-6)


def test_mean_mapped_when_compared_with_a_slow_loop(edges: sparse.csr_matrix, items: Array) -> None:
    mapping = np.random.default_rng(8).normal(size=(4, 3)).astype(np.float32)
    found = mean_mapped(edges, items, mapping)
    assert found.dtype == np.float32
    for row, vector in enumerate(found):
        own = [items[i] @ mapping for i in np.flatnonzero(edges[row].toarray())]
        np.testing.assert_allclose(vector, np.mean(own, axis=0) if own else np.zeros(3), atol=1e-6)


def test_mean_mapped_when_the_mapping_is_of_other_sizes(edges: sparse.csr_matrix, items: Array) -> None:
    with pytest.raises(DataError, match=r"mapping is \(3, 4\), but item vectors have 4 dimensions"):
        mean_mapped(edges, items, np.zeros((3, 4)))


# --- what both keep ----------------------------------------------------------------------------------------------

MAPPING = np.random.default_rng(9).normal(size=(4, 5)).astype(np.float32)
WAYS: dict[str, Callable[..., Array]] = {
    "propagated": propagated,
    "mean_mapped": lambda edges, items: mean_mapped(edges, items, MAPPING),
}


@pytest.mark.parametrize("way", WAYS)
def test_fold_in_when_rows_come_one_at_a_time(way: str, edges: sparse.csr_matrix, items: Array) -> None:
    together = WAYS[way](edges, items)
    alone = np.concatenate([WAYS[way](edges[row], items) for row in range(edges.shape[0])])
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)
    order = np.random.default_rng(3).permutation(edges.shape[0])
    np.testing.assert_allclose(WAYS[way](edges[order], items), together[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_fold_in_when_rows_are_empty(way: str, edges: sparse.csr_matrix, items: Array) -> None:
    vectors = WAYS[way](edges, items)
    empty = edges.getnnz(axis=1) == 0
    assert empty.sum() == 2 and not vectors[empty].any() and vectors[~empty].any(axis=1).all()
    assert not WAYS[way](edges[[3, 22]], items).any()
    assert WAYS[way](edges[[3, 22]], items).shape == (2, vectors.shape[1])
    assert WAYS[way](edges[:0], items).shape == (0, vectors.shape[1])


@pytest.mark.parametrize("way", WAYS)
def test_fold_in_when_items_have_another_order(way: str, edges: sparse.csr_matrix, items: Array) -> None:
    order = np.random.default_rng(4).permutation(17)
    moved = graphs.binary(*np.nonzero(edges.toarray()[:, order]), edges.shape)
    np.testing.assert_allclose(WAYS[way](moved, items[order]), WAYS[way](edges, items), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_fold_in_when_edges_are_wrong(way: str, edges: sparse.csr_matrix, items: Array) -> None:
    with pytest.raises(DataError, match="edges lead to 17 items, but there are vectors of 16"):
        WAYS[way](edges, items[:-1])
    for wrong in (edges * 2, edges.tocsc()):
        with pytest.raises(DataError, match="edges must be a binary CSR matrix"):
            WAYS[way](wrong, items)


# --- user_vectors -----------------------------------------------------------------------------------------------------


def named(rows: Rows, *users: str) -> Rows:
    return replace(rows.take(np.arange(len(users))), user=np.array(users, dtype=object))


def test_user_vectors_when_a_known_users_row_was_made_cold(dataset: CrossDomainDataset) -> None:
    # under temporal a validation user made cold has trained on what the row no longer shows
    rows = named(dataset.splits["validation"], "a", "a")
    emptied = {d: rows.history[d].keep(rows.history[d].owner > 0) for d in ("x", "y")}
    own = "xy"[rows.domain[0]]
    cold = replace(rows, history=dict(rows.history) | {own: emptied[own]})
    assert cold.lengths("own").tolist()[0] == 0 < cold.lengths("own")[1]
    table, folded = np.array([[7, 7]], dtype=np.float32), np.zeros((2, 2), dtype=np.float32)
    kept = user_vectors(cold, ["a"], table, folded)
    np.testing.assert_array_equal(kept, [[0, 0], [7, 7]])
    # one who never took anything there has no such training: nothing is hidden, and the vector stays
    never = replace(cold, excluded=cold.excluded.keep(cold.excluded.owner > 0))
    kept = user_vectors(never, ["a"], table, folded)
    np.testing.assert_array_equal(kept, [[7, 7], [7, 7]])


def test_user_vectors_when_some_users_are_known(dataset: CrossDomainDataset) -> None:
    rows = named(dataset.splits["validation"], "b", "new", "a", "b")
    table, folded = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32), -np.arange(8, dtype=np.float32).reshape(4, 2)
    kept = user_vectors(rows, ["b", "c", "a"], table, folded)
    np.testing.assert_array_equal(kept, [[1, 2], [-2, -3], [5, 6], [1, 2]])
    kept[:] = 9
    assert table[0].tolist() == [1, 2] and folded[1].tolist() == [-2, -3]


def test_user_vectors_when_sizes_do_not_fit(dataset: CrossDomainDataset) -> None:
    rows, table = named(dataset.splits["validation"], "a", "b"), np.zeros((3, 2), dtype=np.float32)
    for shape in ((3, 2), (2, 3)):
        with pytest.raises(DataError, match=r"expected .* and \(2, 2\)"):
            user_vectors(rows, ["a", "b", "c"], table, np.zeros(shape))
    with pytest.raises(DataError, match=r"2 ids, \(3, 2\) trained vectors"):
        user_vectors(rows, ["a", "b"], table, np.zeros((2, 2)))


# --- what folding in loses --------------------------------------------------------------------------------------------


def test_loss_when_a_graph_folds_in_its_own_users(
    shares: tuple[sparse.csr_matrix, sparse.csr_matrix], dataset: CrossDomainDataset, tiny: Parameters
) -> None:
    # a zero layer-0 vector in place of the trained one, and no echo of the user in the items
    known, wanted = shares
    p = tiny.psg.model_copy(update={"epochs": 20})
    domains = Unified(dataset.catalogue).items
    start = lightgcn.train_lightgcn(known, domains, p, np.random.default_rng(0))
    _, table, final = graphs.tables_of(known, start, p.layers)
    layers = layers_of(known.toarray(), np.concatenate(start), p.layers)
    trained = lightgcn.recall_at(np.mean(layers, axis=0)[: known.shape[0]], final, known, wanted, 20)
    folded = lightgcn.recall_at(propagated(known, table), final, known, wanted, 20)
    assert 0.28 < trained < 0.5 and -0.02 < folded - trained < 0.08
