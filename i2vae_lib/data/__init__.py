"""Rows of two domains: files, logs or a planted world, protocols, batches. Names are imported when first used."""

from typing import TYPE_CHECKING

from i2vae_lib.lazy import lazy_names

if TYPE_CHECKING:
    from i2vae_lib.data.dataset import DOMAINS, Catalogue, CrossDomainDataset, DataError, Ragged, Rows
    from i2vae_lib.data.loading import check_name, load_dataset, load_dataset_once, load_pair
else:
    _dataset = ("DOMAINS", "Catalogue", "CrossDomainDataset", "DataError", "Ragged", "Rows")
    _loading = ("check_name", "load_dataset", "load_dataset_once", "load_pair")
    __getattr__ = lazy_names(
        __name__,
        dict.fromkeys(_dataset, "i2vae_lib.data.dataset") | dict.fromkeys(_loading, "i2vae_lib.data.loading"),
    )

__all__ = [
    "DOMAINS",
    "Catalogue",
    "CrossDomainDataset",
    "DataError",
    "Ragged",
    "Rows",
    "check_name",
    "load_dataset",
    "load_dataset_once",
    "load_pair",
]
