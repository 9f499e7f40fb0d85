"""The ceiling that a model can reach: posterior interests of hand-made rows, and a slow loop over planted test rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from i2vae_lib.data import DOMAINS, Catalogue, CrossDomainDataset, Ragged
from i2vae_lib.data.rows import Array, Rows, popularity
from i2vae_lib.recommenders import Informed

# two shared topics (0, 1), two specific ones (2, 3); four items a domain, item i + 1 of topic i
TRUTH = {
    "topics_x": np.array([-1, 0, 1, 2, 3]),
    "topics_y": np.array([-1, 0, 1, 2, 3]),
    "popularity_x": np.array([0.0, 1.0, 1.0, 1.0, 1.0]),
    "popularity_y": np.array([0.0, 1.0, 1.0, 1.0, 1.0]),
    "planted_shared": np.zeros((0, 2)),
    "interest": np.zeros((0, 4)),
    "dial": np.array(1.0),
    "focus": np.array(0.5),
    "shared_weight": np.array(0.6),
}
POPULAR = {d: np.array([0, 1, 2, 3, 4]) for d in DOMAINS}


def asked_in_x(x: list[int], y: list[int], target: int = 4) -> Rows:
    ids = {d: np.array([f"{d}{i}" for i in range(4)], dtype=object) for d in DOMAINS}
    catalogue = Catalogue({"x": "A", "y": "B"}, ids, np.zeros((0, 2), dtype=np.int32), {"x": None, "y": None})
    history = {
        d: Ragged.from_lengths(np.array(one, dtype=np.int32), np.array([len(one)]))
        for d, one in zip(DOMAINS, (x, y), strict=True)
    }
    nobody, zero = np.array(["u"], dtype=object), np.zeros(1, dtype=np.int8)
    target_of = np.array([target], dtype=np.int32)
    return Rows(catalogue, nobody, zero, target_of, history, history["x"], np.zeros(1, dtype=np.int64))


def informed(truth: Any = TRUTH) -> Informed:
    return Informed(SimpleNamespace(truth=truth, name="by hand"), POPULAR)  # type: ignore[arg-type]


def scores(x: list[int], y: list[int], truth: Any = TRUTH) -> Array:
    found: Array = informed(truth).score(asked_in_x(x, y), np.array([[1, 2, 3, 4]], dtype=np.int32))[0]
    return found


def test_scores_when_both_histories_are_there_are_the_posterior_means() -> None:
    # shared: topic 0 twice (once in each domain), topic 1 never: (2.5, 0.5) / 3; specific: x alone, topic 2 once: (1.5,
    # 0.5) / 2; the specific item of y says nothing of x
    expected = [0.6 * 2.5 / 3, 0.6 * 0.5 / 3, 0.4 * 1.5 / 2, 0.4 * 0.5 / 2]
    np.testing.assert_allclose(scores([1, 3], [1, 4]), expected, rtol=1e-6)


def test_scores_when_the_row_is_cold_have_shared_topics_alone() -> None:
    expected = [0.6 * 0.5 / 2, 0.6 * 1.5 / 2, 0.4 * 0.5, 0.4 * 0.5]
    np.testing.assert_allclose(scores([], [2, 3]), expected, rtol=1e-6)


def test_scores_when_nothing_is_known_are_popularity() -> None:
    assert scores([], []).tolist() == [1, 2, 3, 4]


def test_scores_when_items_share_a_topic_are_divided_by_popularity() -> None:
    truth = TRUTH | {"topics_x": np.array([-1, 0, 0, 2, 3]), "popularity_x": np.array([0.0, 3.0, 1.0, 1.0, 1.0])}
    first, second, *_ = scores([1], [], truth)
    assert first == pytest.approx(3 * second, rel=1e-6)


def test_scores_when_the_target_is_another_are_the_same() -> None:
    one, two = asked_in_x([1, 3], [1], 2), asked_in_x([1, 3], [1], 4)
    candidates = np.array([[1, 2, 3, 4]], dtype=np.int32)
    np.testing.assert_array_equal(informed().score(one, candidates), informed().score(two, candidates))


def test_scores_when_the_truth_of_interests_is_another_are_the_same(dataset: CrossDomainDataset) -> None:
    # it knows the items, never the person
    rows, counts = dataset.splits["test"], popularity(dataset.splits["train"])
    changed = dict(dataset.truth)
    for key in ("interest", "planted_shared", "planted_x", "planted_y"):
        changed[key] = changed[key][::-1]
    every = np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))
    other = SimpleNamespace(truth=changed, name="changed")
    found = Informed(other, counts).score(rows, every)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, Informed(dataset, counts).score(rows, every))


def test_scores_when_computed_row_by_row_are_the_same(dataset: CrossDomainDataset) -> None:
    rows, counts, truth = dataset.splits["test"], popularity(dataset.splits["train"]), dataset.truth
    every = np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))
    found = Informed(dataset, counts).score(rows, every)
    shared, focus, weight = truth["planted_shared"].shape[1], float(truth["focus"]), float(truth["shared_weight"])
    specific = truth["planted_x"].shape[1]
    kinds = rows.kinds()
    assert all(kinds[kind].any() for kind in ("overlapping", "cold", "no_history"))
    for row in range(len(rows)):
        d = DOMAINS[rows.domain[row]]
        if kinds["no_history"][row]:
            np.testing.assert_array_equal(found[row], counts[d][1:])
            continue
        common, own = np.full(shared, focus), np.full(specific, focus)
        for e in DOMAINS:
            for item in rows.history[e][row]:
                topic = truth[f"topics_{e}"][item]
                if topic < shared:
                    common[topic] += 1
                elif e == d:
                    own[topic - shared] += 1
        interest = np.concatenate([weight * common / common.sum(), (1 - weight) * own / own.sum()])
        topics, popular = truth[f"topics_{d}"], truth[f"popularity_{d}"]
        mass = [popular[topics == topic].sum() for topic in range(shared + specific)]
        expected = np.array([interest[t] / mass[t] * p for t, p in zip(topics[1:], popular[1:], strict=True)])
        np.testing.assert_allclose(found[row], expected / expected.sum(), rtol=1e-5)
