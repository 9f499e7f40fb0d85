"""The study of what leaks are worth: each condition opens what it names and nothing else, and the worth is right."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from i2vae_lib.audit.leaks import audit, fired
from i2vae_lib.data import DOMAINS, Ragged, protocols, synthetic
from i2vae_lib.data.dataset import rows_digest
from i2vae_lib.data.released import load_released
from i2vae_lib.data.rows import SPLITS, other
from i2vae_lib.data.user_sequences import with_targets
from i2vae_lib.evaluation import sample_negatives
from i2vae_lib.experiments import leak_worth
from i2vae_lib.experiments.leak_worth import CLOSED, CONDITIONS, LEAKS, Cell
from i2vae_lib.generators import psg
from i2vae_lib.params import load
from i2vae_lib.results import leak_tables, significance
from i2vae_lib.runs import LayoutError, revision
from tests.helpers.worlds import TINY

USER = "user also in training"
TARGET = "target in the user's training rows"
OTHER = "target in other history"
ORDERS = {(f"one order of items in {name}", "catalogue") for name in ("North", "South")}
COPIES = "row of 8 items or more under another name"
OPEN = {leak: frozenset([leak]) for leak in LEAKS}
ALL = frozenset(LEAKS)
NAMES = {"x": "North", "y": "South"}
FLAGS = ["row", "user", "domain", "tailed", "cold", "no_history", "overlapping", "seen"]
COUNTS = ["greater_sampled", "ties_sampled", "greater_full", "ties_full"]


@pytest.fixture(scope="module")
def p():
    """A world in which most users have both domains and most items a twin, so that there is something to plant."""
    world = {
        "synthetic.users": 1200,
        "synthetic.items": 300,
        "synthetic.overlap": 0.8,
        "synthetic.linked_items": 200,
        "references.neighbours": [0],
        "references.shrinkage": [0.0, 50.0],
    }
    return load("smoke", TINY | world, protocol="strict", epochs=1)


@pytest.fixture(scope="module")
def clean(p):
    """The planted world in one order of items, as the released files are; nothing else leaks."""
    return leak_worth.in_one_order(synthetic.generate(p.synthetic), 0)


@pytest.fixture(scope="module")
def raw(clean):
    """Every leak that can be planted is."""
    return leak_worth.planted(clean, 1.0, 0)


@pytest.fixture(scope="module")
def table(raw, p, tmp_path_factory):
    """The study of the rankers that need no training. Do not change it."""
    systems = ["popularity", "copy", "itemknn", "popularity_after", "itemknn_after"]
    return leak_worth.study(raw, p, systems, [0], tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def found(table):
    return leak_tables.worth(table, NAMES, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def published(released_folder):
    return load_released("cloth_sport", released_folder), load("paper")


def digests(dataset) -> dict[str, str]:
    return {split: rows_digest(rows) for split, rows in dataset.splits.items()}


def of_protocol(name: str, raw, p):
    return protocols.apply(name, raw, p.split, p.controls)


def counts(dataset) -> dict[tuple[str, str], int]:
    """Leaks that fired: (check, split) -> rows."""
    lines = fired(audit(dataset))
    return {(check, split): count for check, split, count in zip(lines["check"], lines["split"], lines["count"])}


def cell_of(table: pd.DataFrame, **where):
    """The one line of a table where the columns have these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, table
    return next(table.itertuples())


# --- the data of a condition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [CLOSED, OPEN["pseudo"], OPEN["selection"]], ids=leak_worth.label)
def test_leaky_when_the_data_stay_closed_is_strict_row_for_row(raw, p, opened):
    dataset, strict = leak_worth.leaky(raw, p, opened), of_protocol("strict", raw, p)
    assert digests(dataset) == digests(strict) and dataset.tail == strict.tail
    assert counts(dataset) == {}


def test_leaky_when_training_histories_hold_twins_too_scrubs_or_keeps_them_as_the_protocols_do(raw, clean, p):
    twinned = leak_worth.planted(
        replace(clean, train=clean.test, test=clean.train), 1.0, 0
    ).test  # of the training rows
    pair = replace(raw, train=twinned)
    assert digests(leak_worth.leaky(pair, p, CLOSED)) == digests(of_protocol("strict", pair, p))
    opened = leak_worth.leaky(pair, p, OPEN["order"] | OPEN["users"] | OPEN["histories"])
    assert digests(opened) == digests(of_protocol("released", pair, p))
    assert counts(leak_worth.leaky(pair, p, CLOSED)) == counts(leak_worth.leaky(pair, p, OPEN["users"])) == {}
    assert set(counts(leak_worth.leaky(pair, p, OPEN["histories"]))) == {(OTHER, "validation"), (OTHER, "test")}


@pytest.mark.parametrize("opened", [OPEN["order"] | OPEN["users"] | OPEN["histories"], ALL], ids=leak_worth.label)
def test_leaky_when_order_users_and_histories_are_open_is_released_row_for_row(raw, p, opened):
    dataset, released = leak_worth.leaky(raw, p, opened), of_protocol("released", raw, p)
    assert digests(dataset) == digests(released) and dataset.tail == released.tail
    assert digests(dataset)["test"] != digests(of_protocol("strict", raw, p))["test"]


