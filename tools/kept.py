"""Where a study's table is kept: docs/results/NAME.csv and, beside it, NAME.json with what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from i2vae_lib.results.text import as_csv
from i2vae_lib.runs import LayoutError, committed_path, write_atomically, write_json


def made_by(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the runs of a table depend on, from their ``run.json``: all revisions; data and protocol, a list where they
    differ; the environment of the first.

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

    begun = {one["environment"]["git"] for one in records}
    ended = {stage["revision"] for one in records for stage in one["stages"].values() if "revision" in stage}
    return {
        "revision": sorted(begun | ended),
        "data_sha256": one_or_all("source_sha256"),
        "protocol": one_or_all("protocol"),
        "environment": records[0]["environment"],
    }


def hours(records: Sequence[Mapping[str, Any]]) -> float:
    """Of all stages of runs, from their ``run.json``."""
    return sum(float(stage["seconds"]) for one in records for stage in one["stages"].values()) / 3600


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
