"""The leak audit: does anything that training or selection sees depend on a test row?

Each check gives a count, a share and one example. Its severity follows from the protocol: a ``leak`` stops a run, a
``note`` informs. Under ``released`` leaks are what the data are known for: the tables are stamped instead.

A split is compared to everything before it that training or selection touches: validation to the training rows, test
to training *and* validation rows. What making rows cold or scrubbing took out of those rows counts as held by them,
so that the counts describe the pair, not the share that happened to be held out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from i2vae_lib.data.dataset import DOMAINS, CrossDomainDataset, Int, Rows

COLUMNS = ["check", "split", "severity", "count", "share", "example"]


class Leak(RuntimeError):
    """The audit found a leak where the protocol promises none."""


def audit(dataset: CrossDomainDataset) -> pd.DataFrame:
    """Run every check.

    Returns
    -------
    DataFrame
        ``check, split, severity`` ("leak" or "note"), ``count`` (rows concerned), ``share`` of the split's rows,
        ``example`` (source row and user of one, "" if none).
    """
    lines = []
    for split, before in (("validation", ("train",)), ("test", ("train", "validation"))):
        rows, earlier = dataset.splits[split], [dataset.splits[one] for one in before]
        for name, severity, check in CHECKS:
            hit = check(rows, earlier)
            first = np.flatnonzero(hit)[:1]
            example = f"row {rows.source[first[0]]}, user {rows.user[first[0]]}" if len(first) else ""
            lines.append((name, split, severity, int(hit.sum()), float(hit.mean()) if len(hit) else 0.0, example))
    shared = len(dataset.catalogue.links)
    smaller = min(dataset.catalogue.size(d) for d in DOMAINS)
    lines.append(("items shared by both domains", "catalogue", "note", shared, shared / smaller, ""))
    return pd.DataFrame(lines, columns=COLUMNS)


def refuse_leaks(found: pd.DataFrame, protocol: str) -> None:
    """Stop on a leak, except under ``released``.

    Raises
    ------
    Leak
        Names the first check that fired, its count and an example.
    """
    fired = found[(found["severity"] == "leak") & (found["count"] > 0)]
    if len(fired) and protocol != "released":
        first = fired.iloc[0]
        raise Leak(
            f"{first['check']} ({first['split']}): {first['count']} rows, e.g. {first['example']}; "
            f"{len(fired)} checks fired under protocol {protocol}, which promises none"
        )


def _held(rows: Rows, d: str) -> tuple[Int, Int]:
    """(row position, item) of everything that the rows hold of a domain: history, also from before a cold-start
    removal, and targets."""
    history, at = rows.history[d], rows.of(d)
    before = rows.excluded.keep(np.isin(rows.excluded.owner, at))
    positions = np.concatenate([history.owner, before.owner, at])
    return positions, np.concatenate([history.values, before.values, rows.target[at]])


def _pairs(rows: Rows, d: str) -> list[str]:
    """(user, item) of a domain as one string key."""
    positions, items = _held(rows, d)
    return [f"{u}|{i}" for u, i in zip(rows.user[positions], items, strict=True)]


def _user_in_training(rows: Rows, earlier: Sequence[Rows]) -> Int:
    return np.isin(rows.user.astype(str), np.concatenate([one.user for one in earlier]).astype(str))


def _target_in_training(rows: Rows, earlier: Sequence[Rows]) -> Int:
    hit = np.zeros(len(rows), dtype=bool)
    for d in DOMAINS:
        at = rows.of(d)
        known = {pair for one in earlier for pair in _pairs(one, d)}
        hit[at] = [f"{u}|{t}" in known for u, t in zip(rows.user[at], rows.target[at], strict=True)]
    return hit


def _target_in_own_history(rows: Rows, earlier: Sequence[Rows]) -> Int:
    return _target_in_history(rows, own=True)


def _target_in_other_history(rows: Rows, earlier: Sequence[Rows]) -> Int:
    return _target_in_history(rows, own=False)


def _target_in_history(rows: Rows, *, own: bool) -> Int:
    hit = np.zeros(len(rows), dtype=bool)
    for i, d in enumerate(DOMAINS):
        holders = rows.history[d].owner[rows.holds_target(d)]
        hit[holders[(rows.domain[holders] == i) == own]] = True
    return hit


def _duplicated(rows: Rows, earlier: Sequence[Rows]) -> Int:
    return pd.DataFrame({"user": rows.user, "domain": rows.domain, "target": rows.target}).duplicated().to_numpy()


def _target_unseen(rows: Rows, earlier: Sequence[Rows]) -> Int:
    hit = np.zeros(len(rows), dtype=bool)
    for d in DOMAINS:
        seen = np.zeros(rows.catalogue.size(d) + 1, dtype=bool)
        for one in earlier:
            # a target's twin too, which scrubbing took from the row's history in this domain
            seen[one.target_in(d)] = True
            seen[_held(one, d)[1]] = True
        at = rows.of(d)
        hit[at] = ~seen[rows.target[at]]
    return hit


Check = Callable[[Rows, Sequence[Rows]], Int]
CHECKS: list[tuple[str, str, Check]] = [
    ("user also in training", "leak", _user_in_training),
    ("target in the user's training rows", "leak", _target_in_training),
    ("target in own history", "leak", _target_in_own_history),
    ("target in other history", "leak", _target_in_other_history),
    ("duplicated row", "note", _duplicated),
    ("target never seen in training", "note", _target_unseen),
]
