"""How far a system stands above the best of the reference rankers, cell by cell and over a pair as a whole.

The best reference of a cell (domain, row kind, metric) is the one that is best on these very rows: it is chosen with
the test rows in view, which favours the references, never the system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib import compare, evaluation, significance
from i2vae_lib.recommenders import CEILINGS, REFERENCES, REGISTRY
from i2vae_lib.runs import LayoutError

KINDS = compare.HEADLINE
METRICS = ("HR@10", "NDCG@10")
FEW = 200
"""A cell of fewer rows is met unless the system is significantly below."""

FRACTIONS = (
    "system",
    "sd",
    "counts_alone",
    "reference",
    "lift",
    "base",
    "mean",
    "difference",
    "interval_low",
    "interval_high",
    "low",
    "high",
)

COLUMNS = (
    *("domain", "kind", "metric", "n", "system", "sd", "seeds", "best", "reference", "lift"),
    *("difference", "interval_low", "interval_high", "p_holm", "met"),
)


def cells(found: compare.Comparison) -> pd.DataFrame:
    """The system of a comparison beside the best reference of each cell of :data:`KINDS`.

    Parameters
    ----------
    found
        Of runs of one system (its seeds), which is the base.

    Returns
    -------
    DataFrame
        ``domain, kind, metric, n``; ``system, sd, seeds`` (mean and standard deviation over seeds); ``best`` (name) and
        ``reference`` (its value); ``lift`` (system / reference - 1); ``difference`` (system - reference) with its
        interval and p by the bootstrap over users, p after Holm over these cells; ``met``: at or above, or, in a cell
        of fewer than :data:`FEW` rows, not significantly below. A cell without rows is left out.
    """
    base = found.about["base"]
    candidates = found.about["candidates"]
    results = found.results[(found.results["candidates"] == candidates) & found.results["kind"].isin(KINDS)]
    results = results[results["n"] > 0]
    tests: Any = found.tests.set_index(["domain", "kind", "metric", "system"])
    lines = []
    for (domain, kind, metric), part in results.groupby(["domain", "kind", "metric"], sort=False):
        own = part[part["system"] == base].iloc[0]
        others = part[~part["system"].isin([base, *CEILINGS])]
        best = others.loc[others["mean"].idxmax()]
        test = tests.loc[(domain, kind, metric, best["system"]), :]  # reference - system
        lift = own["mean"] / best["mean"] - 1 if best["mean"] else np.inf
        head = (domain, kind, metric, own["n"], *own[["mean", "sd", "seeds"]], *best[["system", "mean"]], lift)
        lines.append((*head, -test["difference"], -test["interval_high"], -test["interval_low"], test["p"]))
    table = pd.DataFrame(lines, columns=[*COLUMNS[:-2], "p"])
    table["p_holm"] = significance.holm(table.pop("p").to_numpy())
    below = table["interval_high"] < 0
    table["met"] = (table["difference"] >= 0) | ((table["n"] < FEW) & ~below)
    return table[list(COLUMNS)]


def verdict(found: compare.Comparison) -> str:
    """A sentence: where the system of a comparison, its base, stands beside the best of the reference rankers.

    Level is what the interval over users of the mean over the cells of :data:`KINDS` does not tell from 0. Empty where
    there is no interval.
    """
    of_references: Any = found.overall[found.overall["system"].isin(list(REFERENCES))].dropna(subset=["interval_low"])
    if of_references.empty:
        return ""
    best = of_references.loc[of_references["difference"].idxmax()]  # reference - system
    difference, low, high = (-100 * best[name] for name in ("difference", "interval_high", "interval_low"))
    system, reference = (REGISTRY[name].title for name in (found.about["base"], best["system"]))
    where = "ahead of" if low > 0 else "behind" if high < 0 else "level with"
    return (
        f"{system} is {where} {reference}, the best of the reference rankers: {difference:+.1f} points on the mean "
        f"over tailed, cold and all rows (HR@10 and NDCG@10), 95 % interval {low:+.1f} to {high:+.1f}"
    )


def mean_lift(
    folders: Sequence[Path | str],
    *,
    candidates: str = "sampled",
    resamples: int = 10_000,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """How far the mean over a pair's cells stands above the mean of the best references: system / reference - 1.

    A ratio of means, not the mean of the cells' ratios: that one hangs on cells in which a reference has two hits.

    Parameters
    ----------
    folders
        Finished runs of one system, its seeds; a row counts with its mean over them.
    resamples, rng
        Of a percentile bootstrap over users (the rows of one are drawn together); the best reference of each cell stays
        the one of all rows. A cell without rows, or without any in a resample, is left out there.

    Returns
    -------
    mean, low, high
        Fractions: 0.2 is a fifth above.

    Raises
    ------
    LayoutError
        Runs of several systems, or that cannot be compared.
    """
    opened = compare.open_alike(folders)
    systems = compare.systems_of(opened)
    trained = [label for label, one in systems.items() if None not in one.runs]
    if len(trained) != 1:
        raise LayoutError(f"the mean lift is of one system; these runs are of {', '.join(trained)}")
    cutoffs = [evaluation.cutoff_of(name) for name in METRICS]
    values = {
        label: np.mean([evaluation.row_values(table, candidates, cutoffs) for table in one.runs.values()], axis=0)
        for label, one in systems.items()
        if label not in CEILINGS
    }
    named, masks = compare.cells_of(opened)
    masks = masks[:, [kind in KINDS for _, kind in named]]
    masks = masks[:, masks.any(axis=0)]
    users, owner = np.unique(opened[0].rows["user"].to_numpy(), return_inverse=True)
    totals = {label: sums_by_user(owner, masks, value) for label, value in values.items()}  # [users, cells, metrics]
    counts = sums_by_user(owner, masks, np.ones((len(owner), 1)))
    own = totals.pop(trained[0])
    best = np.stack(list(totals.values()))
    best = np.take_along_axis(best, best.sum(axis=1).argmax(axis=0)[None, None], axis=0)[0]

    def ratio(weight: compare.Array) -> compare.Array:
        """weight [resamples, users] -> [resamples]."""
        n = np.einsum("ru,ucm->rcm", weight, counts)
        with np.errstate(invalid="ignore"):  # a resample without a row of a cell has no mean there
            means = [np.einsum("ru,ucm->rcm", weight, one) / n for one in (own, best)]
        found: compare.Array = np.nanmean(means[0], axis=(1, 2)) / np.nanmean(means[1], axis=(1, 2)) - 1
        return found

    parts = [
        ratio(rng.multinomial(len(users), np.full(len(users), 1 / len(users)), size=size).astype(np.float64))
        for size in np.diff([*range(0, resamples, 500), resamples])
    ]
    low, high = np.quantile(np.concatenate(parts), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(ratio(np.ones((1, len(users))))[0]), float(low), float(high)


def sums_by_user(owner: compare.Array, masks: compare.Array, value: compare.Array) -> compare.Array:
    """Sums over each user's rows of every cell: owner [rows], value [rows, metrics] -> [users, cells, metrics]."""
    total = np.zeros((owner.max() + 1, masks.shape[1], value.shape[1]))
    np.add.at(total, owner, masks[:, :, None] * value[:, None, :])
    return total


