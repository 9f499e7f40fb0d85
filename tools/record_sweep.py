"""Keep the table of a sweep: docs/results/NAME.csv + NAME.json, and NAME_effects.csv where rows have a base.

    python tools/record_sweep.py NAME FOLDER FILE [--data …] [--protocol …] [--epochs N] [--seeds …] [--set KEY=VALUE]
    python tools/record_sweep.py --go-on NAME FOLDER FILE …

The words after FOLDER are those of ``i2vae sweep``, which has made the folder. Cells that are missing stand in the
table as missing; with ``--go-on``, those that the kept table has stay in it (a cell's address says with which
parameters it was made, the JSON at which revisions).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import kept
import numpy as np
import pandas as pd

from i2vae_lib.cli import build_parser
from i2vae_lib.commands.studies import asked_of_sweep
from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.experiments import sweeps
from i2vae_lib.experiments.grids import read_sweep
from i2vae_lib.results.effects import effects
from i2vae_lib.results.reading import METRICS
from i2vae_lib.runs import committed_path, read_record


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The lines that are kept: sampled, the metrics and user types of the pages, and one for each missing cell."""
    missing = table["state"] != "done"  # a finished cell has no value either for a user type that has no rows
    chosen = (table["candidates"] == "sampled") & table["metric"].isin(METRICS) & table["kind"].isin(HEADLINE)
    return table[missing | chosen]


def joined(table: pd.DataFrame, before: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """A table of :func:`experiments.results` with the finished cells of an earlier one where it has none, in its order.

    Returns
    -------
    table, cells
        And how many cells (runs) came from the earlier one.
    """
    place = ["grid", "row", "run"]  # the address of a run says everything else
    before = before.assign(row=before["row"].astype(object).fillna(""))  # as it is read, an empty column is of numbers
    earlier = before[before["value"].notna()].groupby(place, sort=False)
    found = {key: part.reindex(columns=table.columns) for key, part in earlier}
    parts, taken = [], set()
    for key, part in table.groupby(place, sort=False):
        known = part["value"].notna().any() or key not in found
        parts.append(part if known else found[key])
        taken |= set() if known else {key[-1]}
    return pd.concat(parts, ignore_index=True), len(taken)


def gone_on(name: str, table: pd.DataFrame, about: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table and what made it, with what the kept table of that name has beyond."""
    path = committed_path(name)
    before = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    for key in ("data_sha256", "protocol"):
        if before[key] != about[key]:
            raise SystemExit(f"--go-on: {path.name} has {key} {before[key]}, the folder {about[key]}")
    table, cells = joined(table, pd.read_csv(path))
    return table, about | {
        "revision": sorted({*before["revision"], *about["revision"]}),
        "hours": round(about["hours"] + before["hours"] * cells / before["done"], 3),  # all of them, but for repeats
        "done": about["done"] + cells,
    }


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--go-on", action="store_true")
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    first = 3 if "--go-on" in words else 2
    asked, sweep_words = parser.parse_args(words[:first]), words[first:]
    given = build_parser().parse_args(["sweep", *sweep_words])
    sweep = read_sweep(given.file, asked_of_sweep(given))
    table = shown(sweeps.results(sweep, asked.folder))
    records = [read_record(folder) for _, folder in sweeps.done_cells(sweep, asked.folder)]
    about = kept.made_by(records, shlex.join(["i2vae", "sweep", *sweep_words]))
    about |= {"cells": len(sweep.cells), "done": len(records)}
    against = effects(sweep, asked.folder, rng=np.random.default_rng(0))
    if asked.go_on:
        if len(against):
            raise SystemExit("--go-on: differences from a base need the ranks of every run, which no table keeps")
        table, about = gone_on(asked.name, table, about)
    for name, one in ((asked.name, table), (f"{asked.name}_effects", against)):
        if len(one):
            kept.keep(name, one, about)


if __name__ == "__main__":
    main(sys.argv[1:])
