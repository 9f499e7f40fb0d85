"""Timestamped logs: the pair file, two logs to one filtered :class:`LogPair`, and a description of unknown files.

The engine is DuckDB: it reads CSV(.gz) and Parquet alike, runs the k-core as SQL, and spills to the temporary folder
(``TMPDIR``) above its memory limit, so a log larger than memory goes through the same code. Only what the filters leave
becomes numpy arrays. Ids are text throughout: leading zeros stay.
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import io
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from i2vae_lib.data.dataset import DOMAINS, Catalogue, DataError, EventLog, Events, Int, LogPair
from i2vae_lib.data.released import sha256_of
from i2vae_lib.params import suggestion

Unit = Literal["s", "ms", "us", "ns"]
UNITS: dict[Unit, tuple[str, int]] = {  # word, and units a second
    "s": ("seconds", 1),
    "ms": ("milliseconds", 10**3),
    "us": ("microseconds", 10**6),
    "ns": ("nanoseconds", 10**9),
}
# Unix times by size: from March 1973 to the year 5138 those of a unit lie above its bound and below the next one's
UNIT_BOUNDS = (10**11, 10**14, 10**17)
HEADERLESS = {
    "amazon2014": ("user", "item", "rating", "timestamp"),
    "amazon2018": ("item", "user", "rating", "timestamp"),
}
FORMATS = (*HEADERLESS, "amazon2023")
DELIMITERS = (",", "\t", ";", "|")
TITLE_ITEMS = ("item_id", "parent_asin", "asin", "item")  # names of a titles file's id column, after the log's own

ASIN = "B0[0-9A-Z]{8}"
AMAZON_USER = "A[0-9A-Z]{9,20}"
NUMBER = r"[+-]?[0-9]{1,19}(\.[0-9]*)?"
NO_ID = ("", "nan", "none", "null", "<na>")  # what exporting an unknown id leaves behind, in lower case


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Part):
    """Names of a log's columns, and the unit of its Unix times."""

    user: str
    item: str
    timestamp: str
    unit: Unit


AMAZON2023 = Columns(user="user_id", item="parent_asin", timestamp="timestamp", unit="ms")


class Side(_Part):
    """One domain: its name for people, its log, and titles of its items if there are any."""

    name: Annotated[str, Field(min_length=1)]
    path: Path
    titles: Path | None = None  # CSV or Parquet: item id and title


class PairFile(_Part):
    """Two logs, how to read them, and the filters. Either ``columns`` or ``format`` says what the columns are."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]  # part of folder names
    x: Side
    y: Side
    columns: Columns | None = None
    format: Literal["amazon2014", "amazon2018", "amazon2023"] | None = None
    min_user: Annotated[int, Field(strict=True, ge=1)]  # events a user has in the domain
    min_item: Annotated[int, Field(strict=True, ge=1)]  # events an item has
    same_ids_are_same_items: Annotated[bool, Field(strict=True)] = True  # an id in both domains is one product

    @model_validator(mode="after")
    def _one_layout(self) -> PairFile:
        if (self.columns is None) == (self.format is None):
            found = "neither" if self.columns is None else "both"
            raise ValueError(
                f"give either 'columns' or 'format', found {found}: columns: {{user: …, item: …, timestamp: …, "
                f"unit: s}} for files with a header, or format: {' | '.join(FORMATS)}"
            )
        if self.x.name == self.y.name:
            raise ValueError(f"x and y are both named {self.x.name!r}: tables tell domains apart by their names")
        return self

    @property
    def layout(self) -> Columns:
        """The columns that the format stands for; files without a header get these names on reading."""
        if self.columns is not None:
            return self.columns
        return AMAZON2023 if self.format == "amazon2023" else _headerless_columns()

    def side(self, domain: str) -> Side:
        return self.x if domain == "x" else self.y


def _headerless_columns() -> Columns:
    return Columns(user="user", item="item", timestamp="timestamp", unit="s")


def read_pair_file(path: Path | str) -> PairFile:
    """Read a YAML file that describes a pair of logs; its paths come back resolved.

    A path is looked up beside the YAML file, then in ``I2VAE_DATA_DIR``, then in its ``logs/``.

    Raises
    ------
    DataError
        No such file, malformed YAML, an unknown key (the nearest is named), a missing or wrong value, both or neither
        of ``columns`` and ``format``, or a log that lies in none of the places.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such pair file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a pair file: {error}") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the keys {', '.join(PairFile.model_fields)}, found {type(content).__name__}")
    try:
        pair = PairFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: " + "; ".join(_explained(one) for one in error.errors())) from None
    sides = {d: _resolved(pair.side(d), path) for d in DOMAINS}
    return pair.model_copy(update=sides)


def _explained(error: Any) -> str:
    """One pydantic complaint in the words of the pair file."""
    *inside, key = error["loc"] or ("",)
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        groups: dict[str, type[BaseModel]] = {"x": Side, "y": Side, "columns": Columns}
        group = groups.get(str(inside[0]), PairFile) if inside else PairFile
        return f"unknown key '{where}'{suggestion(str(key), list(group.model_fields))}"
    if error["type"] == "missing":
        return f"missing key '{where}'"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"'{where}': {error['msg']}, found {error['input']!r}"


def _resolved(side: Side, pair_file: Path) -> Side:
    found = {"path": _looked_up(side.path, pair_file)}
    if side.titles is not None:
        found["titles"] = _looked_up(side.titles, pair_file)
    return side.model_copy(update=found)


def _looked_up(name: Path, pair_file: Path) -> Path:
    folders = [pair_file.resolve().parent]
    if shared := os.environ.get("I2VAE_DATA_DIR"):
        folders += [Path(shared), Path(shared) / "logs"]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).resolve()
    unset = "" if shared else " (I2VAE_DATA_DIR is not set)"
    raise DataError(f"{pair_file}: {name} is in none of {', '.join(map(str, folders))}{unset}")


