"""Runs side by side: metrics by system, tested differences, and whether sampled candidates change the order.

Everything is computed row by row from the stored ``ranks.parquet`` of the runs (:mod:`i2vae_lib.results.reading`).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy  # scipy.stats is imported where it is used: it takes most of a second

from i2vae_lib import labels
from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.data.protocols import order_note
from i2vae_lib.data.rows import Array
from i2vae_lib.evaluation import cutoff_of
from i2vae_lib.params import ParameterError
from i2vae_lib.places import suggestion
from i2vae_lib.recommenders import CEILINGS
from i2vae_lib.results import significance
from i2vae_lib.results.reading import CANDIDATES, CELLS_OF_THE_MEAN, METRICS, Opened, System, open_runs
from i2vae_lib.results.text import Captioned, Number, as_csv, document, in_points, lines, of_p, strict
from i2vae_lib.runs import LayoutError, stamp

CELL = ["domain", "kind", "metric"]
_DIFFERENCE = ("difference", "interval_low", "interval_high", "p", "t", "df", "p_t", "t_low", "t_high")
TESTS = (*CELL, "candidates", "base", "system", "n", *_DIFFERENCE, "mean", "sd", "seeds")
TESTS += ("base_mean", "base_sd", "base_seeds")
_OVERALL = ("base", "system", "cells", *_DIFFERENCE[:4], "p_holm", *_DIFFERENCE[4:7], "p_t_holm", *_DIFFERENCE[7:])

# significance.paired_bootstrap of two systems' values and masks, with one user's rows drawn together
_Bootstrap = Callable[[Array, Array, Array], significance.Bootstrap]


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`. Metrics and differences are fractions; :meth:`text` prints per cent and points.

    Attributes
    ----------
    about
        ``data, protocol, stamp, data_seed, dataset_sha256, negatives, rows, users, candidates, metrics, base,
        resamples``.
    systems
        ``system, seeds, folders, parameters`` (those in which systems differ): one line per system.
    results
        ``domain`` (name), ``kind, metric, candidates, system, n, seeds`` (how many), ``mean, sd`` (over seeds; nan for
        a single seed), for both sampled and full candidates.
    tests
        Each system against the base, one line per cell: ``domain, kind, metric, candidates, base, system, n``;
        ``difference`` (system - base), ``interval_low, interval_high, p`` by the bootstrap over users; ``t, df, p_t,
        t_low, t_high`` by the t-test over seeds, nan unless both have the same two or more seeds; what the system
        reaches, ``mean, sd, seeds``, and the base, ``base_mean, base_sd, base_seeds``. Not adjusted for the number of
        cells: of many, some differ by chance.
    overall
        Each system against the base on the mean over the cells of :data:`HEADLINE` (their number: ``cells``), one
        line per system: the same columns, and ``p_holm, p_t_holm``, adjusted over all systems but the ceilings. These
        are the claims of a comparison.
    notes
        Remarks on the data that belong beside the tables.
    """

    about: dict[str, Any]
    systems: pd.DataFrame
    results: pd.DataFrame
    tests: pd.DataFrame
    overall: pd.DataFrame
    notes: tuple[str, ...]

    def text(self, style: str = "text") -> str:
        """The runs, the six rows that matter, and each system against the base over all of them.

        Parameters
        ----------
        style
            ``text`` for a terminal, ``markdown``, ``latex`` (needs booktabs), or ``csv``: the tests of the six rows.
        """
        metric = self.about["metrics"][0]
        if style == "csv":
            return as_csv(self.tests[self.tests["kind"].isin(HEADLINE) & (self.tests["metric"] == metric)])
        shown = Captioned(_caption(self, metric, style), six_rows(self, metric))
        return document([*_heading(self), shown, *_claims(self), *_how_to_read(self)], style)

    def everything(self, style: str = "text") -> str:
        """A table per metric, differences cell by cell, and how to read the tests; ``style`` as in :meth:`text`."""
        if style == "csv":
            return as_csv(self.tests)
        tested = [*_claims(self), *_cell_by_cell(self), *_how_to_read(self)]
        return document([*_heading(self), *_tables(self, style), *tested, *_agreement(self)], style)

    def to_json(self) -> dict[str, Any]:
        """Everything as strict JSON; nan and infinity become None."""
        return strict(vars(self) | {"sampled_against_full": sampled_against_full(self.results)})


