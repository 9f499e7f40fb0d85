"""Protocols: from a raw pair to the rows that training, selection and test may see.

One name, one meaning (``evaluation.md``). Each protocol is a function ``RawPair -> CrossDomainDataset`` whose
splits depend on ``data_seed`` and on the rows' contents, never on their order in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from i2vae_lib.data.dataset import DOMAINS, Catalogue, CrossDomainDataset, DataError, Int, Ragged, Rows, hashed
from i2vae_lib.params import SplitParameters


@dataclass(frozen=True)
class RawPair:
    """A pair as it was published: a training table and a test table of rows, histories untouched."""

    name: str
    source_sha256: str
    catalogue: Catalogue
    train: Rows
    test: Rows
    truth: Mapping[str, Int] = field(default_factory=dict)


def apply(protocol: str, raw: RawPair, split: SplitParameters) -> CrossDomainDataset:
    """Apply a protocol by name."""
    return {"released": released, "strict": strict}[protocol](raw, split)


def released(raw: RawPair, split: SplitParameters) -> CrossDomainDataset:
    """The paper's split as it stands: **not leak-free**; only for numbers beside the paper's tables.

    Test rows are the test file, histories untouched. Train is the train file less a share of its users, held out as
    validation, because the release has none.
    """
    return _assemble("released", raw, raw.train, raw.test, split, {})


def strict(raw: RawPair, split: SplitParameters) -> CrossDomainDataset:
    """``released`` with its leaks closed.

    Rows of a test user leave train and validation; a row's target leaves both of its histories, through the link
    table too; a user's two rows stay on one side of every split.
    """
    known = np.isin(raw.train.user, np.unique(raw.test.user))
    train, scrubbed_train = scrub(raw.train.take(~known))
    test, scrubbed_test = scrub(raw.test)
    removed = {
        "training rows of test users": int(known.sum()),
        "targets scrubbed from training histories": scrubbed_train,
        "targets scrubbed from test histories": scrubbed_test,
    }
    return _assemble("strict", raw, train, test, split, removed)


def scrub(rows: Rows) -> tuple[Rows, int]:
    """Remove each row's target from both of its histories (as itself in its own, through the link in the other).

    Returns
    -------
    rows, count
        The scrubbed rows, and how many events left.
    """
    hits = {d: rows.holds_target(d) for d in DOMAINS}
    histories = {d: rows.history[d].keep(~hits[d]) for d in DOMAINS}
    own_excluded = rows.excluded.keep(rows.excluded.values != rows.target[rows.excluded.owner])
    return replace(rows, history=histories, excluded=own_excluded), sum(int(hit.sum()) for hit in hits.values())


def _assemble(
    protocol: str, raw: RawPair, train: Rows, test: Rows, split: SplitParameters, removed: dict[str, int]
) -> CrossDomainDataset:
    users = np.unique(train.user)
    count = round(split.validation_share * len(users))
    if not 0 < count < len(users):
        raise DataError(
            f"split.validation_share = {split.validation_share} of {len(users)} training users leaves "
            f"{count} for validation: both sides need users"
        )
    order = np.argsort(hashed(users, "validation", split.data_seed), kind="stable")
    held_out = np.isin(train.user, users[order[:count]])
    validation, dropped = make_cold(train.take(held_out), split.cold_share, split.data_seed)
    splits = {"train": train.take(~held_out), "validation": validation, "test": test}
    return CrossDomainDataset(
        raw.name,
        protocol,
        split.data_seed,
        raw.source_sha256,
        raw.catalogue,
        splits,
        {name: tail_limits(rows) for name, rows in splits.items()},
        removed | {"validation rows of users made cold": dropped},
        raw.truth,
    )


def make_cold(rows: Rows, share: float, data_seed: int) -> tuple[Rows, int]:
    """Make cold-start rows among held-out users, where the data bring none.

    Of the users who have a row with both histories, ``share`` lose one domain's history and keep its target; which
    users and, of two rows, which one, follows from a hash. The user's other row is dropped.

    Returns
    -------
    rows, count
        The rows, and how many were dropped.
    """
    both = np.flatnonzero((rows.lengths("own") > 0) & (rows.lengths("other") > 0))
    users = np.unique(rows.user[both])
    chosen = users[np.argsort(hashed(users, "cold users", data_seed), kind="stable")[: round(share * len(users))]]
    candidates = both[np.isin(rows.user[both], chosen)]
    keys = [f"{u}|{d}" for u, d in zip(rows.user[candidates], rows.domain[candidates], strict=True)]
    candidates = candidates[np.argsort(hashed(keys, "cold rows", data_seed), kind="stable")]
    first = np.unique(rows.user[candidates].astype(str), return_index=True)[1]
    cold = np.zeros(len(rows), dtype=bool)
    cold[candidates[first]] = True
    stays = cold | ~np.isin(rows.user, chosen)
    histories = {}
    for i, d in enumerate(DOMAINS):
        emptied = cold & (rows.domain == i)
        histories[d] = rows.history[d].keep(~emptied[rows.history[d].owner])
    return replace(rows, history=histories).take(stays), int((~stays).sum())


def tail_limits(rows: Rows) -> dict[str, float]:
    """L80 by domain: the mean length of the floor(0.8 n) shortest own histories, in items."""
    limits = {}
    for d in DOMAINS:
        lengths = np.sort(rows.lengths("own")[rows.of(d)])
        shortest = lengths[: int(0.8 * len(lengths))]
        limits[d] = float(shortest.mean()) if len(shortest) else 0.0
    return limits


def raw_rows(catalogue: Catalogue, user: Int, domain: Int, sequences: Mapping[str, Ragged], source: Int) -> Rows:
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
    rows = Rows(catalogue, user, domain.astype(np.int8), target, histories, histories["x"], source)
    return replace(rows, excluded=own_histories(rows))


def own_histories(rows: Rows) -> Ragged:
    """Each row's history in its own domain."""
    stacked = Ragged(
        np.concatenate([rows.history[d].values for d in DOMAINS]),
        np.concatenate([rows.history["x"].offsets[:-1], len(rows.history["x"].values) + rows.history["y"].offsets]),
    )
    return stacked.take(np.arange(len(rows)) + rows.domain.astype(np.int64) * len(rows))
