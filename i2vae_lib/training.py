"""A plain training loop: epochs, batches, one loss, one selection metric, a checkpoint each epoch.

It knows no test rows and no particular model: a recommender passes its module, loss, batches and validation. Random
numbers come from the two generators passed in; every checkpoint holds their states, so a run that is killed and
resumed ends with the same weights, to the bit on CPU with the same number of threads.
"""

import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from i2vae_lib import processes
from i2vae_lib.parameter_groups import TrainingParameters
from i2vae_lib.places import Refusal
from i2vae_lib.processes import return_freed_memory, usable_cores
from i2vae_lib.progress import bar, end
from i2vae_lib.runs import LayoutError, reading, write_atomically

_CHECKPOINT_LAYOUT = 2
LOOKED = 100  # batches between two checks that the losses are finite: a check waits for the device


CostAndParts = tuple[Tensor, dict[str, Tensor]]  # the scalar to minimise, and its parts by name, for the history

Loss = Callable[[Any, int, torch.Generator], CostAndParts]


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the message names the term, the epoch and the batch."""


@dataclass(frozen=True)
class Callbacks:
    """What a caller may want of a fit: a checkpoint to resume from, and a call per epoch.

    Parameters
    ----------
    checkpoint
        File that is written after each epoch, and resumed from if it exists; None: neither.
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
        Names the stage's checkpoint and its lines in the history.
    module
        Its parameters are trained; it keeps those of the best epoch.
    loss
        ``(batch, epoch, generator) -> (scalar, named parts)``.
    batches
        One epoch's batches, drawn with the generator passed in.
    rows, steps
        Rows and batches per epoch, for the rate and the progress bar.
    weight_decay, decoupled_decay
        L2 through the gradients (Adam), or beside them (AdamW); at most one of the two.
    beta2
        Adam's second decay rate.
    epochs
        At most this many, without early stopping: a warm-up. None: ``training.epochs`` and ``training.patience``.
    """

    name: str
    module: nn.Module
    loss: Loss
    batches: Callable[[np.random.Generator], Iterable[Mapping[str, Any]]]
    rows: int
    steps: int
    weight_decay: float = 0.0
    decoupled_decay: float = 0.0
    beta2: float = 0.999
    epochs: int | None = None


@dataclass
class State:
    """How far training has come; every checkpoint holds all of it."""

    epoch: int = 0  # epochs done
    best_epoch: int = -1
    best_metric: float = -math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def choose_device(name: str) -> torch.device:
    """The torch device of a name; ``auto`` is the first GPU if there is one, else the CPU.

    Raises
    ------
    ValueError
        A device that torch does not know or that this machine lacks.
    """
    if name in ("auto", "cuda") and processes.count() > 1 and torch.cuda.is_available():
        return torch.device("cuda", processes.number() % torch.cuda.device_count())  # one each
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name).cpu()  # meta has tensors without contents
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refusal(f"'training.device': {name!r} cannot be used here: {reason}; try auto or cpu") from None
    return torch.device(name)


def check_devices(p: TrainingParameters) -> None:
    """Refuse devices and a precision that are not there.

    Raises
    ------
    ValueError
        The message names the parameter.
    """
    device, started = choose_device(p.device), processes.launched()
    if started and started != p.devices:
        raise ValueError(f"'training.devices': {p.devices}, but torchrun started {started} processes")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", p.devices)) if started else p.devices
    gpus = device.type == "cuda"
    there = torch.cuda.device_count() if gpus else usable_cores()
    if here > there:
        raise ValueError(f"'training.devices': {here}, but this machine has {there} {'GPUs' if gpus else 'cores'}")
    if p.devices > 1 and device.index is not None:
        raise ValueError(f"'training.device': {p.device} is one device, and training.devices is {p.devices}; give cuda")
    if p.precision == "bf16-mixed" and gpus and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"'training.precision': {torch.cuda.get_device_name()} has no bfloat16; give 32")


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
        Metrics of the module with its current weights; ``ndcg@10`` selects the epoch.
    rng, generator
        For the batches, and for dropout and samples.
    identity
        What the weights depend on, as a string; a checkpoint of another identity is refused.

    Raises
    ------
    NonFiniteLoss
        Within :data:`LOOKED` batches, or at the end of the epoch. Weights and checkpoint are those from before the
        epoch.
    LayoutError
        The checkpoint belongs to other data or parameters.
    """
    if stage.epochs is not None:
        p = p.model_copy(update={"epochs": min(stage.epochs, p.epochs), "patience": 0})
    module = stage.module
    kind = torch.optim.AdamW if stage.decoupled_decay else torch.optim.Adam
    optimizer = kind(
        module.parameters(),
        lr=p.learning_rate,
        betas=(0.9, stage.beta2),
        weight_decay=stage.weight_decay or stage.decoupled_decay,
        fused=True,
    )
    ongoing = _Ongoing(stage, p.precision, optimizer, rng, generator, identity, callbacks.checkpoint)
    _agree(identity, module)
    state = _resume(ongoing)
    progress = bar("training", p.epochs * stage.steps, "batch", initial=state.epoch * stage.steps)
    try:
        while state.epoch < p.epochs and not _exhausted(state, p):
            start, before = time.perf_counter(), parameters_of(module)
            try:
                means = _epoch(ongoing, state.epoch, progress)
            except NonFiniteLoss:
                load_parameters(module, before)
                raise
            return_freed_memory()  # what the largest batch left
            seconds = time.perf_counter() - start
            record = {"epoch": float(state.epoch + 1)} | means | {"seconds": seconds, "rows/s": stage.rows / seconds}
            metrics = _of_first(validate)
            record |= metrics | {"validation seconds": time.perf_counter() - start - seconds}
            _advance(state, record, module)
            _save(ongoing, state)
            progress.set_postfix_str(
                f"epoch {state.epoch}, NDCG@10 {metrics['ndcg@10']:.4f} (best {state.best_metric:.4f})"
            )
            if callbacks.on_epoch is not None:
                callbacks.on_epoch(record)
        end(progress, f"best at epoch {state.best_epoch + 1}, NDCG@10 {state.best_metric:.4f}")
    finally:
        progress.close()
    load_parameters(module, state.best)
    return state


