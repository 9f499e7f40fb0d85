"""The recipe on a pair, and what each part of it is worth: docs/results/recipe_PAIR.csv and recipe_PAIR_rows.csv.

    python tools/recipe_study.py DATA PROTOCOL [--seeds 0 1 2] [--rows NAME …] [--workers 2] [--out FOLDER] [--finished]

Each cell is an ``i2vae run`` in a process of its own; finished ones are not run again, an interrupted one goes on, and
``--finished`` only writes the tables of what is there. The rows are those of ``params/sweeps/recipe.yaml``; without
``--rows`` the recipe alone is trained. ``recipe_PAIR.csv`` has the recipe beside the best reference of each cell,
``recipe_PAIR_rows.csv`` every row against the recipe, or the row that it is compared with, on the seeds of both.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from i2vae_lib import evaluation, lift, paper
from i2vae_lib.compare import compare
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.experiments import load_history
from i2vae_lib.inspection import CountsAlone
from i2vae_lib.params import Parameters, preset_folder
from i2vae_lib.runs import LayoutError, environment, read_record, write_atomically, write_json

RESULTS = Path(__file__).parent.parent / "docs" / "results"
PAGES = (RESULTS.parent.parent / "README.md", RESULTS.parent / "reproduction.md")
RECIPE = "tuned"


def read_rows() -> tuple[str, dict[str, dict[str, Any]], dict[str, str]]:
    """The preset, the overrides of every row by its name, and what a row is compared with if not with the recipe."""
    content = yaml.safe_load((preset_folder() / "sweeps" / "recipe.yaml").read_text(encoding="utf-8"))
    return content["preset"], {RECIPE: {}} | content["departures"] | content["claims"], content["against"]


def folder_of(out: Path, row: str, seed: int) -> Path:
    return out / f"{re.sub('[^a-z0-9]+', '-', row.lower()).strip('-')}-seed{seed}"


def run_cell(command: Sequence[str], folder: Path, threads: int) -> None:
    if (folder / "metrics.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run([sys.executable, "-m", "i2vae_lib.cli", *command], stdout=log, stderr=log, env=env)
    print(folder.name, "done" if done.returncode == 0 else f"FAILED: {folder / 'log.txt'}", flush=True)


def finished(out: Path, row: str) -> list[Path]:
    """Finished runs of a row, by seed."""
    found = [path.parent for path in out.glob(f"{folder_of(out, row, 0).name[:-1]}*/metrics.json")]
    return sorted(found, key=_seed)


def tables(
    out: Path, rows: Mapping[str, Any], bases: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The recipe against the references, every row against its base, and the mean lift."""
    done = {row: finished(out, row) for row in rows}
    if not done[RECIPE]:
        raise LayoutError(f"{out} holds no finished run of the recipe: nothing can be compared with it yet")
    rng = np.random.default_rng(0)
    against = lift.cells(compare(done[RECIPE], rng=rng))
    against = against.merge(_counts_alone(done[RECIPE][0]), on=["domain", "kind", "metric"])
    mean, low, high = lift.mean_lift(done[RECIPE], rng=rng)
    full, full_low, full_high = lift.mean_lift(done[RECIPE], candidates="full", rng=rng)
    about = {
        "mean_lift": {"mean": mean, "low": low, "high": high},
        "mean_lift_full": {"mean": full, "low": full_low, "high": full_high},
        "mean_of_lifts": float(against["lift"].mean()),
        "runs": {row: [_seed(one) for one in folders] for row, folders in done.items()},
        "missing": [row for row, folders in done.items() if not folders],
    }
    parts = []
    for row, folders in done.items():
        base = bases.get(row, RECIPE)
        if row != RECIPE and {_seed(one) for one in folders} & {_seed(one) for one in done[base]}:
            parts.append(_row(done[base], folders, rng).assign(row=row, against=base))
    columns = ["row", "against", "domain", "kind", "metric", "n", "seeds", "base", "mean", "sd", "difference"]
    columns += ["interval_low", "interval_high", "p", "p_holm"]
    return against, pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns), about


def _counts_alone(run: Path) -> pd.DataFrame:
    """The generator's counts as a ranker on the test rows: what the model has to add to."""
    dataset = CrossDomainDataset.load(run / "dataset")
    p = Parameters.model_validate(read_record(run)["parameters"])
    rows = dataset.splits["test"]
    negatives = evaluation.sample_negatives(rows, p.evaluation.negatives, p.split.data_seed)
    scorer = CountsAlone(dataset.splits["train"], p.psg)
    ranks = evaluation.rank(scorer, rows, negatives, full=True, batch_size=p.evaluation.batch_size)
    seen = evaluation.seen_targets(rows, dataset.splits["train"])
    table = evaluation.rank_table(scorer.name, rows, dataset.tail["test"], seen, ranks)
    found = evaluation.tidy(evaluation.metrics(table), dict(dataset.catalogue.names))
    found = found[found["candidates"] == "sampled"].rename(columns={"value": "counts_alone"})
    return found[["domain", "kind", "metric", "counts_alone"]]


def markdown(found: Mapping[str, pd.DataFrame]) -> str:
    """README's form: HR@10 of each pair's cells, sampled, in per cent."""
    lines = [
        "| pair | domain | rows | n | i2vae, tuned | its counts alone | best reference | lift |",
        "|---|---|---|---:|---:|---:|---|---:|",
    ]
    for pair, table in found.items():
        for cell in table[table["metric"] == "HR@10"].itertuples():
            spread = "" if np.isnan(cell.sd) else f" ± {100 * cell.sd:.2f}"
            lines.append(
                f"| {pair} | {cell.domain} | {cell.kind} | {cell.n:,} | {100 * cell.system:.2f}{spread} | "
                f"{100 * cell.counts_alone:.2f} | "
                f"{100 * cell.reference:.2f} ({cell.best}) | {100 * cell.lift:+.0f} % |"
            )
    return "\n".join(lines)


