"""Training users with everything that they took, for systems that learn from users instead of rows.

A row shows a history and asks for one item. A user's whole sequence in a domain is the longest that any of its rows
shows, targets included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from i2vae_lib.data.rows import DOMAINS, PAD, Array, Ragged, Rows, stacked


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


def asked_by_event(rows: Rows, length: int) -> Rows:
    """One row for every event of the rows' users, which asks for that event and shows what an evaluation row would.

    It shows the own sequence before the event and the events of the other domain with earlier stamps (all of them
    without a common time): the most recent ``length`` of each. Rows are in the order of domains, users and events;
    ``source`` counts them. For training rows only, like :func:`user_sequences`.
    """
    whole = user_sequences(rows)
    parts = [whole.sequences[d] for d in DOMAINS]
    owner = np.concatenate([part.owner for part in parts])
    domain = np.repeat(np.arange(len(parts)), [len(part.values) for part in parts])
    place = np.concatenate([np.arange(len(part.values)) - part.offsets[part.owner] for part in parts])
    moments = moments_of(parts)
    history = {}
    for number, d in enumerate(DOMAINS):
        part = parts[number]
        earlier = part.lengths[owner] if moments is None else _earlier(part, owner, moments)
        ends = part.offsets[owner] + np.where(domain == number, place, earlier)
        history[d] = part.slices(np.maximum(part.offsets[owner], ends - length), ends)
    count = len(owner)
    return Rows(
        catalogue=rows.catalogue,
        user=whole.users[owner],
        domain=domain.astype(rows.domain.dtype),
        target=np.concatenate([part.values for part in parts]),
        history=history,
        excluded=Ragged.from_lengths(np.zeros(0, dtype=np.int32), np.zeros(count, dtype=np.int64)),
        source=np.arange(count),
        moment=moments,
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
