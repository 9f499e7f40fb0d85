"""Runs side by side: what each system reaches, what the differences are worth, and whether the candidates decide.

A run is one seed of one trained system; runs that agree in every parameter but the seed are seeds of the same one. The
reference rankers do not depend on the seed and are taken once. Everything is computed from the stored ``ranks.parquet``
of the runs, row by row; runs with other rows, candidates or data are refused, not averaged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy  # scipy.stats is imported where it is used: it takes most of a second

from i2vae_lib import significance, stages
from i2vae_lib.data.dataset import DOMAINS
from i2vae_lib.data.protocols import outside_note
from i2vae_lib.evaluation import COUNTS, cutoff_of, fewer_candidates, kind_masks, row_values
from i2vae_lib.params import ParameterError, of_result
from i2vae_lib.places import suggestion
from i2vae_lib.recommenders import CEILINGS
from i2vae_lib.runs import LayoutError, flatten, read_record, stamp

Array = np.ndarray

HEADLINE = ("tailed", "cold", "all")
"""The row kinds of the mean over a pair's cells: with the domains and metrics they are its cells, none of which stands
twice (as ``seen`` would, where it equals ``all``) or is fixed by rule (``no_history``)."""
KINDS = ("all", "seen", "tailed", "tailed_warm", "cold", "overlapping", "no_history")
CANDIDATES = ("sampled", "full")
IDENTITY = ["domain", "row", "user"]
FLAGS = ["tailed", "cold", "no_history", "overlapping"]
ROUNDING = 0.01
"""Share of rows on which a reference may differ between runs: near-equal scores are torn apart by another BLAS."""

CELL = ["domain", "kind", "metric"]
TESTS = (
    *("domain", "kind", "metric", "candidates", "base", "system", "n", "difference", "interval_low", "interval_high"),
    *("p", "t", "df", "p_t", "t_low", "t_high"),
)
OVERALL = (
    *("base", "system", "cells", "difference", "interval_low", "interval_high", "p", "p_holm"),
    *("t", "df", "p_t", "p_t_holm", "t_low", "t_high"),
)


class _Opened(NamedTuple):
    """A finished run: where, ``run.json``, its parameters by dotted key, and ``ranks.parquet`` in one order."""

    folder: Path
    record: dict[str, Any]
    parameters: dict[str, Any]
    ranks: dict[str, pd.DataFrame]  # recommender -> one line a row

    @property
    def trained(self) -> str:
        """The recommender that the run trained; every other one of its ranks is a reference ranker."""
        return str(self.parameters["system"])

    @property
    def rows(self) -> pd.DataFrame:
        return self.ranks[self.trained]


class _System(NamedTuple):
    """One column of the tables: the ranks of each seed (one, None, for a reference)."""

    runs: dict[int | None, pd.DataFrame]
    folders: tuple[str, ...]
    differing: dict[str, Any]  # the parameters in which it differs from the other systems of the comparison


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found. Metrics and differences are fractions, in :meth:`text` per cent and points.

    Attributes
    ----------
    about
        ``data, protocol, stamp, data_seed, dataset_sha256, negatives, rows, users, candidates, metrics, base,
        resamples``.
    systems
        ``system, seeds, folders, parameters`` (those in which systems differ): a line a system.
    results
        ``domain`` (name), ``kind, metric, candidates, system, n, seeds`` (how many), ``mean, sd`` (over seeds; nan for
        one): sampled and full.
    tests
        Each system against the base, a cell a line: ``domain, kind, metric, candidates, base, system, n``;
        ``difference`` (system - base), ``interval_low, interval_high, p`` by the bootstrap over users; ``t, df, p_t,
        t_low, t_high`` by the t-test over seeds, nan unless both have the same two or more seeds. Each cell by itself:
        of many, some differ by chance.
    overall
        Each system against the base on the mean over the cells of :data:`HEADLINE` (how many: ``cells``), a system a
        line: the same columns, and ``p_holm, p_t_holm`` with Holm over the systems, the ceiling left out. These are the
        claims of a comparison.
    notes
        What a reader should know beside the tables.
    """

    about: dict[str, Any]
    systems: pd.DataFrame
    results: pd.DataFrame
    tests: pd.DataFrame
    overall: pd.DataFrame
    notes: tuple[str, ...]

    def text(self) -> str:
        """The comparison to be read: what was compared, a table a metric, differences, and what the tests answer."""
        return "\n".join([*_heading(self), *_tables(self), *_differences(self), *_agreement(self)])

    def to_json(self) -> dict[str, Any]:
        """Everything as strict JSON: nan and infinite are None."""
        frames = {
            "systems": self.systems,
            "results": self.results,
            "tests": self.tests,
            "overall": self.overall,
            "sampled_against_full": sampled_against_full(self.results),
        }
        records = {name: frame.to_dict(orient="records") for name, frame in frames.items()}
        found: dict[str, Any] = _strict({"about": self.about, **records, "notes": list(self.notes)})
        return found


