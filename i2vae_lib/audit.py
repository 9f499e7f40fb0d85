"""The leak audit: does anything that training or selection sees depend on a test row?

Each check gives a count, a share and one example. Its severity follows from the protocol: a ``leak`` stops a run, a
``note`` informs. Under ``released`` leaks are what the data are known for: the tables are stamped instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from i2vae_lib.data.dataset import DOMAINS, CrossDomainDataset, Int, Rows, interactions, other

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
    train = dataset.splits["train"]
    for split in ("validation", "test"):
        rows = dataset.splits[split]
        for name, severity, check in CHECKS:
            hit = check(dataset, rows, train)
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


def _pairs(rows: Rows, d: str) -> Int:
    """(user, item) of a domain as one string key, targets included."""
    history, at = rows.history[d], rows.of(d)
    users = np.concatenate([rows.user[history.owner], rows.user[at]])
    items = np.concatenate([history.values, rows.target[at]])
    return np.array([f"{u}|{i}" for u, i in zip(users, items, strict=True)], dtype=object)


def _user_in_training(dataset: CrossDomainDataset, rows: Rows, train: Rows) -> Int:
    return np.isin(rows.user.astype(str), np.unique(train.user.astype(str)))


def _target_in_training(dataset: CrossDomainDataset, rows: Rows, train: Rows) -> Int:
    hit = np.zeros(len(rows), dtype=bool)
    for d in DOMAINS:
        at = rows.of(d)
        keys = np.array([f"{u}|{t}" for u, t in zip(rows.user[at], rows.target[at], strict=True)], dtype=object)
        hit[at] = np.isin(keys.astype(str), _pairs(train, d).astype(str))
    return hit


def _target_in_own_history(dataset: CrossDomainDataset, rows: Rows, train: Rows) -> Int:
    hit = np.zeros(len(rows), dtype=bool)
    for i, d in enumerate(DOMAINS):
        owner = rows.history[d].owner
        same = (rows.history[d].values == rows.target[owner]) & (rows.domain[owner] == i)
        hit[owner[same]] = True
    return hit


def _target_in_other_history(dataset: CrossDomainDataset, rows: Rows, train: Rows) -> Int:
    hit = np.zeros(len(rows), dtype=bool)
    for i, d in enumerate(DOMAINS):
        mine = rows.domain == i
        twin = np.where(mine, rows.catalogue.linked(d)[np.where(mine, rows.target, 0)], -1)
        opposite = rows.history[other(d)]
        same = (opposite.values == twin[opposite.owner]) & (twin[opposite.owner] > 0)
        hit[opposite.owner[same]] = True
    return hit


def _duplicated(dataset: CrossDomainDataset, rows: Rows, train: Rows) -> Int:
    return pd.DataFrame({"user": rows.user, "domain": rows.domain, "target": rows.target}).duplicated().to_numpy()


def _target_unseen(dataset: CrossDomainDataset, rows: Rows, train: Rows) -> Int:
    seen = {d: np.unique(items) for d, (_, items) in interactions(train).items()}
    hit = np.zeros(len(rows), dtype=bool)
    for d in DOMAINS:
        at = rows.of(d)
        hit[at] = ~np.isin(rows.target[at], seen[d])
    return hit


Check = Callable[[CrossDomainDataset, Rows, Rows], Int]
CHECKS: list[tuple[str, str, Check]] = [
    ("user also in training", "leak", _user_in_training),
    ("target in the user's training rows", "leak", _target_in_training),
    ("target in own history", "leak", _target_in_own_history),
    ("target in other history", "leak", _target_in_other_history),
    ("duplicated row", "note", _duplicated),
    ("target never seen in training", "note", _target_unseen),
]
