"""The study of the reference rankers: each on several draws of users, cold rows and candidates."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from i2vae_lib import evaluation, shared
from i2vae_lib.data import load_dataset_once
from i2vae_lib.params import Parameters


def over_splits(settings: Iterable[Parameters]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rank the test rows of several splits of a pair with every reference ranker.

    Nothing is trained by gradient; the settings of a ranker are chosen on the validation rows of each split, and what
    was fitted before comes from the cache.

    Parameters
    ----------
    settings
        Parameters that differ in ``split.data_seed``.

    Returns
    -------
    table, about
        :func:`i2vae_lib.evaluation.tidy` with ``data_seed``; what was chosen and each dataset's fingerprint, by that
        seed, and the SHA-256 of the source.
    """
    tables, chosen, fingerprints, source = [], {}, {}, ""
    for p in settings:
        dataset = load_dataset_once(p)
        ranks, own, _ = shared.reference_ranks(dataset, p)
        table = evaluation.tidy(evaluation.metrics(ranks), dict(dataset.catalogue.names))
        seed = p.split.data_seed
        tables.append(table.assign(data_seed=seed))
        chosen[str(seed)], fingerprints[str(seed)], source = own, dataset.fingerprint(), dataset.source_sha256
    about = {"chosen": chosen, "dataset_sha256": fingerprints, "data_sha256": source}
    return pd.concat(tables, ignore_index=True), about


def hits(table: pd.DataFrame) -> pd.DataFrame:
    """HR@10 in per cent, all rows, sampled candidates: mean and standard deviation over splits, a line per domain."""
    part = table[(table["kind"] == "all") & (table["metric"] == "HR@10") & (table["candidates"] == "sampled")]
    over = 100 * part.groupby(["domain", "recommender"], sort=False)["value"].agg(["mean", "std"])
    written = over.round(2).astype(str)
    return (written["mean"] + " ± " + written["std"]).unstack("recommender")
