"""A grid -> runs -> one tidy table, on this machine's cores or on a Dask cluster.

A cell of a grid is an ordinary run directory, made by the four stages in a worker's own process: a notebook a cell
would cost seconds of start and a megabyte of copies for the same result, and the report of any cell can be written
later (``i2vae report``). Cells are named by the digest of what they depend on, so a cell is run once, whatever sweep
asks for it. What workers share (the dataset, the generator's fit, what every row recalls, the reference rankers) lies
in the content-addressed cache; they are sent parameters and paths, never data.

====================  =============================================================================================
``cells/ADDRESS/``    the run of a cell
``index.sqlite``      tables ``cells`` (state, reason, traceback, seconds, peak memory) and ``places`` (which sweep,
                      grid, row, settings and seed a cell stands for); a record, which the folders outlive
====================  =============================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import dask
import numpy as np
import pandas as pd
import scipy  # scipy.stats is imported where it is used: it takes most of a second
from distributed import Client, LocalCluster, as_completed
from distributed.comm import connect as open_comm
from filelock import FileLock, Timeout
from pyarrow import parquet
from safetensors import SafetensorError, safe_open

from i2vae_lib import evaluation, psg, stages
from i2vae_lib.data.loading import load_dataset_once
from i2vae_lib.grids import Cell, Sweep, address_of, address_of_record, labels, resolve
from i2vae_lib.params import Parameters, pair_name
from i2vae_lib.progress import bar
from i2vae_lib.recommenders import CEILINGS, REFERENCES, SYSTEMS
from i2vae_lib.runs import (
    RUN_LAYOUT,
    LayoutError,
    forget_peak_memory,
    peak_memory_bytes,
    read_record,
    usable_cores,
)
from i2vae_lib.training import Callbacks, history_of

INDEX_LAYOUT = 1
PATIENCE = 30
"""Seconds that a scheduler has to answer, and to show a worker."""

KINDS = ("all", "tailed", "cold")
Say = Callable[[str], None]


class SchedulerError(OSError):
    """A scheduler that does not answer, or that has no workers."""


# --- the folder -------------------------------------------------------------------------------------------------------


def cell_folder(out: Path, address: str) -> Path:
    """Where the run of a cell lies."""
    return out / "cells" / address


@contextlib.contextmanager
def open_index(out: Path) -> Iterator[sqlite3.Connection]:
    """The index of a folder of cells, made if it is not there; one transaction.

    Raises
    ------
    LayoutError
        Another layout version, or a file that is no index.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "index.sqlite"
    try:
        db = sqlite3.connect(path, timeout=60)
    except sqlite3.OperationalError as error:
        raise OSError(f"{path}: {error}") from None
    try:
        with db:
            # in this order: who sees another's tables then sees its version too
            empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if empty:
                db.execute("BEGIN IMMEDIATE")
                db.execute(
                    "CREATE TABLE IF NOT EXISTS cells (address TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT, "
                    "traceback TEXT, seconds REAL, peak_memory_bytes INTEGER, parameters TEXT NOT NULL)"
                )
                db.execute(
                    "CREATE TABLE IF NOT EXISTS places (sweep TEXT, grid TEXT, row TEXT, settings TEXT, seed INTEGER, "
                    "address TEXT, against TEXT, UNIQUE (sweep, grid, row, settings, seed) ON CONFLICT REPLACE)"
                )
                db.execute(f"PRAGMA user_version = {INDEX_LAYOUT}")
            elif found != INDEX_LAYOUT:
                raise LayoutError(
                    f"{path} has layout {found}, this version reads layout {INDEX_LAYOUT}: choose another OUT, or "
                    f"delete the index (finished cells are found again)"
                )
            yield db
    except sqlite3.OperationalError as error:  # locked for a minute, a full disk, a folder that cannot be written
        raise OSError(f"{path}: {error}") from None
    except sqlite3.DatabaseError as error:
        raise LayoutError(f"{path}: {error}: delete it (finished cells are found again)") from None
    finally:
        db.close()