def test_leaky_when_the_pair_is_published_is_strict_or_released_row_for_row(published):
    pair, paper = published
    assert digests(leak_worth.leaky(pair, paper, CLOSED)) == digests(of_protocol("strict", pair, paper))
    opened = leak_worth.leaky(pair, paper, OPEN["order"] | OPEN["users"] | OPEN["histories"])
    assert digests(opened) == digests(of_protocol("released", pair, paper))
    assert {split: len(rows) for split, rows in opened.splits.items()} == {
        split: len(rows) for split, rows in of_protocol("released", pair, paper).splits.items()
    }


def test_leaky_when_users_are_open_fires_both_user_checks_only(raw, clean, p):
    dataset, closed = leak_worth.leaky(raw, p, OPEN["users"]), leak_worth.leaky(raw, p, CLOSED)
    trained = set(raw.train.user)
    expected = sum(user in trained for user in raw.test.user)
    assert 150 < expected < len(raw.test)
    assert counts(dataset) == {(USER, "test"): expected, (TARGET, "test"): expected}
    assert digests(dataset)["test"] == digests(closed)["test"]
    for one, train in ((dataset, raw.train), (closed, clean.train)):  # every training row, and no other
        kept = sum(len(one.splits[split]) for split in ("train", "validation"))
        assert kept + one.removed["validation rows of users made cold"] == len(train)


def test_leaky_when_the_order_is_open_shows_the_files_and_fires_that_check_only(raw, p):
    dataset, closed = leak_worth.leaky(raw, p, OPEN["order"]), leak_worth.leaky(raw, p, CLOSED)
    assert set(counts(dataset)) == ORDERS and counts(closed) == {}
    test, seeded = dataset.splits["test"], closed.splits["test"]
    assert (test.user == seeded.user).all() and (test.source == seeded.source).all()
    assert (test.target == raw.test.target).all() and (test.target != seeded.target).mean() > 0.3
    for d in DOMAINS:  # the sets are the same, but for twins of the targets
        assert (np.abs(test.history[d].lengths - seeded.history[d].lengths) <= 2).all()
    # another draw asks other targets, and the file's stay
    other_draw = p.model_copy(update={"split": p.split.model_copy(update={"data_seed": 1})})
    again = leak_worth.leaky(raw, other_draw, CLOSED).splits["test"]
    assert (again.target != seeded.target).any()
    assert (leak_worth.leaky(raw, other_draw, OPEN["order"]).splits["test"].target == raw.test.target).all()


def test_leaky_when_histories_are_open_fires_the_other_history_only(raw, p):
    twins = sum(int(raw.catalogue.linked(d)[raw.test.target[raw.test.of(d)]].astype(bool).sum()) for d in DOMAINS)
    for world in (OPEN["order"], CLOSED):
        dataset, closed = leak_worth.leaky(raw, p, OPEN["histories"] | world), leak_worth.leaky(raw, p, world)
        found = counts(dataset)
        # few came by a twin of their own
        assert set(found) - {(OTHER, "validation")} == {(OTHER, "test")} | (ORDERS if world else set())
        test, scrubbed = dataset.splits["test"], closed.splits["test"]
        shorter = sum(test.history[d].lengths - scrubbed.history[d].lengths for d in DOMAINS) > 0
        assert shorter.sum() == found[OTHER, "test"]
        assert (test.target == scrubbed.target).all() and (test.user == scrubbed.user).all()
        # planted beside the target of the file; of the order-free world only where that is drawn again
        assert shorter.sum() == twins > 100 if world else 40 < shorter.sum() < twins


def test_leaky_when_the_pair_is_published_opens_one_leak_at_a_time(published):
    pair, paper = published
    assert counts(leak_worth.leaky(pair, paper, CLOSED)) == {}
    users = leak_worth.leaky(pair, paper, OPEN["users"])
    found = counts(users)
    # some of the 609 targets stand in the training row as the twin of *its* target, and left by its scrubbing
    assert set(found) == {(USER, "test"), (TARGET, "test"), (COPIES, "test")}
    assert found[USER, "test"] == 609 >= found[TARGET, "test"] > 550
    ordered = counts(leak_worth.leaky(pair, paper, OPEN["order"]))
    assert set(ordered) == {(f"one order of items in {name}", "catalogue") for name in pair.catalogue.names.values()}
    histories = counts(leak_worth.leaky(pair, paper, OPEN["histories"]))
    assert counts(leak_worth.leaky(pair, paper, OPEN["histories"] | OPEN["order"]))[OTHER, "test"] == 245
    assert abs(histories.pop((OTHER, "test")) - 245) < 30  # of other targets
    assert set(histories) == {(OTHER, "validation")}  # the published training histories hold twins too
    assert digests(users)["test"] == digests(of_protocol("strict", pair, paper))["test"]


def test_candidates_when_any_leak_is_open_are_those_of_its_world(raw, p):
    drawn = {
        leak_worth.label(one): sample_negatives(leak_worth.leaky(raw, p, one).splits["test"], 49, p.split.data_seed)
        for one in CONDITIONS
    }
    assert drawn["none"].shape == (len(raw.test), 49)
    for condition, one in drawn.items():
        assert np.array_equal(one, drawn[leak_worth.world_of(condition)])
    assert not np.array_equal(drawn["order"], drawn["none"])


