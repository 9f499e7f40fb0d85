"""Runs compared: small run directories written by hand, with ranks that are known."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.evaluation import kind_masks, metrics, row_values
from i2vae_lib.params import ParameterError, load
from i2vae_lib.results.differences import Comparison, sampled_against_full
from i2vae_lib.results.lift import mean_lift
from i2vae_lib.results.reading import COUNTED
from i2vae_lib.results.significance import holm
from i2vae_lib.runs import LayoutError
from tests.helpers.planted_runs import (
    REFERENCES,
    RESAMPLES,
    ROWS,
    cell,
    compared,
    made_rows,
    ranks_of,
    recorded,
    skill,
    write_run,
)

SEEN = np.arange(len(ROWS)) % 5 > 0


SEEDS = (0, 1, 2)
WIDE, NARROW = "i2vae (model.d=64)", "i2vae (model.d=32)"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two systems of three seeds each, the second a good deal better. Do not change them."""
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for d, place in ((32, 25), (64, 8)):
        for seed in SEEDS:
            model = ranks_of(skill(1000 * d + seed, place))
            found.append(write_run(folder / f"d{d}-s{seed}", model, {"model.d": d}, seed=seed))
    return found


@pytest.fixture(scope="module")
def found(runs: list[Path]) -> Comparison:
    return compared(runs)


# --- systems, results, tests ------------------------------------------------------------------------------------------


def test_systems_when_runs_differ_in_seed_and_size(found: Comparison, runs: list[Path]) -> None:
    assert found.systems["system"].tolist() == [NARROW, WIDE, "popularity", "oracle"]
    assert found.systems["seeds"].tolist() == [[0, 1, 2], [0, 1, 2], [], []]
    assert found.systems["folders"].tolist()[:3] == [
        [str(one) for one in runs[:3]],
        [str(one) for one in runs[3:]],
        [str(runs[0])],
    ]
    assert found.systems["parameters"].tolist() == [{"model.d": 32}, {"model.d": 64}, {}, {}]
    assert found.about["base"] == NARROW and found.about["rows"] == 240 and found.about["users"] == 120
    assert found.notes == ()


def test_systems_when_only_the_device_differs(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"{seed}", ranks_of(skill(seed, 9)), {"training.device": device}, seed=seed)
        for seed, device in enumerate(("cpu", "cuda"))
    ]
    assert compared(folders[::-1]).systems["seeds"].tolist()[0] == [0, 1]
    assert compared(folders[:1]).systems["system"].tolist() == ["i2vae", "popularity", "oracle"]


def test_systems_when_a_pairs_file_is_spelled_two_ways(tmp_path: Path) -> None:
    folders = []
    for seed, data in enumerate(("pairs/mine.yaml", "/elsewhere/pairs/mine.yaml")):
        parameters = load("smoke", seed=seed, out=str(tmp_path)).model_dump() | {"data": data}
        folders.append(
            write_run(tmp_path / f"{seed}", ranks_of(skill(seed, 9)), record={"parameters": parameters, "data": "mine"})
        )
    assert compared(folders).systems["seeds"].tolist()[0] == [0, 1]
    assert mean_lift(folders, resamples=20, rng=np.random.default_rng(0))[0] > 0


@pytest.mark.parametrize(
    ("overrides", "labels"),
    [
        ([{}, {"model.d": 64}, {"model.d": 16}], ["model.d=32", "model.d=64", "model.d=16"]),
        ([{}, {"model.d": 64, "model.T": 9}], ["model.T=20, …", "model.T=9, …"]),
        (
            [{}, {"model.d": 64}, {"model.T": 9}],
            ["model.T=20, model.d=32", "model.T=20, model.d=64", "model.T=9, model.d=32"],
        ),
        ([{}, {"model.d": 64}, {"model.T": 9}, {"psg.folds": 1}], None),
    ],
)
def test_labels_when_parameters_differ(tmp_path: Path, overrides: list[dict[str, Any]], labels: list[str]) -> None:
    base = {"model.d": 32, "model.T": 20}
    folders = [
        write_run(tmp_path / str(i), ranks_of(skill(i, 9)), base | one, references={})
        for i, one in enumerate(overrides)
    ]
    result = compared(folders)
    expected = [f"i2vae ({one})" for one in labels] if labels else [f"i2vae #{i + 1}" for i in range(len(overrides))]
    assert result.systems["system"].tolist() == expected
    if labels is None or "…" in labels[0]:  # what a label leaves out is written below it
        assert "model.d=64" in result.everything()