def compare(
    folders: Sequence[Path | str],
    *,
    metric_names: Sequence[str] = ("HR@10", "NDCG@10"),
    candidates: str = "sampled",
    base: str | None = None,
    resamples: int = 10_000,
    rng: np.random.Generator,
) -> Comparison:
    """Compare finished runs on the same rows and candidates.

    Parameters
    ----------
    folders
        Run directories. Those that agree in all parameters but ``seed`` (and ``out``, ``training.device``) are seeds of
        one system. Reference rankers are read from the first.
    metric_names
        As ``HR@10``: any of ``evaluation.METRICS`` at any cutoff.
    candidates
        ``sampled`` or ``full``: which ranking is tested. The results hold both.
    base
        The system that the others are tested against, by its label; None: that of the first folder.
    resamples, rng
        Of :func:`significance.paired_bootstrap`, over users: the rows of one are drawn together. Each row counts with
        its mean over the system's seeds.

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
    opened = open_alike(folders)
    first = opened[0]
    systems, notes = systems_of(opened), _check_references(opened)
    base = base or next(iter(systems))
    if base not in systems:
        raise ParameterError(f"unknown base '{base}'{suggestion(base, list(systems))}")

    notes += fewer_candidates(first.rows, _identity(first)["negatives"], first.record.get("names", {}))
    cells, masks = cells_of(opened)
    if not all("seen" in one.rows for one in opened):
        notes.append("no kind 'seen': not every run has stored which targets occur in training")
    if outside := outside_note(first.record.get("outside", ()), first.record.get("names", {})):
        notes.append(outside)
    values = {
        (label, kind): np.stack([row_values(table, kind, cutoffs) for table in system.runs.values()])
        for label, system in systems.items()
        for kind in CANDIDATES
    }  # [seeds, rows, metrics]
    for label in systems:
        if np.isnan(values[label, candidates]).any():
            raise LayoutError(f"{first.folder}: the ranks of {label} hold no {candidates} ranking")
    means = {key: _cell_means(value, masks) for key, value in values.items()}  # [seeds, cells, metrics]

    about = {
        **_identity(first),
        "stamp": stamp(first.record),
        "rows": len(first.rows),
        "users": int(first.rows["user"].nunique()),
        "candidates": candidates,
        "metrics": metric_names,
        "base": base,
        "resamples": resamples,
    }
    listed = pd.DataFrame(
        {
            "system": list(systems),
            "seeds": [[seed for seed in one.runs if seed is not None] for one in systems.values()],
            "folders": [list(one.folders) for one in systems.values()],
            "parameters": [one.differing for one in systems.values()],
        }
    )
    results = _results(means, cells, masks.sum(axis=0), metric_names)
    chosen = {label: values[label, candidates] for label in systems}
    users = first.rows["user"].to_numpy()
    tests = _tests(systems, chosen, cells, masks, metric_names, base, users, resamples, rng)
    tests["candidates"] = candidates
    headline = masks[:, [kind in HEADLINE for _, kind in cells]]
    overall = _overall(systems, chosen, headline[:, headline.any(axis=0)], base, users, resamples, rng)
    return Comparison(about, listed, results, tests[list(TESTS)], overall, tuple(notes))


def sampled_against_full(results: pd.DataFrame) -> pd.DataFrame:
    """Do sampled and full ranking order the systems alike? (Krichene & Rendle 2020: they need not.)

    Parameters
    ----------
    results
        ``Comparison.results``.

    Returns
    -------
    DataFrame
        ``domain, kind, metric, systems`` (how many), ``tau`` (Kendall's tau-b of the two orders by mean; nan where
        there is no order), ``swapped`` (list of pairs: the first is ahead on sampled candidates, behind on all items).
    """
    lines = []
    for cell, part in results.groupby(CELL, sort=False):
        wide = part.pivot(index="system", columns="candidates", values="mean").reindex(columns=list(CANDIDATES))
        wide = wide.reindex(part["system"].unique()).dropna()
        # rounding must not tear equal means apart
        sampled, full = wide["sampled"].round(12).to_numpy(), wide["full"].round(12).to_numpy()
        ordered = len(wide) > 1 and np.ptp(sampled) > 0 and np.ptp(full) > 0
        tau = float(scipy.stats.kendalltau(sampled, full).statistic) if ordered else np.nan
        swapped = []
        for i, j in itertools.permutations(range(len(wide)), 2):
            if sampled[i] > sampled[j] and full[i] < full[j]:
                swapped.append([str(wide.index[i]), str(wide.index[j])])
        lines.append((*cell, len(wide), tau, swapped))
    return pd.DataFrame(lines, columns=[*CELL, "systems", "tau", "swapped"])


# --- reading runs -----------------------------------------------------------------------------------------------------


def open_alike(folders: Sequence[Path | str]) -> list[_Opened]:
    """Open finished runs on the same rows and candidates.

    Raises
    ------
    LayoutError
        No folder, one without a finished run, or runs that differ, with what they differ in.
    """
    if not folders:
        raise LayoutError("no run to compare: name at least one run directory")
    opened = [_open(Path(folder)) for folder in folders]
    for other in opened[1:]:
        _refuse_other_rows(opened[0], other)
    return opened


def own_parameters(record: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run, by dotted key, that tell its system from another: what its result depends on, but for
    the seed and for how many rows were scored at a time."""
    flat = flatten(of_result(record["parameters"], stages.irrelevant_groups([record["parameters"]["system"]])))
    return {key: one for key, one in flat.items() if key not in ("seed", "evaluation.batch_size")}


