"""Two timestamped logs to one :class:`LogPair`: rows checked, ids to numbers, the first of each event.

All of it is SQL, so files larger than memory go through the same code (:func:`.database.database`); what
comes out are numpy arrays, which the protocols filter (:mod:`i2vae_lib.data.filters`).
"""

from __future__ import annotations

import filecmp
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from i2vae_lib.data.filters import line_of
from i2vae_lib.data.logs.c2dsr import check_sequences
from i2vae_lib.data.logs.checks import check_log, refuse_zone_of_one
from i2vae_lib.data.logs.database import database, first_row, locate, reading, stage_log
from i2vae_lib.data.logs.files import FLOAT_IDS, Source, check_columns, open_log, open_table
from i2vae_lib.data.logs.ids import (
    common_events,
    count_shared,
    float_ids,
    id_suspicions,
    number_ids,
    rounded,
    shared_items,
    shared_users,
    spelled_apart,
    spellings,
    swapped,
)
from i2vae_lib.data.logs.pair_file import HEADERLESS, UNITS, Columns, PairFile, other_format, read_pair_file
from i2vae_lib.data.logs.suspicions import time_suspicions
from i2vae_lib.data.rows import (
    DOMAINS,
    SUSPICIOUS,
    Array,
    Catalogue,
    DataError,
    EventLog,
    Events,
    LogPair,
    resolution_of,
)
from i2vae_lib.places import brief
from i2vae_lib.progress import bar
from i2vae_lib.runs import sha256_of

CHECKED_STAGES = 5  # that :func:`checked` takes of a bar
_LOADING_STAGES = 1 + CHECKED_STAGES + 4
_TITLE_ITEMS = ("item_id", "parent_asin", "asin", "item")  # names of a titles file's id column, after the log's own


def load_logs(pair: PairFile | Path | str, *, memory_limit: str = "2GB") -> LogPair:
    """Read and check both logs of a pair.

    Of several events of one (user, item) the first in time stays. Users (over both domains) and items (a domain, from
    1) are numbered in the order of their ids. Nothing depends on the files' row order. The k-core is the protocol's
    (:mod:`i2vae_lib.data.filters`).

    Parameters
    ----------
    pair
        A pair file's content, or its path.
    memory_limit
        Memory that the engine may take before it spills to disk, e.g. ``"2GB"``; the arrays (16 bytes an event, and the
        ids) come on top.

    Returns
    -------
    LogPair
        ``filters`` has two lines a domain: ``step``, ``domain``, the ``events``, ``users`` and ``items`` that were
        read and that the first of each event leaves, and the events ``removed``.

    Raises
    ------
    DataError
        What is wrong with the files, with file and line (CSV) or row (Parquet, from 1), and what would be right.
    """
    if not isinstance(pair, PairFile):
        pair = read_pair_file(pair)
    names = {d: pair.side(d).name for d in DOMAINS}
    steps: list[dict[str, Any]] = []
    repeats = {}
    with bar(f"loading {pair.name}", _LOADING_STAGES, "stage") as progress:
        with stage(progress, "checksums"):
            source_sha256 = fingerprint(pair)
        with checked(pair, memory_limit, progress) as db:
            suspicions = time_suspicions(db, names, pair.layout.unit)
            suspicions += id_suspicions(db, names, pair.same_ids_are_same_items)
            for d in DOMAINS:
                with stage(progress, f"first events of {names[d]}"):
                    repeats[d] = _keep_first(db, d, pair, steps)
            with stage(progress, "what is left"):
                log, ids = _fetch(db, timed=pair.layout.unit != "order")
            with stage(progress, "titles"):
                titles = {d: _titles(db, d, pair, ids[d]) for d in DOMAINS}
    return LogPair(
        pair.name,
        source_sha256,
        Catalogue(names, ids, _links(pair, ids), titles),
        log,
        pd.DataFrame(steps),
        one_order=pair.one_order,
        min_user=pair.min_user,
        min_item=pair.min_item,
        repeats=np.concatenate([repeats[d] for d in DOMAINS]),
        files={d: str(pair.side(d).path) for d in DOMAINS},
        suspicions=[brief(SUSPICIOUS + one) for one in suspicions],
    )


@contextmanager
def stage(progress: Any, name: str) -> Iterator[None]:
    """One stage of a bar, which shows its name."""
    progress.set_postfix_str(name)
    yield
    progress.update()


