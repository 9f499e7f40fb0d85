"""Candidates, ranks and metrics against a second implementation, slow loops and enumeration."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import ir_measures
import numpy as np
import pandas as pd
import pytest

from i2vae_lib import evaluation
from i2vae_lib.data import DOMAINS, Catalogue, DataError, Ragged, protocols, splitting, synthetic
from i2vae_lib.data.kinds import KINDS
from i2vae_lib.data.rows import hashed, mixed
from i2vae_lib.data.splitting import raw_rows
from i2vae_lib.evaluation import (
    METRICS,
    NonFiniteScore,
    metrics,
    ndcg,
    rank,
    rank_table,
    sample_negatives,
    seen_targets,
    selection_metric,
    tidy,
)

CUTOFFS = (5, 10, 20)
GAINS = {  # of a target at a rank, counted from 1
    "HR": lambda at, k: float(at <= k),
    "NDCG": lambda at, k: 1 / math.log2(at + 1) if at <= k else 0.0,
    "MRR": lambda at, k: 1 / at if at <= k else 0.0,
}


class TableScorer:
    """Scores looked up by source row and item number."""

    name = "table"

    def __init__(self, table):
        self.table = table

    def score(self, rows, candidates):
        return self.table[rows.source[:, None], candidates]


class TargetScorer:
    """The target gets one score, everything else another."""

    name = "target"

    def __init__(self, target: float, rest: float):
        self.target, self.rest = target, rest

    def score(self, rows, candidates):
        return np.where(candidates == rows.target[:, None], self.target, self.rest)


def plain_rows(users: int, items: int, history: int = 0):
    """Rows of both domains by turns, over a catalogue without links; the target is item 1 + history."""
    ids = {d: np.array([f"{d}{i}" for i in range(items)], dtype=object) for d in DOMAINS}
    catalogue = Catalogue({"x": "X", "y": "Y"}, ids, np.zeros((0, 2), np.int32), {d: None for d in DOMAINS})
    full = {d: Ragged.from_lists([list(range(1, history + 2))] * users) for d in DOMAINS}
    names = np.array([f"u{i}" for i in range(users)], dtype=object)
    return raw_rows(catalogue, names, np.arange(users) % 2, full, np.arange(users))


@pytest.fixture(scope="module")
def rows(dataset):
    """The tiny world's test rows, numbered from 0 for the table scorers."""
    found = dataset.splits["test"]
    return replace(found, source=np.arange(len(found)))


@pytest.fixture(scope="module")
def negatives(rows):
    return sample_negatives(rows, 49, 0)


@pytest.fixture(scope="module")
def untied(rows):
    """A random order of all items for every row, the target moved up so that many a row is a hit."""
    rng = np.random.default_rng(1)
    scores = np.stack([rng.permutation(121) for _ in range(len(rows))]).astype(np.float32)
    scores[np.arange(len(rows)), rows.target] += 60.5
    return scores


@pytest.fixture(scope="module")
def tied(rows):
    """Integer scores: the target is tied with another of 49 candidates in about 30 % of the rows."""
    return np.random.default_rng(2).integers(0, 137, (len(rows), 121)).astype(np.float32)


@pytest.fixture(scope="module")
def table(rows, negatives, tied, dataset):
    ranks = rank(TableScorer(tied), rows, negatives, full=True, batch_size=50)
    return rank_table("table", rows, dataset.tail["test"], seen_targets(rows, dataset.splits["train"]), ranks)


def candidates_of(rows, negatives, row: int, full: bool) -> list[int]:
    """All candidates of a row but the target."""
    if not full:
        return negatives[row].tolist()
    d = DOMAINS[rows.domain[row]]
    barred = {*rows.excluded[row].tolist(), int(rows.target[row])}
    return [item for item in range(1, rows.catalogue.size(d) + 1) if item not in barred]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("domain", DOMAINS)
