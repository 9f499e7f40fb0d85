"""One log file: CSV(.gz), JSON lines or Parquet, opened, and how SQL reads it. Ids are text: leading zeros stay."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from i2vae_lib.data.logs.first_bytes import check_whole, first_line, is_parquet
from i2vae_lib.data.logs.pair_file import COLUMNS_EXAMPLE, FORMATS, HEADERLESS, UNITS, Columns, Format, Side
from i2vae_lib.data.logs.separators import fields_of, refuse_single_quotes, refuse_title, separator_of
from i2vae_lib.data.rows import DataError
from i2vae_lib.places import suggestion

NUMBER = r"[+-]?[0-9]{1,19}(\.[0-9]*)?"
_SCIENTIFIC = r"([0-9])\.([0-9]+)[eE]\+?0*([0-9]{1,2})"
# years 1900 to 2100; hours, minutes and seconds may follow, and the seconds' fraction, with a point or without
DATE_DIGITS = (
    r"(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])"
    r"(([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]+|[0-9]{3}|[0-9]{6})?)?)?)?"
)
# from -12 to +14 hours; a name such as BST stands for several
_ZONE = r"( ?([Zz]|UTC|(-(0[0-9]|1[0-2])|[+](0[0-9]|1[0-4]))(:?[0-5][0-9])?))?"
CLOCK_AND_ZONE = rf"[Tt ][0-9:.,]+{_ZONE}$"
ISO = (  # or the basic format, without signs
    rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([Tt ][0-9]{{2}}(:[0-9]{{2}}(:[0-9]{{2}}([.,][0-9]+)?)?)?{_ZONE})?|"
    rf"[0-9]{{8}}[Tt][0-9]{{6}}([.,][0-9]+)?{_ZONE}"
)
FLOAT_IDS = (  # end of a message
    "; integers that became floats, as pandas makes them where one is missing? Then drop the rows without an id and "
    "write the column as integers. Ids that are no numbers, such as arXiv's, need a letter in front, as text from "
    "their source (a1704.03002), in both files alike"
)
FIRST_OBJECTS = 1000  # of JSON lines, whose keys are a file's columns
JSON_LINES = "JSON lines"  # in place of a delimiter
_REJECTS = "store_rejects=true, rejects_limit=100"  # lines that cannot be read, for :func:`.database.reading`
_LINES = (  # of whole lines as column c; \x02 stands in none
    f"read_csv(?, delim=chr(2), quote='', escape='', columns={{c: 'VARCHAR'}}, header=false, auto_detect=false, "
    f"{_REJECTS})"
)
csv.field_size_limit(2**31 - 1)  # a cell may hold a user's whole history


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

    def check_whole(self) -> None:
        """Refuse a text file of which something would be left out (:func:`first_bytes.check_whole`)."""
        if self.types is None:
            check_whole(self.path, self.gzipped, any_length=self.delimiter == JSON_LINES)

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
        if self.delimiter == JSON_LINES:
            keys = ["/" + name.replace("~", "~0").replace("/", "~1") for name in self.names]  # JSON pointers: any key
            cells = ", ".join(f"v[{i + 1}] AS c{i}" for i in range(len(keys)))
            read, values = self.objects()  # each parsed once for all keys: once a key takes memory without end
            return f"(SELECT {cells} FROM (SELECT json_extract_string(json, ?) AS v FROM {read}))", [keys, *values]
        columns = [f"c{i}" for i in range(len(self.names))]
        path = _for_duckdb(self.path)
        if self.types is not None:
            number = ", file_row_number=true" if self._has_row_numbers else ""
            return f"read_parquet(?{number}, hive_partitioning=false) AS file({', '.join(columns)})", [path]
        types = ", ".join(f"{one}: 'VARCHAR'" for one in columns)
        sql = (
            f"read_csv(?, delim=?, compression=?, columns={{{types}}}, header={str(self.header).lower()}, quote='\"', "
            f"escape='\"', auto_detect=false, strict_mode=true, hive_partitioning=false, {_REJECTS})"
        )
        return sql, [path, self.delimiter, "gzip" if self.gzipped else "none"]

    def objects(self) -> tuple[str, list[Any]]:
        """SQL of the objects of JSON lines as they stand, and its parameters."""
        sql = "read_ndjson_objects(?, compression=?, maximum_object_size=268435456)"
        return sql, [_for_duckdb(self.path), "gzip" if self.gzipped else "none"]

    def _sequences(self, items: Path) -> tuple[str, list[Any]]:
        """C2DSR: an event of each ``number|time`` of the domain's items, which get their ids back."""
        paths = [_for_duckdb(one) for one in (self.path, *self.more)]
        sql = (
            f"(SELECT u AS c0, id AS c1, split_part(p, '|', 2) AS c2 FROM (SELECT f[2] AS u, unnest(f[3:]) AS p "
            f"FROM (SELECT string_split(c, chr(9)) AS f FROM {_LINES})) JOIN (SELECT split_part(c, chr(9), 1) AS id, "
            f"split_part(c, chr(9), 2) AS number FROM {_LINES}) ON split_part(p, '|', 1) = number)"
        )
        return sql, [paths, _for_duckdb(items)]

    @property
    def _has_row_numbers(self) -> bool:
        """Whether DuckDB can number the rows of a Parquet file: not where a column has its name for the number."""
        return self.types is not None and "file_row_number" not in map(str.lower, self.names)

    def numbered(self) -> tuple[str, list[Any]]:
        """SQL of all rows with their number ``n`` (from 1), and its parameters; only in ``database.in_file_order``."""
        sql, values = self._all_rows()
        number = "file_row_number + 1" if self._has_row_numbers else "row_number() OVER ()"
        where = ""
        if self.only is not None:
            where, values = f" WHERE {self.text(self.only[0])} = ?", [*values, self.only[1]]
        return f"(SELECT * FROM (SELECT *, {number} AS n FROM {sql}){where})", values

    def text(self, name: str) -> str:
        """SQL of a column as text."""
        return f"CAST(c{self.names.index(name)} AS VARCHAR)"

    @cached_property
    def _keeps_digits(self) -> bool:
        """Whether numbers with an exponent lack nothing but zeros, as Java writes doubles (``1.41959E9``, no plus).

        Some of the first ones then show every digit down to the seconds, which neither float32 nor rounding leaves, or
        all are whole hours, which rounding does not leave either.
        """
        with bytes_of(self) as stream:
            found = re.findall(rb"\b([0-9]\.[0-9]+)[eE]([0-9]+)", stream.read(1 << 20))
        return any(len(digits) > 10 for digits, _ in found) or (
            len({*found}) > 4 and all(int(float(b"%be%b" % one)) % 3_600 == 0 for one in found)
        )

    def integer(self, name: str) -> str:
        """SQL of a column as BIGINT, NULL where it is no plain number; a fraction is cut off."""
        at = self.names.index(name)
        kind = self.types[at] if self.types is not None else pa.string()
        if pa.types.is_integer(kind):
            return f"TRY_CAST(c{at} AS BIGINT)"
        if pa.types.is_decimal(kind):
            return f"TRY_CAST(floor(c{at}) AS BIGINT)"
        if pa.types.is_floating(kind):
            return f"CASE WHEN isfinite(c{at}) THEN TRY_CAST(floor(c{at}) AS BIGINT) END"
        text = f"trim({self.text(name)})"
        digits = f"length(regexp_extract({text}, '{_SCIENTIFIC}', 2))"
        kept = f"NOT contains({text}, '+')" if self.types is None and self._keeps_digits else "false"
        exponent = f"CAST(regexp_extract({text}, '{_SCIENTIFIC}', 3) AS INTEGER)"
        return (
            f"CASE WHEN regexp_full_match({text}, '{NUMBER}') THEN TRY_CAST(split_part({text}, '.', 1) AS BIGINT) "
            # every digit down to the unit is there, or was a zero: nothing was rounded away
            f"WHEN regexp_full_match({text}, '{_SCIENTIFIC}') THEN "
            f"CASE WHEN {kept} OR {digits} >= {exponent} "
            f"THEN TRY_CAST(floor(TRY_CAST({text} AS DOUBLE)) AS BIGINT) END END"
        )

    def time(self, layout: Columns) -> str:
        """SQL of a row's time as BIGINT: in the layout's unit if that is one of ``SIZED``, else in seconds."""
        if layout.timestamp is None:
            return "n"  # of :meth:`numbered`
        name, at = layout.timestamp, self.names.index(layout.timestamp)
        if layout.unit == "d":
            days = f"TRY_CAST(trim({self.text(name)}) AS DOUBLE)"  # to 1 / 3,000,000 of a second
            return f"CASE WHEN {self.integer(name)} IS NOT NULL THEN TRY_CAST(round({days} * 86400) AS BIGINT) END"
        if layout.unit == "date":
            whole = f"regexp_replace(trim({self.text(name)}), '\\.0*$', '')"
            formats = "['%Y%m%d', '%Y%m%d%H', '%Y%m%d%H%M', '%Y%m%d%H%M%S']"
            moment = f"CAST(floor(epoch(try_strptime(left({whole}, 14), {formats}))) AS BIGINT)"
            return f"CASE WHEN regexp_full_match({whole}, '{DATE_DIGITS}') THEN {moment} END"
        if layout.unit == "iso":
            if self.types is not None and is_temporal(self.types[at]):
                return f"CAST(floor(epoch_us(CAST(c{at} AS TIMESTAMPTZ)) / 1000000) AS BIGINT)"
            text = f"trim({self.text(name)})"
            plain = f"replace(replace(upper({text}), ',', '.'), 'UTC', 'Z')"  # as the engine reads it
            basic = "^([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})"
            plain = f"regexp_replace({plain}, '{basic}', '\\1-\\2-\\3T\\4:\\5:\\6')"
            plain = f"regexp_replace({plain}, ' ([Z+-])', '\\1')"
            plain = f"regexp_replace({plain}, '^([0-9-]{{10}}[T ][0-9]{{2}})([Z+-].*)?$', '\\1:00\\2')"
            moment = f"CAST(floor(epoch_us(TRY_CAST({plain} AS TIMESTAMPTZ)) / 1000000) AS BIGINT)"
            return f"CASE WHEN regexp_full_match({text}, '{ISO}') THEN {moment} END"
        if layout.unit == "order":  # whole numbers alone: without their fractions several would be one
            return f"CASE WHEN TRY_CAST({self.text(name)} AS DOUBLE) % 1 = 0 THEN {self.integer(name)} END"
        return self.integer(name)


