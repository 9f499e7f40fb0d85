"""Who does the work: processes of this machine, the workers of one's own Dask scheduler, or this process.

Local processes are spawned, have one thread each, and get their tasks through pipes that only their parent holds:
nothing listens, so nobody else can give them work.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

from i2vae_lib.lazy import require
from i2vae_lib.processes import end_with_parent, environment, isolated, usable_cores
from i2vae_lib.runs import read_json

PATIENCE = 30  # seconds that a scheduler has to answer, and to show a worker

TRIES = 4  # how often a task is begun if its process dies each time


class SchedulerError(OSError):
    """A scheduler does not answer, or has no workers."""


class WorkerDied(RuntimeError):
    """A process ended while it had a task."""


class InThisProcess:
    """Does each task at once, when it is submitted."""

    width = 1

    def submit(self, task: Callable[..., Any], /, *words: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(task(*words))
        except Exception as error:
            future.set_exception(error)
        return future


# --- processes --------------------------------------------------------------------------------------------------------


class _Processes:
    """Processes with one task at a time each; one that dies does not affect the others.

    Its task is begun again in a new process, :data:`TRIES` times in all. They end with this process, however it ends.
    """

    def __init__(self, count: int):
        self.width = count
        self._open = True
        self._all = [_Process() for _ in range(count)]
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        for process in self._all:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(count)  # each thread waits for one process

    def submit(self, task: Callable[..., Any], /, *words: Any) -> Future[Any]:
        return self._threads.submit(self._done, task, words)

    def _done(self, task: Callable[..., Any], words: tuple[Any, ...]) -> Any:
        process, end = self._idle.get(), "closed"
        try:
            for _ in range(TRIES if self._open else 0):
                try:
                    result, error = process.ask(task, words)
                except (EOFError, OSError):
                    end = process.end()
                    if self._open:
                        continue
                    break
                if error is not None:
                    raise error
                return result
            raise WorkerDied(end)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End every process, whatever it is doing."""
        self._open = False
        self._threads.shutdown(wait=False, cancel_futures=True)
        while True:
            for process in self._all:
                process.kill()
            if self._idle.qsize() == self.width:
                return
            time.sleep(0.01)  # for a process that was just being started


class _Process:
    """A process, started when it is first asked."""

    process: Any = None

    def ask(self, task: Callable[..., Any], words: tuple[Any, ...]) -> tuple[Any, Exception | None]:
        if self.process is None:
            spawn = multiprocessing.get_context("spawn")
            self.pipe, theirs = spawn.Pipe()
            self.process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
            with _without_main():
                self.process.start()
            theirs.close()
        self.pipe.send((task, words))
        return self.pipe.recv()

    def kill(self) -> None:
        if (process := self.process) is not None:
            process.kill()
            process.join()

    def end(self) -> str:
        """Say how it ended; the next task starts a new process."""
        self.process.join()
        status, self.process = self.process.exitcode, None
        return f"killed by signal {-status} (out of memory?)" if status < 0 else f"its process ended (status {status})"


_STARTING = threading.Lock()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep a process that starts from running this one's script again, which may have no guard against that.

    Tasks are functions of modules, and need nothing of it.
    """
    with _STARTING:
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _serve(pipe: Any) -> None:
    """The main loop of a process: task after task, until its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles a Ctrl-C and ends all processes
    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        task, words = pipe.recv()
        answer: tuple[Any, Exception | None]
        try:
            answer = task(*words), None
        except Exception as error:
            answer = None, error
        pipe.send(answer)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM like a Ctrl-C for a while, so that work in flight is ended in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- a scheduler of one's own -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """The workers of a Dask scheduler."""

    client: Any

    @property
    def width(self) -> int:
        return max(1, sum(self.client.ncores().values()))

    def submit(self, task: Callable[..., Any], /, *words: Any) -> Future[Any]:
        # not pure: Dask must not answer a repeated task from an earlier one
        return self.client.get_executor(pure=False).submit(task, *words)


@contextlib.contextmanager
def _cluster(scheduler: str) -> Iterator[Cluster]:
    require("--scheduler", "distributed")
    from distributed import Client

    is_file = scheduler.endswith(".json") or Path(scheduler).is_file()
    address = _address_in(Path(scheduler)) if is_file else scheduler
    if not address.startswith(("tls://", "inproc://")):
        print(f"{address} is not TLS: whoever reaches that port runs code as you (docs/clusters.md)", file=sys.stderr)
    try:
        with ThreadPoolExecutor(1) as aside:  # in a thread, since a notebook's own event loop is running
            aside.submit(asyncio.run, _greeted(address)).result()
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        raise SchedulerError(f"the scheduler at {scheduler} did not answer within {PATIENCE} s ({why})") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise SchedulerError(
                f"the scheduler at {scheduler} has no worker after {PATIENCE} s: start some, as in `dask worker "
                f"{'--scheduler-file ' * is_file}{scheduler} --nthreads 1`"
            ) from None
        _require_single_threaded(client, scheduler)
        yield Cluster(client)


async def _greeted(address: str) -> None:
    """Connect once, with a timeout: the client's own does not cover a peer that accepts but stays silent."""
    from distributed.comm import connect as open_comm

    comm = await asyncio.wait_for(open_comm(address, timeout=PATIENCE), PATIENCE)
    await comm.close()


def _require_single_threaded(client: Any, scheduler: str) -> None:
    """Refuse workers of several threads: a cell's log is its process's output, so a process has one cell at a time."""
    wide = {address: n for address, n in client.nthreads().items() if n > 1}
    if wide:
        raise SchedulerError(
            f"the scheduler at {scheduler} has workers of several threads ({', '.join(wide)}): start them with "
            f"--nthreads 1"
        )


def _address_in(file: Path) -> str:
    """The address in a scheduler file; waits, since a scheduler may need a moment to write it."""
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(read_json(file)["address"])
        if time.monotonic() > end:
            raise SchedulerError(f"no scheduler has written its address to {file} within {PATIENCE} s")
        time.sleep(0.1)


# --- any of them ------------------------------------------------------------------------------------------------------


# whatever does tasks, `width` of them at a time: functions of modules, and arguments that can be sent to another
# process
Workers = InThisProcess | _Processes | Cluster


@contextlib.contextmanager
def connect(workers: int | None = None, scheduler: str | None = None, *, threads: int = 1) -> Iterator[Workers]:
    """Processes of this machine, or the workers of a running scheduler.

    Parameters
    ----------
    workers
        How many processes; None: one per core that this process may use.
    scheduler
        ``tcp://host:port``, ``tls://host:port``, or the path of a scheduler file. Connect only to your own: workers
        run what it sends. Needs Dask (``pip install distributed``).
    threads
        Per local process, unless ``OMP_NUM_THREADS`` is set.

    Raises
    ------
    SchedulerError
        No Dask, no answer within :data:`PATIENCE` seconds, or no worker.
    """
    if scheduler is not None:
        with _cluster(scheduler) as cluster:
            yield cluster
        return
    inherited = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while waiting take cores from other processes
        **isolated(),
    }
    with (
        environment(inherited),
        terminated_as_interrupted(),
        contextlib.closing(_Processes(workers or usable_cores())) as processes,
    ):
        yield processes
