"""The reference rankers on a pair, over several splits: docs/results/references_PAIR_PROTOCOL.csv.

    python tools/reference_study.py DATA PROTOCOL [--data-seeds 0 1 2]

Nothing is trained by gradient. The rankers' settings are chosen on the validation rows of each split; what was fitted
once is read back from the cache.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time

import kept

from i2vae_lib.params import load, pair_name
from i2vae_lib.results.references import over_splits
from i2vae_lib.runs import environment


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("protocol")
    parser.add_argument("--data-seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(words)
    start = time.perf_counter()
    found, about = over_splits(
        load("paper", {"split.data_seed": one}, data=given.data, protocol=given.protocol) for one in given.data_seeds
    )
    record = {
        "command": shlex.join(["python", "tools/reference_study.py", *words]),
        "revision": [environment()["git"]],
        "data_sha256": about["data_sha256"],
        "dataset_sha256": about["dataset_sha256"],
        "protocol": given.protocol,
        "seeds": given.data_seeds,
        "hours": round((time.perf_counter() - start) / 3600, 4),
        "chosen": about["chosen"],
        "environment": environment(),
    }
    kept.keep(f"references_{pair_name(given.data)}_{given.protocol}", kept.headline(found), record)
    part = found[(found["metric"] == "HR@10") & (found["candidates"] == "sampled") & (found["kind"] == "all")]
    print(part.pivot(index=["recommender", "domain"], columns="data_seed", values="value").mul(100).round(2))


if __name__ == "__main__":
    main(sys.argv[1:])
