"""Execute the committed notebooks at their own defaults (the smoke preset) and store their outputs.

    python tools/execute_notebooks.py [NAME …]

Figures are stored as PNG (needs Chromium; GitHub shows them) beside the plotly data; without a browser the plotly data
alone is stored. Execution counts run from 1, widget state and timings are dropped.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from i2vae_lib.notebooks import kernel_settings

CAPTION = "**Figure.** "
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def browser() -> bool:
    return any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome"))


def describe_images(cell: Any, below: Any) -> None:
    """Give the images of a cell the caption below them as their text for who cannot see them."""
    for output in cell.get("outputs", ()):
        if "image/png" in output.get("data", {}):
            output.metadata["image/png"] = {"alt": below.source.removeprefix(CAPTION)}


def main(names: list[str]) -> None:
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype+png" if browser() else "plotly_mimetype"
    with tempfile.TemporaryDirectory() as runs:
        os.environ["I2VAE_RUNS_DIR"] = runs
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            if names and path.stem not in names:
                continue
            print(path.name, flush=True)
            notebook = nbformat.read(path, as_version=4)
            place = {"metadata": {"path": path.parent}}
            with kernel_settings() as config:
                NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place, config=config).execute()
            notebook.metadata.pop("widgets", None)
            notebook.metadata["language_info"] = {"name": "python"}
            for cell, below in itertools.zip_longest(notebook.cells, notebook.cells[1:]):
                cell.metadata.pop("execution", None)
                describe_images(cell, below)
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
