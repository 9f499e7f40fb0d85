"""The layout of log files that nobody has described, by their names, headers and first rows."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from i2vae_lib.data.logs.checks import no_id, numbers_as, unit_of
from i2vae_lib.data.logs.database import first_row, in_file_order, reading
from i2vae_lib.data.logs.files import (
    FIRST_OBJECTS,
    JSON_LINES,
    Source,
    check_columns,
    is_number,
    open_table,
)
from i2vae_lib.data.logs.looks import CLOCK, KINDS, TIME_WORDS, TIMES, UNIT_OF, is_value, kind_of, timely
from i2vae_lib.data.logs.notations import likely_in, notation_of
from i2vae_lib.data.logs.pair_file import (
    COLUMNS_EXAMPLE,
    FORMATS,
    LONGEST_NAME,
    SIZED,
    UNITS,
    Columns,
    Format,
    Side,
    Unit,
)
from i2vae_lib.data.rows import DOMAINS, DataError
from i2vae_lib.places import quoted

_ROLE_NAMES = {  # names of columns, without case and punctuation, likelier ones first
    "user": (
        *("userid", "user", "reviewerid", "uid", "customerid", "visitorid", "userkey", "memberid", "u"),
        *("userpseudoid", "steamid", "username"),
    ),
    "item": (
        *("itemid", "item", "parentasin", "asin", "productid", "iid", "movieid", "bookid", "isbn", "sku", "i"),
        *("videoid", "businessid", "articleid", "appid", "stockcode"),
    ),
    "timestamp": ("timestamp", "time", "unixreviewtime", "unixtime", "ts", "eventtime", "datetime", "date", "t"),
    "domain": ("domain", "domainid", "category", "maincategory", "market", "source", "dataset"),
}
_ANY = "USING SAMPLE reservoir(1000 ROWS) REPEATABLE (0)"  # rows, where the first ones tell too little
_MOST = 0.5  # of their values


@dataclass(frozen=True)
class Layout:
    """A guess: how two logs are read."""

    how: str
    format: Format | None
    columns: Columns
    sides: Mapping[str, Side]


def names_of(layout: Layout) -> dict[str, str]:
    """The domains' names by their keys."""
    return {d: side.name for d, side in layout.sides.items()}


def _c2dsr(paths: Mapping[str, Path]) -> Layout | None:
    """C2DSR's text files: index, user, then ``item|time``, by tabs; the domains' items stand in lists beside them."""
    for path in paths.values():
        with path.open("rb") as stream:
            fields = stream.readline(1 << 24).decode("utf-8", errors="replace").rstrip("\r\n").split("\t")
        looks = sum(re.fullmatch(r"[0-9]+\|[0-9]+(\.[0-9]+)?", one) is not None for one in fields[2:])
        if not looks or 2 * looks < len(fields) - 2:
            return None
    home = paths["x"].parent
    lists = {"x": home / "Alist.txt", "y": home / "Blist.txt"}
    if missing := [str(one) for one in lists.values() if not one.is_file()]:
        raise DataError(
            f"{paths['x']}: C2DSR's layout (index, user, item|time …, by tabs), which needs {' and '.join(missing)}: a "
            f"domain's items, a line each: id, tab, number"
        )
    more = () if paths["x"] == paths["y"] else (paths["y"],)
    names = {"x": "A", "y": "B"}
    sides = {d: Side(name=names[d], path=paths["x"], more=more, items=lists[d]) for d in DOMAINS}
    told = " and ".join(f"{_count_lines(lists[d]):,} items of {lists[d].name}" for d in DOMAINS)
    how = f"C2DSR (index, user, then item|time, by tabs; both domains in a line, told apart by the {told})"
    return Layout(how, "c2dsr", FORMATS["c2dsr"], sides)


def _count_lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(bool(line.strip()) for line in stream)


