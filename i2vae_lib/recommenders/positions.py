"""What i2VAE learns from at every position: users' sequences, and what the row of each event would show.

Sequences, windows, the order of events with one stamp and cold copies are those of
:mod:`i2vae_lib.recommenders.systems.every_position`. What an event's row shows does not change from epoch to epoch, so
the pseudo-sequences and evidence of all events are made once, before training, if they fit in :data:`LARGEST` bytes.
Otherwise each batch makes its own, anew each epoch: the same numbers, in more time and less memory.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from i2vae_lib.data.batches import as_indices, bucketed
from i2vae_lib.data.rows import DOMAINS, PAD, Array, Rows, distinct
from i2vae_lib.data.user_sequences import EveryEvent
from i2vae_lib.generators.evidence import RowEvidence
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.model.every_position import PositionBatch
from i2vae_lib.recommenders.systems.every_position import Orders
from i2vae_lib.recommenders.systems.separate_or_merged import Merged

LARGEST = 2**32  # most bytes of pseudo-sequences and evidence that are kept through training
WHOLE = 8  # a softmax is over all items of a domain that has up to so many times `objective.sampled`


@dataclass(frozen=True)
class Proposal:
    """How the items are drawn that stand for a large domain: with the square root of 1 + takers, where biases begin.

    Parameters
    ----------
    share
        Of each item, float64 [items]; they add up to 1.
    ends
        Their running sums.
    count
        Draws a batch.
    """

    share: Array
    ends: Array
    count: int

    @classmethod
    def of(cls, popularity: Array, count: int) -> Self:
        """Of the takers of each item, [items + 1], padding first."""
        weight = np.sqrt(1.0 + popularity[1:])
        share = weight / weight.sum()
        return cls(share, np.cumsum(share), count)

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """The items drawn, int64 [S], each once, and log(times drawn / times expected), float32 [S]."""
        places = np.searchsorted(self.ends, rng.random(self.count) * self.ends[-1], "right")
        drawn, times = np.unique(places, return_counts=True)
        return drawn + 1, np.log(times / (self.count * self.share[drawn])).astype(np.float32)


_NONE_DRAWN = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class RowInputs:
    """Rows, with their pseudo-sequences (``recalled``) and their evidence (``evidence``).

    Parameters
    ----------
    recalled
        Pseudo-items and their scores, int32 and float32 [rows, n].
    evidence
        None where ``model.positions`` = last.
    """

    rows: Rows
    recalled: tuple[Array, Array]
    evidence: RowEvidence | None

    @property
    def nbytes(self) -> int:
        """Bytes of ``recalled`` and ``evidence``."""
        evidence = () if self.evidence is None else (self.evidence.items, self.evidence.scores)
        return sum(one.nbytes for one in (*self.recalled, *evidence))

    def take(self, at: Array) -> Self:
        items, scores = self.recalled
        evidence = None if self.evidence is None else self.evidence.take(at)
        return type(self)(self.rows.take(at), (items[at], scores[at]), evidence)

    def last_positions(self, at: Array, length: int) -> dict[str, PositionBatch]:
        """The rows at ``at``, by target domain; each asks at the end of its last ``length`` events."""
        reading, found = Merged(self.rows.catalogue), {}
        for number, d in enumerate(DOMAINS):
            position = np.flatnonzero(self.rows.domain[at] == number)
            if len(position):
                here = at[position]
                sequences = as_indices(reading.histories(self.rows.take(here), d).last(length))
                end = np.full(len(here), sequences.shape[1] - 1)
                found[d] = self.batch(here, d, sequences, np.arange(len(here)), end, position)
        return found

    def batch(
        self,
        at: Array,
        domain: str,
        sequences: torch.Tensor,
        line: Array,
        step: Array,
        position: Array,
        drawn: tuple[Array, Array] = _NONE_DRAWN,
    ) -> PositionBatch:
        """The rows at ``at``, all of ``domain``; row i asks at ``step[i]`` of the sequence ``line[i]``."""
        assert self.evidence is not None
        own = DOMAINS.index(domain)
        lengths = [self.rows.history[d].lengths[at] for d in DOMAINS]
        arrays = {
            "line": line,
            "step": step,
            "own_length": lengths[own],
            "other_length": lengths[1 - own],
            "pseudo": self.recalled[0][at],
            "evidence_items": self.evidence.items[at],
            "moment": self.evidence.moment[at],
            "target": self.rows.target[at],
            "position": position,
            "drawn": drawn[0],
        }
        whole: dict[str, Any] = {name: as_indices(one) for name, one in arrays.items()}
        scores, correction = torch.from_numpy(self.evidence.scores[at]), torch.from_numpy(drawn[1])
        return PositionBatch(sequences, **whole, evidence_scores=scores, correction=correction)


def drop_evidence(side: Any) -> Any:
    """A side without evidence, as if nobody had taken anything yet: it reaches the scores through its latents alone."""
    if not isinstance(side, PositionBatch):
        return side
    scores, moment = torch.zeros_like(side.evidence_scores), torch.zeros_like(side.moment)
    return replace(side, evidence_scores=scores, moment=moment)


@dataclass(frozen=True)
class TrainingPositions:
    """Every position of the training users' sequences that asks for an item.

    Parameters
    ----------
    orders
        Sequences of events, numbered 1…m in the order of ``events``.
    events
        The m events.
    length
        Most events of a sequence, and of each domain in the row of an event: the most recent ones.
    inputs_of
        Makes what rows show: pseudo-sequences and evidence.
    kept
        What ``inputs_of`` gives for :meth:`rows` of all positions; None if that is too much to keep.
    last
        Events that are asked for once more with their own history hidden.
    hidden
        int64 [m + 1]: the position of an event with its own history hidden, after those of the m events; -1 if there is
        none.
    item
        int64 [m + 1]: the event's item, of X as 1…n, of Y as n + 1…; 0 for padding.
    """

    orders: Orders
    events: EveryEvent
    length: int
    inputs_of: Callable[[Rows], RowInputs]
    kept: RowInputs | None
    last: Array
    hidden: Array
    item: Array

    @classmethod
    def of(cls, train: Rows, length: int, inputs_of: Callable[[Rows], RowInputs]) -> Self:
        """The positions in training rows."""
        events, unified = EveryEvent.of(train), Unified(train.catalogue)
        sequences = events.whole.sequences
        counts = [len(sequences[d].values) for d in DOMAINS]
        first = (1, 1 + counts[0])
        parts = [
            replace(sequences[d], values=np.arange(counts[i]) + first[i]) for i, d in enumerate(DOMAINS)
        ]  # events by their numbers
        products = [unified.of[d][sequences[d].values] for d in DOMAINS]
        orders = Orders.of(parts, counts, np.concatenate([[-1], *products]))
        ends = orders.sequences.offsets[1:] - 1
        last = distinct(orders.sequences.values[ends[orders.asked[ends]]]) - 1
        last = last[events.seen[1 - events.domain[last], last] > 0]
        hidden = np.full(sum(counts) + 1, -1)
        hidden[last + 1] = sum(counts) + np.arange(len(last))
        item = [sequences[d].values.astype(np.int64) for d in DOMAINS]
        numbers = np.concatenate([[PAD], item[0], item[1] + train.catalogue.size("x")])
        positions = cls(orders, events, length, inputs_of, None, last, hidden, numbers)
        everything = np.arange(sum(counts) + len(last))
        bytes_each = inputs_of(positions.rows(everything[:1])).nbytes
        fits = bytes_each * len(everything) <= LARGEST
        return replace(positions, kept=inputs_of(positions.rows(everything))) if fits else positions

    def rows(self, at: Array) -> Rows:
        """The rows of the positions at ``at``."""
        count = len(self.events.domain)
        again = at >= count
        event = at.copy()
        event[again] = self.last[at[again] - count]
        return self.events.rows(event, self.length, again)

    def batches(
        self, size: int, hidden_share: float, proposals: Mapping[str, Proposal], rng: np.random.Generator
    ) -> Iterator[dict[str, PositionBatch]]:
        """An epoch: every user once, and some a second time with the domain of their last event hidden.

        ``proposals`` has the domains that are too large for a softmax over all of their items.
        """
        count = np.minimum(self.orders.sequences.lengths[: self.orders.users], self.length)
        domain = np.concatenate([self.events.domain, self.events.domain[self.last]])
        for at in bucketed(count, size, rng):
            inputs, targets = self.orders.draw(at, self.length, hidden_share, rng)
            sequences = torch.from_numpy(self.item[inputs])
            line, step = np.nonzero(targets)
            event = targets[line, step]
            shown = np.where(line < len(at), event - 1, self.hidden[event])
            batch = {}
            for i, d in enumerate(DOMAINS):
                here = np.flatnonzero((domain[shown] == i) & (shown >= 0))
                if len(here):
                    drawn = proposals[d].draw(rng) if d in proposals else _NONE_DRAWN
                    batch[d] = self._batch(shown[here], d, sequences, line[here], step[here], here, drawn)
            if batch:
                yield batch

    def _batch(self, at: Array, *where: Any) -> PositionBatch:
        """:meth:`RowInputs.batch` of what was kept, else of what is made now for these rows."""
        if self.kept is not None:
            return self.kept.batch(at, *where)
        return self.inputs_of(self.rows(at)).batch(np.arange(len(at)), *where)