def test_results_when_metrics_json_has_the_same_cells(found: Comparison, runs: list[Path]) -> None:
    each = [metrics(pd.read_parquet(one / "ranks.parquet")) for one in runs]
    kinds = ["all", "seen", "tailed", "tailed_warm", "cold", "overlapping", "no_history"]
    assert found.results["kind"].unique().tolist() == kinds
    for one in found.results.itertuples():
        d = {"North": "x", "South": "y"}[str(one.domain)]
        of = {NARROW: each[:3], WIDE: each[3:]}.get(str(one.system), each[:1])
        name = "i2vae" if "i2vae" in str(one.system) else one.system
        values = [run[name][d][one.kind][one.candidates][one.metric] for run in of]
        assert one.n == of[0][name][d][one.kind]["n"] > 0 and one.seeds == len(of)
        assert one.mean == pytest.approx(np.mean(values), abs=1e-14)
        assert np.isnan(one.sd) if len(of) == 1 else one.sd == pytest.approx(np.std(values, ddof=1), abs=1e-14)
    assert len(found.results) == 2 * len(kinds) * 2 * 2 * 4


def test_tests_when_a_difference_is_known(found: Comparison, runs: list[Path]) -> None:
    assert len(found.tests) == 3 * 14 * 2 and found.tests["base"].eq(NARROW).all()
    for one in found.tests.itertuples():
        where = {"domain": one.domain, "kind": one.kind, "metric": one.metric, "candidates": "sampled"}
        means = [cell(found.results, system=name, **where).mean for name in (one.system, NARROW)]
        assert one.difference == pytest.approx(means[0] - means[1], abs=1e-14)
        assert one.interval_low <= one.difference <= one.interval_high
        assert one.interval_low >= -1 and one.interval_high <= 1
    assert found.tests["p"].min() == pytest.approx(1 / (RESAMPLES + 1))
    wide = cell(found.tests, system=WIDE, domain="North", kind="all", metric="HR@10")
    assert wide.difference == pytest.approx(0.7 - 0.34, abs=0.1) and wide.interval_low > 0.2
    worse = cell(found.tests, system="popularity", domain="North", kind="all", metric="HR@10")
    assert worse.difference < 0


def test_overall_when_systems_are_compared_is_the_mean_over_cells(found: Comparison) -> None:
    """One question a system: what no cell of the family says twice, and the oracle asks nothing."""
    assert found.overall["system"].tolist() == [WIDE, "popularity", "oracle"] and found.overall["base"].eq(NARROW).all()
    part = found.results[(found.results["candidates"] == "sampled") & found.results["kind"].isin(HEADLINE)]
    assert part["n"].lt(COUNTED).any()  # too few rows to count
    part = part[part["n"] >= COUNTED]
    means = part.groupby("system")["mean"].mean()
    assert found.overall["cells"].eq(2 * 2).all() and set(part["kind"]) == {"all"}
    for one in found.overall.itertuples():
        assert one.difference == pytest.approx(means[one.system] - means[NARROW], abs=1e-14)
        assert one.interval_low < one.difference < one.interval_high
    asked = found.overall[found.overall["system"] != "oracle"]
    np.testing.assert_allclose(asked["p_holm"], holm(asked["p"].to_numpy()))
    assert found.overall.set_index("system")["p_holm"].isna().to_dict() == {
        WIDE: False,
        "popularity": False,
        "oracle": True,
    }
    one = cell(found.overall, system=WIDE)
    assert one.df == 2 and one.t_low < one.difference < one.t_high and one.p_t_holm == one.p_t
    assert found.overall.set_index("system")["t"].isna().to_dict() == {WIDE: False, "popularity": True, "oracle": True}
    # three runs apart: the wide system in one seed only
    assert compared([*runs_of(found)[:1], *runs_of(found)[3:]]).overall["t"].isna().all()


