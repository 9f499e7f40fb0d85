"""The command ``i2vae``: run, recommend, audit, describe, compare, table, sweep, search, fetch, report, explore."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from i2vae_lib import audit, compare, comparison, evaluation, experiments, grids, lift, report, search, stages, table
from i2vae_lib.data import amazon, load_dataset
from i2vae_lib.data.dataset import DOMAINS, CrossDomainDataset, DataError
from i2vae_lib.data.describe import describe_files
from i2vae_lib.data.protocols import outside_note
from i2vae_lib.data.released import REGISTRY, locate
from i2vae_lib.evaluation import NonFiniteScore
from i2vae_lib.params import ParameterError, load, pair_name, suggestion
from i2vae_lib.recommenders import SYSTEMS
from i2vae_lib.runs import LayoutError, default_folder, read_record, usable_cores, write_atomically
from i2vae_lib.training import NonFiniteLoss

FOOD_KITCHEN = "amazon2014-food-kitchen"
FORMATS = ("text", "csv", "latex", "markdown")
RUN_NOTEBOOKS = ("01_data_preparation", "02_pseudo_sequences", "03_training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 well, 1 a leak or runs that failed, 2 bad input)."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    try:
        return int(given.call(given))
    except audit.Leak as error:
        print(f"i2vae {given.command}: {error}", file=sys.stderr)
        return 1
    except (
        ParameterError,
        DataError,
        LayoutError,
        NonFiniteLoss,
        NonFiniteScore,
        OSError,
        ValueError,
    ) as error:
        print(f"i2vae {given.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ni2vae {given.command}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least one")
    return number


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="i2vae", description="Research kit for i2VAE (UAI 2025).")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, call: Any, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(call=call)
        return one

    def parameters(one: argparse.ArgumentParser, preset: str = "demo") -> None:
        pairs = ", ".join(REGISTRY)
        one.add_argument("--data", help=f"synthetic, a released pair ({pairs}), or the YAML file of a pair of logs")
        one.add_argument("--protocol", help="released or strict; of logs: chronological or temporal")
        one.add_argument("--system", help=f"what is trained: {', '.join(SYSTEMS)} (default: i2vae)")
        one.add_argument("--preset", default=preset, help=f"a file in params/, or a path (default: {preset})")
        one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. model.d=64; repeatable")

    one = add("run", run, "Data, audit, pseudo-sequences, training, evaluation, report.")
    parameters(one)
    one.add_argument("--seed", type=int, help="initialisation, shuffling, sampling")
    one.add_argument("--epochs", type=int)
    one.add_argument(
        "--out", help="run directory (default: runs/DATA-PROTOCOL-PRESET-seedN); an unfinished one is resumed"
    )
    one.add_argument("--no-notebooks", action="store_true", help="leave the executed notebooks out")
    one.add_argument("--no-report", action="store_true", help="leave report.html out")
    one.add_argument("--only-train", action="store_true", help="stop before a test row is looked at (tuning)")

    one = add("recommend", recommend, "Recommend from a finished run, in people's own ids.")
    one.add_argument("run", type=Path)
    one.add_argument("--history", nargs="*", default=[], metavar="DOMAIN=ID,ID", help="x=ID,ID y=ID (oldest first)")
    one.add_argument("--histories", type=Path, help="Parquet with columns x and y: a list of ids a user")
    one.add_argument("--domain", required=True, choices=DOMAINS, help="where to recommend")
    one.add_argument("--k", type=int, default=10)
    one.add_argument("--json", action="store_true")

    one = add("audit", audit_data, "The leak audit of data under a protocol, or of a run; exit status 1 on a leak.")
    parameters(one)
    one.add_argument("--run", type=Path, help="a run directory: also what its generator and its model learnt from")
    one.add_argument("--json", action="store_true")

    one = add("describe", describe, "What two logs hold, what is suspicious, and the pair file that reads them.")
    one.add_argument("x", type=Path)
    one.add_argument("y", type=Path)
    one.add_argument(
        "--out", type=Path, help="write the proposed pair file here (beside the logs, or where they are found)"
    )

    one = add("compare", compare_runs, "Runs side by side: differences, intervals, significance.")
    one.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    one.add_argument("--candidates", choices=("sampled", "full"), help="default: sampled; --table has both")
    one.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap (default: 10000)")
    one.add_argument("--base", help="what others are compared with (default: the first run's; --table: i2vae)")
    one.add_argument("--table", choices=("paper",), help="the paper's table; RUN may be a folder of `i2vae table`")
    one.add_argument("--format", choices=FORMATS, help="of --table (default: text)")
    one.add_argument("--systems", nargs="+", metavar="SYSTEM", help="of --table: only these")
    one.add_argument("--kinds", nargs="+", choices=lift.KINDS, help="of --table: only these")
    one.add_argument("--json", action="store_true")

    one = add("table", make_table, "All systems, tuned alike, trained and measured; then the paper's table.")
    parameters(one, preset="paper")
    one.add_argument("--epochs", type=int)
    one.add_argument("--systems", nargs="+", metavar="SYSTEM", help="default: all")
    one.add_argument("--kinds", nargs="+", choices=lift.KINDS, help="user types to print (default: all)")
    one.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    one.add_argument("--trials", type=int, help="how many of each system's points are tried (default: all)")
    one.add_argument("--tuning", type=Path, help="another file of the form of params/tuning.yaml")
    one.add_argument("--workers", type=_positive, default=1, help="systems at a time (default: 1)")
    one.add_argument("--out", type=Path, help="folder of all runs (default: runs/table-DATA-PROTOCOL-PRESET)")
    one.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap (default: 10000)")
    one.add_argument("--format", choices=FORMATS, help="default: text")
    one.add_argument("--json", action="store_true")

    one = add("sweep", sweep, "Every cell of a grid that is not there yet; then the table of what is.")
    one.add_argument("file", help="a file in params/sweeps/, or a path")
    one.add_argument(
        "--preset", help="of the cells, as are --data, --protocol, --epochs and --set (default: the file's)"
    )
    one.add_argument("--data")
    one.add_argument("--protocol")
    one.add_argument("--epochs", type=int)
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in every cell; repeatable")
    one.add_argument("--seeds", type=int, nargs="+")
    one.add_argument("--out", type=Path, help="folder of the cells (default: runs/sweep-FILE-DATA-PROTOCOL)")
    one.add_argument("--workers", type=_positive, help="processes on this machine, a thread each (default: its cores)")
    one.add_argument("--scheduler", help="tcp://HOST:PORT or the scheduler file of your own Dask cluster")
    one.add_argument("--dashboard", action="store_true", help="serve Dask's page, on the loopback interface")
    one.add_argument("--dry-run", action="store_true", help="only the plan: cells, hours, memory")
    one.add_argument("--retry-failed", action="store_true", help="run cells that failed before once more")

    one = add("search", search_for, "Settings that validation NDCG@10 likes; no test row is looked at.")
    one.add_argument("file", help="a file in params/searches/, or a path")
    one.add_argument("--preset", help="what trials start from, as are --data, --protocol, --seed, --epochs")
    one.add_argument("--data")
    one.add_argument("--protocol")
    one.add_argument("--seed", type=int)
    one.add_argument("--epochs", type=int)
    one.add_argument("--trials", type=int, default=20, help="in all, those of earlier calls included (default: 20)")
    one.add_argument("--out", type=Path, help="folder of the trials (default: runs/search-FILE)")
    one.add_argument("--workers", type=_positive, help="processes on this machine, a thread each (default: its cores)")
    one.add_argument("--scheduler", help="tcp://HOST:PORT or the scheduler file of your own Dask cluster")

    one = add("fetch", fetch, "Download a released pair and check it, or build the Food and Kitchen logs anew.")
    one.add_argument("name", help=", ".join([*REGISTRY, FOOD_KITCHEN]))
    one.add_argument("--out", type=Path, help=f"where {FOOD_KITCHEN} is built (default: data)")

    one = add("report", make_report, "Write report.html of a finished run anew.")
    one.add_argument("run", type=Path)

    one = add("explore", explore, "A page of explorers on this machine: runs and sweeps taken apart, without Jupyter.")
    one.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="run directories, folders of sweeps")
    one.add_argument("--port", type=int, default=8866)
    one.add_argument("--no-browser", action="store_true", help="open none")
    return parser


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """``["model.d=64"]`` -> ``{"model.d": 64}``; values are read as YAML."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ParameterError(f"--set {pair}: expected KEY=VALUE, e.g. --set model.d=64")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ParameterError(f"--set {pair}: not valid YAML: {getattr(error, 'problem', error)}") from None
    return found


