"""A model for other machines and a split for other models: nothing lost that is needed, nobody named that is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.numpy import load_file

from i2vae_lib import cli, export, stages
from i2vae_lib.api import I2VAE
from i2vae_lib.data.loading import load_dataset_once
from i2vae_lib.data.rows import DOMAINS
from i2vae_lib.evaluation import sample_negatives
from i2vae_lib.params import ParameterError, Parameters, load
from i2vae_lib.runs import LayoutError, read_record
from tests.helpers.disks import full_disk
from tests.helpers.worlds import TINY

EVERYWHERE = {
    "psg.kind": "leave_one_out",
    "model.positions": "every",
    "objective.reconstruction": "softmax",
    "evidence.shrinkage": [20.0, 20.0],
    "evidence.proximity": [0.0, 1.0],
    "evidence.backward": [1.0, 0.2],
    "evidence.across": [1.0, 0.3],
    "evidence.recency": [1.0, 0.5],
    "evidence.half_lives": [0.1],
}
HISTORIES = {"x": [["x20", "s3"], [], ["s1", "x27", "x28"], []], "y": [["y40"], ["y41"], [], []]}


def run_of(folder: Path, protocol: str = "chronological", **more: Any) -> Path:
    run = stages.open_run(load("smoke", TINY | more, protocol=protocol, epochs=1), folder)
    stages.run_all(run)
    return run.folder


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe's kind: its counts hold every training user's items. Do not change it."""
    return run_of(tmp_path_factory.mktemp("export") / "run", **EVERYWHERE)


