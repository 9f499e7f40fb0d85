"""One log file: opening CSV(.gz), JSON lines and Parquet, the temporary database, and what is wrong with the rows.

The engine is DuckDB: it reads them all alike and spills to the temporary folder (``TMPDIR``) above its
memory limit. Ids are text throughout: leading zeros stay.
"""

from __future__ import annotations

import bisect
import csv
import glob
import gzip
import io
import json
import os
import re
import tempfile
import time
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from i2vae_lib.data.pair_file import COLUMNS_EXAMPLE, FORMATS, HEADERLESS, SIZED, UNITS, Columns, Format, Side, Unit
from i2vae_lib.data.rows import DataError
from i2vae_lib.places import suggestion

NUMBER = r"[+-]?[0-9]{1,19}(\.[0-9]*)?"
_SCIENTIFIC = r"([0-9])\.([0-9]+)[eE]\+?0*([0-9]{1,2})"
# years 1900 to 2100; hours, minutes and seconds may follow
DATE_DIGITS = r"(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])(([01][0-9]|2[0-3])([0-5][0-9]){0,2})?"
ISO = r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}.*)?"
FLOAT_IDS = (  # end of a message
    "; integers that became floats, as pandas makes them where one is missing? Drop the rows without an id and write "
    "the column as text or integers"
)
# Unix times by size: from March 1973 to the year 5138 those of a unit lie above its bound and below the next one's
_UNIT_BOUNDS = (10**11, 10**14, 10**17)
_DELIMITERS = (",", "\t", ";", "|", "\x01")
_BETWEEN_ITEMS = "\x02"  # for lines that are read whole
_JSON = "JSON lines"  # in place of a delimiter
_NO_ID = ("", "nan", "none", "null", "<na>")  # what exporting an unknown id leaves behind, in lower case
_NOT_UTF8 = "not UTF-8 text; convert it, e.g. `iconv -f latin1 -t utf-8`"
csv.field_size_limit(2**31 - 1)  # a cell may hold a user's whole history
_YEAR = 365 * 86_400  # seconds
_DAMAGED_GZIP = "damaged or truncated gzip file; fetch or compress it anew"
_MAGIC = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x89HDF": "an HDF5 file",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}


