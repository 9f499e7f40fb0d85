"""Exercises: tasks and solutions are what the instructor's page says; badges come with an address."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import link_notebooks  # noqa: E402
import make_exercises  # noqa: E402

LESSONS = make_exercises.lessons(make_exercises.TEACHING.read_text(encoding="utf-8"))


def sources(notebook: Any, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


@pytest.mark.parametrize("solved", [False, True], ids=["tasks", "solutions"])
@pytest.mark.parametrize("lesson", LESSONS, ids=[one.title for one in LESSONS])
def test_exercise_when_its_page_changes_is_made_anew(lesson: make_exercises.Lesson, solved: bool) -> None:
    written = nbformat.read(make_exercises.FOLDER / make_exercises.name(lesson, solved=solved), as_version=4)
    made = make_exercises.notebook(lesson, solved=solved)
    assert [(one.cell_type, one.source) for one in written.cells] == [(one.cell_type, one.source) for one in made.cells]


def test_tasks_give_no_answer_away() -> None:
    assert [one.number for one in LESSONS] == ["1", "2", "3"]
    for lesson in LESSONS:
        tasks, solutions = (make_exercises.notebook(lesson, solved=solved) for solved in (False, True))
        assert sources(tasks, "code") == [lesson.start, *["# your answer\n"] * len(lesson.exercises)]
        assert sources(solutions, "code") == [lesson.start, *(one.code for one in lesson.exercises)]
        assert len(lesson.exercises) >= 3 and all("assert " in one.code for one in lesson.exercises)
        assert all(one.task in sources(tasks, "markdown") for one in lesson.exercises)


def test_plan_of_a_session_fills_ninety_minutes() -> None:
    page = make_exercises.TEACHING.read_text(encoding="utf-8")
    parts = [(int(low), int(high)) for low, high in re.findall(r"^\| (\d+) to (\d+) \|", page, flags=re.MULTILINE)]
    assert parts[0][0] == 0 and parts[-1][1] == 90
    assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))


def test_links_of_notebooks_are_as_the_tool_writes_them() -> None:
    assert sorted(link_notebooks.CONTENTS) == [path.stem for path in sorted(link_notebooks.NOTEBOOKS.glob("*.ipynb"))]
    for stem in link_notebooks.CONTENTS:
        cells = nbformat.read(link_notebooks.NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells
        assert [cell.source for cell in cells if cell.id.startswith("nav-")] == [link_notebooks.beside(stem)] * 2
        title = link_notebooks.CONTENTS[stem][0]
        assert cells[0].source.splitlines()[0] == f"# {stem[:2]} {title}"


def test_badges_when_there_is_an_address() -> None:
    book = make_exercises.notebook(LESSONS[0], solved=False)
    before = [cell.id for cell in book.cells]
    link_notebooks.add_address(book, "exercises/lesson_1_tasks.ipynb", "someone/kit")
    badges, installing = book.cells[1:3]
    assert badges.source.count("someone/kit") == 2 and badges.source.count("exercises/lesson_1_tasks.ipynb") == 2
    assert "colab" in installing.metadata.tags and 'if "google.colab" in sys.modules' in installing.source
    nbformat.validate(book)
    link_notebooks.add_address(book, "exercises/lesson_1_tasks.ipynb", "")
    assert [cell.id for cell in book.cells] == before
    assert link_notebooks.ADDRESS or "badge" not in nbformat.writes(book)


def test_environment_when_repo2docker_reads_it_holds_the_kit() -> None:
    found = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = [one["pip"] for one in found["dependencies"] if isinstance(one, dict)]
    assert "-e ." in pip[0] and any(str(one).startswith("jupyterlab") for one in found["dependencies"])
    assert not (ROOT / "binder").exists() and not (ROOT / "Dockerfile").exists()  # either would be read in its place


def test_workflow_of_a_class_runs_in_forks_alone() -> None:
    found = yaml.safe_load((ROOT / ".github" / "workflows" / "class.yml").read_text(encoding="utf-8"))
    [job] = found["jobs"].values()
    assert job["if"] == "github.event.repository.fork"
    said = "\n".join(step.get("run", "") for step in job["steps"])
    assert "--nbval" in said and "papermill notebooks/03_training.ipynb" in said and "_solutions.ipynb" in said
