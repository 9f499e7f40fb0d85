"""The main job as four stages over a run directory: prepare, recall, train, evaluate.

Each stage is a function of a :class:`~i2vae_lib.runs.Run`: it reads what earlier stages left, repeats nothing that is
done, and leaves its result on disk. ``i2vae run`` calls them in order; a notebook calls those it is about, and they
call the stages before them. After a kill at any moment, the same call continues where it stopped.
"""

import functools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from i2vae_lib import evaluation
from i2vae_lib.audit import fitted, leaks
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.kinds import REPORTED_KINDS
from i2vae_lib.data.loading import check_data, load_dataset_once, source_of
from i2vae_lib.data.rows import DOMAINS, SPLITS
from i2vae_lib.generators import psg
from i2vae_lib.params import ParameterError, Parameters
from i2vae_lib.places import suggestion
from i2vae_lib.processes import bytes_of_first, launched, together
from i2vae_lib.recommenders import REGISTRY, SYSTEMS
from i2vae_lib.runs import LayoutError, Run, checked, read_json, read_record, reading, refuse_exported, write_json
from i2vae_lib.shared import ranked, recalled, reference_ranks, stamped
from i2vae_lib.training import Callbacks, check_devices, history_of

Say = Callable[[str], None]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


_TRAIN, _DONE = b"train", b"done"  # what the first process tells the others


def quiet(line: str) -> None:
    """A :data:`Say` that prints nothing."""


def open_run(parameters: Parameters, out: str | Path | None = None) -> Run:
    """The run directory of these parameters, created if missing.

    Raises
    ------
    DataError, ParameterError
        Unknown data, protocol or system, or data that the protocol cannot serve.
    """
    check_run(parameters)
    check_devices(parameters.training)  # fails now, not after an hour of fitting
    run = Run(parameters, out, irrelevant_groups([parameters.system]))
    refuse_exported(run.folder, run.record)
    return run


def check_run(parameters: Parameters) -> None:
    """Refuse unknown data, protocol or system before anything is made.

    Raises
    ------
    DataError, ParameterError
        Names the nearest known one, or the protocols that the data can serve.
    """
    check_data(parameters.data, parameters.protocol)
    check_system(parameters.system)


def check_tested(parameters: Parameters) -> None:
    """Refuse parameters that keep no test rows where some are evaluated on.

    Raises
    ------
    ParameterError
    """
    if parameters.protocol == "chronological" and not parameters.split.test_share:
        raise ParameterError(
            "'split.test_share': 0 keeps no test rows to evaluate on: a share above 0, or train alone (--only-train)"
        )


def irrelevant_groups(systems: Iterable[str]) -> tuple[str, ...]:
    """The groups of parameters that only systems other than these read."""
    own = {group for name in systems for group in REGISTRY[name].groups}
    return tuple(sorted({group for entry in REGISTRY.values() for group in entry.groups} - own))


def check_system(name: str) -> None:
    """Refuse a system that the kit does not have.

    Raises
    ------
    ParameterError
        Names the nearest known one.
    """
    if name not in SYSTEMS:
        raise ParameterError(f"'system': unknown '{name}'{suggestion(name, list(SYSTEMS))}")