def runs_of(found: Comparison) -> list[Path]:
    return [Path(folder) for folders in found.systems["folders"][:2] for folder in folders]


def test_overall_when_cells_overlap_has_the_spread_of_a_slow_bootstrap(runs: list[Path]) -> None:
    """The interval against users drawn anew, with the cells' means taken over the drawn rows."""
    one = cell(compared(runs, resamples=4000).overall, system=WIDE)
    tables = [pd.read_parquet(run / "ranks.parquet") for run in runs]
    tables = [table[table["recommender"] == "i2vae"].reset_index(drop=True) for table in tables]
    cutoffs = [("HR", 10), ("NDCG", 10)]
    narrow, wide = (
        np.mean([row_values(t, "sampled", cutoffs) for t in part], axis=0) for part in (tables[:3], tables[3:])
    )
    kinds = kind_masks(tables[0])
    masks = [(tables[0]["domain"] == d).to_numpy() & kinds[kind].to_numpy() for d in "xy" for kind in HEADLINE]
    masks = [mask for mask in masks if mask.sum() >= COUNTED]
    rng, drawn = np.random.default_rng(1), []
    rows_of = [part.to_numpy() for _, part in tables[0].reset_index().groupby("user")["index"]]
    for _ in range(600):
        at = np.concatenate([rows_of[user] for user in rng.integers(0, len(rows_of), len(rows_of))])
        drawn.append(np.mean([(wide - narrow)[at[mask[at]]].mean(axis=0) for mask in masks]))
    assert (one.interval_high - one.interval_low) / 3.92 == pytest.approx(np.std(drawn), rel=0.12)


def test_tests_when_seeds_pair(found: Comparison, runs: list[Path]) -> None:
    values = [
        metrics(pd.read_parquet(one / "ranks.parquet"))["i2vae"]["y"]["cold"]["sampled"]["NDCG@10"] for one in runs
    ]
    known = stats.ttest_rel(values[3:], values[:3])
    one = cell(found.tests, system=WIDE, domain="South", kind="cold", metric="NDCG@10")
    assert (one.t, one.df, one.p_t) == (pytest.approx(known.statistic), 2, pytest.approx(known.pvalue))
    assert (one.t_low, one.t_high) == pytest.approx(tuple(known.confidence_interval(0.95)))
    references = found.tests[found.tests["system"].isin(["popularity", "oracle"])]
    assert references[["t", "df", "p_t"]].isna().all(axis=None)
    other_seeds = compared([*runs[:2], *runs[4:]])
    assert other_seeds.tests["t"].isna().all() and "No t-test over seeds" in other_seeds.everything()


def test_tests_when_systems_agree(tmp_path: Path) -> None:
    same = ranks_of(skill(1, 9))
    folders = [write_run(tmp_path / str(d), same, {"model.d": d}, references={}) for d in (16, 32)]
    result = compared(folders)
    tests = result.tests
    assert (tests["difference"] == 0).all() and (tests["p"] == 1).all()
    assert result.overall[["difference", "p_holm"]].to_numpy().tolist() == [[0, 1]]
    assert (tests[["interval_low", "interval_high"]] == 0).all(axis=None)


def test_tests_when_another_base_is_named(runs: list[Path], found: Comparison) -> None:
    turned = compared(runs, base="popularity").tests
    one = cell(turned, system=NARROW, domain="North", kind="tailed", metric="HR@10")
    other = cell(found.tests, system="popularity", domain="North", kind="tailed", metric="HR@10")
    assert one.base == "popularity" and one.difference == pytest.approx(-other.difference, abs=1e-14)


def test_tests_when_the_full_ranking_is_asked_for(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", ranks_of(5, 50), {"model.d": 16}, references={}),
        write_run(tmp_path / "b", ranks_of(50, 5), {"model.d": 32}, references={}),
    ]
    hits = {kind: compared(folders, candidates=kind, metric_names=["HR@20"]) for kind in ("sampled", "full")}
    assert (hits["sampled"].tests["difference"] == -1).all() and (hits["full"].tests["difference"] == 1).all()
    assert hits["full"].tests["p"].isna().all()  # every row says the same: nothing to resample
    assert "all items ranked" in hits["full"].everything()


