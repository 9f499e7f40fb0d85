"""All systems on one dataset: tuned on validation, trained, measured, each run a cell of the engine.

``params/tuning.yaml`` lists the points of every system: eight for those that a reader would really pick, two for the
others. A point is a run that stops before it sees a
test row; each system's point with the best validation NDCG@10 is chosen, and only that is evaluated, for every seed: a
sweep on validation, and a sweep of what it chose (:mod:`i2vae_lib.experiments.engine`).

======================  ===========================================================================================
``study.json``          the parameters that all runs share, the points of each system, the seeds; points are compared on
                        the first seed that the folder was ever asked for
``cells/ADDRESS/``      the runs; their ``run.json`` holds the validation metric by which the best point is chosen
======================  ===========================================================================================
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from pydantic import ConfigDict

from i2vae_lib.data.loading import source_of
from i2vae_lib.experiments.engine import Outcome, Work, cell_folder, claim_cells, reason_of, work_off
from i2vae_lib.experiments.grids import Settings, Strict, address_of, check_cell, validated
from i2vae_lib.experiments.sweeps import make_run
from i2vae_lib.experiments.workers import connect
from i2vae_lib.params import ParameterError, Parameters, load, pair_name, read_yaml
from i2vae_lib.places import preset_folder, suggestion
from i2vae_lib.processes import usable_cores
from i2vae_lib.progress import bar
from i2vae_lib.recommenders import REGISTRY, SYSTEMS
from i2vae_lib.runs import LayoutError, flatten, read_header, read_record, refuse_changes, write_json
from i2vae_lib.stages import check_system, irrelevant_groups, open_run, train

_STUDY_LAYOUT = 2
_REMEMBERED = ("parameters", "source", "points", "tuning_seed", "seeds")
TRAINED, MEASURED = "model/model.json", "metrics.json"


class Tuning(Strict):
    """What systems may try: ``shared`` overrides for all, and the points of each, its own paper's settings first."""

    model_config = ConfigDict(strict=False)  # lists become tuples

    shared: dict[str, Any]
    points: dict[str, tuple[dict[str, Any], ...]]


def read_tuning(path: Path | None = None) -> Tuning:
    """Read ``params/tuning.yaml``, or another file of its form.

    Raises
    ------
    ParameterError
        An unknown system or key (the nearest is named), a missing system, a system without points, or a point that is
        listed twice or invalid.
    """
    path = path or preset_folder() / "tuning.yaml"
    tuning = validated(Tuning, read_yaml(path), str(path))
    for complaint in _complaints(tuning):
        raise ParameterError(f"{path}: {complaint}")
    return tuning


def _complaints(tuning: Tuning) -> Iterator[str]:
    for name in tuning.points:
        if name not in SYSTEMS:
            yield f"points: unknown '{name}'{suggestion(name, list(SYSTEMS))}"
    if missing := [name for name in SYSTEMS if not tuning.points.get(name)]:
        yield f"no points for {', '.join(missing)}: every system needs one, {{}} if it is the preset's"
    for name, points in tuning.points.items():
        for number, point in enumerate(points, start=1):
            try:
                load("paper", {**tuning.shared, **point, "system": name})
            except ParameterError as error:
                yield f"{name}, point {number}: {error}"
            yield from _foreign(name, point, {"model", "training", *REGISTRY[name].groups})
            if point in points[: number - 1]:
                yield f"{name}: a point stands twice"
    yield from _foreign("shared", tuning.shared, {"training", "references"})


def _foreign(name: str, point: Settings, groups: set[str]) -> Iterator[str]:
    """Keys of a point in a group that it may not set."""
    for key in point:
        if key.partition(".")[0] not in groups:
            yield f"{name} cannot be tuned by '{key}', only by {', '.join(sorted(groups))}"


class _Trial(NamedTuple):
    """One point of a system; it has not been tried if both value and reason are None."""

    point: Settings
    folder: Path
    value: float | None  # validation NDCG@10
    reason: str | None  # why it failed


