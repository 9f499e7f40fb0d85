"""The same training on CPU and GPU. Skipped, loudly, where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vae_lib import training
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.batches import bucketed, collate
from i2vae_lib.evaluation import rank, sample_negatives
from i2vae_lib.generators import psg
from i2vae_lib.model.i2vae import build
from i2vae_lib.model.objective import build_objective
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch.cuda.is_available() is False: nothing is tested on a GPU, SKIPPED"
)


def parameters(device: str) -> Parameters:
    return load("smoke", TINY | {"training.device": device, "objective.kl_weight": 0.1}, epochs=1)


def first_epoch(dataset: CrossDomainDataset, generator: psg.Generator, device: str) -> dict[str, float]:
    """One epoch without dropout or draws: the two devices' generators give different numbers for one seed."""
    p, rows = parameters(device), dataset.splits["train"]
    recalled = generator.recall(rows, psg.fold_of(rows, p.psg))[0]
    model = build(p.model, {d: dataset.catalogue.size(d) for d in "xy"}, torch.Generator().manual_seed(0)).to(device)
    objective = build_objective(p.objective, p.model.T)

    def batches(rng: np.random.Generator) -> Iterator[Any]:
        for at in bucketed(rows.lengths("own"), p.training.batch_size, rng):
            yield collate(rows, recalled, at, p.model, p.psg.arrangement)

    def loss(batch: Any, epoch: int, _: torch.Generator) -> Any:
        return objective(model, batch, epoch, None)

    state = training.train(
        training.Stage("i2vae", model, loss, batches, len(rows), steps=1),
        lambda: {"ndcg@10": 0.0},
        p.training,
        rng=np.random.default_rng(0),
        generator=torch.Generator(device).manual_seed(0),
        identity="",
        callbacks=Callbacks(),
    )
    return {name: value for name, value in state.history[0].items() if "/" in name and name != "rows/s"} | {
        "loss": state.history[0]["loss"]
    }


def test_losses_when_trained_on_cpu_and_gpu(dataset: CrossDomainDataset, generator: psg.Generator) -> None:
    cpu, gpu = (first_epoch(dataset, generator, device) for device in ("cpu", "cuda"))
    assert len(cpu) == 17
    for name, value in cpu.items():
        assert gpu[name] == pytest.approx(value, rel=1e-3), name


def test_fit_when_on_gpu(dataset: CrossDomainDataset, generator: psg.Generator, tmp_path: Path) -> None:
    """With dropout, draws and a checkpoint; saved there, it ranks alike when loaded on the CPU."""
    p = parameters("cuda")
    fitted = I2VAERecommender(dataset.catalogue, p).fit(
        dataset.splits["train"],
        dataset.splits["validation"],
        params=p,
        generator=generator,
        rng=np.random.default_rng(0),
        callbacks=Callbacks(checkpoint=tmp_path / "last.ckpt"),
    )
    assert {weight.device.type for weight in fitted.model.parameters()} == {"cuda"}
    rows = dataset.splits["test"]
    candidates = np.concatenate([rows.target[:, None], sample_negatives(rows, 49, 0)], axis=1)
    fitted.save(tmp_path)
    there = fitted.score(rows, candidates)
    loaded = I2VAERecommender.load(tmp_path)
    loaded.model.cpu()
    loaded.device = torch.device("cpu")
    np.testing.assert_allclose(loaded.score(rows, candidates), there, rtol=1e-3, atol=1e-3)
    assert len(rank(fitted, rows, None, full=True, batch_size=64)) == len(rows)