def load_logs(pair: PairFile | Path | str, *, memory_limit: str = "2GB") -> LogPair:
    """Read, check and filter both logs of a pair.

    Of several events of one (user, item) the first in time stays. Then, within each domain, users with fewer than
    ``min_user`` events and items with fewer than ``min_item`` leave in turn until nothing changes; a user may so lose
    one domain. Users (over both domains) and items (a domain, from 1) are numbered in the order of their ids. Nothing
    depends on the files' row order.

    Parameters
    ----------
    pair
        A pair file's content, or its path.
    memory_limit
        Memory that the engine may take before it spills to disk, e.g. ``"2GB"``; the arrays of what is left (16 bytes
        an event, and the ids) come on top.

    Returns
    -------
    LogPair
        ``filters`` has a line for each step and domain: ``step``, ``domain``, the ``events``, ``users`` and ``items``
        that it left, and the events ``removed``.

    Raises
    ------
    DataError
        What is wrong with the files, with file and line (CSV) or row (Parquet, from 1), and what would be right.
    """
    if not isinstance(pair, PairFile):
        pair = read_pair_file(pair)
    source_sha256 = _fingerprint(pair)
    steps: list[dict[str, Any]] = []
    with checked(pair, memory_limit) as db:
        for d in DOMAINS:
            _keep_first(db, d, pair, steps)
            _keep_core(db, d, pair, steps)
        log, ids = _fetch(db, pair, steps)
        titles = {d: _titles(db, d, pair, ids[d]) for d in DOMAINS}
    names = {d: pair.side(d).name for d in DOMAINS}
    catalogue = Catalogue(names, ids, _links(ids) if pair.same_ids_are_same_items else _no_links(), titles)
    return LogPair(pair.name, source_sha256, catalogue, log, pd.DataFrame(steps))