@dataclass(frozen=True)
class _Ongoing:
    """A stage in training: what an epoch changes and a checkpoint holds."""

    stage: Stage
    precision: str
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    generator: torch.Generator
    identity: str
    checkpoint: Path | None


def _epoch(of: _Ongoing, epoch: int, progress: Any) -> dict[str, float]:
    """One pass over the batches: the means of the loss and its parts, each over the batches that have it."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    unseen: list[dict[str, Tensor]] = []
    device = next(of.stage.module.parameters()).device
    if processes.count() > 1:  # dropout has left each process at a state of its own
        state = processes.bytes_of_first(of.generator.get_state().numpy().tobytes())
        of.generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    for number, batch in enumerate(of.stage.batches(of.rng)):
        mine = {name: _mine(tensor).to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=of.precision == "bf16-mixed"):
            value, parts = of.stage.loss(mine, epoch, of.generator)
        of.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        _sum_gradients(of.stage.module)
        of.optimizer.step()
        unseen.append({name: part.detach() for name, part in (parts | {"loss": value}).items()})
        for name, part in unseen[-1].items():
            sums[name] = sums.get(name, 0.0) + part
            counts[name] = counts.get(name, 0) + 1
        progress.update()
        if len(unseen) == LOOKED:
            _refuse_non_finite(unseen, epoch, number)
            unseen.clear()
    if unseen:
        _refuse_non_finite(unseen, epoch, number)
    totals = processes.summed(torch.stack([torch.as_tensor(total) for total in sums.values()]))
    return {name: float(total) / counts[name] for name, total in zip(sums, totals, strict=True)}


def _save(of: _Ongoing, state: State) -> None:
    """Write the checkpoint."""
    if (path := of.checkpoint) is None:
        return
    for left in path.parent.glob(f".{path.name}.*.part"):  # by a call that was killed while it wrote
        left.unlink(missing_ok=True)
    content = vars(state) | {
        "layout": _CHECKPOINT_LAYOUT,
        "identity": of.identity,
        "module": parameters_of(of.stage.module),
        "optimizer": of.optimizer.state_dict(),
        "generator": of.generator.get_state(),
        "rng": json.dumps(of.rng.bit_generator.state),
    }
    content["sha256"] = digest_of(content)

    def write(part: Path) -> None:
        with part.open("wb") as stream:  # of a full disk torch's own writer says no more than "unexpected pos"
            torch.save(content, stream)

    write_atomically(path, write)


def _resume(of: _Ongoing) -> State:
    """Go on from the first process's checkpoint, if it has one."""
    there = of.checkpoint is not None and of.checkpoint.is_file()
    if not int(processes.of_first(torch.tensor(int(there)))):
        return State()
    path = of.checkpoint or Path("the first process's checkpoint")
    with reading(path, ANEW):
        held = path.read_bytes() if processes.number() == 0 else b""  # the others need not see its file
        content = path if processes.count() == 1 else io.BytesIO(processes.bytes_of_first(held))
        saved: dict[str, Any] = torch.load(content, weights_only=True, map_location="cpu")
        if saved.get("layout") != _CHECKPOINT_LAYOUT or saved["identity"] != of.identity:
            raise LayoutError(f"{path} is a checkpoint of other data, parameters or layout; {ANEW}")
        if saved.pop("sha256") != digest_of(saved):
            raise ValueError("its contents do not have its SHA-256")
        load_parameters(of.stage.module, saved["module"])
        of.optimizer.load_state_dict(saved["optimizer"])
        of.generator.set_state(saved["generator"])
        of.rng.bit_generator.state = json.loads(saved["rng"])
    return State(**{one.name: saved[one.name] for one in fields(State)})


