"""Two log files without a pair file: a guess at their layout, what they hold, and a proposed pair file.

What looks suspicious in ids is found in :mod:`.ids`, in times in :mod:`.suspicions`, and in counts here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import yaml

from i2vae_lib.data.logs.c2dsr import check_sequences
from i2vae_lib.data.logs.checks import blind, check_log, date_of, no_id, refuse_zone_of_one
from i2vae_lib.data.logs.database import database, first_row, stage_log
from i2vae_lib.data.logs.files import (
    Source,
    open_log,
    open_table,
)
from i2vae_lib.data.logs.ids import (
    id_suspicions,
    looks_swapped,
    number_ids,
    shared_items,
    shared_users,
)
from i2vae_lib.data.logs.join import check_ids
from i2vae_lib.data.logs.layouts import Layout, guess, names_of, unit_of_times
from i2vae_lib.data.logs.pair_file import (
    HEADERLESS,
    LONGEST_NAME,
    UNITS,
    Columns,
    PairFile,
    Unit,
    other_format,
)
from i2vae_lib.data.logs.suspicions import time_suspicions
from i2vae_lib.data.released import COLUMNS as RELEASED
from i2vae_lib.data.released import read_pair
from i2vae_lib.data.rows import DOMAINS, DataError
from i2vae_lib.places import brief, quoted

_NO_TIMES = (
    "without times nothing tells which events of the other domain came before one, so a row sees all of them, and only "
    "protocol chronological serves"
)


@dataclass(frozen=True)
class LogDescription:
    """Counts of one log. Events without an id or with an impossible time are counted as such, and in no other count."""

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
    busiest_day: float  # share of the events on the busiest day (UTC)
    same_time_of_day: float  # share of the events at the most frequent time of day (UTC): 1 under day resolution
    times: int  # distinct
    timed: bool  # False: the log has an order but no times

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
class Description:
    """What two log files hold, what is suspicious, and the pair file that reads them."""

    layout: str  # a format's name, or columns
    how: str  # the layout in words
    columns: Columns
    delimiters: Mapping[str, str]  # domain key -> delimiter, "JSON lines" or "Parquet"
    files: Mapping[str, LogDescription]
    shared_users: int
    shared_items: int  # ids that stand in both item columns
    suspicious: tuple[str, ...]  # plain sentences
    place: str  # where the pair file has to lie, since its paths start there
    yaml: str  # the pair file; "" if none would work
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
            f"timestamp {quoted(c.timestamp)}"
            if c.timestamp
            else "no timestamp: the order of lines is taken for the order"
        )
        lines += [
            "",
            f"layout: {brief(self.how)}: user {quoted(c.user)}, item {quoted(c.item)}, {when}; "
            f"unit {c.unit}: {UNITS[c.unit][0]}",
            *([f"note: {_NO_TIMES}"] if c.unit == "order" else []),
            f"users in both: {self.shared_users:,}; item ids in both: {self.shared_items:,}",
            "",
            *([f"suspicious: {one}" for one in self.suspicious] or ["nothing suspicious"]),
            "",
            *([f"proposed pair file ({self.place}):", "", self.yaml.rstrip("\n")] if self.yaml else []),
            *([f"no pair file is proposed: {self.refusal}"] if self.refusal else []),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class SplitsDescription:
    """Two tables of the paper's layout: what they hold, and the pair file that reads them."""

    counts: Mapping[str, tuple[int, int]]  # file name -> rows, users
    shared_users: int
    place: str  # where the pair file has to lie, since its paths start there
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
                f"proposed pair file ({self.place}):",
                "",
                self.yaml.rstrip("\n"),
            ]
        )


