"""The command ``i2vae``, in this process and as one of its own; killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from i2vae_lib import cli, report
from i2vae_lib.recommenders import I2VAERecommender
from tests.conftest import TINY

SMALL = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]


EPOCHS = 10


def run_words(out: Path, *more: str) -> list[str]:
    return ["run", "--preset", "smoke", "--epochs", str(EPOCHS), "--out", str(out), "--no-notebooks", *SMALL, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the command line made. Do not change it."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(run_words(folder)) == 0
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that must end with status 2."""
    capsys.readouterr()
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"i2vae {words[0]}: ") and "Traceback" not in err
    return err


# --- run --------------------------------------------------------------------------------------------------------------


def test_run_when_done_already(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "ranks.parquet").stat().st_mtime_ns
    assert cli.main(run_words(finished)) == 0
    out = capsys.readouterr().out
    assert (finished / "ranks.parquet").stat().st_mtime_ns == before
    header = next(line for line in out.splitlines() if "kind" in line).split()
    assert header == ["domain", "kind", "n", "i2vae", "popularity", "copy", "itemknn", "ease", "oracle"]
    assert "1 + 49 sampled candidates\n" in out and "NOT leak-free" not in out
    assert out.splitlines()[-1] == f"report: {finished / 'report.html'}"


def test_run_when_values_are_set(finished: Path) -> None:
    parameters = json.loads((finished / "run.json").read_text())["parameters"]
    for key, value in TINY.items():
        group, name = key.split(".")
        assert parameters[group][name] == value
    assert parameters["training"]["epochs"] == EPOCHS and parameters["preset"] == "smoke"


def test_run_when_the_protocol_is_released(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--protocol", "released", "--epochs", "1", "--set", "psg.kind=none", "--set", "synthetic.users=300"]
    assert cli.main(run_words(tmp_path / "run", *words)) == 0
    assert "(NOT leak-free: protocol released)" in capsys.readouterr().out


def test_run_when_other_parameters_are_given(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, *run_words(finished, "--set", "model.d=32"))
    assert f"{finished} was made with model.d = 16, now it is 32: choose another OUT, or delete the folder" in said
    said = refused(capsys, *run_words(finished, "--seed", "1", "--set", "model.d=32"))
    assert "model.d = 16, now it is 32 (and 1 more)" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "smok"], "unknown preset 'smok'"),
        (["--preset", "smok"], "did you mean 'smoke'?"),
        (["--data", "cloth_sprot"], "unknown data 'cloth_sprot'; did you mean 'cloth_sport'?"),
        (
            ["--protocol", "strikt"],
            "'protocol': Input should be 'released', 'strict', 'chronological' or 'temporal' (got 'strikt')",
        ),
        (["--set", "modle.d=64"], "unknown key 'modle.d'; did you mean 'model.d'?"),
        (["--set", "model.d=many"], "'model.d': Input should be a valid integer"),
        (["--set", "model.d"], "--set model.d: expected KEY=VALUE"),
        (["--set", "model.cross_heads=3"], "'model.cross_heads': 3 heads do not divide model.d = 16"),
    ],
)
@pytest.mark.parametrize("command", ["run", "audit"])
def test_command_when_a_name_is_unknown(
    command: str, words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")] if command == "run" else []
    assert expected in refused(capsys, command, "--preset", "smoke", *out, *words)
    assert not (tmp_path / "run").exists()  # a folder of the wrong name would refuse the right one


def test_command_when_argparse_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["fly"], ["run", "--epochs", "many"], ["recommend", "somewhere"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 2
        assert "usage: i2vae" in capsys.readouterr().err


def test_command_when_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.report, "write_report", interrupted)
    assert cli.main(["report", "somewhere"]) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err


def in_a_process(*words: str, **named: Any) -> Any:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "i2vae_lib.cli", *words],
        cwd=Path(cli.__file__).parent.parent,
        env=environment,
        text=True,
        **named,
    )


