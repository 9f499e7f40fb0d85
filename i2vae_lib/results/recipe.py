"""The study of the recipe: beside the best reference ranker of each cell, and what each part of it is worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib import evaluation, shared
from i2vae_lib.experiments import sweeps
from i2vae_lib.experiments.grids import Sweep
from i2vae_lib.recommenders.references.ordered_counts import OrderedCounts
from i2vae_lib.results import lift
from i2vae_lib.results.differences import CELL, compare
from i2vae_lib.results.effects import effects
from i2vae_lib.runs import LayoutError, parameters_in, read_record
from i2vae_lib.stages import load_data

RECIPE = "full"


def tables(sweep: Sweep, out: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The study of the recipe, as far as it is done.

    Parameters
    ----------
    sweep, out
        ``params/sweeps/recipe.yaml``, resolved, and the folder of its cells.

    Returns
    -------
    against, each, about
        :func:`against_references` of the recipe; every row against the row that it is compared with
        (:func:`i2vae_lib.results.effects.effects`); mean lifts, runs by row and what is missing.

    Raises
    ------
    LayoutError
        No finished run of the recipe.
    """
    rows = list(dict.fromkeys(place.row for cell in sweep.cells for place in cell.places))
    done = {row: finished(sweep, out, row) for row in rows}
    if not done[RECIPE]:
        raise LayoutError(f"{out} holds no finished run of the recipe: nothing can be compared with it yet")
    rng = np.random.default_rng(0)
    recipe = list(done[RECIPE].values())
    against = against_references(recipe, rng=rng)
    about = {
        "mean_lift": lift.mean_lift(recipe, rng=rng)._asdict(),
        "mean_lift_full": lift.mean_lift(recipe, candidates="full", rng=rng)._asdict(),
        # of a cell where no reference has a hit there is none
        "mean_of_lifts": float(against["lift"].replace(np.inf, np.nan).mean()),
        "runs": {row: list(folders) for row, folders in done.items()},
        "missing": [row for row, folders in done.items() if not folders],
    }
    each = effects(sweep, out, rng=rng).drop_duplicates(["row", *CELL]).drop(columns="grid")
    each = each.set_index("row").loc[[row for row in rows if row in set(each["row"])]].reset_index()
    return against, each, about


def against_references(runs: Sequence[Path], *, rng: np.random.Generator) -> pd.DataFrame:
    """Runs of one system beside the best reference ranker of each cell.

    Parameters
    ----------
    runs
        Finished, of one system and several seeds.

    Returns
    -------
    DataFrame
        :func:`i2vae_lib.results.lift.cells`, and ``counts_alone``: the generator's counts as a ranker, without a model.
    """
    found = lift.cells(compare(list(runs), rng=rng))
    return found.merge(_counts_alone(runs[0]), on=CELL)


def finished(sweep: Sweep, out: Path, row: str) -> dict[int, Path]:
    """Finished runs of a row, by seed."""
    done = sweeps.done_cells(sweep, out)
    return {cell.parameters.seed: folder for cell, folder in done if row in {place.row for place in cell.places}}


def _counts_alone(run: Path) -> pd.DataFrame:
    """The generator's counts as a ranker on the test rows: what the model has to add to."""
    dataset, p = load_data(run), parameters_in(read_record(run), run)
    table = shared.ranked([OrderedCounts.of(dataset.splits["train"], p.psg)], dataset, p, full=False)
    found = evaluation.tidy(evaluation.metrics(table), dict(dataset.catalogue.names))
    found = found[found["candidates"] == "sampled"].rename(columns={"value": "counts_alone"})
    return found[[*CELL, "counts_alone"]]
