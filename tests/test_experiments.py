"""The sweep engine: what is done is not done again, what fails is recorded, and nothing is lost to a kill."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from distributed import Client, LocalCluster
from scipy import stats

from i2vae_lib import cli, stages
from i2vae_lib.data import load_dataset_once
from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.experiments import engine, sweeps, workers
from i2vae_lib.experiments.engine import Work, cell_folder
from i2vae_lib.experiments.grids import Sweep, address_of, resolve
from i2vae_lib.experiments.sweeps import costs, estimate, over_seeds, plan, results, run, state_of
from i2vae_lib.experiments.workers import SchedulerError, WorkerDied, connect
from i2vae_lib.figures import plots, sweep_figures
from i2vae_lib.lazy import MissingLibrary
from i2vae_lib.results.differences import compare
from i2vae_lib.results.effects import effects
from i2vae_lib.results.significance import holm
from i2vae_lib.runs import RUN_LAYOUT, LayoutError, write_record
from i2vae_lib.training import history_of
from tests.helpers.disks import full_disk
from tests.helpers.sweeps import CONTENT
from tests.helpers.worlds import LONG, in_this_process


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return resolve("tiny", CONTENT)


@pytest.fixture(scope="module")
def done(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all six cells, made by two workers. Do not change it."""
    out = tmp_path_factory.mktemp("sweep")
    said: list[str] = []
    run(sweep, out, workers=2, say=said.append)
    assert len(said) == 6 and not any("FAILED" in line for line in said)
    return out


def made_here(sweep: Sweep, out: Path, count: int) -> None:
    for cell in sweep.cells[:count]:
        sweeps.make_run(cell.parameters, cell_folder(out, cell.address))


def stamps(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in sorted(out.glob("cells/*/metrics.json"))}


def trainings(out: Path) -> dict[str, int]:
    """How often each cell was run to its evaluation."""
    logs = sorted(out.glob("cells/*/log.txt"))
    return {log.parent.name: log.read_text(encoding="utf-8").count("] evaluating on the test rows") for log in logs}


# --- a finished sweep -------------------------------------------------------------------------------------------------


def test_cells_are_run_directories(sweep: Sweep, done: Path) -> None:
    assert sorted(path.name for path in (done / "cells").iterdir()) == sorted(cell.address for cell in sweep.cells)
    for cell in sweep.cells:
        names = {path.name for path in cell_folder(done, cell.address).iterdir()}
        assert {"run.json", "metrics.json", "ranks.parquet", "history.parquet", "model", "dataset"} <= names


