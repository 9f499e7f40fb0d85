"""The command ``i2vae``: run, recommend, audit, fetch, report."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from i2vae_lib import audit, experiments, report
from i2vae_lib.data import load_dataset
from i2vae_lib.data.dataset import DOMAINS, DataError
from i2vae_lib.data.released import REGISTRY, locate
from i2vae_lib.evaluation import NonFiniteScore
from i2vae_lib.params import ParameterError, load, suggestion
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.runs import LayoutError, read_record
from i2vae_lib.training import NonFiniteLoss

RUN_NOTEBOOKS = ("01_data_preparation", "02_pseudo_sequences", "03_training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 well, 1 a leak, 2 bad input)."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    try:
        return int(given.call(given))
    except (
        ParameterError,
        DataError,
        LayoutError,
        audit.Leak,
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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="i2vae", description="Research kit for i2VAE (UAI 2025).")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, call: Any, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(call=call)
        return one

    def parameters(one: argparse.ArgumentParser) -> None:
        one.add_argument("--data", help="synthetic, or a released pair: " + ", ".join(REGISTRY))
        one.add_argument("--protocol", help="released or strict")
        one.add_argument("--preset", default="demo", help="a file in params/, or a path (default: demo)")
        one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. model.d=64; repeatable")

    one = add("run", run, "Data, audit, pseudo-sequences, training, evaluation, report.")
    parameters(one)
    one.add_argument("--seed", type=int, help="initialisation, shuffling, sampling")
    one.add_argument("--epochs", type=int)
    one.add_argument("--out", help="run directory (default: runs/PRESET); an unfinished one is resumed")
    one.add_argument("--no-notebooks", action="store_true", help="leave the executed notebooks out")

    one = add("recommend", recommend, "Recommend from a finished run, in people's own ids.")
    one.add_argument("run", type=Path)
    one.add_argument("--history", nargs="*", default=[], metavar="DOMAIN=ID,ID", help="x=ID,ID y=ID (oldest first)")
    one.add_argument("--histories", type=Path, help="Parquet with columns x and y: a list of ids a user")
    one.add_argument("--domain", required=True, choices=DOMAINS, help="where to recommend")
    one.add_argument("--k", type=int, default=10)
    one.add_argument("--json", action="store_true")

    one = add("audit", audit_data, "The leak audit; exit status 1 on a leak.")
    parameters(one)
    one.add_argument("--json", action="store_true")

    one = add("fetch", fetch, "Download a released pair and check it.")
    one.add_argument("name")

    one = add("report", make_report, "Write report.html of a finished run anew.")
    one.add_argument("run", type=Path)
    return parser


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """``["model.d=64"]`` -> ``{"model.d": 64}``; values are read as YAML."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ParameterError(f"--set {pair}: expected KEY=VALUE, e.g. --set model.d=64")
        found[key] = yaml.safe_load(value)
    return found


def run(given: argparse.Namespace) -> int:
    start = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - start:6.1f} s] {line}", flush=True)

    chosen = overrides(given.set)
    resolved = load(
        given.preset,
        chosen,
        data=given.data,
        protocol=given.protocol,
        seed=given.seed,
        epochs=given.epochs,
        out=given.out,
    )
    here = experiments.open_run(resolved)
    experiments.run_all(here, say)
    if not given.no_notebooks:
        say("executing the notebooks on this run")
        names = {
            "preset": given.preset,
            "data": resolved.data,
            "protocol": resolved.protocol,
            "seed": resolved.seed,
            "epochs": resolved.training.epochs,
            "out": str(here.folder.resolve()),
            "overrides": chosen,
        }
        report.execute_notebooks(here.folder, names, RUN_NOTEBOOKS)
    path = report.write_report(here.folder)
    names = here.record["names"]
    stamp = " (NOT leak-free: protocol released)" if resolved.protocol == "released" else ""
    print(f"\nHR@10 in per cent, 1 + {resolved.evaluation.negatives} sampled candidates{stamp}")
    print(experiments.result_table(experiments.load_metrics(here.folder), names).to_string(index=False))
    print(f"\nreport: {path}")
    return 0


def recommend(given: argparse.Namespace) -> int:
    read_record(given.run)
    recommender = I2VAERecommender.load(given.run / "model")
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


def _histories(given: argparse.Namespace) -> dict[str, list[list[str]]]:
    if given.histories is not None:
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
    resolved = load(given.preset, overrides(given.set), data=given.data, protocol=given.protocol)
    if given.protocol is None and resolved.data in REGISTRY:
        # the question is what the published split holds, unless asked otherwise
        resolved = resolved.model_copy(update={"protocol": "released"})
    protocol = resolved.protocol
    found = audit.audit(load_dataset(resolved))
    leaks = found[(found["severity"] == "leak") & (found["count"] > 0)]
    if given.json:
        print(json.dumps({"protocol": protocol, "leaks": len(leaks), "checks": found.to_dict(orient="records")}))
    else:
        print(found.assign(share=(found["share"] * 100).round(2)).to_string(index=False))
        print(
            f"\n{resolved.data} under {protocol}: " + (f"{len(leaks)} checks found leaks" if len(leaks) else "no leak")
        )
    return 1 if len(leaks) else 0


def fetch(given: argparse.Namespace) -> int:
    if given.name not in REGISTRY:
        raise DataError(f"unknown pair '{given.name}'{suggestion(given.name, list(REGISTRY))}")
    for file in (REGISTRY[given.name].train, REGISTRY[given.name].test):
        print(locate(file))
    return 0


def make_report(given: argparse.Namespace) -> int:
    print(report.write_report(given.run))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
