"""What the data hold, for docs/results: statistics of the released pairs, their audit, and the Food and Kitchen logs.

    I2VAE_DATA_DIR=… python tools/data_results.py

A pair whose files are neither there nor downloadable is left out, and the JSON beside the table says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kept
import pandas as pd

from i2vae_lib.audit import audit
from i2vae_lib.data import CrossDomainDataset, DataError, load_dataset
from i2vae_lib.data.registry import REGISTRY
from i2vae_lib.data.statistics import describe, describe_log
from i2vae_lib.params import load
from i2vae_lib.runs import environment

ROOT = Path(__file__).parent.parent
FOOD_KITCHEN = ROOT / "params" / "pairs" / "food_kitchen.yaml"


def pair_statistics(datasets: list[CrossDomainDataset]) -> pd.DataFrame:
    return pd.concat([describe(one).set_index("statistic") for one in datasets], axis=1).reset_index()


def audits(datasets: list[CrossDomainDataset]) -> pd.DataFrame:
    return pd.concat([audit(one).assign(pair=one.name, protocol=one.protocol) for one in datasets], ignore_index=True)


def food_kitchen(datasets: list[CrossDomainDataset]) -> pd.DataFrame:
    return describe_log(datasets[0])


RELEASED = tuple(REGISTRY)
TABLES: dict[str, tuple[Callable[[list[CrossDomainDataset]], pd.DataFrame], tuple[str, ...], tuple[str, ...]]] = {
    "pair_statistics": (pair_statistics, RELEASED, ("strict",)),
    "audit": (audits, RELEASED, ("released", "strict")),
    "food_kitchen_log": (food_kitchen, (str(FOOD_KITCHEN),), ("chronological",)),
}


def loaded(pairs: tuple[str, ...], protocols: tuple[str, ...], missing: list[str]) -> Iterator[CrossDomainDataset]:
    for name in pairs:
        try:
            for protocol in protocols:
                yield load_dataset(load("paper", data=name, protocol=protocol))
        except DataError as error:
            print(f"{name} left out: {error}")
            missing.append(name)


def main() -> None:
    for name, (make, pairs, protocols) in TABLES.items():
        start, missing = time.perf_counter(), list[str]()
        datasets = list(loaded(pairs, protocols, missing))
        if not datasets:
            print(f"{name}: none of its pairs is at hand, so what is kept stays")
            continue
        table = make(datasets)
        record = {
            "command": "python tools/data_results.py",
            "protocol": list(protocols),
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
