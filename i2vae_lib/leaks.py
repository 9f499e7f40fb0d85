"""What leaks are worth: the same model with and without each leak, on the same test rows and candidates.

The paper's released split and code leak in four ways. This study closes all of them (protocol ``strict``) and opens
one at a time, then all together; the difference in HR@10 on the same rows is what the leak is worth.

=============  =====================================================================================================
``users``      training keeps the rows of test users, which hold their test targets
``histories``  the target stays in the histories where the files have it: a linked twin in the other domain's
``pseudo``     pseudo-sequences are recalled from a graph that holds each training row's own target (one fold)
``selection``  hyper-parameters and epochs are chosen on the test rows
=============  =====================================================================================================

This is the only place of the kit where a test row can reach training or selection, and only to be measured.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from i2vae_lib import evaluation, psg, significance
from i2vae_lib.data import protocols
from i2vae_lib.data.dataset import DOMAINS, CrossDomainDataset, Ragged, Rows, hashed, joined, other, rows_digest
from i2vae_lib.data.protocols import RawPair
from i2vae_lib.params import Parameters
from i2vae_lib.progress import bar
from i2vae_lib.recommenders.copy import Copy
from i2vae_lib.recommenders.ease import EASE
from i2vae_lib.recommenders.i2vae import I2VAERecommender
from i2vae_lib.recommenders.itemknn import ItemKNN
from i2vae_lib.recommenders.popularity import Popularity
from i2vae_lib.runs import LayoutError, revision, write_atomically, write_json
from i2vae_lib.training import Callbacks

LEAKS = ("users", "histories", "pseudo", "selection")
CLOSED: frozenset[str] = frozenset()
CONDITIONS: tuple[frozenset[str], ...] = (CLOSED, *(frozenset([leak]) for leak in LEAKS), frozenset(LEAKS))
SYSTEMS: dict[str, Callable[[CrossDomainDataset, Parameters], Any]] = {
    "popularity": lambda dataset, p: Popularity.unfitted(dataset.catalogue),
    "copy": lambda dataset, p: Copy.unfitted(dataset.catalogue),
    "itemknn": lambda dataset, p: ItemKNN.unfitted(dataset.catalogue),
    "ease": lambda dataset, p: EASE.unfitted(dataset.catalogue),
    "i2vae": lambda dataset, p: I2VAERecommender(dataset.catalogue, p),
}


def label(leaks: frozenset[str]) -> str:
    """``none``, a leak's name, or ``all``."""
    return {CLOSED: "none", frozenset(LEAKS): "all"}.get(leaks) or "+".join(sorted(leaks))


def leaky(raw: RawPair, p: Parameters, leaks: frozenset[str]) -> CrossDomainDataset:
    """``strict`` with the leaks ``users`` and ``histories`` open that are named (the other two are not the data's)."""
    train = raw.train if "users" in leaks else protocols.without_users(raw.train, raw.test)
    test = raw.test
    if "histories" not in leaks:
        train, test = protocols.scrub(train)[0], protocols.scrub(test)[0]
    cut = protocols.held_out(train, test, p.split, {})
    return protocols.assembled(f"strict, leaks: {label(leaks)}", raw, cut, p.split, p.controls)


@dataclass(frozen=True)
class Cell:
    """One training and evaluation of the study."""

    system: str
    leaks: frozenset[str]
    seed: int

    @property
    def name(self) -> str:
        return f"{self.system}-{label(self.leaks)}-{self.seed}"


