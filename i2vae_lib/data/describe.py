"""Two log files that nobody has described yet: their layout by guess, what they hold, and a proposed pair file."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import yaml

from i2vae_lib.data.log_files import (
    DATE_DIGITS,
    ISO,
    Source,
    check_columns,
    check_log,
    database,
    date_of,
    first_row,
    is_number,
    is_temporal,
    no_id,
    numbers_as,
    open_log,
    open_table,
    reading,
    stage_log,
    unit_of,
)
from i2vae_lib.data.logs import (
    check_ids,
    float_ids,
    id_suspicions,
    looks_swapped,
    number_ids,
    shared_items,
    shared_users,
)
from i2vae_lib.data.pair_file import (
    COLUMNS_EXAMPLE,
    FORMATS,
    HEADERLESS,
    SIZED,
    UNITS,
    Columns,
    Format,
    PairFile,
    Side,
    Unit,
    other_format,
)
from i2vae_lib.data.released import COLUMNS as RELEASED
from i2vae_lib.data.released import read_pair
from i2vae_lib.data.rows import DOMAINS, DataError

_ROLE_NAMES = {  # names of columns, without case and punctuation, likelier ones first
    "user": ("userid", "user", "reviewerid", "uid", "customerid", "visitorid", "userkey", "memberid", "u"),
    "item": ("itemid", "item", "parentasin", "asin", "productid", "iid", "movieid", "bookid", "isbn", "sku", "i"),
    "timestamp": ("timestamp", "time", "unixreviewtime", "unixtime", "ts", "eventtime", "datetime", "date", "t"),
    "domain": ("domain", "domainid", "category", "maincategory", "market", "source", "dataset"),
}
_NO_TIMES = (
    "without times nothing tells what of the other domain came before an event, so a row sees all of it, and only "
    "protocol chronological serves"
)
_SAMPLE = 1000  # rows that a guess looks at


@dataclass(frozen=True)
class _LogDescription:
    """Counts of one log. Events without ids or with an impossible time are counted as that, and nowhere else."""

    path: Path
    events: int
    users: int
    items: int
    without_id: int
    before_1970: int  # times of 0 and below
    after_now: int
    duplicates: int  # events beyond the first of a (user, item)
    first: int  # seconds since 1970
    last: int
    busiest_day: float  # share of the events on the day (UTC) that has most
    same_time_of_day: float  # share of the events at the most frequent time of day (UTC): 1 under day resolution
    times: int  # different ones
    timed: bool  # False: an order and no times

    @property
    def unusable(self) -> int:
        return self.without_id + self.before_1970 + self.after_now

    @property
    def days(self) -> float:
        return (self.last - self.first) / 86_400

    def cells(self) -> dict[str, str]:
        """Rows of a table for the terminal."""
        return {
            "events": f"{self.events:,}",
            "users": f"{self.users:,}",
            "items": f"{self.items:,}",
            "first day": date_of(self.first) if self.timed else "no time",
            "last day": date_of(self.last) if self.timed else "no time",
            "days": f"{self.days:,.0f}" if self.timed else "no time",
            "on the busiest day": f"{self.busiest_day:.1%}" if self.timed else "no time",
            "at one time of day": f"{self.same_time_of_day:.1%}" if self.timed else "no time",
            "duplicates": f"{self.duplicates:,}",
            "unusable": f"{self.unusable:,}",
        }


@dataclass(frozen=True)
class _Description:
    """What two log files hold, what is suspicious, and the pair file that reads them."""

    layout: str  # a format's name, or columns
    how: str  # the layout in words
    columns: Columns
    delimiters: Mapping[str, str]  # domain key -> delimiter, "JSON lines" or "Parquet"
    files: Mapping[str, _LogDescription]
    shared_users: int
    shared_items: int  # ids that stand in both item columns
    suspicious: tuple[str, ...]  # plain sentences
    yaml: str  # a pair file, to be written beside the first log; "" if none would work
    refusal: str  # why none would; "" if one does

    def text(self) -> str:
        """For the terminal."""
        cells = {d: {"": one.path.name} | one.cells() for d, one in self.files.items()}
        for d, delimiter in self.delimiters.items():
            cells[d]["delimiter"] = delimiter if delimiter.isalpha() or " lines" in delimiter else repr(delimiter)
        width = max(12, *(len(one[""]) for one in cells.values()))
        lines = [f"{row:20}" + "".join(f"  {cells[d][row]:>{width}}" for d in DOMAINS) for row in cells["x"]]
        c = self.columns
        when = (
            f"timestamp {c.timestamp!r}" if c.timestamp else "no timestamp: the order of lines is taken for the order"
        )
        lines += [
            "",
            f"layout: {self.how}: user {c.user!r}, item {c.item!r}, {when}; unit {c.unit}: {UNITS[c.unit][0]}",
            *([f"note: {_NO_TIMES}"] if c.unit == "order" else []),
            f"users in both: {self.shared_users:,}; item ids in both: {self.shared_items:,}",
            "",
            *([f"suspicious: {one}" for one in self.suspicious] or ["nothing suspicious"]),
            "",
            *(["proposed pair file (beside the first log):", "", self.yaml.rstrip("\n")] if self.yaml else []),
            *([f"no pair file is proposed: {self.refusal}"] if self.refusal else []),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class _SplitsDescription:
    """Two tables of the paper's layout: what they hold, and the pair file that reads them."""

    counts: Mapping[str, tuple[int, int]]  # file name -> rows, users
    shared_users: int
    yaml: str
    refusal: str = ""

    def text(self) -> str:
        """For the terminal."""
        told = [f"{name}: {rows:,} rows of {users:,} users" for name, (rows, users) in self.counts.items()]
        return "\n".join(
            [
                f"layout: {', '.join(RELEASED)} (as the paper and AMID publish): a row is a user's two sequences and "
                f"the domain of the target; one for training, one for test; no times: protocols strict and released",
                *told,
                f"users in both: {self.shared_users:,}",
                "",
                "proposed pair file (beside the first file):",
                "",
                self.yaml.rstrip("\n"),
            ]
        )


