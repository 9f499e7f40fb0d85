"""Speed and memory of the main job on one pair, printed beside the matrix-multiply peak of the same run.

    python benchmarks/bench.py [--data cloth_sport] [--preset paper] [--json FILE]

Settings are the paper's (d 128, T 20, T' 40, 20 recalled, batch 512). The released code, patched to CPU, needs 108 s a
training epoch and 38 s to score 4,635 x 1,000 candidates of cloth_sport on two CPU cores; the ratios below are against
those two figures and mean something only on a like machine.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from i2vae_lib.data import load_dataset
from i2vae_lib.data.rows import Rows
from i2vae_lib.evaluation import rank, sample_negatives
from i2vae_lib.generators import psg
from i2vae_lib.params import load
from i2vae_lib.processes import peak_memory_bytes
from i2vae_lib.recommenders.i2vae import CachedScorer, I2VAERecommender
from i2vae_lib.runs import environment
from i2vae_lib.training import choose_device

RELEASED_EPOCH, RELEASED_SCORING = 108.0, 38.0


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


class OperatorCounter(TorchDispatchMode):
    """Counts what is dispatched: on a GPU about as many kernels are launched, which bounds a small step's time."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def matmul_peak(device: torch.device) -> float:
    """Best of 3: float32 products of 2,048 x 2,048 matrices, in FLOP/s."""
    a = torch.randn(2048, 2048, device=device)
    (a @ a).sum().item()
    return max(4 * 2 * 2048**3 / timed(lambda: [a @ a for _ in range(4)])[0] for _ in range(3))


def training_epoch(recommender: I2VAERecommender, train: Rows) -> dict[str, float]:
    """The run's own batches and loss, without validation and checkpoints."""
    [stage] = recommender.stages(train)
    model, p = recommender.model, recommender.params
    optimizer = torch.optim.Adam(model.parameters(), lr=p.training.learning_rate, fused=True)
    generator = torch.Generator(recommender.device).manual_seed(0)
    rng = np.random.default_rng(0)

    def steps(count: int | None) -> int:
        """Rows of that many batches; None: of all."""
        rows = 0
        for batch in itertools.islice(stage.batches(rng), count):
            loss, _ = stage.loss({d: side.to(recommender.device) for d, side in batch.items()}, 0, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            rows += sum(len(side.target) for side in batch.values())
        return rows

    steps(2)
    seconds = min(timed(lambda: steps(None))[0] for _ in range(2))
    with FlopCounterMode(display=False) as counter:
        counted = steps(3)
    flops = counter.get_total_flops() / counted * len(train)
    with OperatorCounter() as operators:
        steps(1)
    return {
        "seconds": seconds,
        "rows/s": len(train) / seconds,
        "flop/s": flops / seconds,
        "steps": stage.steps,
        "flop a step": flops / stage.steps,
        "operators a step": operators.count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cloth_sport")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    p = load(given.preset, {"psg.epochs": 2, "psg.folds": 1}, data=given.data, protocol="strict")
    device = choose_device(p.training.device)
    peak = matmul_peak(device)
    lines: list[tuple[str, float, str]] = []

    def report(what: str, seconds: float, more: str = "") -> None:
        lines.append((what, seconds, more))
        print(f"{what:<34} {seconds:9.2f} s  {peak_memory_bytes() / 2**20:7.0f} MiB  {more}", flush=True)

    print(f"{given.data} on {device}, {torch.get_num_threads()} threads, matmul peak {peak / 1e9:.0f} GFLOP/s")
    print(f"{'':<34} {'time':>11}  {'peak so far':>11}")
    seconds, dataset = timed(lambda: load_dataset(p))
    count = sum(len(rows) for rows in dataset.splits.values())
    report("data: read, split, scrub", seconds, f"{count / seconds:,.0f} rows/s")
    train, test = dataset.splits["train"], dataset.splits["test"]

    seconds, generator = timed(lambda: psg.fit(train, p.psg))
    report("LightGCN: an epoch (of 2, 1 fold)", seconds / 2, "with its share of set-up and validation")
    seconds, _ = timed(lambda: psg.recalled(generator, train))
    report("recall, training rows", seconds, f"{len(train) / seconds:,.0f} rows/s")

    recommender = I2VAERecommender(dataset.catalogue, p)
    recommender.initialise(train, generator, np.random.default_rng(0))
    found = training_epoch(recommender, train)
    report(
        "training: an epoch (best of 2)",
        found["seconds"],
        f"{found['rows/s']:,.0f} rows/s, {100 * found['flop/s'] / peak:.0f} % of the matmul peak, "
        f"{RELEASED_EPOCH / found['seconds']:.1f} x the released code",
    )
    print(
        f"  {found['steps']} steps of {found['flop a step'] / 1e9:.1f} GFLOP in {found['operators a step']:,} operators"
    )

    seconds, negatives = timed(lambda: sample_negatives(test, p.evaluation.negatives, 0))
    report("candidates: 999 a test row", seconds, f"{len(test) / seconds:,.0f} rows/s")
    scorer = CachedScorer(recommender, recommender.row_inputs(test))
    for full in (False, True):
        size = p.evaluation.batch_size
        seconds, _ = timed(functools.partial(rank, scorer, test, negatives, full=full, batch_size=size))
        what = "evaluation: sampled and full" if full else "evaluation: 1 + 999 sampled"
        report(
            what, seconds, f"{len(test) / seconds:,.0f} rows/s, {RELEASED_SCORING / seconds:.0f} x the released code"
        )
    if given.json:
        content = {"data": given.data, "device": str(device), "threads": torch.get_num_threads(), "matmul_peak": peak}
        content |= {"environment": environment(), "peak_memory_bytes": peak_memory_bytes(), "lines": lines}
        given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
