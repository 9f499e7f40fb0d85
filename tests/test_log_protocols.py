"""Protocols over timestamped logs, against their definitions, on generated logs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from i2vae_lib.audit import audit, fired
from i2vae_lib.data import DOMAINS, Catalogue, DataError, load_dataset, protocols, synthetic
from i2vae_lib.data.batches import cut_short
from i2vae_lib.data.dataset import SPLITS, EventLog, Events, LogPair, interactions, other, popularity, resolution_of
from i2vae_lib.evaluation import sample_negatives
from i2vae_lib.params import load

DAY = 86_400
ITEMS = 12
BASE = load("paper", {"split.cold_share": 0.4, "split.validation_share": 0.25, "split.test_share": 0.25})
SPLIT, CONTROLS = BASE.split, BASE.controls
REPEATED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROTOCOLS = pytest.mark.parametrize("name", ["chronological", "temporal"])
LINKS = np.array([[1, 1], [2, 5]], dtype=np.int32)


@st.composite
def log_pairs(draw) -> LogPair:
    """A small log: times within a few days, so that days and seconds collide; some items linked."""
    users = np.array([f"u{i:02d}" for i in range(draw(st.integers(8, 25)))], dtype=object)
    ids = {d: np.array([f"{d}{i:02d}" for i in range(ITEMS)], dtype=object) for d in DOMAINS}
    seed = draw(st.integers(0, 2**32 - 1))
    per_user, days = draw(st.floats(1.0, 6.0)), draw(st.integers(4, 40))
    coarse = draw(st.booleans())
    rng = np.random.default_rng(seed)
    events = {}
    for d in DOMAINS:
        has = rng.random(len(users)) < 0.8
        pairs = [
            (u, i) for u in np.flatnonzero(has) for i in rng.choice(ITEMS, min(ITEMS, rng.poisson(per_user)), False) + 1
        ]
        assume(len(pairs) >= 4)
        time = rng.integers(10**9, 10**9 + days * DAY, len(pairs))
        if coarse:  # day resolution, as Amazon's
            time -= time % DAY
        user, item = np.array(pairs).T
        order = rng.permutation(len(pairs))
        events[d] = Events(user[order].astype(np.int32), item[order].astype(np.int32), time[order])
    catalogue = Catalogue({"x": "X", "y": "Y"}, ids, LINKS, {d: None for d in DOMAINS})
    return LogPair("generated", "0" * 64, catalogue, EventLog(users, events, resolution_of(events)), pd.DataFrame())


def cut(name: str, pair: LogPair):
    try:
        return protocols.apply(name, pair, SPLIT, CONTROLS)
    except DataError:
        assume(False)  # too few users or times for three splits
        raise


def times(pair: LogPair) -> dict[tuple[str, str, int], int]:
    return {
        (str(pair.log.users[u]), d, int(i)): int(t)
        for d, e in pair.log.events.items()
        for u, i, t in zip(e.user, e.item, e.time)
    }


def resolution(pair: LogPair) -> int:
    """A day where the stamps of either file all stand at one time of day, else a second."""
    one_time = any(len({int(t) % DAY for t in e.time}) == 1 for e in pair.log.events.values())
    return DAY if one_time else 1


def contents(rows) -> list[tuple]:
    return sorted(
        (
            str(rows.user[i]),
            int(rows.domain[i]),
            int(rows.target[i]),
            *(tuple(rows.history[d][i].tolist()) for d in DOMAINS),
            tuple(rows.excluded[i].tolist()),
            int(rows.source[i]),
        )
        for i in range(len(rows))
    )


@PROTOCOLS
@given(log_pairs())
@REPEATED
def test_history_when_cut_holds_nothing_at_or_after_the_target(name, pair):
    when, stamp = times(pair), resolution(pair)
    for rows in cut(name, pair).splits.values():
        for i in range(len(rows)):
            user, own = str(rows.user[i]), DOMAINS[rows.domain[i]]
            target = when[user, own, int(rows.target[i])]
            # ties inside the own domain are broken by a hash; in the other domain a tie is not before
            assert all(when[user, own, item] <= target for item in rows.history[own][i].tolist())
            for item in rows.history[other(own)][i].tolist():
                assert when[user, other(own), item] // stamp < target // stamp
            assert rows.target[i] not in rows.history[own][i]


@PROTOCOLS
@given(log_pairs(), st.integers(0, 2**32 - 1))
@REPEATED
def test_training_rows_when_drawn_for_an_epoch_show_nothing_later_than_their_target(name, pair, seed):
    when, stamp = times(pair), resolution(pair)
    train = cut(name, pair).splits["train"]
    drawn = cut_short(train, 1.0, 0.3, np.random.default_rng(seed))
    for i in range(len(drawn)):
        user, own = str(drawn.user[i]), DOMAINS[drawn.domain[i]]
        target = when[user, own, int(drawn.target[i])]
        assert drawn.moment[i] == target // stamp
        assert all(when[user, own, item] <= target for item in drawn.history[own][i].tolist())
        shown = set(drawn.history[other(own)][i].tolist())
        assert all(when[user, other(own), item] // stamp < target // stamp for item in shown)
        # and all of it, but for the target's twin
        before = {
            it for it in train.history[other(own)][i].tolist() if when[user, other(own), it] // stamp < target // stamp
        }
        assert before - shown <= {int(drawn.target_in(other(own))[i])}


@given(log_pairs())
@REPEATED
def test_moments_when_rows_are_cut_are_those_of_the_events(pair):
    when, stamp = times(pair), resolution(pair)
    for rows in cut("chronological", pair).splits.values():
        for i, (user, domain, target) in enumerate(zip(rows.user, rows.domain, rows.target)):
            assert rows.moment[i] == when[str(user), DOMAINS[domain], int(target)] // stamp
        for d in DOMAINS:
            history = rows.history[d]
            expected = [when[str(rows.user[u]), d, int(i)] // stamp for u, i in zip(history.owner, history.values)]
            assert history.moments.tolist() == expected


def test_resolution_when_stamps_all_stand_at_seven_in_the_morning_is_a_day():
    """Day resolution is not midnight; one file of days is enough."""

    def log(*stamps):
        events = {d: Events(np.array([0, 0]), np.array([1, 2]), np.array(of_d)) for d, of_d in zip(DOMAINS, stamps)}
        return resolution_of(events)

    seven, seconds = [7 * 3600, 7 * 3600 + 3 * DAY], [5, 10**9]
    assert log(seven, seconds) == log(seconds, seven) == log(seven, seven) == DAY
    assert log(seconds, seconds) == 1


def test_before_1970_when_events_stand_there_they_are_before():
    """Negative times are times."""
    stamps = {"x": [-3 * DAY - 5, -DAY, 7], "y": [-2 * DAY, 9]}
    users = np.array(["u"], dtype=object)
    events = {d: Events(np.zeros(len(t), np.int32), np.arange(1, len(t) + 1), np.array(t)) for d, t in stamps.items()}
    ids = {d: np.array([f"{d}{i}" for i in range(3)], dtype=object) for d in DOMAINS}
    catalogue = Catalogue({"x": "X", "y": "Y"}, ids, np.zeros((0, 2), np.int32), {d: None for d in DOMAINS})
    pair = LogPair("old", "0" * 64, catalogue, EventLog(users, events, resolution_of(events)), pd.DataFrame())
    found = protocols.ordered(pair, 0)
    rows = protocols.rows_at(pair, found, {d: found[d].last_of_user() for d in DOMAINS})
    assert [rows.history[d][0].tolist() for d in DOMAINS] == [[1, 2], [1]]
    assert [rows.history[d][1].tolist() for d in DOMAINS] == [[1, 2, 3], [1]]


@PROTOCOLS
@given(log_pairs())
@REPEATED
def test_rows_when_cut_are_those_of_a_slow_loop(name, pair):
    """Targets and whole histories from the definitions, for every row that was not made cold."""
    dataset, stamp = cut(name, pair), resolution(pair)
    of_user = defaultdict(lambda: {d: [] for d in DOMAINS})
    for (user, d, item), time in times(pair).items():
        of_user[user][d].append((time, item))
    everything = sorted(t for timeline in of_user.values() for d in DOMAINS for t, _ in timeline[d])
    first, second = (everything[int(q * (len(everything) - 1))] for q in (SPLIT.first_cut, SPLIT.second_cut))
    windows = {"train": (-1, first), "validation": (first, second), "test": (second, everything[-1])}
    twins = {("x", x): y for x, y in LINKS.tolist()} | {("y", y): x for x, y in LINKS.tolist()}
    found = 0
    for split, rows in dataset.splits.items():
        for i in range(len(rows)):
            user, own = str(rows.user[i]), DOMAINS[rows.domain[i]]
            timeline = sorted(of_user[user][own])
            target = next(t for t, item in timeline if item == rows.target[i])
            if name == "chronological":
                assert target == timeline[-1][0]
            else:
                low, high = windows[split]
                inside = [t for t, _ in timeline if low < t <= high]
                assert target == (inside[-1] if split == "train" else inside[0])
            before = {item for t, item in timeline if t < target}
            ties = {item for t, item in timeline if t == target} - {int(rows.target[i])}
            history = set(rows.excluded[i].tolist())
            assert before <= history <= before | ties
            across = {item for t, item in of_user[user][other(own)] if t // stamp < target // stamp}
            across.discard(twins.get((own, int(rows.target[i]))))
            assert set(rows.history[other(own)][i].tolist()) == across
            found += 1
    assert found > 0


@PROTOCOLS
@given(log_pairs(), st.integers(0, 2**32 - 1))
@REPEATED
def test_protocol_when_the_log_comes_in_another_order_gives_the_same_rows(name, pair, seed):
    rng = np.random.default_rng(seed)
    events = {}
    for d, e in pair.log.events.items():
        order = rng.permutation(len(e))
        events[d] = Events(e.user[order], e.item[order], e.time[order])
    shuffled = replace(pair, log=replace(pair.log, events=events))
    one, two = cut(name, pair), cut(name, shuffled)
    for split in SPLITS:
        assert contents(one.splits[split]) == contents(two.splits[split])
    assert one.fingerprint() == two.fingerprint()
    assert (one.tail, one.removed) == (two.tail, two.removed)


@given(log_pairs())
@REPEATED
def test_chronological_when_cut_keeps_users_apart_and_targets_out_of_what_is_learnt(pair):
    dataset = cut("chronological", pair)
    users = {split: set(rows.user) for split, rows in dataset.splits.items()}
    assert not users["train"] & users["test"] and not users["validation"] & users["test"]
    assert not users["train"] & users["validation"]
    train = dataset.splits["train"]
    names = pd.unique(pd.Series(train.user, dtype=object))
    learnt = {(str(names[u]), d, int(i)) for d, (us, its) in interactions(train).items() for u, i in zip(us, its)}
    for split in ("validation", "test"):
        rows = dataset.splits[split]
        asked = {(str(rows.user[i]), DOMAINS[rows.domain[i]], int(rows.target[i])) for i in range(len(rows))}
        assert not asked & learnt


@given(log_pairs())
@REPEATED
def test_temporal_when_cut_lets_training_see_nothing_later_than_the_first_cut(pair):
    dataset = cut("temporal", pair)
    when = times(pair)
    first = int(np.sort(list(when.values()))[int(SPLIT.first_cut * (len(when) - 1))])
    train = dataset.splits["train"]
    names = pd.unique(pd.Series(train.user, dtype=object))
    for d, (users, items) in interactions(train).items():
        assert all(when[str(names[u]), d, int(i)] <= first for u, i in zip(users, items))
        # and everything up to the cut is learnt from: popularity counts each of those events once
        known = np.bincount([i for (_, e, i), t in when.items() if e == d and t <= first], minlength=ITEMS + 1)
        assert popularity(train)[d].tolist() == known.tolist()
    for split in ("validation", "test"):
        rows = dataset.splits[split]
        assert all(
            when[str(rows.user[i]), DOMAINS[rows.domain[i]], int(rows.target[i])] > first for i in range(len(rows))
        )


@PROTOCOLS
@given(log_pairs())
@REPEATED
def test_cold_rows_when_made_have_an_empty_own_history_and_candidates_avoid_the_old_one(name, pair):
    dataset = cut(name, pair)
    for split in ("validation", "test"):
        rows = dataset.splits[split]
        negatives = sample_negatives(rows, 3, 0) if (rows.excluded.lengths < ITEMS - 3).all() and len(rows) else None
        for i in np.flatnonzero(rows.kinds()["cold"]):
            assert rows.history[DOMAINS[rows.domain[i]]].lengths[i] == 0
        if negatives is not None:
            for i in range(len(rows)):
                assert not set(negatives[i].tolist()) & {*rows.excluded[i].tolist(), int(rows.target[i])}


@PROTOCOLS
@given(log_pairs())
@REPEATED
def test_protocol_when_audited_has_no_leak(name, pair):
    assert fired(audit(cut(name, pair))).empty


@PROTOCOLS
def test_dataset_of_a_log_when_saved_and_loaded_is_the_same(name, tmp_path):
    dataset = load_dataset(load("smoke", {"synthetic.users": 300, "controls.density": 0.7}, protocol=name))
    dataset.save(tmp_path)
    again = type(dataset).load(tmp_path)
    assert again.fingerprint() == dataset.fingerprint()
    assert again.filters.equals(dataset.filters) and again.controls == dataset.controls
    for d in DOMAINS:
        for field in ("user", "item", "time"):
            np.testing.assert_array_equal(getattr(again.log.events[d], field), getattr(dataset.log.events[d], field))
    assert fired(audit(again)).empty


def test_chronological_when_users_are_split_has_the_shares_asked_for():
    dataset = load_dataset(load("smoke", {"synthetic.users": 2000}, protocol="chronological"))
    users = {split: len(set(rows.user)) for split, rows in dataset.splits.items()}
    assert users == {"train": 1600, "validation": 200, "test": 200}
    # a fifth of those who have both domains (before their target) lost one, in validation and in test
    for split in ("validation", "test"):
        kinds = dataset.splits[split].kinds()
        able = len(set(dataset.splits[split].user[kinds["overlapping"] | kinds["cold"]]))
        assert kinds["cold"].sum() == pytest.approx(0.2 * able, abs=2)


def test_generated_log_when_cut_chronologically_has_an_oracle_far_above_popularity():
    """Line 2 * user + domain of the truth is the interest at that user's last event there."""
    from i2vae_lib.evaluation import hit_rate, rank
    from i2vae_lib.recommenders import Oracle

    dataset = load_dataset(load("smoke", {"synthetic.users": 2000}, protocol="chronological"))
    test = dataset.splits["test"]
    counts = popularity(dataset.splits["train"])

    class Popular:
        name = "popular"

        def score(self, rows, candidates):
            table = np.stack([counts[DOMAINS[i]] for i in rows.domain])
            return np.take_along_axis(table, candidates, axis=1)

    negatives = sample_negatives(test, 99, 0)
    hits = {}
    for scorer in (Oracle(dataset, counts), Popular()):
        found = rank(scorer, test, negatives, full=False, batch_size=512)
        hits[scorer.name] = hit_rate(found["greater_sampled"].to_numpy(), found["ties_sampled"].to_numpy(), 10).mean()
    assert hits["oracle"] > 1.5 * hits["popular"]