def test_metrics_when_nothing_is_tied_equal_ir_measures(rows, negatives, untied, dataset, domain, full):
    ranks = rank(TableScorer(untied), rows, negatives, full=True, batch_size=64)
    cell = metrics(rank_table("table", rows, dataset.tail["test"], seen_targets(rows, dataset.splits["train"]), ranks))[
        "table"
    ][domain]["all"]
    judged, run = [], []
    for row in rows.of(domain):
        target = int(rows.target[row])
        judged.append(ir_measures.Qrel(str(row), str(target), 1))
        for item in [target, *candidates_of(rows, negatives, row, full)]:
            run.append(ir_measures.ScoredDoc(str(row), str(item), float(untied[row, item])))
    measures = {
        f"{name}@{k}": measure @ k
        for name, measure in (("HR", ir_measures.Success), ("NDCG", ir_measures.nDCG), ("MRR", ir_measures.RR))
        for k in CUTOFFS
    }
    found = ir_measures.calc_aggregate(list(measures.values()), judged, run)
    ours = cell["full" if full else "sampled"]
    assert set(ours) == set(measures)
    for name, measure in measures.items():
        assert ours[name] == pytest.approx(found[measure], abs=1e-9)
        assert 0 < ours[name] < 1


def test_metrics_when_scores_are_tied_are_the_mean_over_all_orders(rows, negatives, tied):
    ranks = rank(TableScorer(tied), rows, negatives, full=False, batch_size=64)
    with_ties = 0
    for row in range(len(rows)):
        aim = tied[row, rows.target[row]]
        scores = tied[row, negatives[row]]
        above, equal = int((scores > aim).sum()), [f"n{i}" for i in range(int((scores == aim).sum()))]
        with_ties += bool(equal)
        orders = list(itertools.permutations(["target", *equal]))
        at = [above + 1 + order.index("target") for order in orders]
        for (name, metric), k in itertools.product(METRICS.items(), CUTOFFS):
            expected = sum(GAINS[name](one, k) for one in at) / len(at)
            found = metric(ranks["greater_sampled"][row : row + 1], ranks["ties_sampled"][row : row + 1], k)
            assert float(np.asarray(found)[0]) == pytest.approx(expected, abs=1e-12)
    assert 0.2 < with_ties / len(rows) < 0.45


@pytest.mark.parametrize("full", [False, True])
def test_ranks_when_counted_in_a_slow_loop_are_the_same(rows, negatives, tied, full):
    ranks = rank(TableScorer(tied), rows, negatives, full=full, batch_size=37)
    which = "full" if full else "sampled"
    for row in range(len(rows)):
        aim = tied[row, rows.target[row]]
        scores = [tied[row, item] for item in candidates_of(rows, negatives, row, full)]
        assert ranks[f"greater_{which}"][row] == sum(score > aim for score in scores)
        assert ranks[f"ties_{which}"][row] == sum(score == aim for score in scores)


def test_full_ranking_when_an_item_of_the_own_history_scores_highest_leaves_it_out():
    rows = plain_rows(4, 30, history=3)
    table = np.zeros((4, 31))
    table[:, 1:4], table[:, 4], table[:, 20] = 9.0, 1.0, 2.0  # history, target, one better item
    ranks = rank(TableScorer(table), rows, None, full=True, batch_size=4)
    assert ranks["greater_full"].tolist() == [1] * 4
    assert ranks["ties_full"].tolist() == [0] * 4
    assert ranks["candidates_full"].tolist() == [30 - 3 - 1] * 4
    assert (ranks[["greater_sampled", "ties_sampled", "candidates_sampled"]] == -1).all(axis=None)


@pytest.mark.parametrize("batch_size", [1, 7, 4096])
@pytest.mark.parametrize("full", [False, True])
def test_ranks_when_the_batch_size_changes_stay_the_same(rows, negatives, tied, batch_size, full):
    one = rank(TableScorer(tied), rows, negatives, full=full, batch_size=50)
    other = rank(TableScorer(tied), rows, negatives, full=full, batch_size=batch_size)
    pd.testing.assert_frame_equal(one, other)


