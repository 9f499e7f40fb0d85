"""Two timestamped logs to one :class:`LogPair`: rows checked, ids to numbers, the first of each event.

All of it is SQL, so files larger than memory go through the same code (:func:`.files.database`); what
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
from i2vae_lib.data.logs.checks import check_log
from i2vae_lib.data.logs.database import database, first_row, locate, reading, stage_log
from i2vae_lib.data.logs.files import FLOAT_IDS, NUMBER, Source, check_columns, open_log, open_table
from i2vae_lib.data.logs.pair_file import HEADERLESS, UNITS, Columns, PairFile, other_format, read_pair_file
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
from i2vae_lib.progress import bar
from i2vae_lib.runs import sha256_of

CHECKED_STAGES = 5  # that :func:`checked` takes of a bar
_LOADING_STAGES = 1 + CHECKED_STAGES + 4
_TITLE_ITEMS = ("item_id", "parent_asin", "asin", "item")  # names of a titles file's id column, after the log's own
_AMAZON_LOOKS = {"user": "A[0-9A-Z]{9,20}", "item": "B0[0-9A-Z]{8}"}


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
            suspicions = id_suspicions(db, names, pair.same_ids_are_same_items)
            for d in DOMAINS:
                with stage(progress, f"first events of {names[d]}"):
                    repeats[d] = _keep_first(db, d, pair, steps)
            with stage(progress, "what is left"):
                log, ids = _fetch(db, timed=pair.layout.unit != "order")
                _refuse_twice(pair, log, ids)
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
        suspicions=[SUSPICIOUS + one for one in suspicions],
    )


def _refuse_twice(pair: PairFile, log: EventLog, ids: Mapping[str, Array]) -> None:
    """One log given twice in two wrappings (a CSV and its .gz) has other bytes and the same events."""
    x, y = (log.events[d] for d in DOMAINS)
    if np.array_equal(ids["x"], ids["y"]) and all(
        np.array_equal(getattr(x, name), getattr(y, name)) for name in ("user", "item", "time")
    ):
        raise DataError(
            f"x and y are the same log: {pair.x.path} and {pair.y.path} hold the same events; "
            f"give each domain its own file"
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
    :func:`number_ids`. The bar ``progress`` moves by ``CHECKED_STAGES``.

    Raises
    ------
    DataError
        As :func:`load_logs`.
    """
    with stage(progress, "opening"):
        sources = {d: open_log(pair.side(d), pair.layout, pair.format) for d in DOMAINS}
    with database(memory_limit) as db:
        for d in DOMAINS:
            with stage(progress, f"reading {pair.side(d).name}"):
                stage_log(db, d, sources[d], pair.layout)
                check_log(db, d, sources[d], pair.layout)
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


# --- from rows to numbers ---------------------------------------------------------------------------------------------


def number_ids(db: duckdb.DuckDBPyConnection) -> None:
    """Tables ``users`` (id, n, x, y: whether the domain has them) and ``items_d`` (id, n); n counts from 0."""
    db.execute(
        "CREATE OR REPLACE TABLE users AS SELECT id, CAST(row_number() OVER (ORDER BY id) - 1 AS INTEGER) AS n, x, y "
        "FROM (SELECT id, bool_or(x) AS x, bool_or(NOT x) AS y FROM (SELECT DISTINCT u AS id, true AS x FROM raw_x "
        "UNION ALL SELECT DISTINCT u, false FROM raw_y) GROUP BY id)"
    )
    for d in DOMAINS:
        db.execute(
            f"CREATE OR REPLACE TABLE items_{d} AS SELECT id, CAST(row_number() OVER (ORDER BY id) - 1 AS INTEGER) "
            f"AS n FROM (SELECT DISTINCT i AS id FROM raw_{d})"
        )


def _tables(d: str) -> dict[str, str]:
    """SQL of a domain's ids by what they stand for."""
    return {"user": f"users WHERE {d}", "item": f"items_{d}"}


_FLOAT = NUMBER + "([eE][+-]?[0-9]{1,3})?"


