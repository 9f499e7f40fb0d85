"""Several splits of a pair as one comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from i2vae_lib.evaluation import kind_masks, row_values
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import CEILINGS
from i2vae_lib.results.cold_rows import all_cold
from i2vae_lib.results.splits import YARDSTICK, Split, against_rivals, pooled, read_split, rivals, tables
from i2vae_lib.runs import LayoutError
from i2vae_lib.stages import load_ranks


@pytest.fixture(scope="module")
def split(whole_run: tuple[Path, list[str]]) -> Split:
    return read_split({"i2vae": whole_run[0]})


def test_rows_of_all_splits_stand_in_the_cells(
    whole_run: tuple[Path, list[str]], tiny: Parameters, split: Split
) -> None:
    """The drawn rows in all and tailed cells, those of users who are all made cold in the cold ones."""
    drawn, cold = load_ranks(whole_run[0]), all_cold(tiny).splits["test"]
    cells, means = tables([split, split], "i2vae", rng=np.random.default_rng(0))
    for (domain, kind), name in zip([("x", "all"), ("x", "tailed"), ("y", "all")], ["North", "North", "South"]):
        part = drawn[(drawn["recommender"] == "itemknn") & (drawn["domain"] == domain)]
        part = part[kind_masks(part)[kind]]
        line = cells[(cells["system"] == "itemknn") & (cells["domain"] == name) & (cells["kind"] == kind)]
        line = line[(line["metric"] == "HR@10") & (line["candidates"] == "full")].iloc[0]
        assert line["n"] == 2 * len(part)
        assert line["mean"] == pytest.approx(row_values(part, "full", [("HR", 10)]).mean())
    counted = cells[cells["kind"] == "cold"].groupby("domain")["n"].first()
    assert counted["North"] == 2 * len(cold.of("x")) and counted["South"] == 2 * len(cold.of("y"))
    assert not set(CEILINGS) & {*cells["system"], *means["system"]}


def test_lift_is_the_ratio_of_the_means_over_cells(split: Split) -> None:
    cells, means = tables([split], "i2vae", rng=np.random.default_rng(0))
    few = pooled([split]).headline.sum(axis=0).min()
    for one in means.itertuples():
        part = cells[(cells["system"] == one.system) & (cells["candidates"] == one.candidates) & (cells["n"] >= few)]
        assert one.cells == len(part)
        assert one.difference == pytest.approx((part["mean"] - part["base_mean"]).mean())
        assert one.lift == pytest.approx(part["base_mean"].mean() / part["mean"].mean() - 1)
        assert one.lift_low <= one.lift <= one.lift_high


def test_a_user_of_two_splits_is_drawn_once(split: Split) -> None:
    """Twice the same rows tell nothing new: the interval stays as wide as that of one split."""
    wide = []
    for splits in ([split], [split, split]):
        cells, _ = tables(splits, "i2vae", rng=np.random.default_rng(0))
        cells = cells[(cells["system"] == "popularity") & (cells["kind"] == "all") & (cells["candidates"] == "sampled")]
        wide.append((cells["interval_high"] - cells["interval_low"]).to_numpy())
    assert wide[1] == pytest.approx(wide[0], rel=0.1)


def test_rivals_are_the_best_on_validation_and_never_the_yardstick() -> None:
    values = {"popularity": np.nan, "itemknn": 0.2, "ease": 0.1, "sasrec-ce-m": 0.3, YARDSTICK: 0.4}
    means = pd.DataFrame({"system": list(values), "validation": list(values.values())})
    found = {"best other system": "sasrec-ce-m", "best reference": "itemknn"}
    assert rivals(means) == found | {YARDSTICK: YARDSTICK}
    assert rivals(means[means["system"] != YARDSTICK]) == found


def test_cells_in_which_the_base_is_behind() -> None:
    means = pd.DataFrame({"system": ["ease", "sasrec-ce-m"], "validation": [0.1, 0.2], "candidates": "full"})
    means = means.assign(title=["EASE", "SASRec"], lift=0.1, lift_low=0.0, lift_high=0.2)
    columns = {"system": ["ease"] * 3 + ["sasrec-ce-m"], "n": [200, 199, 200, 200], "domain": list("pqrs")}
    sides = {"interval_low": [0.1, 0.1, -0.1, 0.0], "kind": "all", "metric": "HR@10", "candidates": "full"}
    found = against_rivals(pd.DataFrame(columns | sides), means).set_index("beside")
    assert found["behind"].to_dict() == {"best other system": "", "best reference": "p all HR@10"}


def test_splits_with_other_systems(split: Split) -> None:
    fewer = split._replace(ranks={name: one for name, one in split.ranks.items() if name != "ease"})
    with pytest.raises(LayoutError, match="missing in another: ease"):
        pooled([split, fewer])
