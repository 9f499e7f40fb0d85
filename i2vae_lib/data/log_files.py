"""One log file: opening CSV(.gz) and Parquet, the temporary database that reads it, and what is wrong with its rows.

The engine is DuckDB: it reads CSV(.gz) and Parquet alike and spills to the temporary folder (``TMPDIR``) above its
memory limit. Ids are text throughout: leading zeros stay.
"""

from __future__ import annotations

import bisect
import csv
import glob
import gzip
import io
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from i2vae_lib.data.dataset import DataError
from i2vae_lib.data.pair_file import COLUMNS_EXAMPLE, FORMATS, HEADERLESS, UNITS, Columns, Unit
from i2vae_lib.places import suggestion

NUMBER = r"[+-]?[0-9]{1,19}(\.[0-9]*)?"
FLOAT_IDS = (  # end of a message
    "; integers that became floats, as pandas makes them where one is missing? Drop the rows without an id and write "
    "the column as text or integers"
)
# Unix times by size: from March 1973 to the year 5138 those of a unit lie above its bound and below the next one's
_UNIT_BOUNDS = (10**11, 10**14, 10**17)
_DELIMITERS = (",", "\t", ";", "|")
_NO_ID = ("", "nan", "none", "null", "<na>")  # what exporting an unknown id leaves behind, in lower case
_NOT_UTF8 = "not UTF-8 text; convert it, e.g. `iconv -f latin1 -t utf-8`"
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
    types: tuple[Any, ...] | None  # Arrow types of a Parquet file's columns; None: CSV, all text

    def rows(self) -> tuple[str, list[Any]]:
        """SQL of all rows, in any order, and its parameters."""
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

    def numbered(self) -> tuple[str, list[Any]]:
        """SQL of all rows with their number ``n`` (from 1), and its parameters; one thread reads, so errors only."""
        sql, values = self.rows()
        number = "row_number() OVER ()" if self.types is None else "file_row_number + 1"
        return f"(SELECT *, {number} AS n FROM {sql})", values

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
        text = self.text(name)
        return (
            f"CASE WHEN regexp_full_match({text}, '{NUMBER}') THEN TRY_CAST(split_part({text}, '.', 1) AS BIGINT) END"
        )


def open_log(path: Path, layout: Columns, format: str | None) -> Source:
    """Look at a log's first bytes and its header.

    Raises
    ------
    DataError
        Neither CSV nor Parquet, empty, a missing column, or a header where the format has none and vice versa.
    """
    if format in HEADERLESS:
        return _open_headerless(path, format)
    source = open_table(path, layout.names)
    check_gzip(source)
    check_columns(source, layout.names)
    if source.types is not None:
        kinds = dict(zip(source.names, source.types, strict=True))
        for name in (layout.user, layout.item):
            _check_id_type(path, name, kinds[name])
        _check_time_type(path, layout, kinds[layout.timestamp])
    return source


def open_table(path: Path, wanted: Sequence[str]) -> Source:
    """A file with named columns; a CSV under the delimiter that gives most of the wanted ones, then most at all."""
    if _is_parquet(path):
        return _open_parquet(path)
    gzipped, line = _first_line(path)
    split = {delimiter: _fields(line, delimiter) for delimiter in _DELIMITERS}
    best = max(_DELIMITERS, key=lambda one: (len({*split[one]} & {*wanted}), len(split[one])))
    return Source(path, gzipped, best, True, tuple(split[best]), None)


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


def _open_headerless(path: Path, format: str) -> Source:
    if _is_parquet(path):
        raise DataError(
            f"{path}: format {format} is CSV without a header, but this is a Parquet file; name its columns instead: "
            f"{COLUMNS_EXAMPLE}"
        )
    gzipped, line = _first_line(path)
    source = Source(path, gzipped, ",", False, HEADERLESS[format], None)
    check_gzip(source)
    fields = _fields(line, ",")
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


