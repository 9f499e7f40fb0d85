"""Damaged, lost and foreign files: named with what to do, or made anew; never taken for the truth."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from i2vae_lib import I2VAE, cli, runs, stages, training
from i2vae_lib.data import CrossDomainDataset, released
from i2vae_lib.data.logs import amazon
from i2vae_lib.data.rows import DataError
from i2vae_lib.experiments import sweeps
from i2vae_lib.experiments.grids import Cell, read_sweep
from i2vae_lib.experiments.workers import connect
from i2vae_lib.generators import psg
from i2vae_lib.params import ParameterError, Parameters, load
from i2vae_lib.runs import Damaged, LayoutError, Run, checked, parameters_in, read_record, write_atomically
from tests.helpers.planted_runs import recorded
from tests.helpers.worlds import TINY

KEYS = ("model.T", "psg.epochs", "psg.batch_size", "training.batch_size")


@pytest.fixture(scope="module")
def finished(whole_run: tuple[Path, list[str]]) -> Path:
    """A whole run. Do not change it."""
    return whole_run[0]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "R"))


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink()  # it may be another's under a second name
    path.write_bytes(content)


def test_record_when_finished_has_every_file_that_a_later_command_reads(finished: Path) -> None:
    known = set(json.loads((finished / "run.json").read_text())["sha256"])
    there = {one.relative_to(finished).as_posix() for one in finished.rglob("*") if one.is_file()}
    assert there - known == {"run.json", "last.ckpt", ".lock"} and known <= there


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model/weights.safetensors", "recommend R --domain y --history x=s0"),
        ("model/model.json", "audit --run R"),
        ("model/catalogue.json", "recommend R --domain y --history x=s0"),
        ("model/generator/generator.safetensors", "audit --run R"),
        ("dataset/events_x.parquet", "audit --run R"),  # the dataset's own fingerprint does not reach it
        ("pseudo.parquet", "audit --run R"),
        ("ranks.parquet", "compare R"),
        ("metrics.json", "report R"),
        ("history.parquet", "report R"),
    ],
)
@pytest.mark.parametrize("harm", ["flip", "cut", "lose", "folder"])
def test_command_when_a_file_is_damaged(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, words: str, harm: str
) -> None:
    path = copied / name
    if harm == "flip":
        flip(path)
    else:
        content = path.read_bytes()
        path.unlink()
        if harm == "folder":
            path.mkdir()
        if harm == "cut":
            path.write_bytes(content[: len(content) // 2])
    monkeypatch.chdir(copied.parent)
    assert cli.main(words.split()) == 2
    said = capsys.readouterr().err
    assert Path(name).name in said and ("run it anew" in said or harm in ("lose", "folder"))
    assert harm != "folder" or f"{name} is a folder" in said or f"no {name}" in said


def test_run_when_a_whole_file_is_another_runs(copied: Path, tiny: Parameters, finished: Path, tmp_path: Path) -> None:
    """Readable, of the right kind, and not this run's: the same run does not take it either."""
    other = stages.open_run(tiny.model_copy(update={"seed": 3}), tmp_path / "other")
    stages.train(other)
    shutil.rmtree(copied / "model")
    shutil.copytree(other.folder / "model", copied / "model")
    with pytest.raises(Damaged, match=r"model[/\\]model\.json is not what this run wrote.*another run's"):
        stages.train(stages.open_run(tiny, copied))


