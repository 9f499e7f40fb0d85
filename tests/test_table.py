"""The paper's table: hand-written runs with known ranks, and folders of comparisons that are half done."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from i2vae_lib import cli
from i2vae_lib.experiments import tuning
from i2vae_lib.experiments.tuning import Study, Tuning, failures, open_study, read_study, read_tuning, run_study
from i2vae_lib.figures import plots
from i2vae_lib.params import ParameterError, Parameters, load
from i2vae_lib.recommenders import REGISTRY, SYSTEMS
from i2vae_lib.results.paper_tables import Table, paper_table, trials
from i2vae_lib.results.reading import COUNTED
from i2vae_lib.runs import RUN_LAYOUT, LayoutError, read_record, write_json, write_record
from tests.helpers.planted_runs import REFERENCES, ROWS, cell, ranks_of, recorded, skill, write_run
from tests.helpers.worlds import LONG, in_this_process


def finished(folder: Path, system: str, place: float, seed: int = 0, **named: Any) -> Path:
    """A finished run of a system; ``place`` as in :func:`skill`."""
    begun = json.loads((folder / "run.json").read_text()) if (folder / "run.json").is_file() else {}
    write_run(folder, ranks_of(skill(seed + 7 * len(system), place)), {"system": system}, seed=seed, **named)
    seconds = {"train": {"seconds": 1.0, "peak_memory_bytes": 2**30, "revision": "abc"}}
    cell = {"parameters": begun["parameters"]} if begun else {}  # of :func:`reached`
    table = pd.read_parquet(folder / "ranks.parquet")
    table["recommender"] = table["recommender"].replace("i2vae", system)
    table.to_parquet(folder / "ranks.parquet", index=False)
    write_json(folder / "metrics.json", {})
    history = pd.DataFrame({"epoch": [1.0, 2.0, 3.0, 4.0], "seconds": 2.0, "validation seconds": 0.5})
    history.to_parquet(folder / "history.parquet")
    return recorded(folder, stages=seconds, best_epoch=3, best_validation_ndcg=0.125, **cell)


def tabled(*folders: Path) -> Table:
    return paper_table(folders, resamples=300, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    places = {"i2vae": 12, "sasrec-bce-m": 6, "sasrec-bce-s": 30}
    return [finished(folder / f"{name}-{seed}", name, place, seed) for name, place in places.items() for seed in (0, 1)]


@pytest.fixture(scope="module")
def found(runs: list[Path]) -> Table:
    return tabled(*runs)


def test_cells_when_two_seeds_are_there(found: Table, runs: list[Path]) -> None:
    each = []
    for run in runs[2:4]:
        table = pd.read_parquet(run / "ranks.parquet")
        part = table[(table["recommender"] == "sasrec-bce-m") & (table["domain"] == "y") & table["cold"]]
        each.append((part["greater_sampled"] < 10).mean())
    line = cell(found.cells, system="sasrec-bce-m", domain="South", kind="cold", metric="HR@10", candidates="sampled")
    assert (line.mean, line.sd, line.seeds) == (
        pytest.approx(np.mean(each)),
        pytest.approx(np.std(each, ddof=1)),
        2,
    )
    assert line.n == 30


def test_places_when_the_oracle_leads(found: Table) -> None:
    part = found.cells[(found.cells["kind"] == "all") & (found.cells["candidates"] == "sampled")]
    for _, column in part.groupby(["domain", "metric"]):
        ranked = column.set_index("system")
        assert ranked["mean"].idxmax() == "oracle" and ranked.loc["oracle", "place"] == 0
        assert ranked.loc["sasrec-bce-m", "place"] == 1 and ranked.loc["i2vae", "place"] == 2
        assert (ranked["place"] > 0).sum() == 2


def test_holm_when_systems_are_compared_is_over_the_systems(found: Table) -> None:
    assert not [name for name in found.cells if name.endswith("_holm")]
    (said,) = [note for note in found.notes if note.startswith("Mean over 4 cells (sampled candidates), less that")]
    assert "less that of i2VAE" in said and "after Holm over these 3 systems: " in said and "Oracle" not in said
    part = found.cells[(found.cells["candidates"] == "sampled") & (found.cells["n"] >= COUNTED)]
    part = part.pivot_table(index="system", values="mean")["mean"]
    for name, title in (
        ("popularity", "Popularity"),
        ("sasrec-bce-s", "SASRec-BCE-S"),
        ("sasrec-bce-m", "SASRec-BCE-M"),
    ):
        assert f"{title} {100 * (part[name] - part['i2vae']):+.2f} (" in said
    assert said in found.written()


def test_seconds_when_a_generator_was_fitted_and_there_are_stages(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", "i2vae", 12)
    history = pd.DataFrame({"stage": [1.0, 1.0, 2.0], "epoch": [1.0, 2.0, 1.0]})
    history.assign(**{"seconds": 1.0, "validation seconds": 0.0}).to_parquet(run / "history.parquet")
    recorded(run, generator_seconds=203.0)
    line = cell(tabled(run).systems, system="i2vae")
    assert line.seconds == 206.0 and line.epochs == 1.0


def test_systems_when_seconds_and_memory_are_recorded(found: Table) -> None:
    line = cell(found.systems, system="sasrec-bce-s")
    # four epochs of 2 and 0.5 seconds
    assert (line.seconds, line.memory, line.epochs, line.best_epoch, line.seeds) == (10.0, 1024.0, 4.0, 3.0, 2)
    assert found.systems["system"].tolist() == ["popularity", "sasrec-bce-s", "sasrec-bce-m", "i2vae", "oracle"]


def test_by_rule_when_cold_rows_are_popularity(tmp_path: Path) -> None:
    rows, own = ROWS, ROWS.lengths("own") > 0
    mine, floor = ranks_of(skill(3, 5)), REFERENCES["popularity"]
    table = mine.where(pd.Series(own), floor)
    write_run(tmp_path / "run", table, {"system": "sasrec-bce-s"}, rows=rows)
    finished(tmp_path / "other", "i2vae", 12)
    ranks = pd.read_parquet(tmp_path / "run" / "ranks.parquet")
    ranks["recommender"] = ranks["recommender"].replace("i2vae", "sasrec-bce-s")
    for name in ("metrics.json", "history.parquet"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "run" / name)
    ranks.to_parquet(tmp_path / "run" / "ranks.parquet", index=False)
    record = read_record(tmp_path / "other")
    recorded(tmp_path / "run", **record | {"parameters": record["parameters"] | {"system": "sasrec-bce-s"}})
    found = tabled(tmp_path / "run", tmp_path / "other")
    flags = found.cells[found.cells["by_rule"]]
    assert set(zip(flags["system"], flags["kind"])) == {("sasrec-bce-s", "cold")}
    wide = found.wide().set_index("system")
    assert (
        wide.loc["SASRec-BCE-S", "North cold"].endswith("=pop") and "=pop" not in wide.loc["SASRec-BCE-S", "North all"]
    )


def test_notes_when_a_system_is_under_popularity_on_cold_rows(tmp_path: Path) -> None:
    good, bad = finished(tmp_path / "good", "sasrec-bce-m", 12), finished(tmp_path / "bad", "i2vae", 6)
    ranks = pd.read_parquet(bad / "ranks.parquet")
    mine = (ranks["recommender"] == "i2vae") & ranks["cold"] & (ranks["domain"] == "y")
    ranks.loc[mine, "greater_sampled"] = 998  # below everybody
    ranks.to_parquet(bad / "ranks.parquet", index=False)
    found = tabled(good, recorded(bad))
    for written in (found.written(), found.written("markdown"), found.written("latex")):
        assert "Under popularity on cold rows (HR@10, sampled): South: i2VAE." in written
    assert "Under popularity" not in tabled(good).written()


def test_wide_when_filtered(found: Table) -> None:
    part = found.filtered(["i2vae", "sasrec-bce-m"], ["all"])
    wide = part.wide("NDCG@10")
    assert wide.columns.tolist() == ["system", "North all", "South all", "seeds", "seconds", "MiB"]
    assert wide["system"].tolist() == ["SASRec-BCE-M", "i2VAE"]
    mean = cell(found.cells, system="i2vae", domain="North", kind="all", metric="NDCG@10", candidates="sampled").mean
    assert wide.loc[1, "North all"].startswith(f"{100 * mean:.2f}²")
    with pytest.raises(ParameterError, match="no system 'sasrec'; did you mean 'sasrec-"):
        found.filtered(["sasrec"])


def test_wide_when_read_across(found: Table) -> None:
    kinds = ["tailed", "cold", "all"]
    expected = ["system", *(f"{d} {kind}" for d in ("North", "South") for kind in kinds), "seeds", "seconds", "MiB"]
    assert found.wide().columns.tolist() == expected


def test_differences_when_the_best_reference_of_each_panel_is_marked(found: Table) -> None:
    apart = found.against_base()
    assert apart[apart["title"] == "i2VAE"][["difference", "interval_low", "interval_high"]].eq(0).all(axis=None)
    assert "Oracle" not in set(apart["title"]) and list(dict.fromkeys(apart["kind"])) == ["all", "tailed", "cold"]
    whole = found.cells[(found.cells["metric"] == "HR@10") & (found.cells["candidates"] == "sampled")]
    for (domain, kind), part in apart.groupby(["domain", "kind"]):
        own = whole[(whole["domain"] == domain) & (whole["kind"] == kind)].set_index("system")["mean"]
        order = own[own.index != "oracle"].sort_values(ascending=False)
        assert part["difference"].tolist() == pytest.approx((100 * (order - own["i2vae"])).tolist())
        references = own[own.index.isin(REFERENCES) & (own.index != "oracle")]
        assert set(part.loc[part["best"], "title"]) == {
            REGISTRY[one].title for one in references.index[references == references.max()]
        }
    figure = plots.systems(apart, "title")
    ticks = [axis.ticktext for axis in figure.select_yaxes() if axis.showticklabels]
    assert [set(one) for one in ticks] == [set(apart["title"])] * 2


def test_exports_when_written(found: Table) -> None:
    assert "HR@10 in per cent, full candidates" in found.written() and "SASRec-BCE-M" in found.written()
    markdown = found.written("markdown")
    assert markdown.count("| SASRec-BCE-M") == 4 and "**" in markdown and "<u>" in markdown
    assert "**HR@10 in per cent, full candidates**" in markdown
    latex = found.written("latex")
    assert latex.count("\\toprule") == 4 and "\\textbf{" in latex and "\\underline{" in latex and "nan" not in latex
    again = pd.read_csv(pd.io.common.StringIO(found.cells.to_csv(index=False)))
    np.testing.assert_allclose(again["mean"], found.cells["mean"], rtol=1e-12)
    counts = {(one.domain, one.kind): one.n for one in found.cells.itertuples()}
    for written in (found.written(), markdown, latex):  # how many rows a figure rests on
        assert f"North cold {counts['North', 'cold']:,}" in written
    content = found.to_json()
    json.dumps(content, allow_nan=False)
    assert len(content["cells"]) == len(found.cells)


def test_csv_has_every_system_and_why_one_is_not_there(tmp_path: Path) -> None:
    study = opened(tmp_path / "study")
    broken = failed(study, "sasrec-bce-m", 0, "loss is nan")
    flat = tabled(study.folder, finished(tmp_path / "run", "i2vae", 12)).flat().set_index("system")
    assert flat.loc["sasrec-bce-m", ["status", "reason"]].tolist() == ["failed", "loss is nan"]
    assert np.isnan(flat.loc["sasrec-bce-m", "mean"]) and flat.loc["i2vae", "seconds"].tolist()[0] == 10.0
    assert failures(study, "sasrec-bce-m") == {broken.name: "loss is nan"}
    assert not failures(study, "i2vae")


def test_latex_when_names_have_its_signs(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", "sasrec-bce-m", 8, record={"names": {"x": "Home & Kitchen", "y": "Sport_out"}})
    latex = tabled(run).written("latex")
    assert "Home \\& Kitchen all" in latex and "Sport\\_out cold" in latex


def test_exports_when_names_are_hostile(tmp_path: Path) -> None:
    names = {"x": '=HYPERLINK("http://evil.example","x")', "y": "\\input{secret} | _y_"}
    record = {"names": names, "outside": [], "data": "a_pair\n\\input{secret}"}
    found = tabled(finished(tmp_path / "run", "sasrec-bce-m", 8, record=record))
    for line in csv.reader(found.written("csv").splitlines()):
        for value in line:
            assert not value.startswith(("=", "@", "+")) and not (value.startswith("-") and not value[1:2].isdigit())
    latex = found.written("latex")
    assert "\\input" not in latex and "_y" not in latex.replace("\\_y", "") and "a\\_pair" in latex
    assert all(line.startswith("%") for line in latex.splitlines() if "secret" in line and "&" not in line)
    heads = {line.replace("\\|", "").count("|") for line in found.written("markdown").splitlines() if "secret" in line}
    assert heads <= {0, 11}  # a name that holds a | is one column
    found.save(tmp_path / "t.csv")
    assert "\n=" not in (tmp_path / "t.csv").read_text() and ",=" not in (tmp_path / "t.csv").read_text()


def test_status_when_a_system_stands_in_two_folders(tmp_path: Path) -> None:
    broken, untouched = opened(tmp_path / "failed"), opened(tmp_path / "untouched")
    failed(broken, "sasrec-bce-m", 0, "loss is nan")
    run = finished(tmp_path / "run", "i2vae", 12)
    for folders in ((run, broken.folder, untouched.folder), (untouched.folder, broken.folder, run)):
        systems = tabled(*folders).systems.set_index("system")
        assert systems.loc["sasrec-bce-m", ["status", "reason"]].tolist() == ["failed", "loss is nan"]
        assert systems.loc["i2vae", "status"] == "done"


def test_table_when_saved_and_loaded(found: Table, tmp_path: Path) -> None:
    found.save(tmp_path / "t.csv", command="i2vae table", seeds=[0, 1])
    again = Table.load(tmp_path / "t.csv")
    assert again.written() == found.written() and again.about == found.about
    assert json.loads((tmp_path / "t.json").read_text())["command"] == "i2vae table"


def test_table_when_the_pair_is_the_papers(tmp_path: Path) -> None:
    names = {"x": "Cloth", "y": "Sport"}
    record = {"data": "cloth_sport", "names": names}
    run = finished(tmp_path / "run", "sasrec-bce-m", 8, record=record)
    found = tabled(run)
    line = cell(found.cells, system="sasrec-bce-m", domain="Sport", kind="all", metric="HR@10", candidates="sampled")
    assert line.paper_mean == pytest.approx(6.49, abs=1.5) and line.paper_mean > 0
    assert f"({line.paper_mean:.2f})" in found.wide().set_index("system").loc["SASRec-BCE-M", "Sport all"]


def test_table_when_runs_are_variants_of_one_system(runs: list[Path], tmp_path: Path) -> None:
    other = finished(tmp_path / "other", "i2vae", 9)
    parameters = read_record(other)["parameters"]
    parameters["model"]["d"] = 64
    recorded(other, parameters=parameters)
    with pytest.raises(LayoutError, match=r"another variant of i2vae \(model\.d = 64, not 16\)"):
        tabled(runs[0], other)


def test_table_when_a_pairs_file_is_spelled_two_ways(tmp_path: Path) -> None:
    folders = []
    for seed, data in enumerate(("pairs/mine.yaml", "/elsewhere/pairs/mine.yaml")):
        one = finished(tmp_path / f"{seed}", "i2vae", 12, seed)
        parameters = read_record(one)["parameters"]
        parameters |= {"data": data, "cdrib": {"layers": seed + 1}}  # nobody here reads the latter
        recorded(one, parameters=parameters, data="mine")
        folders.append(one)
    assert cell(tabled(*folders).systems, system="i2vae").seeds == 2


def test_table_when_a_folder_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"holds no comparison and no run; `i2vae table --out"):
        tabled(tmp_path)


# --- comparisons ------------------------------------------------------------------------------------------------------


def rules(*points: dict[str, Any], **shared: Any) -> Tuning:
    return Tuning(shared=shared, points=dict.fromkeys(SYSTEMS, points))


TWO = rules({}, {"training.learning_rate": 1e-3}, **{"training.patience": 4})


def reached(study: Study, system: str, number: int, value: float) -> Path:
    """A point of a system that was trained and not measured."""
    place = system, study.points[system][number], study.tuning_seed
    folder, parameters = study.run_folder(*place), study.run_parameters(*place).model_dump(mode="json")
    record = {"layout": RUN_LAYOUT, "parameters": parameters, "best_validation_ndcg": value, "best_epoch": 2}
    write_record(folder, record)
    write_json(folder / "model/model.json", {})
    history = pd.DataFrame({"seconds": [1.0, 2.0, 3.0], "validation seconds": [0.5] * 3})
    history.to_parquet(folder / "history.parquet")
    return recorded(folder)


def failed(study: Study, system: str, number: int, reason: str) -> Path:
    folder = study.run_folder(system, study.points[system][number], study.tuning_seed)
    write_json(folder / "failed.json", {"reason": reason, "traceback": ""})
    return folder


def opened(folder: Path, **changes: Any) -> Study:
    words: dict[str, Any] = {"systems": ["i2vae", "sasrec-bce-m"], "seeds": [0]} | changes
    overrides = words.pop("overrides", {})
    return open_study(folder, load("smoke", overrides), TWO, **words)


def test_tuning_when_the_kits_own_is_read() -> None:
    found = read_tuning()
    assert set(found.points) == set(SYSTEMS)
    assert {len(points) for points in found.points.values()} == {2, 8}
    rivals = ("i2vae", "sasrec-ce-m", "esasrec-m", "abxi", "slist-m", "tale-m", "stack-counts", "stack-ce")
    assert all(len(found.points[name]) == 8 for name in rivals)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("points: [", r"t\.yaml: not valid YAML"),
        ("points: {}", "shared: missing"),
        ("[]", "expected the names shared, points"),
        ("ALL\n  i2vae: [{}]\nmore: 1", "more: unknown name; known: shared, points"),
        ("shared: {}\npoints: {i2vaa: [{}]}", "unknown 'i2vaa'; did you mean 'i2vae'"),
        ("shared: {}\npoints: {i2vae: [{}]}", "no points for .*sasrec-bce-s.*: every system needs one"),
        ("ALL\n  i2vae: []", "no points for i2vae: every system needs one"),
        ("ALL\n  i2vae: [{}, {}]", "i2vae: a point stands twice"),
        ("ALL\n  i2vae: [{model.e: 3}]", "i2vae, point 1: overrides: unknown key 'model.e'; did you mean 'model.d'"),
        ("ALL\n  i2vae: [{training.learning_rate: -1.0}]", "i2vae, point 1: 'training.learning_rate'"),
        ("TWO\n  i2vae: [{model.d: 8}, {model.d: 8}]", "i2vae: a point stands twice"),
        (
            "ALL\n  i2vae: [{split.data_seed: 3}]",
            "i2vae cannot be tuned by 'split.data_seed', only by evid",
        ),
    ],
)
def test_tuning_when_it_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    everyone = "\n".join(f"  {name}: [{{}}]" for name in SYSTEMS if name != "i2vae")
    twice = everyone.replace("[{}]", "[{}, {model.d: 8}]")
    text = text.replace("ALL", f"shared: {{}}\npoints:\n{everyone}").replace("TWO", f"shared: {{}}\npoints:\n{twice}")
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ParameterError, match=message):
        read_tuning(tmp_path / "t.yaml")


def test_study_when_a_new_system_comes_with_settings_of_its_own(tmp_path: Path) -> None:
    opened(tmp_path)
    opened(tmp_path, systems=["cdrib"], overrides={"cdrib.layers": 4})  # nobody here had read it
    with pytest.raises(LayoutError, match=r"was made with cdrib\.layers = 4, now it is 5"):
        opened(tmp_path, overrides={"cdrib.layers": 5})


def test_study_when_opened_again_with_others(tmp_path: Path) -> None:
    opened(tmp_path)
    opened(tmp_path, systems=["sasrec-bce-s"], seeds=[3])
    known = read_study(tmp_path)
    assert set(known.points) == {"i2vae", "sasrec-bce-s", "sasrec-bce-m"} and known.seeds == (0, 3)
    assert opened(tmp_path, seeds=[3]).tuning_seed == 0  # points are compared where they always were
    assert len(opened(tmp_path, trials=1).points["i2vae"]) == 2  # never fewer than before
    opened(tmp_path, overrides={"cdrib.layers": 5})  # nobody here reads it
    other = rules({"model.d": 8}, **{"training.patience": 4})
    with pytest.raises(LayoutError, match="i2vae was tuned by other points"):
        open_study(tmp_path, load("smoke"), other, systems=["i2vae"], seeds=[0])
    with pytest.raises(LayoutError, match=r"was made with model\.d = 16, now it is 32"):
        opened(tmp_path, overrides={"model.d": 32})
    with pytest.raises(ParameterError, match="3 trials asked for"):
        opened(tmp_path, trials=3)
    with pytest.raises(ParameterError, match="unknown 'sasrek'"):
        opened(tmp_path, systems=["sasrek"])


def test_study_when_systems_have_different_numbers_of_points(tmp_path: Path) -> None:
    """Each tries as many of the trials asked for as it has points; more than any has is refused."""
    tuning = TWO.model_copy(update={"points": TWO.points | {"i2vae": ({}, {"model.d": 8}, {"model.d": 12})}})
    study = open_study(tmp_path, load("smoke"), tuning, systems=["i2vae", "sasrec-bce-m"], seeds=[0], trials=3)
    assert [len(points) for points in study.points.values()] == [2, 3]
    with pytest.raises(ParameterError, match="4 trials asked for; the tuning file has 1 to 3 points"):
        open_study(tmp_path, load("smoke"), tuning, systems=["i2vae"], seeds=[0], trials=4)


def test_trials_of_a_study_when_listed(tmp_path: Path) -> None:
    """What was reached, what failed, what was not tried, and which one is chosen."""
    study = opened(tmp_path)
    for number, value in enumerate((0.2, 0.3)):
        reached(study, "i2vae", number, value)
    failed(study, "sasrec-bce-m", 0, "out of memory")
    found = trials(tmp_path).set_index(["system", "trial"])
    assert found["validation"].loc["i2vae"].tolist() == [0.2, 0.3]
    assert found["chosen"].loc["i2vae"].tolist() == [False, True]
    assert found.loc[("i2vae", 2), ["point", "best_epoch", "epochs", "seconds"]].tolist() == [
        "training.learning_rate=0.001",
        2,
        3,
        7.5,
    ]
    assert found.loc[("sasrec-bce-m", 1), "reason"] == "out of memory"
    assert found.loc["sasrec-bce-m"]["validation"].isna().all() and not found.loc["sasrec-bce-m"]["chosen"].any()


def test_table_when_nothing_is_done(tmp_path: Path) -> None:
    study = opened(tmp_path)
    found = tabled(tmp_path)
    assert found.systems["status"].tolist() == ["missing", "missing"]
    assert "nothing is done yet" in found.written() and "SASRec-BCE-M: missing" in found.written()
    assert study.chosen("i2vae") is None
    failed(study, "sasrec-bce-m", 0, "the disk is full")
    assert "SASRec-BCE-M: failed: the disk is full" in tabled(tmp_path).written()


def test_table_when_one_system_is_done_and_one_failed(tmp_path: Path) -> None:
    study = opened(tmp_path)
    finished(reached(study, "i2vae", 1, 0.1), "i2vae", 12)
    failed(study, "sasrec-bce-m", 0, "killed by signal 9 (out of memory?)")
    assert study.chosen("i2vae") is None  # of fewer points than there are
    failed(study, "i2vae", 0, "it was late")
    found = tabled(tmp_path)
    assert cell(found.systems, system="i2vae").point == "training.learning_rate=0.001 (best of 2)"
    wide = found.wide().set_index("system")
    assert wide.loc["SASRec-BCE-M", "North all"] == "failed" and wide.loc["i2VAE", "North all"] != "done"
    assert study.chosen("i2vae") == study.points["i2vae"][1] and study.chosen("sasrec-bce-m") is None
    assert "1 of 2 points failed" in found.written()
    opened(tmp_path, seeds=[1])
    assert "1 of 2 seeds done" in tabled(tmp_path).written()


def test_study_when_a_cell_holds_another_ones_run(tmp_path: Path) -> None:
    study = opened(tmp_path)
    folders = [reached(study, "i2vae", number, value) for number, value in enumerate((0.1, 0.2))]
    assert study.chosen("i2vae") == study.points["i2vae"][1]
    shutil.copy(folders[1] / "run.json", folders[0] / "run.json")
    for ask in (study.chosen, study.trials):
        with pytest.raises(LayoutError, match=rf"{folders[0].name} holds the run of another cell .*: delete it"):
            ask("i2vae")


def test_table_when_a_study_and_a_run_hold_one_system(tmp_path: Path) -> None:
    study = opened(tmp_path / "study", systems=["i2vae"])
    finished(reached(study, "i2vae", 0, 0.2), "i2vae", 12)
    reached(study, "i2vae", 1, 0.1)
    beside = study.run_parameters("i2vae", study.points["i2vae"][0], 1).model_dump(mode="json")
    write_json(tmp_path / "run" / "run.json", {"parameters": beside})
    found = tabled(study.folder, finished(tmp_path / "run", "i2vae", 12, 1))
    assert cell(found.systems, system="i2vae").seeds == 2 and found.wide()["system"].tolist().count("i2VAE") == 1


def test_table_when_a_run_is_not_trained(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", "i2vae", 12)
    (run / "history.parquet").unlink()
    with pytest.raises(LayoutError, match=r"history\.parquet is missing"):
        tabled(run)


TINY = {
    "synthetic.users": 400,
    "synthetic.items": 120,
    "evaluation.negatives": 49,
    "psg.kind": "none",
    "references.neighbours": [0],
    "references.shrinkage": [10.0],
    "references.ease_lambda": [300.0],
}


def test_study_when_run_and_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes: a failing system does not stop the other, a second call makes nothing twice."""
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path / "cache"))
    points = dict.fromkeys(SYSTEMS, ({}, {"training.learning_rate": 1e-3}))
    points["sasrec-bce-s"] = ({"training.learning_rate": 1e8}, {"training.learning_rate": 1e9})
    asked = {"systems": ["sasrec-bce-m", "sasrec-bce-s"], "seeds": [0, 1]}
    study = open_study(tmp_path / "study", load("smoke", TINY, epochs=1), Tuning(shared={}, points=points), **asked)
    said: list[str] = []
    run_study(study, workers=2, say=said.append)
    assert sum("FAILED" in line for line in said) == 2 and sum("validation NDCG@10 0." in line for line in said) == 4
    found = tabled(study.folder)
    assert found.systems.set_index("system").loc[["sasrec-bce-m", "sasrec-bce-s"], "status"].tolist() == [
        "done",
        "failed",
    ]
    assert "loss is" in cell(found.systems, system="sasrec-bce-s").reason
    tried = study.tried("sasrec-bce-m")
    assert study.chosen("sasrec-bce-m") == tried[int(np.argmax([one.value for one in tried]))].point
    measured = {path.parent for path in study.folder.glob("cells/*/ranks.parquet")}  # only the chosen saw a test row
    assert measured == {study.run_folder("sasrec-bce-m", study.chosen("sasrec-bce-m") or {}, seed) for seed in (0, 1)}
    kept = [one for folder in measured for one in folder.iterdir() if one.suffix != ".lock"]
    before = {one: one.stat().st_mtime_ns for one in kept}
    said.clear()
    run_study(replace(study, systems=("sasrec-bce-m",)), say=said.append)
    assert not said and before == {one: one.stat().st_mtime_ns for one in before}