def state_of(cell: Cell, out: Path) -> str:
    """What a cell's folder says: ``done``, ``damaged``, ``begun`` or ``missing``.

    Damaged is a cell of which a file cannot be read, or a finished one without its system's metrics or with another
    cell's run.

    Raises
    ------
    LayoutError
        A run of another layout version.
    """
    folder = cell_folder(out, cell.address)
    if not folder.is_dir():
        return "missing"
    finished, begun = (folder / "metrics.json").is_file(), (folder / "run.json").is_file()
    if not begun:
        return "damaged" if finished else "begun"
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if record["layout"] != RUN_LAYOUT:
            raise LayoutError(
                f"{folder} has run layout {record['layout']}, this version reads {RUN_LAYOUT}: choose another OUT"
            )
        if finished:
            stages.load_metrics(folder)[cell.parameters.system]
            pd.read_parquet(folder / "ranks.parquet", columns=["recommender"])
            if address_of_record(record["parameters"], None) != address_of(cell.parameters, None):
                return "damaged"
        _open_every_file(folder, checkpoints=not finished)
    except LayoutError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
        return "damaged"
    return "done" if finished else "begun"


def _open_every_file(folder: Path, *, checkpoints: bool) -> None:
    """Read the head of each file of a run: one cut short would fail every time that the cell is tried."""
    for path in folder.rglob("*.parquet"):
        parquet.read_metadata(path)
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="numpy"):
            pass
    for path in folder.glob("last*.ckpt") if checkpoints else ():
        history_of(path)


def plan(sweep: Sweep, out: Path | str) -> pd.DataFrame:
    """A line a cell: what it is, and what is known of it.

    Returns
    -------
    DataFrame
        ``address, cell`` (label), ``seed, data, system``; ``state``: ``done``, ``begun``, ``failed``, ``damaged`` or
        ``missing``; ``reason``; ``seconds`` and ``peak_memory_bytes`` of finished cells.
    """
    out = Path(out)
    known: dict[str, tuple[Any, ...]] = {}
    if (out / "index.sqlite").is_file():
        with open_index(out) as db:
            for line in db.execute("SELECT address, state, reason, seconds, peak_memory_bytes FROM cells"):
                known[line[0]] = line[1:]
    lines = []
    for cell in sweep.cells:
        state = state_of(cell, out)
        said, reason, seconds, peak = known.get(cell.address, (None, None, None, None))
        if state == "done" and seconds is None:
            seconds, peak = cost(cell_folder(out, cell.address))
        if said == "failed" and state in ("missing", "begun"):
            state = "failed"
        else:
            reason = None
        label = "; ".join(", ".join([place.grid, *labels(place)]) for place in cell.places)
        p = cell.parameters
        lines.append((cell.address, label, p.seed, pair_name(p.data), p.system, state, reason, seconds, peak))
    columns = ["address", "cell", "seed", "data", "system", "state", "reason", "seconds", "peak_memory_bytes"]
    return pd.DataFrame(lines, columns=columns).astype({"seconds": float, "peak_memory_bytes": float})


def plan_by_seeds(planned: pd.DataFrame) -> pd.DataFrame:
    """:func:`plan` to be read: a line for all seeds of a place.

    Returns
    -------
    DataFrame
        ``cell, data, system, seeds``; ``state`` (how many are in which); ``reason``: of each that failed, with its
        address, where any did.
    """
    lines = []
    for (cell, data, system), part in planned.groupby(["cell", "data", "system"], sort=False):
        states = ", ".join(f"{n} {state}" for state, n in part["state"].value_counts(sort=False).items())
        failed = part[part["state"] == "failed"]
        reasons = "; ".join(f"{address}: {reason}" for address, reason in zip(failed["address"], failed["reason"]))
        lines.append((cell, data, system, " ".join(map(str, part["seed"])), states, reasons))
    found = pd.DataFrame(lines, columns=["cell", "data", "system", "seeds", "state", "reason"])
    return found if found["reason"].any() else found.drop(columns="reason")


def cost(folder: Path) -> tuple[float, int]:
    """Seconds of a finished run's stages, and its peak memory."""
    found = read_record(folder)["stages"].values()
    return sum(one["seconds"] for one in found), max((one["peak_memory_bytes"] for one in found), default=0)