def float_ids(db: duckdb.DuckDBPyConnection, d: str) -> list[str]:
    """Which ids of a domain ("user", "item") are floats: all of them are numbers, and some have a point or exponent."""
    sql = f"SELECT bool_and(regexp_full_match(id, '{_FLOAT}')), bool_or(regexp_matches(id, '[.eE]')) FROM "
    return [role for role, table in _tables(d).items() if all(first_row(db, sql + table))]


def _check_ids(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> None:
    columns = {"user": ("u", layout.user), "item": ("i", layout.item)}
    for role in float_ids(db, d):
        column, name = columns[role]
        where, values = locate(db, source, layout, f"regexp_matches({column}, '[.eE]')")
        raise DataError(f"{where}: column '{name}' holds the float {values[role]!r}, not ids{FLOAT_IDS}")


def _swapped(db: duckdb.DuckDBPyConnection, d: str) -> str | None:
    """What in a domain's ids speaks for swapped columns of users and items (Amazon's ids have a look of their own)."""
    for kind, column in (("item", "user"), ("user", "item")):
        match = f"regexp_full_match(id, '{_AMAZON_LOOKS[kind]}')"
        sql = f"SELECT coalesce(avg(CAST({match} AS INTEGER)), 0), min(id) FILTER ({match}) FROM "
        found = {role: first_row(db, sql + table) for role, table in _tables(d).items()}
        (share, example), (right, _) = found[column], found[kind]
        if share > 0.5 > right:
            return f"{share:.0%} of the ids in its {column} column look like Amazon {kind} ids (e.g. {example})"
    return None


def looks_swapped(db: duckdb.DuckDBPyConnection) -> str | None:
    """What in the ids of either domain speaks for swapped columns of users and items."""
    return next((found for d in DOMAINS if (found := _swapped(db, d))), None)


_BLANK = r"[\s\x{00A0}\x{1680}\x{2000}-\x{200F}\x{2028}-\x{202F}\x{205F}\x{2060}\x{3000}\x{FEFF}]+"
_SPELLINGS = {  # what may set two spellings of one id apart: SQL of the id without it; whether it is told on its own
    "a blank or an invisible character at an end": (f"regexp_replace(id, '^{_BLANK}|{_BLANK}$', '', 'g')", True),
    "a decimal point, as numbers get it where one is missing": ("regexp_replace(id, '^([0-9]+)\\.0+$', '\\1')", True),
    "leading zeros": ("regexp_replace(id, '^0+([0-9]+)$', '\\1')", False),
    "capital letters": ("lower(id)", False),
    "another Unicode form": ("nfc_normalize(id)", False),
}


def id_suspicions(db: duckdb.DuckDBPyConnection, names: Mapping[str, str], same_items: bool) -> list[str]:
    """What looks wrong with ids that are read as they are, in sentences with counts and examples."""
    items = {d: f"(SELECT id, {d == 'x'} AS x, {d == 'y'} AS y FROM items_{d})" for d in DOMAINS}
    both = "(SELECT id, bool_or(x) AS x, bool_or(y) AS y FROM ({x} UNION ALL {y}) GROUP BY id)".format(**items)
    found = _spellings(db, "user", "users", names)
    if same_items:
        found += _spellings(db, "item", both, names)
    else:
        found += [one for d in DOMAINS for one in _spellings(db, "item", items[d], {d: names[d]})]
    return found + _numberings(db, names)


def _spellings(db: duckdb.DuckDBPyConnection, role: str, ids: str, names: Mapping[str, str]) -> list[str]:
    """Ids of a domain that would be another id of either domain without a blank, a point, zeros or capitals."""
    found = []
    for what, (plain, alone) in _SPELLINGS.items():
        for d, name in names.items():
            odd, twins, example, twin, first = first_row(
                db,
                f"WITH a AS (SELECT id, x, y, {plain} AS plain FROM {ids}), odd AS (SELECT id, plain FROM a WHERE {d} "
                f"AND id <> plain), known AS (SELECT plain, min(id) AS low, max(id) AS high FROM a GROUP BY plain "
                f"HAVING count(*) > 1) SELECT count(*), count(low), min(id) FILTER (low IS NOT NULL), "
                f"min_by(CASE WHEN low = id THEN high ELSE low END, id) FILTER (low IS NOT NULL), min(id) "
                f"FROM odd LEFT JOIN known USING (plain)",
            )
            if twins:
                found.append(
                    f"{name}: {odd:,} {role} ids have {what}, and {twins:,} of them, such as {example!r}, differ by "
                    f"nothing else from another {role} id ({twin!r}): they are read as different {role}s"
                )
            elif odd and alone:
                found.append(f"{name}: {odd:,} {role} ids, such as {first!r}, have {what}")
    return found


def _numberings(db: duckdb.DuckDBPyConnection, names: Mapping[str, str]) -> list[str]:
    """Users that each file seems to number by itself, and users and items that seem to have changed places."""
    ranges: dict[tuple[str, str], tuple[bool, bool, int, int]] = {}
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    for d in DOMAINS:
        for role, table in _tables(d).items():
            number = "TRY_CAST(id AS BIGINT)"
            digits = "coalesce(bool_and(regexp_full_match(id, '[0-9]{1,18}')), false)"
            sql = f"SELECT {digits}, count(*), coalesce(min({number}), -1), coalesce(max({number}), -1) FROM {table}"
            integers, count, least, most = first_row(db, sql)
            (users if role == "user" else items)[d] = count
            # of a handful of ids nothing can be said
            dense = integers and count >= 20 and least in (0, 1) and count >= 0.98 * (most - least + 1)
            ranges[role, d] = (integers, dense, least, most)
    shared, both = shared_users(db), shared_items(db)
    integers = [one[0] for one in ranges.values()]
    found = []
    dense = {role: all(ranges[role, d][1] for d in DOMAINS) for role in ("user", "item")}
    if dense["user"] and shared:
        told = " and ".join("{2:,} to {3:,} in {name}".format(*ranges["user", d], name=names[d]) for d in DOMAINS)
        found.append(
            f"the user ids are {told}, with hardly a gap: each file may number its users by itself, and then the "
            f"{shared:,} users in both are strangers"
        )
    fewest = min(items.values())
    crowded = 0.5 * fewest < both < fewest and all(users[d] < items[d] for d in DOMAINS)
    if all(integers) and both and not dense["item"] and (dense["user"] or crowded):
        found.append(
            f"users and items may be swapped: {shared:,} users stand in both files, of {users['x']:,} and "
            f"{users['y']:,}, but {both:,} items do, of {items['x']:,} and {items['y']:,}, and all ids are integers"
        )
    return found


def shared_users(db: duckdb.DuckDBPyConnection) -> int:
    """How many users are in both domains."""
    return int(first_row(db, "SELECT count(*) FROM users WHERE x AND y")[0])


def shared_items(db: duckdb.DuckDBPyConnection) -> int:
    """How many ids stand in the item columns of both domains."""
    return _count_shared(db, "items_x", "items_y")


def _count_shared(db: duckdb.DuckDBPyConnection, a: str, b: str) -> int:
    return int(first_row(db, f"SELECT count(*) FROM (SELECT id FROM {a}) SEMI JOIN (SELECT id FROM {b}) USING (id)")[0])


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
        if evidence := _swapped(db, d):
            raise DataError(f"{pair.side(d).path}: users and items are swapped: {evidence}; {_unswap(pair.format)}")
    if shared_users(db):
        return
    names = f"{pair.x.path} and {pair.y.path}: no user is in both"
    alike = "; ".join(_spellings(db, "user", "users", {d: pair.side(d).name for d in DOMAINS}))
    if shared := shared_items(db):
        raise DataError(
            f"{names}, but {shared:,} ids of the item columns are: either users and items are swapped "
            f"({_unswap(pair.format)}), or each file numbers its users by itself (a pair needs common user ids)"
            + (f"; {alike}" if alike else "")
        )
    for d, e in (DOMAINS, DOMAINS[::-1]):
        crossed = _count_shared(db, f"users WHERE {d}", f"items_{e}")
        [users, items] = (first_row(db, f"SELECT count(*) FROM {one}")[0] for one in (f"users WHERE {d}", f"items_{e}"))
        if 2 * crossed > min(users, items):  # fewer are integers that happen to meet
            raise DataError(
                f"{names}, but {crossed:,} users of {pair.side(d).name} stand in the item column of "
                f"{pair.side(e).name}: the two files have their columns in different order; write them alike"
            )
    raise DataError(f"{names}; a pair needs common user ids: {alike or 'does each file number its users by itself?'}")


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
