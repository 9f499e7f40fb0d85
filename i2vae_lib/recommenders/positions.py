"""What i2VAE learns from at every position: users' sequences, and what the row of each event would show.

Sequences, windows, the order of events with one stamp and cold copies are those of
:mod:`i2vae_lib.recommenders.systems.every_position`. What an event's row shows does not change from epoch to epoch, so
the pseudo-sequences and evidence of all events are made once, before training, if they fit in :data:`LARGEST` bytes.
Otherwise each batch makes its own, anew each epoch: the same numbers, in more time and less memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from i2vae_lib.data.batches import as_indices, bucketed
from i2vae_lib.data.rows import DOMAINS, PAD, Array, Rows, joined
from i2vae_lib.data.user_sequences import asked_by_event, user_sequences
from i2vae_lib.generators.evidence import Told
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.model.every_position import Asked
from i2vae_lib.recommenders.systems.every_position import Orders
from i2vae_lib.recommenders.systems.separate_or_merged import Merged

LARGEST = 2**32
"""Most bytes of pseudo-sequences and evidence that are kept through training."""


@dataclass(frozen=True)
class Shown:
    """Rows, with their pseudo-sequences (``recalled``) and their evidence (``told``).

    Parameters
    ----------
    recalled
        Pseudo-items and their scores, int32 and float32 [rows, n].
    told
        None where ``model.positions`` = last.
    """

    rows: Rows
    recalled: tuple[Array, Array]
    told: Told | None

    @property
    def nbytes(self) -> int:
        """Bytes of ``recalled`` and ``told``."""
        told = () if self.told is None else (self.told.items, self.told.scores)
        return sum(one.nbytes for one in (*self.recalled, *told))

    def take(self, at: Array) -> Self:
        items, scores = self.recalled
        told = None if self.told is None else self.told.take(at)
        return type(self)(self.rows.take(at), (items[at], scores[at]), told)

    def at_ends(self, at: Array, length: int) -> dict[str, Asked]:
        """The rows at ``at``, by target domain; each asks at the end of its last ``length`` events."""
        reading, found = Merged(self.rows.catalogue), {}
        for number, d in enumerate(DOMAINS):
            position = np.flatnonzero(self.rows.domain[at] == number)
            if len(position):
                here = at[position]
                sequences = as_indices(reading.histories(self.rows.take(here), d).last(length))
                end = np.full(len(here), sequences.shape[1] - 1)
                found[d] = self.asked(here, d, sequences, np.arange(len(here)), end, position)
        return found

    def asked(
        self, at: Array, domain: str, sequences: torch.Tensor, line: Array, step: Array, position: Array
    ) -> Asked:
        """The rows at ``at``, all of ``domain``; row i asks at ``step[i]`` of the sequence ``line[i]``."""
        assert self.told is not None
        own = DOMAINS.index(domain)
        lengths = [self.rows.history[d].lengths[at] for d in DOMAINS]
        arrays = {
            "line": line,
            "step": step,
            "own_length": lengths[own],
            "other_length": lengths[1 - own],
            "pseudo": self.recalled[0][at],
            "evidence_items": self.told.items[at],
            "moment": self.told.moment[at],
            "target": self.rows.target[at],
            "position": position,
        }
        whole: dict[str, Any] = {name: as_indices(one) for name, one in arrays.items()}
        return Asked(sequences, **whole, evidence_scores=torch.from_numpy(self.told.scores[at]))


def silenced(side: Any) -> Any:
    """A side without evidence, as if nobody had taken anything yet: it reaches the scores through its latents alone."""
    if not isinstance(side, Asked):
        return side
    scores, moment = torch.zeros_like(side.evidence_scores), torch.zeros_like(side.moment)
    return replace(side, evidence_scores=scores, moment=moment)


@dataclass(frozen=True)
class Lessons:
    """One pass over the training users.

    Parameters
    ----------
    orders
        Sequences of events, numbered 1…m in the order of :func:`i2vae_lib.data.user_sequences.asked_by_event`.
    rows
        Those of the m events, then those of last events once more, with their own history hidden.
    show
        Makes what rows show: pseudo-sequences and evidence.
    kept
        What ``show`` gives for all rows; None if that is too much to keep.
    hidden
        int64 [m + 1]: where in ``rows`` an event stands with its own history hidden; -1 if it does not.
    item
        int64 [m + 1]: the event's item, of X as 1…n, of Y as n + 1…; 0 for padding.
    """

    orders: Orders
    rows: Rows
    show: Callable[[Rows], Shown]
    kept: Shown | None
    hidden: Array
    item: Array

    @classmethod
    def of(cls, train: Rows, length: int, show: Callable[[Rows], Shown]) -> Self:
        """The lessons in training rows."""
        rows, unified = asked_by_event(train, length), Unified(train.catalogue)
        sequences = user_sequences(train).sequences
        counts = [len(sequences[d].values) for d in DOMAINS]
        first = (1, 1 + counts[0])
        parts = [
            replace(sequences[d], values=np.arange(counts[i]) + first[i]) for i, d in enumerate(DOMAINS)
        ]  # events by their numbers
        products = [unified.of[d][sequences[d].values] for d in DOMAINS]
        orders = Orders.of(parts, counts, np.concatenate([[-1], *products]))
        ends = orders.sequences.offsets[1:] - 1
        ends = ends[orders.asked[ends]]
        last = np.unique(orders.sequences.values[ends])
        last = last[rows.lengths("other")[last - 1] > 0]
        blank = rows.take(last - 1)
        seen = {d: one.keep((blank.domain != i)[one.owner]) for i, (d, one) in enumerate(blank.history.items())}
        hidden = np.full(len(rows) + 1, -1)
        hidden[last] = len(rows) + np.arange(len(last))
        item = [sequences[d].values.astype(np.int64) for d in DOMAINS]
        rows = joined([rows, replace(blank, history=seen)])
        kept = show(rows) if show(rows.take(np.arange(min(1, len(rows))))).nbytes * len(rows) <= LARGEST else None
        return cls(
            orders,
            rows,
            show,
            kept,
            hidden,
            np.concatenate([[PAD], item[0], item[1] + train.catalogue.size("x")]),
        )

    def batches(
        self, size: int, length: int, hidden_share: float, rng: np.random.Generator
    ) -> Iterator[dict[str, Asked]]:
        """An epoch: every user once, and some a second time with the domain of their last event hidden."""
        count = np.minimum(self.orders.sequences.lengths[: self.orders.users], length)
        for at in bucketed(count, size, rng):
            inputs, targets = self.orders.draw(at, length, hidden_share, rng)
            sequences = torch.from_numpy(self.item[inputs])
            line, step = np.nonzero(targets)
            event = targets[line, step]
            shown = np.where(line < len(at), event - 1, self.hidden[event])
            batch = {}
            for i, d in enumerate(DOMAINS):
                here = np.flatnonzero((self.rows.domain[shown] == i) & (shown >= 0))
                if len(here):
                    batch[d] = self._asked(shown[here], d, sequences, line[here], step[here], here)
            if batch:
                yield batch

    def _asked(self, at: Array, *where: Any) -> Asked:
        """:meth:`Shown.asked` of what was kept, else of what is made now for these rows."""
        if self.kept is not None:
            return self.kept.asked(at, *where)
        return self.show(self.rows.take(at)).asked(np.arange(len(at)), *where)
