"""One domain's system read twice: streams, sequences and negatives, by hand on a toy catalogue of 5 and 4 items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, DataError, Ragged, Rows, other
from i2vae_lib.data.user_sequences import user_sequences, windows
from i2vae_lib.recommenders.systems.separate_or_merged import Merged, PerDomain, draw_beside


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged[i].tolist() for i in range(len(ragged))]


@pytest.fixture
def rows() -> Rows:
    """Two rows of user a, a cold one of b, one without any history of c."""
    from i2vae_lib.data.rows import Catalogue

    ids = {d: np.array([f"{d}{i}" for i in range(size)], dtype=object) for d, size in (("x", 5), ("y", 4))}
    links = np.array([[1, 1]], dtype=np.int32)  # x1 and y1 are one product: two numbers all the same
    catalogue = Catalogue({"x": "X", "y": "Y"}, ids, links, {d: None for d in DOMAINS})
    return Rows(
        catalogue,
        np.array(["a", "a", "b", "c"], dtype=object),
        np.array([0, 1, 0, 1], dtype=np.int8),
        np.array([3, 4, 5, 1], dtype=np.int32),
        {"x": Ragged.from_lists([[1, 2], [1, 2, 3], [], []]), "y": Ragged.from_lists([[1], [1], [2, 3], []])},
        Ragged.from_lists([[], [], [], []]),
        np.arange(4),
    )


# --- per domain -------------------------------------------------------------------------------------------------------


def test_per_domain_when_made_by_hand(rows: Rows) -> None:
    reading = PerDomain(rows.catalogue)
    assert reading.streams == ("x", "y")
    assert {s: (reading.size(s), reading.domains(s)) for s in reading.streams} == {"x": (5, ("x",)), "y": (4, ("y",))}
    assert [(reading.stream(d), reading.offset(d)) for d in DOMAINS] == [("x", 0), ("y", 0)]
    found = reading.sequences(rows)
    assert lists(found["x"]) == [[1, 2, 3]]  # the whole sequence of a; b took one item in x, c nothing
    assert lists(found["y"]) == [[1, 4], [2, 3]]
    assert lists(reading.histories(rows, "x")) == [[1, 2], [1, 2, 3], [], []]
    assert reading.can_rank(rows).tolist() == [True, True, False, False]


# --- merged -----------------------------------------------------------------------------------------------------------


def test_merged_when_made_by_hand(rows: Rows) -> None:
    reading = Merged(rows.catalogue)
    assert reading.streams == ("xy",) and reading.size("xy") == 9 and reading.domains("xy") == ("x", "y")
    assert [(reading.stream(d), reading.offset(d)) for d in DOMAINS] == [("xy", 0), ("xy", 5)]
    found = reading.sequences(rows)
    assert list(found) == ["xy"]
    # rows that ask for x, then those for y: other history, own history, target
    assert lists(found["xy"]) == [[6, 1, 2, 3], [7, 8, 5], [1, 2, 3, 6, 9]]
    assert found["xy"].values.dtype == np.int32
    assert lists(reading.histories(rows, "x")) == [[6, 1, 2], [6, 1, 2, 3], [7, 8], []]
    assert lists(reading.histories(rows, "y")) == [[1, 2, 6], [1, 2, 3, 6], [7, 8], []]
    assert reading.can_rank(rows).tolist() == [True, True, True, False]


def test_merged_when_stamps_are_shared(rows: Rows) -> None:
    """In order of time; of a stamp of both domains, a training sequence has the row's own domain alone."""
    timed = replace(
        rows.take(np.array([0, 1])),
        history={
            "x": Ragged.from_lengths(
                np.array([1, 2, 1, 2, 3], dtype=np.int32), np.array([2, 3]), np.array([1, 5, 1, 5, 9])
            ),
            "y": Ragged.from_lengths(np.array([1, 2, 1, 2], dtype=np.int32), np.array([2, 2]), np.array([3, 5, 3, 5])),
        },
        moment=np.array([9, 10]),
    )
    reading = Merged(rows.catalogue)
    assert lists(reading.sequences(timed)["xy"]) == [[1, 6, 2, 3], [1, 6, 7, 3, 9]]
    assert lists(reading.histories(timed, "x")) == [[1, 6, 7, 2], [1, 6, 7, 2, 3]]
    assert lists(reading.histories(timed, "y")) == [[1, 6, 2, 7], [1, 6, 2, 7, 3]]


def test_merged_when_no_step_may_see_what_a_row_may_not(dataset: CrossDomainDataset) -> None:
    """Of every next item, all inputs of the other domain are earlier by stamp."""
    rng, rows, lines = np.random.default_rng(0), dataset.splits["train"].take(np.arange(80)), []
    for domain in rows.domain:
        target = int(rng.integers(4, 9))
        late = {"xy"[domain]: target + 1, "xy"[1 - domain]: target}  # of the other domain nothing of the target's stamp
        lines.append((target, {d: np.sort(rng.integers(0, late[d], rng.integers(1, 6))) for d in DOMAINS}))
    history = {}
    for d in DOMAINS:
        lengths = np.array([len(one[d]) for _, one in lines])
        values = np.concatenate([rng.permutation(100)[:n] + 1 for n in lengths]).astype(np.int32)
        history[d] = Ragged.from_lengths(values, lengths, np.concatenate([one[d] for _, one in lines]))
    target = rng.integers(101, 121, len(rows)).astype(np.int32)
    rows = replace(rows, target=target, history=history, moment=np.array([one for one, _ in lines]))
    sequences, dropped = iter(lists(Merged(rows.catalogue).sequences(rows)["xy"])), 0
    for number, d in enumerate(DOMAINS):
        for i in rows.of(d):
            stamp = {int(target[i]) + 120 * number: lines[i][0]}
            for other_number, one in enumerate(DOMAINS):
                stamp |= dict(zip((history[one][i] + 120 * other_number).tolist(), lines[i][1][one], strict=True))
            sequence = next(sequences)
            assert set(sequence) <= set(stamp) and all(item in sequence for item in stamp if (item > 120) == number)
            dropped += len(stamp) - len(sequence)
            for step, item in enumerate(sequence):
                earlier = [one for one in sequence[:step] if (one > 120) != (item > 120)]
                assert all(stamp[one] < stamp[item] for one in earlier)
    assert dropped > 0


