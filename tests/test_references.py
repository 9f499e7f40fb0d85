"""The reference rankers: each against a slow loop, their fall-back, their selection, and the two ends of the dial."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from i2vae_lib import evaluation
from i2vae_lib.data import CrossDomainDataset, load_dataset
from i2vae_lib.data.rows import DOMAINS, Array, DataError, Rows, interactions, other, popularity
from i2vae_lib.generators.cooccurrence import Kernel
from i2vae_lib.generators.graphs import user_items
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import EASE, Copy, Informed, ItemKNN, Oracle, OrderedCounts, Popularity
from i2vae_lib.recommenders.references import ease as ease_module
from i2vae_lib.recommenders.references.from_histories import (
    NUDGE,
    Axis,
    FromHistories,
    extensions,
    fall_back,
    search,
    share,
)
from i2vae_lib.recommenders.references.itemknn import nearest, places
from i2vae_lib.runs import LayoutError
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY, fitted

KINDS = (Popularity, Copy, ItemKNN, EASE, OrderedCounts)


def tiny_with(**references: Any) -> Parameters:
    return load("smoke", TINY | {f"references.{key}": value for key, value in references.items()})


def fit(kind: Any, dataset: CrossDomainDataset, params: Parameters) -> Any:
    return fitted(kind(dataset.catalogue), dataset, params)


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def dense(dataset: CrossDomainDataset, found: FromHistories) -> Array:
    """Training users x unified items in float64, by a loop over what each row holds."""
    train = dataset.splits["train"]
    users = {user: i for i, user in enumerate(dict.fromkeys(train.user))}
    matrix = np.zeros((len(users), found.unified.size))
    for row in range(len(train)):
        for d in DOMAINS:
            matrix[users[train.user[row]], found.unified.of[d][train.history[d][row]]] = 1.0
        matrix[users[train.user[row]], found.unified.of[DOMAINS[train.domain[row]]][train.target[row]]] = 1.0
    return matrix


def row_items(rows: Rows, row: int, found: FromHistories) -> Array:
    return np.unique(np.concatenate([found.unified.of[d][rows.history[d][row]] for d in DOMAINS]))


def evidence(found: FromHistories, rows: Rows) -> Array:
    """float64 [rows, 120] in each row's target domain."""
    lines = [found.evidence(rows.take(np.array([row])), DOMAINS[rows.domain[row]])[0] for row in range(len(rows))]
    return np.array(lines, dtype=np.float64)


@pytest.fixture(scope="module")
def rows(dataset: CrossDomainDataset) -> Rows:
    return dataset.splits["test"]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def ranker(request: pytest.FixtureRequest, dataset: CrossDomainDataset, tiny: Parameters) -> Any:
    return fit(request.param, dataset, tiny)


# --- the fall-back ----------------------------------------------------------------------------------------------------


def test_fall_back_when_evidence_has_every_sign_keeps_its_order() -> None:
    strength = np.array([-3.0, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 3.0])
    popular = np.linspace(0, 1, 7, endpoint=False)
    scores = fall_back(*(grid.ravel() for grid in np.meshgrid(strength, popular, indexing="ij"))).reshape(7, 7)
    assert scores.dtype == np.float32
    assert (scores[:3].max() < scores[3].min()) and (scores[3].max() < 0 < scores[4:].min())
    # by strength first, whatever the popularity (-1e-9 is lost beside FLOOR only among the negative ones)
    assert (scores[1:].min(axis=1) > scores[:-1].max(axis=1)).all()
    assert (np.diff(scores[[0, 1, 3, 4, 5, 6]], axis=1) > 0).all()


def test_fall_back_when_evidence_agrees_within_the_nudge_is_by_popularity() -> None:
    popular = share({"x": np.array([0.0, 1.0, 2.0, 50.0, 51.0, 400.0])})["x"]
    rounded = 0.7 * (1 + 1e-7 * np.array([1, -1, 1, 1, -1, -1]))
    assert (np.diff(fall_back(rounded, popular)) > 0).all()
    apart = fall_back(np.array([0.7, 0.7 * (1 + 1.01 * NUDGE)]), np.array([0.999, 0.0]))
    assert apart[1] > apart[0]


