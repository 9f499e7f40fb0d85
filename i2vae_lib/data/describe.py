"""Two log files that nobody has described yet: their layout by guess, what they hold, and a proposed pair file."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import yaml

from i2vae_lib.data.dataset import DOMAINS, DataError
from i2vae_lib.data.log_files import (
    Source,
    database,
    date_of,
    first_row,
    is_number,
    no_id,
    open_log,
    open_table,
    sample,
    stage_log,
    unit_of,
)
from i2vae_lib.data.logs import float_ids, looks_swapped, number_ids, shared_items, shared_users
from i2vae_lib.data.pair_file import COLUMNS_EXAMPLE, FORMATS, HEADERLESS, UNITS, Columns, Unit, other_format
from i2vae_lib.runs import sha256_of

_ROLE_NAMES = {  # names of columns, without case and punctuation, likelier ones first
    "user": ("userid", "user", "reviewerid", "uid", "customerid", "visitorid", "userkey", "memberid", "u"),
    "item": ("itemid", "item", "parentasin", "asin", "productid", "iid", "movieid", "bookid", "isbn", "sku", "i"),
    "timestamp": ("timestamp", "time", "unixreviewtime", "unixtime", "ts", "eventtime", "datetime", "date", "t"),
}
_SAMPLE = 1000  # rows that a guess looks at


@dataclass(frozen=True)
class LogDescription:
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
    midnight: float  # share of the events at 00:00:00 UTC: 1 under day resolution

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
            "first day": date_of(self.first),
            "last day": date_of(self.last),
            "days": f"{self.days:,.0f}",
            "on the busiest day": f"{self.busiest_day:.1%}",
            "at midnight (UTC)": f"{self.midnight:.1%}",
            "duplicates": f"{self.duplicates:,}",
            "unusable": f"{self.unusable:,}",
        }


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
        cells = {d: {"": one.path.name} | one.cells() for d, one in self.files.items()}
        for d, delimiter in self.delimiters.items():
            cells[d]["delimiter"] = repr(delimiter) if len(delimiter) == 1 else delimiter
        width = max(12, *(len(one[""]) for one in cells.values()))
        lines = [f"{row:20}" + "".join(f"  {cells[d][row]:>{width}}" for d in DOMAINS) for row in cells["x"]]
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
    format, columns = _guess_both(paths)
    suspicious: list[str] = []
    with database("2GB") as db:
        sources = _read(db, paths, format, columns)
        swapped = looks_swapped(db)
        righted = _righted(db, format, columns, swapped)
        if swapped and format not in HEADERLESS:
            proposed = "; the proposed pair file swaps the columns" if format is None else ""
            suspicious.append(f"users and items look swapped: {swapped}{proposed}")
        if righted != (format, columns):
            format, columns = righted
            sources = _read(db, paths, format, columns)
            if again := looks_swapped(db):
                raise DataError(
                    f"the two files differ in layout: users and items look swapped in one of {paths['x']} and "
                    f"{paths['y']} only ({again}); a pair file describes both alike"
                )
        unit = _common_unit(db, paths, suspicious)
        if format is None:
            columns = columns.model_copy(update={"unit": unit})
        elif unit != columns.unit:
            suspicious.append(
                f"times look like {UNITS[unit][0]}, but format {format} has {UNITS[columns.unit][0]}: name the "
                f"columns instead of the format"
            )
        files = {d: _count_log(db, d, paths[d], unit) for d in DOMAINS}
        number_ids(db)
        users, items = shared_users(db), shared_items(db)
        [integers] = first_row(
            db,
            "SELECT coalesce(bool_and(regexp_full_match(id, '[0-9]+')), false) "
            "FROM (SELECT id FROM items_x UNION ALL SELECT id FROM items_y)",
        )
        for d in DOMAINS:
            suspicious += _suspicions(files[d], bool(float_ids(db, d)))
    if sha256_of(paths["x"]) == sha256_of(paths["y"]):
        suspicious.append("both files have the same content: give each domain its own log")
    suspicious += _shared_suspicions(files, users, items, integers)
    return Description(
        format or "columns",
        columns,
        {d: one.delimiter if one.types is None else "Parquet" for d, one in sources.items()},
        files,
        users,
        items,
        tuple(suspicious),
        _proposed(paths, format, columns, bool(integers and items)),
    )


def _read(
    db: duckdb.DuckDBPyConnection, paths: Mapping[str, Path], format: str | None, columns: Columns
) -> dict[str, Source]:
    """Both files into the database, unchecked, with the tables of their ids."""
    sources = {d: open_log(path, columns, format) for d, path in paths.items()}
    for d, source in sources.items():
        stage_log(db, d, source, columns)
    number_ids(db)
    return sources


def _righted(
    db: duckdb.DuckDBPyConnection, format: str | None, columns: Columns, swapped: str | None
) -> tuple[str | None, Columns]:
    """Format and columns with users and items the right way round, as far as they can say so."""
    if format in HEADERLESS:
        # ids without a look: in the right order the files share users
        unshared = not shared_users(db) and shared_items(db) > 0
        return (other_format(format) if swapped or unshared else format), columns
    if swapped and format is None:
        return format, columns.model_copy(update={"user": columns.item, "item": columns.user})
    return format, columns


def _guess_both(paths: Mapping[str, Path]) -> tuple[str | None, Columns]:
    guesses = {d: _guess(path) for d, path in paths.items()}
    (format, columns), (other, others) = guesses["x"], guesses["y"]
    if (format is None) != (other is None) or columns.names != others.names:
        told = " and ".join(f"{paths[d]} as {_told(*guesses[d])}" for d in DOMAINS)
        raise DataError(f"the two files differ in layout: {told} by the look of it; a pair file describes both alike")
    return format, columns


def _told(format: str | None, columns: Columns) -> str:
    return format or f"columns {', '.join(columns.names)}"


def _guess(path: Path) -> tuple[str | None, Columns]:
    """Format (None: named columns) and columns of a file by its header, or its first rows; the unit comes later."""
    source = open_table(path, ())
    if source.types is not None:
        return None, _roles(path, source.names, [[] for _ in source.names])
    rows = sample(source, 1 + _SAMPLE)
    if not any(map(is_number, source.names)):
        if {*FORMATS["amazon2023"].names} <= {*source.names}:
            return "amazon2023", FORMATS["amazon2023"]
        values = [[row[i] for row in rows[1:] if len(row) > i] for i in range(len(source.names))]
        return None, _roles(path, source.names, values)
    if len(source.names) == 4 and source.delimiter == ",":
        return "amazon2014", FORMATS["amazon2014"]  # or 2018: the ids of both files decide
    raise DataError(
        f"{path}, line 1: no header and {len(source.names)} columns, while Amazon ratings without a header have 4 "
        f"(user or item first, then rating and timestamp): add a line with the names of the columns"
    )


def _roles(path: Path, names: Sequence[str], values: Sequence[Sequence[str]]) -> Columns:
    """Which column is which by its name; a lone column of Unix times is found by its values too."""
    plain = {re.sub(r"[^a-z]", "", name.lower()): name for name in reversed(names)}
    found = {role: next((plain[one] for one in known if one in plain), None) for role, known in _ROLE_NAMES.items()}
    if found["timestamp"] is None:
        big = [n for n, column in zip(names, values) if column and all(re.fullmatch(r"\d{9,19}", v) for v in column)]
        found["timestamp"] = big[0] if len(big) == 1 and big[0] not in found.values() else None
    missing = [role for role, name in found.items() if name is None]
    if missing:
        raise DataError(
            f"{path}: cannot tell which column holds the {' and the '.join(missing)} among {', '.join(names)}; write "
            f"the pair file by hand: {COLUMNS_EXAMPLE}"
        )
    return Columns(**{role: str(name) for role, name in found.items()}, unit="s")


def _common_unit(db: duckdb.DuckDBPyConnection, paths: Mapping[str, Path], suspicious: list[str]) -> Unit:
    """The unit that most times of either file have the size of."""
    units: dict[str, Unit] = {}
    for d, path in paths.items():
        columns = ", ".join(f"count(*) FILTER ({unit_of('t', unit)})" for unit in UNITS)
        counts = dict(zip(UNITS, first_row(db, f"SELECT {columns} FROM raw_{d}"), strict=True))
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


def _count_log(db: duckdb.DuckDBPyConnection, d: str, path: Path, unit: Unit) -> LogDescription:
    """Counts of a staged log, from which unusable events then go."""
    scale = UNITS[unit][1]
    ids, now = f"NOT {no_id('u')} AND NOT {no_id('i')}", int(time.time() * scale)
    good = f"{ids} AND t > 0 AND t <= {now}"
    total, whole, before, after = first_row(
        db,
        f"SELECT count(*), count(*) FILTER ({ids} AND t IS NOT NULL), count(*) FILTER ({ids} AND t <= 0), "
        f"count(*) FILTER ({ids} AND t > {now}) FROM raw_{d}",
    )
    db.execute(f"CREATE OR REPLACE TABLE raw_{d} AS SELECT u, i, t // {scale} AS t FROM raw_{d} WHERE {good}")
    events, users, items, first, last, midnight = first_row(
        db,
        f"SELECT count(*), count(DISTINCT u), count(DISTINCT i), coalesce(min(t), 0), coalesce(max(t), 0), "
        f"count(*) FILTER (t % 86400 = 0) FROM raw_{d}",
    )
    [busiest] = first_row(
        db, f"SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM raw_{d} GROUP BY t // 86400)"
    )
    [distinct] = first_row(db, f"SELECT count(*) FROM (SELECT DISTINCT u, i FROM raw_{d})")
    share = max(events, 1)
    return LogDescription(
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
        midnight=midnight / share,
    )


def _suspicions(log: LogDescription, floats: bool) -> list[str]:
    found = []
    name = log.path.name
    if log.without_id:
        found.append(f"{name}: {log.without_id:,} rows have no user, no item or no time in digits")
    if log.before_1970:
        found.append(f"{name}: {log.before_1970:,} times are 0 or negative: Unix time counts from 1970")
    if log.after_now:
        found.append(f"{name}: {log.after_now:,} times lie after now: another unit, or a clock that was wrong?")
    if not log.events:
        return [f"{name} has no usable event: is the time column Unix time, in digits?", *found]
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