def test_cell_in_a_worker_is_the_run_of_a_process_of_its_own(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    made_here(sweep, tmp_path, 1)
    cell = sweep.cells[0].address
    here, there = (json.loads((cell_folder(out, cell) / "metrics.json").read_text()) for out in (tmp_path, done))
    assert here == there


def test_plan_of_a_finished_sweep(sweep: Sweep, done: Path) -> None:
    found = plan(sweep, done)
    assert found["state"].tolist() == ["done"] * 6
    assert found["cell"].tolist()[:2] == ["claims, full; T, model.T = 10"] * 2
    assert found["cell"].tolist()[2:] == ["claims, none"] * 2 + ["T, model.T = 5"] * 2
    assert (found["seconds"] > 0).all() and (found["peak_memory_bytes"] > 2**27).all()


def test_run_again_when_all_is_done(sweep: Sweep, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "connect", lambda *words: pytest.fail("a cluster for nothing"))
    before = stamps(done)
    table = run(sweep, done)
    assert stamps(done) == before and set(table["state"]) == {"done"}


def test_tidy_table(sweep: Sweep, done: Path) -> None:
    table = results(sweep, done)
    assert list(table.columns[:6]) == ["grid", "row", "model.T", "seed", "state", "recommender"]
    own = table[(table["recommender"] == "i2vae") & (table["metric"] == "HR@10") & (table["kind"] == "all")]
    assert len(own) == 8 * 2 * 2  # places, domains, sampled and full
    metrics = json.loads((cell_folder(done, sweep.cells[0].address) / "metrics.json").read_text())
    first = own[(own["grid"] == "claims") & (own["row"] == "full") & (own["seed"] == 0)]
    value = first.loc[(first["domain"] == "North") & (first["candidates"] == "sampled"), "value"].item()
    assert value == metrics["i2vae"]["x"]["all"]["sampled"]["HR@10"]


def test_over_seeds_is_the_t_interval(sweep: Sweep, done: Path) -> None:
    table = results(sweep, done)
    found = over_seeds(table, sweep.axes())
    keys = {"grid": "T", "model.T": 5, "recommender": "i2vae", "domain": "South", "kind": "all", "metric": "NDCG@10"}
    keys |= {"candidates": "sampled"}
    values = table.loc[np.logical_and.reduce([table[key] == value for key, value in keys.items()]), "value"]
    one = found.loc[np.logical_and.reduce([found[key] == value for key, value in keys.items()])].iloc[0]
    low, high = stats.t.interval(0.95, 1, loc=values.mean(), scale=stats.sem(values))
    assert one["seeds"] == len(values) == 2
    np.testing.assert_allclose([one["mean"], one["sd"]], [values.mean(), values.std(ddof=1)], rtol=1e-12)
    np.testing.assert_allclose([one["low"], one["high"]], [low, high], rtol=1e-9)
    one_seed = over_seeds(table[table["seed"] == 0], sweep.axes())
    assert set(one_seed["seeds"]) == {1} and one_seed[["low", "high"]].isna().all().all()


def test_effects_are_those_of_compare(sweep: Sweep, done: Path) -> None:
    found = effects(sweep, done, resamples=200, rng=np.random.default_rng(0))
    assert set(found["row"]) == {"none"} and set(found["against"]) == {"full"} and set(found["seeds"]) == {2}
    folders = [cell_folder(done, cell.address) for cell in sweep.cells[:4]]
    other = compare(folders, resamples=200, rng=np.random.default_rng(0))
    tests = other.tests[other.tests["system"] == other.systems["system"][1]].reset_index()
    tests = tests[tests["kind"].isin(HEADLINE)]
    assert len(found) == 2 * 3 * 2  # domains, user types, metrics
    np.testing.assert_allclose(found["p_holm"], holm(tests["p"].to_numpy()))  # over the cells that are shown
    np.testing.assert_array_equal(found["difference"], tests["difference"])
    np.testing.assert_allclose(found["difference"], found["mean"] - found["base"], atol=1e-12)


def test_effects_when_a_question_stands_in_two_grids_ask_it_once(sweep: Sweep, done: Path) -> None:
    rows = {"full": {}, "none": {"psg.kind": "none"}}
    grids = {
        "claims": {"rows": rows | {"short": {"model.T": 5}}, "base": "full"},
        "again": {"rows": rows, "base": "full"},
    }
    found = effects(resolve("twice", CONTENT | {"grids": grids}), done, resamples=200, rng=np.random.default_rng(0))
    assert found.groupby(["grid", "row"]).size().to_dict() == {
        ("again", "none"): 12,
        ("claims", "none"): 12,
        ("claims", "short"): 12,
    }
    first = found[found["grid"] == "claims"]
    np.testing.assert_allclose(first["p_holm"], holm(first["p"].to_numpy()))  # one family of 24 cells
    again = found[found["grid"] == "again"].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        again.drop(columns="grid"), first[first["row"] == "none"].reset_index(drop=True).drop(columns="grid")
    )


def test_row_that_is_its_base(sweep: Sweep, done: Path) -> None:
    content = CONTENT | {"grids": {"g": {"rows": {"full": {}, "same": {"psg.kind": "random"}}, "base": "full"}}}
    assert effects(resolve("same", content), done, rng=np.random.default_rng(0)).empty


