"""The search: proposals are checked, trials see no test row, poor ones are pruned, and a stopped search goes on."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from i2vae_lib.experiments import search as search_module
from i2vae_lib.experiments.search import Between, Search, open_study, optuna, read_search, run, table
from i2vae_lib.params import ParameterError
from i2vae_lib.runs import LayoutError
from tests.helpers.sweeps import CONTENT
from tests.helpers.worlds import in_this_process

RATES: dict[str, Any] = {"training.learning_rate": [0.1, 1.0e-9]}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(space: Any, **names: Any) -> Path:
        content = {key: CONTENT[key] for key in ("preset", "epochs", "overrides")} | {"space": space} | names
        path = tmp_path / "space.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return written


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "connect", in_this_process)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"model.dd": [8]}, "unknown key 'model.dd'; did you mean 'model.d'?"),
        ({"model.d": []}, "model.d has no value"),
        ({}, "nothing to search"),
        ({"model.dropout": {"low": 0.1, "high": 1.5}}, "'model.dropout'"),
        ({"model.dropout": {"low": 0.5, "high": 0.1}}, "low must lie below high"),
        (
            {"model.dropout": {"low": 0.1, "high": 0.3, "step": 0.5}},
            "so 0.1 is the only value: a smaller step, or",
        ),
        ({"model.dropout": {"low": 0.1, "high": 0.3, "step": 0}}, "dropout.step: Input should be greater than 0"),
        ({"model.dropout": 0.1}, "dropout: Input should be a mapping with low, high, step, log or a list, found 0.1"),
        ({"model.dropout": {"low": 0.0, "high": 0.1, "log": True}}, "a log range has no step and begins above 0"),
        (
            {"model.dropout": {"low": 0.0, "high": 0.5, "step": 1e-300}},
            "model.dropout: from 0 to 0.5 by 1e-300 are more",
        ),
        ({"model.T": {"low": 10, "high": 30, "step": 0.5}}, "'model.T': Input should be a valid integer"),
        ({"model.T": {"low": 10.0, "high": 30.0}}, "'model.T': Input should be a valid integer"),
        ({"model.T": {"low": 1, "high": 10**400, "step": 1}}, "model.T.high: Input should be"),
        ({"model.T": {"low": True, "high": 30}}, "model.T.low: Input should be a valid integer or a valid number"),
        ({"model.dropout": {"low": 0, "high": "0.5"}}, "model.dropout.high: Input should be"),
        ({"model.d": [8, 8.0]}, "model.d: the value 8.0 stands twice"),
        ({"training.learning_rate": ["1e-3", 0.001]}, "learning_rate: the value 0.001 stands twice"),
        ({"psg.kind": ["random", "lightgnc"]}, "'psg.kind'"),
        ({"evaluation.negatives": [2, 99]}, "evaluation.negatives says which rows or candidates are ranked"),
        ({"split.data_seed": [0, 1]}, "split.data_seed says which rows or candidates are ranked"),
        ({"controls.density": {"low": 0.5, "high": 1.0}}, "controls.density says which rows or candidates are ranked"),
    ],
)
def test_wrong_space_is_refused(write: Any, space: Any, words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        read_search(write(space))
    assert words in str(caught.value) and "space.yaml" in str(caught.value)


@pytest.mark.parametrize("name", ["seed", "epochs"])
@pytest.mark.parametrize("value", [True, "1", 1.0])
def test_number_of_a_search_when_it_is_no_whole_one_is_refused(name: str, value: Any, write: Any) -> None:
    with pytest.raises(ParameterError, match=rf"space\.yaml: {name}: Input should be a valid integer, found {value!r}"):
        read_search(write({"model.d": [8, 12]}, **{name: value}))


def test_unknown_file_is_refused() -> None:
    with pytest.raises(ParameterError, match="did you mean 'tuned'"):
        read_search("tunedd")


def test_committed_space_holds_the_preset() -> None:
    found = read_search("tuned", {"data": "cloth_sport"})
    own = found.parameters({})
    assert own.preset == "tuned" and len(found.space) == 6
    assert search_module._holds(found.space["training.learning_rate"], own.training.learning_rate)
    assert search_module._holds(found.space["model.d"], own.model.d)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (Between(low=1, high=9), "IntDistribution(high=9, log=False, low=1, step=1)"),
        (Between(low=0.1, high=0.3, step=0.2), "FloatDistribution(high=0.3, log=False, low=0.1, step=0.2)"),
        (Between(low=0.1, high=0.9, step=0.2), "FloatDistribution(high=0.9, log=False, low=0.1, step=0.2)"),
        (Between(low=1e-4, high=1e-2, log=True), "FloatDistribution(high=0.01, log=True, low=0.0001, step=None)"),
        (["a", "b"], "CategoricalDistribution(choices=('a', 'b'))"),
    ],
)
def test_distributions(values: Any, expected: str) -> None:
    assert repr(search_module._distribution(optuna(), values)) == expected


@pytest.fixture
def finished(write: Any, tmp_path: Path) -> tuple[Search, Path]:
    search, out = read_search(write({"model.T": {"low": 5, "high": 10}}, epochs=2)), tmp_path / "out"
    run(search, out, trials=2, workers=1)
    return search, out


def test_trials_see_no_test_row_and_the_first_is_the_preset(finished: tuple[Search, Path]) -> None:
    search, out = finished
    found = table(out).set_index("trial")
    assert found["state"].tolist().count("complete") == 2
    assert found.at[0, "model.T"] == search.parameters({}).model.T
    assert (found["epochs"] == 2).all() and (found["seconds"] > 0).all()
    assert not list(out.glob("cells/*/metrics.json")) and not list(out.glob("cells/*/ranks.parquet"))
    best = [pd.read_parquet(path)["ndcg@10"].max() for path in out.glob("cells/*/history.parquet")]
    assert sorted(best) == sorted(found["value"].unique())


def test_search_goes_on_after_a_record_that_a_full_disk_cut_short(finished: tuple[Search, Path]) -> None:
    search, out = finished
    journal = out / "journal.log"
    whole = table(out)
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "work')
    assert run(search, out, trials=2, workers=1).equals(whole)
    assert run(search, out, trials=3, workers=1)["state"].tolist() == ["complete"] * 3


def full_disk_in_training(*words: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_search_goes_on_with_a_trial_that_a_full_disk_stopped(
    finished: tuple[Search, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    search, out = finished
    other = next(t for t in range(5, 11) if t not in {*table(out)["model.T"]})
    open_study(out).enqueue_trial({"model.T": other})
    with monkeypatch.context() as full:
        full.setattr(search_module.stages, "train", full_disk_in_training)
        assert run(search, out, trials=3, workers=1)["state"].tolist() == ["complete", "complete", "running"]
    assert run(search, out, trials=3, workers=1)["state"].tolist() == ["complete"] * 3


@pytest.mark.parametrize("harm", [b"garbage\n", b"\xff\xfe\n", b'{"op_code": 99}\n', b"[]\n"])
def test_search_whose_record_is_damaged_names_it(harm: bytes, finished: tuple[Search, Path]) -> None:
    search, out = finished
    journal, whole = out / "journal.log", table(out)
    journal.write_bytes(harm + journal.read_bytes())
    with pytest.raises(LayoutError, match=r"journal\.log is damaged .*: delete it: the cells of its trials stay"):
        run(search, out, trials=2, workers=1)
    journal.unlink()  # as it was told
    again = run(search, out, trials=2, workers=1)
    pd.testing.assert_series_equal(again["value"], whole["value"])


def test_search_takes_no_other_cells_run(finished: tuple[Search, Path]) -> None:
    search, out = finished
    one, other = sorted((out / "cells").iterdir())
    (out / "journal.log").unlink()
    shutil.copy(one / "run.json", other / "run.json")
    with pytest.raises(LayoutError, match=r"holds the run of another cell .*: delete it"):
        run(search, out, trials=2, workers=1)


def test_search_goes_on_where_it_stopped(finished: tuple[Search, Path]) -> None:
    search, out = finished
    before = table(out).set_index("trial").sort_index()
    study = open_study(out)
    study.enqueue_trial({"model.T": 7})
    study.ask({"model.T": search_module._distribution(optuna(), search.space["model.T"])})  # in flight at a kill
    said: list[str] = []
    after = run(search, out, trials=4, workers=1, say=said.append).set_index("trial").sort_index()
    pd.testing.assert_frame_equal(after.loc[:1], before, check_dtype=False)
    assert after["state"].tolist() == ["complete"] * 4 and after.at[2, "model.T"] == 7
    assert len(said) == 2 and said[0].startswith("trial 2 {'model.T': 7}: ") and "validation NDCG@10 0." in said[0]
    assert run(search, out, trials=4, workers=1).shape == after.reset_index().shape


def test_table_when_a_later_stage_ends_lower(tmp_path: Path) -> None:
    """A stage before the last may report more than what the system ends with, by which trials are compared."""
    study = open_study(tmp_path)
    for reports, value in (([0.06, 0.01], 0.02), ([0.03, 0.03], 0.08)):
        trial = study.ask()
        for step, one in enumerate(reports, start=1):
            trial.report(one, step)
        study.tell(trial, value)
    trial = study.ask()
    trial.report(0.05, 1)
    study.tell(trial, state=optuna().trial.TrialState.PRUNED)
    assert table(tmp_path)[["trial", "value"]].to_numpy().tolist() == [[1, 0.08], [2, 0.05], [0, 0.02]]


def test_stages_report_one_after_the_other(write: Any, tmp_path: Path) -> None:
    """Each counts its epochs from one; the pruner sees them all."""
    path = write({"model.d": [8]}, epochs=2, overrides=CONTENT["overrides"] | {"system": "savae"})
    found = run(read_search(path), tmp_path / "out", trials=1, workers=1)
    stages = pd.read_parquet(next((tmp_path / "out").glob("cells/*/history.parquet")))
    assert found["epochs"].tolist() == [len(stages)] == [4] and stages["stage"].nunique() == 2
    last = stages.loc[stages["stage"] == 2, "ndcg@10"].max()
    assert found["value"].tolist() == [pytest.approx(last)]


def test_space_when_epochs_are_given_twice(write: Any) -> None:
    with pytest.raises(ParameterError, match="are one parameter, and both are given"):
        read_search(write({"training.epochs": [2, 4]}))


def test_folder_of_another_space(finished: tuple[Search, Path], write: Any) -> None:
    with pytest.raises(LayoutError, match="holds a search with another space"):
        run(read_search(write(RATES, epochs=2)), finished[1], trials=3, workers=1)


def test_two_searches_in_one_folder(finished: tuple[Search, Path]) -> None:
    search, out = finished
    with search_module.FileLock(out / ".search.lock"), pytest.raises(LayoutError, match="another search works there"):
        run(search, out, trials=3, workers=1)


def test_poor_trials_are_pruned(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "START_UP", 1)
    monkeypatch.setattr(search_module, "WARM_UP", 0)
    found = run(read_search(write(RATES, epochs=4)), tmp_path / "out", trials=6, workers=1)
    pruned = found[found["state"] == "pruned"]
    # on this world the first epoch with the large rate stands below no training at all
    [first] = found.loc[found["trial"] == 0].itertuples()
    assert first.state == "complete" and first.epochs == 4
    assert len(pruned) and (pruned["training.learning_rate"] == 0.1).all() and (pruned["epochs"] < 4).all()
    assert (pruned["value"] < first.value).all()


def test_values_that_do_not_go_together_fail_and_the_rest_goes_on(write: Any, tmp_path: Path) -> None:
    space = {"model.d": [16, 12], "model.heads": [1, 8]}
    found = run(read_search(write(space)), tmp_path / "out", trials=8, workers=1)
    failed = found[found["state"] == "fail"]
    assert len(found) == 8 and 0 < len(failed) < 8
    assert ((failed["model.d"] == 12) & (failed["model.heads"] == 8)).all()
    assert failed["reason"].str.contains("heads do not divide").all()
