"""Write notebooks/exercises/: for each lesson of docs/teaching.md its tasks, and the same with solutions.

    python tools/make_exercises.py

docs/teaching.md is the only source: a lesson starts everybody with a block of code, and an exercise is a paragraph
with its number, and a folded solution below it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import link_notebooks
import nbformat

ROOT = Path(__file__).parent.parent
TEACHING = ROOT / "docs" / "teaching.md"
FOLDER = ROOT / "notebooks" / "exercises"
PYTHON = re.compile(r"```python\n(.*?)\n```", re.DOTALL)


class Exercise(NamedTuple):
    """A task in Markdown, its solution's code, and what is said after it."""

    task: str
    code: str
    said: str


class Lesson(NamedTuple):
    """One lesson of the instructor's page."""

    number: str
    title: str
    aim: str
    start: str
    exercises: list[Exercise]


def lessons(page: str) -> list[Lesson]:
    """The lessons of the instructor's page."""
    parts = re.split(r"^## Lesson (\d) (.*)$", page, flags=re.MULTILINE)[1:]
    found = []
    for number, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        head, *rest = re.split(rf"^(?=\*\*{number}\.\d\*\*)", body, flags=re.MULTILINE)
        start = PYTHON.search(head)
        assert start is not None, title
        found.append(Lesson(number, title, head[: start.start()].strip(), start[1], [_exercise(one) for one in rest]))
    return found


def _exercise(part: str) -> Exercise:
    task, _, solution = part.partition("<details><summary>Solution</summary>")
    solution = solution.partition("</details>")[0]
    code = PYTHON.search(solution)
    assert code is not None, task
    return Exercise(task.strip(), code[1], solution[code.end() :].strip())


def notebook(lesson: Lesson, *, solved: bool) -> Any:
    """One lesson as a notebook, with an empty cell or with the solution below each task."""
    other = name(lesson, solved=not solved)
    links = f"[{'tasks' if solved else 'solutions'}]({other}) · [contents](../00_tour.ipynb#Contents)"
    head = f"# Lesson {lesson.number}: {lesson.title}\n\n{links}\n\n{lesson.aim}"
    cells = [nbformat.v4.new_markdown_cell(head), nbformat.v4.new_code_cell(lesson.start)]
    for one in lesson.exercises:
        cells.append(nbformat.v4.new_markdown_cell(one.task))
        cells.append(nbformat.v4.new_code_cell(one.code if solved else "# your answer\n"))
        if solved and one.said:
            cells.append(nbformat.v4.new_markdown_cell(one.said))
    for at, cell in enumerate(cells):
        cell["id"] = f"lesson-{lesson.number}-{at}"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book = nbformat.v4.new_notebook(cells=cells, metadata=kernel | {"language_info": {"name": "python"}})
    link_notebooks.add_address(book, f"exercises/{name(lesson, solved=solved)}")
    return book


def name(lesson: Lesson, *, solved: bool) -> str:
    """The file's name."""
    return f"lesson_{lesson.number}_{'solutions' if solved else 'tasks'}.ipynb"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for lesson in lessons(TEACHING.read_text(encoding="utf-8")):
        for solved in (False, True):
            nbformat.write(notebook(lesson, solved=solved), FOLDER / name(lesson, solved=solved))
            print(FOLDER / name(lesson, solved=solved))


if __name__ == "__main__":
    main()