def describe_files(
    a: Path | str, b: Path | str | None = None, given: Mapping[str, str] | None = None, home: Path | str | None = None
) -> Description | SplitsDescription:
    """Guess the layout of two logs, count what they hold, and propose the pair file that reads them.

    A pair file is proposed only if it would refuse none of the rows; otherwise ``refusal`` says why there is none.

    Parameters
    ----------
    b
        None (or ``a``): one file with both domains, which a column tells apart.
    given
        Names of the columns ``user``, ``item`` and ``timestamp`` that are known; the others are guessed.
    home
        The folder in which the pair file will lie: its paths start there. Default: the first log's.

    Raises
    ------
    DataError
        A file of no known format, columns that cannot be guessed, or two files of different layout.
    """
    paths = {"x": Path(a), "y": Path(a if b is None else b)}
    home = Path(paths["x"].parent if home is None else home)
    names = {d: open_table(path, ()).names for d, path in paths.items()}
    if all({*RELEASED} <= {*one} for one in names.values()):
        return _describe_splits(paths, home)
    suspicious: list[str] = []
    with database("2GB") as db:
        layout, sources = _settled(db, guess(db, paths, given or {}, suspicious), suspicious)
        pair = _pair(layout)
        refusal = _refusal(db, sources, pair)
        told = {d: layout.sides[d].path.name for d in DOMAINS}
        told = told if len({*told.values()}) == 2 else names_of(layout)
        suspicious += [] if refusal else time_suspicions(db, told, layout.columns.unit)
        files = {d: _count_log(db, d, layout.sides[d].path, layout.columns.unit) for d in DOMAINS}
        number_ids(db)
        users, items = shared_users(db), shared_items(db)
        [integers] = first_row(
            db,
            "SELECT coalesce(bool_and(regexp_full_match(id, '[0-9]+')), false) "
            "FROM (SELECT id FROM items_x UNION ALL SELECT id FROM items_y)",
        )
        for d in DOMAINS:
            suspicious += _suspicions(files[d])
        suspicious += id_suspicions(db, told, same_items=True)
        daily = any(one.same_time_of_day == 1 for one in files.values())
        refusal = refusal or blind(db, layout.columns.unit, daily)
    suspicious += _shared_suspicions(files, users, items, integers)
    return Description(
        layout.format or "columns",
        layout.how,
        layout.columns,
        {d: one.kind for d, one in sources.items()},
        files,
        users,
        items,
        tuple(map(brief, suspicious)),
        _place(paths["x"], home),
        "" if refusal else _proposed(layout, home, bool(integers and items)),
        refusal,
    )


def _settled(db: duckdb.DuckDBPyConnection, layout: Layout, suspicious: list[str]) -> tuple[Layout, dict[str, Source]]:
    """The layout, corrected by what the rows show (swapped columns, unit of times), and both logs staged under it."""
    sources = _read(db, layout)
    swapped = looks_swapped(db)
    if swapped and layout.format not in HEADERLESS:
        proposed = "; the proposed pair file swaps the columns" if layout.format is None else ""
        suspicious.append(f"users and items look swapped: {swapped}{proposed}")
    righted = _righted(db, layout, swapped)
    if righted != layout:
        layout, sources = righted, _read(db, righted)
        if again := looks_swapped(db):
            x, y = (layout.sides[d].path for d in DOMAINS)
            raise DataError(
                f"the two files differ in layout: users and items look swapped in one of {x} and {y} only ({again}); a "
                f"pair file describes both alike"
            )
    unit = unit_of_times(db, layout, suspicious)
    if unit == layout.columns.unit:
        return layout, sources
    columns = layout.columns.model_copy(update={"unit": unit})
    if layout.format in HEADERLESS:
        columns = columns.model_copy(update={"header": HEADERLESS[layout.format]})
    layout = replace(layout, format=None, columns=columns)
    return layout, _read(db, layout)


def _describe_splits(paths: Mapping[str, Path], home: Path) -> SplitsDescription:
    found = read_pair("pair", {"x": "first", "y": "second"}, paths["x"], paths["y"], "")
    rows = {"x": found.train, "y": found.test}
    counts = {paths[d].name: (len(one), len(set(one.user))) for d, one in rows.items()}
    text = (
        "name: pair\nx: {name: first}\ny: {name: second}\nformat: released\n"
        f"{_flow({'train': _relative(paths['x'], home)})[1:-1]}\n{_flow({'test': _relative(paths['y'], home)})[1:-1]}\n"
    )
    return SplitsDescription(counts, len(set(found.train.user) & set(found.test.user)), _place(paths["x"], home), text)


