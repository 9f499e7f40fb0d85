"""The control *fewest takers*: against a slow loop, and on real data under the old and the new ``temporal``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from i2vae_lib.audit.fewest_takers import CHANCE, ERRORS, fewest_takers
from i2vae_lib.data import DOMAINS, load_dataset, load_pair, protocols, splitting
from i2vae_lib.data.filters import whole_core
from i2vae_lib.data.ordered_events import in_order, rows_at
from i2vae_lib.data.rows import interactions, popularity
from i2vae_lib.params import load
from tests.helpers.worlds import ROOT


@pytest.mark.parametrize("protocol", ["strict", "temporal"])
def test_fewest_takers_when_counted_by_hand_is_the_same(protocol):
    dataset = load_dataset(load("smoke", {"synthetic.users": 300}, protocol=protocol))
    rows, pairs = dataset.splits["test"], interactions(dataset.splits["train"])
    for (_, line), d in zip(fewest_takers(dataset).iterrows(), DOMAINS, strict=True):
        takers = {item: int((pairs[d][1] == item).sum()) for item in range(1, dataset.catalogue.size(d) + 1)}
        hits = []
        for i in rows.of(d):
            target = int(rows.target[i])
            others = [takers[one] for one in takers if one not in {*rows.excluded[i].tolist(), target}]
            fewer = sum(count < takers[target] for count in others)
            ties = sum(count == takers[target] for count in others)
            # the first one in a hundred places, the last of them in part; each of the tied places is as likely
            hits.append(min(max(CHANCE * (len(others) + 1) - fewer, 0.0) / (ties + 1), 1.0))
        assert line["rows"] == len(hits) and line["hit_rate"] == pytest.approx(np.mean(hits))
        assert line["error"] == pytest.approx((0.01 * 0.99 / len(hits)) ** 0.5)
        assert line["above"] == (line["hit_rate"] > 0.01 + 3 * line["error"])


def test_fewest_takers_when_every_item_has_as_many_has_chance(monkeypatch):
    dataset = load_dataset(load("smoke", {"synthetic.users": 300}, protocol="strict"))
    constant = {d: np.ones(dataset.catalogue.size(d) + 1) for d in DOMAINS}
    monkeypatch.setattr("i2vae_lib.audit.fewest_takers.popularity", lambda rows: constant)
    found = fewest_takers(dataset)
    assert found["hit_rate"].tolist() == pytest.approx([CHANCE, CHANCE]) and not found["above"].any()


def test_fewest_takers_on_real_logs_beats_chance_only_where_the_future_made_the_catalogue(logs_folder, monkeypatch):
    """Food and Kitchen: under a core of the whole log 7.7 and 6.1 %, items that nobody took first of all."""
    monkeypatch.setenv("I2VAE_DATA_DIR", str(logs_folder))
    p = load("paper", data=str(Path(ROOT) / "params" / "pairs" / "food_kitchen.yaml"), protocol="temporal")
    pair = load_pair(p)
    new = protocols.apply("temporal", pair, p.split, p.controls)
    assert [one["share"] for one in new.outside if one["split"] == "test"] == pytest.approx([0.602, 0.611], abs=1e-3)
    assert min(popularity(new.splits["train"])[d][1:].min() for d in DOMAINS) >= pair.min_item
    for split in ("validation", "test"):
        found = fewest_takers(new, split)
        assert not found["above"].any() and (found["hit_rate"] <= CHANCE + ERRORS * found["error"]).all()

    first, second = protocols.cut_times(pair, p.split)
    kept = whole_core(pair)
    events = in_order(kept.log, kept.catalogue, 0)
    targets = {
        "train": {d: events[d].last_of_user(events[d].time <= first) for d in DOMAINS},
        "validation": {d: events[d].first_of_user(events[d].between(first, second)) for d in DOMAINS},
        "test": {d: events[d].first_of_user(events[d].time > second) for d in DOMAINS},
    }
    splits = {name: rows_at(kept, events, at) for name, at in targets.items()}
    old = protocols.assembled("temporal", kept, splitting.Cut(splits, {}), p.split, p.controls)
    found = fewest_takers(old)
    assert found["above"].all() and found["hit_rate"].tolist() == pytest.approx([0.0770, 0.0606], abs=0.012)
