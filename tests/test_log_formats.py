"""Logs as they are in the world: each format is described, and the pair file of the description reads the same rows."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from i2vae_lib.audit.leaks import audit, fired
from i2vae_lib.data import DOMAINS, DataError, protocols
from i2vae_lib.data.loading import load_dataset
from i2vae_lib.data.logs.describe import describe_files
from i2vae_lib.data.logs.frames import write_pair
from i2vae_lib.data.logs.join import load_logs
from i2vae_lib.data.logs.pair_file import read_pair_file
from i2vae_lib.params import load

T = 1_388_700_123
Event = tuple[str, str, int]


def events(prefix: str, shift: int) -> list[Event]:
    """Five events of 30 users each, half a day apart; the users are numbered with gaps."""
    return [
        (f"{7 * u + 3}", f"{prefix}{(u + k) % 9}", T + 43_200 * (2 * k + shift) + 60 * u)
        for u in range(30)
        for k in range(5)
    ]


LOGS = {"x": events("1", 0), "y": events("2", 1)}


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def csv_of(rows: list[Event], time: Callable[[int], object] = lambda t: t) -> str:
    return "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{time(t)}\n" for u, i, t in rows)


def put(folder: Path, text: Callable[[list[Event]], str], ending: str = "csv") -> list[Path]:
    paths = [folder / f"{d}.{ending}" for d in DOMAINS]
    for d, path in zip(DOMAINS, paths, strict=True):
        path.write_text(text(LOGS[d]), encoding="utf-8")
    return paths


def read_as_described(folder: Path, *paths: Path):
    found = describe_files(*paths)
    assert found.yaml, found.refusal
    (folder / "pair.yaml").write_text(found.yaml, encoding="utf-8")
    return found, load_logs(read_pair_file(folder / "pair.yaml"))


def triples(pair, d: str) -> list[Event]:
    log = pair.log.events[d]
    ids = pair.catalogue.decode(d, log.item)
    return sorted(zip(pair.log.users[log.user].tolist(), ids.tolist(), log.time.tolist(), strict=True))


ZONE = timedelta(hours=9)
TIMES: dict[str, tuple[Callable[[int], object], int]] = {  # how a time is written, and to how many seconds
    "iso with a zone": (lambda t: (moment(t) + ZONE).strftime("%Y-%m-%dT%H:%M:%S+09:00"), 1),
    "iso without": (lambda t: moment(t).strftime("%Y-%m-%d %H:%M:%S"), 1),
    "iso with a comma": (lambda t: moment(t).strftime('"%Y-%m-%d %H:%M:%S,123"'), 1),
    "iso with an hour": (lambda t: moment(t).strftime("%Y-%m-%dT%H"), 3_600),
    "iso with an hour and a zone": (lambda t: (moment(t) + ZONE).strftime("%Y-%m-%dT%H +0900"), 3_600),
    "iso in lower case": (lambda t: moment(t).strftime("%Y-%m-%dt%H:%M:%Sz"), 1),
    "iso without signs": (lambda t: (moment(t) + ZONE).strftime("%Y%m%dT%H%M%S+0900"), 1),
    "iso without signs, in parts of a second": (lambda t: moment(t).strftime("%Y%m%dT%H%M%S.250Z"), 1),
    "iso in UTC": (lambda t: moment(t).strftime("%Y-%m-%d %H:%M:%S UTC"), 1),
    "iso day": (lambda t: moment(t).strftime("%Y-%m-%d"), 86_400),
    "YYYYMMDD": (lambda t: moment(t).strftime("%Y%m%d"), 86_400),
    "YYYYMMDDHH": (lambda t: moment(t).strftime("%Y%m%d%H"), 3_600),
    "YYYYMMDDHHMM": (lambda t: moment(t).strftime("%Y%m%d%H%M"), 60),
    "YYYYMMDDHHMMSS": (lambda t: moment(t).strftime("%Y%m%d%H%M%S"), 1),
    "YYYYMMDDHHMMSSfff": (lambda t: moment(t).strftime("%Y%m%d%H%M%S123"), 1),
    "YYYYMMDDHHMMSS.f": (lambda t: moment(t).strftime("%Y%m%d%H%M%S.5"), 1),
    "days": (lambda t: t // 86_400, 86_400),
    "days with a fraction": (lambda t: f"{t / 86_400:.6f}", 1),
    "days as doubles": (lambda t: repr(t / 86_400), 1),
    "scientific": (lambda t: f"{t:.9e}", 1),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_when_written_otherwise_are_read_as_described(tmp_path, kind):
    write, step = TIMES[kind]
    _, pair = read_as_described(tmp_path, *put(tmp_path, lambda rows: csv_of(rows, write)))
    for d in DOMAINS:
        expected = sorted((u, i, t // step * step) for u, i, t in LOGS[d])
        assert triples(pair, d) == expected
    if step in (1, 86_400):  # whole hours of these logs all stand at one time of day
        assert pair.log.resolution == step


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda t: moment(t).strftime("%Y%m%d"), "dates written as digits, .*set columns.unit: date"),
        (lambda t: moment(t).strftime("%Y%m%d%H%M%S"), "dates written as digits, .*set columns.unit: date"),
        (lambda t: t // 86_400, "days since 1970 .*set columns.unit: d"),
        (lambda t: (t - T) % 9_999_991, "as Unix time all 150 events are of 1970"),
        (lambda t: f'"{t:,}"', "digits only, without thousands separators"),
        (lambda t: f'"{t},0"', "write the decimal comma as a point"),
        (lambda t: f"{t:.3e}", "digits were rounded away"),
        (lambda t: f"{moment(t):%a, %d %b %Y %H:%M:%S +0000}".join('""'), "another notation.* as ISO 8601"),
        (lambda t: f"2014-02-{28 + t // 60 % 3}", "another notation.* as ISO 8601"),
        (lambda t: f"{t:08x}a1b2c3d4e5f60718", "an ObjectId of MongoDB.* first 8 digits, .* base 16"),
        (lambda t: t * 10, r"but tenths of a second .*2014-01-02 to 2014-01-06.* are value \* 0.1;"),
        (lambda t: t // 60, r"but minutes since 1970 .*2014-01-02 to 2014-01-06.* are value \* 60;"),
        (lambda t: t // 3600, r"but hours since 1970 .*2014-01-02 to 2014-01-06.* are value \* 3600;"),
        (lambda t: f"{t / 86_400 + 2_440_587.5:.4f}", r"but Julian .*-01-06.*value \* 86400 - 210866760000;"),
        (lambda t: t // 86_400 + 25_569, r"a spreadsheet, .*-01-02 to .*-01-06.*value \* 86400 - 2209161600;"),
        (lambda t: t // 86_400 + 40_587, r"modified Julian .*-01-02 to .*-01-06.*value \* 86400 - 3506716800;"),
        (lambda t: t // 86_400 + 719_529, r"MATLAB.*-01-02 to .*-01-06.*value \* 86400 - 62167305600;"),
        (lambda t: t + 2_208_988_800, "but seconds since 1900 or 1904"),
        (lambda t: t + 2_082_844_800, "but seconds since 1900 or 1904"),
    ],
)
def test_times_when_they_are_no_seconds_are_refused_under_that_unit(tmp_path, write, message):
    put(tmp_path, lambda rows: csv_of([(u, i, t + 1) for u, i, t in rows], write))
    with pytest.raises(DataError, match=message):
        load_logs(written(tmp_path, unit="s"))


@pytest.mark.parametrize(
    ("write", "notation", "unit"),
    [
        ("%Y%d%m", "YYYYDDMM", "s"),
        ("%Y%d%m%H%M%S", "YYYYDDMMHHMMSS", "iso"),
        ("%Y%j", "YYYYDDD", "date"),
        ("%Y%m", "YYYYMM", "s"),
        ("%d%m%Y", "DDMMYYYY", "date"),
        ("%m%d%Y", "MMDDYYYY", "d"),
        ("%d%m%Y%H%M", "DDMMYYYYHHMM", "s"),
        ("%d%m%Y%H", "DDMMYYYYHH", "s"),
        ("%y%m%d%H", "YYMMDDHH", "s"),
        ("%y%m%d", "YYMMDD", "s"),
        ("%d%m%y", "DDMMYY", "s"),
        ("%m%d%y%H%M", "MMDDYYHHMM", "s"),
        ("%y%m%d%H%M%S", "YYMMDDHHMMSS", "date"),
        ("%y%m%d%H%M", "YYMMDDHHMM", "date"),
        ("%y%j", "YYDDD", "s"),
        ("%y%j", "YYDDD", "d"),
        ("%j%Y", "DDDYYYY", "s"),
        ("%y%j%H%M", "YYDDDHHMM", "s"),
        ("%m%Y", "MMYYYY", "s"),
        ("%y%m", "YYMM", "s"),
        ("%G%V", "YYYYWW", "s"),
        ("%V%G", "WWYYYY", "date"),
        ("%H%M%S%Y%m%d", "HHMMSSYYYYMMDD", "ms"),
        ("%H%M%d%m%Y", "HHMMDDMMYYYY", "ms"),
        ("%H%Y%m%d", "HHYYYYMMDD", "s"),
        ("%d%m%Y%H%M%S123", "DDMMYYYYHHMMSSfff", "us"),
    ],
)
def test_dates_as_digits_in_another_notation_are_named_and_can_be_rewritten_as_told(tmp_path, write, notation, unit):
    def spread(t: int) -> datetime:
        return moment(T - 10**8 + 300 * (t - T))  # over years

    paths = put(tmp_path, lambda rows: csv_of(rows, lambda t: spread(t).strftime(write).lstrip("0")))
    with pytest.raises(DataError, match=rf"dates written as digits \({notation}\).*: write them as") as caught:
        load_logs(written(tmp_path, unit=unit))
    assert "columns.unit: date" in str(caught.value) and "minutes since" not in str(caught.value)
    width, monday, told = re.search(r"zfill\((\d+)\)(?: \+ '(1)')?, format='(.*?)'\)", str(caught.value)).groups("")
    assert notation in describe_files(*paths).refusal
    for path in paths:
        log = pd.read_csv(path)
        log["timestamp"] = pd.to_datetime(log["timestamp"].astype(str).str.zfill(int(width)) + monday, format=told)
        log["timestamp"] = log["timestamp"].dt.strftime("%Y%m%d%H%M%S")
        log.to_csv(path, index=False)
    _, pair = read_as_described(tmp_path, *paths)
    write = write.replace("123", "")
    texts = [spread(t).strftime(write) + monday for *_, t in LOGS["x"]]
    write += "%u" * bool(monday)
    expected = [datetime.strptime(text, write).replace(tzinfo=UTC).timestamp() for text in texts]
    assert sorted(time for *_, time in triples(pair, "x")) == sorted(expected)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda t: f"{t.year}{(t.month + 2) // 3}", r"\(YYYYQ\).*str\[:4\] \+ .*str\[-1\]\.map"),
        (lambda t: f"{(t.month + 2) // 3}{t.year}", r"QYYYY\).*str\[1:\] \+ .*str\[0\]\.map"),
        (lambda t: f"{t:%H%M%S}", "HHMMSS, without the day"),
        (lambda t: f"{t:%m%d}", "MMDD, without the year"),
    ],
)
@pytest.mark.parametrize("unit", ["s", "d", "date"])
def test_quarters_and_parts_of_dates_are_named(tmp_path, write, told, unit):
    paths = put(tmp_path, lambda rows: csv_of(rows, lambda t: write(moment(T - 10**8 + 301 * (t - T))).lstrip("0")))
    with pytest.raises(DataError, match=told):
        load_logs(written(tmp_path, unit=unit))
    assert re.search(told, describe_files(*paths).refusal)


@pytest.mark.parametrize(("first", "last"), [(15001, 15400), (14990, 15380), (16001, 16366), (20131, 20134)])
def test_days_that_happen_to_look_like_dates_are_read(tmp_path, first, last):
    """Days since 1970; YYDDD and YYYYQ fit most of these."""
    count = iter(range(10**6))

    def some_day(_: int) -> int:
        return first + next(count) * 97 % (last - first + 1)

    found, pair = read_as_described(tmp_path, *put(tmp_path, lambda rows: csv_of(rows * 5, some_day)))
    assert found.columns.unit == "d" and not pair.suspicions


@pytest.mark.parametrize(
    ("write", "unit", "message"),
    [
        (lambda t: moment(t).strftime("%y%m%d%H%M%S"), "ms", r"YYMMDDHHMMSS.*set columns.unit: date"),
        (lambda t: (t + 11_644_473_600) * 10**7, "ns", r"since 1601 \(FILETIME\)"),
        (lambda t: (t + 62_135_596_800) * 10**7, "ns", r"\(.NET ticks\)"),
        (lambda t: (t + 11_644_473_600) * 10**6, "us", r"since 1601 \(WebKit\)"),
    ],
)
def test_times_of_another_clock_are_refused_and_described(tmp_path, write, unit, message):
    paths = put(tmp_path, lambda rows: csv_of(rows, write))
    with pytest.raises(DataError, match=message):
        load_logs(written(tmp_path, unit=unit))
    found = describe_files(*paths)
    assert re.search(message, found.refusal) and not [one for one in found.suspicious if "no log is that old" in one]


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda t: t - 978_307_200, "all times lie before 1983-.* no log is that old"),
        (lambda t: (t - 978_307_200) * 1000, "all times lie before 1983-.* no log is that old"),
        (lambda t: (t * 1000 - 1_288_834_974_657) << 22, "before .* no log is that old"),
        (lambda t: (t * 1000 + 86_400_000 * 3000 - 1_288_834_974_657) << 22, "150 times are finer than microseconds"),
        (lambda t: moment(t - 86_400 * 365 * 30).isoformat(), "all times lie before 198.* no log is that old"),
        (lambda t: (T + 30 * (t - T)) // 10**5 * 10**5, "all times are multiples of 100000 seconds, a step"),
        (lambda t: t // 100 * 100_000, "all times are multiples of 100 seconds, a step"),
        (lambda t: 999_999_999 if t % 7 == 3 else t, r"events have the time 999999999 \(2001-09-09\), far from all"),
        (lambda t: 1_700_000_000 if t % 7 == 3 else t, r"events have the time 1700000000 .*, far from all"),
        (lambda t: int(np.float32(t)), "all times are multiples of 64 seconds, a step .*float32"),
    ],
)
def test_times_that_may_count_from_elsewhere_are_suspicious(tmp_path, write, told):
    found, pair = read_as_described(tmp_path, *put(tmp_path, lambda rows: csv_of(rows, write)))
    for suspicious in (found.suspicious, pair.suspicions):
        assert len([one for one in suspicious if re.search(told, one)]) == 2


def many(folder: Path, write: Callable[[int, np.random.Generator], object]) -> list[Path]:
    """Two logs of 1,000 events within 330 days, at any time of a day."""
    rng = np.random.default_rng(0)

    def text(_: list[Event]) -> str:
        times = [T + int(n) for n in rng.integers(330 * 86_400, size=1_000)]
        return csv_of([(str(n % 90), f"i{n % 40}", t) for n, t in enumerate(times)], lambda t: write(t, rng))

    return put(folder, text)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda t, rng: (1_199_145_600, 1_577_836_800)[t % 2] if t % 11 == 3 else t, "2008-01-01.*, far from all"),
        (lambda t, rng: (1_199_145_600, 1_577_836_800)[t % 2] if t % 11 == 3 else t, "2020-01-01.*, far from all"),
        (lambda t, rng: 946_684_800 + t % 50_000 if t % 20 == 3 else t, "have times of 2000-01-01, far from all"),
        (lambda t, rng: 946_684_800 + 3_600 * (t % 24 - 12) if t % 20 == 3 else t, "times of 1999-12-31 to 2000-01-01"),
        (lambda t, rng: rng.integers(8 * 10**8, T) if t % 20 == 3 else t, "events are scattered over 19 years"),
        (lambda t, rng: rng.integers(10**9, 17 * 10**8) if t % 20 == 3 else t, "events are scattered over 2. years"),
        (lambda t, rng: moment(t).strftime("%Y-%m-%d %I:%M:%S"), "hours of all times are 1 to 12: a clock of twelve"),
        (lambda t, rng: f"{moment(t):%Y-%m-%d} {moment(t).hour % 12:02}:30", "hours of all times are 0 to 11"),
        (lambda t, rng: moment(t).strftime("%Y%m%d%I%M%S"), "the hours of all times are 1 to 12"),
    ],
)
def test_times_that_stand_for_others_are_suspicious(tmp_path, write, told):
    found, pair = read_as_described(tmp_path, *many(tmp_path, write))
    for suspicious in (found.suspicious, pair.suspicions):
        assert len([one for one in suspicious if re.search(told, one)]) == 2, suspicious


@pytest.mark.parametrize(
    "write",
    [
        lambda t, rng: t,
        lambda t, rng: t - 1_400 * 86_400 if t % 12 == 3 else t,  # two periods
        lambda t, rng: T - int(rng.exponential() * 86_400 * 365),  # more and more events
        lambda t, rng: T - int(rng.lognormal() * 86_400 * 100),
        lambda t, rng: t // 604_800 * 604_800 + t % 86_400,  # a day of each week
        lambda t, rng: T + 86_400 * 100 * (t % 3) + t % 30_000,  # three sessions
        lambda t, rng: t // 86_400 * 86_400 + int(3_600 + sum(rng.random(3)) * 4 * 3_600),  # a shop's hours
        lambda t, rng: moment(t).strftime("%Y-%m-%d"),
    ],
)
def test_times_as_events_have_them_are_not_suspicious(tmp_path, write):
    found, pair = read_as_described(tmp_path, *many(tmp_path, write))
    for suspicious in (found.suspicious, pair.suspicions):
        assert not [one for one in suspicious if re.search("far from all|scattered|hours of all", one)]


@pytest.mark.parametrize(("first", "step"), [(10**9, 1), (T, 7), (T * 1000, 1000)])
def test_times_that_count_the_rows_are_suspicious_in_the_audit_too(tmp_path, first, step):
    number = iter(range(10**6))
    paths = put(tmp_path, lambda rows: csv_of(rows, lambda _: first + step * next(number)))
    found, pair = read_as_described(tmp_path, *paths)
    for suspicious in (found.suspicious, pair.suspicions):
        assert len([one for one in suspicious if "so count the rows" in one]) == 2


@pytest.mark.parametrize(
    ("header", "line", "when", "others"),
    [
        ("user,item,price,datetime", lambda e, n: f"{n},{moment(e[2])}", "datetime", []),
        ("user,item,price,created", lambda e, n: f"{n},{moment(e[2])}", "created", ["price"]),
        ("user,item,lifetime_value,rated_at", lambda e, n: f"{n},{e[2]}", "rated_at", ["lifetime_value"]),
        ("user,item,candidates,ratedAt", lambda e, n: f"{n}000,{moment(e[2])}", "ratedAt", ["candidates"]),
        ("user,item,timestamp,price", lambda e, n: f"{e[2] // 86_400},{n}", "timestamp", ["price"]),
        ("user,item,timestamp,price", lambda e, n: f"{e[2]},{n}", "timestamp", []),
        ("user,item,views,when", lambda e, n: f"{10**10 + n},{e[2]}", "when", []),
        ("user,item,updated_at,released_at", lambda e, n: f"{e[2]},{n}", "updated_at", ["released_at"]),
    ],
)
def test_time_beside_other_large_numbers_is_found(tmp_path, header, line, when, others):
    def text(rows):
        return header + "\n" + "".join(f"{e[0]},{e[1]},{line(e, 10**9 + 7**7 * n)}\n" for n, e in enumerate(rows))

    found, pair = read_as_described(tmp_path, *put(tmp_path, text))
    step = 1 if "//" not in str(line(LOGS["x"][0], 0)) and found.columns.unit != "d" else 86_400
    assert found.columns.timestamp == when
    assert triples(pair, "x") == sorted((u, i, t // step * step) for u, i, t in LOGS["x"])
    told = [one for one in found.suspicious if "the time is taken from column" in one]
    assert all(any(repr(other) in one for one in told) for other in others) and bool(told) == bool(others)


def test_time_of_day_beside_the_day_is_told(tmp_path):
    lines = "".join(f"{u},{i},{moment(t):%Y-%m-%d,%H:%M:%S}\n" for u, i, t in LOGS["x"])
    for d in DOMAINS:
        (tmp_path / f"{d}.csv").write_text("user_id,item_id,date,clock\n" + lines)
    found = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    assert found.columns.timestamp == "date"
    assert [one for one in found.suspicious if "'clock' holds the time of a day, such as '22:02:03', and is" in one]


def test_time_when_two_columns_look_alike_is_not_guessed(tmp_path):
    def text(rows):
        return "user,item,price,moment\n" + "".join(f"{u},{i},{10**9 + n},{t}\n" for n, (u, i, t) in enumerate(rows))

    with pytest.raises(DataError, match="cannot tell which column holds the time: price, moment look like times"):
        describe_files(*put(tmp_path, text))


@pytest.mark.parametrize("name", ["rating_time", "ratedAt", "day"])
def test_column_named_like_a_time_that_holds_none_is_told(tmp_path, name):
    """Otherwise an order of lines that may mean nothing is taken without a word."""

    def text(rows):
        return f"user,item,{name}\n" + "".join(f"{u},{i},around noon {n}\n" for n, (u, i, _) in enumerate(rows))

    found = describe_files(*put(tmp_path, text))
    assert found.columns.unit == "order"
    assert len([one for one in found.suspicious if f"column {name!r} is named like a time" in one]) == 2


def test_users_with_all_their_items_on_a_line_are_told_to_have_a_line_an_event(tmp_path):
    def files(text):
        for d in DOMAINS:
            (tmp_path / f"{d}.txt").write_text("".join(text(3 * u) for u in range(30)))
        return tmp_path / "x.txt", tmp_path / "y.txt"

    with pytest.raises(DataError, match=r"line 2: 4 fields where .* if a line is a user with all items, write"):
        describe_files(*files(lambda u: f"{u}" + f" {u + 1}" * (2 + u % 2) + "\n"))
    with pytest.raises(DataError, match=r"line 1: .* separated by tabs and by ',': .* write a line for each event"):
        describe_files(*files(lambda u: f"{u}\t{u + 5},7,8\n"))
    found = describe_files(*files(lambda u: f"{u} {u + 5} 7 8 9\n"))
    assert len([one for one in found.suspicious if "no time and 5 numbers a line: if a line is a user" in one]) == 2


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("rating", ["5", None])
@pytest.mark.parametrize("first", [0, 1000])
def test_column_that_numbers_the_rows_is_left_out_where_there_is_no_header(tmp_path, separator, rating, first):
    def text(rows):
        cells = ([n, u, i, *([rating] if rating else []), t] for n, (u, i, t) in enumerate(rows, first))
        return "".join(separator.join(map(str, one)) + "\n" for one in cells)

    found, pair = read_as_described(tmp_path, *put(tmp_path, text))
    assert triples(pair, "x") == sorted(LOGS["x"])
    assert [one for one in found.suspicious if "first column numbers the rows" in one]


def written(folder: Path, ending: str = "csv", **columns) -> Path:
    """A pair file by hand."""
    layout = {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "unit": "s"} | columns
    content = {d: {"name": f"Side {d}", "path": f"{d}.{ending}"} for d in DOMAINS}
    content |= {"name": "hand", "columns": layout, "min_user": 1, "min_item": 1}
    (folder / "hand.yaml").write_text(yaml.safe_dump(content))
    return folder / "hand.yaml"


@pytest.mark.parametrize("kind", [pd.Timestamp, "date"])
def test_parquet_when_it_has_dates_is_read(tmp_path, kind):
    paths = []
    for d in DOMAINS:
        frame = pd.DataFrame(LOGS[d], columns=["user_id", "item_id", "timestamp"])
        when = pd.to_datetime(frame["timestamp"], unit="s", utc=True)
        frame["timestamp"] = when.dt.date if kind == "date" else when.dt.tz_convert("Asia/Tokyo")
        paths.append(tmp_path / f"{d}.parquet")
        frame.to_parquet(paths[-1])
    found, pair = read_as_described(tmp_path, *paths)
    step = 86_400 if kind == "date" else 1
    assert found.columns.unit == "iso"
    assert triples(pair, "x") == sorted((u, i, t // step * step) for u, i, t in LOGS["x"])


def test_days_when_they_start_at_another_hour_are_days(tmp_path):
    found, pair = read_as_described(
        tmp_path, *put(tmp_path, lambda rows: csv_of(rows, lambda t: t // 86_400 * 86_400 + 7 * 3_600))
    )
    assert pair.log.resolution == 86_400 and any("day resolution" in one for one in found.suspicious)


FORMATS: dict[str, tuple[str, Callable[[Event], str], str]] = {  # header, line, ending
    "CDRIB, MovieLens 100K": ("", lambda e: f"{e[0]}\t{e[1]}\t5\t{e[2]}", "txt"),
    "MovieLens 1M": ("", lambda e: f"{e[0]}::{e[1]}::5::{e[2]}", "dat"),
    "blanks": ("", lambda e: f"{e[0]} {e[1]} 5 {e[2]}", "txt"),
    **{
        f"separated by {sign!r}": (
            f"user_id{sign}item_id{sign}timestamp\n",
            lambda e, sign=sign: sign.join((e[0], e[1], moment(e[2]).isoformat())),
            "csv",
        )
        for sign in (*"^~!*¦\x1f\x1e\x02'.þ", "->", "<>", ":::", "||", "|~|", " -> ", "\u00a0")
    },
    "separated by '-'": ("user_id-item_id-timestamp\n", lambda e: f"{e[0]}-{e[1]}-{e[2]}", "csv"),
    "blanks in names": (
        "user id^item id^time stamp\n",
        lambda e: f"{e[0]}^{e[1]}^{moment(e[2]):%Y-%m-%d %H:%M:%S}",
        "csv",
    ),
    "no header, separated by '_'": ("", lambda e: f"{e[0]}_{e[1]}_{e[2]}", "csv"),
    "no header, separated by '->'": ("", lambda e: f"{e[0]}->{e[1]}->{e[2]}", "csv"),
    "no header, separated by '^'": ("", lambda e: f"{e[0]}^{e[1]}^{moment(e[2]).isoformat()}", "csv"),
    "control-A": ("", lambda e: f"{e[0]}\x01{e[1]}\x015\x01{e[2]}", "txt"),
    "time first": ("", lambda e: f"{e[2]}\t{e[0]}\t{e[1]}", "tsv"),
    "RecBole": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
        lambda e: f"{e[0]}\t{e[1]}\t5.0\t{e[2]}.0",
        "inter",
    ),
    "KuaiRand": (
        "user_id,video_id,item_id,date,hourmin,time_ms,is_click\n",
        lambda e: f"{e[0]},v,{e[1]},{moment(e[2]):%Y%m%d},{moment(e[2]):%H%M},{e[2]}007,1",
        "csv",
    ),
    "JSON lines": (
        "",
        lambda e: json.dumps({"rating": 5.0, "user_id": e[0], "item_id": e[1], "timestamp": e[2], "more": [1, {}]}),
        "jsonl",
    ),
    "Amazon 2023": (
        "",
        lambda e: json.dumps(
            {"rating": 5.0, "asin": "other", "parent_asin": e[1], "user_id": e[0], "timestamp": e[2] * 1000 + 7}
        ),
        "jsonl",
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_format_when_described_is_read(tmp_path, name):
    header, line, ending = FORMATS[name]
    paths = put(tmp_path, lambda rows: header + "".join(line(one) + "\n" for one in rows), ending)
    found, pair = read_as_described(tmp_path, *paths)
    for d in DOMAINS:
        assert triples(pair, d) == sorted(LOGS[d]), found.text()


def test_one_file_when_a_column_tells_the_domain_is_two_logs(tmp_path):
    rows = [(*one, name) for d, name in (("x", "books"), ("y", "films")) for one in LOGS[d]]
    text = "user_id,item_id,timestamp,category\n" + "".join(f"{u},{i},{t},{c}\n" for u, i, t, c in rows)
    (tmp_path / "log.csv").write_text(text)
    found, pair = read_as_described(tmp_path, tmp_path / "log.csv")
    assert pair.catalogue.names == {"x": "books", "y": "films"} and "'category'" in found.text()
    assert all(triples(pair, d) == sorted(LOGS[d]) for d in DOMAINS)
    (tmp_path / "log.csv").write_text(text + f"1,2,{T},games\n")
    with pytest.raises(DataError, match=r"has 3 values, and a pair has two domains: choose two of 'books'"):
        describe_files(tmp_path / "log.csv")


def put_c2dsr(folder: Path) -> dict[str, str]:
    """Texts of C2DSR's files by name, written to the folder."""
    items = {d: sorted({i for _, i, _ in LOGS[d]}) for d in DOMAINS}
    number = {i: n for n, i in enumerate(items["x"] + items["y"])}
    texts = {
        name: "".join(f"{i}\t{number[i]}\n" for i in items[d])
        for d, name in zip(DOMAINS, ("Alist.txt", "Blist.txt"), strict=True)
    }
    users = sorted({u for u, _, _ in LOGS["x"]})
    lines = [
        "\t".join([str(n), user, *(f"{number[i]}|{t}" for d in DOMAINS for u, i, t in LOGS[d] if u == user)]) + "\n"
        for n, user in enumerate(users)
    ]
    texts |= {"traindata_new.txt": "".join(lines[:20]), "testdata_new.txt": "".join(lines[20:])}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return texts


