"""What the explorers show: each table against the part of the kit that it is made of."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from i2vae_lib import evaluation, stages
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Rows, popularity
from i2vae_lib.explorers import views
from i2vae_lib.explorers.contents import named
from i2vae_lib.explorers.views import Switches
from i2vae_lib.generators import psg
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.runs import LayoutError
from i2vae_lib.training import Callbacks
from tests.helpers.tables import checkpoint, sweep_table
from tests.helpers.worlds import TINY

ON = Switches()


@pytest.fixture(scope="module")
def rows(dataset: CrossDomainDataset) -> Rows:
    return dataset.splits["test"]


@pytest.fixture(scope="module")
def knowing(dataset: CrossDomainDataset) -> I2VAERecommender:
    """One epoch of a model with evidence."""
    p = load("tuned", TINY | {"synthetic.users": 600, "training.batch_size": 256}, data="synthetic", epochs=1)
    train = dataset.splits["train"]
    return I2VAERecommender(dataset.catalogue, p).fit(
        train,
        dataset.splits["validation"],
        params=p,
        generator=psg.fit(train, p.psg),
        rng=np.random.default_rng(0),
        callbacks=Callbacks(),
    )


def line_of(rows: Rows, kind: str) -> int:
    return int(np.flatnonzero(rows.kinds()[kind])[0])


def apart(recommender: I2VAERecommender, rows: Rows, kind: str = "overlapping") -> Any:
    return views.take_apart(recommender, rows, line_of(rows, kind))


def others(one: Any, domain: str) -> np.ndarray:
    """Places of the items that the user does not have (nor had, before the row was made cold)."""
    own = one.rows.history[domain][DOMAINS.index(domain)]
    hidden = one.rows.excluded[DOMAINS.index(domain)] if domain == one.asked else own
    return np.setdiff1d(np.arange(one.rows.catalogue.size(domain)), np.append(own, hidden) - 1)


# --- a user -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["overlapping", "cold", "no_history"])
def test_scores_when_everything_is_on(knowing: I2VAERecommender, rows: Rows, kind: str) -> None:
    # what the explorer shows is what evaluation ranks
    one = apart(knowing, rows, kind)
    found = views.scores(knowing, one, ON)
    for number, d in enumerate(DOMAINS):
        everything = np.arange(1, rows.catalogue.size(d) + 1, dtype=np.int32)[None]
        expected = knowing.score(one.rows.take(np.array([number])), everything)[0]
        at = others(one, d)
        np.testing.assert_allclose(found[d][at], expected[at], rtol=1e-5, atol=1e-6)
        assert np.isneginf(np.delete(found[d], at)).all()


def test_scores_when_all_is_swapped(knowing: I2VAERecommender, rows: Rows) -> None:
    # with everything of the partner and no evidence, what speaks is the partner
    lines = np.flatnonzero(rows.kinds()["overlapping"])[:2]
    one, partner = (views.take_apart(knowing, rows, int(line)) for line in lines)
    swapped = Switches("swapped", "swapped", "swapped", evidence=False)
    found, theirs = (
        views.scores(knowing, one, swapped, partner),
        views.scores(knowing, partner, Switches(evidence=False)),
    )
    own = views.scores(knowing, one, Switches(evidence=False))
    for d in DOMAINS:
        at = np.intersect1d(others(one, d), others(partner, d))
        np.testing.assert_array_equal(found[d][at], theirs[d][at])
        assert np.abs(found[d][at] - own[d][at]).max() > 1e-3


@pytest.mark.parametrize("role", ["specific", "transferable", "augmented"])
def test_scores_when_one_latent_is_off(trained: I2VAERecommender, rows: Rows, role: str) -> None:
    one = apart(trained, rows)
    found = views.scores(trained, one, replace(ON, **{role: "off"}))
    back = views.scores(trained, one, replace(ON, **{role: "swapped"}), one)  # for one's own
    everything_on = views.scores(trained, one, ON)
    for d in DOMAINS:
        at = others(one, d)
        assert np.abs(found[d][at] - everything_on[d][at]).max() > 1e-4
        np.testing.assert_array_equal(back[d], everything_on[d])


def test_scores_when_there_is_no_evidence(knowing: I2VAERecommender, rows: Rows) -> None:
    # what counts speak for loses
    one = apart(knowing, rows)
    found, before = views.scores(knowing, one, Switches(evidence=False)), views.scores(knowing, one, ON)
    for d in DOMAINS:
        at = others(one, d)
        known = np.isin(at + 1, one.sides[d].evidence_items.numpy())
        change = before[d][at] - found[d][at]
        assert change[known].mean() > change[~known].mean()


def test_scores_when_there_is_no_history(trained: I2VAERecommender, rows: Rows) -> None:
    one = apart(trained, rows, "no_history")
    found = views.scores(trained, one, Switches("off", "off", "off"))
    for d in DOMAINS:
        np.testing.assert_array_equal(found[d], trained.popularity[d][1:].astype(np.float32))


def test_scores_when_the_target_is_another(trained: I2VAERecommender, rows: Rows) -> None:
    line = line_of(rows, "overlapping")
    changed = replace(rows, target=np.where(rows.target == 1, 2, 1).astype(np.int32))
    for d in DOMAINS:
        np.testing.assert_array_equal(
            views.scores(trained, views.take_apart(trained, rows, line), ON)[d],
            views.scores(trained, views.take_apart(trained, changed, line), ON)[d],
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Switches(specific="none"), "specific is 'none'; one of on, off, swapped"),
        (lambda: Switches(augmented=""), "augmented is ''"),
    ],
)
def test_switches_when_a_state_is_unknown(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_scores_when_there_is_no_partner(trained: I2VAERecommender, rows: Rows) -> None:
    with pytest.raises(ValueError, match="transferable is to be swapped: with whom"):
        views.scores(trained, apart(trained, rows), Switches(transferable="swapped"))


def test_target_rank_when_evaluation_ranks(trained: I2VAERecommender, rows: Rows) -> None:
    part = rows.take(np.arange(40))
    counted = evaluation.rank(trained, part, None, full=True, batch_size=64)
    for line in range(len(part)):
        one = views.take_apart(trained, part, line)
        expected = 1 + counted["greater_full"][line] + counted["ties_full"][line] / 2
        assert one.target_rank(views.scores(trained, one, ON)) == expected


def test_first_items_when_nothing_changed(knowing: I2VAERecommender, rows: Rows) -> None:
    one = apart(knowing, rows)
    found = views.scores(knowing, one, ON)
    table = views.first_items(one, found, found, "y", k=5)
    assert list(table.columns) == ["place", "item", "score", "before", "note"]
    assert table["place"].tolist() == table["before"].tolist() == [1, 2, 3, 4, 5]
    assert table["score"].is_monotonic_decreasing
    best = int(np.argmax(found["y"])) + 1
    assert table["item"][0] == rows.catalogue.label("y", np.array([best]))[0]
    recalled = rows.catalogue.label("y", one.recalled[0][1][one.recalled[0][1] != 0])
    assert [("recalled" in note) for note in table["note"]] == [item in recalled for item in table["item"]]


def test_first_items_when_the_target_is_among_them(trained: I2VAERecommender, rows: Rows) -> None:
    one = apart(trained, rows)
    found = views.scores(trained, one, ON)
    best = int(np.argmax(found[one.asked])) + 1
    aimed = replace(one, rows=replace(one.rows, target=np.array([best, best], dtype=np.int32)))
    assert "target" in views.first_items(aimed, found, found, one.asked)["note"][0]
    assert aimed.target_rank(found) == 1


def test_posteriors_when_a_row_is_cold(trained: I2VAERecommender, rows: Rows) -> None:
    one = apart(trained, rows, "cold")
    found = views.posteriors(trained, one).set_index(["domain", "role"])["kl"]
    names = rows.catalogue.names
    asked, other = names[one.asked], names[DOMAINS[1 - DOMAINS.index(one.asked)]]
    # asked where nothing was taken: only what transfers; asked where all was: all but that
    assert found[asked].notna().to_dict() == {"specific": False, "transferable": True, "augmented": False}
    assert found[other].notna().to_dict() == {"specific": True, "transferable": False, "augmented": True}
    assert views.posteriors(trained, one)["latent"].tolist() == ["x", "t_y", "a_x", "y", "t_x", "a_y"]


def test_rows_of_when_nobody_has_that_name(rows: Rows) -> None:
    user = str(rows.user[3])
    assert (rows.user[views.rows_of(rows, user)] == user).all()
    with pytest.raises(ValueError, match=f"no row of user '{user}z'; did you mean '"):
        views.rows_of(rows, f"{user}z")
    with pytest.raises(ValueError, match=r"no row of user '.{0,1400}'$"):
        views.rows_of(rows, "§" * 5_000)
    with pytest.raises(ValueError, match=r"no row of user '§'$"):
        views.rows_of(rows, "§")


def test_history_table_when_shown(trained: I2VAERecommender, rows: Rows) -> None:
    one = apart(trained, rows)
    table = one.history("x")
    last = one.rows.history["x"][0][-1]
    assert table["real item"][0] == rows.catalogue.label("x", np.array([last]))[0]
    assert table["pseudo-item"][0] == rows.catalogue.label("x", one.recalled[0][0][:1])[0]


# --- a pair -----------------------------------------------------------------------------------------------------------


def test_lengths_when_counted(dataset: CrossDomainDataset) -> None:
    rows = views.chosen_rows(dataset, "test", "x", "tailed")
    assert (rows.domain == 0).all() and (rows.lengths("own") < dataset.tail["test"]["x"]).all()
    table = views.lengths(rows)
    assert table.groupby("history")["rows"].sum().tolist() == [len(rows), len(rows)]
    rows = views.chosen_rows(dataset, "test", "x")
    own = views.lengths(rows).query("history == 'own'").set_index("length")["rows"]
    assert own["2"] == (rows.lengths("own") == 2).sum() and own.sum() == len(rows)
    most = own.index[-1]
    assert most.endswith("+") and own.iloc[-1] == (rows.lengths("own") >= int(most[:-1])).sum()
    assert views.lengths(rows.take(np.array([], dtype=int)))["rows"].sum() == 0


def test_popularity_curve_when_drawn(dataset: CrossDomainDataset) -> None:
    table = views.popularity_curve(dataset, points=10)
    counts = popularity(dataset.splits["train"])
    for d in DOMAINS:
        part = table[table["domain"] == dataset.catalogue.names[d]]
        assert part["users"].iloc[0] == counts[d].max()
        assert part["rank"].iloc[-1] == dataset.catalogue.size(d)
        assert part["users"].is_monotonic_decreasing


def test_overlap_when_counted(dataset: CrossDomainDataset) -> None:
    table = views.overlap(dataset)
    assert len(table) == 6
    assert (table[["both", "own only", "cold", "no history"]].sum(axis=1) == table["rows"]).all()
    test = table[table["split"] == "test"]
    kinds = dataset.splits["test"].kinds()
    assert test["cold"].sum() == kinds["cold"].sum() and test["both"].sum() == kinds["overlapping"].sum()


def test_checks_when_filtered() -> None:
    lines = [
        {"check": "a", "split": "train", "severity": "leak", "count": 0, "share": 0.0, "example": ""},
        {"check": "b", "split": "test", "severity": "note", "count": 5, "share": 0.1234, "example": "row 1"},
        {"check": "c", "split": "test", "severity": "leak", "count": 0, "share": 0.0, "example": ""},
        {"check": "d", "split": "catalogue", "severity": "note", "count": 0, "share": 0.0, "example": ""},
    ]
    record = {"audit": lines}
    assert views.checks(record)["check"].tolist() == ["a", "b", "c", "d"]
    assert views.checks(record, "test")["check"].tolist() == ["b", "c", "d"]
    assert views.checks(record, "test", "leaks")["check"].tolist() == ["c"]
    found = views.checks(record, only="found")
    assert found["check"].tolist() == ["b"] and found["per cent"].tolist() == [12.34]


# --- runs -------------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """In place of a kill."""


def stop(record: dict[str, float]) -> None:
    raise Stopped


def test_curves_while_a_run_trains_and_after(tiny: Parameters, tmp_path: Path) -> None:
    run = stages.open_run(tiny, tmp_path / "a" / "run")
    runs = named([run.folder])
    assert list(runs) == ["run"]
    assert views.curves(runs).empty and views.progress(runs)["state"].tolist() == ["not begun"]
    with pytest.raises(Stopped):
        stages.train(run, on_epoch=stop)
    [line] = views.progress(runs).to_dict(orient="records")
    assert (line["state"], line["epoch"], line["of"], line["best"]) == ("training", 1, 2, 1)
    assert line["minutes left"] >= 0
    first = views.curves(runs)
    stages.train(run)
    assert views.progress(runs)["state"].tolist() == ["done"]
    table = views.curves(runs)
    assert table["epoch"].tolist() == [1, 2] and table["value"][0] == first["value"][0]
    assert table["value"].tolist() == stages.load_history(run.folder)["ndcg@10"].tolist()
    assert views.columns(runs)[0] == "ndcg@10" and "kl/x" in views.columns(runs)
    with pytest.raises(ValueError, match="no run has a column 'kl/z'; did you mean 'kl/"):
        views.curves(runs, "kl/z")


def test_progress_when_a_run_is_trained_in_stages(tiny: Parameters, tmp_path: Path) -> None:
    folder = stages.open_run(tiny.model_copy(update={"system": "emcdr"}), tmp_path / "run").folder
    checkpoint(folder, "last.ckpt", 2, 0.3)
    [first] = views.progress({"a": folder}).to_dict(orient="records")
    assert (first["epoch"], first["best"], first["minutes left"]) == (2, 1, 0.0)
    os.utime(folder / "last.ckpt", (1, 1))
    checkpoint(folder, "last-mapping.ckpt", 1, 0.2)
    [second] = views.progress({"a": folder}).to_dict(orient="records")
    assert (second["epoch"], second["ndcg@10"], second["minutes left"]) == (1, 0.2, 1.0)
    table = views.curves({"a": folder})
    assert table["run"].tolist() == ["a, stage 1", "a, stage 1", "a, stage 2"]
    assert table["epoch"].tolist() == [1, 2, 1]


def test_history_so_far_when_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="is not a run directory"):
        stages.history_so_far(tmp_path)


def test_named_when_folders_are_alike() -> None:
    assert list(named(["runs/a", "runs/b"])) == ["a", "b"]
    assert list(named(["one/a", "two/a"])) == ["one/a", "two/a"]
    assert list(named([])) == []


# --- a sweep ----------------------------------------------------------------------------------------------------------


def test_cells_when_over_seeds() -> None:
    table = sweep_table()
    assert views.axes(table) == ["model.T", "model.d"]
    found = views.cells(table, "model.T", "model.d", "HR@10", "North", "all")
    first = found.iloc[0]
    assert (first["model.T"], first["model.d"], first["runs"]) == (10, 32, 2)
    assert first["value"] == pytest.approx(4.25) and first["sd"] == pytest.approx(100 * np.std([0.042, 0.043], ddof=1))
    assert len(found) == 5 and found["value"].isna().tolist() == [False, False, False, False, True]
    over = views.cells(table, "model.T", None, "HR@10", "North", "all")
    assert over["value"].tolist()[:2] == pytest.approx([5.85, 6.85]) and over["runs"].tolist() == [4, 4, 0]


def test_cells_when_a_run_stands_in_two_grids() -> None:
    table = sweep_table()
    again = table[table["model.T"] == 10].assign(grid="h")
    both = pd.concat([table, again], ignore_index=True)
    alone = views.cells(table, "model.T", "model.d", "HR@10", "North", "all")
    pd.testing.assert_frame_equal(views.cells(both, "model.T", "model.d", "HR@10", "North", "all"), alone)


def test_sweep_tables_when_read(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="holds no table of a sweep"):
        views.sweep_tables(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    sweep_table().to_csv(tmp_path / "mine.csv", index=False)
    assert list(views.sweep_tables(tmp_path)) == ["mine"]
    assert list(views.sweep_tables(tmp_path / "mine.csv")) == ["mine"]
