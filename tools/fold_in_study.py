"""What folding in costs the systems that learn a vector a user: docs/results/fold_in_PAIR.csv.

    python tools/fold_in_study.py FOLDER...

A FOLDER is one of ``i2vae table --protocol temporal``, under which training users have test rows. Those users' rows are
ranked twice: as they are, by the vectors that training gave their users, and with every user under an id that
training has not seen, so that the vectors are folded in, as an evaluation user's are under ``strict`` and
``chronological``. Nothing else differs. (A folded-in vector knows a row's whole history; a trained one the part of it
before the first cut.) Differences with intervals of the paired bootstrap over users; docs/reproduction.md shows them
after ``<!-- fold in: NAME -->``.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import kept
import pages
import pandas as pd

from i2vae_lib.experiments.tuning import Study, read_study
from i2vae_lib.params import load, pair_name
from i2vae_lib.recommenders import REGISTRY
from i2vae_lib.results.fold_in import measured
from i2vae_lib.results.text import with_interval
from i2vae_lib.runs import read_record

FULL = load("paper").training.epochs


def markdown(found: pd.DataFrame) -> str:
    """The form of the pages: HR@10 of all rows, in per cent."""
    part = found[(found["metric"] == "HR@10") & (found["kind"] == "all")]
    lines = []
    for one in part.itertuples():
        values = (f"{100 * value:.2f}" for value in (one.trained, one.folded_in))
        lines.append((REGISTRY[one.system].title, one.domain, f"{one.n:,}", *values, with_interval(one)))
    return pages.table(["system", "domain", "n", "trained vector", "folded in", "difference"], "llrrrl", lines)


def fill(page: str, name: str, found: pd.DataFrame) -> str:
    """A page with the table of that name written anew (unchanged if it has none)."""
    return pages.fill(page, f"fold in: {name}", markdown(found))


def runs_of(study: Study) -> list[Path]:
    """Those whose point validation has chosen."""
    chosen = {name: study.chosen(name) for name in study.systems}
    return [study.run_folder(name, point, study.tuning_seed) for name, point in chosen.items() if point is not None]


def command_of(study: Study, folder: str) -> str:
    """What makes the folder."""
    p, trials = study.parameters, len(next(iter(study.points.values())))
    words = ["i2vae", "table", "--data", p["data"], "--protocol", "temporal", "--preset", "paper", "--trials", trials]
    words += [] if p["training.epochs"] == FULL else ["--epochs", p["training.epochs"]]
    return shlex.join(map(str, [*words, "--systems", *study.systems, "--out", folder]))


def main(*folders: str) -> None:
    studies = [read_study(Path(folder)) for folder in folders]
    runs = [run for study in studies for run in runs_of(study)]
    records = [read_record(run) for run in runs]
    found = pd.concat([measured(run) for run in runs], ignore_index=True)
    name = f"fold_in_{pair_name(records[0]['parameters']['data'])}"
    places = [f"runs/fold-in-{number}" for number in range(1, len(studies) + 1)]
    commands = [command_of(study, place) for study, place in zip(studies, places)]
    command = " && ".join([*commands, f"python tools/fold_in_study.py {' '.join(places)}"])
    about = kept.made_by(records, command) | {"dataset_sha256": records[0]["dataset_sha256"]}
    kept.keep(name, found, about)
    pages.rewrite(lambda page: fill(page, name, found))


if __name__ == "__main__":
    main(*sys.argv[1:])