def test_share_when_counts_ascend_ascends_below_1() -> None:
    found = share({"x": np.arange(5000.0), "y": np.zeros(3)})
    assert found["x"][0] == 0 and found["x"][-1] < 1 and (np.diff(found["x"].astype(np.float32)) > 0).all()
    assert (found["y"] == 0).all()


def test_rankers_when_there_is_no_history_are_popularity(ranker: Any, dataset: CrossDomainDataset, rows: Rows) -> None:
    counts = popularity(dataset.splits["train"])
    blank = rows.take(rows.kinds()["no_history"])
    assert len(blank) > 3
    for line, d in zip(ranker.score(blank, everything(blank)), blank.domain, strict=True):
        np.testing.assert_array_equal(line, counts[DOMAINS[d]][1:].astype(np.float32))


@pytest.mark.parametrize("kind", [ItemKNN, EASE])
def test_rankers_when_evidence_is_equal_go_by_popularity(
    kind: Any, dataset: CrossDomainDataset, rows: Rows, tiny: Parameters
) -> None:
    found = fit(kind, dataset, tiny)
    some = rows.take(np.flatnonzero(rows.lengths("own") > 0)[:20])
    rounded = np.round(evidence(found, some), 2)  # many ties, zeros among them
    assert (rounded == 0).mean() > 0.05
    for row, line in enumerate(rounded):
        found.evidence = lambda histories, domain, line=line: line[None].astype(np.float32)
        one = some.take(np.array([row]))
        scores = found.score(one, everything(one))[0]
        counts = found.counts[DOMAINS[one.domain[0]]][1:]
        order = np.lexsort((counts, line))
        equal = (np.diff(line[order]) == 0) & (np.diff(counts[order]) == 0)
        steps = np.diff(scores[order])
        assert (steps >= 0).all()
        np.testing.assert_array_equal(steps == 0, equal)


# --- Copy -------------------------------------------------------------------------------------------------------------


def test_copy_when_compared_with_a_loop_puts_linked_items_first(
    dataset: CrossDomainDataset, rows: Rows, tiny: Parameters
) -> None:
    found = fit(Copy, dataset, tiny)
    told = rows.take((rows.lengths("own") > 0) | (rows.lengths("other") > 0))
    scores = found.score(told, everything(told))
    links = {(d, int(pair[i])): int(pair[1 - i]) for i, d in enumerate(DOMAINS) for pair in dataset.catalogue.links}
    copied = 0
    for row in range(len(told)):
        d = DOMAINS[told.domain[row]]
        opposite = other(d)
        twins = {links.get((opposite, int(item))) for item in told.history[opposite][row]} - {None}
        key = [(item in twins, found.counts[d][item]) for item in range(1, 121)]
        order = sorted(range(120), key=lambda i: key[i])
        steps = np.diff(scores[row][order])
        assert [step > 0 for step in steps] == [key[b] > key[a] for a, b in itertools.pairwise(order)]
        assert {int(i) + 1 for i in np.flatnonzero(scores[row] >= 1)} == twins
        copied += len(twins)
    assert copied > 8


# --- ItemKNN ----------------------------------------------------------------------------------------------------------


def slow_similarity(matrix: Array, shrinkage: float, neighbours: int) -> Array:
    size = matrix.shape[1]
    counts = matrix.sum(axis=0)
    table = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            if i != j and (together := float((matrix[:, i] * matrix[:, j]).sum())):
                table[i, j] = np.float32(together / (np.sqrt(counts[i] * counts[j]) + shrinkage))
        if neighbours:
            strength = [np.round(np.log(one), 4) if one else -np.inf for one in table[i]]
            order = sorted(range(size), key=lambda j: (-strength[j], -counts[j], j))
            table[i, order[neighbours:]] = 0.0
    return table


