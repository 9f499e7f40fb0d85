"""A plain training loop: epochs, batches, one loss, one selection metric, a checkpoint each epoch.

It knows no test rows and no model in particular: a recommender hands in its module, its loss, its batches and its
validation. Random numbers come from the two generators that are handed in; their states are in every checkpoint, so a
run that was killed and started again ends with the same weights, to the bit on CPU with as many threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import nn

from i2vae_lib.parameter_groups import TrainingParameters
from i2vae_lib.progress import bar, end
from i2vae_lib.runs import LayoutError, reading, write_atomically

_CHECKPOINT_LAYOUT = 2
LOOKED = 100
"""Batches after which their losses are looked at: looking waits for the device."""


class _Movable(Protocol):
    """A tensor, or a few of them in a class of their own."""

    def to(self, device: torch.device, /) -> Self: ...


CostAndParts = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""What is minimised, a scalar, and what it is made of by name, for the history."""

Loss = Callable[[Any, int, torch.Generator], CostAndParts]


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the message names the term, the epoch and the batch."""


@dataclass(frozen=True)
class Callbacks:
    """What a caller may want of a fit: a checkpoint to resume from, and a word per epoch.

    Parameters
    ----------
    checkpoint
        File written after each epoch and resumed from if it is there; None: neither.
    on_epoch
        Called with the record of each epoch.
    """

    checkpoint: Path | None = None
    on_epoch: Callable[[Mapping[str, float]], None] | None = None


@dataclass(frozen=True)
class Stage:
    """One training: what is trained, on what.

    Parameters
    ----------
    name
        Of the stage's checkpoint and of its lines in the history.
    module
        Its parameters are trained, and the best epoch's stay in it.
    loss
        ``(batch, epoch, generator) -> (scalar, named parts)``.
    batches
        One epoch's batches, drawn with the generator that is handed in.
    rows, steps
        Rows and batches per epoch, for the rate and the progress bar.
    weight_decay, decoupled_decay
        L2 through the gradients (Adam), or beside them (AdamW); one of the two at most.
    beta2
        Adam's second decay rate.
    epochs
        At most so many, all of them (no early stop): a warm-up. None: ``training.epochs`` and ``training.patience``.
    """

    name: str
    module: nn.Module
    loss: Loss
    batches: Callable[[np.random.Generator], Iterable[Mapping[str, _Movable]]]
    rows: int
    steps: int
    weight_decay: float = 0.0
    decoupled_decay: float = 0.0
    beta2: float = 0.999
    epochs: int | None = None


@dataclass
class State:
    """Where training stands; all of it is in a checkpoint."""

    epoch: int = 0  # epochs done
    best_epoch: int = -1
    best_metric: float = -math.inf
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU if there is one, else the CPU.

    Raises
    ------
    ValueError
        A device that torch does not know or that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name).cpu()  # meta has tensors without contents
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"'training.device': {name!r} cannot be used here: {reason}; try auto or cpu") from None
    return torch.device(name)


def train(
    stage: Stage,
    validate: Callable[[], Mapping[str, float]],
    p: TrainingParameters,
    *,
    rng: np.random.Generator,
    generator: torch.Generator,
    identity: str,
    callbacks: Callbacks,
) -> State:
    """Train the stage's module with Adam and leave the weights of the best epoch in it.

    Parameters
    ----------
    validate
        Metrics of the module as it stands; ``ndcg@10`` selects the epoch.
    rng, generator
        For the batches, and for dropout and samples.
    identity
        What the weights depend on, as a string; a checkpoint of another identity is refused.

    Raises
    ------
    NonFiniteLoss
        Within :data:`LOOKED` batches or at the end of the epoch. The weights are those that the epoch began with, and
        so is the checkpoint.
    LayoutError
        The checkpoint belongs to other data or parameters.
    """
    if stage.epochs is not None:
        p = p.model_copy(update={"epochs": min(stage.epochs, p.epochs), "patience": 0})
    module = stage.module
    device = next(module.parameters()).device
    optimizer = torch.optim.Adam(
        module.parameters(),
        lr=p.learning_rate,
        betas=(0.9, stage.beta2),
        weight_decay=stage.weight_decay or stage.decoupled_decay,
        decoupled_weight_decay=stage.decoupled_decay > 0,
        fused=True,
    )
    state = _resume(callbacks.checkpoint, identity, module, optimizer, rng, generator) or State()
    progress = bar("training", p.epochs * stage.steps, "batch", initial=state.epoch * stage.steps)
    try:
        while state.epoch < p.epochs and not _exhausted(state, p):
            start, before = time.perf_counter(), parameters_of(module)
            try:
                means = _epoch(stage, optimizer, state.epoch, device, rng, generator, progress)
            except NonFiniteLoss:
                load_parameters(module, before)
                raise
            seconds = time.perf_counter() - start
            record = {"epoch": float(state.epoch + 1)} | means | {"seconds": seconds, "rows/s": stage.rows / seconds}
            found = dict(validate())
            record |= found | {"validation seconds": time.perf_counter() - start - seconds}
            _advance(state, record, module)
            _save(callbacks.checkpoint, identity, state, module, optimizer, rng, generator)
            progress.set_postfix_str(
                f"epoch {state.epoch}, NDCG@10 {found['ndcg@10']:.4f} (best {state.best_metric:.4f})"
            )
            if callbacks.on_epoch is not None:
                callbacks.on_epoch(record)
        end(progress, f"best at epoch {state.best_epoch + 1}, NDCG@10 {state.best_metric:.4f}")
    finally:
        progress.close()
    load_parameters(module, state.best)
    return state


def _epoch(
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    device: torch.device,
    rng: np.random.Generator,
    generator: torch.Generator,
    progress: Any,
) -> dict[str, float]:
    """One pass over the batches: the means of the loss and of its parts, each over the batches that have it."""
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    unseen: list[dict[str, torch.Tensor]] = []
    for number, batch in enumerate(stage.batches(rng)):
        value, parts = stage.loss({name: one.to(device) for name, one in batch.items()}, epoch, generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        unseen.append({name: one.detach() for name, one in (parts | {"loss": value}).items()})
        for name, part in unseen[-1].items():
            sums[name] = sums.get(name, 0.0) + part
            counts[name] = counts.get(name, 0) + 1
        progress.update()
        if len(unseen) == LOOKED:
            _refuse_non_finite(unseen, epoch, number)
            unseen.clear()
    if unseen:
        _refuse_non_finite(unseen, epoch, number)
    return {name: float(one) / counts[name] for name, one in sums.items()}


def _refuse_non_finite(parts: list[dict[str, torch.Tensor]], epoch: int, last: int) -> None:
    """Raise :class:`NonFiniteLoss` for the first loss of consecutive batches, up to ``last``, that is not finite."""
    finite = torch.isfinite(torch.stack([one["loss"] for one in parts]))
    if finite.all():
        return
    first = int((~finite).nonzero()[0])
    value = parts[first].pop("loss")
    raise NonFiniteLoss(_name_the_term(value, parts[first], epoch, last - len(parts) + 1 + first))


def _exhausted(state: State, p: TrainingParameters) -> bool:
    return bool(p.patience) and state.epoch - 1 - state.best_epoch >= p.patience


def _advance(state: State, record: dict[str, float], module: nn.Module) -> None:
    state.history.append(record)
    if record["ndcg@10"] > state.best_metric:
        state.best_metric, state.best_epoch = record["ndcg@10"], state.epoch
        state.best = parameters_of(module)
    state.epoch += 1


def _name_the_term(value: torch.Tensor, parts: Mapping[str, torch.Tensor], epoch: int, batch: int) -> str:
    bad = [name for name, part in parts.items() if not torch.isfinite(part)]
    return (
        f"epoch {epoch + 1}, batch {batch + 1}: the loss is {float(value.detach())}"
        f" because of {', '.join(bad) or 'their weighted sum'}; the epoch is taken back; try a lower "
        f"training.learning_rate"
    )


def parameters_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every weight on the CPU, shared ones once."""
    return {name: weight.detach().cpu().clone() for name, weight in module.named_parameters()}


