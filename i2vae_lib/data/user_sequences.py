"""Training users with everything that they took: what systems learn from that do not work on rows.

A row shows a history and asks for one item. A user's whole sequence in a domain is the longest that any of its rows
shows, targets included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from i2vae_lib.data.rows import DOMAINS, PAD, Array, Ragged, Rows


@dataclass(frozen=True)
class UserSequences:
    """Users of rows, in the order of their first appearance (the numbering of ``dataset.interactions``)."""

    users: Array  # object array of str [n]
    sequences: Mapping[str, Ragged]  # domain key -> whole sequence of each user, oldest first; may be empty

    def __len__(self) -> int:
        return len(self.users)


def chained(*parts: Ragged) -> Ragged:
    """Sequence i of each part, one after another; with moments where every part has them."""
    order = np.argsort(np.concatenate([one.owner for one in parts]), kind="stable")
    values = np.concatenate([one.values for one in parts])[order]
    lengths = np.stack([one.lengths for one in parts]).sum(axis=0)
    moments = moments_of(parts)
    return Ragged.from_lengths(values, lengths, None if moments is None else moments[order])


def moments_of(parts: Sequence[Ragged]) -> Array | None:
    """The moments of all events of the parts, int64 [total]; None unless every part has them."""
    found = [one.moments for one in parts if one.moments is not None]
    return np.concatenate(found) if len(found) == len(parts) else None


def interleaved(parts: Sequence[Ragged], last: Array) -> Ragged:
    """Sequence i of each part as one, in order of time.

    Of one moment, the events of part ``last[i]`` stand after the others. Without a common time all events of that part
    do; the moments of what is returned are then 0 (the other parts) and 1.

    Parameters
    ----------
    last
        int [n], a number of a part each.
    """
    owner = np.concatenate([one.owner for one in parts])
    part = np.repeat(np.arange(len(parts)), [len(one.values) for one in parts])
    late = part == last[owner]
    known = moments_of(parts)
    moments = late.astype(np.int64) if known is None else known
    order = np.lexsort((late, moments, owner))  # stable: a part's own order stays
    values = np.concatenate([one.values for one in parts])[order]
    return Ragged.from_lengths(values, np.bincount(owner, minlength=len(last)), moments[order])


def stamp_numbers(sequences: Ragged) -> Array:
    """A number for each event's stamp, from 0: events of one sequence and one moment share it. int64 [total]."""
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
        found = with_targets(rows, d)
        order = np.lexsort((np.arange(len(rows)), -found.lengths, code))
        first = np.concatenate([[True], code[order][1:] != code[order][:-1]]) if len(order) else order.astype(bool)
        sequences[d] = found.take(order[first])
    return UserSequences(np.asarray(users, dtype=object), sequences)


def asked_by_event(rows: Rows, length: int) -> Rows:
    """One row for every event of the rows' users: it asks for the event and shows what an evaluation row would.

    That is the own sequence before the event, and of the other domain what is earlier by stamp (all of it where the
    data have no common time); the most recent ``length`` of each. Rows are in the order of domains, users and events;
    ``source`` counts them. For training rows only, as :func:`user_sequences`.
    """
    found = user_sequences(rows)
    parts = [found.sequences[d] for d in DOMAINS]
    owner = np.concatenate([one.owner for one in parts])
    domain = np.repeat(np.arange(len(parts)), [len(one.values) for one in parts])
    place = np.concatenate([np.arange(len(one.values)) - one.offsets[one.owner] for one in parts])
    moments = moments_of(parts)
    history = {}
    for number, d in enumerate(DOMAINS):
        one = parts[number]
        earlier = one.lengths[owner] if moments is None else _earlier(one, owner, moments)
        before = np.where(domain == number, place, earlier)
        shown = np.minimum(before, length)
        first = one.offsets[owner] + before - shown
        inside = np.arange(shown.sum()) - np.repeat(np.cumsum(shown) - shown, shown)
        at = np.repeat(first, shown) + inside
        history[d] = Ragged.from_lengths(one.values[at], shown, None if one.moments is None else one.moments[at])
    count = len(owner)
    return Rows(
        catalogue=rows.catalogue,
        user=found.users[owner],
        domain=domain.astype(rows.domain.dtype),
        target=np.concatenate([one.values for one in parts]),
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
        int32 [n, L] each, left-padded with 0, L <= ``length``; a target stands where its input does, and a sequence
        of fewer than two items is all padding.
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
