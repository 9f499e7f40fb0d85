"""``tools/install_torch.py`` installs torch once, and never CUDA by accident."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parent.parent / "tools" / "install_torch.py"
REQUIREMENT, INDEX = "torch==9.9.9", "an index of CPU builds"


@pytest.fixture
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("install_torch", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pip:
    """Stands in for pip: answers by what is asked, and remembers it."""

    def __init__(self, *, index: bool, found: Sequence[str] | None, installs: bool = True):
        self.index, self.found, self.installs = index, found, installs
        self.installed: list[tuple[str, ...]] = []
        self.asked = 0

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        assert words[0] == "install" and words[-1] == REQUIREMENT
        if "--dry-run" in words:
            self.asked += 1
            assert "--index-url" not in words  # what is found without the index
            if self.found is None:
                return subprocess.CompletedProcess(words, 1, "", "no matching distribution")
            report = {"install": [{"metadata": {"name": name}} for name in self.found]}
            Path(words[words.index("--report") + 1]).write_text(json.dumps(report))
            return subprocess.CompletedProcess(words, 0, "", "")
        assert "--no-deps" in words
        good = self.index if "--index-url" in words else self.installs
        if good:
            self.installed.append(words)
        return subprocess.CompletedProcess(words, 0 if good else 1, "", "" if good else "it failed")


def test_main_when_the_index_is_reachable(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip(index=True, found=None)
    monkeypatch.setattr(tool, "pip", pip)
    assert tool.main(REQUIREMENT, INDEX) == 0
    [words] = pip.installed
    assert words[words.index("--index-url") + 1] == INDEX and pip.asked == 0


@pytest.mark.parametrize("extra", ["nvidia-cublas-cu12", "NVIDIA-cudnn-cu13", "triton", "cuda-bindings"])
def test_main_when_what_is_found_brings_cuda(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], extra: str
) -> None:
    pip = Pip(index=False, found=["torch", "sympy", extra])
    monkeypatch.setattr(tool, "pip", pip)
    assert tool.main(REQUIREMENT, INDEX) == 1
    assert pip.installed == [] and pip.asked == 1
    said = capsys.readouterr().err
    assert f"{INDEX} cannot be reached" in said and "brings CUDA" in said and "make setup TORCH_INDEX=" in said


def test_main_when_a_cpu_build_is_found(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip(index=False, found=["torch", "sympy", "filelock"])
    monkeypatch.setattr(tool, "pip", pip)
    assert tool.main(REQUIREMENT, INDEX) == 0
    [words] = pip.installed
    assert "--index-url" not in words


def test_main_when_torch_is_there_already(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "pip", Pip(index=False, found=[]))
    assert tool.main(REQUIREMENT, INDEX) == 0


def test_main_when_the_last_install_fails(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "pip", Pip(index=False, found=["torch"], installs=False))
    assert tool.main(REQUIREMENT, INDEX) == 1
    assert "it failed" in capsys.readouterr().err


def test_main_when_nothing_is_found(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = Pip(index=False, found=None)
    monkeypatch.setattr(tool, "pip", pip)
    assert tool.main(REQUIREMENT, INDEX) == 1
    assert pip.installed == []
    said = capsys.readouterr().err
    assert f"{REQUIREMENT} is nowhere to be found. Set TORCH_INDEX" in said and "no matching distribution" in said


def test_pip_when_called(tool: Any) -> None:
    done = tool.pip("--version")
    assert done.returncode == 0 and done.stdout.startswith("pip ")