def guess(
    db: duckdb.DuckDBPyConnection, paths: Mapping[str, Path], given: Mapping[str, str], suspicious: list[str]
) -> Layout:
    """How two logs are read, by the look of them; ``given`` has the names of known columns by role.

    What speaks for another reading is added to ``suspicious``.

    Raises
    ------
    DataError
        Columns that cannot be guessed, or two files of different layout.
    """
    if (found := _c2dsr(paths)) is not None:
        return found
    if paths["x"].resolve() == paths["y"].resolve():
        return _guess_one(db, paths["x"], given, suspicious)
    guesses = {d: _guess(db, path, given, suspicious) for d, path in paths.items()}
    (how, format, columns), (_, other, others) = guesses["x"], guesses["y"]
    if (format is None) != (other is None) or columns.names != others.names or columns.header != others.header:
        told = " and ".join(f"{paths[d]} as {_told(*guesses[d][1:])}" for d in DOMAINS)
        raise DataError(f"the two files differ in layout: {told} by the look of it; a pair file describes both alike")
    if columns.unit != others.unit:
        told = " and ".join(f"{paths[d]} has {UNITS[guesses[d][2].unit][0]}" for d in DOMAINS)
        raise DataError(f"the two files differ in their times: {told}; write them alike")
    names = {d: _shown(_stem(path).removeprefix("ratings_")) or d for d, path in paths.items()}
    if names["x"] == names["y"] or names["x"] == "y" or names["y"] == "x":
        names = {d: f"{name} {d}" for d, name in names.items()}
    sides = {d: Side(name=names[d], path=path, titles=_titles_beside(path)) for d, path in paths.items()}
    return Layout(how, format, columns, sides)


def _guess_one(db: duckdb.DuckDBPyConnection, path: Path, given: Mapping[str, str], suspicious: list[str]) -> Layout:
    """One file with a column that tells the domain."""
    how, _, columns = _guess(db, path, given, suspicious)
    source = open_table(path, columns.names, header=columns.header)
    plain = _plain_names(source.names)
    column = next((plain[one] for one in _ROLE_NAMES["domain"] if one in plain), None)
    if column is None:
        raise DataError(
            f"{path}: one file, and no column that tells the domain ({', '.join(_ROLE_NAMES['domain'])}) among "
            f"{', '.join(source.names)}: a pair has two domains, give two files"
        )
    rows, values = source.rows()
    with reading(db, source):
        sql = f"SELECT {source.text(column)} AS v, count(*) FROM {rows} GROUP BY v ORDER BY 2 DESC, 1 LIMIT 11"
        found = db.execute(sql, values).fetchall()
    if len(found) != 2 or any(value is None for value, _ in found):
        told = ", ".join(f"{value!r} ({count:,} rows)" for value, count in found[:10])
        raise DataError(
            f"{path}: column '{column}' has {'more than 10' if len(found) > 10 else len(found)} values, and a pair has "
            f"two domains: choose two of {told} in a pair file with columns.domain: {column} and x.value, y.value"
        )
    x, y = sorted(str(value) for value, _ in found)
    names = {"x": _shown(x) or "x", "y": _shown(y) or "y"}
    if names["x"] == names["y"] or names["x"] == "y" or names["y"] == "x":
        names = {d: f"{column} {name} {d}"[-LONGEST_NAME:] for d, name in names.items()}
    sides = {d: Side(name=names[d], path=path, value=value) for d, value in (("x", x), ("y", y))}
    told = f"{how}, both domains in one file, told apart by {column!r} ({x!r}, {y!r})"
    return Layout(told, None, columns.model_copy(update={"domain": column}), sides)


def _told(format: str | None, columns: Columns) -> str:
    return format or f"columns {', '.join(columns.names)}"


def _shown(text: str) -> str:
    """A name for people out of any text; two letters more have room."""
    return "".join(one if one.isprintable() else " " for one in text).strip()[: LONGEST_NAME - 2]


def _stem(path: Path) -> str:
    return re.sub(r"(\.csv|\.tsv|\.txt|\.dat|\.data|\.inter|\.jsonl|\.json|\.parquet|\.gz)+$", "", path.name)


def _titles_beside(path: Path) -> Path | None:
    endings = (".csv.gz", ".csv", ".parquet")
    beside = (path.with_name(f"{_stem(path)}_titles{ending}") for ending in endings)
    return next((one for one in beside if one.is_file()), None)


Guess = tuple[str, Format | None, Columns]  # in words; None: named columns


def _guess(db: duckdb.DuckDBPyConnection, path: Path, given: Mapping[str, str], suspicious: list[str]) -> Guess:
    """A file's layout by its header, or its first rows; the unit of Unix times comes later."""
    source = open_table(path, ())
    table = source.types is None and source.delimiter != JSON_LINES
    if table and any(map(is_value, source.names)):
        return _without_header(db, path, source, suspicious)
    if source.delimiter == JSON_LINES:
        _refuse_late_keys(db, source)
    if {*FORMATS["amazon2023"].names} <= {*source.names}:
        return f"Amazon 2023 ({source.kind!r})", "amazon2023", FORMATS["amazon2023"]
    how = "named columns"
    if all(re.search(r":(token|float|token_seq|float_seq)$", one) for one in source.names):
        how = "RecBole's atomic files (typed names of columns)"
    elif source.delimiter == JSON_LINES:
        how = JSON_LINES
    elif {"click", "follow", "like", "share", "watching_times"} <= {*source.names}:
        how = "named columns as Tenrec has them"
    return how, None, _roles(db, source, given, suspicious)


