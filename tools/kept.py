"""Where a study's table is kept: docs/results/NAME.csv and, beside it, NAME.json with what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from i2vae_lib.results.text import as_csv
from i2vae_lib.runs import LayoutError, committed_path, write_atomically, write_json


def made_by(records: Sequence[Mapping[str, Any]], command: str) -> dict[str, Any]:
    """What made a table, from the ``run.json`` of its runs: all revisions and seeds; data and protocol, a list where
    they differ; the environment of the first; the hours of all stages.

    Raises
    ------
    LayoutError
        No run.
    """
    if not records:
        raise LayoutError("no run is finished there yet: nothing to keep")

    def one_or_all(key: str) -> Any:
        found = sorted({one[key] for one in records})
        return found[0] if len(found) == 1 else found

    stages = [stage for one in records for stage in one["stages"].values()]
    return {
        "command": command,
        "revision": sorted({one["environment"]["git"] for one in records} | {stage["revision"] for stage in stages}),
        "data_sha256": one_or_all("source_sha256"),
        "protocol": one_or_all("protocol"),
        "environment": records[0]["environment"],
        "seeds": sorted({one["parameters"]["seed"] for one in records}),
        "hours": round(sum(stage["seconds"] for stage in stages) / 3600, 3),
    }


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """The metrics at 10 of a tidy table: what is kept of it (a run's own ``metrics.json`` has 5 and 20 too)."""
    return table[table["metric"].str.endswith("@10")]


def keep(name: str, table: pd.DataFrame, about: Mapping[str, Any]) -> Path:
    """Store a table, rounded to six places, and what it depends on; the path is printed."""
    path = committed_path(name)
    write_atomically(path, lambda part: as_csv(table.round(6), part))
    write_json(path.with_suffix(".json"), about)
    print(path)
    return path
