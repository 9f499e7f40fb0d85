"""Rows to tensors, against slow loops over lists."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib.data import CrossDomainDataset, DataError
from i2vae_lib.data.batches import bucketed, collate, draw_negatives, pseudo_sequences
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Ragged, Rows
from i2vae_lib.parameter_groups import ModelParameters
from i2vae_lib.params import load

SIZES = {"x": 30, "y": 20}
LISTS = st.lists(st.lists(st.integers(1, 20), max_size=7), min_size=1, max_size=6)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def parameters(T: int = 4, T_pseudo: int = 6) -> ModelParameters:
    return load("paper", {"model.T": T, "model.T_pseudo": T_pseudo, "psg.recalled": 1}).model


def rows_of(x: list[list[int]], y: list[list[int]], domain: list[int], target: list[int] | None = None) -> Rows:
    ids = {d: np.array([f"{d}{i}" for i in range(1, SIZES[d] + 1)], dtype=object) for d in DOMAINS}
    links = np.zeros((0, 2), dtype=np.int32)
    catalogue = Catalogue({"x": "X", "y": "Y"}, ids, links, {"x": None, "y": None})
    history = {"x": Ragged.from_lists(x), "y": Ragged.from_lists(y)}
    own = Ragged.from_lists([(x, y)[d][i] for i, d in enumerate(domain)])
    user = np.array([f"u{i}" for i in range(len(x))], dtype=object)
    targets = np.array(target or [1] * len(x), dtype=np.int32)
    return Rows(catalogue, user, np.array(domain, dtype=np.int8), targets, history, own, np.arange(len(x)))


def lists_of(ragged: Ragged) -> list[list[int]]:
    return [ragged[i].tolist() for i in range(len(ragged))]


def slow_pad(lists: list[list[int]], cap: int) -> list[list[int]]:
    """The last ``cap`` of each, left-padded to the longest of what is kept, one column at least."""
    kept = [one[-cap:] for one in lists]
    width = max(1, *(len(one) for one in kept))
    return [[0] * (width - len(one)) + one for one in kept]


def slow_pseudo(real: list[int], recalled: list[int], cap: int, arrangement: str) -> list[int]:
    """One pseudo-sequence item by item, built from its end backwards."""
    real, recalled = list(real), [item for item in recalled if item]
    real = real[max(0, len(real) - (cap - len(recalled))) :]
    if arrangement == "append":
        return real + recalled
    backwards = []
    while real or recalled:
        backwards += [part.pop() for part in (recalled, real) if part]
    return backwards[::-1]


@quick
@given(LISTS, st.integers(1, 9))
def test_last_when_compared_with_a_loop(lists: list[list[int]], width: int) -> None:
    found = Ragged.from_lists(lists).last(width)
    assert found.tolist() == slow_pad(lists, width)
    assert found.dtype == np.int32


@quick
@given(LISTS, st.data())
def test_take_when_compared_with_a_loop(lists: list[list[int]], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8))
    found = Ragged.from_lists(lists).take(np.array(index, dtype=np.int64))
    assert lists_of(found) == [lists[i] for i in index]


@quick
@given(LISTS, st.data())
def test_keep_when_compared_with_a_loop(lists: list[list[int]], data: st.DataObject) -> None:
    mask = [data.draw(st.lists(st.booleans(), min_size=len(one), max_size=len(one))) for one in lists]
    flat = np.array([kept for one in mask for kept in one], dtype=bool)
    found = Ragged.from_lists(lists).keep(flat)
    assert lists_of(found) == [[v for v, kept in zip(one, keep) if kept] for one, keep in zip(lists, mask)]


@quick
@given(LISTS)
def test_ragged_when_read_back(lists: list[list[int]]) -> None:
    ragged = Ragged.from_lists(lists)
    assert (len(ragged), lists_of(ragged)) == (len(lists), lists)
    assert ragged.lengths.tolist() == [len(one) for one in lists]
    assert ragged.owner.tolist() == [i for i, one in enumerate(lists) for _ in one]


def test_ragged_when_empty() -> None:
    empty = Ragged.from_lists([])
    assert (len(empty), empty.last(5).shape) == (0, (0, 1))
    assert Ragged.from_lists([[], []]).last(5).tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("arrangement", "expected"),
    [
        ("append", [[1, 2, 3, 11, 12], [0, 0, 4, 11, 12], [0, 0, 0, 11, 12], [0, 1, 2, 3, 11], [0, 0, 0, 1, 2]]),
        ("interleave", [[1, 2, 11, 3, 12], [0, 0, 11, 4, 12], [0, 0, 0, 11, 12], [0, 1, 2, 3, 11], [0, 0, 0, 1, 2]]),
    ],
)
def test_pseudo_sequences_when_made_by_hand(arrangement: str, expected: list[list[int]]) -> None:
    """Recalled items are 0-padded on the right where a generator found fewer."""
    real = [[1, 2, 3], [4], [], [1, 2, 3], [1, 2]]
    recalled = np.array([[11, 12], [11, 12], [11, 12], [11, 0], [0, 0]])
    rows = rows_of(real, [[]] * 5, [0] * 5)
    found = pseudo_sequences(rows, recalled, np.arange(5), "x", parameters(), arrangement)
    assert found.tolist() == expected


@pytest.mark.parametrize("arrangement", ["append", "interleave"])
@pytest.mark.parametrize("found", [0, 2, 4])
def test_pseudo_sequences_when_capped(arrangement: str, found: int) -> None:
    """T' = 6 keeps every recalled item and the most recent of the history: no fewer than there is room for."""
    recalled = np.array([[21, 22, 23, 24][:found] + [0] * (4 - found)])
    rows = rows_of([list(range(1, 11))], [[]], [0])
    built = pseudo_sequences(rows, recalled, np.array([0]), "x", parameters(), arrangement)[0].tolist()
    assert sorted(built) == list(range(11 - (6 - found), 11)) + [21, 22, 23, 24][:found]