def beside_paper(found: Mapping[str, pd.DataFrame]) -> str:
    """The reproduction table: data, rows, metric, ours, the paper's figure for i2VAE (Table 5), hours."""
    printed = paper.tables()
    printed = printed[(printed["table"] == "5") & (printed["system"] == "i2VAE")]
    keys = ["pair", "domain", "kind", "metric"]
    lines = [
        "| data | domain | rows | metric | ours, strict | seeds | paper | hours |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for pair, table in found.items():
        joined = table.assign(pair=pair).merge(printed[[*keys, "mean"]], on=keys)  # cold rows are others there
        hours = json.loads((RESULTS / f"recipe_{pair}.json").read_text(encoding="utf-8"))["hours"]
        for cell in joined.itertuples():
            ours = f"{100 * cell.system:.2f} ± {100 * cell.sd:.2f}"
            head = f"| {pair} | {cell.domain} | {cell.kind} | {cell.metric} | {ours} | {cell.seeds} |"
            lines.append(f"{head} {cell.mean:.2f} | {hours:.2f} |")
    return "\n".join(lines)


def fill(text: str) -> str:
    """README or docs/reproduction.md with the tables of the recipe written anew from the committed results."""
    paths = [path for path in sorted(RESULTS.glob("recipe_*.csv")) if not path.stem.endswith("_rows")]
    found = {path.stem.removeprefix("recipe_"): pd.read_csv(path) for path in paths}
    for name, table in (("recipe", markdown(found)), ("reproduction", beside_paper(found))):
        pattern = rf"(<!-- {name} -->\n).*?(\n\n)"
        text = re.sub(pattern, lambda part, table=table: part[1] + table + part[2], text, flags=re.DOTALL)
    return text


def _row(base: Sequence[Path], folders: Sequence[Path], rng: np.random.Generator) -> pd.DataFrame:
    """A row against its base, cell by cell, on the seeds that both have."""
    seeds = {_seed(one) for one in base} & {_seed(one) for one in folders}
    found = compare([one for one in [*base, *folders] if _seed(one) in seeds], rng=rng)
    base_name, name = found.systems["system"][:2]
    part = found.tests[found.tests["system"] == name].set_index(["domain", "kind", "metric"])
    results = found.results[found.results["candidates"] == "sampled"]
    means = results.pivot_table(index=["domain", "kind", "metric"], columns="system", values="mean", sort=False)
    spread = results[results["system"] == name].set_index(["domain", "kind", "metric"])["sd"]
    part = part.assign(base=means[base_name], mean=means[name], sd=spread, seeds=len(seeds)).reset_index()
    return part[part["kind"].isin(lift.KINDS)]


def _seed(run: Path) -> int:
    return int(read_record(run)["parameters"]["seed"])


def main(words: list[str]) -> None:
    preset, rows, bases = read_rows()
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("protocol")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="*", default=[RECIPE], choices=list(rows))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--finished", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(words)
    pair = Path(given.data).stem
    out = given.out or Path("runs") / f"recipe-{pair}"
    cells: list[Future[None]] = []
    if not given.finished:
        with ThreadPoolExecutor(given.workers) as pool:
            for seed in given.seeds:
                for row in given.rows:
                    folder = folder_of(out, row, seed)
                    sets = [word for key, value in rows[row].items() for word in ("--set", f"{key}={value}")]
                    command = ["run", "--preset", preset, "--data", given.data, "--protocol", given.protocol]
                    command += ["--seed", str(seed), "--out", str(folder), "--no-notebooks", "--no-report", *sets]
                    cells.append(pool.submit(run_cell, command, folder, max(1, (os.cpu_count() or 1) // given.workers)))
            for cell in cells:
                cell.result()
    against, each, about = tables(out, rows, bases)
    records = [read_record(path.parent) for path in sorted(out.glob("*/metrics.json"))]
    histories = [load_history(folder) for folder in finished(out, RECIPE)]
    first = records[0]
    asked = ["python", "tools/recipe_study.py", given.data, given.protocol]
    asked += ["--seeds", *(str(seed) for seed in about["runs"][RECIPE])]
    others = [row for row in rows if row not in about["missing"] and row != RECIPE]
    asked += ["--rows", RECIPE, *others] if others else []
    head = {
        "command": shlex.join(asked),
        "revision": sorted({one["environment"]["git"] for one in records}),
        "data_sha256": first["source_sha256"],
        "dataset_sha256": first["dataset_sha256"],
        "protocol": first["protocol"],
        "hours": round(sum(stage["seconds"] for one in records for stage in one["stages"].values()) / 3600, 3),
        "epochs": [len(one) for one in histories],
        "seconds_of_training": [round(float(one[["seconds", "validation seconds"]].sum().sum())) for one in histories],
        "references": first["references"],
        "environment": environment(),
    }
    for name, table in ((f"recipe_{pair}", against), (f"recipe_{pair}_rows", each)):
        if table.empty:
            continue
        path = RESULTS / f"{name}.csv"
        write_atomically(path, lambda part, table=table: table.round(6).to_csv(part, index=False))
        write_json(path.with_suffix(".json"), head | {"seeds": about["runs"][RECIPE]} | about)
    for page in PAGES:
        filled = fill(page.read_text(encoding="utf-8"))
        write_atomically(page, lambda part, filled=filled: part.write_text(filled, encoding="utf-8"))
    print(against.round(4).to_string(index=False))
    print({key: about[key] for key in ("mean_lift", "mean_lift_full", "missing")})


if __name__ == "__main__":
    main(sys.argv[1:])
