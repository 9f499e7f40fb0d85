"""Several processes that train one model (``training.devices``), each on its part of every batch.

Every process has all the data and draws the same batches with the same random numbers. It keeps every n-th row of a
batch (``parted``) and divides each term by the number of rows that the term concerns in the *whole* batch; then the
gradients of all processes are added up, so that all take the same step. Only the first process validates and writes;
the others get its metrics, so that all stop at the same epoch.

The run starts them, on this machine (:func:`together`). Or ``torchrun`` does, on one machine or several, and tells each
in environment variables how many there are. They send each other tensors and bytes; nothing is unpickled. They listen
on loopback, unless ``torchrun`` names another address.
"""

import contextlib
import ctypes
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

# how long a process waits for another that is still there; one that has ended is noticed at once
_LONGEST = timedelta(days=1)


class _ProcessGone(ConnectionError):
    """Another process of the same training ended."""


def count() -> int:
    """How many processes train together; 1 outside :func:`together`."""
    return _group().get_world_size() if _is_joined() else 1


def number() -> int:
    """This process's place among those that train together, from 0."""
    return _group().get_rank() if _is_joined() else 0


def launched() -> int:
    """How many processes ``torchrun`` started; 0 if it did not start this one."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else 0


def is_follower() -> bool:
    """Whether ``torchrun`` started this process and it is not the first one, which alone writes."""
    return launched() > 0 and os.environ["RANK"] != "0"


def summed(tensor: Any) -> Any:
    """Sum a tensor over all processes, in place; it has the same shape in each."""
    if count() > 1:
        with _named():
            _group().all_reduce(tensor)
    return tensor


def of_first(tensor: Any) -> Any:
    """Copy the first process's tensor into that of every other one, in place."""
    if count() > 1:
        with _named():
            _group().broadcast(tensor, 0)
    return tensor


def bytes_of_first(content: bytes) -> bytes:
    """The first process's bytes; those of the others are ignored."""
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
    """Let ``devices`` processes train together inside the block, this one as the first; with 1, nothing happens.

    Parameters
    ----------
    follow, words
        Each other process calls ``follow(*words)``: a function of a module, and arguments that can be sent. Not called
        if ``torchrun`` started the processes.

    Raises
    ------
    ConnectionError
        One of the others ended.
    """
    if devices == 1 and not launched():
        yield
    elif launched():
        try:
            with _joined("env://", int(os.environ["RANK"]), launched()):
                yield
        finally:
            del os.environ["RANK"], os.environ["WORLD_SIZE"]  # from here on it is alone, as are those it starts
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
                with _joined(meeting, 0, devices), _of_threads(int(threads["OMP_NUM_THREADS"])):
                    yield
                for one in others:
                    one.join()
            finally:
                for one in others:
                    one.kill()
                    one.join()


@contextlib.contextmanager
def _joined(meeting: str, rank: int, size: int) -> Iterator[None]:
    """Join ``size`` processes that meet at an address (``file://…``, or ``env://`` for ``torchrun``'s)."""
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
    """What a spawned process does; it ends when the first one ends."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        with _joined(meeting, rank, size):
            follow(*words)
    except (_ProcessGone, KeyboardInterrupt):
        pass  # the first process says why
    except Exception as error:
        print(f"process {rank} of {size}: {error}", file=sys.stderr)


def end_with_parent() -> None:
    """End this process as soon as its parent has ended; to be run in a thread."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _of_threads(wanted: int) -> Iterator[None]:
    """Let torch use this many threads inside the block, so that each process has its share of the cores."""
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
    """Turn a broken connection into an error that says what it means."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise _ProcessGone(
            f"a process of this training ended, or could not be reached ({reason}); the same command goes on from the "
            f"last finished epoch"
        ) from None


def isolated() -> dict[str, str]:
    """Environment variables that keep Python from importing modules from the working directory."""
    named = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # an empty entry means that directory
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in named)}


@contextlib.contextmanager
def environment(wanted: dict[str, str]) -> Iterator[None]:
    """Set these variables inside the block; processes that are started in it inherit them."""
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


# --- this process and its machine -------------------------------------------------------------------------------------


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """Highest resident size of this process so far, or since :func:`forget_peak_memory`, in bytes (0: not known)."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak_memory() -> None:
    """Reset :func:`peak_memory_bytes` to what the process holds now (Linux only)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def return_freed_memory() -> None:
    """Give freed memory back to the system (glibc only), so that what comes next does not stand on top of it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
