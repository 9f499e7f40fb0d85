"""Two DataFrames as a pair of logs: Parquet files with a pair file, for :mod:`i2vae_lib.data.logs.join` to read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from i2vae_lib.data.logs.checks import Zone, mixed_zones, refuse_zone_of_one, unit_by_size
from i2vae_lib.data.logs.describe import Description, describe_files
from i2vae_lib.data.logs.files import CLOCK_AND_ZONE, DATE_DIGITS, Source, check_columns, check_id_type, is_number
from i2vae_lib.data.logs.notations import notation_of
from i2vae_lib.data.logs.pair_file import LONGEST_NAME, UNITS, Unit
from i2vae_lib.data.rows import DOMAINS, DataError
from i2vae_lib.runs import write_atomically
from i2vae_lib.yaml_files import parse

Log = pd.DataFrame | str | Path
Names = Mapping[str, str | Literal[False] | None]  # role -> name of its column
_DAY = re.compile(r"[0-9]{4}([-/]?)[0-9]{2}\1[0-9]{2}")
TEXT = "str"  # type of ids; the others are int64 and uint64


def write_pair(
    logs: Mapping[str, Log],
    folder: Path,
    columns: Names,
    min_events: int,
    same_items: bool | None,
) -> tuple[Path, dict[str, str]]:
    """Write the pair file of two logs, given by domain name; logs in memory are written beside it.

    Parameters
    ----------
    logs
        Two DataFrames, or two paths of files whose layout :func:`.describe.describe_files` recognises.
    columns
        Names of the columns ``user``, ``item`` and ``timestamp``. None: user, item and time; for paths, as described.
        False (``timestamp`` only): there are no times, each log's rows are in order, and the order between the two
        logs is unknown.
    min_events
        Fewest events of a user in a domain, and of an item.
    same_items
        Whether an id in both domains is one item. None: if ids are text; integers are each domain's own numbers.

    Returns
    -------
    pair_file, id_types
        Path of the pair file; the type of the ids by ``"user"`` and domain key (``int64``, ``uint64`` or ``str``), to
        convert ids back.

    Raises
    ------
    DataError
        Not two logs, or columns or times that a log cannot have; the message names domain and column.
    """
    if len(logs) != 2:
        raise DataError(f"{len(logs)} logs ({', '.join(map(str, logs)) or 'none'}): a pair has two domains, give two")
    tables = [isinstance(log, pd.DataFrame) for log in logs.values()]
    if any(tables) != all(tables) or not all(isinstance(log, (pd.DataFrame, str, Path)) for log in logs.values()):
        kinds = ", ".join(f"{name}: {type(log).__name__}" for name, log in logs.items())
        raise DataError(f"expected two DataFrames or two paths, found {kinds}")
    stem = re.sub(r"[^\w.-]+", "_", "_".join(map(str, logs)).lower())[:LONGEST_NAME]
    try:
        pair, types = (_of_tables if all(tables) else _of_paths)(logs, folder, columns)
    except UnicodeEncodeError as error:  # half of a pair of UTF-16
        raise DataError(f"{error.object!r} is no Unicode text, which times, names and paths have to be") from None
    text = types["x"] == types["y"] == TEXT
    pair = {"name": stem} | pair | {"min_user": min_events, "min_item": min_events}
    pair["same_ids_are_same_items"] = text if same_items is None else same_items
    path = folder / f"{stem}.yaml"
    write_atomically(path, lambda part: part.write_text(yaml.safe_dump(pair, sort_keys=False), encoding="utf-8"))
    return path, types


_IN_FRAMES = {  # what messages advise for pair files, which frames do not have
    r"set columns\.unit: order": "give time=False",
    r"YYYYMMDDHHMMSS, with (.*)\.dt\.strftime\(.*?\)(.*), and set columns\.unit: date": r"datetimes, with \1\2",
    r"set columns\.unit: d\b": "write them as datetimes, with pandas to_datetime(times, unit='D')",
    r"set columns\.unit: \w+": "write them as datetimes",
    r"if columns\.unit: \w+ is right, drop them": "drop them",
    r"columns\.unit: \w+ stands for": "expected",
    r"'min_(user|item)'": "'min_events'",
    "'same_ids_are_same_items'": "'same_items'",
}


@contextmanager
def by_name(folder: Path, names: Mapping[str, str]) -> Iterator[None]:
    """Let errors name the logs that :func:`write_pair` wrote to ``folder`` by their domains, not by their files."""
    try:
        yield
    except DataError as error:
        message = re.sub(re.escape(str(folder)) + r"[/\\][^/\\]*\.yaml: ", "", str(error))
        for d, name in names.items():
            message = message.replace(str((folder / f"{d}.parquet").resolve()), name)
        raise DataError(message if message == str(error) else _in_frames(message)) from None


def _in_frames(message: str) -> str:
    for told, instead in _IN_FRAMES.items():
        message = re.sub(told, instead, message)
    return message


_Described = tuple[dict[str, Any], dict[str, str]]  # content of a pair file; types of the ids


def _of_paths(logs: Mapping[str, Any], folder: Path, columns: Names) -> _Described:
    paths = [Path(path).resolve() for path in logs.values()]
    given = {role: name for role, name in columns.items() if name}
    described = describe_files(paths[0], paths[1], given)
    if described.refusal:
        raise DataError(described.refusal)
    layout = parse(described.yaml)
    if isinstance(described, Description) and described.columns.timestamp is columns["timestamp"] is None:
        told = "".join(f"; {one}" for one in described.suspicious)
        raise DataError(f"{paths[0]}: no column of times: name it, time=…, or if lines are in order, time=False{told}")
    if columns["timestamp"] is False and "columns" in layout:
        layout["columns"] = {key: layout["columns"][key] for key in ("user", "item")} | {"unit": "order"}
    if layout.get("format") == "released":
        raise DataError(
            f"{paths[0]}: published splits, no logs; give `i2vae run --data` the pair file of i2vae describe"
        )
    pair = {key: layout[key] for key in ("columns", "format") if key in layout}
    home = paths[0].parent
    for d, name in zip(DOMAINS, logs, strict=True):
        side = layout[d] | {key: str(home / layout[d][key]) for key in ("path", "items", "titles") if key in layout[d]}
        pair[d] = (
            side | {"name": name} | ({"more": [str(home / path) for path in side["more"]]} if "more" in side else {})
        )
    if given and "format" in layout:
        raise DataError(f"{paths[0]} is of format {layout['format']}, whose columns are known: leave out {[*given]}")
    if other := {role: name for role, name in given.items() if pair["columns"].get(role) != name}:
        raise DataError(f"{paths[0]}: by the look of both files the columns are {pair['columns']}, not {other}")
    return pair, dict.fromkeys(("user", *DOMAINS), TEXT)


def _of_tables(logs: Mapping[str, Any], folder: Path, columns: Names) -> _Described:
    user, item = (columns[role] or role for role in ("user", "item"))
    time = None if columns["timestamp"] is False else columns["timestamp"] or "time"
    wanted = (user, item) if time is None else (user, item, time)
    parts: dict[str, list[pa.Array]] = {}
    moments: dict[str, pd.Series] = {}
    zones: list[Zone] = []
    for d, (name, frame) in zip(DOMAINS, logs.items(), strict=True):
        names = tuple(map(str, frame.columns))
        check_columns(Source(Path(name), False, ",", True, names, ()), wanted)
        if not len(frame):
            raise DataError(f"{name}: no rows")
        values = {column: _dense(frame.iloc[:, names.index(column)]) for column in wanted}
        parts[d] = [_ids(name, column, values[column]) for column in (user, item)]
        if time is not None:
            zones.append(_zone(name, time, values[time]))
            moments[name] = _times(name, time, values[time])
    refuse_zone_of_one(time, zones)
    types = {d: _id_type(part[1]) for d, part in parts.items()}
    of_users = {name: _id_type(part[0]) for name, part in zip(logs, parts.values(), strict=True)}
    if len(set(of_users.values())) > 1:
        kinds = ", ".join(f"{kind} in {name}" for name, kind in of_users.items())
        raise DataError(f"column '{user}' holds {kinds}: the same person needs the same id, so write both alike")
    types["user"] = next(iter(of_users.values()))
    described: dict[str, Any] = {"user": user, "item": item}
    if time is None:
        described["unit"] = "order"
    else:
        unit = _common_unit(moments)
        described |= {"timestamp": time, "unit": unit}
        for part, stamps in zip(parts.values(), moments.values(), strict=True):
            is_date = pd.api.types.is_datetime64_any_dtype(stamps)
            times = pa.array(stamps.dt.as_unit(unit) if is_date else stamps, from_pandas=True)
            part.append(times.cast(pa.int64()) if is_date else times)
    for d, part in parts.items():
        table = pa.table(dict(zip(wanted, part, strict=True)))
        write_atomically(folder / f"{d}.parquet", partial(pq.write_table, table))
    pair: dict[str, Any] = {d: {"name": name, "path": f"{d}.parquet"} for d, name in zip(DOMAINS, logs, strict=True)}
    return pair | {"columns": described}, types


def _dense(values: pd.Series) -> pd.Series:
    """A sparse column as a plain one, which Arrow can read."""
    return pd.Series(values.to_numpy(), values.index) if isinstance(values.dtype, pd.SparseDtype) else values


def _ids(name: str, column: str, values: pd.Series) -> pa.Array:
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    try:
        ids = pa.array(values, from_pandas=True)
    except UnicodeEncodeError as error:
        raise DataError(f"{name}: column '{column}' holds {error.object!r}, which is no Unicode text") from None
    except (pa.ArrowException, OverflowError, TypeError):
        kinds = " and ".join(sorted({type(value).__name__ for value in values}))
        if kinds == "int":
            raise DataError(
                f"{name}: column '{column}' holds integers that 64 bits cannot hold: make them text, with astype(str)"
            ) from None
        verb = "mixes" if " and " in kinds else "holds"
        raise DataError(f"{name}: column '{column}' {verb} {kinds}; ids are all text or all integers") from None
    check_id_type(name, column, ids.type)
    return ids


def _id_type(ids: pa.Array) -> str:
    """The type that ids are converted back to; ids that are neither text nor integers are refused on reading."""
    if not pa.types.is_integer(ids.type):
        return TEXT
    return "uint64" if pa.types.is_uint64(ids.type) else "int64"


def _times(name: str, column: str, values: pd.Series) -> pd.Series:
    """Unix times as they are, everything else as datetimes in UTC; times that are all equal are refused."""
    if values.dtype.kind in "cb":
        raise DataError(
            f"{name}: column '{column}' holds {values.dtype}; times are datetimes, ISO 8601 text or Unix time"
        )
    if not pd.api.types.is_numeric_dtype(values):
        _refuse_no_number(name, column, values)
        dates = pd.to_datetime(
            values, utc=True, format=None if values.dtype.kind == "M" else "ISO8601", errors="coerce"
        )
        # pandas takes a year or a month alone for its first day
        vague = pd.Series([isinstance(one, str) and not _DAY.match(one.strip()) for one in values], values.index)
        bad = (dates.isna() | vague) & values.notna()
        if bad.any() and is_number(str(values[bad].iloc[0])):
            raise DataError(
                f"{name}, row {int(bad.to_numpy().argmax()) + 1}: column '{column}' holds {values[bad].iloc[0]!r}, "
                f"{_of_digits(values)}"
            )
        if bad.any():
            raise DataError(
                f"{name}, row {int(bad.to_numpy().argmax()) + 1}: column '{column}' holds {values[bad].iloc[0]!r}; "
                f"times are datetimes, text with the day at least, such as 2024-05-01 12:30 (ISO 8601), or Unix time: "
                f"pandas to_datetime(times, format=…) reads other notations"
            )
        values = dates
    if len(values) > 1 and values.nunique(dropna=False) == 1:
        raise DataError(
            f"{name}: column '{column}' holds {values.iloc[0]} in all {len(values):,} rows: nothing tells what came "
            f"first"
        )
    return values


def _refuse_no_number(name: str, column: str, values: pd.Series) -> None:
    """Refuse times of which most are numbers, as text or objects, and some are not."""
    numbers = [is_number(str(one)) for one in values] if values.dtype.kind != "M" else []
    if 2 * sum(numbers) > len(values) > sum(numbers):
        at = numbers.index(False)
        raise DataError(
            f"{name}, row {at + 1}: column '{column}' holds {values.iloc[at]!r}, where {sum(numbers):,} of "
            f"{len(values):,} rows hold numbers: keep these, log[to_numeric(log['{column}'], errors='coerce').notna()]"
        )


def _zone(name: str, column: str, values: pd.Series) -> Zone:
    """The zone of times; those with and without one are refused, as :func:`.checks.check_log` does."""
    if pd.api.types.is_numeric_dtype(values):
        return None
    values = values.dropna()
    if values.dtype.kind == "M":
        clocks = values if values.dt.tz is not None else values[values != values.dt.normalize()]
        return (name, values.dt.tz is not None, str(clocks.iloc[0])) if len(clocks) else None
    texts = values.astype(str).str.strip()
    texts = texts[texts.str.contains("[Tt ][0-9]")]
    zoned = texts.str.extract(CLOCK_AND_ZONE)[0].notna()
    some, others = texts[zoned], texts[~zoned]
    if len(some) and len(others):
        raise mixed_zones(name, column, (len(some), some.iloc[0]), (len(others), others.iloc[0]))
    return (name, len(some) > 0, texts.iloc[0]) if len(texts) else None


def _of_digits(values: pd.Series) -> str:
    """What times are that stand as digits in a column of text or objects, and what they should be."""
    texts = [str(one).strip() for one in values.dropna().unique()[:5_000]]
    if all(re.fullmatch(DATE_DIGITS, one) for one in texts):
        format = "%Y%m%d%H%M%S%f"[: min(len(texts[0]) - 2, 14)]
        return f"dates written as digits: write them as datetimes, with pandas to_datetime(times, format='{format}')"
    if notation := notation_of(texts):
        return _in_frames(notation)
    return (
        f"a number in a column of {values.dtype}: Unix times are integers, to_numeric(times).astype('int64') makes them"
    )


def _common_unit(times: Mapping[str, pd.Series]) -> Unit:
    """The unit of Unix times, guessed from their size; datetimes fit any unit."""
    numbers = {name: stamps for name, stamps in times.items() if not pd.api.types.is_datetime64_any_dtype(stamps)}
    units = {name: unit_by_size(float(stamps.median())) for name, stamps in numbers.items()}
    if len(set(units.values())) > 1:
        listed = ", ".join(f"{UNITS[unit][0]} in {name}" for name, unit in units.items())
        raise DataError(f"times differ in their unit, by their size: {listed}; convert one of them")
    return next(iter(units.values()), "us")
