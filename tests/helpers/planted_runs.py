"""Small run directories written by hand, with ranks that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib.data import DOMAINS, Catalogue, Ragged
from i2vae_lib.data.rows import Rows
from i2vae_lib.data.splitting import raw_rows
from i2vae_lib.evaluation import rank_table
from i2vae_lib.params import load
from i2vae_lib.results.differences import Comparison, compare
from i2vae_lib.runs import RUN_LAYOUT, read_record, sha256_of, write_record

USERS = 120

TAIL = {"x": 3.0, "y": 3.0}

RESAMPLES = 400


def made_rows(users: int = USERS) -> Rows:
    """Two rows a user, one a domain. By turns: warm in both, own only, cold, nothing; every third is short."""
    ids = {d: np.array([f"{d}{i}" for i in range(30)], dtype=object) for d in DOMAINS}
    catalogue = Catalogue({"x": "North", "y": "South"}, ids, np.zeros((0, 2), np.int32), {d: None for d in DOMAINS})
    names = np.repeat([f"u{i:03d}" for i in range(users)], 2).astype(object)
    domain = np.tile([0, 1], users)
    lists: dict[str, list[list[int]]] = {d: [] for d in DOMAINS}
    for row in range(2 * users):
        kind, long = (row // 2) % 4, 2 if (row // 2) % 3 == 0 else 5
        for i, d in enumerate(DOMAINS):
            own = i == domain[row]
            has = kind in (0, 1) if own else kind in (0, 2)
            # the last of the own history becomes the target
            lists[d].append(list(range(1, (long if has else 0) + 1 + own)))
    return raw_rows(catalogue, names, domain, {d: Ragged.from_lists(lists[d]) for d in DOMAINS}, np.arange(2 * users))


ROWS = made_rows()


def ranks_of(greater: Any, full: Any = None, rows: Rows = ROWS) -> pd.DataFrame:
    sampled = np.broadcast_to(np.asarray(greater), len(rows))
    whole = 3 * sampled if full is None else np.broadcast_to(np.asarray(full), len(rows))
    none = np.zeros(len(rows), dtype=int)
    return pd.DataFrame(
        {"greater_sampled": sampled, "ties_sampled": none, "candidates_sampled": none + 99}
        | {"greater_full": whole, "ties_full": none, "candidates_full": none + 2999}
    )


def skill(seed: int, place: float, rows: Rows = ROWS) -> np.ndarray:
    """Ranks of a system; the smaller ``place``, the better."""
    return np.random.default_rng(seed).geometric(1 / place, len(rows)) - 1


REFERENCES = {"popularity": ranks_of(skill(100, 40)), "oracle": ranks_of(skill(101, 3))}


def write_run(
    folder: Path,
    model: pd.DataFrame | None,
    overrides: Mapping[str, Any] | None = None,
    *,
    references: Mapping[str, pd.DataFrame] = REFERENCES,
    rows: Rows = ROWS,
    record: Mapping[str, Any] | None = None,
    tail: Mapping[str, float] = TAIL,
    **named: Any,
) -> Path:
    """A run directory as `i2vae run` leaves it, as far as a comparison reads it; no ``model``: not finished."""
    p = load("smoke", overrides, out=str(folder), **named)
    entries = {
        "layout": RUN_LAYOUT,
        "parameters": p.model_dump(),
        "data": p.data,
        "protocol": p.protocol,
        "data_seed": p.split.data_seed,
        "names": {"x": "North", "y": "South"},
        "dataset_sha256": "ab" * 32,
        "sha256": {},
    }
    write_record(folder, entries | dict(record or {}))
    if model is not None:
        ranked = {"i2vae": model, **references}
        seen = np.arange(len(rows)) % 5 > 0
        tables = [rank_table(name, rows, tail, seen, ranks) for name, ranks in ranked.items()]
        pd.concat(tables, ignore_index=True).to_parquet(folder / "ranks.parquet", index=False)
    return recorded(folder)


def recorded(folder: Path, **changes: Any) -> Path:
    """The run with entries changed and every file recorded as it now is: what a test spoils reaches later checks."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
    write_record(folder, read_record(folder) | changes | {"sha256": files})
    return folder


def compared(folders: Sequence[Path], **named: Any) -> Comparison:
    return compare(folders, **({"resamples": RESAMPLES, "rng": np.random.default_rng(0)} | named))


def cell(table: pd.DataFrame, **where: Any) -> Any:
    """The one line of a table where the columns have these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, table
    return next(table.itertuples())