# --- opening a file ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A log file as it is going to be read: ``c0``, ``c1``, … stand for its columns, so no name of theirs meets SQL."""

    path: Path
    gzipped: bool
    delimiter: str
    header: bool
    names: tuple[str, ...]
    types: tuple[Any, ...] | None  # Arrow types of a Parquet file's columns; None: text
    only: tuple[str, str] | None = None  # (column, value): rows of one domain of a file that has both
    more: tuple[Path, ...] = ()  # C2DSR: further files
    items: Path | None = None  # C2DSR: the domain's items

    @property
    def kind(self) -> str:
        """For people: what stands between the values."""
        return "Parquet" if self.types is not None else self.delimiter

    def rows(self) -> tuple[str, list[Any]]:
        """SQL of all rows, in any order, and its parameters."""
        sql, values = self._all_rows()
        if self.only is None:
            return sql, values
        column, value = self.only
        return f"(SELECT * FROM {sql} WHERE {self.text(column)} = ?)", [*values, value]

    def _all_rows(self) -> tuple[str, list[Any]]:
        if self.items is not None:
            return self._sequences(self.items)
        if self.delimiter == _JSON:
            keys = ["$." + json.dumps(name) for name in self.names]
            cells = ", ".join(f"json_extract_string(json, ?) AS c{i}" for i in range(len(keys)))
            read = "read_ndjson_objects(?, compression=?, maximum_object_size=268435456)"
            packing = "gzip" if self.gzipped else "none"
            return f"(SELECT {cells} FROM {read})", [*keys, glob.escape(str(self.path)), packing]
        columns = [f"c{i}" for i in range(len(self.names))]
        path = glob.escape(str(self.path))  # DuckDB takes * ? [ in a path for a pattern, and k=v for a column
        if self.types is not None:
            names = ", ".join(columns)
            return f"read_parquet(?, file_row_number=true, hive_partitioning=false) AS file({names})", [path]
        types = ", ".join(f"{one}: 'VARCHAR'" for one in columns)
        sql = (
            f"read_csv(?, delim=?, compression=?, columns={{{types}}}, header={str(self.header).lower()}, quote='\"', "
            f"escape='\"', auto_detect=false, strict_mode=true, hive_partitioning=false)"
        )
        return sql, [path, self.delimiter, "gzip" if self.gzipped else "none"]

    def _sequences(self, items: Path) -> tuple[str, list[Any]]:
        """C2DSR: an event of each ``number|time`` of the domain's items, which get their ids back."""
        line = "read_csv(?, delim=?, quote='', escape='', columns={c: 'VARCHAR'}, header=false, auto_detect=false)"
        paths = [glob.escape(str(one)) for one in (self.path, *self.more)]
        sql = (
            f"(SELECT u AS c0, id AS c1, split_part(p, '|', 2) AS c2 FROM (SELECT f[2] AS u, unnest(f[3:]) AS p "
            f"FROM (SELECT string_split(c, chr(9)) AS f FROM {line})) JOIN (SELECT split_part(c, chr(9), 1) AS id, "
            f"split_part(c, chr(9), 2) AS number FROM {line}) ON split_part(p, '|', 1) = number)"
        )
        return sql, [paths, _BETWEEN_ITEMS, glob.escape(str(items)), _BETWEEN_ITEMS]

    def numbered(self) -> tuple[str, list[Any]]:
        """SQL of all rows with their number ``n`` (from 1), and its parameters; only for :func:`_in_file_order`."""
        sql, values = self._all_rows()
        number = "row_number() OVER ()" if self.types is None else "file_row_number + 1"
        where = ""
        if self.only is not None:
            where, values = f" WHERE {self.text(self.only[0])} = ?", [*values, self.only[1]]
        return f"(SELECT * FROM (SELECT *, {number} AS n FROM {sql}){where})", values

    def text(self, name: str) -> str:
        """SQL of a column as text."""
        return f"CAST(c{self.names.index(name)} AS VARCHAR)"

    def integer(self, name: str) -> str:
        """SQL of a column as BIGINT, NULL where it is no plain number; a fraction is cut off."""
        at = self.names.index(name)
        kind = self.types[at] if self.types is not None else pa.string()
        if pa.types.is_integer(kind):
            return f"TRY_CAST(c{at} AS BIGINT)"
        if pa.types.is_floating(kind):
            return f"CASE WHEN isfinite(c{at}) THEN TRY_CAST(floor(c{at}) AS BIGINT) END"
        text = f"trim({self.text(name)})"
        digits = f"length(regexp_extract({text}, '{_SCIENTIFIC}', 2))"
        exponent = f"CAST(regexp_extract({text}, '{_SCIENTIFIC}', 3) AS INTEGER)"
        return (
            f"CASE WHEN regexp_full_match({text}, '{NUMBER}') THEN TRY_CAST(split_part({text}, '.', 1) AS BIGINT) "
            # every digit down to the unit is there: nothing was rounded away
            f"WHEN regexp_full_match({text}, '{_SCIENTIFIC}') THEN "
            f"CASE WHEN {digits} >= {exponent} THEN TRY_CAST(floor(TRY_CAST({text} AS DOUBLE)) AS BIGINT) END END"
        )

    def time(self, layout: Columns) -> str:
        """SQL of a row's time as BIGINT: in the layout's unit if that is one of :data:`SIZED`, else in seconds."""
        if layout.timestamp is None:
            return "n"  # of :meth:`numbered`
        name, at = layout.timestamp, self.names.index(layout.timestamp)
        if layout.unit == "d":
            return f"({self.integer(name)} * 86400)"
        if layout.unit == "date":
            whole = f"regexp_replace(trim({self.text(name)}), '\\.0*$', '')"
            formats = "['%Y%m%d', '%Y%m%d%H', '%Y%m%d%H%M', '%Y%m%d%H%M%S']"
            moment = f"CAST(floor(epoch(try_strptime({whole}, {formats}))) AS BIGINT)"
            return f"CASE WHEN regexp_full_match({whole}, '{DATE_DIGITS}') THEN {moment} END"
        if layout.unit == "iso":
            if self.types is not None and is_temporal(self.types[at]):
                return f"CAST(floor(epoch_us(CAST(c{at} AS TIMESTAMPTZ)) / 1000000) AS BIGINT)"
            text = f"trim({self.text(name)})"
            moment = f"CAST(floor(epoch_us(TRY_CAST({text} AS TIMESTAMPTZ)) / 1000000) AS BIGINT)"
            return f"CASE WHEN regexp_full_match({text}, '{ISO}') THEN {moment} END"
        return self.integer(name)


