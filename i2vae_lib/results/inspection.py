"""What a pseudo-sequence generator recalls, measured against held-out items and the truth.

Functions of what is recalled take rows and their recalled items (int [rows, n], 0-padded).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, PAD, Array, Rows
from i2vae_lib.data.synthetic import next_item_probabilities


def target_share(rows: Rows, items: Array) -> Array:
    """Whether each row's target is among its recalled items: bool [rows]. The target is looked at only here."""
    return (items == rows.target[:, None]).any(axis=1)


def history_overlap(rows: Rows, items: Array) -> int:
    """Number of recalled items that stand in the row's own history (a generator must give 0)."""
    count = 0
    for row in range(len(rows)):
        own = rows.history[DOMAINS[rows.domain[row]]][row]
        count += int(np.isin(items[row][items[row] != PAD], own).sum())
    return count


def relevance(dataset: CrossDomainDataset, rows: Rows, items: Array) -> Array:
    """Planted relevance of what was recalled: float [rows], NaN where nothing was.

    The mean planted probability of the recalled items over that of the catalogue's average item: 1 is chance.
    """
    result = np.full(len(rows), np.nan)
    for d in DOMAINS:
        at = rows.of(d)
        truth = next_item_probabilities(dataset.truth, rows, at, d) * dataset.catalogue.size(d)
        chosen = np.take_along_axis(truth, items[at].astype(np.int64), axis=1)
        there = items[at] != PAD
        count = there.sum(axis=1)
        total = np.where(there, chosen, 0.0).sum(axis=1)
        result[at] = np.divide(total, count, out=np.full(len(at), np.nan), where=count > 0)
    return result


def by_history_length(rows: Rows, values: Array, edges: tuple[int, ...] = (1, 2, 3, 5, 9)) -> pd.DataFrame:
    """Mean of a value a row by own-history length, warm rows only: ``length, n, mean, error`` (standard error)."""
    own = rows.lengths("own")
    lines = []
    for low, high in zip(edges, (*edges[1:], None), strict=True):
        chosen = (own >= low) & (own < high if high is not None else True)
        part = values[chosen].astype(float)
        label = f"{low}+" if high is None else (str(low) if high == low + 1 else f"{low}-{high - 1}")
        error = part.std() / np.sqrt(len(part)) if len(part) else np.nan
        lines.append((label, len(part), part.mean() if len(part) else np.nan, error))
    return pd.DataFrame(lines, columns=["length", "n", "mean", "error"])


def popularity_percentile(rows: Rows, items: Array, counts: Mapping[str, Array]) -> Array:
    """Popularity percentile of every recalled item (0 rarest, 100 most taken), all in one array."""
    found = []
    for d in DOMAINS:
        order = pd.Series(counts[d][1:]).rank(pct=True).to_numpy() * 100
        recalled = items[rows.of(d)]
        found.append(order[recalled[recalled != PAD] - 1])
    return np.concatenate(found)


def side_by_side(rows: Rows, items: Array, scores: Array, row: int, count: int = 8) -> pd.DataFrame:
    """One row's real items (most recent first) beside its pseudo-items, with titles where the data has them."""
    d = DOMAINS[rows.domain[row]]
    real = rows.history[d][row][::-1][:count]
    recalled = items[row][items[row] != PAD][:count]
    columns = {
        "real item": rows.catalogue.label(d, real),
        "pseudo-item": rows.catalogue.label(d, recalled),
        "score": [f"{score:.3f}" for score in scores[row][: len(recalled)]],
    }
    return pd.DataFrame({name: pd.Series(one, dtype=object) for name, one in columns.items()}).fillna("")
