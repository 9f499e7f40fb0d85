"""The package as it is installed: wheel and sdist built, the wheel alone in an empty folder (tools/check_wheel.py)."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from tests.helpers.worlds import LONG, ROOT
from tools.check_wheel import lowest, pinned

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * LONG)]


def test_wheel_when_it_is_all_there_is() -> None:
    command = [sys.executable, str(ROOT / "tools" / "check_wheel.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"passed: pinned: Python 3\.\d+\.\d+ torch .*\n", done.stdout)
    for name in ("numpy", "scipy", "pandas", "pyarrow", "duckdb"):
        assert pinned()[name].replace("==", " ") in done.stdout


def test_lowest_versions_when_read() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(lowest()) == len(project["dependencies"]) and lowest()["numpy"] == "numpy==2.2"
