"""Whom to recommend to: given histories in the data's ids, a file of them, or known users with all that they took."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.ordered_events import in_order
from i2vae_lib.data.rows import (
    DOMAINS,
    PAD,
    Array,
    Catalogue,
    DataError,
    Ragged,
    Rows,
    history_keys,
    joined,
    rejoined,
    stacked,
)
from i2vae_lib.data.user_sequences import UserSequences, user_sequences

_UNKNOWN = ("error", "drop")  # what to do about ids that the vocabulary does not have
_ROWS_OF_A_FILE = 8192  # read at once


def check_unknown(word: str) -> None:
    """Refuse a word that is not among :data:`_UNKNOWN`."""
    if word not in _UNKNOWN:
        raise DataError(f"unknown is {word!r}: expected {' or '.join(map(repr, _UNKNOWN))}")


def _encoded(
    catalogue: Catalogue, domain: str, ids: Sequence[Any], lengths: Array, unknown: str = "error", before: int = 0
) -> tuple[Ragged, int]:
    """Histories in the data's ids as item numbers, and how many unknown ids were left out.

    Parameters
    ----------
    domain
        Its key.
    ids
        Those of all histories, one after another.
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
    numbered = Ragged.from_lengths(catalogue.numbers(domain, ids), lengths)
    there = numbered.values != PAD
    if unknown == "error" and not there.all():
        row = before + numbered.owner[np.argmin(there)]
        try:
            catalogue.encode(domain, ids)
        except DataError as error:
            raise DataError(f"{error}; the first stands in history {row:,} (from 0)") from None
    return numbered.keep(there), int((~there).sum())


def encoded_lists(
    catalogue: Catalogue, histories: Mapping[str, Sequence[Sequence[Any]]], unknown: str = "error"
) -> tuple[dict[str, Ragged], int]:
    """:func:`_encoded` for one list of ids per user and domain; domains go by key or name, and one may be left out.

    Raises
    ------
    DataError
        As :func:`_encoded`; an unknown domain, different numbers of users, or something that is no list of ids.
    """
    if not isinstance(histories, Mapping):
        raise DataError(
            f"histories is a {type(histories).__name__}: expected lists of ids by domain, {{'x': [[…], …]}}"
        )
    given: dict[str, Sequence[Sequence[Any]]] = {}
    for name, lists in histories.items():
        if isinstance(lists, str | bytes | Set | Mapping) or not hasattr(lists, "__len__"):
            raise DataError(f"histories of domain {name} are {lists!r}: expected a list of ids for each user")
        if catalogue.key(name) in given:
            raise DataError(f"histories name domain {catalogue.key(name)} twice ({', '.join(map(repr, histories))})")
        given[catalogue.key(name)] = lists
    count, numbered, dropped = max((len(lists) for lists in given.values()), default=0), {}, 0
    for d in DOMAINS:
        lists = given.get(d, ())
        if len(lists) not in (0, count):
            raise DataError(f"histories of {count} users in one domain but {len(lists)} in {d}: one list a user")
        for row, history in enumerate(lists):
            if isinstance(history, str | bytes | Set | Mapping) or not hasattr(history, "__len__"):
                raise DataError(f"history {row:,} (from 0) of domain {d} is {history!r}: expected a list of ids")
        ids = [item for history in lists for item in history]
        lengths = np.array([len(history) for history in lists] or [0] * count, dtype=np.int64)
        numbered[d], lost = _encoded(catalogue, d, ids, lengths, unknown)
        dropped += lost
    return numbered, dropped


def rows_asking(catalogue: Catalogue, histories: Mapping[str, Ragged], domain: str, users: Array | None = None) -> Rows:
    """Rows that ask for an item of ``domain``; their target is padding, since it is unknown.

    ``users``: known users, object array of str [n]; None: new ones.
    """
    if users is None:  # named by their histories: the fold, and so the answer, depends on no other user of the call
        users = np.array([f"new user {key:016x}" for key in history_keys(histories, "new user")], dtype=object)
    count = len(users)
    which = np.full(count, DOMAINS.index(domain), dtype=np.int8)
    nothing = np.full(count, PAD, dtype=np.int32)
    return Rows(catalogue, users, which, nothing, histories, replace(histories[domain], moments=None), np.arange(count))


def read_histories(catalogue: Catalogue, path: Path | str, unknown: str = "error") -> tuple[dict[str, Ragged], int]:
    """:func:`_encoded` for a Parquet file with one column per domain (key or name), each cell a list of ids or empty.

    Raises
    ------
    DataError
        As :func:`_encoded`; no Parquet file, a missing column, or a column without lists.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None
    names: dict[str, str] = {}
    parts: dict[str, list[Ragged]] = {d: [] for d in DOMAINS}
    dropped = before = 0
    for d in DOMAINS:
        columns = [name for name in file.schema_arrow.names if name in (d, catalogue.names[d])]
        if not columns:
            raise DataError(
                f"{path}: missing column {d}; expected x and y (or the domains' names), a list of ids a user"
            )
        if len(columns) > 1:
            raise DataError(f"{path}: two columns are domain {d}, named {' and '.join(columns)}: keep one")
        name = names[d] = columns[0]
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
                numbered, lost = _encoded(catalogue, d, ids, lengths, unknown, before)
            except DataError as error:
                raise DataError(f"{path}, rows {before:,} to {before + len(batch) - 1:,}: {error}") from None
            parts[d].append(numbered)
            dropped += lost
        before += len(batch)
    if not before:
        raise DataError(f"{path}: it holds no history: give a row for each user")
    return {d: stacked(some) for d, some in parts.items()}, dropped


def read_users(path: Path) -> list[Any]:
    """Users of a file: column ``user`` of Parquet, or an id a line.

    Raises
    ------
    DataError
        Neither, or no user.
    """
    wanted = "give an id a line, or Parquet with a column user"
    try:
        if path.suffix == ".parquet":
            names = pq.read_schema(path).names
            if names.count("user") != 1:
                raise DataError(f"{path}: not one column user among {', '.join(names) or 'no columns'}: {wanted}")
            users = list(pq.read_table(path, columns=["user"])["user"].to_pylist())
        else:  # no other line end splits
            users = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}): {wanted}") from None
    if not users:
        raise DataError(f"{path}: it holds no user: {wanted}")
    return users


def whole_histories(dataset: CrossDomainDataset) -> UserSequences:
    """All users of a dataset, for a finished model to recommend to: with all that they took, held-out events too."""
    if dataset.log is None:
        return user_sequences(joined([rejoined(rows) for rows in dataset.splits.values()]))
    events = in_order(dataset.log, dataset.catalogue, dataset.data_seed)
    count = len(dataset.log.users)
    took = {d: Ragged.from_lengths(e.item, np.bincount(e.user, minlength=count), e.moment) for d, e in events.items()}
    return UserSequences(dataset.log.users, took)
