"""The paper's tables as data: pins, agreement between tables, gains recomputed; and a run's results beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from i2vae_lib import evaluation, paper
from i2vae_lib.data.registry import REGISTRY
from i2vae_lib.data.rows import DataError
from i2vae_lib.paper import tables

CELL = ["pair", "domain", "kind", "metric"]


@pytest.fixture(scope="module")
def printed() -> pd.DataFrame:
    return tables()


def cell(printed: pd.DataFrame, **where: str) -> pd.Series:
    """The one line with these values."""
    found = printed
    for column, value in where.items():
        found = found[found[column] == value]
    assert len(found) == 1, where
    return found.iloc[0]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_tables_when_read(printed: pd.DataFrame) -> None:
    assert list(printed) == (
        ["table", "pair", "domain", "kind", "metric", "system", "setting", "mean", "sd", "gain_printed", "flag"]
    )
    assert (printed.dtypes[["mean", "sd", "gain_printed"]] == np.float64).all()
    words = printed[["table", "pair", "domain", "kind", "metric", "system", "setting", "flag"]]
    assert not words.isna().any(axis=None) and words.map(lambda one: one == one.strip()).all(axis=None)
    assert not printed.duplicated(["table", *CELL, "system", "setting"]).any()


def test_tables_when_changed_by_a_caller() -> None:
    mine = tables()
    mine["mean"] = 0.0
    assert tables()["mean"].max() == 758374


@pytest.mark.parametrize(
    ("table", "count"),
    [
        ("1", 4 * 3 * 2 * 10),  # domains, kinds, metrics, systems
        ("2", 2 * 3 * 2 * 4),
        ("3", 2 * 3 * 2 * 4 * 2),  # ... shares, systems
        ("4", 6 * 5 + 3),
        ("5", 6 * 3 * 2 * 10),
        ("6", 2 * 3 * 2 * 4 * 2),
        ("fig3", 2 * (5 + 10 + 10)),
    ],
)
def test_tables_when_the_lines_of_one_are_counted(printed: pd.DataFrame, table: str, count: int) -> None:
    part = printed[printed["table"] == table]
    assert len(part) == count
    assert part["mean"].notna().all() == (table != "fig3")
    assert part["sd"].notna().all() == (table in "125")
    gains = part["gain_printed"].notna()
    assert (gains == ((part["system"] == "i2VAE") & (table in "15"))).all()
    assert set(part["flag"] == "") == ({True, False} if table in "12356" else {False})


def test_tables_when_their_words_are_read(printed: pd.DataFrame) -> None:
    assert set(printed["pair"]) == set(REGISTRY)
    for pair, released in REGISTRY.items():
        own = printed[(printed["pair"] == pair) & (printed["domain"] != "")]
        assert list(own["domain"].unique()) == [released.names["x"], released.names["y"]]
    results = printed[printed["table"] != "4"]
    assert set(results["kind"]) == {"all", "tailed", "cold_released"} and set(results["metric"]) == {"HR@10", "NDCG@10"}
    assert set(printed.loc[printed["table"] == "4", "kind"]) == {""}
    five = printed[printed["table"] == "5"]
    systems = ["Multi-VAE", "SVAE", "SASRec", "DASL", "Pi-Net", "C2DSR", "DisenCDR", "SA-VAE", "CDRIB", "i2VAE"]
    assert [list(part) for _, part in five.groupby(CELL)["system"]] == [systems] * 36
    figure = printed[printed["table"] == "fig3"]
    assert figure.groupby(figure["setting"].str.split("=").str[0]).size().to_dict() == (
        {"T": 10, "lambda_a": 20, "lambda_c": 20}
    )
    assert set(printed.loc[printed["table"] == "3", "setting"]) == {f"D_s={share}%" for share in (25, 50, 75, 100)}
    assert set(printed.loc[printed["table"] == "6", "setting"]) == {f"K_o={share}%" for share in (25, 50, 75, 100)}


@pytest.mark.parametrize(
    ("table", "domain", "kind", "metric", "system", "setting", "mean", "sd"),
    [
        ("1", "Cloth", "all", "HR@10", "i2VAE", "", 5.00, 0.17),
        ("1", "Cloth", "tailed", "NDCG@10", "Multi-VAE", "", 2.31, 0.08),
        ("1", "Elec", "cold_released", "HR@10", "Pi-Net", "", 15.00, 1.00),
        ("1", "Phone", "all", "NDCG@10", "i2VAE", "", 5.79, 0.29),
        ("2", "Cloth", "tailed", "HR@10", "i2VAE w/o PSG", "", 4.59, 0.12),
        ("2", "Sport", "cold_released", "HR@10", "i2VAE w/o CD-R&DS-R", "", 9.90, 0.34),
        ("2", "Sport", "all", "HR@10", "i2VAE w/o DN-R", "", 8.44, 0.24),
        ("3", "Cloth", "cold_released", "HR@10", "SA-VAE", "D_s=25%", 1.94, np.nan),
        ("3", "Sport", "all", "HR@10", "i2VAE", "D_s=75%", 6.60, np.nan),
        ("5", "Video", "cold_released", "NDCG@10", "i2VAE", "", 9.62, 1.58),
        ("5", "Video", "cold_released", "NDCG@10", "DASL", "", 8.10, 3.21),
        ("5", "Video", "cold_released", "NDCG@10", "SVAE", "", 8.19, 1.50),
        ("5", "Game", "cold_released", "HR@10", "Multi-VAE", "", 20.00, 3.95),
        ("5", "Video", "all", "HR@10", "CDRIB", "", 12.33, 0.16),
        ("6", "Cloth", "tailed", "NDCG@10", "SA-VAE", "K_o=25%", 0.93, np.nan),
        ("6", "Sport", "cold_released", "HR@10", "i2VAE", "K_o=75%", 10.51, np.nan),
    ],
)
def test_tables_when_a_cell_is_looked_up(
    printed: pd.DataFrame,
    table: str,
    domain: str,
    kind: str,
    metric: str,
    system: str,
    setting: str,
    mean: float,
    sd: float,
) -> None:
    line = cell(printed, table=table, domain=domain, kind=kind, metric=metric, system=system, setting=setting)
    assert line["mean"] == mean
    assert line["sd"] == sd or (np.isnan(sd) and np.isnan(line["sd"]))


def test_tables_when_the_statistics_are_looked_up(printed: pd.DataFrame) -> None:
    four = printed[printed["table"] == "4"]
    wide = four[four["domain"] != ""].pivot(index="domain", columns="metric", values="mean")
    assert wide.loc["Elec", ["users", "items", "interactions"]].tolist() == [107580, 40446, 758374]
    assert wide.loc["Cloth", ["mean_length", "density"]].tolist() == [4.50, 0.024]
    both = four[four["metric"] == "overlapping_users"].set_index("pair")["mean"]
    assert both.to_dict() == {"cloth_sport": 9721, "phone_elec": 20342, "game_video": 2171}
    # the density follows from the counts, the mean length does not: which histories it is of is not said
    np.testing.assert_allclose(
        100 * wide["interactions"] / wide["users"] / wide["items"], wide["density"], rtol=0, atol=0.0005
    )
    assert ((wide["mean_length"] - wide["interactions"] / wide["users"]) > 0.2).all()


# --- the tables beside each other -------------------------------------------------------------------------------------


def test_tables_when_one_and_five_both_have_a_cell(printed: pd.DataFrame) -> None:
    one, five = (printed[printed["table"] == number].set_index([*CELL, "system"]) for number in "15")
    values = ["mean", "sd", "gain_printed", "flag"]
    pd.testing.assert_frame_equal(one[values], five.loc[one.index, values])
    assert set(five.index.get_level_values("pair")) - set(one.index.get_level_values("pair")) == {"game_video"}


@pytest.mark.parametrize(("table", "setting"), [("2", ""), ("3", "D_s=100%"), ("6", "K_o=100%")])
def test_tables_when_the_full_model_is_repeated(printed: pd.DataFrame, table: str, setting: str) -> None:
    one = printed[printed["table"] == "1"].set_index([*CELL, "system"])
    again = printed[(printed["table"] == table) & (printed["setting"] == setting)]
    again = again[again["system"].isin(["i2VAE", "SA-VAE"])].set_index([*CELL, "system"])
    assert len(again) == (12 if table == "2" else 24)
    assert (one.loc[again.index, "mean"] == again["mean"]).all()


@pytest.fixture(scope="module")
def gains(printed: pd.DataFrame) -> pd.DataFrame:
    """Each cell of Tables 1 and 5: the printed gain, and the lowest and highest that the two rounded cells allow."""
    part = printed[printed["table"].isin(["1", "5"])]
    lines = part[part["system"] == "i2VAE"].set_index(["table", *CELL])
    best = part[part["system"] != "i2VAE"].groupby(["table", *CELL])["mean"].max().loc[lines.index]
    half = 0.005
    return lines.assign(
        of_the_cells=100 * (lines["mean"] / best - 1),
        low=100 * ((lines["mean"] - half) / (best + half) - 1),
        high=100 * ((lines["mean"] + half) / (best - half) - 1),
    )


def test_gains_when_recomputed(gains: pd.DataFrame) -> None:
    inside = gains["gain_printed"].between(gains["low"], gains["high"])
    exact = (gains["of_the_cells"] - gains["gain_printed"]).abs() <= 0.005 + 1e-9
    near = gains["flag"].str.contains("lies within their rounding", regex=False)
    wrong = (gains["flag"] != "") & ~near
    # no flag: the cells give the printed gain. One kind of flag: only unrounded figures can. The other: none can.
    assert (exact == (gains["flag"] == "")).all()
    assert (inside == ~wrong).all()
    assert len(gains) == 24 + 36 and near.groupby("table").sum().to_dict() == {"1": 4, "5": 7}
    slips = [line[2:] for line, bad in wrong.items() if bad and line[0] == "5"]  # type: ignore[index]
    assert sorted(slips) == [
        ("Elec", "tailed", "HR@10"),
        ("Elec", "tailed", "NDCG@10"),
        ("Game", "cold_released", "HR@10"),
        ("Phone", "all", "HR@10"),
        ("Phone", "all", "NDCG@10"),
    ]


def test_flags_when_they_state_a_gain(gains: pd.DataFrame) -> None:
    for _, line in gains[gains["flag"] != ""].iterrows():
        if "typo" in line["flag"]:
            continue
        assert f"{line['of_the_cells']:.2f} %" in line["flag"]


def test_flags_when_the_phone_cells_are_read(printed: pd.DataFrame) -> None:
    for metric, meant in (("NDCG@10", "4.67"), ("HR@10", "8.88")):
        phone, game = (
            cell(printed, table="5", domain=domain, kind="all", metric=metric, system="i2VAE")
            for domain in ("Phone", "Game")
        )
        assert phone["mean"] == game["mean"] and phone["sd"] != game["sd"]
        assert "Probably a typo" in phone["flag"] and phone["flag"].endswith(f"would be {meant}.")


def test_flags_when_two_systems_are_identical(printed: pd.DataFrame) -> None:
    five = printed[printed["table"] == "5"].set_index(["system", *CELL])
    one, two = (five.loc[system] for system in ("DASL", "Pi-Net"))
    alike = (one["mean"] == two["mean"]) & (one["sd"] == two["sd"])
    assert (alike == (alike.index.get_level_values("pair") == "game_video")).all()
    for part in (one, two):
        assert ((part["flag"] != "") == alike).all()


def test_flags_when_the_model_is_below_the_second_best(printed: pd.DataFrame) -> None:
    for table in "36":
        part = printed[printed["table"] == table].set_index([*CELL, "setting", "system"])
        wide = part["mean"].unstack("system")
        below = wide["i2VAE"] < wide["SA-VAE"]
        flags = part["flag"].unstack("system")
        assert below.sum() == 1 and ((flags["i2VAE"] != "") == below).all() and (flags["SA-VAE"] == "").all()


# --- a run beside the paper -------------------------------------------------------------------------------------------


@pytest.fixture
def results() -> pd.DataFrame:
    """What evaluation.tidy gives of two recommenders; every value is told by its place."""
    summary: dict[str, Any] = {}
    for i, name in enumerate(("i2vae", "popularity")):
        for j, d in enumerate("xy"):
            for k, kind in enumerate(("all", "tailed", "cold", "cold_released")):
                metrics = {"HR@5": 0.5, "HR@10": 0.01 * (1 + i + 2 * j + 4 * k), "NDCG@10": 0.001 * (1 + k)}
                found = {"n": 100 + k, "sampled": metrics, "full": {"HR@10": 0.9}}
                summary.setdefault(name, {}).setdefault(d, {})[kind] = found
    return evaluation.tidy(summary)


def test_beside_when_a_run_is_joined(results: pd.DataFrame) -> None:
    found = paper.beside(results, "phone_elec")
    assert list(found) == (
        ["recommender", "domain", "kind", "metric", "n", "ours", "system"]
        + ["paper_mean", "paper_sd", "difference", "flag"]
    )
    assert len(found) == 2 * 2 * 3 * 2 * 2  # recommenders, domains, kinds, metrics, i2VAE and the best baseline
    assert set(found["kind"]) == {"all", "tailed", "cold_released"} and set(found["domain"]) == {"Phone", "Elec"}
    ours = cell(found, recommender="popularity", domain="Elec", kind="tailed", metric="HR@10", system="i2VAE")
    assert (ours["n"], ours["paper_mean"], ours["paper_sd"]) == (101, 13.49, 0.19)
    assert ours["ours"] == pytest.approx(8.0) and ours["difference"] == pytest.approx(8.0 - 13.49)
    assert ours["flag"].endswith("the best baseline is C2DSR (13.05): 3.37 %.")
    best = cell(found, recommender="popularity", domain="Elec", kind="tailed", metric="HR@10", system="C2DSR")
    assert (best["ours"], best["paper_mean"], best["flag"]) == (ours["ours"], 13.05, "")
    assert found["system"].iloc[:2].tolist() == ["i2VAE", "DisenCDR"]
    assert found[found["flag"].str.contains("typo")].groupby("recommender").size().tolist() == [2, 2]


def test_beside_when_domains_go_by_name(results: pd.DataFrame) -> None:
    named = results.assign(domain=results["domain"].map({"x": "Phone", "y": "Elec"}))
    pd.testing.assert_frame_equal(paper.beside(named, "phone_elec"), paper.beside(results, "phone_elec"))


def test_beside_when_a_cell_has_no_rows(results: pd.DataFrame) -> None:
    results.loc[results["kind"] == "cold_released", "value"] = np.nan
    found = paper.beside(results, "game_video")
    empty = found["kind"] == "cold_released"
    assert (
        found.loc[empty, ["ours", "difference"]].isna().all(axis=None) and found.loc[empty, "paper_mean"].notna().all()
    )
    assert found.loc[~empty, "difference"].notna().all()


def test_beside_when_its_input_is_left_alone(results: pd.DataFrame) -> None:
    before = results.copy()
    paper.beside(results, "cloth_sport")
    pd.testing.assert_frame_equal(results, before)


def test_beside_when_input_is_wrong(results: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="no pair 'synthetic'; it has cloth_sport, phone_elec, game_video"):
        paper.beside(results, "synthetic")
    with pytest.raises(DataError, match="no column n, value"):
        paper.beside(results.drop(columns=["n", "value"]), "cloth_sport")
    with pytest.raises(DataError, match="domain 'North' is not of cloth_sport, which has Cloth and Sport"):
        paper.beside(results.assign(domain="North"), "cloth_sport")
    with pytest.raises(DataError, match="two values for i2vae, Cloth, all, HR@5: take the mean"):
        paper.beside(pd.concat([results, results]), "cloth_sport")
