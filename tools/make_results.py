"""Make the kept tables in docs/results/ anew: all of them, or those that are named.

    python tools/make_results.py [NAME …]

A NAME is a notebook at full size (:data:`STUDIES`) or a kept table, which is made by the command that its JSON names.
Hours to days on two cores. It goes on where it was stopped: finished cells are not made again. Executed
notebooks lie beside their cells.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import data_results
import leak_study
import papermill
import recipe_study
import record_run
import record_sweep
import reference_study
import splits_study

from i2vae_lib import cli
from i2vae_lib.notebooks import kernel_settings
from i2vae_lib.places import runs_folder, suggestion
from i2vae_lib.runs import committed_path

ROOT = Path(__file__).parent.parent
PAIRS = ROOT / "params" / "pairs"
TOOLS: dict[str, Callable[[list[str]], object]] = {
    "tools/data_results.py": lambda words: data_results.main(),
    "tools/leak_study.py": leak_study.main,
    "tools/recipe_study.py": recipe_study.main,
    "tools/reference_study.py": reference_study.main,
    "tools/splits_study.py": splits_study.main,
}
"""Tools that train or fit what is missing and keep their tables by themselves."""


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


def command_of(table: str) -> list[str]:
    """The words of the command that made a kept table, if this tool can give it again; else none."""
    told = json.loads(committed_path(table).with_suffix(".json").read_text(encoding="utf-8"))["command"]
    words = shlex.split(told)
    known = words[:2] in (["i2vae", "run"], ["make", "run"]) or (words[0] == "python" and words[1] in TOOLS)
    return words if known and "&&" not in words else []


def kept_again() -> list[str]:
    """Kept tables that :func:`make_again` can make."""
    return [path.stem for path in sorted(committed_path("").parent.glob("*.json")) if command_of(path.stem)]


def make_again(table: str) -> None:
    """A kept table, by its own command."""
    program, what, *words = command_of(table)
    if program == "python":
        TOOLS[what](words)
        return
    if program == "make":  # DATA=films: --data films
        named = [word.partition("=") for word in words]
        words = [part for key, _, value in named for part in (f"--{key.lower()}", value)]
    out = str(runs_folder() / f"results-{table}")
    if cli.main(["run", *words, "--no-notebooks", "--out", out]) == 0:
        record_run.main(out, table, shlex.join(command_of(table)))


def main(names: list[str]) -> None:
    known = [*kept_again(), *STUDIES]
    for name in names:
        if name not in known:
            raise SystemExit(f"no study is called {name!r}{suggestion(name, known)}")
    for name in names or known:
        print(name, flush=True)
        (make if name in STUDIES else make_again)(name)


if __name__ == "__main__":
    main(sys.argv[1:])