@contextmanager
def checked(pair: PairFile, memory_limit: str, progress: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    """Both logs of a pair, read and checked but not filtered, in a temporary database.

    Its tables: ``raw_x`` and ``raw_y`` (u, i: the ids as text; t: BIGINT in the files' unit) and those of
    :func:`.ids.number_ids`. The bar ``progress`` moves by ``CHECKED_STAGES``.

    Raises
    ------
    DataError
        As :func:`load_logs`.
    """
    with stage(progress, "opening"):
        sources = {d: open_log(pair.side(d), pair.layout, pair.format) for d in DOMAINS}
    with database(memory_limit) as db:
        if pair.format == "c2dsr":
            check_sequences(db, sources)
        zones = []
        for d in DOMAINS:
            with stage(progress, f"reading {pair.side(d).name}"):
                stage_log(db, d, sources[d], pair.layout)
                zones.append(check_log(db, d, sources[d], pair.layout))
        refuse_zone_of_one(pair.layout.timestamp, zones)
        with stage(progress, "numbers of ids"):
            number_ids(db)
        with stage(progress, "checks of ids"):
            check_ids(db, sources, pair)
        yield db


def check_ids(db: duckdb.DuckDBPyConnection, sources: Mapping[str, Source], pair: PairFile) -> None:
    """Refuse ids that are floats, swapped columns, and logs that share no user."""
    for d in DOMAINS:
        _check_ids(db, d, sources[d], pair.layout)
    _check_pair(db, pair)


def fingerprint(pair: PairFile) -> str:
    """SHA-256 over the files' contents and every option except where the files lie."""
    digests = {d: [_digest(one) for one in pair.side(d).files] for d in DOMAINS}
    values = [pair.side(d).value for d in DOMAINS]
    sides = {"path", "more", "items", "value", "titles"}
    options = pair.model_dump(mode="json", exclude={"x": sides, "y": sides, "columns": True})
    options["columns"] = pair.layout.model_dump(mode="json", exclude_none=True)
    if any(values):
        options["values"] = values
    return hashlib.sha256(json.dumps([options, digests], sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty")
    return sha256_of(path)


def _check_ids(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> None:
    columns = {"user": ("u", layout.user), "item": ("i", layout.item)}
    for role in float_ids(db, d):
        column, name = columns[role]
        where, values = locate(db, source, layout, f"regexp_matches({column}, '[.eE]')")
        raise DataError(f"{where}: column '{name}' holds the float {values[role]!r}, not ids{FLOAT_IDS}")


def _unswap(format: str | None) -> str:
    if format in HEADERLESS:
        right = other_format(format)
        return f"set format: {right}, which has {' before '.join(HEADERLESS[right][:2])}"
    return "swap columns.user and columns.item" if format is None else "swap the two columns in the file"


def _check_pair(db: duckdb.DuckDBPyConnection, pair: PairFile) -> None:
    """Refuse swapped columns and logs that share no user."""
    x, y = pair.x, pair.y
    if pair.layout.domain is not None and (x.value or x.name) == (y.value or y.name):
        raise DataError(f"x and y are the same rows: both have {x.value or x.name!r} in '{pair.layout.domain}'")
    if pair.layout.domain is None and x.items is None and filecmp.cmp(x.path, y.path, shallow=False):
        raise DataError(
            f"x and y are the same log: {x.path} and {y.path} have the same content; give each domain its own file"
        )
    for d in DOMAINS:
        if evidence := swapped(db, d):
            raise DataError(f"{pair.side(d).path}: users and items are swapped: {evidence}; {_unswap(pair.format)}")
    if shared_users(db):
        _refuse_same_events(db, pair)
        return
    names = f"{pair.x.path} and {pair.y.path}: no user is in both"
    sides = {d: pair.side(d).name for d in DOMAINS}
    alike = "; ".join(spellings(db, "user", "users", sides) + spelled_apart(db, sides) + rounded(db, "user", sides))
    if shared := shared_items(db):
        raise DataError(
            f"{names}, but {shared:,} ids of the item columns are: either users and items are swapped "
            f"({_unswap(pair.format)}), or each file numbers its users by itself (a pair needs common user ids)"
            + (f"; {alike}" if alike else "")
        )
    for d, e in (DOMAINS, DOMAINS[::-1]):
        crossed = count_shared(db, f"users WHERE {d}", f"items_{e}")
        [users, items] = (first_row(db, f"SELECT count(*) FROM {one}")[0] for one in (f"users WHERE {d}", f"items_{e}"))
        if 2 * crossed > min(users, items):  # fewer are integers that happen to meet
            raise DataError(
                f"{names}, but {crossed:,} users of {pair.side(d).name} stand in the item column of "
                f"{pair.side(e).name}: the two files have their columns in different order; write them alike"
            )
    raise DataError(f"{names}; a pair needs common user ids: {alike or 'does each file number its users by itself?'}")


def _refuse_same_events(db: duckdb.DuckDBPyConnection, pair: PairFile) -> None:
    """Refuse one log given twice in two wrappings (a CSV and its .gz), or once whole and once in part."""
    x, y, both, same = common_events(db)
    same = both if pair.layout.unit == "order" else same
    if x == y == same > 0:
        raise DataError(
            f"x and y are the same log: {pair.x.path} and {pair.y.path} hold the same events; "
            f"give each domain its own file"
        )
    if same >= max(10, 0.9 * min(x, y)):  # of a handful nothing can be said
        small, large = (pair.x, pair.y) if x < y else (pair.y, pair.x)
        raise DataError(
            f"{same:,} of the {min(x, y):,} events of {small.name} stand in {large.name} as well ({small.path} and "
            f"{large.path}): one is a part of the other, and what is to be predicted would stand in the other domain's "
            f"history; give each domain its own events"
        )


def _keep_first(db: duckdb.DuckDBPyConnection, d: str, pair: PairFile, steps: list[dict[str, Any]]) -> Array:
    """Table ``events_d``: u, i as numbers, t in seconds, the first event of each (user, item).

    Returns the times of the others in seconds, int64.
    """
    name, scale = pair.side(d).name, UNITS[pair.layout.unit][1]
    sql = f"SELECT count(*), (SELECT count(*) FROM users WHERE {d}), (SELECT count(*) FROM items_{d}) FROM raw_{d}"
    read = dict(zip(("events", "users", "items"), first_row(db, sql), strict=True))
    db.execute(
        f"CREATE TABLE events_{d} AS SELECT users.n AS u, items_{d}.n AS i, min(t) // {scale} AS t FROM raw_{d} "
        f"JOIN users ON raw_{d}.u = users.id JOIN items_{d} ON raw_{d}.i = items_{d}.id GROUP BY ALL"
    )
    [left] = first_row(db, f"SELECT count(*) FROM events_{d}")
    steps.append(line_of("read", name, read, read["events"]))
    steps.append(line_of("first of each (user, item)", name, read | {"events": left}, read["events"]))
    several = f"SELECT u, i FROM raw_{d} GROUP BY u, i HAVING count(*) > 1"
    later = f"SELECT unnest(list_sort(list(t))[2:]) AS t FROM raw_{d} SEMI JOIN ({several}) USING (u, i) GROUP BY u, i"
    repeats = db.execute(f"SELECT t // {scale} AS t FROM ({later})").fetchnumpy()["t"]
    db.execute(f"DROP TABLE raw_{d}")
    return np.asarray(repeats, dtype=np.int64)


def _fetch(db: duckdb.DuckDBPyConnection, *, timed: bool) -> tuple[EventLog, dict[str, Array]]:
    """The events by user, time, item, and the ids in the order of their numbers."""
    events, ids = {}, {}
    for d in DOMAINS:
        ids[d] = _ids(db, f"items_{d}")
        found = db.execute(f"SELECT u, i + 1 AS i, t FROM events_{d} ORDER BY u, t, i").fetchnumpy()
        kinds = (np.int32, np.int32, np.int64)
        events[d] = Events(*(np.asarray(found[name], dtype=kind) for name, kind in zip("uit", kinds, strict=True)))
    return EventLog(_ids(db, "users"), events, resolution_of(events) if timed else 0), ids


def _ids(db: duckdb.DuckDBPyConnection, table: str) -> Array:
    return np.asarray(db.execute(f"SELECT id FROM {table} ORDER BY n").fetchnumpy()["id"], dtype=object)


def _links(pair: PairFile, ids: Mapping[str, Array]) -> Array:
    """int32 [m, 2]: items with the same id, if these are the same items."""
    if not pair.same_ids_are_same_items:
        return np.zeros((0, 2), dtype=np.int32)
    at = pd.Index(ids["y"], dtype=object).get_indexer(pd.Index(ids["x"], dtype=object))
    return np.stack([np.flatnonzero(at >= 0) + 1, at[at >= 0] + 1], axis=1).astype(np.int32)


def _titles(db: duckdb.DuckDBPyConnection, d: str, pair: PairFile, ids: Array) -> Array | None:
    """Titles in the order of ``ids``; an item without one shows its id. Of two titles of an id the lesser stays."""
    path = pair.side(d).titles
    if path is None:
        return None
    id_names = [pair.layout.item, *_TITLE_ITEMS]
    source = open_table(path, [*id_names, "title"])
    source.check_whole()
    name = next((one for one in id_names if one in source.names), pair.layout.item)
    check_columns(source, [name, "title"])
    rows, values = source.rows()
    with reading(db, source):
        found = db.execute(
            f"SELECT id, title FROM items_{d} JOIN (SELECT {source.text(name)} AS id, min({source.text('title')}) "
            f"AS title FROM {rows} GROUP BY 1) USING (id) WHERE trim(title) <> ''",
            values,
        ).fetchnumpy()
    if not len(found["id"]):
        raise DataError(f"{path}: not one id of column '{name}' is an item of {pair.side(d).path} with a title")
    by_id = dict(zip(found["id"], found["title"], strict=True))
    return np.array([by_id.get(one, one) for one in ids], dtype=object)
