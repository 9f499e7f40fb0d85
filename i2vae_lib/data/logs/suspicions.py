"""What is odd about the times of logs that can be read: said, and not refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import duckdb

from i2vae_lib.data.logs.checks import FIRST_LOGS, date_of
from i2vae_lib.data.logs.database import first_row
from i2vae_lib.data.logs.pair_file import SIZED, UNITS, Unit
from i2vae_lib.data.rows import DOMAINS

_APART = 90  # days without an event, between clusters
_FEW = 4  # days with events: of one stamp in several zones, or of several stamps
_PARTS = 20  # of a log's time
_ROUND = (100_000, 10_000, 1_000, 100, 64)  # seconds: steps of rounded times; 64: of float32, until 2004


class _Day(NamedTuple):
    number: int  # since 1970
    events: int
    first: int  # times, in their own unit
    last: int


def time_suspicions(db: duckdb.DuckDBPyConnection, names: Mapping[str, str], unit: Unit) -> list[str]:
    """What looks wrong with times that are read as they are, in their own unit (not yet in seconds)."""
    if unit == "order":
        return []
    found, spans = [], []
    for d, name in names.items():
        scale = UNITS[unit][1]
        unlike = ", ".join(f"count(*) FILTER (t % {step * scale} <> 0)" for step in (*_ROUND, 300))
        least, most, fine, hours, *uneven, odd = first_row(
            db,
            f"SELECT min(t), max(t), count(*) FILTER (t % 1000 <> 0), count(DISTINCT t % {86_400 * scale}), {unlike} "
            f"FROM raw_{d}",
        )
        seconds = most // scale
        spans.append((least // scale, seconds, name))
        found += _far(db, d, name, scale) + _half_days(db, d, name, unit) + _counter(db, d, name)
        if hours >= 5 and odd and 0 in uneven:
            found.append(
                f"{name}: all times are multiples of {_ROUND[uneven.index(0)]} seconds, a step that no clock has: "
                f"rounded, as float32 and %g do? Events within a step have lost their order"
            )
        if 0 < seconds < FIRST_LOGS:
            later = date_of(seconds + 978_307_200)
            found.append(
                f"{name}: all times lie before {date_of(seconds)}, and no log is that old: do they count "
                f"{'days (or weeks?) ' * (unit == 'd')}from 1970? "
                f"From 2001 on, as Apple counts, the last is {later}"
            )
        if unit == "ns" and fine:
            found.append(
                f"{name}: {fine:,} times are finer than microseconds, and hardly any clock is: are they numbers of "
                f"another kind (Snowflake ids)?"
            )
    (_, last, name), (first, _, other) = min(spans), max(spans)
    if last < first:
        found.append(
            f"all times of {name} lie before those of {other} ({date_of(last)} and {date_of(first)}): does one of them "
            f"count from another year (SAS and Stata: 1960, GPS: 1980), or in another unit?"
        )
    return found + _same_times(db, names)


def _far(db: duckdb.DuckDBPyConnection, d: str, name: str, scale: int) -> list[str]:
    """Whether many events lie on a few days, or scattered over years, far from all others."""
    sql = f"SELECT t // {86_400 * scale} AS day, count(*), min(t), max(t) FROM raw_{d} GROUP BY day ORDER BY day"
    days = [_Day(*one) for one in db.execute(sql).fetchall()]
    total = sum(one.events for one in days)
    many = max(5, 0.001 * total)
    clusters: list[list[_Day]] = []
    for one in days:
        if not clusters or one.number - clusters[-1][-1].number > _APART:
            clusters.append([])
        clusters[-1].append(one)
    few = [cluster for cluster in clusters if len(cluster) <= _FEW and _events(cluster) >= many]
    if len(few) == len(clusters) and _events(largest := max(few, key=_events)) >= 0.8 * total:
        few.remove(largest)  # a log of a few days
    rest = [day for cluster in clusters if cluster not in few for day in cluster]
    if not rest:
        return []
    first, last = rest[0].number, rest[-1].number
    found = []
    for cluster in few:
        if min(abs(cluster[0].number - last), abs(cluster[-1].number - first)) > max(last - first, _APART):
            least, most = cluster[0].first, cluster[-1].last
            dates = " to ".join(dict.fromkeys(date_of(time // scale) for time in (least, most)))
            times = f"times of {dates}" if least < most else f"the time {least} ({dates})"
            found.append(
                f"{name}: {_events(cluster):,} of {total:,} events have {times}, far from all others: unknown times, "
                f"for which something else stands?"
            )
    return found + _scattered(rest, total, name)


def _events(days: Sequence[_Day]) -> int:
    return sum(one.events for one in days)


def _scattered(days: Sequence[_Day], total: int, name: str) -> list[str]:
    """Whether most events lie in a tenth of the time, and the others evenly over all the rest of it."""
    first, length = days[0].number, days[-1].number - days[0].number + 1
    if length < 365:
        return []
    events = [0] * (_PARTS + 1)
    for one in days:
        events[(one.number - first) * _PARTS // length] += one.events
    at = max(range(_PARTS), key=lambda n: events[n] + events[n + 1])
    far = [count for n, count in enumerate(events) if n not in (at, at + 1) and count]
    if not max(5, 0.001 * total) <= sum(far) <= 0.15 * total or max(far) > 3 * sum(far) / _PARTS + 2 or len(far) < 5:
        return []
    start, end = (date_of((first + n * length // _PARTS) * 86_400) for n in (at, min(at + 2, _PARTS)))
    return [
        f"{name}: {sum(far):,} of {total:,} events are scattered over {length // 365} years, and all others lie from "
        f"{start} to {end}: unknown times, filled at random, or a clock that was wrong?"
    ]


def _half_days(db: duckdb.DuckDBPyConnection, d: str, name: str, unit: Unit) -> list[str]:
    """Whether hours count to twelve only, and those at both ends are no rare ones, as a shop's would be."""
    sql = f"SELECT t // {3_600 * UNITS[unit][1]} % 24 AS hour, count(*) FROM raw_{d} GROUP BY hour"
    hours = dict(db.execute(sql).fetchall())
    total = sum(hours.values())
    for first in (1,) if unit in SIZED else (1, 0):  # text is written in hours of a place, numbers hardly are
        ends = min(hours.get(first, 0), hours.get(first + 11, 0))
        if total >= 100 and len(hours) >= 6 and {*hours} <= {*range(first, first + 12)} and 4 * ends >= total / 12:
            return [
                f"{name}: the hours of all times are {first} to {first + 11}: a clock of twelve hours whose AM and PM "
                f"got lost? Then morning and evening are one; write times with hours to 23"
            ]
    return []


