"""Recommenders under one contract: i2VAE and everything that it is compared with."""

from i2vae_lib.recommenders.contract import Recommender
from i2vae_lib.recommenders.copy import Copy
from i2vae_lib.recommenders.ease import EASE
from i2vae_lib.recommenders.i2vae import I2VAERecommender
from i2vae_lib.recommenders.itemknn import ItemKNN
from i2vae_lib.recommenders.oracle import Oracle
from i2vae_lib.recommenders.popularity import Popularity
from i2vae_lib.recommenders.sasrec import SASRecM, SASRecS

SYSTEMS = {kind.name: kind for kind in (I2VAERecommender, SASRecS, SASRecM)}
"""The systems that ``system`` names, in the order of the tables."""

__all__ = [
    "EASE",
    "SYSTEMS",
    "Copy",
    "I2VAERecommender",
    "ItemKNN",
    "Oracle",
    "Popularity",
    "Recommender",
    "SASRecM",
    "SASRecS",
]
