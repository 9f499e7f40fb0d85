"""Figures of README, drawn from docs/results as SVG, and its gallery of notebooks.

python tools/figures.py
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pages
import pandas as pd

from i2vae_lib.figures import pictures
from i2vae_lib.runs import committed_path, write_atomically

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "figures"
REAL_TIME = ("films", "newsapart", "beautyelec", "food_kitchen")
LARGEST, COLUMNS = 45_000, 4
"""Bytes of a thumbnail at most, and notebooks in a line of the gallery."""


def item_order() -> str:
    """Of the pairs of items that two or more people took: how often in the order that fewer of them had."""
    table: Any = pd.read_csv(committed_path("item_order"))
    lines = [
        (f"{one.pair}, {one.domain}", one.share, f"{one.share:.1%} of {one.observations:,}", one.source)
        for one in table.itertuples()
    ]
    return pictures.bars("Two people took the same two items: how often in the other order?", lines)


def recipe() -> str:
    """The recipe less the best reference ranker on all rows, HR@10, where logs have real times."""
    lines = []
    for pair in REAL_TIME:
        table: Any = pd.read_csv(committed_path(f"recipe_{pair}"))
        for one in table[(table["kind"] == "all") & (table["metric"] == "HR@10")].itertuples():
            numbers = [100 * value for value in (one.difference, one.interval_low, one.interval_high)]
            note = f"{100 * one.system:.1f} against {100 * one.reference:.1f} ({one.best.replace('_', ' ')})"
            lines.append(pictures.Interval(f"{pair}, {one.domain} (n = {one.n:,})", *numbers, note))
    return pictures.forest("i2VAE (preset tuned) less the best reference ranker", "points of HR@10", lines)


FIGURES = {"model": pictures.model_picture, "item_order": item_order, "recipe": recipe}


def thumbnail(notebook: dict[str, Any]) -> bytes | None:
    """The smallest picture that a notebook stores, if it is small enough."""
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", ())]
    stored = [base64.b64decode(one["data"]["image/png"]) for one in outputs if "image/png" in one.get("data", {})]
    small = [one for one in stored if len(one) <= LARGEST]
    return min(small, key=len) if small else None


def gallery() -> tuple[str, dict[str, bytes]]:
    """A table of the notebooks with thumbnails as Markdown, and the thumbnails by name."""
    cells, found = [], {}
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        title = "".join(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# ")
        picture, image = thumbnail(notebook), ""
        if picture is not None:
            found[f"{path.stem[:2]}.png"] = picture
            place = f"docs/figures/notebooks/{path.stem[:2]}.png"
            image = f"[![a figure of this notebook]({place})](notebooks/{path.name})<br>"
        cells.append(f"{image}[{title}](notebooks/{path.name})")
    lines = [cells[at : at + COLUMNS] for at in range(0, len(cells), COLUMNS)]
    rows = [f"| {' | '.join([*line, *[''] * (COLUMNS - len(line))])} |" for line in lines]
    return "\n".join([f"|{' |' * COLUMNS}", f"|{'---|' * COLUMNS}", *rows]), found


def main() -> None:
    for name, draw in FIGURES.items():
        text = draw()
        write_atomically(FOLDER / f"{name}.svg", lambda part, text=text: part.write_text(text, encoding="utf-8"))
    table, thumbnails = gallery()
    for old in (FOLDER / "notebooks").glob("*.png"):
        old.unlink()
    for name, content in thumbnails.items():
        write_atomically(FOLDER / "notebooks" / name, lambda part, content=content: part.write_bytes(content))
    pages.rewrite(lambda page: pages.fill(page, "gallery", table))


if __name__ == "__main__":
    main()
