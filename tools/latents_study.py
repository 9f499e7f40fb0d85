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

import kept
import numpy as np
import pandas as pd

from i2vae_lib import disentanglement, engine, experiments
from i2vae_lib.cooccurrence import item_vectors
from i2vae_lib.data import DOMAINS, CrossDomainDataset
from i2vae_lib.graphs import Unified
from i2vae_lib.grids import cells_folder, read_sweep
from i2vae_lib.recommenders import I2VAERecommender
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
        train = dataset.splits["train"]
        table, unified = item_vectors(train, 8, trained.params.psg.shrinkage), Unified(train.catalogue)
        vectors = {d: table[unified.of[d]].astype(np.float64) for d in DOMAINS}
        models = {row: trained}
        if row == "full":
            models["untrained"] = disentanglement.untrained(trained, train, np.random.default_rng(seed))
        for name, model in models.items():
            print(name, seed, flush=True)
            found = disentanglement.observed_measures(model, dataset.splits["test"], vectors, seed=0)
            parts.append(found.assign(row=name, seed=seed))
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