def chosen_of(given: argparse.Namespace) -> dict[str, Any]:
    """What ``--set`` and ``--system`` override."""
    return overrides(given.set) | ({"system": given.system} if given.system else {})


def run(given: argparse.Namespace) -> int:
    start = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - start:6.1f} s] {line}", flush=True)

    chosen = chosen_of(given)
    resolved = load(
        given.preset,
        chosen,
        data=given.data,
        protocol=given.protocol,
        seed=given.seed,
        epochs=given.epochs,
        out=given.out,
    )
    here = stages.open_run(resolved)
    if given.only_train:
        stages.train(here)
        print(f"trained: {here.folder}, validation NDCG@10 {here.record['best_validation_ndcg']:.4f}")
        return 0
    ranks = stages.run_all(here, say)
    if not given.no_notebooks and resolved.system == "i2vae":  # what the notebooks tell of
        say("executing the notebooks on this run")
        names = {
            "preset": given.preset,
            "data": resolved.data,
            "protocol": resolved.protocol,
            "seed": resolved.seed,
            "epochs": resolved.training.epochs,
            "out": str(here.folder.resolve()),
            "overrides": {key: value for key, value in chosen.items() if key != "training.epochs"},  # stands above
        }
        report.execute_notebooks(here.folder, names, RUN_NOTEBOOKS)
    path = None if given.no_report else report.write_report(here.folder)
    names = here.record["names"]
    stamp = " (NOT leak-free: protocol released)" if resolved.protocol == "released" else ""
    print(f"\nHR@10 in per cent, 1 + {resolved.evaluation.negatives} sampled candidates{stamp}")
    print(stages.result_table(stages.load_metrics(here.folder), names).to_string(index=False))
    for line in evaluation.fewer_candidates(ranks, resolved.evaluation.negatives, names):
        print(line)
    if note := outside_note(here.record["outside"], names):
        print(note)
    print(f"\nreport: {path}" if path else f"\nrun: {here.folder}")
    return 0