def is_temporal(kind: Any) -> bool:
    """Whether an Arrow type is one of dates or of moments."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def open_log(side: Side, layout: Columns, format: Format | None) -> Source:
    """Look at a log's first bytes and its header.

    Raises
    ------
    DataError
        None of the formats, empty, a missing column, or a header where the format has none and vice versa.
    """
    path = side.path
    if format in HEADERLESS:
        return _open_headerless(path, format)
    if format == "c2dsr":
        for one in (path, *side.more):
            _first_line(one)
        return Source(path, False, "\t", False, ("user", "item", "timestamp"), None, more=side.more, items=side.items)
    source = open_table(path, layout.names, header=layout.header)
    check_gzip(source)
    check_columns(source, layout.names)
    if layout.domain is not None:
        source = replace(source, only=(layout.domain, side.value or side.name))
    if source.types is not None:
        kinds = dict(zip(source.names, source.types, strict=True))
        for name in (layout.user, layout.item):
            _check_id_type(path, name, kinds[name])
        if layout.timestamp is not None:
            _check_time_type(path, layout, kinds[layout.timestamp])
    return source


def open_table(path: Path, wanted: Sequence[str], *, header: Sequence[str] | None = None) -> Source:
    """A file with named columns; a CSV under the delimiter that gives most of the wanted ones, then most at all.

    ``header`` names the columns of a file without a header line.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir():
        raise DataError(f"{path} is a folder: give one file")
    if _is_parquet(path):
        return _open_parquet(path)
    gzipped, line = _first_line(path)
    if line.lstrip().startswith("{"):
        return Source(path, gzipped, _JSON, False, _keys(path, line), None)
    split = {delimiter: _fields_of(line, delimiter) for delimiter in _delimiters(line)}
    best = max(split, key=lambda one: (len({*split[one]} & {*wanted}), len(split[one])))
    if header is not None:
        if len(split[best]) != len(header):
            raise DataError(
                f"{path}, line 1: {len(split[best])} fields, separated by {best!r}, where columns.header names "
                f"{len(header)}: {', '.join(header)}"
            )
        return Source(path, gzipped, best, False, tuple(header), None)
    if any(name.startswith(" ") for name in split[best][1:]) and best != " ":
        raise DataError(
            f"{path}, line 1: a blank follows each {best!r}, and would belong to the names and ids: write the file "
            f"without these blanks"
        )
    for name in split[best]:
        if odd := [one for one in name if not one.isprintable() and one != "\t"]:
            raise DataError(
                f"{path}, line 1: column {name.replace(odd[0], '')!r} holds the invisible character "
                f"U+{ord(odd[0]):04X}: delete it"
            )
    return Source(path, gzipped, best, True, tuple(split[best]), None)


def _delimiters(line: str) -> Sequence[str]:
    """Those that a first line may have: ``::`` where it stands, blanks where nothing else does."""
    if "::" in line:
        return ("::",)
    return _DELIMITERS if any(one in line for one in _DELIMITERS) else (" ",)


