"""Notebooks read as lessons: short cells, captions, alt texts, links, folded answers, hidden tests."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

import i2vae_lib
from i2vae_lib.figures import display
from i2vae_lib.model import latents, likelihoods, objective

ROOT = Path(i2vae_lib.__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HIDDEN = "remove-cell"
"""The tag of MyST-NB and nbconvert for cells that pages leave out."""


@pytest.fixture(params=NOTEBOOKS, ids=[one.stem for one in NOTEBOOKS])
def cells(request: pytest.FixtureRequest) -> list[Any]:
    return list(nbformat.read(request.param, as_version=4).cells)


def is_drawn(cell: Any) -> bool:
    return any("application/vnd.plotly.v1+json" in one.get("data", {}) for one in cell.get("outputs", ()))


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def only_asserts(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(one, ast.Assert) or (isinstance(one, ast.If | ast.For) and only_asserts(one.body + one.orelse))
        for one in body
    )


def test_cells_have_at_most_twelve_lines(cells: list[Any]) -> None:
    assert [cell.id for cell in cells if cell.cell_type == "code" and len(cell.source.splitlines()) > 12] == []


def test_figures_have_a_caption_and_an_alt_text(cells: list[Any]) -> None:
    figures = [(cell, below) for cell, below in itertools.pairwise(cells) if is_drawn(cell)]
    for cell, below in figures:
        assert below.source.startswith("**Figure.** ") and len(below.source.split()) >= 10, cell.id
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert output.metadata["image/png"]["alt"] == below.source.removeprefix("**Figure.** "), cell.id
    for cell in cells:
        for output in cell.get("outputs", ()):
            assert 'role="img"' in output.get("data", {}).get("image/svg+xml", 'role="img"'), cell.id
        if cell.cell_type == "markdown":
            assert not re.search(r"!\[\]|<img(?![^>]*\balt=)", cell.source), cell.id


def test_cells_that_only_test_are_hidden(cells: list[Any]) -> None:
    for cell in cells:
        if cell.cell_type == "code":
            hidden = HIDDEN in tags(cell)
            assert hidden or not only_asserts(ast.parse(cell.source).body), cell.id
            assert hidden == bool(cell.metadata.get("jupyter", {}).get("source_hidden")), cell.id
            assert not (hidden and cell.outputs), cell.id


def test_questions_have_folded_answers(cells: list[Any]) -> None:
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    answers = re.findall(r"<details><summary><b>Question\.</b> .*?\?</summary>\n\n(.*?)\n\n</details>", text, re.DOTALL)
    assert len(answers) == text.count("Question") and all(len(one.split()) >= 10 for one in answers)


def test_links_lead_somewhere(cells: list[Any]) -> None:
    own = next(path for path in NOTEBOOKS if cells[0].id == nbformat.read(path, as_version=4).cells[0].id)
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = [one for one in re.findall(r"\]\(([^)\s]+)\)", text) if not one.startswith(("http", "#"))]
    assert [one for one in links if not (own.parent / one.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("place", range(len(NOTEBOOKS)))
def test_neighbours_are_linked_at_both_ends(place: int) -> None:
    cells = nbformat.read(NOTEBOOKS[place], as_version=4).cells
    beside = [NOTEBOOKS[at].name for at in (place - 1, place + 1) if 0 <= at < len(NOTEBOOKS)]
    for cell in (cells[1], cells[-1]):
        assert all(f"]({name})" in cell.source for name in beside) and "#Contents)" in cell.source


def test_contents_list_every_notebook() -> None:
    [contents] = [one.source for one in nbformat.read(NOTEBOOKS[0], 4).cells if one.source.startswith("## Contents")]
    assert re.findall(r"\]\(([^/\s]+\.ipynb)\)", contents) == [path.name for path in NOTEBOOKS]


# --- formulas and tables ----------------------------------------------------------------------------------------------

FORMULAS = (
    latents.sample,
    latents.kl_per_dimension,
    objective.denoising_weight,
    likelihoods.bernoulli,
    objective.kl_to_prior,
    objective.joint_information,
    objective.disentangling,
    objective.cross_domain,
    objective.denoising,
)


def test_formulas_of_the_tour_stand_beside_their_source() -> None:
    outputs = [one for cell in nbformat.read(NOTEBOOKS[0], 4).cells for one in cell.get("outputs", ())]
    shown = [one.data["text/markdown"] for one in outputs if "text/markdown" in one.get("data", {})]
    assert len(shown) == len(FORMULAS)
    for text, function in zip(shown, FORMULAS):
        assert display.source(function) in text and f"`{function.__name__}` of `" in text
        assert re.match(r"\$\$\n.+ \\tag\{\d+\}\n\$\$\n", text)


def test_source_when_a_function_has_a_docstring() -> None:
    found = display.source(latents.kl)
    assert found.splitlines()[0].startswith("def kl(") and '"""' not in found
    ast.parse(found)


def test_show_when_a_table_is_wide() -> None:
    table = pd.DataFrame(
        {("a", "mean"): [1.23456, np.nan], ("a", "n"): [3, 4]}, index=pd.Index(["<b>", "c"], name="of")
    )
    found = str(display.show(table).data)
    assert "overflow-x: auto" in found and all(f">{name}</th>" in found for name in ("a mean", "of"))
    named = str(display.show(pd.DataFrame({"best": ["itemknn"], "i2vae": [0.5]})).data)
    assert ">i2VAE</th>" in named and ">ItemKNN<" in named
    counts = str(display.show(pd.DataFrame({"n": [13826.0, np.nan, np.inf, 99.0, 100.5]})).data)
    assert all(f">{one}<" in counts for one in ("13,826", "inf", "99.00", "100.50"))
    assert "1.23<" in found and "&lt;b&gt;" in found and "nan" not in found.lower()
