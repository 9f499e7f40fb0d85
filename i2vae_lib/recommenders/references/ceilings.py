"""The ceilings of the synthetic world: rankers that read its truth, so they have no ``fit``, ``save`` or ``recommend``.

The *oracle* ranks by the true probability of every next item. No history tells the interests that it knows, so nobody
can reach it.

*Informed* is the ceiling that a model can reach: true items, interests inferred from the histories. Topics and
popularities of the items are the true ones. A row's interests are the mean of the Dirichlet posterior, given its
histories and the prior that the world was drawn with: of the shared topics from both histories, of the specific ones
from its own. Exact where interests do not drift and ``synthetic.dial`` is 1, and nearly so elsewhere.

A row without any history is ranked by popularity as from everybody, which keeps the ceilings comparable row by row.
"""

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


class Informed(Oracle):
    """Scores a candidate by its probability given the interests that the row's histories tell.

    Raises
    ------
    DataError
        The dataset holds no truth (it is not synthetic).
    """

    name = "informed"

    def interests(self, rows: Rows, domain: str) -> Array:
        shared = self.truth["planted_shared"].shape[1]
        taken = {d: self._taken(rows, d) for d in DOMAINS}  # [rows, S + P]
        weight = float(self.truth["shared_weight"])
        common = self._posterior(taken["x"][:, :shared] + taken["y"][:, :shared])
        return np.concatenate([weight * common, (1 - weight) * self._posterior(taken[domain][:, shared:])], axis=1)

    def _taken(self, rows: Rows, d: str) -> Array:
        """How many items of each topic stand in the rows' histories of a domain: [rows, S + P]."""
        history, topics = rows.history[d], self.truth["interest"].shape[1]
        cells = history.owner * topics + self.truth[f"topics_{d}"][history.values]
        return np.bincount(cells, minlength=len(rows) * topics).reshape(len(rows), topics)

    def _posterior(self, counts: Array) -> Array:
        raised = counts + float(self.truth["focus"])
        return raised / raised.sum(axis=1, keepdims=True)
