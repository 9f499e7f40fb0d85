"""What is odd about the times of logs that can be read: said, and not refused."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from i2vae_lib.data.logs.checks import FIRST_LOGS, date_of
from i2vae_lib.data.logs.database import first_row
from i2vae_lib.data.logs.pair_file import UNITS, Unit
from i2vae_lib.data.rows import DOMAINS

_ROUND = (100_000, 10_000, 1_000, 100, 64)  # seconds: steps of rounded times; 64: of float32, until 2004


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
        found += _placeholder(db, d, name, scale) + _counter(db, d, name)
        if hours >= 5 and odd and 0 in uneven:
            found.append(
                f"{name}: all times are multiples of {_ROUND[uneven.index(0)]} seconds, a step that no clock has: "
                f"rounded, as float32 and %g do? Events within a step have lost their order"
            )
        if 0 < seconds < FIRST_LOGS:
            later = date_of(seconds + 978_307_200)
            found.append(
                f"{name}: all times lie before {date_of(seconds)}, and no log is that old: do they count from 1970? "
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
            f"count from another year, or in another unit?"
        )
    return found + _same_times(db, names)


def _placeholder(db: duckdb.DuckDBPyConnection, d: str, name: str, scale: int) -> list[str]:
    """Whether many events have one time farther from all others than these lie apart."""
    ends = f"(SELECT min(t) AS a, max(t) AS b, count(*) AS total FROM raw_{d})"
    least, most, total, *at_ends = first_row(
        db,
        f"SELECT any_value(a), any_value(b), any_value(total), count(*) FILTER (t = a), min(t) FILTER (t > a), "
        f"count(*) FILTER (t = b), max(t) FILTER (t < b) FROM raw_{d}, {ends}",
    )
    for stamp, end, count, nearest in ((least, most, *at_ends[:2]), (most, least, *at_ends[2:])):
        if nearest is not None and count >= max(5, 0.001 * total) and abs(stamp - nearest) > abs(end - nearest):
            return [
                f"{name}: {count:,} of {total:,} events have the time {stamp} ({date_of(stamp // scale)}), far from "
                f"all others: does it stand for an unknown time?"
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
