"""Committed results: each table says what made it, and README prints nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from papermill.inspection import inspect_notebook  # type: ignore[import-untyped]

from i2vae_lib.data import DataError
from i2vae_lib.experiments import grids
from i2vae_lib.experiments.grids import STUDY_NAMES, read_sweep
from i2vae_lib.results.paper_tables import Table
from i2vae_lib.runs import LayoutError
from tests.helpers.planted_runs import recorded
from tests.test_table import finished, opened, reached

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import data_results  # noqa: E402
import figures  # noqa: E402
import fold_in_study  # noqa: E402
import kept  # noqa: E402
import make_results  # noqa: E402
import pages  # noqa: E402
import recipe_study  # noqa: E402
import record_sweep  # noqa: E402
import record_table  # noqa: E402
import splits_study  # noqa: E402
from record_run import fill  # noqa: E402

RESULTS = sorted((ROOT / "docs" / "results").glob("*.csv"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPRODUCTION = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
TABLES = re.findall(r"<!-- table: (\S+) -->", REPRODUCTION)


@pytest.mark.parametrize("path", RESULTS, ids=[path.stem for path in RESULTS])
def test_result_says_what_made_it(path: Path) -> None:
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert {"command", "revision", "data_sha256", "seeds", "hours"} <= about.keys()
    assert len(pd.read_csv(path)) >= 10


@pytest.mark.parametrize("path", RESULTS, ids=[path.stem for path in RESULTS])
def test_result_names_clean_revisions(path: Path) -> None:
    """Who wants to make it again checks one of these out."""
    revision = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["revision"]
    named = [revision] if isinstance(revision, str) else revision
    assert named and all(re.fullmatch(r"[0-9a-f]{40}", one) for one in named), named


def test_figures_are_drawn_from_the_committed_results() -> None:
    drawn = {path.stem for path in figures.FOLDER.glob("*.svg")}
    shown = README + (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((?:docs/)?figures/(\w+)\.svg\)", shown)) == drawn == set(figures.FIGURES)
    for name, draw in figures.FIGURES.items():
        assert (figures.FOLDER / f"{name}.svg").read_text(encoding="utf-8") == draw()


def test_gallery_has_every_notebook_and_is_small() -> None:
    table, drawn = figures.gallery()
    assert pages.fill(README, "gallery", table) == README
    numbered = [path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")]
    assert numbered and all(f"(notebooks/{name})" in table for name in numbered)
    assert table.count("![a figure of this notebook]") == len(numbered)  # every notebook has one to show
    # made of the figures that the notebooks store now: no browser draws a picture twice to the byte
    kept = json.loads(figures.DIGESTS.read_text(encoding="utf-8"))
    assert kept == {name: figures.digest(one) for name, one in drawn.items()}, "run python tools/figures.py"
    pictures = {path.name: path.stat().st_size for path in figures.THUMBNAILS.glob("*.png")}
    assert set(pictures) == set(kept) and sum(pictures.values()) < 300_000


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_reproduction_page_has_the_table_of_make_run() -> None:
    assert TABLES == ["demo"]


@pytest.mark.parametrize("name", TABLES)
def test_page_shows_the_command_that_makes_the_table(name: str) -> None:
    command = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))["command"]
    assert command in REPRODUCTION


@pytest.mark.parametrize("name", TABLES)
def test_table_is_the_committed_result(name: str) -> None:
    table = pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv")
    assert fill(REPRODUCTION, name, table) == REPRODUCTION
    assert "| all |" in REPRODUCTION.split(f"<!-- table: {name} -->")[1].split("\n\n")[0]


def test_page_when_its_table_is_not_there_yet() -> None:
    page = "a\n<!-- t -->\n\nb\nc\n\nd\n"
    once = pages.fill(page, "t", "| 1 |\n| 2 |")
    assert once == "a\n<!-- t -->\n| 1 |\n| 2 |\n\nb\nc\n\nd\n"  # the paragraph after it stays
    assert pages.fill(once, "t", "| 3 |") == "a\n<!-- t -->\n| 3 |\n\nb\nc\n\nd\n"
    assert pages.fill(once, "other", "| 3 |") == once


def test_pages_have_the_tables_of_systems() -> None:
    found = {page.name: re.findall(r"<!-- systems: (\S+) -->", page.read_text("utf-8")) for page in pages.PAGES}
    kept = [f"systems_{pair}" for pair in ("films", "newsapart", "beautyelec", "cloth_sport", "food_kitchen")]
    assert found == {"README.md": [], "performance.md": [], "reproduction.md": kept}
    for page in pages.PAGES:
        text = page.read_text(encoding="utf-8")
        for name in found[page.name]:
            table = Table.committed(name)
            about = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
            assert about["command"] in text
            assert record_table.fill(text, name, table) == text
            assert "| i2VAE" in text.split(f"<!-- systems: {name} -->")[1].split("\n\n")[0]


def test_reproduction_page_has_the_lifts_over_three_splits() -> None:
    assert pages.fill(REPRODUCTION, "splits", splits_study.markdown()) == REPRODUCTION
    shown = REPRODUCTION.split("<!-- splits -->")[1].split("\n\n")[0]
    for path in (ROOT / "docs" / "results").glob("splits_*_cells.csv"):
        pair = path.stem.removeprefix("splits_").removesuffix("_cells")
        assert shown.count(f"| {pair} | best other system") == shown.count(f"| {pair} | best reference") == 2
        cells, means = pd.read_csv(path), pd.read_csv(path.with_name(f"splits_{pair}.csv"))
        counted = cells[cells["n"] >= 100].groupby(["system", "candidates"])[["mean", "base_mean"]].mean()
        lift = counted["base_mean"] / counted["mean"] - 1
        np.testing.assert_allclose(
            means.set_index(["system", "candidates"])["lift"],
            lift[zip(means["system"], means["candidates"])],
            atol=1e-4,
        )


def test_reproduction_page_has_what_folding_in_costs() -> None:
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    [name] = re.findall(r"<!-- fold in: (\S+) -->", page)
    table = pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv")
    assert fold_in_study.fill(page, name, table) == page
    assert "| LightGCN-M |" in page.split(f"<!-- fold in: {name} -->")[1].split("\n\n")[0]
    np.testing.assert_allclose(table["folded_in"] - table["trained"], table["difference"], atol=2e-6)


def test_readme_has_the_recipe_of_the_committed_results() -> None:
    for page in pages.PAGES:
        text = page.read_text(encoding="utf-8")
        assert recipe_study.fill(text) == text
    shown = README.split("<!-- mean lift -->")[1].split("\n\n")[0]
    pairs = {path.stem.removeprefix("recipe_") for path in RESULTS if path.stem.startswith("recipe_")}
    assert all(f"| {pair} |" in shown for pair in pairs if not pair.endswith("_rows"))
    for path in sorted((ROOT / "docs" / "results").glob("recipe_*.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        assert about["mean_lift"]["low"] < about["mean_lift"]["mean"] < about["mean_lift"]["high"]


def test_recipe_rows_are_other_models() -> None:
    cells = read_sweep("recipe", {"data": "cloth_sport", "protocol": "strict", "seeds": [0]}).cells
    rows = {place.row for cell in cells for place in cell.places}
    assert len(cells) == len(rows) == 15 and recipe_study.RECIPE in rows
    for path in sorted((ROOT / "docs" / "results").glob("recipe_*_rows.csv")):
        table = pd.read_csv(path)
        assert set(table["row"]) | set(table["against"]) <= rows


def test_sweep_goes_on_from_the_kept_table() -> None:
    def lines(run: str, axis: float, *values: float) -> pd.DataFrame:
        state = "missing" if np.isnan(values).all() else "done"
        head = {"grid": "g", "row": "", "axis": axis, "seed": 0, "state": state}
        return pd.DataFrame([head | {"value": value, "validation": 0.1, "run": run} for value in values])

    folder = pd.concat([lines("a", 1.0, np.nan), lines("b", 2.0, 0.2, 0.3), lines("c", 3.0, np.nan)])
    before = pd.concat([lines("a", 1.0, 0.5, 0.6), lines("b", 2.0, 0.7), lines("c", 3.0, np.nan)])
    before = before.drop(columns="validation").assign(row=np.nan)  # as it is read from an older CSV
    table, cells = record_sweep.joined(folder, before)
    assert cells == 1
    assert table["run"].tolist() == ["a", "a", "b", "b", "c"] and table["axis"].tolist() == [1.0, 1.0, 2.0, 2.0, 3.0]
    assert table["value"].tolist()[:4] == [0.5, 0.6, 0.2, 0.3] and table["state"].tolist()[-1] == "missing"
    assert list(table.columns) == list(folder.columns)


def test_sweep_keeps_missing_cells_and_no_empty_user_type() -> None:
    head = {"state": "done", "candidates": "sampled", "metric": "HR@10"}
    lines = [
        head | {"kind": "all", "value": 0.5},
        head | {"kind": "no_history", "value": np.nan},  # nobody is of it
        head | {"kind": "all", "value": 0.1, "candidates": "full"},
        {"state": "missing", "value": np.nan},
    ]
    assert record_sweep.shown(pd.DataFrame(lines)).index.tolist() == [0, 3]


def test_kept_table_names_every_revision() -> None:
    """A run may be begun at one and go on at another."""
    record = {"source_sha256": "ab", "protocol": "strict", "environment": {"git": "a"}, "parameters": {"seed": 2}}
    stages = {"train": {"revision": "b", "seconds": 3600.0}, "prepare": {"revision": "a", "seconds": 1800.0}}
    about = kept.made_by([record | {"stages": stages}, record | {"stages": {}}], "command")
    assert about["revision"] == ["a", "b"] and about["data_sha256"] == "ab" and about["command"] == "command"
    assert about["hours"] == 1.5 and about["seeds"] == [2]
    with pytest.raises(LayoutError, match="no run is finished there yet"):
        kept.made_by([], "command")


@pytest.mark.parametrize("name", make_results.STUDIES)
def test_study_at_full_size_is_one_that_its_notebook_takes(name: str, logs_folder: Path) -> None:
    study = make_results.STUDIES[name]
    notebook = ROOT / "notebooks" / f"{study.notebook}.ipynb"
    assert set(study.parameters) <= set(inspect_notebook(str(notebook))) and study.parameters["cells"] is None
    all_of_it, here, _ = grids.from_notebook(
        dict.fromkeys(STUDY_NAMES) | {"seed": 0, "overrides": {}} | study.parameters
    )
    assert here.cells == all_of_it.cells and len(here.cells) >= 8


def test_results_when_a_study_is_misspelt() -> None:
    with pytest.raises(SystemExit, match="did you mean 'robustness'"):
        make_results.main(["robustnes"])


def test_kept_table_is_made_again_by_its_own_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Any] = []
    monkeypatch.setenv("I2VAE_RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(make_results.cli, "main", lambda words: given.append(words) or 0)
    monkeypatch.setattr(make_results.record_run, "main", lambda *words: given.append(list(words)))
    monkeypatch.setitem(make_results.TOOLS, "tools/recipe_study.py", given.append)
    make_results.main(["cloth_sport_strict_paper_20_epochs", "recipe_cloth_sport"])
    out = str(tmp_path / "results-cloth_sport_strict_paper_20_epochs")
    told = "--data cloth_sport --protocol strict --preset paper --epochs 20 --no-notebooks --out"
    assert given[0] == ["run", *told.split(), out]
    assert given[1][:2] == [out, "cloth_sport_strict_paper_20_epochs"] and given[1][2].startswith("make run DATA=")
    assert given[2] == ["cloth_sport", "strict", "--seeds", "0", "1", "2"]


def test_most_kept_tables_can_be_made_again() -> None:
    kept_tables = {path.stem for path in (ROOT / "docs" / "results").glob("*.json")}
    made_by_notebooks_or_hand = ("cold_", "fold_in", "growth", "latents", "search_", "systems", "paper_table_cost")
    assert {name for name in kept_tables - set(make_results.kept_again())} == {
        name for name in kept_tables if name.startswith(made_by_notebooks_or_hand)
    }


def test_recipe_rows_when_one_is_misspelt() -> None:
    with pytest.raises(SystemExit, match="did you mean 'the paper's denoising term'"):
        recipe_study.main(["cloth_sport", "strict", "--finished", "--rows", "full", "no denoising"])


def test_recipe_of_one_seed_has_no_spread() -> None:
    table = pd.read_csv(ROOT / "docs" / "results" / "recipe_cloth_sport.csv").assign(sd=np.nan, seeds=1)
    pages_of = [recipe_study.markdown({"cloth_sport": table}, ["all", "cold"])]
    assert all("| cloth_sport | Cloth |" in page and "nan" not in page and "±" not in page for page in pages_of)


def test_data_results_when_no_pair_is_at_hand(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def nowhere(*_: Any) -> Any:
        raise DataError("no such file")

    monkeypatch.setattr(data_results, "load_dataset", nowhere)
    monkeypatch.setattr(kept, "keep", nowhere)  # and nothing is overwritten
    data_results.main()
    assert capsys.readouterr().out.count("so what is kept stays") == len(data_results.TABLES)


def test_performance_page_has_the_cost_of_the_committed_probes() -> None:
    page = " ".join((ROOT / "docs" / "performance.md").read_text(encoding="utf-8").split())  # lines may wrap anywhere
    cost = pd.read_csv(ROOT / "docs" / "results" / "paper_table_cost.csv")
    seconds = cost.pivot(index="system", columns="data", values="seconds_at_most")
    memory = cost.groupby("system")["peak_gib"].max()
    for system, one in seconds.iterrows():
        assert f"| {system} | {one['cloth_sport']:,.0f} | {one['phone_elec']:,.0f} | {memory[system]} |" in page
    hours = seconds.sum() / 3600
    first, second = hours["cloth_sport"], hours["phone_elec"]
    third = first * 20_499 / 18_537  # training rows
    assert f"{first:.1f} hours per seed on cloth_sport and {second:.1f} on phone_elec" in page
    whole = 5 * (hours.sum() + third)
    assert f"it takes {third:.1f}. Five seeds of all three: {whole:.0f} hours" in page
    assert f"two workers: {whole / 2:.0f} hours" in page and f"would be {whole / 64:.1f} hours" in page
    assert f"DisenCDR on phone_elec takes {seconds.max().max() / 3600:.1f}" in page


def test_table_when_recorded_from_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured lies in the study's cells, whatever these are called."""
    study = opened(tmp_path / "study", systems=["i2vae"])
    folder = finished(reached(study, "i2vae", 0, 0.2), "i2vae", 12)
    reached(study, "i2vae", 1, 0.1)
    made_by = {"source_sha256": "a", "dataset_sha256": "b", "environment": {"git": "c"}, "protocol": "strict"}
    recorded(folder, **made_by)
    for module in (record_table, kept):
        monkeypatch.setattr(module, "committed_path", lambda name: tmp_path / f"{name}.csv")
    path = record_table.record([study.folder], "systems_world", "i2vae table")
    trials = tmp_path / "search_world.csv"
    for about in (json.loads(one.with_suffix(".json").read_text()) for one in (path, trials)):
        assert (about["command"], about["revision"], about["seeds"]) == ("i2vae table", ["abc", "c"], [0])
    assert set(Table.load(path).cells["system"]) >= {"i2vae"}
    assert pd.read_csv(trials)[["trial", "chosen"]].to_numpy().tolist() == [[1, True], [2, False]]
