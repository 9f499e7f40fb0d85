"""The recommender contract, and the parts of it that every recommender shares.

A recommender is fitted on rows of two splits (it never gets the third), scores candidates of a row's target domain,
recommends in people's own ids, and lives on in a folder that alone suffices.

It does not know users: a row is what its histories hold. A system that learns one vector per user folds evaluation
rows in as new users (:mod:`.systems.fold_in`), so that the same history gives the same answer whoever
asks. Only under ``temporal`` do known users keep their vectors.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from i2vae_lib.data.dataset import read_catalogue, save_catalogue
from i2vae_lib.data.histories import encoded_lists, rows_asking
from i2vae_lib.data.rows import DOMAINS, PAD, Array, Catalogue, DataError, Rows, batched
from i2vae_lib.evaluation import refuse_non_finite
from i2vae_lib.generators.graphs import best_columns
from i2vae_lib.generators.psg import Generator
from i2vae_lib.params import Parameters
from i2vae_lib.runs import read_header, reading, write_atomically, write_json
from i2vae_lib.training import Callbacks

_MODEL_LAYOUT = 4
_ANEW = "put the right file back, or train it anew"
ROWS_AT_ONCE = 1024
SCORES_AT_ONCE = 4_000_000  # rows and scores that best_items holds at once: speed and memory alone
_SORTED_TOGETHER = 16  # so many times these rows are sorted by length: rows at once are padded to their longest


class Recommender(ABC):
    """The interface that comparison, evaluation, the command line and the notebooks rely on.

    A recommender says in :meth:`fit` or in :meth:`learn` how it is fitted.
    """

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
        self.learn(train, validation, params)
        return self

    def learn(self, train: Rows, validation: Rows, params: Parameters) -> None:
        """:meth:`fit` of a recommender that needs no generator, no random numbers and no checkpoint."""
        raise NotImplementedError

    @abstractmethod
    def score(self, rows: Rows, candidates: Array) -> Array:
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
            ``{"x": [ids of user 0, …], "y": […]}``, oldest first; users never seen before are fine. Domains go by
            key or name.

        Returns
        -------
        list
            For each user the ids and their scores, best first; nothing of the own history.
        """
        catalogue = self.catalogue
        domain = catalogue.key(domain)
        rows = rows_asking(catalogue, encoded_lists(catalogue, histories)[0], domain)
        found = []
        for items, scores in best_items(self, rows, domain, k):
            there = items != PAD
            ids = [str(one) for one in catalogue.decode(domain, items[there])]
            ends = pairwise([0, *np.cumsum(there.sum(axis=1)).tolist()])
            for (begin, end), values in zip(ends, scores.tolist(), strict=True):
                found.append((ids[begin:end], values[: end - begin]))
        return found

    @abstractmethod
    def save(self, folder: Path) -> None: ...

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self: ...


def save_model(folder: Path, catalogue: Catalogue, tensors: Mapping[str, torch.Tensor], **header: Any) -> None:
    """Tensors as safetensors, the catalogue and a header beside them: all that :func:`saved_model` needs."""
    save_catalogue(catalogue, folder)
    # copies: tables of one count under several settings share memory, which safetensors refuses
    copies = {name: one.detach().cpu().clone(memory_format=torch.contiguous_format) for name, one in tensors.items()}
    write_atomically(folder / "weights.safetensors", lambda part: save_file(copies, part))
    write_json(folder / "model.json", {"layout": _MODEL_LAYOUT} | header)


@contextmanager
def saved_model(folder: Path) -> Iterator[tuple[dict[str, Any], Catalogue, dict[str, torch.Tensor]]]:
    """Header, catalogue and tensors that :func:`save_model` wrote, for the model that is made of them in the block.

    Raises
    ------
    LayoutError
        There is no saved model, it is damaged or of another layout version, or what is made of it fails.
    """
    header = read_header(folder / "model.json", "saved model", _MODEL_LAYOUT, _ANEW)
    with reading(folder / "weights.safetensors", _ANEW):
        yield header, read_catalogue(folder), load_file(folder / "weights.safetensors")


def check_count(name: str, value: Any) -> None:
    """Refuse what is no whole number of at least 1.

    Raises
    ------
    DataError
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise DataError(f"{name} is {value!r}: expected a whole number")
    if value < 1:
        raise DataError(f"{name} is {value}; ask for at least 1 item")


def best_items(
    recommender: Recommender, rows: Rows, domain: str, k: int, among: Array | None = None
) -> Iterator[tuple[Array, Array]]:
    """The k best items of ``domain`` for rows that all ask for it, in blocks of rows to bound memory.

    Parameters
    ----------
    among
        Item numbers to choose from; None: all.

    Yields
    ------
    items, scores
        int32 and float32 [rows of the block, k at most], best first, of equal scores the smaller number; nothing of
        the own history. Where fewer than k are left, 0 and minus infinity.

    Raises
    ------
    DataError
        k below 1, or nothing to choose from.
    """
    check_count("k", k)
    size = recommender.catalogue.size(domain)
    columns = np.arange(1, size + 1) if among is None else np.unique(among)
    if not len(columns):
        raise DataError(f"no item of {recommender.catalogue.names[domain]} is left to choose from")
    place = np.full(size + 1, -1)
    place[columns] = np.arange(len(columns))
    step = min(ROWS_AT_ONCE, max(1, SCORES_AT_ONCE // max(1, len(columns))))
    width = min(k, len(columns))
    together = min(_SORTED_TOGETHER * step, max(step, SCORES_AT_ONCE // width))  # what is found is held too
    for within in batched(np.arange(len(rows)), together):
        block = rows.take(within)
        order = np.argsort(block.lengths("own") + block.lengths("other"), kind="stable")
        chosen, values = np.zeros((len(block), width), np.int32), np.zeros((len(block), width), np.float32)
        for at in batched(order, step):
            part = block.take(at)
            scores = recommender.score(part, np.broadcast_to(columns.astype(np.int32), (len(part), len(columns))))
            refuse_non_finite(recommender, scores, part)
            scores = scores.copy()
            own = part.history[domain]
            taken = place[own.values]
            scores[own.owner[taken >= 0], taken[taken >= 0]] = -np.inf
            best = best_columns(scores, k)
            values[at] = found = np.take_along_axis(scores, best, axis=1)
            chosen[at] = np.where(np.isfinite(found), columns[best], PAD)
        yield chosen, values


def check_candidates(rows: Rows, candidates: Array) -> None:
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


def gather(table: Mapping[str, Array], rows: Rows, candidates: Array) -> Array:
    """Look candidates up in one number per item and domain: float32 [rows, k]."""
    scores = np.zeros(candidates.shape, dtype=np.float32)
    for d in DOMAINS:
        at = rows.of(d)
        scores[at] = table[d][candidates[at]]
    return scores


def without_evidence(rows: Rows) -> Array:
    """Rows without any history. Every recommender ranks them by popularity, so none gains from its fall-back."""
    return (rows.lengths("own") == 0) & (rows.lengths("other") == 0)