def _keys(path: Path, line: str) -> tuple[str, ...]:
    """The keys of a JSON object on the first line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line 1: not one JSON object a line ({type(error).__name__}: {error})") from None
    return tuple(found)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def _open_parquet(path: Path) -> Source:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: damaged Parquet file: {error}") from None
    types = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in schema.types]
    return Source(path, False, ",", True, tuple(schema.names), tuple(types))


def _open_headerless(path: Path, format: Format) -> Source:
    if _is_parquet(path):
        raise DataError(
            f"{path}: format {format} is CSV without a header, but this is a Parquet file; name its columns instead: "
            f"{COLUMNS_EXAMPLE}"
        )
    gzipped, line = _first_line(path)
    source = Source(path, gzipped, ",", False, HEADERLESS[format], None)
    check_gzip(source)
    fields = _fields_of(line, ",")
    other = next((one for one in _delimiters(line) if len(_fields_of(line, one)) >= 3), None)
    if len(fields) < 3 and other is not None:
        names = ", ".join(source.names)
        raise DataError(
            f"{path}, line 1: the values are separated by {other!r}, where format {format} has commas; in place of the "
            f"format give columns: {{user: user, item: item, timestamp: timestamp, unit: s, header: [{names}]}}"
        )
    if not any(map(is_number, fields[2:])):
        instead = "format: amazon2023" if {*FORMATS["amazon2023"].names} <= {*fields} else COLUMNS_EXAMPLE
        raise DataError(
            f"{path}, line 1: {line[:80]!r} looks like a header, and format {format} has none; give {instead} instead"
        )
    if len(fields) != len(source.names):
        raise DataError(
            f"{path}, line 1: {len(fields)} fields where format {format} has {len(source.names)}: "
            f"{','.join(source.names)}"
        )
    return source


def _fields_of(line: str, delimiter: str) -> list[str]:
    """The values of a line."""
    if len(delimiter) > 1:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter), [])


@contextmanager
def _text(source: Source) -> Iterator[io.TextIOWrapper]:
    with (
        gzip.open(source.path, "rb") if source.gzipped else source.path.open("rb") as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream,
    ):
        yield stream


def _first_line(path: Path) -> tuple[bool, str]:
    """Whether the file is gzipped, and its first line; what is not text stops here."""
    with path.open("rb") as raw:
        start = raw.read(8)
    gzipped = start.startswith(b"\x1f\x8b")
    for magic, what in _MAGIC.items():
        if start.startswith(magic):
            raise DataError(
                f"{path}: this is {what}; logs are CSV or JSON lines in UTF-8 (plain or .gz) or Parquet: convert it"
            )
    try:
        with gzip.open(path, "rb") if gzipped else path.open("rb") as stream:
            line = stream.readline(1 << 28).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}, line 1: {_NOT_UTF8}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {_DAMAGED_GZIP} ({error})") from None
    if "\r" in line.rstrip("\r\n"):
        raise DataError(f"{path}: its lines end with a carriage return alone (\\r): convert it, e.g. `tr '\\r' '\\n'`")
    if not line.strip():
        raise DataError(f"{path}: the file is empty" if not line else f"{path}, line 1: empty; the header belongs here")
    if any(unicodedata.category(one) == "Cc" and one not in "\t\r\n\x01" for one in line):
        raise DataError(
            f"{path}: neither CSV nor Parquet (line 1 holds control characters); logs are CSV or JSON lines in UTF-8 "
            f"(plain or .gz) or Parquet: convert it"
        )
    if line.lstrip().startswith("["):
        raise DataError(f"{path}, line 1: this is a JSON list; write one JSON object a line, CSV or Parquet")
    return gzipped, line.rstrip("\r\n")


def check_gzip(source: Source) -> None:
    """Unpack a gzip file to its end: DuckDB checks no CRC, and before 2.0 takes a truncated file for a short one."""
    if not source.gzipped:
        return
    try:
        with gzip.open(source.path, "rb") as stream:
            while stream.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source.path}: {_DAMAGED_GZIP} ({error})") from None


def is_number(field: str) -> bool:
    """Whether a field is a plain number, sign and fraction included."""
    return re.fullmatch(NUMBER, field.strip()) is not None


def check_columns(source: Source, wanted: Sequence[str]) -> None:
    """Refuse a file that lacks a wanted column, has two of it, or has no header."""
    where = f"{source.path}, line 1" if source.types is None else f"{source.path}"
    for name in wanted:
        if source.names.count(name) == 1:
            continue
        if name in source.names:
            raise DataError(f"{where}: two columns are named '{name}'; rename one")
        if source.types is None and source.delimiter != _JSON and any(map(is_number, source.names)):
            raise DataError(
                f"{where}: {','.join(source.names)!r} are values and no column names: the file has no header; Amazon "
                f"ratings without one are format: amazon2014 (user first) or amazon2018 (item first); of any other "
                f"name the columns in columns.header: [user, item, …]"
            )
        raise DataError(f"{where}: no column '{name}'{suggestion(name, list(source.names))}")


def _check_id_type(path: Path, name: str, kind: Any) -> None:
    if pa.types.is_floating(kind) or (pa.types.is_decimal(kind) and kind.scale > 0):
        raise DataError(f"{path}: column '{name}' holds {kind}, not ids{FLOAT_IDS}")
    if not (_is_text_or_integer(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"{path}: column '{name}' holds {kind}; ids are text or integers: cast it")


def _check_time_type(path: Path, layout: Columns, kind: Any) -> None:
    where = f"{path}: column '{layout.timestamp}' holds {kind}"
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        raise DataError(
            f"{where}, which cannot hold Unix seconds (float32 to about two minutes only): write the times as int64 "
            f"from their source, what is here has lost them"
        )
    if is_temporal(kind):
        if layout.unit != "iso":
            raise DataError(f"{where}, not {UNITS[layout.unit][0]}: set columns.unit: iso")
    elif not (_is_text_or_integer(kind) or pa.types.is_float64(kind)):
        raise DataError(f"{where}; times are numbers, dates or text")


def _is_text_or_integer(kind: Any) -> bool:
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return pa.types.is_integer(kind) or any(is_it(kind) for is_it in text)


# --- the database -----------------------------------------------------------------------------------------------------


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
def reading(source: Source) -> Iterator[None]:
    """DuckDB's complaints about a file, as errors with file and line."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise DataError(_translated(source, str(error))) from None