@pytest.fixture(scope="module")
def exported(everywhere: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.export_run(everywhere, tmp_path_factory.mktemp("exported") / "model")


def test_exported_model_when_asked_recommends_what_the_run_does(everywhere: Path, exported: Path) -> None:
    run, model = I2VAE.load(everywhere), I2VAE.load(exported)
    for domain in DOMAINS:
        expected = run.recommend(histories=HISTORIES, domain=domain, k=20)
        pd.testing.assert_frame_equal(model.recommend(histories=HISTORIES, domain=domain, k=20), expected)
        assert len(expected) == 80 and expected["score"].nunique() > 20


@pytest.mark.parametrize(
    "words", [("compare",), ("report",), ("audit", "--run"), ("export", "--out", "again"), ("run", "--preset", "smoke")]
)
def test_exported_model_when_a_run_is_wanted_is_no_run(
    exported: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file() and path.name != ".lock"}
    if words[0] == "run":
        with pytest.raises(LayoutError, match="is an exported model and no run"):
            run_of(exported, **EVERYWHERE)
    else:
        assert cli.main([*words, str(exported)]) == 2
    told = capsys.readouterr().err
    assert words[0] == "run" or f"{exported} is an exported model and no run: it holds what recommending takes" in told
    assert {path: path.read_bytes() for path in before} == before


def test_exported_model_when_searched_names_no_training_user(everywhere: Path, exported: Path) -> None:
    users = {str(one) for one in I2VAE.load(everywhere).people.users}
    assert len(users) > 100
    for path in (one for one in exported.rglob("*") if one.is_file()):
        content = path.read_bytes()
        named = [user for user in users if f'"{user}"'.encode() in content or f"user {user}".encode() in content]
        assert not named, f"{path} names {named[:3]}"
    arrays = {name for path in exported.rglob("*.safetensors") for name in load_file(path)}
    assert not any(export.OF_USERS.search(name) for name in arrays) and "frozen/evidence/edges" in arrays
    kept = [load_file(path) for path in everywhere.rglob("*.safetensors")]
    assert any(any(export.OF_USERS.search(name) for name in one) for one in kept)  # which the run's own model has
    assert not (exported / "dataset").exists() and not list(exported.rglob("ranks.parquet"))
    tables = [pd.read_parquet(path) for path in exported.rglob("*.parquet")]
    assert tables and not any("user" in table for table in tables)
    edges = next(one["frozen/evidence/edges"] for one in map(load_file, exported.rglob("weights.safetensors")))
    assert len(edges) == 0  # nor when anything was taken


def test_exported_model_when_users_are_wanted_knows_them(everywhere: Path, tmp_path: Path) -> None:
    run = I2VAE.load(everywhere)
    model = I2VAE.load(export.export_run(everywhere, tmp_path / "model", with_users=True))
    users = list(run.people.users[:5])
    pd.testing.assert_frame_equal(model.recommend(users=users, domain="y"), run.recommend(users=users, domain="y"))
    assert "holds the ids and histories of its users" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_card_when_names_are_hostile(everywhere: Path) -> None:
    names = {"x": '"]}); import os; os.system("true")  # <script>alert(1)</script>', "y": "[y](javascript:alert(2))"}
    record = read_record(everywhere)
    card = export.model_card({**record, "names": names}, export.results(everywhere), False, "")
    code = card.split("```python")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "import os" not in code and not re.search(r"(?<!\\)<script|(?<!\\)\]\(javascript", card)


def test_card_when_the_licence_is_hostile(everywhere: Path) -> None:
    record = read_record(everywhere)
    licence = "MIT\n\n# Safe\n---\n<script>alert(1)</script> [y](javascript:alert(2)) `x`"
    card = export.model_card(record, export.results(everywhere), False, licence)
    [line] = [line for line in card.splitlines() if "MIT" in line]
    assert line.startswith("- MIT") and line.endswith("\\`x\\`") and "# Safe" in line
    assert not re.search(r"(?<!\\)<script|(?<!\\)\]\(javascript", card)


def test_card_when_read_has_what_a_user_must_know(everywhere: Path, exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    record = json.loads((everywhere / "run.json").read_text())
    for part in (record["dataset_sha256"], "chronological", "Made by the kit", "@inproceedings", "v286/ning25a"):
        assert part in card
    table = pd.read_csv(exported / "results.csv")
    stored = stages.load_metrics(everywhere)["i2vae"]
    keys = {name: d for d, name in record["names"].items()}
    for one in table.itertuples():
        expected = stored[keys[one.domain]][one.kind]["sampled"][one.metric]
        assert one.value == pytest.approx(expected) and one.value_low <= one.value <= one.value_high
        assert f"| {100 * one.value:.2f} (" in card
    assert set(table["kind"]) <= {"all", "tailed", "cold"} and len(table) >= 8


def test_export_when_a_system_keeps_its_users_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", protocol="temporal", system="lightgcn-m")
    with pytest.raises(ParameterError, match="can only be exported with them"):
        export.export_run(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert export.export_run(run, tmp_path / "model", with_users=True).is_dir()


def test_export_when_it_cannot_be_done_leaves_nothing(everywhere: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(LayoutError, match="exists"):
        export.export_run(everywhere, tmp_path / "there")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_bytes((everywhere / "run.json").read_bytes())
    with pytest.raises(LayoutError, match=r"metrics\.json is missing: put the run"):
        export.export_run(tmp_path / "begun", tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["begun", "there"]


def test_export_when_the_disk_is_full_names_what_could_not_be_written(
    everywhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with full_disk(1_000):
        assert cli.main(["export", str(everywhere), "--out", str(out)]) == 2
        with pytest.raises(OSError, match=f"^{out} could not be written"):
            I2VAE.load(everywhere).save(out)
    assert f"{out} could not be written (File too large)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert cli.main(["export", str(everywhere), "--out", str(out)]) == 0


def test_split_when_exported_is_what_the_kit_evaluates_on(tiny: Parameters, tmp_path: Path) -> None:
    folder = export.export_split(tiny, tmp_path / "split")
    dataset = load_dataset_once(tiny)
    about = json.loads((folder / "split.json").read_text())
    assert about["dataset_sha256"] == dataset.fingerprint() and about["protocol"] == tiny.protocol
    for split, rows in dataset.splits.items():
        table = pd.read_parquet(folder / f"rows_{split}.parquet")
        assert list(table) == ["row", "user", "domain", "target", "history_North", "history_South"]
        assert table["row"].tolist() == rows.source.tolist() and table["user"].tolist() == list(rows.user)
        for i in (0, len(rows) // 2, len(rows) - 1):
            for d, name in rows.catalogue.names.items():
                expected = [rows.catalogue.ids[d][item - 1] for item in rows.history[d][i]]
                assert list(table[f"history_{name}"][i]) == expected
    rows = dataset.splits["test"]
    candidates = pd.read_parquet(folder / "candidates_test.parquet")
    negatives = sample_negatives(rows, tiny.evaluation.negatives, tiny.split.data_seed)
    ids = rows.catalogue.ids[DOMAINS[rows.domain[3]]]
    assert list(candidates["candidates"][3]) == [ids[item - 1] for item in negatives[3] if item]
    assert candidates["target"][3] == ids[rows.target[3] - 1]
    assert len(candidates) == len(rows) and not (folder / "candidates_train.parquet").exists()
