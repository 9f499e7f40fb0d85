"""What ``i2vae table`` tried: every point of every system, its metric on validation rows, and its cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from i2vae_lib.experiments.tuning import Study, Trial, read_study
from i2vae_lib.runs import checked, read_record


def tried(folder: Path) -> pd.DataFrame:
    """The trials in a folder of ``i2vae table``, in the order of its points.

    Returns
    -------
    DataFrame
        ``system``; ``trial``, from 1; ``point``, its settings; ``validation``, NDCG@10 (nan if not finished);
        ``best_epoch`` and ``epochs``; ``seconds`` of training and validation; ``chosen``; ``reason``, if it failed.
    """
    return pd.DataFrame(_lines(read_study(folder)))


def _lines(study: Study) -> Iterator[dict[str, Any]]:
    for name in study.points:
        point = study.chosen(name)
        for number, trial in enumerate(study.tried(name), start=1):
            words = ", ".join(f"{key}={value}" for key, value in trial.point.items()) or "as the preset"
            line = {"system": name, "trial": number, "point": words, "validation": trial.value}
            yield line | _cost(trial) | {"chosen": trial.point == point, "reason": trial.reason or ""}


def _cost(trial: Trial) -> dict[str, Any]:
    if trial.value is None:
        return {"best_epoch": None, "epochs": None, "seconds": None}
    history = pd.read_parquet(checked(trial.folder, "history.parquet"))
    seconds = history[["seconds", "validation seconds"]].to_numpy().sum()
    return {"best_epoch": read_record(trial.folder)["best_epoch"], "epochs": len(history), "seconds": round(seconds, 1)}
