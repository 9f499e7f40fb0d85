"""What an epoch of each system costs at its own paper's settings, and how many of them ten minutes hold.

    python benchmarks/bench_systems.py [--data cloth_sport] [--preset paper] [--systems NAME …] [--json FILE]

The first points of ``params/tuning.yaml`` over a preset, protocol ``strict``; two epochs a stage, of which
the second is printed, with its validation. i2VAE's pseudo-sequences and the reference rankers are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from i2vae_lib import stages
from i2vae_lib.data import load_dataset_once
from i2vae_lib.experiments.tuning import read_tuning
from i2vae_lib.generators import psg
from i2vae_lib.params import load
from i2vae_lib.recommenders import SYSTEMS
from i2vae_lib.training import Callbacks

LIMIT = 600.0  # seconds of a whole training that are aimed at


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="cloth_sport")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    tuning = read_tuning()
    found: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{given.data}, {torch.get_num_threads()} threads\n{'':<12} {'stage':<10} epoch, s  validation, s  in 10 min")
    for name in given.systems:
        point = {**tuning.shared, **tuning.points[name][0], "system": name}
        params = load(given.preset, point, data=given.data, protocol="strict", epochs=2)
        dataset = load_dataset_once(params)
        train = dataset.splits["train"]
        hasty = params.psg.model_copy(update={"epochs": 1, "folds": 1})
        system = SYSTEMS[name](dataset.catalogue, params).fit(
            train,
            dataset.splits["validation"],
            params=params,
            generator=psg.fit(train, hasty) if stages.uses_generator(params) else None,
            rng=np.random.default_rng(0),
            callbacks=Callbacks(),
        )
        # a stage's last line: what a process does once is in the first
        last = {str(int(one.get("stage", 1))): one for one in system.state.history}
        found[name] = {}
        for stage, one in last.items():
            seconds, validation = one["seconds"], one["validation seconds"]
            found[name][stage] = {"seconds": seconds, "validation": validation}
            held = LIMIT / (seconds + validation)
            print(f"{name:<12} {stage:<10} {seconds:8.2f}  {validation:13.2f}  {held:9.0f}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s in all")
