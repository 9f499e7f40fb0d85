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

import kept
import numpy as np
import pandas as pd
import torch

from i2vae_lib import disentanglement, engine, experiments
from i2vae_lib.cooccurrence import item_vectors
from i2vae_lib.data import DOMAINS, CrossDomainDataset
from i2vae_lib.graphs import Unified
from i2vae_lib.grids import read_sweep
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.runs import read_record


def measured(recommender: I2VAERecommender, dataset: CrossDomainDataset) -> dict[str, pd.DataFrame]:
    train = dataset.splits["train"]
    table, unified = item_vectors(train, 8, recommender.params.psg.shrinkage), Unified(train.catalogue)
    vectors = {d: table[unified.of[d]].astype(np.float64) for d in DOMAINS}
    cold = disentanglement.cold_agreement(recommender, train).melt(["domain", "n"], ["kl", "distance", "kept"])
    parts = [disentanglement.measures(recommender, dataset, train, seed=0)]
    parts.append(cold.assign(of="r for q").rename(columns={"variable": "measure"}))
    for role in disentanglement.ROLES:
        swap = disentanglement.counterfactual(recommender, dataset, train, role, seed=0)
        values = [name for name in swap.columns if name not in ("domain", "n")]
        parts.append(swap.melt(["domain", "n"], values, "measure").assign(of=f"{role} swapped"))
    heard = disentanglement.denoising(recommender, dataset, train)
    parts.append(heard.melt(["domain", "n"], ["correlation", "relevant"], "measure").assign(of="pseudo-items"))
    probes = disentanglement.latent_probes(recommender, train, dataset.truth, np.random.default_rng(0))
    nats = probes.melt(["domain", "latent"], ["kl", "active"], "measure").rename(columns={"latent": "of"})
    measures = pd.concat([*parts, nats], ignore_index=True)[["measure", "of", "domain", "value"]]
    draws = disentanglement.sampled(torch.Generator().manual_seed(0))
    information = pd.concat(
        disentanglement.shared_information(recommender, train, vectors, seed=0, values=values).assign(values=name)
        for name, values in {"means": disentanglement.means, "draws": draws}.items()
    )
    return {"disentanglement": measures, "disentanglement_information": information}


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
        models = {row: trained}
        if row == "full":
            models["untrained"] = disentanglement.untrained(
                trained, dataset.splits["train"], np.random.default_rng(seed)
            )
        for name, model in models.items():
            print(name, seed, flush=True)
            for table, found in measured(model, dataset).items():
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
