"""Training by several processes: parts of a batch add up to the whole; kills; ``torchrun``; what is refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from i2vae_lib import processes, stages, training
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.generators import psg
from i2vae_lib.model import objective
from i2vae_lib.params import ParameterError, Parameters, load, read_preset
from i2vae_lib.recommenders import I2VAERecommender
from tests.helpers.worlds import LONG, ROOT, TINY

RECIPE = {key: value for key, value in read_preset("tuned")["overrides"].items() if key not in ("model.d", "model.T")}
WAYS = {"rows": {"model.dropout": 0.0}, "positions": RECIPE | {"model.T": 12, "model.dropout": 0.0}}
WAYS["sampled"] = WAYS["positions"] | {"objective.sampled": 10}


def parameters(way: str, **more: Any) -> Parameters:
    changed = {name.replace("_", ".", 1): value for name, value in more.items()}
    return load("smoke", TINY | WAYS[way] | changed, epochs=2)


@pytest.mark.parametrize("count", [2, 3, 200])
@pytest.mark.parametrize("way", WAYS)
def test_parts_of_a_batch_add_up_to_the_whole(
    dataset: CrossDomainDataset, monkeypatch: pytest.MonkeyPatch, way: str, count: int
) -> None:
    """Loss, its parts and every gradient; 200 parts of 64 rows: some are empty."""
    p, train = parameters(way), dataset.splits["train"]
    system = I2VAERecommender(dataset.catalogue, p)
    system.initialise(train, psg.fit(train, p.psg), np.random.default_rng(0))
    [stage] = system.stages(train)
    batch = next(iter(stage.batches(np.random.default_rng(0))))
    assert len(batch) == 2, "a batch of both domains was asked for"

    def cost(of: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        stage.module.zero_grad(set_to_none=True)
        value, parts = stage.loss(of, 0, torch.Generator().manual_seed(1))
        value.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
            for name, weight in stage.module.named_parameters()
        }
        return {name: float(part) for name, part in (parts | {"loss": value.detach()}).items()}, gradients

    counts: list[torch.Tensor] = []
    monkeypatch.setattr(objective, "summed", lambda rows: counts.append(rows.clone()) or rows)
    expected, gradients = cost(batch)
    of_parts = []
    for number in range(count):
        whole = iter(counts)
        monkeypatch.setattr(objective, "summed", lambda rows, whole=whole: next(whole))
        of_parts.append(cost({d: side.parted(number, count) for d, side in batch.items()}))
    for name, value in expected.items():
        assert sum(found[name] for found, _ in of_parts) == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for name, whole_gradient in gradients.items():
        together = torch.stack([found[name] for _, found in of_parts]).sum(dim=0)
        assert torch.allclose(together, whole_gradient, rtol=1e-4, atol=1e-6), name


def test_process_that_is_alone() -> None:
    tensor = torch.arange(3.0)
    assert (processes.count(), processes.number(), processes.launched()) == (1, 0, 0)
    assert processes.summed(tensor) is processes.of_first(tensor) is tensor
    assert processes.bytes_of_first(b"abc") == b"abc"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"training.devices": 2, "training.batch_size": 1}, "'training.devices': 2 cannot share batches of 1"),
        ({"training.devices": 2, "system": "multivae-s"}, "'training.devices': multivae-s is trained by one process"),
        ({"training.precision": "bf16-mixed", "system": "c2dsr"}, "'training.precision': c2dsr"),
        ({"training.precision": "16"}, "'training.precision'"),
        ({"training.devices": 0}, "'training.devices'"),
    ],
)
def test_parameters_that_no_training_can_have(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)):
        load("smoke", changed)


@pytest.mark.parametrize(
    ("changed", "there", "message"),
    [
        ({"devices": 3}, {}, "'training.devices': 3, but this machine has 2 cores"),
        ({"devices": 2}, {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "here"}, "torchrun started 4 processes"),
        ({"devices": 1}, {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "here"}, "torchrun started 4 processes"),
    ],
)
def test_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], there: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(training, "usable_cores", lambda: 2)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=re.escape(message)):
        training.check_devices(load("smoke").training.model_copy(update=changed | {"device": "cpu"}))


# --- real processes ---------------------------------------------------------------------------------------------------

TWO = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: two processes are NOT tested here")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def trained(p: Parameters, folder: Path) -> pd.DataFrame:
    stages.train(stages.open_run(p, folder))
    return stages.load_history(folder)


@TWO
@pytest.mark.slow
@pytest.mark.xdist_group("several processes")
def test_two_processes_when_compared_with_one(way: str, tmp_path: Path) -> None:
    """First-epoch losses and metrics; afterwards no process is left, and this one is alone."""
    one, two = (trained(parameters(way, training_devices=n), tmp_path / str(n)).iloc[0] for n in (1, 2))
    names = [name for name in one.index if "/" in name and "active" not in name and "rows" not in name]
    assert len(names) > 10
    for name in ["loss", *names]:
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6), name
    assert processes.count() == 1


@pytest.mark.slow
def test_bfloat16_when_compared_with_32_bits(way: str, tmp_path: Path) -> None:
    plain, mixed = (
        trained(parameters(way, training_precision=name), tmp_path / name).iloc[0] for name in ("32", "bf16-mixed")
    )
    assert mixed["loss"] == pytest.approx(plain["loss"], rel=1e-2)
    assert mixed["loss"] != plain["loss"]


def command(out: Path, *more: str) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in (TINY | {"training.devices": 2}).items()]
    return ["run", "--preset", "smoke", "--epochs", "40", "--out", str(out), "--only-train", *settings, *more]


def children(process: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def trainers(process: int) -> Iterator[int]:
    for child in children(process):
        if b"multiprocessing.spawn" in Path(f"/proc/{child}/cmdline").read_bytes():
            yield child


@TWO
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's: killing a process is NOT tested here")
@pytest.mark.tries("kills")
@pytest.mark.slow
@pytest.mark.xdist_group("several processes")
def test_run_when_one_of_its_processes_is_killed(tmp_path: Path) -> None:
    """The run says so and ends; the same command goes on, and ends with the weights of a run that was left alone."""
    words = [sys.executable, "-m", "i2vae_lib", *command(tmp_path / "killed")]
    deadline, checkpoint = time.monotonic() + LONG, tmp_path / "killed" / "last.ckpt"
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not checkpoint.is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        [other] = trainers(process.pid)
        os.kill(other, signal.SIGKILL)
        errors = process.communicate(timeout=LONG)[1]
    assert process.returncode == 2
    assert "a process of this training ended" in errors and "the same command goes on" in errors
    assert "Traceback" not in errors
    for out in ("killed", "whole"):
        subprocess.run(
            [sys.executable, "-m", "i2vae_lib", *command(tmp_path / out)], cwd=ROOT, check=True, timeout=LONG
        )
    kept = [(tmp_path / out / "model" / "weights.safetensors").read_bytes() for out in ("killed", "whole")]
    assert kept[0] == kept[1]


@TWO
@pytest.mark.slow
@pytest.mark.xdist_group("several processes")
def test_run_when_torchrun_starts_it(tmp_path: Path) -> None:
    """The same weights as from processes that the run starts; a finished run ends at once; another count is refused."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    own = [sys.executable, "-m", "i2vae_lib"]
    words = [word if word != "40" else "2" for word in command(tmp_path / "launched")]
    for _ in range(2):
        subprocess.run([*launch, "2", "-m", "i2vae_lib", *words], cwd=ROOT, check=True, timeout=LONG)
    again = [word if word != str(tmp_path / "launched") else str(tmp_path / "own") for word in words]
    subprocess.run([*own, *again], cwd=ROOT, check=True, timeout=LONG)
    kept = [(tmp_path / out / "model" / "weights.safetensors").read_bytes() for out in ("launched", "own")]
    assert kept[0] == kept[1]
    wrong = subprocess.run([*launch, "1", "-m", "i2vae_lib", *words], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode and "'training.devices': 2, but torchrun started 1 processes" in wrong.stderr