def costs(sweep: Sweep, planned: pd.DataFrame, probe: Callable[[Cell], tuple[float, float]] | None) -> pd.DataFrame:
    """What a cell of each data and system costs: from done cells, else from a probe.

    Parameters
    ----------
    planned
        :func:`plan`'s.
    probe
        Called with one cell of each data and system of which none is done: its seconds and peak memory in bytes, as
        :func:`probe_cell` measures them. None: they are not known.

    Returns
    -------
    DataFrame
        ``data, system, cells, left``; ``seconds, peak_memory_bytes`` of one cell (nan: not known); ``source``.
    """
    lines = []
    for (data, system), part in planned.groupby(["data", "system"], sort=False):
        done = part[part["state"] == "done"]
        head = (data, system, len(part), len(part) - len(done))
        if len(done):
            lines.append((*head, done["seconds"].mean(), done["peak_memory_bytes"].max(), "done cells"))
        elif probe is None:
            lines.append((*head, np.nan, np.nan, "no cell is done"))
        else:
            cell = next(one for one in sweep.cells if one.address == part["address"].iloc[0])
            lines.append((*head, *probe(cell), "a probe: at most, every epoch counted"))
    columns = ["data", "system", "cells", "left", "seconds", "peak_memory_bytes", "source"]
    return pd.DataFrame(lines, columns=columns)


def estimate(found: pd.DataFrame, workers: int) -> str:
    """What is left of a sweep, in a line: cells, time and memory with so many workers, from :func:`costs`."""
    cells, left = int(found["cells"].sum()), int(found["left"].sum())
    if not left:
        return f"{cells} cells, all done"
    head = f"{cells} cells, {cells - left} done, {left} left"
    open_ones = found[found["left"] > 0]
    if open_ones["seconds"].isna().any():
        return f"{head}; time not known (no cell of this kind is done; --dry-run measures one)"
    busy = min(workers, left)
    shared = float((open_ones["seconds"] * open_ones["left"]).sum()) / busy
    hours = max(shared, float(open_ones["seconds"].max())) / 3600  # no cell is divided
    memory = float(open_ones["peak_memory_bytes"].max()) * busy / 2**30
    time_left = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
    return f"{head}: about {time_left} with {busy} workers, {memory:.1f} GiB"


