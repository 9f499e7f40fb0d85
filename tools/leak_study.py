"""What leaks are worth on a released pair, for docs/results/leaks_PAIR.csv, which notebook 09 draws; what the order of
the file is worth, for docs/results/leaks_PAIR_worlds.csv: the lift over ItemKNN without it and with it.

    python tools/leak_study.py PAIR [--preset paper] [--epochs 20] [--seeds 0 1] [--systems …] [--out FOLDER]

Cells that FOLDER holds are not measured again; ``--finished`` writes the table of what is there so far.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import kept
import numpy as np
import pandas as pd

from i2vae_lib.data.registry import REGISTRY
from i2vae_lib.data.released import load_released
from i2vae_lib.experiments import leak_worth
from i2vae_lib.params import load
from i2vae_lib.results import leak_tables
from i2vae_lib.runs import environment


def _without_places(words: list[str]) -> list[str]:
    """What the numbers depend on: neither the folder nor that its cells were there."""
    at = words.index("--out") if "--out" in words else len(words)
    return [word for word in [*words[:at], *words[at + 2 :]] if word != "--finished"]


def _show(table: pd.DataFrame) -> None:
    shown = table[(table["kind"] == "all") & (table["candidates"] == "sampled")]
    print(shown.round(2).to_string(index=False))


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pair", choices=REGISTRY)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--systems", nargs="+", default=list(leak_worth.SYSTEMS), choices=leak_worth.SYSTEMS)
    parser.add_argument("--finished", action="store_true", help="measure nothing: the table of what is finished")
    parser.add_argument("--out", type=Path, help="default: runs/leaks-PAIR")
    given = parser.parse_args(words)
    folder = given.out or Path("runs") / f"leaks-{given.pair}"
    p = load(given.preset, data=given.pair, protocol="strict", epochs=given.epochs)
    raw = load_released(given.pair)
    if given.finished:
        table = leak_worth.finished(raw, p, given.systems, given.seeds, folder)
    else:
        table = leak_worth.study(raw, p, given.systems, given.seeds, folder, say=print)
    names = dict(raw.catalogue.names)
    cells = table.groupby(["recommender", "leaks", "seed"])
    worlds = leak_tables.worlds(table, names, rng=np.random.default_rng(0))
    record = {
        "command": shlex.join(["python", "tools/leak_study.py", *_without_places(words)]),
        "cells": sorted({f"{system}, {leaks}" for system, leaks, _ in cells.groups}),
        "revision": sorted(table["revision"].unique()),
        "data_sha256": raw.source_sha256,
        "seeds": given.seeds,
        "hours": round(cells["seconds"].first().sum() / 3600, 4),
        "parameters": p.model_dump(mode="json"),
        "environment": environment(),
    }
    kept.keep(f"leaks_{given.pair}_worlds", worlds, record)
    _show(worlds)
    if set(table["leaks"]) - set(leak_worth.WORLDS):
        worth = leak_tables.worth(table, names, rng=np.random.default_rng(0))
        kept.keep(f"leaks_{given.pair}", worth, record)
        _show(worth)


if __name__ == "__main__":
    main(sys.argv[1:])
