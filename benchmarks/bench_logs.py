"""Speed and memory from a log of many events to audited rows, as ratios against a tenth of it.

    python benchmarks/bench_logs.py [--events 10000000] [--users 1000000] [--memory-limit 2GB] [--parquet] [--json FILE]

Two domains, half of the events each; users and items with a long tail, so that the k-core, which counts as part of
making rows, takes several rounds. Every log is written and read in a process of its own, whose peak memory the system
reports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from i2vae_lib.audit.leaks import audit, fired
from i2vae_lib.data import protocols
from i2vae_lib.data.logs.join import load_logs
from i2vae_lib.params import load

PEAK_LIMIT = 4 * 2**30
START, SECONDS = 1_000_000_000, 500_000_000


def write(folder: Path, events: int, users: int, parquet: bool) -> None:
    """Two logs and their pair file."""
    rng = np.random.default_rng(0)
    items = max(100, users // 5)
    suffix = "parquet" if parquet else "csv"
    for name, first in (("X", 0), ("Y", items // 2)):  # half of the items stand in both domains
        activity = np.cumsum(rng.lognormal(sigma=1.0, size=users))
        user = np.searchsorted(activity, rng.random(events // 2) * activity[-1])
        popularity = np.cumsum(np.arange(1, items + 1) ** -0.8)
        item = first + np.searchsorted(popularity, rng.random(events // 2) * popularity[-1])
        table = pa.table(
            {
                "user_id": np.char.add("A", np.char.zfill(user.astype("U7"), 13)),
                "item_id": np.char.add("B0", np.char.zfill(item.astype("U8"), 8)),
                "timestamp": START + rng.integers(0, SECONDS, size=len(user)),
            }
        )
        if parquet:
            pq.write_table(table, folder / f"{name}.{suffix}")
        else:
            pc.write_csv(table, folder / f"{name}.{suffix}")
    (folder / "pair.yaml").write_text(
        f"name: bench\nx: {{name: X, path: X.{suffix}}}\ny: {{name: Y, path: Y.{suffix}}}\n"
        f"columns: {{user: user_id, item: item_id, timestamp: timestamp, unit: s}}\nmin_user: 3\nmin_item: 3\n"
    )


def read(folder: Path, memory_limit: str) -> None:
    start = time.perf_counter()
    pair = load_logs(folder / "pair.yaml", memory_limit=memory_limit)
    seconds = time.perf_counter() - start
    p = load("paper")
    stages, left = {}, {}
    for protocol in ("chronological", "temporal"):
        start = time.perf_counter()
        dataset = protocols.apply(protocol, pair, p.split, p.controls)
        stages[f"{protocol} rows"] = time.perf_counter() - start
        assert dataset.log is not None
        left[protocol] = sum(len(events) for events in dataset.log.events.values())
        start = time.perf_counter()
        leaks = len(fired(audit(dataset)))
        stages[f"{protocol} audit"] = time.perf_counter() - start
        assert leaks == 0
    print(
        json.dumps(
            {
                "seconds": seconds,
                "stages": stages,
                "left": left,
            }
        )
    )


def child(*words: str) -> tuple[str, int]:
    """Run this file in a process of its own: what it printed, and its peak memory in bytes."""
    process = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)}: status {status}")
    return output, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(events: int, users: int, memory_limit: str, parquet: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="i2vae-bench-") as folder:
        child("write", folder, str(events), str(users), str(int(parquet)))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        output, peak = child("read", folder, memory_limit)
    return {"events": events, "users": users, "file_bytes": size, "peak_bytes": peak, **json.loads(output)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--memory-limit", default="2GB")
    parser.add_argument("--parquet", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    runs = [measure(given.events // part, given.users // part, given.memory_limit, given.parquet) for part in (10, 1)]
    for run in runs:
        print(
            f"{run['events']:>12,} events, {run['users']:>9,} users, {run['file_bytes'] / 2**20:,.0f} MiB: "
            f"{run['seconds']:.1f} s ({run['events'] / run['seconds']:,.0f} events/s), peak "
            f"{run['peak_bytes'] / 2**30:.2f} GiB; then "
            + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in run["stages"].items())
            + "; left "
            + ", ".join(f"{protocol} {events:,} events" for protocol, events in run["left"].items())
        )
    small, large = runs
    print(
        f"ratios for {large['events'] / small['events']:.0f} times the events: time "
        f"{large['seconds'] / small['seconds']:.1f}, peak memory {large['peak_bytes'] / small['peak_bytes']:.1f}"
    )
    if given.json:
        given.json.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    if large["peak_bytes"] > PEAK_LIMIT:
        print(f"peak memory is above {PEAK_LIMIT / 2**30:.0f} GiB")
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1")
    elif sys.argv[1:2] == ["read"]:
        read(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(main())
