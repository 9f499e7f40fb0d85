"""What the kit knows by name, where it lies, and the nearest name to a wrong one. Imports nothing that takes time."""

from __future__ import annotations

import difflib
import os
from pathlib import Path


def preset_folder() -> Path:
    """Folder of the preset files: inside an installed wheel, else beside the package in a checkout."""
    inside = Path(__file__).parent / "presets"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "params"


def notebooks_folder() -> Path:
    """Folder of the notebooks: inside an installed wheel, else beside the package in a checkout."""
    inside = Path(__file__).parent / "lessons"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "notebooks"


def preset_names() -> list[str]:
    """The presets by name (``tuning.yaml`` beside them is of another kind)."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml") if path.stem != "tuning")


def runs_folder() -> Path:
    """Where runs go that were not told: ``I2VAE_RUNS_DIR``, else ``runs`` of the checkout that one works in, or here.

    A checkout is the nearest folder, from the working directory up, that holds ``notebooks/`` and ``params/``: a
    notebook in JupyterLab works in ``notebooks/``, under papermill and ``make`` above it, and all find the same runs.
    """
    if told := os.environ.get("I2VAE_RUNS_DIR"):
        return Path(told)
    here = Path.cwd()
    found = (one for one in (here, *here.parents) if (one / "notebooks").is_dir() and (one / "params").is_dir())
    checkout = next(found, here)
    return Path("runs") if checkout == here else checkout / "runs"


def suggestion(word: str, known: list[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known word, else the list of what is known."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