def _alone(stage: Callable[Concatenate[Run, Arguments], Result]) -> Callable[Concatenate[Run, Arguments], Result]:
    """Hold the run's lock while a stage checks what is done and does the rest."""

    @functools.wraps(stage)
    def locked(run: Run, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with run.lock:
            run.refresh()
            return stage(run, *args, **kwargs)

    return locked


@_alone
def prepare(run: Run) -> CrossDomainDataset:
    """Load the pair under its protocol, audit it and store it.

    Raises
    ------
    DataError
        Bad input.
    audit.Leak
        The audit finds a leak, except under ``released`` (whose tables are stamped).
    """
    folder = run.folder / "dataset"
    if (folder / "dataset.json").is_file():
        dataset = load_data(run.folder)
        run.check_dataset(dataset.fingerprint())
        if source_of(run.parameters) not in (None, dataset.source_sha256):
            raise LayoutError(
                f"{run.folder} was made before {run.parameters.data} or its logs changed: choose another OUT, or "
                f"delete the folder"
            )
        return dataset
    with run.stage("prepare"):
        dataset = load_dataset_once(run.parameters)
        held_out = [dataset.splits[split] for split in ("validation", "test")]
        evaluation.check_negatives(*held_out)  # fails now, not after an hour of fitting
        asked = run.parameters.system == "i2vae" and run.parameters.model.start == "titles"
        if asked and all(titles is None for titles in dataset.catalogue.titles.values()):
            raise ParameterError(
                f"'model.start': titles, but {dataset.name} has none: name files of them in a pair file, such as "
                f"x: {{name: Books, path: books.csv, titles: book_titles.csv}}"
            )
        run.check_dataset(dataset.fingerprint())
        audited = leaks.audit(dataset)
        leaks.refuse_leaks(audited, dataset.protocol)
        # noted before the dataset is stored, since its presence says that this stage is done
        about = dataset.about()
        rows = {split: len(own) for split, own in dataset.splits.items()}
        named = {"data": about.pop("name"), "L80": about.pop("tail")}
        run.note(**named, **about, rows=rows, audit=audited.to_dict(orient="records"))
        run.leave("dataset", dataset.save)
    return dataset


@_alone
def recall(run: Run, dataset: CrossDomainDataset | None = None) -> psg.Generator:
    """Fit the pseudo-sequence generator on training rows (or read the same fit back), and record what it recalls.

    ``pseudo.parquet`` holds, for every row of every split, the recalled items and scores. The audit runs again, now
    on what the generator learnt from and what it recalls.

    Raises
    ------
    audit.Leak
        As in :func:`prepare`.
    LayoutError
        The generator had to be fitted again, and differs from the one whose recalled items the run holds.
    """
    dataset = dataset or prepare(run)
    train, p, path = dataset.splits["train"], run.parameters.psg, run.folder / "pseudo.parquet"
    if path.is_file():
        checked(run.folder, path.name)  # outside run.stage: reading the fit back is not timed
        generator = psg.fit_once(train, p)
        if generator.digest() != run.record.get("generator_sha256"):
            raise LayoutError(
                f"{run.folder}: the generator had to be fitted again (the cache was emptied, or its code changed) and "
                f"differs from the one whose pseudo-sequences the run holds: choose another OUT, or delete the folder"
            )
        return generator
    with run.stage("generator"):
        generator = psg.fit_once(train, p)
    # a fit of an earlier run keeps the seconds that it took then
    run.note(generator_seconds=psg.seconds_of_fit(train, p), generator_sha256=generator.digest())
    with run.stage("recall"):
        table, audited = recalled(dataset, generator)
        run.note(audit=audited)
        uncrossed = ": psg.folds = 1 learns from every row's own target, give 2 or more" if p.folds == 1 else ""
        leaks.refuse_leaks(pd.DataFrame(audited), dataset.protocol, uncrossed)
        run.leave(path.name, lambda part: shutil.copyfile(table, part))
    return generator


def uses_generator(parameters: Parameters) -> bool:
    """Whether the run's system learns from pseudo-sequences."""
    return "psg" in REGISTRY[parameters.system].groups


@_alone
def train(run: Run, dataset: CrossDomainDataset | None = None, on_epoch: Callable[[Any], None] | None = None) -> Any:
    """Train the run's system, resume it, or read the finished model. Sees no test rows.

    Returns
    -------
    Recommender
        An instance of ``SYSTEMS[run.parameters.system]``.
    """
    if (run.folder / "model" / "model.json").is_file():
        if launched():  # the other processes wait to hear whether to train
            with together(launched(), follow):
                bytes_of_first(_DONE)
        return load_system(run.folder)
    dataset = dataset or prepare(run)
    generator = recall(run, dataset) if uses_generator(run.parameters) else None
    with run.stage("train"), together(run.parameters.training.devices, follow, run.parameters.model_dump_json()):
        bytes_of_first(_TRAIN)
        recommender = fitted_system(dataset, run.parameters, generator, Callbacks(run.folder / "last.ckpt", on_epoch))
    history = stamped(pd.DataFrame(recommender.state.history), dataset)
    run.took_at_least("train", float(history[["seconds", "validation seconds"]].to_numpy().sum()))
    run.leave("history.parquet", lambda part: history.to_parquet(part, index=False))
    # what the model starts from and falls back to must come from the training rows alone
    audited = fitted.audit_counts(dataset, recommender.popularity)
    if recommender.start is not None:
        started = fitted.audit_start(dataset, recommender.start, recommender.start_shrinkage)
        audited = pd.concat([audited, started], ignore_index=True)
    if recommender.counted:
        audited = pd.concat([audited, fitted.audit_references(dataset, recommender.counted)], ignore_index=True)
    leaks.refuse_leaks(audited, dataset.protocol)
    run.note(
        audit=_with(run.record["audit"], audited.to_dict(orient="records")),
        device=str(recommender.device),
        best_epoch=recommender.state.best_epoch + 1,
        best_validation_ndcg=recommender.state.best_metric,
        weights=sum(weight.numel() for weight in recommender.module.parameters()),
    )
    run.leave("model", recommender.save)
    return recommender


def fitted_system(dataset: CrossDomainDataset, p: Parameters, generator: Any, callbacks: Callbacks) -> Any:
    """The system of these parameters, trained on a dataset's training rows."""
    return SYSTEMS[p.system](dataset.catalogue, p).fit(
        dataset.splits["train"],
        dataset.splits["validation"],
        params=p,
        generator=generator,
        rng=np.random.default_rng(p.seed),
        callbacks=callbacks,
    )


def follow(parameters: str) -> None:
    """Train along with the first process, which has the run (``training.devices``), and write nothing.

    Parameters
    ----------
    parameters
        Those of the run, as JSON.
    """
    if bytes_of_first(b"") == _DONE:
        return
    p = Parameters.model_validate_json(parameters)
    dataset = load_dataset_once(p)
    generator = psg.fit_once(dataset.splits["train"], p.psg) if uses_generator(p) else None
    fitted_system(dataset, p, generator, Callbacks())


@_alone
def evaluate(run: Run, dataset: CrossDomainDataset | None = None) -> pd.DataFrame:
    """Rank the test rows with the system and the reference rankers; store ``ranks.parquet`` and ``metrics.json``.

    Returns
    -------
    DataFrame
        ``ranks.parquet``, from which everything that is reported can be computed.
    """
    path = run.folder / "ranks.parquet"
    if path.is_file() and (run.folder / "metrics.json").is_file():
        checked(run.folder, "metrics.json")
        return load_ranks(run.folder)
    dataset = dataset or prepare(run)
    trained = train(run, dataset)
    p = run.parameters
    with run.stage("references"):
        others, chosen, audited = reference_ranks(dataset, p)
    run.note(references=chosen, audit=_with(run.record["audit"], audited))
    leaks.refuse_leaks(pd.DataFrame(audited), dataset.protocol)
    with run.stage("evaluate"):
        table = stamped(pd.concat([ranked([trained], dataset, p), others], ignore_index=True), dataset)
    run.leave(path.name, lambda part: table.to_parquet(part, index=False))
    run.leave("metrics.json", lambda part: write_json(part, evaluation.metrics(table)))
    return table


def _with(lines: list[dict[Any, Any]], more: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """Add lines to the audit, replacing any that a killed call left."""
    checks = {line["check"] for line in more}
    return [line for line in lines if line["check"] not in checks] + more


def run_all(run: Run, say: Say = quiet) -> pd.DataFrame:
    """Run all stages. ``say`` is called with one line per stage."""
    check_tested(run.parameters)
    say(f"preparing {run.parameters.data} under {run.parameters.protocol}")
    dataset = prepare(run)
    say(str(dataset))
    say(leaks.verdict(run.record["audit"]))
    if uses_generator(run.parameters):
        say(f"pseudo-sequences: {run.parameters.psg.kind}, {run.parameters.psg.folds} folds")
        recall(run, dataset)
        say(leaks.verdict(run.record["audit"]))
    say(f"training {run.parameters.system}, at most {run.parameters.training.epochs} epochs, in {run.folder}")
    train(run, dataset)
    say("evaluating on the test rows")
    return evaluate(run, dataset)


def _left(folder: Path | str, name: str, what: str, remedy: str) -> Path:
    """Path of what a stage left in a run, if it has, and if it is what the run wrote."""
    record = read_record(folder)
    if not (Path(folder) / name).is_file() and name not in record["sha256"]:
        raise LayoutError(f"{folder} has no {what} yet (no {name}): {remedy}")
    return checked(folder, name, record)


def _table(path: Path) -> pd.DataFrame:
    with reading(path):
        return pd.read_parquet(path)


def load_data(folder: Path | str) -> CrossDomainDataset:
    """The dataset that a run holds."""
    return CrossDomainDataset.load(checked(folder, "dataset"))


def load_system(folder: Path | str) -> Any:
    """The trained system of a run."""
    return SYSTEMS[read_record(folder)["parameters"]["system"]].load(checked(folder, "model"))


def load_history(folder: Path | str) -> pd.DataFrame:
    """``history.parquet`` of a run: one line per epoch."""
    return _table(_left(folder, "history.parquet", "history", "train it first"))


def load_ranks(folder: Path | str) -> pd.DataFrame:
    """``ranks.parquet`` of a run (:func:`evaluate`)."""
    return _table(_left(folder, "ranks.parquet", "ranks", "evaluate it first"))


def history_so_far(folder: Path | str) -> pd.DataFrame:
    """:func:`load_history`; for a run that still trains, the epochs in its checkpoints (possibly none).

    Raises
    ------
    LayoutError
        There is no run.
    """
    folder = Path(folder)
    read_record(folder)
    if (folder / "history.parquet").is_file():
        return load_history(folder)
    # one checkpoint per training stage, each begun after the one before had ended
    paths = sorted(folder.glob("last*.ckpt"), key=lambda path: path.stat().st_mtime)
    parts = [pd.DataFrame(history_of(path)) for path in paths]
    parts = parts if len(parts) == 1 else [part.assign(stage=i) for i, part in enumerate(parts, 1)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"epoch": pd.Series(dtype=float)})


def load_pseudo(folder: Path | str) -> dict[str, Any]:
    """``pseudo.parquet`` of a run: recalled items by split, int32 [rows, n] in the order of the split's rows."""
    table = _table(_left(folder, "pseudo.parquet", "pseudo-sequences", "run it first"))
    return {split: np.stack(table.loc[table["split"] == split, "items"].to_list()) for split in SPLITS}


def load_metrics(folder: Path | str) -> dict[str, Any]:
    """``metrics.json`` of a run."""
    path = _left(folder, "metrics.json", "metrics", "evaluate it first")
    return read_json(path, f"`i2vae run` with --out {folder} evaluates anew without it")


def result_table(
    metrics: dict[str, Any], names: dict[str, str], metric: str = "HR@10", candidates: str = "sampled"
) -> pd.DataFrame:
    """Results by domain and row kind in per cent, with n; one column per recommender."""
    tidy = evaluation.tidy(metrics, names)
    part = tidy[(tidy["metric"] == metric) & (tidy["candidates"] == candidates)].copy()
    part["value"] = (part["value"] * 100).round(2)
    order = list(dict.fromkeys(part["recommender"]))
    wide = part.pivot(index=["domain", "kind", "n"], columns="recommender", values="value")[order].reset_index()
    wide = wide[wide["kind"].isin(REPORTED_KINDS)]
    wide["kind"] = pd.Categorical(wide["kind"], REPORTED_KINDS, ordered=True)
    wide["domain"] = pd.Categorical(wide["domain"], [names[d] for d in DOMAINS], ordered=True)
    wide = wide.sort_values(["domain", "kind"]).reset_index(drop=True)
    wide.columns.name = None
    return wide.astype({"domain": str, "kind": str})


def seconds_by_stage(record: dict[str, Any]) -> pd.DataFrame:
    """What each stage of a run took, and all of them together."""
    spent = pd.DataFrame(
        [(stage, one["seconds"], round(one["peak_memory_bytes"] / 2**20)) for stage, one in record["stages"].items()],
        columns=["stage", "seconds", "peak memory so far (MiB)"],
    )
    total = ("total", round(spent["seconds"].sum(), 2), spent["peak memory so far (MiB)"].max())
    return pd.concat([spent, pd.DataFrame([total], columns=spent.columns)], ignore_index=True)