@dataclass(frozen=True)
class _Layout:
    """A guess: how two logs are read."""

    how: str
    format: Format | None
    columns: Columns
    sides: Mapping[str, Side]


def describe_files(
    a: Path | str, b: Path | str | None = None, given: Mapping[str, str] | None = None
) -> _Description | _SplitsDescription:
    """Guess the layout of two logs, count what they hold, and propose the pair file that reads them.

    The pair file was tried on the rows at hand: where they would be refused there is none, and ``refusal`` says why.

    Parameters
    ----------
    b
        None (or ``a``): one file with both domains, which a column tells apart.
    given
        Names of the columns ``user``, ``item`` and ``timestamp`` that are known; the others are guessed.

    Raises
    ------
    DataError
        A file of no known format, columns that cannot be guessed, or two files of different layout.
    """
    paths = {"x": Path(a), "y": Path(a if b is None else b)}
    names = {d: open_table(path, ()).names for d, path in paths.items()}
    if all({*RELEASED} <= {*one} for one in names.values()):
        return _describe_splits(paths)
    suspicious: list[str] = []
    with database("2GB") as db:
        layout = _c2dsr(paths) or _guess_both(db, paths, given or {})
        sources = _read(db, layout)
        swapped = looks_swapped(db)
        righted = _righted(db, layout, swapped)
        if swapped and layout.format not in HEADERLESS:
            proposed = "; the proposed pair file swaps the columns" if layout.format is None else ""
            suspicious.append(f"users and items look swapped: {swapped}{proposed}")
        if righted != layout:
            layout = righted
            sources = _read(db, layout)
            if again := looks_swapped(db):
                raise DataError(
                    f"the two files differ in layout: users and items look swapped in one of {paths['x']} and "
                    f"{paths['y']} only ({again}); a pair file describes both alike"
                )
        unit = _unit(db, layout, suspicious)
        if unit != layout.columns.unit:
            columns = layout.columns.model_copy(update={"unit": unit})
            if layout.format in HEADERLESS:
                columns = columns.model_copy(update={"header": HEADERLESS[layout.format]})
            layout = replace(layout, format=None, columns=columns)
            sources = _read(db, layout)
        pair = _pair(layout)
        refusal = _refusal(db, sources, pair)
        files = {d: _count_log(db, d, layout.sides[d].path, layout.columns.unit) for d in DOMAINS}
        number_ids(db)
        users, items = shared_users(db), shared_items(db)
        [integers] = first_row(
            db,
            "SELECT coalesce(bool_and(regexp_full_match(id, '[0-9]+')), false) "
            "FROM (SELECT id FROM items_x UNION ALL SELECT id FROM items_y)",
        )
        for d in DOMAINS:
            suspicious += _suspicions(files[d], bool(float_ids(db, d)))
        told = {d: layout.sides[d].path.name for d in DOMAINS}
        suspicious += id_suspicions(db, told if len({*told.values()}) == 2 else _names_of(layout), same_items=True)
        refusal = refusal or _blind(db, files, layout.columns.unit)
    suspicious += _shared_suspicions(files, users, items, integers)
    return _Description(
        layout.format or "columns",
        layout.how,
        layout.columns,
        {d: one.kind for d, one in sources.items()},
        files,
        users,
        items,
        tuple(suspicious),
        "" if refusal else _proposed(layout, bool(integers and items)),
        refusal,
    )


