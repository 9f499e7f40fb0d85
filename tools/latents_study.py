"""What each regularizer does to the latents of real users: docs/results/latents_PAIR.csv.

    python tools/latents_study.py FOLDER DATA PROTOCOL [--seeds 0 1 2]

FOLDER holds the cells of ``i2vae sweep recipe --data DATA --protocol PROTOCOL``; finished ones are measured, and for
each seed the model that training starts from: on the test rows that have both histories, whose targets are not looked
at, so on users that no model has seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from i2vae_lib import engine, experiments
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.grids import cells_folder, read_sweep
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.results import kept
from i2vae_lib.results.latents import observed_measures, with_untrained
from i2vae_lib.runs import read_record

ROWS = ("full", "no cross-domain and disentangling terms", "no denoising term")


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("data")
    parser.add_argument("protocol")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(words)
    sweep = read_sweep("recipe", {"data": given.data, "protocol": given.protocol, "seeds": given.seeds})
    parts: list[pd.DataFrame] = []
    records: list[dict[str, Any]] = []
    for cell in sweep.cells:
        row = next((one.row for one in cell.places if one.grid == "claims" and one.row in ROWS), None)
        if row is None or experiments.state_of(cell, given.folder) != "done":
            continue
        folder, seed = engine.cell_folder(given.folder, cell.address), cell.parameters.seed
        dataset, trained = CrossDomainDataset.load(folder / "dataset"), I2VAERecommender.load(folder / "model")
        records.append(read_record(folder))
        for name, model in with_untrained(trained, dataset, row, seed).items():
            print(name, seed, flush=True)
            parts.append(observed_measures(model, dataset).assign(row=name, seed=seed))
    seeds = " ".join(map(str, given.seeds))
    folder = f"runs/{cells_folder(sweep).name}"  # where `i2vae sweep` puts them
    about = {
        "command": f"python tools/latents_study.py {folder} {given.data} {given.protocol} --seeds {seeds}",
        **kept.made_by(records),
        "seeds": given.seeds,
        "hours": round(kept.hours(records), 3),
    }
    kept.keep(f"latents_{Path(given.data).stem}", pd.concat(parts, ignore_index=True), about)


if __name__ == "__main__":
    main(sys.argv[1:])
