"""Statistics of a pair: what a reader compares before trusting a result on it."""

import numpy as np
import pandas as pd

from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.rows import DAY, DOMAINS, Array, among, distinct, interactions
from i2vae_lib.runs import committed_path


def describe(dataset: CrossDomainDataset) -> pd.DataFrame:
    """One line per statistic, one column per domain.

    Returns
    -------
    DataFrame
        Columns ``statistic`` and the two domains' names. Shares are fractions of rows, lengths are in items;
        everything except items, links and test shares describes the training rows.
    """
    train, test = dataset.splits["train"], dataset.splits["test"]
    pairs = interactions(train)
    columns = {}
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
        columns[dataset.catalogue.names[d]] = {name: round(float(value), 3) for name, value in column.items()}
    return pd.DataFrame(columns).rename_axis("statistic").reset_index()


def describe_log(dataset: CrossDomainDataset) -> pd.DataFrame:
    """A timestamped log after its filters: one line per statistic, one column per domain.

    Returns
    -------
    DataFrame
        Columns ``statistic`` and the two domains' names, as text; lengths are events per user, days are UTC days.
    """
    assert dataset.log is not None
    users = {d: distinct(events.user) for d, events in dataset.log.events.items()}
    both = int(among(users["x"], users["y"]).sum())
    columns = {}
    for d, events in dataset.log.events.items():
        lengths, days = np.bincount(events.user)[users[d]], events.time // DAY
        columns[dataset.catalogue.names[d]] = {
            "users": f"{len(users[d]):,}",
            "users also in the other domain": f"{both:,}",
            "items": f"{dataset.catalogue.size(d):,}",
            "interactions": f"{len(events):,}",
            "interactions a user, mean": f"{lengths.mean():.2f}",
            "interactions a user, median": f"{np.median(lengths):.0f}",
            "interactions a user, longest": f"{lengths.max():,}",
            "first day": str(np.datetime64(int(days.min()), "D")),
            "last day": str(np.datetime64(int(days.max()), "D")),
            "days spanned": f"{int(days.max() - days.min()) + 1:,}",
            "share of a user's events on a day with another": f"{_same_day(events.user, days):.3f}",
        }
    table = pd.DataFrame(columns).rename_axis("statistic").reset_index()
    # an order without times has no days
    return table if dataset.log.common_time else table[~table["statistic"].str.contains("day")]


def _same_day(user: Array, days: Array) -> float:
    """Share of events that share their day with another of the same user: how much a tie-break decides."""
    _, inverse, counts = np.unique(np.stack([user, days]), axis=1, return_inverse=True, return_counts=True)
    return float((counts[inverse.ravel()] > 1).mean())


def length_shares(dataset: CrossDomainDataset, longest: int = 12) -> pd.DataFrame:
    """Share of training rows by own length (``longest`` and above together): columns ``length`` and domain names.

    Length 0 has a line only if some row has no own history (as under ``temporal``).
    """
    train = dataset.splits["train"]
    shortest = min(1, int(train.lengths("own").min()))
    table = {"length": [*map(str, range(shortest, longest)), f"{longest}+"]}
    for d in DOMAINS:
        lengths = np.minimum(train.lengths("own")[train.of(d)], longest)
        shares = np.bincount(lengths, minlength=longest + 1)[shortest:] / len(lengths)
        table[dataset.catalogue.names[d]] = shares.round(4).tolist()
    return pd.DataFrame(table)


def popularity_curve(counts: Array, points: int = 60) -> pd.DataFrame:
    """Popularity by rank, at ``points`` ranks evenly spaced on a log scale: columns ``rank`` and ``users``."""
    ordered = np.sort(counts[1:])[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), points).astype(int))
    return pd.DataFrame({"rank": ranks, "users": ordered[ranks - 1]})


def committed(name: str) -> pd.DataFrame:
    """``docs/results/NAME.csv``; empty where no table of that name is kept."""
    path = committed_path(name)
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def released_statistics() -> pd.DataFrame:
    """``docs/results/pair_statistics.csv``: :func:`describe` of the released pairs under ``strict``."""
    return committed("pair_statistics")
