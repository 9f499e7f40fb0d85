"""Descriptive statistics of logs, and the planted log as files that the readers read back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from i2vae_lib.data import DOMAINS, load_dataset, synthetic
from i2vae_lib.data.logs.join import load_logs
from i2vae_lib.data.logs.pair_file import Columns, PairFile, Side
from i2vae_lib.data.statistics import committed, describe_log, length_shares
from i2vae_lib.figures import plots
from i2vae_lib.params import load

SMALL = {"synthetic.users": 400}


@pytest.fixture(scope="module")
def planted():
    return synthetic.generate_log(load("smoke", SMALL).synthetic)


def test_describe_log_when_recounted_is_right(planted):
    found = describe_log(load_dataset(load("smoke", SMALL, protocol="chronological"))).set_index("statistic")
    users = {d: set(planted.log.events[d].user.tolist()) for d in DOMAINS}
    for d, name in planted.catalogue.names.items():
        events = planted.log.events[d]
        counts = np.array([(events.user == u).sum() for u in users[d]])
        days = events.time // 86_400
        assert found.loc["users", name] == f"{len(users[d]):,}"
        assert found.loc["users also in the other domain", name] == f"{len(users['x'] & users['y']):,}"
        assert found.loc["interactions", name] == f"{len(events):,}"
        assert found.loc["interactions a user, mean", name] == f"{counts.mean():.2f}"
        assert found.loc["interactions a user, longest", name] == str(counts.max())
        assert found.loc["days spanned", name] == f"{days.max() - days.min() + 1:,}"
        together = pd.DataFrame({"user": events.user, "day": days}).duplicated(keep=False).mean()
        key = "share of a user's events on a day with another"
        assert found.loc[key, name] == f"{together:.3f}"


def test_written_logs_when_read_are_the_planted_ones(planted, tmp_path):
    x, y = synthetic.write_logs(planted, tmp_path)
    sides = {
        d: Side(name=planted.catalogue.names[d], path=path, titles=path.with_name(f"{path.stem}_titles.csv"))
        for d, path in (("x", x), ("y", y))
    }
    columns = Columns(user="user_id", item="item_id", timestamp="timestamp", unit="s")
    read = load_logs(PairFile(name="north_south", columns=columns, min_user=1, min_item=1, **sides))
    for d in DOMAINS:

        def told(pair, d=d):
            events = pair.log.events[d]
            ids, titles = pair.catalogue.decode(d, events.item), pair.catalogue.label(d, events.item)
            return sorted(zip(pair.log.users[events.user], ids, titles, events.time.tolist()))

        assert told(read) == told(planted)
    assert len(read.catalogue.links) == len(planted.catalogue.links) == 10


def test_committed_when_there_is_no_such_table_is_empty():
    assert committed("no such table").empty
    assert len(committed("pair_statistics")) > 10


def test_interval_figures_when_drawn_have_a_marker_a_line():
    table = pd.DataFrame(
        {
            "domain": ["A", "A", "B", "B"],
            "system": ["s", "t", "s", "t"],
            "leak": "users",
            "difference": [1.0, 2.0, 3.0, 4.0],
            "interval_low": [0.0, 1.0, 2.0, 3.0],
            "interval_high": [3.0, 4.0, 5.0, 6.0],
        }
    )
    renamed = table.rename(columns={"difference": "worth", "interval_low": "low", "interval_high": "high"})
    for figure in (plots.intervals(table, "title"), plots.worth(renamed, "title")):
        assert sorted(trace.y[0] for trace in figure.data) == [1.0, 2.0, 3.0, 4.0]
        assert all(trace.error_y.array[0] == 2.0 and trace.error_y.arrayminus[0] == 1.0 for trace in figure.data)
        assert {trace.name for trace in figure.data} == {"s", "t"}


@pytest.mark.parametrize(("protocol", "first"), [("strict", "1"), ("temporal", "0")])
def test_length_shares_when_some_rows_have_no_own_history_sum_to_one(protocol, first):
    dataset = load_dataset(load("smoke", SMALL, protocol=protocol))
    train, shares = dataset.splits["train"], length_shares(dataset).set_index("length")
    assert shares.index[0] == first and (train.lengths("own") == 0).any() == (first == "0")
    assert shares.sum().tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


def test_differences_when_drawn_stand_a_line_a_system() -> None:
    table = pd.DataFrame(
        {
            "domain": ["North", "South"] * 2,
            "system": ["without a", "without a", "without b", "without b"],
            "difference": [1.0, 2.0, -1.0, 0.5],
            "interval_low": [0.0, 1.0, -2.0, 0.0],
            "interval_high": [2.0, 4.0, 0.0, 1.0],
        }
    )
    figure = plots.differences(table, "title")
    north, south = figure.data
    assert list(north.x) == [1.0, -1.0] and list(south.x) == [2.0, 0.5]
    assert [round(y) for y in north.y] == [round(y) for y in south.y] == [0, 1]
    assert list(south.error_x.array) == [2.0, 0.5] and list(south.error_x.arrayminus) == [1.0, 0.5]
    assert list(figure.layout.yaxis.ticktext) == ["without a", "without b"]