def test_command_prints_the_plan_and_the_table(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "connect", in_this_process)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONTENT, sort_keys=False), encoding="utf-8")
    assert cli.main(["sweep", str(path), "--out", str(done), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "6 cells, all done" in printed and "claims, full; T, model.T = 10" in printed
    assert cli.main(["sweep", str(path), "--out", str(done)]) == 0
    printed = capsys.readouterr().out
    assert "HR@10 in per cent" in printed and "North cold" in printed
    claims = {f"claims{kind}{metric}" for kind in ("", "-tailed", "-cold") for metric in ("", "-ndcg-10")}
    assert {path.stem for path in (done / "figures").glob("*.html")} == claims | {"t"}
    tailed = pd.read_csv(done / "figures" / "claims-tailed-ndcg-10.csv")
    assert set(tailed["kind"]) == {"tailed"} and set(tailed["metric"]) == {"NDCG@10"}
    assert tailed["runs"].str.fullmatch(r"cells/[0-9a-f]{16} cells/[0-9a-f]{16}").all()  # two seeds
    drawn = pd.read_csv(done / "figures" / "t.csv")
    assert set(drawn["model.T"]) == {5, 10} and set(drawn["recommender"]) == {"i2vae"}
    assert set(pd.read_csv(done / "figures" / "claims.csv")["row"]) == {"none"}
    assert len(pd.read_csv(done / "tiny.csv")) == len(results(resolve("tiny", CONTENT), done))
    assert cli.main(["sweep", str(path), "--out", str(tmp_path / "none"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "6 cells, 0 done, 6 left: about" in printed and printed.count("s a cell at most") == 1  # one kind of cell
    assert not (tmp_path / "none").exists()  # a plan makes nothing
    assert cli.main(["sweep", str(path), "--set", "model.d=-1"]) == 2
    assert "cell 1 of 8 (grid claims, full, seed 0): 'model.d'" in capsys.readouterr().err


# --- cells that are missing, damaged, failed --------------------------------------------------------------------------


def test_missing_cells_stand_in_the_table(sweep: Sweep, tmp_path: Path) -> None:
    made_here(sweep, tmp_path, 1)
    table = results(sweep, tmp_path)
    assert (table["state"] == "missing").sum() == 6 and table.loc[table["state"] == "missing", "value"].isna().all()
    read = sweeps.by_place(table, sweep.axes())
    assert read["seeds"].tolist() == [1, 0, 0, 1]
    over = over_seeds(table, sweep.axes())
    assert over[["grid", "row"]].drop_duplicates().fillna("").to_numpy().tolist() == [
        ["claims", "full"],
        ["claims", "none"],
        ["T", ""],
    ]
    assert over.loc[over["seeds"] == 0, "row"].tolist() == ["none", ""]


@pytest.mark.parametrize("damage", ["metrics.json", "run.json", "ranks.parquet"])
def test_damaged_cell_is_run_again_and_said(
    sweep: Sweep, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_here(sweep, tmp_path, 1)
    cell = sweep.cells[0]
    (cell_folder(tmp_path, cell.address) / damage).write_bytes(b"{half")
    one = Sweep("one", (cell,))
    assert plan(one, tmp_path)["state"].tolist() == ["damaged"]
    said: list[str] = []
    monkeypatch.setattr(sweeps, "connect", in_this_process)
    table = run(one, tmp_path, say=said.append)
    assert said[0] == f"{cell.address} (claims, full; T, model.T = 10): damaged; set aside and run again"
    assert set(table["state"]) == {"done"}
    assert (cell_folder(tmp_path, f"{cell.address}.damaged")).is_dir()


@pytest.mark.parametrize("name", ["last.ckpt", "pseudo.parquet", "history.parquet", "model", "dataset"])
def test_begun_cell_with_a_file_cut_short_is_damaged(name: str, sweep: Sweep, done: Path, tmp_path: Path) -> None:
    cell = sweep.cells[0]
    folder = cell_folder(tmp_path, cell.address)
    shutil.copytree(cell_folder(done, cell.address), folder)
    (folder / "metrics.json").unlink()
    assert state_of(cell, tmp_path) == "begun"
    path = folder / name
    path = next(iter(sorted([*path.rglob("*.safetensors"), *path.rglob("*.parquet")]))) if path.is_dir() else path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert state_of(cell, tmp_path) == "damaged"


@pytest.mark.parametrize("failure", ["{half", "{}", "[1]", "[" * 99_999])
@pytest.mark.parametrize(("finished", "state"), [(True, "done"), (False, "damaged")])
def test_cell_with_an_unreadable_failure(
    finished: bool, state: str, failure: str, sweep: Sweep, done: Path, tmp_path: Path
) -> None:
    cell = sweep.cells[0]
    folder = cell_folder(tmp_path, cell.address)
    shutil.copytree(cell_folder(done, cell.address), folder)
    (folder / "failed.json").write_text(failure)
    if not finished:
        (folder / "metrics.json").unlink()
    assert state_of(cell, tmp_path) == state


def test_finished_cell_without_its_systems_metrics_is_damaged(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    cell = sweep.cells[0]
    shutil.copytree(cell_folder(done, cell.address), cell_folder(tmp_path, cell.address))
    assert state_of(cell, tmp_path) == "done"
    (cell_folder(tmp_path, cell.address) / "metrics.json").write_text("{}", encoding="utf-8")
    assert state_of(cell, tmp_path) == "damaged"


def test_results_say_what_validation_said(sweep: Sweep, done: Path) -> None:
    table = results(sweep, done)
    for cell in sweep.cells:
        said = json.loads((cell_folder(done, cell.address) / "run.json").read_text())["best_validation_ndcg"]
        assert set(table.loc[table["run"] == f"cells/{cell.address}", "validation"]) == {said}


@pytest.mark.parametrize("axes", [["model.T"], ["model.T", "model.d"]])
def test_figures_when_every_cell_of_an_axis_failed(
    axes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *words, **named: None)  # seconds of a browser
    product = {"model.T": [5, 10], "model.d": [8, 16]}
    sweep = resolve("s", CONTENT | {"grids": {"T": {"product": {key: product[key] for key in axes}}}})
    written = plots.write_figures(sweep_figures.sweep_figures(sweep, results(sweep, tmp_path), tmp_path), tmp_path)
    assert [path.name for path in written][:2] == ["t.csv", "t.html"]
    assert "nothing is done yet" in written[1].read_text(encoding="utf-8")


def test_run_of_other_parameters_in_a_cells_place_is_damaged(sweep: Sweep, tmp_path: Path) -> None:
    made_here(sweep, tmp_path, 1)
    first, other = sweep.cells[0], sweep.cells[2]
    cell_folder(tmp_path, first.address).rename(cell_folder(tmp_path, other.address))
    assert plan(Sweep("one", (other,)), tmp_path)["state"].tolist() == ["damaged"]


def test_failing_cell_is_recorded_and_the_rest_goes_on(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "connect", in_this_process)
    three = Sweep("three", sweep.cells[:3])
    broken = cell_folder(tmp_path, sweep.cells[1].address)
    broken.mkdir(parents=True)
    (broken / ".lock").mkdir()  # in the way of the run's lock
    said: list[str] = []
    table = run(three, tmp_path, say=said.append)
    assert sum("FAILED: " in line for line in said) == 1
    assert table.groupby("seed")["state"].unique().map(list).to_dict() == {0: ["done"], 1: ["failed"]}
    [record] = tmp_path.glob("cells/*/failed.json")
    assert record.parent == broken
    failed = json.loads(record.read_text(encoding="utf-8"))
    assert ".lock" in failed["reason"] and "Traceback (most recent call last)" in failed["traceback"]
    assert plan(three, tmp_path)["reason"].dropna().tolist() == [failed["reason"]]

    before = stamps(tmp_path)
    said.clear()
    run(three, tmp_path, say=said.append)
    assert said == ["1 cells failed before and are left alone; --retry-failed runs them again"]
    (broken / ".lock").rmdir()
    table = run(three, tmp_path, retry_failed=True)
    assert set(table["state"]) == {"done"}
    assert {name: stamp for name, stamp in stamps(tmp_path).items() if name in before} == before
    assert plan(three, tmp_path)["reason"].isna().all() and not list(tmp_path.glob("cells/*/failed.json"))


def test_sweep_when_a_full_disk_stopped_cells_goes_on_with_them(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "connect", in_this_process)
    two = Sweep("two", sweep.cells[:2])
    with full_disk(12_000):
        assert set(run(two, tmp_path)["state"]) == {"failed"}
    assert set(run(two, tmp_path)["state"]) == {"done"}


def test_cell_of_another_layout(sweep: Sweep, tmp_path: Path) -> None:
    folder = cell_folder(tmp_path, sweep.cells[0].address)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"layout": 1}), encoding="utf-8")
    with pytest.raises(LayoutError, match="has run layout 1, this version reads 3"):
        run(sweep, tmp_path)


def test_cell_begun_under_another_preset_name_goes_on(sweep: Sweep, tmp_path: Path) -> None:
    cell = sweep.cells[0]
    named = cell.parameters.model_copy(update={"preset": "my own"})
    assert address_of(named, None) == address_of(cell.parameters, None)
    stages.prepare(stages.open_run(named, cell_folder(tmp_path, cell.address)))
    made_here(sweep, tmp_path, 1)
    assert plan(Sweep("one", (cell,)), tmp_path)["state"].tolist() == ["done"]


def test_damaged_cell_that_another_sweep_has_mended_is_left_alone(sweep: Sweep, tmp_path: Path) -> None:
    made_here(sweep, tmp_path, 1)
    sweeps.set_aside(sweep.cells[0], tmp_path)
    assert plan(sweep, tmp_path)["state"][0] == "done" and not list((tmp_path / "cells").glob("*.damaged"))


def test_nothing_done_is_a_table_too(sweep: Sweep, tmp_path: Path) -> None:
    table = results(sweep, tmp_path)
    assert sweeps.by_place(table, sweep.axes())["seeds"].tolist() == [0] * 4
    assert over_seeds(table, sweep.axes())["seeds"].tolist() == [0] * 4
    assert effects(sweep, tmp_path, rng=np.random.default_rng(0)).empty


def test_cell_that_another_process_has(sweep: Sweep, tmp_path: Path) -> None:
    folder = cell_folder(tmp_path, "x")
    folder.mkdir(parents=True)
    with engine.FileLock(folder / ".cell.lock"):
        work = f"Work(pathlib.Path({str(folder)!r}), '', print, (), 'made')"
        code = f"import pathlib; from i2vae_lib.experiments.engine import Work, do; print(do({work}))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.startswith("Outcome(state='elsewhere'")


def test_plan_to_be_read_has_a_line_for_all_seeds(sweep: Sweep, done: Path) -> None:
    found = sweeps.plan_by_seeds(plan(sweep, done))
    assert found["cell"].tolist() == ["claims, full; T, model.T = 10", "claims, none", "T, model.T = 5"]
    assert found["seeds"].tolist() == ["0 1"] * 3 and found["state"].tolist() == ["2 done"] * 3
    assert "reason" not in found


def test_plan_to_be_read_says_why_a_cell_failed(sweep: Sweep, tmp_path: Path) -> None:
    planned = plan(sweep, tmp_path)
    planned.loc[1, ["state", "reason"]] = ["failed", "MemoryError: no"]
    found = sweeps.plan_by_seeds(planned)
    assert found["state"].tolist() == ["1 missing, 1 failed", "2 missing", "2 missing"]
    assert found["reason"].tolist() == [f"{sweep.cells[1].address}: MemoryError: no", "", ""]


# --- estimates --------------------------------------------------------------------------------------------------------


def test_costs_from_done_cells(sweep: Sweep, tmp_path: Path) -> None:
    planned = plan(sweep, tmp_path)
    planned.loc[:1, "state"] = "done"
    planned.loc[:1, "seconds"] = [3600.0, 7200.0]
    planned.loc[:1, "peak_memory_bytes"] = [2.0**30, 2.0**31]
    found = costs(sweep, planned, None)
    assert found.to_numpy().tolist() == [["synthetic", "i2vae", 6, 4, 5400.0, 2.0, "done cells"]]
    assert estimate(found, workers=2) == "6 cells, 2 done, 4 left: about 3.0 hours with 2 workers, 4.0 GiB"
    assert estimate(found, workers=64) == "6 cells, 2 done, 4 left: about 1.5 hours with 4 workers, 8.0 GiB"
    longest = found.assign(system="savae", left=1, seconds=36000.0)  # no worker can help with one long cell
    found = pd.concat([found, longest], ignore_index=True)
    assert "5 left: about 10.0 hours with 5 workers" in estimate(found, workers=64)
    assert "5 left: about 16.0 hours with 1 workers" in estimate(found, workers=1)


def test_costs_when_nothing_is_done(sweep: Sweep, tmp_path: Path) -> None:
    planned = plan(sweep, tmp_path)
    assert "6 left; time not known" in estimate(costs(sweep, planned, None), workers=2)
    asked: list[str] = []

    def probe(cell: Any) -> tuple[float, int]:
        asked.append(cell.address)
        return 60.0, 2**30

    found = costs(sweep, planned, probe)
    assert asked == [sweep.cells[0].address]  # one cell of each data and system
    assert estimate(found, workers=4) == "6 cells, 0 done, 6 left: about 1.5 minutes with 4 workers, 4.0 GiB"


def test_probe_measures_a_cell(sweep: Sweep) -> None:
    cell = sweep.cells[0]
    training = cell.parameters.training.model_copy(update={"epochs": 1000})
    longer = replace(cell, parameters=cell.parameters.model_copy(update={"training": training}))
    short, peak = sweeps.probe_cell(cell)
    long, _ = sweeps.probe_cell(longer)
    assert long > 20 * short > 0 and peak > 2**27


def test_probe_when_rows_cost_next_to_nothing_takes_the_whole_fit_for_them(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 9.0, 10.0, 13.0, 20.0, 22.0])  # a fit of half the rows took 3 seconds, one of all of them 2
    monkeypatch.setattr(sweeps, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(stages.SYSTEMS["i2vae"], "fit", lambda *words, **named: None)
    cell = sweep.cells[0]
    train = len(load_dataset_once(cell.parameters).splits["train"])
    found, _ = sweeps.probe_cell(cell)
    assert found == pytest.approx(3.0 + cell.parameters.training.epochs * train * 2.0 / min(2048, train))


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_scheduler_that_does_not_answer(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workers.PATIENCE == 30
    monkeypatch.setattr(workers, "PATIENCE", 1)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONTENT), encoding="utf-8")
    start = time.perf_counter()
    status = cli.main(["sweep", str(path), "--out", str(tmp_path / "out"), "--scheduler", "tcp://127.0.0.1:1"])
    assert status == 2 and time.perf_counter() - start < 20
    assert "the scheduler at tcp://127.0.0.1:1 did not answer within 1 s" in capsys.readouterr().err


def test_scheduler_that_accepts_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        start = time.perf_counter()
        with (
            pytest.raises(SchedulerError, match=rf"the scheduler at {address} did not answer within 1 s \(\S.*\)"),
            connect(scheduler=address),
        ):
            pass
    assert time.perf_counter() - start < 20


def test_scheduler_with_workers_of_several_threads() -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(SchedulerError, match=r"workers of several threads .*--nthreads 1"),
        connect(scheduler=cluster.scheduler_address),
    ):
        pass


def test_scheduler_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.3)
    for content in (None, "{half", "[1]", "[" * 99_999):
        if content is not None:
            (tmp_path / "s.json").write_text(content, encoding="utf-8")
        with (
            pytest.raises(SchedulerError, match="no scheduler has written its address to"),
            connect(scheduler=str(tmp_path / "s.json")),
        ):
            pass


def test_scheduler_without_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_cluster(tmp_path, 0) as (address, _):
        monkeypatch.setattr(workers, "PATIENCE", 2)
        with (
            pytest.raises(SchedulerError, match=f"{address} has no worker after 2 s"),
            connect(scheduler=address),
        ):
            pass


def test_scheduler_that_is_lost_ends_the_sweep_and_fails_no_cell(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(client: Any, *words: Any, **named: Any) -> Any:
        future = submit(client, *words, **named)
        future.cancel()  # what a client does with every future when its scheduler is gone
        return future

    submit = Client.submit
    monkeypatch.setattr(Client, "submit", vanish)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(SchedulerError, match="the same command goes on"),
    ):
        run(sweep, tmp_path, scheduler=cluster.scheduler_address)
    assert "failed" not in plan(sweep, tmp_path)["state"].tolist()


# --- processes of this machine ----------------------------------------------------------------------------------------


def family() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def listening() -> set[Any]:
    """Addresses at which this process or one that it started listens: ports, and sockets of this machine."""
    found = [one for process in family() for one in process.net_connections("all")]
    return {one.laddr for one in found if one.status == psutil.CONN_LISTEN or (one.laddr and not one.raddr)}


def test_sweep_on_this_machine_listens_nowhere(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that somebody else could connect to, from the first process to the last cell."""
    seen: list[set[Any]] = []
    before = listening()

    def looking(found: Any, todo: Any, **named: Any) -> None:
        assert found.submit(sum, [1, 2]).result(200) == 3 and len(family()) > 1
        seen.append(listening())
        work_off(found, todo, **named)
        seen.append(listening())

    work_off = sweeps.work_off
    monkeypatch.setattr(sweeps, "work_off", looking)
    table = run(Sweep("one", sweep.cells[:1]), tmp_path, workers=1)
    assert set(table["state"]) == {"done"} and seen == [before, before]


def test_processes_have_a_thread_and_a_safe_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(workers, "TRIES", 1)
    (tmp_path / "socket.py").write_text("raise SystemExit('ran what lies in the working directory')")
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    with connect(1) as found:
        assert found.submit(os.getenv, "OMP_NUM_THREADS").result(200) == "1"
    assert dict(os.environ) == before and not multiprocessing.active_children()


def die_once(by: int, folder: Path) -> str:
    if (folder / "tried").is_file():
        return "done"
    (folder / "tried").touch()
    os.kill(os.getpid(), by)
    return "never said"


def test_process_that_dies_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(2) as found:
        assert found.submit(die_once, signal.SIGKILL, tmp_path).result(200) == "done"
        monkeypatch.setattr(workers, "TRIES", 1)
        lost, other = found.submit(signal.raise_signal, signal.SIGKILL), found.submit(sum, [1, 2])
        with pytest.raises(WorkerDied, match=r"killed by signal 9 \(out of memory\?\)"):
            lost.result(200)
        assert other.result(200) == 3
        with pytest.raises(ZeroDivisionError):  # an error is no death
            found.submit(divmod, 1, 0).result(200)


def test_cell_whose_process_dies_is_recorded_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "TRIES", 1)
    dies = Work(tmp_path / "dies", "first", kill_itself, (), "made")
    writes = Work(tmp_path / "writes", "second", write, ("well",), "made")
    said: list[str] = []
    with connect(1) as found:
        engine.work_off(found, [dies, writes], say=said.append, progress=SimpleNamespace(update=lambda: None))
    assert "killed by signal 9" in str(engine.reason_of(dies.folder)) and not dies.is_done
    assert said[0].startswith("first: FAILED: WorkerDied: killed by signal 9")
    assert said[1] == "second: 2 s, validation NDCG@10 0.5000"
    assert (writes.folder / "made").read_text(encoding="utf-8") == "well"


def write(text: str, folder: Path) -> None:
    train = {"seconds": 2.0, "peak_memory_bytes": 1}
    write_record(folder, {"layout": RUN_LAYOUT, "stages": {"train": train}, "best_validation_ndcg": 0.5})
    (folder / "made").write_text(text, encoding="utf-8")


def kill_itself(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.tries("kills")
@pytest.mark.slow
def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    """Whatever ends it, and whatever they do."""
    code = "import os, time\nfrom i2vae_lib.experiments.workers import connect\nif __name__ == '__main__':\n"
    code += "    with connect(1) as found:\n        print(found.submit(os.getpid).result(), flush=True)\n"
    code += "        found.submit(time.sleep, 1000)\n        time.sleep(1000)\n"
    (tmp_path / "parent.py").write_text(code)
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_processes_when_the_script_has_no_guard_do_not_run_it_again(tmp_path: Path) -> None:
    code = "import math\nfrom i2vae_lib.experiments.workers import connect\n"
    code += (
        "with connect(2) as found:\n    print([one.result() for one in [found.submit(math.sqrt, n) for n in (4, 9)]])\n"
    )
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[2.0, 3.0]\n", "")


# --- a scheduler of one's own -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scheduler_that_is_not_encrypted_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(**words, protocol="tcp", host="127.0.0.1") as cluster,
        connect(scheduler=cluster.scheduler_address) as found,
    ):
        assert found.submit(sum, [1, 2]).result(200) == 3 and found.width == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said == [
        f"{cluster.scheduler_address} is not TLS: whoever reaches that port runs code as you (docs/clusters.md)"
    ]


def test_scheduler_when_dask_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingLibrary, match="pip install distributed"), connect(scheduler="tcp://127.0.0.1:1"):
        pass


@contextlib.contextmanager
def own_cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers as separate processes that meet through a scheduler file, on loopback."""
    file = folder / "scheduler.json"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    words = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", *words], **quiet
    )
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(600):
            if file.is_file() and file.stat().st_size:
                break
            time.sleep(0.05)
        worker = [
            sys.executable,
            "-m",
            "dask",
            "worker",
            "--host",
            "127.0.0.1",
            "--nthreads",
            "1",
            "--no-nanny",
            *words,
        ]
        started += [subprocess.Popen(worker, **quiet) for _ in range(workers)]
        yield json.loads(file.read_text(encoding="utf-8"))["address"], started
    finally:
        for process in [*started, scheduler]:
            process.kill()
            process.wait()


def sweep_command(path: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "i2vae_lib.cli", "sweep", str(path), "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for(out: Path, pattern: str, count: int, seconds: float = LONG) -> None:
    for _ in range(int(seconds / 0.05)):
        if len(list(out.glob(pattern))) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"fewer than {count} of {pattern} after {seconds} s")


def training_workers(workers: list[subprocess.Popen[bytes]]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Those whose cell has a checkpoint, each with that cell's folder."""
    for worker in workers:
        for file in psutil.Process(worker.pid).open_files():
            folder = Path(file.path).parent
            if file.path.endswith("log.txt") and (folder / "last.ckpt").is_file():
                yield worker, folder


@pytest.mark.tries("kills")
@pytest.mark.slow
def test_worker_killed_mid_sweep(tmp_path: Path) -> None:
    """Three workers of a cluster of one's own, one killed while it trains: nothing lost, nothing doubled.

    Its cell goes on from the epoch that its checkpoint has: seconds of an epoch are never the same twice.
    """
    path = tmp_path / "tiny.yaml"
    # slow enough to be killed in the middle
    path.write_text(yaml.safe_dump(CONTENT | {"epochs": 15, "seeds": [0]}), encoding="utf-8")
    with own_cluster(tmp_path, 3) as (address, workers):
        assert address.startswith("tcp://127.0.0.1:")
        client = sweep_command(path, tmp_path / "out", "--scheduler", str(tmp_path / "scheduler.json"))
        wait_for(tmp_path / "out", "cells/*/last.ckpt", 2)
        victim, cell = next(training_workers(workers))
        known = history_of(cell / "last.ckpt")
        victim.kill()
        assert client.wait(timeout=LONG) == 0
    seconds = stages.load_history(cell)["seconds"].tolist()
    assert len(seconds) == 15 and seconds[: len(known)] == [record["seconds"] for record in known] != []
    assert len(stamps(tmp_path / "out")) == 3
    assert set(trainings(tmp_path / "out").values()) == {1}
    assert not list((tmp_path / "out" / "cells").glob("*.damaged"))


@pytest.mark.tries("kills")
@pytest.mark.slow
def test_sweep_killed_and_run_again(tmp_path: Path) -> None:
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(CONTENT | {"epochs": 10}), encoding="utf-8")
    first = sweep_command(path, out, "--workers", "2")
    wait_for(out, "cells/*/metrics.json", 2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before, in_flight = stamps(out), set(trainings(out)) - set(stamps(out))
    assert 2 <= len(before) < 6 and len(in_flight) <= 2
    # two at once over the same folder
    again = [sweep_command(path, out, "--workers", "1") for _ in range(2)]
    assert [one.wait(timeout=LONG) for one in again] == [0, 0]
    after = stamps(out)
    assert len(after) == 6 and before.items() <= after.items()
    assert {times for name, times in trainings(out).items() if name not in in_flight} == {1}
