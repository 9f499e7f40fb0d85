"""What leaks are worth: the same model with and without each leak.

The paper's released split and code leak in five ways. This study closes all of them (protocol ``strict``) and opens
one at a time, then all together.

=============  =====================================================================================================
``order``      rows stand in the order of the file: the target is its last item, not a seeded one
``users``      training keeps the rows of test users, which hold their test targets, under any name
``histories``  the target stays in the histories where the files have it: a linked twin in the other domain's
``pseudo``     pseudo-sequences the paper's way: one graph, which holds each training row's own target, and every row
               recalled from its target too
``selection``  hyper-parameters and epochs are chosen on the test rows
=============  =====================================================================================================

**Two worlds.** With ``order`` open the same rows ask other targets, easier or harder ones for everybody, so no
difference of rows says what it is worth. :func:`.leak_tables.worlds` shows how far each system stands above ItemKNN in
either world. The other leaks change no target, and :func:`.leak_tables.worth` is the difference on the same rows and
candidates: of each of them alone in the order-free world, and of all four together in the file's (``all`` against
``order``).

This is the only place of the kit where a test row can reach training or selection, and only to be measured.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib import evaluation
from i2vae_lib.data import protocols, splitting
from i2vae_lib.data.dataset import CrossDomainDataset, rows_digest
from i2vae_lib.data.protocols import RawPair
from i2vae_lib.data.rows import DOMAINS, Ragged, Rows, hashed, joined, other
from i2vae_lib.data.user_sequences import with_targets
from i2vae_lib.experiments.after_the_last import AfterTheLast
from i2vae_lib.experiments.engine import Say, Work, cell_folder, cost, reason_of, work_off
from i2vae_lib.experiments.workers import InThisProcess
from i2vae_lib.generators import psg
from i2vae_lib.labels import AFTER
from i2vae_lib.params import Parameters, digest, of_result
from i2vae_lib.progress import bar
from i2vae_lib.recommenders import REFERENCES, I2VAERecommender
from i2vae_lib.runs import LayoutError, Run, read_record
from i2vae_lib.stages import irrelevant_groups, load_ranks, quiet
from i2vae_lib.training import Callbacks

LEAKS = ("order", "users", "histories", "pseudo", "selection")
CLOSED: frozenset[str] = frozenset()
WORLDS = ("none", "order")
CONDITIONS: tuple[frozenset[str], ...] = (CLOSED, *(frozenset([leak]) for leak in LEAKS), frozenset(LEAKS))
_RANKERS = ("popularity", "copy", "itemknn", "ease", "ordered_counts")
SYSTEMS = (*_RANKERS, f"popularity{AFTER}", f"itemknn{AFTER}", "i2vae")


def _unfitted(system: str, dataset: CrossDomainDataset, p: Parameters) -> Any:
    if system == "i2vae":
        return I2VAERecommender(dataset.catalogue, p)
    plain = REFERENCES[system.removesuffix(AFTER)](dataset.catalogue)
    return AfterTheLast(plain) if system.endswith(AFTER) else plain


def label(leaks: frozenset[str]) -> str:
    """``none``, a leak's name, or ``all``."""
    return {CLOSED: "none", frozenset(LEAKS): "all"}.get(leaks) or "+".join(sorted(leaks))


