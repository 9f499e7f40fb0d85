"""Dates written as digits in a notation that no unit stands for: which one it is, and how to write them instead."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import duckdb

FIRST_YEAR = 1995  # no log of what people take is older
_DAY = {  # a part of a day: its numbers, and its code in a format
    "MM": ("0[1-9]|1[0-2]", "%m"),
    "DD": ("0[1-9]|[12][0-9]|3[01]", "%d"),
    "DDD": ("00[1-9]|0[1-9][0-9]|[12][0-9][0-9]|3[0-5][0-9]|36[0-6]", "%j"),
    "WW": ("0[1-9]|[1-4][0-9]|5[0-3]", "%V"),
    "D": ("[1-7]", "%u"),
    "Q": ("[1-4]", ""),
    "0": ("0", ""),
}
_CLOCK = {
    "HH": ("[01][0-9]|2[0-3]", "%H"),
    "MM": ("[0-5][0-9]", "%M"),
    "SS": ("[0-5][0-9]", "%S"),
    "fff": ("[0-9]{3}", "%f"),
}
_CLOCKS = ("", "HH", "HH MM", "HH MM SS", "HH MM SS fff")
_ORDERS = (  # of the parts of a day, before or behind a clock
    *("YYYY DD MM", "DD MM YYYY", "MM DD YYYY", "YYYY DDD", "DDD YYYY"),
    *("YY MM DD", "DD MM YY", "MM DD YY", "YY DD MM", "YY DDD", "DDD YY"),
)
_COARSE = (
    *("YYYY MM", "MM YYYY", "YY MM", "MM YY", "YYYY WW", "WW YYYY", "YY WW", "YYYY WW D"),
    *("YYYY Q", "YYYY 0 Q", "Q YYYY", "MM DD", "DD MM"),
)
_MONTHS = "map({'1': '01', '2': '04', '3': '07', '4': '10'})"  # the first of each quarter
_MOST = 5_000  # different numbers that are looked at


class _Notation(NamedTuple):
    name: str
    look: re.Pattern[str]
    format: str
    numbers: int  # how many there are


@lru_cache(1)
def _notations(last_year: int) -> tuple[_Notation, ...]:
    years = [str(year) for year in range(FIRST_YEAR, last_year + 1)]
    day = _DAY | {"YYYY": ("|".join(years), "%Y"), "YY": ("|".join(year[2:] for year in years), "%y")}
    size = {"YYYY": len(years), "YY": len(years), "MM": 12, "DD": 31, "DDD": 366, "WW": 53, "D": 7, "Q": 4, "0": 1}
    ticks = {"HH": 24, "MM": 60, "SS": 60, "fff": 1000}
    pairs = [*itertools.product(_ORDERS, _CLOCKS), *((one, "") for one in _COARSE)]
    parts = [[(day, size, of_day), (_CLOCK, ticks, clock)] for of_day, clock in pairs]
    parts += [one[::-1] for one in parts if one[1][2]]
    parts += [[(_CLOCK, ticks, clock), (day, size, "YYYY MM DD")] for clock in _CLOCKS[1:]]
    parts += [[(_CLOCK, ticks, clock)] for clock in _CLOCKS[2:]]
    found = []
    for one in parts:
        fields = [(*known[part], sizes[part]) for known, sizes, names in one for part in names.split()]
        found.append(
            _Notation(
                "".join(names.replace(" ", "") for *_, names in one),
                re.compile("".join(f"({look})" for look, _, _ in fields)),
                re.sub("%[Yy](?=%V)|(?<=%V)%Y", "%G", "".join(code for _, code, _ in fields)),
                math.prod(count for *_, count in fields),
            )
        )
    return tuple(found)


def notation_in(db: duckdb.DuckDBPyConnection, text: str, rows: str, values: Sequence[Any] = ()) -> str:
    """:func:`notation_of` what an SQL expression gives in all rows; most logs are told by the first ones."""
    return notation_of(_different(db, text, rows, values))


def likely_in(db: duckdb.DuckDBPyConnection, text: str, rows: str) -> list[str]:
    """The names of the notations that nearly all rows have, be it by chance."""
    return [one.name for one in _fitting(_different(db, text, rows, ()))]


def _different(db: duckdb.DuckDBPyConnection, text: str, rows: str, values: Sequence[Any]) -> list[str]:
    """Different values of all rows, or of the first ones if no notation fits these."""
    texts: list[str] = []
    for part in (f"SELECT {text} AS v FROM {rows} LIMIT 1000", f"SELECT {text} AS v FROM {rows}"):
        sql = f"SELECT DISTINCT v FROM ({part}) WHERE v IS NOT NULL ORDER BY hash(v) LIMIT {_MOST}"
        texts = [text for [text] in db.execute(sql, list(values)).fetchall()]
        if not _fitting(texts):
            break
    return texts


def _fitting(texts: Sequence[str]) -> list[_Notation]:
    """The notations that nearly all of some different texts have; zeros in front may be lost."""
    lengths = sorted(map(len, texts))
    width = lengths[9 * len(lengths) // 10] if lengths else 0
    found = [one for one in _notations(time.gmtime().tm_year) if len(one.name) in (width, width + 1)]
    for some in (texts[:50], texts):
        found = [one for one in found if _share(one, some) >= 0.9]
    return found


def _share(notation: _Notation, texts: Sequence[str]) -> float:
    return sum(notation.look.fullmatch(one.zfill(len(notation.name))) is not None for one in texts) / len(texts)


def notation_of(texts: Sequence[str]) -> str:
    """The notation of dates that nearly all of some different texts have, and how to write them; "" if there is none.

    Numbers that fit because nearly all between their ends do, or a few that may do so by chance, have none.
    """
    found = _fitting(texts)
    if not found:
        return ""
    numbers = [int(one) for one in texts if re.fullmatch("[0-9]{1,18}", one)]
    least, span = min(numbers), max(numbers) - min(numbers) + 1
    others = [str(least + n * (1 if span <= 1000 else 618_033_988_749) % span) for n in range(min(span, 1000))]
    by_chance = {one.name: _share(one, others) for one in found}
    found = [one for one in found if by_chance[one.name] <= 0.6 and by_chance[one.name] ** len(texts) < 0.05]
    if not found:
        return ""
    fewest = min(one.numbers for one in found)  # numbers of a larger kind would hardly all be of a smaller one
    found = [one for one in found if len(texts) * math.log(one.numbers / fewest) < 7]
    for likelier in (lambda one: "Y" in one.name, lambda one: not one.name.startswith("H")):
        found = list(filter(likelier, found)) or found
    best = min(found, key=lambda one: one.numbers)
    if "Y" not in best.name:
        lacks = "day" if "H" in best.name else "year"
        return (
            f"{best.name}, without the {lacks}: write times with it, such as 2014-11-27 21:46:45, and set "
            f"columns.unit: iso"
        )
    weeks = " (ISO weeks)" * ("WW" in best.name)
    return (
        f"dates written as digits ({' or '.join(one.name for one in found)}){weeks}: write them as YYYYMMDDHHMMSS, "
        f"with pandas to_datetime({_rewritten(best)}).dt.strftime('%Y%m%d%H%M%S')"
        f"{f' if they are {best.name}' * (len(found) > 1)}, and set columns.unit: date"
    )


def _rewritten(notation: _Notation) -> str:
    """What pandas' ``to_datetime`` needs for a notation."""
    name, text = notation.name, "times.astype(str).str"
    if "Q" in name:
        year, quarter = ("1:", "0") if name[0] == "Q" else (":4", "-1")
        return f"{text}[{year}] + {text}[{quarter}].{_MONTHS}, format='%Y%m'"
    text += f".zfill({len(name)})"
    if "WW" not in name or name.endswith("D"):
        return f"{text}, format='{notation.format}'"
    century = "'20' + " * (name == "YYWW")
    return f"{century}{text} + '1', format='{notation.format}%u'"  # the first day of each week