def in_per_cent(table: pd.DataFrame) -> pd.DataFrame:
    """Fractions of a table as per cent and points, for reading: every column of :data:`FRACTIONS` that it has."""
    return table.assign(**{name: 100 * table[name] for name in FRACTIONS if name in table})


def verdicts(rows: pd.DataFrame, questions: Mapping[str, tuple[str, str]], metric: str = "HR@10") -> pd.DataFrame:
    """What a study's rows answer, a line a question and domain.

    Parameters
    ----------
    rows
        ``row, domain, kind, metric, n, seeds, difference, interval_low, interval_high``: a system *without* something,
        less the one with it (``docs/results/recipe_PAIR_rows.csv``).
    questions
        Question -> (row, kind of rows that it is about).

    Returns
    -------
    DataFrame
        ``question, domain, kind, n, seeds``; ``benefit, low, high`` in points: with less without; ``verdict``: whether
        the interval excludes 0, or ``not run``.
    """
    lines: list[tuple[Any, ...]] = []
    for question, (row, kind) in questions.items():
        found: Any = rows[(rows["row"] == row) & (rows["kind"] == kind) & (rows["metric"] == metric)]
        if found.empty:
            lines.append((question, "", kind, 0, 0, np.nan, np.nan, np.nan, "not run"))
        for one in found.itertuples():
            benefit, low, high = (-100 * value for value in (one.difference, one.interval_high, one.interval_low))
            verdict = "helps" if low > 0 else "hurts" if high < 0 else "no difference shown"
            lines.append((question, one.domain, kind, one.n, one.seeds, benefit, low, high, verdict))
    columns = ["question", "domain", "kind", "n", "seeds", "benefit", "low", "high", "verdict"]
    return pd.DataFrame(lines, columns=columns)