@quick
@given(LISTS, st.integers(0, 4), st.sampled_from(["append", "interleave"]), st.data())
def test_pseudo_sequences_when_compared_with_a_loop(
    lists: list[list[int]], width: int, arrangement: str, data: st.DataObject
) -> None:
    found = [data.draw(st.lists(st.integers(21, 30), max_size=width)) for _ in lists]
    recalled = np.array([one + [0] * (width - len(one)) for one in found], dtype=np.int32).reshape(len(lists), width)
    at = np.array(data.draw(st.lists(st.integers(0, len(lists) - 1), min_size=1, max_size=6)))
    rows = rows_of(lists, [[]] * len(lists), [0] * len(lists))
    built = pseudo_sequences(rows, recalled, at, "x", parameters(), arrangement)
    assert built.tolist() == slow_pad([slow_pseudo(lists[i], found[i], 6, arrangement) for i in at], 6)


@pytest.mark.parametrize("arrangement", ["append", "interleave"])
def test_collate_when_compared_with_a_loop(arrangement: str) -> None:
    rng, p = np.random.default_rng(0), parameters()
    rows_x = [rng.integers(1, 31, rng.integers(0, 8)).tolist() for _ in range(40)]
    rows_y = [rng.integers(1, 21, rng.integers(0, 8)).tolist() for _ in range(40)]
    domain, target = rng.integers(0, 2, 40).tolist(), rng.integers(1, 21, 40).tolist()
    rows = rows_of(rows_x, rows_y, domain, target)
    recalled = rng.integers(0, 21, (40, 3))
    recalled[recalled[:, 1] == 0, 2] = 0  # padding stands on the right only
    recalled[recalled[:, 0] == 0] = 0
    at = rng.permutation(40)[:25]
    sides = collate(rows, recalled, at, p, arrangement)
    for i, d in enumerate(DOMAINS):
        own, theirs = (rows_x, rows_y) if d == "x" else (rows_y, rows_x)
        position = [k for k, row in enumerate(at) if domain[row] == i]
        here = [at[k] for k in position]
        side = sides[d]
        assert side.position.tolist() == position
        assert side.target.tolist() == [target[row] for row in here]
        assert side.own_length.tolist() == [len(own[row]) for row in here]
        assert side.own.tolist() == slow_pad([own[row] for row in here], p.T)
        assert side.other.tolist() == slow_pad([theirs[row] for row in here], p.T)
        built = [slow_pseudo(own[row], recalled[row].tolist(), p.T_pseudo, arrangement) for row in here]
        assert side.pseudo.tolist() == slow_pad(built, p.T_pseudo)
        assert side.negatives.shape == (len(here), 0)