def test_sampled_ranks_when_full_ones_are_asked_for_too_are_the_same(rows, negatives, tied):
    one = rank(TableScorer(tied), rows, negatives, full=False, batch_size=50)
    other = rank(TableScorer(tied), rows, negatives, full=True, batch_size=50)
    columns = ["greater_sampled", "ties_sampled", "candidates_sampled"]
    pd.testing.assert_frame_equal(one[columns], other[columns])
    assert (one[["greater_full", "ties_full", "candidates_full"]] == -1).all(axis=None)


def test_ranks_when_candidates_are_stored_in_another_order_stay_the_same(rows, negatives, tied):
    turned = negatives[:, ::-1].copy()
    one, other = (rank(TableScorer(tied), rows, n, full=False, batch_size=50) for n in (negatives, turned))
    pd.testing.assert_frame_equal(one, other)


def test_metrics_when_the_scorer_is_constant_are_chance_exactly():
    rows = plain_rows(20, 1100, history=2)
    ranks = rank(TargetScorer(0.5, 0.5), rows, sample_negatives(rows, 999, 0), full=True, batch_size=8)
    greater, ties = ranks["greater_sampled"].to_numpy(), ranks["ties_sampled"].to_numpy()
    assert (METRICS["HR"](greater, ties, 10) == 0.01).all()
    assert ndcg(greater, ties, 10)[0] == pytest.approx(
        sum(1 / math.log2(r + 1) for r in range(1, 11)) / 1000, abs=1e-15
    )
    assert METRICS["MRR"](greater, ties, 10)[0] == pytest.approx(sum(1 / r for r in range(1, 11)) / 1000, abs=1e-15)
    assert ranks["ties_full"].tolist() == [1100 - 2 - 1] * 20


@pytest.mark.parametrize(("target", "expected"), [(1.0, 1.0), (-1.0, 0.0)])
def test_metrics_when_the_scorer_is_perfect_or_reversed_are_1_or_0(rows, negatives, dataset, target, expected):
    ranks = rank(TargetScorer(target, 0.0), rows, negatives, full=True, batch_size=50)
    found = tidy(
        metrics(rank_table("target", rows, dataset.tail["test"], seen_targets(rows, dataset.splits["train"]), ranks))
    )
    assert len(found) == 2 * len(KINDS) * 2 * 9
    assert (found["value"] == expected).all()


def test_metrics_when_the_scorer_is_random_are_chance_within_the_binomial_error():
    rows = plain_rows(6000, 130)
    scorer = TableScorer(np.random.default_rng(3).random((6000, 131)))
    ranks = rank(scorer, rows, sample_negatives(rows, 99, 0), full=True, batch_size=512)
    for which, candidates in (("sampled", 100), ("full", 130)):
        share = 10 / candidates
        found = METRICS["HR"](ranks[f"greater_{which}"], ranks[f"ties_{which}"], 10).mean()
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / 6000)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("full", [False, True])
def test_rank_when_a_score_is_not_finite_names_scorer_and_user(rows, negatives, untied, bad, full):
    scores = untied.copy()
    scores[17] = bad
    with pytest.raises(NonFiniteScore, match=rf"^table gave .*source row 17 \(user {rows.user[17]}, domain"):
        rank(TableScorer(scores), rows, negatives, full=full, batch_size=8)


def test_negatives_when_drawn_are_as_many_as_asked_and_never_the_target_or_history(rows, negatives):
    assert negatives.shape == (len(rows), 49) and negatives.dtype == np.int32
    for row in range(len(rows)):
        d = DOMAINS[rows.domain[row]]
        drawn = set(negatives[row].tolist())
        assert len(drawn) == 49 and min(drawn) >= 1 and max(drawn) <= 120
        assert not drawn & {int(rows.target[row]), *rows.excluded[row].tolist(), *rows.history[d][row].tolist()}


