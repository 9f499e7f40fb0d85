"""All systems on one dataset: tuned alike on validation, trained, measured, each run a run directory of its own.

``params/tuning.yaml`` lists as many points for each system. A point is a run that stops before it sees a test row; the
one with the best validation NDCG@10 is the system's, and only that is evaluated, for every seed. Runs lie in one folder
as ``<system>-<point>-seed<seed>``, each made by ``i2vae run`` in a process of its own: its memory is its own, a crash
takes nothing with it, and what was killed goes on where it was.

======================  ===========================================================================================
``study.json``          the parameters that all runs share, the systems, the seeds, the points
``chosen/SYSTEM.json``  which point validation chose, and what every one of them reached
``RUN/failed.json``     a run that failed, with its reason; the next call tries it again
======================  ===========================================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from i2vae_lib.experiments import check_system
from i2vae_lib.params import ParameterError, Parameters, known_keys, preset_folder, suggestion
from i2vae_lib.progress import bar
from i2vae_lib.recommenders import SYSTEMS
from i2vae_lib.runs import LayoutError, flatten, read_record, write_atomically, write_json

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
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
        for key in point:
            if key not in known:
                raise ParameterError(f"{path}: {name}: unknown key '{key}'{suggestion(key, known)}")
    return Tuning(content["shared"], points)


def digest_of(point: Point) -> str:
    """What a run's folder calls a point."""
    return hashlib.sha256(json.dumps(dict(point), sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Study:
    """A folder of runs: what all of them share."""

    folder: Path
    parameters: Mapping[str, Any]  # dotted keys
    systems: tuple[str, ...]
    seeds: tuple[int, ...]
    points: Mapping[str, tuple[Point, ...]]

    def run_folder(self, system: str, point: Point, seed: int) -> Path:
        """Where the run of a system at a point and seed lies."""
        return self.folder / f"{system}-{digest_of(point)}-seed{seed}"

    def chosen_path(self, system: str) -> Path:
        return self.folder / "chosen" / f"{system}.json"

    def chosen(self, system: str) -> Point | None:
        """The point that validation chose; None before all were tried."""
        path = self.chosen_path(system)
        if not path.is_file():
            return None
        found: Point = json.loads(path.read_text(encoding="utf-8"))["point"]
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
        How many of each system's points are tried, from the first; None: all.

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
        raise ParameterError(f"{trials} trials asked for; params/tuning.yaml has 1 to {budget} points a system")
    flat = flatten(parameters.model_dump(mode="json")) | dict(tuning.shared)
    for key in ("seed", "out", "system", "training.device", "preset"):
        flat.pop(key)
    flat["preset"] = parameters.preset
    path = folder / "study.json"
    known: dict[str, Any] = {"systems": [], "seeds": []}
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.get("layout") != COMPARISON_LAYOUT:
            raise LayoutError(
                f"{folder}: comparison layout {known.get('layout')}, this version reads {COMPARISON_LAYOUT}"
            )
        differing = [key for key in sorted(flat | known["parameters"]) if flat.get(key) != known["parameters"].get(key)]
        if differing:
            key = differing[0]
            raise LayoutError(
                f"{folder} was made with {key} = {known['parameters'].get(key)!r}, now it is {flat.get(key)!r}: choose "
                f"another OUT, or delete the folder"
            )
    everything = {
        "layout": COMPARISON_LAYOUT,
        "parameters": flat,
        "systems": [name for name in SYSTEMS if name in {*known["systems"], *systems}],
        "seeds": sorted({*known["seeds"], *seeds}),
        "trials": max(trials, known.get("trials", 1)),
    }
    write_json(path, everything)
    points = {name: tuple(tuning.points[name][:trials]) for name in SYSTEMS}
    return Study(folder, flat, tuple(systems), tuple(seeds), points)


def run_study(study: Study, *, workers: int = 1, say: Callable[[str], None] = print) -> None:
    """Make every run that is not there yet; a failed one is recorded and the rest goes on.

    Parameters
    ----------
    workers
        Systems at a time; each gets its share of the machine's threads.
    """
    total = sum(len(study.points[name]) + len(study.seeds) - 1 for name in study.systems)
    progress = bar("comparison", total, "run")
    stop = threading.Event()
    threads = max(1, (os.cpu_count() or 1) // workers)

    def work(system: str) -> None:
        # two calls over one folder: the other one has this system
        lock = FileLock(study.folder / f".{system}.lock")
        try:
            with lock.acquire(timeout=0):
                _tune_and_measure(study, system, threads, say, progress, stop)
        except Timeout:
            say(f"{system}: another process works on it")
        except Interrupted:
            stop.set()

    try:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, study.systems))
    except KeyboardInterrupt:
        stop.set()
        raise
    finally:
        progress.close()
    if stop.is_set():
        raise KeyboardInterrupt


def _tune_and_measure(
    study: Study, system: str, threads: int, say: Callable[[str], None], progress: Any, stop: threading.Event
) -> None:
    first = study.seeds[0]
    reached: list[dict[str, Any]] = []
    for point in study.points[system]:
        if stop.is_set():
            return
        folder = study.run_folder(system, point, first)
        reason = _run(study, system, point, first, threads, only_train=True)
        value = None if reason else read_record(folder)["best_validation_ndcg"]
        reached.append({"point": dict(point), "validation NDCG@10": value, "failed": reason})
        say(f"{folder.name}: " + (f"FAILED: {reason}" if reason else f"validation NDCG@10 {value:.4f}"))
        progress.update()
    done = [one for one in reached if one["failed"] is None]
    if not done:
        return
    best = max(done, key=lambda one: float(one["validation NDCG@10"]))  # of equals the first
    content = {"system": system, "point": best["point"], "seed": first, "tried": reached}
    write_json(study.chosen_path(system), content)
    for seed in study.seeds:
        if stop.is_set():
            return
        reason = _run(study, system, best["point"], seed, threads, only_train=False)
        if reason:
            say(f"{study.run_folder(system, best['point'], seed).name}: FAILED: {reason}")
        if seed != first:
            progress.update()


def _run(study: Study, system: str, point: Point, seed: int, threads: int, *, only_train: bool) -> str | None:
    """``i2vae run`` in a process of its own; what went wrong, or None."""
    folder = study.run_folder(system, point, seed)
    if (folder / ("model/model.json" if only_train else "metrics.json")).is_file():
        return None
    flat = dict(study.parameters) | dict(point) | {"system": system}
    top = {key: flat.pop(key) for key in ("preset", "data", "protocol")}
    epochs = flat.pop("training.epochs")
    content = {**top, "seed": seed, "epochs": epochs, "out": None, "overrides": flat}
    text = yaml.safe_dump(content, sort_keys=False)
    cell = folder / "cell.yaml"
    write_atomically(cell, lambda part: part.write_text(text, encoding="utf-8"))
    words = [
        sys.executable,
        "-m",
        "i2vae_lib.cli",
        "run",
        "--preset",
        str(cell),
        "--out",
        str(folder),
        "--no-notebooks",
    ]
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        done = subprocess.run(
            [*words, "--no-notebooks", "--no-report", *(["--only-train"] if only_train else [])],
            # passive: threads that spin while they wait take the cores from the other workers
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    failed = folder / "failed.json"
    if done.returncode in (130, -signal.SIGINT):
        raise Interrupted
    if done.returncode == 0:
        failed.unlink(missing_ok=True)
        return None
    lines = [line for line in (folder / "log.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
    reason = lines[-1] if lines and done.returncode > 0 else f"killed by signal {-done.returncode} (out of memory?)"
    write_json(failed, {"reason": reason, "status": done.returncode, "log": "log.txt"})
    return reason
