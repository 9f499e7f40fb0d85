"""Damaged, lost and foreign files: named with what to do, or made anew; never taken for the truth."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from i2vae_lib import cli, runs, stages, training
from i2vae_lib.params import Parameters, load
from i2vae_lib.runs import Damaged, LayoutError, Run, checked, write_atomically
from tests.conftest import TINY


@pytest.fixture(scope="module")
def finished(tiny: Parameters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run. Do not change it."""
    run = stages.open_run(tiny, tmp_path_factory.mktemp("run") / "a")
    stages.run_all(run)
    return run.folder


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
@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_command_when_a_file_is_damaged(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, words: str, harm: str
) -> None:
    path = copied / name
    if harm == "flip":
        flip(path)
    else:
        content = path.read_bytes()
        path.unlink()
        if harm == "cut":
            path.write_bytes(content[: len(content) // 2])
    monkeypatch.chdir(copied.parent)
    assert cli.main(words.split()) == 2
    said = capsys.readouterr().err
    assert Path(name).name in said and ("run it anew" in said or harm == "lose")


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


def test_checked_when_an_earlier_version_recorded_nothing(copied: Path) -> None:
    record = json.loads((copied / "run.json").read_text())
    del record["sha256"]
    (copied / "run.json").write_text(json.dumps(record))
    assert checked(copied, "model") == copied / "model"
    (copied / "model" / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(Damaged, match=r"weights\.safetensors is damaged"):  # but what is read is read with care
        cli.commands.trained_of(copied)


def test_run_when_its_record_is_lost(copied: Path, tiny: Parameters) -> None:
    (copied / "run.json").unlink()
    with pytest.raises(LayoutError, match=r"holds results \(dataset, .*but no run\.json.*choose another OUT"):
        Run(tiny, copied)
    assert not (copied / "run.json").exists()


@pytest.mark.parametrize("text", ["[]", '"a"', '{"layout": 2, "parameters": []}', "[" * 100_000])
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
        module,
        loss,
        lambda rng: [{}],
        lambda: {"ndcg@10": 0.5},
        load("smoke", TINY, epochs=epochs).training,
        rng=np.random.default_rng(0),
        generator=generator,
        identity="a",
        callbacks=training.Callbacks(path),
        rows=1,
        steps=1,
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