@pytest.mark.parametrize(("neighbours", "shrinkage"), [(0, 10.0), (7, 0.0), (7, 10.0)])
def test_itemknn_when_compared_with_a_loop(
    dataset: CrossDomainDataset, rows: Rows, neighbours: int, shrinkage: float
) -> None:
    found = fit(ItemKNN, dataset, tiny_with(neighbours=[neighbours], shrinkage=[shrinkage]))
    table = slow_similarity(dense(dataset, found), shrinkage, neighbours)
    np.testing.assert_allclose(found.table.toarray(), table, rtol=1e-6)
    np.testing.assert_array_equal(found.table.toarray() != 0, table != 0)
    some = rows.take(np.arange(0, len(rows), 3))
    scores = evidence(found, some)
    for row in range(len(some)):
        numbers = found.unified.of[DOMAINS[some.domain[row]]][1:]
        expected = sum((table[i, numbers] for i in row_items(some, row, found)), np.zeros(120))
        np.testing.assert_allclose(scores[row], expected, rtol=1e-5)


def test_nearest_when_similarities_tie_keeps_the_more_popular() -> None:
    table = sparse.csr_matrix(np.array([[0, 0.5, 0.5, 0.5, 0.9]], dtype=np.float32))
    place = places(table, np.array([1.0, 2.0, 8.0, 2.0, 1.0]))
    np.testing.assert_array_equal(place, [2, 1, 3, 0])
    np.testing.assert_array_equal(nearest(table, place, 3).toarray() > 0, [[False, True, True, False, True]])
    assert nearest(table, place, 0) is table


# --- EASE -------------------------------------------------------------------------------------------------------------


def primal(matrix: Array, strength: float) -> Array:
    """B as Steck has it, in float64."""
    inverse = np.linalg.inv(matrix.T @ matrix + strength * np.eye(matrix.shape[1]))
    weights = np.eye(len(inverse)) - inverse / np.diag(inverse)
    np.testing.assert_allclose(np.diag(weights), 0, atol=1e-12)
    return weights


@pytest.mark.parametrize("strength", [1.0, 30.0, 1000.0])
def test_ease_when_compared_with_the_dense_formula(dataset: CrossDomainDataset, rows: Rows, strength: float) -> None:
    found = fit(EASE, dataset, tiny_with(ease_lambda=[strength]))
    assert found.chosen["inverted"] == "items"
    weights = primal(dense(dataset, found), strength)
    some = rows.take(np.arange(0, len(rows), 3))
    scores = evidence(found, some)
    for row in range(len(some)):
        numbers = found.unified.of[DOMAINS[some.domain[row]]][1:]
        expected = weights[row_items(some, row, found)][:, numbers].sum(axis=0)
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("strength", [1.0, 30.0, 1000.0])
def test_ease_when_users_are_fewer_inverts_over_users_and_scores_the_same(
    dataset: CrossDomainDataset, rows: Rows, strength: float
) -> None:
    params = tiny_with(ease_lambda=[strength])
    train = dataset.splits["train"]
    few = train.take(np.arange(120))
    found = EASE(dataset.catalogue).fit(
        few,
        dataset.splits["validation"],
        params=params,
        generator=None,
        rng=np.random.default_rng(0),
        callbacks=Callbacks(),
    )
    assert found.chosen["inverted"] == "users" and len(found.inverse) == len(set(few.user)) < len(found.kept)
    np.testing.assert_array_equal(found.inverse, found.inverse.T)
    matrix = user_items(few, found.unified).toarray().astype(np.float64)
    weights = primal(matrix, strength)
    scores = evidence(found, rows)
    for row in range(len(rows)):
        numbers = found.unified.of[DOMAINS[rows.domain[row]]][1:]
        expected = weights[row_items(rows, row, found)][:, numbers].sum(axis=0)
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4, atol=1e-4 * max(np.abs(expected).max(), 1e-9))
        assert (scores[row][matrix.sum(axis=0)[numbers] == 0] == 0).all()  # nobody took it: nothing is said


def test_inverse_when_larger_than_a_block_is_whole() -> None:
    x = sparse.random(1100, 60, 0.05, format="csr", random_state=0, dtype=np.float32)
    inverse = ease_module.inverse_of(x @ x.T, 2.0)
    np.testing.assert_array_equal(inverse, inverse.T)
    np.testing.assert_allclose(inverse @ ((x @ x.T).toarray() + 2 * np.eye(1100)), np.eye(1100), atol=1e-5)


def test_ease_when_lambda_is_too_small_says_so() -> None:
    alike = sparse.csr_matrix(np.full((2, 2), 3.0, dtype=np.float32))  # two items that everybody took together
    with pytest.raises(DataError, match=r"references.ease_lambda = 1e-12 is too small"):
        ease_module.inverse_of(alike, 1e-12)