def compare(
    runs: Sequence[Path | str] | Opened,
    *,
    metric_names: Sequence[str] = METRICS,
    candidates: str = "sampled",
    base: str | None = None,
    resamples: int = 10_000,
    rng: np.random.Generator,
) -> Comparison:
    """Compare finished runs on the same rows and candidates.

    Parameters
    ----------
    runs
        Run directories, or the result of :func:`open_runs`. Those that agree in all parameters but ``seed`` (and
        ``out``, ``training.device``) are seeds of one system. Reference rankers are read from the first.
    metric_names
        Any of ``evaluation.METRICS`` at any cutoff, such as ``HR@10``.
    candidates
        The ranking that is tested, ``sampled`` or ``full``. The results hold both.
    base
        Label of the system that the others are tested against; None: the system of the first folder.
    resamples, rng
        Passed to :func:`significance.paired_bootstrap`, which draws all rows of a user together. Each row counts with
        its mean over the seeds of the system.

    Raises
    ------
    LayoutError
        A folder without a finished run (with the command that finishes it), one run twice, or runs that cannot be
        compared, with what they differ in.
    ParameterError
        An unknown metric, ranking or base.
    """
    if candidates not in CANDIDATES:
        raise ParameterError(f"unknown candidates '{candidates}'{suggestion(candidates, list(CANDIDATES))}")
    metric_names = list(dict.fromkeys(metric_names))
    if not metric_names:
        raise ParameterError("no metric to compare by: name at least one, as in HR@10")
    cutoffs = [cutoff_of(name) for name in metric_names]
    opened = runs if isinstance(runs, Opened) else open_runs(runs)
    base = base or next(iter(opened.systems))
    if base not in opened.systems:
        raise ParameterError(f"unknown base '{base}'{suggestion(base, list(opened.systems))}")
    values = {kind: opened.values(kind, cutoffs) for kind in CANDIDATES}
    chosen, first = values[candidates], opened.runs[0]
    for label, value in chosen.items():
        if np.isnan(value).any():
            raise LayoutError(f"{first.folder}: the ranks of {label} hold no {candidates} ranking")
    bootstrap = partial(significance.paired_bootstrap, rng=rng, resamples=resamples, cluster=opened.users)
    results = results_of(opened, values, metric_names)
    about = {
        **first.identity,
        "stamp": stamp(first.record),
        "rows": len(first.rows),
        "users": int(first.rows["user"].nunique()),
        "candidates": candidates,
        "metrics": metric_names,
        "base": base,
        "resamples": resamples,
    }
    listed = [
        (label, [seed for seed in one.runs if seed is not None], list(one.folders), one.differing)
        for label, one in opened.systems.items()
    ]
    return Comparison(
        about,
        pd.DataFrame(listed, columns=["system", "seeds", "folders", "parameters"]),
        results,
        _tests(opened, results[results["candidates"] == candidates], chosen, base, bootstrap),
        _overall(opened, chosen, base, bootstrap),
        opened.notes,
    )


def each_against(
    opened: Opened, base: str, metric_names: Sequence[str] = METRICS, *, rng: np.random.Generator
) -> pd.DataFrame:
    """Each system minus the base, in every cell and ranking that there is: as :attr:`Comparison.tests`."""
    parts, bootstrap = [], partial(significance.paired_bootstrap, rng=rng, cluster=opened.users)
    for candidates, values in _rankings(opened, base, metric_names):
        results = results_of(opened, {candidates: values}, metric_names)
        parts.append(_tests(opened, results, values, base, bootstrap))
    return pd.concat(parts, ignore_index=True)


def mean_against(
    opened: Opened, base: str, metric_names: Sequence[str] = METRICS, *, rng: np.random.Generator
) -> pd.DataFrame:
    """Each system minus the base on the mean over cells: as :attr:`Comparison.overall`, a line a ranking."""
    bootstrap = partial(significance.paired_bootstrap, rng=rng, cluster=opened.users)
    rankings = _rankings(opened, base, metric_names)
    parts = [_overall(opened, values, base, bootstrap).assign(candidates=candidates) for candidates, values in rankings]
    return pd.concat(parts, ignore_index=True)


def _rankings(opened: Opened, base: str, metric_names: Sequence[str]) -> Iterator[tuple[str, dict[str, Array]]]:
    """The candidates that were ranked, with every system's values."""
    for candidates in CANDIDATES:
        values = opened.values(candidates, [cutoff_of(name) for name in metric_names])
        if not np.isnan(values[base]).any():
            yield candidates, values


