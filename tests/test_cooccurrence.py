"""Co-occurrence with the asker left out, against a slow loop that counts everything anew without the asker."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, DataError, Rows, joined, origins, other
from i2vae_lib.data.subsampling import detach
from i2vae_lib.data.user_sequences import with_targets
from i2vae_lib.generators import cooccurrence, graphs, psg
from i2vae_lib.generators.cooccurrence import LeaveOneOutCounts, best_of, item_vectors, scores_of
from i2vae_lib.generators.graphs import Unified, cosine, user_items
from i2vae_lib.parameter_groups import PsgParameters
from i2vae_lib.params import Parameters, load


@pytest.fixture(scope="module")
def few(dataset: CrossDomainDataset) -> Rows:
    return dataset.splits["train"].take(np.arange(60))


def bag(shrinkage: float) -> PsgParameters:
    return load("smoke", {"psg.kind": "leave_one_out", "psg.shrinkage": shrinkage}).psg


def weighted(**changes: float) -> PsgParameters:
    given = {"shrinkage": 10.0, "proximity": 0.5, "backward": 0.25, "across": 0.3, "recency": 0.8} | changes
    return load("smoke", {"psg.kind": "leave_one_out"} | {f"psg.{key}": value for key, value in given.items()}).psg


Place = dict[int, dict[str, int]]


def places(train: Rows) -> dict[str, Place]:
    """user -> unified item -> domain -> step of its first appearance there."""
    unified = Unified(train.catalogue)
    found: dict[str, Place] = {}
    for user in dict.fromkeys(train.user):
        mine = np.flatnonzero(train.user == user)
        held = found.setdefault(user, {})
        for d in DOMAINS:
            longest = max((list(with_targets(train, d)[row]) for row in mine), key=len)
            for step, item in enumerate(longest):
                held.setdefault(int(unified.of[d][item]), {}).setdefault(d, step)
    return found


def slow_scores(train: Rows, asker: str, shown: dict[int, float], p: PsgParameters) -> dict[int, float]:
    """The sums of the module's docstring, user by user and pair by pair, over the users other than the asker."""
    others = [held for user, held in places(train).items() if user != asker]
    size = Unified(train.catalogue).size
    count = [sum(i in held for held in others) for i in range(size)]
    found: dict[int, float] = {}
    for j in range(size):
        for i, h in shown.items():
            total = 0.0
            for held in others:
                if i != j and i in held and j in held:
                    gaps = [held[j][d] - held[i][d] for d in DOMAINS if d in held[i] and d in held[j]]
                    near = [abs(gap) ** -p.proximity * (p.backward if gap < 0 else 1.0) for gap in gaps]
                    total += max(near, default=p.across)
            if total:
                found[j] = found.get(j, 0.0) + h * total / (math.sqrt(count[i] * count[j]) + p.shrinkage)
    return found


def every_score(counts: LeaveOneOutCounts, rows: Rows) -> Array:
    """Scores of all unified items."""
    found = np.zeros((len(rows), counts.unified.size))
    for d in DOMAINS:
        found[:, counts.unified.of[d][1:]] = counts.scores(rows, d)
    return found


def slow_shown(rows: Rows, row: int, p: PsgParameters) -> dict[int, float]:
    unified, found = Unified(rows.catalogue), {}
    for d in DOMAINS:
        history = rows.history[d][row]
        for back, item in enumerate(history[::-1]):
            number = int(unified.of[d][item])
            found[number] = max(found.get(number, 0.0), p.recency**back)
    return found


