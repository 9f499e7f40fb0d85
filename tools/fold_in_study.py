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
from dataclasses import replace
from pathlib import Path
from typing import Any

import kept
import numpy as np
import pages
import pandas as pd

from i2vae_lib import evaluation
from i2vae_lib.data import DOMAINS, CrossDomainDataset
from i2vae_lib.evaluation import cutoff_of, row_values
from i2vae_lib.params import Parameters, load, pair_name
from i2vae_lib.recommenders import REGISTRY, SYSTEMS
from i2vae_lib.results.reading import METRICS
from i2vae_lib.results.significance import paired_bootstrap
from i2vae_lib.results.text import with_interval
from i2vae_lib.runs import LayoutError, read_record
from i2vae_lib.tuning import Study, read_study

KINDS = ("all", "tailed")  # a cold row's user has no vector in the target domain
FULL = load("paper").training.epochs


def measured(run: Path) -> pd.DataFrame:
    """A run's known users by domain and user type: ranked as themselves, ranked as newcomers, and the difference."""
    p = Parameters.model_validate(read_record(run)["parameters"])
    if p.protocol != "temporal":
        raise LayoutError(f"{run} is of {p.protocol}: only under temporal are evaluation users training users too")
    dataset = CrossDomainDataset.load(run / "dataset")
    system: Any = SYSTEMS[p.system].load(run / "model")
    train, rows = dataset.splits["train"], dataset.splits["test"]
    # a vector is known where the user took anything in training in the domain that the row asks for
    took = {d: (train.domain == i) | (train.history[d].lengths > 0) for i, d in enumerate(DOMAINS)}
    users = {d: set(train.user[took[d]]) for d in DOMAINS}
    known = np.array([user in users[DOMAINS[d]] for user, d in zip(rows.user, rows.domain)])
    rows = rows.take(np.flatnonzero(known & (rows.lengths("own") > 0)))
    newcomers = replace(rows, user=np.array([f"newcomer {user}" for user in rows.user], dtype=object))
    negatives = evaluation.sample_negatives(rows, p.evaluation.negatives, p.split.data_seed)
    cutoffs = [cutoff_of(name) for name in METRICS]
    size = p.evaluation.batch_size
    ranks = [evaluation.rank(system, one, negatives, full=False, batch_size=size) for one in (rows, newcomers)]
    values = [row_values(one, "sampled", cutoffs) for one in ranks]
    kinds = rows.kinds(dataset.tail["test"])
    cells = [(d, kind) for d in DOMAINS for kind in KINDS]
    chosen = np.stack([(rows.domain == DOMAINS.index(d)) & kinds[kind] for d, kind in cells], axis=1)
    found = paired_bootstrap(values[1], values[0], chosen, rng=np.random.default_rng(0), cluster=rows.user)
    lines = [
        {
            "system": system.name,
            "domain": dataset.catalogue.names[d],
            "kind": kind,
            "metric": metric,
            "n": int(found.n[i, k]),
            "trained": values[0][chosen[:, i], k].mean(),
            "folded_in": values[1][chosen[:, i], k].mean(),
            "difference": found.difference[i, k],
            "interval_low": found.low[i, k],
            "interval_high": found.high[i, k],
        }
        for i, (d, kind) in enumerate(cells)
        for k, metric in enumerate(METRICS)
    ]
    return pd.DataFrame(lines)


def markdown(found: pd.DataFrame) -> str:
    """The form of the pages: HR@10 of all rows, in per cent."""
    part = found[(found["metric"] == "HR@10") & (found["kind"] == "all")]
    lines = ["| system | domain | n | trained vector | folded in | difference |", "|---|---|---:|---:|---:|---|"]
    for one in part.itertuples():
        title, values = REGISTRY[one.system].title, f"{100 * one.trained:.2f} | {100 * one.folded_in:.2f}"
        lines.append(f"| {title} | {one.domain} | {one.n:,} | {values} | {with_interval(one)} |")
    return "\n".join(lines)


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
    about = {
        "command": " && ".join([*commands, f"python tools/fold_in_study.py {' '.join(places)}"]),
        **kept.made_by(records),
        "dataset_sha256": records[0]["dataset_sha256"],
        "seeds": sorted({study.tuning_seed for study in studies}),
        "hours": round(kept.hours(records), 3),
    }
    kept.keep(name, found, about)
    pages.rewrite(lambda page: fill(page, name, found))


if __name__ == "__main__":
    main(*sys.argv[1:])
