"""Figures of README and docs/performance.md, drawn from docs/results as SVG, and README's gallery of notebooks (its
thumbnails need Chromium).

python tools/figures.py
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pandas as pd
import plotly.graph_objects as go
import splits_study

from i2vae_lib.figures import pictures
from i2vae_lib.runs import committed_path, write_atomically, write_json

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "figures"
THUMBNAILS = FOLDER / "notebooks"
DIGESTS = THUMBNAILS / "figures.json"
"""The :func:`digest` of the figure of each thumbnail."""
SIDE, COLUMNS = 300, 4
"""Pixels of a thumbnail's longer side, and notebooks in a line of the gallery."""
PLOTLY = "application/vnd.plotly.v1+json"


def item_order() -> str:
    """Of the pairs of items that two or more people took: how often in the order that fewer of them had."""
    table: Any = pd.read_csv(committed_path("item_order"))
    lines = [
        (f"{one.pair}, {one.domain}", one.share, f"{one.share:.1%} of {one.observations:,}", one.source)
        for one in table.itertuples()
    ]
    return pictures.bars("Two people took the same two items: how often in the other order?", lines)


def splits() -> str:
    """How far i2VAE stands above the best other system of each pair and above a stack, over three splits."""
    lines = []
    for pair, table in splits_study.kept_pairs().items():
        for one in table[table["beside"] != "best reference"].sort_values("candidates", ascending=False).itertuples():
            numbers = [100 * value for value in (one.lift, one.lift_low, one.lift_high)]
            lines.append(pictures.Interval(f"{pair}, {one.candidates}", *numbers, f"above {one.title}"))
    return pictures.forest(
        "i2VAE (preset tuned) above the best other system and above a stack", "per cent, mean over cells", lines
    )


def growth() -> str:
    """Seconds of each stage over the size of the log, both as powers of ten: a straight line of slope 1 is linear."""
    table: Any = pd.read_csv(committed_path("growth"))
    table = table.assign(events=np.log10(table["events"]), seconds=np.log10(table["seconds"]))
    lines = {str(stage): (part["events"], part["seconds"]) for stage, part in table.groupby("stage", sort=False)}
    return pictures.curves("log10 of seconds of CPU", "log10 of events", lines)


FIGURES = {"item_order": item_order, "splits": splits, "growth": growth}


def smallest_figure(notebook: dict[str, Any]) -> dict[str, Any] | None:
    """Of the figures that a notebook stores, in plotly's JSON, the one whose picture is smallest."""
    outputs = [one["data"] for cell in notebook["cells"] for one in cell.get("outputs", ()) if "data" in one]
    drawn = [one for one in outputs if PLOTLY in one and "image/png" in one]
    return min(drawn, key=lambda one: len(one["image/png"]))[PLOTLY] if drawn else None


def digest(figure: dict[str, Any]) -> str:
    """What says whether a thumbnail is of this figure."""
    return hashlib.sha256(json.dumps(figure, sort_keys=True).encode()).hexdigest()


def gallery() -> tuple[str, dict[str, dict[str, Any]]]:
    """A table of the notebooks with thumbnails as Markdown, and the figures of the thumbnails by name."""
    cells, found = [], {}
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        title = "".join(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# ")
        figure, image = smallest_figure(notebook), ""
        if figure is not None:
            found[f"{path.stem[:2]}.png"] = figure
            place = f"docs/figures/notebooks/{path.stem[:2]}.png"
            image = f"[![a figure of this notebook]({place})](notebooks/{path.name})<br>"
        cells.append(f"{image}[{title}](notebooks/{path.name})")
    lines = [cells[at : at + COLUMNS] for at in range(0, len(cells), COLUMNS)]
    rows = [f"| {' | '.join([*line, *[''] * (COLUMNS - len(line))])} |" for line in lines]
    return "\n".join([f"|{' |' * COLUMNS}", f"|{'---|' * COLUMNS}", *rows]), found


def write_thumbnails(figures: dict[str, dict[str, Any]]) -> None:
    """Draw those whose figure is another one than last time (a browser draws no picture twice to the byte)."""
    digests = {name: digest(figure) for name, figure in figures.items()}
    kept = json.loads(DIGESTS.read_text(encoding="utf-8")) if DIGESTS.is_file() else {}
    for old in THUMBNAILS.glob("*.png"):
        if old.name not in digests:
            old.unlink()
    for name, figure in figures.items():
        if kept.get(name) != digests[name] or not (THUMBNAILS / name).is_file():
            layout = figure["layout"]  # plotly draws 700 by 500 where it says nothing
            scale = SIDE / max(layout.get("width", 700), layout.get("height", 500))
            content = go.Figure(figure).to_image("png", scale=scale)
            write_atomically(THUMBNAILS / name, lambda part, content=content: part.write_bytes(content))
    write_json(DIGESTS, digests)


def main() -> None:
    for name, draw in FIGURES.items():
        text = draw()
        write_atomically(FOLDER / f"{name}.svg", lambda part, text=text: part.write_text(text, encoding="utf-8"))
    table, figures = gallery()
    write_thumbnails(figures)
    pages.rewrite(lambda page: pages.fill(page, "gallery", table))


if __name__ == "__main__":
    main()