def test_collate_when_a_domain_has_no_rows() -> None:
    rows = rows_of([[1], [2]], [[3], [4]], [1, 1])
    assert set(collate(rows, np.zeros((2, 0), dtype=np.int32), np.arange(2), parameters(), "append")) == {"y"}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_collate_when_batches_are_of_the_tiny_world(dataset: CrossDomainDataset, split: str) -> None:
    """No column that is padding in every row, but for the one that an empty batch keeps."""
    rows, p = dataset.splits[split], parameters(10, 18)
    recalled = np.zeros((len(rows), 0), dtype=np.int32)
    for at in bucketed(rows.lengths("own"), 16, np.random.default_rng(0)):
        for side in collate(rows, recalled, at, p, "append").values():
            for ids, cap in ((side.own, p.T), (side.other, p.T), (side.pseudo, p.T_pseudo)):
                longest = int((ids != 0).sum(dim=1).max())
                assert ids.shape[1] == max(1, longest) <= cap


def test_negatives_when_histories_are_long() -> None:
    """Never the target, never anything of the whole own history, also what lies beyond T."""
    rng, p = np.random.default_rng(0), parameters(T=2)
    own = [rng.permutation(20)[: rng.integers(0, 16)] + 1 for _ in range(50)]
    target = rng.integers(1, 21, 50)
    rows = rows_of([[]] * 50, [one.tolist() for one in own], [1] * 50, target.tolist())
    side = collate(rows, np.zeros((50, 0), dtype=np.int32), np.arange(50), p, "append", 20, rng)["y"]
    assert side.negatives.shape == (50, 20)
    for row in range(50):
        drawn = set(side.negatives[row].tolist())
        assert drawn <= set(range(1, 21)) - set(own[row].tolist()) - {int(target[row])}


def test_negatives_when_drawn_many_times() -> None:
    """Uniform over the seven items that are left."""
    own = Ragged.from_lists([[2, 5]] * 70_000)
    drawn = draw_negatives(own, np.full(70_000, 9), 10, 10, np.random.default_rng(0))
    counts = np.bincount(drawn.ravel(), minlength=11)
    assert counts[[0, 2, 5, 9]].tolist() == [0, 0, 0, 0]
    assert counts[[1, 3, 4, 6, 7, 8, 10]] == pytest.approx([100_000] * 7, rel=0.01)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("own", [[1, 2, 3, 4], [1, 2, 4, 2]])
def test_negatives_when_no_item_is_left(own: list[int]) -> None:
    with pytest.raises(DataError, match=r"all 4 items"):
        draw_negatives(Ragged.from_lists([[], own]), np.array([1, 3]), 4, 1, np.random.default_rng(0))


def test_negatives_when_one_item_is_left() -> None:
    drawn = draw_negatives(Ragged.from_lists([[1, 2, 2, 1]]), np.array([4]), 4, 4, np.random.default_rng(0))
    assert drawn.tolist() == [[3] * 4]


def test_negatives_when_more_than_the_catalogue_are_asked_for() -> None:
    with pytest.raises(DataError, match=r"^5 training negatives a target, but the domain has only 4 items"):
        draw_negatives(Ragged.from_lists([[1]]), np.array([4]), 4, 5, np.random.default_rng(0))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_bucketed_when_read_to_the_end(dataset: CrossDomainDataset, batch_size: int) -> None:
    rows = dataset.splits["train"]
    batches = list(bucketed(rows.lengths("own"), batch_size, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(rows)))
    assert len(batches) == -(-len(rows) // batch_size)
    assert max(len(at) for at in batches) <= batch_size


def test_bucketed_when_seed_repeats(dataset: CrossDomainDataset) -> None:
    def order(seed: int) -> Array:
        return np.concatenate(list(bucketed(dataset.splits["train"].lengths("own"), 32, np.random.default_rng(seed))))

    assert order(0).tolist() == order(0).tolist()
    assert order(0).tolist() != order(1).tolist()


def test_bucketed_when_lengths_differ(dataset: CrossDomainDataset) -> None:
    """Inside one pool the batches' ranges of own length do not overlap, and batches are not served by length."""
    rows = dataset.splits["train"]
    length = rows.lengths("own")
    batches = list(bucketed(rows.lengths("own"), 32, np.random.default_rng(0)))
    ranges = [(int(length[at].min()), int(length[at].max())) for at in batches]
    assert ranges != sorted(ranges)
    ordered = sorted(ranges)
    assert all(before[1] <= after[0] for before, after in pairwise(ordered))
