"""The loop: what it records, selects, refuses and survives."""

from __future__ import annotations

import errno
import io
import itertools
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from i2vae_lib import training
from i2vae_lib.data import CrossDomainDataset, Rows
from i2vae_lib.data.batches import collate
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.generators import psg
from i2vae_lib.model.i2vae import build
from i2vae_lib.model.objective import build_objective
from i2vae_lib.parameter_groups import TrainingParameters
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.runs import LayoutError
from i2vae_lib.training import Callbacks, NonFiniteLoss, Stage, State
from tests.helpers.worlds import LONG, TINY

LATENTS = ("x", "y", "t_x", "t_y", "a_x", "a_y")
EPOCHS = 12  # of the runs that are killed


class Toy(nn.Module):
    """Two weights whose loss falls by moving them; stands in for a model where only the loop is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def loss(
        self, batch: object, epoch: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        noise = torch.randn(2, generator=generator)
        value = (self.weight - 0.1 * noise).square().sum()
        return value, {"reconstruction/x": value.detach()}


def settings(epochs: int = 4, patience: int = 0) -> TrainingParameters:
    return load("paper", {"training.patience": patience, "training.device": "cpu"}, epochs=epochs).training


def train_toy(
    toy: Toy,
    metrics: list[float],
    *,
    loss: Callable | None = None,
    callbacks: Callbacks | None = None,
    patience: int = 0,
    epochs: int | None = None,
) -> State:
    remaining = iter(metrics)
    return training.train(
        Stage("toy", toy, loss or toy.loss, lambda rng: [{}, {}, {}], rows=30, steps=3),
        lambda: {"ndcg@10": next(remaining)},
        settings(len(metrics) if epochs is None else epochs, patience),
        rng=np.random.default_rng(0),
        generator=torch.Generator().manual_seed(0),
        identity="toy",
        callbacks=callbacks or Callbacks(),
    )


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_train_when_weights_decay_beside_the_gradients(monkeypatch: pytest.MonkeyPatch, decay: float) -> None:
    """Adam is given what the lowest torch of pyproject.toml knows: 2.6 has this decay in AdamW alone."""
    adam = torch.optim.Adam

    def of_torch_2_6(parameters, *, lr, betas, weight_decay, fused):
        return adam(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)

    monkeypatch.setattr(torch.optim, "Adam", of_torch_2_6)
    toy, p = Toy(), settings(epochs=2)
    still = Stage(
        "toy",
        toy,
        lambda *_: (0 * toy.weight.sum(), {}),
        lambda rng: [{}, {}, {}],
        rows=30,
        steps=3,
        decoupled_decay=decay,
    )
    training.train(
        still,
        itertools.cycle([{"ndcg@10": 0.1}, {"ndcg@10": 0.2}]).__next__,
        p,
        rng=np.random.default_rng(0),
        generator=torch.Generator().manual_seed(0),
        identity="toy",
        callbacks=Callbacks(),
    )
    expected = torch.tensor([1.0, 2.0]) * (1 - p.learning_rate * decay) ** 6
    assert torch.allclose(toy.weight.detach(), expected, rtol=1e-6)


def fit(
    dataset: CrossDomainDataset,
    generator: psg.Generator,
    params: Parameters,
    *,
    seed: int = 0,
    callbacks: Callbacks | None = None,
    train: Rows | None = None,
) -> I2VAERecommender:
    return I2VAERecommender(dataset.catalogue, params).fit(
        dataset.splits["train"] if train is None else train,
        dataset.splits["validation"],
        params=params,
        generator=generator,
        rng=np.random.default_rng(seed),
        callbacks=callbacks or Callbacks(),
    )


def weights_of(recommender: I2VAERecommender) -> dict[str, bytes]:
    return {name: w.numpy().tobytes() for name, w in training.parameters_of(recommender.model).items()}


def without_seconds(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in one.items() if "seconds" not in k and k != "rows/s"} for one in history]


def test_history_when_trained(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    terms = ("reconstruction", "joint", "disentangling", "cross_domain", "denoising")
    expected = {f"{term}/{d}" for term in terms for d in "xy"} | {f"{m}@10/{d}" for m in ("ndcg", "hr") for d in "xy"}
    expected |= {f"{kind}/{latent}" for kind in ("kl", "active") for latent in LATENTS}
    expected |= {"epoch", "loss", "ndcg@10", "rows/s", "seconds", "validation seconds"}
    assert [set(record) for record in trained.state.history] == [expected, expected]
    assert [record["epoch"] for record in trained.state.history] == [1.0, 2.0]
    for record in trained.state.history:
        assert all(math.isfinite(value) for value in record.values())
        assert all(0 <= record[f"active/{latent}"] <= 16 for latent in LATENTS)
        assert all(record[f"kl/{latent}"] > 0 for latent in LATENTS)
        assert record["rows/s"] * record["seconds"] == pytest.approx(len(dataset.splits["train"]))
    assert trained.state.history[1]["loss"] < trained.state.history[0]["loss"]


def test_history_when_a_part_is_not_in_every_batch() -> None:
    """A domain without rows in a batch does not pull its mean towards 0."""
    toy, step = Toy(), itertools.count()

    def loss(batch: object, epoch: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        at = next(step)
        value = toy.weight.sum() * 0 + float(at)
        return value, {"kl/x": torch.tensor(float(at))} if at else {}

    record = train_toy(toy, [0.1], loss=loss).history[0]
    assert (record["kl/x"], record["loss"]) == (1.5, 1.0)


def test_train_when_the_best_epoch_is_not_the_last() -> None:
    toy, seen = Toy(), []
    callbacks = Callbacks(on_epoch=lambda record: seen.append(toy.weight.detach().clone()))
    state = train_toy(toy, [0.1, 0.5, 0.3, 0.5], callbacks=callbacks)
    assert (state.best_epoch, state.best_metric, state.epoch) == (1, 0.5, 4)  # an equal one later does not win
    assert torch.equal(toy.weight, seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_train_when_selected_on_validation(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    """The weights left in the module give the best epoch's validation metric again."""
    rows, p = dataset.splits["validation"], trained.params
    negatives = sample_negatives(rows, p.evaluation.negatives, p.split.data_seed)
    found = selection_metric(rank(trained, rows, negatives, full=False, batch_size=17), rows)["ndcg@10"]
    metrics = [record["ndcg@10"] for record in trained.state.history]
    assert found == pytest.approx(trained.state.best_metric, rel=1e-6)
    assert trained.state.best_metric == max(metrics) == metrics[trained.state.best_epoch]


