"""TALE: the closed form against loops and a solver, with gaps in time and without."""

from __future__ import annotations

import numpy as np
import pytest

from i2vae_lib.data.rows import Ragged
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.systems.tale import gaps_in_medians, solved


def test_gaps_when_neighbours_share_a_stamp() -> None:
    sequences = Ragged.from_lengths(np.arange(1, 7), np.array([4, 2]), np.array([0, 10, 10, 40, 100, 120]))
    # neighbours: 10, 0, 30 and 20; the median of those that differ is 20
    assert gaps_in_medians(sequences, np.array([0, 1, 4]), np.array([3, 2, 5])).tolist() == [2.0, 0.0, 1.0]


@pytest.mark.parametrize("timed", [True, False])
def test_solved_when_compared_with_loops(timed: bool, tiny: Parameters) -> None:
    lists, times = [[1, 3, 2, 5], [4, 2], [5], [2, 3, 1]], [[0, 3, 4, 9], [2, 6], [1], [5, 7, 20]]
    p = tiny.tale.model_copy(update={"decay": 0.5, "time_decay": 0.7, "floor": 0.2})
    flat = Ragged.from_lists(lists)
    sequences = Ragged(flat.values, flat.offsets, np.concatenate(times))
    found = solved(sequences, np.zeros(len(flat.values), dtype=np.int64), 6, p, timed)
    median = np.median(np.concatenate([np.diff(one) for one in times]))
    source, target = [], []
    for items, when in zip(lists, times, strict=True):
        for asked in range(1, len(items)):
            before, after = np.zeros(6), np.zeros(6)
            for k in range(asked):
                gap = (when[asked] - when[k]) / median if timed else 0.0
                before[items[k] - 1] += max(np.exp(-gap / 0.7), 0.2)
            after[items[asked] - 1] = 1.0
            source.append(before)
            target.append(after)
    s, t = np.array(source), np.array(target)
    np.testing.assert_allclose(found, np.linalg.solve(s.T @ s + 0.5 * np.eye(6), s.T @ t), atol=1e-5)