def _for_duckdb(path: Path) -> str:
    """A path as DuckDB takes it: ``* ? [`` are a pattern to it, and a ``~`` at the beginning is the user's folder."""
    return glob.escape(os.path.abspath(path))


def numbered_lines(paths: Sequence[Path]) -> tuple[str, list[Any]]:
    """SQL of the lines c of plain text files with path and number n, and its parameters; for ``in_file_order``."""
    sql = " UNION ALL ".join([f"SELECT ? AS path, row_number() OVER () AS n, c FROM {_LINES}"] * len(paths))
    return f"({sql})", [value for path in paths for value in (str(path), _for_duckdb(path))]


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
            first_line(one)
            check_whole(one, False, any_length=False)
        return Source(path, False, "\t", False, ("user", "item", "timestamp"), None, more=side.more, items=side.items)
    source = open_table(path, layout.names, header=layout.header)
    source.check_whole()
    check_columns(source, layout.names)
    for name in (layout.user, layout.item):
        if name.endswith((":token_seq", ":float_seq")):
            raise DataError(
                f"{path}, line 1: column '{name}' holds a sequence in each row (RecBole's type), and a log has one "
                f"event a row: write a row for each"
            )
    if layout.domain is not None:
        source = replace(source, only=(layout.domain, side.value or side.name))
    if source.types is not None:
        kinds = dict(zip(source.names, source.types, strict=True))
        for name in (layout.user, layout.item):
            check_id_type(str(path), name, kinds[name])
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
    if not path.is_file():  # <(zcat log.gz) of a shell
        raise DataError(f"{path} is a pipe or a device, and a log is read more than once: write it to a file first")
    if is_parquet(path):
        return _open_parquet(path)
    gzipped, line = first_line(path)
    if line.lstrip().startswith("{"):
        return Source(path, gzipped, JSON_LINES, False, _keys(path, gzipped, line), None)
    if header is None and not line.startswith(("#", "%")):
        refuse_title(path, gzipped, line)
    best = separator_of(path, gzipped, line, wanted)
    fields = fields_of(line, best)
    if best == " " and "" in fields:
        raise DataError(f"{path}, line 1: several blanks in a row between values: leave one, e.g. `tr -s ' '`")
    if header is not None:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line 1: {len(fields)} fields, separated by {best!r}, where columns.header names "
                f"{len(header)}: {', '.join(header)}"
            )
        return Source(path, gzipped, best, False, tuple(header), None)
    blank = best != " " and any(name.startswith(" ") for name in fields[1:])
    if line.startswith(("#", "%")) and (blank or best == " " or not {*wanted} <= {*fields}):
        raise DataError(
            f"{path}, line 1: it begins with {line[0]!r}, as comments do: delete it, the header comes first"
        )
    refuse_single_quotes(path, line, best)
    if blank:
        raise DataError(
            f"{path}, line 1: a blank follows each {best!r}, and would belong to the names and ids: write the file "
            f"without these blanks"
        )
    for name in fields:
        if odd := [one for one in name if not one.isprintable() and one != "\t"]:
            raise DataError(
                f"{path}, line 1: column {name.replace(odd[0], '')!r} holds the invisible character "
                f"U+{ord(odd[0]):04X}: delete it"
            )
    return Source(path, gzipped, best, True, tuple(fields), None)