def test_c2dsr_when_described_is_read_with_its_item_ids(tmp_path):
    put_c2dsr(tmp_path)
    found, pair = read_as_described(tmp_path, tmp_path / "traindata_new.txt", tmp_path / "testdata_new.txt")
    assert "C2DSR" in found.text() and all(triples(pair, d) == sorted(LOGS[d]) for d in DOMAINS)


@pytest.mark.parametrize(
    ("name", "line", "instead", "told"),
    [
        ("Alist.txt", r"^10\t0\n", "", "testdata_new.txt, line 2: item number '0' stands in neither list"),
        ("Alist.txt", r"^", r"10\t0\n", "Alist.txt, line 1: item number '0' stands twice in the lists"),
        ("Alist.txt", r"^", r"19\t0\n", "Alist.txt, line 1: item number '0' stands twice in the lists"),
        ("Alist.txt", r"^", r"10\t99\n", "Alist.txt, line 1: item '10' stands twice in the list"),
        ("Blist.txt", r"^", r"10\t0\n", "Alist.txt, line 1: item number '0' stands twice in the lists"),
        ("Blist.txt", r"^20\t9", "20 9", "Blist.txt, line 1: '20 9' is no item of a list"),
        ("Blist.txt", r"^20\t9", r"20\t9.0", "Blist.txt, line 1: .* is no item of a list"),
        ("testdata_new.txt", r"\|\d+", "", r"testdata_new.txt, line 1: '\d+' is no event: the item's number, \|, the"),
        ("testdata_new.txt", r"\|\d+", "|", r"testdata_new.txt, line 1: .* is no event"),
    ],
)
def test_c2dsr_when_a_file_would_lose_or_double_events_is_refused(tmp_path, name, line, instead, told):
    texts = put_c2dsr(tmp_path)
    paths = tmp_path / "traindata_new.txt", tmp_path / "testdata_new.txt"
    (tmp_path / "pair.yaml").write_text(describe_files(*paths).yaml)
    (tmp_path / name).write_text(re.sub(line, instead, texts[name], count=1))
    with pytest.raises(DataError, match=told):
        load_logs(read_pair_file(tmp_path / "pair.yaml"))
    assert re.search(told, describe_files(*paths).refusal)