def _mine(tensor: Any) -> Any:
    """This process's part of something in a batch."""
    return tensor if processes.count() == 1 else tensor.parted(processes.number(), processes.count())


def _sum_gradients(module: nn.Module) -> None:
    """Add up the gradients of all processes; a weight that none of them used keeps none."""
    if processes.count() == 1:
        return
    weights = list(module.parameters())
    used = torch.tensor([float(weight.grad is not None) for weight in weights], device=weights[0].device)
    parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    flat = processes.summed(torch.cat([used, *(part.flatten() for part in parts)]))
    of_weights = flat[len(weights) :].split([weight.numel() for weight in weights])
    for weight, anywhere, part in zip(weights, flat[: len(weights)].tolist(), of_weights, strict=True):
        weight.grad = part.view_as(weight) if anywhere else None


def _agree(identity: str, module: nn.Module) -> None:
    """Begin with the first process's weights; refuse to train on other data than it has."""
    if processes.bytes_of_first(identity.encode()) != identity.encode():
        raise LayoutError(f"process {processes.number()} has other data, parameters or versions than process 0")
    with torch.no_grad():
        for weight in module.parameters():
            processes.of_first(weight)


def _of_first(validate: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """The first process's metrics: the others wait for it."""
    found = dict(validate()) if processes.number() == 0 else {}
    return json.loads(processes.bytes_of_first(json.dumps(found).encode()))


def _refuse_non_finite(parts: list[dict[str, Tensor]], epoch: int, last: int) -> None:
    """Raise :class:`NonFiniteLoss` for the first loss of these batches, ending with ``last``, that is not finite."""
    finite = torch.isfinite(processes.summed(torch.stack([of_batch["loss"] for of_batch in parts])))
    if finite.all():
        return
    first = int((~finite).nonzero()[0])
    value = float(parts[first].pop("loss"))
    bad = ", ".join(name for name, part in parts[first].items() if not torch.isfinite(part)) or "their weighted sum"
    raise NonFiniteLoss(
        f"epoch {epoch + 1}, batch {last - len(parts) + 2 + first}: the loss is {value} because of {bad}; the epoch is "
        f"taken back; try a lower training.learning_rate"
    )


def _exhausted(state: State, p: TrainingParameters) -> bool:
    return bool(p.patience) and state.epoch - 1 - state.best_epoch >= p.patience


def _advance(state: State, record: dict[str, float], module: nn.Module) -> None:
    state.history.append(record)
    if record["ndcg@10"] > state.best_metric:
        state.best_metric, state.best_epoch = record["ndcg@10"], state.epoch
        state.best = parameters_of(module)
    state.epoch += 1


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every weight on the CPU; shared weights are copied once."""
    return {name: weight.detach().cpu().clone() for name, weight in module.named_parameters()}


def load_parameters(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a module.

    Raises
    ------
    LayoutError
        A name or a shape differs.
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


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of all values and tensors in a nested mapping."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous()
            digest.update(f"{array.dtype}{tuple(array.shape)}".encode() + array.numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                digest.update(f"{key!r}:".encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for part in value:
                add(part)
        else:
            digest.update(f"{value!r};".encode())

    add(content)
    return digest.hexdigest()


ANEW = "delete it to start anew"


def history_of(checkpoint: Path) -> list[dict[str, float]]:
    """A checkpoint's history, one record per epoch; its weights are not read."""
    with reading(checkpoint, ANEW):
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        return saved["history"]
