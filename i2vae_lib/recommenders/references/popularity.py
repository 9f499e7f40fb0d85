"""Popularity: the number of training users who took an item, by domain. The floor that a model has to leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from safetensors.numpy import load_file, save_file

from i2vae_lib.data.dataset import read_catalogue, save_catalogue
from i2vae_lib.data.rows import Array, Catalogue, Rows, popularity
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import contract
from i2vae_lib.runs import reading, write_atomically


class Popularity(contract.Recommender):
    """Ranks by training counts; the same list for everybody."""

    name = "popularity"

    def __init__(self, catalogue: Catalogue, counts: Mapping[str, Array]):
        self.catalogue = catalogue
        self.counts = counts  # domain -> float64 [n + 1]

    @classmethod
    def unfitted(cls, catalogue: Catalogue) -> Self:
        return cls(catalogue, {})

    def learn(self, train: Rows, validation: Rows, params: Parameters) -> None:
        """Count training users; validation rows are not counted."""
        self.counts = popularity(train)

    def score(self, rows: Rows, candidates: Array) -> Array:
        """Training counts of the candidates."""
        contract.check_candidates(rows, candidates)
        return contract.gather(self.counts, rows, candidates)

    def save(self, folder: Path) -> None:
        save_catalogue(self.catalogue, folder)
        write_atomically(folder / "counts.safetensors", lambda part: save_file(dict(self.counts), part))

    @classmethod
    def load(cls, folder: Path) -> Self:
        with reading(folder / "counts.safetensors"):
            counts = load_file(folder / "counts.safetensors")
        return cls(read_catalogue(folder), counts)
