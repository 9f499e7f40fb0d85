"""Copy: what a user took in the other domain, where the target domain sells it too. The floor for linked items.

Origin: the copy heuristic of session recommendation (repeat what was seen), carried through the link table. With
linked(H) the items of the target domain that are the same product as an item of the row's other history, and p(j) in
[0, 1) the popularity of :func:`i2vae_lib.recommenders.references.from_histories.share`,

    score(j) = [j in linked(H)] + p(j)

so linked items come first, by popularity among themselves, and then everything else by popularity.

Departs
    - nothing is repeated inside a domain: an own item is no candidate here;
    - where a protocol takes a target's twin out of the other history (``strict``), no copied item can be the target,
      and this ranker stands a little below popularity by construction.
"""

import numpy as np

from i2vae_lib.data.rows import DOMAINS, PAD, Array, Rows, other
from i2vae_lib.recommenders import contract
from i2vae_lib.recommenders.references.from_histories import share
from i2vae_lib.recommenders.references.popularity import Popularity


class Copy(Popularity):
    """Linked items of the other history first, then popularity. Learns, saves and loads what popularity does."""

    name = "copy"

    def score(self, rows: Rows, candidates: Array) -> Array:
        """1 for a linked item of the other history, plus the candidate's share of popularity."""
        contract.check_candidates(rows, candidates)
        scores = contract.gather(share(self.counts), rows, candidates)
        for d in DOMAINS:
            at = rows.of(d)
            history = rows.history[other(d)].take(at)
            copied = np.zeros((len(at), rows.catalogue.size(d) + 1), dtype=np.float32)
            copied[history.owner, rows.catalogue.linked(other(d))[history.values]] = 1.0
            copied[:, PAD] = 0.0  # where the items without a twin went
            scores[at] += np.take_along_axis(copied, candidates[at].astype(np.int64), axis=1)
        blank = contract.without_evidence(rows)
        scores[blank] = contract.gather(self.counts, rows.take(blank), candidates[blank])
        return scores
