"""A grid -> runs -> one tidy table, on this machine's cores or on a Dask cluster.

A cell of a grid is an ordinary run directory, made by the four stages in a worker's own process: a notebook per cell
would cost seconds of start-up and a megabyte of copies for the same result, and the report of any cell can be written
later (``i2vae report``). A cell's folder (:func:`.engine.cell_folder`) is named by the digest of what the cell depends
on (:func:`.grids.address_of`), so a cell is run once, whatever sweep asks for it. What workers share (the dataset, the
generator's fit, every row's recalled items, the reference rankers) is in the content-addressed cache; workers are sent
parameters and paths, never data.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy  # scipy.stats is imported where it is used: it takes most of a second
from filelock import FileLock

from i2vae_lib import evaluation, stages
from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.data.loading import load_dataset_once
from i2vae_lib.experiments.engine import Say, Work, cell_folder, claim_cells, cost, reason_of, work_off
from i2vae_lib.experiments.grids import Cell, Sweep, address_of, address_of_record, resolve
from i2vae_lib.experiments.workers import Cluster, connect
from i2vae_lib.generators import psg
from i2vae_lib.params import Parameters, pair_name
from i2vae_lib.processes import peak_memory_bytes
from i2vae_lib.progress import bar
from i2vae_lib.recommenders import CEILINGS, REFERENCES
from i2vae_lib.runs import RESULTS, Damaged, checked, no_room, read_record, refuse_file
from i2vae_lib.training import Callbacks, history_of

# --- what there is ----------------------------------------------------------------------------------------------------


def state_of(cell: Cell, out: Path) -> str:
    """State of a cell's folder: ``done``, ``damaged``, ``failed``, ``begun`` or ``missing``.

    A cell is damaged if one of its files is not what its run wrote, or if it is finished but holds another cell's run.

    Raises
    ------
    LayoutError
        The folder holds a run of another layout version.
    """
    folder = cell_folder(out, cell.address)
    if not folder.is_dir():
        return "missing"
    finished = (folder / "metrics.json").is_file()
    try:
        if (folder / "run.json").is_file():
            record = read_record(folder)
            for name in record["sha256"]:
                if finished or (folder / name).is_file():  # an unfinished cell still makes missing files
                    checked(folder, name, record)
            if finished:
                own = address_of_record(record["parameters"], None) == address_of(cell.parameters, None)
                return "done" if own else "damaged"
            for path in folder.glob("last*.ckpt"):  # one cut short would make every new try of the cell fail
                history_of(path)
        elif any((folder / name).exists() for name in RESULTS) or any(folder.glob("last*.ckpt")):
            return "damaged"
        return "begun" if reason_of(folder) is None else "failed"
    except Damaged:
        return "damaged"


def done_cells(sweep: Sweep, out: Path | str) -> list[tuple[Cell, Path]]:
    """The finished cells of a sweep with their folders, in their order."""
    folders = [(cell, cell_folder(Path(out), cell.address)) for cell in sweep.cells]
    return [(cell, folder) for cell, folder in folders if state_of(cell, Path(out)) == "done"]


def plan(sweep: Sweep, out: Path | str) -> pd.DataFrame:
    """One line per cell: what it is, its state and its cost.

    Returns
    -------
    DataFrame
        ``address, cell`` (label), ``seed, data, system``; ``state``: ``done``, ``begun``, ``failed``, ``damaged`` or
        ``missing``; ``reason``; ``seconds`` and ``peak_memory_bytes`` of finished cells.
    """
    out = Path(out)
    refuse_file(out)
    lines = []
    for cell in sweep.cells:
        state, folder = state_of(cell, out), cell_folder(out, cell.address)
        reason = reason_of(folder) if state == "failed" else None
        seconds, peak = cost(read_record(folder)) if state == "done" else (None, None)
        label = "; ".join(", ".join([place.grid, *place.labels()]) for place in cell.places)
        p = cell.parameters
        lines.append((cell.address, label, p.seed, pair_name(p.data), p.system, state, reason, seconds, peak))
    columns = ["address", "cell", "seed", "data", "system", "state", "reason", "seconds", "peak_memory_bytes"]
    return pd.DataFrame(lines, columns=columns).astype({"seconds": float, "peak_memory_bytes": float})


def plan_by_seeds(planned: pd.DataFrame) -> pd.DataFrame:
    """:func:`plan` for reading: one line for all seeds of a place.

    Returns
    -------
    DataFrame
        ``cell, data, system, seeds``; ``state`` (seeds in each state); ``reason`` (address and reason of each failure;
        only if any cell failed).
    """
    lines = []
    for (cell, data, system), part in planned.groupby(["cell", "data", "system"], sort=False):
        states = ", ".join(f"{n} {state}" for state, n in part["state"].value_counts(sort=False).items())
        failed = part[part["state"] == "failed"]
        reasons = "; ".join(f"{address}: {reason}" for address, reason in zip(failed["address"], failed["reason"]))
        lines.append((cell, data, system, " ".join(map(str, part["seed"])), states, reasons))
    table = pd.DataFrame(lines, columns=["cell", "data", "system", "seeds", "state", "reason"])
    return table if table["reason"].any() else table.drop(columns="reason")


def costs(sweep: Sweep, planned: pd.DataFrame, probe: Callable[[Cell], tuple[float, float]] | None) -> pd.DataFrame:
    """What one cell costs, for each pair of data and system: from finished cells, else from a probe.

    Parameters
    ----------
    planned
        The table of :func:`plan`.
    probe
        Called with one cell of each pair of data and system without finished cells; returns its seconds and peak
        memory in bytes, like :func:`probe_cell`. None: these stay unknown.

    Returns
    -------
    DataFrame
        ``data, system, cells, left``; ``seconds`` and peak memory (``GiB``) of one cell (NaN: unknown); ``source``.
    """
    lines = []
    for (data, system), part in planned.groupby(["data", "system"], sort=False):
        done = part[part["state"] == "done"]
        head = (data, system, len(part), len(part) - len(done))
        if len(done):
            lines.append((*head, done["seconds"].mean(), done["peak_memory_bytes"].max() / 2**30, "done cells"))
        elif probe is None:
            lines.append((*head, np.nan, np.nan, "no cell is done"))
        else:
            cell = next(cell for cell in sweep.cells if cell.address == part["address"].iloc[0])
            seconds, peak = probe(cell)
            lines.append((*head, seconds, peak / 2**30, "a probe: at most, every epoch counted"))
    columns = ["data", "system", "cells", "left", "seconds", "GiB", "source"]
    return pd.DataFrame(lines, columns=columns)


def estimate(found: pd.DataFrame, workers: int) -> str:
    """The rest of a sweep as one line, from :func:`costs`: cells, time and memory with a number of workers."""
    cells, left = int(found["cells"].sum()), int(found["left"].sum())
    if not left:
        return f"{cells} cells, all done"
    head = f"{cells} cells, {cells - left} done, {left} left"
    open_ones = found[found["left"] > 0]
    if open_ones["seconds"].isna().any():
        return f"{head}; time not known (no cell of this kind is done; --dry-run measures one)"
    busy = min(workers, left)
    shared = float((open_ones["seconds"] * open_ones["left"]).sum()) / busy
    hours = max(shared, float(open_ones["seconds"].max())) / 3600  # a cell is not divided
    memory = float(open_ones["GiB"].max()) * busy
    time_left = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
    return f"{head}: about {time_left} with {busy} workers, {memory:.1f} GiB"


def probe_cell(cell: Cell, rows: int = 1024) -> tuple[float, int]:
    """Upper bound on a cell's training seconds (all epochs) and peak memory in bytes, from some of its rows.

    Two fits of one epoch, on ``rows`` and on twice as many rows, all items: their difference is what rows cost (if it
    is negligible beside the rest of a fit, the whole longer fit counts as such, which overestimates). What cells share
    (the generator's fit, the reference rankers) and the ranking of held-out rows are not included.
    """
    p = cell.parameters
    dataset = load_dataset_once(p)
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    few = {"validation": validation.take(np.arange(min(rows, len(validation))))}
    hasty = p.psg.model_copy(update={"epochs": 1, "folds": 1})  # its cost does not depend on the rows
    once = p.model_copy(update={"training": p.training.model_copy(update={"epochs": 1})})
    seconds = []
    counts = [min(64, len(train)), min(rows, len(train) // 2), min(2 * rows, len(train))]
    for count in counts:  # the first fit also pays for what a process does only once
        part = train.take(np.arange(count))
        generator = psg.fit(part, hasty) if stages.uses_generator(p) else None
        start = time.perf_counter()
        stages.fitted_system(replace(dataset, splits={"train": part, **few}), once, generator, Callbacks())
        seconds.append(time.perf_counter() - start)
    each = (seconds[2] - seconds[1]) / max(counts[2] - counts[1], 1)
    if each * counts[2] < 0.1 * seconds[2]:  # negligible beside a fit's fixed cost: count the whole fit
        each = seconds[2] / counts[2]
    return seconds[1] + p.training.epochs * each * len(train), peak_memory_bytes()


# --- running ----------------------------------------------------------------------------------------------------------


def make_run(parameters: Parameters, folder: Path) -> None:
    """Make the run of one cell. Runs in a worker."""
    start = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - start:6.1f} s] {line}", flush=True)

    stages.run_all(stages.open_run(parameters, folder), say)


def run(
    grid: Sweep | Mapping[str, Any],
    out: Path | str,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    dashboard: bool = False,
    retry_failed: bool = False,
    say: Say = stages.quiet,
) -> pd.DataFrame:
    """Run every cell that is missing; returns the finished part of the table.

    Parameters
    ----------
    grid
        A sweep, or the content of a sweep file.
    out
        Folder of the cells.
    workers, scheduler
        As in :func:`i2vae_lib.experiments.workers.connect`.
    dashboard
        Print the address of the scheduler's page.
    retry_failed
        Also run cells that failed before, of which those that a full disk stopped run anyway.

    Returns
    -------
    DataFrame
        As :func:`results`.

    Raises
    ------
    ParameterError, DataError
        As :func:`i2vae_lib.experiments.grids.read_sweep`, before anything runs.
    LayoutError
        A cell's folder is of another layout version.
    SchedulerError
        As :func:`i2vae_lib.experiments.workers.connect`.
    """
    sweep = grid if isinstance(grid, Sweep) else resolve("grid", grid)
    out = Path(out).resolve()
    planned = plan(sweep, out).set_index("address")
    state = planned["state"]
    for cell in (cell for cell in sweep.cells if state[cell.address] == "damaged"):
        say(f"{cell.address} ({planned.at[cell.address, 'cell']!s}): damaged; set aside and run again")
        set_aside(cell, out)
    # the same command goes on with what a full disk stopped
    failed = planned.index[(state == "failed") & ~planned["reason"].map(lambda why: bool(no_room(str(why))))]
    if len(failed) and not retry_failed:
        say(f"{len(failed)} cells failed before and are left alone; --retry-failed runs them again")
    left_alone = {*planned.index[state == "done"], *([] if retry_failed else failed)}
    todo = [_work(cell, out) for cell in sweep.cells if cell.address not in left_alone]
    if todo:
        claim_cells(out)
        done, cells = int((state == "done").sum()), len(sweep.cells)
        with bar("sweep", cells, "cell", initial=done) as progress, connect(workers, scheduler) as team:
            if dashboard:
                page = team.client.dashboard_link if isinstance(team, Cluster) else "only a scheduler has one"
                say(f"dashboard: {page}")
            work_off(team, todo, say=say, progress=progress)
    return results(sweep, out)


def _work(cell: Cell, out: Path) -> Work:
    place = cell.places[0]
    label = f"{cell.address} ({', '.join(place.labels()) or place.grid}, seed {cell.parameters.seed})"
    return Work(cell_folder(out, cell.address), label, make_run, (cell.parameters,), "metrics.json")


def set_aside(cell: Cell, out: Path) -> None:
    """Rename a damaged cell's folder, unless another sweep already did; an older renamed folder is deleted."""
    with FileLock(out / ".aside.lock"):
        if state_of(cell, out) == "damaged":
            folder = cell_folder(out, cell.address)
            target = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)


