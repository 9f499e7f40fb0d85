"""A hyper-parameter search on validation NDCG@10: Optuna proposes and prunes, the engine of sweeps trains.

A trial is a run directory among the cells of a sweep; it stops before it sees a test row. Trials lie in
``journal.log`` (Optuna's own file storage). Killed at any moment, the same call goes on with the trials that were in
flight, each from its last epoch. Needs the extra ``search``: ``pip install 'i2vae-kit[search]'``.

.. code-block:: yaml

    preset: tuned
    data: cloth_sport             # optional, as are protocol, seed, epochs and overrides: else the preset's
    space:
      training.learning_rate: {low: 5.0e-4, high: 5.0e-3, log: true}
      model.T: {low: 10, high: 30, step: 5}
      model.d: [32, 64, 128]
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from distributed import Client, as_completed
from filelock import FileLock, Timeout
from pydantic import Field, model_validator

from i2vae_lib import stages
from i2vae_lib.data.loading import source_of
from i2vae_lib.experiments import Say, at_work, cell_folder, connect, failure, outcome
from i2vae_lib.grids import Settings, Strict, address_of, read_file, validated
from i2vae_lib.params import ParameterError, Parameters, known_keys, load
from i2vae_lib.places import suggestion
from i2vae_lib.progress import bar
from i2vae_lib.runs import LayoutError, flatten, read_record, usable_cores

START_UP = 5
"""Trials that finish unpruned, so that there is a median to be below."""

WARM_UP = 2
"""Epochs after which a trial may first be pruned."""


class Between(Strict):
    """A number between two ends, both inclusive; whole where ends and step are."""

    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Between:
        if self.low >= self.high:
            raise ValueError("low must lie below high")
        if self.log and (self.step is not None or self.low <= 0):
            raise ValueError("a log range has no step and begins above 0")
        return self


class SearchFile(Strict):
    """A file of ``params/searches/``."""

    preset: str
    data: str | None = None
    protocol: str | None = None
    seed: int | None = None
    epochs: int | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Between | list[Any]]


@dataclass(frozen=True)
class Search:
    """What is searched, and what every trial starts from."""

    file: SearchFile
    where: str

    def parameters(self, point: Settings) -> Parameters:
        """The run of a point.

        Raises
        ------
        ParameterError, DataError
            A value out of range, or values that do not go together.
        """
        f = self.file
        words = {"data": f.data, "protocol": f.protocol}
        found = load(f.preset, {**f.overrides, **point}, seed=f.seed, epochs=f.epochs, **words)
        stages.check_run(found)
        return found


def read_search(name: str | Path, given: Settings | None = None) -> Search:
    """Read a file of ``params/searches/``, by name or path, and check its ends.

    Parameters
    ----------
    given
        Top-level names of the file with other values; None as a value keeps the file's.

    Raises
    ------
    ParameterError
        An unknown file or key (the nearest is named), an empty space, or an end of it that no run may have.
    DataError
        Data that do not exist, or that a protocol cannot serve.
    """
    where, content = read_file(name, "searches")
    if isinstance(content, Mapping):
        content = {**content, **{key: value for key, value in (given or {}).items() if value is not None}}
    search = Search(validated(SearchFile, content, where), where)
    known = known_keys()
    for key, values in search.file.space.items():
        if key not in known:
            raise ParameterError(f"{where}: space: unknown key '{key}'{suggestion(key, known)}")
        if key == "training.epochs" and search.file.epochs is not None:
            raise ParameterError(f"{where}: space: epochs and training.epochs are one parameter, and both are given")
        for value in values if isinstance(values, list) else (values.low, values.high):
            try:
                search.parameters({key: value})
            except ParameterError as error:
                raise ParameterError(f"{where}: space: {error}") from None
        if values == []:
            raise ParameterError(f"{where}: space: {key} has no value")
    if not search.file.space:
        raise ParameterError(f"{where}: space: nothing to search")
    return search


def optuna() -> Any:
    """The package, or how to get it."""
    try:
        import optuna as found
    except ImportError:
        raise ParameterError("a search needs Optuna: pip install 'i2vae-kit[search]'") from None
    found.logging.set_verbosity(found.logging.WARNING)
    return found


def open_study(out: Path, seed: int = 0) -> Any:
    """The Optuna study of a folder, made if it is not there."""
    opt = optuna()
    out.mkdir(parents=True, exist_ok=True)
    storage = opt.storages.JournalStorage(opt.storages.journal.JournalFileBackend(str(out / "journal.log")))
    with contextlib.suppress(opt.exceptions.DuplicatedStudyError):
        opt.create_study(storage=storage, study_name="i2vae", direction="maximize")
    return opt.load_study(
        storage=storage,
        study_name="i2vae",
        # proposals continue, they do not start over; parallel trials reckon with each other
        sampler=opt.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=opt.pruners.MedianPruner(n_startup_trials=START_UP, n_warmup_steps=WARM_UP),
    )


def run_trial(parameters: Mapping[str, Any], out: str, number: int, address: str) -> dict[str, Any]:
    """What a worker does: train one trial, reporting each epoch, until it is done or below the median.

    Returns
    -------
    dict
        ``state``: ``done`` (with ``value``, the best validation NDCG@10), ``pruned``, ``failed`` (with ``reason`` and
        ``traceback``) or ``elsewhere``.
    """
    opt = optuna()
    study = open_study(Path(out))
    trial = opt.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    reported = set(study.get_trials(deepcopy=False)[number].intermediate_values)
    folder = cell_folder(Path(out), address)

    def on_epoch(record: Mapping[str, float]) -> None:
        # a later stage of a system's training counts its epochs from one again
        step = max(int(record["epoch"]), max(reported, default=0) + 1)
        reported.add(step)
        trial.report(record["ndcg@10"], step)
        if trial.should_prune():
            raise opt.TrialPruned

    try:
        with at_work(folder):
            run = stages.open_run(Parameters.model_validate(parameters), folder)
            stages.train(run, on_epoch=on_epoch)
            return {"state": "done", "value": read_record(folder)["best_validation_ndcg"]}
    except Timeout:
        return {"state": "elsewhere"}
    except opt.TrialPruned:
        return {"state": "pruned"}
    except Exception as error:
        return failure(error)


def run(
    search: Search,
    out: Path | str,
    *,
    trials: int,
    workers: int | None = None,
    scheduler: str | None = None,
    say: Say = stages.quiet,
) -> pd.DataFrame:
    """Search until the folder holds as many trials; the first is the preset as it stands, where the space holds it.

    Parameters
    ----------
    trials
        Finished ones in the end: done, pruned and failed; earlier calls' count.
    workers, scheduler
        Of :func:`i2vae_lib.experiments.connect`. The order in which parallel trials end decides what is proposed next:
        only one worker repeats a search exactly.

    Returns
    -------
    DataFrame
        As :func:`table`.

    Raises
    ------
    LayoutError
        Another search works on the folder, or it holds trials of another space.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".search.lock").acquire(timeout=0):
            _search(search, out.resolve(), trials, workers, scheduler, say)
    except Timeout:
        raise LayoutError(f"{out}: another search works there; wait for it, or choose another OUT") from None
    return table(out)


