"""Output of the notebooks: wide tables that scroll, and formulas beside the source that computes them."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from i2vae_lib.labels import labelled
from i2vae_lib.results import text


def show(table: pd.DataFrame, digits: int = 2) -> HTML:
    """A wide table for a notebook: it scrolls instead of wrapping, with rounded numbers and everything by its label.

    Parameters
    ----------
    table
        Named index levels become columns; an index without names is dropped.
    digits
        Digits after the decimal point of floats; whole numbers from 100 on have none.
    """
    flat = table.reset_index() if any(table.index.names) else table
    if isinstance(flat.columns, pd.MultiIndex):
        flat = flat.set_axis([" ".join(filter(None, map(str, levels))) for levels in flat.columns], axis=1)
    flat = flat.rename_axis(columns=None)  # pandas gives a name of the columns a column of its own

    def written(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 100 and float(value).is_integer() else f"{value:.{digits}f}"  # a count

    body = text.as_html(labelled(flat), na_rep="", float_format=written)
    scrolling = f'<div tabindex="0" style="max-width: 100%; overflow-x: auto">{body}</div>'
    return HTML(scrolling)  # type: ignore[no-untyped-call]


def formula(latex: str, number: str, function: Callable[..., Any]) -> Markdown:
    """A formula of the paper with its number, beside the source of the function that computes it.

    Parameters
    ----------
    latex, number
        The formula, and its number in the paper, such as ``"4"``.
    function
        Its source is shown without the docstring.
    """
    place = f"{function.__module__.replace('.', '/')}.py"
    beside = f"`{function.__qualname__}` of `{place}`:\n\n```python\n{source(function)}\n```"
    return Markdown(f"$$\n{latex} \\tag{{{number}}}\n$$\n\n{beside}")  # type: ignore[no-untyped-call]


def source(function: Callable[..., Any]) -> str:
    """The source of a function without its docstring."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    [defined] = ast.parse("\n".join(lines)).body
    assert isinstance(defined, ast.FunctionDef)
    if ast.get_docstring(defined) is not None:
        docstring = defined.body[0]
        del lines[docstring.lineno - 1 : docstring.end_lineno]
    return "\n".join(lines)
