"""The order of items that training rows stand in, and rankers that go by it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib.data.rows import Catalogue, Ragged, Rows
from i2vae_lib.experiments.after_the_last import AfterTheLast, places
from i2vae_lib.recommenders.references.popularity import Popularity


def rows_of(lists: list[list[int]], items: int) -> Rows:
    """Rows of X alone: the last of each list is the target."""
    ids = {d: np.array([f"{d}{i}" for i in range(1, items + 1)], dtype=object) for d in "xy"}
    catalogue = Catalogue({"x": "X", "y": "Y"}, ids, np.zeros((0, 2), dtype=np.int32), {"x": None, "y": None})
    own, empty = Ragged.from_lists([one[:-1] for one in lists]), Ragged.from_lists([[] for _ in lists])
    users = np.array([f"u{i}" for i in range(len(lists))], dtype=object)
    domain, target = np.zeros(len(lists), dtype=np.int8), np.array([one[-1] for one in lists], dtype=np.int32)
    return Rows(catalogue, users, domain, target, {"x": own, "y": empty}, own, np.arange(len(lists)))


def test_places_when_all_are_in_one_row_are_its_own() -> None:
    found = places(rows_of([[3, 1, 4, 2]], 5))
    np.testing.assert_array_equal(found["x"], [np.nan, 1, 3, 0, 2, np.nan])
    assert np.isnan(found["y"]).all() and len(found["y"]) == 6


def test_places_when_an_item_may_stand_anywhere_are_in_the_middle() -> None:
    # 5 is after 1 and before 4, as 2 and 3 are: it may be the second or the third
    found = places(rows_of([[1, 2, 3, 4], [1, 5, 4]], 5))["x"]
    np.testing.assert_array_equal(found[1:], [0, 1, 2, 3, 1.5])


def test_places_when_items_are_in_a_cycle_share_one() -> None:
    found = places(rows_of([[1, 2, 3], [3, 4, 2], [4, 5], [6, 6]], 6))["x"]
    np.testing.assert_array_equal(found[1:], [0, 1, 1, 1, 2, np.nan])


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(range(1, 13)),
    st.lists(st.sets(st.integers(1, 12), min_size=2, max_size=6), min_size=1, max_size=15),
    st.randoms(use_true_random=False),
)
def test_places_when_rows_stand_in_one_order_agree_with_every_row(order, sets, random) -> None:
    lists = [sorted(one, key=order.index) for one in sets]
    found = places(rows_of(lists, 12))["x"]
    for one in lists:
        assert all(found[a] < found[b] for a, b in itertools.pairwise(one))
    assert set(np.flatnonzero(np.isnan(found))) == set(range(13)) - set().union(*sets)
    # neither the order of the rows nor the numbers of the items matter
    random.shuffle(lists)
    renamed = np.array([0, *random.sample(range(1, 13), 12)])
    again = places(rows_of([renamed[one].tolist() for one in lists], 12))["x"]
    np.testing.assert_array_equal(again[renamed], found)


class Plain(Popularity):
    """Scores that are the candidates' own numbers, and for the even ones 0."""

    name = "plain"

    def learn(self, train, validation, params):
        self.asked = train, params

    def score(self, rows, candidates):
        return np.where(candidates % 2 == 0, 0.0, candidates).astype(np.float32)


@pytest.fixture
def ranker() -> AfterTheLast:
    train = rows_of([[1, 2, 3, 4, 5, 6, 7]], 9)
    found = AfterTheLast(Plain(train.catalogue))
    named = {"params": None, "generator": None, "rng": np.random.default_rng(0), "callbacks": None}
    assert found.fit(train, train, **named) is found and found.name == "plain_after"
    assert found.plain.asked[0] is train and found.plain.asked[1] is None
    return found


def test_score_when_candidates_stand_before_the_last_puts_them_behind(ranker: AfterTheLast) -> None:
    asks = rows_of([[2, 4, 9], [8, 9], [9]], 9)  # the last is 4; one without a place; no history
    candidates = np.tile(np.array([1, 2, 3, 4, 5, 6, 7, 8, 9]), (3, 1))
    scores = ranker.score(asks, candidates)
    assert scores.dtype == np.float32 and scores.shape == (3, 9)
    plain = ranker.plain.score(asks, candidates)[0]
    late = [3, 4, 5, 6, 7, 8]  # 4 itself, what comes after it, and 8 and 9, which have no place
    for one, two in itertools.product(range(9), range(9)):
        expected = (one in late, plain[one]) > (two in late, plain[two])
        assert (scores[0, one] > scores[0, two]) == expected
        assert (scores[1:, one] > scores[1:, two]).tolist() == [plain[one] > plain[two]] * 2
