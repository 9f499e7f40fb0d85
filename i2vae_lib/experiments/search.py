"""A hyper-parameter search on validation NDCG@10: Optuna proposes and prunes, the engine of sweeps trains.

A trial is a run directory among the cells of a sweep; it stops before it sees a test row. ``journal.log`` (Optuna's
own file storage) records the trials. After a kill at any moment, the same call continues the trials that were in
flight, each from its last epoch. Needs Optuna (the extra ``search``).

.. code-block:: yaml

    preset: tuned
    data: cloth_sport             # optional, as are protocol, seed, epochs and overrides: else the preset's
    space:
      training.learning_rate: {low: 5.0e-4, high: 5.0e-3, log: true}
      model.T: {low: 10, high: 30, step: 5}
      model.d: [32, 64, 128]
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
from filelock import FileLock, Timeout
from pydantic import Field, model_validator

from i2vae_lib import stages
from i2vae_lib.data.loading import source_of
from i2vae_lib.experiments.engine import Outcome, Say, Work, cell_folder, claim_cells, work_off
from i2vae_lib.experiments.grids import Settings, Strict, address_of, check_cell, ranks_others, read_file, validated
from i2vae_lib.experiments.workers import connect
from i2vae_lib.lazy import require
from i2vae_lib.params import ParameterError, Parameters, load
from i2vae_lib.progress import bar
from i2vae_lib.runs import LayoutError, flatten, make_folder, no_room, reading

START_UP = 5  # trials that finish unpruned before the median prunes any

WARM_UP = 2  # epochs after which a trial may first be pruned

MOST_STEPS = 1_000_000  # between the ends of a range: beyond 10^28 the proposer fails

Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Between(Strict):
    """A number between two ends, both inclusive; a whole number if ends and step are."""

    low: Whole | Finite
    high: Whole | Finite
    step: Annotated[Whole | Finite, Field(gt=0)] | None = None
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must lie below high: a list has single values, such as [{self.low:g}]")
        if self.step is not None and (self.high - self.low) / self.step + 1e-9 < 1:
            raise ValueError(
                f"the step {self.step:g} leads beyond high = {self.high:g}, so {self.low:g} is the only value: a "
                f"smaller step, or a list of values"
            )
        if self.step is not None and self.high - self.low > MOST_STEPS * self.step:
            raise ValueError(
                f"from {self.low:g} to {self.high:g} by {self.step:g} are more than {MOST_STEPS:,} steps: a larger "
                f"step, or none"
            )
        if self.log and (self.step is not None or self.low <= 0):
            raise ValueError("a log range has no step and begins above 0")
        return self

    def samples(self) -> list[int | float]:
        """Its ends and, of a range that is not of whole numbers, a value between them."""
        whole = all(isinstance(one, int) for one in (self.low, self.high, self.step or 0))
        return [self.low, self.high, *([] if whole else [self.low + (self.step or (self.high - self.low) / math.pi)])]


class Search(Strict):
    """A file of ``params/searches/``: what is searched, and what every trial starts from."""

    preset: str
    data: str | None = None
    protocol: str | None = None
    seed: int | None = None
    epochs: int | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Between | list[Any]]

    def parameters(self, point: Settings) -> Parameters:
        """The checked parameters of a point's run.

        Raises
        ------
        ParameterError, DataError
            A value out of range, or values that do not go together.
        """
        top = self.model_dump(include={"data", "protocol", "seed", "epochs"})
        parameters = load(self.preset, {**self.overrides, **point}, **top)
        stages.check_run(parameters)
        return parameters


def read_search(name: str | Path, given: Settings | None = None) -> Search:
    """Read a file of ``params/searches/``, by name or path, and check the ends of its space.

    Parameters
    ----------
    given
        New values for top-level names of the file; None keeps the file's value.

    Raises
    ------
    ParameterError
        An unknown file or key (the nearest is named), an empty space, or a space with an invalid end.
    DataError
        Data that do not exist, or that cannot serve the protocol.
    """
    where, content = read_file(name, "searches")
    if isinstance(content, Mapping):
        content = {**content, **{key: value for key, value in (given or {}).items() if value is not None}}
    search = validated(Search, content, where)
    for key, values in search.space.items():
        if ranks_others(key):
            raise ParameterError(
                f"{where}: space: {key} says which rows or candidates are ranked, so what its values reach on "
                f"validation does not compare: set it under overrides, or sweep it"
            )
        known: list[Any] = []
        for value in values if isinstance(values, list) else values.samples():
            try:
                known.append(flatten(search.parameters({key: value}).model_dump(mode="json"))[key])
            except ParameterError as error:
                raise ParameterError(f"{where}: space: {error}") from None
            if known[-1] in known[:-1]:
                raise ParameterError(f"{where}: space: {key}: the value {value!r} stands twice: drop one")
        if values == []:
            raise ParameterError(f"{where}: space: {key} has no value")
    if not search.space:
        raise ParameterError(f"{where}: space: nothing to search")
    return search


def optuna() -> Any:
    """The package Optuna; if it is missing, the error says how to get it."""
    require("a search", "optuna")
    import optuna as package

    package.logging.set_verbosity(package.logging.WARNING)
    return package


def _cut_half_a_line(journal: Path) -> None:
    """Take back a record that a full disk cut short: what is written behind it could never be read."""
    written = journal.read_bytes() if journal.is_file() else b""
    if written and not written.endswith(b"\n"):
        os.truncate(journal, written.rfind(b"\n") + 1)


def open_study(out: Path) -> Any:
    """The Optuna study of a folder, created if missing."""
    opt = optuna()
    make_folder(out)
    # in place of Optuna's, a file that a killed process leaves behind and the next one waits half a minute for
    lock: Any = FileLock(out / ".journal.lock")
    journal = out / "journal.log"
    with reading(journal, "delete it: the cells of its trials stay, and the same command goes on with them"):
        with lock:
            _cut_half_a_line(journal)
        storage = opt.storages.JournalStorage(opt.storages.journal.JournalFileBackend(str(journal), lock))
        with contextlib.suppress(opt.exceptions.DuplicatedStudyError):
            opt.create_study(storage=storage, study_name="i2vae", direction="maximize")
    return opt.load_study(
        storage=storage,
        study_name="i2vae",
        pruner=opt.pruners.MedianPruner(n_startup_trials=START_UP, n_warmup_steps=WARM_UP),
    )


def _make_trial(parameters: Parameters, out: Path, number: int, folder: Path) -> None:
    """Train one trial, reporting each epoch, until it is done or pruned. Runs in a worker."""
    opt = optuna()
    study = open_study(out)
    known = study.get_trials(deepcopy=False)[number]
    trial, reported = opt.trial.Trial(study, known._trial_id), set(known.intermediate_values)

    def on_epoch(record: Mapping[str, float]) -> None:
        # a later stage of a system's training counts its epochs from 1 again
        step = max(int(record["epoch"]), max(reported, default=0) + 1)
        reported.add(step)
        trial.report(record["ndcg@10"], step)
        if trial.should_prune():
            raise opt.TrialPruned

    with contextlib.suppress(opt.TrialPruned):
        stages.train(stages.open_run(parameters, folder), on_epoch=on_epoch)


def run(
    search: Search,
    out: Path | str,
    *,
    trials: int,
    workers: int | None = None,
    scheduler: str | None = None,
    say: Say = stages.quiet,
) -> pd.DataFrame:
    """Search until the folder holds ``trials`` trials; the first is the preset itself, if it lies in the space.

    Parameters
    ----------
    trials
        How many finished trials to end with: done, pruned and failed, those of earlier calls included.
    workers, scheduler
        As in :func:`.workers.connect`. The order in which parallel trials end decides what is proposed next:
        only a single worker repeats a search exactly.

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
    claim_cells(out)
    try:
        with FileLock(out / ".search.lock").acquire(timeout=0):
            _search(search, out.resolve(), trials, workers, scheduler, say)
    except Timeout:
        raise LayoutError(f"{out}: another search works there; wait for it, or choose another OUT") from None
    return table(out)