# --- results ----------------------------------------------------------------------------------------------------------


def results(sweep: Sweep, out: Path | str) -> pd.DataFrame:
    """The tidy table of a sweep: finished cells, and one line for each missing cell.

    Returns
    -------
    DataFrame
        ``grid, row``, a column for each key that the grids vary, ``seed, state, recommender, domain`` (name), ``kind,
        metric, candidates, n, value, validation`` (NDCG@10 on validation rows, by which a grid's best point is chosen),
        ``run`` (path inside the folder). Cells that are not done have one line, with ``value`` NaN.
    """
    out = Path(out)
    planned = plan(sweep, out).set_index("address")["state"]
    parts: dict[int, pd.DataFrame] = {}  # by the order of the file
    for cell in sweep.cells:
        folder = cell_folder(out, cell.address)
        if planned[cell.address] == "done":
            names = read_record(folder)["names"]
            lines = evaluation.tidy(stages.load_metrics(folder), names)
            lines["validation"] = read_record(folder)["best_validation_ndcg"]
        else:
            lines = pd.DataFrame([{"recommender": cell.parameters.system, "value": np.nan}])
        for place in cell.places:
            head = {"grid": place.grid, "row": place.row, **place.axes, "seed": cell.parameters.seed}
            parts[place.number] = lines.assign(**head, state=planned[cell.address], run=f"cells/{cell.address}")
    table = pd.concat([parts[number] for number in sorted(parts)], ignore_index=True)
    first = ["grid", "row", *sweep.axes(), "seed", "state", "recommender"]
    rest = ["domain", "kind", "metric", "candidates", "n", "value", "validation", "run"]
    return table.reindex(columns=[*first, *rest])


