"""Logs in a temporary database: DuckDB reads all formats alike and spills to ``TMPDIR`` above its memory limit."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import duckdb

from i2vae_lib.data.logs.files import ISO, JSON_LINES, Source, bytes_of, is_number, key_twice, text_of
from i2vae_lib.data.logs.pair_file import Columns
from i2vae_lib.data.logs.separators import fields_of, usual_fields
from i2vae_lib.data.rows import DataError
from i2vae_lib.places import not_utf8, shortened


@contextmanager
def database(memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that spills to a temporary folder, gone afterwards; it never fetches an extension."""
    config: dict[str, Any] = {
        "memory_limit": memory_limit,
        "threads": min(8, os.cpu_count() or 1),  # each takes its own buffers out of the same memory
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with tempfile.TemporaryDirectory(prefix="i2vae-logs-") as folder:
        try:
            db = duckdb.connect(":memory:", config={**config, "temp_directory": folder})
            db.execute("SET TimeZone='UTC'")  # of times without a zone
        except duckdb.Error as error:
            raise DataError(f"memory_limit {memory_limit!r}: {_first(error)}") from None
        try:
            yield db
        except duckdb.OutOfMemoryException as error:
            raise DataError(f"memory_limit {memory_limit} is too little for these logs: {_first(error)}") from None
        finally:
            db.close()


def _first(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


@contextmanager
def reading(db: duckdb.DuckDBPyConnection, source: Source) -> Iterator[None]:
    """What is wrong with a file that a statement reads, as an error with file and line.

    Raises
    ------
    DataError
    """
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        source.check_whole()
        raise DataError(f"{source.path}{_unreadable(source) or f': malformed ({_first(error)})'}") from None
    try:
        rejected = db.execute(_REJECTED).fetchall()
    except duckdb.CatalogException:  # there is no such table before the first rejected line
        return
    if rejected:
        db.execute("DELETE FROM reject_errors")
        raise DataError("{}, line {}: {}".format(*rejected[0][:2], _wrong_line(source, *rejected[0][2:])))


# lines that DuckDB could not read under store_rejects; their number counts the header and starts from 1
_REJECTED = (
    "SELECT file_path, line, CAST(error_type AS VARCHAR), csv_line FROM reject_errors "
    "JOIN reject_scans USING (scan_id, file_id) ORDER BY line LIMIT 1"
)


def _unreadable(source: Source) -> str:
    """Where a file cannot be read, and why; "" if that is not known."""
    if source.types is not None:
        return ": damaged Parquet file; fetch or write it anew"
    first = None
    with bytes_of(source) as stream, suppress(OSError, EOFError, zlib.error):
        for n, line in enumerate(stream, 1):
            if source.delimiter == JSON_LINES:
                if wrong := _no_object(line):
                    return f", line {n}: not one JSON object a line ({wrong})"
                continue
            if b"\r" in line.rstrip(b"\r\n") and b'"' not in line:
                return f", line {n}: a carriage return inside a value, which ends a line as well: write a blank instead"
            windows = line.endswith(b"\r\n")
            first = windows if first is None else first
            if windows != first:
                was, found = ("\\r\\n", "\\n") if first else ("\\n", "\\r\\n")
                return f": line {n} ends with {found} and line 1 with {was}; write them alike, e.g. `tr -d '\\r'`"
    if source.gzipped:
        return ": something follows the end of its gzip data (zeros, as tapes leave them?); unpack it and compress anew"
    return ""


def _no_object(line: bytes) -> str:
    """Why a line is no JSON; "" if it is or is blank."""
    try:
        json.dumps(json.loads(line.strip() or b"{}"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"half a character, {json.dumps(error.object[error.start])}"
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {str(error).split(': line')[0]}"
    return ""


_NO_EVENTS = {  # lines that programs leave in files, and what they are
    r"\0+": "NUL bytes alone, as a machine that lost its power leaves them",
    "\x1a": "the end of a file as DOS marked it (Ctrl-Z)",
    r"\(?[0-9]+ (rows?|records?)( in set| affected| selected)?.*": "what an SQL program says below a table",
    r"[#%].*": "a comment",
    r"[-+|=\s]+": "what an SQL program draws between the lines of a table",
}


def _wrong_line(source: Source, kind: str, line: str) -> str:
    """Why DuckDB rejected a line, and what would be right."""
    if not line.strip():
        return "it holds blanks only: delete it"
    for look, what in _NO_EVENTS.items():
        if re.fullmatch(look, line.strip()):
            return f"{what}: delete the line"
    if kind in ("MISSING COLUMNS", "TOO MANY COLUMNS"):
        fields, expected = fields_of(line.strip(), source.delimiter), len(source.names)
        found, sequence = len(fields), ", or if a line is a user with all items, write a line for each event"
        many = found > expected
        remedy = f"quote values that hold {source.delimiter!r}" if many else "add what is missing, or delete the line"
        if found == usual_fields(source.path, source.gzipped, source.delimiter):
            remedy = "so have most lines: line 1 should have as many"
            if found == expected + 1 and is_number(fields[0]):
                remedy += f", or if {fields[0]!r} is a row's name, as R writes them: write.table(…, row.names=FALSE)"
        sign = re.escape(source.delimiter)
        for look, what in ((rf"(^|{sign})\s*'[^']*{sign}", "single quotes do"), (rf"\\{sign}", "a backslash does")):
            if many and re.search(look, line):
                remedy = f"{what} not quote here: write values that hold {source.delimiter!r} in double quotes"
        return (
            f"{found} field{'s'[: found != 1]} where line 1 has {expected}; {remedy}"
            f"{sequence * all(map(is_number, fields))}"
        )
    if kind == "INVALID ENCODING":
        return not_utf8()
    if kind == "UNQUOTED VALUE":
        return 'a value in double quotes does not end where it should; a quote inside is written twice ("")'
    if kind == "LINE SIZE OVER MAXIMUM":
        return "a line of more than 2 MB; is this a log?"
    return f"malformed CSV: {kind.lower()}"


def stage_log(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> None:
    """Table ``raw_d``: u, i as text, t as :meth:`Source.time` (NULL where it is none)."""
    by_line = layout.timestamp is None
    rows, values = source.numbered() if by_line else source.rows()
    sql = (
        f"CREATE OR REPLACE TABLE raw_{d} AS SELECT {source.text(layout.user)} AS u, {source.text(layout.item)} AS i, "
        f"{source.time(layout)} AS t FROM {rows}"
    )
    with reading(db, source), in_file_order(db) if by_line else nullcontext():
        db.execute(sql, values)
    if source.delimiter == JSON_LINES:
        _refuse_keys_twice(db, source)
    elif source.types is None and source.items is None:
        _refuse_stray_quotes(db, d, source, layout)


def _refuse_stray_quotes(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> None:
    """Refuse a value in quotes that holds lines of the file: a quote that stands for itself swallows their events."""
    with bytes_of(source) as stream:
        ends = sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    if ends <= first_row(db, f"SELECT count(*) FROM raw_{d}")[0] + source.header:
        return
    rows, values = source.numbered()
    cells, width = ", ".join(f"c{i}" for i in range(len(source.names))), len(source.names)
    breaks, marks = (f"(length(v) - length(replace(v, {one}, '')))" for one in ("chr(10)", "?"))
    with in_file_order(db):
        found = db.execute(
            f"SELECT n, j, v FROM (SELECT n, unnest([{cells}]) AS v, unnest(range({width})) AS j FROM {rows} "
            f"WHERE contains(concat({cells}), chr(10))) "
            f"WHERE contains(v, chr(10)) AND {marks} = {breaks} * {(width - 1) * len(source.delimiter)} ORDER BY n",
            [*values, source.delimiter],
        ).fetchall()
    for n, j, value in found:
        if _holds_lines(db, d, value, j, source, layout):
            raise DataError(
                f"{source.path}, line {_line(source, n)}: a double quote begins a value of column '{source.names[j]}' "
                f"that ends {value.count(chr(10))} lines below and holds the values of other lines, whose events would "
                f'be lost: delete the quote, or write the value in quotes and the quote twice ("")'
            )


def _holds_lines(
    db: duckdb.DuckDBPyConnection, d: str, value: str, column: int, source: Source, layout: Columns
) -> bool:
    """Whether a value is the end of one line, whole lines, and the beginning of another one, by their times or ids."""
    first, *whole, last = (one.rstrip("\r").split(source.delimiter) for one in value.split("\n"))
    width = len(source.names)
    if [len(first), *map(len, whole), len(last)] != [width - column, *[width] * len(whole), column + 1]:
        return False

    def cells(name: str) -> list[str]:
        at = source.names.index(name)
        return [first[at - column] if at > column else last[at], *(one[at] for one in whole)]

    if layout.timestamp is not None:
        return all(re.fullmatch(rf"[0-9]{{5,}}(\.[0-9]+)?|{ISO}", one) for one in cells(layout.timestamp))
    ids = [(role, one) for role, name in (("u", layout.user), ("i", layout.item)) for one in cells(name)]
    known = [first_row(db, f"SELECT bool_or({role} = ?) FROM raw_{d}", [one])[0] for role, one in ids]
    return 2 * sum(known) >= len(known)


def _refuse_keys_twice(db: duckdb.DuckDBPyConnection, source: Source) -> None:
    """Refuse JSON objects that name a key twice: the engine would take the first value, other readers the last."""
    rows, values = source.objects()
    twice = "len(json_keys(json)) > len(list_distinct(json_keys(json)))"
    if not first_row(db, f"SELECT bool_or({twice}) FROM {rows}", values)[0]:
        return
    numbered = f"SELECT row_number() OVER () AS n, json_keys(json) AS keys, {twice} AS bad FROM {rows}"
    with in_file_order(db):
        n, keys = first_row(db, f"SELECT n, keys FROM ({numbered}) WHERE bad ORDER BY n LIMIT 1", values)
    raise DataError(f"{source.path}, line {_line(source, n)}: {key_twice(keys)}")


@contextmanager
def in_file_order(db: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One thread reads, so that rows have numbers in the order of the file."""
    [threads] = first_row(db, "SELECT current_setting('threads')")
    db.execute("SET threads=1")
    db.execute("SET preserve_insertion_order=true")
    try:
        yield
    finally:
        db.execute("SET preserve_insertion_order=false")
        db.execute(f"SET threads={int(threads)}")


def first_row(db: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    """The first row of what a statement gives."""
    return tuple(db.execute(sql, list(values)).fetchall()[0])


def locate(
    db: duckdb.DuckDBPyConnection, source: Source, layout: Columns, condition: str
) -> tuple[str, dict[str, str | None]]:
    """Where the file first meets a condition on u, i and t, and the texts there, shortened. Reads it anew."""
    rows, parameters = source.numbered()
    names = {"user": layout.user, "item": layout.item, "timestamp": layout.timestamp}
    texts = ", ".join(
        f"{'CAST(n AS VARCHAR)' if name is None else source.text(name)} AS {role}_text" for role, name in names.items()
    )
    with in_file_order(db):
        n, *found = first_row(
            db,
            f"SELECT n, user_text, item_text, timestamp_text FROM (SELECT n, {texts}, {source.text(layout.user)} AS u, "
            f"{source.text(layout.item)} AS i, {source.time(layout)} AS t FROM {rows}) "
            f"WHERE {condition} ORDER BY n LIMIT 1",
            parameters,
        )
    if source.items is not None:
        where = f"{source.path}"
    elif source.types is not None:
        where = f"{source.path}, row {n}"
    else:
        where = f"{source.path}, line {_line(source, n)}"
    return where, {role: text and shortened(text) for role, text in zip(names, found, strict=True)}


def _line(source: Source, n: int) -> int:
    """The line on which record ``n`` (from 1, header not counted) starts: empty lines and line ends in quotes count."""
    with text_of(source) as stream:
        if len(source.delimiter) > 1:  # JSON lines, "::": a line is a record
            full = (number for number, line in enumerate(stream, 1) if line.strip())
            return next(itertools.islice(full, int(n) + source.header - 1, None))
        reader = csv.reader(stream, delimiter=source.delimiter)
        left, line = n + source.header, 0
        for record in reader:
            left -= bool(record)
            if not left:
                return line + 1
            line = reader.line_num
    return line