def test_ease_when_neither_side_fits_regresses_on_neighbourhoods(
    dataset: CrossDomainDataset, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease_module, "NEAR", 12)
    found = fit(EASE, dataset, tiny_with(ease_limit=50, ease_lambda=[30.0]))
    assert found.chosen["inverted"] == "neighbourhoods" and found.weights is not None
    assert 0 < found.weights.getnnz(axis=0).max() <= 12
    matrix = dense(dataset, found)
    gram = matrix.T @ matrix
    for item in range(0, len(gram), 7):
        gain = np.where(np.arange(len(gram)) == item, 0, gram[:, item] ** 2 / (np.diag(gram) + 30.0))
        near = found.weights[:, [item]].tocsc().indices
        assert set(near) <= set(np.flatnonzero(gain))
        assert len(near) == min(12, (gain > 0).sum())
        if len(near) == 12:
            assert gain[near].min() >= np.delete(gain, near).max() * (1 - 1e-6)
        expected = np.linalg.solve(gram[np.ix_(near, near)] + 30.0 * np.eye(len(near)), gram[near, item])
        np.testing.assert_allclose(
            np.asarray(found.weights[near, [item] * len(near)]).ravel(), expected, rtol=1e-4, atol=1e-6
        )
    warm = rows.take(np.flatnonzero(rows.lengths("own") > 0)[:30])
    scores = found.score(warm, everything(warm))
    assert not found.foreign_counts(dataset.splits["train"]).any()
    assert found.foreign_counts(dataset.splits["train"].take(np.arange(1, len(dataset.splits["train"])))).any()
    found.save(tmp_path)
    np.testing.assert_array_equal(EASE.load(tmp_path).score(warm, everything(warm)), scores)


def test_neighbourhoods_when_they_hold_all_items_are_the_exact_weights() -> None:
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix((rng.random((400, 30)) < 0.3).astype(np.float32))  # any two items share users
    strengths = [3.0, 100.0]
    for found, strength in zip(ease_module.neighbourhoods(x, strengths, 30.0), strengths, strict=True):
        np.testing.assert_allclose(found.toarray(), primal(x.toarray().astype(np.float64), strength), atol=1e-5)


# --- ordered counts ---------------------------------------------------------------------------------------------------


def test_ordered_counts_when_compared_with_a_loop(dataset: CrossDomainDataset, rows: Rows) -> None:
    """Score of every item by a loop over training users, none of whom is a test user."""
    p, weight = Kernel(7.0, proximity=0.4, backward=0.3, across=0.2, recency=0.7), 0.05
    train = dataset.splits["train"]
    found = OrderedCounts.of(train, p, weight)
    counts = popularity(train)
    steps: list[dict[tuple[str, int], int]] = []
    for user in dict.fromkeys(train.user):
        whole: dict[str, list[int]] = {"x": [], "y": []}
        for row in np.flatnonzero(train.user == user):
            for d in DOMAINS:
                shown = train.history[d][row].tolist()
                shown += [int(train.target[row])] if DOMAINS[train.domain[row]] == d else []
                whole[d] = max(whole[d], shown, key=len)
        steps.append({(d, item): at for d in DOMAINS for at, item in reversed(list(enumerate(whole[d])))})
    number = {(d, i): int(found.unified.of[d][i]) for d in DOMAINS for i in range(1, 121)}
    takers = np.zeros(found.unified.size)
    together = np.zeros((found.unified.size, found.unified.size))
    for taken in steps:
        takers[list({number[key] for key in taken})] += 1
        pairs: dict[tuple[int, int], float] = {}
        for (one, at), (two, then) in itertools.permutations(taken.items(), 2):
            key = number[one], number[two]
            if one[0] != two[0]:
                pairs.setdefault(key, p.across)
                continue
            near = max(abs(then - at), 1) ** -p.proximity * (1 if then > at else p.backward)
            pairs[key] = max(near, pairs[key]) if key in pairs and pairs[key] != p.across else near
        for (one_, two_), value in pairs.items():
            together[one_, two_] += value if one_ != two_ else 0
    told = np.zeros((len(rows), 120))
    for row in range(len(rows)):
        d = DOMAINS[rows.domain[row]]
        shown_: dict[int, float] = {}
        for side in DOMAINS:
            for back, item in enumerate(rows.history[side][row][::-1].tolist()):
                shown_[number[side, item]] = max(p.recency**back, shown_.get(number[side, item], 0.0))
        for i, h in shown_.items():
            for j in range(1, 121):
                at = number[d, j]
                told[row, j - 1] += h * together[i, at] / (np.sqrt(takers[i] * takers[at]) + p.shrinkage)
        told[row] += weight * np.log1p(counts[d][1:])
    linked = evidence(found, rows)
    np.testing.assert_allclose(linked, told, rtol=2e-5, atol=1e-7)


