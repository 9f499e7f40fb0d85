"""What each command of ``i2vae`` does. A command imports what it needs when it is called, and nothing else.

Words that do not go together are a ValueError, which needs no import; ``cli`` answers it like the kit's own errors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from i2vae_lib.commands import listing
from i2vae_lib.data.registry import FOOD_KITCHEN, REGISTRY
from i2vae_lib.lazy import require
from i2vae_lib.places import notebooks_folder, shortened, suggestion
from i2vae_lib.yaml_files import parse

if TYPE_CHECKING:
    import pandas as pd

    from i2vae_lib.api import I2VAE, Asked
    from i2vae_lib.runs import Run

RUN_NOTEBOOKS = ("03_training",)  # seconds; the other lessons are executed on a run by papermill


def list_known(given: argparse.Namespace) -> int:
    for name in given.what:
        if name not in listing.LISTS:
            raise ValueError(f"unknown list '{name}'{suggestion(name, list(listing.LISTS))}")
    found = {name: listing.LISTS[name]() for name in given.what or listing.LISTS}
    if given.json:
        print(json.dumps(found))
        return 0
    for name, lines in found.items():
        print(f"{name}\n\n{listing.text(lines)}\n")
    return 0


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """``["model.d=64"]`` -> ``{"model.d": 64}``; values are read as YAML."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {shortened(pair)}: expected KEY=VALUE, e.g. --set model.d=64")
        if key in found:
            raise ValueError(f"--set {shortened(key)} is given twice: which value counts? Drop one")
        try:
            found[key] = parse(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {shortened(pair)}: not valid YAML: {getattr(error, 'problem', error)}") from None
    return found


def chosen_of(given: argparse.Namespace) -> dict[str, Any]:
    """What ``--set`` and ``--system`` override."""
    from i2vae_lib.params import joined

    return joined(overrides(given.set), {} if given.system is None else {"system": given.system}, "--set and --system")


def named(given: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options by their names, for a function that takes them."""
    return {name: getattr(given, name) for name in names}


def run(given: argparse.Namespace) -> int:
    from i2vae_lib.progress import spoken

    with spoken() as say:
        say("starting")  # imports take seconds
        return _run(given, say)


def _run(given: argparse.Namespace, say: Callable[[str], None]) -> int:
    from i2vae_lib import notebooks, stages
    from i2vae_lib.params import load
    from i2vae_lib.processes import is_follower, launched, together

    chosen = chosen_of(given)
    resolved = load(given.preset, chosen, **named(given, "data", "protocol", "seed", "epochs", "out"))
    if is_follower():
        with together(launched(), stages.follow):
            stages.follow(resolved.model_dump_json())
        return 0
    here = stages.open_run(resolved)
    if given.only_train:
        stages.train(here)
        print(f"trained: {here.folder}, validation NDCG@10 {here.record['best_validation_ndcg']:.4f}")
        return 0
    stages.run_all(here, say)
    here.forget("report", "compare", "notebooks")
    path = None
    if not given.no_report:
        say("writing the report")
        path = _report_of(here)
    say("comparing with the reference rankers")
    with here.stage("compare"):
        told = _result_of(here)
    print(told, flush=True)
    if not given.no_notebooks and resolved.system == "i2vae":  # what the notebooks tell of
        names = {
            "preset": given.preset,
            "data": resolved.data,
            "protocol": resolved.protocol,
            "seed": resolved.seed,
            "epochs": resolved.training.epochs,
            "out": str(here.folder.resolve()),
            "overrides": {key: value for key, value in chosen.items() if key != "training.epochs"},  # stands above
        }
        with here.stage("notebooks"):
            notebooks.execute_notebooks(here.folder, names, RUN_NOTEBOOKS, say)
        if path:
            say("linking the notebooks in the report")
            _report_of(here)
    say("done")
    print(f"\n{stages.seconds_by_stage(here.record).to_string(index=False)}")
    print(f"\nreport: {path}" if path else f"\nrun: {here.folder}")
    return 0


def _report_of(here: Run) -> Path:
    """The report of a run, as a stage of it."""
    from i2vae_lib import report

    with here.stage("report"):
        return report.write_report(here.folder)


def _result_of(here: Run) -> str:
    """The table of a finished run, how sure it is, and what a reader should know beside it."""
    import numpy as np

    from i2vae_lib import stages
    from i2vae_lib.data.protocols import order_note
    from i2vae_lib.labels import labelled
    from i2vae_lib.results import lift
    from i2vae_lib.results.differences import compare
    from i2vae_lib.runs import stamp

    found = compare([here.folder], resamples=2_000, rng=np.random.default_rng(0))
    table = stages.result_table(stages.load_metrics(here.folder), here.record["names"])
    lines = [
        f"\nHR@10 in per cent, 1 + {here.parameters.evaluation.negatives} sampled candidates",
        stamp(here.record),
        labelled(table).to_string(index=False),
        lift.verdict(found),
        order_note(here.record["protocol"]),
        *found.notes,
    ]
    return "\n".join(line for line in lines if line)


def recommend(given: argparse.Namespace) -> int:
    from i2vae_lib.api import I2VAE
    from i2vae_lib.results.escaping import escaped
    from i2vae_lib.runs import check_outside_runs

    if given.out is not None:
        check_outside_runs(given.out)
        if given.out.exists():  # a device, or the file of those who ask
            raise ValueError(f"{given.out} exists: choose another --out")
        if given.out.suffix != ".parquet":
            raise ValueError(f"--out {given.out}: Parquet is written, so give it a name that ends with .parquet")
    kit = I2VAE.load(given.run)
    asked, d = _asked(kit, given), kit.catalogue.key(given.domain)
    if asked.dropped:
        print(f"{asked.dropped:,} unknown ids dropped", file=sys.stderr)
    among = kit.among(d, given.exclude or (), given.only)
    if given.out is not None:
        _write_tables(kit.tables(asked, d, given.k, among), given.out)
        print(f"written: {given.out}")
        return 0
    lists = kit.lists(asked, d, given.k, among)
    if given.json:
        print(json.dumps([{"items": kit.ids(d, items).tolist(), "scores": scores} for _, items, scores in lists]))
        return 0
    for user, items, scores in lists:
        ids = kit.ids(d, items).tolist()
        print(escaped(f"user {user}", "text"))
        for place, (one, score, label) in enumerate(zip(ids, scores, kit.catalogue.label(d, items), strict=True), 1):
            line = f"{place:4d}  {one:<16} {score:9.4f}  {label if label != str(one) else ''}".rstrip()
            print(escaped(line, "text"))
    return 0


def _asked(kit: I2VAE, given: argparse.Namespace) -> Asked:
    """Whom to recommend to: users of the data, histories of a file, or of one person on the command line."""
    from i2vae_lib.data.histories import read_users
    from i2vae_lib.data.rows import DOMAINS

    ways = {"--history": given.history, "--histories": given.histories, "--user": given.user, "--users": given.users}
    several = [name for name, one in ways.items() if one]
    if len(several) > 1:
        raise ValueError(f"{' and '.join(several)}: one or the other")
    if not several:
        raise ValueError(
            f"nobody to recommend to: give one of {', '.join(ways)} (--history {given.domain}= for somebody new)"
        )
    if given.histories is not None:
        return kit.asked(None, given.histories, given.unknown)
    if several and not given.history:
        return kit.asked(given.user or read_users(given.users), None, given.unknown)
    histories: dict[str, list[list[str]]] = {d: [[]] for d in DOMAINS}
    for pair in given.history:
        name, equals, ids = pair.partition("=")
        if not equals:
            raise ValueError(f"--history {pair}: expected DOMAIN=ID,ID")
        d = kit.catalogue.key(name)
        if split := [one for one in map(str, kit.catalogue.ids[d]) if "," in one and one in ids]:
            raise ValueError(
                f"--history {pair}: the id {split[0]!r} holds a comma, which separates ids here: give --histories a "
                f"Parquet file with a column a domain, lists of ids"
            )
        histories[d][0] += [one for one in ids.split(",") if one]
    return kit.asked(None, histories, given.unknown)


def _write_tables(tables: Iterator[pd.DataFrame], path: Path) -> None:
    """Tables one after another as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from i2vae_lib.runs import write_atomically

    def write(part: Path) -> None:
        first = pa.Table.from_pandas(next(tables), preserve_index=False)
        with pq.ParquetWriter(part, first.schema) as file:
            file.write_table(first)
            for table in tables:
                file.write_table(pa.Table.from_pandas(table, first.schema, preserve_index=False))

    write_atomically(path, write)


def audit_data(given: argparse.Namespace) -> int:
    from i2vae_lib.audit import leaks as audit
    from i2vae_lib.data.loading import load_dataset
    from i2vae_lib.params import load
    from i2vae_lib.results.text import rendered
    from i2vae_lib.stages import check_system

    if given.run is not None:
        if given.data or given.protocol or given.system or given.set:
            raise ValueError("--run audits what the run holds: --data, --protocol, --system, --set say nothing of it")
        name, protocol, found = _audit_run(given.run)
    else:
        resolved = load(given.preset, chosen_of(given), **named(given, "data", "protocol"))
        if given.protocol is None and resolved.data in REGISTRY:
            # the question is what the published split holds, unless asked otherwise
            resolved = resolved.model_copy(update={"protocol": "released"})
        name, protocol = resolved.data, resolved.protocol
        check_system(resolved.system)
        found = audit.audit(load_dataset(resolved))
    leaks = audit.fired(found)
    if given.json:
        print(json.dumps({"protocol": protocol, "leaks": len(leaks), "checks": found.to_dict(orient="records")}))
    else:
        print(rendered(found.assign(share=(found["share"] * 100).round(2)), given.format))
        if given.format == "text":
            print(f"\n{name} under {protocol}: {f'{len(leaks)} checks found leaks' if len(leaks) else 'no leak'}")
    return 1 if len(leaks) else 0


def _audit_run(folder: Path) -> tuple[str, str, pd.DataFrame]:
    """Everything the audit can look at in a finished run."""
    import pandas as pd

    from i2vae_lib import stages
    from i2vae_lib.audit import fitted
    from i2vae_lib.audit import leaks as audit
    from i2vae_lib.runs import read_record

    trained, dataset = stages.load_system(folder), stages.load_data(folder)
    if stages.uses_generator(trained.params):
        found = audit.audit(dataset, pseudo=stages.load_pseudo(folder), generator=trained.generator)
    else:
        found = audit.audit(dataset)
    found = pd.concat([found, fitted.audit_counts(dataset, trained.popularity)], ignore_index=True)
    # what training began with and the reference rankers are not kept: what the run itself saw of them
    seen = pd.DataFrame(read_record(folder)["audit"])
    return str(folder), dataset.protocol, pd.concat([found, seen[~seen["check"].isin(found["check"])]])


def describe(given: argparse.Namespace) -> int:
    from i2vae_lib.data.logs.describe import describe_files
    from i2vae_lib.runs import write_atomically

    found = describe_files(given.x, given.y, home=given.out.parent if given.out else None)
    print(found.text())
    if found.refusal:
        raise ValueError("no pair file that would work: see above")
    if given.out is not None:
        if given.out.exists():
            raise ValueError(f"{given.out} exists: choose another --out")
        write_atomically(given.out, lambda part: part.write_text(found.yaml, encoding="utf-8"))
        print(f"\nwritten: {given.out}")
    return 0


def export_out(given: argparse.Namespace) -> int:
    from i2vae_lib import export
    from i2vae_lib.params import load

    if (given.run is None) == (given.split is None):
        raise ValueError("give either a run or --split DATA")
    if given.run is not None:
        if given.protocol or given.set:
            raise ValueError("--protocol and --set are of --split: a run has its own")
        print(f"model: {export.export_run(given.run, given.out, given.with_users, given.licence)}")
        return 0
    resolved = load(given.preset, overrides(given.set), data=given.split, protocol=given.protocol)
    print(f"split: {export.export_split(resolved, given.out)}")
    return 0


def print_completion(given: argparse.Namespace) -> int:
    require("shell completion", "shtab")
    import shtab

    print(shtab.complete(given.whole, given.shell))
    return 0


def explore(given: argparse.Namespace) -> int:
    import secrets
    import subprocess
    import tempfile

    from i2vae_lib.experiments.workers import terminated_as_interrupted
    from i2vae_lib.processes import isolated

    require("the page", "voila", "ipywidgets", "anywidget", "psutil")
    import psutil

    from i2vae_lib.explorers.contents import require_port, write_page

    with terminated_as_interrupted(), tempfile.TemporaryDirectory(prefix="explore-") as folder:
        notebook = write_page(given.folders, Path(folder))
        require_port(given.port)
        token = secrets.token_urlsafe(24)
        environment = os.environ | isolated()
        environment |= {name: folder for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_PATH", "IPYTHONDIR")}
        command = [sys.executable, "-P", "-m", "i2vae_lib.explorers.page", str(notebook), str(given.port)]
        command += ["--no-browser"] if given.no_browser else []
        # its standard input ends when this process does, however it does
        server = subprocess.Popen(
            command, cwd=folder, env=environment | {"I2VAE_PAGE_TOKEN": token}, stdin=subprocess.PIPE, process_group=0
        )
        try:
            return server.wait()
        except KeyboardInterrupt:  # as it was told
            return 0
        finally:
            with contextlib.suppress(psutil.Error):  # kernels have nothing to lose, and end with a traceback if told to
                for process in psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []:
                    process.kill()
            server.terminate()
            try:
                server.wait(5)  # it ends a kernel that it was just starting
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def show_cache(given: argparse.Namespace) -> int:
    from i2vae_lib import cache
    from i2vae_lib.runs import cache_folder

    released = [file.name for pair in REGISTRY.values() for file in (pair.train, pair.test)]
    found = cache.clear(released) if given.clear else cache.contents(released)
    total = sum(size for _, _, size in found)
    if given.json:
        kinds = [{"kind": kind, "entries": entries, "bytes": size} for kind, entries, size in found]
        print(json.dumps({"folder": str(cache_folder()), "cleared": given.clear, "kinds": kinds, "bytes": total}))
        return 0
    print(f"{cache_folder()}: {total / 2**20:,.1f} MiB{' cleared' if given.clear else ''}")
    if found:
        lines = [{"kind": kind, "entries": str(n), "MiB": f"{size / 2**20:,.1f}"} for kind, n, size in found]
        print(f"\n{listing.text(lines)}")
    return 0


def copy_notebooks(given: argparse.Namespace) -> int:
    import shutil

    if given.folder.exists() and not given.folder.is_dir():
        raise NotADirectoryError(f"{given.folder} is a file: name a folder for the notebooks")
    source = notebooks_folder()
    found = sorted(path.relative_to(source) for path in source.rglob("[!.]*") if path.is_file())
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    if there := [str(path) for path in found if (given.folder / path).exists()]:
        raise FileExistsError(f"{given.folder} has {', '.join(there[:3])} already: choose another folder")
    for path in found:
        (given.folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, given.folder / path)
    print(f"{len(found)} files in {given.folder}; open them with: jupyter lab {given.folder}")
    return 0


def fetch(given: argparse.Namespace) -> int:
    from i2vae_lib.data.released import locate

    if given.name == FOOD_KITCHEN:
        from i2vae_lib.data.logs.amazon import fetch_amazon2014

        print(fetch_amazon2014(given.out or Path("data")))
        return 0
    if given.name not in REGISTRY:
        raise ValueError(f"unknown pair '{given.name}'{suggestion(given.name, [*REGISTRY, FOOD_KITCHEN])}")
    if given.out is not None:
        raise ValueError(f"--out is of {FOOD_KITCHEN}; a released pair goes where I2VAE_DATA_DIR or the cache says")
    for file in (REGISTRY[given.name].train, REGISTRY[given.name].test):
        print(locate(file))
    return 0


def make_report(given: argparse.Namespace) -> int:
    from i2vae_lib import report

    print(report.write_report(given.run))
    return 0
