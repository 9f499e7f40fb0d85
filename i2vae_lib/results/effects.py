"""What the rows of a sweep change: each against its base, over the seeds that both have."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.experiments.grids import Sweep
from i2vae_lib.experiments.sweeps import done_cells
from i2vae_lib.results import significance
from i2vae_lib.results.differences import CELL, compare

_EFFECT = (
    *(*CELL, "n", "seeds", "base", "mean", "sd"),
    *("difference", "interval_low", "interval_high", "p", "p_holm", "p_t"),
)


def effects(sweep: Sweep, out: Path | str, *, resamples: int = 10_000, rng: np.random.Generator) -> pd.DataFrame:
    """Each row of a grid against its base, on the seeds and settings that both have finished.

    Returns
    -------
    DataFrame
        ``grid, row, against``, axes, and ``base, mean, sd`` (fractions; the base's mean, the row's mean and standard
        deviation over seeds), the ``difference`` with ``interval_low, interval_high, p`` by the paired
        bootstrap over users, ``p_holm`` over the whole table (two sets of runs that stand in several grids count once),
        and ``p_t`` by the paired t-test over seeds (nan for one seed); ``runs``, in the folder. Cells are those of
        :data:`.HEADLINE`. Rows without a finished seed in common with their base, or equal to it, are left out.
    """
    grouped: dict[tuple[str, str, str], dict[int, Path]] = {}  # grid, row, axes -> seed -> run
    against: dict[tuple[str, str, str], str] = {}
    for cell, folder in done_cells(sweep, out):
        for place in cell.places:
            key = (place.grid, place.row, json.dumps(dict(place.axes), sort_keys=True))
            grouped.setdefault(key, {})[cell.parameters.seed] = folder
            if place.against is not None:
                against[key] = place.against
    parts, made = [], dict[tuple[tuple[Path, ...], ...], pd.DataFrame]()
    for (grid, row, axes), base in against.items():
        own, other = grouped[grid, row, axes], grouped.get((grid, base, axes), {})
        seeds = sorted(own.keys() & other.keys())
        if not seeds or own == other:  # a row that sets what its base has anyway is the same runs
            continue
        pair = tuple(tuple(one[seed] for seed in seeds) for one in (other, own))
        if pair not in made:
            made[pair] = _effect(*pair, resamples=resamples, rng=rng).assign(pair=len(made))
        runs = " ".join(f"cells/{own[seed].name}" for seed in seeds)
        parts.append(made[pair].assign(grid=grid, row=row, against=base, runs=runs, **json.loads(axes)))
    columns = ["grid", "row", "against", *sweep.axes(), *_EFFECT, "runs"]
    if not parts:
        return pd.DataFrame(columns=columns)
    found, asked = pd.concat(parts, ignore_index=True), ["pair", *CELL]
    once = found.drop_duplicates(asked).set_index(asked)["p"]
    adjusted = pd.Series(significance.holm(once.to_numpy()), once.index, name="p_holm")
    return found.join(adjusted, on=asked).reindex(columns=columns)


def _effect(
    base: Sequence[Path], other: Sequence[Path], *, resamples: int = 10_000, rng: np.random.Generator
) -> pd.DataFrame:
    """The seeds of one system against those of another, one line per cell: :data:`_EFFECT` without ``p_holm``."""
    found = compare([*base, *other], resamples=resamples, rng=rng)
    row = found.systems["system"].iloc[1]
    tests = found.tests.drop(columns="base").rename(columns={"base_mean": "base"})
    tests = tests[(tests["system"] == row) & tests["kind"].isin(HEADLINE)]
    return tests[[name for name in _EFFECT if name != "p_holm"]].reset_index(drop=True)
