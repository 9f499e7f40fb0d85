"""What each regularizer does to the latents of real users: docs/results/latents_PAIR.csv.

    python tools/latents_study.py FOLDER DATA PROTOCOL [--seeds 0 1 2]

FOLDER holds the cells of ``i2vae sweep recipe --data DATA --protocol PROTOCOL``; finished ones are measured, and for
each seed the model that training starts from: on the test rows that have both histories, whose targets are not looked
at, so on users that no model has seen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kept
import pandas as pd

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.experiments import sweeps
from i2vae_lib.experiments.grids import Cell, Sweep, cells_folder, read_sweep
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.results.latents import observed_measures, with_untrained
from i2vae_lib.runs import read_record
from i2vae_lib.stages import load_data, load_system

ROWS = ("full", "no cross-domain and disentangling terms", "no denoising term")


def measured(
    sweep: Sweep,
    out: Path,
    command: str,
    row_of: Callable[[Cell], str | None],
    measures: Callable[[I2VAERecommender, CrossDomainDataset], dict[str, pd.DataFrame]],
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables of every finished cell that has a row, with ``row, seed``; and what made the cells."""
    parts: dict[str, list[pd.DataFrame]] = {}
    records: list[dict[str, Any]] = []
    for cell, folder in sweeps.done_cells(sweep, out):
        row, seed = row_of(cell), cell.parameters.seed
        if row is None:
            continue
        dataset, trained = load_data(folder), load_system(folder)
        records.append(read_record(folder))
        for name, model in with_untrained(trained, dataset, row, seed).items():
            print(name, seed, flush=True)
            for table, found in measures(model, dataset).items():
                parts.setdefault(table, []).append(found.assign(row=name, seed=seed))
    tables = {table: pd.concat(found, ignore_index=True) for table, found in parts.items()}
    return tables, kept.made_by(records, command)


def of_claims(cell: Cell) -> str | None:
    """The cell's row among those that are measured."""
    return next((one.row for one in cell.places if one.grid == "claims" and one.row in ROWS), None)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("data")
    parser.add_argument("protocol")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(words)
    sweep = read_sweep("recipe", {"data": given.data, "protocol": given.protocol, "seeds": given.seeds})
    name = f"latents_{Path(given.data).stem}"
    seeds = " ".join(map(str, given.seeds))
    folder = f"runs/{cells_folder(sweep).name}"  # where `i2vae sweep` puts them
    command = f"python tools/latents_study.py {folder} {given.data} {given.protocol} --seeds {seeds}"
    tables, about = measured(sweep, given.folder, command, of_claims, lambda *one: {name: observed_measures(*one)})
    kept.keep(name, tables[name], about)


if __name__ == "__main__":
    main(sys.argv[1:])