def _names_of(layout: _Layout) -> dict[str, str]:
    """The domains' names by their keys."""
    return {d: side.name for d, side in layout.sides.items()}


def _describe_splits(paths: Mapping[str, Path]) -> _SplitsDescription:
    found = read_pair("pair", {"x": "first", "y": "second"}, paths["x"], paths["y"], "")
    rows = {"x": found.train, "y": found.test}
    counts = {paths[d].name: (len(one), len(set(one.user))) for d, one in rows.items()}
    home = paths["x"].resolve().parent
    text = (
        "name: pair\nx: {name: first}\ny: {name: second}\nformat: released\n"
        f"{_flow({'train': _relative(paths['x'], home)})[1:-1]}\n{_flow({'test': _relative(paths['y'], home)})[1:-1]}\n"
    )
    return _SplitsDescription(counts, len(set(found.train.user) & set(found.test.user)), text)


def _pair(layout: _Layout) -> PairFile:
    columns = layout.columns if layout.format is None else None
    x, y = (layout.sides[d] for d in DOMAINS)
    return PairFile(name="pair", x=x, y=y, columns=columns, format=layout.format, min_user=1, min_item=1)


def _refusal(db: duckdb.DuckDBPyConnection, sources: Mapping[str, Source], pair: PairFile) -> str:
    """Why the staged logs cannot be read as they are; "" if they can."""
    try:
        for d in DOMAINS:
            check_log(db, d, sources[d], pair.layout)
        check_ids(db, sources, pair)
    except DataError as error:
        return str(error)
    return ""


def _blind(db: duckdb.DuckDBPyConnection, files: Mapping[str, _LogDescription], unit: Unit) -> str:
    """Why no row could see anything of the other domain; "" if one can."""
    if unit == "order":
        return ""
    scale = 86_400 if any(one.same_time_of_day == 1 for one in files.values()) else 1
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


def _read(db: duckdb.DuckDBPyConnection, layout: _Layout) -> dict[str, Source]:
    """Both logs into the database, unchecked, with the tables of their ids."""
    sources = {d: open_log(side, layout.columns, layout.format) for d, side in layout.sides.items()}
    for d, source in sources.items():
        stage_log(db, d, source, layout.columns)
    number_ids(db)
    return sources