def sampled_against_full(results: pd.DataFrame) -> pd.DataFrame:
    """Whether sampled and full ranking order the systems alike; they need not (Krichene & Rendle 2020).

    Parameters
    ----------
    results
        ``Comparison.results``.

    Returns
    -------
    DataFrame
        ``domain, kind, metric, systems`` (their number), ``tau`` (Kendall's tau-b between the two orders of the means;
        nan where all are equal), ``swapped`` (pairs of which the first leads on sampled candidates and trails on all
        items).
    """
    found = []
    for cell, part in results.groupby(CELL, sort=False):
        wide = part.pivot(index="system", columns="candidates", values="mean").reindex(columns=list(CANDIDATES))
        wide = wide.reindex(part["system"].unique()).dropna()
        # rounding must not tear equal means apart
        sampled, full = wide["sampled"].round(12).to_numpy(), wide["full"].round(12).to_numpy()
        ordered = len(wide) > 1 and np.ptp(sampled) > 0 and np.ptp(full) > 0
        tau = float(scipy.stats.kendalltau(sampled, full).statistic) if ordered else np.nan
        apart = (sampled[:, None] > sampled) & (full[:, None] < full)
        swapped = [[str(wide.index[i]), str(wide.index[j])] for i, j in np.argwhere(apart)]
        found.append((*cell, len(wide), tau, swapped))
    return pd.DataFrame(found, columns=[*CELL, "systems", "tau", "swapped"])


def places(results: pd.DataFrame) -> pd.Series:
    """1 for the best mean of a cell, 2 for the second best, else 0. Equal means share a place; ceilings have none."""
    ranked = results["mean"].where(~results["system"].isin(CEILINGS)).round(12)
    place = ranked.groupby([results[name] for name in (*CELL, "candidates")]).rank(method="dense", ascending=False)
    return place.where(place <= 2, 0).fillna(0).astype(int)


# --- computing --------------------------------------------------------------------------------------------------------


def _cell_means(values: Array, masks: Array) -> Array:
    """[seeds, rows, metrics], [rows, cells] -> [seeds, cells, metrics]; nan for an empty cell."""
    n = masks.sum(axis=0)[:, None]
    with np.errstate(invalid="ignore"):
        return np.where(n > 0, np.einsum("srm,rc->scm", values, masks.astype(np.float64)) / n, np.nan)


def results_of(opened: Opened, values: Mapping[str, Mapping[str, Array]], metric_names: Sequence[str]) -> pd.DataFrame:
    """:attr:`Comparison.results`, of values by candidates and label."""
    n = opened.masks.sum(axis=0)
    order = list(itertools.product(opened.systems, values))
    means = {(label, kind): _cell_means(values[kind][label], opened.masks) for label, kind in order}
    found = []
    for (at, cell), (i, metric) in itertools.product(enumerate(opened.cells), enumerate(metric_names)):
        for (label, kind), mean in means.items():
            seeds = mean[:, at, i]
            sd = float(seeds.std(ddof=1)) if len(seeds) > 1 else np.nan
            found.append((*cell, metric, kind, label, int(n[at]), len(seeds), float(seeds.mean()), sd))
    return pd.DataFrame(found, columns=[*CELL, "candidates", "system", "n", "seeds", "mean", "sd"])


def _tests(
    opened: Opened, results: pd.DataFrame, values: Mapping[str, Array], base: str, bootstrap: _Bootstrap
) -> pd.DataFrame:
    """:attr:`Comparison.tests`, of the results of one ranking and its values by label."""
    by_row = {label: value.mean(axis=0) for label, value in values.items()}
    by_seed = {label: _cell_means(value, opened.masks) for label, value in values.items()}
    found = _minus_the_base(opened.systems, by_row, by_seed, opened.masks, base, bootstrap)
    cells = results[[*CELL, "candidates"]].drop_duplicates(ignore_index=True)  # in the order of their numbers
    means = results.set_index(["system", *CELL])[["mean", "sd", "seeds"]]
    found = found.join(cells, on="cell").join(means, on=["system", *CELL])
    return found.join(means.add_prefix("base_"), on=["base", *CELL])[list(TESTS)]


def _overall(opened: Opened, values: Mapping[str, Array], base: str, bootstrap: _Bootstrap) -> pd.DataFrame:
    """Each system minus the base, on the mean over the cells of :data:`HEADLINE` and all metrics.

    A cell's mean is a ratio, so the bootstrap resamples each row's influence on the mean over cells: with N rows, of
    which n_c are in cell c, that mean plus N times the mean over c of (d - mean_c) / n_c.
    """
    masks = opened.headline
    n = masks.sum(axis=0)
    by_row, against = {}, values[base].mean(axis=0)
    for label, value in values.items():
        difference = value.mean(axis=0) - against  # [rows, metrics]
        means = masks.T @ difference / n[:, None]
        moved = np.einsum("rc,rcm->r", masks / n, difference[:, None, :] - means) * len(masks) / means.size
        by_row[label] = (means.mean() + moved)[:, None]
    by_seed = {label: _cell_means(value, masks).mean(axis=(1, 2), keepdims=True) for label, value in values.items()}
    everyone = np.ones((len(masks), 1), dtype=bool)
    found = _minus_the_base(opened.systems, by_row, by_seed, everyone, base, bootstrap).assign(cells=means.size)
    for p in ("p", "p_t"):
        found[f"{p}_holm"] = significance.holm(found[p].where(~found["system"].isin(CEILINGS)).to_numpy())
    return found[list(_OVERALL)]


