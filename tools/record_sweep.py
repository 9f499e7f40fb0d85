"""Keep the table of a sweep: docs/results/NAME.csv + NAME.json, and NAME_effects.csv where rows have a base.

    python tools/record_sweep.py NAME FOLDER FILE [--data …] [--protocol …] [--epochs N] [--seeds …] [--set KEY=VALUE]

The words after FOLDER are those of ``i2vae sweep``, which has made the folder. Cells that are missing stand in the
table as missing.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np

from i2vae_lib import experiments
from i2vae_lib.cli import build_parser, overrides
from i2vae_lib.grids import read_sweep
from i2vae_lib.lift import KINDS, METRICS
from i2vae_lib.runs import read_record, write_atomically, write_json

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    kept, sweep_words = parser.parse_known_args(words[:2])[0], words[2:]
    given = build_parser().parse_args(["sweep", *sweep_words])
    names = {key: getattr(given, key) for key in ("preset", "data", "protocol", "epochs", "seeds")}
    sweep = read_sweep(given.file, names | {"overrides": overrides(given.set)})
    table = experiments.results(sweep, kept.folder)
    missing = table["value"].isna()
    chosen = (table["candidates"] == "sampled") & table["metric"].isin(METRICS) & table["kind"].isin(KINDS)
    table = table[missing | chosen]
    planned = experiments.plan(sweep, kept.folder)
    done = planned[planned["state"] == "done"]
    records = [read_record(experiments.cell_folder(kept.folder, one)) for one in done["address"]]
    about = {
        "command": shlex.join(["i2vae", "sweep", *sweep_words]),
        "revision": sorted({one["environment"]["git"] for one in records}),
        "data_sha256": records[0]["source_sha256"],
        "protocol": records[0]["protocol"],
        "seeds": sorted({cell.parameters.seed for cell in sweep.cells}),
        "hours": round(float(done["seconds"].sum()) / 3600, 3),
        "cells": len(planned),
        "done": len(done),
        "environment": records[0]["environment"],
    }
    effects = experiments.effects(sweep, kept.folder, rng=np.random.default_rng(0))
    effects = effects[effects["kind"].isin(KINDS)]
    for name, one in ((kept.name, table), (f"{kept.name}_effects", effects)):
        if len(one):
            path = RESULTS / f"{name}.csv"
            write_atomically(path, lambda part, one=one: one.round(6).to_csv(part, index=False))
            write_json(path.with_suffix(".json"), about)
            print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