def _righted(db: duckdb.DuckDBPyConnection, layout: _Layout, swapped: str | None) -> _Layout:
    """The layout with users and items the right way round, as far as the files can say so."""
    # ids without a look: in the right order the files share users
    unshared = not shared_users(db) and shared_items(db) > 0
    columns = layout.columns
    if layout.format in HEADERLESS:
        return replace(layout, format=other_format(layout.format)) if swapped or unshared else layout
    if layout.format is None and (swapped or (unshared and columns.header is not None)):
        turned = columns.model_copy(update={"user": columns.item, "item": columns.user})
        return replace(layout, columns=turned)
    return layout


# --- guessing ---------------------------------------------------------------------------------------------------------


def _c2dsr(paths: Mapping[str, Path]) -> _Layout | None:
    """C2DSR's text files: index, user, then ``item|time``, by tabs; the domains' items stand in lists beside them."""
    for path in paths.values():
        with path.open("rb") as stream:
            fields = stream.readline(1 << 24).decode("utf-8", errors="replace").rstrip("\r\n").split("\t")
        if len(fields) < 3 or not all(re.fullmatch(r"[0-9]+\|[0-9]+(\.[0-9]+)?", one) for one in fields[2:]):
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
    return _Layout(how, "c2dsr", FORMATS["c2dsr"], sides)


def _count_lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(bool(line.strip()) for line in stream)


def _guess_both(db: duckdb.DuckDBPyConnection, paths: Mapping[str, Path], given: Mapping[str, str]) -> _Layout:
    if paths["x"].resolve() == paths["y"].resolve():
        return _guess_one(db, paths["x"], given)
    guesses = {d: _guess(db, path, given) for d, path in paths.items()}
    (how, format, columns), (_, other, others) = guesses["x"], guesses["y"]
    if (format is None) != (other is None) or columns.names != others.names or columns.header != others.header:
        told = " and ".join(f"{paths[d]} as {_told(*guesses[d][1:])}" for d in DOMAINS)
        raise DataError(f"the two files differ in layout: {told} by the look of it; a pair file describes both alike")
    if columns.unit != others.unit:
        told = " and ".join(f"{paths[d]} has {UNITS[guesses[d][2].unit][0]}" for d in DOMAINS)
        raise DataError(f"the two files differ in their times: {told}; write them alike")
    stems = {d: _stem(path) for d, path in paths.items()}
    names = {d: stem.removeprefix("ratings_") or d for d, stem in stems.items()}
    if names["x"] == names["y"] or names["x"] == "y" or names["y"] == "x":
        names = {d: f"{name} {d}" for d, name in names.items()}
    sides = {d: Side(name=names[d], path=path, titles=_titles_beside(path)) for d, path in paths.items()}
    return _Layout(how, format, columns, sides)


def _guess_one(db: duckdb.DuckDBPyConnection, path: Path, given: Mapping[str, str]) -> _Layout:
    """One file with a column that tells the domain."""
    how, _, columns = _guess(db, path, given)
    source = open_table(path, columns.names, header=columns.header)
    plain = _plain_names(source.names)
    column = next((plain[one] for one in _ROLE_NAMES["domain"] if one in plain), None)
    if column is None:
        raise DataError(
            f"{path}: one file, and no column that tells the domain ({', '.join(_ROLE_NAMES['domain'])}) among "
            f"{', '.join(source.names)}: a pair has two domains, give two files"
        )
    rows, values = source.rows()
    with reading(source):
        sql = f"SELECT {source.text(column)} AS v, count(*) FROM {rows} GROUP BY v ORDER BY 2 DESC, 1 LIMIT 11"
        found = db.execute(sql, values).fetchall()
    if len(found) != 2 or any(value is None for value, _ in found):
        told = ", ".join(f"{value!r} ({count:,} rows)" for value, count in found[:10])
        raise DataError(
            f"{path}: column '{column}' has {'more than 10' if len(found) > 10 else len(found)} values, and a pair has "
            f"two domains: choose two of {told} in a pair file with columns.domain: {column} and x.value, y.value"
        )
    x, y = sorted(str(value) for value, _ in found)
    names = {"x": x, "y": y} if (x != "y" and y != "x") else {"x": f"{column} {x}", "y": f"{column} {y}"}
    sides = {d: Side(name=names[d], path=path, value=value) for d, value in (("x", x), ("y", y))}
    told = f"{how}, both domains in one file, told apart by {column!r} ({x!r}, {y!r})"
    return _Layout(told, None, columns.model_copy(update={"domain": column}), sides)


