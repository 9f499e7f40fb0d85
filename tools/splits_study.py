"""The systems nearest to i2VAE on a pair, over three splits: docs/results/splits_PAIR.csv and splits_PAIR_cells.csv.

    python tools/splits_study.py DATA PROTOCOL [--systems i2vae sasrec-ce-m stack-counts stack-ce] [--splits 0 1 2]

``i2vae table --preset tuned --trials 1`` for each split (``split.data_seed``, and ``seed`` the same number), then the
tables of their pooled test rows. Finished runs are not made again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import kept
import numpy as np
import pages
import pandas as pd

from i2vae_lib import cli
from i2vae_lib.experiments.tuning import read_study
from i2vae_lib.params import pair_name
from i2vae_lib.results.splits import YARDSTICK, against_rivals, read_split, rivals, tables
from i2vae_lib.runs import committed_path

SYSTEMS = ("i2vae", "sasrec-ce-m", "stack-counts", "stack-ce")
COLUMNS = ("pair", "beside", "candidates", "lift", "cells behind")


def kept_pairs() -> dict[str, pd.DataFrame]:
    """:func:`i2vae_lib.results.splits.against_rivals` of every pair that is kept."""
    paths = {
        path.stem.removesuffix("_cells"): path for path in committed_path("splits").parent.glob("splits_*_cells.csv")
    }
    return {
        name.removeprefix("splits_"): against_rivals(pd.read_csv(path), pd.read_csv(committed_path(name)))
        for name, path in sorted(paths.items())
    }


def markdown() -> str:
    """How far i2VAE stands above the best other system, the best reference and the stack, a line a pair and ranking."""
    lines = []
    for pair, table in kept_pairs().items():
        for one in table.itertuples():
            lift = f"{one.lift:+.0%} ({one.lift_low:+.0%} to {one.lift_high:+.0%})".replace("%", " %")
            beside = one.title if one.beside == YARDSTICK else f"{one.beside}: {one.title}"
            lines.append((pair, beside, one.candidates, lift, one.behind or "none"))
    return pages.table(COLUMNS, "lllll", lines)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("protocol")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(words)
    pair, folders = pair_name(given.data), []
    for split in given.splits:
        folders.append(Path("runs") / f"splits-{pair}-{split}")
        asked = ["--data", given.data, "--protocol", given.protocol, "--preset", "tuned", "--trials", "1"]
        asked += ["--seeds", str(split), "--set", f"split.data_seed={split}", "--systems", *given.systems]
        cli.main(["table", *asked, "--out", str(folders[-1]), "--json"])
    splits = [read_split(read_study(folder).runs()) for folder in folders]
    cells, means = tables(splits, "i2vae", rng=np.random.default_rng(0))
    records = [record for one in splits for record in one.records]
    about = kept.made_by(records, shlex.join(["python", "tools/splits_study.py", *words]))
    about["dataset_sha256"] = [one.records[0]["dataset_sha256"] for one in splits]
    about["references"] = [
        {name: {key: value for key, value in one.items() if key != "grid"} for name, one in of_split.items()}
        for of_split in (one.records[0]["references"] for one in splits)
    ]
    kept.keep(f"splits_{pair}_cells", cells, about)
    kept.keep(f"splits_{pair}", means, about)
    pages.rewrite(lambda page: pages.fill(page, "splits", markdown()))
    print(json.dumps(rivals(means)))


if __name__ == "__main__":
    main(sys.argv[1:])
