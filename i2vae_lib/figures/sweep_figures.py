"""The figures of a sweep: curves over an axis, differences of its rows to their bases."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from i2vae_lib.experiments import sweeps
from i2vae_lib.experiments.grids import Sweep
from i2vae_lib.figures import plots
from i2vae_lib.results import lift
from i2vae_lib.results.effects import effects
from i2vae_lib.results.reading import METRICS


def sweep_figures(sweep: Sweep, table: pd.DataFrame, out: Path) -> dict[str, tuple[go.Figure, pd.DataFrame]]:
    """What a sweep has to show so far: figures by name, each with its table.

    A grid with an axis is drawn as curves over it (the key with most values), by user type; where rows or other axes
    are lines of their own, each user type has a figure. A grid of rows alone is drawn as differences to their bases, a
    figure a user type and metric. Names are the grid's for all rows and HR@10, with what differs after it otherwise.

    Parameters
    ----------
    table
        :func:`i2vae_lib.experiments.sweeps.results`.
    out
        Folder of the cells.
    """
    axes, found, rows_alone = sweep.axes(), {}, []
    over = sweeps.over_seeds(table, axes)
    for grid, part in over.groupby("grid", sort=False):
        varied = sorted((key for key in axes if part[key].nunique() > 1), key=lambda key: -part[key].nunique())
        if varied:
            for kind, drawn, shown in _curves(part, varied, f"{sweep.name}: {grid}"):
                found[_slug(grid, "" if kind == "all" else kind)] = (drawn, shown)
        else:
            rows_alone.append(grid)
    if rows_alone:
        against = lift.in_per_cent(effects(sweep, out, rng=np.random.default_rng(0)))
        compared = against[against["grid"].isin(rows_alone)]
        for key, lines in compared.groupby(["grid", "kind", "metric"], sort=False):
            name, kind, metric = map(str, key)
            shown = lines.assign(system=lines["row"])
            drawn = plots.differences(shown, f"{sweep.name}: {name}, {metric} less the base's, {kind} rows")
            at = _slug(name, "" if kind == "all" else kind, "" if metric == "HR@10" else metric)
            found[at] = (drawn, shown)
    return found


def _curves(part: pd.DataFrame, varied: list[str], head: str) -> Iterator[tuple[str, go.Figure, pd.DataFrame]]:
    """The figures of one grid over the first of the keys that it varies: for which rows, figure and table."""
    axis, *others = varied
    own = lift.in_per_cent(sweeps.own_cells(part, *METRICS))
    gaps = part[part["seeds"] == 0]
    named = own["row"].astype(str)
    for key in others:
        named = named + ", " + own[key].astype(str)
    own = own.assign(line=named.str.strip(", "))
    if own["line"].str.len().any():
        for kind in dict.fromkeys(own["kind"]):
            shown = pd.concat([own[own["kind"] == kind], gaps])
            yield kind, plots.curves(shown, axis, "line", f"{head}, {kind} rows"), shown
    else:
        shown = pd.concat([own, gaps])
        yield "all", plots.curves(shown, axis, "kind", head), shown


def _slug(*words: object) -> str:
    return re.sub("[^a-z0-9]+", "-", " ".join(map(str, words)).lower()).strip("-")
