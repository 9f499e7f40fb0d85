"""What the data hold, for docs/results: statistics of the pairs, the released ones' audit and order of items, and what
the filters of the Food and Kitchen logs left.

    I2VAE_DATA_DIR=… python tools/data_results.py

A pair whose files are neither there nor downloadable is left out, and the JSON beside the table says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kept
import pandas as pd

from i2vae_lib.data import CrossDomainDataset, DataError, load_dataset
from i2vae_lib.data.registry import REGISTRY
from i2vae_lib.params import load, pair_name
from i2vae_lib.results.data_tables import audits, food_kitchen, item_order_shares, pair_statistics
from i2vae_lib.runs import environment

ROOT = Path(__file__).parent.parent
PAIRS = ROOT / "params" / "pairs"
LOGS = tuple(str(PAIRS / f"{name}.yaml") for name in ("food_kitchen", "films", "beautyelec", "newsapart"))


RELEASED = tuple(REGISTRY)
OF_LOGS = dict.fromkeys(LOGS, ("chronological",))
TABLES: dict[str, tuple[Callable[[list[CrossDomainDataset]], pd.DataFrame], dict[str, tuple[str, ...]]]] = {
    "pair_statistics": (
        pair_statistics,
        dict.fromkeys(RELEASED, ("strict",)) | dict.fromkeys(LOGS, ("chronological",)),
    ),
    "audit": (audits, dict.fromkeys(RELEASED, ("released", "strict"))),
    "item_order": (item_order_shares, dict.fromkeys(RELEASED, ("released",)) | OF_LOGS),
    "food_kitchen_log": (food_kitchen, {LOGS[0]: ("chronological",)}),
}


def loaded(pairs: dict[str, tuple[str, ...]], missing: list[str]) -> Iterator[CrossDomainDataset]:
    for name, protocols in pairs.items():
        try:
            for protocol in protocols:
                yield load_dataset(load("paper", data=name, protocol=protocol))
        except DataError as error:
            print(f"{name} left out: {error}")
            missing.append(pair_name(name))


def main() -> None:
    for name, (make, pairs) in TABLES.items():
        start, missing = time.perf_counter(), list[str]()
        datasets = list(loaded(pairs, missing))
        if not datasets:
            print(f"{name}: none of its pairs is at hand, so what is kept stays")
            continue
        table = make(datasets)
        record = {
            "command": "python tools/data_results.py",
            "protocol": sorted({one.protocol for one in datasets}),
            "revision": environment()["git"],
            "data_sha256": {one.name: one.source_sha256 for one in datasets},
            "missing": missing,
            "seeds": [0],
            "hours": round((time.perf_counter() - start) / 3600, 4),
        }
        kept.keep(name, table, record)
        print(table.to_string(index=False))


if __name__ == "__main__":
    main()
