"""Popularity: the number of training users who took an item, by domain. The floor that a model has to leave behind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Rows, popularity
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import contract


class Popularity(contract.Recommender):
    """Ranks by training counts; the same list for everybody.

    Attributes
    ----------
    counts
        float64 [n + 1] by domain.
    chosen
        What was chosen on validation rows, and what else is told of it; saved with the model. Empty here.
    """

    name = "popularity"

    def __init__(self, catalogue: Catalogue):
        self.catalogue = catalogue
        self.counts: Mapping[str, Array] = {}
        self.chosen: dict[str, Any] = {}

    def learn(self, train: Rows, validation: Rows, params: Parameters) -> None:
        """Count training users; validation rows are not counted."""
        self.counts = popularity(train)

    def score(self, rows: Rows, candidates: Array) -> Array:
        """Training counts of the candidates."""
        contract.check_candidates(rows, candidates)
        return contract.gather(self.counts, rows, candidates)

    def arrays(self) -> dict[str, Array]:
        """Everything learnt beside the counts, without copying it; a later setting must not write into it."""
        return {}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Take what :meth:`arrays` or :meth:`packed` gave."""

    def packed(self) -> dict[str, Array]:
        """:meth:`arrays` as they go to the disk."""
        return self.arrays()

    def save(self, folder: Path) -> None:
        """Counts and what was learnt as safetensors; vocabularies and what was chosen beside them."""
        arrays = self.packed() | {f"counts/{d}": self.counts[d] for d in DOMAINS}
        tensors = {name: torch.from_numpy(one) for name, one in arrays.items()}
        contract.save_model(folder, self.catalogue, tensors, chosen=self.chosen)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a saved folder; nothing else is needed.

        Raises
        ------
        LayoutError
            No saved model, or one of another layout version.
        """
        with contract.saved_model(Path(folder)) as (header, catalogue, tensors):
            found, arrays = cls(catalogue), {name: one.numpy() for name, one in tensors.items()}
            found.counts = {d: arrays.pop(f"counts/{d}") for d in DOMAINS}
            found.chosen = header["chosen"]
            found.restore(arrays)
        return found