def test_candidates_when_the_pair_is_published_are_those_of_its_world(published):
    pair, paper = published
    first = {}
    for one in (CLOSED, OPEN["order"], OPEN["users"], OPEN["histories"], ALL):
        rows = leak_worth.leaky(pair, paper, one).splits["test"].take(np.arange(300))
        first[one] = sample_negatives(rows, 999, paper.split.data_seed)
        assert np.array_equal(first[one], first[one & {"order"}])


def test_label_when_conditions_differ_names_each_once():
    assert [leak_worth.label(one) for one in CONDITIONS] == ["none", *LEAKS, "all"]
    assert leak_worth.label(frozenset({"users", "histories"})) == "histories+users"


# --- measure ----------------------------------------------------------------------------------------------------------


class Spy:
    """Notes what it was fitted with, and finds every candidate as good as any other."""

    name = "i2vae"

    def fit(self, train, validation, **named):
        self.train, self.validation, self.named = train, validation, named
        return self

    def score(self, rows, candidates):
        return np.zeros(candidates.shape, dtype=np.float32)


@pytest.fixture
def spied(raw, p, monkeypatch):
    """(spy, what generators were asked for) of a cell that was measured with a spy in i2VAE's place."""

    def measured(opened: frozenset[str], seed: int = 0):
        spy, asked = Spy(), []
        monkeypatch.setattr(leak_worth, "I2VAERecommender", lambda catalogue, p: spy)
        monkeypatch.setattr(leak_worth.psg, "fit_once", lambda train, p: asked.append((rows_digest(train), p)))
        spy.table = leak_worth.measure(raw, p, Cell("i2vae", opened, seed))
        return spy, asked

    return measured


@pytest.mark.parametrize("opened", CONDITIONS, ids=leak_worth.label)
def test_measure_when_a_leak_is_open_trains_and_selects_on_what_it_says(raw, p, spied, opened):
    spy, asked = spied(opened, seed=3)
    data = leak_worth.leaky(raw, p, opened & {"order", "users", "histories"})
    assert rows_digest(spy.train) == digests(data)["train"]
    assert rows_digest(spy.validation) == digests(data)["test" if "selection" in opened else "validation"]
    assert asked == [(digests(data)["train"], psg.as_published(p.psg) if "pseudo" in opened else p.psg)]
    assert spy.named["rng"].random() == np.random.default_rng(3).random()
    # under released systems learn the order of the files, under strict nobody looks for one
    world = p.model_copy(update={"protocol": "released" if "order" in opened else "strict"})
    assert spy.named["params"] == world and p.protocol == "strict"


def test_measure_when_scores_are_constant_gives_chance(spied, raw):
    spy, _ = spied(CLOSED)
    assert len(spy.table) == len(raw.test) and set(spy.table["recommender"]) == {"i2vae"}
    assert (spy.table["greater_sampled"] == 0).all() and (spy.table["ties_sampled"] == 49).all()


@pytest.mark.parametrize("world", leak_worth.WORLDS)
def test_measure_when_a_history_leak_moves_rows_keeps_the_kinds_of_the_closed_condition(raw, p, table, world):
    base = OPEN.get(world, CLOSED)
    closed, dataset = leak_worth.leaky(raw, p, base), leak_worth.leaky(raw, p, OPEN["histories"] | base)
    moved = closed.splits["test"].kinds()["no_history"] & dataset.splits["test"].kinds()["cold"]
    assert moved.sum() >= 5  # a planted twin is all the history these have
    kinds = closed.splits["test"].kinds(closed.tail["test"])
    here = table[table["leaks"].map(leak_worth.world_of) == world]
    for (system, label), part in here.groupby(["recommender", "leaks"]):
        assert part["row"].tolist() == closed.splits["test"].source.tolist(), (system, label)
        for kind in ("tailed", "cold", "no_history", "overlapping"):
            assert (part[kind].to_numpy() == kinds[kind]).all(), (system, label, kind)
        assert part[FLAGS].reset_index(drop=True).equals(here[FLAGS].iloc[: len(part)].reset_index(drop=True))


def test_measure_when_own_histories_hold_the_target_takes_the_closed_conditions_tail(raw, p):
    test, histories = raw.test, {}
    for d in DOMAINS:
        own = {int(i): test.target[i] for i in test.of(d)}
        lists = [[*test.history[d][i], *([own[i]] if i in own else [])] for i in range(len(test))]
        histories[d] = Ragged.from_lists(lists)
    pair = replace(raw, test=replace(test, history=histories))
    both = OPEN["order"] | OPEN["histories"]  # a set holds its target once
    closed, opened = leak_worth.leaky(pair, p, OPEN["order"]), leak_worth.leaky(pair, p, both)
    assert all(opened.tail["test"][d] == pytest.approx(closed.tail["test"][d] + 1) for d in DOMAINS)
    table = leak_worth.measure(pair, p, Cell("popularity", both, 0))
    tailed = closed.splits["test"].kinds(closed.tail["test"])["tailed"]
    assert (table["tailed"].to_numpy() == tailed).all() and 0.3 < tailed.mean() < 0.9


def test_measure_when_i2vae_is_resumed_from_its_checkpoint_gives_the_same_ranks(raw, p, tmp_path):
    cell = Cell("i2vae", ALL, 1)
    once = leak_worth.measure(raw, p, cell, tmp_path / "one.ckpt")
    assert (tmp_path / "one.ckpt").is_file()
    again = leak_worth.measure(raw, p, cell, tmp_path / "one.ckpt")
    pd.testing.assert_frame_equal(once, again)
    assert len(once) == len(raw.test) and once[COUNTS].to_numpy().min() >= 0
    assert (once["greater_sampled"] + once["ties_sampled"] <= 49).all()


