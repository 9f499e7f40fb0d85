"""Rows -> padded tensors: bucketed by length and trimmed to the batch's longest sequence.

A batch mixes rows of all kinds. It maps each target domain to a :class:`Side`, because a row asks for one item of one
domain: own, other and pseudo sequences are padded together with those of rows with the same target domain.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from i2vae_lib.data.rows import DOMAINS, PAD, Array, DataError, Ragged, Rows, batched, distinct, other
from i2vae_lib.data.user_sequences import chained
from i2vae_lib.parameter_groups import ModelParameters

_POOL = 16


class Tensors:
    """Base of the dataclasses in a batch."""

    def to(self, device: torch.device, non_blocking: bool = True) -> Self:
        """A copy with every field that can be moved on a device."""
        fields = vars(self).items()
        return type(self)(
            **{name: own.to(device, non_blocking=non_blocking) if hasattr(own, "to") else own for name, own in fields}
        )


@dataclass(frozen=True)
class Part(Tensors):
    """The rows of a batch that one of several processes has."""

    rows: Tensor  # int64 [B], their places in the whole batch
    whole: int  # how many rows that has

    @classmethod
    def of(cls, mine: Tensor) -> Self:
        """Rows by whether they are in the part: bool [whole]."""
        return cls(mine.nonzero()[:, 0], len(mine))


def as_indices(numbers: Array) -> Tensor:
    """Whole numbers as an int64 tensor, which torch needs for look-ups."""
    return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64))


@dataclass(frozen=True)
class Side(Tensors):
    """The rows of a batch with one target domain. Sequences are left-padded with 0, most recent item last."""

    own: Tensor  # int64 [B, L] history in the target domain, L <= T
    other: Tensor  # int64 [B, M] history in the other domain, M <= T
    pseudo: Tensor  # int64 [B, N] own history + recalled items, N <= T'
    own_length: Tensor  # int64 [B] length of the own history, not capped
    target: Tensor  # int64 [B]
    negatives: Tensor  # int64 [B, k], k = 0 where none are asked for
    position: Tensor  # int64 [B] each row's place in the batch
    part: Part | None = None  # None: all rows of the batch

    def parted(self, number: int, count: int) -> Self:
        """Every ``count``-th row, beginning with row ``number``."""
        part = Part.of(torch.arange(len(self.target)) % count == number)
        rows = {f.name: getattr(self, f.name)[part.rows] for f in fields(self) if f.name != "part"}
        return type(self)(**rows, part=part)


def pseudo_sequences(
    rows: Rows, recalled: Array, at: Array, domain: str, p: ModelParameters, arrangement: str
) -> Array:
    """Own history united with the recalled items (paper 3.1), capped at T'.

    The cap keeps all recalled items and the most recent of the history. ``append`` puts the recalled items last;
    ``interleave`` alternates them with the real ones, from the end backwards. A row without recalled items keeps its
    history.

    Parameters
    ----------
    recalled
        int32 [rows, n], 0-padded on the right, for all rows.
    at
        Positions of the rows to build.

    Returns
    -------
    int32 [len(at), N], left-padded
    """
    chosen = _padding_first(recalled[at])
    room = p.T_pseudo - (chosen != PAD).sum(axis=1, keepdims=True)  # for real items, row by row
    real = rows.history[domain].take(at).last(p.T_pseudo)
    real = np.where(np.arange(real.shape[1], 0, -1) <= room, real, PAD)
    both = np.concatenate([real, chosen], axis=1)
    if arrangement == "interleave" and chosen.shape[1]:
        # rank from the end within each part; sorting by (rank, part) alternates them
        rank_real = np.arange(real.shape[1], 0, -1) * 2
        rank_chosen = np.arange(chosen.shape[1], 0, -1) * 2 - 1
        both = both[:, np.argsort(-np.concatenate([rank_real, rank_chosen]), kind="stable")]
    both = _padding_first(both)
    longest = max(1, int((both != PAD).sum(axis=1).max(initial=0)))
    return both[:, -longest:]


def _padding_first(items: Array) -> Array:
    """Move each row's padding to the left; the order of the items stays."""
    order = np.argsort(items != PAD, axis=1, kind="stable")
    return np.take_along_axis(items, order, axis=1)