def _translated(source: Source, message: str) -> str:
    line = re.search(r"CSV Error on Line: (\d+)", message)
    where = f"{source.path}, line {line[1]}" if line else f"{source.path}"
    fields = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if line and not _raw_line(source, int(line[1])).strip():
        return f"{where}: it holds blanks only: delete it"
    if fields:
        return f"{where}: {fields[2]} fields where line 1 has {fields[1]}; quote values that hold {source.delimiter!r}"
    if "Malformed JSON" in message:
        return f"{where}: {message.splitlines()[0]}; one JSON object a line"
    if "unicode" in message or "utf-8" in message:
        return f"{where}: {_NOT_UTF8}"
    if "unterminated quote" in message:
        return f'{where}: a value in double quotes does not end where it should; a quote inside is written twice ("")'
    if "aximum line size" in message:
        return f"{where}: a line of more than 2 MB; is this a log?"
    if "invalid state" in message:
        return f"{where}: malformed CSV; are there two kinds of line ends (\\r\\n and \\n) in the file?"
    return f"{where}: {'malformed CSV' if source.types is None else 'damaged Parquet file'}: {message.splitlines()[0]}"


def _lines(source: Source) -> int:
    """Lines of a plain file, one without a line end counted."""
    with source.path.open("rb") as stream:
        return 1 + sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _raw_line(source: Source, number: int) -> str:
    with gzip.open(source.path, "rb") if source.gzipped else source.path.open("rb") as stream:
        return next(islice(stream, number - 1, None), b"x").decode("utf-8", errors="replace")


