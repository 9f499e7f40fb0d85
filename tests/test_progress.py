"""Progress where there is no terminal: a line now and then, not one an update."""

from __future__ import annotations

import pytest

from i2vae_lib.progress import bar


def test_bar_when_not_a_terminal_prints_few_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    progress = bar("fitting", 50, "epoch")
    for epoch in range(50):
        progress.update()
        progress.set_postfix_str(f"recall {epoch}")
    progress.close()
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    assert len(lines) == 2  # the first and the last
    assert lines[-1].startswith("fitting: 50/50 epoch [") and lines[-1].endswith("recall 49")


def test_bar_when_disabled_prints_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    progress = bar("fitting", 2, "epoch")
    progress.update(2)
    progress.close()
    assert capsys.readouterr().err == ""
