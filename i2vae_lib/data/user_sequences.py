"""Training users with everything that they took, for systems that learn from users instead of rows.

A row shows a history and asks for one item. A user's whole sequence in a domain is the longest that any of its rows
shows, targets included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from i2vae_lib.data.rows import DOMAINS, PAD, Array, Catalogue, Ragged, Rows, stacked


@dataclass(frozen=True)
class UserSequences:
    """Users of rows, in the order of their first appearance (the numbering of ``rows.interactions``)."""

    users: Array  # object array of str [n]
    sequences: Mapping[str, Ragged]  # domain key -> whole sequence of each user, oldest first; may be empty

    def __len__(self) -> int:
        return len(self.users)


def chained(*parts: Ragged) -> Ragged:
    """Concatenate sequence ``i`` of all parts, for every i; with moments if every part has them."""
    whole, lengths = stacked(parts), np.sum([part.lengths for part in parts], axis=0)
    order = np.argsort(np.concatenate([part.owner for part in parts]), kind="stable")
    moments = None if whole.moments is None else whole.moments[order]
    return Ragged.from_lengths(whole.values[order], lengths, moments)


def moments_of(parts: Sequence[Ragged]) -> Array | None:
    """The moments of all events of the parts, int64 [total]; None unless every part has them."""
    return stacked(parts).moments


def interleaved(parts: Sequence[Ragged], last: Array) -> Ragged:
    """Merge sequence ``i`` of all parts, for every i, in order of time.

    At equal moments the events of part ``last[i]`` come after the others. Without a common time all events of that
    part do; the moments returned are then 1 for them and 0 for the others.

    Parameters
    ----------
    last
        int [n], each the number of a part.
    """
    whole = stacked(parts)
    part, owner = np.divmod(whole.owner, max(1, len(last)))
    late = part == last[owner]
    moments = late.astype(np.int64) if whole.moments is None else whole.moments
    order = np.lexsort((late, moments, owner))  # stable: keeps each part's order
    return Ragged.from_lengths(whole.values[order], np.bincount(owner, minlength=len(last)), moments[order])


def stamp_numbers(sequences: Ragged) -> Array:
    """Number the stamps from 0: events of one sequence and one moment share a number. int64 [total]."""
    owner, moments = sequences.owner, sequences.moments
    assert moments is not None
    begins = np.append(True, (owner[1:] != owner[:-1]) | (moments[1:] != moments[:-1]))[: len(owner)]
    return np.cumsum(begins) - 1


def with_targets(rows: Rows, domain: str) -> Ragged:
    """Each row's history in ``domain``, followed by its target where the row asks for that domain."""
    asked = (rows.domain == DOMAINS.index(domain)) & (rows.target != PAD)
    moments = None if rows.moment is None else rows.moment[asked]
    target = Ragged.from_lengths(rows.target[asked], asked.astype(np.int64), moments)
    return chained(rows.history[domain], target)


def user_sequences(rows: Rows) -> UserSequences:
    """The rows' users with their whole sequences, targets included; for training rows only."""
    code, users = pd.factorize(rows.user)
    sequences = {}
    for d in DOMAINS:
        by_row = with_targets(rows, d)
        order = np.lexsort((np.arange(len(rows)), -by_row.lengths, code))
        first = np.concatenate([[True], code[order][1:] != code[order][:-1]]) if len(order) else order.astype(bool)
        sequences[d] = by_row.take(order[first])
    return UserSequences(np.asarray(users, dtype=object), sequences)


@dataclass(frozen=True)
class EveryEvent:
    """Every event of training users, in the order of domains, users and events, and what a row that asks for it shows.

    Parameters
    ----------
    whole
        The users, with all of their events.
    catalogue
        That of the rows.
    domain, owner, item
        int [m] of each event: number of its domain and of its user, and the item taken.
    seen
        int64 [2, m]: how many events of each domain an evaluation row would show, those of the own domain before the
        event and those of the other with earlier stamps (all of them without a common time).
    moments
        int64 [m], None without a common time.
    """

    whole: UserSequences
    catalogue: Catalogue
    domain: Array
    owner: Array
    item: Array
    seen: Array
    moments: Array | None

    @classmethod
    def of(cls, train: Rows) -> Self:
        """The events of training rows' users."""
        whole = user_sequences(train)
        parts = [whole.sequences[d] for d in DOMAINS]
        events = stacked(parts)
        domain, owner = np.divmod(events.owner, max(1, len(whole)))
        seen = []
        for number, part in enumerate(parts):
            earlier = part.lengths[owner] if events.moments is None else _earlier(part, owner, events.moments)
            seen.append(np.where(domain == number, events.place, earlier))
        domain = domain.astype(train.domain.dtype)
        return cls(whole, train.catalogue, domain, owner, events.values, np.stack(seen), events.moments)

    def rows(self, at: Array, length: int, hidden: Array | None = None) -> Rows:
        """The rows that ask for the events at ``at``, ``source`` their numbers.

        Parameters
        ----------
        length
            A row shows the most recent events of each domain, so many at most.
        hidden
            bool [rows]: whose history of the own domain is left out; None: nobody's.
        """
        owner, history = self.owner[at], {}
        for number, d in enumerate(DOMAINS):
            part, before = self.whole.sequences[d], self.seen[number][at]
            shown = np.minimum(before, length)
            if hidden is not None:
                shown[hidden & (self.domain[at] == number)] = 0
            ends = part.offsets[owner] + before
            history[d] = part.slices(ends - shown, ends)
        return Rows(
            catalogue=self.catalogue,
            user=self.whole.users[owner],
            domain=self.domain[at],
            target=self.item[at],
            history=history,
            excluded=Ragged.from_lengths(np.zeros(0, dtype=np.int32), np.zeros(len(at), dtype=np.int64)),
            source=at,
            moment=None if self.moments is None else self.moments[at],
        )


def _earlier(sequences: Ragged, owner: Array, moments: Array) -> Array:
    """Number of events in each owner's sequence before a moment: int64 [owners]."""
    assert sequences.moments is not None
    known, asked = np.unique(np.concatenate([sequences.moments, moments]), return_inverse=True)
    keys = sequences.owner * len(known) + asked[: len(sequences.moments)]
    wanted = owner * len(known) + asked[len(sequences.moments) :]
    return np.searchsorted(keys, wanted) - sequences.offsets[owner]


def windows(sequences: Ragged, length: int) -> tuple[Array, Array]:
    """Inputs and next items of the last ``length`` steps of each sequence.

    Returns
    -------
    inputs, targets
        int32 [n, L] each, left-padded with 0, L <= ``length``; a target has its input's position, and a sequence of
        fewer than two items is all padding.
    """
    last = sequences.last(length + 1)
    if last.shape[1] == 1:
        return np.full_like(last, PAD), np.full_like(last, PAD)
    inputs = last[:, :-1]
    return inputs, np.where(inputs == PAD, PAD, last[:, 1:])


def right_padded(sequences: Ragged, width: int) -> Array:
    """The most recent ``width`` items, right-padded with 0: int32 [n, min(width, longest)] (at least one column)."""
    last = sequences.last(width)
    order = np.argsort(last == PAD, axis=1, kind="stable")
    return np.take_along_axis(last, order, axis=1)
