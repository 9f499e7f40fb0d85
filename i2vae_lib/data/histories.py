"""Who is asked for: anybody's histories in people's ids, a file of them, and known users with all that they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.ordered_events import in_order
from i2vae_lib.data.rows import DOMAINS, PAD, Array, Catalogue, DataError, Ragged, Rows, history_keys, joined, rejoined
from i2vae_lib.data.user_sequences import UserSequences, user_sequences

_UNKNOWN = ("error", "drop")
"""What becomes of ids that the vocabulary does not have."""
_ROWS_OF_A_FILE = 8192  # read at once


def check_unknown(word: str) -> None:
    """Refuse what is none of :data:`_UNKNOWN`."""
    if word not in _UNKNOWN:
        raise DataError(f"unknown is {word!r}: expected {' or '.join(map(repr, _UNKNOWN))}")


def encoded(
    catalogue: Catalogue, domain: str, ids: Sequence[Any], lengths: Array, unknown: str = "error", before: int = 0
) -> tuple[Ragged, int]:
    """Histories in people's ids as item numbers, and how many ids were left out because nobody knows them.

    Parameters
    ----------
    domain
        Its key.
    ids
        Of all histories, one after another.
    lengths
        int [histories].
    unknown
        ``"error"`` or ``"drop"``.
    before
        Histories before the first of these, for messages.

    Raises
    ------
    DataError
        Ids outside the vocabulary (up to five are named, and the history of the first), unless they are dropped.
    """
    check_unknown(unknown)
    found = Ragged.from_lengths(catalogue.numbers(domain, ids), lengths)
    there = found.values != PAD
    if unknown == "error" and not there.all():
        row = before + found.owner[np.argmin(there)]
        try:
            catalogue.encode(domain, ids)
        except DataError as error:
            raise DataError(f"{error}; the first stands in history {row:,} (from 0)") from None
    return found.keep(there), int((~there).sum())


def encoded_lists(
    catalogue: Catalogue, histories: Mapping[str, Sequence[Sequence[Any]]], unknown: str = "error"
) -> tuple[dict[str, Ragged], int]:
    """:func:`encoded` of a list of ids a user and domain; domains go by key or name, and one may be left out.

    Raises
    ------
    DataError
        As :func:`encoded`; an unknown domain, lists of different lengths, or what is no list of ids.
    """
    given: dict[str, Sequence[Sequence[Any]]] = {}
    for name, lists in histories.items():
        if catalogue.key(name) in given:
            raise DataError(f"histories name domain {catalogue.key(name)} twice ({', '.join(map(repr, histories))})")
        given[catalogue.key(name)] = lists
    count, found, dropped = max((len(one) for one in given.values()), default=0), {}, 0
    for d in DOMAINS:
        lists = given.get(d, ())
        if len(lists) not in (0, count):
            raise DataError(f"histories of {count} users in one domain but {len(lists)} in {d}: one list a user")
        for row, one in enumerate(lists):
            if isinstance(one, str) or not hasattr(one, "__len__"):
                raise DataError(f"history {row:,} (from 0) of domain {d} is {one!r}: expected a list of ids")
        ids = [one for part in lists for one in part]
        lengths = np.array([len(part) for part in lists] or [0] * count, dtype=np.int64)
        found[d], lost = encoded(catalogue, d, ids, lengths, unknown)
        dropped += lost
    return found, dropped


def rows_asking(catalogue: Catalogue, histories: Mapping[str, Ragged], domain: str, users: Array | None = None) -> Rows:
    """Rows that ask for an item of ``domain``; their target is padding, for nobody knows what comes next.

    ``users``: who they are, object array of str [n]; None: new ones.
    """
    if users is None:  # named by what they took: the fold, and so the answer, depends on nobody else in the call
        users = np.array([f"new user {key:016x}" for key in history_keys(histories, "new user")], dtype=object)
    count = len(users)
    which = np.full(count, DOMAINS.index(domain), dtype=np.int8)
    nothing = np.full(count, PAD, dtype=np.int32)
    return Rows(catalogue, users, which, nothing, histories, replace(histories[domain], moments=None), np.arange(count))


def read_histories(catalogue: Catalogue, path: Path | str, unknown: str = "error") -> tuple[dict[str, Ragged], int]:
    """:func:`encoded` of a Parquet file with a column a domain (its key or name), each cell a list of ids or empty.

    Raises
    ------
    DataError
        As :func:`encoded`; no Parquet file, a missing column, or one that holds no lists.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None
    names = {d: next((n for n in (d, catalogue.names[d]) if n in file.schema_arrow.names), None) for d in DOMAINS}
    parts: dict[str, list[tuple[Array, Array]]] = {d: [] for d in DOMAINS}
    dropped = before = 0
    for d, name in names.items():
        if name is None:
            raise DataError(
                f"{path}: missing column {d}; expected x and y (or the domains' names), a list of ids a user"
            )
        kind = file.schema_arrow.field(name).type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_null(kind)):
            raise DataError(f"{path}: column {name} holds {kind}; expected a list of ids in each cell")
    for batch in file.iter_batches(_ROWS_OF_A_FILE, columns=list(names.values())):
        for d, name in names.items():
            column = batch.column(name)
            if pa.types.is_null(column.type):
                column = column.cast(pa.list_(pa.string()))
            ids, lengths = column.flatten().to_pylist(), np.asarray(column.value_lengths().fill_null(0), dtype=np.int64)
            try:
                found, lost = encoded(catalogue, d, ids, lengths, unknown, before)
            except DataError as error:
                raise DataError(f"{path}, rows {before:,} to {before + len(batch) - 1:,}: {error}") from None
            parts[d].append((found.values, found.lengths))
            dropped += lost
        before += len(batch)
    nothing = [(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64))]
    wholes = {d: [np.concatenate(one) for one in zip(*(some or nothing), strict=True)] for d, some in parts.items()}
    return {d: Ragged.from_lengths(*whole) for d, whole in wholes.items()}, dropped


def whole_histories(dataset: CrossDomainDataset) -> UserSequences:
    """Everybody in a dataset with all that they took, held-out events included: whom a finished model recommends to."""
    if dataset.log is None:
        return user_sequences(joined([rejoined(rows) for rows in dataset.splits.values()]))
    events = in_order(dataset.log, dataset.catalogue, dataset.data_seed)
    count = len(dataset.log.users)
    took = {d: Ragged.from_lengths(e.item, np.bincount(e.user, minlength=count), e.moment) for d, e in events.items()}
    return UserSequences(dataset.log.users, took)