def test_released_layout_of_any_pair_when_described_runs_under_strict(tmp_path):
    rng = np.random.default_rng(0)

    def table(users: range) -> str:
        rows = [
            f'{u},"{rng.permutation(40)[:6].tolist()}","{(50 + rng.permutation(40)[:6]).tolist()}",{u % 2}'
            for u in users
        ]
        return "user_id,seq_d1,seq_d2,domain_id\n" + "\n".join(rows) + "\n"

    for name, users in (("train", range(60)), ("test", range(60, 80))):
        (tmp_path / f"{name}.csv").write_text(table(users))
    found = describe_files(tmp_path / "train.csv", tmp_path / "test.csv")
    (tmp_path / "pair.yaml").write_text(found.yaml)
    p = load("smoke", {}, data=str(tmp_path / "pair.yaml"), protocol="strict")
    dataset = load_dataset(p)
    assert len(dataset.splits["test"]) == 20 and "60 rows of 60 users" in found.text()
    with pytest.raises(DataError, match="choose released or strict"):
        load_dataset(load("smoke", {}, data=str(tmp_path / "pair.yaml"), protocol="chronological"))


@pytest.mark.parametrize("ordered_by", ["lines", "counter", "tenrec"])
def test_order_without_times_when_read_shows_the_whole_other_domain(tmp_path, ordered_by):
    def text(rows: list[Event]) -> str:
        if ordered_by == "lines":
            return "".join(f"{u}\t{i}\t1\n" for u, i, _ in rows)
        if ordered_by == "tenrec":
            return "user_id,item_id,click,watching_times\n" + "".join(f"{u},{i},1,2\n" for u, i, _ in rows)
        return csv_of([(u, i, n) for n, (u, i, _) in enumerate(rows, 1)])

    found, pair = read_as_described(tmp_path, *put(tmp_path, text))
    assert found.columns.unit == "order" and "nothing tells which events of the other domain came" in found.text()
    p = load("smoke", {}, protocol="chronological")
    dataset = protocols.apply("chronological", pair, p.split, p.controls)
    assert any("No common time" in one for one in dataset.notes)
    for d, rows in ((d, rows) for d in DOMAINS for rows in dataset.splits.values()):
        other = "y" if d == "x" else "x"
        of = rows.take(rows.of(d))
        assert (of.history[other].lengths == 5).all() and of.moment is None
        last = {u: i for u, i, _ in LOGS[d]}  # the last line of each user
        targets = of.catalogue.decode(d, of.target)
        assert targets.tolist() == [last[u] for u in of.user]
    found_audit = audit(dataset)
    assert fired(found_audit).empty and "no common time" in set(found_audit["check"])
    with pytest.raises(DataError, match="protocol temporal cuts at moments"):
        protocols.apply("temporal", pair, p.split, p.controls)


def test_times_when_all_are_equal_are_refused_and_described(tmp_path):
    paths = put(tmp_path, lambda rows: csv_of(rows, lambda t: T))
    found = describe_files(*paths)
    assert not found.yaml and "all 150 times are equal" in found.text() and "no pair file" in found.text()
    p = load("smoke", {}, protocol="chronological")
    with pytest.raises(DataError, match=r"none of the 60 rows .* sees anything of the other domain: all times"):
        protocols.apply("chronological", load_logs(written(tmp_path)), p.split, p.controls)


def test_rows_blind_to_the_other_domain_are_counted(tmp_path):
    """Ten users take everything of y after their last event of x: those rows of x see nothing of y."""
    late = {u for u, _, _ in LOGS["y"][:50]}
    texts = {
        "x": csv_of(LOGS["x"]),
        "y": csv_of([(u, i, t + 10**8 * (u in late)) for u, i, t in LOGS["y"]]),
    }
    for d in DOMAINS:
        (tmp_path / f"{d}.csv").write_text(texts[d])
    p = load("smoke", {"split.cold_share": 0.0}, protocol="chronological")
    dataset = protocols.apply("chronological", load_logs(written(tmp_path)), p.split, p.controls)
    rows = sum(map(len, dataset.splits.values()))
    assert f"10 of {rows} rows of users with both domains see nothing of the other domain." in dataset.notes
    line = audit(dataset).set_index("check").loc["row that sees nothing of the other domain"]
    assert line["count"] == 10
    dataset.save(tmp_path / "saved")
    assert list(type(dataset).load(tmp_path / "saved").notes) == list(dataset.notes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda u: u + " ", "10 user ids have a blank or an invisible character at an end, and 10 of them"),
        (lambda u: u + "\u00a0", "10 user ids have a blank or an invisible character at an end, and 10 of them"),
        (lambda u: u + ".0", "10 user ids have a decimal point"),
        ("\x1b[31m{}".format, "10 user ids have a control character, and 10 of them"),
        (lambda u: u[:1] + "\x07" + u[1:], "10 user ids have a control character, and 10 of them"),
        (lambda u: "00" + u, "10 user ids have leading zeros, and 10 of them"),
    ],
)
def test_ids_when_nearly_equal_are_suspicious(tmp_path, change, told):
    odd = {u for u, _, _ in LOGS["y"][:50]}
    rows = [("guest", "20", T), *((change(u) if u in odd else u, i, t) for u, i, t in LOGS["y"])]
    (tmp_path / "x.csv").write_text(csv_of(LOGS["x"]))
    (tmp_path / "y.csv").write_text(csv_of(rows))
    found, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
    assert any(told in one for one in found.suspicious) and any(told in one for one in pair.suspicions)
    p = load("smoke", {}, protocol="chronological")
    table = audit(protocols.apply("chronological", pair, p.split, p.controls))
    assert any(told in one for one in table.loc[table["check"] == "suspicious", "example"])


INTACT = "{:d}".format
STEAM = {u: 76_561_197_960_265_728 + 99_991 * int(u) for u, _, _ in LOGS["x"]}
DENSE = {u: 76_561_197_960_265_728 + 3 * int(u) for u in STEAM}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([INTACT, lambda n: f"{float(n):.14e}"[:16].replace(".", "") + "00"], "have zeros behind 15 digits"),
        ([INTACT, lambda n: f"{int(float(n))}"], "are multiples of the step"),
        ([lambda n: f"{n // 100 * 100}"] * 2, "have zeros behind 15 digits"),
        ([lambda n: f"{int(float(n))}"] * 2, "are multiples of the step"),
    ],
)
@pytest.mark.parametrize("people", [STEAM, DENSE])
@pytest.mark.parametrize("role", ["user", "item"])
def test_ids_that_were_rounded_as_numbers_are_suspicious(tmp_path, changes, told, people, role):
    for d, change in zip(DOMAINS, changes, strict=True):
        ids = {u: change(n) for u, n in people.items()}
        rows = [(ids[u], i, t) if role == "user" else (u, ids[u], t) for u, i, t in LOGS[d]]
        (tmp_path / f"{d}.csv").write_text(csv_of(rows))
    found = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    expected = ["y"] if changes[0] is INTACT else [*DOMAINS]
    assert [one[0] for one in found.suspicious if f"{role} ids of 16 digits or more" in one and told in one] == expected
    if found.yaml:
        _, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
        assert sum(told in one for one in pair.suspicions) == len(expected)  # the audit's
    else:
        assert told in found.refusal


@pytest.mark.parametrize("write", [INTACT, lambda n: f"{n >> 16 << 22}"])  # a counter in the upper bits
def test_long_ids_that_were_not_rounded_are_not_suspicious(tmp_path, write):
    put(tmp_path, lambda rows: csv_of([(write(STEAM[u]), i, t) for u, i, t in rows]))
    found = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    assert not [one for one in found.suspicious if "rounded" in one]


@pytest.mark.parametrize(
    ("letter", "change", "told"),
    [
        ("", lambda u: u.translate({48 + n: 0xFF10 + n for n in range(10)}), "full-width digits, and 30 of"),
        ("u ", lambda u: u.replace(" ", "%20"), "a sign as a %-code, and 30 of"),
    ],
)
def test_ids_when_one_file_codes_them_are_suspicious(tmp_path, letter, change, told):
    (tmp_path / "x.csv").write_text(csv_of([("%ff", "1", T), *((letter + u, i, t) for u, i, t in LOGS["x"])]))
    (tmp_path / "y.csv").write_text(csv_of([("%ff", "2", T), *((change(letter + u), i, t) for u, i, t in LOGS["y"])]))
    found = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    assert any(told in one for one in found.suspicious), found.suspicious


def test_ids_when_capitals_differ_are_suspicious(tmp_path):
    (tmp_path / "x.csv").write_text(csv_of([("a" + u, i, t) for u, i, t in LOGS["x"]]))
    (tmp_path / "y.csv").write_text(csv_of([("g", "1", T), ("G", "1", T), *(("A" + u, i, t) for u, i, t in LOGS["y"])]))
    found = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    told = "have capital letters, and 31 of them, such as 'A10', differ by nothing else from another"
    assert any(told in one for one in found.suspicious)