def _search(search: Search, out: Path, trials: int, workers: int | None, scheduler: str | None, say: Say) -> None:
    opt = optuna()
    before = len(open_study(out).get_trials(deepcopy=False))
    study = open_study(out, (search.file.seed or 0) + before)
    space = {key: _distribution(opt, values) for key, values in search.file.space.items()}
    asked_before = study.user_attrs.get("space")
    text = search.file.model_dump(mode="json")
    if asked_before is None:
        study.set_user_attr("space", text)
        own = flatten(search.parameters({}).model_dump(mode="json"))
        first = {key: own[key] for key in space}
        if all(_holds(values, first[key]) for key, values in search.file.space.items()):
            study.enqueue_trial(first)
    elif asked_before != text:
        differing = [key for key in text if text[key] != asked_before.get(key)]
        raise LayoutError(f"{out} holds a search with another {', '.join(differing)}: choose another OUT")
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(contextlib.closing(bar("search", trials, "trial", initial=_finished(study))))
        client = stack.enter_context(connect(workers, scheduler)) if _finished(study) < trials else None
        if client is not None:
            width = workers or (len(client.scheduler_info()["workers"]) if scheduler else usable_cores())
            _Loop(client, search, study, space, out, say, progress).run(trials, width)


class _Loop:
    """Trials in flight: ask, submit, tell."""

    def __init__(
        self, client: Client, search: Search, study: Any, space: Any, out: Path, say: Say, progress: Any
    ) -> None:
        self.client, self.search, self.study, self.space = client, search, study, space
        self.out, self.say, self.progress = out, say, progress
        self.flying: dict[Any, Any] = {}  # future -> trial

    def run(self, trials: int, width: int) -> None:
        state = optuna().trial.TrialState
        stopped = [one for one in self.study.get_trials(deepcopy=False) if one.state == state.RUNNING]
        waiting = as_completed([], with_results=True, raise_errors=False)
        for one in stopped:  # in flight when an earlier call ended
            self.submit(one, waiting)
        while _finished(self.study) < trials:
            while len(self.flying) < min(width, trials - _finished(self.study)):
                trial = self.study.ask(self.space)
                self.submit(self.study.get_trials(deepcopy=False)[trial.number], waiting)
            if not self.flying:  # all that were asked for failed before they were sent
                continue
            future, result = next(waiting)
            self.tell(self.flying.pop(future), outcome(future, result), waiting)

    def submit(self, trial: Any, waiting: Any) -> None:
        try:
            p = self.search.parameters(trial.params)
        except ParameterError as error:  # values that do not go together
            self.end(trial, {"state": "failed", "reason": str(error)})
            return
        address = address_of(p, source_of(p))
        words = (p.model_dump(mode="json"), str(self.out), trial.number, address)
        future = self.client.submit(run_trial, *words, pure=False)
        self.flying[future] = trial
        waiting.add(future)

    def tell(self, trial: Any, result: Mapping[str, Any], waiting: Any) -> None:
        if result["state"] == "elsewhere":  # a sweep over the same folder trains it
            self.submit(trial, waiting)
        else:
            self.end(trial, result)

    def end(self, trial: Any, result: Mapping[str, Any]) -> None:
        state = optuna().trial.TrialState
        ends = {"done": state.COMPLETE, "pruned": state.PRUNED, "failed": state.FAIL}
        if result["state"] == "failed":
            optuna().trial.Trial(self.study, trial._trial_id).set_user_attr("reason", result["reason"])
        self.study.tell(trial.number, result.get("value"), state=ends[result["state"]])
        value = f"validation NDCG@10 {result['value']:.4f}" if "value" in result else result["state"]
        self.say(f"trial {trial.number} {dict(trial.params)}: {value} {result.get('reason', '')}".rstrip())
        self.progress.update()


