"""The oracle of the planted world: ranks by the true probability of every next item. A ceiling, not a model.

No history tells the interests that it knows, so nobody can reach it; :mod:`.references.informed` is the
ceiling that can be reached. It reads the truth, so it has no ``fit``, ``save`` or ``recommend``; it meets only what
evaluation needs. A row without any history is ranked by popularity as from everybody, which keeps the ceiling
comparable row by row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, DataError, Rows
from i2vae_lib.data.synthetic import item_probabilities
from i2vae_lib.recommenders import contract


class Oracle:
    """Scores a candidate by its planted probability.

    Raises
    ------
    DataError
        The dataset holds no truth (it is not synthetic).
    """

    name = "oracle"

    def __init__(self, dataset: CrossDomainDataset, popularity: Mapping[str, Array]):
        if not dataset.truth:
            raise DataError(
                f"{dataset.name} has no planted truth: the {self.name} ranker exists only for data = synthetic under "
                f"chronological"
            )
        self.truth = dataset.truth
        self.popularity = popularity

    def interests(self, rows: Rows, domain: str) -> Array:
        """Interests of rows that all have their target in ``domain``, at the target: [rows, S + P]."""
        return self.truth["interest"][rows.source]

    def score(self, rows: Rows, candidates: Array) -> Array:
        contract.check_candidates(rows, candidates)
        scores = np.zeros(candidates.shape, dtype=np.float32)
        for d in DOMAINS:
            at = rows.of(d)
            if len(at):
                every = item_probabilities(self.interests(rows.take(at), d), d, self.truth)
                scores[at] = np.take_along_axis(every, candidates[at].astype(np.int64), axis=1)
        blank = contract.without_evidence(rows)
        scores[blank] = contract.gather(self.popularity, rows.take(blank), candidates[blank])
        return scores
