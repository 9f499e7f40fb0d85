"""What folding in costs a system that learns a vector for each user: the same rows, known users and newcomers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib import evaluation
from i2vae_lib.data import DOMAINS, CrossDomainDataset
from i2vae_lib.evaluation import cutoff_of, row_values
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import SYSTEMS
from i2vae_lib.results.reading import METRICS
from i2vae_lib.results.significance import paired_bootstrap
from i2vae_lib.runs import LayoutError, read_record

KINDS = ("all", "tailed")
"""A cold row's user has no vector in the target domain."""


def measured(run: Path) -> pd.DataFrame:
    """A run's known users by domain and user type: ranked as themselves, ranked as newcomers, and the difference."""
    p = Parameters.model_validate(read_record(run)["parameters"])
    if p.protocol != "temporal":
        raise LayoutError(f"{run} is of {p.protocol}: only under temporal are evaluation users training users too")
    dataset = CrossDomainDataset.load(run / "dataset")
    system: Any = SYSTEMS[p.system].load(run / "model")
    train, rows = dataset.splits["train"], dataset.splits["test"]
    # a vector is known where the user took anything in training in the domain that the row asks for
    took = {d: (train.domain == i) | (train.history[d].lengths > 0) for i, d in enumerate(DOMAINS)}
    users = {d: set(train.user[took[d]]) for d in DOMAINS}
    known = np.array([user in users[DOMAINS[d]] for user, d in zip(rows.user, rows.domain)])
    rows = rows.take(np.flatnonzero(known & (rows.lengths("own") > 0)))
    newcomers = replace(rows, user=np.array([f"newcomer {user}" for user in rows.user], dtype=object))
    negatives = evaluation.sample_negatives(rows, p.evaluation.negatives, p.split.data_seed)
    cutoffs = [cutoff_of(name) for name in METRICS]
    size = p.evaluation.batch_size
    ranks = [evaluation.rank(system, one, negatives, full=False, batch_size=size) for one in (rows, newcomers)]
    values = [row_values(one, "sampled", cutoffs) for one in ranks]
    kinds = rows.kinds(dataset.tail["test"])
    cells = [(d, kind) for d in DOMAINS for kind in KINDS]
    chosen = np.stack([(rows.domain == DOMAINS.index(d)) & kinds[kind] for d, kind in cells], axis=1)
    found = paired_bootstrap(values[1], values[0], chosen, rng=np.random.default_rng(0), cluster=rows.user)
    lines = [
        {
            "system": system.name,
            "domain": dataset.catalogue.names[d],
            "kind": kind,
            "metric": metric,
            "n": int(found.n[i, k]),
            "trained": values[0][chosen[:, i], k].mean(),
            "folded_in": values[1][chosen[:, i], k].mean(),
            "difference": found.difference[i, k],
            "interval_low": found.low[i, k],
            "interval_high": found.high[i, k],
        }
        for i, (d, kind) in enumerate(cells)
        for k, metric in enumerate(METRICS)
    ]
    return pd.DataFrame(lines)