# --- cells and study --------------------------------------------------------------------------------------------------


def test_cells_when_systems_differ_leave_out_what_they_cannot_see():
    found = leak_worth.cells(list(leak_worth.SYSTEMS), [0, 1, 2])
    by_system = {
        name: [(leak_worth.label(one.leaks), one.seed) for one in found if one.system == name]
        for name in leak_worth.SYSTEMS
    }
    blind = [(label, 0) for label in ("none", "order", "users", "histories", "all")]
    chooses = [(label, 0) for label in ("none", "order", "users", "histories", "selection", "all")]
    assert by_system["popularity"] == by_system["copy"] == blind
    assert by_system["itemknn"] == by_system["ease"] == by_system["ordered_counts"] == chooses
    assert by_system["i2vae"] == list(itertools.product(["none", *LEAKS, "all"], [0, 1, 2]))
    by_order = [(label, 0) for label in ("none", "order", "all")]
    assert by_system["popularity_after"] == by_system["itemknn_after"] == by_order
    assert len(found) == len({one.name for one in found}) == 5 + 5 + 6 + 6 + 6 + 3 + 3 + 21


RAW = synthetic.generate(load("smoke", TINY).synthetic)
SMALL = (["copy", "itemknn", "i2vae"], [0, 1])
CELLS = leak_worth.cells(*SMALL)


@pytest.fixture
def measured(monkeypatch):
    """A stand-in for ``measure``; returns the list of cells that it was called with."""
    calls = []

    def measure(raw, p, cell, checkpoint=None):
        calls.append(cell)
        assert checkpoint.name == "last.ckpt" and checkpoint.parent.name.startswith(f"{cell.name}-")
        checkpoint.write_bytes(b"half")
        stop = getattr(measure, "stop", None)
        if len(calls) == stop:
            raise KeyboardInterrupt
        rank = sum(map(ord, cell.name)) % 50
        return pd.DataFrame({"recommender": cell.system, "row": [1, 2, 3], "greater_sampled": [rank, 0, 1]})

    monkeypatch.setattr(leak_worth, "measure", measure)
    return calls, measure


def test_study_when_cells_are_on_disk_measures_none_again(measured, p, tmp_path):
    calls, _ = measured
    first = leak_worth.study(RAW, p, *SMALL, tmp_path / "new")
    assert calls == CELLS and len(first) == 3 * len(CELLS) == 3 * (5 + 6 + 14)
    assert first["revision"].unique().tolist() == [revision()]
    again = leak_worth.study(RAW, p, *SMALL, tmp_path / "new")
    assert calls == CELLS
    pd.testing.assert_frame_equal(first, again)
    labels = [(leak_worth.label(cell.leaks), cell.seed) for cell in CELLS]
    assert list(zip(first["leaks"], first["seed"]))[::3] == labels
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cells"]
    assert len(list((tmp_path / "new").glob("cells/*/ranks.parquet"))) == len(CELLS)


def test_study_leaves_a_cell_to_the_call_that_has_it(measured, p, tmp_path, monkeypatch):
    calls, measure = measured
    held = leak_worth._works(RAW, p, *SMALL, tmp_path)[CELLS[0]].folder
    held.mkdir(parents=True)
    elsewhere = FileLock(held / ".cell.lock").acquire()

    def at_the_last_it_is_let_go(*given):
        if given[2] == CELLS[-1]:
            elsewhere.lock.release()
        return measure(*given)

    monkeypatch.setattr(leak_worth, "measure", at_the_last_it_is_let_go)
    leak_worth.study(RAW, p, *SMALL, tmp_path)
    assert calls == [*CELLS[1:], CELLS[0]]


def test_study_of_other_data_or_parameters_has_cells_of_its_own(measured, p, tmp_path):
    calls, _ = measured
    leak_worth.study(RAW, p, *SMALL, tmp_path)
    moved = p.model_copy(update={"seed": 5, "preset": "another", "out": "elsewhere"})  # cells say which seed
    leak_worth.study(RAW, moved, *SMALL, tmp_path)
    assert calls == CELLS
    fewer = p.model_copy(update={"evaluation": p.evaluation.model_copy(update={"negatives": 7})})
    for raw, changed in ((leak_worth.planted(RAW, 0.9, 0), p), (RAW, fewer)):
        calls.clear()
        with pytest.raises(LayoutError, match="holds no finished cell of copy, itemknn, i2vae on these data"):
            leak_worth.finished(raw, changed, *SMALL, tmp_path)
        leak_worth.study(raw, changed, *SMALL, tmp_path)
        assert calls == CELLS


def test_study_when_a_cell_fails_measures_the_others_and_says_why(measured, p, tmp_path, monkeypatch):
    calls, measure = measured

    def fails(*given):
        if given[2] == CELLS[1]:
            raise ArithmeticError("loss is nan")
        return measure(*given)

    monkeypatch.setattr(leak_worth, "measure", fails)
    with pytest.raises(RuntimeError, match=f"1 cells failed.*{CELLS[1].name}: ArithmeticError: loss is nan"):
        leak_worth.study(RAW, p, *SMALL, tmp_path)
    assert calls == [CELLS[0], *CELLS[2:]]
    assert len(leak_worth.finished(RAW, p, *SMALL, tmp_path)) == 3 * (len(CELLS) - 1)
    monkeypatch.setattr(leak_worth, "measure", measure)  # tried again
    assert len(leak_worth.study(RAW, p, *SMALL, tmp_path)) == 3 * len(CELLS)