@pytest.mark.parametrize("p", [bag(0.0), bag(10.0), weighted(), weighted(backward=0.0, proximity=0.0)])
def test_scores_when_compared_with_a_slow_loop(few: Rows, p: PsgParameters) -> None:
    """Training users, whose own counts must go, and strangers with the same histories, who have none."""
    counts = LeaveOneOutCounts.fit(few, p)
    known = few.take(np.arange(12))
    strangers = replace(known, user=np.array([f"stranger {i}" for i in range(12)], dtype=object))
    for rows in (known, strangers):
        found = every_score(counts, rows)
        for row in range(len(rows)):
            expected = np.zeros(counts.unified.size)
            for item, score in slow_scores(few, rows.user[row], slow_shown(rows, row, p), p).items():
                expected[item] = score
            np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-7)
    differ = np.abs(every_score(counts, known) - every_score(counts, strangers)).sum()
    assert differ > 0.1  # leaving the asker out does something


def swapped(rows: Rows) -> Rows:
    """X and Y change places."""
    one = rows.catalogue
    mirror = {d: other(d) for d in DOMAINS}
    catalogue = Catalogue(
        {d: one.names[mirror[d]] for d in DOMAINS},
        {d: one.ids[mirror[d]] for d in DOMAINS},
        one.links[:, ::-1].copy(),
        {d: one.titles[mirror[d]] for d in DOMAINS},
    )
    history = {d: rows.history[mirror[d]] for d in DOMAINS}
    return replace(rows, catalogue=catalogue, history=history, domain=1 - rows.domain)


def test_recall_when_domains_are_swapped(dataset: CrossDomainDataset) -> None:
    """Linked items stand in both domains; neither of them counts for more."""
    train = dataset.splits["train"]
    assert len(train.catalogue.links)
    p = weighted()
    scores = []
    for rows in (train, swapped(train)):
        counts = LeaveOneOutCounts.fit(rows, p)
        found = every_score(counts, rows)
        scores.append({d: found[:, counts.unified.of[d][1:]] for d in DOMAINS})
    for d in DOMAINS:
        np.testing.assert_allclose(scores[0][d], scores[1][other(d)], rtol=1e-6, atol=1e-9)


def test_scores_when_a_user_was_detached(few: Rows) -> None:
    """The halves are left out together, as one person, and no pair across them counts."""
    p = weighted()
    both = (few.lengths("own") > 0) & (few.lengths("other") > 0)
    apart = detach(few, both)
    assert len(set(apart.user)) > len(set(few.user))
    counts = LeaveOneOutCounts.fit(apart, p)
    for row in range(0, len(apart), 7):
        mine = origins(apart) == origins(apart)[row]
        if mine.all():
            continue
        without = LeaveOneOutCounts.fit(apart.take(np.flatnonzero(~mine)), p)
        one = apart.take(np.array([row]))
        expected = every_score(without, replace(one, user=np.array(["nobody"], dtype=object)))
        np.testing.assert_allclose(every_score(counts, one), expected, rtol=1e-5, atol=1e-7)
    bag_of_pairs = LeaveOneOutCounts.fit(apart, weighted(across=1.0)).together
    unlinked = LeaveOneOutCounts.fit(apart, weighted(across=0.0)).together
    assert np.abs(bag_of_pairs - unlinked).max() == 0  # every overlapping user was detached


def test_pairs_when_counted_in_small_parts(few: Rows) -> None:
    graph = user_items(few, Unified(few.catalogue))
    [whole] = cooccurrence._pairs_by_part(graph)
    parts = list(cooccurrence._pairs_by_part(graph, largest=50))
    assert len(parts) > 5
    for one, another in zip(whole, zip(*parts), strict=True):
        np.testing.assert_array_equal(one, np.concatenate(another))
    lengths = np.diff(graph.indptr)
    assert len(whole[0]) == (lengths * (lengths - 1)).sum()


def test_scores_when_a_target_is_only_the_askers_own(few: Rows) -> None:
    """An item that nobody else took has no score for its only taker, whatever the table says."""
    counts = LeaveOneOutCounts.fit(few, bag(1.0))
    at = np.arange(len(few))
    target = np.array([counts.unified.of[DOMAINS[few.domain[i]]][few.target[i]] for i in at])
    alone = counts.taken[target] == 1
    assert alone.sum() > 3
    own = every_score(counts, few)[at, target]
    plain = np.asarray((counts.unified.histories(few) @ cosine(counts.graph, 1.0))[at, target]).ravel()
    assert (own[alone] == 0).all() and (plain[alone] > 0).any()


