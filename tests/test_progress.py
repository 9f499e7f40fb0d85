"""Progress where there is no terminal: a line now and then, not one an update; and never a long silence."""

from __future__ import annotations

import re
import threading
import time

import pytest

from i2vae_lib.progress import bar, end, spoken


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


def test_bar_when_it_ends_early_is_full(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    progress = bar("training", 50, "batch")
    progress.update(20)
    end(progress, "best at epoch 7")
    last = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()][-1]
    assert last.startswith("training: 20/20 batch [") and last.endswith("best at epoch 7")


def test_bar_when_disabled_prints_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    progress = bar("fitting", 2, "epoch")
    progress.update(2)
    progress.close()
    assert capsys.readouterr().err == ""


def test_spoken_when_nothing_is_said_repeats_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with spoken(silence=0.05) as say:
        time.sleep(0.15)  # nothing said yet, nothing to repeat
        assert capsys.readouterr().out == ""
        say("training")
        time.sleep(1.0)
        say("evaluating")
    assert not [one for one in threading.enumerate() if one.name == "still"]
    lines = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r"\[ *\d+\.\d s\] .+", line) for line in lines)
    said = [line.partition("] ")[2] for line in lines]
    assert said[0] == "training" and said[-1] == "evaluating" and set(said[1:-1]) == {"still: training"}
    seconds = [float(line[1:].split()[0]) for line in lines]
    assert seconds == sorted(seconds)


def test_spoken_when_much_is_said_repeats_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), spoken(silence=60) as say:
        for i in range(5):
            say(str(i))
        raise KeyError
    assert [line[-1] for line in capsys.readouterr().out.splitlines()] == list("01234")
