"""Finished models on test users who are all made cold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.evaluation import COUNTS
from i2vae_lib.params import Parameters
from i2vae_lib.results.cold_rows import all_cold, measured, ranks
from i2vae_lib.runs import LayoutError
from i2vae_lib.stages import load_ranks


def test_every_test_user_with_both_histories_is_cold_once(tiny: Parameters, dataset: CrossDomainDataset) -> None:
    rows, drawn = all_cold(tiny).splits["test"], dataset.splits["test"]
    assert (rows.lengths("own") == 0).all() and (rows.lengths("other") > 0).all()
    assert len(set(rows.user)) == len(rows)
    both = (drawn.lengths("own") > 0) & (drawn.lengths("other") > 0)
    assert set(drawn.user[both]) < set(rows.user), "who still had both histories, and some who were cold already"


def test_rows_that_were_cold_already_rank_as_in_the_run(whole_run: tuple[Path, list[str]], tiny: Parameters) -> None:
    """The same candidates, models and references."""
    place = ["recommender", "row", "domain", "user"]
    before = load_ranks(whole_run[0]).set_index(place)
    after = ranks({"i2vae": whole_run[0]}, all_cold(tiny)).set_index(place)
    cold = before.index[before["cold"]]
    assert len(cold) and cold.isin(after.index).all()
    for count in COUNTS:
        assert before.loc[cold, count].equals(after.loc[cold, count]), count


def test_systems_beside_the_base(whole_run: tuple[Path, list[str]], tiny: Parameters) -> None:
    found = measured({"i2vae": whole_run[0]}, "i2vae", np.random.default_rng(0))
    assert set(found["system"]) == set(load_ranks(whole_run[0])["recommender"]) - {"i2vae"}
    assert found.groupby("domain")["n"].first().sum() == len(all_cold(tiny).splits["test"])
    assert (found["difference"] - (found["mean"] - found["base_mean"])).abs().max() < 1e-12
    assert ((found["interval_low"] <= found["difference"]) & (found["difference"] <= found["interval_high"])).all()


def test_protocol_that_makes_no_cold_rows(tiny: Parameters) -> None:
    with pytest.raises(LayoutError, match="under chronological alone, not under strict"):
        all_cold(tiny.model_copy(update={"protocol": "strict"}))
