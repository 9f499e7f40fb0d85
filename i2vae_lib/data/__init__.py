"""From files, logs or a planted world to a :class:`CrossDomainDataset` and its batches."""

from __future__ import annotations

from i2vae_lib.data import protocols, synthetic
from i2vae_lib.data.dataset import DOMAINS, Catalogue, CrossDomainDataset, DataError, Ragged, Rows
from i2vae_lib.data.released import REGISTRY, load_released
from i2vae_lib.params import Parameters, suggestion

__all__ = ["DOMAINS", "Catalogue", "CrossDomainDataset", "DataError", "Ragged", "Rows", "check_name", "load_dataset"]


def check_name(name: str) -> None:
    """Refuse a name that no data have.

    Raises
    ------
    DataError
        The nearest name is suggested.
    """
    known = ["synthetic", *REGISTRY]
    if name not in known:
        raise DataError(f"unknown data '{name}'{suggestion(name, known)}")


def load_dataset(parameters: Parameters) -> CrossDomainDataset:
    """The dataset that the parameters name, under their protocol.

    Raises
    ------
    DataError
        An unknown name (the nearest is suggested), or whatever is wrong with the files.
    """
    name = parameters.data
    check_name(name)
    raw = synthetic.generate(parameters.synthetic) if name == "synthetic" else load_released(name)
    return protocols.apply(parameters.protocol, raw, parameters.split)
