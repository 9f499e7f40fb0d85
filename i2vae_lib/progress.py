"""Progress of long work: a bar in a terminal or a notebook, plain lines elsewhere, nothing with ``TQDM_DISABLE=1``.

Also lines that say what a command is doing, repeated while it lasts.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Self

SILENCE = 8.0  # seconds without a line after which the last one is repeated


class _Lines:
    """Replaces a bar by lines, at most one every ten seconds and a last one; has the methods of tqdm that we use."""

    def __init__(self, desc: str, total: int | None, unit: str, initial: int, quiet: bool):
        self.desc, self.total, self.unit, self.quiet = desc, total, unit, quiet
        self.n = self.initial = initial
        self.begun = time.monotonic()
        self.postfix, self.next = "", 0.0
        self.update(0)

    def update(self, n: int = 1) -> None:
        self.n += n
        if time.monotonic() >= self.next:
            self._print()

    def set_postfix_str(self, postfix: str) -> None:
        """Shown with the next line."""
        self.postfix = f", {postfix}" if postfix else ""

    def close(self) -> None:
        self._print()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _print(self) -> None:
        self.next = time.monotonic() + 10
        if self.quiet:
            return
        seconds, done = time.monotonic() - self.begun, self.n - self.initial
        left = f", {(self.total - self.n) * seconds / done:.0f} s left" if self.total and done else ""
        rate = f", {done / seconds:,.2f} {self.unit}/s" if done and seconds else ""
        of = f"/{self.total:,}" if self.total else ""
        print(
            f"{self.desc}: {self.n:,}{of} {self.unit} [{seconds:.0f} s{left}{rate}]{self.postfix}",
            file=sys.stderr,
            flush=True,
        )


@cache
def _tqdm() -> Any:
    """tqdm's class for a terminal or notebook; None where it is not installed (it is in the extra ``notebooks``)."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    tqdm.set_lock(threading.RLock())  # its default lock, between processes, outlives a killed process
    return tqdm


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


def bar(description: str, total: int | None, unit: str, *, initial: int = 0, leave: bool = True) -> Any:
    """A bar with rate and time left, used like one of tqdm.

    Parameters
    ----------
    initial
        Units already done (by a resumed run).
    leave
        Keep the finished bar.
    """
    quiet = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    if not quiet and (_in_notebook() or sys.stderr.isatty()) and (drawn := _tqdm()) is not None:
        shown: dict[str, Any] = {"desc": description, "total": total, "unit": unit, "initial": initial, "leave": leave}
        return drawn(**shown, mininterval=0.5, disable=False)  # tqdm itself reads the variable only once
    return _Lines(description, total, unit, initial, quiet)


def end(progress: Any, outcome: str) -> None:
    """Close the bar of work that ended well, early or not: full (so green in a notebook), with the outcome beside."""
    progress.total = progress.n
    progress.set_postfix_str(outcome)
    progress.close()


@contextmanager
def spoken(silence: float = SILENCE) -> Iterator[Callable[[str], None]]:
    """A function that prints a line with the seconds since the start.

    When it is not called for ``silence`` seconds, the last line is repeated after "still:", so that whoever waits sees
    that work goes on. Lines do not break a bar.
    """
    start = time.perf_counter()
    last, at = "", start
    done, one_at_a_time = threading.Event(), threading.Lock()

    def print_line(line: str) -> None:
        nonlocal at
        at = time.perf_counter()
        write = sys.modules["tqdm"].tqdm.write if "tqdm" in sys.modules else print
        write(f"[{at - start:6.1f} s] {line}")
        sys.stdout.flush()

    def say(line: str) -> None:
        nonlocal last
        with one_at_a_time:
            last = line
            print_line(line)

    def repeat() -> None:
        while not done.wait(max(0.0, at + silence - time.perf_counter())):
            with one_at_a_time:
                if last and time.perf_counter() - at >= silence:
                    print_line(f"still: {last}")

    teller = threading.Thread(target=repeat, name="still", daemon=True)
    teller.start()
    try:
        yield say
    finally:
        done.set()
        teller.join()
