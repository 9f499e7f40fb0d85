"""Recommenders under one contract: i2VAE and everything that it is compared with."""

from i2vae_lib.recommenders.c2dsr import C2DSR
from i2vae_lib.recommenders.cdrib import CDRIB
from i2vae_lib.recommenders.contract import Recommender
from i2vae_lib.recommenders.copy import Copy
from i2vae_lib.recommenders.dasl import DASL
from i2vae_lib.recommenders.disencdr import DisenCDR
from i2vae_lib.recommenders.ease import EASE
from i2vae_lib.recommenders.emcdr import EMCDR
from i2vae_lib.recommenders.esasrec import ESASRecM, ESASRecS
from i2vae_lib.recommenders.i2vae import I2VAERecommender
from i2vae_lib.recommenders.informed import Informed
from i2vae_lib.recommenders.itemknn import ItemKNN
from i2vae_lib.recommenders.lightgcn import LightGCNM, LightGCNS
from i2vae_lib.recommenders.multivae import MultiVAEM, MultiVAES
from i2vae_lib.recommenders.oracle import Oracle
from i2vae_lib.recommenders.ordered_counts import OrderedCounts
from i2vae_lib.recommenders.pinet import PiNet
from i2vae_lib.recommenders.popularity import Popularity
from i2vae_lib.recommenders.sasrec_bce import SASRecBCEM, SASRecBCES
from i2vae_lib.recommenders.sasrec_ce import SASRecCEM, SASRecCES
from i2vae_lib.recommenders.savae import RAVAE, SAVAE
from i2vae_lib.recommenders.slist import SLISTM, SLISTS
from i2vae_lib.recommenders.stack import StackCE, StackCounts
from i2vae_lib.recommenders.svae import SVAEM, SVAES

SYSTEMS = {
    kind.name: kind
    for kind in (
        I2VAERecommender,
        MultiVAES,
        MultiVAEM,
        SASRecBCES,
        SASRecBCEM,
        SASRecCES,
        SASRecCEM,
        ESASRecS,
        ESASRecM,
        SLISTS,
        SLISTM,
        StackCounts,
        StackCE,
        SVAES,
        SVAEM,
        LightGCNS,
        LightGCNM,
        EMCDR,
        SAVAE,
        RAVAE,
        PiNet,
        DASL,
        C2DSR,
        DisenCDR,
        CDRIB,
    )
}
"""The systems that ``system`` names, in the order of the tables."""

__all__ = [
    "C2DSR",
    "CDRIB",
    "DASL",
    "EASE",
    "EMCDR",
    "RAVAE",
    "SAVAE",
    "SLISTM",
    "SLISTS",
    "SVAEM",
    "SVAES",
    "SYSTEMS",
    "Copy",
    "DisenCDR",
    "ESASRecM",
    "ESASRecS",
    "I2VAERecommender",
    "Informed",
    "ItemKNN",
    "LightGCNM",
    "LightGCNS",
    "MultiVAEM",
    "MultiVAES",
    "Oracle",
    "OrderedCounts",
    "PiNet",
    "Popularity",
    "Recommender",
    "SASRecBCEM",
    "SASRecBCES",
    "SASRecCEM",
    "SASRecCES",
    "StackCE",
    "StackCounts",
]
