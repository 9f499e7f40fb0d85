"""From files, logs or a planted world to a :class:`CrossDomainDataset` and its batches."""

from __future__ import annotations

from i2vae_lib.data import protocols, synthetic
from i2vae_lib.data.dataset import DOMAINS, Catalogue, CrossDomainDataset, DataError, Ragged, Rows
from i2vae_lib.data.released import REGISTRY, load_released
from i2vae_lib.params import Parameters, suggestion

__all__ = ["DOMAINS", "Catalogue", "CrossDomainDataset", "DataError", "Ragged", "Rows", "load_dataset"]


def load_dataset(parameters: Parameters) -> CrossDomainDataset:
    """The dataset that the parameters name, under their protocol.

    Raises
    ------
    DataError
        An unknown name (the nearest is suggested), or whatever is wrong with the files.
    """
    name = parameters.data
    if name == "synthetic":
        raw = synthetic.generate(parameters.synthetic)
    elif name in REGISTRY:
        raw = load_released(name)
    else:
        raise DataError(f"unknown data '{name}'{suggestion(name, ['synthetic', *REGISTRY])}")
    return protocols.apply(parameters.protocol, raw, parameters.split)
