"""Protocols: which row may stand where, on random pairs that have every defect of the released files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib.data import DOMAINS, Catalogue, DataError, Ragged, protocols, splitting, synthetic, user_sequences
from i2vae_lib.data.protocols import RawPair
from i2vae_lib.data.released import read_pair
from i2vae_lib.data.rows import SPLITS, hashed, joined
from i2vae_lib.data.splitting import raw_rows
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


def whole(rows, i: int, d: str) -> set[int]:
    """Everything that a row holds of a domain."""
    return {*rows.history[d][i].tolist(), *([int(rows.target[i])] if DOMAINS[rows.domain[i]] == d else [])}


@given(raw_pairs())
@REPEATED
def test_strict_when_applied_takes_nothing_but_targets_from_the_sets_of_test_rows(raw):
    cut = protocols.strict(raw, SPLIT)
    test = cut.splits["test"]
    assert len(test) == len(raw.test)
    left = 0
    for i in range(len(test)):
        for d in DOMAINS:
            barred = {int(test.target_in(d)[i])} if DOMAINS[test.domain[i]] != d else set()
            assert whole(test, i, d) == whole(raw.test, i, d) - barred
            left += len(whole(raw.test, i, d) & barred)
            assert len(set(test.history[d][i].tolist())) == test.history[d].lengths[i]  # a set: each item once
    assert cut.removed["targets scrubbed from test histories"] == left


def permuted(rows, seed: int):
    """The rows as a file with its cells in another order would have them."""
    rng = np.random.default_rng(seed)
    sequences = {d: user_sequences.with_targets(rows, d) for d in DOMAINS}
    mixed_up = {
        d: Ragged.from_lists([rng.permutation(one[i]) for i in range(len(one))]) for d, one in sequences.items()
    }
    return raw_rows(rows.catalogue, rows.user, rows.domain, mixed_up, rows.source)


@given(raw_pairs(), st.integers(0, 2**32 - 1))
@REPEATED
def test_strict_when_the_items_of_a_cell_come_in_another_order_gives_the_same_bytes(raw, seed):
    other = replace(raw, train=permuted(raw.train, seed), test=permuted(raw.test, seed + 1))
    one, two = (protocols.apply("strict", each, SPLIT, CONTROLS) for each in (raw, other))
    assert one.fingerprint() == two.fingerprint()


def test_released_when_the_items_of_a_cell_come_in_another_order_asks_for_others(tiny):
    raw = synthetic.generate(tiny.synthetic)
    other = replace(raw, test=permuted(raw.test, 0))
    one, two = (protocols.apply("released", each, SPLIT, CONTROLS).splits["test"] for each in (raw, other))
    assert (one.target != two.target).mean() > 0.5


def test_files_when_their_cells_are_permuted_give_the_same_parquet_under_strict(tmp_path):
    """From the published layout to the stored dataset: only the checksum of the source differs."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(60):
        x, y = (rng.choice(30, rng.integers(2, 12), replace=False).tolist() for _ in DOMAINS)
        lines.append((user, x, y, user % 2))
    stored = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for table, part in (("train", lines[:45]), ("test", lines[45:])):
            cells = [
                (u, json.dumps(rng.permutation(x).tolist()), json.dumps(rng.permutation(y).tolist()), d)
                for u, x, y, d in part
            ]
            frame = pd.DataFrame(cells, columns=["user_id", "seq_d1", "seq_d2", "domain_id"])
            frame.to_csv(tmp_path / name / f"{table}.csv", index=False)
        raw = read_pair("pair", {"x": "X", "y": "Y"}, *(tmp_path / name / f"{t}.csv" for t in ("train", "test")), name)
        protocols.apply("strict", raw, SPLIT, CONTROLS).save(tmp_path / f"dataset-{name}")
        stored.append({p.name: p.read_bytes() for p in (tmp_path / f"dataset-{name}").glob("*.parquet")})
    assert stored[0] == stored[1] and len(stored[0]) >= 5
    assert raw.source_sha256 == "two"


def test_order_of_items_when_data_seed_changes_is_another_and_seed_plays_no_part(tiny):
    raw = synthetic.generate(tiny.synthetic)
    one, again, other = (protocols.order_free(raw.train, seed) for seed in (0, 0, 1))
    assert (one.target == again.target).all()
    warm = one.lengths("own") > 0
    assert (one.target[warm] != other.target[warm]).mean() > 0.3
    assert (one.target[~warm] == other.target[~warm]).all()  # a single item stays what is asked for


