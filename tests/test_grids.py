"""Sweep files: what a grid means, and that a wrong one is refused before its first cell runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from i2vae_lib.data import DataError
from i2vae_lib.experiments.grids import (
    Range,
    address_of,
    address_of_record,
    cells_folder,
    from_notebook,
    read_sweep,
    resolve,
)
from i2vae_lib.params import ParameterError, load
from i2vae_lib.places import preset_folder

SMALL: dict[str, Any] = {"preset": "smoke", "grids": {"T": {"product": {"model.T": [5, 10, 20]}}}}


def grid(**content: Any) -> dict[str, Any]:
    return {"preset": "smoke", "grids": {"g": content}}


def test_product_of_all_values_and_seeds() -> None:
    found = resolve("s", grid(product={"model.T": [5, 10], "objective.lambda_a": [0.1, 0.2, 0.3]}) | {"seeds": [3, 4]})
    got = [(c.parameters.model.T, c.parameters.objective.lambda_a, c.parameters.seed) for c in found.cells]
    assert got == [(T, a, seed) for T in (5, 10) for a in (0.1, 0.2, 0.3) for seed in (3, 4)]
    assert found.axes() == ["model.T", "objective.lambda_a"]


def test_paired_values_go_together() -> None:
    found = resolve("s", grid(paired={"model.d": [16, 32], "model.T": [5, 10]}, product={"objective.lambda_c": [0, 1]}))
    got = [(c.parameters.model.d, c.parameters.model.T, c.parameters.objective.lambda_c) for c in found.cells]
    assert got == [(16, 5, 0), (16, 5, 1), (32, 10, 0), (32, 10, 1)]


def test_rows_keep_their_names_and_what_they_are_compared_with() -> None:
    rows = {"full": {}, "random": {"psg.kind": "random"}, "none": {"psg.kind": "none"}}
    found = resolve("s", grid(rows=rows, base="full", against={"none": "random"}))
    assert [(p.row, p.against) for c in found.cells for p in c.places] == [
        ("full", None),
        ("random", "full"),
        ("none", "random"),
    ]
    assert found.cells[1].places[0].settings == {"psg.kind": "random"}
    assert found.axes() == []


def test_data_protocol_and_epochs_are_keys() -> None:
    content = grid(product={"epochs": [1, 2], "protocol": ["strict", "temporal"]})
    got = [(c.parameters.training.epochs, c.parameters.protocol) for c in resolve("s", content).cells]
    assert got == [(1, "strict"), (1, "temporal"), (2, "strict"), (2, "temporal")]


def test_epochs_by_their_dotted_key() -> None:
    content = grid(product={"training.epochs": [1, 2, 4]}) | {"epochs": 8}
    assert [cell.parameters.training.epochs for cell in resolve("s", content).cells] == [1, 2, 4]


def test_cells_that_two_grids_name_are_one() -> None:
    content = SMALL | {"grids": {"T": {"product": {"model.T": [5, 10]}}, "rows": {"rows": {"short": {"model.T": 5}}}}}
    found = resolve("s", content)
    assert [len(cell.places) for cell in found.cells] == [2, 1]
    assert [list(place.labels()) for place in found.cells[0].places] == [["model.T = 5"], ["short"]]


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ({"start": 0.001, "stop": 0.010, "step": 0.001}, [i / 1000 for i in range(1, 11)]),
        ({"start": 10, "stop": 30, "step": 5}, [10, 15, 20, 25, 30]),
        ({"start": 0.25, "stop": 1, "number": 4}, [0.25, 0.5, 0.75, 1.0]),
        ({"start": 0.001, "stop": 1, "number": 4, "scale": "log"}, [0.001, 0.01, 0.1, 1.0]),
    ],
)
def test_range_when_it_is_listed(content: dict[str, Any], values: list[float]) -> None:
    found = Range.model_validate(content).values()
    assert found == values and [type(one) for one in found] == [type(one) for one in values]


@given(st.floats(1e-4, 10), st.floats(1e-4, 1), st.integers(0, 50))
def test_range_by_steps_holds_both_ends(start: float, step: float, count: int) -> None:
    found = Range(start=start, stop=start + count * step, step=step).values()
    assert len(found) == count + 1
    assert math.isclose(found[-1], start + count * step, rel_tol=1e-9)


def test_given_names_replace_the_files() -> None:
    content = SMALL | {"seeds": [0, 1], "overrides": {"model.d": 16}}
    found = resolve("s", content, {"seeds": [7], "epochs": 2, "data": None, "overrides": {"model.blocks": 2}})
    assert {(c.parameters.seed, c.parameters.training.epochs) for c in found.cells} == {(7, 2)}
    assert {(c.parameters.model.d, c.parameters.model.blocks) for c in found.cells} == {(16, 2)}


def test_address_of_what_a_result_depends_on() -> None:
    p = load("smoke")
    base = address_of(p, None)
    assert len(base) == 16
    moved = p.model_copy(update={"out": "elsewhere", "preset": "another", "svae": load("paper").svae})
    device = p.model_copy(update={"training": p.training.model_copy(update={"device": "cpu"})})
    assert address_of(moved, None) == address_of(device, None) == base
    others = [load("smoke", seed=1), load("smoke", {"model.T": 7}), load("smoke", {"system": "svae-m"})]
    assert len({base, address_of(p, "a log"), *(address_of(one, None) for one in others)}) == 5


def test_address_when_a_record_lacks_a_group_of_another_system() -> None:
    p = load("smoke")
    record = p.model_dump(mode="json")
    del record["dasl"]
    record["data"] = "elsewhere/synthetic.yaml"
    assert address_of_record(record, None) == address_of(p, None)
    record["model"]["T"] = 3
    assert address_of_record(record, None) != address_of(p, None)


def test_number_that_yaml_reads_as_a_word_is_a_number_on_its_axis() -> None:
    found = resolve("s", yaml.safe_load("{preset: smoke, grids: {g: {product: {objective.lambda_a: [1e-2, 5.0e-3]}}}}"))
    assert [cell.places[0].axes for cell in found.cells] == [
        {"objective.lambda_a": 0.01},
        {"objective.lambda_a": 0.005},
    ]


def test_given_epochs_by_their_dotted_key_come_before_the_files() -> None:
    found = resolve("s", SMALL | {"epochs": 1}, {"overrides": {"training.epochs": 3}})
    assert {cell.parameters.training.epochs for cell in found.cells} == {3}
    found = resolve("s", SMALL | {"overrides": {"training.epochs": 1}}, {"epochs": 3})
    assert {cell.parameters.training.epochs for cell in found.cells} == {3}
    with pytest.raises(ParameterError, match="are one parameter, and both are given"):
        resolve("s", SMALL | {"epochs": 1, "overrides": {"training.epochs": 2}})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"overrides": {"model.T": 7}}, "s: grid T varies model.T, so it cannot be given from outside"),
        ({"data": "cloth_sport"}, "s: grid pairs varies data, so it cannot be given from outside"),
        ({"epochs": 2, "overrides": {"training.epochs": 3}}, "epochs (2) and training.epochs (3) are one parameter"),
    ],
)
def test_given_names_that_would_do_nothing_are_refused(given: dict[str, Any], words: str) -> None:
    pairs = {"pairs": {"product": {"data": ["synthetic"]}}}
    with pytest.raises(ParameterError) as caught:
        resolve("s", SMALL | {"grids": SMALL["grids"] | pairs}, given, where="s")
    assert words in str(caught.value)


def refused(content: Any, words: str, kind: type[Exception] = ParameterError) -> None:
    with pytest.raises(kind) as caught:
        resolve("s", content, where="file.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("file.yaml: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (grid(product={"model.TT": [1]}), "unknown key 'model.TT'; did you mean 'model.T'?"),
        (grid(rows={"a": {"psg.kinds": "none"}}), "did you mean 'psg.kind'?"),
        (grid(product={"model.T": []}), "grid g is empty"),
        (grid(rows={}), "grid g is empty"),
        (grid(), "grid g is empty"),
        ({"preset": "smoke", "grids": {}}, "grids: none"),
        (SMALL | {"seeds": []}, "seeds: none"),
        (grid(paired={"model.T": [5, 10], "model.d": [8]}), "different numbers: {'model.T': 2, 'model.d': 1}"),
        (grid(paired={"model.T": [5]}, product={"model.T": [5]}), "model.T stands under product and under paired"),
        (grid(product={"model.T": [5, 5]}), "a value stands twice: model.T = 5"),
        (grid(product={"references.ease_lambda": [[1.0], [10.0]]}), "a list is no point of an axis; name it as a row"),
        (grid(product={"model.T": [5]}, rows={"a": {"model.T": 7}}), "model.T stands under product and under rows"),
        (grid(product={"epochs": [1], "training.epochs": [2]}), "epochs (1) and training.epochs (2) are one parameter"),
        (grid(product={"objective.lambda_a": ["1e-3", 0.001]}), "a value stands twice: objective.lambda_a = 0.001"),
        (SMALL | {"overrides": ["model.d"]}, "overrides: Input should be a mapping of names to values"),
        (SMALL | {"seeds": [True]}, "seeds.0: Input should be a valid integer, found True"),
        (SMALL | {"seeds": ["1"]}, "seeds.0: Input should be a valid integer, found '1'"),
        (SMALL | {"epochs": "1"}, "epochs: Input should be a valid integer, found '1'"),
        (
            SMALL | {"seeds": {"start": False, "stop": 1, "step": 1}},
            "seeds.start: Input should be a valid number, found False",
        ),
        (SMALL | {"seeds": [0, 0]}, "seeds: [0, 0]: whole numbers, each once"),
        (SMALL | {"seeds": {"start": 0, "stop": 1, "number": 3}}, "whole numbers, each once"),
        (
            grid(rows={"full": {}, "half": {"controls.density": 0.5}}, base="full"),
            "half sets controls.density, so it ranks other rows or candidates than full",
        ),
        (grid(rows={"full": {}}, base="ful"), "no row 'ful'; did you mean 'full'?"),
        (SMALL | {"grid": {}}, "did you mean 'grids'?"),
        (
            grid(product={"model.d": {"start": 8, "stop": 1, "step": 1}}),
            "grids.g.product.model.d: the start 8 lies above the stop 1",
        ),
        (SMALL | {"seeds": {"start": 3, "stop": 0, "step": 1}}, "seeds: the start 3 lies above the stop 0"),
        (grid(product={"model.T": {"start": 1, "stop": 2}}), "a range has either step or number"),
        (["not", "a", "mapping"], "expected the names preset, data"),
    ],
)
def test_wrong_file_is_refused(content: Any, words: str) -> None:
    refused(content, words)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            grid(product={"model.d": {"start": 8, "stop": 16, "step": 9}}),
            "grids.g.product.model.d: the step 9 leads beyond the stop 16, so 8 is the only value: a smaller step, or "
            "a list of values",
        ),
        (grid(product={"model.d": {"start": 8, "stpo": 9, "step": 1}}), "grids.g.product.model.d.stpo: unknown name"),
        (
            grid(product={"model.d": {"start": 8, "stop": 9, "number": 2, "scale": "x"}}),
            "grids.g.product.model.d.scale: Input should be 'linear' or 'log', found 'x'",
        ),
        (
            SMALL | {"seeds": 5},
            "seeds: Input should be a list or a mapping with start, stop, step, number, scale, found 5",
        ),
        (
            SMALL | {"grids": {"g": 5}},
            "grids.g: Input should be a mapping with product, paired, rows, base, against, found 5",
        ),
        (
            grid(product={"model.d": {"start": 1, "stop": math.inf, "step": 1}}),
            "grids.g.product.model.d.stop: Input should be a finite number, found inf",
        ),
        (
            grid(product={"model.d": {"start": 1, "stop": 1e12, "step": 1}}),
            "grids.g.product.model.d: from 1 to 1e+12 by 1 are more than 1,000 values: a larger step, or nearer ends",
        ),
        (
            SMALL | {"seeds": {"start": 0, "stop": 1e9, "step": 1}},
            "seeds: from 0 to 1e+09 by 1 are more than 1,000 values: a larger step, or nearer ends",
        ),
        (grid(product={"model.d": {"start": 1, "step": 1}}), "grids.g.product.model.d.stop: missing"),
    ],
)
def test_wrong_range_is_named_by_the_keys_of_the_file_alone(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        resolve("s", content, where="file.yaml")
    assert str(caught.value) == f"file.yaml: {said}"


def test_value_out_of_range_names_its_cell() -> None:
    values = [*range(1, 37), -1, *range(37, 200)]
    refused(grid(product={"model.T": values}), "cell 37 of 200 (grid g, seed 0): 'model.T'")


def test_data_that_a_protocol_cannot_serve_name_their_cell() -> None:
    content = grid(product={"data": ["synthetic", "cloth_sport"], "protocol": ["chronological"]})
    refused(content, "cell 2 of 2 (grid g, seed 0): protocol chronological needs timestamps", DataError)


def test_unknown_file_is_refused() -> None:
    with pytest.raises(ParameterError, match="did you mean 'recipe'"):
        read_sweep("recip")


@pytest.mark.parametrize("name", sorted(path.stem for path in (preset_folder() / "sweeps").glob("*.yaml")))
def test_committed_files_resolve(name: str) -> None:
    # on some data and protocol: what a grid sets, not where it is run
    given_data = {} if name in ("cold_users", "paper_table") else {"data": "cloth_sport", "protocol": "strict"}
    assert len(read_sweep(name, given_data).cells) >= 5


def test_changed_log_is_another_cell(tmp_path: Path) -> None:
    lines = "user_id,item_id,timestamp\n" + "".join(f"u{i},i{i},{1_400_000_000 + i}\n" for i in range(3))
    for side in ("a", "b"):
        (tmp_path / f"{side}.csv").write_text(lines.replace(",i", f",{side}"), encoding="utf-8")
    pair = {
        "name": "two",
        "x": {"name": "A", "path": "a.csv"},
        "y": {"name": "B", "path": "b.csv"},
        "columns": {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "unit": "s"},
        "min_user": 1,
        "min_item": 1,
    }
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(pair), encoding="utf-8")
    content = SMALL | {"data": str(path), "protocol": "chronological"}
    before = resolve("s", content).cells[0].address
    assert resolve("s", content).cells[0].address == before
    with (tmp_path / "a.csv").open("a", encoding="utf-8") as log:
        log.write("u9,a9,1400000009\n")
    assert resolve("s", content).cells[0].address != before


@pytest.mark.parametrize(("varied", "given"), [("training.epochs", "epochs"), ("epochs", "training.epochs")])
def test_epochs_by_either_name_are_one_parameter(varied: str, given: str) -> None:
    content = {"preset": "smoke", "grids": {"g": {"product": {varied: [2, 4]}}}}
    asked = {"epochs": 1} if given == "epochs" else {"overrides": {given: 1}}
    with pytest.raises(ParameterError, match=f"grid g varies {varied}, so it cannot be given from outside"):
        resolve("g", content, asked)


NOTEBOOK: dict[str, Any] = {
    "preset": "smoke",
    "data": "synthetic",
    "protocol": "strict",
    "seed": 3,
    "epochs": None,
    "out": None,
    "overrides": {},
    "sweep": "sensitivity",
    "seeds": 2,
    "cells": 4,
}


def test_cells_of_two_pairs_do_not_meet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("I2VAE_RUNS_DIR", str(tmp_path))
    content = {"preset": "smoke", "grids": {"g": {"product": {"model.T": [5]}}}}
    both = {
        "preset": "smoke",
        "protocol": "strict",
        "grids": {"g": {"product": {"data": ["synthetic", "cloth_sport"]}}},
    }
    named = [resolve("s", content, {"data": data, "protocol": "strict"}) for data in ("synthetic", "cloth_sport")]
    folders = [cells_folder(one).name for one in (*named, resolve("s", both))]
    assert folders == ["sweep-s-synthetic-strict", "sweep-s-cloth_sport-strict", "sweep-s"]


def test_notebook_of_a_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("I2VAE_RUNS_DIR", str(tmp_path))
    study, here, folder = from_notebook(NOTEBOOK | {"__name__": "__main__", "In": [], "load": load})
    assert {cell.parameters.seed for cell in study.cells} == {3, 4}
    assert here.cells == study.cells[:4] and folder == tmp_path / "sweep-sensitivity-synthetic-strict"
    _, everything, elsewhere = from_notebook(NOTEBOOK | {"cells": None, "out": "there"})
    assert everything.cells == study.cells and elsewhere == Path("there")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cell": 3}, "unknown parameter 'cell'; did you mean 'cells'?"),
        ({"seeds": 0}, "seeds: none"),
        ({"cells": -1}, "'cells': -1: at least one, or None for all"),
        ({"sweep": "sensitivty"}, "did you mean 'sensitivity'?"),
        ({"overrides": {"model.dd": 1}}, "did you mean 'model.d'?"),
    ],
)
def test_notebook_of_a_study_when_it_is_wrong(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        from_notebook(NOTEBOOK | wrong)
    assert words in str(caught.value)