def test_merged_when_targets_change(rows: Rows) -> None:
    # what a row shows when scored holds no target
    blind = replace(rows, target=np.ones(4, dtype=np.int32))
    for d in DOMAINS:
        assert lists(Merged(rows.catalogue).histories(blind, d)) == lists(Merged(rows.catalogue).histories(rows, d))


def test_readings_when_compared_with_loops(dataset: CrossDomainDataset) -> None:
    train = dataset.splits["train"]
    # without a common time: other history, own history, target
    train = replace(train, history={d: replace(one, moments=None) for d, one in train.history.items()}, moment=None)
    merged, apart = Merged(train.catalogue).sequences(train)["xy"], PerDomain(train.catalogue).sequences(train)
    expected = []
    for d in DOMAINS:
        shift = {"x": 0, "y": 120}
        for i in train.of(d):
            opposite = (train.history[other(d)][i] + shift[other(d)]).tolist()
            own = (train.history[d][i] + shift[d]).tolist()
            expected.append([*opposite, *own, int(train.target[i]) + shift[d]])
    assert lists(merged) == [one for one in expected if len(one) > 1]
    for d in DOMAINS:
        assert lists(apart[d]) == [one for one in lists(user_sequences(train).sequences[d]) if len(one) > 1]


# --- negatives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading_of", [PerDomain, Merged])
def test_draw_beside_when_drawn_from_the_tiny_world(dataset: CrossDomainDataset, reading_of: type[PerDomain]) -> None:
    reading = reading_of(dataset.catalogue)
    for stream, sequences in reading.sequences(dataset.splits["train"]).items():
        _, positives = windows(sequences, 10)
        drawn = draw_beside(reading, stream, sequences, positives, 3, np.random.default_rng(0))
        assert drawn.shape == (*positives.shape, 3) and drawn.dtype == np.int64
        assert (drawn[positives == 0] == 0).all() and (drawn[positives > 0] > 0).all()
        assert drawn.max() <= reading.size(stream)
        for i in range(len(sequences)):
            assert not set(drawn[i][positives[i] > 0].ravel().tolist()) & set(sequences[i].tolist())
        # of the positive's domain: both above x's items or both among them
        if stream == "xy":
            assert (((drawn > 120) == (positives > 120)[:, :, None]) | (positives == 0)[:, :, None]).all()
            assert (drawn > 120).any() and (drawn[positives > 0] <= 120).any()


def test_draw_beside_when_drawn_many_times(rows: Rows) -> None:
    """Uniform: of x's five items without 1, 2, 3 and of y's four without 1, each left over equally often."""
    reading = Merged(rows.catalogue)
    sequences, positives = Ragged.from_lists([[6, 1, 2, 3]] * 10_000), np.array([[0, 6, 2]] * 10_000)
    drawn = draw_beside(reading, "xy", sequences, positives, 3, np.random.default_rng(0))
    assert (drawn[:, 0] == 0).all()
    for step, left in ((1, [7, 8, 9]), (2, [4, 5])):
        items, counts = np.unique(drawn[:, step], return_counts=True)
        assert items.tolist() == left
        assert np.abs(counts / 30_000 - 1 / len(left)).max() < 0.01  # 3.7 standard deviations


def test_draw_beside_when_none_are_asked_for(rows: Rows) -> None:
    sequence = Ragged.from_lists([[1, 2], [5]])
    drawn = draw_beside(PerDomain(rows.catalogue), "x", sequence, np.array([[2], [0]]), 0, np.random.default_rng(0))
    assert drawn.shape == (2, 1, 0)


def test_draw_beside_when_a_sequence_holds_the_whole_domain(rows: Rows) -> None:
    reading = Merged(rows.catalogue)
    sequence = Ragged.from_lists([[1, 2, 3, 4, 5, 6]])
    with pytest.raises(DataError, match="are all 5 items of the domain"):
        draw_beside(reading, "xy", sequence, np.array([[5]]), 1, np.random.default_rng(0))
    # y's items are still there for a positive of y
    several = Ragged.from_lists([[1, 2, 3, 4, 5, 6]] * 20)
    drawn = draw_beside(reading, "xy", several, np.array([[6]] * 20), 3, np.random.default_rng(0))
    assert set(drawn.ravel().tolist()) == {7, 8, 9}


def test_draw_beside_when_the_seed_repeats(rows: Rows) -> None:
    reading, sequence, positives = Merged(rows.catalogue), Ragged.from_lists([[1, 6]]), np.array([[6]])
    first, second = (draw_beside(reading, "xy", sequence, positives, 4, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