def _minus_the_base(
    systems: Mapping[str, System],
    by_row: Mapping[str, Array],
    by_seed: Mapping[str, Array],
    masks: Array,
    base: str,
    bootstrap: _Bootstrap,
) -> pd.DataFrame:
    """The frame of differences: one line per system, cell and metric; one draw of users serves all of them.

    Parameters
    ----------
    by_row, by_seed
        By label: [rows, metrics] and [seeds, cells, metrics].
    masks
        bool [rows, cells].

    Returns
    -------
    DataFrame
        ``base, system, n``, the columns of :data:`_DIFFERENCE`, and ``cell``: the number of the cell and metric, cells
        first.
    """
    others, metrics = [label for label in systems if label != base], by_row[base].shape[1]
    columns = ["base", "system", "cell", "n", *_DIFFERENCE]
    if not others:
        return pd.DataFrame(columns=columns).astype({"cell": int})
    stacked = np.concatenate([by_row[label] for label in others], axis=1)
    tested = bootstrap(stacked, np.tile(by_row[base], (1, len(others))), masks)
    # no difference of two metrics leaves [-1, 1]
    low, high = np.clip(tested.low, -1.0, 1.0), np.clip(tested.high, -1.0, 1.0)
    found = []
    for (i, label), at, j in itertools.product(enumerate(others), range(masks.shape[1]), range(metrics)):
        cell = at, i * metrics + j
        line = (base, label, at * metrics + j, tested.n[cell], tested.difference[cell], low[cell], high[cell])
        seeds = [list(systems[one].runs) for one in (label, base)]
        a, b = (by_seed[one][:, at, j] for one in (label, base))
        over_seeds: tuple[float, ...] = (np.nan,) * 5
        if seeds[0] == seeds[1] and len(seeds[0]) > 1 and tested.n[cell]:
            over_seeds = significance.paired_t_test(a, b)
        found.append((*line, tested.p[cell], *over_seeds))
    return pd.DataFrame(found, columns=columns)


# --- as text ----------------------------------------------------------------------------------------------------------


def _heading(found: Comparison) -> Iterator[str]:
    about = found.about
    asked = f"1 + {about['negatives']} sampled candidates" if about["candidates"] == "sampled" else "all items ranked"
    yield (
        f"{about['data']}, protocol {about['protocol']}, data_seed {about['data_seed']}: {about['rows']} test rows of "
        f"{about['users']} users, {asked}"
    )
    yield from filter(None, (about["stamp"], order_note(about["protocol"])))
    for one in lines(found.systems):
        seeds = f"seed{'s' if len(one.seeds) > 1 else ''} {', '.join(map(str, one.seeds))}: " if one.seeds else "from "
        yield f"  {one.system}: {seeds}{', '.join(one.folders)}"
        if "…" in one.system or "#" in one.system:
            yield "    " + ", ".join(f"{key}={value}" for key, value in one.parameters.items())
    yield from (f"note: {note}" for note in found.notes)


def six_rows(found: Comparison, metric: str) -> pd.DataFrame:
    """All, tailed and cold rows of each domain, one column per system: cells of ``Number``, the best marked."""
    tested = found.results["candidates"] == found.about["candidates"]
    chosen = found.results[tested & (found.results["metric"] == metric) & found.results["kind"].isin(HEADLINE)]
    return _wide(chosen)


def _wide(results: pd.DataFrame) -> pd.DataFrame:
    """Results of one metric and ranking: a line a cell, a column a system."""
    results = results.assign(place=places(results))
    several = (~results["system"].isin(CEILINGS)).groupby(results["system"]).any().sum() > 1
    shown = [
        {"domain": domain, "kind": labels.label(str(kind)), "n": str(n)}
        | {
            labels.label(one.system): Number(one.mean, one.sd, "ahead" if one.place == 1 and several else "")
            for one in lines(cell)
        }
        for (domain, kind, n), cell in results.groupby(["domain", "kind", "n"], sort=False)
    ]
    return pd.DataFrame(shown)