def test_numbers_when_the_generator_is_the_same(runs: list[Path], found: Comparison) -> None:
    pd.testing.assert_frame_equal(compared(runs).tests, found.tests)


def test_sampled_against_full_when_systems_swap(tmp_path: Path) -> None:
    half = np.arange(len(ROWS)) % 4 < 2  # every cell has rows of both sorts
    folders = [
        write_run(tmp_path / "a", ranks_of(0, np.where(half, 0, 50)), {"model.d": 16}, references={}),
        write_run(tmp_path / "b", ranks_of(2, 2), {"model.d": 32}, references={}),
        write_run(tmp_path / "c", ranks_of(8, 99), {"model.d": 64}, references={}),
    ]
    result = compared(folders, metric_names=["NDCG@10"])
    one = cell(sampled_against_full(result.results), domain="North", kind="all", metric="NDCG@10")
    # full: a 0.5, b 0.5, c 0; sampled: a 1, b 0.5, c 0.32
    assert one.systems == 3 and one.swapped == [] and one.tau == pytest.approx(2 / np.sqrt(6))
    worse = write_run(tmp_path / "d", ranks_of(0, np.where(half, 2, 50)), {"model.d": 16}, references={})
    result = compared([worse, *folders[1:]], metric_names=["NDCG@10"])
    one = cell(sampled_against_full(result.results), domain="North", kind="all", metric="NDCG@10")
    assert one.swapped == [["i2vae (model.d=16)", "i2vae (model.d=32)"]] and one.tau == pytest.approx(1 / 3)
    assert "only on sampled candidates i2VAE (model.d=16) over i2VAE (model.d=32)" in result.everything()


# --- what is told -----------------------------------------------------------------------------------------------------


def test_text_when_read(found: Comparison) -> None:
    text = found.everything()
    assert text.startswith("synthetic, protocol chronological, data_seed 0: 240 test rows of 120 users, 1 + ")
    assert f"{NARROW}: seeds 0, 1, 2: " in text and "NOT leak-free" not in text
    one = cell(found.results, system=WIDE, domain="North", kind="all", metric="HR@10", candidates="sampled")
    assert f"> {100 * one.mean:.2f} ± {100 * one.sd:.2f}" in text  # best; the oracle is not marked
    assert "> best (left out, for they read the planted truth: Oracle)" in text
    assert "paired bootstrap over users, 400 resamples" in text and "*other rows*" in text
    assert "2 degrees of freedom" in text and "*other seeds*" in text
    assert "on the mean over 4 cells" in text and "over these 2 systems; with 400 resamples none is below 0.005" in text
    assert "each interval and p is of one cell by itself" in text
    assert "nan" not in text.lower()


def test_text_when_read_first_has_the_six_rows_and_no_other(found: Comparison) -> None:
    text = found.text()
    rows = [line.split()[:2] for line in text.splitlines() if line.split()[:1] in (["North"], ["South"])]
    assert rows == [[d, kind] for d in ("North", "South") for kind in ("all", "tailed", "cold")]
    assert "NDCG@10 in per cent" not in text and "cell by cell" not in text and "on the mean over 4 cells" in text


def test_comparison_when_written_for_other_programs(found: Comparison) -> None:
    six = pd.read_csv(io.StringIO(found.text("csv")))
    assert set(six["kind"]) == {"all", "tailed", "cold"} and set(six["metric"]) == {"HR@10"}
    cells = pd.read_csv(io.StringIO(found.everything("csv")))
    expected = found.tests["difference"].tolist()
    assert cells["difference"].tolist() == pytest.approx(expected, nan_ok=True)
    best = cell(found.results, system=WIDE, domain="North", kind="all", metric="HR@10", candidates="sampled")
    number = f"{100 * best.mean:.2f}"
    assert f"\\textbf{{{number}}}" in found.text("latex") and f"**{number}**" in found.text("markdown")