def recommend(given: argparse.Namespace) -> int:
    recommender = trained_of(given.run)
    histories = _histories(given)
    found = recommender.recommend(histories, given.domain, given.k)
    if given.json:
        print(json.dumps([{"items": ids, "scores": scores} for ids, scores in found]))
        return 0
    for user, (ids, scores) in enumerate(found):
        print(f"user {user}")
        labels = recommender.catalogue.label(given.domain, recommender.catalogue.encode(given.domain, ids))
        for place, (one, score, label) in enumerate(zip(ids, scores, labels, strict=True), start=1):
            print(f"{place:4d}  {one:<16} {score:9.4f}  {label if label != one else ''}".rstrip())
    return 0


def trained_of(folder: Path) -> Any:
    """The trained system of a run."""
    return SYSTEMS[read_record(folder)["parameters"]["system"]].load(folder / "model")


def _histories(given: argparse.Namespace) -> dict[str, list[list[str]]]:
    if given.histories is not None:
        if given.history:
            raise ParameterError("--history and --histories: one or the other")
        table = pd.read_parquet(given.histories)
        missing = [d for d in DOMAINS if d not in table.columns]
        if missing:
            raise DataError(f"{given.histories}: missing column {missing[0]}; expected x and y, a list of ids a user")
        return {d: [[] if one is None else [str(i) for i in one] for one in table[d]] for d in DOMAINS}
    histories: dict[str, list[list[str]]] = {d: [[]] for d in DOMAINS}
    for pair in given.history:
        d, equals, ids = pair.partition("=")
        if d not in DOMAINS or not equals:
            raise DataError(f"--history {pair}: expected x=ID,ID or y=ID,ID")
        histories[d][0] += [one for one in ids.split(",") if one]
    return histories


def audit_data(given: argparse.Namespace) -> int:
    if given.run is not None:
        if given.data or given.protocol or given.system or given.set:
            raise ParameterError(
                "--run audits what the run holds: --data, --protocol, --system, --set say nothing of it"
            )
        name, protocol, found = _audit_run(given.run)
    else:
        resolved = load(given.preset, chosen_of(given), data=given.data, protocol=given.protocol)
        if given.protocol is None and resolved.data in REGISTRY:
            # the question is what the published split holds, unless asked otherwise
            resolved = resolved.model_copy(update={"protocol": "released"})
        name, protocol = resolved.data, resolved.protocol
        found = audit.audit(load_dataset(resolved))
    leaks = audit.fired(found)
    if given.json:
        print(json.dumps({"protocol": protocol, "leaks": len(leaks), "checks": found.to_dict(orient="records")}))
    else:
        print(found.assign(share=(found["share"] * 100).round(2)).to_string(index=False))
        print(f"\n{name} under {protocol}: " + (f"{len(leaks)} checks found leaks" if len(leaks) else "no leak"))
    return 1 if len(leaks) else 0


