"""One comparison over several splits of a pair: the test rows pooled, and how far a system stands above the others.

The splits of a pair share users, who are drawn together. As drawn (``split.cold_share``), few pairs have a hundred cold
rows in a domain; so under ``chronological`` the cold cells are of the same models on the same test users, all made cold
in one domain (:mod:`.cold_rows`), and these rows stand in no other cell.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.recommenders import CEILINGS, REFERENCES, REGISTRY
from i2vae_lib.results import cold_rows, lift
from i2vae_lib.results.differences import CELL, each_against, mean_against
from i2vae_lib.results.reading import Opened, open_runs, opened_tables
from i2vae_lib.runs import LayoutError, parameters_in

_MADE_COLD = "made_cold"
_SIDES = ["difference", "interval_low", "interval_high"]
_LIFT = ("lift", "lift_low", "lift_high")
YARDSTICK = "stack-ce"  # combines counts and a sequence model: shown beside the best other system, never as it
SMALLEST = 200  # rows that a cell must have to be looked at by itself


class Split(NamedTuple):
    """What one comparison measured: test ranks by system, and ``run.json`` of the trained ones."""

    ranks: dict[str, pd.DataFrame]
    records: list[dict[str, Any]]

    @property
    def validation(self) -> dict[str, float]:
        """Validation NDCG@10 by system, of those that choose something by it."""
        trained = {one["parameters"]["system"]: float(one["best_validation_ndcg"]) for one in self.records}
        return trained | {name: one["validation NDCG@10"] for name, one in self.records[0]["references"].items()}


def read_split(runs: Mapping[str, Path]) -> Split:
    """What the finished runs of one split measured: system -> its run directory, all of one dataset and seed."""
    opened = open_runs(list(runs.values()))
    records = [run.record for run in opened.runs]
    ranks = {
        label: next(iter(one.runs.values())).assign(**{_MADE_COLD: False}) for label, one in opened.systems.items()
    }
    p = parameters_in(records[0], opened.runs[0].folder)
    if p.protocol == "chronological":
        cold = cold_rows.ranks(runs, cold_rows.all_cold(p)).assign(**{_MADE_COLD: True})
        ranks = {label: pd.concat([table, cold[cold["recommender"] == label]]) for label, table in ranks.items()}
    return Split(ranks, records)


def pooled(splits: Sequence[Split]) -> Opened:
    """The rows of all splits, one after the other.

    Raises
    ------
    LayoutError
        Splits with other systems.
    """
    labels = list(splits[0].ranks)
    for one in splits[1:]:
        if other := set(one.ranks) ^ set(labels):
            raise LayoutError(f"a system of one split is missing in another: {', '.join(sorted(other))}")
    order = [_MADE_COLD, "domain", "row", "user"]
    tables = {
        label: pd.concat([one.ranks[label].sort_values(order) for one in splits], ignore_index=True) for label in labels
    }
    numbered = {label: table.assign(row=np.arange(len(table)), seed=0) for label, table in tables.items()}
    opened = opened_tables(numbered, splits[0].records[0]["names"], HEADLINE)
    made = tables[labels[0]][_MADE_COLD].to_numpy(bool)[:, None]
    if not made.any():
        return opened
    of_cold = np.array([kind == "cold" for _, kind in opened.cells])
    return Opened((), opened.systems, opened.cells, opened.masks & (made == of_cold), ())


def tables(splits: Sequence[Split], base: str, *, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every system beside ``base``, in each cell and on the mean over cells.

    Parameters
    ----------
    splits
        Of one pair, with the same systems.
    base
        The system that the others are compared with.

    Returns
    -------
    cells, means
        ``system``, a cell with its ``n`` and ``candidates``, ``mean`` and ``base_mean``, ``difference`` (system less
        base) and its 95 % interval over users, fractions. And ``system, title, family, candidates, cells``,
        ``validation`` (NDCG@10, mean over splits; nan for rankers that choose nothing), the difference on the mean over
        cells with its interval; ``lift``, ``lift_low``, ``lift_high``: the base's mean over the system's, less 1.
    """
    opened = pooled(splits)
    each = each_against(opened, base, rng=rng)
    means = mean_against(opened, base, rng=rng)
    means = means[~means["system"].isin(CEILINGS)]
    lines: list[dict[str, Any]] = []
    for one in means.to_dict(orient="records"):
        name, candidates = one["system"], one["candidates"]
        above = lift.above(opened, base, [name], candidates=candidates, resamples=10_000, rng=rng)
        values = [split.validation.get(name, np.nan) for split in splits]
        known = {"system": name, "title": REGISTRY[name].title, "family": REGISTRY[name].family}
        known |= {"candidates": candidates, "cells": one["cells"], "validation": float(np.mean(values))}
        lines.append(known | {side: one[side] for side in _SIDES} | dict(zip(_LIFT, above)))
    shown = each[["system", *CELL, "candidates", "n", "mean", "base_mean", *_SIDES]]
    return shown[~shown["system"].isin(CEILINGS)].reset_index(drop=True), pd.DataFrame(lines)


def rivals(means: pd.DataFrame) -> dict[str, str]:
    """Which systems the base is measured against: the best reference and the best other one, by validation alone, and
    the yardstick."""
    told = means.dropna(subset=["validation"]).drop_duplicates("system").set_index("system")["validation"]
    others = told.drop(YARDSTICK, errors="ignore")
    references = others[others.index.isin(list(REFERENCES))]
    found = {"best other system": str(others.idxmax()), "best reference": str(references.idxmax())}
    return found | ({YARDSTICK: YARDSTICK} if YARDSTICK in told else {})


def against_rivals(cells: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """How far the base stands above its :func:`rivals`, a line for each and for each ranking.

    Returns
    -------
    DataFrame
        ``beside`` (what the rival is), ``system, title, candidates``; ``lift, lift_low, lift_high``; ``behind``: the
        cells of :data:`SMALLEST` rows or more in which the unadjusted interval has the base behind it.
    """
    clear = cells[(cells["n"] >= SMALLEST) & (cells["interval_low"] > 0)]
    named = (clear["domain"] + " " + clear["kind"] + " " + clear["metric"]).groupby(
        [clear["system"], clear["candidates"]]
    )
    behind = named.agg(", ".join)
    lines = []
    for beside, system in rivals(means).items():
        for one in means[means["system"] == system].to_dict(orient="records"):
            known = {name: one[name] for name in ("system", "title", "candidates", *_LIFT)}
            lines.append({"beside": beside} | known | {"behind": behind.get((system, one["candidates"]), "")})
    return pd.DataFrame(lines)
