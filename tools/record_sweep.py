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
from typing import Any

import kept
import numpy as np

from i2vae_lib import experiments
from i2vae_lib.cli import build_parser, overrides
from i2vae_lib.grids import read_sweep
from i2vae_lib.lift import KINDS, METRICS
from i2vae_lib.runs import read_record


def _one_or_all(records: list[dict[str, Any]], key: str) -> Any:
    """What the cells agree on; all of it where a sweep varies it."""
    found = sorted({one[key] for one in records})
    return found[0] if len(found) == 1 else found


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    asked, sweep_words = parser.parse_known_args(words[:2])[0], words[2:]
    given = build_parser().parse_args(["sweep", *sweep_words])
    names = {key: getattr(given, key) for key in ("preset", "data", "protocol", "epochs", "seeds")}
    sweep = read_sweep(given.file, names | {"overrides": overrides(given.set)})
    table = experiments.results(sweep, asked.folder)
    missing = table["value"].isna()
    chosen = (table["candidates"] == "sampled") & table["metric"].isin(METRICS) & table["kind"].isin(KINDS)
    table = table[missing | chosen]
    planned = experiments.plan(sweep, asked.folder)
    done = planned[planned["state"] == "done"]
    records = [read_record(experiments.cell_folder(asked.folder, one)) for one in done["address"]]
    about = {
        "command": shlex.join(["i2vae", "sweep", *sweep_words]),
        "revision": sorted({one["environment"]["git"] for one in records}),
        "data_sha256": _one_or_all(records, "source_sha256"),
        "protocol": _one_or_all(records, "protocol"),
        "seeds": sorted({cell.parameters.seed for cell in sweep.cells}),
        "hours": round(float(done["seconds"].sum()) / 3600, 3),
        "cells": len(planned),
        "done": len(done),
        "environment": records[0]["environment"],
    }
    effects = experiments.effects(sweep, asked.folder, rng=np.random.default_rng(0))
    effects = effects[effects["kind"].isin(KINDS)]
    for name, one in ((asked.name, table), (f"{asked.name}_effects", effects)):
        if len(one):
            kept.keep(name, one, about)


if __name__ == "__main__":
    main(sys.argv[1:])
