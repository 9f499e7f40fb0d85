"""What the commands do that are about one run. :mod:`i2vae_lib.commands.table` imports this module when one is called.

Words that do not go together are a ValueError; ``cli`` answers it like the kit's own errors.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from i2vae_lib import export, notebooks, report, stages
from i2vae_lib.api import I2VAE, Asked
from i2vae_lib.audit import fitted
from i2vae_lib.audit import leaks as audit
from i2vae_lib.data.histories import read_users
from i2vae_lib.data.loading import load_dataset
from i2vae_lib.data.protocols import order_note
from i2vae_lib.data.registry import REGISTRY
from i2vae_lib.data.rows import DOMAINS
from i2vae_lib.labels import labelled
from i2vae_lib.params import joined, load
from i2vae_lib.places import shortened
from i2vae_lib.processes import is_follower, launched, together
from i2vae_lib.results import lift
from i2vae_lib.results.differences import compare
from i2vae_lib.results.escaping import escaped
from i2vae_lib.results.text import rendered
from i2vae_lib.runs import Run, check_outside_runs, read_record, stamp, write_atomically
from i2vae_lib.stages import check_system
from i2vae_lib.yaml_files import parse

RUN_NOTEBOOKS = ("03_training",)  # seconds; the other lessons are executed on a run by papermill


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
    return joined(overrides(given.set), {} if given.system is None else {"system": given.system}, "--set and --system")


def named(given: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options by their names, for a function that takes them."""
    return {name: getattr(given, name) for name in names}


def run(given: argparse.Namespace, say: Callable[[str], None]) -> int:
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
    with here.stage("report"):
        return report.write_report(here.folder)


def _result_of(here: Run) -> str:
    """The table of a finished run, how sure it is, and what a reader should know beside it."""
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
    if not given.history:
        return kit.asked(given.user or read_users(given.users), None, given.unknown)
    histories: dict[str, list[list[str]]] = {d: [[]] for d in DOMAINS}
    for pair in given.history:
        name, equals, ids = pair.partition("=")
        if not equals:
            raise ValueError(f"--history {pair}: expected DOMAIN=ID,ID")
        d = kit.catalogue.key(name)
        if split := [one for one in map(str, kit.catalogue.ids[d]) if "," in one and f",{one}," in f",{ids},"]:
            raise ValueError(
                f"--history {pair}: the id {split[0]!r} holds a comma, which separates ids here: give --histories a "
                f"Parquet file with a column a domain, lists of ids"
            )
        histories[d][0] += [one for one in ids.split(",") if one]
    return kit.asked(None, histories, given.unknown)


def _write_tables(tables: Iterator[pd.DataFrame], path: Path) -> None:
    """Tables one after another as a Parquet file."""

    def write(part: Path) -> None:
        first = pa.Table.from_pandas(next(tables), preserve_index=False)
        with pq.ParquetWriter(part, first.schema) as file:
            file.write_table(first)
            for table in tables:
                file.write_table(pa.Table.from_pandas(table, first.schema, preserve_index=False))

    write_atomically(path, write)


def audit_data(given: argparse.Namespace) -> int:
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
    trained, dataset = stages.load_system(folder), stages.load_data(folder)
    if stages.uses_generator(trained.params):
        found = audit.audit(dataset, pseudo=stages.load_pseudo(folder), generator=trained.generator)
    else:
        found = audit.audit(dataset)
    found = pd.concat([found, fitted.audit_counts(dataset, trained.popularity)], ignore_index=True)
    # what training began with and the reference rankers are not kept: what the run itself saw of them
    seen = pd.DataFrame(read_record(folder)["audit"])
    return str(folder), dataset.protocol, pd.concat([found, seen[~seen["check"].isin(found["check"])]])


def export_out(given: argparse.Namespace) -> int:
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


def make_report(given: argparse.Namespace) -> int:
    print(report.write_report(given.run))
    return 0
