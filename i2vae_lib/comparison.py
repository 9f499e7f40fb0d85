"""All systems on one dataset: tuned alike on validation, trained, measured, each run a run directory of its own.

``params/tuning.yaml`` lists as many points for each system. A point is a run that stops before it sees a test row; the
one with the best validation NDCG@10 is the system's, and only that is evaluated, for every seed. Runs lie in one folder
as ``<system>-<point>-seed<seed>``, each made by ``i2vae run`` in a process of its own: its memory is its own, a crash
takes nothing with it, and what was killed goes on where it was.

======================  ===========================================================================================
``study.json``          the parameters that all runs share, the points of each system, the seeds; points are compared on
                        the first seed that the folder was ever asked for
``chosen/SYSTEM.json``  which point validation chose, and what every one of them reached
``RUN/failed.json``     a run that failed, with its reason; the next call tries it again
======================  ===========================================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from i2vae_lib.params import ParameterError, Parameters, known_keys, load, pair_name, read_yaml
from i2vae_lib.places import preset_folder, suggestion
from i2vae_lib.progress import bar
from i2vae_lib.recommenders import REGISTRY, SYSTEMS
from i2vae_lib.runs import LayoutError, flatten, read_record, usable_cores, write_atomically, write_json
from i2vae_lib.stages import check_system, irrelevant_groups

COMPARISON_LAYOUT = 1
Point = Mapping[str, Any]


class Interrupted(Exception):
    """A run was interrupted by hand: no failure, and no reason to start the next."""


@dataclass(frozen=True)
class Tuning:
    """What every system may try: ``shared`` overrides for all of them, and the same number of points each."""

    shared: Point
    points: Mapping[str, tuple[Point, ...]]


def read_tuning(path: Path | None = None) -> Tuning:
    """Read ``params/tuning.yaml``, or another file of its form.

    Raises
    ------
    ParameterError
        An unknown system or key (the nearest is named), a system that is missing, or budgets that differ.
    """
    path = path or preset_folder() / "tuning.yaml"
    content = read_yaml(path)
    if not isinstance(content, dict) or content.keys() != {"shared", "points"}:
        raise ParameterError(f"{path}: expected the names shared and points")
    points = {name: tuple(listed) for name, listed in content["points"].items()}
    for name in points:
        check_system(name)
    missing = [name for name in SYSTEMS if name not in points]
    if missing:
        raise ParameterError(f"{path}: no points for {', '.join(missing)}: every system is tuned alike")
    budgets = {name: len(listed) for name, listed in points.items()}
    if len(set(budgets.values())) != 1:
        raise ParameterError(f"{path}: budgets differ: {budgets}; every system gets the same number of points")
    known = known_keys()
    for name, point in [("shared", content["shared"]), *((n, one) for n, listed in points.items() for one in listed)]:
        groups = {"training", "references"} if name == "shared" else {"model", "training", *REGISTRY[name].groups}
        for key in point:
            if key not in known:
                raise ParameterError(f"{path}: {name}: unknown key '{key}'{suggestion(key, known)}")
            if key.partition(".")[0] not in groups:
                raise ParameterError(f"{path}: {name} cannot be tuned by '{key}', only by {', '.join(sorted(groups))}")
    for name, listed in points.items():
        for number, point in enumerate(listed, start=1):
            try:
                load("paper", {**content["shared"], **point, "system": name})
            except ParameterError as error:
                raise ParameterError(f"{path}: {name}, point {number}: {error}") from None
        if len({digest_of(one) for one in listed}) < len(listed):
            raise ParameterError(f"{path}: {name}: a point stands twice")
    return Tuning(content["shared"], points)


def digest_of(point: Point) -> str:
    """What a run's folder calls a point."""
    return hashlib.sha256(json.dumps(dict(point), sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Study:
    """A folder of runs: what all of them share, and what a call asks for."""

    folder: Path
    parameters: Mapping[str, Any]  # dotted keys
    device: str
    systems: tuple[str, ...]
    seeds: tuple[int, ...]
    tuning_seed: int
    points: Mapping[str, tuple[Point, ...]]  # of every system that the folder was ever asked for

    def run_folder(self, system: str, point: Point, seed: int) -> Path:
        """Where the run of a system at a point and seed lies."""
        return self.folder / f"{system}-{digest_of(point)}-seed{seed}"

    def chosen_path(self, system: str) -> Path:
        return self.folder / "chosen" / f"{system}.json"

    def chosen(self, system: str) -> Point | None:
        """The point that validation chose; None before all of the system's points were tried."""
        path = self.chosen_path(system)
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        tried = [digest_of(one["point"]) for one in content["tried"]]
        if tried != [digest_of(point) for point in self.points[system]]:
            return None  # chosen among fewer
        found: Point = content["point"]
        return found


def open_study(
    folder: Path,
    parameters: Parameters,
    tuning: Tuning,
    *,
    systems: Sequence[str],
    seeds: Sequence[int],
    trials: int | None = None,
) -> Study:
    """Open or make the folder of a comparison.

    Parameters
    ----------
    parameters
        What all runs share; ``tuning.shared`` comes on top, a system's point on top of that.
    systems, seeds
        Of this call; the folder remembers all that it was ever asked for.
    trials
        How many of each system's points are tried, from the first; None: all. Never fewer than before.

    Raises
    ------
    LayoutError
        The folder holds a comparison with other parameters or points.
    ParameterError
        An unknown system, or more trials than points.
    """
    for name in systems:
        check_system(name)
    budget = len(next(iter(tuning.points.values())))
    trials = budget if trials is None else trials
    if not 1 <= trials <= budget:
        raise ParameterError(f"{trials} trials asked for; the tuning file has 1 to {budget} points a system")
    flat = flatten(parameters.model_dump(mode="json")) | dict(tuning.shared)
    for key in ("seed", "out", "system", "training.device"):
        flat.pop(key)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".study.lock"):
        known = read_study(folder) if (folder / "study.json").is_file() else None
        points = dict(known.points) if known else {}
        for name in systems:
            asked, before = tuning.points[name][:trials], points.get(name, ())
            if any(digest_of(a) != digest_of(b) for a, b in zip(asked, before)):
                raise LayoutError(f"{folder}: {name} was tuned by other points: choose another OUT, or delete it")
            points[name] = max(asked, before, key=len)
        if known:
            _refuse_other_parameters(folder, known.parameters, flat, known.points)
        every = sorted({*(known.seeds if known else ()), *seeds})
        study = Study(
            folder=folder,
            parameters=flat,
            device=parameters.training.device,
            systems=tuple(systems),
            seeds=tuple(seeds),
            tuning_seed=known.tuning_seed if known else seeds[0],
            points={name: points[name] for name in SYSTEMS if name in points},
        )
        content = {
            "layout": COMPARISON_LAYOUT,
            "parameters": flat,
            "points": {name: [dict(point) for point in listed] for name, listed in study.points.items()},
            "tuning_seed": study.tuning_seed,
            "seeds": every,
        }
        write_json(folder / "study.json", content)
    return study


def read_study(folder: Path) -> Study:
    """The comparison of a folder, with all systems and seeds that it was ever asked for.

    Raises
    ------
    LayoutError
        Another layout version.
    """
    known = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    if known.get("layout") != COMPARISON_LAYOUT:
        found = known.get("layout")
        raise LayoutError(f"{folder}: comparison layout {found}, this version reads {COMPARISON_LAYOUT}")
    points = {name: tuple(listed) for name, listed in known["points"].items()}
    seeds = tuple(known["seeds"])
    return Study(folder, known["parameters"], "auto", tuple(points), seeds, known["tuning_seed"], points)


def _refuse_other_parameters(folder: Path, before: Point, now: Point, systems: Iterable[str]) -> None:
    """Parameters of systems that the folder does not hold are nobody's concern."""
    ignored = (*irrelevant_groups(systems), "preset")
    before, now = ({**one, "data": pair_name(one["data"])} for one in (before, now))
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key) and key.partition(".")[0] not in ignored:
            raise LayoutError(
                f"{folder} was made with {key} = {before.get(key)!r}, now it is {now.get(key)!r}: choose another OUT, "
                f"or delete the folder"
            )


