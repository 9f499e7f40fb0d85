"""Help, a typo and lists cost no heavy import; every command's options are in its examples; lists say what there is."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import i2vae_lib
from i2vae_lib import cli, data, recommenders
from i2vae_lib.commands import listing, table
from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.params import Parameters, known_keys, load
from i2vae_lib.recommenders import CEILINGS, REFERENCES, REGISTRY, SYSTEMS
from i2vae_lib.runs import RUN_LAYOUT, write_record
from tests.helpers.disks import full_disk

ROOT = Path(i2vae_lib.__file__).parent.parent

# --- nothing heavy ----------------------------------------------------------------------------------------------------

LIGHT = [["--help"], ["--version"], ["rnu"], ["run", "--sed", "0"], ["run", "--help"], ["list"], ["list", "--json"]]
WATCHED = """
import contextlib, json, sys
before = set(sys.modules)
import i2vae_lib
alone = set(sys.modules) - before
from i2vae_lib import cli
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None), contextlib.suppress(SystemExit):
        cli.main(words)
print(json.dumps([sorted(alone), sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """The modules that the package alone imports, and those that it and :data:`LIGHT` import where there is no run."""
    words = [sys.executable, "-c", WATCHED, json.dumps(LIGHT)]
    env = os.environ | {"I2VAE_RUNS_DIR": str(tmp_path_factory.mktemp("runs"))}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    alone, everything = json.loads(done.stdout)
    return set(alone), set(everything)


def test_package_when_imported_imports_next_to_nothing(imported: tuple[set[str], set[str]]) -> None:
    outside = {name for name in imported[0] if name.split(".")[0] not in sys.stdlib_module_names}
    assert outside == {"i2vae_lib", "i2vae_lib.lazy"} and len(imported[0]) < 40


def test_commands_that_only_say_something_import_nothing_heavy(imported: tuple[set[str], set[str]]) -> None:
    roots = {name.split(".")[0] for name in imported[1]} - set(sys.stdlib_module_names)
    assert {name for name in roots if "cython" not in name} <= {"i2vae_lib", "yaml", "_yaml"}  # yaml is compiled
    assert not {f"i2vae_lib.{name}" for name in ("params", "runs", "stages", "data.dataset")} & imported[1]
    assert "i2vae_lib.commands.listing" in imported[1] and len(imported[1]) < 200


@pytest.mark.parametrize("package", [i2vae_lib, data, recommenders], ids=lambda one: one.__name__)
def test_package_when_a_name_is_used_has_it(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'no_such_name'"):
        _ = package.no_such_name
    assert i2vae_lib.stages is importlib.import_module("i2vae_lib.stages")
    assert i2vae_lib.load is load  # not a second one


def test_module_when_what_it_needs_is_missing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged" / "__init__.py").write_text(
        "from i2vae_lib.lazy import lazy_names\n__getattr__ = lazy_names(__name__, {})\n"
    )
    (tmp_path / "packaged" / "needy.py").write_text("import not_installed_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    packaged = importlib.import_module("packaged")
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        _ = packaged.needy


INTERRUPTED = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.modules.pop(sys.argv[1], None)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests with & has them ignore it
from i2vae_lib.__main__ import main
raise SystemExit(main(["run", "--preset", "smoke", "--out", sys.argv[2]]))
"""


@pytest.mark.parametrize("module", ["argparse", "i2vae_lib.commands.actions", "numpy", "torch", "i2vae_lib.stages"])
def test_command_when_interrupted_while_it_imports(module: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", INTERRUPTED, module, str(tmp_path / "run")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr and "interrupted" in done.stderr


@pytest.mark.parametrize("words", [["list"], ["list", "systems"]])  # more than a pipe takes at once, and less
def test_command_when_nobody_reads_on_ends_without_a_word(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "i2vae_lib", *words], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


BARE = """
import importlib, json, sys
hidden, modules = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(hidden))  # as if they were not installed
for name in modules:
    importlib.import_module(name)
"""
IMPORTED_AS = {"scikit-learn": "sklearn", "umap-learn": "umap", "pyyaml": "yaml"}


def test_library_when_only_its_own_dependencies_are_installed() -> None:
    """Everything but what is drawn in notebooks and on the page can be imported without the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    words = [word for extra, one in project["optional-dependencies"].items() if extra != "dev" for word in one]
    # without sphinx: SciPy reads documentation with it wherever its name is known
    names = {re.split(r"[\[<>=]", word)[0] for word in words} - {project["name"], "sphinx"}
    files = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "i2vae_lib").rglob("*.py"))
    drawn = ("page", "widgets", "live", "display", "__init__")
    modules = sorted(".".join(path.parts) for path in files if path.stem not in drawn)
    given = json.dumps([[IMPORTED_AS.get(name, name) for name in sorted(names)], modules])
    done = subprocess.run([sys.executable, "-c", BARE, given], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("missing", "words", "named"),
    [
        ("voila", ("explore", "R"), "the page needs voila: pip install voila"),
        ("psutil", ("explore", "R"), "the page needs psutil: pip install psutil"),
        ("optuna", ("search", "tuned", "--preset", "smoke", "--out", "S"), "a search needs optuna: pip install optuna"),
    ],
)
def test_command_when_what_it_needs_is_not_installed(
    missing: str,
    words: tuple[str, ...],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"i2vae {words[0]}: {named}\n"


# --- notebooks out of the package -------------------------------------------------------------------------------------


def test_notebooks_when_copied_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with full_disk(100_000):  # the first is larger
        assert cli.main(["notebooks", str(tmp_path / "lessons")]) == 2
    assert f"{tmp_path / 'lessons' / '00_tour.ipynb'} could not be written" in capsys.readouterr().err
    assert not list((tmp_path / "lessons").rglob("*.*"))
    (tmp_path / "lessons" / "00_tour.ipynb").write_bytes((ROOT / "notebooks" / "00_tour.ipynb").read_bytes())
    assert cli.main(["notebooks", str(tmp_path / "lessons")]) == 0
    copied = {path.name: path.read_bytes() for path in (tmp_path / "lessons").glob("*.ipynb")}
    assert copied == {path.name: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    capsys.readouterr()
    (tmp_path / "lessons" / "00_tour.ipynb").write_text("mine")
    assert cli.main(["notebooks", str(tmp_path / "lessons")]) == 2
    assert "has 00_tour.ipynb" in capsys.readouterr().err


# --- the table of commands --------------------------------------------------------------------------------------------


def stopped(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit status, output and errors of words that argparse deals with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        cli.main(words)
    said = capsys.readouterr()
    return int(error.value.code or 0), said.out, said.err


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_command_when_its_examples_are_parsed_they_show_every_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = cli.COMMANDS[name]
    shown = {word for example in command.examples for word in shlex.split(example)}
    for example in command.examples:
        kit, *words = shlex.split(example)
        assert kit == "i2vae" and cli.parse(words).command == name
    for flag, words in command.options:
        assert words["help"] and (flag in shown or not flag.startswith("-"))
    status, out, _ = stopped(capsys, name, "--help")
    assert status == 0 and all(example in out for example in command.examples)
    assert all(flag in out for flag, _ in command.options if flag.startswith("-"))


def test_command_when_mistyped_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = stopped(capsys, "rnu")
    assert status == 2 and err.endswith("i2vae: error: unknown command 'rnu'; did you mean 'run'?\n")
    status, _, err = stopped(capsys, "run", "--sede", "3")
    assert status == 2 and err.endswith("unrecognized arguments: --sede 3; did you mean '--seed'?\n")
    status, _, err = stopped(capsys, "report", "a", "b")
    assert status == 2 and err.endswith("unrecognized arguments: b\n")


def test_version_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped(capsys, "--version")[:2] == (0, f"i2vae-kit {version('i2vae-kit')}\n")


def test_choices_when_compared_with_the_library() -> None:
    assert table.HEADLINE == HEADLINE and data.DOMAINS == ("x", "y")


# --- the registry -----------------------------------------------------------------------------------------------------


def test_registry_when_classes_are_asked_for_they_have_its_names() -> None:
    for name, entry in REGISTRY.items():
        assert entry.kind.name == name
        assert getattr(recommenders, entry.kind.__name__) is entry.kind
        assert set(entry.groups) <= set(Parameters.model_fields)
    assert len({entry.title for entry in REGISTRY.values()}) == len(REGISTRY)
    assert sorted([*SYSTEMS, *REFERENCES, *CEILINGS]) == sorted(REGISTRY)
    with pytest.raises(KeyError):
        _ = SYSTEMS["popularity"]


# --- i2vae list -------------------------------------------------------------------------------------------------------


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert cli.main(["list", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_when_parameters_are_wanted_has_each_with_its_value_and_origin(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = listed(capsys, "parameters")["parameters"]
    content = yaml.safe_load((ROOT / "params" / "paper.yaml").read_text(encoding="utf-8"))
    assert {one["key"] for one in lines} == {*known_keys(), "data", "protocol", "seed", "epochs"} - {"training.epochs"}
    for one in lines:
        assert yaml.safe_load(one["value"]) == {**content, **content["overrides"]}[one["key"]]
        if "." in one["key"]:
            assert one["origin"].startswith(("[p]", "[c]", "[o]", "[k]"))


def test_list_when_names_are_wanted_has_what_other_commands_take(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    assert list(found) == list(listing.LISTS)
    for one in found["presets"]:
        p = load(one["preset"])
        assert (one["data"], one["protocol"], one["epochs"]) == (p.data, p.protocol, str(p.training.epochs))
    assert [one["system"] for one in found["systems"]] == list(REGISTRY)
    for one in found["pairs"]:
        assert one["data"] in ("synthetic", *data.registry.REGISTRY) or Path(one["data"]).is_file()
    capsys.readouterr()
    assert cli.main(["list", "systems"]) == 0
    header, *lines = capsys.readouterr().out.strip().splitlines()[2:]
    assert header.split() == ["system", "title", "family", "parameters"] and len(lines) == len(REGISTRY)


def test_list_when_there_are_runs_says_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("I2VAE_RUNS_DIR", str(tmp_path))
    assert listed(capsys, "runs") == {"runs": []}
    of = {"data": "there/pair.yaml", "protocol": "temporal", "system": "i2vae", "seed": 3}
    cells = ("mine/1", "mine/2", "sweep/cells/1", "sweep/cells/2", "sweep/cells/3")
    for name in ("a", "b", "c", "d", *cells, "empty/none"):
        (tmp_path / name).mkdir(parents=True)
        if not name.startswith("empty"):
            write_record(tmp_path / name, {"layout": RUN_LAYOUT - (name == "d"), "parameters": of})
    for name in ("b", "c", "mine/2", "sweep/cells/2"):
        (tmp_path / name / "metrics.json").write_text("{}")
    for name in ("c", "sweep/cells/3"):
        record = (tmp_path / name / "run.json").read_text()
        (tmp_path / name / "run.json").write_text(record.replace('"seed": 3', '"seed": 7'))
    lines = listed(capsys, "runs")["runs"]
    assert [(Path(one["run"]).name, one["data"], one["seed"], one["state"]) for one in lines] == [
        ("a", "pair", "3", "begun"),
        ("b", "pair", "3", "finished"),
        ("c", "", "", "run.json is damaged"),
        ("d", "", "", "made by another version of the kit"),
        ("mine", "", "", "1 of 2 runs finished"),
        ("sweep", "", "", "1 of 3 runs finished, 1 with a damaged run.json"),
    ]


def test_list_when_the_name_is_unknown_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "sytems"]) == 2
    assert "unknown list 'sytems'; did you mean 'systems'?" in capsys.readouterr().err
