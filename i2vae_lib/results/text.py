"""One renderer of tables: for a terminal, as Markdown, LaTeX, HTML and CSV, with every name escaped for where it goes.

A table is a DataFrame whose cells are words or a :class:`Number`; a document is lines and captioned tables. Names come
from people's files: nothing in them may be read as markup, as a command of LaTeX or as a formula of a spreadsheet.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

MARKS = {
    "text": {"ahead": "> {}", "best": "{}¹", "second": "{}²", "by rule": "{} =pop"},
    "markdown": {"best": "**{}**", "second": "<u>{}</u>", "by rule": "{} =pop"},
    "latex": {"best": "\\textbf{{{}}}", "second": "\\underline{{{}}}", "by rule": "\\textit{{{}}}"},
}
LEGEND = {
    "text": ("¹ best and ² second", "=pop"),
    "markdown": ("Bold: best, underlined: second", "=pop"),
    "latex": ("bold: best, underlined: second", "italics"),
}
"""What marks the places of a column, and a cell that is popularity's by rule."""

LATEX = str.maketrans(
    {one: f"\\{one}" for one in "&%$#_{}"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
)
MARKDOWN = re.compile(r"[\\`*\[\]<|]|(?<![a-z0-9])_|_(?![a-z0-9])", re.IGNORECASE)
FORMULA = re.compile(r"[=@\t\r\n]|[+-](?!(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\Z)", re.IGNORECASE)
"""How a cell begins that a spreadsheet would compute; a number with its sign is none."""


class Number(NamedTuple):
    """A fraction, written in per cent: ``mean ± sd`` (nan: no sd), a mark of :data:`MARKS`, and what stands after."""

    mean: float
    sd: float = np.nan
    mark: str = ""
    beside: str = ""


class Captioned(NamedTuple):
    """A table of a document."""

    caption: str
    table: pd.DataFrame


def escaped(name: str, style: str) -> str:
    """A name in a document of this style; control characters, which could end its line, become blanks."""
    name = re.sub(r"[\x00-\x1f\x7f]", " ", name)
    if style == "latex":
        return name.translate(LATEX)
    return MARKDOWN.sub(r"\\\g<0>", name) if style == "markdown" else name


def written(value: str | Number, style: str) -> str:
    """A cell in this style."""
    if isinstance(value, str):
        return escaped(value, style)
    if math.isnan(value.mean):
        return "-"
    plus_minus = "$\\pm$" if style == "latex" else " ± "
    spread = "" if math.isnan(value.sd) else f"{plus_minus}{100 * value.sd:.2f}"
    return MARKS[style].get(value.mark, "{}").format(f"{100 * value.mean:.2f}") + spread + value.beside


def styled(table: pd.DataFrame, style: str) -> pd.DataFrame:
    """Every cell and heading in this style."""
    return table.map(lambda value: written(value, style)).rename(columns=lambda name: escaped(name, style))


def document(blocks: Iterable[str | Captioned], style: str) -> str:
    """Lines and tables one after another, as ``text``, ``markdown`` or ``latex`` (lines are comments there)."""
    parts = []
    for block in blocks:
        if isinstance(block, str):
            if block or style == "text":
                parts.append(("% " if style == "latex" else "") + escaped(block, style))
            continue
        caption, shown = escaped(block.caption, style), styled(block.table, style)
        if style == "text":
            parts.append(f"\n{caption}\n{shown.to_string(index=False)}")
        elif style == "markdown":
            parts.append(f"**{caption}**\n\n{shown.to_markdown(index=False, disable_numparse=True)}")
        else:
            columns = "l" + "r" * (shown.shape[1] - 1)
            parts.append(f"% {caption}\n{shown.to_latex(index=False, escape=False, column_format=columns)}")
    return ("\n\n" if style == "markdown" else "\n").join(parts)


def as_html(
    table: pd.DataFrame, caption: str = "", na_rep: str = "-", float_format: Callable[[float], str] | None = None
) -> str:
    """A table as safe HTML (pandas escapes headings and cells)."""
    body = table.to_html(index=False, border=0, na_rep=na_rep, float_format=float_format)
    return body.replace(">", f"><caption>{html.escape(caption)}</caption>", 1) if caption else body


def as_csv(table: pd.DataFrame, path: Path | None = None) -> str:
    """A table as CSV, written to ``path`` or returned. Words that a spreadsheet would compute get an apostrophe."""

    def safe(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value

    words = table.columns[[not pd.api.types.is_numeric_dtype(one) for one in table.dtypes]]
    made_safe = table.assign(**{name: table[name].map(safe) for name in words}).rename(columns=safe)
    found: str | None = made_safe.to_csv(path, index=False)
    return found or ""


def in_points(value: float, mark: str = "") -> str:
    """A difference of fractions in points, with its sign."""
    return "-" if math.isnan(value) else f"{100 * value:+.2f}{mark}"


def of_p(value: float) -> str:
    """A p value."""
    return "-" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def lines(table: pd.DataFrame) -> Iterator[Any]:
    """The lines of a table as named tuples (pandas types their fields as anything a cell may hold)."""
    return iter(table.itertuples())


def strict(value: Any) -> Any:
    """Plain Python for ``json.dumps(…, allow_nan=False)``: a table as a list of its lines, nan and infinite as None."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict(orient="records")
    if isinstance(value, Mapping):
        return {str(key): strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [strict(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
