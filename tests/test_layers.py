"""Imports point one way, training cannot reach a test row, and nothing executes what it reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import i2vae_lib

LIBRARY = Path(i2vae_lib.__file__).parent
# each imports only what stands above it, and its own line; a new module needs a place here
LAYERS: list[tuple[str, ...]] = [
    ("lazy", "places", "yaml_files", "parameter_groups"),
    ("params", "progress", "processes"),
    ("runs",),
    ("sample",),
    ("cache",),
    ("data",),
    ("evaluation", "paper"),
    ("generators",),
    ("model",),
    ("training",),
    ("recommenders",),
    ("labels",),
    ("audit", "disentanglement"),
    ("shared",),
    ("stages",),
    ("experiments",),
    ("results",),
    ("figures",),
    ("notebooks", "report", "explorers", "export"),
    ("api",),
    ("commands",),
    ("cli",),
    ("__main__",),
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path != LIBRARY / "__init__.py")


def layer_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(LIBRARY))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever in it: ``from a import b`` gives ``a.b``."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{one.name}" for one in node.names)


def layers_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("i2vae_lib.")}


def dotted(node: ast.AST) -> str:
    """``np.random.seed`` of an attribute chain that starts with a name; "" otherwise."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (start := dotted(node.value)):
        return f"{start}.{node.attr}"
    return ""


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, object]]]:
    """Every call by its dotted name, with its keywords (values only of constants)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), {k.arg: getattr(k.value, "value", "computed") for k in node.keywords if k.arg}


def test_modules_when_listed() -> None:
    assert {layer_of(path) for path in MODULES} == set(DEPTH)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_when_a_module_is_read(path: Path) -> None:
    own = layer_of(path)
    for name in layers_imported(path) - {own}:
        assert DEPTH[name] < DEPTH[own], f"{name_of(path)} imports {name}, which stands below it"


def test_imports_when_the_lowest_layers_are_read() -> None:
    found = {name: layers_imported(LIBRARY / f"{name}.py") for name in ("progress", "params", "runs")}
    assert found == {
        "progress": set(),
        "params": {"parameter_groups", "places", "yaml_files"},
        "runs": {"params", "places", "processes"},
    }
    data = set().union(*(layers_imported(path) for path in (LIBRARY / "data").rglob("*.py")))
    assert data <= {"data", "parameter_groups", "params", "runs", "progress", "places", "lazy", "cache", "yaml_files"}


def test_imports_when_they_point_the_wrong_way(tmp_path: Path) -> None:
    # the reader of imports sees those inside functions too
    module = tmp_path / "training.py"
    module.write_text("def f():\n    from i2vae_lib import stages\n    import i2vae_lib.cli\n")
    assert layers_imported(module) == {"stages", "cli"}


SHELTERED = [path for path in MODULES if layer_of(path) in ("training", "recommenders", "generators", "model")]


@pytest.mark.parametrize("path", SHELTERED, ids=name_of)
def test_training_side_when_it_is_read_for_the_test_split(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        assert not (isinstance(node, ast.Constant) and node.value == "test")
        assert not (isinstance(node, ast.Attribute) and node.attr in ("splits", "test"))
        assert not (isinstance(node, ast.Name) and node.id in ("SPLITS", "splits", "load_dataset"))
    assert not {name.split(".")[-1] for name in imported(path)} & {"SPLITS", "load_dataset", "load_released"}
    assert not layers_imported(path) & {"stages", "audit", "cli", "report"}


def test_recommenders_when_they_name_a_dataset() -> None:
    # a dataset holds the test split; only the ceilings, which fit nothing, read its truth
    found = {path.name for path in SHELTERED if any(name.endswith(".CrossDomainDataset") for name in imported(path))}
    assert found == {"ceilings.py"}


EXECUTING = {"eval", "exec", "compile", "__import__", "os.system", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


@pytest.mark.parametrize("path", [*MODULES, LIBRARY / "__init__.py"], ids=name_of)
def test_module_when_it_is_read_for_what_executes_input(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for name, words in calls(parsed(path)):
        of_safe_loader = name == "yaml.load" and path.name == "yaml_files.py"  # its own class of yaml.SafeLoader
        assert name not in EXECUTING or of_safe_loader, f"{name} in {path.name}"
        assert not name.endswith(("read_pickle", "to_pickle"))
        assert words.get("shell") is not True
        if name == "torch.load":
            assert words.get("weights_only") is True
        assert words.get("allow_pickle", False) is False


@pytest.mark.parametrize("path", [*MODULES, LIBRARY / "__init__.py"], ids=name_of)
def test_module_when_it_is_read_for_global_randomness(path: Path) -> None:
    allowed = {"default_rng", "Generator", "Philox", "SeedSequence"}
    assert not {name.split(".")[0] for name in imported(path)} & {"random"}
    for node in ast.walk(parsed(path)):
        name = dotted(node)
        assert not (name.startswith("torch.") and "seed" in name), name
        if name.startswith(("np.random.", "numpy.random.")):
            assert name.split(".")[2] in allowed, name
    for name, words in calls(parsed(path)):
        drawing = name in ("torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.bernoulli")
        if drawing or name.endswith((".normal_", ".uniform_", ".bernoulli_", ".xavier_uniform_")):
            assert "generator" in words, f"{name} in {path.name}"


def test_readers_when_given_bad_code() -> None:
    # the readers above see what they are to see
    names = [
        name
        for name, _ in calls(ast.parse("import os\nos.system('x')\nmodel.eval()\neval('1')\nyaml.load(s)\nf().load(s)"))
    ]
    assert names == ["os.system", "model.eval", "eval", "yaml.load", "", "f"]
    [(name, words)] = calls(ast.parse("torch.load(path, weights_only=False)"))
    assert name == "torch.load" and words["weights_only"] is False
    assert dotted(ast.parse("np.random.seed(0)").body[0].value.func) == "np.random.seed"  # type: ignore[attr-defined]
    assert dotted(ast.parse("torch.Generator().manual_seed(0)").body[0].value.func) == ""  # type: ignore[attr-defined]


def test_library_when_its_map_is_read() -> None:
    # the table in the docstring names every module, in the order of the layers
    table = [line for line in (i2vae_lib.__doc__ or "").splitlines() if line.startswith("``")]
    named = [word.strip("`,") for line in table for word in line.split("  ")[0].split()]
    assert set(named) == set(DEPTH) and len(named) == len(DEPTH)
    depths = [DEPTH[name] for name in named]
    assert depths == sorted(depths)
