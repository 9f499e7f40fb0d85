"""How long the user explorer takes, between a click and the new lists in the kernel: milliseconds, by what was moved.

    python benchmarks/bench_explorer.py [--data cloth_sport] [--preset tuned]

The weights are those that training starts from: what a list costs does not hang on them. What the browser needs comes
on top.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from i2vae_lib.data import load_dataset
from i2vae_lib.explorers.widgets import UserExplorer
from i2vae_lib.generators import psg
from i2vae_lib.params import load
from i2vae_lib.recommenders import I2VAERecommender

AIM = 200.0  # milliseconds


def milliseconds(moves: list[Callable[[], None]]) -> list[float]:
    found = []
    for move in moves:
        start = time.perf_counter()
        move()
        found.append(1000 * (time.perf_counter() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="cloth_sport")
    parser.add_argument("--preset", default="tuned")
    given = parser.parse_args()
    p = load(given.preset, data=given.data, protocol="strict")
    dataset = load_dataset(p)
    train, test = dataset.splits["train"], dataset.splits["test"]
    recommender = I2VAERecommender(dataset.catalogue, p)
    recommender.initialise(train, psg.fit_once(train, p.psg), np.random.default_rng(0))
    start = time.perf_counter()
    user = UserExplorer(recommender, test, dataset.tail["test"])
    print(f"{dataset}\nopening the explorer: {time.perf_counter() - start:.2f} s")

    def setting(role: str, state: str) -> Callable[[], None]:
        return lambda: setattr(user.switches[role], "value", state)

    moves = {
        state: [setting(role, one) for _ in range(5) for role in user.switches for one in (state, "on")]
        for state in ("off", "swapped")
    }
    moves["another user"] = [user.after.click] * 20
    print(f"aim: at most {AIM:.0f} ms from a switch to the list")
    for name, part in moves.items():
        found = milliseconds(part)
        print(f"{name:<14} median {np.median(found):6.1f} ms, longest of {len(found)} {max(found):6.1f} ms")


if __name__ == "__main__":
    main()