@dataclass(frozen=True)
class Study:
    """A folder of runs: what all of them share, and what a call asks for."""

    folder: Path
    parameters: Settings  # dotted keys
    source: str | None  # SHA-256 of a pair's logs
    systems: tuple[str, ...]
    seeds: tuple[int, ...]
    tuning_seed: int
    points: Mapping[str, tuple[Settings, ...]]  # of every system that the folder was ever asked for

    def run_parameters(self, system: str, point: Settings, seed: int) -> Parameters:
        """Parameters of a system's run at a point and seed."""
        flat = {**self.parameters, **point, "system": system}
        preset, data, protocol = (flat.pop(key) for key in ("preset", "data", "protocol"))
        resolved = load("paper", flat, data=data, protocol=protocol, seed=seed)  # ``flat`` gives every value
        return resolved.model_copy(update={"preset": preset})

    def run_folder(self, system: str, point: Settings, seed: int) -> Path:
        """Folder of a system's run at a point and seed.

        Raises
        ------
        LayoutError
            It holds the trained run of others.
        """
        asked = self.run_parameters(system, point, seed)
        folder = cell_folder(self.folder, address_of(asked, self.source))
        check_cell(folder, asked)
        return folder

    def tried(self, system: str) -> list[_Trial]:
        """What each point of a system reached on validation."""
        trials = []
        for point in self.points[system]:
            folder = self.run_folder(system, point, self.tuning_seed)
            trained = (folder / TRAINED).is_file()
            value = float(read_record(folder)["best_validation_ndcg"] or 0.0) if trained else None
            trials.append(_Trial(point, folder, value, reason_of(folder)))
        return trials

    def chosen(self, system: str) -> Settings | None:
        """The best point on validation; None until all points have been tried, or if all failed."""
        tried = self.tried(system)
        if any(trial.value is None and trial.reason is None for trial in tried):
            return None
        values = {i: trial.value for i, trial in enumerate(tried) if trial.value is not None}
        return tried[max(values, key=lambda i: values[i])].point if values else None  # the first of equals

    def runs(self) -> dict[str, Path]:
        """Folder of each system's run at its chosen point, of the first seed.

        Raises
        ------
        LayoutError
            A system that has none yet.
        """
        found = {}
        for name in self.systems:
            if (point := self.chosen(name)) is None:
                raise LayoutError(f"{self.folder}: {name} is not finished; the command that made the folder goes on")
            found[name] = self.run_folder(name, point, self.tuning_seed)
        return found

    def trials(self, system: str) -> list[Work]:
        """The points of a system that are still to be trained."""
        return self._left(system, [(point, self.tuning_seed) for point in self.points[system]], _make_model, TRAINED)

    def measurements(self, system: str) -> list[Work]:
        """The seeds of a system's chosen point that are still to be measured."""
        point = self.chosen(system)
        asked = [] if point is None else [(point, seed) for seed in self.seeds]
        return self._left(system, asked, make_run, MEASURED)

    def _left(
        self, system: str, asked: Sequence[tuple[Settings, int]], make: Callable[..., object], result: str
    ) -> list[Work]:
        works = []
        for point, seed in asked:
            p = self.run_parameters(system, point, seed)
            label = ", ".join([system, *(f"{key} = {value}" for key, value in point.items()), f"seed {seed}"])
            works.append(Work(self.run_folder(system, point, seed), label, make, (p,), result))
        return [work for work in works if not work.is_done]


def _make_model(parameters: Parameters, folder: Path) -> None:
    """Train one point without looking at test rows. Runs in a worker."""
    train(open_run(parameters, folder))


