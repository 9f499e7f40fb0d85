"""Training users' whole sequences: by hand, against slow loops, and the windows cut from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Catalogue, Ragged, Rows, interactions
from i2vae_lib.data.user_sequences import chained, right_padded, user_sequences, windows, with_targets


def rows_of(*asked: tuple[str, str, int, list[int], list[int]]) -> Rows:
    """Rows from (user, domain, target, history in x, history in y), in a world of 50 items a domain."""
    user, domain, target, x, y = zip(*asked, strict=True)
    ids = {d: np.array([f"{d}{i}" for i in range(50)], dtype=object) for d in DOMAINS}
    names, titles = {d: d for d in DOMAINS}, {d: None for d in DOMAINS}
    return Rows(
        Catalogue(names, ids, np.zeros((0, 2), dtype=np.int32), titles),
        np.array(user, dtype=object),
        np.array([DOMAINS.index(d) for d in domain], dtype=np.int8),
        np.array(target, dtype=np.int32),
        {"x": Ragged.from_lists(x), "y": Ragged.from_lists(y)},
        Ragged.from_lists([[] for _ in asked]),
        np.arange(len(asked)),
    )


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged[i].tolist() for i in range(len(ragged))]


# --- chained ----------------------------------------------------------------------------------------------------------


def test_chained_when_made_by_hand() -> None:
    first, second, third = (
        Ragged.from_lists(one) for one in ([[1, 2], [], [3]], [[4], [5, 6], []], [[7], [], [8, 9, 8]])
    )
    found = chained(first, second, third)
    assert lists(found) == [[1, 2, 4, 7], [5, 6], [3, 8, 9, 8]]
    assert found.values.dtype == np.int32 and found.offsets.dtype == np.int64
    assert lists(chained(first)) == lists(first)


def test_chained_when_compared_with_a_loop() -> None:
    rng = np.random.default_rng(0)
    parts = [[rng.integers(1, 99, rng.integers(0, 6)).tolist() for _ in range(40)] for _ in range(3)]
    found = chained(*(Ragged.from_lists(one) for one in parts))
    assert lists(found) == [a + b + c for a, b, c in zip(*parts, strict=True)]


def test_chained_when_there_are_no_sequences() -> None:
    assert lists(chained(Ragged.from_lists([]), Ragged.from_lists([]))) == []


# --- with_targets and people ------------------------------------------------------------------------------------------


def test_with_targets_when_rows_ask_for_both_domains() -> None:
    rows = rows_of(("a", "x", 9, [1, 2], [3]), ("b", "y", 8, [4], []), ("c", "x", 7, [], []))
    assert lists(with_targets(rows, "x")) == [[1, 2, 9], [4], [7]]
    assert lists(with_targets(rows, "y")) == [[3], [8], []]


def test_people_when_a_user_has_two_rows() -> None:
    rows = rows_of(
        ("b", "y", 30, [1, 2], [20]),  # what b took in x: 1, 2 here, 1, 2, 5 in the other row
        ("a", "x", 6, [7], []),
        ("b", "x", 5, [1, 2], [20]),
    )
    found = user_sequences(rows)
    assert found.users.tolist() == ["b", "a"] and len(found) == 2  # in the order of their first rows
    assert lists(found.sequences["x"]) == [[1, 2, 5], [7, 6]]
    assert lists(found.sequences["y"]) == [[20, 30], []]


def test_people_when_the_later_row_shows_the_earlier_target() -> None:
    rows = rows_of(("a", "x", 3, [1, 2], [9]), ("a", "y", 8, [1, 2, 3], [9]))
    found = user_sequences(rows)
    assert lists(found.sequences["x"]) == [[1, 2, 3]] and lists(found.sequences["y"]) == [[9, 8]]
    assert lists(user_sequences(rows.take(np.array([1, 0]))).sequences["x"]) == [[1, 2, 3]]


def test_people_when_sequences_are_of_one_length() -> None:
    # the first row's, whichever way round
    rows = rows_of(("a", "x", 3, [1], []), ("a", "x", 4, [2], []))
    assert lists(user_sequences(rows).sequences["x"]) == [[1, 3]]
    assert lists(user_sequences(rows.take(np.array([1, 0]))).sequences["x"]) == [[2, 4]]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_people_when_compared_with_a_loop(dataset: CrossDomainDataset, split: str) -> None:
    rows = dataset.splits[split]
    expected: dict[str, dict[str, list[int]]] = {}
    for i, user in enumerate(rows.user):
        one = expected.setdefault(user, {d: [] for d in DOMAINS})
        for j, d in enumerate(DOMAINS):
            shown = rows.history[d][i].tolist() + ([int(rows.target[i])] if rows.domain[i] == j else [])
            one[d] = shown if len(shown) > len(one[d]) else one[d]
    found = user_sequences(rows)
    assert found.users.tolist() == list(expected)
    for d in DOMAINS:
        assert lists(found.sequences[d]) == [one[d] for one in expected.values()]


def test_people_when_compared_with_interactions(dataset: CrossDomainDataset) -> None:
    # the same numbering of users, the same pairs
    train = dataset.splits["train"]
    found, pairs = user_sequences(train), interactions(train)
    for d in DOMAINS:
        mine = set(zip(found.sequences[d].owner.tolist(), found.sequences[d].values.tolist(), strict=True))
        assert mine == set(zip(pairs[d][0].tolist(), pairs[d][1].tolist(), strict=True))


def test_people_when_there_are_no_rows(dataset: CrossDomainDataset) -> None:
    found = user_sequences(dataset.splits["train"].take(np.zeros(0, dtype=int)))
    assert len(found) == 0 and [len(found.sequences[d]) for d in DOMAINS] == [0, 0]


# --- windows ----------------------------------------------------------------------------------------------------------


def test_windows_when_made_by_hand() -> None:
    inputs, targets = windows(Ragged.from_lists([[1, 2, 3, 4, 5], [6, 7], [8], []]), 3)
    assert inputs.tolist() == [[2, 3, 4], [0, 0, 6], [0, 0, 0], [0, 0, 0]]
    assert targets.tolist() == [[3, 4, 5], [0, 0, 7], [0, 0, 0], [0, 0, 0]]


def test_windows_when_the_longest_is_shorter_than_asked_for() -> None:
    inputs, targets = windows(Ragged.from_lists([[1, 2, 3], [4, 5]]), 20)
    assert inputs.tolist() == [[1, 2], [0, 4]] and targets.tolist() == [[2, 3], [0, 5]]


@pytest.mark.parametrize("sequences", [[[4], [], [5]], [[], []]])
def test_windows_when_no_sequence_has_a_next_item(sequences: list[list[int]]) -> None:
    for one in windows(Ragged.from_lists(sequences), 3):
        assert one.shape == (len(sequences), 1) and not one.any()


@pytest.mark.parametrize("length", [1, 4, 30])
def test_windows_when_compared_with_a_loop(dataset: CrossDomainDataset, length: int) -> None:
    sequences = user_sequences(dataset.splits["train"]).sequences["y"]
    inputs, targets = windows(sequences, length)
    assert inputs.shape[1] == min(length, sequences.lengths.max() - 1)
    for i, one in enumerate(lists(sequences)):
        pairs = list(itertools.pairwise(one))[-length:]
        assert [(a, b) for a, b in zip(inputs[i], targets[i], strict=True) if a] == pairs
        assert ((inputs[i] == 0) == (targets[i] == 0)).all()


def test_right_padded_when_sequences_are_longer_shorter_and_empty() -> None:
    found = right_padded(Ragged.from_lists([[1, 2, 3, 4], [5], []]), 3)
    assert found.tolist() == [[2, 3, 4], [5, 0, 0], [0, 0, 0]]
