"""Every recommender by name: where it stands in tables, where its class is, what it reads. Imports no class.

A system that is trained is one line of :data:`REGISTRY`; so is a ranker that stands in every table.
"""

import importlib
from collections import UserDict
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Entry:
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
        module, _, name = self.location.rpartition(".")
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)


def _both(name: str, title: str, location: str, printed: str = "") -> dict[str, _Entry]:
    """The two readings of a system of one domain (:mod:`.systems.separate_or_merged`)."""
    groups = ("model", name.replace("-", "_"))
    return {
        f"{name}-{letter.lower()}": _Entry(f"{title}-{letter}", "one domain", location + letter, groups, printed)
        for letter in "SM"
    }


# in the order of the tables
REGISTRY: dict[str, _Entry] = {
    "popularity": _Entry("Popularity", "reference", "references.popularity.Popularity"),
    "recent_popularity": _Entry("Recent popularity", "reference", "references.recent_popularity.RecentPopularity"),
    "copy": _Entry("Copy", "reference", "references.linked_items.Copy"),
    "itemknn": _Entry("ItemKNN", "reference", "references.itemknn.ItemKNN"),
    "ease": _Entry("EASE", "reference", "references.ease.EASE"),
    "ordered_counts": _Entry("Ordered counts", "reference", "references.ordered_counts.OrderedCounts"),
    **_both("multivae", "Multi-VAE", "systems.multivae.MultiVAE", "Multi-VAE"),
    **_both("svae", "SVAE", "systems.svae.SVAE", "SVAE"),
    **_both("sasrec-bce", "SASRec-BCE", "systems.sasrec_bce.SASRecBCE", "SASRec"),
    **_both("sasrec-ce", "SASRec-CE", "systems.sasrec_ce.SASRecCE"),
    **_both("esasrec", "eSASRec", "systems.esasrec.ESASRec"),
    **_both("slist", "SLIST", "systems.slist.SLIST"),
    **_both("tale", "TALE", "systems.tale.TALE"),
    "stack-counts": _Entry("Stack of counts", "stack", "systems.stack.StackCounts", ("stack",)),
    "stack-ce": _Entry("Stack with SASRec-CE-M", "stack", "systems.stack.StackCE", ("stack", "model", "sasrec_ce")),
    **_both("lightgcn", "LightGCN", "systems.lightgcn.LightGCN"),
    "abxi": _Entry("ABXI", "CDSR", "systems.abxi.ABXI", ("model", "abxi")),
    "pinet": _Entry("Pi-Net", "CDSR", "systems.pinet.PiNet", ("model", "pinet"), "Pi-Net"),
    "dasl": _Entry("DASL", "CDSR", "systems.dasl.DASL", ("model", "dasl"), "DASL"),
    "c2dsr": _Entry("C2DSR", "CDSR", "systems.c2dsr.C2DSR", ("model", "c2dsr"), "C2DSR"),
    "disencdr": _Entry("DisenCDR", "CDR", "systems.disencdr.DisenCDR", ("model", "disencdr"), "DisenCDR"),
    "savae": _Entry("SA-VAE", "CDR", "systems.savae.SAVAE", ("model", "savae"), "SA-VAE"),
    "ravae": _Entry("RA-VAE", "CDR", "systems.savae.RAVAE", ("model", "savae")),
    "cdrib": _Entry("CDRIB", "CDR", "systems.cdrib.CDRIB", ("model", "cdrib"), "CDRIB"),
    "emcdr": _Entry("EMCDR", "CDR", "systems.emcdr.EMCDR", ("model", "emcdr")),
    "i2vae": _Entry("i2VAE", "", "i2vae.I2VAERecommender", ("psg", "evidence", "model", "objective"), "i2VAE"),
    "oracle": _Entry("Oracle", "ceiling", "references.ceilings.Oracle"),
    "informed": _Entry("Informed", "ceiling", "references.ceilings.Informed"),
}


class _Classes(UserDict[str, Any]):
    """Name -> class, each imported when it is asked for; names and their number cost nothing."""

    def __getitem__(self, name: str) -> Any:
        return self.data[name].kind


# the systems that are trained: what `system` names
SYSTEMS = _Classes({name: entry for name, entry in REGISTRY.items() if entry.groups})

# the rankers that stand in every table
REFERENCES = _Classes({name: entry for name, entry in REGISTRY.items() if entry.family == "reference"})

# those that read the planted truth: beside them on synthetic data, never the best
CEILINGS = _Classes({name: entry for name, entry in REGISTRY.items() if entry.family == "ceiling"})
