"""The oracle of the planted world: ranks by the true probability of every next item. A ceiling, not a model.

It reads the truth, so it has no ``fit``, ``save`` or ``recommend``; it meets only what evaluation needs. A row without
any history is ranked by popularity as from everybody, which keeps the ceiling comparable row by row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from i2vae_lib.data.dataset import DOMAINS, CrossDomainDataset, DataError, Int, Rows
from i2vae_lib.data.synthetic import next_item_probabilities
from i2vae_lib.recommenders import contract


class Oracle:
    """Scores a candidate by its planted probability.

    Raises
    ------
    DataError
        The dataset holds no truth (it is not synthetic).
    """

    name = "oracle"

    def __init__(self, dataset: CrossDomainDataset, popularity: Mapping[str, Int]):
        if not dataset.truth:
            raise DataError(f"{dataset.name} has no planted truth: the oracle exists only for data = synthetic")
        self.truth = dataset.truth
        self.popularity = popularity

    def score(self, rows: Rows, candidates: Int) -> Int:
        contract.check_candidates(rows, candidates)
        scores = np.zeros(candidates.shape, dtype=np.float32)
        for d in DOMAINS:
            at = rows.of(d)
            if len(at):
                truth = next_item_probabilities(self.truth, rows, at, d)
                scores[at] = np.take_along_axis(truth, candidates[at].astype(np.int64), axis=1)
        blank = contract.without_evidence(rows)
        scores[blank] = contract.gather(self.popularity, rows.take(blank), candidates[blank])
        return scores
