"""Protocols over timestamped logs, against their definitions, on generated logs."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from i2vae_lib.audit.leaks import audit, fired
from i2vae_lib.data import DOMAINS, Catalogue, DataError, load_dataset, protocols, synthetic
from i2vae_lib.data.ordered_events import in_order, rows_at
from i2vae_lib.data.rows import (
    SPLITS,
    EventLog,
    Events,
    LogPair,
    interactions,
    joined,
    other,
    popularity,
    resolution_of,
)
from i2vae_lib.data.user_sequences import user_sequences
from i2vae_lib.evaluation import sample_negatives
from i2vae_lib.generators.graphs import Unified, user_items
from i2vae_lib.params import load
from tests.helpers.worlds import asked_by_event

DAY = 86_400
ITEMS = 12
BASE = load("paper", {"split.cold_share": 0.4, "split.validation_share": 0.25, "split.test_share": 0.25})
SPLIT, CONTROLS = BASE.split, BASE.controls
NONE_COLD = SPLIT.model_copy(update={"cold_share": 0.0})
MANY = SPLIT.model_copy(update={"cold_share": 0.0, "validation_share": 0.3, "test_share": 0.3})
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
    least = {name: draw(st.integers(1, 3)) for name in ("min_user", "min_item")}
    return LogPair(
        "generated", "0" * 64, catalogue, EventLog(users, events, resolution_of(events)), pd.DataFrame(), **least
    )


def cut(name: str, pair: LogPair):
    try:
        return protocols.apply(name, pair, SPLIT, CONTROLS)
    except DataError:
        assume(False)  # too few users or times for three splits
        raise


def times(pair: LogPair) -> dict[tuple[str, str, str], int]:
    """When each user took each item, by ids (under ``temporal`` the numbers are the protocol's own)."""
    return {
        (str(pair.log.users[u]), d, str(i)): int(t)
        for d, e in pair.log.events.items()
        for u, i, t in zip(e.user, pair.catalogue.decode(d, e.item), e.time)
    }


def resolution(pair: LogPair) -> int:
    """A day where the stamps of either file all stand at one time of day, else a second."""
    one_time = any(len({int(t) % DAY for t in e.time}) == 1 for e in pair.log.events.values())
    return DAY if one_time else 1


def ids(dataset, d: str, items) -> list[str]:
    return [str(one) for one in dataset.catalogue.decode(d, items)]


def cuts(pair: LogPair) -> tuple[int, int]:
    everything = sorted(times(pair).values())
    first, second = (everything[int(q * (len(everything) - 1))] for q in (SPLIT.first_cut, SPLIT.second_cut))
    return first, second


def core(pair: LogPair, until: float) -> set[tuple[str, str, str]]:
    """(user, domain, item) of the k-core of the events up to a time, one event leaving after the other."""
    kept = {key for key, t in times(pair).items() if t <= until}
    while True:
        users, items = Counter((u, d) for u, d, _ in kept), Counter((d, i) for _, d, i in kept)
        few = [k for k in kept if users[k[0], k[1]] < pair.min_user or items[k[1], k[2]] < pair.min_item]
        if not few:
            return kept
        kept.discard(few[0])


def shown(name: str, pair: LogPair) -> dict[tuple[str, str, str], int]:
    """The events that rows may show: of the whole log's core, or all of the items of the core up to the first cut."""
    when = times(pair)
    if name == "chronological":
        return {key: when[key] for key in core(pair, np.inf)}
    items = {(d, i) for _, d, i in core(pair, cuts(pair)[0])}
    return {key: t for key, t in when.items() if key[1:] in items}


def contents(rows, source: bool = True) -> list[tuple]:
    return sorted(
        (
            str(rows.user[i]),
            int(rows.domain[i]),
            int(rows.target[i]),
            *(tuple(rows.history[d][i].tolist()) for d in DOMAINS),
            tuple(rows.excluded[i].tolist()),
            int(rows.source[i]) if source else 0,
        )
        for i in range(len(rows))
    )


@PROTOCOLS
@given(log_pairs())
@REPEATED
def test_history_when_cut_holds_nothing_at_or_after_the_target(name, pair):
    when, dataset, stamp = times(pair), cut(name, pair), resolution(pair)
    for rows in dataset.splits.values():
        for i in range(len(rows)):
            user, own = str(rows.user[i]), DOMAINS[rows.domain[i]]
            target = when[user, own, *ids(dataset, own, rows.target[i : i + 1])]
            # ties inside the own domain are broken by a hash; in the other domain a tie is not before
            assert all(when[user, own, item] <= target for item in ids(dataset, own, rows.history[own][i]))
            for item in ids(dataset, other(own), rows.history[other(own)][i]):
                assert when[user, other(own), item] // stamp < target // stamp
            assert rows.target[i] not in rows.history[own][i]


def of_training(dataset, domain):
    """Users and items of everything that training holds of a domain."""
    found = user_sequences(dataset.splits["train"])
    sequences = found.sequences[domain]
    return found.users[sequences.owner], ids(dataset, domain, sequences.values)


@PROTOCOLS
@given(log_pairs())
@REPEATED
def test_training_rows_when_every_event_is_asked_show_nothing_later_than_their_target(name, pair):
    when, dataset, stamp = times(pair), cut(name, pair), resolution(pair)
    train = dataset.splits["train"]
    asked = asked_by_event(train, 1000)
    held = {(str(user), d, item) for d in DOMAINS for user, item in zip(*of_training(dataset, d), strict=True)}
    assert len(asked) == len(held)
    for i in range(len(asked)):
        user, own = str(asked.user[i]), DOMAINS[asked.domain[i]]
        opposite = other(own)
        target = when[user, own, *ids(dataset, own, asked.target[i : i + 1])]
        assert asked.moment[i] == target // stamp
        assert all(when[user, own, item] <= target for item in ids(dataset, own, asked.history[own][i]))
        shown = ids(dataset, opposite, asked.history[opposite][i])
        # all of the other domain that is earlier, and nothing else
        theirs = {item for who, d, item in held if (who, d) == (user, opposite)}
        assert {*shown} == {item for item in theirs if when[user, opposite, item] // stamp < target // stamp}


@PROTOCOLS
@given(log_pairs())
@REPEATED
def test_moments_when_rows_are_cut_are_those_of_the_events(name, pair):
    when, dataset, stamp = times(pair), cut(name, pair), resolution(pair)
    for rows in dataset.splits.values():
        for i, (user, domain) in enumerate(zip(rows.user, rows.domain)):
            assert (
                rows.moment[i]
                == when[str(user), DOMAINS[domain], *ids(dataset, DOMAINS[domain], rows.target[i : i + 1])] // stamp
            )
        for d in DOMAINS:
            history = rows.history[d]
            users, items = rows.user[history.owner], ids(dataset, d, history.values)
            assert history.moments.tolist() == [when[str(u), d, item] // stamp for u, item in zip(users, items)]


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
    of_items = {d: np.array([f"{d}{i}" for i in range(3)], dtype=object) for d in DOMAINS}
    catalogue = Catalogue({"x": "X", "y": "Y"}, of_items, np.zeros((0, 2), np.int32), {d: None for d in DOMAINS})
    pair = LogPair("old", "0" * 64, catalogue, EventLog(users, events, resolution_of(events)), pd.DataFrame())
    found = in_order(pair.log, pair.catalogue, 0)
    rows = rows_at(pair, found, {d: found[d].last_of_user() for d in DOMAINS})
    assert [rows.history[d][0].tolist() for d in DOMAINS] == [[1, 2], [1]]
    assert [rows.history[d][1].tolist() for d in DOMAINS] == [[1, 2, 3], [1]]


@PROTOCOLS
@given(log_pairs())
@REPEATED
def test_rows_when_cut_are_those_of_a_slow_loop(name, pair):
    """Targets and whole histories from the definitions, for every row that was not made cold; none is missing."""
    dataset, stamp = cut(name, pair), resolution(pair)
    of_user = defaultdict(lambda: {d: [] for d in DOMAINS})
    for (user, d, item), time in shown(name, pair).items():
        of_user[user][d].append((time, item))
    first, second = cuts(pair)
    windows = {"train": (-1, first), "validation": (first, second), "test": (second, np.inf)}
    of_core = {key[:2] for key in core(pair, first)}
    names = {d: pair.catalogue.ids[d] for d in DOMAINS}
    linked = [(names["x"][x - 1], names["y"][y - 1]) for x, y in LINKS.tolist()]
    twins = {("x", x): y for x, y in linked} | {("y", y): x for x, y in linked}
    found = 0
    for split, rows in dataset.splits.items():
        for i in range(len(rows)):
            user, own = str(rows.user[i]), DOMAINS[rows.domain[i]]
            [asked] = ids(dataset, own, rows.target[i : i + 1])
            timeline = sorted(of_user[user][own])
            target = next(t for t, item in timeline if item == asked)
            if name == "chronological":
                assert target == timeline[-1][0]
            else:
                low, high = windows[split]
                inside = [t for t, _ in timeline if low < t <= high]
                assert target == (inside[-1] if split == "train" else inside[0])
                assert split != "train" or (user, own) in of_core
            before = {item for t, item in timeline if t < target}
            ties = {item for t, item in timeline if t == target} - {asked}
            history = set(ids(dataset, own, rows.excluded[i]))
            assert before <= history <= before | ties
            across = {item for t, item in of_user[user][other(own)] if t // stamp < target // stamp}
            across.discard(twins.get((own, asked)))
            assert set(ids(dataset, other(own), rows.history[other(own)][i])) == across
            found += 1
    assert found > 0
    if name == "temporal":
        assert len(dataset.splits["train"]) == len(of_core)
        inside = {key[:2] for key, t in shown(name, pair).items() if t > second}
        copies = dataset.removed["test rows that equal an earlier row under another name"]
        assert len(dataset.splits["test"]) + copies == len(inside)


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
    dataset, when, first = cut("temporal", pair), times(pair), cuts(pair)[0]
    train, of_core = dataset.splits["train"], core(pair, first)
    names = pd.unique(pd.Series(train.user, dtype=object))
    for d, (users, items) in interactions(train).items():
        assert sorted(dataset.catalogue.ids[d]) == sorted({i for _, e, i in of_core if e == d})
        learnt = {(str(names[u]), d, i) for u, i in zip(users, ids(dataset, d, items))}
        assert all(when[key] <= first for key in learnt)
        # and everything of the core is learnt from: all but what makes a user's other history
        assert {key for key in of_core if key[1] == d} <= learnt
    for split in ("validation", "test"):
        rows = dataset.splits[split]
        for i in range(len(rows)):
            own = DOMAINS[rows.domain[i]]
            assert when[str(rows.user[i]), own, *ids(dataset, own, rows.target[i : i + 1])] > first


@given(log_pairs(), st.integers(0, 2**32 - 1))
@REPEATED
def test_temporal_when_later_events_change_leaves_training_as_it_is(pair, seed):
    """What lies after the first cut is thrown away and drawn anew: users, items, times, how many."""
    first, second = cuts(pair)
    rng, events = np.random.default_rng(seed), {}
    for d, e in pair.log.events.items():
        early = e.time <= first
        known = set(zip(e.user[early].tolist(), e.item[early].tolist()))
        drawn = {(int(rng.integers(len(pair.log.users))), int(rng.integers(1, ITEMS + 1))) for _ in range(40)}
        user, item = np.array(sorted(drawn - known), dtype=np.int32).reshape(-1, 2).T
        time = rng.integers(first + 1, second + 10 * DAY, len(user))
        parts = zip((e.user, e.item, e.time), (user, item, time), strict=True)
        events[d] = Events(*(np.concatenate([old[early], new]) for old, new in parts))
    changed = replace(pair, log=replace(pair.log, events=events))
    found = []
    for one in (pair, changed):
        try:
            kept, split = protocols.cut_at(one, first, second, SPLIT)
        except DataError:
            assume(False)
            raise
        found.append(protocols.assembled("temporal", kept, split, SPLIT, CONTROLS))
    one, two = found
    assert one.catalogue.digest() == two.catalogue.digest()
    assert one.splits["train"].user.tolist() == two.splits["train"].user.tolist()  # in one order too
    assert contents(one.splits["train"], source=False) == contents(two.splits["train"], source=False)
    assert one.tail["train"] == two.tail["train"]
    for d in DOMAINS:
        assert popularity(one.splits["train"])[d].tolist() == popularity(two.splits["train"])[d].tolist()


@given(log_pairs())
@REPEATED
def test_temporal_when_first_events_are_of_other_items_counts_them(pair):
    dataset, first, second = cut("temporal", pair), *cuts(pair)
    windows = {"validation": (first, second), "test": (second, np.inf)}
    assert [(one["split"], one["domain"]) for one in dataset.outside] == [(s, d) for d in DOMAINS for s in windows]
    for one in dataset.outside:
        low, high = windows[one["split"]]
        timelines = defaultdict(list)
        for (user, d, item), t in times(pair).items():
            if d == one["domain"] and low < t <= high:
                timelines[user].append((t, item not in set(dataset.catalogue.ids[d])))
        firsts = [[unknown for t, unknown in line if t == min(line)[0]] for line in timelines.values()]
        assert one["first_events"] == len(timelines)
        assert sum(map(all, firsts)) <= one["outside"] <= sum(map(any, firsts))  # events of one time: a hash decides
        assert one["share"] == one["outside"] / one["first_events"]


def hand_made(early: dict[str, str], late: dict[str, str], **least: int) -> LogPair:
    """A log in which user u takes the items ``early[u]``, a letter each, then ``late[u]``, in x and in y."""
    users = np.array(sorted({*early, *late}), dtype=object)
    letters = sorted({i for one in (early, late) for items in one.values() for i in items})
    numbers = {name: {key: i for i, key in enumerate(keys)} for name, keys in (("u", users), ("i", letters))}
    rows = [
        (numbers["u"][user], numbers["i"][item] + 1, start + k * DAY)
        for start, taken in ((10**9, early), (10**9 + 1000 * DAY, late))
        for user, items in taken.items()
        for k, item in enumerate(items)
    ]
    user, item, time = np.array(rows).T
    events = {d: Events(user.astype(np.int32), item.astype(np.int32), time) for d in DOMAINS}
    named = {d: np.array([f"{d}{one}" for one in letters], dtype=object) for d in DOMAINS}
    catalogue = Catalogue({"x": "X", "y": "Y"}, named, np.zeros((0, 2), dtype=np.int32), {d: None for d in DOMAINS})
    return LogPair("made", "0" * 64, catalogue, EventLog(users, events, resolution_of(events)), pd.DataFrame(), **least)


def test_rows_when_a_history_is_too_long_show_its_end_and_every_count_sees_no_more():
    letters = "abcdefghijklmnopqrst"
    pair = hand_made({"long": letters, **{f"u{i}": "abc" for i in range(20)}}, {})
    whole, short = (
        protocols.apply("chronological", pair, NONE_COLD.model_copy(update={"longest": longest}), CONTROLS)
        for longest in (19, 5)
    )
    assert not any("split.longest" in note for note in whole.notes)
    lost = 0
    for split in SPLITS:
        before, after = whole.splits[split], short.splits[split]
        for d in DOMAINS:
            expected = [before.history[d][i][-5:].tolist() for i in range(len(before))]
            assert [after.history[d][i].tolist() for i in range(len(after))] == expected
            lost += len(before.history[d].values) - len(after.history[d].values)
        np.testing.assert_array_equal(after.excluded.values, before.excluded.values)  # no candidate came back
    assert lost > 0 and sum(n for what, n in short.removed.items() if "before the last 5" in what) == lost
    [note] = [note for note in short.notes if "split.longest" in note]
    assert "more than 5 events in a domain: 1 (the longest, 19, is that of long)" in note
    held = joined([short.splits[split] for split in SPLITS])
    assert user_items(held, Unified(held.catalogue)).getnnz(axis=1).max() <= 2 * (5 + 1)
    assert not len(fired(audit(short)))


EARLY = {"u1": "abc", "u2": "abc", "u3": "abcn", "brief": "ab"}


def test_temporal_when_later_events_alone_let_users_and_items_survive_drops_them():
    """Item n and user brief are in the core of the whole log, and n in it for later takers alone."""
    late = {"u1": "nz", "u2": "n", "brief": "cn", "new": "abcn"}
    pair = hand_made(EARLY, late, min_user=3, min_item=3)
    whole = protocols.apply("chronological", hand_made(EARLY, late, min_user=3, min_item=3), MANY, CONTROLS)
    assert "xn" in whole.catalogue.ids["x"] and "brief" in whole.log.users
    middle = 10**9 + 1000 * DAY
    kept, found = protocols.cut_at(pair, 10**9 + 500 * DAY, middle, NONE_COLD)
    assert [kept.catalogue.ids[d].tolist() for d in DOMAINS] == [[f"{d}{i}" for i in "abc"] for d in DOMAINS]
    train, validation, test = (found.splits[name] for name in SPLITS)
    assert set(train.user) == {"u1", "u2", "u3"}
    # of the window up to its first day: only the newcomer took an item of the catalogue, and brief did
    assert sorted(zip(validation.user, validation.domain.tolist())) == [
        (u, d) for u in ("brief", "new") for d in (0, 1)
    ]
    dropped = np.flatnonzero(validation.user == "brief")
    assert all(validation.history[d].lengths[dropped].tolist() == [2, 2] for d in DOMAINS)  # a user of no core
    assert validation.kinds()["no_history"].tolist() == (validation.user == "new").tolist()
    assert set(test.user) == {"new"}
    [first_of_x] = [one for one in found.outside if (one["split"], one["domain"]) == ("validation", "x")]
    assert (first_of_x["first_events"], first_of_x["outside"], first_of_x["share"]) == (4, 2, 0.5)
    assert protocols.outside_note(found.outside, pair.catalogue.names).startswith(
        "First events of items outside the catalogue, which no row asks for: test X 2 of 3 (66.7%), Y"
    )
    assert protocols.outside_note((), pair.catalogue.names) == ""


def test_temporal_when_a_later_row_equals_a_training_row_under_another_name_the_later_one_leaves():
    """Both would be a leak; without the earlier one, training would hang on what came after it."""
    early = {"first": "abcdefgh", "second": "abcdefg", "third": "abcdefg", "brief": "abck"}
    late = {"second": "h", "third": "zh", "new": "abc", "brief": "dd"}
    start = 10**9 + 1000 * DAY

    def rows_of(late):
        _, found = protocols.cut_at(hand_made(early, late), 10**9 + 500 * DAY, start, NONE_COLD)
        return {name: set(found.splits[name].user) for name in SPLITS}, found.removed

    rows, removed = rows_of(late)
    assert rows == {"train": set(early), "validation": {"new", "brief"}, "test": {"new", "brief"}}
    assert removed["validation rows that equal a training row under another name"] == 2
    assert removed["test rows that equal an earlier row under another name"] == 2
    elsewhere, removed = rows_of(late | {"second": "a", "third": "zk"})  # nothing equals a training row
    assert elsewhere == {
        "train": set(early),
        **{name: {"new", "brief", user} for name, user in (("validation", "second"), ("test", "third"))},
    }
    assert not any(count for what, count in removed.items() if "under another name" in what)


def test_temporal_when_the_cuts_leave_no_item_or_no_row_says_where_and_what_to_do():
    first, second = 10**9 + 500 * DAY, 10**9 + 1000 * DAY
    late = {"u1": "zz", "u2": "z"}
    with pytest.raises(
        DataError, match=r"made: nothing is left of X up to the first cut \(2003-01-22\) after 'k-core r"
    ):
        protocols.cut_at(hand_made(EARLY, late, min_user=3, min_item=9), first, second, NONE_COLD)
    with pytest.raises(
        DataError,
        match=r"no validation row of X is left: of 2 users with events in that window \(the cuts are 2003-01-22 and "
        r"2004-06-05\) none took one of the 3 items of the catalogue.*: move split\.first_cut = 0\.8",
    ):
        protocols.cut_at(hand_made(EARLY, late, min_user=3, min_item=3), first, second, NONE_COLD)
    apart = hand_made({"u1": "ab", "u2": "ab"}, {}, min_user=2, min_item=2)
    y = hand_made({"u1": "", "u2": "", "v1": "ab", "v2": "ab"}, {}, min_user=2, min_item=2).log
    users = np.array(["u1", "u2", "v1", "v2"], dtype=object)
    apart = replace(apart, log=EventLog(users, {"x": apart.log.events["x"], "y": y.events["y"]}, y.resolution))
    with pytest.raises(
        DataError, match=r"no overlapping user is left by the filters up to the first cut .* 2 others of Y"
    ):
        protocols.cut_at(apart, first, second, NONE_COLD)


def test_temporal_when_the_log_repeats_events_cuts_at_the_quantiles_of_all_of_them():
    pair = hand_made(EARLY, {"u1": "de", "u2": "d", "new": "abc"})
    several = replace(pair, repeats=np.full(30, 10**9 + 3 * DAY))
    everything = np.sort(np.concatenate([*(pair.log.events[d].time for d in DOMAINS), several.repeats]))
    found = [everything[int(q * (len(everything) - 1))] for q in (0.6, 0.9)]
    split = SPLIT.model_copy(update={"first_cut": 0.6, "second_cut": 0.9})
    assert protocols.cut_times(several, split) == tuple(found) != protocols.cut_times(pair, split)


@PROTOCOLS
@given(log_pairs())
@REPEATED
def test_cold_rows_when_made_have_an_empty_own_history_and_candidates_avoid_the_old_one(name, pair):
    dataset = cut(name, pair)
    for split in ("validation", "test"):
        rows = dataset.splits[split]
        most = min(dataset.catalogue.size(d) for d in DOMAINS) - 3
        negatives = sample_negatives(rows, 3, 0) if (rows.excluded.lengths < most).all() and len(rows) else None
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
    assert list(again.outside) == list(dataset.outside) and bool(dataset.outside) == (name == "temporal")
    for d in DOMAINS:
        for field in ("user", "item", "time"):
            np.testing.assert_array_equal(getattr(again.log.events[d], field), getattr(dataset.log.events[d], field))
    assert fired(audit(again)).empty


def test_chronological_when_users_are_split_has_the_shares_asked_for():
    shares = {"split.test_share": 0.1, "split.cold_share": 0.2}
    dataset = load_dataset(load("smoke", {"synthetic.users": 2000} | shares, protocol="chronological"))
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


def test_chronological_when_told_says_that_users_are_split():
    assert protocols.order_note("chronological").startswith("Users are split, not time")
    assert not any(map(protocols.order_note, ("temporal", "strict", "released")))


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
    with pytest.raises(
        DataError, match=r"no (test|validation) rows are left.*change split\.validation_share = .*test_share"
    ):
        protocols.apply("chronological", pair, load("paper").split, CONTROLS)
