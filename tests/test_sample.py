"""The run that the package carries: small, nothing that executes, and something to show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from i2vae_lib import I2VAE, sample_run
from i2vae_lib.explorers import widgets
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.results.recipe import against_references
from i2vae_lib.runs import checked, read_record, write_record
from i2vae_lib.sample import SAMPLE
from i2vae_lib.stages import load_history, load_metrics


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("I2VAE_RUNS_DIR", str(tmp_path / "runs"))
    return sample_run()


def test_sample_is_small_and_holds_nothing_that_executes() -> None:
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 2_000_000
    assert {path.suffix for path in files} == {".json", ".parquet", ".safetensors"}


def test_sample_run_when_it_was_changed_or_is_older_is_put_back(run: Path) -> None:
    assert sample_run() == run and run.name == "sample"
    (run / "note.txt").write_text("mine")
    assert sample_run() == run and (run / "note.txt").is_file()  # what is there stays
    record = read_record(run)
    write_record(run, record | {"layout": 0})
    sample_run()
    assert read_record(run) == record and not (run / "note.txt").exists()


def test_sample_run_has_something_to_show(run: Path) -> None:
    for name in ("dataset", "model", "history.parquet", "ranks.parquet", "metrics.json"):
        assert checked(run, name).exists()
    metrics, names = load_metrics(run), read_record(run)["names"]
    for domain in names:
        hits = {name: metrics[name][domain]["all"]["sampled"]["HR@10"] for name in metrics}
        assert hits["popularity"] * 1.5 < hits["i2vae"] < hits["informed"]
    history = load_history(run)
    assert len(history) >= 5 and 1 < read_record(run)["best_epoch"] <= len(history)
    found = against_references([run], rng=np.random.default_rng(0))
    assert set(found["kind"]) == {"all", "tailed", "cold"} and found["counts_alone"].between(0, 1).all()


def test_sample_run_when_it_is_explored_and_asked(run: Path) -> None:
    user = widgets.of_user(run)
    assert len(user.figure.data) == 2 and len(user.tables) == 4
    model = I2VAERecommender.load(run / "model")
    [(items, scores)] = model.recommend({"y": [[str(model.catalogue.ids["y"][3])]]}, "x", 5)
    assert len(items) == len(scores) == 5


def test_sample_run_when_parameters_are_added(run: Path) -> None:
    """A new parameter needs the run made anew (tools/make_sample_run.py): notebooks read its parameters."""
    assert Parameters.model_validate(read_record(run)["parameters"]).system == "i2vae"


def test_sample_run_opens_as_a_kit(run: Path) -> None:
    """Also when parameters have come since it was made."""
    assert len(I2VAE.load(run).recommend(users=["u5"], domain="North", k=3, unknown="drop").columns) == 4