def test_worth_when_there_is_nothing_to_compare_says_so(measured, p, tmp_path):
    table = leak_worth.study(RAW, p, *SMALL, tmp_path)
    in_world = table["leaks"].isin(leak_worth.WORLDS)
    for part in (table[in_world], table[~in_world]):
        with pytest.raises(ValueError, match="needs the condition none or order and one with another leak"):
            leak_tables.worth(part, {"x": "X", "y": "Y"}, rng=np.random.default_rng(0))


def test_study_when_killed_goes_on_where_it_was(measured, p, tmp_path):
    calls, measure = measured
    whole = leak_worth.study(RAW, p, *SMALL, tmp_path / "whole")
    calls.clear()
    measure.stop = 6
    with pytest.raises(KeyboardInterrupt):
        leak_worth.study(RAW, p, *SMALL, tmp_path / "killed")
    assert calls == CELLS[:6]
    assert len(list((tmp_path / "killed").glob("cells/*/ranks.parquet"))) == 5
    assert (
        leak_worth._works(RAW, p, *SMALL, tmp_path / "killed")[CELLS[5]].folder / "last.ckpt"
    ).is_file()  # its epochs
    measure.stop = None
    calls.clear()
    pd.testing.assert_frame_equal(leak_worth.study(RAW, p, *SMALL, tmp_path / "killed"), whole)
    assert calls == CELLS[5:]


def test_study_when_more_seeds_are_asked_for_measures_those_only(measured, p, tmp_path):
    calls, _ = measured
    leak_worth.study(RAW, p, ["copy", "i2vae"], [0], tmp_path)
    calls.clear()
    grown = leak_worth.study(RAW, p, ["copy", "i2vae"], [0, 1], tmp_path)
    assert [(one.system, one.seed) for one in calls] == [("i2vae", 1)] * len(CONDITIONS)
    assert grown.groupby("recommender")["seed"].nunique().to_dict() == {"copy": 1, "i2vae": 2}


# --- worth ------------------------------------------------------------------------------------------------------------


def ranks(system: str, label: str, seed: int, greater, rows: int = 60, ties: int = 0) -> pd.DataFrame:
    """A table of one cell: every other row of each domain, all of one kind, ``greater`` on sampled candidates."""
    at = np.arange(rows)
    flags = {"tailed": at % 3 == 0, "cold": False, "no_history": False, "overlapping": at % 4 < 2, "seen": True}
    lead = {"recommender": system, "row": at, "user": at.astype(str), "domain": np.where(at % 2 == 0, "x", "y")}
    ranked = {"greater_sampled": greater, "ties_sampled": ties, "greater_full": greater, "ties_full": ties}
    return pd.DataFrame(lead | flags | ranked).assign(leaks=label, seed=seed)


IN_KIND = {
    "all": lambda one: True,
    "tailed": lambda one: one.tailed,
    "cold": lambda one: one.cold,
    "no_history": lambda one: one.no_history,
    "overlapping": lambda one: one.overlapping,
    "seen": lambda one: one.seen,
    "tailed_warm": lambda one: one.tailed and not (one.cold or one.no_history),
}


def slow_means(table: pd.DataFrame, k: int) -> dict[tuple, dict[int, list[float]]]:
    """(system, leak, domain, kind, candidates) -> row -> HR@k of each seed in per cent, line by line."""
    hits: dict[tuple, dict[int, list[float]]] = {}
    for one in table.itertuples():
        ranked = {"sampled": (one.greater_sampled, one.ties_sampled), "full": (one.greater_full, one.ties_full)}
        for kind in [kind for kind, of in IN_KIND.items() if of(one)]:
            for candidates, (greater, ties) in ranked.items():
                rows = hits.setdefault((one.recommender, one.leaks, one.domain, kind, candidates), {})
                rows.setdefault(one.row, []).append(100 * min(max((k - greater) / (ties + 1), 0.0), 1.0))
    return hits


def mean_over_rows(rows: dict[int, list[float]]) -> float:
    return sum(sum(hits) / len(hits) for hits in rows.values()) / len(rows) if rows else math.nan


@pytest.fixture(scope="module")
def seeded(table):
    """The study with a second system of three seeds, whose ranks are another's moved a little, and missing kinds."""
    rng = np.random.default_rng(4)
    parts = [table]
    for label, seed in itertools.product(["none", *LEAKS, "all"], range(3)):
        part = table[(table["recommender"] == "copy") & (table["leaks"] == leak_worth.world_of(label))].copy()
        for one in ("sampled", "full"):
            part[f"greater_{one}"] = np.maximum(part[f"greater_{one}"] + rng.integers(-9, 6, len(part)), 0)
        parts.append(part.sample(frac=1, random_state=seed).assign(recommender="i2vae", leaks=label, seed=seed))
    return pd.concat(parts, ignore_index=True)


def slow_holm(p: list[float]) -> list[float]:
    known = sorted(i for i in range(len(p)) if not math.isnan(p[i]))
    order, least, adjusted = sorted(known, key=lambda i: p[i]), 0.0, [math.nan] * len(p)
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p[i]))
        adjusted[i] = least
    return adjusted