def stage_log(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> None:
    """Table ``raw_d``: u, i as text, t as :meth:`Source.time` (NULL where it is none)."""
    by_line = layout.timestamp is None
    rows, values = source.numbered() if by_line else source.rows()
    sql = (
        f"CREATE OR REPLACE TABLE raw_{d} AS SELECT {source.text(layout.user)} AS u, {source.text(layout.item)} AS i, "
        f"{source.time(layout)} AS t FROM {rows}"
    )
    with reading(source), _in_file_order(db) if by_line else nullcontext():
        db.execute(sql, values)


@contextmanager
def _in_file_order(db: duckdb.DuckDBPyConnection) -> Iterator[None]:
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


def no_id(column: str) -> str:
    """SQL: whether a column's text stands for no id."""
    unknown = ", ".join(f"'{word}'" for word in _NO_ID)
    return f"({column} IS NULL OR lower(trim({column})) IN ({unknown}))"


def unit_by_size(time: float) -> Unit:
    """The unit of a Unix time, by its size."""
    return SIZED[bisect.bisect_right(_UNIT_BOUNDS, time)]


def unit_of(column: str, unit: Unit) -> str:
    """SQL: whether a positive time has the size of times in this unit."""
    edges = (1, *_UNIT_BOUNDS, 2**63)
    at = SIZED.index(unit)
    return f"({column} >= {edges[at]} AND {column} < {edges[at + 1]})"


def check_log(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> None:
    """Refuse a log with unknown ids or times; each message has the first line that is bad, and how many are."""
    now = int(time.time() * UNITS[layout.unit][1])
    ordered, sized = layout.unit == "order", layout.unit in SIZED
    bad: dict[str, str] = {
        "user": no_id("u"),
        "item": no_id("i"),
        "NUL in user": "contains(u, chr(0))",
        "NUL in item": "contains(i, chr(0))",
        "break in user": "regexp_matches(u, '[\\n\\r]')",
        "break in item": "regexp_matches(i, '[\\n\\r]')",
        "text": "t IS NULL",
        "unknown": "false" if ordered else "t <= 0",
        **{unit: unit_of("t", unit) if sized else "false" for unit in SIZED},
        "1970": "false" if ordered else f"t > 0 AND t < {_YEAR * UNITS[layout.unit][1]}",
        "future": "false" if ordered else f"t > {now}",
    }
    columns = ", ".join(f"count(*) FILTER ({condition})" for condition in bad.values())
    total, *counts = first_row(db, f"SELECT count(*), {columns} FROM raw_{d}")
    found = {key: count for key, count in zip(bad, counts, strict=True) if count}
    if not total and source.only is not None:
        column, value = source.only
        raise DataError(f"{source.path}: no row has {value!r} in column '{column}'")
    if not total:
        raise DataError(f"{source.path}: a header and no rows" if source.header else f"{source.path}: no rows")
    _refuse_cut(db, source, layout)
    if sized:
        _refuse_no_times(db, d, source, layout, total)
    wrong: str | None = next((key for key in list(bad)[:8] if key in found), None)
    wrong = wrong or (_odd_unit(found, layout.unit) if sized else None)
    if wrong := wrong or next((key for key in ("1970", "future") if key in found), None):
        where, values = locate(db, source, layout, bad[wrong])
        advice = _advice(db, source, layout, values["timestamp"] or "") if wrong == "text" else ""
        raise DataError(f"{where}: {_complaint(wrong, found, total, values, layout, advice)}")


def numbers_as(db: duckdb.DuckDBPyConnection, d: str) -> Unit | None:
    """What the numbers of a staged log are if no Unix times: "date" (digits), "order" (row numbers), "d" (days)."""
    total, least, most, dates = first_row(
        db,
        f"SELECT count(t), min(t), max(t), count(*) FILTER (regexp_full_match(CAST(t AS VARCHAR), "
        f"'{DATE_DIGITS}')) FROM raw_{d}",
    )
    if not total:
        return None
    if dates == total:
        return "date"
    if least in (0, 1) and most - least + 1 == total:
        [distinct] = first_row(db, f"SELECT count(DISTINCT t) FROM raw_{d}")
        if distinct == total:
            return "order"
    # 1975 to 2100; times of that size would be of the first day of 1970
    return "d" if least >= 1826 and most < 47_482 else None


def _refuse_no_times(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns, total: int) -> None:
    """Refuse numbers that are no Unix times: digits of dates, numbers of rows, days, whatever lies in 1970."""
    kind = numbers_as(db, d)
    least, most = first_row(db, f"SELECT min(t), max(t) FROM raw_{d}")
    where = f"{source.path}: column '{layout.timestamp}'"
    if kind == "date":
        raise DataError(
            f"{where} holds dates written as digits, such as {least}, and no {UNITS[layout.unit][0]} since 1970: set "
            f"columns.unit: date"
        )
    if kind == "order":
        raise DataError(
            f"{where} holds the numbers {least:,} to {most:,}: they count the rows, an order inside the file and no "
            f"times; set columns.unit: order, or give the times"
        )
    if kind == "d":
        raise DataError(
            f"{where} holds {least:,} to {most:,}, days since 1970 ({date_of(least * 86_400)} to "
            f"{date_of(most * 86_400)}) and no {UNITS[layout.unit][0]}: set columns.unit: d"
        )
    if least is not None and least >= 0 and most < _YEAR:
        raise DataError(
            f"{where} holds {least:,} to {most:,}: as Unix time all {total:,} events are of 1970. Give Unix times; if "
            f"the numbers are only an order inside the file, set columns.unit: order"
        )


def _refuse_cut(db: duckdb.DuckDBPyConnection, source: Source, layout: Columns) -> None:
    """Refuse a plain text file that ends inside its last time: all others are as long as each other, and longer."""
    if source.types is not None or source.gzipped or source.items is not None or layout.timestamp is None:
        return
    with source.path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 4096))
        last = stream.read().decode("utf-8", errors="replace")
    fields = _fields_of(last.rsplit("\n", 1)[-1], source.delimiter)
    if last.endswith(("\n", "\r")) or len(fields) != len(source.names) or layout.timestamp != source.names[-1]:
        return
    stamp, (rows, values) = fields[-1], source.rows()
    length = f"length({source.text(layout.timestamp)})"
    with reading(source):
        short, least, most = first_row(
            db,
            f"SELECT count(*) FILTER ({length} <= {len(stamp)}), min({length}) FILTER ({length} > {len(stamp)}), "
            f"max({length}) FROM {rows}",
            values,
        )
    if short == 1 and least == most:
        raise DataError(
            f"{source.path}, line {_lines(source)}: the file ends without a line end in the time {stamp!r}, "
            f"where all others have {most} characters: it was cut short; fetch it anew, or delete the line"
        )


