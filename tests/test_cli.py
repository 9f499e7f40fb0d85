"""The command ``i2vae``, in this process and as one of its own; killed and started again."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from i2vae_lib import cache, cli, notebooks, report, stages
from i2vae_lib.audit import leaks as audit
from i2vae_lib.commands import actions
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.logs.pair_file import ReleasedPair, read_any_pair
from i2vae_lib.data.synthetic import generate_log, write_logs
from i2vae_lib.labels import label
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.runs import LayoutError, Run
from tests.helpers.planted_runs import recorded
from tests.helpers.worlds import TINY

SMALL = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]


EPOCHS = 10


def run_words(out: Path, *more: str) -> list[str]:
    given = {more[i + 1].partition("=")[0] for i, word in enumerate(more) if word == "--set"}
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    small = [word for pair in pairs if pair[1].partition("=")[0] not in given for word in pair]
    return ["run", "--preset", "smoke", "--epochs", str(EPOCHS), "--out", str(out), "--no-notebooks", *small, *more]


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


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        (lambda: Path("none").read_text(), "none: no such file or directory: name one that is there"),
        (lambda: Path("folder").read_text(), "folder: is a directory: name a file"),
        (lambda: Path("file/a").read_text(), "file/a: not a directory: a part of the path is a file"),
        (lambda: Path("n" * 300).write_text(""), "n: file name too long: name a shorter one"),
        (lambda: Path("file").mkdir(), "file: file exists: name another"),
        (lambda: os.write(99_999, b""), "bad file descriptor"),
        (lambda: json.loads(""), "Expecting value"),
    ],
)
def test_errors_of_the_system_are_told_in_words(
    fail: Callable[[], object],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("i2vae_lib.commands.actions.make_report", lambda _: fail())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    said = refused(capsys, "report", "run")
    assert told in said and "Errno" not in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        *(
            ((*words, ""), "an empty path: name a file or a folder")
            for words in (
                ("describe",),
                ("describe", "a", "b", "--out"),
                ("recommend", "R", "--domain", "x", "--users"),
                ("export", "R", "--out"),
                ("compare",),
                ("notebooks",),
                ("explore",),
                ("sweep", "recipe", "--out"),
                ("table", "--out"),
            )
        ),
        (("search", "tuned", "--trials", "0"), "0: at least one"),
        (("table", "--trials", "-1"), "-1: at least one"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2 and told in capsys.readouterr().err


# --- run --------------------------------------------------------------------------------------------------------------


RANKERS = ["popularity", "recent_popularity", "copy", "itemknn", "ease", "ordered_counts"]
HEADER = " ".join(map(label, ["domain", "kind", "n", "i2vae", *RANKERS])).split()  # of the printed table


def test_run_when_done_already(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "ranks.parquet").stat().st_mtime_ns
    assert cli.main(run_words(finished)) == 0
    out = capsys.readouterr().out
    assert (finished / "ranks.parquet").stat().st_mtime_ns == before
    header = next(line for line in out.splitlines() if "kind" in line).split()
    assert header == [*HEADER, "Oracle", "Informed"]
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
    assert "NOT leak-free: protocol released" in capsys.readouterr().out


def test_run_when_other_parameters_are_given(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, *run_words(finished, "--set", "model.d=32"))
    assert f"{finished} was made with model.d = 16, now it is 32: choose another OUT, or delete the folder" in said
    said = refused(capsys, *run_words(finished, "--seed", "1", "--set", "model.d=32"))
    assert "model.d = 16, now it is 32; seed = 0, now it is 1: choose" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "smok"], "unknown preset 'smok'"),
        (["--preset", "smok"], "did you mean 'smoke'?"),
        (
            ["--data", __file__],
            f"test_cli.py is no pair file, which says how two logs are read: `i2vae describe {__file__}",
        ),
        (["--data", "cloth_sprot"], "unknown data 'cloth_sprot'; did you mean 'cloth_sport'?"),
        (
            ["--protocol", "strikt"],
            "'protocol': Input should be 'released', 'strict', 'chronological' or 'temporal' (got 'strikt')",
        ),
        (["--set", "modle.d=64"], "unknown key 'modle.d'; did you mean 'model.d'?"),
        (["--set", "model.d=many"], "'model.d': Input should be a valid integer"),
        (["--set", "model.d"], "--set model.d: expected KEY=VALUE"),
        (["--set", "seed=1"], "'seed' stands beside the overrides (--seed), not among them"),
        (["--system", ""], "'system': unknown ''"),
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


@pytest.mark.parametrize("users", [1, 2, 5])
def test_audit_when_a_planted_pair_has_too_few_users(users: int, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "audit", "--preset", "smoke", "--set", f"synthetic.users={users}")
    assert "raise synthetic.users" in said and "min_user" not in said


@pytest.mark.parametrize("long", ["w" * 5_000, "w w " * 1_250], ids=["one word", "with blanks"])
@pytest.mark.parametrize(
    "words",
    [
        "{0}",
        "run --{0}",
        "run --seed|{0}",
        "run --set|{0}",
        "run --set|{0}=1",
        "run --set|model.d={0}",
        "run --set|model.d=[{0}",
        "run --set|{0}=1|--set|{0}=2",
        "run --system|{0}",
        "run --preset|{0}",
        "run --preset|{0}.yaml",
        "run --preset|key.yaml",
        "run --preset|smoke|--out|{0}",
        "run --preset|smoke|--out|a_file/{0}",
        "audit --data|{0}",
        "audit --data|{0}.yaml",
        "audit --data|key.yaml|--protocol|temporal",
        "audit --data|path.yaml|--protocol|temporal",
        "sweep {0}",
        "table --systems|{0}",
        "describe {0}",
        "compare {0}|b",
        "list {0}",
    ],
)
def test_command_when_what_is_given_is_very_long_does_not_repeat_it_whole(
    words: str, long: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    (tmp_path / "key.yaml").write_text(yaml.safe_dump({long: {long: 1}}, width=10**6))
    sides = {d: {"name": d * 2, "path": long} for d in "xy"} | {"min_user": 1, "min_item": 1, "format": "amazon2014"}
    (tmp_path / "path.yaml").write_text(yaml.safe_dump({"name": "pair"} | sides))
    command, _, rest = words.partition(" ")
    with contextlib.suppress(SystemExit):
        assert cli.main([word.format(long) for word in (command, *rest.split("|")) if word]) == 2
    said = capsys.readouterr().err
    assert "w" * 50 in said or "w w w w" in said
    assert long.strip() not in said and len(said) < 2_500
    assert said.rstrip()[-1] != "…"  # what would be right stands last


@pytest.mark.parametrize("name", ["", "a_file", "a_file/run"])
def test_run_when_its_folder_cannot_be_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    told = f"{name} cannot be a folder of results (" if name else "'out': String should have at least 1 character"
    assert told in refused(capsys, *run_words(Path(name)) if name else ["run", "--preset", "smoke", "--out", ""])


def test_command_when_argparse_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["fly"], ["run", "--epochs", "many"], ["recommend", "somewhere"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 2
        assert "usage: i2vae" in capsys.readouterr().err


def test_command_when_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_report", interrupted)
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


@pytest.mark.tries("kills")
@pytest.mark.slow
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


def test_run_when_a_leak_stops_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def leaking(*words: Any) -> None:
        raise audit.Leak("target in own history (test): 3 rows")

    monkeypatch.setattr(stages, "run_all", leaking)
    monkeypatch.setattr(stages, "open_run", lambda resolved: None)
    assert cli.main(["run"]) == 1
    assert capsys.readouterr().err == "i2vae run: target in own history (test): 3 rows\n"


def test_run_when_epochs_are_set_by_their_dotted_key(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(stages, "run_all", lambda run, say: pd.read_parquet(finished / "ranks.parquet"))
    monkeypatch.setattr(stages, "open_run", lambda resolved: Run(resolved, tmp_path))
    monkeypatch.setattr(actions, "_result_of", lambda run: "")
    monkeypatch.setattr(notebooks, "execute_notebooks", lambda folder, names, which, say: told.append(names))
    words = ["--set", "training.epochs=3", "--set", "model.d=16"]
    assert cli.main(["run", "--preset", "smoke", "--no-report", *words]) == 0
    names = {key: value for key, value in told[0].items() if key != "out"}
    assert (names["epochs"], names["overrides"]) == (3, {"model.d": 16})
    assert load(names.pop("preset"), names.pop("overrides"), **names).training.epochs == 3


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
    assert "--history z: expected DOMAIN=ID,ID" in refused(capsys, *words, "--history", "z")
    assert "unknown domain 'z': expected 'x' (North) or" in refused(capsys, *words, "--history", "z=1")
    assert "k is 0" in refused(capsys, *words, "--history", "x=", "--k", "0")
    assert "nobody to recommend to: give one of --history, --histories, --user, --users" in refused(capsys, *words)
    for name in ("o.csv", "o.txt", "o"):
        assert "name that ends with .parquet" in refused(
            capsys, *words, "--history", "x=", "--out", str(tmp_path / name)
        )
    both = [*words, "--history", "x=x20", "--histories", "people.parquet"]
    assert "--history and --histories: one or the other" in refused(capsys, *both)
    pd.DataFrame({"x": [["x20"]]}).to_parquet(tmp_path / "half.parquet")
    assert "missing column y" in refused(capsys, *words, "--histories", str(tmp_path / "half.parquet"))
    nowhere = refused(capsys, "recommend", str(tmp_path), "--domain", "y")
    assert "is not a run directory (no run.json)" in nowhere


@pytest.mark.slow
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
    assert found["protocol"] == (more[1] if more else "chronological")  # the preset's: released is for registered pairs
    assert cli.main(["audit", "--preset", "smoke", *SMALL, *more]) == 0
    assert capsys.readouterr().out.endswith("no leak\n")


def test_audit_when_a_leak_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        ("target in own history", "test", "leak", 3, 0.015, "row 7"),
        ("duplicated row", "test", "note", 9, 0.1, ""),
    ]
    found = pd.DataFrame(lines, columns=audit.COLUMNS)
    monkeypatch.setattr(audit, "audit", lambda dataset: found)
    assert cli.main(["audit", "--preset", "smoke", *SMALL, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["leaks"] == 1
    assert cli.main(["audit", "--preset", "smoke", *SMALL]) == 1
    out = capsys.readouterr().out
    assert out.endswith("synthetic under chronological: 1 checks found leaks\n") and "1.5" in out
    monkeypatch.setattr(audit, "audit", lambda dataset: found.iloc[1:])  # a note is no leak
    assert cli.main(["audit", "--preset", "smoke", *SMALL]) == 0


def test_audit_when_the_data_are_released(released_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "--data", "cloth_sport", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == "released" and found["leaks"] == 7
    fired = {(one["check"], one["split"]): one["count"] for one in found["checks"] if one["severity"] == "leak"}
    assert fired["user also in training", "test"] == 609 and fired["target in other history", "test"] == 245
    assert fired["row of 8 items or more under another name", "test"] == 3
    assert all(fired[f"one order of items in {name}", "catalogue"] > 7_000 for name in ("Cloth", "Sport"))
    assert cli.main(["audit", "--data", "cloth_sport", "--protocol", "strict"]) == 0
    assert "cloth_sport under strict: no leak" in capsys.readouterr().out


def test_fetch_when_the_files_are_there(released_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "cloth_sport"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == ["cloth_sport_train.csv", "cloth_sport_test_csu.csv"]
    assert all(path.is_file() for path in paths)


def test_fetch_when_a_released_pair_is_given_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    message = "--out is of amazon2014-food-kitchen; a released pair goes where I2VAE_DATA_DIR or the cache says"
    assert message in refused(capsys, "fetch", "cloth_sport", "--out", "there")


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
    assert "metrics.json is missing: put the run's own file back" in refused(capsys, "report", str(tmp_path))


def test_report_and_explore_when_the_folder_is_wrong_refuse_it_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "damaged"):
        told = [refused(capsys, command, str(folder)).partition(": ")[2] for command in ("report", "explore")]
        assert told[0] == told[1] and str(folder) in told[0]


def test_completion_when_asked_for_knows_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    words = script.replace("'", " ").replace('"', " ").replace("(", " ").replace(")", " ").split()
    assert {*cli.COMMANDS, "--resamples"} <= {*words}
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("style", ["csv", "latex", "markdown"])
def test_audit_when_another_format_is_wanted(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "--preset", "smoke", *SMALL, "--format", style]) == 0
    out = capsys.readouterr().out
    if style == "csv":
        assert len(pd.read_csv(io.StringIO(out))) > 6
    assert {"csv": "check,split,severity", "latex": "\\toprule", "markdown": "| check"}[style] in out


# --- export -----------------------------------------------------------------------------------------------------------


def test_export_when_a_run_is_exported_recommends_as_the_run_does(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "model", []
    capsys.readouterr()
    assert cli.main(["export", str(finished), "--out", str(out), "--licence", "Nobody's, CC0"]) == 0
    assert capsys.readouterr().out == f"model: {out}\n"
    for folder in (finished, out):
        words = ["recommend", str(folder), "--history", "x=x20,s3", "y=y40", "--domain", "y", "--json"]
        assert cli.main(words) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] and json.loads(told[0])[0]["items"]
    assert "Nobody's, CC0" in (out / "README.md").read_text(encoding="utf-8")
    assert "exists: choose another folder" in refused(capsys, "export", str(finished), "--out", str(out))


def test_export_when_input_is_wrong(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "give either a run or --split DATA" in refused(capsys, "export", *out)
    both = refused(capsys, "export", str(finished), "--split", "synthetic", *out)
    assert "give either a run or --split DATA" in both
    assert "--protocol and --set are of --split" in refused(capsys, "export", str(finished), "--set", "model.d=3", *out)
    assert "is not a run directory" in refused(capsys, "export", str(tmp_path), *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sweep", "search", "table"])
def test_study_when_the_folder_is_no_study(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for name in (".git", "figures", "journal.log", "run.json"):
        (tmp_path / f"with {name}" / name).mkdir(parents=True)
    grid = {"preset": "smoke", "seeds": [0], "grids": {"g": {"product": {"model.d": [8]}}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(grid))
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({"preset": "smoke", "space": {"model.d": [4, 8]}}))
    words = {
        "sweep": [str(tmp_path / "sweep.yaml")],
        "search": [str(tmp_path / "search.yaml"), "--trials", "1"],
        "table": ["--preset", "smoke", "--systems", "multivae-s", "--trials", "1"],
    }[command]
    for more in ([], ["--dry-run"]) if command == "sweep" else ([],):
        assert cli.main([command, *words, *more, "--workers", "1", "--out", str(tmp_path / "file")]) == 2
        said = capsys.readouterr().err
        assert re.search(r"file cannot be a folder of results \(\S*file is a file\): choose another OUT", said)
    for folder in tmp_path.glob("with *"):
        assert cli.main([command, *words, "--workers", "1", "--out", str(folder)]) == 2
        name = folder.name.removeprefix("with ")
        told = (
            f"{folder} holds other files ({name}) but no cells, so it is no study: choose an OUT that is new or empty"
        )
        assert told in capsys.readouterr().err
        assert [one.name for one in folder.iterdir()] == [name]


def test_notebooks_when_the_folder_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["notebooks", str(tmp_path / "file")]) == 2
    assert "is a file: name a folder" in capsys.readouterr().err


@pytest.mark.parametrize("inside", [".", "lessons"])
def test_notebooks_when_the_folder_is_a_run(inside: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(finished.rglob("*"))
    assert cli.main(["notebooks", str(finished / inside)]) == 2
    assert f"inside the run {finished.resolve()}: choose a folder outside it" in capsys.readouterr().err
    assert sorted(finished.rglob("*")) == before


WITH_NOTEBOOKS = [word for word in run_words(Path()) if word != "--no-notebooks"]


def with_notebooks(folder: Path) -> list[str]:
    return [str(folder) if word == "." else word for word in WITH_NOTEBOOKS]


def test_run_when_notebooks_are_wanted_makes_them_after_table_and_report(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []

    def executed(*words: Any) -> list[Path]:
        given.extend([*words, capsys.readouterr().out, (finished / "report.html").is_file()])
        page = finished / "notebooks" / "03_training.html"
        page.parent.mkdir(exist_ok=True)
        page.write_text("one")
        return [page]

    (finished / "report.html").unlink()
    monkeypatch.setattr(notebooks, "execute_notebooks", executed)
    assert cli.main(with_notebooks(finished)) == 0
    folder, parameters, names, _, out, reported = given
    assert folder == finished and names == actions.RUN_NOTEBOOKS
    assert parameters["overrides"] == TINY and parameters["out"] == str(finished) and parameters["epochs"] == EPOCHS
    assert list(parameters) == ["preset", "data", "protocol", "seed", "epochs", "out", "overrides"]
    assert reported and "sampled candidates" in out and "the best of the reference rankers" in out
    assert "notebooks/03_training.html" in (finished / "report.html").read_text(encoding="utf-8")  # linked at the end
    shutil.rmtree(finished / "notebooks")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("Kernel died before replying"), "RuntimeError: Kernel died before replying"),
        (
            papermill.PapermillExecutionError(3, 3, "x", "AssertionError", "beats popularity\nin both", []),
            "AssertionError: beats popularity in both",
        ),
    ],
    ids=["kernel", "cell"],
)
def test_run_when_a_notebook_fails_is_a_line_and_well(
    error: Exception,
    why: str,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(notebook: Path, executed: Path, **named: Any) -> None:
        executed.write_text("as far as it went")
        raise error

    monkeypatch.setattr(papermill, "execute_notebook", failing)
    before = (finished / "report.html").read_bytes()
    assert cli.main(with_notebooks(finished)) == 0
    out = capsys.readouterr().out
    at = finished / "notebooks"
    lines = [line.partition("] ")[2] for line in out.splitlines() if "failed" in line]
    assert lines == [f"a notebook failed: {at / name}.ipynb: {why}" for name in actions.RUN_NOTEBOOKS]
    assert "Traceback" not in out and out.splitlines()[-1] == f"report: {finished / 'report.html'}"
    assert len((finished / "report.html").read_bytes()) == pytest.approx(len(before), rel=0.01)
    shutil.rmtree(at)


def test_run_when_it_ends_says_what_every_stage_took_and_all(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # what is made anew each time does not add up
        assert cli.main(run_words(finished)) == 0
    table = [line.split() for line in capsys.readouterr().out.split("\n\n")[-2].splitlines()]
    assert table[0][:2] == ["stage", "seconds"]
    stages_of_the_run = ["prepare", "generator", "recall", "train", "references", "evaluate", "report", "compare"]
    assert [line[0] for line in table[1:]] == [*stages_of_the_run, "total"]
    seconds = [float(line[1]) for line in table[1:]]
    assert seconds[-1] == pytest.approx(sum(seconds[:-1]), abs=0.02)
    recorded = json.loads((finished / "run.json").read_text())["stages"]
    assert recorded["compare"]["seconds"] == seconds[-2]


def test_cache_when_asked_for_says_its_size_and_empties_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path))
    cache.once("fits", 1, ("i2vae_lib.generators.graphs",), lambda folder: (folder / "table").write_bytes(bytes(2**20)))
    (tmp_path / "cloth_sport_train.csv").write_bytes(bytes(2**19))
    (tmp_path / "mine.txt").write_text("no entry")
    assert cli.main(["cache"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}: 1.5 MiB\n") and ["fits", "1", "1.0"] in [
        one.split() for one in out.splitlines()
    ]
    assert cli.main(["cache", "--json", "--clear"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cleared"] and [one["kind"] for one in found["kinds"]] == ["fits", "downloads"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.txt"]
    assert cli.main(["cache"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 0.0 MiB\n"


# --- audit of a run ---------------------------------------------------------------------------------------------------

GRAPH = "interactions beside the training rows in the generator's graph"
TABLES = "entries beside the training rows in the generator's tables"
COUNTS = "interactions beside the training rows in the popularity counts"
RECALLED = "target recalled in training and here alike"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def strict_json(text: str) -> Any:
    """Parsed, with NaN and Infinity refused."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def fired_in(capsys: pytest.CaptureFixture[str], folder: Path) -> dict[tuple[str, str], int]:
    """(check, split) -> count of the leaks that ``audit --run --json`` found; its status must tell of them."""
    capsys.readouterr()
    status = cli.main(["audit", "--run", str(folder), "--json"])
    found = strict_json(capsys.readouterr().out)
    leaks = {
        (one["check"], one["split"]): one["count"]
        for one in found["checks"]
        if one["severity"] == "leak" and one["count"]
    }
    assert status == (1 if leaks else 0) and found["leaks"] == len(leaks) and found["protocol"] == "chronological"
    return leaks