def test_checked_when_it_is_asked_twice_reads_once(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    digest = runs.sha256_of
    monkeypatch.setattr(runs, "sha256_of", lambda path: read.append(path) or digest(path))
    for _ in range(3):
        assert checked(copied, "ranks.parquet") == copied / "ranks.parquet"
    assert len(read) == 1
    flip(copied / "ranks.parquet")
    with pytest.raises(Damaged, match=r"ranks\.parquet"):
        checked(copied, "ranks.parquet")


def test_state_of_a_cell_reads_its_record_once(
    copied: Path, tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("A", tiny, ())
    folder = sweeps.cell_folder(tmp_path, "A")
    folder.parent.mkdir()
    copied.rename(folder)
    read: list[Path] = []
    whole = runs.read_json
    monkeypatch.setattr(runs, "read_json", lambda path, *words: read.append(path) or whole(path, *words))
    assert sweeps.state_of(cell, tmp_path) == "done" and len(read) == 1
    edited = (folder / "run.json").read_text().replace('"best_validation_ndcg": 0', '"best_validation_ndcg": 1')
    (folder / "run.json").write_text(edited)
    assert sweeps.state_of(cell, tmp_path) == "damaged"


def test_model_when_it_is_damaged_behind_its_checksum(copied: Path) -> None:
    (copied / "model" / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(Damaged, match=r"weights\.safetensors is damaged"):
        stages.load_system(recorded(copied))


def test_run_when_its_record_is_lost(copied: Path, tiny: Parameters) -> None:
    (copied / "run.json").unlink()
    with pytest.raises(LayoutError, match=r"holds other files \(dataset, .*but no run\.json.*the run's own run\.json"):
        Run(tiny, copied)
    assert not (copied / "run.json").exists()


def test_run_when_its_folder_is_anothers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert cli.main(["run", "--preset", "smoke", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} holds other files (thesis.tex) but no run.json" in said and "new or empty" in said
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", [".git", ".DS_Store", "logs", "log.txt", "vectors.parquet", ".thesis.part"])
def test_run_when_its_folder_has_names_of_ours_but_is_anothers(name: str, tiny: Parameters, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    logs = {d: pd.DataFrame({"user": ["u"], "item": ["i"], "time": [1_400_000_000]}) for d in ("Books", "Films")}
    with pytest.raises(LayoutError, match=rf"holds other files \({re.escape(name)}\) but no run\.json"):
        Run(tiny, tmp_path)
    with pytest.raises(LayoutError, match="holds other files"):
        I2VAE.fit(logs, preset="smoke", out=tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [name] and not list((tmp_path / name).iterdir())


def test_run_when_it_goes_on_leaves_no_part_of_a_killed_one(copied: Path) -> None:
    digits, before = "0123456789abcdef", {path.name for path in copied.iterdir()}
    others = {".thesis.part", f".thesis.tex.{digits}.part", ".run.json.part", f"run.json.{digits}.part"}
    for name in ("run.json", "metrics.json", "last.ckpt", "last_x.ckpt", "ranks.parquet", "history.parquet"):
        (copied / f".{name}.{digits}.part").write_text("half")
    for name in others:
        (copied / name).write_text("mine")
    Run(parameters_in(read_record(copied), copied), copied)
    assert {path.name for path in copied.iterdir()} - {".lock"} == (before | others) - {".lock"}


def test_run_when_it_was_killed_before_its_record(tiny: Parameters, tmp_path: Path) -> None:
    for name in (".lock", ".cell.lock", ".run.json.0123456789abcdef.part", "log.txt"):
        (tmp_path / name).touch()
    assert Run(tiny, tmp_path).record["stages"] == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"layout": 3', '"layout": true'),
        ('"best_validation_ndcg": 0', '"best_validation_ndcg": 1'),
        ('"dataset_sha256": "', '"dataset_sha256": "0'),
        ('"weights": ', '"weights": -'),
        ('"weights": ', '"other": '),
        ('"x": "North"', '"x": 5'),
        ('"audit": [', '"audit": [5, '),
        ('"record_sha256": "', '"record_sha256": "0'),
        ('"record_sha256": "', '"unknown": "'),
    ],
)
def test_record_when_a_value_was_edited(
    copied: Path, before: str, after: str, tiny: Parameters, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "run.json"
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    for command in ("report", "compare"):
        assert cli.main([command, str(copied)]) == 2
        assert str(copied) in capsys.readouterr().err
    with pytest.raises(LayoutError, match=r"put the run's own back, or run into another OUT|run it anew"):
        Run(tiny, copied)


@pytest.mark.parametrize("text", ["[]", '"a"', '{"layout": 3, "parameters": []}', "[" * 100_000])
def test_record_when_it_is_of_another_type(copied: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "run.json").write_text(text)
    assert cli.main(["report", str(copied)]) == 2
    assert "run.json" in capsys.readouterr().err


class Planted:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, ("touch /tmp/i2vae-planted",)


def fit(path: Path, epochs: int) -> training.State:
    module = nn.Linear(40, 30)
    generator = torch.Generator().manual_seed(0)

    def loss(batch: object, epoch: int, drawn: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return module(torch.ones(1, 40)).square().sum(), {}

    return training.train(
        training.Stage("one", module, loss, lambda rng: [{}], rows=1, steps=1),
        lambda: {"ndcg@10": 0.5},
        load("smoke", TINY, epochs=epochs).training,
        rng=np.random.default_rng(0),
        generator=generator,
        identity="a",
        callbacks=training.Callbacks(path),
    )


@pytest.mark.parametrize("harm", ["empty", "cut", "garbage", "pickle", "weights", "other"])
def test_checkpoint_when_damaged(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "last.ckpt"
    fit(path, 1)
    whole = path.read_bytes()
    if harm == "weights":  # still an archive that torch reads
        saved = torch.load(path, weights_only=True)
        saved["module"]["weight"][3, 4] += 1e-6
        torch.save(saved, path)
    else:
        contents = {"empty": b"", "cut": whole[: len(whole) // 2], "garbage": b"\x93garbage\x00" * 500}
        contents |= {"pickle": pickle.dumps(Planted())}
        torch.save([1, 2], path) if harm == "other" else path.write_bytes(contents[harm])
    with pytest.raises(Damaged, match=r"last\.ckpt is damaged.*delete it to start anew"):
        fit(path, 2)
    assert not Path("/tmp/i2vae-planted").exists()
    path.write_bytes(whole)
    assert fit(path, 2).epoch == 2


def test_write_when_a_library_gives_files_other_rights(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", lambda part: (part.write_text("a"), part.chmod(0o600)))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [OSError(27, "File too large"), RuntimeError("[enforce fail at inline_container.cc")])
def test_write_when_there_is_no_room(tmp_path: Path, error: Exception) -> None:
    def fail(part: Path) -> None:
        part.write_text("half")
        raise error

    (tmp_path / "last.ckpt").write_text("whole")
    with pytest.raises(OSError, match=r"last\.ckpt could not be written \(.*before is whole"):
        write_atomically(tmp_path / "last.ckpt", fail)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("last.ckpt", "whole")]


def test_cache_when_its_folder_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Parameters
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="set I2VAE_CACHE_DIR"):
        stages.prepare(stages.open_run(tiny, tmp_path / "R"))


def place_of(module: str) -> str:
    return str(importlib.import_module(module).__file__)


def test_workers_when_modules_lie_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sweeps, tables, searches and the study of leaks."""
    (tmp_path / "multiprocessing").mkdir()
    for name in ("numpy.py", "argparse.py", "multiprocessing/__init__.py"):
        (tmp_path / name).write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}")  # an empty part: the directory
    with connect(1) as workers:
        for module in ("numpy", "argparse", "multiprocessing"):
            assert not workers.submit(place_of, module).result().startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.d=1000000000", "model.d"),
        ("model.T=99999999999999999999", "model.T"),
        ("model.T_pseudo=1000000000", "model.T_pseudo"),
        ("psg.d=1000000000", "psg.d"),
        ("psg.batch_size=1000000000000", "psg.batch_size"),
        ("psg.folds=1000000", "psg.folds"),
        ("psg.layers=9000000", "psg.layers"),
        ("psg.rounds=9000000", "psg.rounds"),
        ("model.blocks=9000000", "model.blocks"),
        ("objective.free_bits=1e300", "objective.free_bits"),
        ("training.learning_rate=1e300", "training.learning_rate"),
        ("multivae.hidden=1000000000", "multivae.hidden"),
        ("evaluation.batch_size=1000000000000", "evaluation.batch_size"),
        ("synthetic.users=1000000000000", "synthetic.users"),
        ("synthetic.items=1000000000", "synthetic.items"),
        ("synthetic.shared_topics=1000000000", "synthetic.shared_topics"),
        ("training.device=meta", "training.device"),
        ("training.device=cuda:99", "training.device"),
        ("training.device=gpu", "training.device"),
    ],
)
def test_run_when_a_value_cannot_be(
    override: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--preset", "smoke", "--set", override, "--out", str(tmp_path / "R")]) == 2
    assert f"'{key}'" in capsys.readouterr().err and not (tmp_path / "R").exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_command_when_memory_is_short(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*words: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(stages, "open_run", fail)
    assert cli.main(["run", "--preset", "smoke"]) == 2
    assert "more memory than there is" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", " ", "a\\nb", "a\\eb"])
@pytest.mark.parametrize("text", ['"{}": {{product: {{model.d: [8]}}}}', 'g: {{rows: {{"{}": {{model.d: 8}}}}}}'])
def test_sweep_when_a_name_cannot_be_shown(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(f"preset: smoke\ngrids: {{{text.format(name)}}}\n")
    with pytest.raises(ParameterError, match=r"names\.yaml: the name '.*' of a grid or a row"):
        read_sweep(path)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ("product: {model.d: {start: 1, stop: .inf, step: 1}}", r"model\.d.*finite"),
        ("product: {model.d: {start: .nan, stop: 9, step: 1}}", r"model\.d.*finite"),
        ("product: {model.d: {start: 1, stop: 2, step: 1.0e-300}}", r"model\.d.*more than 1,000 values"),
        ("product: {model.d: {start: 1, stop: 1.0e+12, step: 1}}", r"model\.d.*more than 1,000 values"),
        ("product: {model.d: {start: 1, stop: 9, number: 1000000000}}", r"model\.d.*number"),
        ("paired: {model.d: {start: 1, stop: .inf, step: 1}}", r"model\.d.*finite"),
        (
            f"product: {{{', '.join(f'{key}: {{start: 1, stop: 99, step: 1}}' for key in KEYS)}}}",
            "grid g has 96,059,601 cells",
        ),
    ],
)
def test_sweep_when_a_range_has_no_end(tmp_path: Path, grids: str, message: str) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text(f"preset: smoke\ngrids: {{g: {{{grids}}}}}\n")
    with pytest.raises(ParameterError, match=rf"wide\.yaml.*{message}"):
        read_sweep(path)
    path.write_text("preset: smoke\nseeds: {start: 0, stop: 1.0e+9, step: 1}\ngrids: {g: {product: {model.d: [8]}}}\n")
    with pytest.raises(ParameterError, match=r"wide\.yaml: seeds.*more than 1,000 values"):
        read_sweep(path)


def test_model_when_its_device_is_not_here(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "model" / "model.json"
    path.write_text(path.read_text().replace('"device": "auto"', '"device": "cuda:99"'))
    assert stages.load_system(recorded(copied)).device == torch.device("cpu")
    assert "cuda:99 is not there: the CPU is taken" in capsys.readouterr().err


@pytest.mark.parametrize("rate", [1e20, 1e30, 1e300])
def test_generator_when_it_diverges(rate: float, tiny: Parameters, dataset: CrossDomainDataset) -> None:
    wild = tiny.psg.model_copy(update={"kind": "lightgcn", "learning_rate": rate, "epochs": 1})
    with pytest.raises(ParameterError, match=r"'psg\.learning_rate': 1e\+\d+: .*not finite"):
        psg.fit(dataset.splits["train"], wild)


PAGE = b"<html><body>This file has moved.</body></html>\n"


@pytest.mark.parametrize("page", [PAGE, b"", b"not found", PAGE[6:], b'{"error": 404}'])
def test_fetch_when_no_ratings_come(page: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazon, "fetch", lambda url, path, sha256: path.write_bytes(page))
    with pytest.raises(DataError, match=r"ratings_Grocery_and_Gourmet_Food\.csv.*no ratings came"):
        amazon.fetch_amazon2014(tmp_path)
    assert not list(tmp_path.iterdir())


class Answer:
    """What a server sends: headers and blocks."""

    def __init__(self, blocks: list[bytes], **headers: str):
        self.blocks, self.headers = blocks, headers

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        return self.blocks.pop(0) if self.blocks else b""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer([PAGE]), "a web page"),
        (Answer([b"a,b"], **{"Content-Type": "text/html; charset=utf-8"}), "a web page"),
        (Answer([b"1234"] * 9), "more than 20 bytes"),
        (Answer([b"1234"], **{"Content-Length": "9"}), "broke off after 4 of 9 bytes"),
    ],
)
def test_download_when_it_is_no_data(
    answer: Answer, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "MOST_BYTES", 20)
    monkeypatch.setattr(released.urllib.request, "urlopen", lambda url, timeout: answer)
    with pytest.raises((ValueError, OSError), match=message):
        released.fetch("http://127.0.0.1/a.csv", tmp_path / "a.csv", None)
    assert not list(tmp_path.iterdir())


def test_download_when_the_server_drips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "SILENCE", 0.0)
    monkeypatch.setattr(released, "SLOWEST", 10**12)
    monkeypatch.setattr(released.urllib.request, "urlopen", lambda url, timeout: Answer([b"a"] * 9))
    with pytest.raises(OSError, match="too slow"):
        released.fetch("http://127.0.0.1/a.csv", tmp_path / "a.csv", None)


def test_output_when_the_terminal_cannot_show_a_name() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    script = "from i2vae_lib import cli\ncli.parse = lambda a: print('\u8336') or exit(0)\ncli.main()"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"?", b"")


def test_checkpoint_when_it_holds_more_than_tensors_gives_no_unsafe_advice(tmp_path: Path) -> None:
    """torch's own message proposes to execute what the file holds."""
    torch.save({"epoch": Path}, tmp_path / "last.ckpt")
    with pytest.raises(Damaged) as caught, runs.reading(tmp_path / "last.ckpt"):
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert "last.ckpt" in str(caught.value) and "weights_only" not in str(caught.value)
