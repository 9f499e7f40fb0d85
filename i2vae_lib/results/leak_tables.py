"""What leaks are worth, from the rank tables of :mod:`i2vae_lib.experiments.leak_worth`."""

import itertools

import numpy as np
import pandas as pd

from i2vae_lib import evaluation
from i2vae_lib.data.kinds import REPORTED_KINDS
from i2vae_lib.data.rows import Array
from i2vae_lib.experiments.leak_worth import WORLDS, world_of
from i2vae_lib.results import significance
from i2vae_lib.results.differences import each_against, results_of
from i2vae_lib.results.lift import draws_of_users, sums_by_user
from i2vae_lib.results.reading import CANDIDATES, opened_tables

_CELL = ["domain", "kind", "candidates", "metric", "n"]


def worth(
    table: pd.DataFrame, names: dict[str, str], *, rng: np.random.Generator, metric: str = "HR@10"
) -> pd.DataFrame:
    """What each leak adds to a metric, in points of per cent, by system, domain and row kind.

    Each condition is measured against the one that asks the same targets and has nothing else open: ``all`` against
    ``order``, any other leak against ``none``; what ``order`` itself is worth, :func:`worlds` says. Rows' values are
    averaged over the seeds that both conditions have; intervals and p values are a paired bootstrap over users, Holm
    over the cells of one row kind and one kind of candidates: the table that a reader looks at.

    Parameters
    ----------
    table
        Of :func:`i2vae_lib.experiments.leak_worth.study`.
    names
        Domain names by key.

    Raises
    ------
    ValueError
        Nothing to compare: no condition of :data:`WORLDS`, or none with another leak, or no seed that both have.

    Returns
    -------
    DataFrame
        ``system, leak, against, seeds, domain, kind, candidates, metric, n, closed, open, worth, low, high, p_holm``;
        the interval is one of 95 %.
    """
    conditions = set(table["leaks"])
    if not conditions & set(WORLDS) or not conditions - set(WORLDS):
        raise ValueError(
            f"a leak's worth needs the condition none or order and one with another leak; the table has {conditions}"
        )
    parts = []
    for (system, leak), part in table[~table["leaks"].isin(WORLDS)].groupby(["recommender", "leaks"], sort=False):
        against = world_of(str(leak))
        closed = table[(table["recommender"] == system) & (table["leaks"] == against)]
        seeds = set(closed["seed"]) & set(part["seed"])
        if not seeds:
            raise ValueError(f"{system}: {leak} has no seed in common with {against}, against which it is measured")
        both = {name: one[one["seed"].isin(seeds)] for name, one in (("closed", closed), ("open", part))}
        found = each_against(opened_tables(both, names, REPORTED_KINDS), "closed", [metric], rng=rng)
        parts.append(found.assign(system=str(system), leak=str(leak), against=against))
    whole = pd.concat(parts, ignore_index=True)
    turned = {"base_mean": "closed", "mean": "open"}
    turned |= {"difference": "worth", "interval_low": "low", "interval_high": "high"}
    whole = whole.rename(columns=turned)
    whole["p_holm"] = whole.groupby(["candidates", "kind"])["p"].transform(lambda p: significance.holm(p.to_numpy()))
    per_cent = list(turned.values())
    whole[per_cent] *= 100
    return whole[["system", "leak", "against", "seeds", *_CELL, *per_cent, "p_holm"]]


def worlds(
    table: pd.DataFrame,
    names: dict[str, str],
    *,
    rng: np.random.Generator,
    metric: str = "HR@10",
    resamples: int = 10_000,
) -> pd.DataFrame:
    """How far each system stands above ItemKNN in the order-free world, in the file's, and in the published one.

    What the order of a file is worth to a system: its lift here against its lift there. The worlds ask different
    targets, so their values do not compare with each other, only each with ItemKNN's beside it.

    Parameters
    ----------
    table
        Of :func:`.leak_worth.study`: the conditions ``none``, ``order`` and ``all`` that it has, ItemKNN among their
        systems.
    names
        Domain names by key.
    resamples
        Of a percentile bootstrap over users, one draw for all systems and cells of a world.

    Raises
    ------
    ValueError
        None of these conditions, or one without ItemKNN.

    Returns
    -------
    DataFrame
        ``system, world, seeds, domain, kind, candidates, metric, n``; ``value`` and ``itemknn``, per cent; ``lift``:
        value / itemknn - 1 in per cent, with its interval of 95 % (``low, high``); nan where ItemKNN has nothing.
    """
    shown = [one for one in (*WORLDS, "all") if (table["leaks"] == one).any()]
    if not shown:
        raise ValueError(f"the worlds are the conditions none, order and all; the table has {set(table['leaks'])}")
    parts = []
    for world, candidates in itertools.product(shown, CANDIDATES):
        systems = table[table["leaks"] == world].groupby("recommender", sort=False)
        opened = opened_tables({str(name): part for name, part in systems}, names, REPORTED_KINDS)
        if "itemknn" not in opened.systems:
            raise ValueError(f"{world}: lifts are over itemknn, which was not measured there")
        values, base = opened.values(candidates, [evaluation.cutoff_of(metric)]), list(opened.systems).index("itemknn")
        by_row = np.concatenate([value.mean(axis=0) for value in values.values()], axis=1)
        sums = sums_by_user(pd.factorize(opened.users)[0], opened.masks, by_row).transpose(1, 2, 0)
        users = sums.shape[2]  # of [cells, systems, users]
        drawn = [_lifts(sums @ weight.T, base) for weight in draws_of_users(users, resamples, rng)]
        lift = _lifts(sums.sum(axis=2, keepdims=True), base)
        # a draw in which ItemKNN has nothing says nothing; nor does a cell in which it never has
        spread = np.where(np.isnan(lift), 0.0, np.concatenate(drawn, axis=2))
        low, high = np.where(np.isnan(lift[:, :, 0]), np.nan, np.nanquantile(spread, [0.025, 0.975], axis=2))
        found = results_of(opened, {candidates: values}, [metric])  # cell by cell, as the arrays
        value = 100 * found["mean"].to_numpy().reshape(low.shape)
        itemknn = np.broadcast_to(value[:, [base]], value.shape)
        in_per_cent = {"value": value, "itemknn": itemknn, "lift": lift, "low": low, "high": high}
        parts.append(found.assign(world=world, **{name: array.ravel() for name, array in in_per_cent.items()}))
    columns = ["system", "world", "seeds", *_CELL, "value", "itemknn", "lift", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns]


def _lifts(sums: Array, base: int) -> Array:
    """[cells, systems, draws] -> each system's sum over that of system ``base``, less 1, in per cent; nan over 0."""
    below = sums[:, base : base + 1]
    ratio = np.divide(sums, below, out=np.full(sums.shape, np.nan), where=below > 0)
    return 100 * (ratio - 1)
