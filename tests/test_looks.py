"""Colours can be told from any page, names look alike everywhere, and what hardly moves is drawn as level."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from i2vae_lib.figures import looks, plots
from i2vae_lib.recommenders import REGISTRY


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.1)."""
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("page", ["#ffffff", "#212121", "#111111"])
@pytest.mark.parametrize("colour", [*looks.PALETTE, looks.GREY])
def test_colour_when_a_page_is_light_or_dark(colour: str, page: str) -> None:
    dark, light = sorted([luminance(colour), luminance(page)])
    assert (light + 0.05) / (dark + 0.05) >= 2.75 + 0.25 * (page != "#212121")


def test_look_when_a_system_is_named_by_key_or_title() -> None:
    for name, entry in REGISTRY.items():
        assert looks.look(name, 3) == looks.look(entry.title, 0)
    every = ("i2vae", "popularity", "itemknn", "ease", "ordered_counts", "informed", "oracle")
    assert len({looks.look(name, 0)["color"] for name in every}) == len(every)


def test_look_when_a_latent_is_named() -> None:
    roles = [looks.look(name, 5) for name in ("kl/x", "t_y", "active/a_x")]
    assert len({one["color"] for one in roles}) == 3
    assert looks.look("y", 0)["color"] == roles[0]["color"] and looks.look("y", 0)["dash"] != roles[0]["dash"]


def test_rounded_when_values_differ_in_the_last_bits() -> None:
    found = looks.rounded([1.9040000001, 1.9039999999, 0.0, -0.00012345, np.nan])
    np.testing.assert_array_equal(found, [1.904, 1.904, 0.0, -0.0001234, np.nan])  # half to even, as numpy rounds


def test_least_range_when_values_hardly_move() -> None:
    assert looks.least_range([2.0, 2.02]) == pytest.approx([1.9595, 2.0605])
    assert looks.least_range([0.0, 0.0]) == [-0.5, 0.5]
    assert looks.least_range([1.0, 2.0]) is None and looks.least_range([np.nan]) is None


def test_series_when_constant_is_level() -> None:
    table = pd.DataFrame({"epoch": [1, 2], "kl": [1.9040000001, 1.9039999999], "run": "a"})
    drawn = plots.series(table, "epoch", "kl", "run", "KL", "nats")
    assert drawn.data[0].y[0] == drawn.data[0].y[1]
    low, high = drawn.layout.yaxis.range
    assert low < 1.904 < high and high - low >= 0.09


DRAWING = [
    one
    for _, one in inspect.getmembers(plots, inspect.isfunction)
    if one.__module__ == plots.__name__ and not one.__name__.startswith("_") and one is not plots.write_figures
]


@pytest.mark.parametrize("draw", DRAWING, ids=lambda one: one.__name__)
def test_figure_when_its_table_is_empty(draw: object) -> None:
    empty = pd.DataFrame(columns=["domain", "system", "leak", "metric", "latent", "value", "y", "x", "epoch"])
    assert callable(draw)
    needed = [one for one in inspect.signature(draw).parameters.values() if one.default is inspect.Parameter.empty]
    words = [empty if "DataFrame" in str(one.annotation) else "x" for one in needed]
    with pytest.raises(ValueError, match="nothing to draw, the table has no line"):
        draw(*words)


def test_figures_have_no_background_of_their_own() -> None:
    drawn = plots.bars(pd.DataFrame({"a": ["b"], "n": [1], "c": ["d"]}), "a", "n", "c", "title")
    assert isinstance(drawn, go.Figure) and drawn.layout.template.layout.paper_bgcolor == "rgba(0, 0, 0, 0)"


def test_look_when_a_ranker_looks_after_the_last_item() -> None:
    plain, after = looks.look("itemknn", 0), looks.look("itemknn_after", 5)
    assert after["color"] == plain["color"] and after["symbol"] == plain["symbol"] + "-open"
