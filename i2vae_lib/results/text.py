"""Renders tables for a terminal, as Markdown, LaTeX, HTML and CSV, with every name escaped for its format.

A table is a DataFrame of strings and :class:`Number`; a document is a sequence of lines and captioned tables. Names
come from users' files: nothing in them may act as markup, as a LaTeX command or as a spreadsheet formula.
"""

import html
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from i2vae_lib.lazy import require
from i2vae_lib.places import CONTROL
from i2vae_lib.results.escaping import escaped

_BOLD = "\\textbf{{{}}}"
MARKS = {
    "text": {"ahead": "> {}", "best": "{}¹", "second": "{}²", "by rule": "{} =pop"},
    "markdown": {"ahead": "**{}**", "best": "**{}**", "second": "<u>{}</u>", "by rule": "{} =pop"},
    "latex": {"ahead": _BOLD, "best": _BOLD, "second": "\\underline{{{}}}", "by rule": "\\textit{{{}}}"},
    "html": {"ahead": "<b>{}</b>", "best": "<b>{}</b>"},
}
# how each style marks the best two of a column, and a cell that is popularity's by rule
LEGEND = {
    "text": ("¹ best and ² second", "=pop"),
    "markdown": ("Bold: best, underlined: second", "=pop"),
    "latex": ("bold: best, underlined: second", "italics"),
}

# start of a cell that a spreadsheet would evaluate; a signed number is not one
_FORMULA = re.compile(r"\s*([=@]|[+-](?!(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\Z))", re.IGNORECASE)


class Number(NamedTuple):
    """A fraction that is written in per cent: ``mean ± sd`` (nan: none), a key of :data:`MARKS`, and text after it."""

    mean: float
    sd: float = np.nan
    mark: str = ""
    beside: str = ""


class Captioned(NamedTuple):
    """A table in a document."""

    caption: str
    table: pd.DataFrame


def written(value: str | Number, style: str) -> str:
    """One cell, escaped or formatted."""
    if isinstance(value, str):
        return escaped(value, style)
    if math.isnan(value.mean):
        return "-"
    plus_minus = "$\\pm$" if style == "latex" else " ± "
    spread = "" if math.isnan(value.sd) else f"{plus_minus}{100 * value.sd:.2f}"
    return MARKS[style].get(value.mark, "{}").format(f"{100 * value.mean:.2f}") + spread + value.beside


def styled(table: pd.DataFrame, style: str) -> pd.DataFrame:
    """A table with every cell and heading :func:`written`."""
    return table.map(lambda value: written(value, style)).rename(columns=lambda name: escaped(name, style))


def document(blocks: Iterable[str | Captioned], style: str) -> str:
    """Lines and tables as ``text``, ``markdown`` or ``latex``, where lines become comments."""
    parts = []
    for block in blocks:
        if isinstance(block, str):
            if block or style == "text":
                parts.append(("% " if style == "latex" else "") + escaped(block, style))
            continue
        caption, shown = escaped(block.caption, style), styled(block.table, style)
        head = {"text": f"\n{caption}\n", "markdown": f"**{caption}**\n\n", "latex": f"% {caption}\n"}[style]
        parts.append(head + _tabulated(shown, style, "l" + "r" * (shown.shape[1] - 1)))
    return ("\n\n" if style == "markdown" else "\n").join(parts)


def rendered(table: pd.DataFrame, style: str) -> str:
    """Any table alone, as ``text``, ``csv``, ``latex`` or ``markdown``."""
    if style == "csv":
        return as_csv(table)
    if style == "text":  # numbers as pandas shows them
        return _tabulated(table.map(lambda one: escaped(one, style) if isinstance(one, str) else one), style)
    return _tabulated(styled(table.map(str), style), style)


def _tabulated(shown: pd.DataFrame, style: str, columns: str | None = None) -> str:
    if style == "text":
        return shown.to_string(index=False)
    if style == "latex":
        return str(shown.to_latex(index=False, escape=False, column_format=columns))
    require("a table as Markdown", "tabulate")
    return str(shown.to_markdown(index=False, disable_numparse=True))


def as_html(
    table: pd.DataFrame, caption: str = "", na_rep: str = "-", float_format: Callable[[float], str] | None = None
) -> str:
    """A table as safe HTML, with the scopes of its headings and of the first cell of each line."""

    def safe(value: Any) -> Any:
        if isinstance(value, float | int | np.number):
            return value
        return written(value if isinstance(value, Number) else str(value), "html")

    shown = table.map(safe).rename(columns=lambda name: escaped(str(name), "html"))
    body = shown.to_html(index=False, border=0, na_rep=na_rep, float_format=float_format, escape=False)
    body = body.replace("<th>", '<th scope="col">')
    body = re.sub(r"(<tr>\s*)<td>(.*?)</td>", r'\1<th scope="row">\2</th>', body)
    return body.replace(">", f"><caption>{html.escape(caption)}</caption>", 1) if caption else body


def as_csv(table: pd.DataFrame, path: Path | None = None) -> str:
    """A table as CSV, written to ``path`` or returned; an apostrophe disarms cells that are formulas."""

    def safe(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = CONTROL.sub(" ", value)  # pandas does not quote a carriage return, which would begin a line
        return f"'{value}" if _FORMULA.match(value) else value

    words = table.columns[[not pd.api.types.is_numeric_dtype(one) for one in table.dtypes]]
    made_safe = table.assign(**{name: table[name].map(safe) for name in words}).rename(columns=safe)
    found: str | None = made_safe.to_csv(path, index=False)
    return found or ""


def in_points(value: float, mark: str = "") -> str:
    """A difference of fractions in points, signed."""
    return "-" if math.isnan(value) else f"{100 * value:+.2f}{mark}"


def with_interval(one: Any) -> str:
    """A line of differences in points: ``difference`` and, where it is finite, the interval."""
    sides = f" ({in_points(one.interval_low)} to {in_points(one.interval_high)})"
    return in_points(one.difference) + (sides if math.isfinite(one.interval_low) else "")


def of_p(value: float) -> str:
    """A p value to three places."""
    return "-" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def lines(table: pd.DataFrame) -> Iterator[Any]:
    """The lines of a table as named tuples (pandas types their fields as anything a cell may hold)."""
    return iter(table.itertuples())


def strict(value: Any) -> Any:
    """Plain Python for ``json.dumps(…, allow_nan=False)``: tables become lists of lines, nan and infinity None."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict(orient="records")
    if isinstance(value, Mapping):
        return {str(key): strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [strict(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
