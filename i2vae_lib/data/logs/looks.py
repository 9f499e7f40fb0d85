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
_NEARLY = 0.9  # of the values
_NUMBER = r"[0-9.]+[eE]\+?[0-9]+"
_MONTH = (
    r"(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|nov(ember)?|"
    r"dec(ember)?)\b\.?"
)
_DAY = (
    r"(19|20)[0-9]{2}[-/.\s][0-9]{1,2}[-/.\s][0-9]{1,2}|[0-9]{1,2}[-/.\s][0-9]{1,2}[-/.,\s]\s?(19|20)[0-9]{2}|"
    rf"(19|20)[0-9]{{6}}[t\s_-][0-9]{{4,6}}|(?=\D*[0-9]+\D+[0-9])([0-9]{{1,4}}(st|nd|rd|th)?[-/.\s]?)?{_MONTH}"
)
_WRITTEN = (  # a day with a year or the name of a month, as most of the world writes dates
    rf"((mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s*)?({CLOCK}[0-9:.]*\s*([ap]m)?\s+)?({_DAY})[-0-9:.,+/\st]*([ap]\.?m\.?)?\s*"
    rf"[-+0-9:]*(z|[a-z]{{2,5}}([-+][0-9:]+)?)?[\s0-9]*(\(.*\))?"
)


def kind_of(values: Sequence[str], type: object | None) -> str:
    """What nearly all of a column's values look like as times: one of :data:`KINDS`."""
    if type is not None and is_temporal(type):
        return "iso"
    texts = [one.strip() for one in values]
    if _most(iso := [re.fullmatch(ISO, one) is not None for one in texts]):
        return "iso"
    if _most([re.fullmatch(DATE_DIGITS + r"(\.0*)?", one) is not None for one in texts]):
        return "date"
    if _most(numbers := [is_number(one) or re.fullmatch(_NUMBER, one) is not None for one in texts]):
        likely = sum(_likely_time(float(one)) for one, is_it in zip(texts, numbers, strict=True) if is_it)
        return "unix" if likely > _NEARLY * sum(numbers) else "numbers"
    written = [
        one or re.fullmatch(_WRITTEN, text, re.IGNORECASE) is not None for one, text in zip(iso, texts, strict=True)
    ]
    return "unread" if _most(written) else "text"


def is_value(field: str) -> bool:
    """Whether a field is a number or a date, and so no column's name."""
    return is_number(field) or kind_of([field], None) != "text"


def _most(found: Sequence[bool]) -> bool:
    return bool(found) and sum(found) >= _NEARLY * len(found)


def _likely_time(number: float) -> bool:
    """Whether a number is a Unix time from March 1973 to next year, in the unit that its size speaks for."""
    return 10**8 <= number / UNITS[unit_by_size(number)][1] < time.time() + 366 * 86_400
