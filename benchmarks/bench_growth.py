"""How time and memory grow with the log: from reading it to recommendations, at several sizes.

    python benchmarks/bench_growth.py [--events 100000 1000000] [--batches N] [--json FILE] [--set KEY=VALUE …]

A planted log of two domains: a tenth as many users as events, a fiftieth as many items, both long-tailed (Zipf items,
Pareto activity: some histories of thousands). Users have a favourite tenth of the items, so that there is something to
learn. It is written a block of users at a time. Every size runs in a process of its own, whose peak memory the system
reports; seconds are of CPU, on one thread, so that other work counts little; the exponent is log(ratio of
the seconds) / log(ratio of the events), between the two largest sizes. ``--batches`` ends the epoch after so many: what
training begins with and the batches are then stages of their own. ``tools/record_growth.py FILE`` keeps what ``--json``
wrote, for docs/performance.md and its figure.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import torch

from i2vae_lib.audit.leaks import audit, fired
from i2vae_lib.data.loading import load_dataset
from i2vae_lib.data.logs.describe import describe_files
from i2vae_lib.data.rows import DOMAINS
from i2vae_lib.evaluation import rank, sample_negatives
from i2vae_lib.generators import psg
from i2vae_lib.params import load
from i2vae_lib.processes import peak_memory_bytes
from i2vae_lib.recommenders.i2vae import I2VAERecommender
from i2vae_lib.runs import environment, write_json
from i2vae_lib.training import Callbacks, Stage

START, SECONDS = 1_000_000_000, 500_000_000
USERS_AT_ONCE = 100_000
ASKED, RANKED = 100_000, 10_000
SETTINGS = {"psg.kind": "leave_one_out", "training.patience": 0}


def blocks(events: int, items: int, rng: np.random.Generator) -> Iterator[pa.Table]:
    """The events of one domain, some users at a time; a user takes an item once."""
    users, popularity = events // 10, np.arange(1, items + 1) ** -0.8
    bounds, tenth = np.cumsum(popularity) / popularity.sum(), max(1, items // 10)
    for first in range(0, users, USERS_AT_ONCE):
        count = min(USERS_AT_ONCE, users - first)
        # mean 5 a domain: a Pareto of shape 1.5 beside the one event that everybody has
        lengths = np.minimum(1 + rng.pareto(1.5, count) * 2.0, items / 4).astype(np.int64)
        user = np.repeat(np.arange(first, first + count), lengths)
        item = np.searchsorted(bounds, rng.random(len(user)))
        liked = rng.random(len(user)) < 0.5
        item[liked] = (user[liked] * 7919 + item[liked] % tenth) % items
        pairs = np.unique(user * items + item)
        user, item = np.divmod(pairs, items)
        times = START + rng.integers(0, SECONDS, len(pairs))
        yield pa.table({"user_id": user, "item_id": item, "timestamp": times})


def write(folder: Path, events: int) -> None:
    """Two logs and their pair file."""
    rng = np.random.default_rng(0)
    for name in ("X", "Y"):
        writer = None
        for table in blocks(events, max(200, events // 100), rng):
            writer = writer or pc.CSVWriter(folder / f"{name}.csv", table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
    (folder / "pair.yaml").write_text(
        "name: growth\nx: {name: X, path: X.csv}\ny: {name: Y, path: Y.csv}\n"
        "columns: {user: user_id, item: item_id, timestamp: timestamp, unit: s}\nmin_user: 1\nmin_item: 1\n"
    )


def train_a_little(recommender: I2VAERecommender, stage: Stage, batches: int) -> None:
    """The first batches of an epoch."""
    optimizer = torch.optim.Adam(stage.module.parameters(), lr=recommender.params.training.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(0)
    for batch in islice(stage.batches(np.random.default_rng(0)), batches):
        value, _ = stage.loss(batch, 0, generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    print(f"{batches} of {stage.steps:,} batches", file=sys.stderr)


def measure(folder: Path, batches: int, overrides: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak memory so far of every stage."""
    found: dict[str, Any] = {"seconds": {}, "peak": {}}

    def stage(name: str, call: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = call()
        found["seconds"][name] = time.process_time() - begin
        found["peak"][name] = peak_memory_bytes()
        print(f"{name:<12} {found['seconds'][name]:9.1f} s {found['peak'][name] / 2**30:7.2f} GiB", file=sys.stderr)
        return result

    stage("describe", lambda: describe_files(folder / "X.csv", folder / "Y.csv"))
    given = SETTINGS | overrides
    p = load("tuned", given, data=str(folder / "pair.yaml"), protocol="chronological", epochs=1)
    dataset = stage("prepare", lambda: load_dataset(p))
    stage("audit", lambda: audit(dataset).pipe(fired))
    train, validation, test = (dataset.splits[name] for name in ("train", "validation", "test"))
    generator = stage("generator", lambda: psg.fit(train, p.psg))
    recommender = I2VAERecommender(dataset.catalogue, p)
    rng = np.random.default_rng(0)
    if batches:
        stage("begin", lambda: recommender.initialise(train, generator, rng))
        [lessons] = stage("sequences", lambda: list(recommender.stages(train)))
        stage("batches", lambda: train_a_little(recommender, lessons, batches))
    else:
        fit = functools.partial(recommender.fit, params=p, generator=generator, rng=rng)
        chosen_on = validation.take(np.arange(min(1000, len(validation))))
        stage("training", lambda: fit(train, chosen_on, callbacks=Callbacks()))
    some = test.take(np.arange(min(RANKED, len(test))))
    negatives = sample_negatives(some, p.evaluation.negatives, 0)
    stage("evaluation", lambda: rank(recommender, some, negatives, full=True, batch_size=p.evaluation.batch_size))
    people = train.take(np.arange(ASKED) % len(train))
    ids = {d: [dataset.catalogue.decode(d, people.history[d][i]).tolist() for i in range(len(people))] for d in DOMAINS}
    stage("recommend", lambda: recommender.recommend(ids, "x", 10))
    assert dataset.log is not None
    events = sum(len(one) for one in dataset.log.events.values())
    return found | {"events": events, "source_sha256": dataset.source_sha256}


def child(events: int, batches: int, words: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="i2vae-growth-") as folder:
        write(Path(folder), events)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(f"{events:,} events, {size / 2**20:,.0f} MiB", file=sys.stderr)
        command = [sys.executable, __file__, "measure", folder, str(batches), *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--batches", type=int, default=0, metavar="N")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    place = given.json.resolve() if given.json else None
    words = ["--events", *map(str, sorted(given.events)), *(word for one in given.set for word in ("--set", one))]
    words += ["--batches", str(given.batches)] if given.batches else []
    about = {"command": shlex.join(["python", "benchmarks/bench_growth.py", *words]), "environment": environment()}
    runs: list[dict[str, Any]] = []
    for events in sorted(given.events):
        runs.append(child(events, given.batches, given.set))
        if place is not None:
            write_json(place, about | {"runs": runs})
    for run in runs:
        print(f"{run['events']:>12,} events: " + ", ".join(f"{k} {v:.1f} s" for k, v in run["seconds"].items()))
        print(f"{'':>12}  peak so far, GiB: " + ", ".join(f"{k} {v / 2**30:.2f}" for k, v in run["peak"].items()))
    if len(runs) > 1:
        small, large = runs[-2:]
        grown = math.log(large["events"] / small["events"])
        exponents = {k: math.log(large["seconds"][k] / small["seconds"][k]) / grown for k in large["seconds"]}
        exponents["all"] = math.log(sum(large["seconds"].values()) / sum(small["seconds"].values())) / grown
        print("exponents: " + ", ".join(f"{k} {v:.2f}" for k, v in exponents.items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        overrides = {key: json.loads(value) for key, value in (one.split("=", 1) for one in sys.argv[4:])}
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), overrides)))
    else:
        main()
