"""Several processes that train one model (``training.devices``), each on its part of every batch.

Every process has all the data and draws the same batches with the same random numbers. Of a batch it keeps every n-th
row (``parted``); its costs are shares of the mean over the *whole* batch's rows, and the gradients of all processes are
added up, so that all take the same step. The first process alone validates and writes; the others get its metrics, so
that all stop at the same epoch.

Who starts them: the run, on this machine (:func:`together`); or ``torchrun``, on one machine or several, whose
environment variables say how many there are. What is sent between them is tensors and bytes, nothing that is unpickled.
Their connections are the one place where the kit listens: on loopback, unless ``torchrun`` names another address.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from i2vae_lib.runs import usable_cores

_LONGEST = timedelta(days=1)
"""That one process may wait for another; one that has ended is noticed at once."""


class ProcessGone(ConnectionError):
    """Another process of the same training ended."""


def count() -> int:
    """How many processes train together; 1 outside :func:`together`."""
    return _group().get_world_size() if _is_joined() else 1


def number() -> int:
    """Which of them this one is, from 0."""
    return _group().get_rank() if _is_joined() else 0


def launched() -> int:
    """How many processes ``torchrun`` started; 0 where it did not start this one."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else 0


def is_follower() -> bool:
    """Whether ``torchrun`` started this process as another than the first, which alone writes."""
    return launched() > 0 and os.environ["RANK"] != "0"


def summed(tensor: Any) -> Any:
    """The sum over all processes, in place: a tensor of the same shape in each."""
    if count() > 1:
        with _named():
            _group().all_reduce(tensor)
    return tensor


def of_first(tensor: Any) -> Any:
    """The first process's tensor, in place."""
    if count() > 1:
        with _named():
            _group().broadcast(tensor, 0)
    return tensor


def bytes_of_first(content: bytes) -> bytes:
    """The first process's bytes; what the others give is not looked at."""
    if count() == 1:
        return content
    import torch

    length = int(of_first(torch.tensor([len(content)], device=_device())))
    held = bytearray(content) if number() == 0 else bytearray(length)
    if not length:
        return b""
    return bytes(of_first(torch.frombuffer(held, dtype=torch.uint8).to(_device())).cpu().numpy())


@contextlib.contextmanager
def together(devices: int, follow: Callable[..., None], *words: Any) -> Iterator[None]:
    """Train with ``devices`` processes meanwhile, of which this is the first; with 1, nothing happens.

    Parameters
    ----------
    follow, words
        ``follow(*words)`` is what each other process does: a module's function, and arguments that can be sent. Not
        called where ``torchrun`` started the processes.

    Raises
    ------
    ProcessGone
        One of the others ended.
    """
    if devices == 1 and not launched():
        yield
    elif launched():
        try:
            with joined("env://", int(os.environ["RANK"]), launched()):
                yield
        finally:
            del os.environ["RANK"], os.environ["WORLD_SIZE"]  # from here on each is alone, and what it starts too
    else:
        with tempfile.TemporaryDirectory(prefix="i2vae-") as folder:
            meeting = Path(folder, "meeting").as_uri()
            spawn = multiprocessing.get_context("spawn")
            others = [
                spawn.Process(target=_follow, args=(meeting, i, devices, follow, words), daemon=True)
                for i in range(1, devices)
            ]
            try:
                threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // devices)))}
                with environment({**threads, "TQDM_DISABLE": "1", **isolated()}):
                    for one in others:
                        one.start()
                with joined(meeting, 0, devices), _of_threads(int(threads["OMP_NUM_THREADS"])):
                    yield
                for one in others:
                    one.join()
            finally:
                for one in others:
                    one.kill()
                    one.join()


@contextlib.contextmanager
def joined(meeting: str, rank: int, size: int) -> Iterator[None]:
    """Be one of ``size`` processes that meet at an address (``file://…``, or ``env://`` for ``torchrun``'s)."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if meeting.startswith("file:"):
            os.environ.setdefault(name, "lo" if sys.platform == "linux" else "lo0")
    import torch
    import torch.distributed as group

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _named():
        group.init_process_group(backend, init_method=meeting, rank=rank, world_size=size, timeout=_LONGEST)
    try:
        yield
    finally:
        group.destroy_process_group()


def _follow(meeting: str, rank: int, size: int, follow: Callable[..., None], words: tuple[Any, ...]) -> None:
    """What a spawned process does; it ends with the first one."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        with joined(meeting, rank, size):
            follow(*words)
    except (ProcessGone, KeyboardInterrupt):
        pass  # the first process says why
    except Exception as error:
        print(f"process {rank} of {size}: {error}", file=sys.stderr)


def end_with_parent() -> None:
    """End this process as soon as its parent has ended; to be run by a thread."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _of_threads(wanted: int) -> Iterator[None]:
    """Let torch use so many threads in this process meanwhile: each process has its share of the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _group() -> Any:
    return sys.modules["torch.distributed"]


def _is_joined() -> bool:
    return "torch.distributed" in sys.modules and bool(_group().is_initialized())


def _device() -> str:
    import torch

    return f"cuda:{number() % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Say what a broken connection means."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ProcessGone(
            f"a process of this training ended, or could not be reached ({reason}); the same command goes on from the "
            f"last finished epoch"
        ) from None


def isolated() -> dict[str, str]:
    """Environment variables that keep Python from importing modules from the working directory."""
    named = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # an empty entry means that directory
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in named)}


@contextlib.contextmanager
def environment(wanted: dict[str, str]) -> Iterator[None]:
    """Set these variables for a while; processes that are started meanwhile inherit them."""
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