@pytest.mark.parametrize(
    ("letter", "change", "what"),
    [
        ("u", "b'{}'".format, "what stands around a number"),
        ("", "+{}".format, "signs alone"),
        ("u", "u\u00ad{}".format, "signs alone"),
        ("u", "u\u200b{}".format, "signs alone"),
        ("A", "A-{}".format, "signs alone"),
        ("A_", "A.{}".format, "signs alone"),
        ("", "u{}".format, "what stands around a number"),
        ("", "user_{}".format, "what stands around a number"),
        ("u", "U-{}".format, "signs alone"),
        ("u", "c0{}".format, "what stands around a number"),
        ("", "{}@shop.com".format, "what stands around a number"),
        ("eve", "shop:eve{}".format, "what stands before"),
        ("eve", "eve{}@shop.com".format, "what stands behind"),
    ],
)
@pytest.mark.parametrize("changed", [10, 30])
def test_users_that_each_file_spells_in_its_own_way_are_suspicious(tmp_path, letter, change, what, changed):
    odd = {u for u, _, _ in LOGS["y"][: 5 * changed]}
    x = [("3x", "20", T), *((letter + u, i, t) for u, i, t in LOGS["x"])]
    y = [("3x", "20", T + 1), *((change(u) if u in odd else letter + u, i, t) for u, i, t in LOGS["y"])]
    if letter == "eve":  # no numbers
        x, y = ([(re.sub("[0-9]", lambda n: chr(97 + int(n[0])), u), i, t) for u, i, t in rows] for rows in (x, y))
    (tmp_path / "x.csv").write_text(csv_of(x))
    (tmp_path / "y.csv").write_text(csv_of(y))
    found, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
    told = f"{changed} user ids of "
    for suspicious in (found.suspicious, pair.suspicions):
        assert [one for one in suspicious if told in one and f"differ by {what}" in one], suspicious
    (tmp_path / "y.csv").write_text(csv_of([(change(u), i, t) for u, i, t in LOGS["y"]]))
    if letter != "eve":
        with pytest.raises(DataError, match=r"no user is in both.*30 user ids of .* they are read as different users"):
            load_logs(written(tmp_path))


def test_users_with_a_decimal_point_are_not_told_of_as_others(tmp_path):
    """1.0 is 1, and not 10 without its point."""
    x = [(u, "1a", T + 60 * n) for n, u in enumerate(["guest", *"123456789", *(f"{n}0" for n in range(1, 10))])]
    y = [(u, "2a", T + 60 * n + 30) for n, u in enumerate(["guest", *(f"{n}.0" for n in range(1, 10))])]
    (tmp_path / "x.csv").write_text(csv_of(x))
    (tmp_path / "y.csv").write_text(csv_of(y))
    found = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    assert [one for one in found.suspicious if "9 of them, such as '1.0', differ by nothing else" in one]
    assert not [one for one in found.suspicious if "alone, such as" in one]


@pytest.mark.parametrize("role", ["user", "item"])
@pytest.mark.parametrize(
    "word", ["anonymous", "-1", "0", "undefined", "nil", "?", "(unknown)", '""""""', "\u200b", "0000-0000", "z"]
)
def test_id_that_holds_a_large_share_of_the_events_is_suspicious(tmp_path, role, word):
    """Whatever it is called; a name of unknown ones is told of from fewer events on."""
    named = word not in ("0", "0000-0000", "z")
    rows = []
    for n in range(40 if named else 400):
        user, item = (word, f"1{n % 9}") if role == "user" else (f"{7 * (n % 30) + 3}", word)
        rows.append((user, item, T + 7000 * n))
    (tmp_path / "x.csv").write_text(csv_of([*LOGS["x"], *((f"{n}", f"1{n}", T + n) for n in range(900, 915)), *rows]))
    (tmp_path / "y.csv").write_text(csv_of(LOGS["y"]))
    found, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
    told = re.compile(rf"{len(rows)} of {len(rows) + 165} events .* have the {role} id .* does it stand for an unknown")
    for suspicious in (found.suspicious, pair.suspicions):
        assert len([one for one in suspicious if told.search(one)]) == 1, suspicious


@pytest.mark.parametrize(("role", "share"), [("user", 48), ("item", 450)])
def test_id_far_ahead_of_the_next_is_suspicious(tmp_path, role, share):
    """Of 500 events of 100 users and of 25 items, and as many more as it has."""
    rows = [(f"{n % 100}", f"1{n % 25}", T + 7000 * n) for n in range(500)]
    rows += [("z", f"1{n % 25}", T + n) if role == "user" else (f"{n % 100}", "z", T + n) for n in range(share)]
    (tmp_path / "x.csv").write_text(csv_of(rows))
    (tmp_path / "y.csv").write_text(csv_of(LOGS["y"]))
    found = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    told = f"{share} of {500 + share} events ({share / (500 + share):.0%}) have the {role} id 'z'"
    assert [one for one in found.suspicious if told in one], found.suspicious


@pytest.mark.parametrize(
    ("drop", "more", "told"),
    [
        (0, 0, None),
        (1, 0, "149 of the 149 events of Side y stand in Side x"),
        (50, 0, "100 of the 100 events of Side y stand in Side x"),
        (100, 5, "50 of the 55 events of Side y stand in Side x"),
        (100, 50, "events of a user and an item stand in both files"),
    ],
)
@pytest.mark.parametrize("unit", ["s", "order"])
def test_log_that_is_a_part_of_the_other_is_no_other_domain(tmp_path, drop, more, told, unit):
    (tmp_path / "x.csv").write_text(csv_of(LOGS["x"]))
    rows = LOGS["x"][drop:][::-1] + LOGS["y"][:more]
    (tmp_path / "y.csv").write_text(csv_of(rows))
    path = written(tmp_path)
    path.write_text(path.read_text().replace("unit: s", f"unit: {unit}"))
    if more < 50:
        told = told or "x and y are the same log: .* hold the same events"
        with pytest.raises(DataError, match=told):
            load_logs(path)
        if unit == "s":
            assert re.search(told.replace("Side ", ""), describe_files(tmp_path / "x.csv", tmp_path / "y.csv").refusal)
    else:
        assert [one for one in load_logs(path).suspicions if told in one]
        assert [one for one in describe_files(tmp_path / "x.csv", tmp_path / "y.csv").suspicious if told in one]


def test_logs_that_share_no_time_are_suspicious(tmp_path):
    """As where one counts from 1980, as GPS does."""
    (tmp_path / "x.csv").write_text(csv_of(LOGS["x"]))
    (tmp_path / "y.csv").write_text(csv_of(LOGS["y"], lambda t: t - 315_964_782))
    found, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
    for suspicious in (found.suspicious, pair.suspicions):
        assert [one for one in suspicious if re.search("y.* lie before those of .*x.* .2004-01-.. and 2014-01-02", one)]


@pytest.mark.parametrize("left", [150, 140])
def test_log_with_other_item_ids_in_place_of_the_other_domain_is_suspicious(tmp_path, left):
    (tmp_path / "x.csv").write_text(csv_of(LOGS["x"]))
    (tmp_path / "y.csv").write_text(csv_of([(u, f"2{i}", t) for u, i, t in LOGS["x"][:left]]))
    found, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
    for suspicious in (found.suspicious, pair.suspicions):
        assert [one for one in suspicious if "100% of the users and times of" in one]


@pytest.mark.parametrize("change", [str.upper, "{} ".format, "00{}".format])
def test_logs_that_share_no_user_but_for_a_spelling_say_so(tmp_path, change):
    letter = "" if change("1") == "001" else "u"
    (tmp_path / "x.csv").write_text(csv_of([(letter + u, i, t) for u, i, t in LOGS["x"]]))
    (tmp_path / "y.csv").write_text(csv_of([(change(letter + u), i, t) for u, i, t in LOGS["y"]]))
    with pytest.raises(DataError, match=r"no user is in both; .* user ids .* such as '.*differ by nothing else from"):
        load_logs(written(tmp_path))


def test_few_users_in_both_files_are_said_by_the_audit_too(tmp_path):
    (tmp_path / "x.csv").write_text(csv_of(LOGS["x"]))
    (tmp_path / "y.csv").write_text(csv_of([(u if int(u) < 60 else u + "y", i, t) for u, i, t in LOGS["y"]]))
    found, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
    p = load("smoke", {"split.cold_share": 0.0}, protocol="chronological")
    table = audit(protocols.apply("chronological", pair, p.split, p.controls))
    told = "only 9 users are in both files, of 30 in the smaller one"
    assert found.suspicious.count(told) == 1
    assert any(told in one for one in table.loc[table["check"] == "suspicious", "example"])


