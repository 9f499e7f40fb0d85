"""One domain's system read twice: streams, sequences and negatives, by hand on a toy catalogue of 5 and 4 items."""

from __future__ import annotations

import numpy as np
import pytest

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, DataError, Ragged, Rows, other
from i2vae_lib.data.user_sequences import user_sequences, windows
from i2vae_lib.recommenders.separate_or_merged import Merged, PerDomain, draw_beside


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
    assert lists(found["x"]) == [[1, 2, 3], [5]]  # whole sequences of a and b; c took nothing in x
    assert lists(found["y"]) == [[1, 4], [2, 3], [1]]
    assert lists(reading.histories(rows, "x")) == [[1, 2], [1, 2, 3], [], []]
    assert reading.evident(rows).tolist() == [True, True, False, False]


# --- merged -----------------------------------------------------------------------------------------------------------


def test_merged_when_made_by_hand(rows: Rows) -> None:
    reading = Merged(rows.catalogue)
    assert reading.streams == ("xy",) and reading.size("xy") == 9 and reading.domains("xy") == ("x", "y")
    assert [(reading.stream(d), reading.offset(d)) for d in DOMAINS] == [("xy", 0), ("xy", 5)]
    found = reading.sequences(rows)
    assert list(found) == ["xy"]
    # rows that ask for x, then those for y: other history, own history, target
    assert lists(found["xy"]) == [[6, 1, 2, 3], [7, 8, 5], [1, 2, 3, 6, 9], [6]]
    assert found["xy"].values.dtype == np.int32
    assert lists(reading.histories(rows, "x")) == [[6, 1, 2], [6, 1, 2, 3], [7, 8], []]
    assert lists(reading.histories(rows, "y")) == [[1, 2, 6], [1, 2, 3, 6], [7, 8], []]
    assert reading.evident(rows).tolist() == [True, True, True, False]


def test_merged_when_targets_change(rows: Rows) -> None:
    # what a row shows when scored holds no target
    from dataclasses import replace

    blind = replace(rows, target=np.ones(4, dtype=np.int32))
    for d in DOMAINS:
        assert lists(Merged(rows.catalogue).histories(blind, d)) == lists(Merged(rows.catalogue).histories(rows, d))


def test_readings_when_compared_with_loops(dataset: CrossDomainDataset) -> None:
    train = dataset.splits["train"]
    merged, apart = Merged(train.catalogue).sequences(train)["xy"], PerDomain(train.catalogue).sequences(train)
    expected = []
    for d in DOMAINS:
        shift = {"x": 0, "y": 120}
        for i in train.of(d):
            opposite = (train.history[other(d)][i] + shift[other(d)]).tolist()
            own = (train.history[d][i] + shift[d]).tolist()
            expected.append([*opposite, *own, int(train.target[i]) + shift[d]])
    assert lists(merged) == expected
    for d in DOMAINS:
        assert lists(apart[d]) == [one for one in lists(user_sequences(train).sequences[d]) if one]


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
    sequence, positives = Ragged.from_lists([[6, 1, 2, 3]]), np.array([[0, 6, 2]])
    drawn = draw_beside(reading, "xy", sequence, positives, 30_000, np.random.default_rng(0))
    assert (drawn[0, 0] == 0).all()
    for step, left in ((1, [7, 8, 9]), (2, [4, 5])):
        items, counts = np.unique(drawn[0, step], return_counts=True)
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
    drawn = draw_beside(reading, "xy", sequence, np.array([[6]]), 50, np.random.default_rng(0))
    assert set(drawn.ravel().tolist()) == {7, 8, 9}


def test_draw_beside_when_the_seed_repeats(rows: Rows) -> None:
    reading, sequence, positives = Merged(rows.catalogue), Ragged.from_lists([[1, 6]]), np.array([[6]])
    first, second = (draw_beside(reading, "xy", sequence, positives, 9, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