def _counter(db: duckdb.DuckDBPyConnection, d: str, name: str) -> list[str]:
    """Whether the times count the rows, from any number on and by any step."""
    total, least, most = first_row(db, f"SELECT count(*), min(t), max(t) FROM raw_{d}")
    if total < 10 or most == least or (most - least) % (total - 1):
        return []
    step = (most - least) // (total - 1)
    distinct, uneven = first_row(
        db, f"SELECT count(DISTINCT t), count(*) FILTER ((t - {least}) % {step} <> 0) FROM raw_{d}"
    )
    if uneven or distinct < total:
        return []
    return [
        f"{name}: the times are {least}, {least + step}, {least + 2 * step}, … and so count the rows: no clock does"
    ]


def _same_times(db: duckdb.DuckDBPyConnection, names: Mapping[str, str]) -> list[str]:
    """Whether the events of one file have the users and times of the other's: of 10,000 users or so, for speed."""
    [users] = first_row(db, "SELECT count(*) FROM users")
    part = f"WHERE hash(u) % {1 + users // 10_000} = 0 GROUP BY u, t"
    some = {d: f"(SELECT u, t, count(*) AS n FROM raw_{d} {part})" for d in DOMAINS}
    fewest, both = first_row(
        db,
        f"SELECT least((SELECT count(*) FROM {some['x']}), (SELECT count(*) FROM {some['y']})), "
        f"(SELECT count(*) FROM {some['x']} SEMI JOIN {some['y']} USING (u, t, n))",
    )
    if both < max(10, 0.9 * fewest):
        return []
    return [
        f"{both / fewest:.0%} of the users and times of {names['x']} or {names['y']} stand in the other as well: is it "
        f"one log under two kinds of item ids?"
    ]