def test_negatives_when_the_row_order_or_the_other_rows_change_stay_the_same(rows, negatives):
    order = np.random.default_rng(4).permutation(len(rows))[:60]
    np.testing.assert_array_equal(sample_negatives(rows.take(order), 49, 0), negatives[order])


def test_negatives_when_more_are_asked_than_there_are_take_no_room(rows):
    most, wide = sample_negatives(rows, 10**9, 0), max(rows.catalogue.size(d) for d in DOMAINS)
    assert most.shape == (len(rows), wide)
    np.testing.assert_array_equal(most, sample_negatives(rows, wide, 0))


def test_negatives_when_data_seed_changes_are_others(rows, negatives):
    other = sample_negatives(rows, 49, 1)
    assert all(set(one) != set(two) for one, two in zip(negatives.tolist(), other.tolist(), strict=True))


def test_negatives_when_the_target_changes_are_others(rows, negatives):
    i = int(rows.of("x")[0])
    other = replace(rows, target=np.where(np.arange(len(rows)) == i, negatives[i, 0], rows.target))
    drawn = sample_negatives(other, 49, 0)
    np.testing.assert_array_equal(np.delete(drawn, i, axis=0), np.delete(negatives, i, axis=0))
    assert len(set(drawn[i].tolist()) & set(negatives[i].tolist())) < 40  # not the same draw less one item


def test_negatives_when_the_protocol_changes_stay_the_same(tiny):
    """Rows whose target stands in their own history: released keeps it there, strict scrubs it."""
    raw = synthetic.generate(tiny.synthetic).test
    own = raw.excluded
    repeated = Ragged.from_lists([[*own[i], raw.target[i]] for i in range(len(raw))])
    history = {
        d: Ragged.from_lists([(repeated if raw.domain[i] == j else raw.history[d])[i] for i in range(len(raw))])
        for j, d in enumerate(DOMAINS)
    }
    released = replace(raw, history=history, excluded=repeated)
    strict, count = splitting.scrub(released)
    assert count == len(raw)
    np.testing.assert_array_equal(sample_negatives(released, 49, 0), sample_negatives(strict, 49, 0))


def test_negatives_when_a_row_was_made_cold_stay_the_same(tiny):
    raw = synthetic.generate(tiny.synthetic)
    before, after = (
        protocols.strict(raw, tiny.split.model_copy(update={"cold_share": share})).splits["validation"]
        for share in (0.0, 0.9)
    )
    drawn = {(before.user[i], before.domain[i]): one for i, one in enumerate(sample_negatives(before, 49, 0).tolist())}
    cold = np.flatnonzero(after.kinds()["cold"])
    assert len(cold) > 5 and after.excluded.lengths[cold].min() > 0
    for i, one in zip(cold, sample_negatives(after.take(cold), 49, 0).tolist(), strict=True):
        assert one == drawn[after.user[i], after.domain[i]]


# 60 items left: by streams up to 30, by keys above; 20 and 45 are as far from both ends
@pytest.mark.parametrize("count", [1, 20, 30, 31, 45, 59])
def test_negatives_when_drawn_for_many_users_are_uniform(count):
    rows = plain_rows(6000, 61)  # item 1 is everybody's target
    drawn = sample_negatives(rows, count, 0)
    counts = np.bincount(drawn.ravel(), minlength=62)
    assert counts[:2].tolist() == [0, 0]
    share = count / 60
    deviation = (counts[2:] - 6000 * share) / math.sqrt(6000 * share * (1 - share))
    assert np.abs(deviation).max() < 4
    # the sum of the counts is fixed, so that 59 of 60 are free
    assert abs((deviation**2).sum() * 59 / 60 - 59) < 4 * math.sqrt(2 * 59)