def _caption(found: Comparison, metric: str, style: str) -> str:
    ceilings = [name for name in CEILINGS if (found.results["system"] == name).any()]
    left_out = (
        f" (left out, for they read the planted truth: {', '.join(map(labels.label, ceilings))})" if ceilings else ""
    )
    spread = ", mean ± sd over seeds" if (found.results["seeds"] > 1).any() else ""
    return f"{metric} in per cent{spread}; {'> best' if style == 'text' else 'bold: best'}{left_out}"


def _tables(found: Comparison, style: str) -> Iterator[Captioned]:
    results = found.results[found.results["candidates"] == found.about["candidates"]]
    for metric, table in results.groupby("metric", sort=False):
        yield Captioned(_caption(found, str(metric), style), _wide(table))


def _claims(found: Comparison) -> Iterator[str | Captioned]:
    """Each system against the base on the mean over cells."""
    overall, about = found.overall, found.about
    if not len(found.tests):
        yield ""
        yield "one system: nothing to test it against"
    else:
        family = int(overall["p_holm"].notna().sum())
        least = min(1.0, family / (about["resamples"] + 1))
        yield Captioned(
            f"Differences from {labels.label(about['base'])} on the mean over {overall['cells'].iloc[0]} cells, "
            f"in points; stars by p (Holm): * < 0.05, ** < 0.01, *** < 0.001 (Holm over these {family} systems; with "
            f"{about['resamples']} resamples none is below {least:.2g}). {CELLS_OF_THE_MEAN}",
            _shown(overall, ["system"]),
        )


def _cell_by_cell(found: Comparison) -> Iterator[Captioned]:
    if len(found.tests):
        yield Captioned(
            f"Differences from {labels.label(found.about['base'])} cell by cell, in points; each interval and p is of "
            f"one cell by itself",
            _shown(found.tests, ["system", *CELL, "n"]),
        )


def _how_to_read(found: Comparison) -> Iterator[str]:
    tests = found.tests
    if not len(tests):
        return
    yield (
        f"Interval and p: paired bootstrap over users, {found.about['resamples']} resamples. They answer whether the "
        f"difference would stand on *other rows*, with these trained models."
    )
    if df := sorted({int(one) for one in tests.loc[tests["t"].notna(), "df"]}):
        yield (
            f"t and p (t-test): paired t-test over seeds, {' or '.join(map(str, df))} degree{'s' if df != [1] else ''} "
            f"of freedom. They answer whether it would stand with *other seeds*, on these rows."
        )
    else:
        yield "No t-test over seeds: it needs two or more seeds, the same for both systems."


def _shown(table: pd.DataFrame, head: Sequence[str]) -> pd.DataFrame:
    """Differences as text, with stars by ``p_holm``, and with the t-test over seeds where there is one."""
    p = table["p_holm"] if "p_holm" in table else pd.Series(np.nan, table.index)
    stars = ["".join("*" for limit in (0.05, 0.01, 0.001) if one < limit) for one in p]
    shown: dict[str, Any] = {name: table[name].astype(str) for name in head}
    shown["difference"] = [in_points(*one) for one in zip(table["difference"], stars, strict=True)]
    sides = zip(table["interval_low"].map(in_points), table["interval_high"].map(in_points), strict=True)
    shown["95 % interval"] = ["-" if low == "-" else f"{low} … {high}" for low, high in sides]
    shown |= {name: table[name].map(of_p) for name in ("p", "p_holm") if name in table}
    if table["t"].notna().any():
        shown["t"] = ["-" if math.isnan(t) else f"{t:+.2f}" for t in table["t"]]
        shown |= {name: table[name].map(of_p) for name in ("p_t", "p_t_holm") if name in table}
    return labels.labelled(pd.DataFrame(shown))


def _agreement(found: Comparison) -> Iterator[str]:
    table = sampled_against_full(found.results)
    table = table[(table["systems"] > 1) & table["tau"].notna()]
    if not len(table):
        return
    swaps = table[table["swapped"].map(len) > 0]
    yield ""
    yield (
        f"Sampled and full ranking order the systems alike in {len(table) - len(swaps)} of {len(table)} cells "
        f"(Kendall's tau from {table['tau'].min():.2f} to {table['tau'].max():.2f})."
    )
    for one in lines(swaps):
        pairs = "; ".join(f"{labels.label(ahead)} over {labels.label(behind)}" for ahead, behind in one.swapped)
        yield f"  {one.domain}, {labels.label(one.kind)}, {one.metric}: only on sampled candidates {pairs}"
