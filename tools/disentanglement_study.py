"""What each regularizer does to the latents on the planted pair: docs/results/disentanglement.csv, _information.csv.

    python tools/disentanglement_study.py FOLDER [--workers 2] [--seeds 0 1 2]

FOLDER holds the cells of ``i2vae sweep disentanglement``, which this makes first. Every finished cell is measured, and
for each seed the model that training starts from. Probes are fitted on training rows, whose targets are not looked at.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import kept
from latents_study import measured

from i2vae_lib.experiments import sweeps
from i2vae_lib.experiments.grids import read_sweep
from i2vae_lib.results.latents import planted_measures


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(words)
    sweep = read_sweep("disentanglement", {"seeds": given.seeds})
    sweeps.run(sweep, given.folder, workers=given.workers, say=print)
    seeds = "" if given.seeds == [0, 1, 2] else f" --seeds {' '.join(map(str, given.seeds))}"
    command = f"python tools/disentanglement_study.py runs/disentanglement{seeds}"
    tables, about = measured(sweep, given.folder, command, lambda cell: cell.places[0].row, planted_measures)
    for name, table in tables.items():
        kept.keep(name, table, about)


if __name__ == "__main__":
    main(sys.argv[1:])
