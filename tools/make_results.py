"""Make the kept studies anew: their notebooks at full size under papermill, then their tables in docs/results/.

    python tools/make_results.py [NAME …]

Hours to days on two cores. It goes on where it was stopped: finished cells are not made again. Without a NAME all of
:data:`STUDIES` are made in turn, after the tables that need no training. Executed notebooks lie beside the cells.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import data_results
import papermill
import recipe_study
import record_sweep
import reference_study

from i2vae_lib.notebooks import kernel_settings
from i2vae_lib.places import runs_folder, suggestion

ROOT = Path(__file__).parent.parent
PAIRS = ROOT / "params" / "pairs"
LOGS = ("food_kitchen", "films", "beautyelec", "newsapart")


class Study(NamedTuple):
    """A notebook at full size, and what writes its table once it has run."""

    notebook: str
    parameters: dict[str, Any]
    keep: Callable[[Path], object]


def sweep(notebook: str, name: str, data: str, table: str, seeds: int) -> Study:
    """A study of one sweep on a pair of logs under ``chronological``."""
    of_pair = ["--data", data, "--protocol", "chronological", "--seeds", *map(str, range(seeds))]
    parameters = {"preset": "tuned", "data": data, "protocol": "chronological", "sweep": name, "seeds": seeds}
    return Study(
        notebook,
        parameters | {"epochs": None, "cells": None},
        lambda folder: record_sweep.main([table, str(folder), name, *of_pair]),
    )


def recipe(pair: str) -> Study:
    """The recipe and all its rows on a pair."""
    study = sweep("07_ablation", "recipe", str(PAIRS / f"{pair}.yaml"), "", 3)
    words = [study.parameters["data"], "chronological", "--seeds", "0", "1", "2", "--finished"]
    return study._replace(keep=lambda folder: recipe_study.main([*words, "--out", str(folder)]))


STUDIES = {
    "sensitivity": sweep("05_sensitivity", "sensitivity", str(PAIRS / "films.yaml"), "sensitivity_films", 3),
    "recipe": recipe("films"),
    "robustness": sweep("08_robustness", "robustness", str(PAIRS / "films.yaml"), "robustness_films", 3),
    "cold_users": sweep("08_robustness", "cold_users", str(PAIRS / "food_kitchen.yaml"), "cold_users_food_kitchen", 1),
}


def make(name: str) -> None:
    """One study: every cell that is missing, then its table."""
    study, out = STUDIES[name], runs_folder() / f"results-{name}"
    out.mkdir(parents=True, exist_ok=True)
    with kernel_settings() as config:
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{study.notebook}.ipynb",
            out / f"{study.notebook}.ipynb",
            parameters=study.parameters | {"out": str(out.resolve())},
            kernel_name="python3",
            cwd=str(ROOT),
            config=config,
        )
    study.keep(out)


def main(names: list[str]) -> None:
    for name in names:
        if name not in STUDIES:
            raise SystemExit(f"no study is called {name!r}{suggestion(name, list(STUDIES))}")
    if not names:
        data_results.main()
        for pair in LOGS:
            reference_study.main([str(PAIRS / f"{pair}.yaml"), "chronological"])
    for name in names or STUDIES:
        print(name, flush=True)
        make(name)


if __name__ == "__main__":
    main(sys.argv[1:])