def _finished(study: Any) -> int:
    return sum(one.state.is_finished() for one in study.get_trials(deepcopy=False))


def _holds(values: Between | Sequence[Any], value: Any) -> bool:
    return values.low <= value <= values.high if isinstance(values, Between) else value in values


def _distribution(opt: Any, values: Between | Sequence[Any]) -> Any:
    if not isinstance(values, Between):
        return opt.distributions.CategoricalDistribution(values)
    ends = (values.low, values.high, values.step)
    if all(one is None or isinstance(one, int) for one in ends):
        return opt.distributions.IntDistribution(values.low, values.high, log=values.log, step=values.step or 1)
    return opt.distributions.FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def table(out: Path | str) -> pd.DataFrame:
    """The trials of a folder, the best first.

    Returns
    -------
    DataFrame
        ``trial, state`` (complete, pruned, fail, running), a column for each key of the space, ``value`` (validation
        NDCG@10: what a complete trial was told, of the others the best so far), ``epochs`` that it reported,
        ``seconds``, ``reason``.
    """
    lines = []
    for one in open_study(Path(out)).get_trials(deepcopy=False):
        seconds = one.duration.total_seconds() if one.duration else None
        values = one.intermediate_values
        best = max(values.values(), default=None) if one.value is None else one.value
        head = {"trial": one.number, "state": one.state.name.lower(), **one.params}
        tail = {"value": best, "epochs": len(values), "seconds": seconds, "reason": one.user_attrs.get("reason")}
        lines.append(head | tail)
    found = pd.DataFrame(lines)
    return found.sort_values("value", ascending=False, na_position="last", ignore_index=True) if len(found) else found
