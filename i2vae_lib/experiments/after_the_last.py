"""One order of items, learnt and used: rankers that go by it are a demonstration, no reference.

Where every sequence of a file stands in one global order of items, the last item of a row's history says of most of the
catalogue that it cannot be the next: it stands before. :class:`AfterTheLast` learns that order from training rows and
puts what a ranker finds behind everything that may still come. What this gains is what the file's order gives away.

**The order.** An item stands before another where some training row has it right before it. Items of a cycle share a
place. An item's place is the middle between the earliest and the latest that it can have: the items on the longest way
to it from the front, and the other way from the back. It depends on no item number and on no order of rows.
"""

from collections.abc import Mapping

import numpy as np
import scipy  # scipy.stats is imported where it is used: it takes most of a second
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from i2vae_lib.data.rows import DOMAINS, Array, Rows
from i2vae_lib.data.user_sequences import with_targets
from i2vae_lib.generators.graphs import binary, successors
from i2vae_lib.labels import AFTER
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.references.popularity import Popularity


def places(train: Rows) -> dict[str, Array]:
    """Each item's place in the order of the training rows, by domain: float64 [n + 1].

    Not a number for padding, and for an item that no row has beside another one.
    """
    found = {}
    for d in DOMAINS:
        before = successors(with_targets(train, d), train.catalogue.size(d))
        count, node = connected_components(before, directed=True, connection="strong")  # a cycle is one node
        one, another = before.nonzero()
        beside = np.unique(np.concatenate([one[one != another], another[one != another]]))
        apart = node[one] != node[another]
        between = binary(node[one[apart]], node[another[apart]], (count, count))
        earliest, from_back = _steps(between), _steps(between.T.tocsr())
        found[d] = np.full(len(node), np.nan)
        found[d][beside] = ((earliest + earliest.max(initial=0) - from_back) / 2)[node[beside]]
    return found


def _steps(edges: sparse.csr_matrix) -> Array:
    """The longest way to each node of a graph without cycles, in edges: int64 [nodes]."""
    waiting = edges.getnnz(axis=0)  # for so many nodes before it
    found = np.zeros(len(waiting), dtype=np.int64)
    front, step = np.flatnonzero(waiting == 0), 0
    while len(front):
        found[front] = step
        reached, times = np.unique(edges[front].indices, return_counts=True)
        waiting[reached] -= times
        front, step = reached[waiting[reached] == 0], step + 1
    return found


class AfterTheLast(Popularity):
    """A ranker whose candidates that stand before the last item of a row's own history come behind all others.

    What has no place, or the last item's own, does not stand before it. Without an own history, or where its last item
    has no place, the list is the plain ranker's. Settings are the plain ranker's: what it chooses is chosen without the
    order.
    """

    def __init__(self, plain: Popularity):
        super().__init__(plain.catalogue)
        self.plain = plain
        self.name = plain.name + AFTER
        self.place: Mapping[str, Array] = {}

    def learn(self, train: Rows, validation: Rows, params: Parameters) -> None:
        """The plain ranker, and the order of the training rows."""
        self.plain.learn(train, validation, params)
        self.place = places(train)

    def score(self, rows: Rows, candidates: Array) -> Array:
        """Ranks, best highest: a row's scores compare with each other only. float32 [rows, k]."""
        before = np.zeros(candidates.shape, dtype=bool)
        for d in DOMAINS:
            at = rows.of(d)
            last = rows.history[d].take(at).last(1)
            before[at] = self.place[d][candidates[at]] < self.place[d][last]  # false of what is not a number
        ranks = scipy.stats.rankdata(self.plain.score(rows, candidates), method="dense", axis=1)
        return np.where(before, ranks, ranks + candidates.shape[1]).astype(np.float32)
