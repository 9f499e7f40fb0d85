"""Whether a difference is more than chance: two tests and a correction, on plain arrays.

:func:`paired_bootstrap` asks about *other rows*: would the difference stand if other users had been drawn, the trained
models kept? :func:`paired_t_test` asks about *other seeds*: would it stand if both systems were trained again, the rows
kept? :func:`holm` adjusts the p values of a table for their number.

Why the bootstrap is studentised. In cells of few rows the plain one, which compares differences without their standard
error, rejects a true null too often; the studentised one keeps its level (``tests/test_significance.py`` simulates
both). Where two systems differ on a handful of rows only, as HR@10 of a cold cell, no test has its nominal level: the
studentised one then rejects too seldom, which costs power and not truth.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy  # scipy.stats is imported where it is used: it takes most of a second

from i2vae_lib.data.rows import Array

_CONFIDENCE = 0.95
CHUNK_BYTES = 16 * 2**20  # bound on the memory of one chunk of resampling weights


class Bootstrap(NamedTuple):
    """Result of :func:`paired_bootstrap`: arrays [masks, metrics], nan where nothing can be tested."""

    n: Array  # rows of the cell
    difference: Array  # mean of a - b
    low: Array  # interval of the difference; may be infinite in a cell of very few rows
    high: Array
    p: Array  # two-sided


class _SeedTest(NamedTuple):
    """Result of :func:`paired_t_test`; nan where n < 2 or the differences do not vary."""

    t: float
    df: float  # pairs of seeds - 1
    p: float  # two-sided
    low: float  # t interval of the difference
    high: float


def paired_bootstrap(
    values_a: Array,
    values_b: Array,
    masks: Array,
    *,
    rng: np.random.Generator,
    resamples: int = 10_000,
    cluster: Array | None = None,
) -> Bootstrap:
    """Paired bootstrap over rows of the mean difference a - b, in all cells of a table jointly.

    A resample draws as many clusters as there are, with replacement; one draw serves every cell, so that cells which
    share rows (tailed within all) or users (two metrics, two domains) keep their dependence. With d the difference of a
    cell, s its standard error over clusters, and d*, s* the same of a resample, the null is imposed by centring:

        t = d / s,  t* = (d* - d) / s*,  p = (1 + #{abs t* >= abs t}) / (1 + resamples),  interval d -+ q s,

    where q is the 95 % quantile of abs t*, of that rank at which 0 lies outside the interval if and only if p <= 0.05.
    For a cell with masks m and values v, s² = sum over clusters of (sum m (v - d))² / (sum m)² (the factor C / (C - 1)
    cancels between t and t*). That sum is at least its largest term, and in s* it is never taken to be less than this:
    a resample that misses the few rows on which two systems differ would else have no spread, and no t*. A resample
    without a row of the cell counts as infinitely far out.

    Parameters
    ----------
    values_a, values_b
        float64 [rows, metrics].
    masks
        bool [rows, masks]; a cell is a mask and a metric.
    cluster
        [rows], any labels: rows with one label are drawn together (the two rows of a user). None: each row alone.

    Returns
    -------
    Bootstrap
        An empty cell is nan throughout. A cell whose clusters all show one difference has nothing to resample: interval
        and p are nan, but for the difference 0 in at least two clusters (two systems that agree), where p = 1 and the
        interval is [0, 0].

    Raises
    ------
    ValueError
        Shapes that do not fit, a value that is not finite, or no resamples.
    """
    difference = np.asarray(values_a, dtype=np.float64) - np.asarray(values_b, dtype=np.float64)
    masks = np.asarray(masks, dtype=bool)
    _check(difference, masks, cluster, resamples)
    n = masks.sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = masks.T.astype(np.float64) @ difference / n[:, None]
    counts, totals = _by_cluster(difference, mean, masks, cluster)
    clusters = (counts > 0).sum(axis=0)[:, None]
    error = np.sqrt(np.einsum("ckm,ckm->km", totals, totals)) / np.maximum(n, 1)[:, None]
    # a spread that is only rounding
    flat = error <= 1e-12 * np.abs(difference).max(initial=0.0)
    unit = np.where(flat, 1.0, error)
    drawn = np.abs(_resampled(counts, totals, resamples, rng))

    # discrete metrics tie exactly; rounding must not tear the ties apart
    beyond = drawn >= np.abs(np.nan_to_num(mean) / unit) * (1 - 1e-9)
    p = (1 + beyond.sum(axis=0)) / (1 + resamples)
    # 0 lies outside if and only if p <= 0.05
    rank = resamples - int(np.floor((1 - _CONFIDENCE) * (resamples + 1) + 1e-9))
    reach = np.partition(drawn, rank, axis=0)[rank] if rank < resamples else np.full(error.shape, np.inf)
    low, high = mean - reach * unit, mean + reach * unit
    agree = flat & (clusters >= 2) & (np.abs(mean) <= 1e-12)
    unknown = flat & ~agree | (n == 0)[:, None]
    for array, when_agreed in ((low, 0.0), (high, 0.0), (p, 1.0)):
        array[agree], array[unknown] = when_agreed, np.nan
    return Bootstrap(np.broadcast_to(n[:, None], mean.shape), mean, low, high, p)


def _check(difference: Array, masks: Array, cluster: Array | None, resamples: int) -> None:
    if difference.ndim != 2 or masks.ndim != 2 or len(difference) != len(masks):
        raise ValueError(f"values [rows, metrics] and masks [rows, masks] expected: {difference.shape}, {masks.shape}")
    if cluster is not None and len(cluster) != len(masks):
        raise ValueError(f"{len(cluster)} cluster labels for {len(masks)} rows")
    finite = np.isfinite(difference).all(axis=1)
    if not finite.all():
        raise ValueError(f"row {int(np.flatnonzero(~finite)[0])} has a value that is not finite")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")


def _by_cluster(difference: Array, mean: Array, masks: Array, cluster: Array | None) -> tuple[Array, Array]:
    """Rows of each cluster by mask, [clusters, masks], and their summed centred differences, [.., masks, metrics]."""
    counts = masks.astype(np.float64)
    totals = np.where(masks[:, :, None], difference[:, None, :] - np.nan_to_num(mean), 0.0)
    if cluster is None:
        return counts, totals
    labels, owner = np.unique(np.asarray(cluster), return_inverse=True)
    if len(labels) == len(masks):
        return counts, totals
    summed = np.zeros((len(labels), *counts.shape[1:])), np.zeros((len(labels), *totals.shape[1:]))
    np.add.at(summed[0], owner, counts)
    np.add.at(summed[1], owner, totals)
    return summed


def _resampled(counts: Array, totals: Array, resamples: int, rng: np.random.Generator) -> Array:
    """t* of every resample, [resamples, masks, metrics]; infinite where it has no row of the cell."""
    clusters, masks, metrics = totals.shape
    columns = [counts, totals.reshape(clusters, -1), (totals**2).reshape(clusters, -1)]
    # where every cluster has at most one row in each cell, counts² = counts and counts · totals = totals
    lone = counts.max(initial=0.0) <= 1
    if not lone:
        columns += [(totals * counts[:, :, None]).reshape(clusters, -1), counts**2]
    sizes = np.cumsum([part.shape[1] for part in columns])[:-1]
    stacked = np.concatenate(columns, axis=1)
    drawn = np.empty((resamples, masks, metrics))
    least = np.maximum((totals**2).max(axis=0, initial=0.0), np.finfo(float).tiny)
    step = max(1, CHUNK_BYTES // (8 * max(clusters, 1)))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        picked = rng.integers(0, clusters, size=(size, clusters), dtype=np.int32) + clusters * np.arange(size)[:, None]
        weights = np.bincount(picked.ravel(), minlength=size * clusters).reshape(size, clusters)
        parts = np.split(weights.astype(np.float64) @ stacked, sizes, axis=1)
        count, total, squared, *rest = (part.reshape(size, masks, -1) for part in parts)
        mixed, quadratic = rest or (total, count)
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = total / count
            spread = squared - 2 * shift * mixed + shift**2 * quadratic
            drawn[start : start + size] = np.where(count > 0, total / np.sqrt(np.maximum(spread, least)), np.inf)
    return drawn


def paired_t_test(a: Array, b: Array) -> _SeedTest:
    """Paired t-test over seeds (``scipy.stats.ttest_rel``), a[i] and b[i] of one seed; two-sided, n - 1 degrees.

    Fewer than two seeds, or differences that do not vary: t, p and the interval are nan. Two systems that ignore their
    seed show one difference each time, and this says nothing about other seeds.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected one value per seed and system, paired: {a.shape}, {b.shape}")
    difference, n = a - b, len(a)
    # equal up to rounding: t would be 1e15
    if n < 2 or np.ptp(difference) <= 1e-12 * max(np.abs(a).max(), np.abs(b).max()):
        return _SeedTest(np.nan, max(n - 1, 0), np.nan, np.nan, np.nan)
    found: Any = scipy.stats.ttest_rel(a, b)
    interval = found.confidence_interval(_CONFIDENCE)
    return _SeedTest(*map(float, (found.statistic, found.df, found.pvalue, interval.low, interval.high)))


def holm(p: Array) -> Array:
    """Holm's adjusted p values (Holm 1979): of m sorted ones, the i-th is max over j <= i of min(1, (m - j + 1) p_j).

    Rejecting where the adjusted value is at most alpha bounds by alpha the chance of *any* false rejection in the
    table, whatever the dependence between its cells. A nan (an untestable cell) stays nan and is not counted in m.
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    values = p[known]
    if ((values < 0) | (values > 1)).any():
        raise ValueError("p values lie between 0 and 1")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(1.0, values[order] * np.arange(len(values), 0, -1)))
    result = np.empty(len(values))
    result[order] = stepped
    adjusted[known] = result
    return adjusted