def collate(
    rows: Rows,
    recalled: Array,
    at: Array,
    p: ModelParameters,
    arrangement: str,
    negatives: int = 0,
    rng: np.random.Generator | None = None,
) -> dict[str, Side]:
    """Tensors of the rows at ``at``, by target domain (a domain without rows is left out).

    Parameters
    ----------
    negatives
        How many negatives to draw per row (:func:`draw_negatives`).
    rng
        Draws the negatives; needed if ``negatives`` > 0.
    """
    at = np.asarray(at)
    sides = {}
    for i, d in enumerate(DOMAINS):
        position = np.flatnonzero(rows.domain[at] == i)
        if not len(position):
            continue
        here = at[position]
        own = rows.history[d].take(here)
        drawn = np.zeros((len(here), 0), dtype=np.int64)
        if negatives:
            assert rng is not None
            drawn = draw_negatives(own, rows.target[here], rows.catalogue.size(d), negatives, rng)
        arrays = {
            "own": own.last(p.T),
            "other": rows.history[other(d)].take(here).last(p.T),
            "pseudo": pseudo_sequences(rows, recalled, here, d, p, arrangement),
            "own_length": own.lengths,
            "target": rows.target[here],
            "negatives": drawn,
            "position": position,
        }
        tensors: dict[str, Any] = {name: as_indices(array) for name, array in arrays.items()}
        sides[d] = Side(**tensors)
    return sides


def draw_negatives(own: Ragged, target: Array, size: int, count: int, rng: np.random.Generator) -> Array:
    """Uniform negatives, int64 [rows, count]: not the target, not in the own history (all of it, not only the last T).

    Raises
    ------
    DataError
        A row's target and history make up the whole domain.
    """
    taken = chained(own, Ragged.from_lengths(target, np.ones(len(target), dtype=np.int64)))
    return draw_others(taken, np.arange(len(target)), size, count, rng)


def draw_others(taken: Ragged, owner: Array, size: int, count: int, rng: np.random.Generator) -> Array:
    """Draw uniform items of 1…size that a sequence does not hold: the negative sampler of every system.

    Parameters
    ----------
    taken
        Sequences of items 1…size.
    owner
        int [m]: the sequence that each of the m draws is for.

    Returns
    -------
    int64 [m, count]

    Raises
    ------
    DataError
        A sequence in ``owner`` holds the whole domain, or ``count`` exceeds ``size``.
    """
    if not count:
        return np.zeros((len(owner), 0), dtype=np.int64)
    if count > size:
        raise DataError(f"{count} training negatives a target, but the domain has only {size} items: ask for fewer")
    key = size + 1
    barred = distinct(taken.owner * key + taken.values)
    full = np.bincount(barred // key, minlength=len(taken)) >= size
    if full[owner].any():
        raise DataError(
            f"no negatives for row {owner[full[owner].argmax()]} of the batch: its target and history are all {size} "
            f"items of the domain; a softmax over all items (objective.reconstruction) needs none"
        )
    base = np.asarray(owner)[:, None] * key
    drawn = rng.integers(1, size + 1, (len(owner), count))
    if not len(barred):
        return drawn
    while True:
        flat = base + drawn
        at = np.searchsorted(barred, flat)
        hit = barred[np.minimum(at, len(barred) - 1)] == flat
        if not hit.any():
            return drawn
        drawn[hit] = rng.integers(1, size + 1, int(hit.sum()))


def bucketed(length: Array, batch_size: int, rng: np.random.Generator) -> Iterator[Array]:
    """Positions of the batches of one epoch: shuffled, then bucketed by length inside pools of :data:`_POOL` batches.

    Bucketing keeps rows of similar length together, so that trimming leaves little padding; pools keep it random which
    rows share a batch.
    """
    order = rng.permutation(len(length))
    batches: list[Array] = []
    for part in batched(order, _POOL * batch_size):
        part = part[np.argsort(length[part], kind="stable")]
        batches += batched(part, batch_size)
    yield from (batches[i] for i in rng.permutation(len(batches)))