@pytest.mark.parametrize("metric", ["HR@10", "HR@5"])
def test_worth_when_computed_row_by_row_is_the_same(seeded, metric, monkeypatch):
    real, p_values = significance.paired_bootstrap, []

    def fewer(*arrays, **named):
        assert len(set(named["cluster"])) < len(named["cluster"])  # users with two rows are drawn whole
        result = real(*arrays, **named, resamples=99)
        p_values.extend(result.p[:, 0])
        return result

    monkeypatch.setattr(leak_tables.significance, "paired_bootstrap", fewer)
    found = leak_tables.worth(seeded, NAMES, rng=np.random.default_rng(1), metric=metric)
    # popularity, copy, itemknn, those after the last, i2vae; leaks less "none" and "order", which asks other targets
    pairs = 3 + 3 + 4 + 1 + 1 + 5
    assert not set(found["leak"]) & set(leak_worth.WORLDS)
    assert (found["against"] == np.where(found["leak"] == "all", "order", "none")).all()
    assert len(found) == pairs * 2 * 2 * 7 and "p" not in found and set(found["metric"]) == {metric}
    keys, slow = {name: d for d, name in NAMES.items()}, slow_means(seeded, int(metric[3:]))
    for one in found.itertuples():
        at = keys[one.domain], one.kind, one.candidates
        closed, opened = (slow.get((one.system, leak, *at), {}) for leak in (one.against, one.leak))
        assert one.n == len(closed) == len(opened)
        expected = mean_over_rows(closed), mean_over_rows(opened)
        assert (one.closed, one.open) == pytest.approx(expected, abs=1e-9, nan_ok=True)
        assert one.worth == pytest.approx(expected[1] - expected[0], abs=1e-9, nan_ok=True)
        assert math.isnan(one.low) or one.low - 1e-9 <= one.worth <= one.high + 1e-9
        assert one.seeds == (3 if one.system == "i2vae" else 1)
    lines = found.assign(p=p_values)
    for _, part in lines.groupby(["kind", "candidates"]):
        assert len(part) == pairs * 2
        assert part["p_holm"].tolist() == pytest.approx(slow_holm(part["p"].tolist()), nan_ok=True)
    assert found["p_holm"].min() < 0.9 < found["p_holm"].max()


@pytest.mark.parametrize(("closed", "opened", "expected"), [(49, 0, 50.0), (0, 49, -50.0)])
def test_worth_when_half_of_the_rows_change_has_the_sign_of_open_less_closed(closed, opened, expected):
    greater = np.where(np.arange(60) % 4 < 2, opened, closed)
    found = leak_tables.worth(
        pd.concat([ranks("ease", "none", 0, closed), ranks("ease", "users", 0, greater)]),
        NAMES,
        rng=np.random.default_rng(0),
    )
    one = cell_of(found, domain="North", kind="all", candidates="full")
    assert (one.system, one.leak, one.n, one.worth) == ("ease", "users", 30, pytest.approx(expected))
    assert one.worth == pytest.approx(one.open - one.closed)
    assert one.low * one.high > 0 and (one.low > 0) == (expected > 0) and one.p_holm < 0.01


def test_worth_when_a_condition_equals_the_closed_one_is_zero_with_no_width():
    closed = ranks("ease", "none", 0, np.arange(60) % 20)
    found = leak_tables.worth(
        pd.concat([closed, closed.assign(leaks="selection")]), NAMES, rng=np.random.default_rng(0), metric="NDCG@10"
    )
    filled = found[found["n"] > 0]
    assert len(filled) == 2 * 2 * 5  # all, tailed, tailed_warm, overlapping, seen
    assert filled[["worth", "low", "high"]].to_numpy().tolist() == [[0.0, 0.0, 0.0]] * len(filled)
    assert (filled["p_holm"] == 1).all() and (filled["closed"] == filled["open"]).all()
    empty = found[found["n"] == 0]
    assert set(empty["kind"]) == {"cold", "no_history"}
    assert empty[["closed", "open", "worth", "low", "high", "p_holm"]].isna().all(axis=None)


def test_worth_when_seeds_cancel_out_is_their_mean():
    closed = [ranks("i2vae", "none", seed, 49) for seed in (0, 1)]
    opened = [ranks("i2vae", "pseudo", seed, np.where(np.arange(60) % 4 < 2, 49 * seed, 49)) for seed in (0, 1)]
    found = leak_tables.worth(pd.concat(closed + opened), NAMES, rng=np.random.default_rng(0))
    one = cell_of(found, domain="South", kind="all", candidates="sampled")
    assert (one.seeds, one.n, one.closed, one.open) == (2, 30, 0.0, pytest.approx(25.0))


def test_worth_when_a_seed_is_not_done_compares_the_others():
    closed = [ranks("i2vae", "none", seed, 49 * seed) for seed in (0, 1)]
    table = pd.concat([*closed, ranks("i2vae", "pseudo", 0, 0)])
    one = cell_of(
        leak_tables.worth(table, NAMES, rng=np.random.default_rng(0)), domain="South", kind="all", candidates="full"
    )
    assert (one.seeds, one.closed, one.open, one.worth) == (1, 100.0, 100.0, 0.0)
    with pytest.raises(ValueError, match="i2vae: pseudo has no seed in common with none"):
        leak_tables.worth(
            pd.concat([closed[1], table[table["leaks"] == "pseudo"]]), NAMES, rng=np.random.default_rng(0)
        )