def _open(folder: Path) -> _Opened:
    record = read_record(folder)
    parameters = flatten(record["parameters"])
    path = folder / "ranks.parquet"
    if not path.is_file():
        named = " ".join(f"--{key} {parameters.get(key)}" for key in ("system", "data", "protocol", "preset", "seed"))
        raise LayoutError(
            f"{folder} is not finished (no ranks.parquet); `i2vae run {named} --out {folder}` goes on with it "
            f"(and --epochs, --set as it was started)"
        )
    table = pd.read_parquet(path)
    if not set(COUNTS) <= set(table):
        raise LayoutError(
            f"{path} does not say how many candidates each row had: an earlier version made it, which drew other ones; "
            f"make the run again, in a new folder"
        )
    ranks = {
        str(name): part.sort_values(IDENTITY, kind="stable").reset_index(drop=True)
        for name, part in table.groupby("recommender", sort=False)
    }
    trained = parameters["system"]
    if trained not in ranks:
        raise LayoutError(f"{path} holds no ranks of {trained}, only of {', '.join(ranks) or 'nothing'}")
    for name, part in ranks.items():
        if not part[IDENTITY].equals(ranks[trained][IDENTITY]):
            raise LayoutError(f"{path}: {name} and {trained} were not ranked on the same rows")
    return _Opened(folder, record, parameters, ranks)


def _identity(run: _Opened) -> dict[str, Any]:
    """What runs must share: then a row is the same question in each, with the same candidates."""
    p = run.parameters
    return {
        "data": run.record.get("data", p.get("data")),
        "protocol": run.record.get("protocol", p.get("protocol")),
        "data_seed": run.record.get("data_seed", p.get("split.data_seed")),
        "negatives": p.get("evaluation.negatives"),
        "dataset_sha256": run.record.get("dataset_sha256"),
    }


