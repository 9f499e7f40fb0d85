"""The recipe on a pair, and what each part of it is worth: docs/results/recipe_PAIR.csv and recipe_PAIR_rows.csv.

    python tools/recipe_study.py DATA PROTOCOL [--seeds 0 1 2] [--rows NAME …] [--workers 2] [--out FOLDER] [--finished]
        [--label NAME]

``i2vae sweep recipe`` and its tables: finished cells are not run again, and ``--finished`` only writes what is there.
Without ``--rows`` the recipe alone is trained. ``recipe_PAIR.csv`` has the recipe beside the best reference of each
cell, ``recipe_PAIR_rows.csv`` every row against the recipe, or the row that it is compared with, on the seeds of both.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import kept
import numpy as np
import pages
import pandas as pd

from i2vae_lib.experiments import sweeps
from i2vae_lib.experiments.grids import Sweep, read_sweep
from i2vae_lib.labels import label
from i2vae_lib.params import pair_name
from i2vae_lib.places import suggestion
from i2vae_lib.results import text
from i2vae_lib.results.recipe import RECIPE, finished, tables
from i2vae_lib.runs import committed_path, read_record
from i2vae_lib.stages import load_history


def markdown(found: Mapping[str, pd.DataFrame], kinds: Iterable[str]) -> str:
    """HR@10 of each pair's cells of these row kinds, sampled, in per cent; intervals of single cells are unadjusted."""
    columns = ["pair", "domain", "rows", "n"]
    columns += ["i2VAE, tuned", "its counts alone", "best reference", "lift", "points (95 %)"]
    lines = [
        (
            *(pair, cell.domain, cell.kind, f"{cell.n:,}"),
            text.written(text.Number(cell.system, cell.sd), "text"),
            f"{100 * cell.counts_alone:.2f}",
            f"{100 * cell.reference:.2f} ({label(cell.best)})",
            f"{100 * cell.lift:+.0f} %" if np.isfinite(cell.lift) else "-",
            text.with_interval(cell),
        )
        for pair, table in found.items()
        for cell in table[(table["metric"] == "HR@10") & table["kind"].isin(list(kinds))].itertuples()
    ]
    return pages.table(columns, "lllrrrlrl", lines)


def mean_lifts() -> str:
    """README's form: how far the mean over a pair's cells stands above that of the best references."""
    lines = []
    folder = committed_path("recipe").parent
    recipes = [path for path in sorted(folder.glob("recipe_*.json")) if not path.stem.endswith("_rows")]
    for path in [*recipes, *sorted(folder.glob("*_temporal_tuned.json"))]:
        about = json.loads(path.read_text(encoding="utf-8"))
        pair = path.stem.removeprefix("recipe_").removesuffix("_temporal_tuned")
        protocol = about["command"].split()[3] if path in recipes else "temporal"
        both = (about[name] for name in ("mean_lift", "mean_lift_full"))
        shown = (f"{one['mean']:+.0%} ({one['low']:+.0%} to {one['high']:+.0%})".replace("%", " %") for one in both)
        lines.append((pair, f"`{protocol}`", *shown))
    return pages.table(["pair", "rows", "sampled candidates", "full ranking"], "llll", lines)


def fill(page: str) -> str:
    """A page with the tables of the recipe written anew from the committed results."""
    folder = committed_path("recipe").parent
    paths = [path for path in sorted(folder.glob("recipe_*.csv")) if not path.stem.endswith("_rows")]
    found = {path.stem.removeprefix("recipe_"): pd.read_csv(path) for path in paths}
    tables = {
        "recipe, all cells": markdown(found, ["all", "tailed", "cold"]),
        "mean lift": mean_lifts(),
    }
    for name, table in tables.items():
        page = pages.fill(page, name, table)
    return page


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("protocol")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="*", default=[RECIPE])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--finished", action="store_true")
    parser.add_argument("--label", help="keep the rows alone, as recipe_PAIR_LABEL_rows")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(words)
    pair = pair_name(given.data)
    out = given.out or Path("runs") / f"recipe-{pair}"
    sweep = read_sweep("recipe", {"data": given.data, "protocol": given.protocol, "seeds": given.seeds})
    known = [place.row for cell in sweep.cells for place in cell.places]
    for row in set(given.rows) - set(known):
        raise SystemExit(f"--rows {row!r}: no row of params/sweeps/recipe.yaml{suggestion(row, known)}")
    if not given.finished:
        asked = tuple(cell for cell in sweep.cells if {place.row for place in cell.places} & set(given.rows))
        sweeps.run(Sweep("recipe", asked), out, workers=given.workers, say=print)
    against, each, about = tables(sweep, out)
    done = {folder for row in about["runs"] for folder in finished(sweep, out, row).values()}
    records = [read_record(folder) for folder in sorted(done)]
    histories = [load_history(folder) for folder in finished(sweep, out, RECIPE).values()]
    first = records[0]
    words = ["python", "tools/recipe_study.py", given.data, given.protocol]
    words += ["--seeds", *(str(seed) for seed in given.seeds)]
    others = [row for row in about["runs"] if row not in about["missing"] and row != RECIPE]
    words += ["--rows", RECIPE, *others] if others else []
    words += ["--label", given.label] if given.label else []
    head = kept.made_by(records, shlex.join(words)) | {
        "dataset_sha256": first["dataset_sha256"],
        "epochs": [len(one) for one in histories],
        "seconds_of_training": [round(float(one[["seconds", "validation seconds"]].sum().sum())) for one in histories],
    }
    names = (None, f"recipe_{pair}_{given.label}_rows") if given.label else (f"recipe_{pair}", f"recipe_{pair}_rows")
    head |= {} if given.label else {"references": first["references"]}
    for name, table in zip(names, (against, each), strict=True):
        if name and len(table):
            kept.keep(name, table, head | {"seeds": about["runs"][RECIPE]} | about)
    pages.rewrite(fill)
    print(against.round(4).to_string(index=False))
    print({key: about[key] for key in ("mean_lift", "mean_lift_full", "missing")})


if __name__ == "__main__":
    main(sys.argv[1:])
