"""The control *fewest takers*: does the catalogue tell which items will be taken?

A ranker sorts a domain's catalogue by *fewest* training takers. Where training alone made the catalogue it stays below
chance, since people take what others took. Where rows that are still to be asked for had a say, an item of few or no
training takers is there because one of those rows holds it.
"""

import numpy as np
import pandas as pd

from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, popularity
from i2vae_lib.evaluation import hit_rate

# share of a row's candidates that counts as a hit, as 10 of 1,000: what a ranker that knows nothing reaches
CHANCE = 0.01
ERRORS = 3.0  # how many standard errors above chance are too many


def fewest_takers(dataset: CrossDomainDataset, split: str = "test") -> pd.DataFrame:
    """How often the target is among the ``CHANCE`` of the catalogue with the fewest training takers.

    A row's candidates are the whole catalogue of its domain but for its own history (before a cold-start removal);
    ties count in expectation, so that a constant ranker has exactly ``CHANCE``.

    Returns
    -------
    DataFrame
        A line a domain: ``domain`` (name), ``rows``, ``hit_rate``, ``chance``, ``error`` (binomial standard error at
        chance; nan without rows) and ``above``: whether the hit rate lies above chance by more than ``ERRORS`` of them.
    """
    rows, takers = dataset.splits[split], popularity(dataset.splits["train"])
    lines = []
    for d in DOMAINS:
        at, counts = rows.of(d), takers[d]
        target, own = rows.target[at], rows.excluded.take(at)
        # each item of the own history once, whatever repeats the data have
        once = own.keep(own.values != target[own.owner]).distinct()
        owner, item = once.owner, once.values
        against = np.sign(counts[item] - counts[target][owner])
        held = {sign: np.bincount(owner[against == sign], minlength=len(at)) for sign in (-1, 0)}
        ascending = np.sort(counts[1:])
        first, last = (np.searchsorted(ascending, counts[target], side=side) for side in ("left", "right"))
        places = CHANCE * (len(ascending) - np.bincount(owner, minlength=len(at)))
        hits = hit_rate(first - held[-1], last - first - 1 - held[0], places)
        rate = float(hits.mean()) if len(at) else np.nan
        error = float(np.sqrt(CHANCE * (1 - CHANCE) / len(at))) if len(at) else np.nan
        lines.append((dataset.catalogue.names[d], len(at), rate, CHANCE, error, rate > CHANCE + ERRORS * error))
    return pd.DataFrame(lines, columns=["domain", "rows", "hit_rate", "chance", "error", "above"])
