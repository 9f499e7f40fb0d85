"""The bar, on planted runs: which reference is the best of a cell, what counts as met, and the mean lift."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from i2vae_lib.evaluation import METRICS, kind_masks
from i2vae_lib.results import lift
from i2vae_lib.results.differences import compare
from i2vae_lib.results.reading import COUNTED
from i2vae_lib.runs import LayoutError
from tests.helpers.planted_runs import cell, compared, ranks_of, recorded, skill, write_run

REFERENCES = {
    "popularity": ranks_of(skill(100, 40)),
    "itemknn": ranks_of(skill(102, 18)),
    "oracle": ranks_of(skill(101, 3)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("lift")
    models = [ranks_of(skill(2000 + seed, 10)) for seed in range(2)]
    return [
        write_run(folder / f"seed{seed}", model, references=REFERENCES, seed=seed) for seed, model in enumerate(models)
    ]


def test_cells_when_compared_with_the_comparison(runs: list[Path]) -> None:
    found = compared(runs)
    table = lift.cells(found)
    assert list(table.columns) == list(lift.COLUMNS)
    assert len(table) == 2 * 3 * 2 and set(table["kind"]) == set(lift.HEADLINE)
    for line in table.itertuples():
        where = {"domain": line.domain, "kind": line.kind, "metric": line.metric, "candidates": "sampled"}
        means = {name: cell(found.results, system=name, **where).mean for name in ("popularity", "itemknn", "i2vae")}
        own = means.pop("i2vae")
        assert line.best == max(means, key=lambda name: means[name])  # the oracle never is
        assert line.system == pytest.approx(own) and line.reference == pytest.approx(max(means.values()))
        assert line.lift == pytest.approx(own / max(means.values()) - 1)
        assert line.difference == pytest.approx(own - max(means.values()))
        assert line.interval_low <= line.difference <= line.interval_high
    assert table["met"].all()


def test_cells_when_the_system_is_below(tmp_path: Path) -> None:
    """A large cell below is not met; a small one only where it is significantly so."""
    run = write_run(tmp_path / "weak", ranks_of(skill(7, 30)), references=REFERENCES)
    table = lift.cells(compare([run], rng=np.random.default_rng(0)))
    large = table["n"] >= lift.FEW
    below = table["difference"] < 0
    assert below.any() and not table.loc[below & large, "met"].any()
    small = below & ~large
    assert (table.loc[small, "met"] == ~(table.loc[small, "interval_high"] < 0)).all()


def test_mean_lift_when_computed_by_hand(runs: list[Path]) -> None:
    mean, low, high = lift.mean_lift(runs, rng=np.random.default_rng(0), resamples=2000)
    table = lift.cells(compared(runs))
    small = table["n"] < COUNTED  # they are shown, and not counted
    assert small.any() and not small.all()
    table = table[~small]
    assert mean == pytest.approx(table["system"].mean() / table["reference"].mean() - 1, rel=1e-9)
    assert low < mean < high
    again = lift.mean_lift(runs, rng=np.random.default_rng(0), resamples=2000)
    assert again == (mean, low, high)


def test_mean_lift_when_the_system_is_a_reference(tmp_path: Path) -> None:
    """Equal ranks in every cell: nothing above, whoever is drawn."""
    run = write_run(tmp_path / "copy", REFERENCES["itemknn"], references={"itemknn": REFERENCES["itemknn"]})
    assert lift.mean_lift([run], rng=np.random.default_rng(0), resamples=50) == (0.0, 0.0, 0.0)


def test_mean_lift_when_systems_are_mixed(runs: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "d64", ranks_of(skill(9, 10)), {"model.d": 64}, references=REFERENCES)
    with pytest.raises(LayoutError, match="the mean lift is of one system"):
        lift.mean_lift([*runs, other], rng=np.random.default_rng(0))


def test_kinds_are_those_of_the_evaluation() -> None:
    flags = pd.DataFrame({name: [True] for name in ("tailed", "cold", "no_history", "overlapping", "seen")})
    assert set(lift.HEADLINE) <= set(kind_masks(flags))
    assert {name.split("@")[0] for name in lift.METRICS} <= set(METRICS)


def test_verdicts_when_rows_help_hurt_and_are_missing() -> None:
    """A row is a system without something: what it loses is the benefit."""
    lines = [("without a", -0.02, -0.03, -0.01), ("without b", 0.02, 0.01, 0.03), ("without c", 0.0, -0.01, 0.01)]
    rows = pd.DataFrame(lines, columns=["row", "difference", "interval_low", "interval_high"])
    rows = rows.assign(domain="North", kind="cold", metric="HR@10", n=90, seeds=3)
    asked = {name: (f"without {name}", "cold") for name in "abcd"} | {"tailed": ("without a", "tailed")}
    found = lift.verdicts(rows, asked).set_index("question")
    assert found["verdict"].to_dict() == {
        "a": "helps",
        "b": "hurts",
        "c": "no difference shown",
        "d": "not run",
        "tailed": "not run",
    }
    assert found.loc["a", ["benefit", "low", "high"]].tolist() == pytest.approx([2.0, 1.0, 3.0])


def test_in_per_cent_when_columns_are_missing() -> None:
    found = lift.in_per_cent(pd.DataFrame({"lift": [0.25], "n": [7]}))
    assert found["lift"].tolist() == [25.0] and found["n"].tolist() == [7]


def test_lift_when_a_cell_has_no_rows_or_a_resample_has_none_of_it(tmp_path: Path) -> None:
    cold = np.flatnonzero(
        kind_masks(
            pd.read_parquet(
                write_run(tmp_path / "all", ranks_of(skill(7, 10)), references=REFERENCES) / "ranks.parquet"
            ).query("recommender == 'i2vae'")
        )["cold"].to_numpy()
    )
    assert len(cold) > 2

    def run(name: str, left: int) -> Path:
        folder = write_run(tmp_path / name, ranks_of(skill(7, 10)), references=REFERENCES)
        table = pd.read_parquet(folder / "ranks.parquet")
        table["cold"] = table["cold"] & table["row"].isin(table["row"].unique()[cold[:left]])
        table.to_parquet(folder / "ranks.parquet", index=False)
        return recorded(folder)

    none, one = run("none", 0), run("one", 1)
    table = lift.cells(compare([none], rng=np.random.default_rng(0), resamples=200))
    assert len(table) == 2 * 2 * 2 and "cold" not in set(table["kind"])
    for folder in (none, one):
        mean, low, high = lift.mean_lift([folder], resamples=200, rng=np.random.default_rng(0))
        assert low < mean < high


@pytest.mark.parametrize(
    ("low", "high", "where"), [(0.01, 0.03, "behind"), (-0.03, -0.02, "ahead of"), (-0.01, 0.02, "level with")]
)
def test_verdict_when_read_follows_the_interval_of_the_best_reference(
    runs: list[Path], low: float, high: float, where: str
) -> None:
    lines = [("popularity", -0.2, -0.3, -0.1), ("itemknn", (low + high) / 2, low, high), ("oracle", 0.5, 0.4, 0.6)]
    overall = pd.DataFrame(lines, columns=["system", "difference", "interval_low", "interval_high"]).assign(cells=4)
    said = lift.verdict(dataclasses.replace(compared(runs), overall=overall))
    assert said.startswith(
        f"i2VAE is {where} ItemKNN, the best of the reference rankers: {-50 * (low + high):+.1f} points"
    )
    assert f" over 4 cells, 95 % interval {-100 * high:+.1f} to {-100 * low:+.1f}. A cell is one metric on " in said
    assert "(" not in said  # read once, by whoever knows no more


def test_verdict_when_there_is_no_interval_is_empty(runs: list[Path]) -> None:
    found = compared(runs)
    assert lift.verdict(found).startswith("i2VAE is ")
    assert lift.verdict(dataclasses.replace(found, overall=found.overall.assign(interval_low=np.nan))) == ""