def _refuse_other_rows(first: _Opened, other: _Opened) -> None:
    one, two = _identity(first), _identity(other)
    reasons = [f"{key} ({str(one[key])[:16]} there, {str(two[key])[:16]} here)" for key in one if one[key] != two[key]]
    if reasons and reasons[0].startswith("dataset_sha256"):
        # one name and protocol, other rows: say which parameter made them
        groups = ("split.", "controls.", "synthetic.")
        keys = [key for key in sorted(first.parameters | other.parameters) if key.startswith(groups)]
        changed = {key: (first.parameters.get(key), other.parameters.get(key)) for key in keys}
        reasons += [f"{key} ({a} there, {b} here)" for key, (a, b) in changed.items() if a != b]
    if not reasons:
        a, b = (run.rows for run in (first, other))
        known, found = (set(map(tuple, table[IDENTITY].to_numpy())) for table in (a, b))
        if known != found or len(a) != len(b):
            reasons.append(
                f"the evaluated rows ({len(a)} there, {len(b)} here, {len(known & found)} with the same row, user and "
                f"domain)"
            )
        else:
            flags = [*FLAGS, *(["seen"] if "seen" in a and "seen" in b else [])]
            reasons += [f"the row kind {flag}" for flag in flags if not a[flag].equals(b[flag])]
    if reasons:
        raise LayoutError(
            f"{other.folder} cannot be compared with {first.folder}: they differ in {', '.join(reasons)}; "
            f"only runs on the same rows and candidates are compared"
        )


def systems_of(opened: Sequence[_Opened]) -> dict[str, _System]:
    """Columns by label: trained systems in the order of the folders, then the reference rankers."""
    groups: list[tuple[dict[str, Any], list[_Opened]]] = []
    for run in opened:
        own = own_parameters(run.record)
        group = next((members for known, members in groups if known == own), None)
        if group is None:
            groups.append((own, [run]))
            continue
        twin = next((one for one in group if one.parameters["seed"] == run.parameters["seed"]), None)
        if twin is not None:
            again = "named twice" if twin.folder.resolve() == run.folder.resolve() else f"the same run as {twin.folder}"
            raise LayoutError(
                f"{run.folder} is {again} (all parameters and seed {run.parameters['seed']}): a repetition is no "
                f"other seed; name it once"
            )
        group.append(run)
    parts: list[dict[str, Any]] = [{} for _ in groups]
    labels = [""] * len(groups)
    for name in dict.fromkeys(own["system"] for own, _ in groups):
        # a parameter of another system is no difference
        alike = [i for i, (own, _) in enumerate(groups) if own["system"] == name]
        keys = sorted(set().union(*(groups[i][0] for i in alike)))
        first_own = groups[alike[0]][0]
        differing = [key for key in keys if any(groups[i][0].get(key) != first_own.get(key) for i in alike)]
        for i in alike:
            parts[i] = {key: groups[i][0].get(key, "not recorded") for key in differing}
        for i, label in zip(alike, _labels(name, [parts[i] for i in alike])):
            labels[i] = label
    found: dict[str, _System] = {}
    for label, part, (_, runs) in zip(labels, parts, groups):
        runs = sorted(runs, key=lambda one: int(one.parameters["seed"]))
        by_seed: dict[int | None, pd.DataFrame] = {int(one.parameters["seed"]): one.rows for one in runs}
        found[label] = _System(by_seed, tuple(str(one.folder) for one in runs), part)
    first = opened[0]
    references = {name: table for name, table in first.ranks.items() if name != first.trained}
    return found | {name: _System({None: table}, (str(first.folder),), {}) for name, table in references.items()}