@pytest.mark.parametrize(("patience", "epochs"), [(0, 7), (1, 3), (2, 4), (3, 7)])
def test_train_when_patience_is(patience: int, epochs: int) -> None:
    state = train_toy(Toy(), [0.1, 0.5, 0.3, 0.4, 0.6, 0.2, 0.1], patience=patience)
    assert (state.epoch, len(state.history)) == (epochs, epochs)


def test_train_when_it_stops_early_says_which_epoch_was_best(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    train_toy(Toy(), [0.1, 0.5, 0.3, 0.4, 0.6], patience=1)
    last = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()][-1]
    done, total = re.search(r"(\d+)/(\d+) batch", last).groups()  # type: ignore[union-attr]
    assert done == total and last.endswith("best at epoch 2, NDCG@10 0.5000")


@pytest.mark.parametrize("looked", [1, 2, 100])
def test_train_when_a_part_becomes_nan(monkeypatch: pytest.MonkeyPatch, looked: int) -> None:
    """However late the losses are looked at, the first bad batch is named and the epoch's weights are taken back."""
    toy, before = Toy(), []

    def loss(batch: object, epoch: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value, parts = toy.loss(batch, epoch, generator)
        if epoch == 1 and len(before) == 4:
            value = value * math.nan
            parts |= {"kl/t_y": torch.tensor(math.inf), "joint/x": torch.tensor(1.0)}
        before.append(toy.weight.detach().clone())
        return value, parts

    monkeypatch.setattr(training, "LOOKED", looked)
    with pytest.raises(NonFiniteLoss, match=r"^epoch 2, batch 2: the loss is nan because of kl/t_y; ") as caught:
        train_toy(toy, [0.1, 0.2], loss=loss)
    assert torch.equal(toy.weight, before[3])  # as the second epoch began
    assert "joint/x" not in str(caught.value)


def test_train_when_only_the_sum_overflows() -> None:
    toy = Toy()

    def loss(batch: object, epoch: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return toy.weight.sum() * math.inf, {"kl/x": torch.tensor(3e38)}

    with pytest.raises(NonFiniteLoss, match=r"^epoch 1, batch 1: the loss is inf because of their weighted sum"):
        train_toy(toy, [0.1], loss=loss)


@pytest.mark.parametrize(
    ("name", "term"), [("specific.x.mean.2.bias", "kl/x"), ("decoder.y.mlp.2.bias", "reconstruction/y")]
)
def test_fit_when_a_weight_is_nan(
    dataset: CrossDomainDataset,
    generator: psg.Generator,
    tiny: Parameters,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    term: str,
) -> None:
    """The first batch stops the training, names the term, and no weight has moved."""
    kept = {}

    def poisoned(*given: object) -> nn.Module:
        model = build(*given)
        with torch.no_grad():
            model.get_parameter(name)[0] = math.nan
        kept["model"], kept["weights"] = model, training.parameters_of(model)
        return model

    monkeypatch.setattr("i2vae_lib.recommenders.i2vae.build", poisoned)
    with pytest.raises(NonFiniteLoss, match=rf"^epoch 1, batch 1: the loss is nan because of .*{term}"):
        fit(dataset, generator, tiny)
    for key, weight in training.parameters_of(kept["model"]).items():
        assert weight.numpy().tobytes() == kept["weights"][key].numpy().tobytes()


def test_train_when_there_are_twenty_rows(dataset: CrossDomainDataset, generator: psg.Generator) -> None:
    """Enough capacity to learn twenty targets by heart."""
    changes = {f"objective.{key}": 0.0 for key in ("kl_weight", "lambda_a", "lambda_c")}
    p = load("smoke", TINY | changes | {"model.d": 32, "model.dropout": 0.0, "training.learning_rate": 0.01}, epochs=60)
    rows = dataset.splits["train"].take(np.arange(20))
    recalled = generator.recall(rows, psg.fold_of(rows, p.psg))[0]
    batch = collate(rows, recalled, np.arange(20), p.model, p.psg.arrangement)
    model = build(p.model, {d: dataset.catalogue.size(d) for d in "xy"}, torch.Generator().manual_seed(0))
    objective, improving = build_objective(p.objective, p.model.T), itertools.count(1)

    def loss(batch: Any, epoch: int, generator: torch.Generator) -> Any:
        return objective(model, batch, epoch, generator)

    state = training.train(
        Stage("twenty", model, loss, lambda rng: [batch], rows=20, steps=1),
        lambda: {"ndcg@10": float(next(improving))},
        p.training,
        rng=np.random.default_rng(0),
        generator=torch.Generator().manual_seed(0),
        identity="",
        callbacks=Callbacks(),
    )
    for d in "xy":
        losses = [record[f"reconstruction/{d}"] for record in state.history]
        assert losses[0] > 4.0  # log 120 = 4.8 knows nothing
        assert losses[-1] < 0.05


def test_evaluation_when_run_after_training(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    """It moves no weight, leaves no gradient, and gives the same again."""
    rows = dataset.splits["test"]
    negatives = sample_negatives(rows, 49, 0)
    before, state = weights_of(trained), torch.get_rng_state()
    first, again = (rank(trained, rows, negatives, full=True, batch_size=64) for _ in range(2))
    trained.recommend({"x": [[str(dataset.catalogue.ids["x"][0])]]}, "y", 5)
    assert first.equals(again)
    assert weights_of(trained) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_when_seed_repeats(
    trained: I2VAERecommender, dataset: CrossDomainDataset, generator: psg.Generator, tiny: Parameters
) -> None:
    again, differing = fit(dataset, generator, tiny), fit(dataset, generator, tiny, seed=1)
    assert weights_of(again) == weights_of(trained)
    assert without_seconds(again.state.history) == without_seconds(trained.state.history)
    assert weights_of(differing)["items.x.weight"] != weights_of(trained)["items.x.weight"]


def test_fit_when_global_random_state_differs(
    trained: I2VAERecommender, dataset: CrossDomainDataset, generator: psg.Generator, tiny: Parameters
) -> None:
    """Random numbers come from the generator that was handed in, and from nowhere else."""
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        assert weights_of(fit(dataset, generator, tiny)) == weights_of(trained)


TRAIN = """
import sys
from pathlib import Path
import numpy as np
import torch
from i2vae_lib.generators import psg
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.training import Callbacks

torch.set_num_threads(1)
world, out = Path(sys.argv[1]), Path(sys.argv[2])
params = Parameters.model_validate_json((world / "params.json").read_text())
dataset = CrossDomainDataset.load(world / "dataset")
recommender = I2VAERecommender(dataset.catalogue, params).fit(
    dataset.splits["train"],
    dataset.splits["validation"],
    params=params,
    generator=psg.load(world / "generator", dataset.catalogue),
    rng=np.random.default_rng(0),
    callbacks=Callbacks(checkpoint=out / "last.ckpt"),
)
out.joinpath("model").mkdir()
recommender.save(out / "model")
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, dataset: CrossDomainDataset, generator: psg.Generator) -> Path:
    """What another process needs to train on the tiny world."""
    folder = tmp_path_factory.mktemp("world")
    dataset.save(folder / "dataset")
    generator.save(folder / "generator", dataset.catalogue)
    params = load("smoke", TINY, epochs=EPOCHS)
    (folder / "params.json").write_text(params.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def uninterrupted(world: Path, dataset: CrossDomainDataset, generator: psg.Generator) -> I2VAERecommender:
    """The same training in one go; its last checkpoint is in ``world``."""
    params = Parameters.model_validate_json((world / "params.json").read_text())
    return fit(dataset, generator, params, callbacks=Callbacks(world / "last.ckpt"))


def start(world: Path, out: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", TRAIN, str(world), str(out)], cwd=Path(__file__).parent.parent)


def epochs_done(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["epoch"]) if checkpoint.is_file() else 0


def kill_after_an_epoch(world: Path, out: Path) -> None:
    """Run until the checkpoint is written anew, then SIGKILL."""
    checkpoint = out / "last.ckpt"
    before, deadline = epochs_done(checkpoint), time.monotonic() + LONG
    known = checkpoint.stat().st_mtime_ns if before else 0
    with start(world, out) as process:
        while not checkpoint.is_file() or checkpoint.stat().st_mtime_ns == known:
            assert process.poll() is None, "training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert before < epochs_done(checkpoint) < EPOCHS
    assert not (out / "model").exists()


@pytest.fixture(scope="module")
def killed_once(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training that was killed. Copy it before going on from it."""
    if os.name == "nt":
        pytest.skip("SIGKILL is of POSIX: killing and resuming is NOT tested here")
    folder = tmp_path_factory.mktemp("killed")
    kill_after_an_epoch(world, folder)
    return folder


@pytest.mark.tries("kills")
@pytest.mark.slow
@pytest.mark.xdist_group("killed trainings")
@pytest.mark.parametrize("kills", [1, 2])
def test_fit_when_killed_and_run_again(
    world: Path, killed_once: Path, uninterrupted: I2VAERecommender, tmp_path: Path, kills: int
) -> None:
    """Weights and history of a training that was never interrupted, to the bit."""
    out = Path(shutil.copytree(killed_once, tmp_path / "out"))
    for _ in range(kills - 1):
        kill_after_an_epoch(world, out)
    with start(world, out) as process:
        assert process.wait(timeout=LONG) == 0
    uninterrupted.save(tmp_path / "whole")
    kept = [load_file(folder / "weights.safetensors") for folder in (out / "model", tmp_path / "whole")]
    content = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (out, world)]
    for found, expected in (kept, [one["module"] for one in content]):  # of the best epoch, and of the last
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            assert weight.numpy().tobytes() == expected[name].numpy().tobytes(), name
    assert without_seconds(content[0]["history"]) == without_seconds(content[1]["history"])


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, dataset: CrossDomainDataset, generator: psg.Generator, tiny: Parameters
) -> Path:
    """The checkpoint of a finished fit. Copy it before changing it."""
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    fit(dataset, generator, tiny, callbacks=Callbacks(checkpoint=path))
    return path


def test_what_a_killed_call_was_writing_is_removed(
    tmp_path: Path, dataset: CrossDomainDataset, generator: psg.Generator, tiny: Parameters
) -> None:
    (tmp_path / ".last.ckpt.0123456789abcdef.part").write_bytes(b"half")
    fit(dataset, generator, tiny, callbacks=Callbacks(checkpoint=tmp_path / "last.ckpt"))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_checkpoint_when_loaded_safely(checkpoint: Path, trained: I2VAERecommender) -> None:
    """Nothing in it executes; the best epoch's weights are there."""
    content = torch.load(checkpoint, weights_only=True)
    assert (content["epoch"], content["best_epoch"]) == (2, trained.state.best_epoch)
    assert {name: w.numpy().tobytes() for name, w in content["best"].items()} == weights_of(trained)


def test_fit_when_the_checkpoint_is_finished(
    checkpoint: Path,
    trained: I2VAERecommender,
    dataset: CrossDomainDataset,
    generator: psg.Generator,
    tiny: Parameters,
) -> None:
    """No epoch is trained again, and the best weights are back."""
    before, epochs = checkpoint.read_bytes(), []
    found = fit(dataset, generator, tiny, callbacks=Callbacks(checkpoint, on_epoch=epochs.append))
    assert epochs == []
    assert weights_of(found) == weights_of(trained)
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("override", [{"training.learning_rate": 0.004}, {"objective.lambda_a": 0.1}])
def test_fit_when_the_checkpoint_has_other_parameters(
    checkpoint: Path, dataset: CrossDomainDataset, generator: psg.Generator, override: Mapping[str, float]
) -> None:
    changed = load("smoke", TINY | override, epochs=2)
    with pytest.raises(LayoutError, match=r"last\.ckpt is a checkpoint of other data, parameters or layout"):
        fit(dataset, generator, changed, callbacks=Callbacks(checkpoint))


def test_fit_when_the_checkpoint_has_other_rows(
    checkpoint: Path, dataset: CrossDomainDataset, generator: psg.Generator, tiny: Parameters
) -> None:
    fewer = dataset.splits["train"].take(np.arange(1, len(dataset.splits["train"])))
    with pytest.raises(LayoutError, match="other data"):
        fit(dataset, generator, tiny, callbacks=Callbacks(checkpoint), train=fewer)


def test_checkpoint_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The previous checkpoint stays as it was, no part is left over, and training goes on from it later."""
    path, save = tmp_path / "last.ckpt", torch.save
    whole = Toy()
    expected = train_toy(whole, [0.1, 0.2, 0.3, 0.4])

    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(content: Mapping, stream: IO[bytes]) -> None:
        if content["epoch"] == 3:
            stream.write(b"half of a checkpoint")
            stream = Full(stream.fileno(), "wb", closefd=False)  # torch makes an error of its own of its
        save(content, stream)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        OSError, match=rf"{path} could not be written \(No space left on device\): what was there before"
    ):
        train_toy(Toy(), [0.1, 0.2, 0.3, 0.4], callbacks=Callbacks(path))
    assert epochs_done(path) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]

    monkeypatch.setattr(torch, "save", save)
    resumed = Toy()
    state = train_toy(resumed, [0.3, 0.4], callbacks=Callbacks(path), epochs=4)
    assert torch.equal(resumed.weight, whole.weight)
    assert without_seconds(state.history) == without_seconds(expected.history)


def test_train_when_resumed_after_patience_ran_out(tmp_path: Path) -> None:
    path, metrics = tmp_path / "last.ckpt", [0.5, 0.4, 0.3, 0.9]
    first = train_toy(Toy(), metrics, callbacks=Callbacks(path), patience=2)
    again = train_toy(Toy(), metrics, callbacks=Callbacks(path), patience=2)
    assert (first.epoch, again.epoch) == (3, 3)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", ""])
def test_choose_device_when_unknown(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'training.device': '{name}' cannot be used here: .*try auto or cpu"):
        training.choose_device(name)
    with pytest.raises(ValueError, match=r"^'training\.device': .{0,1400}try auto or cpu$"):
        training.choose_device(name * 5_000)


def test_choose_device_when_known() -> None:
    assert training.choose_device("cpu") == torch.device("cpu")
    assert training.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_load_parameters_when_weights_do_not_fit() -> None:
    toy = Toy()
    with pytest.raises(LayoutError, match="bias stands only on one side"):
        training.load_parameters(toy, {"weight": torch.zeros(2), "bias": torch.zeros(2)})
    with pytest.raises(LayoutError, match=r"weight is \(3,\), expected \(2,\)"):
        training.load_parameters(toy, {"weight": torch.zeros(3)})
    training.load_parameters(toy, {"weight": torch.tensor([5.0, 6.0])})
    assert toy.weight.tolist() == [5.0, 6.0]


def test_parameters_of_when_the_module_moves_on() -> None:
    """A copy: later steps do not change it."""
    toy = Toy()
    kept = training.parameters_of(toy)
    with torch.no_grad():
        toy.weight += 1.0
    assert kept["weight"].tolist() == [1.0, 2.0]
