"""What workers are worth: the same cells on one worker of one thread, one of two, and two of one.

    python benchmarks/bench_sweep.py [--cells 8] [--json FILE]

Cells of the planted pair, of equal size; the cache is filled before, so that trainings are compared and not fits.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from i2vae_lib.experiments import sweeps
from i2vae_lib.experiments.grids import Sweep, resolve

SETUPS = {"one worker, one thread": (1, 1), "one worker, two threads": (1, 2), "two workers, a thread each": (2, 1)}


def sweep(cells: int) -> Sweep:
    content = {"preset": "demo", "epochs": 2, "seeds": list(range(cells)), "overrides": {"training.patience": 0}}
    return resolve("bench", content | {"grids": {"seeds": {"rows": {"i2vae": {}}}}})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    asked = sweep(given.cells)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["I2VAE_CACHE_DIR"] = f"{folder}/cache"
        sweeps.run(Sweep("first", asked.cells[:1]), Path(folder) / "first", workers=1)
        for name, (workers, threads) in SETUPS.items():
            os.environ["OMP_NUM_THREADS"] = str(threads)  # which the workers take over
            start = time.perf_counter()
            table = sweeps.run(asked, Path(folder) / f"{workers}-{threads}", workers=workers)
            assert set(table["state"]) == {"done"}
            seconds[name] = time.perf_counter() - start
    two = seconds["two workers, a thread each"]
    for name, one in seconds.items():
        print(f"{given.cells} cells, {name:<28} {one:6.1f} s with start-up; {one / two:.2f} x two workers")
    if given.json is not None:
        given.json.write_text(json.dumps(seconds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
