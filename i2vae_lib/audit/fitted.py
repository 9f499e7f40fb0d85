"""The audit of what was learnt: counts, start vectors, the tables of rankers and generators, what is recalled.

Each check recomputes from the training rows what it is given, and counts where the two differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, PAD, SPLITS, Array, Rows, popularity
from i2vae_lib.generators.cooccurrence import differing_start
from i2vae_lib.generators.graphs import Unified, differing_entries, user_items
from i2vae_lib.generators.psg import CooccurrenceGenerator, Generator, LeaveOneOutGenerator, learning_folds
from i2vae_lib.labels import label

COLUMNS = ["check", "split", "severity", "count", "share", "example"]
# how many standard errors the recalled share may differ by: without a leak 1 check in 16,000 fires by chance
_RECALL_SIGMAS = 4.0

Line = tuple[str, str, str, int, float, str]


def audit_counts(dataset: CrossDomainDataset, counts: Mapping[str, Array]) -> pd.DataFrame:
    """Do the popularity counts that a model uses ([n + 1] by domain) come from training rows alone? One line."""
    known = popularity(dataset.splits["train"])
    ends = np.cumsum([0, *(len(known[d]) for d in DOMAINS)])
    of = {d: ends[i] + np.arange(len(known[d])) for i, d in enumerate(DOMAINS)}
    expected, found = (np.concatenate([of_domain[d] for d in DOMAINS])[None] for of_domain in (known, counts))
    line = _difference("popularity counts", dataset, expected, found, of)
    return pd.DataFrame([line], columns=COLUMNS)


def audit_start(dataset: CrossDomainDataset, start: Array, shrinkage: float) -> pd.DataFrame:
    """Do the item vectors that a model starts from come from the training rows? One line.

    Parameters
    ----------
    start
        float32 [unified items, d], as :func:`i2vae_lib.generators.cooccurrence.item_vectors` makes them.
    """
    apart = differing_start(dataset.splits["train"], start, shrinkage)
    line = _apart("vectors beside the training rows among the item vectors at the start", dataset, apart)
    return pd.DataFrame([line], columns=COLUMNS)


def audit_references(dataset: CrossDomainDataset, fitted: Sequence[Any]) -> pd.DataFrame:
    """Does each table of the reference rankers come from the training rows? One line per table.

    Parameters
    ----------
    fitted
        Rankers. ``counts`` by domain are compared; ``foreign_counts(train)``, of a ranker that has it
        (:class:`i2vae_lib.recommenders.references.from_histories.FromHistories`), tells the difference itself.
    """
    train, lines = dataset.splits["train"], []
    for ranker in fitted:
        if getattr(ranker, "counts", None):
            line = audit_counts(dataset, ranker.counts).iloc[0]
            lines.append((f"{line['check']} of {label(ranker.name)}", *line.iloc[1:]))
        if hasattr(ranker, "foreign_counts"):
            name = f"entries beside the training rows in the table of {label(ranker.name)}"
            lines.append(_apart(name, dataset, ranker.foreign_counts(train)))
    return pd.DataFrame(lines, columns=COLUMNS)


def of_generator(dataset: CrossDomainDataset, generator: Generator) -> Iterator[Line]:
    """Interactions of the generator's graphs, and entries of its tables, that the training rows of its folds lack.

    Counts are recomputed and compared. For LightGCN, the graph only determines which items have a vector.
    """
    train, p, unified = dataset.splits["train"], generator.p, Unified(dataset.catalogue)
    expected = np.stack([user_items(part, unified).getnnz(axis=0) for part in learning_folds(train, p)])
    assert generator.taken is not None
    yield _difference("generator's graph", dataset, expected, generator.taken, unified.of)
    if p.kind == "lightgcn":
        tables = generator.arrays()
        there = np.stack([(tables[name] != 0).any(axis=-1) for name in ("fold_in", "final")])  # [2, folds, rounds, n]
        apart = (there != (expected > 0)[None, :, None, :]).sum(axis=(0, 1, 2))
    elif isinstance(generator, LeaveOneOutGenerator):
        apart = generator.counts.foreign_counts(train)
    else:
        assert isinstance(generator, CooccurrenceGenerator)
        again = CooccurrenceGenerator.fit(train, p)
        apart = np.sum([differing_entries(*both) for both in zip(generator.tables, again.tables, strict=True)], axis=0)
    yield _apart("entries beside the training rows in the generator's tables", dataset, apart)


def _apart(name: str, dataset: CrossDomainDataset, apart: Array) -> Line:
    """The line of a check that counts unexpected entries per unified item."""
    apart, example = np.asarray(apart), ""
    if apart.any():
        column = int(apart.argmax())
        item = _item_at(dataset, Unified(dataset.catalogue).of, column)
        example = f"{item}: {int(apart[column])}; {int((apart > 0).sum())} items"
    return name, "train", "leak", int(apart.sum()), float((apart > 0).mean()), example


def _item_at(dataset: CrossDomainDataset, of: Mapping[str, Array], column: int) -> str:
    """Names the item of a table's column."""
    d = next(d for d in DOMAINS if (np.asarray(of[d])[1:] == column).any())
    item = dataset.catalogue.ids[d][np.flatnonzero(np.asarray(of[d])[1:] == column)[0]]
    return f"item {item} of {dataset.catalogue.names[d]}"