def test_text_when_a_difference_is_certain(runs: list[Path]) -> None:
    told = compared(runs, resamples=4000, metric_names=["HR@10"]).everything().split("** < 0.01, *** < 0.001")[1]
    overall, cells = told.split("cell by cell")
    assert "*** " in overall and "***" not in cells


def test_text_when_the_protocol_is_released(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks_of(skill(1, 9)), protocol="released")
    result = compared([folder])
    for told in (result.text(), result.everything()):
        assert "NOT leak-free: protocol released" in told and result.to_json()["about"]["stamp"] in told


def test_text_when_one_system_stands_alone(tmp_path: Path) -> None:
    result = compared([write_run(tmp_path / "run", ranks_of(4), references={})])
    assert len(result.tests) == len(result.overall) == 0
    assert "one system: nothing to test it against" in result.text() and result.everything()
    assert json.dumps(result.to_json(), allow_nan=False)


def test_text_when_a_cell_is_empty(tmp_path: Path) -> None:
    rows = made_rows(2)  # no cold rows
    references = {"popularity": ranks_of(40, rows=rows)}
    result = compared([write_run(tmp_path / "run", ranks_of(4, rows=rows), references=references, rows=rows)])
    one = cell(result.tests, domain="North", kind="cold", metric="HR@10")
    assert one.n == 0 and np.isnan([one.difference, one.p]).all()
    assert "nan" not in result.everything().lower()


def test_json_when_strict(found: Comparison) -> None:
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(plain) == {"about", "systems", "results", "tests", "overall", "sampled_against_full", "notes"}
    assert plain["tests"][0].keys() == set(found.tests.columns)
    popularity = [one for one in plain["tests"] if one["system"] == "popularity"]
    assert all(one["t"] is None and isinstance(one["p"], float) for one in popularity)
    assert len(plain["results"]) == len(found.results) and plain["about"]["candidates"] == "sampled"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "named", "expected"),
    [
        ({}, {"data": "cloth_sport"}, "data (synthetic there, cloth_sport here)"),
        ({}, {"protocol": "released"}, "protocol (chronological there, released here)"),
        ({"split.data_seed": 7}, {}, "data_seed (0 there, 7 here)"),
        ({"evaluation.negatives": 9}, {}, "negatives ("),
        ({}, {"record": {"dataset_sha256": "cd" * 32}}, "dataset_sha256 (abab"),
        (
            {"controls.density": 0.5},
            {"record": {"dataset_sha256": "cd" * 32}},
            "controls.density (1.0 there, 0.5 here)",
        ),
    ],
)
def test_runs_when_they_answer_other_questions(
    tmp_path: Path, overrides: dict[str, Any], named: dict[str, Any], expected: str
) -> None:
    one = write_run(tmp_path / "one", ranks_of(1), seed=0)
    two = write_run(tmp_path / "two", ranks_of(1), overrides, seed=1, **named)
    with pytest.raises(LayoutError) as refused:
        compared([one, two])
    said = str(refused.value)
    assert said.startswith(f"{two} cannot be compared with {one}: they differ in ") and expected in said