def test_users_when_each_file_numbers_its_own_are_suspicious(tmp_path):
    for d in DOMAINS:
        rows = [(str((int(u) - 3) // 7), "i" + i, t) for u, i, t in LOGS[d]]
        (tmp_path / f"{d}.csv").write_text(csv_of(rows))
    found, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
    for told in (found.suspicious, pair.suspicions):
        assert any("0 to 29 in" in one and "number its users by itself" in one for one in told)


@pytest.mark.parametrize(("sign", "told"), [("\0", "a NUL byte"), ("\n", "a line break")])
def test_ids_when_they_hold_what_no_id_can_are_refused_with_the_line(tmp_path, sign, told):
    rows = [(f'"3{sign}"' if n in (6, 8) else u, i, t) for n, (u, i, t) in enumerate(LOGS["x"])]
    (tmp_path / "x.csv").write_text(csv_of(rows))
    (tmp_path / "y.csv").write_text(csv_of(LOGS["y"]))
    with pytest.raises(DataError, match=rf"x\.csv, line 8: column 'user_id' holds {told} .*so do 2 of 150 rows"):
        load_logs(written(tmp_path))
    assert told in describe_files(tmp_path / "x.csv", tmp_path / "y.csv").refusal


@pytest.mark.parametrize("long", ["w" * 4_000, "w w " * 1_000], ids=["one word", "with blanks"])
def test_ids_when_they_are_very_long_are_cut_in_suspicions(tmp_path, long):
    odd = {u for u, _, _ in LOGS["y"][:50]}
    rows = {
        "x": [(long + u, long + i, t) for u, i, t in LOGS["x"]],
        "y": [(long + u + " " * (u in odd), long + i, t) for u, i, t in LOGS["y"]],
    }
    for d in DOMAINS:
        (tmp_path / f"{d}.csv").write_text(csv_of(rows[d]))
    found, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
    table = audit(protocols.apply("chronological", pair, load("smoke").split, load("smoke").controls))
    for told in (found.suspicious, pair.suspicions, [found.text()], table["example"]):
        assert "…" in "".join(told) and not any(long in one for one in told)
        assert max(map(len, told)) < 3_000


@pytest.mark.parametrize("long", ["w" * 5_000, "w w " * 1_250], ids=["one word", "with blanks"])
def test_columns_when_their_names_are_very_long_are_cut_in_messages(tmp_path, long):
    names = "user_id,item_id,timestamp"
    (tmp_path / "y.csv").write_text(csv_of(LOGS["y"]))
    for header in (
        names.replace("item_id", long),
        names.replace("timestamp", f"{long},{long}"),
        names.replace("timestamp", f"{long}\u200b"),
        f"{names},{long}"[5:],
        "user_id,item_id," + ",".join(f"column_{n}" for n in range(2_000)),
    ):
        (tmp_path / "x.csv").write_text(csv_of(LOGS["x"]).replace(names, header))
        for column in ("timestamp", long):
            with pytest.raises(DataError) as caught:
                load_logs(written(tmp_path, timestamp=column))
            assert long not in str(caught.value) and len(str(caught.value)) <= 1_500
            assert "x.csv" in str(caught.value)
    for d in DOMAINS:
        (tmp_path / f"{d}.csv").write_text(csv_of(LOGS[d]).replace("timestamp", f"{long} time"))
    found = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    told, _, yaml_text = found.text().partition("proposed pair file")
    assert long not in told and len(told) < 3_000 and long in yaml_text


def test_ids_when_they_are_very_long_are_cut_in_messages(tmp_path):
    (tmp_path / "x.csv").write_text(csv_of([("\0" * 4_096, i, t) for _, i, t in LOGS["x"]]))
    (tmp_path / "y.csv").write_text(csv_of(LOGS["y"]))
    with pytest.raises(DataError, match=r"line 2: column 'user_id' holds a NUL byte in '(\\x00){100}…'; so do"):
        load_logs(written(tmp_path))


@pytest.mark.parametrize("digits", [4, 8, 9])
def test_log_when_cut_in_its_last_time_is_refused(tmp_path, digits):
    put(tmp_path, csv_of)
    text = (tmp_path / "x.csv").read_text().rstrip("\n")
    (tmp_path / "x.csv").write_text(text[: digits - 10])
    with pytest.raises(DataError, match=r"x\.csv, line 151: the file ends without a line end in the time"):
        load_logs(written(tmp_path))


def test_cells_when_longer_than_csv_allows_are_no_error(tmp_path):
    put(tmp_path, csv_of)
    text = "".join(line.replace("\n", ",note\n") for line in csv_of(LOGS["x"]).splitlines(True))
    (tmp_path / "x.csv").write_text(text + f"3,1,{T},{'n' * 140_000}\n3,1,,n\n")
    with pytest.raises(DataError, match=r"x\.csv, line 153: column 'timestamp' is empty; 1 of 152 rows"):
        load_logs(written(tmp_path))


def test_folder_when_given_is_called_one(tmp_path):
    (tmp_path / "x.csv").mkdir()
    (tmp_path / "y.csv").write_text(csv_of(LOGS["y"]))
    with pytest.raises(DataError, match=r"x\.csv is a folder: (give|name) one file"):
        describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    with pytest.raises(DataError, match=r"x\.csv is a folder: (give|name) one file"):
        read_pair_file(written(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipe has a name here: it is NOT tested")
def test_pipe_when_given_is_called_one(tmp_path):
    (tmp_path / "y.csv").write_text(csv_of(LOGS["y"]))
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(DataError, match=r"x\.csv is a pipe or a device, and a log is read more than once: write it"):
        describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    with pytest.raises(DataError, match=r"x\.csv is a pipe or a device"):
        read_pair_file(written(tmp_path))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"ARROW1\0\0" + b"\xff" * 20, "this is an Arrow"),
        (b"\x80\x05\x95" + b"\xff" * 20, "this is a Python pickle"),
        (b"SQLite format 3\0", "this is an SQLite database"),
        (zlib.compress(b"user_id,item_id,timestamp\n" * 9), "this is compressed with zlib, which is no gzip"),
        (zlib.compress(b"user_id,item_id,timestamp\n" * 9, 9), "this is compressed with zlib, which is no gzip"),
        (b"PARE" + b"\xff" * 20 + b"PARE", "this is an encrypted Parquet file"),
        (b"\x04\x22\x4d\x18" + b"\xff" * 20, "this is compressed with lz4"),
        (b"Obj\x01" + b"\xff" * 20, "this is an Avro file"),
        (b"%PDF-1.7\n%\xe2", "this is a PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), "this is a picture; logs are CSV"),
        (b"BM\xf6\0\0\0\0\0" + bytes(9), "neither CSV nor Parquet"),
        (b"{}\n" * 9, "line 1: an object without a key"),
        ("user_id,item_id,timestamp\n".encode("utf-32"), "this is text in UTF-32"),
        (b"<!DOCTYPE html><html>", "this is a web page, as failed downloads leave it: fetch the log anew"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "this is a Git LFS pointer .*`git lfs pull`"),
        (
            gzip.compress(gzip.compress(b"user_id,item_id,timestamp\n", mtime=0), mtime=0),
            "compressed twice with gzip: unpack it once",
        ),
        (
            gzip.compress(b"user_id,item_id,timestamp\nu,i,1400000000\n" * 99, mtime=0)[:-9],
            "damaged or truncated gzip file",
        ),
        (b'\xef\xbb\xbf{"user_id": "u"}\n', "line 1: it begins with a byte order mark"),
        (
            b"1 1:0.5 3:1\n-1 2:1\n",
            "line 1: this is in libsvm's format .*write a line for each event, with user",
        ),
        (b"+1\t1:0.5\t3:-1e-3 # u17\n", "line 1: this is in libsvm's format"),
        (b"3 qid:1 1:1 2:0\n", "line 1: this is in libsvm's format"),
        (b"1,7 4:1\n", "line 1: this is in libsvm's format"),
        (b"u1 i17:5 i3:1\nu2 i1:1\n", "line 1: this is in libsvm's format"),
        (b"1 |n 17:5 rating:1.5\n", "line 1: this is in libsvm's format"),
        (gzip.compress(b"0 0:1:0.5 1:17:1\n", mtime=0), "line 1: this is in libsvm's format"),
        (b"INSERT INTO r VALUES ('u7','b2',3,1419170595);\n", "this is SQL and no table: load it"),
        (b"-- MySQL dump 10.13\n--\n", "this is SQL and no table: load it"),
        (b"--\n-- PostgreSQL database dump\n--\n", "this is SQL and no table: load it"),
        (b"+---+---+\n|user_id|item_id|\n+---+---+\n", "this is a table as MySQL and Spark draw it"),
        (b'{"user_id": "u", "item_id": "i", "user_id": "v"}\n', "line 1: the key 'user_id' stands twice"),
    ],
)
def test_files_that_are_no_logs_are_called_what_they_are(tmp_path, content, told):
    (tmp_path / "x.csv").write_bytes(content)
    (tmp_path / "y.csv").write_text(csv_of(LOGS["y"]))
    with pytest.raises(DataError, match=rf"x\.csv[:,] {told}|x\.csv: {told}"):
        describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    with pytest.raises(DataError, match=told):
        load_logs(written(tmp_path))


@pytest.mark.parametrize("more", ['"item_id": "z"', '"other": 1, "other": 2', '"\\u0075ser_id": "z"'])
@pytest.mark.parametrize("packed", [False, True])
def test_json_key_that_stands_twice_on_any_line_is_refused(tmp_path, more, packed):
    def text(rows):
        lines = [json.dumps({"user_id": u, "item_id": i, "timestamp": t}) for u, i, t in rows]
        lines[7] = f"{lines[7][:-1]}, {more}}}"
        return "\n".join(lines) + "\n"

    for d in DOMAINS:
        content = text(LOGS[d]).encode()
        (tmp_path / f"{d}.csv").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=r"x\.csv, line 8: the key '\w+' stands twice"):
        load_logs(written(tmp_path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text + "# end of the log\n", "line 152: a comment: delete the line"),
        (lambda text: gzip.compress(text.encode()) + b"\0" * 512, "something follows the end of its gzip data"),
        (lambda text: "# made by hand, in 2020\n" + text, "line 1: it begins with '#', as comments do"),
        (lambda text: "Ratings\n" + text, "line 1: 'Ratings', where the next lines have 3 values each, .*: a title?"),
        (lambda text: "Ratings of 2014, ours\n\n" + text, "line 1: 'Ratings of 2014, ours', where .*: a title?"),
        (lambda text: "Ratings of 2014\n" + text.replace(",", "\t"), "line 1: 'Ratings of 2014', where .*: a title?"),
        (lambda text: "% events\n" + text, "line 1: it begins with '%', as comments do"),
        (lambda text: "sep=,\n" + text, "line 1: 'sep=,' is for Excel alone: delete the line"),
        (lambda text: "sep=;\n" + text.replace(",", ";"), "line 1: 'sep=;' is for Excel alone: delete the line"),
        (lambda text: text + "(150 rows)\n", "line 152: what an SQL program says below a table: delete the line"),
        (lambda text: text + "150 rows in set (0.01 sec)", "line 152: what an SQL program says below a table"),
        (lambda text: text.replace("p\n", "p\n---+---\n", 1), "line 2: what an SQL program draws between the lines"),
        (lambda text: text + "\x1a", r"line 152: the end of a file as DOS marked it \(Ctrl-Z\): delete the line"),
        (lambda text: text + "\x1a\n", r"line 152: the end of a file as DOS marked it \(Ctrl-Z\): delete the line"),
        (lambda text: text + "\0" * 512, "line 152: NUL bytes alone"),
        (lambda text: text + "3,1\n", "line 152: 2 fields where line 1 has 3; add what is missing, or delete the line"),
        (lambda text: text + "Total: 150\n", "line 152: 1 field where line 1 has 3; add what is missing, or delete"),
        (lambda text: text.split("\n", 1)[1].replace(",", "  "), "line 1: several blanks in a row"),
        (lambda text: text.encode("utf-16-le"), "x.csv: this is text in UTF-16; .*: convert it"),
        (lambda text: text.encode("utf-16-be"), "x.csv: this is text in UTF-16; .*: convert it"),
        (lambda text: text.replace("user_id,item_id,", "user id, item id, "), "line 1: a blank follows each ','"),
    ],
)
def test_files_that_are_nearly_logs_are_told_what_to_change(tmp_path, change, told):
    paths = [tmp_path / f"{d}.csv" for d in DOMAINS]
    for d, path in zip(DOMAINS, paths, strict=True):
        content = change(csv_of(LOGS[d]))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=told):
        describe_files(*paths)
    with pytest.raises(DataError, match=told):
        load_logs(written(tmp_path))


@pytest.mark.parametrize(
    ("write", "last", "unit", "told"),
    [
        (lambda t: t, 253_402_214_400, "s", "'253402214400', a time of the year 9999, which stands for no time at all"),
        (lambda t: t * 1000, 253_402_300_799_000, "ms", "a time of the year 9999"),
        (lambda t: moment(t).isoformat(), "9999-12-31", "iso", "'9999-12-31', a time of the year 9999"),
        (
            lambda t: moment(t).strftime("%Y%m%d"),
            "19650301",
            "date",
            "'19650301', which is 1970-01-01 or earlier",
        ),
        (lambda t: moment(t).strftime("%Y%m%d"), "20140230", "date", "no day of the calendar: mend or drop these rows"),
        (
            lambda t: moment(t).isoformat(),
            "1965-03-01",
            "iso",
            "'1965-03-01', which is 1970-01-01 or earlier",
        ),
        (lambda t: t, "done", "s", r"'done'; .*\(1 of 151 .*: write them as the other rows are, or"),
        (lambda t: moment(t).isoformat(), "2014-03-01 10:00 BST", "iso", "2014-03-01 10:00 BST'; .*ISO 8601"),
        (lambda t: moment(t).isoformat(), "2014-03-01 10:00+25:00", "iso", r"2014-03-01 10:00\+25:00'; .*ISO 8601"),
    ],
)
def test_time_that_no_event_has_is_told_what_it_is(tmp_path, write, last, unit, told):
    put(tmp_path, lambda rows: csv_of(rows, write) + f"3,1,{last}\n")
    with pytest.raises(DataError, match=rf"x\.csv, line 152: column 'timestamp' holds .*{told}"):
        load_logs(written(tmp_path, unit=unit))


@pytest.mark.parametrize(
    ("header", "separator", "write", "told"),
    [
        (
            "user_id-item_id-timestamp",
            "-",
            lambda t: moment(t).isoformat(),
            "line 1: 3 values, if '-' separates them, and 5 in line 2: .*with commas or tabs",
        ),
        ("user_id_item_id_timestamp", "_", str, "line 1: 5 values, if '_' separates them, and 3 in line 2"),
        ("user_idxitem_idxtimestamp", "x", str, "line 1: no sign stands in 'user_idxitem.*with commas or tabs"),
        ('user_id"item_id"timestamp', '"', str, "line 1: values separated by '\"'.*with commas or tabs"),
        ("user_id~~~~~item_id~~~~~timestamp", "~~~~~", str, "line 1: values separated by '~~~~~', more than 4 bytes"),
        ("user_id\0item_id\0timestamp", "\0", str, r"such as U\+0000: if it separates values, write commas"),
    ],
)
def test_separators_that_cannot_be_read_are_named(tmp_path, header, separator, write, told):
    def text(rows):
        return "".join(f"{line}\n" for line in [header, *(separator.join((u, i, write(t))) for u, i, t in rows)])

    paths = put(tmp_path, text)
    with pytest.raises(DataError, match=told):
        describe_files(*paths)
    with pytest.raises(DataError, match=told):
        load_logs(written(tmp_path))


def test_line_is_right_where_a_separator_has_several_signs(tmp_path):
    put(tmp_path, lambda rows: csv_of(rows).replace(",", "->") + "3->1->noon\n")
    with pytest.raises(DataError, match=r"x\.csv, line 152: column 'timestamp' holds 'noon'"):
        load_logs(written(tmp_path))


@pytest.mark.parametrize(
    ("change", "unit", "told"),
    [
        (lambda u, i, t: ("", i, t), "s", "150 of 150 rows: name the column of the users, or give the users ids"),
        (lambda u, i, t: (u, "NA", t), "s", "150 of 150 rows: name the column of the items, or give the items ids"),
        (lambda u, i, t: (u, i, ""), "s", "is empty; 150 of 150 rows .*: name the column of the times, or"),
        (lambda u, i, t: (u, i, "NULL"), "iso", "no time but 'NULL'; 150 of 150 .*: name the column of the times, or"),
        (lambda u, i, t: (u, i, -5), "s", "unknown ones .150 of 150 .*: name the column of the times, or"),
        (lambda u, i, t: (u, i, 0 if t % 9 else t), "s", "unknown ones .* of 150 .*: name the column of the times, or"),
        (lambda u, i, t: (u, i, "0000-00-00"), "iso", "150 of 150 .*no day of the calendar: give days that exist"),
        (lambda u, i, t: (u, i, "1965-03-01"), "iso", "150 of 150 .*; give the events' own times"),
        (lambda u, i, t: (u, i, 3 * t if t % 9 else t), "s", "in the future .*is right, give the events' own times"),
        (lambda u, i, t: (u, i, f"{t},5"), "s", "line 2: 4 fields where line 1 has 3; so have most lines: line 1 sh"),
    ],
)
def test_advice_where_nearly_all_rows_are_wrong_leaves_some(tmp_path, change, unit, told):
    put(tmp_path, lambda rows: csv_of([change(*one) for one in rows]))
    with pytest.raises(DataError, match=told) as caught:
        load_logs(written(tmp_path, unit=unit))
    assert "drop" not in str(caught.value) and "delete" not in str(caught.value)


@pytest.mark.parametrize("role", ["user", "item", "timestamp"])
def test_parquet_column_without_a_value_is_named(tmp_path, role):
    name = f"{role}_id".replace("timestamp_id", "timestamp")
    for d in DOMAINS:
        frame = pd.DataFrame(LOGS[d], columns=["user_id", "item_id", "timestamp"])
        frame.assign(**{name: None}).to_parquet(tmp_path / f"{d}.parquet")
    with pytest.raises(DataError, match=rf"x\.parquet: column '{name}' is empty in all rows: name the column"):
        load_logs(written(tmp_path, "parquet"))


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "n" * 120, "\u200b", "ratings_", " x"])
def test_logs_are_described_whatever_the_files_are_called(tmp_path, name):
    paths = [path.rename(tmp_path / f"{name}{end}.csv") for path, end in zip(put(tmp_path, csv_of), "ab", strict=True)]
    _, pair = read_as_described(tmp_path, *paths)
    assert triples(pair, "y") == sorted(LOGS["y"])


