"""What ItemKNN and EASE share: scores from a row's items, the fall-back to popularity, and selection on validation.

**The fall-back.** Evidence s(j) of a candidate may be positive, zero (nothing speaks for or against it) or negative.
With p(j) in [0, 1) its popularity (:func:`share`) and two small constants,

    s > 0    s (1 + NUDGE p)
    s = 0    FLOOR (p - 1)
    s < 0    s (1 - NUDGE p) - FLOOR

so positive evidence always stands above none and none above negative; candidates without evidence are in order of
popularity, and so are those of equal evidence. Evidence that agrees to about NUDGE, relative, counts as equal: sums
of the same terms in another order differ by some 1e-7, and a step of popularity has to be visible in float32.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import sparse

from i2vae_lib.data.dataset import DOMAINS, Catalogue, Int, Rows, popularity, read_catalogue, save_catalogue
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.graphs import Unified, user_items
from i2vae_lib.params import Parameters
from i2vae_lib.psg import Generator
from i2vae_lib.recommenders import contract
from i2vae_lib.runs import LayoutError, write_atomically, write_json
from i2vae_lib.training import Callbacks

NUDGE = 1e-4
FLOOR = 1e-6
CHUNK = 512  # rows scored at once: a dense line of items (EASE: and of users) for each
NEIGHBOURS_LAYOUT = 1


def share(counts: Mapping[str, Int]) -> dict[str, Int]:
    """Popularity in [0, 1) by domain, ascending in the counts: log(1 + c) / log(2 + max c).

    Logarithmic, because most items have small counts and the steps between those should survive rounding.
    """
    return {d: np.log1p(one) / np.log1p(one.max(initial=0) + 1) for d, one in counts.items()}


def fall_back(evidence: Int, popular: Int) -> Int:
    """Evidence and popularity as one float32 score, as the module docstring has it."""
    nudged = evidence * (1 + NUDGE * np.sign(evidence) * popular)
    scores = np.where(evidence == 0, FLOOR * (popular - 1), nudged - FLOOR * (evidence < 0))
    return scores.astype(np.float32)


def arrays_of(name: str, matrix: sparse.csr_matrix) -> dict[str, Int]:
    """A sparse matrix as named arrays, for safetensors."""
    return {f"{name}/data": matrix.data, f"{name}/indices": matrix.indices, f"{name}/indptr": matrix.indptr}


def matrix_of(name: str, arrays: Mapping[str, Int], columns: int) -> sparse.csr_matrix:
    """What :func:`arrays_of` took apart."""
    parts = tuple(arrays[f"{name}/{part}"] for part in ("data", "indices", "indptr"))
    return sparse.csr_matrix(parts, shape=(len(parts[2]) - 1, columns))


class FromHistories(ABC):
    """A recommender whose scores are a function of the set of a row's items, of both domains alike.

    Attributes
    ----------
    chosen
        After :meth:`fit`: the hyper-parameters that validation chose, their ``validation NDCG@10`` (sampled, mean of
        the domains), and under ``grid`` the same of everything that was tried. Saved with the model.
    """

    name: str

    def __init__(self, catalogue: Catalogue):
        self.catalogue = catalogue
        self.unified = Unified(catalogue)
        self.counts: Mapping[str, Int] = {}
        self.chosen: dict[str, Any] = {}

    @classmethod
    def unfitted(cls, catalogue: Catalogue) -> Self:
        return cls(catalogue)

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
        """Learn every setting of ``params.references`` from ``train``; the best on ``validation`` stays."""
        self.counts = popularity(train)
        negatives = sample_negatives(validation, params.evaluation.negatives, params.split.data_seed)

        def validated() -> float:
            ranks = rank(self, validation, negatives, full=False, batch_size=params.evaluation.batch_size)
            return selection_metric(ranks, validation)["ndcg@10"]

        matrix = user_items(train, self.unified)
        tried, best = [], -1.0
        for setting in self.settings(matrix, params):
            tried.append(setting | {"validation NDCG@10": validated()})
            if tried[-1]["validation NDCG@10"] > best:  # of equals the first
                best, kept, self.chosen = tried[-1]["validation NDCG@10"], self.arrays(), dict(tried[-1])
        self.restore(kept)
        self.chosen["grid"] = tried
        return self

    @abstractmethod
    def settings(self, matrix: sparse.csr_matrix, params: Parameters) -> Iterator[dict[str, Any]]:
        """Learn one setting after another from users x unified items; yields each when :meth:`evidence` is ready."""

    @abstractmethod
    def evidence(self, histories: sparse.csr_matrix, domain: str) -> Int:
        """What rows x unified items say of each item of ``domain``: float32 [rows, n]; 0 says nothing."""

    @abstractmethod
    def apart(self, train: Rows) -> Int:
        """What was learnt and is not what these training rows give, counted by unified item: int64 [n] (the audit)."""

    @abstractmethod
    def arrays(self) -> dict[str, Int]:
        """Everything learnt, without copying it; a later setting must not write into it."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, Int]) -> None:
        """Take what :meth:`arrays` gave."""

    def score(self, rows: Rows, candidates: Int) -> Int:
        """Evidence, with popularity where there is none (module docstring of ``neighbours``)."""
        contract.check_candidates(rows, candidates)
        scores = contract.gather(self.counts, rows, candidates)
        popular = share(self.counts)
        told = ~contract.without_evidence(rows)
        for d in DOMAINS:
            positions = np.flatnonzero(told & (rows.domain == DOMAINS.index(d)))
            for start in range(0, len(positions), CHUNK):
                at = positions[start : start + CHUNK]
                wanted = candidates[at].astype(np.int64)
                found = self.evidence(self.unified.histories(rows.take(at)), d)
                scores[at] = fall_back(np.take_along_axis(found, wanted - 1, axis=1), popular[d][wanted])
        return scores

    def recommend(
        self, histories: Mapping[str, Sequence[Sequence[Any]]], domain: str, k: int
    ) -> list[tuple[list[str], list[float]]]:
        return contract.recommend(self, histories, domain, k)

    def save(self, folder: Path) -> None:
        """Counts and what was learnt as safetensors; vocabularies and what was chosen beside them."""
        save_catalogue(self.catalogue, folder)
        arrays = self.packed() | {f"counts/{d}": self.counts[d] for d in DOMAINS}
        contiguous = {name: np.ascontiguousarray(one) for name, one in arrays.items()}
        write_atomically(folder / "weights.safetensors", lambda part: save_file(contiguous, part))
        write_json(folder / "model.json", {"layout": NEIGHBOURS_LAYOUT, "chosen": self.chosen})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a saved folder; nothing else is needed.

        Raises
        ------
        LayoutError
            No saved model, or one of another layout version.
        """
        folder = Path(folder)
        if not (folder / "model.json").is_file():
            raise LayoutError(f"{folder} holds no saved model (no model.json)")
        header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if header.get("layout") != NEIGHBOURS_LAYOUT:
            raise LayoutError(f"{folder}: model layout {header.get('layout')}, this version reads {NEIGHBOURS_LAYOUT}")
        found = cls(read_catalogue(folder))
        arrays = load_file(folder / "weights.safetensors")
        found.counts = {d: arrays.pop(f"counts/{d}") for d in DOMAINS}
        found.chosen = header["chosen"]
        found.restore(found.unpacked(arrays))
        return found

    def packed(self) -> dict[str, Int]:
        """:meth:`arrays` as they go to the disk."""
        return self.arrays()

    def unpacked(self, arrays: dict[str, Int]) -> dict[str, Int]:
        """What :meth:`packed` gave as :meth:`restore` wants it."""
        return arrays
