"""Recent takers: how many users took an item shortly before a given moment.

With events e of training users, each at a clock time c_e (the share of all training events before it), an item v and a
half-life h,

    p_v(m) = sum over events e of v before moment m of 2^-((c(m) - c_e) / h)

The clock runs by events, not seconds, so that one half-life suits logs of any length and quiet nights count little.
Moments are distinguished as finely as :data:`_EDGES` quantiles of the events allow; events between the last edge and
the moment itself are not counted, so a row's counts hold nothing of its own moment or later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from i2vae_lib.data.rows import DOMAINS, Array, Rows
from i2vae_lib.data.user_sequences import moments_of, user_sequences

_EDGES = 256


@dataclass(frozen=True)
class RecentTakers:
    """Counts at the edges.

    Parameters
    ----------
    edges
        int64 [e], ascending moments; e = 0 where the data have no common time.
    counts
        Domain -> float32 [e + 1, half-lives, items]: line b counts events before edge b - 1, weighted as of that edge;
        line 0, before the first edge, is all zeros.
    """

    edges: Array
    counts: Mapping[str, Array]

    @classmethod
    def fit(cls, train: Rows, half_lives: Sequence[float]) -> Self:
        """Count everything that training users took, targets included.

        Parameters
        ----------
        half_lives
            Shares of all training events, each in (0, 1].
        """
        sequences = user_sequences(train).sequences
        parts, sizes = [sequences[d] for d in DOMAINS], {d: train.catalogue.size(d) for d in DOMAINS}
        known = moments_of(parts)
        if known is None or not len(known) or not half_lives:
            empty = {d: np.zeros((1, len(half_lives), sizes[d]), np.float32) for d in DOMAINS}
            return cls(np.zeros(0, np.int64), empty)
        moments = np.sort(known)
        edges = np.unique(moments[np.arange(_EDGES) * len(moments) // _EDGES])
        edges = np.append(edges, moments[-1] + 1)
        clock = np.searchsorted(moments, edges) / len(moments)  # share of the events before each edge
        fade = 0.5 ** (np.diff(clock, prepend=0.0)[:, None] / np.asarray(half_lives))
        counts = {}
        for d, part in zip(DOMAINS, np.split(known, [len(parts[0].values)]), strict=True):
            between = np.searchsorted(edges, part, side="right")
            new = np.zeros((len(edges) + 1, sizes[d]), np.float32)
            np.add.at(new, (between, sequences[d].values - 1), 1.0)
            table = np.zeros((len(edges) + 1, len(half_lives), sizes[d]), np.float32)
            for b in range(1, len(edges) + 1):
                table[b] = (table[b - 1] + new[b - 1]) * fade[b - 1][:, None]
            counts[d] = table
        return cls(edges, counts)

    def at(self, rows: Rows) -> Array:
        """The line of each row's moment, int64 [rows]; the last line (now) for rows without a known moment."""
        if rows.moment is None:
            return np.full(len(rows), len(self.edges))
        return np.searchsorted(self.edges, rows.moment, side="right")

    def now(self) -> Self:
        """Only the counts after the last event, which serve rows without a known moment."""
        return type(self)(self.edges[:0], {d: counts[-1:] for d, counts in self.counts.items()})

    def arrays(self) -> dict[str, Array]:
        """Everything that :meth:`at` and its readers need."""
        return {"edges": self.edges} | {f"recent/{d}": self.counts[d] for d in DOMAINS}

    @classmethod
    def restore(cls, arrays: Mapping[str, Array]) -> Self:
        """Rebuild from :meth:`arrays`."""
        return cls(arrays["edges"], {d: arrays[f"recent/{d}"] for d in DOMAINS})

    def foreign_counts(self, train: Rows, half_lives: Sequence[float]) -> dict[str, Array]:
        """In how many lines and half-lives an item's count differs from that of these rows: domain -> int64 [items]."""
        again = type(self).fit(train, half_lives)
        return {d: (self.counts[d] != again.counts[d]).sum(axis=(0, 1)) for d in DOMAINS}
