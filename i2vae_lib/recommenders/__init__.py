"""Recommenders under one contract: i2VAE and everything that it is compared with. Classes are imported when first used.

:mod:`i2vae_lib.recommenders.registry` lists them.
"""

from typing import TYPE_CHECKING

from i2vae_lib.lazy import lazy_names
from i2vae_lib.recommenders.registry import CEILINGS, REFERENCES, REGISTRY, SYSTEMS

if TYPE_CHECKING:
    from i2vae_lib.recommenders.contract import Recommender
    from i2vae_lib.recommenders.i2vae import I2VAERecommender
else:
    _homes = {"Recommender": f"{__name__}.contract"}
    for _module, _, _class in (entry.location.rpartition(".") for entry in REGISTRY.values()):
        _homes[_class] = f"{__name__}.{_module}"
    __getattr__ = lazy_names(__name__, _homes)

__all__ = ["CEILINGS", "REFERENCES", "REGISTRY", "SYSTEMS", "I2VAERecommender", "Recommender"]
