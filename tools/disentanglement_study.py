"""What each regularizer does to the latents on the planted pair: docs/results/disentanglement.csv, _information.csv.

    python tools/disentanglement_study.py FOLDER [--workers 2] [--seeds 0 1 2]

FOLDER holds the cells of ``i2vae sweep disentanglement``, which this makes first. Every finished cell is measured, and
for each seed the model that training starts from. Probes are fitted on training rows, whose targets are not looked at.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from i2vae_lib import engine, experiments
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.grids import read_sweep
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.results import kept
from i2vae_lib.results.latents import planted_measures, with_untrained
from i2vae_lib.runs import read_record


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(words)
    sweep = read_sweep("disentanglement", {"seeds": given.seeds})
    experiments.run(sweep, given.folder, workers=given.workers, say=print)
    tables: dict[str, list[pd.DataFrame]] = {}
    records: list[dict[str, Any]] = []
    for cell in sweep.cells:
        if experiments.state_of(cell, given.folder) != "done":
            continue
        folder, row, seed = (
            engine.cell_folder(given.folder, cell.address),
            cell.places[0].row,
            cell.parameters.seed,
        )
        dataset, trained = CrossDomainDataset.load(folder / "dataset"), I2VAERecommender.load(folder / "model")
        records.append(read_record(folder))
        for name, model in with_untrained(trained, dataset, row, seed).items():
            print(name, seed, flush=True)
            for table, found in planted_measures(model, dataset).items():
                tables.setdefault(table, []).append(found.assign(row=name, seed=seed))
    seeds = "" if given.seeds == [0, 1, 2] else f" --seeds {' '.join(map(str, given.seeds))}"
    about = {
        "command": f"python tools/disentanglement_study.py runs/disentanglement{seeds}",
        **kept.made_by(records),
        "seeds": given.seeds,
        "hours": round(kept.hours(records), 3),
    }
    for name, parts in tables.items():
        kept.keep(name, pd.concat(parts, ignore_index=True), about)


if __name__ == "__main__":
    main(sys.argv[1:])