def _told(format: str | None, columns: Columns) -> str:
    return format or f"columns {', '.join(columns.names)}"


def _stem(path: Path) -> str:
    return re.sub(r"(\.csv|\.tsv|\.txt|\.dat|\.data|\.inter|\.jsonl|\.json|\.parquet|\.gz)+$", "", path.name)


def _titles_beside(path: Path) -> Path | None:
    endings = (".csv.gz", ".csv", ".parquet")
    beside = (path.with_name(f"{_stem(path)}_titles{ending}") for ending in endings)
    return next((one for one in beside if one.is_file()), None)


Guess = tuple[str, Format | None, Columns]  # in words; None: named columns


def _guess(db: duckdb.DuckDBPyConnection, path: Path, given: Mapping[str, str]) -> Guess:
    """A file's layout by its header, or its first rows; the unit of Unix times comes later."""
    source = open_table(path, ())
    table = source.types is None and source.delimiter != "JSON lines"
    if table and any(is_number(one) or re.fullmatch(ISO, one.strip()) for one in source.names):
        return _without_header(db, path, source)
    columns = _first_values(db, source)
    if {*FORMATS["amazon2023"].names} <= {*source.names}:
        return f"Amazon 2023 ({source.kind!r})", "amazon2023", FORMATS["amazon2023"]
    how = "named columns"
    if all(re.search(r":(token|float|token_seq|float_seq)$", one) for one in source.names):
        how = "RecBole's atomic files (typed names of columns)"
    elif source.delimiter == "JSON lines":
        how = "JSON lines"
    elif {"click", "follow", "like", "share", "watching_times"} <= {*source.names}:
        how = "named columns as Tenrec has them"
    return how, None, _roles(path, source, columns, given)


def _without_header(db: duckdb.DuckDBPyConnection, path: Path, source: Source) -> Guess:
    """Values from the first line on: users and items come first, then the rating and the time, whichever are there."""
    width = len(source.names)
    if width == 4 and source.delimiter == "," and is_number(source.names[3]):
        return "Amazon ratings without a header", "amazon2014", FORMATS["amazon2014"]  # or 2018: the ids decide
    if width < 2:
        raise DataError(f"{path}, line 1: no header, and one value: {source.names[0][:80]!r}")
    header = [f"c{i}" for i in range(width)]
    columns = _first_values(db, open_table(path, (), header=header))
    kinds = {name: _kind(values, None) for name, values in columns.items()}
    when = next((name for name in header if kinds[name] in ("unix", "iso", "date")), None)
    ids = [name for name in header if name != when][:2]
    named = dict(zip(ids, ("user", "item"), strict=False)) | ({when: "timestamp"} if when else {})
    if len(ids) < 2:
        raise DataError(f"{path}, line 1: no header, and {width} columns; a log has users, items and times at least")
    rest = [name for name in header if name not in named]
    named |= {rest[0]: "rating"} if rest else {}
    full = tuple(named.get(name, name) for name in header)
    unit: Unit = _UNIT_OF.get(kinds[when], "s") if when else "order"
    found = Columns(user="user", item="item", timestamp="timestamp" if when else None, unit=unit, header=full)
    return f"no header, separated by {source.delimiter!r}, columns {', '.join(full)}", None, found


def _first_values(db: duckdb.DuckDBPyConnection, source: Source) -> dict[str, list[str]]:
    """The first values of each column, as text."""
    rows, values = source.rows()
    cells = ", ".join(f"CAST(c{i} AS VARCHAR)" for i in range(len(source.names)))
    with reading(source):
        found = db.execute(f"SELECT {cells} FROM {rows} LIMIT {_SAMPLE}", values).fetchall()
    return {name: [str(row[i]) for row in found if row[i] not in (None, "")] for i, name in enumerate(source.names)}


