"""What is wrong with the rows of a log: each message gives the first bad line and the number of bad rows."""

from __future__ import annotations

import bisect
import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import duckdb

from i2vae_lib.data.logs.database import first_row, locate, reading
from i2vae_lib.data.logs.files import CLOCK_AND_ZONE, DATE_DIGITS, ISO, NUMBER, Source
from i2vae_lib.data.logs.notations import FIRST_YEAR, notation_in
from i2vae_lib.data.logs.pair_file import SIZED, UNITS, Columns, Unit
from i2vae_lib.data.logs.separators import fields_of
from i2vae_lib.data.rows import DOMAINS, DataError
from i2vae_lib.places import quoted

# between the units of Unix times: from March 1973 to the year 5138, the size of a time tells its unit
_UNIT_BOUNDS = (10**11, 10**14, 10**17)
_NO_ID = (  # what an export writes for an unknown id: all that pandas reads as missing, in lower case, and SQL's \N
    *("", "nan", "-nan", "nat", "na", "n/a", "#na", "#n/a", "#n/a n/a", "<na>", "none", "null", "\\n"),
    *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
)
# in place of a time; as ids they may be names
_NO_TIME = (*_NO_ID, "(null)", "[null]", "'null'", "-", "--", "?", ".", "missing", "undefined", "unknown", "#value!")
_LONGEST_ID = 4_096  # characters; addresses are shorter
_YEAR = 365 * 86_400  # seconds
FIRST_LOGS = int(datetime(FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp())
_YEAR_9999 = (253_370_764_800, 253_402_387_199)  # its first and last second, and a day more for zones
_CLOCKS = {  # that are no SIZED ones: seconds a tick, and their zero in Unix seconds
    "100 nanoseconds since 1601 (FILETIME)": (1e-7, -11_644_473_600),
    "100 nanoseconds since the year 1 (.NET ticks)": (1e-7, -62_135_596_800),
    "microseconds since 1601 (WebKit)": (1e-6, -11_644_473_600),
    "seconds since 1900 or 1904 (NTP, Mac)": (1, -2_208_988_800),
    "hundredths of a second since 1970": (0.01, 0),
    "tenths of a second since 1970": (0.1, 0),
    "minutes since 1970": (60, 0),
    "hours since 1970": (3_600, 0),
    "Julian days": (86_400, -210_866_760_000),
    "days of a spreadsheet, which count from 1900": (86_400, -2_209_161_600),
    "modified Julian days": (86_400, -3_506_716_800),
    "days since the year 0 (MATLAB)": (86_400, -62_167_305_600),
}
_LAST_YEAR = 2100  # of years in place of times; read as days since 1970, all of them would lie in 1975


def _lines(source: Source) -> int:
    """The number of lines of a plain file; a last one without a line end counts."""
    with source.path.open("rb") as stream:
        return 1 + sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


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


# which log it is, whether its times have a time zone, and one of them; None: none of its times has a clock
Zone = tuple[str, bool, str] | None


def check_log(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> Zone:
    """Refuse a log with unknown ids or times; the message gives the first bad line and the number of bad rows."""
    now = int(time.time() * UNITS[layout.unit][1])
    ordered, sized = layout.unit == "order", layout.unit in SIZED
    bad: dict[str, str] = {
        "user": no_id("u"),
        "item": no_id("i"),
        "NUL in user": "contains(u, chr(0))",
        "NUL in item": "contains(i, chr(0))",
        **{f"length in {role}": f"length({role[0]}) > {_LONGEST_ID}" for role in ("user", "item")},
        "break in user": "regexp_matches(u, '[\\n\\r]')",
        "break in item": "regexp_matches(i, '[\\n\\r]')",
        **{f"JSON in {role}": _nested(role[0], source) for role in ("user", "item")},
        **{f"truth in {role}": f"lower({role[0]}) IN ('true', 'false')" for role in ("user", "item")},
        "text": "t IS NULL",
        "unknown": "t < 0" if ordered else "t <= 0",
        "9999": "false" if ordered else f"t // {UNITS[layout.unit][1]} BETWEEN {_YEAR_9999[0]} AND {_YEAR_9999[1]}",
        **{unit: unit_of("t", unit) if sized else "false" for unit in SIZED},
        "1970": "false" if ordered else f"t > 0 AND t < {_YEAR * UNITS[layout.unit][1]}",
        "future": "false" if ordered else f"t > {now}",
    }
    columns = ", ".join(f"count(*) FILTER ({condition})" for condition in bad.values())
    total, *counts = first_row(db, f"SELECT count(*), {columns} FROM raw_{d}")
    found = {key: count for key, count in zip(bad, counts, strict=True) if count}
    # one id of many may be "true"; a column of nothing else holds no ids
    found = {key: count for key, count in found.items() if not key.startswith("truth") or count == total}
    if not total and source.only is not None:
        column, value = source.only
        raise DataError(f"{source.path}: no row has {value!r} in column '{column}'")
    if not total:
        raise DataError(f"{source.path}: a header and no rows" if source.header else f"{source.path}: no rows")
    _refuse_cut(db, source, layout)
    if sized and 2 * found.get("text", 0) < total:
        _refuse_no_times(db, d, source, layout, total)
    if layout.unit == "d":
        _refuse_no_days(db, d, source, layout)
    zone = _zone(db, source, layout) if layout.unit == "iso" else None
    if found.get("9999") == total:  # all of them: then they are milliseconds, of 1978
        del found["9999"]
    first = list(bad)[: list(bad).index("9999") + 1]
    wrong: str | None = next((key for key in first if key in found), None)
    wrong = wrong or (_odd_unit(found, layout.unit) if sized else None)
    if wrong := wrong or next((key for key in ("1970", "future") if key in found), None):
        where, values = locate(db, source, layout, bad[wrong])
        asked = wrong == "text" or (sized and wrong in ("1970", "future") and found[wrong] == total)
        advice = _advice(db, source, layout, values["timestamp"] or "", found[wrong]) if asked else ""
        raise DataError(f"{where}: {_complaint(wrong, found, total, values, layout, advice)}")
    return zone


def _nested(column: str, source: Source) -> str:
    """SQL: whether an id is a list or an object in JSON, whose text would be taken for an id."""
    return f"({column}[1] IN ('{{', '[') AND json_valid({column}))" if source.types is None else "false"


def numbers_as(db: duckdb.DuckDBPyConnection, d: str) -> Unit | None:
    """What the numbers of a staged log are if not Unix times: "date" (digits), "order" (row numbers), "d" (days)."""
    total, least, most, dates = first_row(
        db,
        f"SELECT count(t), min(t), max(t), count(*) FILTER (regexp_full_match(CAST(t AS VARCHAR), "
        f"'{DATE_DIGITS}')) FROM raw_{d}",
    )
    if not total:
        return None
    if dates >= 0.9 * total:  # of the others it is told under that unit
        return "date"
    if least in (0, 1) and most - least + 1 == total:
        [distinct] = first_row(db, f"SELECT count(DISTINCT t) FROM raw_{d}")
        if distinct == total:
            return "order"
    # days from 1975 to today: Unix times of that size would all lie on the first day of 1970. Larger numbers, such as
    # the days of spreadsheets, which count from 1900, are something else, and so are years
    days = least >= 1826 and _LAST_YEAR < most <= time.time() / 86_400 + 1
    return "d" if days and not notation_in(db, "CAST(t AS VARCHAR)", f"raw_{d}") else None


def _other_clock(least: int, most: int, unit: Unit) -> str | None:
    """The clock by which these numbers are plausible times, if as Unix times they are not."""
    now, scale = time.time() + 86_400, UNITS[unit][1]
    if FIRST_LOGS <= most // scale <= now:
        return None
    for name, (tick, zero) in _CLOCKS.items():
        first, last = (value * tick + zero for value in (least, most))
        if FIRST_LOGS <= first <= last <= now:
            return (
                f"{name} ({date_of(first)} to {date_of(last)}), by their size: seconds since 1970 are value * {tick:g}"
                + (f" - {-zero}" if zero else "")
            )
    return None


def _refuse_no_times(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns, total: int) -> None:
    """Refuse numbers that are not Unix times: dates as digits, row numbers, days, and anything in 1970."""
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
    if notation := notation_in(db, "CAST(t AS VARCHAR)", f"raw_{d}"):
        raise DataError(f"{where} holds {least} to {most}, no {UNITS[layout.unit][0]} since 1970 but {notation}")
    if least is not None and (clock := _other_clock(least, most, layout.unit)):
        raise DataError(
            f"{where} holds {least} to {most}, which are no {UNITS[layout.unit][0]} since 1970 but {clock}; if they "
            f"are only an order inside the file, set columns.unit: order"
        )
    if least is not None and least >= 0 and most < _YEAR:
        raise DataError(
            f"{where} holds {least:,} to {most:,}: as Unix time all {total:,} events are of 1970. Give Unix times; if "
            f"the numbers are only an order inside the file, set columns.unit: order"
        )


def _refuse_no_days(db: duckdb.DuckDBPyConnection, d: str, source: Source, layout: Columns) -> None:
    """Refuse years and dates as digits in place of days since 1970: as days all of them would lie elsewhere."""
    least, most = first_row(db, f"SELECT min(t) // 86400, max(t) // 86400 FROM raw_{d}")
    where = f"{source.path}: column '{layout.timestamp}' holds {least} to {most}"
    if least is not None and least >= 1900 and most <= _LAST_YEAR:
        raise DataError(f"{where}, which look like years and no days since 1970: give the events' times")
    if notation := notation_in(db, "CAST(t // 86400 AS VARCHAR)", f"raw_{d}"):
        raise DataError(f"{where}, no days since 1970 but {notation}")


def _zone(db: duckdb.DuckDBPyConnection, source: Source, layout: Columns) -> Zone:
    """The zone of a log; times with and without one are refused: nothing tells by which clock the latter are."""
    assert layout.timestamp is not None
    text, (rows, values) = f"trim({source.text(layout.timestamp)})", source.rows()
    with_clock = f"SELECT {text} AS v, regexp_extract(v, '{CLOCK_AND_ZONE}', 1) <> '' AS zone FROM {rows}"
    some, one, others, other = first_row(
        db,
        f"SELECT count(*) FILTER (zone), min(v) FILTER (zone), count(*) FILTER (NOT zone), min(v) FILTER (NOT zone) "
        f"FROM ({with_clock} WHERE regexp_matches(v, '{CLOCK_AND_ZONE}'))",
        values,
    )
    if some and others:
        raise mixed_zones(str(source.path), layout.timestamp, (some, one), (others, other))
    return (str(source.path), bool(some), one or other) if some or others else None


def refuse_zone_of_one(column: str | None, zones: Sequence[Zone]) -> None:
    """Refuse two logs of which one has a time zone and one has none."""
    known = [zone for zone in zones if zone]
    if len({has for _, has, _ in known}) > 1:
        told = ", and ".join(
            f"{'with' if has else 'without'} a zone in {log}, such as {quoted(one)}" for log, has, one in known
        )
        raise DataError(f"column '{column}': times {told}: by which clock? Write all of them with their zone")


def mixed_zones(where: str, column: str, zoned: tuple[int, str], plain: tuple[int, str]) -> DataError:
    """The refusal of a column of times with and without a zone: how many there are of each, and one of them."""
    return DataError(
        f"{where}: column '{column}' holds {zoned[0]:,} times with a zone, such as {quoted(zoned[1])}, and "
        f"{plain[0]:,} without, such as {quoted(plain[1])}: by which clock? Write all of them with their zone"
    )


def _refuse_cut(db: duckdb.DuckDBPyConnection, source: Source, layout: Columns) -> None:
    """Refuse a plain text file that ends inside its last time: all others have one length, and a greater one."""
    if source.types is not None or source.gzipped or source.items is not None or layout.timestamp is None:
        return
    with source.path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 4096))
        last = stream.read().decode("utf-8", errors="replace")
    fields = fields_of(last.rsplit("\n", 1)[-1], source.delimiter)
    if last.endswith(("\n", "\r")) or len(fields) != len(source.names) or layout.timestamp != source.names[-1]:
        return
    stamp, (rows, values) = fields[-1], source.rows()
    length = f"length({source.text(layout.timestamp)})"
    with reading(db, source):
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
    """The unit of the times that look wrong: the rarest of several, or the only one if it is not ``right``."""
    looks = [unit for unit in SIZED if unit in found]
    odd = min(looks, key=lambda unit: (found[unit], unit == right))
    return odd if len(looks) > 1 or odd != right else None