def over_seeds(table: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """:func:`results` averaged over seeds.

    Parameters
    ----------
    axes
        The keys that the grids vary: ``sweep.axes()``.

    Returns
    -------
    DataFrame
        ``grid, row``, axes, ``recommender, domain, kind, metric, candidates, n, seeds, mean, sd``; ``low, high``: the
        t-interval of the mean over seeds, NaN for fewer than two; ``runs``. A place without any value yet is one line
        with ``seeds`` 0.
    """
    place = ["grid", "row", *axes]
    by = [*place, "recommender", "domain", "kind", "metric", "candidates"]
    done = table.dropna(subset=["value"])
    over = done.groupby(by, sort=False, dropna=False).agg(
        n=("n", "first"), seeds=("value", "size"), mean=("value", "mean"), sd=("value", "std"), runs=("run", " ".join)
    )
    over = over.reset_index()
    error = over["sd"] / np.sqrt(over["seeds"])
    with np.errstate(invalid="ignore"):  # of one seed
        over["low"], over["high"] = scipy.stats.t.interval(0.95, over["seeds"] - 1, over["mean"], error)
    every = table[place].drop_duplicates()  # in the order of the file
    return every.merge(over, on=place, how="left").fillna({"seeds": 0}).astype({"seeds": int})


def by_place(table: pd.DataFrame, axes: Sequence[str], metric: str = "HR@10") -> pd.DataFrame:
    """A metric of :func:`results` for reading: per cent, mean over seeds, trained systems, one line per place.

    Missing cells have lines with ``seeds`` 0.
    """
    place = ["grid", "row", *axes]
    over = own_cells(over_seeds(table, axes), metric)
    if over.empty:
        return table[place].drop_duplicates().assign(seeds=0)
    over = over.assign(column=over["domain"] + " " + over["kind"], value=(100 * over["mean"]).round(2))
    wide = over.pivot(index=[*place, "recommender", "seeds"], columns="column", values="value")
    wide = wide[list(dict.fromkeys(over["column"]))].reset_index()
    every = table[place].drop_duplicates()
    return every.merge(wide, on=place, how="left").fillna({"seeds": 0}).astype({"seeds": int})


def own_cells(over: pd.DataFrame, *metrics: str, candidates: str = "sampled") -> pd.DataFrame:
    """Lines of :func:`over_seeds` for trained systems and :data:`.HEADLINE`, without places that have no value."""
    rankers = [*REFERENCES, *CEILINGS]
    chosen = over["metric"].isin(metrics) & (over["candidates"] == candidates) & over["kind"].isin(HEADLINE)
    return over[chosen & ~over["recommender"].isin(rankers)]