def _audit_run(folder: Path) -> tuple[str, str, pd.DataFrame]:
    """Everything the audit can look at in a finished run."""
    trained = trained_of(folder)
    dataset = CrossDomainDataset.load(folder / "dataset")
    if stages.uses_generator(trained.params):
        found = audit.audit(dataset, pseudo=stages.load_pseudo(folder), generator=trained.generator)
    else:
        found = audit.audit(dataset)
    found = pd.concat([found, audit.audit_counts(dataset, trained.popularity)], ignore_index=True)
    # what training began with and the reference rankers are not kept: what the run itself saw of them
    seen = pd.DataFrame(read_record(folder)["audit"])
    return str(folder), dataset.protocol, pd.concat([found, seen[~seen["check"].isin(found["check"])]])


def describe(given: argparse.Namespace) -> int:
    found = describe_files(given.x, given.y)
    print(found.text())
    if given.out is not None:
        if given.out.exists():
            raise DataError(f"{given.out} exists: choose another --out")
        write_atomically(given.out, lambda part: part.write_text(found.yaml, encoding="utf-8"))
        print(f"\nwritten: {given.out}")
    return 0


def make_table(given: argparse.Namespace) -> int:
    if given.system:
        raise ParameterError(f"--system is of `i2vae run`; here it is --systems {given.system}")
    tuning = comparison.read_tuning(given.tuning)
    chosen = overrides(given.set)
    if "system" in chosen:
        raise ParameterError(f"--set system: here it is --systems {chosen['system']}")
    for key in chosen:
        names = [name for name, listed in tuning.points.items() if any(key in point for point in listed)]
        if key in tuning.shared or names:
            raise ParameterError(f"--set {key}: the tuning file sets it (for {', '.join(names) or 'all systems'})")
    words = {"data": given.data, "protocol": given.protocol, "epochs": given.epochs}
    resolved = load(given.preset, chosen, seed=given.seeds[0], **words)
    name = f"table-{pair_name(resolved.data)}-{resolved.protocol}-{resolved.preset}"
    folder = given.out or default_folder(resolved).with_name(name)
    study = comparison.open_study(
        folder,
        resolved,
        tuning,
        systems=given.systems or list(SYSTEMS),
        seeds=given.seeds,
        trials=given.trials,
    )
    # beside the table, which may be read by a program
    comparison.run_study(study, workers=given.workers, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(_table_as([folder], given))
    return 1 if any(comparison.failures(study, name) for name in study.systems) else 0


def _table_as(folders: Sequence[Path], given: argparse.Namespace) -> str:
    found = table.paper_table(folders, resamples=given.resamples, rng=np.random.default_rng(0))
    # `table` names the systems to run: what the references and other calls have made stands in its table as well
    found = found.filtered(given.systems if given.command == "compare" else None, given.kinds or lift.KINDS)
    if given.json:
        return json.dumps(found.to_json())
    written: dict[str, Callable[[], str]] = {
        "text": found.text,
        "csv": lambda: str(found.flat().to_csv(index=False)),
        "latex": found.latex,
        "markdown": found.markdown,
    }
    return written[given.format or "text"]()


def sweep(given: argparse.Namespace) -> int:
    names = {key: getattr(given, key) for key in ("preset", "data", "protocol", "epochs", "seeds")}
    found = grids.read_sweep(given.file, names | {"overrides": overrides(given.set)})
    out = given.out or grids.cells_folder(found)
    planned = experiments.plan(found, out)
    # of a cluster nobody knows yet how many workers it has: what one of them would take
    workers = given.workers or (1 if given.scheduler else usable_cores())
    print(experiments.plan_by_seeds(planned).to_string(index=False))
    costs = experiments.costs(found, planned, _probe if given.dry_run else None)
    if given.dry_run:
        costs = costs.assign(GiB=costs.pop("peak_memory_bytes") / 2**30).round({"seconds": 1, "GiB": 1})
        print(f"\na cell of each kind:\n{costs.to_string(index=False)}\n")
        costs = costs.assign(peak_memory_bytes=costs["GiB"] * 2**30)
    print(f"{experiments.estimate(costs, workers)}; cells: {out}", flush=True)
    if given.dry_run:
        return 0
    table = experiments.run(
        found,
        out,
        workers=workers,
        scheduler=given.scheduler,
        dashboard=given.dashboard,
        retry_failed=given.retry_failed,
        say=lambda line: print(line, flush=True),
    )
    write_atomically(out / f"{found.name}.csv", lambda part: table.to_csv(part, index=False))
    print("\nHR@10 in per cent, sampled candidates, mean over seeds")
    print(experiments.by_place(table, found.axes()).to_string(index=False))
    figures = report.write_sweep_figures(found, table, out)
    print(f"\nevery figure: {out / f'{found.name}.csv'}; drawn: {out / 'figures'} ({len(figures)} files)")
    return 1 if (table["state"] != "done").any() else 0


def search_for(given: argparse.Namespace) -> int:
    names = {key: getattr(given, key) for key in ("preset", "data", "protocol", "seed", "epochs")}
    found = search.read_search(given.file, names)
    out = given.out or default_folder(found.parameters({})).with_name(f"search-{Path(given.file).stem}")
    words = {"workers": given.workers, "scheduler": given.scheduler}
    table = search.run(found, out, trials=given.trials, say=lambda line: print(line, flush=True), **words)
    shown = table.round({"value": 4, "seconds": 1})  # not the points, which somebody may want to copy
    print(f"\n{shown.to_string(index=False)}\n\ntrials: {out}")
    return 0


def _probe(cell: grids.Cell) -> tuple[float, int]:
    """In a worker like those of the sweep, whose peak memory is its own."""
    with experiments.connect(workers=1) as client:
        found: tuple[float, int] = client.submit(experiments.probe_cell, cell).result()
    print(f"probe of {cell.parameters.system} on {cell.parameters.data}: {found[0]:.0f} s a cell at most", flush=True)
    return found


def compare_runs(given: argparse.Namespace) -> int:
    of_the_other = ("candidates", "base") if given.table else ("format", "systems", "kinds")
    for name in of_the_other:
        if getattr(given, name) is not None:
            raise ParameterError(f"--{name} is {'not for' if given.table else 'of'} --table: see i2vae compare --help")
    if given.table is not None:
        print(_table_as(given.runs, given))
        return 0
    found = compare.compare(
        given.runs,
        candidates=given.candidates or "sampled",
        base=given.base,
        resamples=given.resamples,
        rng=np.random.default_rng(0),
    )
    print(json.dumps(found.to_json()) if given.json else found.text())
    return 0


def explore(given: argparse.Namespace) -> int:
    from i2vae_lib import explorers  # widgets and plotly's live figures: a second that no other command needs

    if importlib.util.find_spec("voila") is None:
        raise ValueError("the page is served by Voila, which is not installed: pip install 'i2vae-kit[page]'")
    with tempfile.TemporaryDirectory(prefix="explore-") as folder:
        notebook = explorers.write_page(given.folders, Path(folder))
        # at that port or not at all: who holds it may be somebody else
        words = ["--Voila.ip=127.0.0.1", f"--port={given.port}", "--Voila.port_retries=0", "--template=kit"]
        words += ["--no-browser"] if given.no_browser else []
        paths = os.pathsep.join(one for one in (folder, os.environ.get("JUPYTER_PATH")) if one)
        print(f"http://127.0.0.1:{given.port}/ for this machine alone; Ctrl-C ends it", flush=True)
        command = [sys.executable, "-m", "voila", str(notebook), *words]
        try:
            return subprocess.run(command, env=os.environ | {"JUPYTER_PATH": paths}).returncode
        except KeyboardInterrupt:  # as it was told
            return 0


def fetch(given: argparse.Namespace) -> int:
    if given.name == FOOD_KITCHEN:
        print(amazon.fetch_amazon2014(given.out or Path("data")))
        return 0
    if given.name not in REGISTRY:
        raise DataError(f"unknown pair '{given.name}'{suggestion(given.name, [*REGISTRY, FOOD_KITCHEN])}")
    if given.out is not None:
        raise ParameterError(f"--out is of {FOOD_KITCHEN}; a released pair goes where I2VAE_DATA_DIR or the cache says")
    for file in (REGISTRY[given.name].train, REGISTRY[given.name].test):
        print(locate(file))
    return 0


def make_report(given: argparse.Namespace) -> int:
    print(report.write_report(given.run))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