def test_scores_when_users_are_unknown_equal_itemknn(few: Rows, dataset: CrossDomainDataset) -> None:
    counts, rows = LeaveOneOutCounts.fit(few, bag(10.0)), dataset.splits["validation"]
    assert not set(rows.user) & set(few.user)
    expected = counts.unified.histories(rows) @ cosine(counts.graph, 10.0)
    np.testing.assert_allclose(every_score(counts, rows), expected.toarray(), rtol=1e-5, atol=1e-7)


def test_restore_when_saved(few: Rows) -> None:
    counts = LeaveOneOutCounts.fit(few, bag(10.0))
    again = LeaveOneOutCounts.restore(few.catalogue, counts.arrays(), bag(10.0))
    np.testing.assert_array_equal(every_score(again, few), every_score(counts, few))


def test_arrays_when_an_id_has_two_lines(few: Rows) -> None:
    """Users stand a line each in what is saved."""
    broken = replace(few, user=np.array([f"{user}\nx" for user in few.user], dtype=object))
    with pytest.raises(DataError, match="holds a line break"):
        LeaveOneOutCounts.fit(broken, bag(10.0)).arrays()


def test_item_vectors_when_all_dimensions_are_kept(few: Rows) -> None:
    """Dot products are the table's positive part, up to the common scale; the mean squared norm is 1."""
    size = Unified(few.catalogue).size
    graph = user_items(few, Unified(few.catalogue))
    table = cosine(graph, 10.0).toarray().astype(np.float64)
    values, vectors = np.linalg.eigh(table)
    positive = (vectors * np.maximum(values, 0)) @ vectors.T
    found = item_vectors(few, size - 1, 10.0)
    product = found @ found.T
    scale = np.trace(product) / np.trace(positive)
    np.testing.assert_allclose(product, scale * positive, atol=1e-3)
    assert np.square(found).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-5)
    alone = np.asarray(np.abs(table).sum(axis=1) == 0)
    assert alone.any() and np.abs(found[alone]).max() < 1e-5


