"""SLIST: cuts by hand, the closed form against loops and a solver, and scores against a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, DataError, Ragged
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import SLISTM, SLISTS
from i2vae_lib.recommenders.systems.slist import cuts, solved
from tests.helpers.worlds import fitted


def test_cuts_when_a_stamp_holds_both_domains() -> None:
    moments = np.array([1, 2, 2, 3, 3, 1, 1, 4])
    sequences = Ragged.from_lengths(np.array([1, 2, 12, 3, 4, 5, 6, 7]), np.array([5, 3]), moments)
    domain = np.array([0, 0, 1, 0, 0, 0, 0, 0])
    # not after event 1, inside the stamp of 2 and 12; inside a stamp of one domain as anywhere
    assert cuts(sequences, domain).tolist() == [0, 2, 3, 5, 6]


@pytest.mark.parametrize("consistency", [0.0, 0.4, 1.0])
def test_solved_when_compared_with_loops(consistency: float, tiny: Parameters) -> None:
    lists = [[1, 3, 2, 5], [4, 2], [5], [2, 3, 1]]
    p = tiny.slist.model_copy(
        update={"consistency": consistency, "source_decay": 2.0, "target_decay": 0.7, "decay": 0.5}
    )
    flat = Ragged.from_lists(lists)
    sequences = Ragged(flat.values, flat.offsets, np.arange(len(flat.values)))
    found = solved(sequences, np.zeros(len(flat.values), dtype=np.int64), 6, p)
    x, s, t = [], [], []
    for items in lists:
        x.append([float(i in items) for i in range(1, 7)])
        for cut in range(1, len(items)):
            before, after = np.zeros(6), np.zeros(6)
            for k in range(cut):
                before[items[k] - 1] += np.exp(-(cut - 1 - k) / 2.0)
            for k in range(cut, len(items)):
                after[items[k] - 1] += np.exp(-(k - cut) / 0.7)
            s.append(before / before.sum())
            t.append(after / after.sum())
    together, source, target = np.array(x), np.array(s), np.array(t)
    left = consistency * together.T @ together + (1 - consistency) * source.T @ source + 0.5 * np.eye(6)
    right = consistency * together.T @ together + (1 - consistency) * source.T @ target
    np.testing.assert_allclose(found, np.linalg.solve(left, right), atol=1e-5)


@pytest.mark.parametrize("kind", [SLISTS, SLISTM])
def test_scores_when_compared_with_a_loop(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = fitted(kind(dataset.catalogue, tiny), dataset, tiny)
    rows = dataset.splits["test"]
    rows = rows.take(system.can_rank(rows)).take(np.arange(20))
    scores = system.score(rows, np.broadcast_to(np.arange(1, 121, dtype=np.int32), (20, 120)))
    for i in range(20):
        d = DOMAINS[rows.domain[i]]
        name, low = system.reading.stream(d), system.reading.offset(d)
        items = system.reading.histories(rows.take(np.array([i])), d)[0]
        expected = np.zeros(120)
        for back, item in enumerate(items[::-1]):
            expected += (
                np.exp(-back / tiny.slist.recency_decay) * system.frozen[name].numpy()[item - 1, low : low + 120]
            )
        np.testing.assert_allclose(scores[i], expected, atol=1e-5)


def test_fit_when_the_catalogue_is_too_large(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    small = tiny.model_copy(update={"slist": tiny.slist.model_copy(update={"limit": 239})})
    with pytest.raises(DataError, match=r"slist-m: 240 items .* slist.limit allows 239"):
        fitted(SLISTM(dataset.catalogue, small), dataset, small)
    fitted(SLISTS(dataset.catalogue, small), dataset, small)  # 120 a domain