def cells(systems: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """All conditions of each system; a leak that a system cannot see is left out (pseudo-sequences of a ranker without
    any; seeds and selection where nothing is drawn or chosen)."""
    found = []
    for leaks, system in itertools.product(CONDITIONS, systems):
        if leaks == {"pseudo"} and system != "i2vae":
            continue
        if leaks == {"selection"} and system in ("popularity", "copy"):
            continue
        found += [Cell(system, leaks, seed) for seed in (seeds if system == "i2vae" else seeds[:1])]
    return found


def measure(raw: RawPair, p: Parameters, cell: Cell, checkpoint: Path | None = None) -> pd.DataFrame:
    """Train one system under one set of leaks and rank the test rows: lines of ``ranks.parquet``.

    Row kinds are those of the closed condition, so that a cell of the table holds the same rows under every leak.
    """
    dataset, closed = leaky(raw, p, cell.leaks), leaky(raw, p, CLOSED)
    train, test = dataset.splits["train"], dataset.splits["test"]
    generator = None
    if cell.system == "i2vae":
        folds = 1 if "pseudo" in cell.leaks else p.psg.folds
        generator = psg.fit_once(train, p.psg.model_copy(update={"folds": folds}))
    recommender = SYSTEMS[cell.system](dataset, p).fit(
        train,
        test if "selection" in cell.leaks else dataset.splits["validation"],
        params=p,
        generator=generator,
        rng=np.random.default_rng(cell.seed),
        callbacks=Callbacks(checkpoint),
    )
    negatives = evaluation.sample_negatives(test, p.evaluation.negatives, p.split.data_seed)
    ranks = evaluation.rank(recommender, test, negatives, full=True, batch_size=p.evaluation.batch_size)
    rows = closed.splits["test"]
    seen = evaluation.seen_targets(rows, closed.splits["train"])
    return evaluation.rank_table(cell.system, rows, closed.tail["test"], seen, ranks)


def study(raw: RawPair, p: Parameters, systems: Sequence[str], seeds: Sequence[int], folder: Path) -> pd.DataFrame:
    """Measure every cell that ``folder`` does not hold yet; killed at any moment, the same call goes on.

    Two calls over one folder share its cells.

    Raises
    ------
    LayoutError
        The folder holds a study of other data or parameters.

    Returns
    -------
    DataFrame
        All cells' rank tables, with columns ``leaks``, ``seed``, ``seconds`` and ``revision`` (of the cell).
    """
    digests = [raw.catalogue.digest(), rows_digest(raw.train), rows_digest(raw.test)]
    identity = {"data": digests, "parameters": p.model_dump(mode="json", exclude={"seed", "out"})}
    known = folder / "study.json"
    if known.is_file() and json.loads(known.read_text(encoding="utf-8")) != identity:
        raise LayoutError(f"{folder} holds a study of other data or parameters (study.json): choose another folder")
    write_json(known, identity)
    todo = cells(systems, seeds)
    progress = bar("leaks", len(todo), "cell")
    while todo:
        cell = todo.pop(0)
        try:
            with FileLock(folder / f".{cell.name}.lock").acquire(timeout=1):
                _measured_once(raw, p, cell, folder)
        except Timeout:
            todo.append(cell)  # another call has it: back to it after the rest
            continue
        progress.update()
        progress.set_postfix_str(cell.name)
    progress.close()
    return finished(systems, seeds, folder)


def _measured_once(raw: RawPair, p: Parameters, cell: Cell, folder: Path) -> None:
    path = folder / f"{cell.name}.parquet"
    if path.is_file():
        return
    start = time.perf_counter()
    table = measure(raw, p, cell, folder / f"{cell.name}.ckpt").assign(leaks=label(cell.leaks), seed=cell.seed)
    table["seconds"] = round(time.perf_counter() - start, 1)  # since the last start of an interrupted one
    table["revision"] = revision()
    write_atomically(path, lambda part: table.to_parquet(part, index=False))
    (folder / f"{cell.name}.ckpt").unlink(missing_ok=True)


def finished(systems: Sequence[str], seeds: Sequence[int], folder: Path) -> pd.DataFrame:
    """The rank tables of the cells that ``folder`` holds, as :func:`study` gives them."""
    paths = [path for cell in cells(systems, seeds) if (path := folder / f"{cell.name}.parquet").is_file()]
    if not paths:
        raise LayoutError(f"{folder} holds no finished cell of {', '.join(systems)}")
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def worth(
    table: pd.DataFrame, names: dict[str, str], *, rng: np.random.Generator, metric: str = "HR@10"
) -> pd.DataFrame:
    """What each leak adds to a metric, in points of per cent, by system, domain and row kind.

    Rows' values are averaged over the seeds that both conditions have; intervals and p values are a paired bootstrap
    over users, Holm over the cells of one row kind and one kind of candidates: the table that a reader looks at.

    Parameters
    ----------
    table
        Of :func:`study`.
    names
        Domain names by key.

    Raises
    ------
    ValueError
        Nothing to compare: no closed condition, or none with a leak, or no seed that both have.

    Returns
    -------
    DataFrame
        ``system, leak, seeds, domain, kind, candidates, metric, n, closed, open, worth, low, high, p_holm``; the
        interval is one of 95 %.
    """
    conditions = set(table["leaks"])
    if "none" not in conditions or len(conditions) < 2:
        raise ValueError(f"a leak's worth needs the condition none and one with a leak; the table has {conditions}")
    lines: list[dict[str, Any]] = []
    for (system, leak), part in _pairs(table):
        closed = table[(table["recommender"] == system) & (table["leaks"] == "none")]
        seeds = set(closed["seed"]) & set(part["seed"])
        if not seeds:
            raise ValueError(f"{system}: {leak} has no seed in common with none, against which it is measured")
        part, closed = (one[one["seed"].isin(seeds)] for one in (part, closed))
        for candidates in ("sampled", "full"):
            lines += _compared(str(system), str(leak), closed, part, candidates, metric, names, rng)
    found = pd.DataFrame(lines)
    found["p_holm"] = found.groupby(["candidates", "kind"])["p"].transform(lambda p: significance.holm(p.to_numpy()))
    return found.drop(columns="p")


def _pairs(table: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    opened = table[table["leaks"] != "none"]
    yield from opened.groupby(["recommender", "leaks"], sort=False)


def _compared(
    system: str,
    leak: str,
    closed: pd.DataFrame,
    opened: pd.DataFrame,
    candidates: str,
    metric: str,
    names: dict[str, str],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    cutoffs = [evaluation.cutoff_of(metric)]

    def of_rows(part: pd.DataFrame) -> pd.Series:
        values = part.assign(value=evaluation.row_values(part, candidates, cutoffs)[:, 0])
        return values.groupby("row", sort=True)["value"].mean()

    before, after = of_rows(closed), of_rows(opened)
    flags = closed.drop_duplicates("row").set_index("row").sort_index()
    kinds = {kind: mask for kind, mask in evaluation.kind_masks(flags).items() if kind != "cold_released"}
    cells = [(d, kind, (mask & (flags["domain"] == d)).to_numpy()) for d in DOMAINS for kind, mask in kinds.items()]
    found = significance.paired_bootstrap(
        after.to_numpy()[:, None],
        before.to_numpy()[:, None],
        np.stack([mask for _, _, mask in cells], axis=1),
        rng=rng,
        cluster=flags["user"].to_numpy(),
    )
    return [
        {
            "system": system,
            "leak": leak,
            "seeds": int(opened["seed"].nunique()),
            "domain": names[d],
            "kind": kind,
            "candidates": candidates,
            "metric": metric,
            "n": int(mask.sum()),
            "closed": 100 * before.to_numpy()[mask].mean() if mask.any() else np.nan,
            "open": 100 * after.to_numpy()[mask].mean() if mask.any() else np.nan,
            "worth": 100 * found.difference[i, 0],
            "low": 100 * found.low[i, 0],
            "high": 100 * found.high[i, 0],
            "p": found.p[i, 0],
        }
        for i, (d, kind, mask) in enumerate(cells)
    ]


def planted(raw: RawPair, share: float, data_seed: int) -> RawPair:
    """A clean pair of published splits with the leaks of the released ones, so that their worth can be shown on it.

    ``share`` of the test users with something in both domains get a training row that asks for their last item of the
    other domain and holds the test target in its history; ``share`` of the test rows whose target has a linked twin
    get the twin into their other history.
    """
    both = np.flatnonzero(raw.test.kinds()["overlapping"])
    chosen = both[hashed(raw.test.user[both], "planted users", data_seed) / 2.0**64 < share]
    train = joined([raw.train, *(_other_row(raw.test, chosen, i) for i in range(len(DOMAINS)))])
    return replace(raw, train=train, test=_with_twins(raw.test, share, data_seed))


def _other_row(test: Rows, chosen: np.ndarray, i: int) -> Rows:
    """The chosen rows of domain ``i``, asked the other way round: the other history's last item is the target."""
    d = DOMAINS[i]
    part = test.take(chosen[test.domain[chosen] == i])
    across = part.history[other(d)]
    before = across.slices(across.offsets[:-1], across.offsets[1:] - 1)
    own = part.history[d]
    extended = Ragged.from_lists([np.append(own[row], part.target[row]) for row in range(len(part))])
    return replace(
        part,
        domain=np.full(len(part), 1 - i, dtype=np.int8),
        target=across.values[across.offsets[1:] - 1],
        history={d: extended, other(d): before},
        excluded=before,
    )


def _with_twins(test: Rows, share: float, data_seed: int) -> Rows:
    keep = hashed([f"{u}|{d}" for u, d in zip(test.user, test.domain)], "planted twins", data_seed) / 2.0**64 < share
    histories = {}
    for i, d in enumerate(DOMAINS):
        twins = np.where((test.domain != i) & keep, test.target_in(d), 0)
        extra = [[twin] if twin else [] for twin in twins]
        histories[d] = Ragged.from_lists([np.append(test.history[d][row], extra[row]) for row in range(len(test))])
    return replace(test, history=histories)
