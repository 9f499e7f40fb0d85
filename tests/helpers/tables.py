"""What training and sweeps leave behind, written by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch


def checkpoint(folder: Path, name: str, epochs: int, ndcg: float) -> None:
    """As training leaves it, but for weights."""
    record = {"ndcg@10": ndcg, "seconds": 60.0, "validation seconds": 0.0}
    torch.save({"history": [{"epoch": float(i + 1), **record} for i in range(epochs)]}, folder / name)


def sweep_table() -> pd.DataFrame:
    lines = [
        (t, d, seed, "done", "i2vae", "North", "all", "HR@10", "sampled", (t + d + seed) / 1000)
        for t in (10, 20)
        for d in (32, 64)
        for seed in (0, 1)
    ]
    head = ["model.T", "model.d", "seed", "state", "recommender", "domain", "kind", "metric", "candidates", "value"]
    table = pd.DataFrame(lines, columns=head)
    missing = pd.DataFrame([{"model.T": 30, "model.d": 32, "seed": 0, "state": "missing", "recommender": "i2vae"}])
    table = pd.concat([table, missing], ignore_index=True)
    table["run"] = [f"cells/{i}" for i in range(len(table))]
    table.insert(0, "row", "")
    table.insert(0, "grid", "g")
    return table
