"""What protocols share: rows from full sequences, splits of users, scrubbed targets, copies, cold rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib.data.rows import (
    DOMAINS,
    Array,
    Catalogue,
    DataError,
    Ragged,
    Rows,
    belongs,
    chosen,
    distinct,
    hashed,
    joined,
    mixed,
)
from i2vae_lib.parameter_groups import SplitParameters

COPY_LENGTH = 8  # with at least so many items, all of them equal, two users are one person under two names


@dataclass(frozen=True)
class Cut:
    """What a protocol makes of a pair, before the controls."""

    splits: Mapping[str, Rows]
    removed: Mapping[str, int]
    outside: Sequence[Mapping[str, Any]] = ()


def contents(rows: Rows) -> tuple[Array, Array]:
    """Each row's set of items of both domains, with its target and the own items that making it cold took away.

    Linked items count as one, so that scrubbing a target's twin changes nothing here.

    Returns
    -------
    keys, sizes
        uint64 [rows], equal for rows with the same items (other rows collide with probability 2^-64), and the number
        of different items, int64 [rows].
    """
    size = rows.catalogue.size("x")
    twins = rows.catalogue.linked("y")
    product = {"x": np.arange(size + 1), "y": np.where(twins > 0, twins, size + np.arange(len(twins)))}
    owner, items = [], []
    for d in DOMAINS:
        history, at = rows.held(d), rows.of(d)
        owner += [history.owner, at]
        items += [product[d][numbers] for numbers in (history.values, rows.target[at])]
    wide = size + len(twins)
    row, item = np.divmod(distinct(np.concatenate(owner) * wide + np.concatenate(items)), wide)
    keys = np.zeros(len(rows), dtype=np.uint64)
    np.add.at(keys, row, mixed(item.astype(np.uint64), np.zeros(1, dtype=np.uint64)))
    return keys, np.bincount(row, minlength=len(rows))


def alike(keys: Array, users: Array, their_keys: Array, theirs: Array) -> Array:
    """Which keys another user has too, bool [rows].

    Parameters
    ----------
    keys, users
        [rows]: of :func:`contents`, and whose.
    their_keys, theirs
        Those of the rows that may be another user's.
    """
    ends = pd.Series(theirs).groupby(their_keys).agg(["min", "max"]).reindex(keys)
    known = ends["min"].notna().to_numpy()
    # if the first and the last user of a key are the row's own, all are
    return known & (ends.to_numpy() != users[:, None]).any(axis=1)


def copied(rows: Rows, others: Rows) -> Array:
    """Rows with the same items as a row of another user in ``others``, :data:`COPY_LENGTH` items or more.

    Returns
    -------
    bool [rows]
    """
    keys, sizes = contents(rows)
    return alike(keys, rows.user, contents(others)[0], others.user) & (sizes >= COPY_LENGTH)


def without_copies(rows: Rows, *others: Rows) -> tuple[Rows, int]:
    """The rows without those that :func:`copied` finds in any of the others, and how many were left out."""
    hit = copied(rows, joined(list(others)))
    return rows.take(~hit), int(hit.sum())


def without_users(train: Rows, test: Rows) -> Rows:
    """The training rows of users without a test row."""
    return train.take(~belongs(train.user, test.user))


def scrub(rows: Rows) -> tuple[Rows, int]:
    """Remove each row's target from its own history, and the target's linked twin from the other one.

    Returns
    -------
    rows, count
        The scrubbed rows, and how many events were removed.
    """
    hits = {d: rows.holds_target(d) for d in DOMAINS}
    histories = {d: rows.history[d].keep(~hits[d]) for d in DOMAINS}
    own_excluded = rows.excluded.keep(rows.excluded.values != rows.target[rows.excluded.owner])
    return replace(rows, history=histories, excluded=own_excluded), sum(int(hit.sum()) for hit in hits.values())


def by_hash(words: Array, *salt: object) -> Array:
    """The words in the order of their hashes."""
    return words[np.argsort(hashed(words, *salt), kind="stable")]


def held_out(train: Rows, test: Rows, split: SplitParameters, removed: dict[str, int]) -> Cut:
    """Hold out a share of the training users as validation (``released`` and ``strict``), and make some rows cold.

    The users with the smallest seeded hashes are held out, whatever the order of the file.
    """
    users = np.unique(train.user)
    count = round(split.validation_share * len(users))
    if not 0 < count < len(users):
        raise DataError(
            f"split.validation_share = {split.validation_share} of {len(users)} training users leaves "
            f"{count} for validation: both sides need users"
        )
    held_out = belongs(train.user, by_hash(users, "validation", split.data_seed)[:count])
    validation, dropped = make_cold(train.take(held_out), split.cold_share, split.data_seed)
    splits = {"train": train.take(~held_out), "validation": validation, "test": test}
    return Cut(splits, removed | {"validation rows of users made cold": dropped})


def make_cold(rows: Rows, share: float, data_seed: int) -> tuple[Rows, int]:
    """Make cold-start rows among held-out users, where the data have none.

    Of the users who have a row with both histories, ``share`` lose one domain's history and keep its target. A hash
    chooses the users and, of two rows, the one to make cold; the user's other row is dropped.

    Returns
    -------
    rows, count
        The rows, and how many were dropped.
    """
    both = np.flatnonzero((rows.lengths("own") > 0) & (rows.lengths("other") > 0))
    users = np.unique(rows.user[both])
    chosen = by_hash(users, "cold users", data_seed)[: round(share * len(users))]
    candidates = both[belongs(rows.user[both], chosen)]
    keys = [f"{u}|{d}" for u, d in zip(rows.user[candidates], rows.domain[candidates], strict=True)]
    candidates = candidates[np.argsort(hashed(keys, "cold rows", data_seed), kind="stable")]
    first = np.unique(rows.user[candidates].astype(str), return_index=True)[1]
    cold = np.zeros(len(rows), dtype=bool)
    cold[candidates[first]] = True
    stays = cold | ~belongs(rows.user, chosen)
    histories = {d: rows.history[d].emptied(cold & (rows.domain == i)) for i, d in enumerate(DOMAINS)}
    return replace(rows, history=histories).take(stays), int((~stays).sum())


def most_recent(splits: Mapping[str, Rows], longest: int) -> tuple[dict[str, Rows], dict[str, int]]:
    """Limit each row's histories to their last ``longest`` events, in the protocol's order.

    Counting pairs of a user's events costs the square of their number, so this one limit holds for every count and
    every model. What a row may not be asked for (``Rows.excluded``) stays whole.

    Returns
    -------
    splits, removed
        The rows, and how many events each split lost; a split that lost none is not named.
    """
    shortened, removed = {}, {}
    for name, rows in splits.items():
        history = {d: full.recent(longest) for d, full in rows.history.items()}
        beyond = sum(len(rows.history[d].values) - len(history[d].values) for d in DOMAINS)
        shortened[name] = replace(rows, history=history) if beyond else rows
        if beyond:
            removed[f"events before the last {longest} of a domain in {name} histories"] = beyond
    return shortened, removed


def tail_limits(rows: Rows) -> dict[str, float]:
    """L80 by domain: the mean length of the floor(0.8 n) shortest own histories, in items."""
    limits = {}
    for d in DOMAINS:
        lengths = np.sort(rows.lengths("own")[rows.of(d)])
        shortest = lengths[: int(0.8 * len(lengths))]
        limits[d] = float(shortest.mean()) if len(shortest) else 0.0
    return limits


def raw_rows(catalogue: Catalogue, user: Array, domain: Array, sequences: Mapping[str, Ragged], source: Array) -> Rows:
    """Rows from full sequences: the last item of the own-domain sequence is the target, the rest is history."""
    target = np.zeros(len(user), dtype=np.int32)
    histories = {}
    for i, d in enumerate(DOMAINS):
        at = np.flatnonzero(domain == i)
        last = sequences[d].offsets[at + 1] - 1
        target[at] = sequences[d].values[last]
        keep = np.ones(len(sequences[d].values), dtype=bool)
        keep[last] = False
        histories[d] = sequences[d].keep(keep)
    own = chosen([histories[d] for d in DOMAINS], domain)
    return Rows(catalogue, user, domain.astype(np.int8), target, histories, own, source)
