"""Notebooks: conventions that reading can check, and papermill with other parameters (nbval runs beside this)."""

from __future__ import annotations

import ast
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import yaml
from nbclient import NotebookClient
from papermill.inspection import inspect_notebook  # type: ignore[import-untyped]

from i2vae_lib import notebooks
from i2vae_lib.experiments.grids import STUDY_NAMES
from i2vae_lib.notebooks import kernel_settings
from i2vae_lib.params import PRESET_NAMES, ParameterError, from_notebook
from tests.helpers.worlds import LONG

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
IGNORE = "nbval-ignore-output"
STUDIES = ("05_sensitivity", "07_ablation", "08_robustness")

# a preset of its own name, so that what is asserted for smoke and demo is not asserted of seconds of training
TINY = {
    "preset": "tiny",
    "data": "synthetic",
    "protocol": "chronological",
    "seed": 3,
    "epochs": 1,
    "out": None,
    "overrides": {
        "synthetic.users": 1200,
        "synthetic.items": 150,
        "evaluation.negatives": 49,
        "psg.epochs": 3,
        "psg.d": 8,
        "model.d": 8,
        "model.blocks": 1,
        "training.batch_size": 128,
    },
}


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def outputs(cell: Any) -> list[str]:
    return [mime for output in cell.outputs for mime in output.get("data", {})]


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def notebook(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_notebooks_are_numbered_from_the_tour() -> None:
    assert NAMES[:4] == ["00_tour", "01_data_preparation", "02_pseudo_sequences", "03_training"]
    assert all(re.fullmatch(r"\d\d_[a-z_]+", name) for name in NAMES)


def test_every_notebook_is_covered_by_strict_nbval() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    strict = re.search(r"--nbval(?!-).*?\n\n", recipe, re.DOTALL)
    assert strict is not None and " notebooks\n" in strict.group()  # the folder, so no list can miss one
    assert "--nbval-lax" not in recipe
    assert {path.parent.name for path in (ROOT / "notebooks").glob("*/*.ipynb")} <= {"exercises"}


def test_sanitize_patterns_are_all_read() -> None:
    text = (ROOT / "tests" / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    assert len(re.findall("^regex: (.*)$\n^replace: (.*)$", text, re.MULTILINE)) == text.count("regex:") == 1


def test_parameters_cell_declares_the_preset_names(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert tags(cells[0]) == ["parameters"]
    assert [tags(cell) for cell in cells[1:]].count(["parameters"]) == 0
    assert tuple(inspect_notebook(str(notebook))) == (STUDY_NAMES if notebook.stem in STUDIES else PRESET_NAMES)
    for line in ast.parse(cells[0].source).body:
        assert isinstance(line, ast.AnnAssign)
        ast.literal_eval(line.value)  # type: ignore[arg-type]  # a plain literal, nothing derived
    assert "from_notebook(globals())" in cells[1].source


def test_help_lists_type_default_and_help(notebook: Path) -> None:
    found = inspect_notebook(str(notebook))
    assert found["seed"]["inferred_type_name"] == "int" and found["seed"]["default"] == "0"
    assert all(one["help"] for one in found.values())


def test_committed_executed_from_one_to_n(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


def stored_names(cells: list[Any]) -> set[str]:
    """What code cells assign."""
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def test_no_cell_takes_a_parameters_name(notebook: Path) -> None:
    """Or the first two cells would not tell any more what was asked for."""
    assert not stored_names(code_cells(notebook)[1:]) & set(inspect_notebook(str(notebook)))


def test_first_two_cells_run_again_after_a_change() -> None:
    """Those of every notebook, in one kernel: twice among the variables of all later cells, then with another seed."""
    sources = []
    for path in NOTEBOOKS:
        declaring, asking, *later = code_cells(path)
        variables = "\n".join(f"{name} = [1]" for name in sorted(stored_names(later)))
        changed = re.sub(r"^seed: int = 0 ", "seed: int = 7 ", declaring.source, flags=re.MULTILINE)
        told = "study.cells[0].parameters" if path.stem in STUDIES else "P"
        once = [declaring.source, asking.source, f"assert {told}.seed == 0", variables]
        sources += [*once, *once, changed, asking.source, f"assert {told}.seed == 7", variables]
    sources += [
        declaring.source,
        "epoch = 3",
        "try:\n    from_notebook(globals())\nexcept ValueError as error:\n    print(error)",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    with kernel_settings() as config:
        done = NotebookClient(book, timeout=LONG, kernel_name="python3", config=config).execute()
    assert "unknown parameter 'epoch'; did you mean 'epochs'?" in done.cells[-1].outputs[0].text


def test_size_and_stored_figures(notebook: Path) -> None:
    assert notebook.stat().st_size < 500_000
    assert "widgets" not in nbformat.read(notebook, as_version=4).metadata
    figures = [cell for cell in code_cells(notebook) if "application/vnd.plotly.v1+json" in outputs(cell)]
    assert (notebook.stem != "06_comparison") <= len(figures) <= 4  # 06 compares in tables
    assert all("image/png" in outputs(cell) and IGNORE in tags(cell) for cell in figures)


def test_notebooks_hold_no_logic(notebook: Path) -> None:
    for cell in code_cells(notebook):
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
        assert not re.search(r"\b(Output|interact|clear_output)\(", cell.source)


def test_claims_are_asserted(notebook: Path) -> None:
    asserts = sum(
        isinstance(node, ast.Assert) for cell in code_cells(notebook) for node in ast.walk(ast.parse(cell.source))
    )
    assert asserts >= 3


def test_strictly_compared_cells_exist(notebook: Path) -> None:
    strict = [cell for cell in code_cells(notebook) if cell.outputs and IGNORE not in tags(cell)]
    assert len(strict) >= 3


def test_no_machine_path_is_stored(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert not re.search(r"(/home/|/root/|/work/|/tmp/|[A-Z]:\\\\Users)", text)


def execute(notebook: Path, folder: Path, **parameters: Any) -> Any:
    preset = folder / "tiny.yaml"
    preset.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    given = TINY | {"preset": str(preset), "out": str(folder / "run"), "overrides": {}} | parameters
    return run(notebook, folder, given)


def run(notebook: Path, folder: Path, parameters: dict[str, Any]) -> Any:
    with kernel_settings() as config:
        return papermill.execute_notebook(
            notebook,
            folder / "executed.ipynb",
            parameters=parameters,
            kernel_name="python3",
            execution_timeout=LONG,
            progress_bar=False,
            cwd=str(folder),
            config=config,
        )


@pytest.mark.slow
@pytest.mark.parametrize("temporary", ["t", "t" * 100])
def test_kernels_take_no_port(tmp_path: Path, temporary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that start kernels at once have taken each other's ports; a file's path has its limit."""
    (tmp_path / temporary).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / temporary))
    source = tmp_path / "asks.ipynb"
    cell = nbformat.v4.new_code_cell("get_ipython().kernel.parent.transport")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), source)
    done = run(source, tmp_path, {})
    assert done.cells[0].outputs[0].data["text/plain"] == ("'tcp'" if os.name == "nt" else "'ipc'")


def twice(notebook: Path, folder: Path) -> Path:
    """A copy that runs everything below the parameters once more, as "Run All" in a kernel that has run it."""
    book = nbformat.read(notebook, as_version=4)
    at = next(i for i, cell in enumerate(book.cells) if "parameters" in tags(cell))
    book.cells += [nbformat.v4.new_code_cell(cell.source) for cell in book.cells[at + 1 :] if cell.cell_type == "code"]
    nbformat.write(book, folder / notebook.name)
    return folder / notebook.name


@pytest.mark.slow
def test_papermill_runs_with_other_parameters_and_again(notebook: Path, tmp_path: Path) -> None:
    execute(twice(notebook, tmp_path), tmp_path)
    if notebook.stem in STUDIES:
        assert len(list(tmp_path.glob("run/cells/*/run.json"))) >= 3
    else:
        assert (tmp_path / "run" / "run.json").is_file()


@pytest.mark.slow
def test_papermill_runs_a_notebook_from_a_preset_file(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8"))
    assert tuple(values) == PRESET_NAMES
    # a string, as papermill -r passes it
    given = values | {"out": str(tmp_path / "run"), "seed": "7"}
    done = run(ROOT / "notebooks" / "01_data_preparation.ipynb", tmp_path, given)
    assert done.metadata.papermill.exception is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epoch": 3}, "unknown parameter 'epoch'; did you mean 'epochs'"),
        ({"seed": "seven"}, "'seed'"),
        ({"protocol": "stric"}, "'protocol'"),
        ({"overrides": {"model.dd": 3}}, "did you mean 'model.d'"),
    ],
)
def test_unknown_or_mistyped_parameter_is_an_error(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        from_notebook(TINY | {"preset": "smoke", "overrides": {}} | wrong)
    assert message in str(caught.value)


@pytest.mark.slow
def test_run_when_a_lesson_fails_keeps_its_copy_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = nbformat.v4.new_code_cell("out: str = None", metadata={"tags": ["parameters"]})
    for name, line in (("a", "assert out is None, 'too short a run'"), ("b", "import numpy; print(out)")):
        cells = [parameters, nbformat.v4.new_code_cell(line)]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(notebooks, "notebooks_folder", lambda: tmp_path)
    (tmp_path / "numpy.py").write_text("raise RuntimeError('what lies in the working directory was executed')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "notebooks").mkdir(parents=True)
    (tmp_path / "run" / "notebooks" / "a.html").write_text("of an earlier call")
    said: list[str] = []
    pages = notebooks.execute_notebooks(tmp_path / "run", {"out": "here"}, ("a", "b"), said.append)
    assert pages == [tmp_path / "run" / "notebooks" / "b.html"] and "here" in pages[0].read_text(encoding="utf-8")
    copy = tmp_path / "run" / "notebooks" / "a.ipynb"
    assert [line for line in said if "failed" in line] == [
        f"a notebook failed: {copy}: AssertionError: too short a run"
    ]
    assert "too short a run" in copy.read_text(encoding="utf-8") and not copy.with_suffix(".html").exists()


@pytest.mark.slow
def test_papermill_says_an_unknown_parameter(tmp_path: Path) -> None:
    """Papermill injects any name and only logs it; the notebook stops."""
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        execute(ROOT / "notebooks" / "01_data_preparation.ipynb", tmp_path, epoch=3)
    assert "unknown parameter 'epoch'; did you mean 'epochs'" in caught.value.evalue


@pytest.mark.slow
def test_training_notebook_runs_on_a_released_pair(released_folder: Path, tmp_path: Path) -> None:
    small = {"psg.kind": "random", "model.d": 8, "model.blocks": 1, "model.cross_heads": 1, "training.batch_size": 1024}
    small |= {"references.neighbours": [0], "references.shrinkage": [50.0]}
    small |= {"references.ease_lambda": [300.0], "references.ease_limit": 2000}  # neighbourhoods: seconds
    os.environ.setdefault("I2VAE_DATA_DIR", str(released_folder))
    execute(
        ROOT / "notebooks" / "03_training.ipynb",
        tmp_path,
        preset="paper",
        data="cloth_sport",
        protocol="strict",
        overrides=small,
    )
    assert (tmp_path / "run" / "metrics.json").is_file()
