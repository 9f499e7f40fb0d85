"""The benchmarks run to their end, at the size of a toy: what they print is for people, and no test times anything."""

from __future__ import annotations

import json
import runpy
import sys

import pytest

from tests.helpers.worlds import ROOT

pytestmark = pytest.mark.slow
TOY = ["--data", "synthetic", "--preset", "smoke"]


@pytest.mark.parametrize(
    ("name", "words", "printed"),
    [
        ("bench", TOY, "evaluation: sampled and full"),
        ("bench_systems", [*TOY, "--systems", "emcdr"], "emcdr"),
        ("bench_explorer", TOY, "another user"),
    ],
)
def test_benchmark_when_small_runs_to_its_end(name, words, printed, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    assert printed in capsys.readouterr().out


def test_log_benchmark_when_small_writes_its_figures(tmp_path, monkeypatch, capsys):
    found = tmp_path / "found.json"
    words = ["--events", "20000", "--users", "2000", "--memory-limit", "64MB", "--json", str(found)]
    monkeypatch.setattr(sys, "argv", ["bench_logs", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / "bench_logs.py"), run_name="__main__")
    assert ended.value.code == 0
    assert [run["events"] for run in json.loads(found.read_text())] == [2000, 20000]
    assert "ratios for 10 times the events" in capsys.readouterr().out
