"""What stands between the values of a text file: a sign that every line has equally often."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from i2vae_lib.data.rows import DataError
from i2vae_lib.places import shortened

_USUAL = (",", "\t", ";", "|", "::")
_OF_VALUES = set(":/+@%&=?#")  # signs that stand in times and addresses as well
_OF_NAMES = set("_-.\"'")
_CONTROL = r"\x01-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F"
_SIGN = r"[^\w\s\"'(){}\[\]]+"
_SIGNS = rf"[{_CONTROL}]+|\t+| {_SIGN} (?! )|{_SIGN}|_+|[\"']|[^\S \r\n]|[^\W\x00-\x7F]"
"""Control characters, signs that stand together, with blanks around them or without, letters that are no ASCII."""
_LONGEST = 4  # bytes, for DuckDB
_FIRST = 100  # lines that are looked at


class _Sign(NamedTuple):
    text: str
    fields: int  # of line 1
    alike: float  # share of the other lines with as many
    found: int  # wanted names among the fields of line 1
    rank: int  # 0: usual, or a control character; 1: a blank; 2: any sign; then signs of values, of names, letters


def fields_of(line: str, separator: str) -> list[str]:
    """The values of a line."""
    if len(separator) > 1 or separator == '"':
        return line.split(separator)
    return next(csv.reader(io.StringIO(line, newline=""), delimiter=separator), [])


def separator_of(path: Path, gzipped: bool, first: str, wanted: Sequence[str]) -> str:
    """The sign that separates the values of a file, whose first line is given.

    The one that gives most of the wanted names, then the most usual one, then the one that gives most values. A sign
    that most other lines lack, as blanks in names, is none.

    Raises
    ------
    DataError
        No sign; one that may well separate values, but not equally often in each line; a double quote; one too long.
    """
    others = _next_lines(path, gzipped)
    texts = {*re.findall(_SIGNS, first), *(one for one in (*_USUAL, " ") if one in first)}
    lines = [first, *others.values()]
    signs = [one for one in _with_parts(texts) if one in first and not _inside(one, texts, lines)]
    found = [_measured(one, first, lines[1:], wanted) for one in signs]
    usual = [one for one in found if one.found or sum(one.text in line for line in lines[1:]) >= 0.5 * len(others)]
    usual = usual or [one for one in found if one.rank < 2]
    if not usual:
        raise DataError(
            f"{path}, line 1: no sign stands in {shortened(first)!r} and in most of the next lines, so nothing "
            f"separates values: write them with commas or tabs between"
        )
    best = max(usual, key=lambda one: (one.found, -_rank(one), one.alike >= 0.5, one.fields, one.alike, len(one.text)))
    instead = "write the file with commas or tabs instead"
    if best.text == '"':
        raise DataError(f"{path}, line 1: values separated by {best.text!r}, which quotes values: {instead}")
    if len(best.text.encode()) > _LONGEST:
        raise DataError(f"{path}, line 1: values separated by {best.text!r}, more than {_LONGEST} bytes: {instead}")
    if best.rank > 2 and best.alike < 0.5:
        number, odd = next(
            (n, len(one)) for n, line in others.items() if len(one := fields_of(line, best.text)) != best.fields
        )
        raise DataError(
            f"{path}, line 1: {best.fields} values, if {best.text!r} separates them, and {odd} in line {number}: a "
            f"sign that names or values hold as well separates nothing; {instead}"
        )
    return best.text


def refuse_single_quotes(path: Path, line: str, separator: str) -> None:
    """Refuse a first line in which a value in single quotes holds the separator: it would be taken apart there."""
    sign = re.escape(separator)
    if re.search(rf"(^|{sign})\s*'[^'{sign}]*{sign}[^']*'({sign}|$)", line):
        raise DataError(
            f"{path}, line 1: single quotes do not quote here: write values that hold {separator!r} in double quotes"
        )


def refuse_title(path: Path, gzipped: bool, first: str) -> None:
    """Refuse a first line with fewer values than all others have: a title, or names that are missing.

    Raises
    ------
    DataError
    """
    lines = list(_next_lines(path, gzipped).values())
    found = {sign: {len(fields_of(one, sign)) for one in lines} for sign in (*_USUAL, " ")}
    alike = {sign: counts.pop() for sign, counts in found.items() if len(counts) == 1}
    here = {sign: len(fields_of(first, sign)) for sign in alike}
    if any(count == here[sign] > 1 for sign, count in alike.items()):
        return
    for sign, count in alike.items():
        if sign != " " and here[sign] < count > 2 and (2 * here[sign] <= count or " " in first):
            raise DataError(
                f"{path}, line 1: {shortened(first)!r}, where the next lines have {count} values each, separated by "
                f"{sign!r}: a title? The header comes first, with a name for each value: delete what stands before it"
            )


def usual_fields(path: Path, gzipped: bool, separator: str) -> int:
    """How many values most of the first lines behind line 1 have."""
    counts = [len(fields_of(line, separator)) for line in _next_lines(path, gzipped).values()]
    return max(counts, key=counts.count)


def _rank(sign: _Sign) -> float:
    """A blank or a rare sign that does not separate the lines alike stands behind one that does."""
    return 2.5 if sign.rank in (1, 2) and sign.alike < 0.5 else sign.rank


def _next_lines(path: Path, gzipped: bool) -> dict[int, str]:
    """The lines behind the first by their numbers, without empty ones."""
    lines = []
    with gzip.open(path, "rb") if gzipped else path.open("rb") as stream, suppress(OSError, EOFError, zlib.error):
        for _ in range(_FIRST):
            lines.append(stream.readline(1 << 20).decode("utf-8", errors="replace").rstrip("\r\n"))
    return {n: line for n, line in enumerate(lines, 1) if line and n > 1}


def _with_parts(texts: set[str]) -> list[str]:
    return sorted(texts.union(*texts) - {"\r", "\n"})


def _inside(sign: str, texts: set[str], lines: Sequence[str]) -> bool:
    """Whether a sign stands nowhere but inside a longer one."""
    longer = [one for one in texts if sign in one and sign != one]
    count = sum(line.count(sign) for line in lines)
    return any(one.count(sign) * sum(line.count(one) for line in lines) == count for one in longer)


def _measured(sign: str, first: str, others: Sequence[str], wanted: Sequence[str]) -> _Sign:
    fields = fields_of(first, sign)
    alike = sum(len(fields_of(line, sign)) == len(fields) for line in others) / len(others) if others else 1
    plain = sign.strip(" ")
    if sign in _USUAL or re.fullmatch(rf"[{_CONTROL}\t|,;]+", plain):
        rank = 0
    elif not plain:
        rank = 1
    elif plain.isalnum():
        rank = 5
    else:
        rank = 4 if {*plain} <= _OF_NAMES else 3 if {*plain} <= _OF_VALUES | _OF_NAMES else int(plain == sign) * 2
    return _Sign(sign, len(fields), alike, len({one.strip() for one in fields} & {*wanted}), rank)
