"""Static SVG: what is drawn stands where its numbers say, in letters that cannot act as markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from i2vae_lib.figures import pictures

SVG = "{http://www.w3.org/2000/svg}"


def parsed(picture: str) -> ET.Element:
    """A picture as XML; what is no XML raises."""
    return ET.fromstring(picture)


def test_forest_when_drawn_has_each_value_on_its_interval() -> None:
    lines = [
        pictures.Interval("first", 2.0, 1.0, 3.0),
        pictures.Interval("second", -2.0, -3.0, -1.0),
        pictures.Interval("third", 0.5, -1.0, 2.0, "a note"),
    ]
    found = parsed(pictures.forest("title", "points", lines))
    circles = found.findall(f"{SVG}circle")
    assert [one.get("class") for one in circles] == ["above", "below", "level"]
    x = [float(str(one.get("cx"))) for one in circles]
    spans = [one.get("d") for one in found.findall(f"{SVG}path") if "line" in str(one.get("class"))]
    ends = [tuple(float(one) for one in re.findall(r"[MH](-?[\d.]+)", str(span))) for span in spans]
    scale = (x[0] - x[1]) / 4  # pixels a point
    for at, one in enumerate(lines):
        assert ends[at] == pytest.approx([x[at] + scale * (end - one.value) for end in (one.low, one.high)], abs=0.2)
    assert "a note" in [one.text for one in found.iter(f"{SVG}text")]


def test_forest_when_there_is_no_interval_draws_the_value_alone() -> None:
    found = parsed(pictures.forest("title", "points", [pictures.Interval("one", 1.0, np.nan, np.nan)]))
    assert [one.get("class") for one in found.findall(f"{SVG}circle")] == ["level"]
    assert not [one for one in found.findall(f"{SVG}path") if "line" in str(one.get("class"))]


@pytest.mark.parametrize("nasty", ["<script>alert(1)</script>", '" onload="x', "a & b"])
def test_pictures_when_names_hold_markup(nasty: str) -> None:
    drawn = [
        pictures.forest(nasty, nasty, [pictures.Interval(nasty, 1.0, 0.0, 2.0, nasty)]),
        pictures.bars(nasty, [(nasty, 0.5, nasty, "log")]),
        pictures.curves(nasty, nasty, {nasty: ([1, 2], [3.0, 4.0])}),
    ]
    for one in map(parsed, drawn):
        assert one.get("aria-label") == nasty and one.get("onload") is None
        assert not list(one.iter(f"{SVG}script")) and nasty in [text.text for text in one.iter(f"{SVG}text")]


def test_curves_when_a_value_is_missing_leaves_its_point_out() -> None:
    picture = pictures.curves("t", "epoch", {"x": ([1, 2, 3], [5.0, np.nan, 1.0]), "y": ([1], [2.0])})
    points = [str(one.get("points")).split() for one in parsed(picture).iter(f"{SVG}polyline")]
    assert [len(one) // 2 for one in points] == [2, 1]
    assert "nan" not in picture


def test_curves_when_a_line_has_one_point_marks_it() -> None:
    """A training of one epoch: a line of one point would not be seen."""
    crosses = [
        [one for one in parsed(pictures.curves("t", "epoch", {"x": values})).iter(f"{SVG}path") if one.get("stroke")]
        for values in (([1], [2.0]), ([1, 2], [2.0, 3.0]))
    ]
    assert len(crosses[0]) == len(crosses[1]) + 1


def test_curves_when_everything_is_equal_or_missing_are_drawn() -> None:
    for values in ([0.0, 0.0], [np.nan, np.nan], [3.0, 3.0]):
        assert "nan" not in pictures.curves("t", "epoch", {"x": ([1, 2], values)})


def test_training_panels_when_there_are_stages() -> None:
    lines = {"stage": [1.0, 1.0, 2.0], "epoch": [1.0, 2.0, 1.0], "ndcg@10": [0.1, 0.2, 0.3], "kl/x": [5.0, 4.0, np.nan]}
    panels = pictures.training_panels(pd.DataFrame(lines))
    assert panels["KL of each latent (nats per row)"] == {"kl/x, stage 1": ([1.0, 2.0], [5.0, 4.0])}
    assert list(panels["validation NDCG@10"]) == ["ndcg@10, stage 1", "ndcg@10, stage 2"]


def test_model_picture_when_read_has_both_domains_and_their_latents() -> None:
    words = [str(one.text) for one in parsed(pictures.model_picture()).iter(f"{SVG}text")]
    for latent in ("zˣ", "z_tʸ", "z_aˣ", "zʸ", "z_tˣ", "z_aʸ"):
        assert sum(word.endswith(latent) for word in words) == 1
    assert {"history in X", "history in Y", "items of X", "items of Y"} <= set(words)