@pytest.mark.parametrize("count", [2, 6])
def test_negatives_when_drawn_for_many_users_are_each_set_equally_often(count):
    rows = plain_rows(30_000, 9)  # 8 items left: 28 pairs, drawn by streams, and 28 complements of pairs, by keys
    sets, counts = np.unique(sample_negatives(rows, count, 0), axis=0, return_counts=True)
    assert len(sets) == 28
    deviation = (counts - 30_000 / 28) / math.sqrt(30_000 / 28)
    assert np.abs(deviation).max() < 4
    assert abs((deviation**2).sum() - 27) < 4 * math.sqrt(2 * 27)


@pytest.mark.parametrize("count", [30, 200])  # by streams, by keys
def test_negatives_when_rows_are_drawn_alone_or_in_company_are_the_same(count):
    rng = np.random.default_rng(5)
    lists = [(rng.permutation(300)[: rng.integers(1, 120)] + 1).tolist() for _ in range(80)]
    rows = replace(plain_rows(80, 300), excluded=Ragged.from_lists(lists))
    drawn = sample_negatives(rows, count, 3)
    for row in range(80):
        alone = sample_negatives(rows.take(np.array([row])), count, 3)
        np.testing.assert_array_equal(alone[0], drawn[row])
        kept = drawn[row][drawn[row] > 0].tolist()
        assert kept == sorted(set(kept)) and len(kept) == min(count, 300 - len({*lists[row], 1}))
        assert not set(kept) & {*lists[row], 1}


def test_negatives_when_the_stream_is_read_in_pieces_are_the_first_new_ones(monkeypatch):
    """Against a slow loop over the stream; one row's history makes the first reading too short for it."""
    rows = plain_rows(40, 200)
    rows = replace(rows, excluded=Ragged.from_lists([list(range(1, 1 + 3 * i)) for i in range(40)]))
    drawn = sample_negatives(rows, 40, 0)
    monkeypatch.setattr(evaluation, "DRAWN_AT_ONCE", 100)
    np.testing.assert_array_equal(sample_negatives(rows, 40, 0), drawn)
    who = [f"{u}|{d}|{rows.catalogue.ids[DOMAINS[d]][t - 1]}" for u, d, t in zip(rows.user, rows.domain, rows.target)]
    keys = hashed(who, "candidates", rows.catalogue.digest(), 0)
    for row in range(40):
        found, place, barred = [], 0, {*rows.excluded[row].tolist(), int(rows.target[row])}
        while len(found) < 40:
            fraction = int(mixed(keys[row : row + 1], np.array([place], dtype=np.uint64))[0])
            item, place = 1 + fraction * 200 // 2**64, place + 1
            if item not in barred and item not in found:
                found.append(item)
        assert sorted(found) == drawn[row].tolist()


def test_negatives_when_two_users_ask_for_the_same_item_are_others():
    drawn = sample_negatives(plain_rows(200, 61), 20, 0)
    common = np.array([len(set(drawn[i]) & set(drawn[i + 1])) for i in range(199)])
    # hypergeometric: 20 of 60, 20 drawn
    assert common.mean() == pytest.approx(20 * 20 / 60, abs=4 * math.sqrt(20 / 3 * (2 / 3) * (40 / 59) / 199))


def test_negatives_when_all_that_is_left_is_asked_for_are_all_of_it():
    rows = plain_rows(4, 30, history=3)
    assert sample_negatives(rows, 26, 0).tolist() == [list(range(5, 31))] * 4


def test_negatives_when_more_are_asked_for_than_are_left_are_all_of_them_then_0():
    rows = plain_rows(4, 30, history=3)
    rows = replace(rows, excluded=Ragged.from_lists([[1, 2, 3], [1, 2, 3], list(range(1, 29)), []]))
    drawn = sample_negatives(rows, 27, 0)
    left = [[*range(5, 31)], [*range(5, 31)], [29, 30]]
    assert drawn[:3].tolist() == [one + [0] * (27 - len(one)) for one in left]
    assert len(set(drawn[3].tolist())) == 27 and 4 not in drawn[3] and drawn[3].min() > 0