def _without_header(db: duckdb.DuckDBPyConnection, path: Path, source: Source, suspicious: list[str]) -> Guess:
    """Values from the first line on: users and items come first, then the rating and the time, whichever are there."""
    width = len(source.names)
    if width < 2:
        raise DataError(f"{path}, line 1: no header, and one value: {source.names[0][:80]!r}")
    if source.delimiter != "\t" and any("\t" in one for one in source.names):
        raise DataError(
            f"{path}, line 1: no header, and values separated by tabs and by {source.delimiter!r}: if a line is a user "
            f"with all items, write a line for each event"
        )
    header = [f"c{i}" for i in range(width)]
    columns = _first_values(db, open_table(path, (), header=header))
    kinds = {name: kind_of(values, None) for name, values in columns.items()}
    counted = width > 3 and _numbers_rows(columns["c0"])
    dated = {"iso", "unread"} & {*kinds.values()}
    if width == 4 and source.delimiter == "," and is_number(source.names[3]) and not counted and not dated:
        return "Amazon ratings without a header", "amazon2014", FORMATS["amazon2014"]  # or 2018: the ids decide
    when = _time_without_header(header, kinds)
    if when is None:  # values that stand for no time may be many, or the first ones
        columns = _first_values(db, open_table(path, (), header=header), _ANY)
        kinds = {name: kind_of(values, None, _MOST) for name, values in columns.items()}
        when = _time_without_header(header, kinds, counted + 2)
    if counted:
        suspicious.append(f"{path.name}: the first column numbers the rows: it is left out")
    if when is None and width - counted > 3 and {*kinds.values()} == {"numbers"}:
        suspicious.append(
            f"{path.name}: no header, no time and {width} numbers a line: if a line is a user with all items, write a "
            f"line for each event"
        )
    ids = [name for name in header[counted:] if name != when][:2]
    suspicious += [] if when else _passed_over(path, columns, [name for name in header[counted:] if name not in ids])
    named = dict(zip(ids, ("user", "item"), strict=False)) | ({when: "timestamp"} if when else {})
    if len(ids) < 2:
        raise DataError(f"{path}, line 1: no header, and {width} columns; a log has users, items and times at least")
    for name in ids:
        if columns[name] and all(re.fullmatch(r"-?[0-9]+\.[0-9]*[1-9][0-9]*", one) for one in columns[name]):
            raise DataError(
                f"{path}: no header, and value {header.index(name) + 1} of {width} a line, such as {columns[name][0]!r}"
                f", is no id of the {named[name]}s: if it is one, put a letter in front (a{columns[name][0]}), else "
                f"write a header, or the pair file by hand, with all names in columns.header"
            )
    rest = [name for name in header[counted:] if name not in named]
    named |= {rest[0]: "rating"} if rest else {}
    full = tuple(named.get(name, name) for name in header)
    rows = dict(zip(full, columns.values(), strict=True))
    suspicious += _clocks(
        path, {name: rows[name] for name in full if name not in ("user", "item", "timestamp")}
    ).values()
    unit: Unit = UNIT_OF.get(kinds[when], "s") if when else "order"
    found = Columns(user="user", item="item", timestamp="timestamp" if when else None, unit=unit, header=full)
    return f"no header, separated by {source.delimiter!r}, columns {', '.join(full)}", None, found


def _time_without_header(header: Sequence[str], kinds: Mapping[str, str], first: int = 0) -> str | None:
    """Dates in words are times beyond doubt; of several numbers, from the first place for them on, the last."""
    for kind in ("iso", "unix", "date", "unread"):
        there = header if kind in ("iso", "unread") else header[first:]
        if found := [name for name in there if kinds[name] == kind]:
            return found[-1]
    return None


def _passed_over(path: Path, columns: Mapping[str, Sequence[str]], others: Sequence[str]) -> list[str]:
    """What to say of columns in which some values look like times, where no column is taken for one of times."""
    found = []
    for name in others:
        times = timely(columns[name])
        digits = all(map(is_number, columns[name])) and notation_of(sorted({*columns[name]}))
        named = {*_words(name)} & TIME_WORDS
        if named or sum(times) >= 0.01 * len(times) > 0 or digits:
            what = "is named like a time" if named else "may hold times"
            odd = next(itertools.compress(columns[name], map(operator.not_, times)), "")
            found.append(
                f"{path.name}: column {name!r} {what}, but {sum(times):,} of {len(times):,} values look like times, "
                f"and others, such as {quoted(odd)}, do not: it is left out, and events are taken in the order of "
                f"lines; if it holds times, "
                f"{digits or 'write all as Unix times or as 2014-11-27 21:46:45, and drop the rows without'}"
            )
    return found


