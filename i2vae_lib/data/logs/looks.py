"""What the values of a column look like as times. One odd value among many makes no other column of it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from i2vae_lib.data.logs.checks import unit_by_size
from i2vae_lib.data.logs.files import DATE_DIGITS, ISO, is_number, is_temporal
from i2vae_lib.data.logs.pair_file import UNITS, Unit

TIMES = ("unix", "iso", "date")  # that can be read, likelier ones first; "date": digits
KINDS = (*TIMES, "numbers", "unread", "text")  # "unread": dates in a notation that is not read
UNIT_OF: dict[str, Unit] = {"iso": "iso", "date": "date", "unread": "iso"}  # of others the size decides
TIME_WORDS = {"time", "times", "date", "datetime", "timestamp", "stamp", "ts", "unix", "epoch", "at", "when", "ms"}
TIME_WORDS |= {"day"}
CLOCK = r"[0-2]?[0-9]:[0-5][0-9]\b"
NEARLY = 0.9  # of the values
_NUMBER = r"[0-9.]+[eE]\+?[0-9]+"
_THOUSANDS = r"[0-9]{1,3}([,.'\s][0-9]{3}){2,}"
_YEAR = "(19|20)[0-9]{2}"
_SIGN = r"([-/.,\s]\s?|\s?[^\W\d_\x00-\x7F]\s?)"  # between two numbers of a day; Chinese and Korean have words there
_MONTH = r"([^\W\d_]{1,3}\s)?[^\W\d_]{3,}"  # in any language, as ``Dezember`` and ``de diciembre``
_BESIDE = r"[-/.,\s]*"
_DAY = (
    rf"{_YEAR}{_SIGN}[0-9]{{1,2}}{_SIGN}[0-9]{{1,2}}|[0-9]{{1,2}}{_SIGN}[0-9]{{1,2}}{_SIGN}{_YEAR}|"
    rf"[0-3]?[0-9](?P<sign>[-/. ])[0-3]?[0-9](?P=sign)[0-9]{{2}}|{_YEAR}[0-9]{{4}}[t\s_-][0-9]{{4,6}}|"
    rf"{_YEAR}-?w[0-5][0-9](-?[1-7])?|{_YEAR}-[0-3][0-9]{{2}}|"  # weeks and days of a year
    rf"[0-3]?[0-9](st|nd|rd|th|er|º)?{_BESIDE}{_MONTH}{_BESIDE}([^\W\d_]{{1,3}}\s)?({_YEAR}|'?[0-9]{{2}})|"
    rf"{_MONTH}{_BESIDE}[0-3]?[0-9](st|nd|rd|th)?[\s,]+({CLOCK}\S*\s+(\S{{2,6}}\s+)?)?{_YEAR}|"
    rf"{_YEAR}\S?{_BESIDE}([^\W\d_]\.?\s)?{_MONTH}{_BESIDE}[0-3]?[0-9]"
)
_FRONT = r"([^\d]*[^\w\s.,-]|[^\W\d_]+([.,]+\s*|\s+(?![0-9]+\.[0-9]+\.))|[^\W\d_]{2,3}\s+)"  # ``/Date(``, ``mercredi ``
_WRITTEN = (  # a day, or a number as large as times, wherever such text begins and whatever follows it
    rf"{_FRONT}?({CLOCK}[0-9:.]*\s*([ap]m)?\s+)?({_DAY}|(?<![\s\w])(?P<number>[0-9]{{9,19}}))(?![0-9]).*"
)


def kind_of(values: Sequence[str], type: object | None, least: float = NEARLY) -> str:
    """What nearly all of a column's values look like as times, or the least share: one of :data:`KINDS`."""
    if type is not None and is_temporal(type):
        return "iso"
    texts = [re.sub(r"\D", "", one) if re.fullmatch(_THOUSANDS, one) else one for one in map(str.strip, values)]
    numbers = [is_number(one) or re.fullmatch(_NUMBER, one) is not None for one in texts]
    looks = {
        "iso": [re.fullmatch(ISO, one) is not None for one in texts],
        "date": [re.fullmatch(DATE_DIGITS + r"(\.0*)?", one) is not None for one in texts],
        "unix": [it and _likely_time(float(one)) for one, it in zip(texts, numbers, strict=True)],
        "numbers": numbers,
    }
    looks["unread"] = [iso or _is_written(one[:200]) for one, iso in zip(texts, looks["iso"], strict=True)]
    return next((kind for kind, found in looks.items() if texts and sum(found) >= least * len(texts)), "text")


def timely(values: Sequence[str]) -> list[bool]:
    """Which values look like times, each on its own."""
    return [kind_of([one], None) in (*TIMES, "unread") for one in values]


def _is_written(text: str) -> bool:
    """Whether a text looks like a moment in some notation that is not read."""
    found = re.fullmatch(_WRITTEN, text, re.IGNORECASE | re.DOTALL)
    return found is not None and (found["number"] is None or _likely_time(float(found["number"])))


def is_value(field: str) -> bool:
    """Whether a field is a number or a date, and so no column's name."""
    return is_number(field) or kind_of([field], None) != "text"


def _likely_time(number: float) -> bool:
    """Whether a number is a Unix time from March 1973 to next year, in the unit that its size speaks for."""
    return 10**8 <= number / UNITS[unit_by_size(number)][1] < time.time() + 366 * 86_400
