"""Statistics of the released pairs for docs/results/pair_statistics.csv, which notebook 01 puts beside its own.

    I2VAE_DATA_DIR=… python tools/pair_statistics.py

A pair whose files are neither there nor downloadable is left out, and the JSON beside the table says so.
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from i2vae_lib.data import DataError, load_dataset
from i2vae_lib.data.released import REGISTRY
from i2vae_lib.data.statistics import describe
from i2vae_lib.params import load
from i2vae_lib.runs import environment, write_atomically, write_json

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def main() -> None:
    start, tables, sources, missing = time.perf_counter(), [], {}, []
    for name in REGISTRY:
        try:
            dataset = load_dataset(load("paper", data=name, protocol="strict"))
        except DataError as error:
            print(f"{name} left out: {error}")
            missing.append(name)
            continue
        sources[name] = dataset.source_sha256
        tables.append(describe(dataset).set_index("statistic"))
    table = pd.concat(tables, axis=1).reset_index()
    write_atomically(RESULTS / "pair_statistics.csv", lambda part: table.to_csv(part, index=False))
    record = {
        "command": "python tools/pair_statistics.py",
        "protocol": "strict",
        "revision": environment()["git"],
        "data_sha256": sources,
        "missing": missing,
        "seeds": [0],
        "hours": round((time.perf_counter() - start) / 3600, 4),
    }
    write_json(RESULTS / "pair_statistics.json", record)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