def _difference(what: str, dataset: CrossDomainDataset, expected: Array, found: Array, of: Mapping[str, Array]) -> Line:
    name = f"interactions beside the training rows in the {what}"
    apart, example = np.abs(found - expected), ""
    if apart.any():
        column = int(apart.max(axis=0).argmax())
        item = _item_at(dataset, of, column)
        example = f"{item}: {found[:, column]}, expected {expected[:, column]}"
    return name, "train", "leak", int(apart.sum()), float(apart.sum() / max(expected.sum(), 1)), example


def of_recall(dataset: CrossDomainDataset, pseudo: Mapping[str, Array]) -> Iterator[Line]:
    """Is the target among a row's pseudo-items as often in training as in evaluation? For warm rows, by own length."""
    if dataset.protocol == "released":
        # the published way: items are recalled from history and target, so the target is never among them
        for split in SPLITS:
            rows = dataset.splits[split]
            hit = _recalled(rows, pseudo[split])
            first = np.flatnonzero(hit)[:1]
            example = (
                f"row {rows.source[first[0]]}, user {rows.user[first[0]]}" if len(first) else "never, as published"
            )
            yield "target recalled", split, "note", int(hit.sum()), float(hit.mean()), example
    compared = recalled_shares(dataset, pseudo)
    # under temporal tastes drift: targets after a cut are recalled less often, without any leak
    severity = "note" if dataset.protocol == "temporal" else "leak"
    for split in ("validation", "test"):
        line = compared.loc[split]
        apart = abs(line["difference"]) > _RECALL_SIGMAS * line["error"]
        count = round(abs(line["difference"]) * line["rows"]) if apart else 0
        example = (
            f"{line['training share']:.2%} of like training rows, {line['share']:.2%} here "
            f"(standard error {line['error']:.2%})"
        )
        yield "target recalled in training and here alike", split, severity, count, abs(line["difference"]), example


def _recalled(rows: Rows, pseudo: Array) -> Array:
    """Rows whose target is among their pseudo-items, bool [rows]."""
    return (np.asarray(pseudo) == np.where(rows.target == PAD, -1, rows.target)[:, None]).any(axis=1)


def recalled_shares(dataset: CrossDomainDataset, pseudo: Mapping[str, Array]) -> pd.DataFrame:
    """Share of warm rows with their target among their pseudo-items, against training rows of the same own length.

    Training rows are weighted so that their own lengths (1 … 9, 10 and more) are distributed like the split's.

    Returns
    -------
    DataFrame
        Index ``validation``, ``test``; columns ``rows, share, training share, difference, error`` (binomial standard
        error of the difference), fractions.
    """

    def warm(split: str) -> tuple[Array, Array]:
        rows = dataset.splits[split]
        own = rows.lengths("own")
        return np.minimum(own[own > 0], 10), _recalled(rows, pseudo[split])[own > 0]

    def by_length(length: Array, hit: Array) -> tuple[Array, Array]:
        n = np.bincount(length, minlength=11)
        return n, np.bincount(length, weights=hit, minlength=11) / np.maximum(n, 1)

    n_train, share_train = by_length(*warm("train"))
    lines: dict[str, Any] = {}
    for split in ("validation", "test"):
        n, share = by_length(*warm(split))
        weight = np.where(n_train > 0, n, 0) / max(np.where(n_train > 0, n, 0).sum(), 1)
        here, there = float(weight @ share), float(weight @ share_train)
        # the two shares pooled by length: without a leak they are equal
        pooled = (n * share + n_train * share_train) / np.maximum(n + n_train, 1)
        variance = weight**2 * pooled * (1 - pooled) * (1 / np.maximum(n, 1) + 1 / np.maximum(n_train, 1))
        lines[split] = (int(n.sum()), here, there, there - here, float(np.sqrt(variance.sum())))
    columns = ["rows", "share", "training share", "difference", "error"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)