@pytest.mark.parametrize("names", [("a\nb", "c"), ("n" * 120 + "1", "n" * 120 + "2"), ("y", "x")])
def test_log_of_two_domains_is_described_whatever_these_are_called(tmp_path, names):
    rows = [(*one, name) for d, name in zip(DOMAINS, names, strict=True) for one in LOGS[d]]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "domain"])
    frame.to_csv(tmp_path / "log.csv", index=False)
    _, pair = read_as_described(tmp_path, tmp_path / "log.csv")
    first, second = (sorted(LOGS[d]) for d in DOMAINS)
    assert sorted([triples(pair, d) for d in DOMAINS]) == sorted([first, second])


@pytest.mark.parametrize("write", ["%m/%d/%Y", "%d.%m.%Y %H:%M", "%d-%m-%y"])
def test_dates_in_another_notation_are_led_to_iso(tmp_path, write):
    paths = put(tmp_path, lambda rows: csv_of(rows, lambda t: moment(t).strftime(write)))
    assert not [one for one in describe_files(*paths).suspicious if "in both files" in one]
    with pytest.raises(DataError, match=r"Write all times as ISO 8601, such as .* and set columns.unit: iso"):
        load_logs(written(tmp_path))


def test_text_that_pandas_reads_as_missing_is_no_id(tmp_path):
    put(tmp_path, csv_of)
    frame = pd.read_csv(tmp_path / "x.csv", dtype=str)
    missing = ["NA", "N/A", "NaN", "nan", "-nan", "null", "NULL", "None", "<NA>", "#N/A", "#NA", "1.#IND", "-1.#QNAN"]
    for word in missing:
        frame.assign(item_id=frame["item_id"].where(frame.index != 5, word)).to_csv(tmp_path / "x.csv", index=False)
        assert pd.read_csv(tmp_path / "x.csv", dtype=str)["item_id"].isna().sum() == 1
        with pytest.raises(DataError, match=rf"x\.csv, line 7: column 'item_id' has no id but '{word}'"):
            load_logs(written(tmp_path))


@pytest.mark.parametrize(
    ("name", "told"), [("a" * 101, "at most 100 characters"), ("a\nb", "cannot be printed"), ("a\0b", "cannot be")]
)
def test_name_of_a_domain_that_nothing_can_show_is_refused(tmp_path, name, told):
    path = written(tmp_path)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"x": content["x"] | {"name": name}}))
    with pytest.raises(DataError, match=told):
        read_pair_file(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["", "\n", f"\n3,1,{T}\n"])
def test_line_when_the_reader_would_pass_over_it_is_refused(tmp_path, packed, end):
    """Longer than DuckDB's buffer: such a line was left out without a word."""
    put(tmp_path, csv_of)
    content = (csv_of(LOGS["x"]) + "u" * (5 << 23) + end).encode()
    (tmp_path / "x.csv").write_bytes(gzip.compress(content, 1) if packed else content)
    with pytest.raises(DataError, match=r"x\.csv: a line of more than 16 MB"):
        load_logs(written(tmp_path))


def test_parquet_columns_that_duckdb_uses_itself_are_read(tmp_path):
    put(tmp_path, csv_of)
    frames = {d: pd.read_csv(tmp_path / f"{d}.csv", dtype=str).assign(File_Row_Number="7") for d in DOMAINS}
    for d, frame in frames.items():
        frame.to_parquet(tmp_path / f"{d}.csv")
    assert load_logs(written(tmp_path)).filters["events"].iloc[0] == len(LOGS["x"])
    frames["x"].loc[6, "timestamp"] = "noon"
    frames["x"].to_parquet(tmp_path / "x.csv")
    with pytest.raises(DataError, match=r"x\.csv, row 7: column 'timestamp' holds 'noon'"):
        load_logs(written(tmp_path))
    pd.DataFrame().to_parquet(tmp_path / "x.csv")
    with pytest.raises(DataError, match=r"x\.csv: a Parquet file without a column"):
        describe_files(tmp_path / "x.csv", tmp_path / "y.csv")


def test_log_whose_name_begins_with_a_tilde_is_read(tmp_path, monkeypatch):
    put(tmp_path, csv_of)
    (tmp_path / "x.csv").rename(tmp_path / "~x.csv")
    monkeypatch.chdir(tmp_path)
    assert describe_files(Path("~x.csv"), Path("y.csv")).files["x"].events == len(LOGS["x"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda one: [one], "a list or an object.*so do 150 of 150 rows"),
        (lambda one: {"id": one}, "a list or an object.*so do 150 of 150 rows"),
        (lambda one: int(one) % 2 == 0, "truth values alone, such as '(true|True|false|False)', and no ids: name the"),
    ],
)
@pytest.mark.parametrize("csv", [False, True])
def test_ids_that_are_no_values_are_refused(tmp_path, change, told, csv):
    for d in DOMAINS:
        frame = pd.DataFrame(LOGS[d], columns=["user_id", "item_id", "timestamp"])
        frame["item_id"] = frame["item_id"].map(change) if d == "x" else frame["item_id"]
        if csv:
            frame["item_id"] = [one if isinstance(one, str | bool) else json.dumps(one) for one in frame["item_id"]]
            frame.to_csv(tmp_path / f"{d}.csv", index=False)
        else:
            frame.to_json(tmp_path / f"{d}.csv", orient="records", lines=True)
    with pytest.raises(DataError, match=rf"line {1 + csv}: column 'item_id' holds {told}"):
        load_logs(written(tmp_path))


@pytest.mark.parametrize("packed", [False, True])
def test_json_lines_when_the_first_lacks_a_key_are_read(tmp_path, packed):
    def text(rows):
        lines = [json.dumps({"user_id": u, "item_id": i, "timestamp": t}) for u, i, t in rows]
        return "\n".join([json.dumps({"user_id": "9", "item_id": "z"}), *lines])

    for d in DOMAINS:
        content = text(LOGS[d]).encode()
        (tmp_path / f"{d}.csv").write_bytes(gzip.compress(content) if packed else content)
    found = describe_files(tmp_path / "x.csv", tmp_path / "y.csv")
    assert found.columns.timestamp == "timestamp" and "line 1: column 'timestamp' is empty; 1 of 151" in found.refusal


@pytest.mark.parametrize("packed", [False, True])
def test_json_key_that_only_late_lines_have_is_not_passed_over(tmp_path, packed):
    def text(rows):
        lines = [json.dumps({"user_id": u, "item_id": i}) for u, i, _ in rows] * 7
        return "\n".join([*lines, *(json.dumps({"user_id": u, "item_id": i, "sentAt": t}) for u, i, t in rows)])

    for d in DOMAINS:
        content = text(LOGS[d]).encode()
        (tmp_path / f"{d}.csv").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=r"x\.csv: the key 'sentAt' stands on none of the first 1,000 lines"):
        describe_files(tmp_path / "x.csv", tmp_path / "y.csv")


def test_recbole_sequences_are_no_ids(tmp_path):
    header = "user_id:token\titem_id:token_seq\ttimestamp:float\n"
    paths = put(tmp_path, lambda rows: header + "".join(f"{u}\t{i} {i}\t{t}\n" for u, i, t in rows), "inter")
    with pytest.raises(DataError, match=r"x.inter, line 1: column 'item_id:token_seq' holds a sequence in each row"):
        describe_files(*paths)


@pytest.mark.parametrize("write", ["{} 1 2", '"{},7"', "[{}|7]"])
def test_ids_that_are_lists_are_suspicious(tmp_path, write):
    found, pair = read_as_described(
        tmp_path, *put(tmp_path, lambda rows: csv_of([(u, write.format(i), t) for u, i, t in rows]))
    )
    for suspicious in (found.suspicious, pair.suspicions):
        assert [one for one in suspicious if "9 of 9 item ids are several numbers, such as '" in one]


