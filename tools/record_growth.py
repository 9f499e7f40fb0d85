"""Keep what benchmarks/bench_growth.py measured: docs/results/growth.csv + growth.json, and the table of
docs/performance.md.

    python benchmarks/bench_growth.py --events 100000 1000000 10000000 --json FILE
    python tools/record_growth.py FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import kept
import numpy as np
import pages
import pandas as pd


def table_of(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """A line for each size and stage: seconds of CPU, and the process's peak memory up to its end."""
    return pd.DataFrame(
        [
            {"events": run["events"], "stage": stage, "seconds": seconds, "peak_gib": run["peak"][stage] / 2**30}
            for run in runs
            for stage, seconds in run["seconds"].items()
        ]
    )


def markdown(table: pd.DataFrame) -> str:
    """A line for each stage and one for all: seconds and memory at every size, and how the seconds grow between the
    two largest."""
    everything = table.groupby("events", as_index=False).agg(seconds=("seconds", "sum"), peak_gib=("peak_gib", "max"))
    table = pd.concat([table, everything.assign(stage="all")])
    sizes = sorted(table["events"].unique())
    lines = []
    for stage, part in table.groupby("stage", sort=False):
        at = part.set_index("events")
        small, large = at.loc[sizes[-2]], at.loc[sizes[-1]]
        exponent = np.log(large["seconds"] / small["seconds"]) / np.log(sizes[-1] / sizes[-2])
        cells = [f"{at.loc[size, name]:,.1f}" for size in sizes for name in ("seconds", "peak_gib")]
        lines.append([str(stage), *cells, f"{exponent:.2f}"])
    heads = [head for size in sizes for head in (f"{size:,} events", "GiB")]
    return pages.table(["stage", *heads, "exponent"], "l" + "r" * (len(heads) + 1), lines)


def main(file: str) -> None:
    found = json.loads(Path(file).read_text(encoding="utf-8"))
    table = table_of(found["runs"])
    about = {
        "command": found["command"],
        "revision": found["environment"]["git"],
        "data_sha256": [run["source_sha256"] for run in found["runs"]],
        "environment": found["environment"],
        "seeds": [0],
        "hours": round(table["seconds"].sum() / 3600, 3),
    }
    kept.keep("growth", table, about)
    pages.rewrite(lambda page: pages.fill(page, "growth", markdown(table)))


if __name__ == "__main__":
    main(*sys.argv[1:])