def _labels(name: str, parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short and unique: the system's name, and of the parameters that differ the fewest, at most two, that tell all
    its variants apart.

    An ellipsis says that a label leaves differing parameters out; ``Comparison.systems`` has them all.
    """
    if len(parts) == 1:
        return [name]
    keys = list(parts[0])
    sets = [*itertools.combinations(keys, 1), *itertools.combinations(keys, 2)]

    def label(part: Mapping[str, Any], shown: Sequence[str]) -> str:
        more = ["…"] if len(shown) < len(keys) else []
        return f"{name} ({', '.join([*(f'{key}={part[key]}' for key in shown), *more])})"

    for shown in sets:
        labels = [label(part, shown) for part in parts]
        if len(set(labels)) == len(parts):
            return labels
    return [f"{name} #{number + 1}" for number in range(len(parts))]


def _check_references(opened: Sequence[_Opened]) -> list[str]:
    """Notes on reference rankers that are missing somewhere or differ a little; more than a little is refused."""
    first, notes = opened[0], []
    counts = list(COUNTS)
    for other in opened[1:]:
        for name in [name for name in other.ranks if name not in first.ranks and name != other.trained]:
            notes.append(f"{name} is left out: {other.folder} has it, {first.folder} has not")
        for name in [name for name in first.ranks if name != first.trained and name in other.ranks]:
            unequal = (first.ranks[name][counts] != other.ranks[name][counts]).any(axis=1)
            if unequal.mean() > ROUNDING:
                raise LayoutError(
                    f"{other.folder} cannot be compared with {first.folder}: the reference ranker {name} has other "
                    f"ranks in {int(unequal.sum())} of {len(unequal)} rows, though it does not depend on the seed; the "
                    f"data, the parameters `references` or the code differ. Make both runs with one version"
                )
            if unequal.any():
                notes.append(
                    f"{name} has other ranks in {int(unequal.sum())} of {len(unequal)} rows of {other.folder} (scores "
                    f"that are nearly equal, rounded on another machine?); those of {first.folder} are shown"
                )
    return notes


# --- computing --------------------------------------------------------------------------------------------------------


def cells_of(opened: Sequence[_Opened]) -> tuple[list[tuple[str, str]], Array]:
    """(Name of the domain, kind) of every cell, and its rows, bool [rows, cells]."""
    first = opened[0]
    table = first.rows
    has_seen = all("seen" in one.rows for one in opened)
    by_kind = kind_masks(table if "seen" in table else table.assign(seen=False))
    names = first.record.get("names", {})
    cells, masks = [], []
    for d in DOMAINS:
        for kind in KINDS:
            if kind != "seen" or has_seen:
                cells.append((str(names.get(d, d)), kind))
                masks.append((table["domain"] == d).to_numpy() & by_kind[kind].to_numpy(dtype=bool))
    return cells, np.stack(masks, axis=1)


def _cell_means(values: Array, masks: Array) -> Array:
    """Mean of each cell, [seeds, cells, metrics]; nan for an empty one."""
    n = masks.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(n[:, None] > 0, np.einsum("srm,rc->scm", values, masks.astype(np.float64)) / n[:, None], np.nan)


def _results(
    means: Mapping[tuple[str, str], Array], cells: Sequence[tuple[str, str]], n: Array, metric_names: Sequence[str]
) -> pd.DataFrame:
    lines = []
    for (at, (domain, kind)), (i, metric) in itertools.product(enumerate(cells), enumerate(metric_names)):
        for (label, candidates), found in means.items():
            seeds = found[:, at, i]
            sd = float(seeds.std(ddof=1)) if len(seeds) > 1 else np.nan
            lines.append((domain, kind, metric, candidates, label, int(n[at]), len(seeds), float(seeds.mean()), sd))
    columns = [*CELL, "candidates", "system", "n", "seeds", "mean", "sd"]
    return pd.DataFrame(lines, columns=columns)


def _tests(
    systems: Mapping[str, _System],
    values: Mapping[str, Array],
    cells: Sequence[tuple[str, str]],
    masks: Array,
    metric_names: Sequence[str],
    base: str,
    users: Array,
    resamples: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Each system less the base, in every cell; one draw of users for all of them."""
    others = [label for label in systems if label != base]
    if not others:
        return pd.DataFrame(columns=list(TESTS))
    against = values[base].mean(axis=0)
    stacked = np.concatenate([values[label].mean(axis=0) for label in others], axis=1)
    found = significance.paired_bootstrap(
        stacked, np.tile(against, (1, len(others))), masks, rng=rng, resamples=resamples, cluster=users
    )
    lines = []
    for (i, label), (at, (domain, kind)) in itertools.product(enumerate(others), enumerate(cells)):
        for j, metric in enumerate(metric_names):
            cell = at, i * len(metric_names) + j
            # no difference of two metrics leaves [-1, 1]
            low, high = (float(np.clip(side[cell], -1.0, 1.0)) for side in (found.low, found.high))
            head = (domain, kind, metric, base, label, int(found.n[cell]), float(found.difference[cell]), low, high)
            mask = masks[:, at]
            seeds = [values[one][:, mask, j].mean(axis=1) if mask.any() else None for one in (label, base)]
            lines.append((*head, float(found.p[cell]), *_over_seeds(systems[label], systems[base], *seeds)))
    return pd.DataFrame(lines, columns=[name for name in TESTS if name != "candidates"])


def _overall(
    systems: Mapping[str, _System],
    values: Mapping[str, Array],
    masks: Array,
    base: str,
    users: Array,
    resamples: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Each system less the base on the mean over these cells (none empty) and all metrics.

    A cell's mean is a ratio, so the bootstrap gets what each row moves the mean over cells by: with N rows and n_c of
    them in cell c, the mean over cells plus N times the mean over c of (d - mean_c) / n_c.
    """
    others = [label for label in systems if label != base]
    if not others or not masks.shape[1]:
        return pd.DataFrame(columns=list(OVERALL))
    against, n = values[base].mean(axis=0), masks.sum(axis=0)
    moved = []
    for label in others:
        difference = values[label].mean(axis=0) - against  # [rows, metrics]
        means = masks.T @ difference / n[:, None]
        beside = difference[:, None, :] - means
        part = np.einsum("rc,rcm->r", masks / n, beside) * len(masks) / means.size
        moved.append(means.mean() + part)
    table = np.stack(moved, axis=1)
    everyone = np.ones((len(masks), 1), dtype=bool)
    found = significance.paired_bootstrap(
        table, np.zeros_like(table), everyone, rng=rng, resamples=resamples, cluster=users
    )
    of_seeds = {label: _cell_means(value, masks).mean(axis=(1, 2)) for label, value in values.items()}
    cells = masks.shape[1] * against.shape[1]
    lines = []
    for i, label in enumerate(others):
        low, high = (float(np.clip(side[0, i], -1.0, 1.0)) for side in (found.low, found.high))
        head = (base, label, cells, float(found.difference[0, i]), low, high, float(found.p[0, i]))
        lines.append((*head, *_over_seeds(systems[label], systems[base], of_seeds[label], of_seeds[base])))
    overall = pd.DataFrame(lines, columns=[name for name in OVERALL if not name.endswith("_holm")])
    for p in ("p", "p_t"):
        overall[f"{p}_holm"] = significance.holm(overall[p].where(~overall["system"].isin(CEILINGS)).to_numpy())
    return overall[list(OVERALL)]


def _over_seeds(
    system: _System, base: _System, a: Array | None, b: Array | None
) -> tuple[float, float, float, float, float]:
    """t, degrees of freedom, p, and the interval of a - b, a value a seed (None: there is none); nan unless both have
    the same seeds, two or more.

    Systems keep their runs in the order of the seeds.
    """
    if list(system.runs) != list(base.runs) or len(base.runs) < 2 or a is None or b is None:
        return (np.nan,) * 5
    found = significance.paired_t_test(a, b)
    return found.t, float(found.df), found.p, found.low, found.high


# --- telling ----------------------------------------------------------------------------------------------------------


def _heading(found: Comparison) -> list[str]:
    about = found.about
    lines = [
        f"{about['data']}, protocol {about['protocol']}, data_seed {about['data_seed']}: {about['rows']} test rows of "
        f"{about['users']} users, "
        + (f"1 + {about['negatives']} sampled candidates" if about["candidates"] == "sampled" else "all items ranked")
    ]
    if about["stamp"]:
        lines.append(about["stamp"])
    for one in _lines(found.systems):
        seeds = f"seed{'s' if len(one.seeds) > 1 else ''} {', '.join(map(str, one.seeds))}: " if one.seeds else "from "
        lines.append(f"  {one.system}: {seeds}{', '.join(one.folders)}")
        if "…" in one.system or "#" in one.system:
            lines.append("    " + ", ".join(f"{key}={value}" for key, value in one.parameters.items()))
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _tables(found: Comparison) -> list[str]:
    lines = []
    part = found.results[found.results["candidates"] == found.about["candidates"]]
    for metric in found.about["metrics"]:
        table = part[part["metric"] == metric]
        shown = []
        for (domain, kind, n), cell in table.groupby(["domain", "kind", "n"], sort=False):
            ranked = cell[~cell["system"].isin(CEILINGS)]["mean"]
            best = ranked.max() if len(ranked) > 1 else np.nan
            written = {
                one.system: _written(one.mean, one.sd, one.mean == best and one.system not in CEILINGS)
                for one in _lines(cell)
            }
            shown.append({"domain": domain, "kind": kind, "n": n} | written)
        spread = ", mean ± sd over seeds" if (table["seeds"] > 1).any() else ""
        known = [name for name in CEILINGS if (table["system"] == name).any()]
        ceiling = f" (left out, for they read the planted truth: {', '.join(known)})" if known else ""
        lines += ["", f"{metric} in per cent{spread}; > best{ceiling}", pd.DataFrame(shown).to_string(index=False)]
    return lines


def _written(mean: float, sd: float, best: bool) -> str:
    if math.isnan(mean):
        return "-"
    return ("> " if best else "") + f"{100 * mean:.2f}" + ("" if math.isnan(sd) else f" ± {100 * sd:.2f}")


def _stars(p: float) -> str:
    """By the adjusted p; nan has none."""
    return "".join("*" for limit in (0.05, 0.01, 0.001) if p < limit)


def _differences(found: Comparison) -> list[str]:
    tests, about = found.tests, found.about
    if not len(tests):
        return ["", "one system: nothing to test it against"]
    over_seeds = tests["t"].notna()
    overall = found.overall
    lines = []
    if len(overall):
        family = int(overall["p_holm"].notna().sum())
        least = min(1.0, family / (about["resamples"] + 1))
        head = {"system": overall["system"]}
        marks = [_stars(one.p_holm) for one in _lines(overall)]
        lines += [
            "",
            f"Differences from {about['base']} on the mean over {overall['cells'].iloc[0]} cells (domains, "
            f"{', '.join(HEADLINE)}, metrics), in points; stars by p_holm: * < 0.05, ** < 0.01, *** < 0.001 (Holm over "
            f"these {family} systems; with {about['resamples']} resamples none is below {least:.2g})",
            _shown(overall, head, marks, bool(over_seeds.any())).to_string(index=False),
        ]
    head = {name: tests[name] for name in ("system", *CELL, "n")}
    lines += [
        "",
        f"Differences from {about['base']} cell by cell, in points; each interval and p is of one cell by itself",
        _shown(tests, head, [""] * len(tests), bool(over_seeds.any())).to_string(index=False),
        f"Interval and p: paired bootstrap over users, {about['resamples']} resamples. They answer whether the "
        f"difference would stand on *other rows*, with these trained models.",
    ]
    if over_seeds.any():
        df = sorted({int(one) for one in tests.loc[over_seeds, "df"]})
        lines.append(
            f"t and p_t: paired t-test over seeds, {' or '.join(map(str, df))} degree{'s' if df != [1] else ''} of "
            f"freedom. They answer whether it would stand with *other seeds*, on these rows."
        )
    else:
        lines.append("No t-test over seeds: it needs two or more seeds, the same for both systems.")
    return lines


def _shown(table: pd.DataFrame, head: Mapping[str, pd.Series], marks: Sequence[str], over_seeds: bool) -> pd.DataFrame:
    """Differences and what the tests say of them, to be read; with the t-test over seeds where there is one."""
    shown = {
        **head,
        "difference": [
            "-" if math.isnan(one.difference) else f"{100 * one.difference:+.2f}{mark}"
            for one, mark in zip(_lines(table), marks, strict=True)
        ],
        "95 % interval": [
            "-" if math.isnan(one.interval_low) else f"{100 * one.interval_low:+.2f} … {100 * one.interval_high:+.2f}"
            for one in _lines(table)
        ],
    }
    shown |= {name: table[name].map(_p) for name in ("p", "p_holm") if name in table}
    if over_seeds:
        shown["t"] = ["-" if math.isnan(t) else f"{t:+.2f}" for t in table["t"]]
        shown |= {name: table[name].map(_p) for name in ("p_t", "p_t_holm") if name in table}
    return pd.DataFrame(shown)


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _agreement(found: Comparison) -> list[str]:
    table = sampled_against_full(found.results)
    table = table[(table["systems"] > 1) & table["tau"].notna()]
    if not len(table):
        return []
    swaps = table[table["swapped"].map(len) > 0]
    lines = [
        "",
        f"Sampled and full ranking order the systems alike in {len(table) - len(swaps)} of {len(table)} cells "
        f"(Kendall's tau from {table['tau'].min():.2f} to {table['tau'].max():.2f}).",
    ]
    for one in _lines(swaps):
        pairs = "; ".join(f"{ahead} over {behind}" for ahead, behind in one.swapped)
        lines.append(f"  {one.domain}, {one.kind}, {one.metric}: only on sampled candidates {pairs}")
    return lines


def _lines(table: pd.DataFrame) -> Iterator[Any]:
    """The lines of a table as named tuples (pandas types their fields as anything a cell may hold)."""
    return iter(table.itertuples())


def _strict(value: Any) -> Any:
    """Plain Python for ``json.dumps(…, allow_nan=False)``."""
    if isinstance(value, Mapping):
        return {str(key): _strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
