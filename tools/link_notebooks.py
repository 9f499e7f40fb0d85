"""Write the links of all notebooks: contents, previous and next, and badges once the kit has a public address.

    python tools/link_notebooks.py

A notebook's title and aim in the table of contents come from :data:`CONTENTS`. With :data:`ADDRESS` set, each notebook
gets badges that open it in Colab and on Binder, and a first cell that installs the kit in Colab alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"

ADDRESS = ""
"""``OWNER/REPOSITORY`` at GitHub; empty: no badge is written."""

CONTENTS = {
    "00_tour": ("A tour", "the whole story on a planted pair, in ten minutes"),
    "01_data_preparation": ("Data preparation", "pairs, rows, protocols, time order, the leak audit"),
    "02_pseudo_sequences": ("Pseudo-sequences", "what a generator recalls, and whether it is honest"),
    "03_training": ("Training", "every term of the objective, curves, results by user type"),
    "04_disentanglement": ("Disentanglement", "what the latents carry, measured where the truth is known"),
    "05_sensitivity": ("Sensitivity", "a grid of settings, and a search that sees no test row"),
    "06_comparison": ("Comparison", "every system on one split, and the real pairs"),
    "07_ablation": ("Ablation", "one part removed at a time"),
    "08_robustness": ("Robustness", "fewer interactions, fewer shared users"),
    "09_what_leaks_are_worth": ("What leaks are worth", "each leak opened alone and measured"),
    "10_recipe": ("The recipe", "what it takes to keep up with rankers that count"),
    "11_your_own_logs": ("Your own logs", "from two CSV files to a report"),
    "12_explorers": ("Explorers", "a user, a pair, a training run and a sweep by hand"),
    "13_latents_in_detail": ("Latents in detail", "a reference: everything else that is measured about latents"),
    "14_statistics": ("Statistics", "which system is better, by how much, and whether it is chance"),
}

COLAB_CELL = "open-in-colab"


def link(stem: str) -> str:
    """A link to a notebook beside this one."""
    return f"[{stem[:2]} {CONTENTS[stem][0]}]({stem}.ipynb)"


def beside(stem: str) -> str:
    """The line of links of a notebook: the one before, the contents, the one after."""
    stems = list(CONTENTS)
    at = stems.index(stem)
    before = [f"◂ {link(stems[at - 1])}"] if at else []
    after = [f"{link(stems[at + 1])} ▸"] if at + 1 < len(stems) else []
    return " · ".join([*before, f"[contents]({'' if at == 0 else '00_tour.ipynb'}#Contents)", *after])


def contents() -> str:
    """The table of contents, in the first notebook."""
    lines = [f"- [{stem[:2]} {title}]({stem}.ipynb): {aim}" for stem, (title, aim) in CONTENTS.items()]
    exercises = "- [exercises](exercises/lesson_1_tasks.ipynb): tasks with solutions, for a class"
    return "\n".join(["## Contents", "", *lines, exercises])


def badges(path: str, address: str) -> str:
    """Badges that open a notebook (a path below ``notebooks/``) elsewhere."""
    colab = f"https://colab.research.google.com/github/{address}/blob/main/notebooks/{path}"
    binder = f"https://mybinder.org/v2/gh/{address}/main?labpath=notebooks/{path}"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open on Binder](https://mybinder.org/badge_logo.svg)]({binder})"
    )


def add_address(notebook: Any, path: str, address: str = ADDRESS) -> None:
    """Put badges below the title and the installing cell first; with an empty address take both away."""
    notebook.cells = [cell for cell in notebook.cells if not cell.id.startswith(COLAB_CELL)]
    if not address:
        return
    source = f'import sys\n\nif "google.colab" in sys.modules:\n    %pip install -q git+https://github.com/{address}'
    installing = nbformat.v4.new_code_cell(source, id=COLAB_CELL, metadata={"tags": ["colab", "remove-cell"]})
    shown = nbformat.v4.new_markdown_cell(badges(path, address), id=f"{COLAB_CELL}-badges")
    notebook.cells[1:1] = [shown, installing]


def main() -> None:
    for stem in CONTENTS:
        path = NOTEBOOKS / f"{stem}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.id.startswith("nav-"):
                cell.source = beside(stem)
                cell.metadata["tags"] = ["remove-cell"]  # a page may stand alone
            if cell.id == "contents":
                cell.source = contents()
        add_address(notebook, path.name)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