def open_study(
    folder: Path,
    parameters: Parameters,
    tuning: Tuning,
    *,
    systems: Sequence[str],
    seeds: Sequence[int],
    trials: int | None = None,
) -> Study:
    """Open the folder of a comparison, creating it if missing.

    Parameters
    ----------
    parameters
        What all runs share; overridden by ``tuning.shared``, and that by a system's point.
    systems, seeds
        Those of this call; the folder remembers all that it was ever asked for.
    trials
        How many of each system's points to try, from the first; None: all. Fewer where a system has fewer. Never fewer
        than before.

    Raises
    ------
    LayoutError
        The folder holds a comparison with other parameters, logs or points.
    ParameterError
        An unknown system, or more trials than any system has points.
    """
    for name in systems:
        check_system(name)
    for what, given in (("systems", systems), ("seeds", seeds)):
        if len({*given}) < len(given):
            raise ParameterError(f"{what}: {', '.join(map(str, given))}: each once")
    most = max(map(len, tuning.points.values()))
    trials = most if trials is None else trials
    if not 1 <= trials <= most:
        raise ParameterError(f"{trials} trials asked for; the tuning file has 1 to {most} points per system")
    flat = flatten(parameters.model_dump(mode="json")) | dict(tuning.shared)
    for key in ("seed", "out", "system"):
        flat.pop(key)
    folder = folder.resolve()
    asked = Study(folder, flat, source_of(parameters), tuple(systems), tuple(seeds), seeds[0], {})
    claim_cells(folder)
    with FileLock(folder / ".study.lock"):
        known = read_study(folder) if (folder / "study.json").is_file() else asked
        _refuse_others(known, asked)
        points = dict(known.points)
        for name in systems:
            now, before = tuning.points[name][:trials], points.get(name, ())
            if any(point != earlier for point, earlier in zip(now, before)):
                raise LayoutError(f"{folder}: {name} was tuned by other points: choose another OUT, or delete it")
            points[name] = max(now, before, key=len)
        points = {name: points[name] for name in SYSTEMS if name in points}
        asked = replace(asked, tuning_seed=known.tuning_seed, points=points)
        kept = vars(asked) | {"layout": _STUDY_LAYOUT, "seeds": sorted({*known.seeds, *seeds})}
        write_json(folder / "study.json", {key: kept[key] for key in ("layout", *_REMEMBERED)})
    return asked


def read_study(folder: Path) -> Study:
    """The comparison of a folder, with all systems and seeds that it was ever asked for.

    Raises
    ------
    LayoutError
        Another layout version.
    """
    known = read_header(folder / "study.json", "comparison", _STUDY_LAYOUT, "choose another OUT, or delete the folder")
    known["points"] = {name: tuple(listed) for name, listed in known["points"].items()}
    known["seeds"] = tuple(known["seeds"])
    return Study(folder, systems=tuple(known["points"]), **{key: known[key] for key in _REMEMBERED})


def _refuse_others(known: Study, now: Study) -> None:
    """Refuse other parameters or logs; parameters of systems that the folder does not hold may differ."""
    ignored = (*irrelevant_groups(known.points), "preset")
    before, after = ({**one.parameters, "data": pair_name(one.parameters["data"])} for one in (known, now))
    refuse_changes(now.folder, before, after, ignored)
    if known.source != now.source:
        raise LayoutError(
            f"{now.folder} was made when {now.parameters['data']} or its logs read otherwise: choose another OUT, or "
            f"delete the folder"
        )


def run_study(study: Study, *, workers: int = 1, say: Callable[[str], None] = print) -> None:
    """Make every missing run, and retry those that failed.

    Parameters
    ----------
    workers
        Runs at a time; each gets its share of the machine's threads.
    """
    # with the points that other calls have asked for
    study = replace(study, points=read_study(study.folder).points)
    left = {name: study.trials(name) for name in study.systems}
    todo = [work for name in study.systems for work in (left[name] or study.measurements(name))]
    total = len(todo) + sum(len(study.seeds) for trials in left.values() if trials)

    def then(work: Work, outcome: Outcome) -> Iterable[Work]:
        name = next((name for name, trials in left.items() if work in trials), None)
        if name is None:
            return []
        left[name].remove(work)
        # points that another call has asked for since are for that call to try and choose
        return [] if left[name] else replace(study, points=read_study(study.folder).points).measurements(name)

    if todo:
        with (
            bar("comparison", total, "run") as progress,
            connect(workers, threads=max(1, usable_cores() // workers)) as team,
        ):
            work_off(team, todo, say=say, progress=progress, then=then)


def failures(study: Study, system: str) -> dict[str, str]:
    """Failed runs of a system: address -> reason."""
    folders = [trial.folder for trial in study.tried(system)]
    if (point := study.chosen(system)) is not None:
        folders += [study.run_folder(system, point, seed) for seed in study.seeds]
    return {folder.name: reason for folder in folders if (reason := reason_of(folder)) is not None}