def _search(search: Search, out: Path, trials: int, workers: int | None, scheduler: str | None, say: Say) -> None:
    opt, (study, space) = optuna(), _opened(search, out)
    state = opt.trial.TrialState
    ends = {"done": state.COMPLETE, "stopped": state.PRUNED, "failed": state.FAIL}
    if _finished(study) >= trials:
        return

    def end(number: int, outcome: Outcome) -> None:
        if no_room(outcome.reason):
            return  # it stays in flight, and the same command goes on with it
        if outcome.reason:
            trial = study.get_trials(deepcopy=False)[number]
            opt.trial.Trial(study, trial._trial_id).set_user_attr("reason", outcome.reason)
        value = outcome.record["best_validation_ndcg"] if outcome.state == "done" else None
        study.tell(number, value, state=ends[outcome.state])

    def asked() -> Iterator[Work]:
        """As many more trials as there is room for; values that do not go together fail before they are sent."""
        while len(_running(study)) < min(team.width, trials - _finished(study)):
            # each trial has its own seed, the same whichever call proposes it
            seed = (search.seed or 0) + len(study.get_trials(deepcopy=False))
            study.sampler = opt.samplers.TPESampler(seed=seed, constant_liar=True)  # trials that still run count too
            number = study.ask(space).number
            trial = study.get_trials(deepcopy=False)[number]
            try:
                work = _work(search, out, trial)
            except ParameterError as error:
                say(f"trial {number} {dict(trial.params)}: FAILED: {error}")
                end(number, Outcome("failed", reason=str(error)))
                progress.update()
            else:
                yield work

    def then(work: Work, outcome: Outcome) -> Iterator[Work]:
        end(work.words[-1], outcome)
        return asked()

    with bar("search", trials, "trial", initial=_finished(study)) as progress, connect(workers, scheduler) as team:
        stopped = [_work(search, out, trial) for trial in _running(study)]  # in flight when an earlier call ended
        work_off(team, [*stopped, *asked()], say=say, progress=progress, then=then)