# --- planted leaks ----------------------------------------------------------------------------------------------------


def test_planted_when_the_share_is_0_changes_nothing(clean):
    same = leak_worth.planted(clean, 0.0, 0)
    assert rows_digest(same.train) == rows_digest(clean.train) and rows_digest(same.test) == rows_digest(clean.test)


def test_planted_when_the_share_is_1_plants_for_every_eligible_row(clean, raw):
    eligible = clean.test.kinds()["overlapping"]
    assert len(raw.train) - len(clean.train) == eligible.sum() > 150
    added = raw.train.take(np.arange(len(clean.train), len(raw.train)))
    assert sorted(added.source.tolist()) == sorted(clean.test.source[eligible].tolist())
    assert rows_digest(raw.train.take(np.arange(len(clean.train)))) == rows_digest(clean.train)


def test_planted_when_a_row_is_added_holds_the_test_target_in_its_history(clean, raw):
    test = {int(source): i for i, source in enumerate(clean.test.source)}
    for j in range(len(clean.train), len(raw.train)):
        i = test[int(raw.train.source[j])]
        own = DOMAINS[clean.test.domain[i]]
        across = other(own)
        assert raw.train.user[j] == clean.test.user[i] and DOMAINS[raw.train.domain[j]] == across
        assert raw.train.history[own][j].tolist() == [*clean.test.history[own][i], clean.test.target[i]]
        asked = [*raw.train.history[across][j], raw.train.target[j]]
        assert asked == clean.test.history[across][i].tolist()
        assert raw.train.excluded[j].tolist() == asked[:-1]


def test_planted_when_a_target_has_a_twin_puts_it_into_the_other_history_only(clean, raw):
    linked = {d: clean.catalogue.linked(d) for d in DOMAINS}
    for name in ("user", "domain", "target", "source"):
        assert (getattr(raw.test, name) == getattr(clean.test, name)).all()
    planted = 0
    for i in range(len(clean.test)):
        own = DOMAINS[clean.test.domain[i]]
        twin = linked[own][clean.test.target[i]]
        assert raw.test.history[own][i].tolist() == clean.test.history[own][i].tolist()
        assert raw.test.history[other(own)][i].tolist() == [
            *clean.test.history[other(own)][i],
            *([twin][: int(twin > 0)]),
        ]
        planted += twin > 0
    assert 100 < planted < len(clean.test)


def test_planted_when_the_share_grows_keeps_what_a_smaller_one_planted(clean):
    eligible, before = int(clean.test.kinds()["overlapping"].sum()), set()
    for share in (0.2, 0.5, 0.9):
        one = leak_worth.planted(clean, share, 0)
        users = set(one.train.user[len(clean.train) :])
        assert before < users
        # four standard errors of a share of users
        rows = len(one.train) - len(clean.train)
        assert abs(rows - share * eligible) < 4 * math.sqrt(2 * eligible * share * (1 - share))
        before = users
    assert set(leak_worth.planted(clean, 0.5, 1).train.user[len(clean.train) :]) != set(
        leak_worth.planted(clean, 0.5, 0).train.user[len(clean.train) :]
    )


# --- positive and negative control ------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", NAMES.values())
@pytest.mark.parametrize("candidates", ["sampled", "full"])
def test_worth_when_users_were_planted_is_positive_for_itemknn(found, domain, candidates):
    one = cell_of(found, system="itemknn", leak="users", domain=domain, kind="all", candidates=candidates)
    assert one.worth > 3 and one.low > 0 and one.n > 100


@pytest.mark.parametrize("domain", NAMES.values())
@pytest.mark.parametrize("candidates", ["sampled", "full"])
def test_worth_when_twins_were_planted_is_positive_for_copy(found, domain, candidates):
    one = cell_of(found, system="copy", leak="histories", domain=domain, kind="all", candidates=candidates)
    assert one.worth > 8 and one.low > 0 and one.p_holm < 0.05


def test_worth_when_a_system_cannot_see_the_leak_is_zero_with_no_width(found):
    """Popularity counts training rows: what stands in a test history is nothing to it."""
    part = found[(found["system"] == "popularity") & (found["leak"] == "histories") & (found["n"] > 1)]
    # but for rows without any history, which a planted twin makes rows with one: both are ranked by popularity
    assert len(part) >= 20 and part[["worth", "low", "high"]].to_numpy().tolist() == [[0.0] * 3] * len(part)


def test_worth_when_nothing_was_planted_is_zero_for_users_and_histories(p, tmp_path):
    clean = leak_worth.in_one_order(synthetic.generate(p.synthetic.model_copy(update={"linked_items": 0})), 0)
    table = leak_worth.study(clean, p, ["copy", "itemknn"], [0], tmp_path)
    found = leak_tables.worth(table, NAMES, rng=np.random.default_rng(0))
    part = found[found["leak"].isin(["users", "histories"]) & (found["n"] > 1)]
    assert len(part) > 40 and (part[["worth", "low", "high"]] == 0).all(axis=None)
    for one in (OPEN["users"], OPEN["histories"], ALL):
        closed = leak_worth.leaky(clean, p, one & {"order"})
        assert digests(leak_worth.leaky(clean, p, one)) == {s: digests(closed)[s] for s in SPLITS}
    part = found[(found["leak"] == "all") & (found["system"] == "copy") & (found["n"] > 1)]
    assert len(part) > 20 and (part[["worth", "low", "high"]] == 0).all(axis=None)


