"""What teaches: the glossary against the code, formulas beside their lines, questions with answers, lessons."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

import i2vae_lib
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import Rows
from i2vae_lib.model import objective
from i2vae_lib.model.i2vae import I2VAENetwork
from i2vae_lib.model.latents import kl, sample, standard_like
from i2vae_lib.params import load
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.runs import flatten

ROOT = Path(__file__).parent.parent
NOTATION = (ROOT / "docs" / "notation.md").read_text(encoding="utf-8")
TEACHING = ROOT / "docs" / "teaching.md"
MEMORY = 2 * 2**30  # what a lesson may take


def table(heading: str) -> list[list[str]]:
    """Lines of the Markdown table that begins with a heading, cell by cell."""
    start = NOTATION.index(heading)
    lines = NOTATION[start:].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


GLOSSARY = table("| symbol | meaning | code | shape |")
DEPARTURES = table("| parameter | the departure | code |")


def modules() -> list[Any]:
    found = pkgutil.walk_packages(i2vae_lib.__path__, "i2vae_lib.")
    return [importlib.import_module(one.name) for one in found if not one.name.endswith("explorers")]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return {name: value for module in modules() for name, value in vars(module).items()} | {"rows": Rows}


def resolves(name: str, names: dict[str, Any], model: I2VAENetwork) -> bool:
    """Whether a code name of the glossary is there: a parameter, a function or class, or an attribute of one."""
    name = re.sub(r'\["[xy]"\]$', "", name)
    if name in flatten(load("paper").model_dump()):
        return True
    top, _, attribute = name.partition(".")
    if top not in names:
        # a method by its name alone stands beside its class
        return not attribute and hasattr(I2VAENetwork, top)
    owner = names[top]
    fields = getattr(owner, "__dataclass_fields__", {})
    return (
        not attribute
        or hasattr(owner, attribute)
        or attribute in fields
        or (owner is I2VAENetwork and hasattr(model, attribute))
    )


@pytest.mark.parametrize("line", GLOSSARY, ids=[line[0] for line in GLOSSARY])
def test_glossary_when_its_names_are_looked_up(
    line: list[str], names: dict[str, Any], trained: I2VAERecommender
) -> None:
    found = re.findall("`([^`]+)`", line[2])
    assert found
    assert [name for name in found if not resolves(name, names, trained.model)] == []


@pytest.mark.parametrize("line", DEPARTURES, ids=[line[0] for line in DEPARTURES])
def test_departures_when_their_names_are_looked_up(
    line: list[str], names: dict[str, Any], trained: I2VAERecommender
) -> None:
    assert [name for name in re.findall("`([^`]+)`", line[2]) if not resolves(name, names, trained.model)] == []


def test_glossary_when_a_name_is_wrong(names: dict[str, Any], trained: I2VAERecommender) -> None:
    for name in ("Latents.specifc", "model.TT", "no_such_function", "I2VAENetwork.itemz"):
        assert not resolves(name, names, trained.model), name


def test_glossary_when_its_shapes_are_measured(dataset: CrossDomainDataset, trained: I2VAERecommender) -> None:
    rows = dataset.splits["test"]
    both = rows.take(rows.kinds()["overlapping"] & (rows.domain == 0))
    [(_, side, latents)] = trained.infer(both)
    model, q = trained.model, latents.specific
    every = torch.ones(len(both), dtype=torch.bool)
    z = model.draw(latents, None)
    interest = model.decode(z, "x")
    some = torch.ones(len(both), 3, dtype=torch.int64)
    states = model._states(model.real_encoder["x"], "x", side.own, None)[0]
    prior = model.prior["x"]()
    sizes = {"B": len(both), "d": trained.params.model.d, "n": dataset.catalogue.size("x"), "k": 3}
    measured: dict[str, tuple[Any, ...]] = {
        "Side.own": (side.own,),
        "Side.pseudo": (side.pseudo,),
        'I2VAENetwork.items["x"]': (model.items["x"].weight,),
        "SequenceEncoder.forward": (states,),
        "masked_mean": (states.mean(dim=1),),
        "Latents.specific": (q.mean, q.log_variance),
        "Latents.transferable": (latents.transferable.mean, latents.transferable.log_variance),
        "Latents.auxiliary": (latents.auxiliary.mean, latents.auxiliary.log_variance),
        "Latents.augmented": (latents.augmented.mean, latents.augmented.log_variance),
        "Prior": (prior.mean, prior.log_variance),
        "sample": (sample(q, torch.Generator().manual_seed(0)),),
        "I2VAENetwork.decode": (interest,),
        "I2VAENetwork.score": (model.score(interest, "x", some, side), model.score_all(interest, "x", side)),
        "kl": (kl(q, standard_like(q)),),
        "joint_information": (objective.joint_information(kl(q, q), every).value,),
        "disentangling": (objective.disentangling(q, prior, every).value,),
        "cross_domain": (objective.cross_domain(latents.transferable, latents.auxiliary, every).value,),
        "denoising": (objective.denoising(q, latents.augmented, torch.ones(len(both)), every).value,),
        "denoising_weight": (objective.denoising_weight(side.own_length, 10, 0.8, 0.8),),
    }
    looked_at = set()
    for symbol, _, code, shape in GLOSSARY:
        names = [name for name in re.findall("`([^`]+)`", code) if name in measured]
        if not names or not shape:
            continue
        tensors = measured[names[0]]
        said = [re.sub(r"\s", "", one).split(",") for one in re.findall(r"\[([^\]]+)\]", shape)]
        said = said * len(tensors) if shape.endswith("twice") else said
        assert len(said) == len(tensors), symbol
        for dimensions, tensor in zip(said, tensors, strict=True):
            assert len(dimensions) == tensor.dim(), (symbol, tuple(tensor.shape))
            for dimension, size in zip(dimensions, tensor.shape, strict=True):
                known = sizes.get(dimension.removesuffix("+1"))
                assert known is None or size == known + dimension.endswith("+1"), (symbol, tuple(tensor.shape))
        looked_at.add(names[0])
    assert looked_at == set(measured)


# --- notebooks that read as a lesson ----------------------------------------------------------------------------------


LESSONS = ("00_tour", "04_disentanglement", "12_explorers", "13_latents_in_detail")


@pytest.mark.parametrize("name", LESSONS)
def test_lesson_when_its_sections_end(name: str) -> None:
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    sections = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown").split("\n## ")[1:]
    for section in sections:
        title = section.splitlines()[0]
        if title == "Contents":
            continue
        assert section.count("<details><summary><b>Question.</b>") == section.count("</details>") == 1, title
        answer = section.split("</summary>")[1].split("</details>")[0]
        assert len(answer.split()) >= 10, title


# --- lessons whose solutions run --------------------------------------------------------------------------------------


def lessons() -> dict[str, list[str]]:
    """The solutions of the instructor's page, lesson by lesson, as they stand there."""
    parts = re.split(r"^## (Lesson \d)", TEACHING.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {title: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for title, text in zip(parts[::2], parts[1::2])}


MEASURED = """
import json, resource, sys
scope = {}
for part in json.load(sys.stdin):
    exec(compile(part, "solution", "exec"), scope)
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


@pytest.fixture(scope="module")
def runs_of_lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lessons 2 and 3 begin with one training: the second finds it done."""
    return tmp_path_factory.mktemp("lessons")


@pytest.mark.slow
@pytest.mark.xdist_group("lessons")
@pytest.mark.parametrize("title", ["Lesson 1", "Lesson 2", "Lesson 3"])
def test_lesson_when_its_solutions_run(title: str, runs_of_lessons: Path, tmp_path: Path) -> None:
    parts = lessons()[title]
    assert len(parts) >= 3 and all("assert " in part for part in parts[1:])
    environment = os.environ | {"I2VAE_RUNS_DIR": str(runs_of_lessons), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        input=json.dumps(parts),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < json.loads(done.stdout.splitlines()[-1])["peak"] < MEMORY
