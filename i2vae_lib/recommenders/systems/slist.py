"""SLIST: two linear models of sequences, one of what is taken together and one of what follows, in one closed form.

Choi, Kim, Lee, Shim & Lee, "Session-aware linear item-item models for session-based recommendation", WWW 2021 (code:
jin530/SLIST, 4e095ee). X has a line per sequence, binary. Each cut t of a sequence gives a line of S, the items up to t
with weights exp(-(t - s) / ``source_decay``), and one of T, the items after it with exp(-(s - t - 1) /
``target_decay``); lines of both sum to 1. With a = ``consistency`` and l = ``decay``,

    B = (a X'X + (1 - a) S'S + l I)^-1 (a X'X + (1 - a) S'T)
    score(j) = sum over the history of exp(-distance from its end / ``recency_decay``) B_ij

a = 0 is SLIT, of transitions alone; a = 1 SLIS, of what stands together (without its bound on the diagonal).

Made for one catalogue and short sessions. Here it comes in both readings
(:mod:`.systems.separate_or_merged`): ``slist-s``, a matrix per domain, and ``slist-m``, one of both
domains' events in order of time.

Departs
    - a user's whole sequence is one session, its last T events (``model.T``);
    - merged, no sequence is cut inside a stamp that holds events of both domains: what evaluation rows may not show is
      not learnt from;
    - sequences do not weigh by their age, and SLIS has no bound on the diagonal;
    - exact or not at all: a stream of more than ``slist.limit`` items is an error.
"""

import time
from abc import abstractmethod

import numpy as np
import torch
from scipy import sparse

from i2vae_lib.data.rows import Array, DataError, Ragged, Rows, popularity
from i2vae_lib.data.user_sequences import interleaved, moments_of, stamp_numbers
from i2vae_lib.generators.cooccurrence import with_range
from i2vae_lib.generators.graphs import binary
from i2vae_lib.parameter_groups import SLISTParameters
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.references.ease import inverse_of
from i2vae_lib.recommenders.systems.separate_or_merged import both_readings
from i2vae_lib.recommenders.trained import StoredRecommender, chosen, solved_epoch
from i2vae_lib.training import State


def cuts(sequences: Ragged, domain: Array) -> Array:
    """Every place where a sequence may be cut: position of the event before it.

    Parameters
    ----------
    sequences
        With stamps as moments.
    domain
        int [total], of each event.
    """
    owner, block = sequences.owner, stamp_numbers(sequences)
    starts = np.unique(block, return_index=True)[1]
    mixed = np.zeros(len(starts), dtype=bool)
    mixed[block[domain != domain[starts][block]]] = True
    inside = np.append((owner[1:] == owner[:-1]), False)[: len(owner)]
    return np.flatnonzero(inside & ~(mixed[block] & (np.append(block[1:], -1)[: len(block)] == block)))


def _transitions(
    sequences: Ragged, at: Array, size: int, source: float, target: float
) -> tuple[sparse.csr_matrix, ...]:
    """S and T (module docstring), a line per cut and a column per item (0…size - 1): float32.

    Parameters
    ----------
    at
        Positions of the events before the cuts, as of :func:`cuts`.
    """
    owner = sequences.owner[at]
    starts, ends = sequences.offsets[owner], sequences.offsets[owner + 1]
    parts = []
    for low, high, scale in ((starts, at + 1, source), (at + 1, ends, target)):
        line, place = with_range(low, high)
        steps = np.where(place <= at[line], at[line] - place, place - at[line] - 1)
        weight = np.exp(-steps / scale)
        weight /= np.bincount(line, weight, minlength=len(at))[line]
        shape = (len(at), size)
        parts.append(sparse.csr_matrix((weight.astype(np.float32), (line, sequences.values[place] - 1)), shape=shape))
    return tuple(parts)


def solved(sequences: Ragged, domain: Array, size: int, p: SLISTParameters) -> Array:
    """B of one stream: float32 [size, size]."""
    taken = binary(sequences.owner, sequences.values - 1, (len(sequences), size))
    together = p.consistency * (taken.T @ taken)
    source, target = _transitions(sequences, cuts(sequences, domain), size, p.source_decay, p.target_decay)
    rest = np.float32(1.0 - p.consistency)
    inverse = inverse_of((together + rest * (source.T @ source)).tocsr().astype(np.float32), p.decay)
    found: Array = ((together + rest * (source.T @ target)).T.tocsr().astype(np.float32) @ inverse).T
    return np.ascontiguousarray(found)


class LinearModel(StoredRecommender):
    """A matrix B of item by item for each stream, in closed form: what SLIST and TALE share.

    Attributes
    ----------
    timed
        While B is solved for: whether stamps tell time.
    """

    timed: bool

    @abstractmethod
    def matrix(self, sequences: Ragged, domain: Array, size: int) -> Array:
        """B of one stream, float32 [size, size].

        Parameters
        ----------
        sequences
            The users' last events, by their numbers in the stream (1…size), with stamps as moments.
        domain
            int [total]: which of the stream's domains the event belongs to.
        """

    def learn(self, train: Rows, validation: Rows, params: Parameters) -> None:
        """Solve for B.

        Raises
        ------
        DataError
            A stream of more items than the system's ``limit``.
        """
        self.params, start = params, time.perf_counter()
        self.popularity = popularity(train)
        limit = self.own.limit
        for s, parts in self.reading.parts(train).items():
            size = self.reading.size(s)
            if size > limit:
                raise DataError(
                    f"{self.name}: {size:,} items need a matrix of {4 * size**2 / 2**30:.1f} GiB and more like it; "
                    f"{self.name[:-2]}.limit allows {limit:,} items (raise it, or leave this system out)"
                )
            self.timed = moments_of(parts) is not None
            whole = interleaved(parts, np.zeros(len(parts[0]), dtype=np.int64))
            last = whole.recent(params.model.T)
            border = np.cumsum([self.sizes[d] for d in self.reading.domains(s)])
            self.frozen[s] = torch.from_numpy(self.matrix(last, np.searchsorted(border, last.values), size))
        learnt = time.perf_counter()
        found = self.validator(validation)()
        self.state = State(1, 0, found["ndcg@10"], {}, [solved_epoch(len(train), start, learnt, found)])

    def scores(self, rows: Rows, domain: str, items: torch.Tensor) -> torch.Tensor:
        name, slots = self.reading.stream(domain), self.reading.slots(domain)
        history = self.reading.histories(rows, domain)
        back = history.offsets[history.owner + 1] - 1 - np.arange(len(history.values))
        weight = np.exp(-back / self.own.recency_decay).astype(np.float32)
        shape = (len(rows), self.reading.size(name))
        shown = sparse.csr_matrix((weight, (history.owner, history.values - 1)), shape=shape)
        table = self.frozen[name].cpu().numpy()
        found = torch.from_numpy(shown @ table[:, slots]).to(self.device)
        return chosen(found, items)


class _SLIST(LinearModel):
    """Both readings."""

    def matrix(self, sequences: Ragged, domain: Array, size: int) -> Array:
        return solved(sequences, domain, size, self.own)


SLISTS, SLISTM = both_readings(_SLIST, "slist")
