"""Progress of long work: a bar in a terminal or a notebook, plain lines elsewhere, nothing with ``TQDM_DISABLE=1``.

And lines that say what a command is at, and that it still is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm as plain
from tqdm.auto import tqdm

LINE = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}, {remaining} left, {rate_fmt}]{postfix}\n"

SILENCE = 8.0
"""Seconds without a line after which it is said again what is being done."""


class _Lines(plain):
    """A bar whose postfix waits for the next line instead of printing one."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        super().set_postfix_str(s, refresh=False)


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


def bar(description: str, total: int | None, unit: str, *, initial: int = 0, leave: bool = True) -> Any:
    """A tqdm bar with rate and time left.

    Parameters
    ----------
    initial
        Units done before (a resumed run).
    leave
        Keep the finished bar.
    """
    common: dict[str, Any] = {"desc": description, "total": total, "unit": unit, "initial": initial, "leave": leave}
    # said outright: tqdm itself reads the variable only once, when it is imported
    common["disable"] = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    if common["disable"]:
        return plain(**common)
    if _in_notebook() or sys.stderr.isatty():
        return tqdm(**common, mininterval=0.5)
    return _Lines(**common, mininterval=10.0, bar_format=LINE)  # a log file: a line now and then


@contextmanager
def spoken(silence: float = SILENCE) -> Iterator[Callable[[str], None]]:
    """A function that prints a line with the seconds since the start.

    While it is not called for ``silence`` seconds its last line is repeated, with "still:" before it, so that whoever
    waits sees that work goes on. Lines go past a bar where one is drawn.
    """
    start = time.perf_counter()
    last, at = "", start
    done, one_at_a_time = threading.Event(), threading.Lock()

    def print_line(line: str) -> None:
        nonlocal at
        at = time.perf_counter()
        plain.write(f"[{at - start:6.1f} s] {line}")
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