def test_temporal_when_loaded_has_no_truth_of_the_last_events():
    assert load_dataset(load("smoke", {"synthetic.users": 300}, protocol="temporal")).truth == {}


def test_temporal_when_all_happened_at_once_is_an_error():
    pair = synthetic.generate_log(load("smoke", {"synthetic.users": 50}).synthetic)
    events = {d: replace(e, time=np.full(len(e), 10**9)) for d, e in pair.log.events.items()}
    with pytest.raises(DataError, match=r"cuts of protocol temporal fall on one time .* move split\.first_cut"):
        protocols.apply("temporal", replace(pair, log=replace(pair.log, events=events)), SPLIT, CONTROLS)


@pytest.mark.parametrize(("protocol", "pair"), [("temporal", "rows"), ("chronological", "rows"), ("strict", "log")])
def test_protocol_when_the_data_cannot_serve_it_says_which_do(protocol, pair):
    p = load("smoke", {"synthetic.users": 50}).synthetic
    made = synthetic.generate(p) if pair == "rows" else synthetic.generate_log(p)
    wanted = "needs timestamps.*released or strict" if pair == "rows" else "choose chronological or temporal"
    with pytest.raises(DataError, match=wanted):
        protocols.apply(protocol, made, SPLIT, CONTROLS)


def test_protocol_when_a_split_is_left_without_rows_says_so():
    pair = synthetic.generate_log(load("smoke", {"synthetic.users": 4}).synthetic)
    with pytest.raises(DataError, match=r"no (test|validation) rows are left"):
        protocols.apply("chronological", pair, load("paper").split, CONTROLS)