def _plain_names(names: Sequence[str]) -> dict[str, str]:
    """Names of columns by what is left of them without case, punctuation and RecBole's type."""
    return {re.sub(r"[^a-z]", "", name.split(":")[0].lower()): name for name in reversed(names)}


_UNIT_OF: dict[str, Unit] = {"iso": "iso", "date": "date"}  # by what times look like; "s": their size decides later
_KINDS = ("unix", "iso", "date", "numbers", "text")  # likelier times first


def _kind(values: Sequence[str], type: object | None) -> str:
    """What a column's values look like as times: one of :data:`_KINDS`."""
    if type is not None and is_temporal(type):
        return "iso"
    texts = [one.strip() for one in values]
    if texts and all(re.fullmatch(ISO, one) for one in texts):
        return "iso"
    if texts and all(re.fullmatch(DATE_DIGITS + r"(\.0*)?", one) for one in texts):
        return "date"
    if texts and all(is_number(one) or re.fullmatch(r"[0-9.]+[eE]\+?[0-9]+", one) for one in texts):
        big = sum(abs(float(one)) >= 10**8 for one in texts)
        return "unix" if big > 0.9 * len(texts) else "numbers"
    return "text"


def _roles(path: Path, source: Source, columns: Mapping[str, Sequence[str]], given: Mapping[str, str]) -> Columns:
    """Which column is which by its name, the time by name and values: of several the one that tells time best."""
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
    kinds = {name: _kind(columns[name], types.get(name)) for name in source.names}
    known = [plain[one] for one in _ROLE_NAMES["timestamp"] if one in plain]
    # by less than a known name only what looks like a time
    seen = [name for name, kind in kinds.items() if kind in ("unix", "iso", "date") and name not in known]
    named = [name for name in seen if re.search(r"time|date|stamp|ts$", name.lower())]
    lone = [name for name in seen if name not in named and name not in found.values() and kinds[name] != "date"]
    candidates = known + named + (lone if len(lone) == 1 else [])
    candidates = [given["timestamp"]] if "timestamp" in given else candidates
    if not candidates:
        return Columns(user=str(found["user"]), item=str(found["item"]), unit="order")
    when = min(candidates, key=lambda name: (_KINDS.index(kinds[name]), candidates.index(name)))
    unit = _UNIT_OF.get(kinds[when], "s")
    return Columns(user=str(found["user"]), item=str(found["item"]), timestamp=when, unit=unit)


def _unit(db: duckdb.DuckDBPyConnection, layout: _Layout, suspicious: list[str]) -> Unit:
    """The unit of the staged times: that of Unix times by size, unless their numbers are something else."""
    if layout.columns.unit not in SIZED:
        return layout.columns.unit
    paths = {d: side.path for d, side in layout.sides.items()}
    kinds = {d: numbers_as(db, d) for d in DOMAINS}
    if kinds["x"] is not None and kinds["x"] == kinds["y"]:
        words = {"order": "the numbers of the rows: an order inside each file and no times"}
        suspicious.append(f"the times are {words.get(kinds['x'], UNITS[kinds['x']][0])}")
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


def _count_log(db: duckdb.DuckDBPyConnection, d: str, path: Path, unit: Unit) -> _LogDescription:
    """Counts of a staged log, from which unusable events then go."""
    scale, timed = UNITS[unit][1], unit != "order"
    ids, now = f"NOT {no_id('u')} AND NOT {no_id('i')}", int(time.time() * scale)
    good = f"{ids} AND t > 0 AND t <= {now}" if timed else f"{ids} AND t IS NOT NULL"
    total, whole, before, after = first_row(
        db,
        f"SELECT count(*), count(*) FILTER ({ids} AND t IS NOT NULL), count(*) FILTER ({ids} AND t <= 0 AND {timed}), "
        f"count(*) FILTER ({ids} AND t > {now} AND {timed}) FROM raw_{d}",
    )
    db.execute(f"CREATE OR REPLACE TABLE raw_{d} AS SELECT u, i, t // {scale} AS t FROM raw_{d} WHERE {good}")
    events, users, items, first, last, times = first_row(
        db,
        f"SELECT count(*), count(DISTINCT u), count(DISTINCT i), coalesce(min(t), 0), coalesce(max(t), 0), "
        f"count(DISTINCT t) FROM raw_{d}",
    )
    busiest, same = (
        first_row(db, f"SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM raw_{d} GROUP BY t {part} 86400)")[0]
        for part in ("//", "%")
    )
    [distinct] = first_row(db, f"SELECT count(*) FROM (SELECT DISTINCT u, i FROM raw_{d})")
    share = max(events, 1)
    return _LogDescription(
        path=path,
        events=events,
        users=users,
        items=items,
        without_id=total - whole,
        before_1970=before,
        after_now=after,
        duplicates=events - distinct,
        first=first,
        last=last,
        busiest_day=busiest / share,
        same_time_of_day=same / share,
        times=times,
        timed=timed,
    )


