"""Progress of long work: a bar in a terminal or a notebook, plain lines elsewhere, nothing with ``TQDM_DISABLE=1``."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm as plain
from tqdm.auto import tqdm

LINE = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}, {remaining} left, {rate_fmt}]{postfix}\n"


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