def test_run_when_killed_while_training(finished: Path, tmp_path: Path) -> None:
    folder, checkpoint = tmp_path / "run", tmp_path / "run" / "last.ckpt"
    process = in_a_process(*run_words(folder), stdout=subprocess.DEVNULL)
    while not checkpoint.is_file():
        assert process.poll() is None, "ended before the first checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = torch.load(checkpoint, weights_only=True)["epoch"]
    assert 1 <= done < EPOCHS and not (folder / "model").exists()  # in the middle of training
    assert cli.main(run_words(folder)) == 0
    for name in ("metrics.json", "model/weights.safetensors"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    assert pd.read_parquet(folder / "history.parquet")["epoch"].tolist() == list(range(1, EPOCHS + 1))


# --- recommend --------------------------------------------------------------------------------------------------------


def test_recommend_when_a_history_is_given(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recommend", str(finished), "--history", "x=x20,s3", "y=y40", "--domain", "y", "--k", "4"]
    assert cli.main([*words, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    recommender = I2VAERecommender.load(finished / "model")
    [(ids, scores)] = recommender.recommend({"x": [["x20", "s3"]], "y": [["y40"]]}, "y", 4)
    assert found == {"items": ids, "scores": scores}
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "user 0" and [line.split()[:2] for line in lines[1:]] == [[str(i + 1), ids[i]] for i in range(4)]
    title = recommender.catalogue.label("y", recommender.catalogue.encode("y", ids[:1]))[0]
    assert lines[1].endswith(title) and "topic" in title


def test_recommend_when_histories_are_in_a_file(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "people.parquet"
    pd.DataFrame({"x": [["x20", "s3"], None, []], "y": [["y40"], ["y41"], []]}).to_parquet(file)
    assert cli.main(["recommend", str(finished), "--histories", str(file), "--domain", "x", "--k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = I2VAERecommender.load(finished / "model").recommend(
        {"x": [["x20", "s3"], [], []], "y": [["y40"], ["y41"], []]}, "x", 3
    )
    assert [(one["items"], one["scores"]) for one in found] == expected
    assert [len(one["items"]) for one in found] == [3, 3, 3]


def test_recommend_when_input_is_wrong(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recommend", str(finished), "--domain", "y"]
    assert "'nobody' is not in the vocabulary of domain x (North" in refused(capsys, *words, "--history", "x=nobody")
    assert "--history z=1: expected x=ID,ID or y=ID,ID" in refused(capsys, *words, "--history", "z=1")
    assert "k is 0" in refused(capsys, *words, "--k", "0")
    pd.DataFrame({"x": [["x20"]]}).to_parquet(tmp_path / "half.parquet")
    assert "missing column y" in refused(capsys, *words, "--histories", str(tmp_path / "half.parquet"))
    nowhere = refused(capsys, "recommend", str(tmp_path), "--domain", "y")
    assert "is not a run directory (no run.json)" in nowhere


@pytest.mark.parametrize(("history", "status", "lines"), [("x=x20", 0, (3, 0)), ("x=no", 2, (0, 1))])
def test_recommend_when_in_a_process_of_its_own(
    finished: Path, history: str, status: int, lines: tuple[int, int]
) -> None:
    words = ["recommend", str(finished), "--history", history, "--domain", "y", "--k", "2"]
    process = in_a_process(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert process.returncode == status and (out.count("\n"), err.count("\n")) == lines


# --- audit, fetch, report ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--protocol", "strict"], ["--protocol", "released"]])
def test_audit_when_the_data_are_planted(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "--preset", "smoke", *SMALL, "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["leaks"] == 0 and len(found["checks"]) > 6
    assert found["protocol"] == (more[1] if more else "strict")  # the preset's: released is for registered pairs
    assert cli.main(["audit", "--preset", "smoke", *SMALL, *more]) == 0
    assert capsys.readouterr().out.endswith("no leak\n")


def test_audit_when_a_leak_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        ("target in own history", "test", "leak", 3, 0.015, "row 7"),
        ("duplicated row", "test", "note", 9, 0.1, ""),
    ]
    found = pd.DataFrame(lines, columns=cli.audit.COLUMNS)
    monkeypatch.setattr(cli.audit, "audit", lambda dataset: found)
    assert cli.main(["audit", "--preset", "smoke", *SMALL, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["leaks"] == 1
    assert cli.main(["audit", "--preset", "smoke", *SMALL]) == 1
    out = capsys.readouterr().out
    assert out.endswith("synthetic under strict: 1 checks found leaks\n") and "1.5" in out
    monkeypatch.setattr(cli.audit, "audit", lambda dataset: found.iloc[1:])  # a note is no leak
    assert cli.main(["audit", "--preset", "smoke", *SMALL]) == 0


def test_audit_when_the_data_are_released(released_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "--data", "cloth_sport", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == "released" and found["leaks"] == 4
    fired = {(one["check"], one["split"]): one["count"] for one in found["checks"] if one["severity"] == "leak"}
    assert fired["user also in training", "test"] == 609 and fired["target in other history", "test"] == 245
    assert cli.main(["audit", "--data", "cloth_sport", "--protocol", "strict"]) == 0
    assert "cloth_sport under strict: no leak" in capsys.readouterr().out


def test_fetch_when_the_files_are_there(released_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "cloth_sport"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == ["cloth_sport_train.csv", "cloth_sport_test_csu.csv"]
    assert all(path.is_file() for path in paths)


def test_fetch_when_the_pair_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown pair 'game_vidoe'; did you mean 'game_video'?" in refused(capsys, "fetch", "game_vidoe")


def test_report_when_written_anew(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    before = (finished / "report.html").read_text()
    (finished / "report.html").write_text("gone")
    assert cli.main(["report", str(finished)]) == 0
    assert capsys.readouterr().out == f"{finished / 'report.html'}\n"
    assert len((finished / "report.html").read_text()) == pytest.approx(len(before), rel=0.01)
    assert "is not a run directory" in refused(capsys, "report", str(tmp_path))
    (tmp_path / "run.json").write_text((finished / "run.json").read_text())
    assert "has no metrics yet" in refused(capsys, "report", str(tmp_path))


def test_run_when_notebooks_are_wanted(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(report, "execute_notebooks", lambda *words: given.extend(words))
    assert cli.main([word for word in run_words(finished) if word != "--no-notebooks"]) == 0
    folder, parameters, names = given
    assert folder == finished and names == cli.RUN_NOTEBOOKS
    assert parameters["overrides"] == TINY and parameters["out"] == str(finished) and parameters["epochs"] == EPOCHS
    assert list(parameters) == ["preset", "data", "protocol", "seed", "epochs", "out", "overrides"]