def test_audit_when_a_run_is_clean_looks_at_what_was_learnt_too(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["audit", "--run", str(finished)]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"{finished} under chronological: no leak\n")
    for check, times in ((GRAPH, 1), (TABLES, 1), (COUNTS, 7), (RECALLED, 2)):
        assert out.count(check) == times
    assert cli.main(["audit", "--run", str(finished), "--json"]) == 0
    checks = strict_json(capsys.readouterr().out)["checks"]
    learnt = [(one["check"], one["split"], one["severity"], one["count"]) for one in checks[-15:]]
    assert learnt[:5] == [
        (GRAPH, "train", "leak", 0),
        (TABLES, "train", "leak", 0),
        (RECALLED, "validation", "leak", 0),
        (RECALLED, "test", "leak", 0),
        (COUNTS, "train", "leak", 0),
    ]
    # what the run itself saw of the reference rankers: counts of six, tables of four
    assert [one[1:] for one in learnt[5:]] == 10 * [("train", "leak", 0)]
    assert [one["check"] for one in json.loads((finished / "run.json").read_text())["audit"]] == [
        one["check"] for one in checks
    ]


def test_audit_when_the_models_popularity_was_changed_finds_it(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "model" / "weights.safetensors"
    weights = load_file(path)
    weights["popularity/x"][7] += 2
    weights["popularity/y"][9] += 1
    save_file(weights, path)
    assert fired_in(capsys, recorded(copied)) == {(COUNTS, "train"): 3}
    assert cli.main(["audit", "--run", str(copied)]) == 1
    assert capsys.readouterr().out.endswith(f"{copied} under chronological: 1 checks found leaks\n")


def test_audit_when_pseudo_items_were_changed_finds_it(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "pseudo.parquet"
    table, rows = pd.read_parquet(path), CrossDomainDataset.load(copied / "dataset").splits["test"]
    of_test = table["split"] == "test"
    recalled = [[target, *items[1:]] for target, items in zip(rows.target, table.loc[of_test, "items"], strict=True)]
    table["items"] = [*table.loc[~of_test, "items"], *recalled]  # the test rows come last
    table.to_parquet(path, index=False)
    leaks = fired_in(capsys, recorded(copied))
    assert set(leaks) == {(RECALLED, "test")} and leaks[RECALLED, "test"] > 50


def test_audit_when_the_folder_is_no_whole_run_is_refused(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert "is not a run directory (no run.json)" in refused(capsys, "audit", "--run", str(tmp_path / "empty"))
    (copied / "pseudo.parquet").unlink()
    assert "pseudo.parquet is missing: put the run's own file back" in refused(capsys, "audit", "--run", str(copied))
    test = copied / "dataset" / "test.parquet"
    table = pd.read_parquet(test)
    table["target"] = table["target"].to_numpy()[::-1]
    table.to_parquet(test, index=False)
    assert "do not match the fingerprint" in refused(capsys, "audit", "--run", str(recorded(copied)))


# --- logs: describe, audit, run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs(tiny: Parameters, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny world as two CSV files."""
    return write_logs(generate_log(tiny.synthetic), tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def pair(logs: tuple[Path, Path]) -> Path:
    """The pair file that ``describe`` wrote for them, beside them."""
    path = logs[0].parent / "pair.yaml"
    assert cli.main(["describe", *map(str, logs), "--out", str(path)]) == 0
    return path


def log_words(pair: Path, protocol: str, out: Path) -> list[str]:
    return [*run_words(out), "--data", str(pair), "--protocol", protocol, "--epochs", "1"]


@pytest.fixture(scope="module")
def log_runs(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run under each protocol of logs. Do not change them."""
    folder = tmp_path_factory.mktemp("log-runs")
    for protocol in ("chronological", "temporal"):
        assert cli.main(log_words(pair, protocol, folder / protocol)) == 0
    return {one.name: one for one in folder.iterdir()}


def test_describe_when_logs_are_given_prints_counts_and_the_proposed_yaml(
    logs: tuple[Path, Path], tiny: Parameters, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["describe", *map(str, logs)]) == 0
    told, proposed = capsys.readouterr().out.split("proposed pair file (beside the first log):\n\n")
    lines = {line[:20].strip(): line[20:].split() for line in told.splitlines()}
    events = [len(one.user) for one in generate_log(tiny.synthetic).log.events.values()]
    assert lines["events"] == [f"{count:,}" for count in events] and lines["items"] == ["120", "120"]
    assert "nothing suspicious" in told
    assert yaml.safe_load(proposed) == {
        "name": "north_south",
        "x": {"name": "North", "path": "North.csv", "titles": "North_titles.csv"},
        "y": {"name": "South", "path": "South.csv", "titles": "South_titles.csv"},
        "columns": {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "unit": "s"},
        "min_user": 3,
        "min_item": 3,
        "same_ids_are_same_items": True,
    }


def test_describe_when_out_is_given_writes_it_and_never_over_a_file(
    logs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "pair.yaml", ["describe", *map(str, logs)]
    capsys.readouterr()
    assert cli.main([*words, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.endswith(f"\n\nwritten: {out}\n") and out.read_text() in told
    out.write_text("mine")
    assert f"{out} exists: choose another --out" in refused(capsys, *words, "--out", str(out))
    assert out.read_text() == "mine" and [one.name for one in tmp_path.iterdir()] == ["pair.yaml"]


@pytest.mark.parametrize("out", ["pair.yaml", "logs/pair.yaml", "pairs/pair.yaml"])
@pytest.mark.parametrize("layout", ["logs", "released"])
def test_describe_when_its_pair_file_lies_anywhere_writes_one_that_reads_the_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, out: str
) -> None:
    monkeypatch.delenv("I2VAE_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    for folder in ("logs", "pairs"):
        Path(folder).mkdir()
    heads = {"logs": "user_id,item_id,timestamp", "released": "user_id,seq_d1,seq_d2,domain_id"}
    for n, name in enumerate(("a.csv", "b.csv")):
        rows = {
            "logs": [f"u{u},i{n}{i},{1_400_000_000 + 90_000 * i + 40_000 * n}" for u in range(3) for i in range(4)],
            "released": [f'{u},"[{u}, {u + 1}, {u + 2}]","[9, 8, 7]",{u % 2}' for u in range(3)],
        }
        Path("logs", name).write_text("\n".join([heads[layout], *rows[layout], ""]))
    assert cli.main(["describe", "logs/a.csv", "logs/b.csv", "--out", out]) == 0
    pair = read_any_pair(out)
    found = (pair.train, pair.test) if isinstance(pair, ReleasedPair) else (pair.x.path, pair.y.path)
    assert found == tuple((tmp_path / "logs" / name).resolve() for name in ("a.csv", "b.csv"))
    # beside or above the logs, the folder can be moved as a whole
    assert (str(tmp_path.resolve()) in Path(out).read_text()) == (out == "pairs/pair.yaml")


def test_pair_file_of_the_kit_when_named_as_in_the_docs_but_elsewhere_is_said_to_be_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # as an installed wheel is used
    said = refused(capsys, "audit", "--data", "params/pairs/films.yaml", "--protocol", "temporal")
    own = said.rstrip("\n").rpartition("the kit's own is ")[2]
    assert yaml.safe_load(Path(own).read_text(encoding="utf-8"))["name"] == "films"
    assert "the kit's own" not in refused(capsys, "audit", "--data", "params/pairs/mine.yaml")


def test_describe_when_a_file_is_missing_is_refused(
    logs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["describe", str(logs[0]), str(tmp_path / "no.csv"), "--out", str(tmp_path / "pair.yaml")]
    assert f"{tmp_path / 'no.csv'}: no such file" in refused(capsys, *words)
    assert not (tmp_path / "pair.yaml").exists()


@pytest.mark.parametrize("protocol", ["chronological", "temporal"])
def test_audit_when_the_pair_file_was_proposed_finds_no_leak(
    pair: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", "--data", str(pair), "--protocol", protocol, "--preset", "smoke", *SMALL]
    capsys.readouterr()
    assert cli.main(words) == 0
    assert capsys.readouterr().out.endswith(f"{pair} under {protocol}: no leak\n")
    assert cli.main([*words, "--json"]) == 0
    found = strict_json(capsys.readouterr().out)
    assert (found["protocol"], found["leaks"]) == (protocol, 0)
    late = [one["split"] for one in found["checks"] if one["check"] == "event not before its target"]
    assert late == ["train", "validation", "test"]


@pytest.mark.parametrize("protocol", ["chronological", "temporal"])
def test_run_when_the_data_are_logs_finishes_with_a_report(
    log_runs: dict[str, Path], pair: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = log_runs[protocol]
    record = json.loads((folder / "run.json").read_text())
    assert (record["data"], record["protocol"]) == ("north_south", protocol)
    assert record["names"] == {"x": "North", "y": "South"} and min(record["rows"].values()) > 30
    assert "north_south" in (folder / "report.html").read_text()
    capsys.readouterr()
    assert cli.main(log_words(pair, protocol, folder)) == 0
    out = capsys.readouterr().out
    header = next(line for line in out.splitlines() if "kind" in line).split()
    assert header == HEADER  # logs have no oracle
    assert "NOT leak-free" not in out and out.endswith(f"report: {folder / 'report.html'}\n")
    assert cli.main(["audit", "--run", str(folder)]) == 0
    assert capsys.readouterr().out.count("event not before its target") == 4  # training rows as drawn too


@pytest.mark.parametrize("command", ["run", "audit"])
@pytest.mark.parametrize("protocol", ["strict", "released"])
def test_command_when_logs_are_asked_for_a_protocol_of_published_splits_is_refused(
    pair: Path, command: str, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")] if command == "run" else []
    said = refused(capsys, command, "--data", str(pair), "--protocol", protocol, "--preset", "smoke", *SMALL, *out)
    assert f"protocol {protocol} is for the paper's published splits, and pair is a timestamped log" in said
    assert "choose chronological or temporal" in said
    assert not (tmp_path / "run").exists()  # the right protocol finds no folder in its way


@pytest.mark.parametrize("command", ["run", "audit"])
@pytest.mark.parametrize("protocol", ["chronological", "temporal"])
def test_command_when_published_splits_are_asked_for_a_protocol_of_logs_is_refused(
    released_folder: Path, command: str, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")] if command == "run" else []
    said = refused(capsys, command, "--data", "cloth_sport", "--protocol", protocol, *out)
    assert f"protocol {protocol} needs timestamps, and cloth_sport has none" in said
    assert "choose released or strict, or give the YAML file of a pair of logs" in said
    assert not (tmp_path / "run").exists()


def test_run_when_the_pair_file_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, *log_words(tmp_path / "pair.yaml", "temporal", tmp_path / "run"))
    assert f"no file {tmp_path / 'pair.yaml'}: data is a registered name or the YAML file of a pair of logs" in said
    assert not (tmp_path / "run").exists()


def test_run_when_more_negatives_are_asked_for_than_there_are_items_ranks_them_all_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(run_words(tmp_path / "run", "--epochs", "1", "--set", "evaluation.negatives=999")) == 0
    printed = capsys.readouterr().out
    said = re.findall(r"rows have fewer than 999 items left beside target and history \((\d+) to (\d+)\)", printed)
    assert len(said) == 2 and all(80 < int(few) <= int(most) < 120 for few, most in said)
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8").count("rows have fewer than 999 items") == 2
    ranks = pd.read_parquet(tmp_path / "run" / "ranks.parquet")
    for what in ("greater", "ties", "candidates"):
        assert ranks[f"{what}_sampled"].equals(ranks[f"{what}_full"])


# --- compare ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two seeds of one epoch, then two of two epochs. Do not change them."""
    folders = []
    for epochs, seed in ((1, 0), (1, 1), (2, 0), (2, 1)):
        folders.append(tmp_path_factory.mktemp("seeds") / f"e{epochs}-s{seed}")
        assert cli.main(run_words(folders[-1], "--epochs", str(epochs), "--seed", str(seed))) == 0
    return [str(one) for one in folders]


def test_compare_when_two_seeds_are_given_shows_them_as_one_system(
    seeds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["compare", *seeds[:2]]) == 0
    out = capsys.readouterr().out
    assert out.startswith("synthetic, protocol chronological, data_seed 0: ") and "1 + 49 sampled candidates\n" in out
    assert f"  i2vae: seeds 0, 1: {seeds[0]}, {seeds[1]}\n" in out
    assert "HR@10 in per cent, mean ± sd over seeds" in out and "NDCG@10 in" not in out and "tailed, warm" not in out
    assert cli.main(["compare", *seeds[:2], "--all"]) == 0
    out = capsys.readouterr().out
    assert (
        "NDCG@10 in per cent" in out
        and "tailed, warm" in out
        and "recent_popularity  " not in out
        and "cell by cell" in out
    )
    assert "Interval and p: paired bootstrap over users, 10000 resamples." in out
    # the rankers have no seeds to pair
    assert "No t-test over seeds: it needs two or more seeds, the same for both systems." in out


def test_compare_when_two_systems_have_two_seeds_explains_both_tests(
    seeds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["compare", *seeds]) == 0
    out = capsys.readouterr().out
    for epochs in (1, 2):
        assert f"  i2vae (training.epochs={epochs}): seeds 0, 1: " in out
    assert "would stand on *other rows*, with these trained models." in out
    assert "t and p (t-test): paired t-test over seeds, 1 degree of freedom." in out
    assert "would stand with *other seeds*, on these rows." in out and "No t-test" not in out


def test_compare_when_json_is_wanted_is_strict_and_holds_what_metrics_json_holds(
    seeds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["compare", *seeds[:2], "--json"]) == 0
    found = strict_json(capsys.readouterr().out)
    assert list(found) == ["about", "systems", "results", "tests", "overall", "notes", "sampled_against_full"]
    assert found["systems"][0] == {"system": "i2vae", "seeds": [0, 1], "folders": seeds[:2], "parameters": {}}
    stored = [json.loads((Path(one) / "metrics.json").read_text())["i2vae"]["x"]["all"] for one in seeds[:2]]
    where = {"system": "i2vae", "domain": "North", "kind": "all", "metric": "HR@10", "candidates": "sampled"}
    [line] = [one for one in found["results"] if where.items() <= one.items()]
    assert line["mean"] == pytest.approx(sum(one["sampled"]["HR@10"] for one in stored) / 2)
    assert line["n"] == stored[0]["n"] and line["seeds"] == 2
    assert all(one["t"] is None and one["p_t"] is None for one in found["tests"])


def test_compare_when_base_and_candidates_are_chosen_uses_them(
    seeds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["compare", seeds[0], "--base", "popularity", "--candidates", "full"]) == 0
    out = capsys.readouterr().out
    assert "all items ranked" in out and "Differences from Popularity on the mean over" in out
    said = refused(capsys, "compare", seeds[0], "--base", "populrity")
    assert "unknown base 'populrity'; did you mean 'popularity'?" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--table", "paper", "--candidates", "full"], "--candidates is not for --table"),
        (["--table", "paper", "--base", "popularity"], "--base is not for --table"),
        (["--table", "paper", "--all"], "--all is not for --table"),
        (["--systems", "i2vae"], "--systems is of --table"),
        (["--kinds", "cold"], "--kinds is of --table"),
    ],
)
def test_compare_when_an_option_would_be_without_effect_is_refused(
    words: list[str], expected: str, seeds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, "compare", seeds[0], *words)


def test_compare_when_the_table_is_wanted_takes_its_options(
    seeds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["--format", "csv", "--systems", "i2vae", "popularity", "--kinds", "cold", "--resamples", "50"]
    assert cli.main(["compare", seeds[0], "--table", "paper", *words]) == 0
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert set(found["system"]) == {"i2vae", "popularity"} and set(found["kind"]) == {"cold"}
    assert set(found["candidates"]) == {"sampled", "full"}


def test_compare_when_the_data_differ_is_refused_and_told_in_what(
    seeds: list[str], log_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "compare", seeds[0], str(log_runs["temporal"]))
    assert f"{log_runs['temporal']} cannot be compared with {seeds[0]}: they differ in " in said
    assert (
        "data (synthetic there, north_south here), protocol (chronological there, temporal here), dataset_sha256"
        in said
    )
    said = refused(capsys, "compare", *(str(log_runs[one]) for one in ("chronological", "temporal")))
    assert "they differ in protocol (chronological there, temporal here)" in said


def test_compare_when_a_run_is_named_twice_or_not_finished_is_refused(
    seeds: list[str], copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{seeds[0]} is named twice" in refused(capsys, "compare", seeds[0], seeds[0])
    (copied / "ranks.parquet").unlink()
    said = refused(capsys, "compare", seeds[0], str(copied))
    assert f"{copied} is not finished (no ranks.parquet); `i2vae run " in said


# --- fetch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cloth_sprot", "unknown pair 'cloth_sprot'; did you mean 'cloth_sport'?"),
        ("amazon2014-food", "unknown pair 'amazon2014-food'; did you mean 'amazon2014-food-kitchen'?"),
        ("zzz", "unknown pair 'zzz'; known: cloth_sport, phone_elec, game_video, amazon2014-food-kitchen"),
    ],
)
def test_fetch_when_the_name_is_unknown_suggests_the_nearest(
    name: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, "fetch", name, "--out", str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_run_when_the_pair_file_was_edited_is_refused(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run directory never goes on with data that its pair file no longer describes."""
    edited = pair.with_name("edited.yaml")
    edited.write_text(pair.read_text())
    parameters = load("smoke", data=str(edited), protocol="chronological")
    run = stages.open_run(parameters, tmp_path / "run")
    before = stages.prepare(run)
    assert stages.prepare(run).fingerprint() == before.fingerprint()
    edited.write_text(pair.read_text().replace("min_user: 3", "min_user: 4"))
    with pytest.raises(LayoutError, match=r"was made before .*edited\.yaml or its logs changed"):
        stages.prepare(run)


def test_recommend_when_the_file_is_there_leaves_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is replaced: no device, and not the file of those who ask."""
    asked = tmp_path / "asked.parquet"
    pd.DataFrame({"domain": ["x"], "items": [["x20"]]}).to_parquet(asked)
    before = asked.read_bytes()
    words = ["recommend", str(finished), "--history", "x=x20", "--domain", "y", "--out"]
    assert f"{asked} exists: choose another --out" in refused(capsys, *words, str(asked))
    assert "/dev/null exists: choose another --out" in refused(capsys, *words, "/dev/null")
    assert asked.read_bytes() == before and Path("/dev/null").is_char_device()