# --- the two worlds ---------------------------------------------------------------------------------------------------


def test_worlds_when_computed_row_by_row_are_the_same(seeded):
    found = leak_tables.worlds(seeded, NAMES, rng=np.random.default_rng(0), resamples=200)
    assert set(found["world"]) == {"none", "order", "all"} and len(found) == 3 * 6 * 2 * 2 * 7
    keys, slow = {name: d for d, name in NAMES.items()}, slow_means(seeded, 10)
    for one in found.itertuples():
        at = one.world, keys[one.domain], one.kind, one.candidates
        value, base = (mean_over_rows(slow.get((system, *at), {})) for system in (one.system, "itemknn"))
        assert one.n == len(slow.get(("itemknn", *at), {}))
        assert (one.value, one.itemknn) == pytest.approx((value, base), abs=1e-9, nan_ok=True)
        if not base > 0:
            assert math.isnan(one.lift) and math.isnan(one.low) and math.isnan(one.high)
            continue
        assert one.lift == pytest.approx(100 * (value / base - 1), abs=1e-6)
        assert one.low - 1e-9 <= one.lift <= one.high + 1e-9 or one.n < 40
        assert one.seeds == (3 if one.system == "i2vae" else 1)
    own = found[(found["system"] == "itemknn") & (found["itemknn"] > 0)]
    assert (own[["lift", "low", "high"]] == 0).all(axis=None)


def test_worlds_when_the_order_was_planted_show_it_in_the_files_world_only(table):
    found = leak_tables.worlds(table, NAMES, rng=np.random.default_rng(0), resamples=500)
    part = found[(found["kind"] == "all") & (found["candidates"] == "sampled")]
    for domain in NAMES.values():
        opened = cell_of(part, system="itemknn_after", world="order", domain=domain)
        assert opened.low > 5
        assert cell_of(part, system="itemknn_after", world="none", domain=domain).high <= 0
        # who goes by it without knowing anything else gains as well
        gain = {
            world: cell_of(part, system="popularity_after", world=world, domain=domain).value
            / cell_of(part, system="popularity", world=world, domain=domain).value
            for world in leak_worth.WORLDS
        }
        assert gain["order"] > 1.3 and gain["none"] < 1.1


def test_worlds_when_half_of_the_rows_are_found_have_the_bootstrap_of_a_share():
    """Of 30 rows a domain ItemKNN finds all and the other half: its lift is a binomial share, less 1."""
    half = ranks("ease", "none", 0, np.where(np.arange(60) % 4 < 2, 0, 49))
    table = pd.concat([ranks("itemknn", "none", 0, 0), half])
    one = cell_of(
        leak_tables.worlds(table, NAMES, rng=np.random.default_rng(0)),
        system="ease",
        domain="South",
        kind="all",
        candidates="full",
    )
    assert (one.n, one.value, one.itemknn, one.lift) == (30, pytest.approx(50), 100, pytest.approx(-50))
    error = 100 * math.sqrt(0.25 / 30)
    assert one.low == pytest.approx(-50 - 1.96 * error, abs=3) and one.high == pytest.approx(-50 + 1.96 * error, abs=3)


def test_worlds_when_there_is_nothing_to_compare_say_so():
    table = ranks("ease", "none", 0, 3)
    with pytest.raises(ValueError, match="none: lifts are over itemknn"):
        leak_tables.worlds(table, NAMES, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="worlds are the conditions none, order and all"):
        leak_tables.worlds(table.assign(leaks="users"), NAMES, rng=np.random.default_rng(0))


@pytest.mark.parametrize("data_seed", [0, 1])
def test_in_one_order_when_pairs_are_counted_has_none_both_ways(p, data_seed):
    raw = synthetic.generate(p.synthetic)
    one = leak_worth.in_one_order(raw, data_seed)
    for before, after in ((raw.train, one.train), (raw.test, one.test)):
        for name in ("user", "domain", "source"):
            assert (getattr(before, name) == getattr(after, name)).all()
        for d in DOMAINS:
            sets = [[sorted(line) for line in lists(with_targets(rows, d))] for rows in (before, after)]
            assert sets[0] == sets[1]

    def stood(pair) -> list[set[tuple[int, int]]]:
        found = []
        for d in DOMAINS:
            sequences = [line for rows in (pair.train, pair.test) for line in lists(with_targets(rows, d))]
            found.append({two for line in sequences for two in itertools.combinations(line, 2)})
        return found

    assert not any((b, a) in pairs for pairs in stood(one) for a, b in pairs)
    assert sum((b, a) in pairs for pairs in stood(raw) for a, b in pairs) > 100
    again = leak_worth.in_one_order(one, data_seed)
    assert rows_digest(again.train) == rows_digest(one.train) and rows_digest(again.test) == rows_digest(one.test)
    assert rows_digest(leak_worth.in_one_order(raw, data_seed + 1).train) != rows_digest(one.train)


def lists(sequences: Ragged) -> list[list[int]]:
    return [sequences[i].tolist() for i in range(len(sequences))]