def test_negatives_when_nothing_is_left_name_the_row():
    rows = plain_rows(4, 30, history=3)
    rows = replace(rows, excluded=Ragged.from_lists([[1], [2], [one for one in range(1, 31) if one != 4], [1]]))
    with pytest.raises(DataError, match=r"^row 2 \(user u2\).*all 30 items of domain x \(X\)"):
        sample_negatives(rows, 3, 0)


@pytest.mark.parametrize("full", [False, True])
def test_ranks_when_rows_have_fewer_candidates_than_asked_for_have_closed_forms(full):
    rows = plain_rows(6, 30, history=3)
    barred = [[1, 2, 3], [1], list(range(1, 25)), [1, 2, 3], [1, 2], list(range(1, 30))]
    rows = replace(rows, excluded=Ragged.from_lists(barred))
    left = [30 - len({*one, 4}) for one in barred]
    negatives = sample_negatives(rows, 27, 0)
    asked = [min(27, one) for one in left]
    for scorer, greater, ties in (
        (TargetScorer(0.5, 0.5), [0] * 6, asked),
        (TargetScorer(1.0, 0.0), [0] * 6, [0] * 6),
        (TargetScorer(0.0, 1.0), asked, [0] * 6),
    ):
        found = rank(scorer, rows, negatives, full=full, batch_size=4)
        assert found["greater_sampled"].tolist() == greater and found["ties_sampled"].tolist() == ties
        assert found["candidates_sampled"].tolist() == asked
        assert found["candidates_full"].tolist() == (left if full else [-1] * 6)
    constant = rank(TargetScorer(0.5, 0.5), rows, negatives, full=full, batch_size=4)
    chance = METRICS["HR"](constant["greater_sampled"].to_numpy(), constant["ties_sampled"].to_numpy(), 10)
    assert chance.tolist() == [min(1.0, 10 / (one + 1)) for one in asked]


def test_ranks_when_all_items_are_left_are_the_same_sampled_and_full(rows, tied):
    ranks = rank(TableScorer(tied), rows, sample_negatives(rows, 999, 0), full=True, batch_size=50)
    for what in ("greater", "ties", "candidates"):
        assert ranks[f"{what}_sampled"].tolist() == ranks[f"{what}_full"].tolist()


def test_full_ranking_of_a_cold_row_when_its_hidden_history_scores_highest_leaves_it_out():
    rows = plain_rows(4, 30, history=3)
    cold = replace(rows, history={d: Ragged.from_lists([[]] * 4) for d in DOMAINS})
    table = np.zeros((4, 31))
    table[:, 1:4], table[:, 4], table[:, 20] = 9.0, 1.0, 2.0  # hidden history, target, one better item
    ranks = rank(TableScorer(table), cold, None, full=True, batch_size=4)
    assert ranks["greater_full"].tolist() == [1] * 4
    assert ranks["candidates_full"].tolist() == [26] * 4


def test_metrics_when_computed_have_the_layout_of_metrics_json(table):
    found = metrics(table)
    assert set(found) == {"table"} and set(found["table"]) == {"x", "y"}
    names = {f"{name}@{k}" for name in ("HR", "NDCG", "MRR") for k in CUTOFFS}
    for d in DOMAINS:
        assert {"all", "tailed", "cold", "no_history", "overlapping"} <= set(found["table"][d])
        for cell in found["table"][d].values():
            assert set(cell) == {"n", "sampled", "full"}
            assert set(cell["sampled"]) == set(cell["full"]) == names
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_metrics_when_a_kind_has_no_rows_are_none(table):
    found = metrics(table[~table["cold"]])["table"]["x"]["cold"]
    assert found["n"] == 0
    assert set(found["sampled"].values()) == set(found["full"].values()) == {None}


def test_metrics_when_full_ranking_was_not_asked_for_are_none(rows, negatives, tied, dataset):
    ranks = rank(TableScorer(tied), rows, negatives, full=False, batch_size=50)
    cell = metrics(rank_table("table", rows, dataset.tail["test"], seen_targets(rows, dataset.splits["train"]), ranks))[
        "table"
    ]["x"]["all"]
    assert set(cell["full"].values()) == {None}
    assert None not in cell["sampled"].values()


