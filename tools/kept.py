"""Where a study's table is kept: docs/results/NAME.csv and, beside it, NAME.json with what made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from i2vae_lib.runs import committed_path, write_atomically, write_json


def keep(name: str, table: pd.DataFrame, about: Mapping[str, Any]) -> Path:
    """Store a table, rounded to six places, and what it depends on; the path is printed."""
    path = committed_path(name)
    write_atomically(path, lambda part: table.round(6).to_csv(part, index=False))
    write_json(path.with_suffix(".json"), about)
    print(path)
    return path