def test_ordered_counts_when_sequences_are_bags_are_itemknn(dataset: CrossDomainDataset, rows: Rows) -> None:
    knn = fit(ItemKNN, dataset, tiny_with(neighbours=[0], shrinkage=[10.0]))
    bag = OrderedCounts.of(dataset.splits["train"], Kernel(10.0))
    np.testing.assert_allclose(
        bag.score(rows, everything(rows)), knn.score(rows, everything(rows)), rtol=1e-4, atol=1e-7
    )


def test_ordered_counts_when_data_are_order_free_try_the_bag_alone(dataset: CrossDomainDataset) -> None:
    def tried(protocol: str) -> dict[str, set[Any]]:
        params = load("smoke", TINY, protocol=protocol)
        grid = fit(OrderedCounts, dataset, params).chosen["grid"]
        return {name: {one[name] for one in grid} for name in grid[0] if name != "validation NDCG@10"}

    assert set(tried("strict")) == {"shrinkage", "popularity", "across"}
    ordered = tried("released")
    assert set(ordered) == {"shrinkage", "popularity", "proximity", "backward", "recency", "across"}
    assert all(len(one) >= 4 for one in ordered.values())


# --- selection, save and load -----------------------------------------------------------------------------------------


def searched(turns: list[list[Axis]], value_of: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    asked: list[dict[str, Any]] = []

    def counted(setting: dict[str, Any]) -> float:
        asked.append(dict(setting))
        return float(value_of(**setting))

    return search(turns, counted), asked


@pytest.mark.parametrize(
    ("axis", "peak", "chosen", "added", "at_edge"),
    [
        (Axis("a", (1.0, 10.0, 100.0)), 10, 10, [], []),
        (Axis("a", (1.0, 10.0, 100.0)), 900, 1000, [1000, 10_000], []),  # the last one shows that 1000 is no edge
        (Axis("a", (1.0, 10.0, 100.0)), 1e9, 1e5, [1000, 10_000, 100_000], ["a"]),  # three steps at most
        (Axis("a", (2.0, 10.0)), 0.01, 2 / 125, [0.4, 0.08, 0.016], ["a"]),
        (Axis("a", (0.0, 10.0)), 0, 0, [], []),  # 0 is a natural bound
        (Axis("a", (0.0, 10.0, 40.0)), 100, 160, [160, 640], []),  # by the last ratio
        (Axis("a", (0.0, 10.0)), 100, 10, [], []),  # one positive value has no ratio
        (Axis("a", (10.0,)), 1000, 10, [], []),  # nothing is to be chosen
        (Axis("a", (0.25, 0.5), (0, 1)), 5, 1, [1], []),  # no step past a bound
        (Axis("a", (0.3, 0.6), (0, 1)), 5, 1, [1], []),
        (Axis("a", (50, 200, 0), zero_is_all=True), 0, 0, [], []),
        (Axis("a", (50, 200, 0), zero_is_all=True), 200, 200, [], []),  # all stands above it
        (Axis("a", (50, 200, 0), zero_is_all=True), 1, 1, [12, 3, 1], []),
        (Axis("a", (50, 200), zero_is_all=True), 900, 800, [800, 3200], []),
    ],
)
def test_search_when_the_best_lies_at_an_edge_extends_the_grid(
    axis: Axis, peak: float, chosen: float, added: list[float], at_edge: list[str]
) -> None:
    def place(value: float) -> float:
        return np.log(1e12 if axis.zero_is_all and value == 0 else max(value, 1e-6))

    found, asked = searched([[axis]], lambda a: -abs(place(a) - place(peak)))
    assert found["a"] == pytest.approx(chosen) and found["extended"] == ({"a": pytest.approx(added)} if added else {})
    assert found["at_edge"] == at_edge
    assert [one["a"] for one in asked] == pytest.approx([*axis.values, *added])  # each asked once
    if axis.zero_is_all:
        assert all(isinstance(one["a"], int) for one in asked)


def test_search_when_a_turn_has_two_axes_tries_all_their_combinations() -> None:
    axes = [Axis("a", (1.0, 2.0, 4.0)), Axis("b", (1.0, 2.0, 4.0))]
    found, asked = searched([axes], lambda a, b: -abs(a * b - 8) - abs(a - 2 * b))
    assert (found["a"], found["b"], found["at_edge"]) == (4, 2, [])
    assert {(one["a"], one["b"]) for one in asked} == set(itertools.product((1, 2, 4, 8), (1, 2, 4)))
    assert found["extended"] == {"a": [8.0]} and len(asked) == 12


def test_search_when_it_goes_by_turns_comes_back_to_what_a_later_turn_changed() -> None:
    # alone, a = 1 is best while b is 2 (the middle); with b at its best a = 3 is
    turns = [[Axis("a", (0.0, 1.0, 3.0, 9.0))], [Axis("b", (0.0, 1.0, 2.0, 4.0, 8.0))]]
    found, asked = searched(turns, lambda a, b: -abs(a - (3 if b == 4 else 1)) - 3 * abs(b - 4))
    assert (found["a"], found["b"]) == (3, 4) and len(asked) == len({tuple(one.items()) for one in asked}) < 20


def test_extensions_when_grids_grew_are_told() -> None:
    chosen = {
        "ease": {"lambda": 9000.0, "extended": {"lambda": [9000.0, 27000.0]}, "at_edge": []},
        "itemknn": {"shrinkage": 800.0, "neighbours": 0, "extended": {"shrinkage": [800.0]}, "at_edge": ["shrinkage"]},
    }
    assert extensions(chosen) == [
        "EASE: the grid of lambda extended itself to 9000, 27000; 9000 was chosen",
        "ItemKNN: the grid of shrinkage extended itself to 800; 800 was chosen, at its edge still",
    ]


@pytest.mark.parametrize("kind", [ItemKNN, EASE])
def test_selection_when_several_settings_are_tried_keeps_the_best_on_validation(
    kind: Any, dataset: CrossDomainDataset, rows: Rows
) -> None:
    grid = {"neighbours": [0, 5], "shrinkage": [0.0, 10.0], "ease_lambda": [3.0, 30.0, 3000.0]}
    found = fit(kind, dataset, tiny_with(**grid))
    tried = found.chosen["grid"]
    added = found.chosen["extended"]
    if kind is EASE:
        assert len(tried) == 3 + len(added.get("lambda", []))
    else:
        assert len(tried) == (2 + len(added.get("neighbours", []))) * (2 + len(added.get("shrinkage", [])))
    validation = dataset.splits["validation"]
    negatives = evaluation.sample_negatives(validation, 49, 0)
    for setting in tried:
        names = {"neighbours": "neighbours", "shrinkage": "shrinkage", "lambda": "ease_lambda"}
        only = {names[key]: [value] for key, value in setting.items() if key in names}
        alone = fit(kind, dataset, tiny_with(**only))
        ranks = evaluation.rank(alone, validation, negatives, full=False, batch_size=64)
        metric = evaluation.selection_metric(ranks, validation)["ndcg@10"]
        assert setting["validation NDCG@10"] == pytest.approx(metric, rel=1e-6)
        if setting == {key: found.chosen[key] for key in setting}:
            np.testing.assert_array_equal(found.score(rows, everything(rows)), alone.score(rows, everything(rows)))
    assert found.chosen["validation NDCG@10"] == max(setting["validation NDCG@10"] for setting in tried)
    assert len({setting["validation NDCG@10"] for setting in tried}) > 1


def test_load_when_saved_before_is_the_same_to_the_bit(
    ranker: Any, dataset: CrossDomainDataset, rows: Rows, tmp_path: Path
) -> None:
    ranker.save(tmp_path)
    again = type(ranker).load(tmp_path)
    np.testing.assert_array_equal(again.score(rows, everything(rows)), ranker.score(rows, everything(rows)))
    if isinstance(ranker, FromHistories):
        assert again.chosen == ranker.chosen and ranker.chosen["grid"]


def test_load_when_ease_is_over_users_is_the_same_to_the_bit(
    dataset: CrossDomainDataset, rows: Rows, tmp_path: Path
) -> None:
    found = EASE(dataset.catalogue)
    few = dataset.splits["train"].take(np.arange(100))
    found.counts = popularity(few)
    _, learn = found.choices(few, tiny_with())
    found.chosen = learn({"lambda": 9.0})
    assert found.users is not None
    found.save(tmp_path)
    assert (tmp_path / "weights.safetensors").stat().st_size < 0.6 * found.inverse.nbytes + 20_000  # half is stored
    again = EASE.load(tmp_path)
    np.testing.assert_array_equal(again.inverse, found.inverse)
    np.testing.assert_array_equal(again.score(rows, everything(rows)), found.score(rows, everything(rows)))


def test_load_when_there_is_nothing_of_this_layout(
    dataset: CrossDomainDataset, tiny: Parameters, tmp_path: Path
) -> None:
    with pytest.raises(LayoutError, match="holds no saved model"):
        EASE.load(tmp_path)
    fit(ItemKNN, dataset, tiny).save(tmp_path)
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"layout": 4', '"layout": 7'))
    with pytest.raises(LayoutError, match="model layout 7, this version reads 4"):
        ItemKNN.load(tmp_path)


# --- the two ends of the dial -----------------------------------------------------------------------------------------


def hits_at_10(dial: float, users: int = 3000) -> dict[str, Array]:
    """HR@10 of every test row, by ranker; 99 negatives, so chance is 0.1."""
    parameters = load("smoke", {"synthetic.users": users, "synthetic.dial": dial})
    dataset = load_dataset(parameters)
    rows = dataset.splits["test"]
    negatives = evaluation.sample_negatives(rows, 99, 0)
    ceilings = (kind(dataset, popularity(dataset.splits["train"])) for kind in (Oracle, Informed))
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scorer in (*ceilings, *(fit(kind, dataset, parameters) for kind in KINDS)):
            ranks = evaluation.rank(scorer, rows, negatives, full=False, batch_size=512)
            found[scorer.name] = evaluation.hit_rate(
                ranks["greater_sampled"].to_numpy(), ranks["ties_sampled"].to_numpy(), 10
            )
    return found


def standard_error(values: Array) -> float:
    return float(values.std() / np.sqrt(len(values)))


def test_rankers_when_the_world_is_predictable_stand_between_popularity_and_the_oracle() -> None:
    hits = hits_at_10(2.0)
    assert hits["oracle"].mean() > 2 * hits["popularity"].mean()
    for name in ("informed", *(kind.name for kind in KINDS)):
        lead = hits[name] - hits["oracle"]  # paired by row
        assert lead.mean() < 3 * standard_error(lead), name
    for name in ("itemknn", "ease", "ordered_counts"):
        gain = hits[name] - hits["popularity"]
        assert gain.mean() > 4 * standard_error(gain), name


def test_informed_when_the_world_is_as_planted_stands_between_the_counts_and_the_oracle() -> None:
    hits = hits_at_10(1.0, users=6000)
    for below, above in (("itemknn", "informed"), ("ease", "informed"), ("informed", "oracle")):
        gain = hits[above] - hits[below]
        assert gain.mean() > 4 * standard_error(gain), (below, above)


def test_rankers_when_the_world_is_random_are_at_chance() -> None:
    for name, hits in hits_at_10(0.0).items():
        assert abs(hits.mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / len(hits)), name


def test_interactions_when_counted_are_what_the_dense_reference_holds(
    dataset: CrossDomainDataset, tiny: Parameters
) -> None:
    # the loop of this file and graphs.user_items agree, targets included
    found = fit(ItemKNN, dataset, tiny)
    train = dataset.splits["train"]
    np.testing.assert_array_equal(user_items(train, found.unified).toarray(), dense(dataset, found))
    assert sum(len(pairs[0]) for pairs in interactions(train).values()) >= dense(dataset, found).sum()
