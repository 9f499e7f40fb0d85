"""Keep the table of a finished run: docs/results/NAME.csv + NAME.json, and the table in docs/reproduction.md.

    python tools/record_run.py RUN NAME "COMMAND"

Tables stand between ``<!-- table: NAME -->`` and the next blank line; a test holds them to the CSV.
"""

from __future__ import annotations

import sys
from pathlib import Path

import kept
import numpy as np
import pages
import pandas as pd

from i2vae_lib.evaluation import metrics, tidy
from i2vae_lib.labels import label
from i2vae_lib.results import lift
from i2vae_lib.runs import read_record

README_KINDS = ("all", "tailed", "cold")


def record(run: Path, name: str, command: str) -> Path:
    """Recompute the table from ``ranks.parquet`` and store it with what it depends on."""
    about = read_record(run)
    table = tidy(metrics(pd.read_parquet(run / "ranks.parquet")), about["names"])
    content = kept.made_by([about], command) | {
        "dataset_sha256": about["dataset_sha256"],
        "stages": about["stages"],
        "mean_lift": lift.mean_lift([run], rng=np.random.default_rng(0))._asdict(),
        "mean_lift_full": lift.mean_lift([run], candidates="full", rng=np.random.default_rng(0))._asdict(),
        "outside": about["outside"],  # first events of items outside the catalogue (temporal)
    }
    return kept.keep(name, kept.headline(table), content)


def markdown(table: pd.DataFrame) -> str:
    """The README's form: HR@10, sampled, in per cent, by domain and three row kinds."""
    part = table[
        (table["metric"] == "HR@10") & (table["candidates"] == "sampled") & table["kind"].isin(README_KINDS)
    ].assign(value=lambda t: t["value"] * 100)
    recommenders = list(dict.fromkeys(part["recommender"]))
    lines = []
    for (domain, kind, n), cell in part.groupby(["domain", "kind", "n"], sort=False):
        values = cell.set_index("recommender")["value"]
        lines.append([domain, kind, f"{n:,}", *(f"{values[name]:.2f}" for name in recommenders)])
    return pages.table(["domain", "rows", "n", *map(label, recommenders)], "ll" + "r" * (1 + len(recommenders)), lines)


def fill(text: str, name: str, table: pd.DataFrame) -> str:
    """Put the table into a text that has its marker."""
    return pages.fill(text, f"table: {name}", markdown(table))


def main(run: str, name: str, command: str) -> None:
    path = record(Path(run), name, command)
    table = pd.read_csv(path)
    pages.rewrite(lambda page: fill(page, name, table))


if __name__ == "__main__":
    main(*sys.argv[1:])