def _clocks(path: Path, columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What to say of columns with the time of a day, which are not read."""
    return {
        name: f"{path.name}: column {name!r} holds the time of a day, such as {values[0]!r}, and is not read: write "
        f"day and time into one column, such as 2014-11-27 21:46:45"
        for name, values in columns.items()
        if values and all(re.match(CLOCK, one) for one in values)
    }


def _numbers_rows(values: Sequence[str]) -> bool:
    """Whether a column counts the rows, from any number on; of a handful of rows nothing can be said."""
    first = int(values[0]) if values and re.fullmatch("[0-9]{1,18}", values[0]) else 0
    return len(values) >= 10 and list(values) == [str(first + n) for n in range(len(values))]


def _refuse_late_keys(db: duckdb.DuckDBPyConnection, source: Source) -> None:
    """Refuse to guess from the first JSON objects where a later one has another key for an id, a time or a domain."""
    rows, values = source.objects()
    with reading(db, source):
        found = db.execute(f"SELECT DISTINCT unnest(json_keys(json)) FROM {rows}", values).fetchall()
    late = sorted({key for [key] in found} - {*source.names})
    for plain, key in _plain_names(late).items():
        if {*_words(key)} & TIME_WORDS or any(plain in names for names in _ROLE_NAMES.values()):
            raise DataError(
                f"{source.path}: the key {key!r} stands on none of the first {FIRST_OBJECTS:,} lines, from which the "
                f"columns are guessed, but on later ones: write it on line 1 as well (null will do)"
            )


def _first_values(db: duckdb.DuckDBPyConnection, source: Source, some: str = "LIMIT 1000") -> dict[str, list[str]]:
    """The first values of each column, or those of any rows, as text, without those that stand for none."""
    rows, values = source.rows()
    cells = f"[{', '.join(map(source.text, source.names))}]"
    there = f"[CASE WHEN NOT {no_id('v')} THEN v END FOR v IN {cells}]"  # one expression, be there ever so many columns
    with reading(db, source), in_file_order(db):
        found = db.execute(f"SELECT {there} FROM (FROM {rows}) {some}", values).fetchall()
    return {name: [row[i] for [row] in found if row[i] is not None] for i, name in enumerate(source.names)}


def _plain_names(names: Sequence[str]) -> dict[str, str]:
    """Names of columns by what is left of them without case, punctuation and RecBole's type."""
    return {re.sub(r"[^a-z]", "", name.split(":")[0].lower()): name for name in reversed(names)}


def _roles(db: duckdb.DuckDBPyConnection, source: Source, given: Mapping[str, str], suspicious: list[str]) -> Columns:
    """Which column is which by its name, the time by name and values: of several the one that tells time best."""
    path, columns = source.path, _first_values(db, source)
    plain = _plain_names(source.names)
    check_columns(source, [*given.values()])
    found = {
        role: given.get(role) or next((plain[one] for one in _ROLE_NAMES[role] if one in plain), None)
        for role in ("user", "item")
    }
    if missing := [role for role, name in found.items() if name is None]:
        raise DataError(
            f"{path}: cannot tell which column holds the {' and the '.join(missing)} among {', '.join(source.names)}; "
            f"write the pair file by hand: {COLUMNS_EXAMPLE}"
        )
    types = dict(zip(source.names, source.types, strict=True)) if source.types is not None else {}
    kinds = {name: kind_of(columns[name], types.get(name)) for name in source.names}
    ids = [str(name) for name in found.values()]
    when, others = (given["timestamp"], []) if "timestamp" in given else _time_column(path, plain, kinds, ids)
    if when is None:  # values that stand for no time may be many, or the first ones
        columns = _first_values(db, source, _ANY)
        kinds = {name: kind_of(columns[name], types.get(name), _MOST) for name in source.names}
        when, others = _time_column(path, plain, kinds, ids)
    for role, name in {**found, "timestamp": when}.items():
        known = {*_plain_names([name])} & {*_ROLE_NAMES[role]} if name is not None and role not in given else set()
        twins = [one for one in source.names if one != name and known & {*_plain_names([one])}]
        also, what = (others or twins, "time") if role == "timestamp" else (twins, role)
        if also:
            suspicious.append(
                f"{path.name}: the {what} is taken from column {name!r}, and {', '.join(map(repr, also))} may be "
                f"{what}s as well: if it is another, set columns.{role}"
            )
    clocks = _clocks(path, {name: columns[name] for name in source.names if name not in (*ids, when)})
    suspicious += clocks.values()
    if when is None:
        suspicious += _passed_over(path, columns, [one for one in source.names if one not in (*ids, *clocks)])
    unit: Unit = "order"
    if when is not None:  # what most values are, so that the others can be told
        kind = kinds[when] if kinds[when] != "text" else kind_of(columns[when], types.get(when), _MOST)
        unit = UNIT_OF.get(kind, "s")
    return Columns(user=ids[0], item=ids[1], timestamp=when, unit=unit)


def _time_column(
    path: Path, plain: Mapping[str, str], kinds: Mapping[str, str], ids: Sequence[str]
) -> tuple[str | None, list[str]]:
    """The column that tells time best, and what may be the time as well.

    A name that says time comes before a look: large numbers are prices as often as times.
    """
    known = [plain[one] for one in _ROLE_NAMES["timestamp"] if one in plain and plain[one] not in ids]
    seen = [name for name, kind in kinds.items() if kind in (*TIMES, "unread") and name not in (*known, *ids)]
    named = known + [name for name in seen if {*_words(name)} & TIME_WORDS]
    looks: dict[str, list[str]] = {
        kind: [one for one in seen if one not in named and kinds[one] == kind] for kind in KINDS
    }
    said: dict[str, list[str]] = {kind: [one for one in named if kinds[one] == kind] for kind in KINDS}
    ranked = [name for kind in TIMES for name in said[kind]]
    ranked += [*looks["iso"], *said["numbers"], *looks["unix"], *said["unread"], *looks["unread"], *said["text"]]
    if not ranked:
        return None, []
    when = ranked[0]
    alike = [] if when in named else looks[kinds[when]]
    if len(alike) > 1:
        raise DataError(
            f"{path}: cannot tell which column holds the time: {', '.join(alike)} look like times; write the pair file "
            f"by hand: {COLUMNS_EXAMPLE}"
        )
    readable = when in named and kinds[when] in TIMES
    likely = ("unix", "iso") if readable else ("unix", "iso", "unread")
    return when, [] if readable and when in known else [name for name in ranked[1:] if kinds[name] in likely]


def _words(name: str) -> list[str]:
    """The words of a column's name: of ``rated_at``, ``ratedAt`` and ``rated-at``."""
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name.split(":")[0]).lower())