def leaky(raw: RawPair, p: Parameters, leaks: frozenset[str]) -> CrossDomainDataset:
    """``strict`` with the leaks ``order``, ``users`` and ``histories`` open that are named (the others: no data's)."""
    train, test = raw.train, raw.test
    if "users" not in leaks:
        train = splitting.without_copies(splitting.without_users(train, test), test)[0]
    if "order" not in leaks:
        train, test = (protocols.order_free(rows, p.split.data_seed) for rows in (train, test))
    if "histories" not in leaks:
        train, test = (splitting.scrub(rows)[0] for rows in (train, test))
    cut = splitting.held_out(train, test, p.split, {})
    if "users" not in leaks:
        kept = splitting.without_copies(cut.splits["train"], cut.splits["validation"])[0]
        cut = replace(cut, splits={**cut.splits, "train": kept})
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
    any; seeds and selection where nothing is drawn or chosen). What goes by the order is asked about the order alone:
    in either world, and in the published one."""
    found = []
    for leaks, system in itertools.product(CONDITIONS, systems):
        if leaks == {"pseudo"} and system != "i2vae":
            continue
        if leaks == {"selection"} and system in ("popularity", "copy"):
            continue
        if system.endswith(AFTER) and leaks not in (CLOSED, {"order"}, frozenset(LEAKS)):
            continue
        found += [Cell(system, leaks, seed) for seed in (seeds if system == "i2vae" else seeds[:1])]
    return found


def measure(raw: RawPair, p: Parameters, cell: Cell, checkpoint: Path | None = None) -> pd.DataFrame:
    """Train one system under one set of leaks and rank the test rows: lines of ``ranks.parquet``.

    Row kinds are those of the condition without any leak but ``order``, so that a cell of the table holds the same rows
    under every leak that asks the same targets.
    """
    dataset, closed = leaky(raw, p, cell.leaks), leaky(raw, p, cell.leaks & {"order"})
    train, test = dataset.splits["train"], dataset.splits["test"]
    generator = None
    if cell.system == "i2vae":
        generator = psg.fit_once(train, psg.as_published(p.psg) if "pseudo" in cell.leaks else p.psg)
    recommender = _unfitted(cell.system, dataset, p).fit(
        train,
        test if "selection" in cell.leaks else dataset.splits["validation"],
        # what learns order is told whether there is any
        params=p.model_copy(update={"protocol": "released"}) if "order" in cell.leaks else p,
        generator=generator,
        rng=np.random.default_rng(cell.seed),
        callbacks=Callbacks(checkpoint),
    )
    negatives = evaluation.sample_negatives(test, p.evaluation.negatives, p.split.data_seed)
    ranks = evaluation.rank(recommender, test, negatives, full=True, batch_size=p.evaluation.batch_size)
    rows = closed.splits["test"]
    seen = evaluation.seen_targets(rows, closed.splits["train"])
    return evaluation.rank_table(cell.system, rows, closed.tail["test"], seen, ranks)


def study(
    raw: RawPair, p: Parameters, systems: Sequence[str], seeds: Sequence[int], folder: Path, *, say: Say = quiet
) -> pd.DataFrame:
    """Measure every cell that ``folder`` does not hold yet (:mod:`.experiments.engine`); try failed ones again.

    Raises
    ------
    RuntimeError
        Cells failed (which, and why); all others are measured.

    Returns
    -------
    DataFrame
        As :func:`finished`.
    """
    works = _works(raw, p, systems, seeds, folder)
    todo = [work for work in works.values() if not work.is_done]
    with bar("leaks", len(works), "cell", initial=len(works) - len(todo)) as progress:
        work_off(InThisProcess(), todo, say=say, progress=progress)
    if failed := [f"{work.label}: {reason_of(work.folder)}" for work in todo if not work.is_done]:
        raise RuntimeError(f"{len(failed)} cells failed, the others are measured: {'; '.join(failed)}")
    return finished(raw, p, systems, seeds, folder)


def _works(raw: RawPair, p: Parameters, systems: Sequence[str], seeds: Sequence[int], folder: Path) -> dict[Cell, Work]:
    """The cells of a study by what they are, each named by what it depends on as well."""
    rows = [raw.catalogue.digest(), rows_digest(raw.train), rows_digest(raw.test)]
    read = of_result(p.model_dump(mode="json"), ("seed", "system", *irrelevant_groups(["i2vae"])))
    address = digest(rows, read)[:8]
    return {
        cell: Work(
            cell_folder(folder, f"{cell.name}-{address}"), cell.name, _make_cell, (raw, p, cell), "ranks.parquet"
        )
        for cell in cells(systems, seeds)
    }


def _make_cell(raw: RawPair, p: Parameters, cell: Cell, folder: Path) -> None:
    """What a worker does: :func:`measure` a cell, with a record of it as of any run."""
    run = Run(p.model_copy(update={"seed": cell.seed}), folder)
    run.note(recommender=cell.system, leaks=sorted(cell.leaks))
    with run.stage("measure"):
        table = measure(raw, p, cell, folder / "last.ckpt")
    run.leave("ranks.parquet", lambda part: table.to_parquet(part, index=False))


def finished(raw: RawPair, p: Parameters, systems: Sequence[str], seeds: Sequence[int], folder: Path) -> pd.DataFrame:
    """The rank tables of the cells that ``folder`` holds.

    Returns
    -------
    DataFrame
        Lines of ``ranks.parquet``, with columns ``leaks``, ``seed``, ``seconds`` and ``revision`` (of the cell).

    Raises
    ------
    LayoutError
        No cell is measured.
    """
    parts = []
    for cell, work in _works(raw, p, systems, seeds, folder).items():
        if work.is_done:
            record = read_record(work.folder)
            part = load_ranks(work.folder)
            part = part.assign(leaks=label(cell.leaks), seed=cell.seed, seconds=round(cost(record)[0], 1))
            parts.append(part.assign(revision=record["stages"]["measure"]["revision"]))
    if not parts:
        raise LayoutError(f"{folder} holds no finished cell of {', '.join(systems)} on these data and parameters")
    return pd.concat(parts, ignore_index=True)


def world_of(condition: str) -> str:
    """Of :data:`WORLDS` the one whose targets the rows of a condition (a :func:`label`) ask."""
    return "order" if condition == "all" or "order" in condition.split("+") else "none"


def in_one_order(raw: RawPair, data_seed: int) -> RawPair:
    """A clean pair whose sequences all stand in one random order of items, as the released files have them.

    What a row holds of a domain stays; its target is the last of that order.
    To be called before :func:`planted`, whose leaks are made of the targets.
    """
    key = {d: hashed(raw.catalogue.ids[d], "planted order", d, data_seed) for d in DOMAINS}

    def of(rows: Rows) -> Rows:
        sequences = {}
        for d in DOMAINS:
            whole = with_targets(rows, d)
            at = np.lexsort((key[d][whole.values - 1], whole.owner))
            sequences[d] = replace(whole, values=whole.values[at])
        return splitting.raw_rows(rows.catalogue, rows.user, rows.domain, sequences, rows.source)

    return replace(raw, train=of(raw.train), test=of(raw.test))


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
