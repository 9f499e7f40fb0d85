"""The site's pages and names: each public name is there and says what it is, each page stands in the contents."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
import pytest

import i2vae_lib
from i2vae_lib import notebooks, paper

ROOT = Path(i2vae_lib.__file__).parent.parent
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
NAMES = re.findall(r"\.\. auto(?:function|class):: i2vae_lib\.([\w.]+)", API)
MEMBERS = [
    f"{name}.{member.strip()}"
    for name, listed in re.findall(r"autoclass:: i2vae_lib\.([\w.]+)\n\s+:members: (.*)", API)
    for member in listed.split(",")
]


def named(name: str) -> Any:
    module, _, rest = name.rpartition(".")
    try:
        return getattr(importlib.import_module(f"i2vae_lib.{module}"), rest)
    except ModuleNotFoundError:  # a member of a class
        return getattr(named(module), rest)


def test_reference_when_its_names_are_looked_up_each_says_what_it_is() -> None:
    assert 80 < len({*NAMES, *MEMBERS}) <= 150 and len({*NAMES}) == len(NAMES)
    for name in (*NAMES, *MEMBERS):
        assert named(name).__doc__, name
    exported = {f"{getattr(i2vae_lib, name).__module__}.{name}" for name in i2vae_lib.__all__}
    shown = {f"i2vae_lib.{name}" for name in NAMES}
    assert exported - shown <= {"i2vae_lib.params.Parameters"}  # whose fields are `i2vae list parameters`


def test_contents_when_compared_with_the_folder_has_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    listed = [one for block in re.findall(r"```{toctree}\n(.*?)```", index, re.S) for one in block.splitlines()]
    assert pages <= {*listed}


def test_paper_when_it_is_cited_has_one_address() -> None:
    for name in ("README.md", "CITATION.cff"):
        assert paper.ADDRESS in (ROOT / name).read_text(encoding="utf-8")
    assert paper.ADDRESS in paper.BIBTEX


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    """A notebook with formulas, two figures and the state of a widget."""
    figure = go.Figure(go.Bar(x=["a"], y=[1])).to_plotly_json()
    outputs = [nbformat.v4.new_output("display_data", {notebooks.FIGURE: figure, "text/plain": "Figure"})]
    cells = [
        nbformat.v4.new_markdown_cell(
            "An *ELBO*, $\\mathrm{KL}(q \\Vert p) \\ge 0$, and\n\n$$\\sum_i x_i^2$$\n\n`$HOME`\n\n"
            "<details><summary>Why?</summary>\n\nBecause <i>it is</i> so.\n\n</details>"
        ),
        nbformat.v4.new_code_cell("1", outputs=outputs),
        nbformat.v4.new_code_cell("2", outputs=outputs),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    nbformat.write(notebook, tmp_path / "one.ipynb")
    return tmp_path / "one.ipynb"


def test_page_of_a_notebook_when_it_is_opened_asks_no_network(executed: Path) -> None:
    page = executed.with_suffix(".html")
    notebooks.write_page(executed, page)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text) and "cdn" not in text
    assert re.findall(r"<script[^>]* src=[^>]*>", text) == [f'<script src="{notebooks.PLOTLY}">']
    shared = page.with_name(notebooks.PLOTLY)
    assert shared.stat().st_size > 1e6 and page.stat().st_size < 1e6
    written = shared.stat().st_mtime_ns
    notebooks.write_page(executed, page.with_name("two.html"))
    assert shared.stat().st_mtime_ns == written


def test_page_of_a_notebook_when_it_has_formulas_and_figures_shows_them(executed: Path) -> None:
    page = executed.with_suffix(".html")
    notebooks.write_page(executed, page)
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"<math[^>]*>", text)) == 2 and 'display="block"' in text and "\\sum" not in text
    assert "<code>$HOME</code>" in text and text.count("Plotly.newPlot") == 2


def test_page_of_a_notebook_when_an_answer_is_folded_keeps_it_in_its_fold(executed: Path) -> None:
    page = executed.with_suffix(".html")
    notebooks.write_page(executed, page)
    [folded] = re.findall(r"<details>(.*?)</details>", page.read_text(encoding="utf-8"), re.DOTALL)
    assert "<summary>Why?</summary>" in folded and "Because <i>it is</i> so." in folded