def test_recall_when_every_user_is_a_fold(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    """Best first, nothing of the histories, the scores of the counts, the same after a round trip."""
    train = dataset.splits["train"]
    p = tiny.psg.model_copy(update={"kind": "leave_one_out", "recalled": 9})
    generator = psg.fit(train, p)
    items, scores = generator.recall(train, psg.fold_of(train, p))
    assert items.shape == scores.shape == (len(train), 9) and items.dtype == np.int32
    assert (np.diff(scores, axis=1) <= 0).all() and ((items == 0) == (scores == 0)).all()
    every = every_score(generator.counts, train)
    for row in range(0, len(train), 29):
        d = DOMAINS[train.domain[row]]
        kept = items[row][items[row] > 0]
        assert not set(kept) & set(train.history[d][row])
        numbers = generator.counts.unified.of[d][kept]
        np.testing.assert_array_equal(scores[row][: len(kept)], every[row][numbers])
    again = psg.GENERATORS["leave_one_out"].restore(p, train.catalogue, generator.arrays())
    np.testing.assert_array_equal(again.recall(train, psg.fold_of(train, p))[0], items)


def slow_together(graph: np.ndarray, partners: int) -> tuple[np.ndarray, np.ndarray]:
    both = graph.T @ graph
    np.fill_diagonal(both, 0)
    least = np.ones(len(both))
    for line, counts in enumerate(both):
        while (counts >= least[line]).sum() > partners:
            least[line] += 1
        both[line, counts < least[line]] = 0
    return both, least


@pytest.mark.parametrize("partners", [1, 5, 1000])
def test_together_when_compared_with_a_slow_loop(partners: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "PARTNERS", partners)
    graph = np.random.default_rng(0).random((60, 40)) < np.linspace(0.02, 0.6, 40)
    matrix = sparse.csr_matrix(graph.astype(np.float32))
    for largest in (10**9, 500, 1):  # everything is kept; several parts; a part a line
        monkeypatch.setattr(graphs, "LARGEST", largest)
        found, least = graphs.together(matrix)
        expected, lowest = slow_together(graph.astype(np.int64), 1000 if largest == 10**9 else partners)
        np.testing.assert_array_equal(found.toarray(), expected)
        np.testing.assert_array_equal(least, lowest)


@pytest.mark.parametrize("p", [bag(10.0), weighted()])
def test_scores_when_a_large_log_is_cut(few: Rows, p: PsgParameters, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row's own user does not help a pair to stay: it stays if the others alone are as many as it takes."""
    everything = LeaveOneOutCounts.fit(few, p)
    graph = everything.graph.toarray().astype(np.int64)
    least = slow_together(graph, 4)[1]
    monkeypatch.setattr(graphs, "LARGEST", 1)
    monkeypatch.setattr(graphs, "PARTNERS", 4)
    counts = LeaveOneOutCounts.fit(few, p)
    assert counts.together.nnz < everything.together.nnz
    names = {user: line for line, user in enumerate(everything.users)}
    known = few.take(np.arange(12))
    strangers = replace(known, user=np.array([f"stranger {i}" for i in range(12)], dtype=object))
    for rows in (known, strangers):
        found = every_score(counts, rows)
        for row in range(len(rows)):
            others = np.delete(graph, names.get(rows.user[row], len(graph)), axis=0) if rows is known else graph
            both, expected = others.T @ others, np.zeros(counts.unified.size)
            for item, h in slow_shown(rows, row, p).items():
                for candidate, score in slow_scores(few, rows.user[row], {item: h}, p).items():
                    expected[candidate] += score * (both[item, candidate] >= least[item])
            np.testing.assert_allclose(found[row], expected, atol=1e-6)


@pytest.mark.parametrize("p", [bag(10.0), weighted(backward=0.0)])
def test_best_of_when_scores_are_sparse(few: Rows, p: PsgParameters, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same to the bit, whichever way the scores are held."""
    tables = LeaveOneOutCounts.fit(few, p).reweighted(p, bag(1.0))
    known = few.take(np.arange(12))
    strangers = replace(known, user=np.array([f"stranger {i}" for i in range(12)], dtype=object))
    empty = replace(known, history={d: one.keep(np.zeros(len(one.values), bool)) for d, one in known.history.items()})
    for rows in (known, strangers, joined([known, strangers]), empty):
        unified = tables[0].unified
        histories = unified.histories(rows)
        for d in DOMAINS:
            found = []
            for narrow in (4096, 0):
                monkeypatch.setattr(cooccurrence, "_NARROW", narrow)
                found.append(best_of(scores_of(tables, rows, d), rows.history[d], histories, unified.column[d], 30))
            (dense_items, dense_scores), (items, scores) = found
            width = items.shape[1]
            np.testing.assert_array_equal(items, dense_items[:, :width])
            np.testing.assert_array_equal(scores, dense_scores[:, :width])
            assert not dense_items[:, width:].any()


def test_item_vectors_when_a_large_log_is_cut(few: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their table stays symmetric, as eigenvectors need, and the audit finds them to be those of the rows."""
    monkeypatch.setattr(graphs, "LARGEST", 1)
    monkeypatch.setattr(graphs, "PARTNERS", 4)
    table = cooccurrence._cosines(few, 10.0).toarray()
    assert table.any() and (table == table.T).all()
    vectors = item_vectors(few, 8, 10.0)
    assert not cooccurrence.differing_start(few, vectors, 10.0).any()
    vectors[3] += 1.0
    assert cooccurrence.differing_start(few, vectors, 10.0)[3]
