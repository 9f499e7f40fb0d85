"""The engine of sweeps, tuned comparisons, searches and the study of leaks: cells, made by any number of workers.

A cell is a folder for one run, named by what it depends on, so that it is made once, whoever asks for it.

====================  =============================================================================================
``cells/ADDRESS/``    the run of a cell (``run.json`` records its time and memory)
``…/log.txt``         what was printed while it was made
``…/failed.json``     reason and traceback of a cell that failed; gone when it is begun again
====================  =============================================================================================
"""

import contextlib
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from i2vae_lib.experiments.workers import SchedulerError, Workers
from i2vae_lib.places import brief
from i2vae_lib.processes import forget_peak_memory
from i2vae_lib.runs import make_folder, read_json, read_record, reading, refuse_others, write_json

Say = Callable[[str], None]


def cell_folder(out: Path, address: str) -> Path:
    """Folder of a cell's run; its address comes from :func:`.grids.address_of`."""
    return out / "cells" / address


def claim_cells(out: Path) -> None:
    """Make a folder one of cells: an empty or missing one, or one that has some.

    Raises
    ------
    LayoutError
        It holds other files.
    """
    make_folder(out)
    refuse_others(out, {one.name for one in out.iterdir()}, "cells", "study")
    (out / "cells").mkdir(exist_ok=True)


def cost(record: Mapping[str, Any]) -> tuple[float, int]:
    """Total seconds and peak memory in bytes of a run's stages so far, from its ``run.json``."""
    stages = record["stages"].values()
    return sum(stage["seconds"] for stage in stages), max((stage["peak_memory_bytes"] for stage in stages), default=0)


def reason_of(folder: Path) -> str | None:
    """Why a cell failed last, or None."""
    path = folder / "failed.json"
    if not path.is_file():
        return None
    with reading(path):
        return str(read_json(path)["reason"])


@dataclass(frozen=True)
class Work:
    """A cell to be made.

    Attributes
    ----------
    label
        Its name in messages.
    make
        A module's function, called in a worker with ``words`` and the folder. It continues what it finds there.
    result
        The file that ``make`` writes last: the cell is done if it exists.
    """

    folder: Path
    label: str
    make: Callable[..., object]
    words: tuple[Any, ...]
    result: str

    @property
    def is_done(self) -> bool:
        return (self.folder / self.result).is_file()


@dataclass(frozen=True)
class Outcome:
    """How work on a cell ended.

    Attributes
    ----------
    state
        ``done``; ``stopped``: without its result, as a pruned trial; ``failed``; ``elsewhere``: in another process.
    record
        ``run.json`` as the worker read it: on a shared file system others may see it only later.
    reason, traceback
        Of a failure.
    """

    state: str
    record: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    traceback: str = ""

    def text(self) -> str:
        """What is said of it."""
        if self.state == "failed":
            return f"FAILED: {self.reason}"
        seconds, value = cost(self.record)[0], self.record.get("best_validation_ndcg")
        if self.state == "stopped":
            return f"pruned after {seconds:.0f} s"
        return f"{seconds:.0f} s" + ("" if value is None else f", validation NDCG@10 {value:.4f}")


def do(work: Work) -> Outcome:
    """Make one cell, whose log takes what is printed. Runs in a worker's own process."""
    try:
        work.folder.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(work.folder / ".cell.lock").acquire(timeout=1),
            (work.folder / "log.txt").open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),  # the cell's own progress; the sweep's bar is in another process
        ):
            if not work.is_done:  # another sweep may have made it since this one was planned
                (work.folder / "failed.json").unlink(missing_ok=True)
                forget_peak_memory()  # that of the process's earlier cells
                work.make(*work.words, work.folder)
            return Outcome("done" if work.is_done else "stopped", read_record(work.folder))
    except Timeout:  # another process is at work on it
        return Outcome("elsewhere")
    except Exception as error:
        return _failed(error)


def _failed(error: BaseException) -> Outcome:
    text = "".join(traceback.format_exception(error))
    return Outcome("failed", reason=brief(f"{type(error).__name__}: {error}"), traceback=text)


def _outcome(future: Future[Any]) -> Outcome:
    """The outcome that a worker reported, or a failure if the worker died.

    Raises
    ------
    SchedulerError
        The scheduler is gone, so no outcome will come.
    """
    if future.cancelled():
        raise SchedulerError("lost the scheduler; the same command goes on")
    error = future.exception()
    return _failed(error) if error is not None else future.result()


def work_off(
    workers: Workers,
    todo: Iterable[Work],
    *,
    say: Say,
    progress: Any,
    then: Callable[[Work, Outcome], Iterable[Work]] = lambda work, outcome: (),
) -> None:
    """Make every cell that is not done. A failure is recorded, and the other cells go on.

    Killed at any moment, it loses only what the cells in flight did since their last epoch; the same call resumes. Two
    calls over one folder share its cells.

    Parameters
    ----------
    progress
        A bar that counts cells.
    then
        Called with each cell that has ended, well or not; returns what to make next.
    """
    ahead, asked = deque(todo), dict[Future[Any], Work]()
    while ahead or asked:
        while ahead and len(asked) < workers.width:  # so no cell waits in a worker that dies
            work = ahead.popleft()
            asked[workers.submit(do, work)] = work
        for future in wait(asked, return_when=FIRST_COMPLETED).done:
            work, outcome = asked.pop(future), _outcome(future)
            if outcome.state == "elsewhere":
                ahead.append(work)
                continue
            if outcome.state == "failed":
                write_json(work.folder / "failed.json", {"reason": outcome.reason, "traceback": outcome.traceback})
            say(f"{work.label}: {outcome.text()}")
            progress.update()
            ahead.extendleft(reversed(list(then(work, outcome))))