def _opened(search: Search, out: Path) -> tuple[Any, dict[str, Any]]:
    """The study of a folder, refused if another search's, and the distributions that it draws from."""
    opt = optuna()
    study = open_study(out)
    space = {key: _distribution(opt, values) for key, values in search.space.items()}
    asked_before, text = study.user_attrs.get("space"), search.model_dump(mode="json")
    if asked_before is None:
        study.set_user_attr("space", text)
        own = flatten(search.parameters({}).model_dump(mode="json"))
        if all(_holds(values, own[key]) for key, values in search.space.items()):
            study.enqueue_trial({key: own[key] for key in space})
    elif asked_before != text:
        differing = [key for key in text if text[key] != asked_before.get(key)]
        raise LayoutError(f"{out} holds a search with another {', '.join(differing)}: choose another OUT")
    return study, space


def _work(search: Search, out: Path, trial: Any) -> Work:
    p = search.parameters(trial.params)
    label = f"trial {trial.number} {dict(trial.params)}"
    folder = cell_folder(out, address_of(p, source_of(p)))
    check_cell(folder, p)
    return Work(folder, label, _make_trial, (p, out, trial.number), "model/model.json")


def _finished(study: Any) -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _running(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state == optuna().trial.TrialState.RUNNING]


def _holds(values: Between | Sequence[Any], value: Any) -> bool:
    return values.low <= value <= values.high if isinstance(values, Between) else value in values


def _distribution(opt: Any, values: Between | Sequence[Any]) -> Any:
    if not isinstance(values, Between):
        return opt.distributions.CategoricalDistribution(values)
    ends = (values.low, values.high, values.step)
    if all(end is None or isinstance(end, int) for end in ends):
        return opt.distributions.IntDistribution(values.low, values.high, log=values.log, step=values.step or 1)
    return opt.distributions.FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def table(out: Path | str) -> pd.DataFrame:
    """The trials of a folder, the best first.

    Returns
    -------
    DataFrame
        ``trial, state`` (complete, pruned, fail, running), a column for each key of the space, ``value`` (validation
        NDCG@10: the final one of a complete trial, else the best so far), ``epochs`` reported, ``seconds``,
        ``reason``.
    """
    lines = []
    for trial in open_study(Path(out)).get_trials(deepcopy=False):
        seconds = trial.duration.total_seconds() if trial.duration else None
        values = trial.intermediate_values
        best = max(values.values(), default=None) if trial.value is None else trial.value
        head = {"trial": trial.number, "state": trial.state.name.lower(), **trial.params}
        tail = {"value": best, "epochs": len(values), "seconds": seconds, "reason": trial.user_attrs.get("reason")}
        lines.append(head | tail)
    trials = pd.DataFrame(lines)
    return trials.sort_values("value", ascending=False, na_position="last", ignore_index=True) if lines else trials