def _complaint(
    wrong: str, found: Mapping[str, int], total: int, values: Mapping[str, str | None], layout: Columns, advice: str
) -> str:
    """What :func:`check_log` says of the first row that is wrong."""
    what, _, role = wrong.partition(" in ") if " in " in wrong else ("", "", wrong)
    if role not in ("user", "item"):
        return f"column '{layout.timestamp}' {_of_time(wrong, found, total, values['timestamp'], layout.unit, advice)}"
    column, value = f"column '{layout.user if role == 'user' else layout.item}'", values[role]
    of_rows = f"{found[wrong]:,} of {total:,} rows"
    if not what:
        word = (value or "").strip()
        meant = f" (text for a missing value; if it is an id, write it otherwise, e.g. {word}_)" if word else ""
        drop = _drop(wrong, found, total, f"name the column of the {role}s")
        return f"{column} has no id but {value!r}{meant}; so have {of_rows}: {drop}, or give the {role}s ids"
    if what == "truth":
        return f"{column} holds truth values alone, such as {value!r}, and no ids: name the column of the {role}s"
    if what == "JSON":
        return f"{column} holds a list or an object, {value!r}; so do {of_rows}: ids are text or integers"
    if what == "length":
        return (
            f"{column} holds {value!r}, more than {_LONGEST_ID:,} characters; so do {of_rows}: a text and no id? Name "
            f"the column of the {role}s"
        )
    sign = "a NUL byte" if what == "NUL" else "a line break"
    return f"{column} holds {sign} in {value!r}; so do {of_rows}: write the ids without it"