def test_order_of_items_when_a_user_has_two_rows_is_the_same_in_both():
    ids = {d: np.array(list("abcdefgh"), dtype=object) for d in DOMAINS}
    catalogue = Catalogue(
        {"x": "X", "y": "Y"}, ids, np.array([[i, i] for i in range(1, 9)], np.int32), {d: None for d in DOMAINS}
    )
    full = {"x": Ragged.from_lists([[1, 2, 3, 4, 5], [5, 3, 1, 4]]), "y": Ragged.from_lists([[5, 4, 3, 2, 1], [2, 4]])}
    rows = protocols.order_free(
        raw_rows(catalogue, np.array(["a", "a"], dtype=object), np.array([0, 1]), full, np.arange(2)), 0
    )
    orders = [user_sequences.with_targets(rows, d)[i].tolist() for i in range(2) for d in DOMAINS]
    place = {item: at for at, item in enumerate(orders[0])}  # the longest: it holds all five
    for order in orders:
        assert [place[item] for item in order] == sorted(place[item] for item in order)


def twice(raw: RawPair, items: int) -> RawPair:
    """The first test row once more in training, under another name, cut to ``items`` items of both domains."""
    x, y = list(range(1, items // 2 + 1)), list(range(51, 51 + items - items // 2))  # none of them linked
    full = {"x": Ragged.from_lists([x]), "y": Ragged.from_lists([y])}
    [one, two] = (
        raw_rows(raw.catalogue, np.array([name], dtype=object), np.array([0]), full, np.array([10**6 + i]))
        for i, name in enumerate(("alias", "person"))
    )
    return replace(raw, train=joined([raw.train, one]), test=joined([raw.test, two]))


@pytest.mark.parametrize("items", [7, 8])
def test_rows_when_they_equal_a_test_row_under_another_name_leave_from_eight_items_on(tiny, items):
    raw = twice(synthetic.generate(tiny.synthetic), items)
    cut = protocols.strict(raw, SPLIT)
    learnt = {*cut.splits["train"].user, *cut.splits["validation"].user}
    assert ("alias" in learnt) == (items < 8)
    assert cut.removed["training rows that equal a test row under another name"] == (items >= 8)
    assert "alias" in {
        *protocols.released(raw, SPLIT).splits["train"].user,
        *protocols.released(raw, SPLIT).splits["validation"].user,
    }


def test_copies_when_compared_slowly_are_the_same():
    rng = np.random.default_rng(0)
    ids = {d: np.array([f"{d}{i}" for i in range(6)], dtype=object) for d in DOMAINS}
    catalogue = Catalogue({"x": "X", "y": "Y"}, ids, np.zeros((0, 2), np.int32), {d: None for d in DOMAINS})

    def drawn(count, names):
        full = {
            d: Ragged.from_lists([rng.choice(6, rng.integers(4, 7), replace=False) + 1 for _ in range(count)])
            for d in DOMAINS
        }
        user = np.array([f"u{i}" for i in rng.integers(0, names, count)], dtype=object)
        return raw_rows(catalogue, user, rng.integers(0, 2, count), full, np.arange(count))

    rows, others = drawn(300, 20), drawn(60, 20)
    expected = [
        any(
            all(whole(rows, i, d) == whole(others, j, d) for d in DOMAINS) and rows.user[i] != others.user[j]
            for j in range(len(others))
        )
        for i in range(len(rows))
    ]
    assert splitting.copied(rows, others).tolist() == expected and 0 < sum(expected) < len(rows)


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
    train = splitting.scrub(protocols.order_free(raw.train, SPLIT.data_seed))[0]
    known = {(line[0], line[1]): line for line in contents(train)}
    for line in contents(protocols.strict(raw, SPLIT).splits["validation"]):
        before, own = known[line[:2]], 3 + line[1]
        assert line[5] == before[own]  # excluded: the own history before any removal
        assert line[2] == before[2]
        assert line[7 - own] == before[7 - own]  # the other history, as it was
        assert line[own] in ((), before[own])


def test_excluded_when_nothing_was_removed_is_the_own_history(published):
    for split in ("train", "test"):
        rows = published.splits[split]
        for i in range(len(rows)):
            assert rows.excluded[i].tolist() == rows.history[DOMAINS[rows.domain[i]]][i].tolist()


@given(raw_pairs())
@REPEATED
def test_tail_limits_when_computed_slowly_are_the_same(raw):
    for rows in protocols.strict(raw, SPLIT).splits.values():
        tail = splitting.tail_limits(rows)
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
