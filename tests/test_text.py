"""Tables as text, Markdown, LaTeX, HTML and CSV: what stands in a name is never read as anything but a name."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib.results import text
from i2vae_lib.results.escaping import CONTROL, escaped
from i2vae_lib.results.text import Captioned, Number

NAMES = st.text(alphabet=st.sampled_from("=+-@\t\r\n\\{}%$#_&~^|<>*`[]\"',; 0159.eax\x1b"), max_size=12) | st.text(
    max_size=8
)
HOSTILE = ('=HYPERLINK("http://evil.example","x")', "\\input{secret} | _y_", "@SUM(1)", "+1+cmd|' /C calc'!A0", "\t=1")


def cells(table: pd.DataFrame) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.as_csv(table), newline="")))


@settings(deadline=None)  # the machine may be busy
@given(NAMES, NAMES)
def test_csv_when_a_spreadsheet_opens_it_computes_nothing(heading: str, name: str) -> None:
    table = pd.DataFrame([[name, -1.5], ["plain", 2.0]], columns=[heading, "the other column"])
    (shown, _), (cell, number), _ = cells(table)
    for before, after in ((heading, shown), (name, cell)):
        plain = CONTROL.sub(" ", before)
        if re.fullmatch(r"\s*[+-](\d+\.?\d*|\.\d+)(e[+-]?\d+)?", plain, re.IGNORECASE):
            assert after == plain  # a number with its sign is one
        else:
            assert not after.lstrip().startswith(("=", "+", "-", "@"))
        assert after in (plain, f"'{plain}")
    assert number == "-1.5"


@pytest.mark.parametrize("name", HOSTILE)
def test_csv_when_a_name_is_a_formula(name: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"domain": pd.Series([name, None], dtype=object), "value": [0.5, np.nan]})
    expected = name if name.startswith("\\") else "'" + name.replace("\t", " ")
    assert cells(table) == [["domain", "value"], [expected, "0.5"], ["", ""]]
    text.as_csv(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes().decode() == text.as_csv(table)


@pytest.mark.parametrize("style", ["text", "markdown", "latex", "csv"])
def test_tables_when_names_would_steer_the_terminal(style: str) -> None:
    names = [
        "\x1b[31mred\x1b]0;title\x07",
        "\x9b2J",
        "a\u202eb",
        "a\u2066b",
        "a\rb",
        "a\u200eb",
        "a\u061cb",
        "a\u200bb",
    ]
    shown = text.rendered(pd.DataFrame({"user": names, "n": 1.5}), style)
    assert not re.search("[\x1b\x07\x9b\r\u202e\u2066\u200e\u061c\u200b]", shown)


def test_csv_when_nothing_is_hostile_is_that_of_pandas() -> None:
    table = pd.DataFrame(
        {"a": ["x", "-1.5", "+2e-3"], "b": [1, -2, 3], "c": [True, False, True], "d": [-0.1, np.nan, 1e-9]}
    )
    assert text.as_csv(table) == table.to_csv(index=False)


@settings(deadline=None)  # the machine may be busy
@given(NAMES)
def test_latex_when_a_name_has_its_signs_reads_as_that_name(name: str) -> None:
    written = escaped(name, "latex")
    assert len(written.splitlines()) <= 1
    signs = {"\\textbackslash{}": "\\", "\\textasciitilde{}": "~", "\\textasciicircum{}": "^"}
    read = re.sub(
        r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\\([&%$#_{}])|[\\&%$#_{}~^]",
        lambda found: signs.get(found[0]) or found[1] or "NOT ESCAPED",
        written,
    )
    assert read == CONTROL.sub(" ", name)


@settings(deadline=None)  # the machine may be busy
@given(NAMES)
def test_markdown_when_a_name_has_its_signs_stays_one_cell(name: str) -> None:
    table = pd.DataFrame([[name, "c"]], columns=[name, "the other column"])
    shown = text.document([Captioned("t", table)], "markdown")
    for line in shown.splitlines()[2:]:
        bare = re.sub(r"\\.", "", line)
        assert bare.count("|") == 3 and not re.search(r"[<`*\[\]]", bare)


class Tags(html.parser.HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.add(tag)


def test_html_when_names_hold_markup() -> None:
    name = "<script>alert(1)</script><img src=x onerror=y>"
    page = text.as_html(pd.DataFrame({name: [name], "n": [np.nan], "listed": [[name]]}), caption=name)
    assert Tags(page).found == {"table", "caption", "thead", "tr", "th", "tbody", "td"}
    assert (
        page.count("&lt;script&gt;") == 4 and "<td>-</td>" in page and page.index("<caption>") < page.index("<thead>")
    )
    assert "<caption>" not in text.as_html(pd.DataFrame({"n": [1]}))


def test_numbers_when_written_in_every_style() -> None:
    marked = Number(0.1234, 0.005, "best", " (6.49)")
    assert [text.written(marked, style) for style in text.MARKS] == [
        "12.34¹ ± 0.50 (6.49)",
        "**12.34** ± 0.50 (6.49)",
        "\\textbf{12.34}$\\pm$0.50 (6.49)",
        "<b>12.34</b> ± 0.50 (6.49)",
    ]
    assert [text.written(Number(0.5, mark="by rule"), style) for style in text.MARKS] == [
        "50.00 =pop",
        "50.00 =pop",
        "\\textit{50.00}",
        "50.00",
    ]
    assert (
        text.written(Number(0.5, mark="ahead"), "text") == "> 50.00"
        and text.written(Number(np.nan, 0.1), "text") == "-"
    )
    assert (
        text.in_points(-0.0123) == "-1.23" and text.in_points(0.5, "**") == "+50.00**" and text.in_points(np.nan) == "-"
    )
    line = pd.DataFrame({"difference": [0.01], "interval_low": [-0.002], "interval_high": [0.03]})
    assert [text.with_interval(one) for one in text.lines(line)] == ["+1.00 (-0.20 to +3.00)"]
    assert [text.with_interval(one) for one in text.lines(line.assign(interval_low=-np.inf))] == ["+1.00"]
    assert [text.of_p(p) for p in (0.0004, 0.0451, np.nan)] == ["< 0.001", "0.045", "-"]


def test_document_when_written_in_every_style() -> None:
    blocks = ["50 % of a_b\nof c", Captioned("HR@10", pd.DataFrame({"a_b": ["x&y"], "n": ["1"]})), "", "end"]
    assert text.document(blocks, "text") == "50 % of a_b of c\n\nHR@10\na_b n\nx&y 1\n\nend"
    assert text.document(blocks, "markdown") == (
        "50 % of a_b of c\n\n**HR@10**\n\n| a_b   | n   |\n|:------|:----|\n| x&y   | 1   |\n\nend"
    )
    latex = text.document(blocks, "latex")
    assert latex.startswith("% 50 \\% of a\\_b of c\n% HR@10\n\\begin{tabular}{lr}\n\\toprule\na\\_b & n \\\\\n")
    assert "\nx\\&y & 1 \\\\\n" in latex and latex.endswith("\n% end")


def test_strict_json_when_numbers_are_none() -> None:
    table = pd.DataFrame({"a": [np.nan, 0.1], "b": [1, 2]})
    found = text.strict({"t": table, 1: (np.float64("inf"), np.int64(3), np.bool_(True), "x", None)})
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "t": [{"a": None, "b": 1}, {"a": 0.1, "b": 2}],
        "1": [None, 3, True, "x", None],
    }
