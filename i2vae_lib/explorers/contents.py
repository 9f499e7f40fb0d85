"""What the explorers can show of folders, and the page that shows it.

The command reads this before it serves anything; so nothing heavy is imported here (``tests/test_start.py``).
"""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from i2vae_lib.results.escaping import escaped
from i2vae_lib.runs import LayoutError, read_record, write_atomically, write_json


class Content(NamedTuple):
    """What a tab shows, of these folders."""

    kind: Literal["user", "data", "training", "sweep"]
    folders: tuple[Path, ...]


def named(folders: Sequence[Path | str]) -> dict[str, Path]:
    """Run directories by a short name: the folder's own, with parents where two are alike."""
    paths = [Path(one) for one in folders]
    depth = 1
    while len({one.parts[-depth:] for one in paths}) < len(paths) and depth < max(len(one.parts) for one in paths):
        depth += 1
    return {"/".join(one.parts[-depth:]): one for one in paths}


def sweep_files(folder: Path | str) -> dict[str, Path]:
    """The tidy tables that a sweep's folder holds, or a file that is one, by name.

    Raises
    ------
    LayoutError
        None there.
    """
    folder = Path(folder)
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.csv"))
    tables = {one.stem: one for one in paths if {"grid", "row", "seed", "value"} <= set(_columns(one))}
    if not tables:
        raise LayoutError(
            f"{folder} holds no table of a sweep: `i2vae sweep FILE --out {folder}` writes one at its end"
        )
    return tables


def _columns(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        return next(csv.reader(lines), [])


def contents(folders: Sequence[Path | str]) -> dict[str, Content]:
    """The tabs that run directories, folders of sweeps and their tables have something for, by title.

    Raises
    ------
    LayoutError
        A folder that is neither.
    """
    runs = named([one for one in folders if (Path(one) / "run.json").is_file()])
    found: dict[str, Content] = {}
    for name, folder in runs.items():
        beside = f" of {name}" if len(runs) > 1 else ""
        trained = (folder / "model" / "model.json").is_file()
        if read_record(folder)["parameters"]["system"] == "i2vae" and trained:
            found[f"user{beside}"] = Content("user", (folder,))
        if (folder / "dataset" / "dataset.json").is_file():
            found[f"data{beside}"] = Content("data", (folder,))
    if runs:
        found["training"] = Content("training", tuple(runs.values()))
    for name, folder in named([one for one in folders if Path(one) not in runs.values()]).items():
        try:
            sweep_files(folder)
        except LayoutError:
            if not folder.is_file():
                read_record(folder)  # no run either: refused in the words of every other command
            raise
        found[f"sweep {name.removesuffix('.csv')}"] = Content("sweep", (folder,))
    return found


_ABOUT = (
    "What a trained i2VAE does for one user, what its data hold, how training went, and what a sweep found. "
    "Each tab is made when it is opened; the Tab key, arrows and space bar reach every control."
)


def write_page(folders: Sequence[Path | str], target: Path) -> Path:
    """What Voila serves: a notebook that says what the page is and makes :class:`.widgets.Page`, and its template.

    Voila, because it serves these very widgets; Panel and Solara would be a second way to write them.

    Returns
    -------
    Path
        The notebook; the template ``kit`` lies in ``voila/templates`` beside it (``JUPYTER_PATH``).

    Raises
    ------
    LayoutError
        As :func:`contents`, before anything is served.
    """
    contents(folders)
    where = [str(Path(one).resolve()) for one in folders]
    names = ", ".join(named(folders))
    heading = f"# Explorers: {escaped(names, 'markdown')}\n\n{_ABOUT}"
    asked = f"from i2vae_lib.explorers import widgets\n\nwidgets.Page({where!r})"
    about: dict[str, Any] = {"cell_type": "markdown", "id": "about", "source": heading, "metadata": {}}
    page = about | {"cell_type": "code", "id": "page", "source": asked, "outputs": [], "execution_count": None}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata, cells = {"title": f"Explorers: {names}", "kernelspec": kernel}, [about, page]
    write_json(target / "explore.ipynb", {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells})
    template = target / "voila" / "templates" / "kit"
    write_json(template / "conf.json", {"base_template": "lab"})
    page_of_kit = Path(__file__).with_name("page.html.jinja")
    write_atomically(template / "index.html.j2", lambda part: shutil.copyfile(page_of_kit, part))
    return target / "explore.ipynb"