def _pair(layout: Layout) -> PairFile:
    columns = layout.columns if layout.format is None else None
    x, y = (layout.sides[d] for d in DOMAINS)
    return PairFile(name="pair", x=x, y=y, columns=columns, format=layout.format, min_user=1, min_item=1)


def _refusal(db: duckdb.DuckDBPyConnection, sources: Mapping[str, Source], pair: PairFile) -> str:
    """Why the staged logs cannot be read as they are; "" if they can."""
    try:
        if pair.format == "c2dsr":
            check_sequences(db, sources)
        zones = [check_log(db, d, sources[d], pair.layout) for d in DOMAINS]
        refuse_zone_of_one(pair.layout.timestamp, zones)
        check_ids(db, sources, pair)
    except DataError as error:
        return str(error)
    return ""


def _read(db: duckdb.DuckDBPyConnection, layout: Layout) -> dict[str, Source]:
    """Both logs into the database, unchecked, with the tables of their ids."""
    sources = {d: open_log(side, layout.columns, layout.format) for d, side in layout.sides.items()}
    for d, source in sources.items():
        stage_log(db, d, source, layout.columns)
    number_ids(db)
    return sources


def _righted(db: duckdb.DuckDBPyConnection, layout: Layout, swapped: str | None) -> Layout:
    """The layout with users and items the right way round, as far as the files tell."""
    # ids that look like nothing: with the columns the right way round, the files share users
    unshared = not shared_users(db) and shared_items(db) > 0
    columns = layout.columns
    if layout.format in HEADERLESS:
        return replace(layout, format=other_format(layout.format)) if swapped or unshared else layout
    if layout.format is None and (swapped or (unshared and columns.header is not None)):
        turned = columns.model_copy(update={"user": columns.item, "item": columns.user})
        return replace(layout, columns=turned)
    return layout


def _count_log(db: duckdb.DuckDBPyConnection, d: str, path: Path, unit: Unit) -> LogDescription:
    """Count a staged log, and remove its unusable events."""
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
        same_time_of_day=same / share,
        times=times,
        timed=timed,
    )


def _suspicions(log: LogDescription) -> list[str]:
    found = []
    name = log.path.name
    if log.without_id:
        found.append(f"{name}: {log.without_id:,} rows have no user, no item or no time that can be read")
    if log.before_1970:
        found.append(f"{name}: {log.before_1970:,} times are 0 or negative: Unix time counts from 1970")
    if log.after_now:
        found.append(f"{name}: {log.after_now:,} times lie in the future: another unit, or a clock that was wrong?")
    if not log.events:
        return [f"{name} has no usable event", *found]
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
    files: Mapping[str, LogDescription], shared_users: int, shared_items: int, integers: bool
) -> list[str]:
    found = []
    fewest = min(one.users for one in files.values())
    if not fewest:
        return []  # nothing is known of files without a usable event
    if not shared_users:
        instead = f", but {shared_items:,} ids of the item columns are: users and items may be swapped" * bool(
            shared_items
        )
        found.append(f"no user is in both files{instead}; a pair needs common user ids")
    if shared_items and integers:
        found.append(
            f"{shared_items:,} item ids are in both files and all ids are integers: if each file numbers its items by "
            f"itself, set same_ids_are_same_items: false"
        )
    return found


def _proposed(layout: Layout, home: Path, doubtful: bool) -> str:
    """The pair file's text; what lies outside ``home`` is named by its whole path."""
    names = names_of(layout)
    name = re.sub(r"[^\w.-]+", "_", f"{names['x']}_{names['y']}".lower())[:LONGEST_NAME] or "pair"
    lines = [_flow({"name": name})[1:-1]]  # quoted where YAML would read a number, as 2014_2015
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


def _place(first: Path, home: Path) -> str:
    return "beside the first log" if home.resolve() == first.resolve().parent else f"in {home}"


def _relative(path: Path, home: Path) -> str:
    resolved, folder = path.resolve(), home.resolve()
    return str(resolved.relative_to(folder) if resolved.is_relative_to(folder) else resolved)


def _flow(mapping: Mapping[str, Any]) -> str:
    return yaml.safe_dump(
        dict(mapping), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    ).strip()