def _keys(path: Path, gzipped: bool, line: str) -> tuple[str, ...]:
    """The keys of the JSON objects on the first lines; the first one may lack some."""
    try:
        pairs = json.loads(line, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line 1: not one JSON object a line ({type(error).__name__}: {error})") from None
    if pairs and all(isinstance(value, list) for _, value in pairs):
        raise DataError(
            f"{path}, line 1: one JSON object of lists or objects ({len(pairs):,}, the first under {pairs[0][0]!r}) "
            f"and no event: write one JSON object a line, as pandas to_json(orient='records', lines=True) does"
        )
    keys = [key for key, _ in pairs]
    if twice := key_twice(keys):
        raise DataError(f"{path}, line 1: {twice}")
    with gzip.open(path, "rb") if gzipped else path.open("rb") as stream, suppress(OSError, EOFError, zlib.error):
        for later in itertools.islice(stream, 1, FIRST_OBJECTS):
            with suppress(ValueError, RecursionError):  # what is wrong with these is told when all are read
                one = json.loads(later)
                keys += [key for key in one if key not in keys] if isinstance(one, dict) else []
    if not keys:
        raise DataError(
            f"{path}, line 1: an object without a key; so are the next: write user, item and time into each"
        )
    return tuple(keys)


def key_twice(keys: Sequence[str]) -> str:
    """What is wrong with the keys of a JSON object if one stands twice; "" if none does."""
    twice = next((key for key in keys if keys.count(key) > 1), None)
    return "" if twice is None else f"the key {twice!r} stands twice: which of its values counts? Drop one"


def _open_parquet(path: Path) -> Source:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: damaged Parquet file; fetch or write it anew ({error})") from None
    if not schema.names:
        raise DataError(f"{path}: a Parquet file without a column")
    types = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in schema.types]
    return Source(path, False, ",", True, tuple(schema.names), tuple(types))


