"""Cold rows in numbers: docs/results/cold_PAIR.csv.

    python tools/cold_study.py "COMMAND" FOLDER

FOLDER is one of ``i2vae table --protocol chronological``, made by COMMAND; its finished systems and the reference
rankers are ranked on the test users, each made cold in one domain (:mod:`i2vae_lib.results.cold_rows`).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import kept
import numpy as np

from i2vae_lib.experiments.tuning import read_study
from i2vae_lib.params import pair_name
from i2vae_lib.results.cold_rows import measured
from i2vae_lib.runs import environment, read_record


def main(command: str, folder: str) -> None:
    study = read_study(Path(folder))
    runs = study.runs()
    records = [read_record(run) for run in runs.values()]
    found = measured(runs, "i2vae", np.random.default_rng(0))
    about = kept.made_by(records, f"{command} && {shlex.join(['python', 'tools/cold_study.py', command, folder])}")
    about["dataset_sha256"] = records[0]["dataset_sha256"]
    about["revision"] = sorted({*about["revision"], environment()["git"]})
    kept.keep(f"cold_{pair_name(study.parameters['data'])}", found, about)


if __name__ == "__main__":
    main(*sys.argv[1:])