def unit_of_times(db: duckdb.DuckDBPyConnection, layout: Layout, suspicious: list[str]) -> Unit:
    """The unit of the staged times: that of Unix times by size, unless their numbers are something else."""
    if layout.columns.unit not in SIZED:
        return layout.columns.unit
    paths = {d: side.path for d, side in layout.sides.items()}
    kinds = {d: numbers_as(db, d) for d in DOMAINS}
    if kinds["x"] is not None and kinds["x"] == kinds["y"]:
        words = {"order": "the numbers of the rows: an order inside each file and no times"}
        fitting = [likely_in(db, "CAST(t AS VARCHAR)", f"raw_{d}") if kinds[d] == "d" else [] for d in DOMAINS]
        also = "".join(f", or dates written as {name}" for name in fitting[0] if name in fitting[1])
        suspicious.append(f"the times are {words.get(kinds['x'], UNITS[kinds['x']][0])}{also}")
        return kinds["x"]
    return _common_unit(db, paths, suspicious) if layout.columns.unit in SIZED else layout.columns.unit


def _common_unit(db: duckdb.DuckDBPyConnection, paths: Mapping[str, Path], suspicious: list[str]) -> Unit:
    """The unit that most times of either file have the size of."""
    units: dict[str, Unit] = {}
    for d, path in paths.items():
        columns = ", ".join(f"count(*) FILTER ({unit_of('t', unit)})" for unit in SIZED)
        counts = dict(zip(SIZED, first_row(db, f"SELECT {columns} FROM raw_{d}"), strict=True))
        if sum(map(bool, counts.values())) > 1:
            told = " and ".join(f"{count:,} in {UNITS[unit][0]}" for unit, count in counts.items() if count)
            suspicious.append(f"{path.name} mixes units of time: {told}")
        units[d] = max(counts, key=lambda unit: counts[unit])
    if units["x"] != units["y"]:
        raise DataError(
            f"the two files differ in the unit of their times: {paths['x']} has {UNITS[units['x']][0]}, {paths['y']} "
            f"{UNITS[units['y']][0]} by their size; convert one of them"
        )
    return units["x"]