def probe_cell(cell: Cell, rows: int = 1024) -> tuple[float, int]:
    """Seconds that a cell trains at most (all of its epochs), and peak memory in bytes, from some of its rows.

    Two fits of one epoch on ``rows`` and on twice as many rows, all items: their difference is what rows cost (where it
    is lost in the rest of a fit, the whole of the longer one is taken for it, which is too much). What
    cells share (the generator's fit, the reference rankers) and the ranking of held-out rows are not in it.
    """
    p = cell.parameters
    dataset = load_dataset_once(p)
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    few = validation.take(np.arange(min(rows, len(validation))))
    hasty = stages.effective_psg(p).model_copy(update={"epochs": 1, "folds": 1})  # its cost does not go by rows
    once = p.model_copy(update={"training": p.training.model_copy(update={"epochs": 1})})
    kind = SYSTEMS[p.system]
    seconds = []
    counts = [min(64, len(train)), min(rows, len(train) // 2), min(2 * rows, len(train))]
    for count in counts:  # the first fit pays for what a process does once
        part = train.take(np.arange(count))
        generator = psg.fit(part, hasty) if stages.uses_generator(p) else None
        start = time.perf_counter()
        kind(dataset.catalogue, once).fit(
            part,
            few,
            params=once,
            generator=generator,
            rng=np.random.default_rng(p.seed),
            callbacks=Callbacks(),
        )
        seconds.append(time.perf_counter() - start)
    each = (seconds[2] - seconds[1]) / max(counts[2] - counts[1], 1)
    if each * counts[2] < 0.1 * seconds[2]:  # lost in what a fit costs whatever its rows: all of it is the rows', then
        each = seconds[2] / counts[2]
    return seconds[1] + p.training.epochs * each * len(train), peak_memory_bytes()


# --- running ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[TextIO]:
    """Hold a cell's folder, made if it is not there; its log, to which everything goes that is printed meanwhile.

    Raises
    ------
    Timeout
        Another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(folder / ".cell.lock").acquire(timeout=1),
        (folder / "log.txt").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),  # the cell's own progress; the sweep has its bar elsewhere
    ):
        yield log


def failure(error: BaseException) -> dict[str, Any]:
    """What a worker, or who lost one, says of a cell that failed."""
    text = "".join(traceback.format_exception(error))
    return {"state": "failed", "reason": f"{type(error).__name__}: {error}", "traceback": text}


def outcome(future: Any, result: Any) -> dict[str, Any]:
    """What a worker said, or that it died.

    Raises
    ------
    SchedulerError
        Nothing will be said: the scheduler is gone.
    """
    if future.cancelled():
        raise SchedulerError("lost the scheduler; the same command goes on")
    if isinstance(result, dict):
        return result
    return failure(result[1] if isinstance(result, tuple) else result)


def run_cell(parameters: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """What a worker does: the run of one cell, in this process.

    Returns
    -------
    dict
        ``state``: ``done``, ``failed`` (with ``reason`` and ``traceback``), or ``elsewhere``: another process has it.
    """
    path = Path(folder)
    try:
        with at_work(path) as log:
            if (path / "metrics.json").is_file():  # another sweep made it since this one was planned
                return {"state": "done", **dict(zip(("seconds", "peak_memory_bytes"), cost(path)))}
            forget_peak_memory()  # of the cells that this worker had before
            start = time.perf_counter()

            def say(line: str) -> None:
                print(f"[{time.perf_counter() - start:6.1f} s] {line}", file=log, flush=True)

            stages.run_all(stages.open_run(Parameters.model_validate(parameters), path), say)
            seconds, peak = cost(path)
            return {"state": "done", "seconds": seconds, "peak_memory_bytes": peak}
    except Timeout:
        return {"state": "elsewhere"}
    except Exception as error:
        return failure(error)


@contextlib.contextmanager
def connect(workers: int | None = None, scheduler: str | None = None, dashboard: bool = False) -> Iterator[Client]:
    """A Dask client: of a cluster of one-thread processes on this machine, or of a scheduler that runs somewhere.

    The local cluster listens on the loopback interface alone and serves no page unless ``dashboard`` asks for it.

    Parameters
    ----------
    workers
        Of the local cluster; None: as many as this process may use cores.
    scheduler
        ``tcp://host:port``, or the path of a scheduler file. Connect to your own alone: workers run what it sends.

    Raises
    ------
    SchedulerError
        No answer within :data:`PATIENCE` seconds, or no worker.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if scheduler is None:
        # dask always serves HTTP: on a free port of this machine, and without a page unless asked for one
        quiet: dict[str, Any] = {f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")}
        with (
            dask.config.set({} if dashboard else quiet),
            LocalCluster(
                n_workers=workers or usable_cores(),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": dashboard},
                memory_limit=None,  # a share each would kill the first cell that fits a large reference ranker
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    is_file = scheduler.endswith(".json") or Path(scheduler).is_file()
    address = _address_in(Path(scheduler)) if is_file else scheduler
    try:
        with ThreadPoolExecutor(1) as aside:  # a notebook's own loop runs already
            aside.submit(asyncio.run, _greeted(address)).result()
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError, TimeoutError) as error:
        raise SchedulerError(f"the scheduler at {scheduler} did not answer within {PATIENCE} s ({error})") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise SchedulerError(
                f"the scheduler at {scheduler} has no worker after {PATIENCE} s: start some, as in `dask worker "
                f"{'--scheduler-file ' * is_file}{scheduler} --nthreads 1`"
            ) from None
        yield _of_one_thread_each(client, scheduler)


async def _greeted(address: str) -> None:
    """Connect once, with an end to it: the client's own timeout does not hold for a peer that accepts and is silent."""
    comm = await asyncio.wait_for(open_comm(address, timeout=PATIENCE), PATIENCE)
    await comm.close()


def _of_one_thread_each(client: Client, scheduler: str) -> Client:
    """A cell's log is what its process prints, so a process has one cell at a time."""
    wide = {address: n for address, n in client.nthreads().items() if n > 1}
    if wide:
        raise SchedulerError(
            f"the scheduler at {scheduler} has workers of several threads ({', '.join(wide)}): start them with "
            f"--nthreads 1"
        )
    return client


def _address_in(file: Path) -> str:
    """The address in a scheduler file, for which a scheduler may need a moment."""
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(json.loads(file.read_text(encoding="utf-8"))["address"])
        if time.monotonic() > end:
            raise SchedulerError(f"no scheduler has written its address to {file} within {PATIENCE} s")
        time.sleep(0.1)


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
    """Run every cell that is not there yet; the finished part of the table.

    Killed at any moment, it loses nothing but what the cells in flight did since their last epoch; the same call goes
    on. Two calls over one folder share its cells. A cell that fails is recorded with its traceback, and the rest goes
    on.

    Parameters
    ----------
    grid
        A sweep, or what a sweep file holds.
    out
        Folder of the cells and of their index.
    workers, scheduler, dashboard
        Of :func:`connect`.
    retry_failed
        Also run cells that failed before.

    Returns
    -------
    DataFrame
        As :func:`results`.

    Raises
    ------
    ParameterError, DataError
        As :func:`i2vae_lib.grids.read_sweep`, before anything runs.
    LayoutError
        A folder of another layout version.
    SchedulerError
        As :func:`connect`.
    """
    sweep = grid if isinstance(grid, Sweep) else resolve("grid", grid)
    out = Path(out)
    record_places(sweep, out)
    planned = plan(sweep, out).set_index("address")
    for cell in sweep.cells:
        if planned.at[cell.address, "state"] == "damaged":
            say(f"{cell.address} ({planned.at[cell.address, 'cell']!s}): damaged; set aside and run again")
            set_aside(cell, out)
    held_back = ["done"] if retry_failed else ["done", "failed"]
    todo = [cell for cell in sweep.cells if planned.at[cell.address, "state"] not in held_back]
    failed = int((planned["state"] == "failed").sum())
    if failed and not retry_failed:
        say(f"{failed} cells failed before and are left alone; --retry-failed runs them again")
    finished = [cell.address for cell in sweep.cells if planned.at[cell.address, "state"] == "done"]
    with open_index(out) as db:
        for address in finished:
            seconds, peak = planned.at[address, "seconds"], planned.at[address, "peak_memory_bytes"]
            _note(db, address, {"state": "done", "seconds": seconds, "peak_memory_bytes": peak})
    if todo:
        with connect(workers, scheduler, dashboard) as client:
            if dashboard:
                say(f"dashboard: {client.dashboard_link}")
            _work_off(client, todo, out, len(finished), len(sweep.cells), say)
    return results(sweep, out)


def _work_off(client: Client, todo: Sequence[Cell], out: Path, done: int, total: int, say: Say) -> None:
    cells = {cell.address: cell for cell in todo}
    out = out.resolve()

    def submit(address: str) -> Any:
        words = (cells[address].parameters.model_dump(mode="json"), str(cell_folder(out, address)))
        # not pure: an address that is asked for again (it was elsewhere) is another question
        return client.submit(run_cell, *words, pure=False)

    progress = bar("sweep", total, "cell", initial=done)
    waiting = as_completed([], with_results=True, raise_errors=False)
    asked: dict[Any, str] = {}
    ahead = list(reversed(cells))
    try:
        while ahead or asked:
            # as many as there are threads: a cell that kills its worker takes no other with it
            while ahead and len(asked) < max(1, sum(client.ncores().values())):
                address = ahead.pop()
                future = submit(address)
                asked[future] = address
                waiting.add(future)
            future, result = next(waiting)
            address = asked.pop(future)
            result = outcome(future, result)
            if result["state"] == "elsewhere":
                ahead.insert(0, address)
                continue
            with open_index(out) as db:
                _note(db, address, result)
            label = ", ".join(labels(cells[address].places[0])) or cells[address].places[0].grid
            head = f"{address} ({label}, seed {cells[address].parameters.seed})"
            say(
                f"{head}: FAILED: {result['reason']}"
                if result["state"] == "failed"
                else f"{head}: {result['seconds']:.0f} s"
            )
            progress.update()
    except BaseException:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.cancel(list(asked))
        raise
    finally:
        progress.close()


def record_places(sweep: Sweep, out: Path) -> None:
    """Write what the cells stand for into the index."""
    with open_index(out) as db:
        db.execute("DELETE FROM places WHERE sweep = ?", (sweep.name,))
        for cell in sweep.cells:
            text = json.dumps(cell.parameters.model_dump(mode="json"), sort_keys=True)
            db.execute(
                "INSERT OR IGNORE INTO cells (address, state, parameters) VALUES (?, 'missing', ?)",
                (cell.address, text),
            )
            for place in cell.places:
                line = (sweep.name, place.grid, place.row, json.dumps(dict(place.settings)))
                db.execute(
                    "INSERT INTO places VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*line, cell.parameters.seed, cell.address, place.against),
                )


def _note(db: sqlite3.Connection, address: str, result: Mapping[str, Any]) -> None:
    names = ("state", "reason", "traceback", "seconds", "peak_memory_bytes")
    sets = ", ".join(f"{name} = ?" for name in names)
    db.execute(f"UPDATE cells SET {sets} WHERE address = ?", (*(result.get(name) for name in names), address))


def set_aside(cell: Cell, out: Path) -> None:
    """Rename a damaged cell's folder, unless another sweep has done so; an older one of that name is deleted."""
    with FileLock(out / ".aside.lock"):
        if state_of(cell, out) == "damaged":
            folder = cell_folder(out, cell.address)
            target = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)


# --- results ----------------------------------------------------------------------------------------------------------


def results(sweep: Sweep, out: Path | str) -> pd.DataFrame:
    """The tidy table of a sweep: what is done, with a line for each cell that is missing.

    Returns
    -------
    DataFrame
        ``grid, row``, a column for each key that the grids vary, ``seed, state, recommender, domain`` (name), ``kind,
        metric, candidates, n, value, validation`` (NDCG@10 on validation rows, by which a grid's best point is chosen),
        ``run`` (in the folder). Cells that are not done have one line, ``value`` nan.
    """
    out = Path(out)
    planned = plan(sweep, out).set_index("address")["state"]
    parts: dict[int, pd.DataFrame] = {}  # by the order of the file
    for cell in sweep.cells:
        folder = cell_folder(out, cell.address)
        if planned[cell.address] == "done":
            names = read_record(folder)["names"]
            found = evaluation.tidy(stages.load_metrics(folder), names)
            found["validation"] = read_record(folder)["best_validation_ndcg"]
        else:
            found = pd.DataFrame([{"recommender": cell.parameters.system, "value": np.nan}])
        for place in cell.places:
            head = {"grid": place.grid, "row": place.row, **place.axes, "seed": cell.parameters.seed}
            parts[place.number] = found.assign(**head, state=planned[cell.address], run=f"cells/{cell.address}")
    table = pd.concat([parts[number] for number in sorted(parts)], ignore_index=True)
    first = ["grid", "row", *sweep.axes(), "seed", "state", "recommender"]
    rest = ["domain", "kind", "metric", "candidates", "n", "value", "validation", "run"]
    return table.reindex(columns=[*first, *rest])


def over_seeds(table: pd.DataFrame, axes: Sequence[str], confidence: float = 0.95) -> pd.DataFrame:
    """:func:`results` over seeds.

    Parameters
    ----------
    axes
        What the grids vary: ``sweep.axes()``.

    Returns
    -------
    DataFrame
        ``grid, row``, axes, ``recommender, domain, kind, metric, candidates, n, seeds, mean, sd``; ``low, high``: the
        t-interval of the mean over seeds, nan for fewer than two; ``runs``. A place that has no value yet is one line
        of ``seeds`` 0.
    """
    place = ["grid", "row", *axes]
    by = [*place, "recommender", "domain", "kind", "metric", "candidates"]
    done = table.dropna(subset=["value"])
    found = done.groupby(by, sort=False, dropna=False).agg(
        n=("n", "first"), seeds=("value", "size"), mean=("value", "mean"), sd=("value", "std"), runs=("run", " ".join)
    )
    found = found.reset_index()
    several = found["seeds"] > 1
    quantile = scipy.stats.t.ppf((1 + confidence) / 2, np.maximum(found["seeds"] - 1, 1))
    half = quantile * found["sd"] / np.sqrt(found["seeds"])
    found = found.assign(low=(found["mean"] - half).where(several), high=(found["mean"] + half).where(several))
    every = table[place].drop_duplicates()  # in the order of the file
    return every.merge(found, on=place, how="left").fillna({"seeds": 0}).astype({"seeds": int})


def by_place(table: pd.DataFrame, axes: Sequence[str], metric: str = "HR@10") -> pd.DataFrame:
    """To be read: a metric of :func:`results` in per cent, over seeds; the trained systems, a line a place.

    Missing cells stand there with ``seeds`` 0.
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
    """The trained systems' lines of :func:`over_seeds`, of :data:`KINDS`; without places that have no value."""
    rankers = [*REFERENCES, *CEILINGS]
    chosen = over["metric"].isin(metrics) & (over["candidates"] == candidates) & over["kind"].isin(KINDS)
    return over[chosen & ~over["recommender"].isin(rankers)]
