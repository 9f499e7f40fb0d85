"""Ordered counts: what others who took these items took as well, told by how near, in which direction, and how lately.

The counts that the recipe copies from (:mod:`.generators.cooccurrence`, where the formula stands), as a ranker without
a model, with popularity p_j (training users who took j) beside them:

    score(j) = score(j | both histories, the row's own user left out) + popularity log(1 + p_j)

``shrinkage``, ``proximity``, ``backward``, ``recency``, ``across`` and ``popularity`` are chosen on the validation rows
of the pair at hand, by turns: shrinkage and popularity together, since both move the scale of what they are weighed
against, then the others one by one (``neighbours.search``). A model of sequences that does not stand above this has
learnt nothing that pairs of items do not tell.

Order-free data (protocol ``strict``) have no order to learn from: there the bag alone is tried, with ``proximity`` 0,
``backward`` 1 and ``recency`` 1. (Under ``released`` the order of the files is learnt, whatever it means.)

Candidates of equal score, and those of score 0, are in order of popularity
(:mod:`i2vae_lib.recommenders.references.from_histories`).
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Self

import numpy as np

from i2vae_lib.data.rows import ORDER_FREE, Array, Rows, popularity
from i2vae_lib.generators import cooccurrence
from i2vae_lib.generators.cooccurrence import Kernel
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.references.from_histories import Axis, FromHistories, Setting


class OrderedCounts(FromHistories):
    """Leave-one-out co-occurrence and a weight of log popularity."""

    name = "ordered_counts"

    left_out: cooccurrence.LeaveOneOutCounts
    weight: float

    @classmethod
    def of(cls, train: Rows, p: cooccurrence.Settings, weight: float = 0.0) -> Self:
        """With settings that are given, nothing chosen: the counts that a copy path copies, as a ranker."""
        found = cls(train.catalogue)
        found.counts = popularity(train)
        found._take(cooccurrence.LeaveOneOutCounts.fit(train, p), weight)
        return found

    def choices(self, train: Rows, params: Parameters) -> tuple[list[list[Axis]], Callable[[Setting], Setting]]:
        p = params.references
        self._take(cooccurrence.LeaveOneOutCounts.fit(train, Kernel(p.shrinkage[0])), 0.0)

        def learn(setting: Setting) -> Setting:
            counts = {name: value for name, value in setting.items() if name != "popularity"}
            [again] = self.left_out.reweighted(Kernel(**counts))
            self._take(again, setting["popularity"])
            return {}

        turns = [[Axis("shrinkage", p.shrinkage), Axis("popularity", p.popularity)]]
        if params.protocol not in ORDER_FREE:
            turns += [[Axis("proximity", p.proximity)], [Axis("backward", p.backward, (0, 1))]]
            turns += [[Axis("recency", p.recency, (0, 1))]]
        return [*turns, [Axis("across", p.across, (0, 1))]], learn

    def _take(self, left_out: cooccurrence.LeaveOneOutCounts, weight: float) -> None:
        self.left_out, self.weight = left_out, weight

    def evidence(self, rows: Rows, domain: str) -> Array:
        told: Array = self.left_out.scores(rows, domain)
        told += (self.weight * np.log1p(self.counts[domain][1:])).astype(np.float32)
        return told

    def foreign_counts(self, train: Rows) -> Array:
        return self.left_out.foreign_counts(train)

    def arrays(self) -> dict[str, Array]:
        p = self.left_out.p
        settings = [getattr(p, one.name) for one in fields(Kernel)]
        return self.left_out.arrays() | {"settings": np.array([*settings, self.weight], dtype=np.float64)}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        *settings, weight = map(float, arrays["settings"])
        self._take(cooccurrence.LeaveOneOutCounts.restore(self.catalogue, arrays, Kernel(*settings)), weight)
