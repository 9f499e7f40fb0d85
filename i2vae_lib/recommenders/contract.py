"""The recommender contract, and the parts of it that every recommender shares.

A recommender is fitted on rows of two splits (it never gets the third), scores candidates of a row's target domain,
recommends in people's own ids, and lives on in a folder that alone suffices.

Users are never known to it: a row is what its histories hold. A system that learns a vector a user folds evaluation
rows in as new users (:mod:`i2vae_lib.recommenders.fold_in`), so that the same history gives the same answer whoever
asks; only under ``temporal`` do known users keep their vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from i2vae_lib.data.dataset import DOMAINS, PAD, Catalogue, DataError, Int, Ragged, Rows, history_keys
from i2vae_lib.params import Parameters
from i2vae_lib.psg import Generator
from i2vae_lib.training import Callbacks


class Recommender(Protocol):
    """What comparison, evaluation, the command line and the notebooks rely on."""

    name: str
    catalogue: Catalogue

    def fit(
        self,
        train: Rows,
        validation: Rows,
        *,
        params: Parameters,
        generator: Generator | None,
        rng: np.random.Generator,
        callbacks: Callbacks,
    ) -> Self:
        """Learn from ``train``, select on ``validation``.

        ``generator`` is the fitted pseudo-sequence generator (None for those who use none); ``rng`` is the only
        source of randomness.
        """
        ...

    def score(self, rows: Rows, candidates: Int) -> Int:
        """Scores of candidates in each row's target domain; higher is better.

        Parameters
        ----------
        rows
            Target domains may mix. Targets are not looked at.
        candidates
            Item numbers [rows, k]. A broadcast view (all rows share the candidates) may be scored at once.

        Returns
        -------
        float32 [rows, k]
            A row without any history gets its popularity, as from every recommender.

        Raises
        ------
        DataError
            A candidate outside 1…n.
        """
        ...

    def recommend(
        self, histories: Mapping[str, Sequence[Sequence[Any]]], domain: str, k: int
    ) -> list[tuple[list[str], list[float]]]:
        """The k best items of ``domain`` for people with these histories, in people's own ids.

        Parameters
        ----------
        histories
            ``{"x": [ids of user 0, …], "y": […]}``, oldest first; users never seen before are fine.

        Returns
        -------
        list
            For each user the ids and their scores, best first; nothing of the own history.
        """
        ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Self: ...


def rows_from_histories(catalogue: Catalogue, histories: Mapping[str, Sequence[Sequence[Any]]], domain: str) -> Rows:
    """Rows that ask for an item of ``domain``; their target is padding, for nobody knows what comes next.

    Raises
    ------
    DataError
        Unknown domain, lists of different lengths, or an id outside the vocabulary (named).
    """
    unknown = [key for key in (domain, *histories) if key not in DOMAINS]
    if unknown:
        raise DataError(
            f"unknown domain {unknown[0]!r}: expected 'x' ({catalogue.names['x']}) or 'y' ({catalogue.names['y']})"
        )
    filled = {d: list(histories.get(d, [])) for d in DOMAINS}
    count = max(len(one) for one in filled.values())
    for d in DOMAINS:
        filled[d] = filled[d] or [[]] * count
        if len(filled[d]) != count:
            raise DataError(f"histories of {count} users in one domain but {len(filled[d])} in {d}: one list a user")
    ragged = {d: Ragged.from_lists([catalogue.encode(d, ids) for ids in filled[d]]) for d in DOMAINS}
    # named by what they took: the fold, and so the answer, depends on nobody else in the call
    users = np.array([f"new user {key:016x}" for key in history_keys(ragged, "new user")], dtype=object)
    which = np.full(count, DOMAINS.index(domain), dtype=np.int8)
    return Rows(catalogue, users, which, np.full(count, PAD, dtype=np.int32), ragged, ragged[domain], np.arange(count))


def recommend(
    recommender: Recommender, histories: Mapping[str, Sequence[Sequence[Any]]], domain: str, k: int
) -> list[tuple[list[str], list[float]]]:
    """The body of every recommender's ``recommend``."""
    catalogue = recommender.catalogue
    if k < 1:
        raise DataError(f"k is {k}; ask for at least 1 item")
    rows = rows_from_histories(catalogue, histories, domain)
    everything = np.arange(1, catalogue.size(domain) + 1, dtype=np.int32)
    scores = recommender.score(rows, np.broadcast_to(everything, (len(rows), len(everything)))).copy()
    own = rows.history[domain]
    scores[own.owner, own.values - 1] = -np.inf
    found = []
    for row in range(len(rows)):
        order = np.argsort(-scores[row], kind="stable")[:k]
        order = order[np.isfinite(scores[row][order])]
        ids = [str(one) for one in catalogue.decode(domain, order + 1)]
        found.append((ids, [float(one) for one in scores[row][order]]))
    return found


def check_candidates(rows: Rows, candidates: Int) -> None:
    """Refuse candidates outside the vocabulary of a row's target domain (0 is padding, not an item)."""
    if candidates.shape[0] != len(rows):
        raise DataError(f"{len(rows)} rows but candidates of shape {candidates.shape}")
    shared = candidates.strides[0] == 0
    for d in DOMAINS:
        at = rows.of(d)
        part = candidates[:1] if shared else candidates[at]
        if len(at) and part.size and (part.min() < 1 or part.max() > rows.catalogue.size(d)):
            raise DataError(
                f"candidates of domain {d} ({rows.catalogue.names[d]}) must lie in 1…{rows.catalogue.size(d)}; "
                f"found {part.min()} to {part.max()}"
            )


def gather(table: Mapping[str, Int], rows: Rows, candidates: Int) -> Int:
    """Look candidates up in one number an item and domain: float32 [rows, k]."""
    scores = np.zeros(candidates.shape, dtype=np.float32)
    for d in DOMAINS:
        at = rows.of(d)
        scores[at] = table[d][candidates[at]]
    return scores


def without_evidence(rows: Rows) -> Int:
    """Rows with no history at all: every recommender ranks them by popularity, so nobody wins by a fallback."""
    blank: Int = (rows.lengths("own") == 0) & (rows.lengths("other") == 0)
    return blank