def _open_headerless(path: Path, format: Format) -> Source:
    if is_parquet(path):
        raise DataError(
            f"{path}: format {format} is CSV without a header, but this is a Parquet file; name its columns instead: "
            f"{COLUMNS_EXAMPLE}"
        )
    gzipped, line = first_line(path)
    source = Source(path, gzipped, ",", False, HEADERLESS[format], None)
    source.check_whole()
    fields = fields_of(line, ",")
    if len(fields) < 3 and len(fields_of(line, other := separator_of(path, gzipped, line, ()))) >= 3:
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


def bytes_of(source: Source) -> IO[bytes]:
    """A text file's content, unpacked."""
    return cast(IO[bytes], gzip.open(source.path, "rb")) if source.gzipped else source.path.open("rb")


@contextmanager
def text_of(source: Source) -> Iterator[io.TextIOWrapper]:
    with bytes_of(source) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream:
        yield stream


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
        if source.types is None and source.delimiter != JSON_LINES and any(map(is_number, source.names)):
            raise DataError(
                f"{where}: {','.join(source.names)!r} are values and no column names: the file has no header; Amazon "
                f"ratings without one are format: amazon2014 (user first) or amazon2018 (item first); of any other "
                f"name the columns in columns.header: [user, item, …]"
            )
        raise DataError(f"{where}: no column '{name}'{suggestion(name, list(source.names))}")


def check_id_type(where: str, name: str, kind: Any) -> None:
    """Refuse a column of ids whose Arrow type is neither text nor whole numbers; ``where`` is for the message."""
    if pa.types.is_floating(kind) or (pa.types.is_decimal(kind) and kind.scale > 0):
        raise DataError(f"{where}: column '{name}' holds {kind}, not ids{FLOAT_IDS}")
    if pa.types.is_null(kind):
        raise DataError(f"{where}: column '{name}' is empty in all rows: name the column that holds these ids")
    if not (_is_text_or_integer(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"{where}: column '{name}' holds {kind}; ids are text or integers: cast it")


def _check_time_type(path: Path, layout: Columns, kind: Any) -> None:
    where = f"{path}: column '{layout.timestamp}' holds {kind}"
    if pa.types.is_null(kind):
        raise DataError(f"{path}: column '{layout.timestamp}' is empty in all rows: name the column of the times")
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        raise DataError(
            f"{where}, which cannot hold Unix seconds (float32 to about two minutes only): write the times as int64 "
            f"from their source, what is here has lost them"
        )
    if is_temporal(kind):
        if layout.unit != "iso":
            raise DataError(f"{where}, not {UNITS[layout.unit][0]}: set columns.unit: iso")
    elif not (_is_text_or_integer(kind) or pa.types.is_float64(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"{where}; times are numbers, dates or text")


def _is_text_or_integer(kind: Any) -> bool:
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return pa.types.is_integer(kind) or any(is_it(kind) for is_it in text)