def test_study_when_another_call_asked_for_more_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The point is chosen among all that the folder was asked for, not among those of the call that chooses."""
    fewer = opened(tmp_path, systems=["i2vae"], trials=1)
    more = opened(tmp_path, systems=["i2vae"])

    def made(parameters: Parameters, folder: Path) -> None:
        value = parameters.training.learning_rate == 1e-3
        record = {"layout": RUN_LAYOUT, "parameters": parameters.model_dump(mode="json"), "stages": {}}
        write_record(folder, record | {"best_validation_ndcg": 0.1 + value})
        write_json(folder / "model/model.json", {})

    def measured(parameters: Parameters, folder: Path) -> None:
        write_json(folder / "metrics.json", {})

    monkeypatch.setattr(tuning, "connect", in_this_process)
    monkeypatch.setattr(tuning, "_make_model", made)
    monkeypatch.setattr(tuning, "make_run", measured)
    run_study(fewer, say=lambda line: None)
    assert read_study(tmp_path).chosen("i2vae") == more.points["i2vae"][1]
    [done] = tmp_path.glob("cells/*/metrics.json")
    assert done.parent == more.run_folder("i2vae", more.points["i2vae"][1], 0)
    assert len(list(tmp_path.glob("cells/*/model/model.json"))) == 2


def test_study_of_an_older_layout_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "study.json", {"layout": 1})
    with pytest.raises(LayoutError, match="comparison layout 1, this version reads 2: choose another OUT"):
        tabled(tmp_path)


def test_command_when_the_system_is_set_and_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", "--set", "system=sasrec-bce-m"]) == 2
    assert "here it is --systems sasrec-bce-m" in capsys.readouterr().err


def test_command_when_a_value_is_no_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", "--set", "references.neighbours=[50,100"]) == 2
    assert "--set references.neighbours=[50,100: not valid YAML" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["table"], ["sweep", "sensitivity"], ["search", "paper"]])
def test_command_when_nobody_works(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([*words, "--workers", "0"])
    assert "--workers: 0: at least one" in capsys.readouterr().err


@pytest.mark.tries("interrupts")
@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_command_when_interrupted_alone(by: signal.Signals, tmp_path: Path) -> None:
    """A signal that reaches the parent and not its children ends them too; nothing counts as failed."""
    words = [f"--set={key}={json.dumps(value)}" for key, value in TINY.items() if not key.startswith("references")]
    command = [sys.executable, "-m", "i2vae_lib.cli", "table", "--preset", "smoke", "--epochs", "100000", *words]
    command += ["--systems", "sasrec-bce-s", "sasrec-bce-m", "--out", str(tmp_path / "study")]
    environment = os.environ | {"I2VAE_CACHE_DIR": str(tmp_path / "cache")}
    # tests that a shell started with `&` ignore the signal, and their children would too
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE) as parent:
        signal.signal(signal.SIGINT, before)
        deadline = time.monotonic() + LONG
        while not list(tmp_path.glob("study/cells/*/last.ckpt")):
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.2)
        parent.send_signal(by)
        said = parent.communicate(timeout=LONG)[1].decode()
    assert parent.returncode == 130 and "the same command goes on from here" in said
    assert not list(tmp_path.glob("study/cells/*/failed.json"))
    [folder] = tmp_path.glob("study/cells/*")  # the other system's is not begun
    with FileLock(folder / ".lock").acquire(timeout=10):  # its run has ended with it
        pass


@pytest.mark.parametrize("twice", [{"seeds": [0, 1, 0]}, {"systems": ["i2vae", "i2vae"]}])
def test_study_when_a_seed_or_a_system_stands_twice_is_refused(twice: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="each once"):
        open_study(tmp_path, load("smoke"), TWO, **({"systems": ["i2vae"], "seeds": [0]} | twice))
    assert not any(tmp_path.iterdir())
