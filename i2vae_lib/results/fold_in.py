"""What folding in (``recommenders/systems/fold_in.py``) costs: the same rows, as known users and as newcomers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from i2vae_lib import evaluation
from i2vae_lib.data import DOMAINS
from i2vae_lib.results.differences import CELL, each_against
from i2vae_lib.results.reading import opened_tables
from i2vae_lib.runs import LayoutError, parameters_in, read_record
from i2vae_lib.stages import load_data, load_system

_KINDS = ("all", "tailed")  # a cold row's user has no vector in the target domain


def measured(run: Path) -> pd.DataFrame:
    """A run's known users by domain and user type: ranked as themselves, ranked as newcomers, and the difference."""
    p = parameters_in(read_record(run), run)
    if p.protocol != "temporal":
        raise LayoutError(f"{run} is of {p.protocol}: only under temporal are evaluation users training users too")
    dataset, system = load_data(run), load_system(run)
    train, rows = dataset.splits["train"], dataset.splits["test"]
    # a vector is known where the user took anything in training in the domain that the row asks for
    took = {d: (train.domain == i) | (train.history[d].lengths > 0) for i, d in enumerate(DOMAINS)}
    users = {d: set(train.user[took[d]]) for d in DOMAINS}
    known = np.array([user in users[DOMAINS[d]] for user, d in zip(rows.user, rows.domain)])
    rows = rows.take(np.flatnonzero(known & (rows.lengths("own") > 0)))
    newcomers = replace(rows, user=np.array([f"newcomer {user}" for user in rows.user], dtype=object))
    negatives = evaluation.sample_negatives(rows, p.evaluation.negatives, p.split.data_seed)
    size, seen = p.evaluation.batch_size, evaluation.seen_targets(rows, train)
    tables = {}
    for name, asked in {"trained": rows, "folded_in": newcomers}.items():
        ranks = evaluation.rank(system, asked, negatives, full=False, batch_size=size)
        tables[name] = evaluation.rank_table(name, rows, dataset.tail["test"], seen, ranks).assign(seed=p.seed)
    opened = opened_tables(tables, dataset.catalogue.names, _KINDS)
    found = each_against(opened, "trained", rng=np.random.default_rng(0))
    found = found.assign(system=system.name).rename(columns={"base_mean": "trained", "mean": "folded_in"})
    return found[["system", *CELL, "n", *tables, "difference", "interval_low", "interval_high"]]