@pytest.mark.parametrize("unit", ["s", "d"])
def test_years_are_no_days(tmp_path, unit):
    """2014 as a day since 1970 is of July 1975."""
    put(tmp_path, lambda rows: csv_of(rows, lambda t: 2014 + t // 86_400 % 3))
    assert "unit: d" not in describe_files(tmp_path / "x.csv", tmp_path / "y.csv").yaml
    path = written(tmp_path)
    path.write_text(path.read_text().replace("unit: s", f"unit: {unit}"))
    with pytest.raises(DataError, match=r"'timestamp' holds 2,?014 to 2,?016"):
        load_logs(path)


def test_days_of_a_spreadsheet_are_no_days_since_1970(tmp_path):
    """They count from 1900, and read as days since 1970 they lie in the future."""
    put(tmp_path, lambda rows: csv_of(rows, lambda t: t // 86_400 + 25_569))
    with pytest.raises(DataError, match=r"'timestamp' holds 41\d+ to 41\d+, which are no seconds") as caught:
        load_logs(written(tmp_path))
    assert "unit: d" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda t: t / 1e9, r"holds '1\.38.*'; columns\.unit: order .*whole numbers"), (lambda t: T - t - 1, "negative")],
)
def test_orders_that_would_lose_something_are_refused(tmp_path, change, told):
    put(tmp_path, lambda rows: csv_of(rows, change))
    path = written(tmp_path)
    path.write_text(path.read_text().replace("unit: s", "unit: order"))
    with pytest.raises(DataError, match=rf"line \d+: column 'timestamp' .*{told}"):
        load_logs(path)


@pytest.mark.parametrize("names", [("2014", "2015"), ("012", "013"), ("0x1f", "b2"), ("1", "0"), ("yes", "no")])
def test_pair_file_when_the_logs_names_are_numbers_is_read(names: tuple[str, str], tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.csv" for name in names]
    for d, path in zip(DOMAINS, paths, strict=True):
        path.write_text(csv_of(LOGS[d]), encoding="utf-8")
    _, pair = read_as_described(tmp_path, *paths)
    assert [pair.catalogue.names[d] for d in DOMAINS] == list(names)


def with_odd(rows: list[Event], header: str, write: Callable[[int], object], odd: str, mark: str = ",") -> str:
    """A log of three columns and a rating whose tenth line has another time."""
    times = [odd if n == 9 else write(t) for n, (_, _, t) in enumerate(rows)]
    lines = [mark.join((f"a{u}", f"b{i}", "4", str(t))) for (u, i, _), t in zip(rows, times, strict=True)]
    return "\n".join([*([header.replace(",", mark)] if header else []), *lines]) + "\n"


@pytest.mark.parametrize("odd", ["NULL", r"\N", "unknown", "-", "0", "21.12.2014"])
@pytest.mark.parametrize("write", [lambda t: moment(t).strftime("%Y-%m-%d %H:%M:%S"), str])
@pytest.mark.parametrize(("header", "mark"), [("user_id,item_id,rating,created", ","), ("", "\t"), ("", ",")])
def test_column_of_times_stays_one_where_a_row_has_none(tmp_path, header, mark, write, odd):
    """Otherwise the whole column would be left out, and the order of lines taken for that of the events."""
    found = describe_files(*put(tmp_path, lambda rows: with_odd(rows, header, write, odd, mark)))
    assert found.columns.unit != "order" and not found.yaml
    assert f"x.csv, line {10 + bool(header)}: column '" in found.refusal and "1 of 150" in found.refusal


@pytest.mark.parametrize("write", [lambda t: moment(t).strftime("%Y-%m-%d %H:%M:%S"), str])
@pytest.mark.parametrize("header", ["user,item,rating,created\n", ""])
@pytest.mark.parametrize(("odd", "every"), [("unknown", 5), ("0", 3), ("unknown", 1 / 0.6), ("-", 1 / 0.96)])
def test_column_of_times_where_many_rows_have_none_is_never_left_out_in_silence(tmp_path, write, header, odd, every):
    def text(rows):
        times = [odd if int(n / every) < int((n + 1) / every) else write(t) for n, (_, _, t) in enumerate(rows)]
        return header + "".join(f"{u},{i},4,{time}\n" for (u, i, _), time in zip(rows, times, strict=True))

    found = describe_files(*put(tmp_path, text))
    bad = int(150 / every)
    if not found.yaml:
        assert f"{bad} of 150 rows" in found.refusal
    else:
        assert bad > 75
        [told, _] = [one for one in found.suspicious if "may hold times" in one]
        assert f"{150 - bad} of 150 values look like times, and others, such as {odd!r}, do not" in told


@pytest.mark.parametrize("create", ["", "created"])
def test_paths_without_a_time_are_no_order_until_that_is_said(tmp_path, create):
    def text(rows):
        return f"user,item,{create or 'genre'}\n" + "".join(
            f"{u},{i},{moment(t) if create and n % 3 == 0 else 'unknown'}\n" for n, (u, i, t) in enumerate(rows)
        )

    logs = dict(zip("ab", put(tmp_path, text), strict=True))
    columns = {"user": None, "item": None, "timestamp": None}
    told = "no column of times: name it, time=…, or if lines are in order, time=False" + ".*50 of 150" * bool(create)
    with pytest.raises(DataError, match=told):
        write_pair(logs, tmp_path, columns, 1, None)
    assert load_logs(write_pair(logs, tmp_path, columns | {"timestamp": False}, 1, None)[0]).log.resolution == 0


def test_column_of_times_whose_first_rows_have_none_is_found(tmp_path):
    paths = put(
        tmp_path, lambda rows: csv_of([("3", "11", "never")] * 1_000 + 60 * rows).replace("timestamp", "created")
    )
    assert "column 'created' holds 'never'" in describe_files(*paths).refusal


def test_json_column_of_times_stays_one_where_a_row_has_none(tmp_path):
    def text(rows):
        times = ["null" if n == 9 else str(moment(t)) for n, (_, _, t) in enumerate(rows)]
        return "\n".join(
            json.dumps({"user": u, "item": i, "created": t}) for (u, i, _), t in zip(rows, times, strict=True)
        )

    assert "x.csv, line 10: column 'created' has no time" in describe_files(*put(tmp_path, text)).refusal


@pytest.mark.parametrize(
    "write",
    [
        "%a %b %d %H:%M:%S +0000 %Y",
        "%m/%d/%Y %H:%M",
        "%m/%d/%Y %I:%M:%S %p",
        "%d.%m.%Y",
        "%H:%M:%S %d.%m.%Y",
        "%Y/%m/%d",
        "%Y-%m-%d %H:%M:%S EST",
        "%d-%b-%y",
        "%d %B %Y",
        "%a %b %d %Y %H:%M:%S GMT+0100 (Central European Standard Time)",
        "/Date(%s000)/",
        'ISODate("%Y-%m-%dT%H:%M:%SZ")',
        "%G-W%V-%u",
        "%Y-%j",
        "%d/%m/%y",
        "%m/%d/%y %I:%M %p",
        "%d décembre %Y",
        "%d de enero de %Y %H:%M",
        "%Y. január %d.",
        "mercredi %d/%m/%Y",
        "%Y年%m月%d日",
        "%Y년 %m월 %d일 %H시",
    ],
)
@pytest.mark.parametrize("header", ["", "user,item,rating,created", "user,item,rating,last_modified"])
def test_dates_in_another_notation_are_never_taken_for_no_times(tmp_path, write, header):
    paths = put(tmp_path, lambda rows: with_odd(rows, header, lambda t: moment(t).strftime(write), "-", "\t"))
    found = describe_files(*paths)
    assert found.columns.unit != "order" and not found.yaml
    assert "Write all times as ISO 8601, such as 2014-11-27 21:46:45" in found.refusal
    name = header.split(",")[-1] or "timestamp"
    assert f"x.csv, line {1 + bool(header)}: column '{name}' holds" in found.refusal
    with pytest.raises(DataError, match="Write all times as ISO 8601"):
        write_pair(
            dict(zip("ab", paths, strict=True)), tmp_path, {"user": None, "item": None, "timestamp": None}, 1, None
        )


@pytest.mark.parametrize("header", ["user,item,rating,created", ""])
def test_unix_times_with_thousands_separators_are_never_left_out(tmp_path, header):
    paths = put(tmp_path, lambda rows: with_odd(rows, header, "{:,}".format, "-", "\t"))
    assert "digits only, without thousands separators" in describe_files(*paths).refusal


@pytest.mark.parametrize(
    "value", ["Heat ({})", "version 1.2.{}", "marketing{}", "May {}", "Ep. {} of 2014", "i-{}", "{}-03", "2014-{}"]
)
def test_text_that_has_numbers_is_no_date(tmp_path, value):
    def text(rows):
        lines = (f"{u},{i},{value.format(1950 + n % 70)},{t}\n" for n, (u, i, t) in enumerate(rows))
        return "user,item,note,rated\n" + "".join(lines)

    found, pair = read_as_described(tmp_path, *put(tmp_path, text))
    assert triples(pair, "x") == sorted(LOGS["x"]) and found.columns.timestamp == "rated"
    assert not [one for one in found.suspicious if "note" in one]


@pytest.mark.parametrize("last", [51, 90])
@pytest.mark.parametrize(("header", "line"), [("title,timestamp", "{0},{1}"), ("timestamp,title", "{1},{0}")])
@pytest.mark.parametrize("packed", [False, True])
def test_quotes_that_would_swallow_events_are_refused(tmp_path, last, header, line, packed):
    """A quote that begins a value and one that ends another, lines below: all between would be one value."""

    def text(rows):
        titles = ['"Heroes' if n == 50 else 'Ghost"' if n == last else "Film" for n in range(len(rows))]
        cells = (f"{u},{i},{line.format(title, t)}\n" for (u, i, t), title in zip(rows, titles, strict=True))
        return f"user_id,item_id,{header}\n" + "".join(cells)

    for d in DOMAINS:
        content = text(LOGS[d]).encode()
        (tmp_path / f"{d}.csv").write_bytes(gzip.compress(content) if packed else content)
    told = rf"x\.csv, line 52: a double quote begins a value of column 'title' that ends {last - 50} lines below"
    with pytest.raises(DataError, match=told):
        load_logs(written(tmp_path))
    with pytest.raises(DataError, match=told):
        describe_files(tmp_path / "x.csv", tmp_path / "y.csv")


@pytest.mark.parametrize("lines", [1, 2, 3, 40])
@pytest.mark.parametrize("separator", [",", "::"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_that_would_swallow_events_without_times_are_refused(tmp_path, lines, separator, end):
    def text(rows):
        titles = ['"Heroes' if n == 50 else 'Ghost"' if n == 50 + lines else "a film" for n in range(len(rows))]
        cells = ((f"u{u}", f"i{i}", title, "4") for (u, i, _), title in zip(rows, titles, strict=True))
        return end.join(map(separator.join, [("user_id", "item_id", "title", "rating"), *cells])) + end

    for d in DOMAINS:
        (tmp_path / f"{d}.csv").write_bytes(text(LOGS[d]).encode())
    with pytest.raises(DataError, match=rf"line 52: a double quote .* ends {lines} lines below"):
        load_logs(written(tmp_path, user="user_id", item="item_id", timestamp=None, unit="order"))


@pytest.mark.parametrize(
    "review", ["one\ntwo\nthree", "a,b\nc,d,5\n1,2,3,4", "good, bad\nso, so, 12345, x", "x,\n,,\n,"]
)
def test_reviews_of_several_lines_are_read(tmp_path, review):
    for d in DOMAINS:
        frame = pd.DataFrame(LOGS[d], columns=["user_id", "item_id", "timestamp"]).assign(review=review)
        frame.to_csv(tmp_path / f"{d}.csv", index=False)
    assert triples(load_logs(written(tmp_path)), "x") == sorted(LOGS["x"])


NO_TIMES = ["(null)", "[NULL]", "'NULL'", "-", "?", ".", "missing", "undefined", "unknown", "#VALUE!", "n.d."]


@pytest.mark.parametrize("look", ["%Y-%m-%d %H:%M:%S", "%Y%m%d%H%M%S"])
@pytest.mark.parametrize("word", NO_TIMES)
def test_text_in_place_of_some_times_of_one_file_is_told(tmp_path, word, look):
    for d in DOMAINS:
        times = [word if d == "y" and n % 9 == 1 else f"{moment(row[2]):{look}}" for n, row in enumerate(LOGS[d])]
        lines = [f"{u},{i},{when}" for (u, i, _), when in zip(LOGS[d], times, strict=True)]
        (tmp_path / f"{d}.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    told = rf"y\.csv, line 3: column 'timestamp' .*{re.escape(word)}.*17 of 150 rows"
    assert re.search(told, describe_files(tmp_path / "x.csv", tmp_path / "y.csv").refusal)


@pytest.mark.parametrize(
    "key", ["", "*", "a/b", "~1", "$", "0", "#", 'say "so"', "\\", "\n", "[0]", "a.b", "*.item_id", "é"]
)
@pytest.mark.parametrize("role", ["user", "item", "none"])
def test_keys_of_json_are_any_text(tmp_path, key, role):
    keys = [key if role == "user" else "user_id", key if role == "item" else "item_id", "timestamp"]
    for d in DOMAINS:
        lines = [json.dumps({**dict(zip(keys, row)), **({key: 1} if role == "none" else {})}) for row in LOGS[d]]
        (tmp_path / f"{d}.csv").write_text("\n".join(lines), encoding="utf-8")
    columns = dict(zip(("user", "item", "timestamp"), keys), unit="s")
    assert triples(load_logs(written(tmp_path, **columns)), "x") == sorted(LOGS["x"])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "bad",
    ['{"user_id": "u"', '{"user_id": u}', "{}", '{"user_id": "\\ud83d"}', '{"user_id": "u", "\\ude00": [{"a": "b"}]}'],
)
def test_line_that_is_no_json_object_is_named(tmp_path, packed, bad):
    def text(rows):
        lines = [json.dumps({"user_id": u, "item_id": i, "timestamp": t}) for u, i, t in rows]
        return "\n".join([*lines[:7], "", bad, *lines[8:]])

    for d in DOMAINS:
        content = text(LOGS[d]).encode()
        (tmp_path / f"{d}.csv").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=r"x\.csv, line 9: (not one JSON object a line|column 'user_id' has no id)"):
        load_logs(written(tmp_path))


@pytest.mark.parametrize("packed", [False, True])
def test_carriage_return_inside_a_value_is_named(tmp_path, packed):
    for d in DOMAINS:
        content = csv_of(LOGS[d]).replace("\n", ",a note\n").replace("a note", "note", 1).replace("a note", "a\rb", 9)
        content = content.replace("a\rb", "a note", 8).encode()
        (tmp_path / f"{d}.csv").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=r"x\.csv, line 10: a carriage return inside a value"):
        load_logs(written(tmp_path))


def as_java(value: float) -> str:
    """A double of 10 million or more as Java and Spark write it."""
    digits, exponent = f"{value:.17e}".split("e")[0], int(f"{value:e}".split("e")[1])
    digits = next(one for n in range(1, 18) if float((one := f"{value:.{n}e}").split("e")[0] + f"e{exponent}") == value)
    return f"{digits.split('e')[0]}E{exponent}"


@pytest.mark.parametrize("scale", [1, 1_000, 1_000_000])
@pytest.mark.parametrize("lines", [False, True])
def test_doubles_as_java_writes_them_are_read(tmp_path, scale, lines):
    """Zeros at the end are left out: 1388700120 is 1.38870012E9, and no digit was lost."""

    def text(rows):
        if not lines:
            return csv_of(rows, lambda t: as_java(t * scale))
        return "".join(f'{{"user": "{u}", "item": "{i}", "time": {as_java(t * scale)}}}\n' for u, i, t in rows)

    logs = {d: [(u, i, t - 3) for u, i, t in LOGS[d]] + [("3", f"{d}9", T)] for d in DOMAINS}
    for d in DOMAINS:
        (tmp_path / f"{d}.csv").write_text(text(logs[d]))
    assert "1.38870012E" in (tmp_path / "x.csv").read_text()
    _, pair = read_as_described(tmp_path, tmp_path / "x.csv", tmp_path / "y.csv")
    assert triples(pair, "x") == sorted(logs["x"])


@pytest.mark.parametrize("scale", [1, 1_000])
@pytest.mark.parametrize("step", [3_600, 86_400])
def test_whole_days_as_java_writes_doubles_are_read(tmp_path, scale, step):
    """All their digits after the eighth are zeros, which are left out."""
    put(tmp_path, lambda rows: csv_of(rows, lambda t: as_java(t // step * step * scale)))
    expected = sorted((u, i, t // step * step) for u, i, t in LOGS["x"])
    assert triples(load_logs(written(tmp_path, unit="s" if scale == 1 else "ms")), "x") == expected


@pytest.mark.parametrize("write", [lambda t: f"{t:.7e}", lambda t: f"{t:.7e}".replace("e+09", "E9")])
def test_doubles_that_were_rounded_are_refused(tmp_path, write):
    put(tmp_path, lambda rows: csv_of(rows, write))
    with pytest.raises(DataError, match="digits were rounded away"):
        load_logs(written(tmp_path))


@pytest.mark.parametrize("packed", [False, True])
def test_user_ids_that_begin_with_dashes_are_no_comment_of_sql(tmp_path, packed):
    def text(rows):
        return "".join(f"--u{u},{i},4,{t}\n" for u, i, t in rows)

    _, pair = read_as_described(tmp_path, *put(tmp_path, text))
    assert triples(pair, "x") == sorted((f"--u{u}", i, t) for u, i, t in LOGS["x"])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("change", [lambda i: f"17{int(i):02}.03002", lambda i: "12e5" if i == "11" else i])
def test_ids_that_look_like_floats_can_be_read_as_told(tmp_path, ending, change):
    def put_all(front: str) -> None:
        for d in DOMAINS:
            frame = pd.DataFrame(LOGS[d], columns=["user_id", "item_id", "timestamp"])
            frame["item_id"] = [front + change(one) for one in frame["item_id"]]
            path = tmp_path / f"{d}.{ending}"
            if ending == "parquet":
                frame.to_parquet(path)
            elif ending == "csv":
                frame.to_csv(path, index=False, quoting=1)
            else:
                frame.to_json(path, orient="records", lines=True)

    put_all("")
    with pytest.raises(DataError, match="Ids that are no numbers, such as arXiv's, need a letter in front"):
        load_logs(written(tmp_path, ending))
    put_all("a")
    expected = sorted((u, f"a{change(i)}", t) for u, i, t in LOGS["x"])
    assert triples(load_logs(written(tmp_path, ending)), "x") == expected


@pytest.mark.parametrize("separator", [",", "\t", "::"])
def test_ids_that_look_like_floats_without_a_header_can_be_read_as_told(tmp_path, separator):
    def text(rows, front=""):
        return "".join(f"{u}{separator}{front}17{int(i):02}.03002{separator}{t}\n" for u, i, t in rows)

    paths = put(tmp_path, text)
    with pytest.raises(DataError, match=r"if it is one, put a letter in front \(a1710.03002\)"):
        describe_files(*paths)
    _, pair = read_as_described(tmp_path, *put(tmp_path, lambda rows: text(rows, "a")))
    assert triples(pair, "x") == sorted((u, f"a17{int(i):02}.03002", t) for u, i, t in LOGS["x"])


def test_ids_that_look_like_floats_in_frames_can_be_read_as_told(tmp_path):
    frames = {d: pd.DataFrame(LOGS[d], columns=["user", "item", "time"]).astype({"item": "float64"}) for d in DOMAINS}
    columns = {"user": None, "item": None, "timestamp": None}
    for change in (lambda items: items, lambda items: items.astype(str)):
        bad = {d: frame.assign(item=change(frame["item"])) for d, frame in frames.items()}
        with pytest.raises(DataError, match="write the column as integers"):
            load_logs(write_pair(bad, tmp_path, columns, 1, None)[0])
    good = {d: frame.dropna().astype({"item": int}) for d, frame in frames.items()}
    assert triples(load_logs(write_pair(good, tmp_path, columns, 1, None)[0]), "x") == sorted(LOGS["x"])


@pytest.mark.parametrize("write", ["{:%Y-%m-%dT%H:%M:%SZ}", "{:%Y-%m-%d %H:%M:%S+02:00}", "{:%Y%m%dT%H%M%S UTC}"])
def test_times_with_and_without_a_zone_are_not_mixed(tmp_path, write):
    told = r"x\.csv: column 'timestamp' holds \d+ times with a zone, such as .*, and \d+ without, such as '2014-"
    paths = put(
        tmp_path,
        lambda rows: csv_of(
            rows, lambda t: write.format(moment(t)) if t // 60 % 2 else f"{moment(t):%Y-%m-%d %H:%M:%S}"
        ),
    )
    assert re.match(f".*{told}", describe_files(*paths).refusal)
    with pytest.raises(DataError, match=told):
        load_logs(written(tmp_path, unit="iso"))
    frames = {
        f"{d}.csv": pd.read_csv(path).set_index("user_id", drop=False) for d, path in zip(DOMAINS, paths, strict=True)
    }
    with pytest.raises(DataError, match=told):
        write_pair(frames, tmp_path, {"user": "user_id", "item": "item_id", "timestamp": "timestamp"}, 1, None)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("zoned", DOMAINS)
def test_a_log_with_a_zone_beside_one_without_is_refused(tmp_path, zoned, ending):
    frames = {}
    for d in DOMAINS:
        frame = frames[d] = pd.DataFrame(LOGS[d], columns=["user", "item", "timestamp"])
        frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="s", utc=True if d == zoned else None)
        frame.to_csv(tmp_path / f"{d}.csv", index=False) if ending == "csv" else frame.to_parquet(
            tmp_path / f"{d}.parquet"
        )
    paths = [tmp_path / f"{d}.{ending}" for d in DOMAINS]
    with_x = "with" if zoned == "x" else "without"
    told = (
        rf"column 'timestamp': times {with_x} a zone in .*x.*, such as '2\d{{3}}-.*with.* a zone in .*y.*by which clock"
    )
    assert re.search(told, describe_files(*paths).refusal)
    with pytest.raises(DataError, match=told):
        load_logs(written(tmp_path, ending, user="user", item="item", unit="iso"))
    columns = {"user": None, "item": None, "timestamp": "timestamp"}
    with pytest.raises(DataError, match=told):
        write_pair(frames, tmp_path, columns, 1, None)
    texts = {d: frame.assign(timestamp=frame["timestamp"].astype(str)) for d, frame in frames.items()}
    with pytest.raises(DataError, match=told):
        write_pair(texts, tmp_path, columns, 1, None)
    without = next(d for d in DOMAINS if d != zoned)
    days = {**frames, without: frames[without].assign(timestamp=frames[without]["timestamp"].dt.normalize())}
    write_pair(days, tmp_path, columns, 1, None)  # a day has no clock


@pytest.mark.parametrize("write", ['"=""{}"""', "'{}'", "b'{}'", "'{}", '"""{}"""'])
def test_ids_in_quotes_are_suspicious(tmp_path, write):
    paths = put(tmp_path, lambda rows: csv_of([(write.format(u), i, t) for u, i, t in rows]))
    found, pair = read_as_described(tmp_path, *paths)
    for told in (found.suspicious, pair.suspicions):
        assert len([one for one in told if "30 user ids" in one and "have quotes or a spreadsheet's signs" in one]) == 2
    (tmp_path / "x.csv").write_text(csv_of(LOGS["x"]))
    with pytest.raises(DataError, match=r"no user is in both.*and 30 of them, such as .*, differ by nothing else from"):
        load_logs(written(tmp_path))
    odd = {u for u, _, _ in LOGS["y"][:50]}
    (tmp_path / "y.csv").write_text(csv_of([(write.format(u) if u in odd else u, i, t) for u, i, t in LOGS["y"]]))
    found, pair = read_as_described(tmp_path, *paths)
    for told in (found.suspicious, pair.suspicions):
        assert [one for one in told if "quotes or a spreadsheet's signs, and 10 of them, such as" in one]


@pytest.mark.parametrize("scale", [0, 3])
def test_times_that_are_decimals_are_read(tmp_path, scale):
    for d in DOMAINS:
        frame = pd.DataFrame(LOGS[d], columns=["user_id", "item_id", "timestamp"])
        frame["timestamp"] = [Decimal(t).quantize(Decimal(10) ** -scale) for t in frame["timestamp"]]
        frame.to_parquet(tmp_path / f"{d}.parquet")
    _, pair = read_as_described(tmp_path, tmp_path / "x.parquet", tmp_path / "y.parquet")
    assert triples(pair, "x") == sorted(LOGS["x"])


@pytest.mark.parametrize("write", ["%Y-%m-%dT%H:%M:%S.25Z", "%Y-%m-%d %H:%M:%S"])
def test_time_before_the_item_where_there_is_no_header_is_found(tmp_path, write):
    """YooChoose: session, time, item, category."""

    def text(rows):
        return "".join(f"{u},{moment(t).strftime(write)},{i},0\n" for u, i, t in rows)

    found, pair = read_as_described(tmp_path, *put(tmp_path, text))
    assert triples(pair, "x") == sorted(LOGS["x"])
    assert "columns user, timestamp, item, rating" in found.how


@pytest.mark.parametrize("rating", ["5 ", ""])
def test_time_of_day_beside_the_day_is_told_where_there_is_no_header(tmp_path, rating):
    def text(rows):
        return "".join(f"{u} {i} {rating}{moment(t):%Y-%m-%d %H:%M:%S}\n" for u, i, t in rows)

    found = describe_files(*put(tmp_path, text))
    assert (
        len([one for one in found.suspicious if "holds the time of a day, such as '22:02:03', and is not" in one]) == 1
    )


def test_names_of_columns_in_brackets_are_a_header(tmp_path):
    paths = put(tmp_path, lambda rows: csv_of(rows).replace("user_id,item_id,timestamp", "[user_id],[item_id],[time]"))
    _, pair = read_as_described(tmp_path, *paths)
    assert triples(pair, "x") == sorted(LOGS["x"])


def test_times_of_numbered_users_are_no_features(tmp_path):
    """Numbers, a day and a clock looked like libsvm's pairs to it."""
    paths = put(tmp_path, lambda rows: "".join(f"{u},{i},{moment(t):%Y-%m-%d %H:%M:%S}\n" for u, i, t in rows))
    assert triples(read_as_described(tmp_path, *paths)[1], "x") == sorted(LOGS["x"])


@pytest.mark.parametrize("odd", ["0", "NULL", "unknown", "21.12.2014"])
def test_unit_that_reads_all_rows_but_one_is_told(tmp_path, odd):
    put(tmp_path, lambda rows: with_odd(rows, "user_id,item_id,rating,timestamp", moment, odd))
    with pytest.raises(DataError, match=r"line 2: .* set columns.unit: iso, which reads all rows but 1$"):
        load_logs(written(tmp_path, unit="s"))
    with pytest.raises(DataError, match=r"x\.csv, line 11: column 'timestamp' "):
        load_logs(written(tmp_path, unit="iso"))


def test_places_where_items_would_stand_without_a_header_are_named(tmp_path):
    """Gowalla: user, time, latitude, longitude, place."""

    def text(rows):
        return "".join(f"{u}\t{moment(t):%Y-%m-%dT%H:%M:%SZ}\t30.{i}7\t-97.{i}3\t{i}\n" for u, i, t in rows)

    paths = put(tmp_path, text)
    with pytest.raises(
        DataError, match=r"no header, and value 3 of 5 a line, such as '30\.\d+', is no id of the items"
    ):
        describe_files(*paths)
    columns = {"user": "u", "item": "i", "timestamp": "t", "unit": "iso", "header": ["u", "t", "north", "east", "i"]}
    assert triples(load_logs(written(tmp_path, **columns)), "x") == sorted(LOGS["x"])


@pytest.mark.parametrize("of_line", [lambda n, k: f"k{k}", lambda n, k: f"k{n % 2}_{k}"], ids=["alike", "unlike"])
def test_json_lines_of_many_keys_are_read(tmp_path, of_line):
    def text(rows):
        lines = ({"user": u, "item": i, "time": t} | {of_line(n, k): k for k in range(200)} for n, (u, i, t) in rows)
        return "".join(json.dumps(one) + "\n" for one in lines)

    _, pair = read_as_described(tmp_path, *put(tmp_path, lambda rows: text(enumerate(rows)), "jsonl"))
    assert all(triples(pair, d) == sorted(LOGS[d]) for d in DOMAINS)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("first, second", [("User", "user"), ("user", "USER_"), ("item", "Item"), ("Time", "time")])
def test_two_columns_with_nearly_one_name_are_suspicious(tmp_path, first, second, ending):
    role = next(one for one in ("user", "item", "time") if one in first.lower())
    paths = [tmp_path / f"{d}.{ending}" for d in DOMAINS]
    for d, path in zip(DOMAINS, paths, strict=True):
        frame = pd.DataFrame(LOGS[d], columns=["user", "item", "time"]).rename(columns={role: first})
        frame[second] = frame[first]
        if ending == "csv":
            frame.to_csv(path, index=False)
        elif ending == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path)
    told = describe_files(*paths).suspicious
    assert any(repr(first) in one and repr(second) in one for one in told)
    if role != "time":
        assert not any(repr(second) in one for one in describe_files(*paths, given={role: first}).suspicious)


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("write, named", [("'{}{} b'", "single quotes"), ("{}\\{}b", "backslash")])
def test_quoting_that_is_no_csv_is_named(tmp_path, write, named, sign, every):
    lines = [
        sign.join((u, write.format(i, sign) if n % every == 0 else i, str(t))) for n, (u, i, t) in enumerate(LOGS["x"])
    ]
    paths = put(tmp_path, csv_of)
    paths[0].write_text("\n".join([sign.join(("user", "item", "time")), *lines, ""]), encoding="utf-8")
    with pytest.raises(DataError, match=rf"line 2: .*{named}.*in double quotes"):
        describe_files(*paths)


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("write", ["'{}{}b'", "'{}{} b'"])
def test_values_in_single_quotes_without_a_header_are_named(tmp_path, write, sign, every):
    def text(rows):
        lines = [(u, write.format(i, sign) if n % every == 0 else f"'{i}'", str(t)) for n, (u, i, t) in enumerate(rows)]
        return "".join(sign.join(one) + "\n" for one in lines)

    with pytest.raises(DataError, match=r"line 1: single quotes do not quote here.*in double quotes"):
        describe_files(*put(tmp_path, text))


@pytest.mark.parametrize("sign", [",", " ", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_row_names_of_r_are_named(tmp_path, quote, sign):
    def text(rows):
        lines = [("user", "item", "time"), *((str(n), *one) for n, one in enumerate(rows, 1))]
        return "".join(sign.join(f"{quote}{cell}{quote}" for cell in one) + "\n" for one in lines)

    with pytest.raises(DataError, match=r"line 2: .*'1'.*row\.names=FALSE"):
        describe_files(*put(tmp_path, text))


@pytest.mark.parametrize(
    "header",
    [
        *("user_id,video_id,time_ms", "user_id,business_id,date", "customer_id,article_id,t_dat", "steamid,appid,time"),
        *("CustomerID,StockCode,InvoiceDate", "username,item_id,ts", "user_pseudo_id,item_id,event_timestamp"),
    ],
)
def test_names_of_columns_in_known_data_sets_are_recognised(tmp_path, header):
    _, pair = read_as_described(
        tmp_path, *put(tmp_path, lambda rows: csv_of(rows).replace("user_id,item_id,timestamp", header))
    )
    assert all(triples(pair, d) == sorted(LOGS[d]) for d in DOMAINS)


@pytest.mark.parametrize("role", ["user", "item"])
def test_text_in_place_of_ids_is_refused(tmp_path, role):
    def text(rows):
        long = [(u + "z" * 5000 * (role == "user"), i + "z" * 5000 * (role == "item"), t) for u, i, t in rows]
        return csv_of(long)

    found = describe_files(*put(tmp_path, text))
    assert not found.yaml and f"'{role}_id'" in found.refusal and "4,096 characters" in found.refusal