def _odd_unit(found: Mapping[str, int], right: Unit) -> Unit | None:
    """The unit of the times that do not look right: the rarest of several, or the only one if it is another."""
    looks = [unit for unit in SIZED if unit in found]
    odd = min(looks, key=lambda unit: (found[unit], unit == right))
    return odd if len(looks) > 1 or odd != right else None


def _complaint(
    wrong: str, found: Mapping[str, int], total: int, values: Mapping[str, str | None], layout: Columns, advice: str
) -> str:
    """What :func:`check_log` says of the first row that is wrong."""
    if wrong in ("user", "item"):
        name = layout.user if wrong == "user" else layout.item
        return (
            f"column '{name}' has no id but {values[wrong]!r}; so have {found[wrong]:,} of {total:,} rows: drop them, "
            f"or give the {wrong}s ids"
        )
    what, _, role = wrong.partition(" in ")
    if role:
        name = layout.user if role == "user" else layout.item
        sign = "a NUL byte" if what == "NUL" else "a line break"
        return (
            f"column '{name}' holds {sign} in {values[role]!r}; so do {found[wrong]:,} of {total:,} rows: write the "
            f"ids without it"
        )
    column, value = f"column '{layout.timestamp}'", values["timestamp"]
    if wrong == "text" and value is None:
        return f"{column} is empty; {found['text']:,} of {total:,} rows have no usable time: drop them"
    if wrong == "text":
        return (
            f"{column} holds {value!r}; columns.unit: {layout.unit} stands for {_wanted(layout.unit)} "
            f"({found['text']:,} of {total:,} rows have something else){advice}"
        )
    if wrong == "1970":
        return (
            f"{column} holds {value!r}, a time of 1970; so do {found['1970']:,} of {total:,} rows, and the others lie "
            f"later: cut short, or unknown times? Mend or drop them"
        )
    if wrong == "unknown":
        return (
            f"{column} holds {value!r}: 0 and negative times are unknown ones ({found['unknown']:,} of {total:,} "
            f"rows): drop them"
        )
    if wrong == "future":
        if layout.unit not in SIZED:
            return (
                f"{column} holds {value!r}, which lies in the future ({found['future']:,} of {total:,} rows): drop them"
            )
        seconds = int(float(value or 0)) // UNITS[layout.unit][1]
        return (
            f"{column} holds {value!r}, which is {date_of(seconds)} and lies in the future ({found['future']:,} of "
            f"{total:,} rows): if columns.unit: {layout.unit} is right, drop them"
        )
    words: dict[str, str] = {unit: UNITS[unit][0] for unit in SIZED if unit in found}
    if len(words) > 1:
        told = " and ".join(f"{found[unit]:,} in {word}" for unit, word in words.items())
        return (
            f"{column} mixes units: {told}, by their size; here {value!r} is in {words[wrong]}. Convert them to "
            f"one unit"
        )
    return (
        f"{column} holds {value!r}, and all of its {total:,} times look like {words[wrong]}, not "
        f"{UNITS[layout.unit][0]}: set columns.unit: {wrong}"
    )