def test_metrics_when_recomputed_from_the_stored_table_are_the_same(table, tmp_path):
    table.to_parquet(tmp_path / "ranks.parquet", index=False)
    assert metrics(pd.read_parquet(tmp_path / "ranks.parquet")) == metrics(table)


def test_metrics_when_recomputed_row_by_row_are_the_same(table, rows, dataset):
    kinds = rows.kinds(dataset.tail["test"]) | {"seen": seen_targets(rows, dataset.splits["train"])}
    found = metrics(table)["table"]
    for kind, (i, d) in itertools.product(KINDS, enumerate(DOMAINS)):
        chosen = [row for row in range(len(rows)) if kinds[kind][row] and rows.domain[row] == i]
        assert found[d][kind]["n"] == len(chosen) > 0
        for which, (name, gain), k in itertools.product(("sampled", "full"), GAINS.items(), CUTOFFS):
            total = 0.0
            for row in chosen:
                greater, ties = (int(table[f"{one}_{which}"][row]) for one in ("greater", "ties"))
                total += sum(gain(at, k) for at in range(greater + 1, greater + ties + 2)) / (ties + 1)
            assert found[d][kind][which][f"{name}@{k}"] == pytest.approx(total / len(chosen), abs=1e-12)


def test_rank_table_when_made_identifies_each_row(table, rows):
    assert table["row"].tolist() == rows.source.tolist()
    assert table["user"].tolist() == rows.user.tolist()
    assert table["domain"].tolist() == [DOMAINS[i] for i in rows.domain]
    expected = {"recommender", "row", "user", "domain", "tailed", "cold", "no_history", "overlapping", "seen"}
    counts = {f"{what}_{which}" for what in ("greater", "ties", "candidates") for which in ("sampled", "full")}
    assert set(table) == expected | counts


def test_tidy_when_made_has_a_line_a_value(table):
    found = tidy(metrics(table), {"x": "North", "y": "South"})
    assert len(found) == 2 * len(KINDS) * 2 * 9
    line = found[(found["domain"] == "South") & (found["kind"] == "tailed") & (found["metric"] == "MRR@20")]
    expected = metrics(table)["table"]["y"]["tailed"]
    assert line.set_index("candidates")["value"].to_dict() == {
        which: expected[which]["MRR@20"] for which in ("sampled", "full")
    }
    assert line["n"].tolist() == [expected["n"]] * 2


def test_selection_metric_when_computed_is_the_mean_of_the_two_domains(rows, negatives, tied, table):
    ranks = rank(TableScorer(tied), rows, negatives, full=False, batch_size=50)
    found, cells = selection_metric(ranks, rows), metrics(table)["table"]
    for d in DOMAINS:
        assert found[f"ndcg@10/{d}"] == pytest.approx(cells[d]["all"]["sampled"]["NDCG@10"], abs=1e-15)
        assert found[f"hr@10/{d}"] == pytest.approx(cells[d]["all"]["sampled"]["HR@10"], abs=1e-15)
    assert found["ndcg@10"] == (found["ndcg@10/x"] + found["ndcg@10/y"]) / 2
    assert found["ndcg@10/x"] != found["ndcg@10/y"]


def test_seen_targets_when_recounted_are_those_that_training_holds(rows, dataset):
    train = dataset.splits["train"]
    held = {
        (d, int(item))
        for i, d in enumerate(DOMAINS)
        for item in (*train.history[d].values, *train.target[train.domain == i])
    }
    expected = [(DOMAINS[i], int(t)) in held for i, t in zip(rows.domain, rows.target)]
    assert seen_targets(rows, train).tolist() == expected
    few = train.take(np.arange(20))
    assert 0 < seen_targets(rows, few).sum() < len(rows)
