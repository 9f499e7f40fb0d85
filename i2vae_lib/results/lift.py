"""How far a system stands above the best reference ranker, in each cell and on the mean over a pair.

The best reference of a cell (domain, row kind, metric) is chosen on the very test rows of that cell, which favours the
references and never the system.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.data.rows import Array
from i2vae_lib.evaluation import cutoff_of
from i2vae_lib.labels import label
from i2vae_lib.recommenders import CEILINGS, REFERENCES
from i2vae_lib.results import significance
from i2vae_lib.results.differences import CELL, Comparison
from i2vae_lib.results.reading import CELLS_OF_THE_MEAN, METRICS, Opened, open_runs
from i2vae_lib.runs import LayoutError

FEW = 200  # in a cell with fewer rows the bar counts as met unless the system is significantly below

_FRACTIONS = (
    *("system", "sd", "counts_alone", "reference", "lift", "base", "mean"),
    *("difference", "interval_low", "interval_high", "low", "high"),
)
COLUMNS = (
    *("domain", "kind", "metric", "n", "system", "sd", "seeds", "best", "reference", "lift"),
    *("difference", "interval_low", "interval_high", "p_holm", "met"),
)


def cells(found: Comparison) -> pd.DataFrame:
    """The system of a comparison beside the best reference of each cell of :data:`HEADLINE`.

    Parameters
    ----------
    found
        A comparison of the seeds of one system, which is its base.

    Returns
    -------
    DataFrame
        ``domain, kind, metric, n``; ``system, sd, seeds`` (mean and standard deviation over seeds); ``best`` (name) and
        ``reference`` (its value); ``lift`` (system / reference - 1); ``difference`` (system - reference) with its
        interval by the bootstrap over users and ``p_holm`` over these cells; ``met``: at or above the reference or,
        with fewer than :data:`FEW` rows, not significantly below. Cells without rows are left out.
    """
    tests = found.tests
    tests = tests[tests["kind"].isin(HEADLINE) & (tests["n"] > 0) & ~tests["system"].isin(CEILINGS)]
    best = tests.loc[tests.groupby(CELL, sort=False)["mean"].idxmax()]  # minus the system
    turned = {"system": "best", "interval_low": "interval_high", "interval_high": "interval_low"}
    means = {"mean": "reference", "base_mean": "system", "base_sd": "sd", "base_seeds": "seeds"}
    table = best.drop(columns=["sd", "seeds"]).rename(columns=turned | means).reset_index(drop=True)
    sides = ["difference", "interval_low", "interval_high"]
    table[sides] = -table[sides]
    table["lift"] = (table["system"] / table["reference"] - 1).where(table["reference"] != 0, np.inf)
    table["p_holm"] = significance.holm(table["p"].to_numpy())
    below = table["interval_high"] < 0
    table["met"] = (table["difference"] >= 0) | ((table["n"] < FEW) & ~below)
    return table[list(COLUMNS)]


def verdict(found: Comparison) -> str:
    """Where the system of a comparison, its base, stands beside the best of the reference rankers, and what cells are.

    Level is what the interval over users of the mean over the cells of :data:`HEADLINE` does not tell from 0. Empty
    where there is no interval.
    """
    of_references: Any = found.overall[found.overall["system"].isin(list(REFERENCES))].dropna(subset=["interval_low"])
    if of_references.empty:
        return ""
    best = of_references.loc[of_references["difference"].idxmax()]  # reference - system
    difference, low, high = (-100 * best[name] for name in ("difference", "interval_high", "interval_low"))
    system, reference = (label(name) for name in (found.about["base"], best["system"]))
    where = "ahead of" if low > 0 else "behind" if high < 0 else "level with"
    return (
        f"{system} is {where} {reference}, the best of the reference rankers: {difference:+.1f} points on average "
        f"over {best['cells']} cells, 95 % interval {low:+.1f} to {high:+.1f}. {CELLS_OF_THE_MEAN}"
    )


class _Lift(NamedTuple):
    """A mean lift with its 95 % interval, as fractions: 0.2 is a fifth above."""

    mean: float
    low: float
    high: float


def mean_lift(
    folders: Sequence[Path | str], *, candidates: str = "sampled", resamples: int = 10_000, rng: np.random.Generator
) -> _Lift:
    """The mean over a pair's cells relative to that of the best references: system / reference - 1.

    A ratio of means and not a mean of ratios, which would depend on cells where a reference has two hits. Which cells
    count: :attr:`i2vae_lib.results.reading.Opened.headline`.

    Parameters
    ----------
    folders
        Finished runs of one system, one per seed; each row counts with its mean over them.
    resamples, rng
        Of a percentile bootstrap over users, which draws all rows of a user together and keeps the best reference of
        each cell. A cell without rows, in the data or in a resample, is left out.

    Raises
    ------
    LayoutError
        Runs of several systems, or that cannot be compared.
    """
    opened = open_runs(folders)
    trained = [label for label, one in opened.systems.items() if None not in one.runs]
    if len(trained) != 1:
        raise LayoutError(f"the mean lift is of one system; these runs are of {', '.join(trained)}")
    others = [label for label in opened.systems if label not in (*CEILINGS, *trained)]
    return above(opened, trained[0], others, candidates=candidates, resamples=resamples, rng=rng)


def above(
    opened: Opened, system: str, others: Sequence[str], *, candidates: str, resamples: int, rng: np.random.Generator
) -> _Lift:
    """:func:`mean_lift` of a system over others, of which each cell has its best."""
    values = opened.values(candidates, [cutoff_of(name) for name in METRICS])
    masks = opened.headline
    users, owner = np.unique(opened.users, return_inverse=True)
    counts = sums_by_user(owner, masks, np.ones((len(owner), 1)))
    own, *rest = (sums_by_user(owner, masks, values[label].mean(axis=0)) for label in (system, *others))
    best = np.stack(rest)  # [others, users, cells, metrics]
    best = np.take_along_axis(best, best.sum(axis=1).argmax(axis=0)[None, None], axis=0)[0]

    def ratio(weight: Array) -> Array:
        """weight [resamples, users] -> [resamples]."""
        n = np.einsum("ru,ucm->rcm", weight, counts)
        with np.errstate(invalid="ignore"):  # a resample without rows in a cell has no mean there
            means = [np.nanmean(np.einsum("ru,ucm->rcm", weight, one) / n, axis=(1, 2)) for one in (own, best)]
        return means[0] / means[1] - 1

    drawn = [ratio(weight) for weight in draws_of_users(len(users), resamples, rng)]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return _Lift(float(ratio(np.ones((1, len(users))))[0]), float(low), float(high))


def draws_of_users(users: int, resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    """How often each resample draws each user: float64 [some, users], so many resamples in all."""
    for size in np.diff([*range(0, resamples, 500), resamples]):
        yield rng.multinomial(users, np.full(users, 1 / users), size=size).astype(np.float64)


def sums_by_user(owner: Array, masks: Array, value: Array) -> Array:
    """Sums by user and cell: owner [rows], masks [rows, cells], value [rows, metrics] -> [users, cells, metrics]."""
    total = np.zeros((owner.max() + 1, masks.shape[1], value.shape[1]))
    np.add.at(total, owner, masks[:, :, None] * value[:, None, :])
    return total


def in_per_cent(table: pd.DataFrame) -> pd.DataFrame:
    """A table with its columns of :data:`_FRACTIONS` in per cent and points."""
    return table.assign(**{name: 100 * table[name] for name in _FRACTIONS if name in table})


def verdicts(rows: pd.DataFrame, questions: Mapping[str, tuple[str, str]], metric: str = "HR@10") -> pd.DataFrame:
    """The answers that the rows of a study give, one line per question and domain.

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
