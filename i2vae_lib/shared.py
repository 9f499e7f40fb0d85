"""What runs on the same data share, made once each: recalled pseudo-sequences and the reference rankers' ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from i2vae_lib import evaluation
from i2vae_lib.audit import fitted as audit_fitted
from i2vae_lib.audit import leaks
from i2vae_lib.cache import once
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, SPLITS
from i2vae_lib.generators import psg
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.registry import CEILINGS, REFERENCES
from i2vae_lib.runs import read_json, write_atomically, write_json


def recalled(dataset: CrossDomainDataset, generator: psg.Generator) -> tuple[Path, list[dict[Any, Any]]]:
    """Path of the table of recalled items (``pseudo.parquet``), and the audit's lines about it.

    Made once (:mod:`i2vae_lib.cache`) for a dataset and a fit.
    """

    def make(folder: Path) -> None:
        parts, items_of = [], {}
        for split in SPLITS:
            rows = dataset.splits[split]
            items, scores = psg.recalled(generator, rows)
            items_of[split] = items
            columns = {"split": split, "row": rows.source, "domain": [DOMAINS[i] for i in rows.domain]}
            parts.append(pd.DataFrame(columns | {"items": list(items), "scores": list(scores)}))
        table = stamped(pd.concat(parts, ignore_index=True), dataset)
        write_atomically(folder / "pseudo.parquet", lambda part: table.to_parquet(part, index=False))
        audited = leaks.audit(dataset, pseudo=items_of, generator=generator).to_dict(orient="records")
        write_json(folder / "about.json", {"audit": audited})

    folder = once("recalled", [dataset.fingerprint(), generator.digest()], (__name__,), make)
    about = read_json(folder / "about.json")
    return folder / "pseudo.parquet", about["audit"]


def references(dataset: CrossDomainDataset, p: Parameters) -> list[Any]:
    """The fitted reference rankers; on synthetic data also those that read its truth."""
    fitted = [kind(dataset.catalogue) for kind in REFERENCES.values()]
    for ranker in fitted:
        ranker.learn(dataset.splits["train"], dataset.splits["validation"], p)
    return [*fitted, *(kind(dataset, fitted[0].counts) for kind in CEILINGS.values() if dataset.truth)]


def reference_ranks(
    dataset: CrossDomainDataset, p: Parameters
) -> tuple[pd.DataFrame, dict[str, Any], list[dict[Any, Any]]]:
    """Test ranks of :func:`references`, what each chose on validation, and the audit's lines about them.

    Made once (:mod:`i2vae_lib.cache`) for a dataset, candidates and grids: runs that differ in the model or in the
    seed share one fit (none of these rankers draws anything).
    """

    def make(folder: Path) -> None:
        fitted = references(dataset, p)
        table = ranked(fitted, dataset, p)
        write_atomically(folder / "ranks.parquet", lambda part: table.to_parquet(part, index=False))
        audited = audit_fitted.audit_references(dataset, fitted).to_dict(orient="records")
        chosen = {ranker.name: ranker.chosen for ranker in fitted if getattr(ranker, "chosen", None)}
        write_json(folder / "about.json", {"chosen": chosen, "audit": audited})

    relevant = p.model_dump(mode="json", include={"split", "evaluation", "references"})
    code = (__name__, *(kind.__module__ for kind in (*REFERENCES.values(), *CEILINGS.values())))
    folder = once("references", [dataset.fingerprint(), relevant], code, make)
    about = read_json(folder / "about.json")
    return pd.read_parquet(folder / "ranks.parquet"), about["chosen"], about["audit"]


def ranked(scorers: Sequence[Any], dataset: CrossDomainDataset, p: Parameters, full: bool = True) -> pd.DataFrame:
    """Rank the test rows with each scorer: the lines of ``ranks.parquet``; ``full``: also among the whole catalogue."""
    rows = dataset.splits["test"]
    negatives = evaluation.sample_negatives(rows, p.evaluation.negatives, p.split.data_seed)
    seen = evaluation.seen_targets(rows, dataset.splits["train"])
    parts = []
    for scorer in scorers:
        ranks = evaluation.rank(scorer, rows, negatives, full=full, batch_size=p.evaluation.batch_size)
        parts.append(evaluation.rank_table(scorer.name, rows, dataset.tail["test"], seen, ranks))
    return pd.concat(parts, ignore_index=True)


def stamped(table: pd.DataFrame, dataset: CrossDomainDataset) -> pd.DataFrame:
    """Add the data's name, protocol and seed to a table's ``attrs``, which its file keeps."""
    table.attrs = {"data": dataset.name, "protocol": dataset.protocol, "data_seed": dataset.data_seed}
    return table