def test_runs_when_their_rows_differ(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", ranks_of(1), seed=0)
    fewer = made_rows(100)
    cut = {name: ranks_of(1, rows=fewer) for name in REFERENCES}
    two = write_run(tmp_path / "two", ranks_of(1, rows=fewer), seed=1, rows=fewer, references=cut)
    with pytest.raises(LayoutError, match=r"the evaluated rows \(240 there, 200 here, 200 with the same row"):
        compared([one, two])


def test_runs_when_one_is_named_twice(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", ranks_of(1), seed=3)
    with pytest.raises(LayoutError, match=r"is named twice \(all parameters and seed 3\)"):
        compared([one, tmp_path / "." / "one"])
    copy = write_run(tmp_path / "copy", ranks_of(1), seed=3)
    with pytest.raises(LayoutError, match=r"copy is the same run as .*one"):
        compared([one, copy])


def test_runs_when_one_is_not_finished(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", None, seed=3)
    with pytest.raises(LayoutError) as refused:
        compared([one])
    said = str(refused.value)
    assert "not finished (no ranks.parquet)" in said
    assert (
        f"`i2vae run --system i2vae --data synthetic --protocol chronological --preset smoke --seed 3 --out {one}`"
        in said
    )
    with pytest.raises(LayoutError, match="not a run directory"):
        compared([tmp_path / "nowhere"])
    with pytest.raises(LayoutError, match="at least one run"):
        compared([])


def test_references_when_they_differ_between_runs(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", ranks_of(1), seed=0)
    other = REFERENCES | {"popularity": ranks_of(skill(7, 40))}
    two = write_run(tmp_path / "two", ranks_of(1), seed=1, references=other)
    with pytest.raises(LayoutError, match=r"the reference ranker popularity has other ranks in \d+ of 240 rows"):
        compared([one, two])
    nearly = REFERENCES["popularity"].copy()
    nearly.loc[5, "greater_full"] += 1
    more = {"popularity": nearly, "oracle": REFERENCES["oracle"], "ease": ranks_of(9)}
    three = write_run(tmp_path / "three", ranks_of(1), seed=2, references=more)
    result = compared([one, three])
    assert "ease" not in set(result.systems["system"])
    assert f"ease is left out: {three} has it, {one} has not" in result.notes[0]
    assert "popularity has other ranks in 1 of 240 rows" in result.notes[1] and result.notes[1] in result.everything()


def test_ranks_when_they_are_damaged(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", ranks_of(1))
    table = pd.read_parquet(one / "ranks.parquet")
    table[table["recommender"] != "i2vae"].to_parquet(one / "ranks.parquet")
    with pytest.raises(LayoutError, match="no ranks of i2vae, only of popularity, oracle"):
        compared([recorded(one)])
    table.iloc[:-1].to_parquet(one / "ranks.parquet")
    with pytest.raises(LayoutError, match="oracle and i2vae were not ranked on the same rows"):
        compared([recorded(one)])
    whole = compared([write_run(tmp_path / "whole", ranks_of(1))]).results
    table.sample(frac=1, random_state=0).to_parquet(one / "ranks.parquet")
    order = ["system", "candidates", "domain", "kind", "metric"]
    shuffled = compared([recorded(one)]).results
    pd.testing.assert_frame_equal(*(found.sort_values(order, ignore_index=True) for found in (shuffled, whole)))
    table.assign(greater_full=-1).to_parquet(one / "ranks.parquet")
    assert compared([recorded(one)]).results.query("candidates == 'full'")["mean"].isna().all()
    with pytest.raises(LayoutError, match="hold no full ranking"):
        compared([recorded(one)], candidates="full")


def test_rows_when_they_have_fewer_candidates_than_asked_for_are_named(tmp_path: Path) -> None:
    few = ranks_of(1)
    few["candidates_sampled"] = np.where(ROWS.domain == 1, 39, 99)
    ranked = {name: table.assign(candidates_sampled=few["candidates_sampled"]) for name, table in REFERENCES.items()}
    result = compared([write_run(tmp_path / "one", few, references=ranked)])
    said = "South: 120 of 120 rows have fewer than 99 items left beside target and history (39 to 39)"
    assert [said in one and "25.00 %" in one for one in result.notes] == [True] and said in result.everything()
    assert not compared([write_run(tmp_path / "two", ranks_of(1))]).notes


def test_names_when_unknown(runs: list[Path]) -> None:
    for named, expected in (
        ({"metric_names": ["NDGC@10"]}, "unknown metric 'NDGC@10'; did you mean 'NDCG@10'?"),
        ({"metric_names": []}, "no metric to compare by"),
        ({"metric_names": ["HR"]}, "expected a cutoff of at least 1, as in HR@10"),
        ({"candidates": "sample"}, "unknown candidates 'sample'; did you mean 'sampled'?"),
        ({"base": "popularty"}, "unknown base 'popularty'; did you mean 'popularity'?"),
    ):
        with pytest.raises(ParameterError) as refused:
            compared(runs[:1], **named)
        assert expected in str(refused.value)
