"""Evidence: what other users' choices say about the items that a row may ask for, measured in several ways.

A count of co-occurrence (:mod:`.generators.cooccurrence`) needs settings: the weights of nearness, direction and
recency, and of items of the other domain. Which settings suit a pair of logs is not known beforehand, so the recipe
takes a few *kernels*, from a plain bag to "what came right after the last item", and the model learns how much to trust
each (``model.scores`` of :mod:`i2vae_lib.model.every_position`). Each row's own user is left out of every count, so
that a training row sees what a new user with its histories would see.

A row keeps the candidates with the highest sum of the kernels' scores (each kernel's divided by the row's largest);
the evidence of all other items is 0. Items of the own history are no candidates.

On order-free data (``strict``) a kernel has only its shrinkage and its weight across domains.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from i2vae_lib.data.rows import DOMAINS, ORDER_FREE, Array, Catalogue, Rows, batched
from i2vae_lib.generators.cooccurrence import Kernel, LeaveOneOutCounts, best_of, scores_of
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.generators.recency import RecentTakers
from i2vae_lib.parameter_groups import EvidenceParameters

CHUNK = 256  # rows at once: each needs a dense line of the domain per kernel


@dataclass(frozen=True)
class RowEvidence:
    """The evidence of some rows.

    Parameters
    ----------
    items
        Unsigned, of no more bits than the catalogue needs, [rows, c], best first, then 0 where there are fewer.
    scores
        float32 [rows, c, kernels], not negative.
    moment
        int64 [rows], each a line of :attr:`RecentTakers.counts`.
    """

    items: Array
    scores: Array
    moment: Array

    def take(self, at: Array) -> Self:
        return type(self)(self.items[at], self.scores[at], self.moment[at])

    def then(self, other: Self) -> Self:
        """The rows of both, these first."""
        parts = zip((self.items, self.scores, self.moment), (other.items, other.scores, other.moment), strict=True)
        return type(self)(*(np.concatenate(both) for both in parts))


def kernels(p: EvidenceParameters, protocol: str) -> list[Kernel]:
    """The kernels that the parameters name, each once."""
    values = zip(p.shrinkage, p.proximity, p.backward, p.across, p.recency, strict=True)
    named = [Kernel(*settings) for settings in values]
    if protocol in ORDER_FREE:
        named = [Kernel(kernel.shrinkage, across=kernel.across) for kernel in named]
    return list(dict.fromkeys(named))


class Evidence:
    """Kernels over the counts of training users, and recent takers.

    Parameters
    ----------
    left_out
        One per kernel; they share users and interactions.
    """

    name = "evidence"

    def __init__(
        self, p: EvidenceParameters, left_out: list[LeaveOneOutCounts], recent: RecentTakers, catalogue: Catalogue
    ):
        self.p, self.left_out, self.recent, self.catalogue = p, left_out, recent, catalogue

    @classmethod
    def fit(cls, train: Rows, p: EvidenceParameters, protocol: str, counted: LeaveOneOutCounts | None = None) -> Self:
        """Count the training rows, targets included.

        Parameters
        ----------
        counted
            Counts of the same rows, under any settings, to share; None: count now.
        """
        wanted = kernels(p, protocol)
        counts = (counted or LeaveOneOutCounts.fit(train, wanted[0])).reweighted(*wanted) if wanted else []
        return cls(p, counts, RecentTakers.fit(train, p.half_lives), train.catalogue)

    def of(self, rows: Rows) -> RowEvidence:
        """The evidence of rows, from their histories and the moments of their targets."""
        largest = max(self.catalogue.size(d) for d in DOMAINS)
        width = min(self.p.items, largest) if self.left_out else 0
        items = np.zeros((len(rows), width), dtype=np.min_scalar_type(largest))
        scores = np.zeros((*items.shape, len(self.left_out)), dtype=np.float32)
        for d in DOMAINS if width else ():
            whole = rows.of(d)
            for at in batched(whole, CHUNK):
                best, values = self._best(rows.take(at), d, width)
                items[at, : best.shape[1]], scores[at, : best.shape[1]] = best, values
        return RowEvidence(items, scores, self.recent.at(rows))

    def _best(self, rows: Rows, d: str, width: int) -> tuple[Array, Array]:
        """Items and scores of rows that ask for one domain, [rows, at most width]."""
        unified = self.left_out[0].unified
        scores = scores_of(self.left_out, rows, d)
        return best_of(scores, rows.history[d], unified.histories(rows), unified.column[d], width)

    def foreign_counts(self, train: Rows) -> Array:
        """Counts that do not come from these rows, by unified item: int64 [n]."""
        differing = Unified(self.catalogue).summed(self.recent.foreign_counts(train, self.p.half_lives))
        if self.left_out:
            again = LeaveOneOutCounts.fit(train, self.left_out[0].p)
            both = zip(self.left_out, again.reweighted(*(counts.p for counts in self.left_out)), strict=True)
            differing += sum(counts.differences_from(anew) for counts, anew in both)
        return differing

    def without_users(self) -> Self:
        """Evidence for new users now: counts without the users, and recent takers at the last moment only."""
        counts = [of_kernel.without_users() for of_kernel in self.left_out]
        return type(self)(self.p, counts, self.recent.now(), self.catalogue)

    def arrays(self) -> dict[str, Array]:
        """Everything that :meth:`of` needs; after :meth:`without_users` each kernel has counts of its own."""
        arrays = self.recent.arrays()
        if self.left_out and len(self.left_out[0].users):
            return arrays | self.left_out[0].arrays()
        for number, counts in enumerate(self.left_out):
            arrays |= {f"{number}/{name}": array for name, array in counts.arrays().items()}
        return arrays

    @classmethod
    def restore(cls, p: EvidenceParameters, protocol: str, catalogue: Catalogue, arrays: Mapping[str, Array]) -> Self:
        """Rebuild from :meth:`arrays`."""
        wanted, recent = kernels(p, protocol), RecentTakers.restore(arrays)
        if wanted and "users" in arrays:
            first = LeaveOneOutCounts.restore(catalogue, arrays, wanted[0])
            return cls(p, first.reweighted(*wanted), recent, catalogue)
        counts = []
        for number, kernel in enumerate(wanted):
            own = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{number}/")}
            counts.append(LeaveOneOutCounts.restore(catalogue, own, kernel))
        return cls(p, counts, recent, catalogue)
