"""Files beside the library that have to agree with each other."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from i2vae_lib.data.kinds import KINDS
from i2vae_lib.evaluation import METRICS
from i2vae_lib.params import Parameters

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {"torch": "pytorch-cpu", "kaleido": "python-kaleido", "duckdb": "python-duckdb"}
NOT_ON_CONDA_FORGE = {"ir-measures"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))


@pytest.fixture(scope="module")
def direct(project: dict[str, Any]) -> dict[str, Requirement]:
    """Every direct dependency, optional ones included, by canonical name."""
    lists = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    found = [Requirement(one) for part in lists for one in part]
    return {canonicalize_name(one.name): one for one in found if one.name != project["project"]["name"]}


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs)
    return {str(canonicalize_name(name)): Version(version) for name, version in pairs}


def test_environment_when_compared_with_pyproject(project: dict[str, Any], direct: dict[str, Requirement]) -> None:
    content = yaml.safe_load(read("environment.yml"))
    assert content["channels"] == ["conda-forge", "nodefaults"]
    *conda, last = content["dependencies"]
    by_conda = {one.name: one.specifier for one in map(Requirement, conda)}
    assert len(by_conda) == len(conda) and by_conda.pop("python") == project["project"]["requires-python"]
    del by_conda["pip"]
    expected = {CONDA_NAMES.get(n, n): one.specifier for n, one in direct.items() if n not in NOT_ON_CONDA_FORGE}
    assert by_conda == expected
    *by_pip, kit = last["pip"]
    assert kit == "-e ."  # pip takes no other option on such a line
    assert {one.name: one.specifier for one in map(Requirement, by_pip)} == {
        name: direct[name].specifier for name in NOT_ON_CONDA_FORGE
    }


def test_dependencies_when_counted(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    assert len(project["project"]["dependencies"]) <= 12
    everything = re.search(r"\[(.*)\]", extras["all"][0])
    assert everything and {*everything[1].split(",")} == {*extras} - {"all", "dev", "docs"}


def test_constraints_when_compared_with_pyproject(direct: dict[str, Requirement], pins: dict[str, Version]) -> None:
    assert len(direct) >= 28
    for name, requirement in direct.items():
        assert name in pins, f"{name} is not pinned"
        assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} is outside {requirement}"


def test_constraints_when_read_for_cuda(pins: dict[str, Version]) -> None:
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "cupy", "triton", "pytorch-triton"))]
    assert pins["torch"].local is None  # the build is chosen by the index


def make_verbs() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))


def test_makefile_when_its_verbs_are_listed() -> None:
    phony = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert {verb for line in phony for verb in line.split()} == make_verbs()
    assert {"setup", "run", "test", "notebooks", "lab", "lint", "bench"} <= make_verbs()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/reproduction.md"])
def test_document_when_it_names_a_make_verb(name: str) -> None:
    if not (ROOT / name).is_file():
        pytest.skip(f"{name} is not written yet")
    phrases = re.findall(r"(?:^|`)make ([a-z][a-z -]*)", read(name), re.MULTILINE)
    assert {verb for phrase in phrases for verb in phrase.split()} <= make_verbs()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_document_when_it_names_a_preset_or_an_option(name: str) -> None:
    if not (ROOT / name).is_file():
        pytest.skip(f"{name} is not written yet")
    text = read(name)
    for preset in re.findall(r"PRESET=(\w+)", text) + re.findall(r"params/(\w+)\.yaml", text):
        assert (ROOT / "params" / f"{preset}.yaml").is_file(), preset
    variables = set(re.findall(r"^([A-Z_]+) \?=", read("Makefile"), re.MULTILINE))
    used = {
        word for line in re.findall(r"make \w+((?: [A-Z_]+=\S+)+)", text) for word in re.findall(r"([A-Z_]+)=", line)
    }
    assert used <= variables


def test_ci_when_read() -> None:
    lines = [line.strip() for line in read(".ci/run").splitlines()]
    assert {"make test", "make test-slow"} <= set(lines) and "set -euo pipefail" in lines
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"]).returncode == 0
    prerequisites = re.findall(r"^test: (.*)$", read("Makefile"), re.MULTILINE)
    assert prerequisites == ["lint types unit notebook-tests"]


def test_license_when_read(project: dict[str, Any]) -> None:
    text = read("LICENSE")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and len(text) == 11358
    assert project["project"]["license"] == "Apache-2.0" and project["project"]["license-files"] == ["LICENSE"]


def test_citation_when_read(project: dict[str, Any]) -> None:
    content = yaml.safe_load(read("CITATION.cff"))
    assert content["license"] == "Apache-2.0" and str(content["version"]) == project["project"]["version"]
    paper = content["preferred-citation"]
    assert paper["title"].startswith("i²VAE: Interest Information Augmentation with Variational Regularizers")
    assert [one["family-names"] for one in paper["authors"]] == ["Ning", "Xu", "Wei", "Liu"]
    assert paper["year"] == 2025 and "Uncertainty in Artificial Intelligence" in paper["collection-title"]


def test_wheel_when_its_contents_are_configured(project: dict[str, Any]) -> None:
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["i2vae_lib"]
    # where places and runs.committed_path look first
    assert wheel["force-include"] == {
        "params": "i2vae_lib/presets",
        "docs/results": "i2vae_lib/kept_tables",
        "notebooks": "i2vae_lib/lessons",
    }
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "results").iterdir()) < 2_000_000
    assert (ROOT / "params" / "paper.yaml").is_file()
    module, function = project["project"]["scripts"]["i2vae"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def tracked() -> list[Path]:
    """Text files that belong to the repository."""
    folders = ("i2vae_lib", "params", "tools", "tests", "docs", "notebooks", "benchmarks", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    kinds = {".py", ".md", ".yaml", ".yml", ".ipynb", ".json", ".csv", ".toml", ".txt", ".cfg", ".cff", ""}
    there = [path for path in [*ROOT.glob("*"), *inside] if path.name != ".git"]  # a file in a second work tree
    return [path for path in there if path.is_file() and path.suffix in kinds]


def test_files_when_read_for_paths_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/\w")
    found = [
        f"{path.relative_to(ROOT)}, line {number}"
        for path in tracked()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert len(tracked()) > 40 and found == []


def test_evaluation_page_when_words_are_those_of_the_code() -> None:
    page = read("docs/evaluation.md")
    for name in (*KINDS, *get_args(Parameters.model_fields["protocol"].annotation)):
        assert f"\n| `{name}` |" in page, name
    for measure in METRICS:
        assert measure in page
