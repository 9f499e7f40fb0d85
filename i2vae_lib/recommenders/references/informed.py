"""The ceiling of the planted world that a model can reach: true items, interests inferred from the histories.

Topics and popularities of the items are the true ones. A row's interests are the mean of the Dirichlet posterior,
given its histories and the prior that the world was drawn with: of the shared topics from both histories, of the
specific ones from its own. Exact where interests do not drift and ``synthetic.dial`` is 1, and nearly so elsewhere. A
row without any history is ranked by popularity, as by everybody.
"""

from __future__ import annotations

import numpy as np

from i2vae_lib.data.rows import DOMAINS, Array, Rows
from i2vae_lib.recommenders.references.oracle import Oracle


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