def run_study(study: Study, *, workers: int = 1, say: Callable[[str], None] = print) -> None:
    """Make every run that is not there yet; a failed one is recorded and the rest goes on.

    Parameters
    ----------
    workers
        Systems at a time; each gets its share of the machine's threads.
    """
    total = sum(len(study.points[name]) + len(set(study.seeds) - {study.tuning_seed}) for name in study.systems)
    worker = _Worker(study, max(1, usable_cores() // workers), say, bar("comparison", total, "run"))

    def work(system: str) -> None:
        # two calls over one folder: the other one has this system
        lock = FileLock(study.folder / f".{system}.lock")
        try:
            with lock.acquire(timeout=0):
                worker.tune_and_measure(system)
        except Timeout:
            say(f"{system}: another process works on it")
        except Interrupted:
            worker.stop.set()

    try:
        with _terminated_as_interrupted(), ThreadPoolExecutor(workers) as pool:
            running = [pool.submit(work, system) for system in study.systems]
            try:
                for one in running:
                    one.result()
            except KeyboardInterrupt:
                worker.interrupt()
                raise
    finally:
        worker.progress.close()
    if worker.stop.is_set():
        raise KeyboardInterrupt


def failures(study: Study, system: str) -> dict[str, str]:
    """Runs of a system that failed, by folder, and why."""
    paths = sorted(study.folder.glob(f"{system}-????????-seed*/failed.json"))
    return {path.parent.name: str(json.loads(path.read_text(encoding="utf-8"))["reason"]) for path in paths}


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A SIGTERM is a Ctrl-C meanwhile: its runs would go on without it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Worker:
    """What the threads of a comparison share."""

    def __init__(self, study: Study, threads: int, say: Callable[[str], None], progress: Any):
        self.study = study
        self.threads = threads
        self.say = say
        self.progress = progress
        self.stop = threading.Event()
        self.children: set[subprocess.Popen[bytes]] = set()

    def interrupt(self) -> None:
        """Start nothing more, and let the runs in flight end after what they have on disk."""
        self.stop.set()
        for child in list(self.children):
            child.terminate()  # not SIGINT, which the children of a call in the background ignore

    def tune_and_measure(self, system: str) -> None:
        study = self.study
        reached: list[dict[str, Any]] = []
        for point in read_study(study.folder).points[system]:  # another call may have asked for more since
            folder = study.run_folder(system, point, study.tuning_seed)
            reason = self.run(system, point, study.tuning_seed, only_train=True)
            value = None if reason else read_record(folder)["best_validation_ndcg"]
            reached.append({"point": dict(point), "validation NDCG@10": value, "failed": reason})
            self.say(f"{folder.name}: " + (f"FAILED: {reason}" if reason else f"validation NDCG@10 {value:.4f}"))
            self.progress.update()
        done = [one for one in reached if one["failed"] is None]
        if not done:
            return
        best = max(done, key=lambda one: float(one["validation NDCG@10"] or 0.0))  # of equals the first
        write_json(study.chosen_path(system), {"system": system, "point": best["point"], "tried": reached})
        for seed in study.seeds:
            reason = self.run(system, best["point"], seed, only_train=False)
            if reason:
                self.say(f"{study.run_folder(system, best['point'], seed).name}: FAILED: {reason}")
            if seed != study.tuning_seed:
                self.progress.update()

    def run(self, system: str, point: Point, seed: int, *, only_train: bool) -> str | None:
        """``i2vae run`` in a process of its own; what went wrong, or None."""
        study, folder = self.study, self.study.run_folder(system, point, seed)
        if (folder / ("model/model.json" if only_train else "metrics.json")).is_file():
            return None
        if self.stop.is_set():
            raise Interrupted
        flat = dict(study.parameters) | dict(point) | {"system": system, "training.device": study.device}
        top = {key: flat.pop(key) for key in ("preset", "data", "protocol")}
        epochs = flat.pop("training.epochs")
        text = yaml.safe_dump({**top, "seed": seed, "epochs": epochs, "out": None, "overrides": flat}, sort_keys=False)
        cell, failed = folder / "cell.yaml", folder / "failed.json"
        write_atomically(cell, lambda part: part.write_text(text, encoding="utf-8"))
        failed.unlink(missing_ok=True)
        words = [sys.executable, "-m", "i2vae_lib.cli", "run", "--preset", str(cell), "--out", str(folder)]
        with (folder / "log.txt").open("ab") as log:
            start = log.tell()
            child = subprocess.Popen(
                [*words, "--no-notebooks", "--no-report", *(["--only-train"] if only_train else [])],
                # passive: threads that spin while they wait take the cores from the other workers
                env=os.environ | {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            self.children.add(child)
            status = child.wait()
            self.children.discard(child)
        if status in (130, -signal.SIGINT) or self.stop.is_set():
            raise Interrupted
        if status == 0:
            return None
        said = (folder / "log.txt").read_bytes()[start:].decode(errors="replace").strip().splitlines()
        if status < 0:
            reason = f"killed by signal {-status} (out of memory?)"
        else:
            reason = said[-1] if said else f"exit status {status}"
        write_json(failed, {"reason": reason, "status": status, "log": "log.txt"})
        return reason
