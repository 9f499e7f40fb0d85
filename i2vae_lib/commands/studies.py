"""What the commands do that make or compare many runs; imported when one is called, as :mod:`.actions`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2vae_lib.commands.actions import named, overrides
from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.experiments import grids, search, sweeps, workers
from i2vae_lib.experiments import tuning as tuned
from i2vae_lib.experiments.grids import Cell
from i2vae_lib.params import load, pair_name
from i2vae_lib.processes import usable_cores
from i2vae_lib.recommenders.registry import SYSTEMS
from i2vae_lib.results import paper_tables
from i2vae_lib.results.differences import compare
from i2vae_lib.results.text import as_csv, rendered
from i2vae_lib.runs import default_folder, write_atomically


def make_table(given: argparse.Namespace) -> int:
    tuning = tuned.read_tuning(given.tuning)
    chosen = overrides(given.set)
    if "system" in chosen:
        raise ValueError(f"--set system: here it is --systems {chosen['system']}")
    for key in chosen:
        names = [name for name, listed in tuning.points.items() if any(key in point for point in listed)]
        if key in tuning.shared or names:
            raise ValueError(f"--set {key}: the tuning file sets it (for {', '.join(names) or 'all systems'})")
    resolved = load(given.preset, chosen, seed=given.seeds[0], **named(given, "data", "protocol", "epochs"))
    name = f"table-{pair_name(resolved.data)}-{resolved.protocol}-{resolved.preset}"
    folder = given.out or default_folder(resolved).with_name(name)
    study = tuned.open_study(
        folder, resolved, tuning, systems=given.systems or list(SYSTEMS), seeds=given.seeds, trials=given.trials
    )
    # beside the table, which may be read by a program
    tuned.run_study(study, workers=given.workers, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(_table_as([folder], given))
    return 1 if any(tuned.failures(study, name) for name in study.systems) else 0


def asked_of_sweep(given: argparse.Namespace) -> dict[str, Any]:
    """What a call says in place of the sweep's file."""
    return named(given, "preset", "data", "protocol", "epochs", "seeds") | {"overrides": overrides(given.set)}


def sweep(given: argparse.Namespace) -> int:
    from i2vae_lib.figures import plots, sweep_figures

    found = grids.read_sweep(given.file, asked_of_sweep(given))
    out = given.out or grids.cells_folder(found)
    planned = sweeps.plan(found, out)
    # of a cluster nobody knows yet how many workers it has: what one of them would take
    workers = given.workers or (1 if given.scheduler else usable_cores())
    print(sweeps.plan_by_seeds(planned).to_string(index=False))
    costs = sweeps.costs(found, planned, _probe if given.dry_run else None)
    if given.dry_run:
        print(f"\na cell of each kind:\n{costs.round({'seconds': 1, 'GiB': 1}).to_string(index=False)}\n")
    print(f"{sweeps.estimate(costs, workers)}; cells: {out}", flush=True)
    if given.dry_run:
        return 0
    words = named(given, "scheduler", "dashboard", "retry_failed")
    table = sweeps.run(found, out, workers=workers, say=lambda line: print(line, flush=True), **words)
    write_atomically(out / f"{found.name}.csv", lambda part: as_csv(table, part))
    print("\nHR@10 in per cent, sampled candidates, mean over seeds")
    print(rendered(sweeps.by_place(table, found.axes()), given.format))
    written = plots.write_figures(sweep_figures.sweep_figures(found, table, out), out / "figures")
    print(f"\nevery figure: {out / f'{found.name}.csv'}; drawn: {out / 'figures'} ({len(written)} files)")
    return 1 if (table["state"] != "done").any() else 0


def search_for(given: argparse.Namespace) -> int:
    found = search.read_search(given.file, named(given, "preset", "data", "protocol", "seed", "epochs"))
    out = given.out or default_folder(found.parameters({})).with_name(f"search-{Path(given.file).stem}")
    words = named(given, "trials", "workers", "scheduler")
    table = search.run(found, out, say=lambda line: print(line, flush=True), **words)
    shown = table.round({"value": 4, "seconds": 1})  # not the points, which somebody may want to copy
    print(f"\n{shown.to_string(index=False)}\n\ntrials: {out}")
    return 0


def _probe(cell: Cell) -> tuple[float, int]:
    """In a worker like those of the sweep, whose peak memory is its own."""
    with workers.connect(1) as one:
        found: tuple[float, int] = one.submit(sweeps.probe_cell, cell).result()
    print(f"probe of {cell.parameters.system} on {cell.parameters.data}: {found[0]:.0f} s a cell at most", flush=True)
    return found


def _table_as(folders: Sequence[Path], given: argparse.Namespace) -> str:
    found = paper_tables.paper_table(folders, resamples=given.resamples, rng=np.random.default_rng(0))
    # `table` names the systems to run: what the references and other calls have made stands in its table as well
    found = found.filtered(given.systems if given.command == "compare" else None, given.kinds or HEADLINE)
    if given.json:
        return json.dumps(found.to_json())
    return found.written(given.format)


def compare_runs(given: argparse.Namespace) -> int:
    of_the_other = ("candidates", "base", "all") if given.table else ("systems", "kinds")
    for name in of_the_other:
        if getattr(given, name):
            raise ValueError(f"--{name} is {'not for' if given.table else 'of'} --table: see i2vae compare --help")
    if given.table is not None:
        print(_table_as(given.runs, given))
        return 0
    found = compare(
        given.runs,
        candidates=given.candidates or "sampled",
        base=given.base,
        resamples=given.resamples,
        rng=np.random.default_rng(0),
    )
    if given.json:
        print(json.dumps(found.to_json()))
        return 0
    print(found.everything(given.format) if given.all else found.text(given.format))
    if given.format == "text" and not given.all:
        print("\nEvery kind of row, metric and cell: the same command with --all.")
    return 0