def load_parameters(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into a module.

    Raises
    ------
    LayoutError
        A name or a shape that differs.
    """
    own = dict(module.named_parameters())
    for name in sorted(own.keys() ^ weights.keys()):
        raise LayoutError(f"saved weights do not fit this model: {name} stands only on one side")
    with torch.no_grad():
        for name, weight in weights.items():
            if own[name].shape != weight.shape:
                raise LayoutError(
                    f"saved weights do not fit this model: {name} is {tuple(weight.shape)}, "
                    f"expected {tuple(own[name].shape)}"
                )
            own[name].copy_(weight)


def _save(
    path: Path | None,
    identity: str,
    state: State,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> None:
    if path is None:
        return
    content = {
        "layout": _CHECKPOINT_LAYOUT,
        "identity": identity,
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "best_metric": state.best_metric,
        "best": state.best,
        "history": state.history,
        "module": parameters_of(module),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "rng": json.dumps(rng.bit_generator.state),
    }
    content["sha256"] = _sha256(content)
    write_atomically(path, lambda part: torch.save(content, part))


def _sha256(content: Mapping[str, Any]) -> str:
    """Of all values and tensors in a nested mapping."""
    found = hashlib.sha256()

    def add(one: Any) -> None:
        if isinstance(one, torch.Tensor):
            array = one.detach().cpu().contiguous()
            found.update(f"{array.dtype}{tuple(array.shape)}".encode() + array.numpy().tobytes())
        elif isinstance(one, Mapping):
            for key in sorted(one, key=str):
                found.update(f"{key!r}:".encode())
                add(one[key])
        elif isinstance(one, list | tuple):
            for part in one:
                add(part)
        else:
            found.update(f"{one!r};".encode())

    add(content)
    return found.hexdigest()


ANEW = "delete it to start anew"


def history_of(checkpoint: Path) -> list[dict[str, float]]:
    """One record an epoch that a checkpoint knows of; its weights stay on the disk."""
    with reading(checkpoint, ANEW):
        found: list[dict[str, float]] = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)[
            "history"
        ]
    return found


def _resume(
    path: Path | None,
    identity: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> State | None:
    if path is None or not path.is_file():
        return None
    with reading(path, ANEW):
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if saved.get("layout") != _CHECKPOINT_LAYOUT or saved["identity"] != identity:
            raise LayoutError(f"{path} is a checkpoint of other data, parameters or layout; {ANEW}")
        if saved.pop("sha256") != _sha256(saved):
            raise ValueError("its contents do not have its SHA-256")
        load_parameters(module, saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        rng.bit_generator.state = json.loads(saved["rng"])
    return State(saved["epoch"], saved["best_epoch"], saved["best_metric"], saved["best"], saved["history"])