def _fields(line: str, delimiter: str) -> list[str]:
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
            raise DataError(f"{path}: this is {what}; logs are CSV in UTF-8 (plain or .gz) or Parquet: convert it")
    try:
        with gzip.open(path, "rb") if gzipped else path.open("rb") as stream:
            line = stream.readline(1 << 20).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}, line 1: {_NOT_UTF8}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {_DAMAGED_GZIP} ({error})") from None
    if not line.replace("\t", "").rstrip("\r\n").isprintable():
        raise DataError(f"{path}: neither CSV nor Parquet; logs are CSV in UTF-8 (plain or .gz) or Parquet: convert it")
    if not line.strip():
        raise DataError(f"{path}: the file is empty" if not line else f"{path}, line 1: empty; the header belongs here")
    if line.lstrip().startswith(("{", "[")):
        raise DataError(f"{path}, line 1: this is JSON; logs are CSV or Parquet: write user, item and timestamp as CSV")
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


def sample(source: Source, rows: int) -> list[list[str]]:
    """The first records of a CSV file, its header among them."""
    found: list[list[str]] = []
    try:
        with _text(source) as stream:
            for record in islice(csv.reader(stream, delimiter=source.delimiter), rows):
                found.append(record)
    except UnicodeDecodeError:
        raise DataError(f"{source.path}: {_NOT_UTF8}") from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{source.path}, line {len(found) + 1}: {error}") from None
    return found


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
        if source.types is None and any(map(is_number, source.names)):
            raise DataError(
                f"{where}: {','.join(source.names)!r} are values and no column names: the file has no header; Amazon "
                f"ratings without one are format: amazon2014 (user first) or amazon2018 (item first); to any other "
                f"file add a line with the names of its columns"
            )
        raise DataError(f"{where}: no column '{name}'{suggestion(name, list(source.names))}")


def _check_id_type(path: Path, name: str, kind: Any) -> None:
    if pa.types.is_floating(kind):
        raise DataError(f"{path}: column '{name}' holds {kind}, not ids{FLOAT_IDS}")
    if not _is_text_or_integer(kind):
        raise DataError(f"{path}: column '{name}' holds {kind}; ids are text or integers")


def _check_time_type(path: Path, layout: Columns, kind: Any) -> None:
    if not (_is_text_or_integer(kind) or pa.types.is_float64(kind)):
        raise DataError(f"{path}: column '{layout.timestamp}' holds {kind}{_unix_time(layout)}")


def _is_text_or_integer(kind: Any) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _unix_time(layout: Columns) -> str:
    word = UNITS[layout.unit][0]
    return (
        f"; it must be Unix time in {word} (columns.unit): convert with pandas.to_datetime(log[{layout.timestamp!r}], "
        f"utc=True).dt.as_unit({layout.unit!r}).astype('int64')"
    )


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
    if fields:
        return f"{where}: {fields[2]} fields where line 1 has {fields[1]}; quote values that hold {source.delimiter!r}"
    if "unicode" in message or "utf-8" in message:
        return f"{where}: {_NOT_UTF8}"
    if "unterminated quote" in message:
        return f'{where}: a value in double quotes does not end where it should; a quote inside is written twice ("")'
    if "aximum line size" in message:
        return f"{where}: a line of more than 2 MB; is this a log?"
    if "invalid state" in message:
        return f"{where}: malformed CSV; are there two kinds of line ends (\\r\\n and \\n) in the file?"
    return f"{where}: {'malformed CSV' if source.types is None else 'damaged Parquet file'}: {message.splitlines()[0]}"


