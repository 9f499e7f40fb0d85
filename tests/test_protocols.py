"""Protocols: which row may stand where, on random pairs that have every defect of the released files."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib.data import DOMAINS, Catalogue, DataError, Ragged, protocols, synthetic
from i2vae_lib.data.dataset import SPLITS, hashed
from i2vae_lib.data.protocols import RawPair, raw_rows
from i2vae_lib.params import load

REPEATED = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SPLIT = load("paper", {"split.validation_share": 0.3, "split.cold_share": 0.5}).split
CONTROLS = load("paper").controls


@st.composite
def raw_pairs(draw) -> RawPair:
    """Few users and items, so that test users train, targets repeat, and links lead from one history to the other."""
    users, items = draw(st.integers(14, 40)), draw(st.integers(4, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    links = np.stack([rng.permutation(items)[: items // 2] + 1, rng.permutation(items)[: items // 2] + 1], axis=1)
    ids = {d: np.array([f"{d}{i}" for i in range(items)], dtype=object) for d in DOMAINS}
    catalogue = Catalogue({"x": "X", "y": "Y"}, ids, links.astype(np.int32), {d: None for d in DOMAINS})
    lines = []
    for user in range(users):
        # the first ten only train, so that no draw leaves training empty
        table = 0 if user < 10 else rng.integers(0, 3)
        sequences = {d: rng.integers(1, items + 1, rng.integers(0, 6)) for d in DOMAINS}
        for i, d in enumerate(DOMAINS):
            if len(sequences[d]) and rng.random() < 0.8:
                where = rng.integers(0, 2) if table == 2 else table  # 2: the two rows may fall to either side
                lines.append((int(where), f"u{user}", i, sequences))
    tables = []
    for which in (0, 1):
        part = [line for line in lines if line[0] == which]
        full = {d: Ragged.from_lists([line[3][d] for line in part]) for d in DOMAINS}
        user = np.array([line[1] for line in part], dtype=object)
        domain = np.array([line[2] for line in part], dtype=np.int64)
        tables.append(raw_rows(catalogue, user, domain, full, np.arange(len(part))))
    return RawPair("random", "none", catalogue, *tables)


def contents(rows) -> list[tuple]:
    """Rows by what they hold, in no order."""
    return sorted(
        (
            rows.user[i],
            int(rows.domain[i]),
            int(rows.target[i]),
            *(tuple(rows.history[d][i].tolist()) for d in DOMAINS),
            tuple(rows.excluded[i].tolist()),
        )
        for i in range(len(rows))
    )


def shuffled(raw: RawPair, seed: int) -> RawPair:
    rng = np.random.default_rng(seed)
    return replace(
        raw, train=raw.train.take(rng.permutation(len(raw.train))), test=raw.test.take(rng.permutation(len(raw.test)))
    )


@given(raw_pairs())
@REPEATED
def test_strict_when_applied_keeps_users_on_one_side(raw):
    users = {split: set(rows.user) for split, rows in protocols.strict(raw, SPLIT).splits.items()}
    assert users["train"] and users["validation"]
    assert not users["train"] & users["validation"]
    assert not users["test"] & (users["train"] | users["validation"])
    assert users["test"] == set(raw.test.user)
    assert users["train"] | users["validation"] == set(raw.train.user) - set(raw.test.user)


@given(raw_pairs())
@REPEATED
def test_strict_when_applied_leaves_no_target_in_either_history(raw):
    links = raw.catalogue.links.tolist()
    twins = {(0, x): y for x, y in links} | {(1, y): x for x, y in links}
    for rows in protocols.strict(raw, SPLIT).splits.values():
        for i in range(len(rows)):
            domain, target = int(rows.domain[i]), int(rows.target[i])
            assert target not in rows.history[DOMAINS[domain]][i]
            assert twins.get((domain, target)) not in rows.history[DOMAINS[1 - domain]][i].tolist()
            assert target not in rows.excluded[i]


@given(raw_pairs())
@REPEATED
def test_strict_when_applied_takes_nothing_but_targets_from_test_histories(raw):
    test = protocols.strict(raw, SPLIT).splits["test"]
    assert len(test) == len(raw.test)
    left = 0
    for i in range(len(test)):
        for j, d in enumerate(DOMAINS):
            barred = test.target[i] if test.domain[i] == j else raw.catalogue.linked(DOMAINS[1 - j])[test.target[i]]
            expected = [item for item in raw.test.history[d][i].tolist() if item != barred]
            left += len(raw.test.history[d][i]) - len(expected)
            assert test.history[d][i].tolist() == expected
    assert protocols.strict(raw, SPLIT).removed["targets scrubbed from test histories"] == left


@given(raw_pairs(), st.integers(0, 2**32 - 1), st.sampled_from(["strict", "released"]))
@REPEATED
def test_protocol_when_the_input_comes_in_another_order_gives_the_same_rows(raw, seed, name):
    one = protocols.apply(name, raw, SPLIT, CONTROLS)
    other = protocols.apply(name, shuffled(raw, seed), SPLIT, CONTROLS)
    for split in SPLITS:
        assert contents(one.splits[split]) == contents(other.splits[split])
    assert (one.tail, one.removed) == (other.tail, other.removed)


@given(raw_pairs(), st.floats(0.0, 0.9))
@REPEATED
def test_cold_rows_when_made_are_the_share_asked_for(raw, share):
    before = protocols.strict(raw, SPLIT.model_copy(update={"cold_share": 0.0})).splits["validation"]
    dataset = protocols.strict(raw, SPLIT.model_copy(update={"cold_share": share}))
    after = dataset.splits["validation"]
    able = set(before.user[before.kinds()["overlapping"]])
    made = set(contents(after)) - set(contents(before))
    assert len(made) == round(share * len(able))
    assert len({line[0] for line in made}) == len(made)  # one row a user
    assert {line[0] for line in made} <= able
    assert len(before) - len(after) == dataset.removed["validation rows of users made cold"]
    # a user made cold keeps one row, all others keep theirs
    cold_users = {line[0] for line in made}
    assert [line for line in contents(before) if line[0] not in cold_users] == [
        line for line in contents(after) if line[0] not in cold_users
    ]
    assert sum(line[0] in cold_users for line in contents(after)) == len(cold_users)


@given(raw_pairs())
@REPEATED
def test_cold_rows_when_made_lose_their_own_history_and_nothing_else(raw):
    known = {(line[0], line[1]): line for line in contents(protocols.scrub(raw.train)[0])}
    for line in contents(protocols.strict(raw, SPLIT).splits["validation"]):
        before, own = known[line[:2]], 3 + line[1]
        assert line[5] == before[own]  # excluded: the own history before any removal
        assert line[2] == before[2]
        assert line[7 - own] == before[7 - own]  # the other history, as it was
        assert line[own] in ((), before[own])


def test_excluded_when_nothing_was_removed_is_the_own_history(dataset):
    for split in ("train", "test"):
        rows = dataset.splits[split]
        for i in range(len(rows)):
            assert rows.excluded[i].tolist() == rows.history[DOMAINS[rows.domain[i]]][i].tolist()


@given(raw_pairs())
@REPEATED
def test_tail_limits_when_computed_slowly_are_the_same(raw):
    for rows in protocols.strict(raw, SPLIT).splits.values():
        tail = protocols.tail_limits(rows)
        for i, d in enumerate(DOMAINS):
            lengths = sorted(len(rows.history[d][row]) for row in range(len(rows)) if rows.domain[row] == i)
            shortest = lengths[: math.floor(len(lengths) * 8 / 10)]
            expected = sum(shortest) / len(shortest) if shortest else 0.0
            assert tail[d] == pytest.approx(expected, abs=1e-12)


@given(raw_pairs())
@REPEATED
def test_released_when_applied_leaves_test_rows_untouched(raw):
    dataset = protocols.released(raw, SPLIT)
    assert contents(dataset.splits["test"]) == contents(raw.test)
    assert dataset.splits["test"].source.tolist() == raw.test.source.tolist()
    users = {split: set(rows.user) for split, rows in dataset.splits.items()}
    assert not users["train"] & users["validation"]
    assert users["train"] | users["validation"] == set(raw.train.user)


@pytest.mark.parametrize("name", ["released", "strict"])
def test_validation_when_split_off_is_a_tenth_of_the_training_users(name, tiny):
    raw = synthetic.generate(tiny.synthetic)
    splits = protocols.apply(name, raw, load("paper").split, CONTROLS).splits
    users = {split: len(set(rows.user)) for split, rows in splits.items()}
    assert users["validation"] == round(0.1 * (users["train"] + users["validation"])) > 10


def test_split_when_data_seed_changes_holds_out_other_users(tiny):
    raw = synthetic.generate(tiny.synthetic)
    one, other = (
        set(protocols.strict(raw, tiny.split.model_copy(update={"data_seed": seed})).splits["validation"].user)
        for seed in (0, 1)
    )
    assert len(one) == len(other)
    assert len(one & other) < len(one) / 2


def test_split_when_validation_would_be_empty_is_an_error(tiny):
    raw = synthetic.generate(tiny.synthetic)
    few = replace(raw, train=raw.train.take(np.arange(4)))
    with pytest.raises(DataError, match=r"validation_share = 0\.1 of 4 training users leaves 0"):
        protocols.released(few, load("paper").split)


def test_raw_rows_when_cut_take_the_last_own_item_as_target():
    ids = {d: np.array(list("abcdef"), dtype=object) for d in DOMAINS}
    catalogue = Catalogue({"x": "X", "y": "Y"}, ids, np.zeros((0, 2), np.int32), {d: None for d in DOMAINS})
    full = {"x": Ragged.from_lists([[1, 2, 3], [4], [5, 6]]), "y": Ragged.from_lists([[1], [], [2, 3]])}
    users = np.array(["a", "b", "c"], dtype=object)
    rows = raw_rows(catalogue, users, np.array([0, 0, 1]), full, np.arange(3))
    assert contents(rows) == [
        ("a", 0, 3, (1, 2), (1,), (1, 2)),
        ("b", 0, 4, (), (), ()),
        ("c", 1, 3, (5, 6), (2,), (2,)),
    ]


def test_hash_when_taken_of_the_same_key_is_the_same_everywhere():
    # a frozen value: it decides splits and candidates, on every machine and in every version
    frozen = [8085404301934878351, 13681344822170055671]
    assert hashed(["u1", "u2"], "validation", 0).tolist() == frozen
    assert hashed(["u2"], "validation", 0).tolist() == frozen[1:]
    assert not set(hashed(["u1", "u2"], "validation", 1).tolist()) & set(frozen)