@contextmanager
def checked(pair: PairFile, memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Both logs of a pair, read and checked but not filtered, in a temporary database.

    Its tables: ``raw_x`` and ``raw_y`` (u, i: the ids as text; t: BIGINT in the files' unit), ``users`` (id, n, x, y:
    whether the domain has them), ``items_x`` and ``items_y`` (id, n); n is the place in the order of the ids, from 0.

    Raises
    ------
    DataError
        As :func:`load_logs`, short of what its filters may leave.
    """
    sources = {d: _open(pair.side(d).path, pair.layout, pair.format) for d in DOMAINS}
    with _database(memory_limit) as db:
        for d in DOMAINS:
            _stage(db, d, sources[d], pair.layout)
            _check_log(db, d, sources[d], pair.layout)
        _number_ids(db)
        for d in DOMAINS:
            _check_ids(db, d, sources[d], pair.layout)
        _check_pair(db, pair)
        yield db


def _fingerprint(pair: PairFile) -> str:
    """SHA-256 over the files' contents and every option except where the files lie."""
    digests = {}
    for d in DOMAINS:
        side = pair.side(d)
        digests[d] = [_digest(one) for one in (side.path, side.titles) if one is not None]
    if digests["x"][0] == digests["y"][0]:
        raise DataError(
            f"x and y are the same log: {pair.x.path} and {pair.y.path} have the same content; "
            f"give each domain its own file"
        )
    options = pair.model_dump(mode="json", exclude={"x": {"path", "titles"}, "y": {"path", "titles"}, "columns": True})
    options["columns"] = pair.layout.model_dump(mode="json")
    return hashlib.sha256(json.dumps([options, digests], sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return sha256_of(path)


# --- opening a file ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
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


def _open(path: Path, layout: Columns, format: str | None) -> _Source:
    """Look at a log's first bytes and its header.

    Raises
    ------
    DataError
        Neither CSV nor Parquet, empty, a missing column, or a header where the format has none and vice versa.
    """
    wanted = (layout.user, layout.item, layout.timestamp)
    if _is_parquet(path):
        if format in HEADERLESS:
            raise DataError(
                f"{path}: format {format} is CSV without a header, but this is a Parquet file; name its columns "
                f"instead: columns: {{user: …, item: …, timestamp: …, unit: s}}"
            )
        source = _open_parquet(path)
        _check_columns(source, wanted)
        for name in (layout.user, layout.item):
            _check_id_type(source, name)
        _check_time_type(source, layout)
        return source
    gzipped, line = _first_line(path)
    if gzipped:
        _check_gzip(path)
    if format in HEADERLESS:
        _check_headerless(path, line, format)
        return _Source(path, gzipped, ",", False, HEADERLESS[format], None)
    source = _with_header(path, gzipped, line, wanted)
    _check_columns(source, wanted)
    return source


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def _open_parquet(path: Path) -> _Source:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: damaged Parquet file: {error}") from None
    types = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in schema.types]
    return _Source(path, False, ",", True, tuple(schema.names), tuple(types))


def _with_header(path: Path, gzipped: bool, line: str, wanted: Sequence[str]) -> _Source:
    """A CSV file under the delimiter that gives most of the wanted columns, then most columns at all."""
    split = {delimiter: _fields(line, delimiter) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=lambda one: (len({*split[one]} & {*wanted}), len(split[one])))
    return _Source(path, gzipped, best, True, tuple(split[best]), None)


def _fields(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


@contextmanager
def _text(path: Path, gzipped: bool) -> Iterator[io.TextIOWrapper]:
    with (
        gzip.open(path, "rb") if gzipped else path.open("rb") as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream,
    ):
        yield stream


def _first_line(path: Path) -> tuple[bool, str]:
    """Whether the file is gzipped, and its first line; what is not text stops here."""
    with path.open("rb") as raw:
        start = raw.read(8)
    gzipped = start.startswith(b"\x1f\x8b")
    known = {
        b"PK\x03\x04": "a zip archive or a spreadsheet",
        b"\x28\xb5\x2f\xfd": "compressed with zstd",
        b"BZh": "compressed with bzip2",
        b"\xfd7zXZ": "compressed with xz",
        b"\x89HDF": "an HDF5 file",
        b"\xff\xfe": "text in UTF-16",
        b"\xfe\xff": "text in UTF-16",
    }
    for magic, what in known.items():
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


_NOT_UTF8 = "not UTF-8 text; convert it, e.g. `iconv -f latin1 -t utf-8`"
_DAMAGED_GZIP = "damaged or truncated gzip file; fetch or compress it anew"


def _check_gzip(path: Path) -> None:
    """Unpack a gzip file to its end: DuckDB before 2.0 takes a truncated one for a short one, and none checks the CRC."""
    try:
        with gzip.open(path, "rb") as stream:
            while stream.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {_DAMAGED_GZIP} ({error})") from None


def _is_number(field: str) -> bool:
    return re.fullmatch(NUMBER, field.strip()) is not None


def _check_columns(source: _Source, wanted: Sequence[str]) -> None:
    where = f"{source.path}, line 1" if source.types is None else f"{source.path}"
    for name in wanted:
        if source.names.count(name) == 1:
            continue
        if name in source.names:
            raise DataError(f"{where}: two columns are named '{name}'; rename one")
        if source.types is None and any(map(_is_number, source.names)):
            raise DataError(
                f"{where}: {','.join(source.names)!r} are values and no column names: the file has no header; Amazon "
                f"ratings without one are format: amazon2014 (user first) or amazon2018 (item first); to any other "
                f"file add a line with the names of its columns"
            )
        raise DataError(f"{where}: no column '{name}'{suggestion(name, list(source.names))}")


def _check_headerless(path: Path, line: str, format: str) -> None:
    fields, names = _fields(line, ","), HEADERLESS[format]
    if not any(map(_is_number, fields[2:])):
        instead = "columns: {user: …, item: …, timestamp: …, unit: s}"
        if {AMAZON2023.user, AMAZON2023.item, AMAZON2023.timestamp} <= {*fields}:
            instead = "format: amazon2023"
        raise DataError(
            f"{path}, line 1: {line[:80]!r} looks like a header, and format {format} has none; give {instead} instead"
        )
    if len(fields) != len(names):
        raise DataError(
            f"{path}, line 1: {len(fields)} fields where format {format} has {len(names)}: {','.join(names)}"
        )


def _check_id_type(source: _Source, name: str) -> None:
    assert source.types is not None
    kind = source.types[source.names.index(name)]
    if pa.types.is_floating(kind):
        raise DataError(f"{source.path}: column '{name}' holds {kind}, not ids{_FLOAT_IDS}")
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{source.path}: column '{name}' holds {kind}; ids are text or integers")


_FLOAT_IDS = (
    "; integers that became floats, as pandas makes them where one is missing? Drop the rows without an id and write "
    "the column as text or integers"
)


def _check_time_type(source: _Source, layout: Columns) -> None:
    assert source.types is not None
    kind = source.types[source.names.index(layout.timestamp)]
    plain = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (plain or pa.types.is_float64(kind)):
        raise DataError(f"{source.path}: column '{layout.timestamp}' holds {kind}{_unix_time(layout)}")


def _unix_time(layout: Columns) -> str:
    word = UNITS[layout.unit][0]
    return (
        f"; it must be Unix time in {word} (columns.unit): convert with pandas.to_datetime(log[{layout.timestamp!r}], "
        f"utc=True).dt.as_unit({layout.unit!r}).astype('int64')"
    )


# --- the database -----------------------------------------------------------------------------------------------------


@contextmanager
def _database(memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
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
def _reading(source: _Source) -> Iterator[None]:
    """DuckDB's complaints about a file, as errors with file and line."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise DataError(_translated(source, str(error))) from None


def _translated(source: _Source, message: str) -> str:
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


def _stage(db: duckdb.DuckDBPyConnection, d: str, source: _Source, layout: Columns) -> None:
    """Table ``raw_d``: u, i as text, t in the file's unit (NULL where it is no number)."""
    rows, values = source.rows()
    with _reading(source):
        db.execute(
            f"CREATE OR REPLACE TABLE raw_{d} AS SELECT {source.text(layout.user)} AS u, "
            f"{source.text(layout.item)} AS i, {source.integer(layout.timestamp)} AS t FROM {rows}",
            values,
        )


def _one(db: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    found = db.execute(sql, list(values)).fetchall()
    return tuple(found[0])


def _no_id(column: str) -> str:
    unknown = ", ".join(f"'{one}'" for one in NO_ID)
    return f"({column} IS NULL OR lower(trim({column})) IN ({unknown}))"


def _unit_of(column: str, unit: Unit) -> str:
    """SQL: whether a positive time has the size of times in this unit."""
    edges = (1, *UNIT_BOUNDS, 2**63)
    at = list(UNITS).index(unit)
    return f"({column} >= {edges[at]} AND {column} < {edges[at + 1]})"


def _check_log(db: duckdb.DuckDBPyConnection, d: str, source: _Source, layout: Columns) -> None:
    """Refuse a log with unknown ids or times; each message has the first line that is bad, and how many are."""
    now = int(time.time() * UNITS[layout.unit][1])
    bad: dict[str, str] = {
        "user": _no_id("u"),
        "item": _no_id("i"),
        "text": "t IS NULL",
        "unknown": "t <= 0",
        **{unit: _unit_of("t", unit) for unit in UNITS},
        "future": f"t > {now}",
    }
    columns = ", ".join(f"count(*) FILTER ({condition})" for condition in bad.values())
    total, *counts = _one(db, f"SELECT count(*), {columns} FROM raw_{d}")
    found = dict(zip(bad, counts, strict=True))
    if not total:
        raise DataError(f"{source.path}: no rows, only a header" if source.header else f"{source.path}: no rows")
    for role, name in (("user", layout.user), ("item", layout.item)):
        if found[role]:
            where, values = _locate(db, source, layout, bad[role])
            raise DataError(
                f"{where}: column '{name}' has no id but {values[role]!r}; so have {found[role]:,} of {total:,} rows: "
                f"drop them, or give the {role}s ids"
            )
    if found["text"]:
        where, values = _locate(db, source, layout, bad["text"])
        if values["timestamp"] is None:
            raise DataError(
                f"{where}: column '{layout.timestamp}' is empty; {found['text']:,} of {total:,} rows have no usable "
                f"time: drop them"
            )
        raise DataError(f"{where}: column '{layout.timestamp}' holds {values['timestamp']!r}{_unix_time(layout)}")
    if found["unknown"]:
        where, values = _locate(db, source, layout, bad["unknown"])
        raise DataError(
            f"{where}: column '{layout.timestamp}' holds {values['timestamp']!r}: 0 and negative times are unknown "
            f"ones ({found['unknown']:,} of {total:,} rows): drop them"
        )
    looks = {unit: found[unit] for unit in UNITS if found[unit]}
    if len(looks) > 1:
        odd = min(looks, key=lambda unit: (looks[unit], unit == layout.unit))
        where, values = _locate(db, source, layout, bad[odd])
        told = " and ".join(f"{count:,} in {UNITS[unit][0]}" for unit, count in looks.items())
        raise DataError(
            f"{where}: column '{layout.timestamp}' mixes units: {told}, by their size; here {values['timestamp']!r} "
            f"is in {UNITS[odd][0]}. Convert them to one unit"
        )
    if layout.unit not in looks:
        [unit] = looks
        where, values = _locate(db, source, layout, bad[unit])
        raise DataError(
            f"{where}: column '{layout.timestamp}' holds {values['timestamp']!r}, and all of its {total:,} times look "
            f"like {UNITS[unit][0]}, not {UNITS[layout.unit][0]}: set columns.unit: {unit}"
        )
    if found["future"]:
        where, values = _locate(db, source, layout, bad["future"])
        seconds = int(float(values["timestamp"] or 0)) // UNITS[layout.unit][1]
        raise DataError(
            f"{where}: column '{layout.timestamp}' holds {values['timestamp']!r}, which is {_date(seconds)} and lies "
            f"in the future ({found['future']:,} of {total:,} rows): if columns.unit: {layout.unit} is right, drop them"
        )


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (OverflowError, ValueError):
        return "after the year 9999"


def _locate(
    db: duckdb.DuckDBPyConnection, source: _Source, layout: Columns, condition: str, values: Sequence[Any] = ()
) -> tuple[str, dict[str, str | None]]:
    """Where the file first meets a condition on u, i and t, and the texts there. Reads the file again: errors only."""
    rows, parameters = source.numbered()
    db.execute("SET threads=1")  # rows in the order of the file, so that they have numbers
    db.execute("SET preserve_insertion_order=true")
    names = {"user": layout.user, "item": layout.item, "timestamp": layout.timestamp}
    texts = ", ".join(f"{source.text(name)} AS {role}_text" for role, name in names.items())
    n, *found = _one(
        db,
        f"SELECT n, user_text, item_text, timestamp_text FROM (SELECT n, {texts}, {source.text(layout.user)} AS u, "
        f"{source.text(layout.item)} AS i, {source.integer(layout.timestamp)} AS t FROM {rows}) "
        f"WHERE {condition} ORDER BY n LIMIT 1",
        [*parameters, *values],
    )
    where = f"{source.path}, row {n}" if source.types is not None else f"{source.path}, line {_line(source, n)}"
    return where, dict(zip(names, found, strict=True))


def _line(source: _Source, n: int) -> int:
    """The line on which record ``n`` (from 1, header not counted) starts: empty lines and line ends in quotes count."""
    with _text(source.path, source.gzipped) as stream:
        reader = csv.reader(stream, delimiter=source.delimiter)
        left, line = n + source.header, 0
        for record in reader:
            left -= bool(record)
            if not left:
                return line + 1
            line = reader.line_num
    return line


# --- from rows to numbers ---------------------------------------------------------------------------------------------


def _number_ids(db: duckdb.DuckDBPyConnection) -> None:
    """Tables ``users`` (id, n, x, y: whether the domain has them) and ``items_d`` (id, n); n follows the ids' order."""
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


def _check_ids(db: duckdb.DuckDBPyConnection, d: str, source: _Source, layout: Columns) -> None:
    """Refuse ids that are floats: all of a column's are numbers, and some have a point."""
    tables = {"u": (f"users WHERE {d}", layout.user), "i": (f"items_{d}", layout.item)}
    for column, (table, name) in tables.items():
        numbers, pointed = _one(
            db,
            f"SELECT bool_and(regexp_full_match(id, '{NUMBER}')), bool_or(contains(id, '.')) FROM {table}",
        )
        if numbers and pointed:
            where, values = _locate(db, source, layout, f"contains({column}, '.')")
            value = values["user" if column == "u" else "item"]
            raise DataError(f"{where}: column '{name}' holds the float {value!r}, not ids{_FLOAT_IDS}")


def _share(db: duckdb.DuckDBPyConnection, table: str, pattern: str) -> float:
    return float(
        _one(db, f"SELECT coalesce(avg(CAST(regexp_full_match(id, '{pattern}') AS INTEGER)), 0) FROM {table}")[0]
    )


def _swapped(db: duckdb.DuckDBPyConnection, d: str) -> str | None:
    """What in a domain's ids speaks for swapped columns of users and items (Amazon's ids have a look of their own)."""
    asins = {"user": _share(db, f"users WHERE {d}", ASIN), "item": _share(db, f"items_{d}", ASIN)}
    if asins["user"] > 0.5 > asins["item"]:
        [example] = _one(db, f"SELECT min(id) FROM users WHERE {d} AND regexp_full_match(id, '{ASIN}')")
        return f"{asins['user']:.0%} of the ids in its user column look like Amazon item ids (e.g. {example})"
    people = {"user": _share(db, f"users WHERE {d}", AMAZON_USER), "item": _share(db, f"items_{d}", AMAZON_USER)}
    if people["item"] > 0.5 > people["user"]:
        [example] = _one(db, f"SELECT min(id) FROM items_{d} WHERE regexp_full_match(id, '{AMAZON_USER}')")
        return f"{people['item']:.0%} of the ids in its item column look like Amazon user ids (e.g. {example})"
    return None


def _looks_swapped(db: duckdb.DuckDBPyConnection) -> str | None:
    return next((found for d in DOMAINS if (found := _swapped(db, d))), None)


def _shared_users(db: duckdb.DuckDBPyConnection) -> int:
    return int(_one(db, "SELECT count(*) FROM users WHERE x AND y")[0])


def _count_shared(db: duckdb.DuckDBPyConnection, a: str, b: str) -> int:
    return int(_one(db, f"SELECT count(*) FROM (SELECT id FROM {a}) SEMI JOIN (SELECT id FROM {b}) USING (id)")[0])


def _other_format(format: str) -> str:
    return next(one for one in HEADERLESS if one != format)


def _unswap(format: str | None) -> str:
    if format in HEADERLESS:
        right = _other_format(format)
        return f"set format: {right}, which has {' before '.join(HEADERLESS[right][:2])}"
    return "swap columns.user and columns.item" if format is None else "swap the two columns in the file"


def _check_pair(db: duckdb.DuckDBPyConnection, pair: PairFile) -> None:
    """Refuse swapped columns and logs that share no user."""
    for d in DOMAINS:
        if evidence := _swapped(db, d):
            raise DataError(f"{pair.side(d).path}: users and items are swapped: {evidence}; {_unswap(pair.format)}")
    if _shared_users(db):
        return
    names = f"{pair.x.path} and {pair.y.path}: no user is in both"
    shared = _count_shared(db, "items_x", "items_y")
    if shared:
        raise DataError(
            f"{names}, but {shared:,} ids of the item columns are: either users and items are swapped "
            f"({_unswap(pair.format)}), or each file numbers its users by itself (a pair needs common user ids)"
        )
    for d, e in (DOMAINS, DOMAINS[::-1]):
        if crossed := _count_shared(db, f"users WHERE {d}", f"items_{e}"):
            raise DataError(
                f"{names}, but {crossed:,} users of {pair.side(d).name} stand in the item column of "
                f"{pair.side(e).name}: the two files have their columns in different order; write them alike"
            )
    raise DataError(f"{names}; a pair needs common user ids: does each file number its users by itself?")


def _line_of(steps: list[dict[str, Any]], step: str, name: str, events: int, users: int, items: int) -> None:
    before = events if step == "read" else steps[-1]["events"]
    counts = {"events": events, "users": users, "items": items, "removed": before - events}
    steps.append({"step": step, "domain": name, **counts})


def _keep_first(db: duckdb.DuckDBPyConnection, d: str, pair: PairFile, steps: list[dict[str, Any]]) -> None:
    """Table ``events_d``: u, i as numbers, t in seconds, the first event of each (user, item)."""
    name = pair.side(d).name
    users, items, events = _one(
        db,
        f"SELECT (SELECT count(*) FROM users WHERE {d}), (SELECT count(*) FROM items_{d}), "
        f"(SELECT count(*) FROM raw_{d})",
    )
    _line_of(steps, "read", name, events, users, items)
    scale = UNITS[pair.layout.unit][1]
    db.execute(
        f"CREATE TABLE events_{d} AS SELECT users.n AS u, items_{d}.n AS i, min(t) // {scale} AS t FROM raw_{d} "
        f"JOIN users ON raw_{d}.u = users.id JOIN items_{d} ON raw_{d}.i = items_{d}.id GROUP BY ALL"
    )
    db.execute(f"DROP TABLE raw_{d}")
    [events] = _one(db, f"SELECT count(*) FROM events_{d}")
    _line_of(steps, "first of each (user, item)", name, events, users, items)


def _keep_core(db: duckdb.DuckDBPyConnection, d: str, pair: PairFile, steps: list[dict[str, Any]]) -> None:
    """Iterate the k-core of a domain to its fixed point, which is the same whatever leaves first.

    ``steps`` gets both lines of round 1, and of later rounds those that removed something.
    """
    least = {"u": pair.min_user, "i": pair.min_item}
    words = {"u": "users", "i": "items"}
    round, quiet = 1, 0  # quiet: steps since something was removed
    while quiet < 2:
        for column, opposite in (("u", "i"), ("i", "u")):
            before = steps[-1]
            left = {words[one]: before[words[one]] for one in words} | {"events": before["events"]}
            few = f"SELECT {column} FROM events_{d} GROUP BY {column} HAVING count(*) < {least[column]}"
            [gone] = _one(db, f"SELECT count(*) FROM ({few})")
            step = f"k-core round {round} ({words[column]})"
            if gone:
                left[words[column]] -= gone
                db.execute(
                    f"CREATE OR REPLACE TABLE events_{d} AS SELECT * FROM events_{d} ANTI JOIN ({few}) USING ({column})"
                )
                left["events"], left[words[opposite]] = _one(
                    db, f"SELECT count(*), count(DISTINCT {opposite}) FROM events_{d}"
                )
            if gone or round == 1:
                _line_of(steps, step, pair.side(d).name, **left)
            quiet = 0 if gone else quiet + 1
            if not left["events"]:
                raise DataError(
                    f"{pair.side(d).path}: nothing is left of {pair.side(d).name} after '{step}', which keeps "
                    f"{words[column]} with {least[column]} or more events; before it there were "
                    f"{before['events']:,} events, {before['users']:,} users, {before['items']:,} items: lower "
                    f"min_user ({pair.min_user}) or min_item ({pair.min_item})"
                )
        round += 1


def _fetch(
    db: duckdb.DuckDBPyConnection, pair: PairFile, steps: list[dict[str, Any]]
) -> tuple[EventLog, dict[str, Int]]:
    """What is left, renumbered without gaps; ids in the order of their numbers."""
    kept = "n IN (SELECT u FROM events_x)", "n IN (SELECT u FROM events_y)"
    if not _one(db, f"SELECT count(*) FROM users WHERE {' AND '.join(kept)}")[0]:
        left = {one["domain"]: one["users"] for one in steps}
        raise DataError(
            f"{pair.x.path} and {pair.y.path}: no overlapping user is left by the filters, only "
            f"{left[pair.x.name]:,} users of {pair.x.name} and {left[pair.y.name]:,} others of {pair.y.name}: lower "
            f"min_user ({pair.min_user}) or min_item ({pair.min_item})"
        )
    numbers, users = _ids(db, f"SELECT n, id FROM users WHERE {' OR '.join(kept)} ORDER BY n")
    events, ids = {}, {}
    for d in DOMAINS:
        item_numbers, ids[d] = _ids(db, f"SELECT n, id FROM items_{d} WHERE n IN (SELECT i FROM events_{d}) ORDER BY n")
        found = db.execute(f"SELECT u, i, t FROM events_{d} ORDER BY u, t, i").fetchnumpy()
        events[d] = Events(
            np.searchsorted(numbers, found["u"]).astype(np.int32),
            (np.searchsorted(item_numbers, found["i"]) + 1).astype(np.int32),
            np.asarray(found["t"], dtype=np.int64),
        )
    return EventLog(users, events), ids


def _ids(db: duckdb.DuckDBPyConnection, sql: str) -> tuple[Int, Int]:
    found = db.execute(sql).fetchnumpy()
    return np.asarray(found["n"]), np.asarray(found["id"], dtype=object)


def _links(ids: Mapping[str, Int]) -> Int:
    """int32 [m, 2]: items with the same id."""
    at = pd.Index(ids["y"], dtype=object).get_indexer(pd.Index(ids["x"], dtype=object))
    return np.stack([np.flatnonzero(at >= 0) + 1, at[at >= 0] + 1], axis=1).astype(np.int32)


def _no_links() -> Int:
    return np.zeros((0, 2), dtype=np.int32)


def _titles(db: duckdb.DuckDBPyConnection, d: str, pair: PairFile, ids: Int) -> Int | None:
    """Titles in the order of ``ids``; an item without one shows its id. Of two titles of an id the lesser stays."""
    path = pair.side(d).titles
    if path is None:
        return None
    id_names = [pair.layout.item, *TITLE_ITEMS]
    if _is_parquet(path):
        source = _open_parquet(path)
    else:
        gzipped, line = _first_line(path)
        if gzipped:
            _check_gzip(path)
        source = _with_header(path, gzipped, line, [*id_names, "title"])
    name = next((one for one in id_names if one in source.names), pair.layout.item)
    _check_columns(source, [name, "title"])
    rows, values = source.rows()
    with _reading(source):
        found = db.execute(
            f"SELECT id, title FROM items_{d} JOIN (SELECT {source.text(name)} AS id, min({source.text('title')}) "
            f"AS title FROM {rows} GROUP BY 1) USING (id) WHERE trim(title) <> ''",
            values,
        ).fetchnumpy()
    if not len(found["id"]):
        raise DataError(f"{path}: not one id of column '{name}' is an item of {pair.side(d).path} with a title")
    by_id = dict(zip(found["id"], found["title"], strict=True))
    return np.array([by_id.get(one, one) for one in ids], dtype=object)


# --- files that nobody has described yet ------------------------------------------------------------------------------

ROLE_NAMES = {  # names of columns, without case and punctuation, likelier ones first
    "user": ("userid", "user", "reviewerid", "uid", "customerid", "visitorid", "userkey", "memberid", "u"),
    "item": ("itemid", "item", "parentasin", "asin", "productid", "iid", "movieid", "bookid", "isbn", "sku", "i"),
    "timestamp": ("timestamp", "time", "unixreviewtime", "unixtime", "ts", "eventtime", "datetime", "date", "t"),
}
SAMPLE = 1000  # rows that a guess looks at


@dataclass(frozen=True)
class LogDescription:
    """Counts of one log. Events without ids or with an impossible time are ``unusable`` and counted nowhere else."""

    path: Path
    events: int
    users: int
    items: int
    unusable: int
    duplicates: int  # events beyond the first of a (user, item)
    first: int  # seconds since 1970
    last: int
    busiest_day: float  # share of the events on the day (UTC) that has most
    midnight: float  # share of the events at 00:00:00 UTC: 1 under day resolution

    @property
    def days(self) -> float:
        return (self.last - self.first) / 86_400


@dataclass(frozen=True)
class Description:
    """What two log files hold, what is suspicious, and the pair file that reads them."""

    layout: str  # amazon2014, amazon2018, amazon2023 or columns
    columns: Columns
    delimiters: Mapping[str, str]  # domain key -> delimiter, or "Parquet"
    files: Mapping[str, LogDescription]
    shared_users: int
    shared_items: int  # ids that stand in both item columns
    suspicious: tuple[str, ...]  # plain sentences
    yaml: str  # a pair file, to be written beside the first log

    def text(self) -> str:
        """For the terminal."""
        names = {d: one.path.name for d, one in self.files.items()}
        table: dict[str, Any] = {
            "": names,
            "events": {d: f"{one.events:,}" for d, one in self.files.items()},
            "users": {d: f"{one.users:,}" for d, one in self.files.items()},
            "items": {d: f"{one.items:,}" for d, one in self.files.items()},
            "first day": {d: _date(one.first) for d, one in self.files.items()},
            "last day": {d: _date(one.last) for d, one in self.files.items()},
            "days": {d: f"{one.days:,.0f}" for d, one in self.files.items()},
            "on the busiest day": {d: f"{one.busiest_day:.1%}" for d, one in self.files.items()},
            "at midnight (UTC)": {d: f"{one.midnight:.1%}" for d, one in self.files.items()},
            "duplicates": {d: f"{one.duplicates:,}" for d, one in self.files.items()},
            "unusable": {d: f"{one.unusable:,}" for d, one in self.files.items()},
            "delimiter": {d: repr(one) if len(one) == 1 else one for d, one in self.delimiters.items()},
        }
        width = max(12, *map(len, names.values()))
        lines = [f"{row:20}" + "".join(f"  {cells[d]:>{width}}" for d in DOMAINS) for row, cells in table.items()]
        c = self.columns
        how = "named columns" if self.layout == "columns" else self.layout
        lines += [
            "",
            f"layout: {how}: user {c.user!r}, item {c.item!r}, timestamp {c.timestamp!r} in {UNITS[c.unit][0]}",
            f"users in both: {self.shared_users:,}; item ids in both: {self.shared_items:,}",
            "",
            *([f"suspicious: {one}" for one in self.suspicious] or ["nothing suspicious"]),
            "",
            "proposed pair file (beside the first log):",
            "",
            self.yaml.rstrip("\n"),
        ]
        return "\n".join(lines)


def describe_files(a: Path | str, b: Path | str) -> Description:
    """Guess the layout of two logs, count what they hold, and propose the pair file that reads them.

    Raises
    ------
    DataError
        A file that is no CSV or Parquet, columns that cannot be guessed, or two files of different layout.
    """
    paths = {"x": Path(a), "y": Path(b)}
    for path in paths.values():
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    guesses = {d: _guess(path) for d, path in paths.items()}
    (format, columns), other = guesses["x"], guesses["y"]
    if (format is None) != (other[0] is None) or columns.model_dump(exclude={"unit"}) != other[1].model_dump(
        exclude={"unit"}
    ):
        told = " and ".join(f"{paths[d]} as {_told(*guesses[d])}" for d in DOMAINS)
        raise DataError(f"the two files differ in layout: {told} by the look of it; a pair file describes both alike")
    suspicious: list[str] = []
    with _database("2GB") as db:
        sources = {d: _open(path, columns, format) for d, path in paths.items()}
        for d in DOMAINS:
            _stage(db, d, sources[d], columns)
        _number_ids(db)
        look = _looks_swapped(db)
        if format in HEADERLESS:
            # ids without a look: in the right order the files share users
            swapped = bool(look) or (not _shared_users(db) and _count_shared(db, "items_x", "items_y") > 0)
            format = _other_format(format) if swapped else format
        elif swapped := look is not None:
            suspicious.append(f"users and items look swapped: {look}")
            if format is None:
                suspicious[-1] += "; the proposed pair file swaps the columns"
                columns = columns.model_copy(update={"user": columns.item, "item": columns.user})
        if swapped and format != "amazon2023":
            sources = {d: _open(path, columns, format) for d, path in paths.items()}
            for d in DOMAINS:
                _stage(db, d, sources[d], columns)
            _number_ids(db)
            if again := _looks_swapped(db):
                raise DataError(
                    f"the two files differ in layout: users and items look swapped in one of {paths['x']} and "
                    f"{paths['y']} only ({again}); a pair file describes both alike"
                )
        units = {d: _unit_by_size(db, d, paths[d], suspicious) for d in DOMAINS}
        if units["x"] != units["y"]:
            raise DataError(
                f"the two files differ in the unit of their times: {paths['x']} has {UNITS[units['x']][0]}, "
                f"{paths['y']} {UNITS[units['y']][0]} by their size; convert one of them"
            )
        if format is None:
            columns = columns.model_copy(update={"unit": units["x"]})
        elif units["x"] != columns.unit:
            suspicious.append(
                f"times look like {UNITS[units['x']][0]}, but format {format} has {UNITS[columns.unit][0]}: name the "
                f"columns instead of the format"
            )
        files = {d: _count_log(db, d, paths[d], units[d]) for d in DOMAINS}
        _number_ids(db)
        shared_users = _shared_users(db)
        shared_items = _count_shared(db, "items_x", "items_y")
        [integers] = _one(
            db,
            "SELECT coalesce(bool_and(regexp_full_match(id, '[0-9]+')), false) "
            "FROM (SELECT id FROM items_x UNION ALL SELECT id FROM items_y)",
        )
        floats = [_float_ids(db, d) for d in DOMAINS]
    for d in DOMAINS:
        suspicious += _suspicions(files[d], floats[DOMAINS.index(d)])
    if sha256_of(paths["x"]) == sha256_of(paths["y"]):
        suspicious.append("both files have the same content: give each domain its own log")
    suspicious += _shared_suspicions(files, shared_users, shared_items, bool(integers))
    return Description(
        format or "columns",
        columns,
        {d: one.delimiter if one.types is None else "Parquet" for d, one in sources.items()},
        files,
        shared_users,
        shared_items,
        tuple(suspicious),
        _proposed(paths, format, columns, bool(integers and shared_items)),
    )


def _told(format: str | None, columns: Columns) -> str:
    return format or f"columns {columns.user}, {columns.item}, {columns.timestamp}"


def _guess(path: Path) -> tuple[str | None, Columns]:
    """Format (None: named columns) and columns of a file by its header, or its first rows; the unit comes later."""
    if _is_parquet(path):
        source = _open_parquet(path)
        return None, _roles(path, source.names, [[] for _ in source.names])
    gzipped, line = _first_line(path)
    delimiter = max(DELIMITERS, key=lambda one: len(_fields(line, one)))
    first = _fields(line, delimiter)
    rows = []
    try:
        with _text(path, gzipped) as stream:
            for record in csv.reader(stream, delimiter=delimiter):
                rows.append(record)
                if len(rows) > SAMPLE:
                    break
    except UnicodeDecodeError:
        raise DataError(f"{path}: {_NOT_UTF8}") from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{path}, line {len(rows) + 1}: {error}") from None
    if not any(map(_is_number, first)):
        if {AMAZON2023.user, AMAZON2023.item, AMAZON2023.timestamp} <= {*first}:
            return "amazon2023", AMAZON2023
        values = [[row[i] for row in rows[1:] if len(row) > i] for i in range(len(first))]
        return None, _roles(path, tuple(first), values)
    if len(first) == 4 and delimiter == ",":
        return "amazon2014", _headerless_columns()  # or 2018: the ids of both files decide
    raise DataError(
        f"{path}, line 1: no header and {len(first)} columns, while Amazon ratings without a header have 4 (user or "
        f"item first, then rating and timestamp): add a line with the names of the columns"
    )


def _roles(path: Path, names: Sequence[str], values: Sequence[Sequence[str]]) -> Columns:
    """Which column is which by its name; a lone column of Unix times is found by its values too."""
    plain = {re.sub(r"[^a-z]", "", name.lower()): name for name in reversed(names)}
    found = {role: next((plain[one] for one in known if one in plain), None) for role, known in ROLE_NAMES.items()}
    if found["timestamp"] is None:
        big = [n for n, column in zip(names, values) if column and all(re.fullmatch(r"\d{9,19}", v) for v in column)]
        found["timestamp"] = big[0] if len(big) == 1 and big[0] not in found.values() else None
    missing = [role for role, name in found.items() if name is None]
    if missing:
        raise DataError(
            f"{path}: cannot tell which column holds the {' and the '.join(missing)} among {', '.join(names)}; write "
            f"the pair file by hand: columns: {{user: …, item: …, timestamp: …, unit: s}}"
        )
    return Columns(**{role: str(name) for role, name in found.items()}, unit="s")


def _unit_by_size(db: duckdb.DuckDBPyConnection, d: str, path: Path, suspicious: list[str]) -> Unit:
    """The unit that most times have the size of."""
    columns = ", ".join(f"count(*) FILTER ({_unit_of('t', unit)})" for unit in UNITS)
    counts = dict(zip(UNITS, _one(db, f"SELECT {columns} FROM raw_{d}"), strict=True))
    if sum(map(bool, counts.values())) > 1:
        told = " and ".join(f"{count:,} in {UNITS[unit][0]}" for unit, count in counts.items() if count)
        suspicious.append(f"{path.name} mixes units of time: {told}")
    return max(UNITS, key=lambda unit: counts[unit])


def _count_log(db: duckdb.DuckDBPyConnection, d: str, path: Path, unit: Unit) -> LogDescription:
    """Counts of a staged log, from which unusable events then go."""
    scale = UNITS[unit][1]
    good = f"NOT {_no_id('u')} AND NOT {_no_id('i')} AND t > 0 AND t <= {int(time.time() * scale)}"
    [total] = _one(db, f"SELECT count(*) FROM raw_{d}")
    db.execute(f"CREATE OR REPLACE TABLE raw_{d} AS SELECT u, i, t // {scale} AS t FROM raw_{d} WHERE {good}")
    events, users, items, first, last, midnight = _one(
        db,
        f"SELECT count(*), count(DISTINCT u), count(DISTINCT i), coalesce(min(t), 0), coalesce(max(t), 0), "
        f"count(*) FILTER (t % 86400 = 0) FROM raw_{d}",
    )
    [busiest] = _one(db, f"SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM raw_{d} GROUP BY t // 86400)")
    [distinct] = _one(db, f"SELECT count(*) FROM (SELECT DISTINCT u, i FROM raw_{d})")
    share = max(events, 1)
    return LogDescription(
        path, events, users, items, total - events, events - distinct, first, last, busiest / share, midnight / share
    )


def _float_ids(db: duckdb.DuckDBPyConnection, d: str) -> bool:
    return any(
        all(_one(db, f"SELECT bool_and(regexp_full_match(id, '{NUMBER}')), bool_or(contains(id, '.')) FROM {table}"))
        for table in (f"users WHERE {d}", f"items_{d}")
    )


def _suspicions(log: LogDescription, floats: bool) -> list[str]:
    found = []
    name = log.path.name
    if not log.events:
        return [f"{name} has no usable event: is the time column Unix time, in digits?"]
    if log.unusable:
        found.append(f"{name}: {log.unusable:,} rows have no id, or no time between 1970 and now")
    if floats:
        found.append(f"{name}: ids are floats such as 1.0; write them as text or integers")
    if log.midnight > 0.99:
        found.append(
            f"{name}: times have day resolution, so the order within a day is unknown and a seeded hash breaks the ties"
        )
    elif log.busiest_day > 0.5:
        found.append(f"{name}: {log.busiest_day:.0%} of the events lie on one day; are these the times of an export?")
    if log.duplicates > 0.01 * log.events:
        found.append(
            f"{name}: {log.duplicates / log.events:.1%} of the events repeat a (user, item); the first in time stays"
        )
    if log.items > 0 and log.users * 50 < log.items:
        found.append(f"{name}: {log.users:,} users for {log.items:,} items; are users and items swapped?")
    return found


def _shared_suspicions(
    files: Mapping[str, LogDescription], shared_users: int, shared_items: int, integers: bool
) -> list[str]:
    found = []
    fewest = min(one.users for one in files.values())
    if not shared_users:
        instead = f", but {shared_items:,} ids of the item columns are: users and items may be swapped" * bool(
            shared_items
        )
        found.append(f"no user is in both files{instead}; a pair needs common user ids")
    elif shared_users < max(0.01 * fewest, min(100, 0.5 * fewest)):
        found.append(f"only {shared_users:,} users are in both files, of {fewest:,} in the smaller one")
    if shared_items and integers:
        found.append(
            f"{shared_items:,} item ids are in both files and all ids are integers: if each file numbers its items by "
            f"itself, set same_ids_are_same_items: false"
        )
    return found


def _proposed(paths: Mapping[str, Path], format: str | None, columns: Columns, doubtful: bool) -> str:
    """The pair file's text; what lies in another folder than the first log is named by its whole path."""
    home = paths["x"].resolve().parent
    stems = {d: re.sub(r"(\.csv|\.tsv|\.txt|\.parquet|\.gz)+$", "", path.name) for d, path in paths.items()}
    names = {d: stem.removeprefix("ratings_") or d for d, stem in stems.items()}
    if names["x"] == names["y"]:
        names = {d: f"{name} {d}" for d, name in names.items()}
    lines = ["name: " + (re.sub(r"[^\w.-]+", "_", f"{names['x']}_{names['y']}".lower()) or "pair")]
    for d, path in paths.items():
        side = {"name": names[d], "path": _relative(path, home)}
        endings = (".csv.gz", ".csv", ".parquet")
        titles = [one for ending in endings if (one := path.with_name(f"{stems[d]}_titles{ending}")).is_file()]
        if titles:
            side["titles"] = _relative(titles[0], home)
        lines.append(f"{d}: {_flow(side)}")
    lines.append(f"columns: {_flow(columns.model_dump())}" if format is None else f"format: {format}")
    lines += ["min_user: 3", "min_item: 3"]
    lines.append("same_ids_are_same_items: true" + ("  # false if each file numbers its items by itself" * doubtful))
    return "\n".join(lines) + "\n"


def _relative(path: Path, home: Path) -> str:
    resolved = path.resolve()
    return resolved.name if resolved.parent == home else str(resolved)


def _flow(mapping: Mapping[str, str]) -> str:
    return yaml.safe_dump(
        dict(mapping), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    ).strip()
