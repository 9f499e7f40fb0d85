"""``report.html`` opens without a network and says what was measured; figures draw the table they are given."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from choreographer.errors import ChromeNotFoundError
from kaleido._page_generator import PageGenerator

from i2vae_lib import cli, report, stages
from i2vae_lib.commands import actions
from i2vae_lib.figures import plots
from i2vae_lib.labels import label
from i2vae_lib.params import Parameters, load, of_result
from i2vae_lib.recommenders import REGISTRY
from i2vae_lib.runs import LayoutError
from i2vae_lib.stages import irrelevant_groups
from tests.helpers.planted_runs import recorded

NAMES = ["i2vae", "popularity", "recent_popularity", "copy", "itemknn", "ease", "ordered_counts", "oracle", "informed"]

NASTY = "<script>alert(1)</script>"
# elements that a browser fetches, with the attribute that says from where
FETCHED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("object", "data"),
    ("source", "src"),
}


class Page(HTMLParser):
    """Tags with their attributes, tables as lists of rows, and the text outside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag != "b":  # within a cell
            self.inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.inside not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def folder(tiny: Parameters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Do not change it."""
    run = stages.open_run(tiny, tmp_path_factory.mktemp("report") / "run")
    stages.run_all(run)
    return run.folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(report.write_report(folder).read_text(encoding="utf-8"))


def reported(folder: Path, copy: Path, **changes: Any) -> str:
    """The report of a copy of the run whose record differs."""
    shutil.copytree(folder, copy)
    return report.write_report(recorded(copy, **changes)).read_text(encoding="utf-8")


def test_report_when_a_browser_reads_it(page: Page) -> None:
    fetched = [value for tag, found in page.tags for name, value in found.items() if (tag, name) in FETCHED]
    assert fetched == []
    assert [tag for tag, _ in page.tags].count("svg") == 5 and not any(tag == "script" for tag, _ in page.tags)
    links = [found.get("href") or "" for tag, found in page.tags if tag == "a"]
    assert not any("//" in link for link in links)
    styles = [found["style"] or "" for _, found in page.tags if "style" in found]
    assert not any("url(" in style or "@import" in style for style in styles)


def test_report_when_its_size_is_taken_is_small(folder: Path, page: Page) -> None:
    assert (folder / "report.html").stat().st_size < 1.5e6


def test_report_when_its_tables_are_read(page: Page, folder: Path) -> None:
    stored = stages.load_metrics(folder)
    results = [table for table in page.tables if table[0][:3] == ["domain", "kind", "n"]]
    six, *whole = results
    assert [line[:2] for line in six[1:]] == [
        [d, kind] for d in ("North", "South") for kind in ("all", "tailed", "cold")
    ]
    assert len(whole) == 4  # HR and NDCG, sampled and full
    for table in results:
        assert table[0][3:] == [REGISTRY[name].title for name in NAMES]
    for table in whole:
        cells = {(line[0], line[1]): line[2:] for line in table[1:]}
        for d, name in (("x", "North"), ("y", "South")):
            for kind in ("all", "tailed", "cold", "no_history", "overlapping"):
                assert cells[name, label(kind)][0] == str(stored["i2vae"][d][kind]["n"])
    expected = [100 * stored[name]["x"]["all"]["sampled"]["HR@10"] for name in NAMES]
    for table in (six, whole[0]):
        first = {(line[0], line[1]): line for line in table[1:]}["North", "all"]
        assert [float(cell) for cell in first[3:]] == pytest.approx(expected, abs=0.006)


def test_report_when_a_screen_reader_reads_it_headings_have_scopes(page: Page) -> None:
    scopes = [found.get("scope") for tag, found in page.tags if tag == "th"]
    assert set(scopes) == {"col", "row"} and scopes.count("row") > 50
    assert all(found["aria-label"] for tag, found in page.tags if tag == "svg")
    targets = {found["id"] for _, found in page.tags if "id" in found}
    links = [str(found["href"]) for tag, found in page.tags if tag == "a"]
    assert links and {link.removeprefix("#") for link in links if link.startswith("#")} <= targets


def test_report_when_it_marks_the_best_marks_no_ceiling(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    lines = text.partition("<tbody>")[2].partition("</tbody>")[0].split("</tr>")[:-1]
    cells = [re.findall("<t[dh][^>]*>(.*?)</t[dh]>", line) for line in lines]
    assert len(cells) == 6
    for line in cells:
        values = [float(re.sub("</?b>", "", one)) for one in line[3:-2]]  # the last two read the truth
        bold = {float(one[3:-4]) for one in line[3:] if one.startswith("<b>")}
        assert bold == {max(values)}


def test_report_when_its_sections_are_read(page: Page, folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    tables = {tuple(table[0]): table[1:] for table in page.tables}
    checks = tables["result", "check", "split", "count", "per cent", "example"]
    assert {line[0] for line in checks} == {"passed", "note"} and len(checks) == len(record["audit"])
    assert ("stage", "seconds", "peak memory so far (MiB)") in tables
    assert record["dataset_sha256"][:16] in page.text and "No check failed" in page.text
    assert "i2vae run --data synthetic --protocol chronological --preset smoke --seed 0 --epochs 2" in page.text
    keys = {line[0]: line[1] for line in tables["key", "value"]}
    assert keys["parameters.model.d"] == "16" and "environment.torch" in keys


def test_report_when_a_check_found_a_leak_says_failed(folder: Path, tmp_path: Path) -> None:
    lines = json.loads((folder / "run.json").read_text())["audit"]
    leaking = next(one for one in lines if one["severity"] == "leak")
    page = Page(reported(folder, tmp_path / "copy", audit=[one | {"count": 3 * (one is leaking)} for one in lines]))
    told = [line for table in page.tables for line in table if line[0] == "failed"]
    assert len(told) == 2 and all(line[1] == leaking["check"] for line in told)  # by itself, and among all
    assert "1 checks failed" in page.text


def test_report_when_the_protocol_is_strict(page: Page) -> None:
    assert "NOT leak-free" not in page.text
    assert [found for _, found in page.tags if found.get("class") == "stamp"] == []


def test_report_when_the_protocol_is_released(folder: Path, tmp_path: Path) -> None:
    page = Page(reported(folder, tmp_path / "copy", protocol="released"))
    assert "NOT leak-free: protocol released keeps what the published splits leak" in page.text.replace("\n", " ")
    assert len([found for _, found in page.tags if found.get("class") == "stamp"]) == 1


def test_report_when_names_hold_markup(folder: Path, tmp_path: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    record["audit"][0]["example"] = NASTY
    record["parameters"]["preset"] = NASTY
    changes = {name: record[name] for name in ("audit", "parameters")}
    names = {"x": NASTY, "y": '"><img src=x onerror=alert(2)>'}
    text = reported(folder, tmp_path / "copy", data=NASTY, names=names, **changes)
    assert NASTY not in text and "<img" not in text
    page = Page(text)
    assert not any(tag == "img" or "onerror" in found for tag, found in page.tags)
    assert page.text.count(NASTY) >= 4  # shown as what it is


def test_report_when_a_stage_is_missing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text((folder / "run.json").read_text())
    with pytest.raises(LayoutError, match=r"metrics\.json is missing"):
        report.write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_report_when_notebooks_were_executed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "notebooks").mkdir()
    (tmp_path / "copy" / "notebooks" / "03_training.html").write_text("one")
    page = Page(report.write_report(tmp_path / "copy").read_text(encoding="utf-8"))
    links = [found["href"] for tag, found in page.tags if tag == "a"]
    assert "notebooks/03_training.html" in links and "#notebooks" in links


# --- figures ----------------------------------------------------------------------------------------------------------


def test_results_when_drawn() -> None:
    table = pd.DataFrame(
        [("North", "all", 9, 30.5, 4.0), ("North", "cold", 0, None, None), ("South", "all", 7, 8.0, 2.5)],
        columns=["domain", "kind", "n", "i2vae", "popularity"],
    )
    drawn = plots.results(table, "HR@10")
    bars = [
        (bar.name, bar.xaxis, list(bar.x), [None if value != value else value for value in bar.y]) for bar in drawn.data
    ]
    north, south = ["all (n=9)", "cold (n=0)"], ["all (n=7)"]
    assert bars == [
        ("i2VAE", "x", north, [30.5, None]),
        ("Popularity", "x", north, [4.0, None]),
        ("i2VAE", "x2", south, [8.0]),
        ("Popularity", "x2", south, [2.5]),
    ]
    assert drawn.layout.title.text == "HR@10"
    assert [one.text for one in drawn.layout.annotations] == ["North", "South"]
    assert [bar.showlegend for bar in drawn.data] == [True, True, False, False]
    assert drawn.data[0].marker.color == drawn.data[2].marker.color != drawn.data[1].marker.color


def test_training_curves_when_drawn(folder: Path) -> None:
    history = stages.load_history(folder)
    drawn = plots.training_curves(history)
    wanted = [c for c in history if c.startswith(("reconstruction/", "kl/", "active/", "ndcg@10"))]
    traces = {trace.name: trace for trace in drawn.data}
    assert set(traces) == set(map(label, wanted)) and len(drawn.data) == len(wanted) == 17
    for column in wanted:
        trace = traces[label(column)]
        assert list(trace.x) == [1, 2] and list(trace.y) == pytest.approx(history[column].tolist(), rel=1e-3)
    assert len(drawn.layout.annotations) == 4


def test_training_curves_when_there_are_stages() -> None:
    lines = {"stage": [1.0, 1.0, 2.0], "epoch": [1.0, 2.0, 1.0], "ndcg@10": [0.1, 0.2, 0.3], "kl/x": [5.0, 4.0, np.nan]}
    drawn = plots.training_curves(pd.DataFrame(lines))
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in drawn.data] == [
        ("KL of zˣ, stage 1", [1, 2], [5.0, 4.0]),
        ("NDCG@10, stage 1", [1, 2], [0.1, 0.2]),
        ("NDCG@10, stage 2", [1], [0.3]),
    ]


def test_command_when_it_is_given_back_makes_the_same_parameters() -> None:
    given = {"system": "savae", "model.d": 24, "references.neighbours": [5, 7], "psg.kind": "random"}
    made = load("smoke", given, protocol="strict", seed=4, epochs=3).model_dump(mode="json")
    words = shlex.split(report.command_of(made))
    assert words[:2] == ["i2vae", "run"] and "psg.kind=random" not in words  # nothing that savae reads
    parsed = cli.build_parser().parse_args(words[1:])
    again = load(
        parsed.preset,
        actions.chosen_of(parsed),
        data=parsed.data,
        protocol=parsed.protocol,
        seed=parsed.seed,
        epochs=parsed.epochs,
    )
    without = irrelevant_groups(["savae"])
    assert of_result(again.model_dump(mode="json"), without) == of_result(made, without)
    elsewhere = shlex.split(report.command_of(made | {"preset": "mine"}))
    assert "--preset paper" in " ".join(elsewhere) and {"savae.hidden=32", "model.d=24"} < set(elsewhere)


def test_training_when_it_has_stages_tells_of_the_last() -> None:
    record = {"device": "cpu", "weights": 1234, "best_epoch": 2, "best_validation_ndcg": 0.25}
    one = {"seconds": 2.0, "rows/s": 50.0}
    history = pd.DataFrame(
        [{"stage": stage, "epoch": epoch} | one for stage, n in ((1, 3), (2, 2)) for epoch in range(n)]
    )
    said = report.training_of(record, history)
    assert said.startswith("2 epochs of the last stage (after 3 of those before) on cpu, 1,234 weights; epoch 2 was")
    assert report.training_of(record, history.drop(columns="stage")).startswith("5 epochs on cpu")
    pooled = history.drop(columns="stage").assign(pool=[np.nan, 2.0, np.nan, np.nan, np.nan])
    assert "(0.2500, pooled with counts of weight 2)" in report.training_of(record, pooled) and "pooled" not in said


def test_lines_when_drawn() -> None:
    table = pd.DataFrame({"T": [5, 10, 20], "HR": [1.0, 2.0, 3.0], "NDCG": [0.5, 0.6, 0.7], "other": [9, 9, 9]})
    drawn = plots.lines(table, "T", ["HR", "NDCG"], "A title", "per cent", log_x=True)
    assert [(line.name, list(line.x), list(line.y)) for line in drawn.data] == [
        ("HR", [5, 10, 20], [1.0, 2.0, 3.0]),
        ("NDCG", [5, 10, 20], [0.5, 0.6, 0.7]),
    ]
    assert (drawn.layout.xaxis.type, drawn.layout.yaxis.type) == ("log", None)
    assert drawn.layout.yaxis.title.text == "per cent"


def test_bars_when_drawn() -> None:
    table = pd.DataFrame({"kind": ["all", "cold", "all"], "share": [0.1, 0.2, 0.3], "split": ["b", "b", "a"]})
    drawn = plots.bars(table, "kind", "share", "split", "A title")
    assert [(bar.name, list(bar.x), list(bar.y)) for bar in drawn.data] == [
        ("b", ["all", "cold"], [0.1, 0.2]),
        ("a", ["all"], [0.3]),
    ]
    assert drawn.layout.barmode == "group"


CURVE = pd.DataFrame(
    {
        "metric": ["HR@10", "HR@10", "HR@10", "HR@10", None],
        "domain": ["North", "North", "South", "South", None],
        "model.T": [20, 10, 10, 20, 30],
        "kind": ["all"] * 4 + [None],
        "mean": [12.0, 11.0, 8.0, 9.0, float("nan")],
        "low": [11.0, 10.5, float("nan"), 8.5, float("nan")],
        "high": [13.0, 11.5, float("nan"), 9.5, float("nan")],
        "seeds": [3, 3, 1, 3, 0],
        "runs": ["cells/a", "cells/b", "cells/c", "cells/d", None],
    }
)


def test_curves_when_a_value_is_missing() -> None:
    drawn = plots.curves(CURVE, "model.T", "kind", "A title")
    lines = [one for one in drawn.data if one.mode == "lines+markers"]
    assert [list(one.x) for one in lines] == [[10, 20], [10, 20]]  # in the order of the axis
    assert [list(one.y) for one in lines] == [[11.0, 12.0], [8.0, 9.0]]
    assert lines[0].customdata[0][0] == "cells/b" and "%{customdata[0]}" in lines[0].hovertemplate
    bands = [one for one in drawn.data if one.fill == "toself"]
    assert [list(one.y) for one in bands] == [
        [11.5, 13.0, 11.0, 10.5],
        [9.5, 8.5],
    ]  # no band where there is no interval
    texts = [one.text for one in drawn.layout.annotations]
    assert texts.count("missing") == 2 and {one.x0 for one in drawn.layout.shapes} == {30}
    assert {"North: HR@10", "South: HR@10"} <= set(texts)


def test_curves_when_a_place_is_missing_on_an_axis_of_words() -> None:
    words = CURVE.assign(**{"model.T": ["b", "a", "a", "b", "c"]})
    drawn = plots.curves(words, "model.T", "kind", "A title")
    assert {one.x0 for one in drawn.layout.shapes} == {"c"}
    assert [one.x for one in drawn.layout.annotations if one.text == "missing"] == ["c", "c"]


def test_curves_when_nothing_is_done() -> None:
    drawn = plots.curves(CURVE[CURVE["domain"].isna()], "model.T", "kind", "A title")
    assert not drawn.data and drawn.layout.annotations[0].text == "nothing is done yet"


DRAWN = {name: (plots.curves(CURVE, "model.T", "kind", "A title"), CURVE) for name in ("curve", "again")}


def test_figures_as_files(tmp_path: Path) -> None:
    written = plots.write_figures(DRAWN, tmp_path / "out")
    assert [path.name for path in written][:4] == ["curve.csv", "curve.html", "again.csv", "again.html"]
    pd.testing.assert_frame_equal(pd.read_csv(written[0]), CURVE, check_dtype=False)
    page = written[1].read_text(encoding="utf-8")
    assert "A title" in page and not re.search(r'<script[^>]+src="https?:', page)  # opens without a network
    if shutil.which("chromium"):
        assert [path.name for path in written][4:] == ["curve.png", "again.png"]
        for image in (path.read_bytes() for path in written[4:]):
            assert image.startswith(b"\x89PNG")
            assert [int.from_bytes(image[at : at + 4], "big") for at in (16, 20)] == [2000, 800]


def test_images_when_their_page_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *words, **named: seen.append(named))
    plots.write_figures(DRAWN, tmp_path)
    page = PageGenerator(**seen[0]["kopts"]).generate_index()
    assert "plotly.min.js" in page and not re.search(r'<script[^>]+src="https?:', page)  # made without a network


def test_figures_as_files_when_there_is_no_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_browser(*words: Any, **named: Any) -> None:
        raise ChromeNotFoundError

    monkeypatch.setattr("kaleido.write_fig_from_object_sync", no_browser)
    written = plots.write_figures(DRAWN, tmp_path)
    assert [path.name for path in written] == ["curve.csv", "curve.html", "again.csv", "again.html"]
