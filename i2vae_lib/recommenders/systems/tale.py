"""TALE: a linear model of what comes next, in which items weigh by how long ago they were taken.

Park, Yoon, Kim, Lee & Lee, "Temporal Linear Item-Item Model for Sequential Recommendation", WSDM 2025 (code:
psm1206/TALE, 01e6ca8). Each event but a sequence's first is a target of its own. Its line of T holds that item alone,
its line of S the items before it, with weights max(exp(-gap / ``time_decay``), ``floor``), gap the time between both.
With l = ``decay``,

    B = (S'S + l I)^-1 S'T
    score(j) = sum over the history of exp(-distance from its end / ``recency_decay``) B_ij

SLIST has all later items as targets and weighs by steps (:mod:`.systems.slist`); both readings as there.

Departs
    - a gap counts in median gaps between two neighbours of a sequence that differ in time: the paper's unit is that of
      its files, which is not told;
    - weights by an item's recent count (to the power of -0.01) are left out;
    - without a common time every gap is 0: what stands before counts alike;
    - whole sequences, cuts and size as in SLIST.
"""

import numpy as np
from scipy import sparse

from i2vae_lib.data.rows import Array, Ragged
from i2vae_lib.generators.cooccurrence import with_range
from i2vae_lib.parameter_groups import TALEParameters
from i2vae_lib.recommenders.references.ease import inverse_of
from i2vae_lib.recommenders.systems.separate_or_merged import both_readings
from i2vae_lib.recommenders.systems.slist import LinearModel, cuts


def gaps_in_medians(sequences: Ragged, earlier: Array, later: Array) -> Array:
    """Time from one event to a later one of its sequence, in median gaps of neighbours: float64 [n]."""
    assert sequences.moments is not None
    steps = np.diff(sequences.moments)[np.diff(sequences.owner) == 0]
    steps = steps[steps > 0]
    gaps = (sequences.moments[later] - sequences.moments[earlier]).astype(np.float64)
    return gaps / np.median(steps) if len(steps) else gaps


def solved(sequences: Ragged, domain: Array, size: int, p: TALEParameters, timed: bool) -> Array:
    """B of one stream: float32 [size, size]."""
    at = cuts(sequences, domain)
    line, place = with_range(sequences.offsets[sequences.owner[at]], at + 1)
    gaps = gaps_in_medians(sequences, place, at[line] + 1) if timed else np.zeros(len(line))
    weight = np.maximum(np.exp(-gaps / p.time_decay), p.floor).astype(np.float32)
    source = sparse.csr_matrix((weight, (line, sequences.values[place] - 1)), shape=(len(at), size))
    chosen = (np.ones(len(at), dtype=np.float32), (np.arange(len(at)), sequences.values[at + 1] - 1))
    target = sparse.csr_matrix(chosen, shape=(len(at), size))
    inverse = inverse_of((source.T @ source).tocsr(), p.decay)
    return np.ascontiguousarray(((source.T @ target).T.tocsr() @ inverse).T)


class _TALE(LinearModel):
    """Both readings."""

    def matrix(self, sequences: Ragged, domain: Array, size: int) -> Array:
        return solved(sequences, domain, size, self.own, self.timed)


TALES, TALEM = both_readings(_TALE, "tale")
