"""Every recommender by name: where it stands in tables, where its class is, what it reads. Imports no class.

A system that is trained is one line of :data:`REGISTRY`; so is a ranker that stands in every table.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One recommender.

    Parameters
    ----------
    title
        What tables and figures call it.
    family
        What it stands under in the paper's table; ``reference`` and ``ceiling`` are not of the paper.
    location
        ``module.Class`` in this package.
    groups
        The groups of :class:`~i2vae_lib.params.Parameters`, beside data and training, that its weights depend on; none
        where nothing is trained.
    printed
        Its name in the paper's tables; empty if it is not there.
    """

    title: str
    family: str
    location: str
    groups: tuple[str, ...] = ()
    printed: str = ""

    @property
    def kind(self) -> Any:
        """The class, imported when first asked for."""
        module, _, name = self.location.partition(".")
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)


REGISTRY: dict[str, Entry] = {
    "popularity": Entry("Popularity", "reference", "popularity.Popularity"),
    "recent_popularity": Entry("Recent popularity", "reference", "recent_popularity.RecentPopularity"),
    "copy": Entry("Copy", "reference", "linked_items.Copy"),
    "itemknn": Entry("ItemKNN", "reference", "itemknn.ItemKNN"),
    "ease": Entry("EASE", "reference", "ease.EASE"),
    "ordered_counts": Entry("Ordered counts", "reference", "ordered_counts.OrderedCounts"),
    "multivae-s": Entry("Multi-VAE-S", "one domain", "multivae.MultiVAES", ("model", "multivae"), "Multi-VAE"),
    "multivae-m": Entry("Multi-VAE-M", "one domain", "multivae.MultiVAEM", ("model", "multivae"), "Multi-VAE"),
    "svae-s": Entry("SVAE-S", "one domain", "svae.SVAES", ("model", "svae"), "SVAE"),
    "svae-m": Entry("SVAE-M", "one domain", "svae.SVAEM", ("model", "svae"), "SVAE"),
    "sasrec-bce-s": Entry("SASRec-BCE-S", "one domain", "sasrec_bce.SASRecBCES", ("model", "sasrec_bce"), "SASRec"),
    "sasrec-bce-m": Entry("SASRec-BCE-M", "one domain", "sasrec_bce.SASRecBCEM", ("model", "sasrec_bce"), "SASRec"),
    "sasrec-ce-s": Entry("SASRec-CE-S", "one domain", "sasrec_ce.SASRecCES", ("model", "sasrec_ce")),
    "sasrec-ce-m": Entry("SASRec-CE-M", "one domain", "sasrec_ce.SASRecCEM", ("model", "sasrec_ce")),
    "esasrec-s": Entry("eSASRec-S", "one domain", "esasrec.ESASRecS", ("model", "esasrec")),
    "esasrec-m": Entry("eSASRec-M", "one domain", "esasrec.ESASRecM", ("model", "esasrec")),
    "slist-s": Entry("SLIST-S", "one domain", "slist.SLISTS", ("model", "slist")),
    "slist-m": Entry("SLIST-M", "one domain", "slist.SLISTM", ("model", "slist")),
    "tale-s": Entry("TALE-S", "one domain", "tale.TALES", ("model", "tale")),
    "tale-m": Entry("TALE-M", "one domain", "tale.TALEM", ("model", "tale")),
    "stack-counts": Entry("Stack of counts", "stack", "stack.StackCounts", ("stack",)),
    "stack-ce": Entry("Stack with SASRec-CE-M", "stack", "stack.StackCE", ("stack", "model", "sasrec_ce")),
    "lightgcn-s": Entry("LightGCN-S", "one domain", "lightgcn.LightGCNS", ("model", "lightgcn")),
    "lightgcn-m": Entry("LightGCN-M", "one domain", "lightgcn.LightGCNM", ("model", "lightgcn")),
    "abxi": Entry("ABXI", "CDSR", "abxi.ABXI", ("model", "abxi")),
    "pinet": Entry("Pi-Net", "CDSR", "pinet.PiNet", ("model", "pinet"), "Pi-Net"),
    "dasl": Entry("DASL", "CDSR", "dasl.DASL", ("model", "dasl"), "DASL"),
    "c2dsr": Entry("C2DSR", "CDSR", "c2dsr.C2DSR", ("model", "c2dsr"), "C2DSR"),
    "disencdr": Entry("DisenCDR", "CDR", "disencdr.DisenCDR", ("model", "disencdr"), "DisenCDR"),
    "savae": Entry("SA-VAE", "CDR", "savae.SAVAE", ("model", "savae"), "SA-VAE"),
    "ravae": Entry("RA-VAE", "CDR", "savae.RAVAE", ("model", "savae")),
    "cdrib": Entry("CDRIB", "CDR", "cdrib.CDRIB", ("model", "cdrib"), "CDRIB"),
    "emcdr": Entry("EMCDR", "CDR", "emcdr.EMCDR", ("model", "emcdr")),
    "i2vae": Entry("i2VAE", "", "i2vae.I2VAERecommender", ("psg", "evidence", "model", "objective"), "i2VAE"),
    "oracle": Entry("Oracle", "ceiling", "oracle.Oracle"),
    "informed": Entry("Informed", "ceiling", "informed.Informed"),
}
"""In the order of the tables."""


class Classes(Mapping[str, Any]):
    """Name -> class, each imported when it is asked for; names and their number cost nothing."""

    def __init__(self, names: list[str]):
        self.names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return REGISTRY[name].kind

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names


SYSTEMS = Classes([name for name, entry in REGISTRY.items() if entry.groups])
"""The systems that are trained: what ``system`` names."""

REFERENCES = Classes([name for name, entry in REGISTRY.items() if entry.family == "reference"])
"""The rankers that stand in every table."""

CEILINGS = Classes([name for name, entry in REGISTRY.items() if entry.family == "ceiling"])
"""Those that read the planted truth: beside them on synthetic data, never the best."""
