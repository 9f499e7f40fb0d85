"""One order of items: the count by a slow loop, what it depends on, planted orders, and the files at hand."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib.audit.item_order import MOST, item_order, item_orders, observed_pairs, whole_lists
from i2vae_lib.data import DOMAINS, CrossDomainDataset, Ragged, load_dataset, protocols
from i2vae_lib.data.released import load_released
from i2vae_lib.data.rows import Catalogue, Events, Rows
from i2vae_lib.params import load

DAY = 86_400


def names(count: int, letter: str = "i") -> np.ndarray:
    return np.array([f"{letter}{i}" for i in range(count)], dtype=object)


@st.composite
def logs(draw: st.DrawFn) -> tuple[Events, np.ndarray]:
    """Small logs: few items, so that pairs meet; few times, so that some stand at one."""
    items, users = draw(st.integers(2, 12)), draw(st.integers(1, 10))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 80))
    user, item, time = rng.integers(0, users, count), rng.integers(1, items + 1, count), rng.integers(0, 6, count)
    return Events(user.astype(np.int32), item.astype(np.int32), time.astype(np.int64)), names(items)


def slow(events: Events) -> Counter[tuple[int, int]]:
    """(first item, second item) -> users who took them so."""
    lists: dict[int, dict[int, int]] = {}
    for u, i, t in zip(events.user.tolist(), events.item.tolist(), events.time.tolist(), strict=True):
        mine = lists.setdefault(u, {})
        mine[i] = min(t, mine.get(i, t))
    seen: Counter[tuple[int, int]] = Counter()
    for mine in lists.values():
        for a, b in combinations(sorted(mine), 2):
            if mine[a] != mine[b]:
                seen[(a, b) if mine[a] < mine[b] else (b, a)] += 1
    return seen


@given(logs(), st.sampled_from([1, 7, 10**6]))
@settings(max_examples=60, deadline=None)
def test_observed_pairs_when_blocks_are_small_are_those_of_a_slow_loop(log: tuple[Events, np.ndarray], block: int):
    events, ids = log
    found: Counter[tuple[int, int]] = Counter()
    for one in observed_pairs(events, ids, block):
        assert (one.lesser < one.greater).all()
        for a, b, forward, backward in zip(one.lesser.tolist(), one.greater.tolist(), one.forward, one.backward):
            assert (a, b) not in found and (b, a) not in found  # in one block only
            found[a, b], found[b, a] = int(forward), int(backward)
    assert +found == slow(events)


@given(logs())
@settings(max_examples=60, deadline=None)
def test_item_order_when_counted_is_that_of_a_slow_loop(log: tuple[Events, np.ndarray]):
    events, ids = log
    seen = slow(events)
    both = {pair: seen[pair] + seen[pair[::-1]] for pair in seen if seen[pair] + seen[pair[::-1]] >= 2}
    pairs = {tuple(sorted(pair)) for pair in both}
    found = item_order(events, ids)
    assert found.observations == sum(both[p] if p in both else both[p[::-1]] for p in pairs)
    assert found.rarer == sum(min(seen[p], seen[p[::-1]]) for p in pairs)
    if pairs:
        first, second, ahead, users = found.example
        assert users == max(both.values()) == seen[first, second] + seen[second, first]
        assert ahead == seen[first, second] >= seen[second, first]


@given(logs(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_item_order_when_users_items_and_lines_are_renamed_is_the_same(log: tuple[Events, np.ndarray], seed: int):
    events, ids = log
    rng = np.random.default_rng(seed)
    lines, users = rng.permutation(len(events)), rng.permutation(50)
    items = np.concatenate([[0], rng.permutation(len(ids)) + 1])
    renamed = Events(users[events.user[lines]], items[events.item[lines]], events.time[lines])
    before, after = item_order(events, ids), item_order(renamed, names(len(ids), "other"))
    assert (after.observations, after.rarer, after.users) == (before.observations, before.rarer, before.users)


def test_item_order_when_lists_are_long_keeps_the_same_items_for_everybody():
    """Two hundred users with all of 200 items: of everybody the same 50 count, and what they are is in the ids."""
    rng = np.random.default_rng(0)
    times = np.stack([rng.permutation(200) for _ in range(200)])
    events = Events(np.repeat(np.arange(200), 200), np.tile(np.arange(1, 201), 200), times.ravel())
    found = item_order(events, names(200))
    assert found.observations == 200 * MOST * (MOST - 1) // 2 and found.users == 200
    # items numbered otherwise under the same ids: the same items are kept
    shuffled = rng.permutation(200)
    other = Events(events.user, np.argsort(shuffled)[events.item - 1] + 1, events.time)
    again = item_order(other, names(200)[shuffled])
    assert (again.observations, again.rarer) == (found.observations, found.rarer)


# --- planted orders ---------------------------------------------------------------------------------------------------


def planted(rank: np.ndarray, seed: int = 0, users: int = 400, per_day: int = 1) -> Events:
    """Everybody takes ten of the items, in the order of ``rank`` [items]; ``per_day`` of them on one day."""
    rng = np.random.default_rng(seed)
    taken = np.stack([rng.choice(len(rank), 10, replace=False) for _ in range(users)])
    taken = np.take_along_axis(taken, np.argsort(rank[taken], axis=1), axis=1)
    days = np.arange(10) // per_day + rng.integers(0, 1000, users)[:, None]
    return Events(np.repeat(np.arange(users), 10), taken.ravel() + 1, DAY * days.ravel())


@pytest.mark.parametrize("rank", [np.arange(60), np.random.default_rng(1).permutation(60)], ids=["ids", "permuted"])
@pytest.mark.parametrize("per_day", [1, 4])
def test_item_order_when_one_is_planted_is_found(rank: np.ndarray, per_day: int):
    found = item_order(planted(rank, per_day=per_day), names(60))
    assert found.one and found.enough and found.share == 0 and found.users == 400
    first, second, ahead, users = found.example
    assert rank[first - 1] < rank[second - 1] and ahead == users >= 2


def test_item_order_when_few_observe_it_tells_nothing():
    few = item_order(planted(np.arange(60), users=90), names(60))  # observations enough, users too few
    assert few.share == 0 and few.observations >= 1000 and not few.enough and not few.one
    some = item_order(planted(np.arange(3000), users=150), names(3000))  # users enough, observations too few
    assert some.share == 0 and some.observations < 1000 and not some.enough
    nothing = item_order(Events(*(np.zeros(0, dtype=np.int64),) * 3), names(3))
    assert nothing.observations == 0 and np.isnan(nothing.share) and not nothing.enough


def test_item_order_when_one_in_ten_users_goes_the_other_way_is_none():
    backward = planted(-np.arange(60), seed=1, users=40)
    forward = planted(np.arange(60), users=360)
    joined = Events(
        np.concatenate([forward.user, backward.user + 360]),
        np.concatenate([forward.item, backward.item]),
        np.concatenate([forward.time, backward.time]),
    )
    found = item_order(joined, names(60))
    assert found.enough and 0.05 < found.share < 0.15 and not found.one


# --- lists of a dataset -----------------------------------------------------------------------------------------------


def test_whole_lists_when_a_user_has_several_rows_are_the_longest():
    """One row lost its target, one is cold, and one stands in another split: the longest list counts, as it stands."""
    catalogue = Catalogue(
        {"x": "X", "y": "Y"},
        {d: names(9, d) for d in DOMAINS},
        np.zeros((0, 2), dtype=np.int32),
        {d: None for d in DOMAINS},
    )

    def rows(*lines: tuple[str, int, int, list[int], list[int], list[int]]) -> Rows:
        user, domain, target, x, y, excluded = zip(*lines, strict=True)
        return Rows(
            catalogue,
            np.array(user, dtype=object),
            np.array(domain, dtype=np.int8),
            np.array(target, dtype=np.int32),
            {"x": Ragged.from_lists(x), "y": Ragged.from_lists(y)},
            Ragged.from_lists(excluded),
            np.arange(len(user)),
        )

    splits = {
        "train": rows(("a", 0, 3, [1, 2], [5, 6], [1, 2]), ("a", 1, 7, [1, 2], [5, 6], [5, 6])),
        "validation": rows(("b", 0, 4, [], [8], [9, 1, 2])),  # made cold: what it lost is its list
        "test": rows(("a", 1, 7, [1, 2, 3, 4], [5], [5])),
    }
    dataset = CrossDomainDataset("pair", "released", 0, "", catalogue, splits, {}, {})
    lists = whole_lists(dataset)
    assert [(u, i) for u, i in zip(lists["x"].user, lists["x"].item)] == [
        *((0, i) for i in (1, 2, 3, 4)),
        *((1, i) for i in (9, 1, 2, 4)),
    ]
    assert [(u, i) for u, i in zip(lists["y"].user, lists["y"].item)] == [*((0, i) for i in (5, 6, 7)), (1, 8)]
    assert lists["x"].time.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize(("name", "observations"), [("cloth_sport", (7_653, 43_748)), ("phone_elec", (37_937, 94_380))])
def test_released_pair_when_counted_holds_one_order(released_folder: Path, name: str, observations: tuple[int, int]):
    p = load("paper")
    dataset = protocols.apply("released", load_released(name, released_folder), p.split, p.controls)
    found = item_orders(dataset)
    assert all(one.one and one.rarer == 0 for one in found.values())
    assert tuple(found[d].observations for d in DOMAINS) == observations  # train and test files, 50 items a user


@pytest.mark.parametrize("name", ["food_kitchen", "films", "beautyelec", "newsapart"])
def test_real_log_when_counted_holds_none(released_folder: Path, name: str):
    here = Path(__file__).parent.parent / "params" / "pairs" / f"{name}.yaml"
    file = here if here.is_file() else Path(os.environ["I2VAE_DATA_DIR"]) / "logs" / f"{name}.yaml"
    found = item_orders(load_dataset(load("paper", data=str(file), protocol="chronological")))
    assert all(one.enough and not one.one and one.share > 0.05 for one in found.values())


def test_planted_log_when_counted_holds_none():
    found = item_orders(load_dataset(load("smoke", {"synthetic.users": 3000}, protocol="chronological")))
    assert all(one.enough and one.share > 0.1 for one in found.values())


def test_detached_users_when_counted_are_one_user():
    """A user whose halves have names of their own still has one list a domain."""
    p = load("smoke", {"synthetic.users": 1500, "controls.overlap_mode": "detach"}, protocol="chronological")
    whole, detached = (
        replace(
            load_dataset(p.model_copy(update={"controls": p.controls.model_copy(update={"overlap": overlap})})),
            log=None,
        )
        for overlap in (1.0, 0.05)
    )
    for d in DOMAINS:
        assert len(np.unique(whole_lists(whole)[d].user)) == len(np.unique(whole_lists(detached)[d].user))