def _suspicions(log: _LogDescription, floats: bool) -> list[str]:
    found = []
    name = log.path.name
    if log.without_id:
        found.append(f"{name}: {log.without_id:,} rows have no user, no item or no time that can be read")
    if log.before_1970:
        found.append(f"{name}: {log.before_1970:,} times are 0 or negative: Unix time counts from 1970")
    if log.after_now:
        found.append(f"{name}: {log.after_now:,} times lie after now: another unit, or a clock that was wrong?")
    if not log.events:
        return [f"{name} has no usable event", *found]
    if floats:
        found.append(f"{name}: ids are floats such as 1.0; write them as text or integers")
    if log.timed and log.events > 1 and log.times == 1:
        found.append(f"{name}: all {log.events:,} times are equal: nothing tells what came first")
    elif log.timed and log.events > 1 and log.same_time_of_day > 0.99:
        found.append(
            f"{name}: times have day resolution, so the order within a day is unknown and a seeded hash breaks the ties"
        )
    elif log.timed and log.busiest_day > 0.5:
        found.append(f"{name}: {log.busiest_day:.0%} of the events lie on one day; are these the times of an export?")
    if log.duplicates > 0.01 * log.events:
        found.append(
            f"{name}: {log.duplicates / log.events:.1%} of the events repeat a (user, item); the first in time stays"
        )
    if log.items > 0 and log.users * 50 < log.items:
        found.append(f"{name}: {log.users:,} users for {log.items:,} items; are users and items swapped?")
    return found


def _shared_suspicions(
    files: Mapping[str, _LogDescription], shared_users: int, shared_items: int, integers: bool
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


def _proposed(layout: _Layout, doubtful: bool) -> str:
    """The pair file's text; what lies in another folder than the first log is named by its whole path."""
    home, names = layout.sides["x"].path.resolve().parent, _names_of(layout)
    lines = ["name: " + (re.sub(r"[^\w.-]+", "_", f"{names['x']}_{names['y']}".lower()) or "pair")]
    for d, side in layout.sides.items():
        told: dict[str, Any] = {"name": side.name, "path": _relative(side.path, home)}
        told |= {"more": [_relative(one, home) for one in side.more]} if side.more else {}
        told |= {key: _relative(one, home) for key in ("items", "titles") if (one := getattr(side, key)) is not None}
        told |= {} if side.value is None else {"value": side.value}
        lines.append(f"{d}: {_flow(told)}")
    columns = layout.columns.model_dump(mode="json", exclude_none=True)
    lines.append(f"columns: {_flow(columns)}" if layout.format is None else f"format: {layout.format}")
    lines += ["min_user: 3", "min_item: 3"]
    lines.append("same_ids_are_same_items: true" + ("  # false if each file numbers its items by itself" * doubtful))
    return "\n".join(lines) + "\n"


def _relative(path: Path, home: Path) -> str:
    resolved = path.resolve()
    return resolved.name if resolved.parent == home else str(resolved)


def _flow(mapping: Mapping[str, Any]) -> str:
    return yaml.safe_dump(
        dict(mapping), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    ).strip()