def _wanted(unit: Unit) -> str:
    return f"Unix time in {UNITS[unit][0]}, in digits" if unit in SIZED else UNITS[unit][0]


def _advice(db: duckdb.DuckDBPyConnection, source: Source, layout: Columns, value: str) -> str:
    """What would read all rows' times, as tried on them, or what is wrong with one; "" if that is not known."""
    rows, values = source.rows()
    for unit in ("iso", "date"):
        when = source.time(layout.model_copy(update={"unit": unit}))
        if not first_row(db, f"SELECT count(*) FILTER ({when} IS NULL) FROM {rows}", values)[0]:
            return f": set columns.unit: {unit}, which reads every row"
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,3}([,.' ][0-9]{3})+", text):
        return ": digits only, without thousands separators"
    if re.fullmatch(r"[0-9.]+[eE][+-]?[0-9]+", text):
        return ": in this notation digits were rounded away; write whole numbers from the source"
    return ""


def date_of(seconds: float) -> str:
    """The day (UTC) of a Unix time."""
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (OverflowError, ValueError):
        return "after the year 9999"


def locate(
    db: duckdb.DuckDBPyConnection, source: Source, layout: Columns, condition: str
) -> tuple[str, dict[str, str | None]]:
    """Where the file first meets a condition on u, i and t, and the texts there. Reads the file again: errors only."""
    rows, parameters = source.numbered()
    names = {"user": layout.user, "item": layout.item, "timestamp": layout.timestamp}
    texts = ", ".join(
        f"{'CAST(n AS VARCHAR)' if name is None else source.text(name)} AS {role}_text" for role, name in names.items()
    )
    with _in_file_order(db):
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
    return where, dict(zip(names, found, strict=True))


def _line(source: Source, n: int) -> int:
    """The line on which record ``n`` (from 1, header not counted) starts: empty lines and line ends in quotes count."""
    if len(source.delimiter) > 1:  # JSON lines, "::": a line is a record
        return int(n)
    with _text(source) as stream:
        reader = csv.reader(stream, delimiter=source.delimiter)
        left, line = n + source.header, 0
        for record in reader:
            left -= bool(record)
            if not left:
                return line + 1
            line = reader.line_num
    return line