def stage_log(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> None:
    """Table ``raw_d``: u, i as text, t in the file's unit (NULL where it is no number)."""
    rows, values = source.rows()
    with reading(source):
        db.execute(
            f"CREATE OR REPLACE TABLE raw_{d} AS SELECT {source.text(layout.user)} AS u, "
            f"{source.text(layout.item)} AS i, {source.integer(layout.timestamp)} AS t FROM {rows}",
            values,
        )


def first_row(db: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    """The first row of what a statement gives."""
    return tuple(db.execute(sql, list(values)).fetchall()[0])


def no_id(column: str) -> str:
    """SQL: whether a column's text stands for no id."""
    unknown = ", ".join(f"'{word}'" for word in _NO_ID)
    return f"({column} IS NULL OR lower(trim({column})) IN ({unknown}))"


def unit_by_size(time: float) -> Unit:
    """The unit of a Unix time, by its size."""
    return list(UNITS)[bisect.bisect_right(_UNIT_BOUNDS, time)]


def unit_of(column: str, unit: Unit) -> str:
    """SQL: whether a positive time has the size of times in this unit."""
    edges = (1, *_UNIT_BOUNDS, 2**63)
    at = list(UNITS).index(unit)
    return f"({column} >= {edges[at]} AND {column} < {edges[at + 1]})"


def check_log(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> None:
    """Refuse a log with unknown ids or times; each message has the first line that is bad, and how many are."""
    now = int(time.time() * UNITS[layout.unit][1])
    bad: dict[str, str] = {
        "user": no_id("u"),
        "item": no_id("i"),
        "text": "t IS NULL",
        "unknown": "t <= 0",
        **{unit: unit_of("t", unit) for unit in UNITS},
        "future": f"t > {now}",
    }
    columns = ", ".join(f"count(*) FILTER ({condition})" for condition in bad.values())
    total, *counts = first_row(db, f"SELECT count(*), {columns} FROM raw_{d}")
    found = {key: count for key, count in zip(bad, counts, strict=True) if count}
    if not total:
        raise DataError(f"{source.path}: no rows, only a header" if source.header else f"{source.path}: no rows")
    wrong: str | None = next((key for key in ("user", "item", "text", "unknown") if key in found), None)
    if wrong := wrong or _odd_unit(found, layout.unit) or ("future" if "future" in found else None):
        where, values = locate(db, source, layout, bad[wrong])
        raise DataError(f"{where}: {_complaint(wrong, found, total, values, layout)}")


def _odd_unit(found: Mapping[str, int], right: Unit) -> Unit | None:
    """The unit of the times that do not look right: the rarest of several, or the only one if it is another."""
    looks = [unit for unit in UNITS if unit in found]
    odd = min(looks, key=lambda unit: (found[unit], unit == right))
    return odd if len(looks) > 1 or odd != right else None


def _complaint(
    wrong: str, found: Mapping[str, int], total: int, values: Mapping[str, str | None], layout: Columns
) -> str:
    """What :func:`check_log` says of the first row that is wrong."""
    if wrong in ("user", "item"):
        name = layout.user if wrong == "user" else layout.item
        return (
            f"column '{name}' has no id but {values[wrong]!r}; so have {found[wrong]:,} of {total:,} rows: drop them, "
            f"or give the {wrong}s ids"
        )
    column, value = f"column '{layout.timestamp}'", values["timestamp"]
    if wrong == "text" and value is None:
        return f"{column} is empty; {found['text']:,} of {total:,} rows have no usable time: drop them"
    if wrong == "text":
        return f"{column} holds {value!r}{_unix_time(layout)}"
    if wrong == "unknown":
        return (
            f"{column} holds {value!r}: 0 and negative times are unknown ones ({found['unknown']:,} of {total:,} "
            f"rows): drop them"
        )
    if wrong == "future":
        seconds = int(float(value or 0)) // UNITS[layout.unit][1]
        return (
            f"{column} holds {value!r}, which is {date_of(seconds)} and lies in the future ({found['future']:,} of "
            f"{total:,} rows): if columns.unit: {layout.unit} is right, drop them"
        )
    words: dict[str, str] = {unit: word for unit, (word, _) in UNITS.items() if unit in found}
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
    db.execute("SET threads=1")  # rows in the order of the file, so that they have numbers
    db.execute("SET preserve_insertion_order=true")
    names = {"user": layout.user, "item": layout.item, "timestamp": layout.timestamp}
    texts = ", ".join(f"{source.text(name)} AS {role}_text" for role, name in names.items())
    n, *found = first_row(
        db,
        f"SELECT n, user_text, item_text, timestamp_text FROM (SELECT n, {texts}, {source.text(layout.user)} AS u, "
        f"{source.text(layout.item)} AS i, {source.integer(layout.timestamp)} AS t FROM {rows}) "
        f"WHERE {condition} ORDER BY n LIMIT 1",
        parameters,
    )
    where = f"{source.path}, row {n}" if source.types is not None else f"{source.path}, line {_line(source, n)}"
    return where, dict(zip(names, found, strict=True))


def _line(source: Source, n: int) -> int:
    """The line on which record ``n`` (from 1, header not counted) starts: empty lines and line ends in quotes count."""
    with _text(source) as stream:
        reader = csv.reader(stream, delimiter=source.delimiter)
        left, line = n + source.header, 0
        for record in reader:
            left -= bool(record)
            if not left:
                return line + 1
            line = reader.line_num
    return line
