"""Cold rows in numbers: finished models on the same test users, all of whom lose one domain's history.

As drawn (``split.cold_share``), few pairs have a hundred cold rows in a domain. Here every test user with both
histories is made cold in one domain, chosen by the same hash; training rows, validation rows and models stay.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from i2vae_lib.data.dataset import CrossDomainDataset, rows_digest
from i2vae_lib.data.loading import load_dataset_once
from i2vae_lib.params import Parameters
from i2vae_lib.results.differences import CELL, each_against
from i2vae_lib.results.reading import opened_tables
from i2vae_lib.runs import LayoutError, parameters_in, read_record
from i2vae_lib.shared import ranked, references
from i2vae_lib.stages import load_system


def all_cold(p: Parameters) -> CrossDomainDataset:
    """The dataset of these parameters, with the cold ones of the test rows of ``split.cold_share`` = 1 alone.

    Raises
    ------
    LayoutError
        The protocol makes no cold rows, so that training rows would be others, or none are cold.
    """
    if p.protocol != "chronological":
        raise LayoutError(f"cold rows are made under chronological alone, not under {p.protocol}")
    own = load_dataset_once(p)
    colder = load_dataset_once(p.model_copy(update={"split": p.split.model_copy(update={"cold_share": 1.0})}))
    assert rows_digest(own.splits["train"]) == rows_digest(colder.splits["train"])
    test = colder.splits["test"]
    test = test.take(np.flatnonzero(test.kinds()["cold"]))
    if not len(test):
        raise LayoutError(f"{p.data}: no test user has both histories, so none can be made cold")
    return replace(own, splits={**own.splits, "test": test})


def ranks(runs: Mapping[str, Path], dataset: CrossDomainDataset) -> pd.DataFrame:
    """Test rows of a dataset ranked by the models of runs and by the reference rankers: lines of ``ranks.parquet``."""
    models = [load_system(run) for run in runs.values()]
    first = next(iter(runs.values()))
    p = parameters_in(read_record(first), first)
    return ranked([*models, *references(dataset, p)], dataset, p).assign(seed=p.seed)


def measured(runs: Mapping[str, Path], base: str, rng: np.random.Generator) -> pd.DataFrame:
    """Every system, and every reference ranker, beside ``base`` on cold rows.

    Parameters
    ----------
    runs
        System -> its run directory; all of one dataset and seed.

    Returns
    -------
    DataFrame
        ``system, base``, a cell (domain, kind ``cold``, metric) with its ``n``, ``candidates``, ``mean`` and
        ``base_mean``, ``difference`` (system less base) and its 95 % interval over users.
    """
    dataset = all_cold(parameters_in(read_record(runs[base]), runs[base]))
    by_system = {str(name): part for name, part in ranks(runs, dataset).groupby("recommender", sort=False)}
    found = each_against(opened_tables(by_system, dataset.catalogue.names, ["cold"]), base, rng=rng)
    sides = ["difference", "interval_low", "interval_high"]
    return found[["system", "base", *CELL, "n", "candidates", "mean", "base_mean", *sides]]
