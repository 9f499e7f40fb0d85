"""Statistics of a pair: what a reader compares before trusting a result on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from i2vae_lib.data.dataset import DOMAINS, CrossDomainDataset, Int, interactions


def describe(dataset: CrossDomainDataset) -> pd.DataFrame:
    """One line a statistic, one column a domain.

    Returns
    -------
    DataFrame
        Columns ``statistic`` and the two domains' names. Shares are fractions of rows, lengths are items; all but the
        items, links and test shares are of the training rows.
    """
    train, test = dataset.splits["train"], dataset.splits["test"]
    pairs = interactions(train)
    found: dict[str, list[float]] = {}
    for d in DOMAINS:
        at, items = train.of(d), pairs[d][1]
        own, opposite = train.lengths("own")[at], train.lengths("other")[at]
        kinds = {kind: mask[test.of(d)] for kind, mask in test.kinds().items()}
        counts = np.sort(np.bincount(items, minlength=dataset.catalogue.size(d) + 1)[1:])[::-1]
        column = {
            "items in the catalogue": dataset.catalogue.size(d),
            "items also in the other domain": len(dataset.catalogue.links),
            "training rows": len(at),
            "training interactions": len(items),
            "own history, mean": own.mean(),
            "own history, median": float(np.median(own)),
            "own history, longest": own.max(),
            "share with the other history": (opposite > 0).mean(),
            "other history where there is one, mean": opposite[opposite > 0].mean(),
            "share of interactions on the top 10 % of items": counts[: len(counts) // 10].sum() / counts.sum(),
            "test rows": len(test.of(d)),
            "share of cold test rows": kinds["cold"].mean(),
            "share of test rows without history": kinds["no_history"].mean(),
            "L80 of the test rows": dataset.tail["test"][d],
        }
        for statistic, value in column.items():
            found.setdefault(statistic, []).append(round(float(value), 3))
    names = [dataset.catalogue.names[d] for d in DOMAINS]
    return pd.DataFrame.from_dict(found, orient="index", columns=names).rename_axis("statistic").reset_index()


def length_shares(dataset: CrossDomainDataset, longest: int = 12) -> pd.DataFrame:
    """Share of training rows by own length (``longest`` and above together): columns ``length`` and domain names."""
    train = dataset.splits["train"]
    table = {"length": [*map(str, range(1, longest)), f"{longest}+"]}
    for d in DOMAINS:
        lengths = np.minimum(train.lengths("own")[train.of(d)], longest)
        shares = np.bincount(lengths, minlength=longest + 1)[1:] / len(lengths)
        table[dataset.catalogue.names[d]] = shares.round(4).tolist()
    return pd.DataFrame(table)


def popularity_curve(counts: Int, points: int = 60) -> pd.DataFrame:
    """Items by falling popularity at ``points`` ranks spread evenly on a log scale: columns ``rank`` and ``users``."""
    ordered = np.sort(counts[1:])[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), points).astype(int))
    return pd.DataFrame({"rank": ranks, "users": ordered[ranks - 1]})


def released_statistics() -> pd.DataFrame:
    """``docs/results/pair_statistics.csv`` of this checkout: :func:`describe` of the released pairs under ``strict``.

    An installed wheel does not carry it: then only the column ``statistic`` comes back, empty.
    """
    path = Path(__file__).parents[2] / "docs" / "results" / "pair_statistics.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame({"statistic": pd.Series(dtype="str")})