def _drop(wrong: str, found: Mapping[str, int], total: int, instead: str = "give the events' own times") -> str:
    """What to do about wrong rows: they may be dropped, if they are not nearly all."""
    return "drop them" if 2 * found[wrong] < total else instead


_NO_TIMES = "name the column of the times, or, if lines are in order, set columns.unit: order and leave timestamp out"


def _of_time(wrong: str, found: Mapping[str, int], total: int, value: str | None, unit: Unit, advice: str) -> str:
    """:func:`_complaint` about a time."""
    of_rows, drop = f"{found[wrong]:,} of {total:,} rows", _drop(wrong, found, total)
    if wrong == "text" and (word := (value or "").strip()).lower() in _NO_TIME:
        empty = f"has no time but {word!r}" if word else "is empty"
        return f"{empty}; {of_rows} have no usable time: {_drop(wrong, found, total, _NO_TIMES)}"
    if wrong == "text":
        wanted = f"Unix time in {UNITS[unit][0]}, in digits" if unit in SIZED else UNITS[unit][0]
        wanted = "whole numbers, an order inside each file" if unit == "order" else wanted
        return f"holds {value!r}; columns.unit: {unit} stands for {wanted} ({of_rows} have something else){advice}"
    if wrong == "9999":
        return f"holds {value!r}, a time of the year 9999, which stands for no time at all ({of_rows}): {drop}"
    if wrong in ("1970", "future") and found[wrong] == total:
        where = "in 1970" if wrong == "1970" else "in the future"
        return (
            f"holds {value!r}; under columns.unit: {unit} all of its {total:,} times lie {where}"
            f"{advice or ': give the times of the events'}"
        )
    if wrong == "1970":
        return (
            f"holds {value!r}, a time of 1970; so do {of_rows}, and the others lie later: cut short, or unknown times? "
            f"{drop.replace('drop', 'Mend or drop').replace('give', 'Give')}"
        )
    if wrong == "unknown" and unit == "order":
        return f"holds {value!r}: an order has no negative numbers ({of_rows} have some); count from 0"
    if wrong == "unknown" and unit not in SIZED:
        return f"holds {value!r}, which is 1970-01-01 or earlier ({of_rows}): times count from 1970 here; {drop}"
    if wrong == "unknown":
        drop = _drop(wrong, found, total, _NO_TIMES)
        return f"holds {value!r}: 0 and negative times are unknown ones ({of_rows}): {drop}"
    if wrong == "future" and unit not in SIZED:
        return f"holds {value!r}, which lies in the future ({of_rows}): {drop}"
    if wrong == "future":
        day = date_of(int(float(value or 0)) // UNITS[unit][1])
        return (
            f"holds {value!r}, which is {day} and lies in the future ({of_rows}): if columns.unit: {unit} is right, "
            f"{drop}"
        )
    words: dict[str, str] = {one: UNITS[one][0] for one in SIZED if one in found}
    if len(words) > 1:
        told = " and ".join(f"{found[one]:,} in {word}" for one, word in words.items())
        return f"mixes units: {told}, by their size; here {value!r} is in {words[wrong]}. Convert them to one unit"
    return (
        f"holds {value!r}, and all of its {total:,} times look like {words[wrong]}, not {UNITS[unit][0]}: set "
        f"columns.unit: {wrong}"
    )


def _advice(db: duckdb.DuckDBPyConnection, source: Source, layout: Columns, value: str, bad: int) -> str:
    """The unit that reads every row's time, or what is wrong with this one; "" if neither is known."""
    assert layout.timestamp is not None
    rows, values = source.rows()
    text = value.strip()
    digits = f"regexp_replace(trim({source.text(layout.timestamp)}), '\\.0*$', '')"
    for unit in ("iso", "date", unit_by_size(float(text)) if re.fullmatch(NUMBER, text) else "s"):
        seconds = f"{source.time(layout.model_copy(update={'unit': unit}))} // {UNITS[unit][1]}"
        likely = f"{seconds} BETWEEN {FIRST_LOGS} AND {int(time.time())}"
        total, unlikely = first_row(
            db, f"SELECT count(*), count(*) FILTER (({likely}) IS NOT TRUE) FROM {rows}", values
        )
        if unit in SIZED and bad > 0.1 * total and (notation := notation_in(db, digits, rows, values)):
            return f": {notation}"
        if unlikely <= 0.1 * total and unlikely < bad:
            return (
                f": set columns.unit: {unit}, which reads {f'all rows but {unlikely:,}' if unlikely else 'every row'}"
            )
    if layout.unit in (looks := {"date": DATE_DIGITS, "iso": ISO}) and re.fullmatch(looks[layout.unit], text):
        return f": no day of the calendar: {'mend or drop these rows' if 2 * bad < total else 'give days that exist'}"
    if re.fullmatch(r"[0-9a-f]{24}", text):
        return ": an ObjectId of MongoDB? Its first 8 digits, read to the base 16, are Unix time in seconds"
    if re.match(r'\{"\$\w+":', text):
        return ": an object of MongoDB's extended JSON: write its value alone, as mongoexport --type=csv does"
    if re.fullmatch(r"[0-9]{4,},[0-9]+", text):
        return ": write the decimal comma as a point"
    if re.fullmatch(r"[0-9]{1,3}([,.' ][0-9]{3})+", text):
        return ": digits only, without thousands separators"
    if re.fullmatch(r"[0-9.]+[eE][+-]?[0-9]+", text):
        return ": in this notation digits were rounded away; write whole numbers from the source"
    if not text or layout.unit == "order":
        return ""
    if 2 * bad < total:
        return ": write them as the other rows are, or drop them"
    return ": another notation? Write all times as ISO 8601, such as 2014-11-27 21:46:45, and set columns.unit: iso"


def blind(db: duckdb.DuckDBPyConnection, unit: Unit, daily: bool) -> str:
    """Why no row could see anything of the other domain; "" if one can. ``daily``: rows see earlier days only."""
    if unit == "order":
        return ""
    scale = 86_400 if daily else 1
    spans = [
        f"(SELECT u, min(t) // {scale} AS a, max(t) // {scale} AS b FROM raw_{d} GROUP BY u) AS {d}" for d in DOMAINS
    ]
    [seen] = first_row(db, f"SELECT count(*) FROM {spans[0]} JOIN {spans[1]} ON x.u = y.u WHERE x.a < y.b OR y.a < x.b")
    return (
        ""
        if seen
        else (
            "no event of a user with both domains lies before one of the other domain, so no row would see anything of "
            "it; are these the events' own times?"
        )
    )


def date_of(seconds: float) -> str:
    """The day (UTC) of a Unix time."""
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (OverflowError, ValueError):
        return "after the year 9999"
