"""Rows of two domains: files, logs or synthetic data, protocols, batches. Names are imported when first used."""

from typing import TYPE_CHECKING

from i2vae_lib.lazy import lazy_names

if TYPE_CHECKING:
    from i2vae_lib.data.dataset import CrossDomainDataset
    from i2vae_lib.data.loading import load_dataset, load_dataset_once, load_pair
    from i2vae_lib.data.rows import DOMAINS, Catalogue, DataError, Ragged, Rows
else:
    _rows = ("DOMAINS", "Catalogue", "DataError", "Ragged", "Rows")
    _loading = ("load_dataset", "load_dataset_once", "load_pair")
    __getattr__ = lazy_names(
        __name__,
        {"CrossDomainDataset": "i2vae_lib.data.dataset"}
        | dict.fromkeys(_rows, "i2vae_lib.data.rows")
        | dict.fromkeys(_loading, "i2vae_lib.data.loading"),
    )

__all__ = [
    "DOMAINS",
    "Catalogue",
    "CrossDomainDataset",
    "DataError",
    "Ragged",
    "Rows",
    "load_dataset",
    "load_dataset_once",
    "load_pair",
]
