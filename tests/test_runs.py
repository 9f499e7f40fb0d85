"""The run directory: nothing half-written, nothing of another run, data set or layout read as if it fitted."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import Timeout

from i2vae_lib import runs, stages
from i2vae_lib.data import load_dataset
from i2vae_lib.params import load
from i2vae_lib.places import preset_names, runs_folder
from i2vae_lib.processes import forget_peak_memory, peak_memory_bytes
from i2vae_lib.runs import (
    Damaged,
    LayoutError,
    Run,
    default_folder,
    new_folder,
    read_json,
    read_record,
    write_atomically,
    write_json,
    write_record,
)
from i2vae_lib.stages import open_run
from tests.helpers.disks import full_disk
from tests.helpers.planted_runs import recorded
from tests.helpers.worlds import TINY

FULL = OSError(28, "No space left on device")


def failing(error: BaseException):
    def call(*words, **named):
        raise error

    return call


def content(folder) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture
def run(tiny, tmp_path):
    """A run in which something was made already."""
    run = Run(tiny, tmp_path / "run")
    run.note(rows={})
    return run


def test_run_when_nothing_was_made_yet_takes_other_parameters(tiny, tmp_path):
    """A command that was refused leaves a folder that does not refuse the right one."""
    Run(tiny, tmp_path)
    other = tiny.model_copy(update={"seed": 8})
    assert Run(other, tmp_path).record["parameters"]["seed"] == 8
    assert read_record(tmp_path)["parameters"]["seed"] == 8


def test_write_when_it_ends_well_leaves_the_file_alone(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        write_atomically(path, lambda part, text=text: part.write_text(text))
        assert content(path.parent) == {"file.txt": text}


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_write_when_it_breaks_off_leaves_the_previous_state(tmp_path, error):
    def write(part):
        part.write_text("half")
        raise error

    (tmp_path / "file.txt").write_text("before")
    with pytest.raises(type(error)):
        write_atomically(tmp_path / "file.txt", write)
    assert content(tmp_path) == {"file.txt": "before"}


def test_write_when_the_user_keeps_files_to_himself(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "file.txt", lambda part: part.write_text("mine"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o600


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lets a process forget its peak")
def test_peak_memory_when_it_is_forgotten():
    held = np.ones(30_000_000)  # 240 MB, touched
    peak = peak_memory_bytes()
    del held
    forget_peak_memory()
    assert peak - peak_memory_bytes() > 150 * 2**20


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_when_the_disk_is_full_leaves_the_previous_state(tmp_path, monkeypatch, step):
    (tmp_path / "file.txt").write_text("before")
    monkeypatch.setattr(os, step, failing(FULL))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file.txt", lambda part: part.write_text("after"))
    assert content(tmp_path) == {"file.txt": "before"}


@pytest.mark.parametrize("copy", [shutil.copyfile, shutil.copytree])
def test_folder_when_the_disk_is_full_is_named_and_not_there(tmp_path, copy):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "large").write_bytes(bytes(10_000))
    inside = "" if copy is shutil.copytree else "large"
    with (
        full_disk(1_000),
        pytest.raises(OSError, match=rf"^{target} could not be written \(File too large\): nothing of it is left"),
        new_folder(target) as part,
    ):
        copy(source / inside, part / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_write_when_there_was_no_file_and_the_disk_is_full_leaves_none(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(FULL))
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "file.json", {"a": 1})
    assert content(tmp_path) == {}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_json_is_read_as_editors_save_it(tmp_path, encoding):
    (tmp_path / "a.json").write_text('{"name": "é"}', encoding=encoding)
    assert read_json(tmp_path / "a.json") == {"name": "é"}
    (tmp_path / "a.json").write_text('{"name": "é"}', encoding="latin1")
    with pytest.raises(Damaged, match=r"a\.json is damaged \(.*not UTF-8 text; convert it"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_write_json_when_a_number_is_not_finite_refuses_it(tmp_path, bad):
    write_json(tmp_path / "file.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"a": [bad]})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": 1}


def test_run_when_made_records_what_it_depends_on(run, tiny):
    record = read_record(run.folder)
    assert record["parameters"] == tiny.model_dump(mode="json")
    assert (record["layout"], record["stages"]) == (3, {})
    assert {"python", "torch", "numpy", "scipy", "pandas", "git"} <= set(record["environment"])
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(-dirty)?", record["environment"]["git"])


@pytest.mark.parametrize(("changed", "dirty"), [("docs/page.md", False), ("i2vae_lib/one.py", True)])
def test_revision_when_the_checkout_was_changed(changed, dirty, tmp_path, monkeypatch):
    """A page that a study has rewritten is no change of what its numbers come from."""
    for name in ("docs/page.md", "i2vae_lib/one.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "i2vae_lib" / "runs.py"))
    runs.revision.cache_clear()
    clean = runs.revision()
    (tmp_path / changed).write_text("2")
    runs.revision.cache_clear()
    assert re.fullmatch("[0-9a-f]{40}", clean) and runs.revision() == clean + "-dirty" * dirty
    runs.revision.cache_clear()


def test_run_when_opened_again_keeps_its_record(run, tiny):
    run.note(answer=42)
    assert Run(tiny, run.folder).record["answer"] == 42


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.d": 32}, r"made with model\.d = 16, now it is 32: choose another OUT"),
        ({"split.data_seed": 5}, r"made with split\.data_seed = 0, now it is 5"),
        (
            {"model.d": 32, "model.T": 11, "psg.epochs": 4},
            r"made with model\.T = 10, now it is 11; model\.d = 16, now it is 32; psg\.epochs = 3, now it is 4: choose",
        ),
    ],
)
def test_run_when_made_with_other_parameters_is_refused_by_name(run, overrides, message):
    before = content(run.folder)
    with pytest.raises(LayoutError, match=message):
        Run(load("smoke", TINY | overrides, epochs=2), run.folder)
    assert content(run.folder) == before


def test_run_made_before_a_parameter_came_is_opened_at_its_default(run, tiny):
    """By another value it would have come out otherwise."""
    record = read_record(run.folder)
    del record["parameters"]["training"]["devices"], record["parameters"]["training"]["precision"]
    write_record(run.folder, record)
    assert Run(tiny, run.folder).folder == run.folder
    with pytest.raises(LayoutError, match=r"made with training\.devices = 1, now it is 2"):
        Run(load("smoke", TINY | {"training.devices": 2}, epochs=2), run.folder)


@pytest.mark.parametrize("name", ["seed", "protocol", "data"])
def test_run_when_a_top_level_parameter_differs_is_refused_by_name(run, tiny, name):
    other = tiny.model_copy(update={name: {"seed": 1, "protocol": "released", "data": "cloth_sport"}[name]})
    with pytest.raises(LayoutError, match=f"made with {name} = "):
        Run(other, run.folder)


def test_run_when_only_place_or_device_differ_is_opened(run, tiny):
    training = tiny.training.model_copy(update={"device": "cpu"})
    Run(tiny.model_copy(update={"out": "elsewhere", "training": training}), run.folder)


def test_run_when_of_another_layout_is_refused(run, tiny):
    write_record(run.folder, run.record | {"layout": 99})
    with pytest.raises(LayoutError, match="run layout 99, this version reads 3: it was made by a newer version"):
        Run(tiny, run.folder)


@pytest.mark.parametrize("text", ["", '{"layout": 1,\n "parameters": {'])
def test_run_when_its_record_is_damaged_is_refused_with_the_line(run, tiny, text):
    (run.folder / "run.json").write_text(text)
    with pytest.raises(LayoutError, match=r"run\.json is damaged .*line \d"):
        Run(tiny, run.folder)


def test_record_when_there_is_no_run_says_so(tmp_path):
    with pytest.raises(LayoutError, match=r"not a run directory \(no run\.json\)"):
        read_record(tmp_path)


def test_run_when_the_dataset_is_another_is_refused(run):
    run.check_dataset("a" * 64)
    run.check_dataset("a" * 64)
    assert read_record(run.folder)["dataset_sha256"] == "a" * 64
    with pytest.raises(LayoutError, match=r"another dataset \(SHA-256 aaaaaaaaaaaa…, now bbbbbbbbbbbb…\)"):
        run.check_dataset("b" * 64)


def test_stage_when_it_ends_adds_its_seconds_and_peak_memory(run):
    for total in (0.05, 0.1):
        with run.stage("sleep"):
            time.sleep(0.05)
        stored = read_record(run.folder)["stages"]["sleep"]
        assert total - 0.01 <= stored["seconds"] < total + 1
    assert 2**24 < stored["peak_memory_bytes"] < 2**40  # bytes, not kilobytes: an interpreter with torch
    assert stored["revision"] == run.record["environment"]["git"]
    for said, expected in ((7.0, 7.0), (3.0, 7.0)):  # an earlier process was killed after some of it
        run.took_at_least("sleep", said)
        assert read_record(run.folder)["stages"]["sleep"]["seconds"] == expected


def test_stage_when_it_fails_is_not_recorded(run):
    with pytest.raises(ZeroDivisionError), run.stage("broken"):
        raise ZeroDivisionError
    assert read_record(run.folder)["stages"] == {}


def test_note_when_the_disk_is_full_leaves_the_record_readable(run, monkeypatch):
    run.note(answer=42)
    monkeypatch.setattr(os, "fsync", failing(FULL))
    with pytest.raises(OSError, match="No space left"):
        run.note(answer=43)
    assert read_record(run.folder)["answer"] == 42
    assert set(content(run.folder)) == {"run.json"}


def test_run_when_another_has_the_lock_waits(run, tiny):
    other = Run(tiny, run.folder)
    with run.lock, pytest.raises(Timeout):
        other.lock.acquire(timeout=0.05)
    with other.lock:
        assert other.lock.is_locked


def test_folder_when_none_is_given_says_what_the_run_is(monkeypatch, tmp_path):
    parameters = load("demo", data="cloth_sport", protocol="released", seed=3)
    monkeypatch.setenv("I2VAE_RUNS_DIR", str(tmp_path))
    assert default_folder(parameters) == tmp_path / "cloth_sport-released-demo-seed3"
    assert Run(parameters).folder == tmp_path / "cloth_sport-released-demo-seed3"
    assert Run(load("demo", out=str(tmp_path / "mine"))).folder == tmp_path / "mine"


def test_prepare_when_called_twice_reads_the_stored_dataset_back(run, dataset, monkeypatch):
    first = stages.prepare(run)
    monkeypatch.setattr(stages, "load_dataset_once", failing(AssertionError("loaded twice")))
    assert stages.prepare(run).fingerprint() == first.fingerprint() == dataset.fingerprint()
    record = read_record(run.folder)
    assert record["dataset_sha256"] == dataset.fingerprint()
    assert record["L80"]["test"] == dataset.tail["test"]
    assert record["removed"] == dataset.removed
    assert record["rows"] == {split: len(rows) for split, rows in dataset.splits.items()}
    assert "prepare" in record["stages"]


def test_prepare_when_the_folder_holds_another_dataset_is_refused(run, tiny):
    stages.prepare(run)
    other = load_dataset(tiny.model_copy(update={"split": tiny.split.model_copy(update={"data_seed": 1})}))
    shutil.rmtree(run.folder / "dataset")
    other.save(run.folder / "dataset")
    with pytest.raises(LayoutError, match=r"dataset\.json is not what this run wrote"):
        stages.prepare(run)
    recorded(run.folder)
    run.refresh()
    with pytest.raises(LayoutError, match="another dataset"):
        stages.prepare(run)


@pytest.mark.parametrize("good", [0, 1, 2, 5, 9, 10])
def test_prepare_when_the_disk_fills_up_can_be_called_again(run, dataset, monkeypatch, good):
    """After ``good`` writes the disk is full; then somebody makes room."""
    count, fsync = iter(range(good)), os.fsync
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda stream: fsync(stream) if next(count, None) is not None else failing(FULL)())
        with pytest.raises(OSError, match="No space left"):
            stages.prepare(run)
    assert stages.prepare(Run(run.parameters, run.folder)).fingerprint() == dataset.fingerprint()
    record = read_record(run.folder)
    assert {"dataset_sha256", "L80", "removed", "rows", "audit"} <= set(record)
    assert not list(run.folder.rglob("*.part"))


def test_revision_when_git_is_not_there_is_unknown(monkeypatch):
    monkeypatch.setattr(runs.subprocess, "run", failing(FileNotFoundError("git")))
    monkeypatch.setattr(runs, "revision", runs.revision.__wrapped__)  # asked anew
    assert runs.environment()["git"] == "unknown"


def test_stamp_when_data_are_not_what_a_reader_takes_them_for() -> None:
    assert "NOT leak-free" in runs.stamp({"protocol": "released"})
    assert "One order of items" in runs.stamp({"protocol": "chronological", "one_order": True})
    assert runs.stamp({"protocol": "strict", "one_order": False}) == runs.stamp({}) == ""


@pytest.mark.parametrize(
    ("overrides", "ending"),
    [
        ({}, ""),
        ({"training.device": "cpu"}, ""),
        ({"model.d": 16}, ""),  # as in the preset
        ({"dasl.dropout": 0.5}, ""),  # which i2VAE does not read
        ({"model.d": 32}, "+model.d=32"),
        ({"model.causal": False, "training.epochs": 1}, r"+model.causal=false+training.epochs=1"),
        ({"training.learning_rate": "1e-5", "psg.kind": "none"}, "+psg.kind=none+training.learning_rate=1e-05"),
    ],
)
def test_folder_when_parameters_are_changed_says_which(monkeypatch, tmp_path, overrides, ending):
    monkeypatch.setenv("I2VAE_RUNS_DIR", str(tmp_path))
    assert open_run(load("smoke", overrides)).folder == tmp_path / f"synthetic-chronological-smoke-seed0{ending}"


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.d": 8, "model.T": 9, "model.T_pseudo": 30, "psg.recalled": 5, "training.epochs": 2},
        {"references.neighbours": [3]},
    ],
)
def test_folder_when_changes_make_no_short_name_ends_with_a_digest(monkeypatch, tmp_path, overrides):
    monkeypatch.setenv("I2VAE_RUNS_DIR", str(tmp_path))
    name = open_run(load("smoke", overrides)).folder.name
    assert re.fullmatch(r"synthetic-chronological-smoke-seed0\+[0-9a-f]{8}", name)
    assert open_run(load("smoke", overrides, out=None)).folder.name == name
    assert open_run(load("smoke", overrides | {"psg.recalled": 6})).folder.name != name


@pytest.mark.parametrize("preset", preset_names())
def test_folder_when_a_preset_is_untouched_is_called_as_ever(monkeypatch, tmp_path, preset):
    monkeypatch.setenv("I2VAE_RUNS_DIR", str(tmp_path))
    p = load(preset)
    assert default_folder(p).name == f"{p.data}-{p.protocol}-{preset}-seed0"
    assert (
        default_folder(load(preset, {"system": "savae"}, seed=2)).name == f"{p.data}-{p.protocol}-{preset}-savae-seed2"
    )


def test_runs_folder_when_one_works_below_a_checkout_is_the_checkouts(monkeypatch, tmp_path):
    monkeypatch.delenv("I2VAE_RUNS_DIR", raising=False)
    for name in ("notebooks/exercises", "params", "elsewhere/notebooks"):
        (tmp_path / name).mkdir(parents=True)
    for name in (".", "notebooks", "notebooks/exercises", "elsewhere/notebooks"):
        monkeypatch.chdir(tmp_path / name)
        assert runs_folder().resolve() == (tmp_path / "runs").resolve(), name
    monkeypatch.setenv("I2VAE_RUNS_DIR", "mine")
    assert runs_folder() == Path("mine")


def test_runs_folder_when_there_is_no_checkout_is_the_working_directorys(monkeypatch, tmp_path):
    monkeypatch.delenv("I2VAE_RUNS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert runs_folder() == Path("runs")


def test_record_when_a_part_is_missing_says_so_where_it_is_read(tmp_path: Path) -> None:
    content = {"layout": runs.RUN_LAYOUT, "stages": {}}
    write_record(tmp_path, content)
    record = read_record(tmp_path)
    assert record == content and record.get("audit") is None
    for entry in ("parameters", "audit"):
        with pytest.raises(LayoutError, match=rf"run\.json: '{entry}' is missing: let the run end, put the run's own"):
            _ = record[entry]


@pytest.mark.parametrize("content", ['{"mine": 1}', "[]", "no JSON"])
def test_run_when_the_folder_has_somebody_elses_record_leaves_it_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(LayoutError, match=r"run\.json .*put .*back, or run into another OUT"):
        Run(load("smoke"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_run_when_the_lock_is_a_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(LayoutError, match=r"\.lock is a folder, where a run has a file: remove it"):
        Run(load("smoke"), tmp_path)


def test_record_when_it_is_lost_is_not_to_be_made_beside_the_results(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"no run\.json\): `i2vae run --out"):
        read_record(tmp_path)
    (tmp_path / "metrics.json").touch()
    with pytest.raises(LayoutError, match=r"no run\.json\): put it back, or run into another OUT"):
        read_record(tmp_path)
