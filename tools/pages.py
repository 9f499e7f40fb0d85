"""Tables that README, docs/performance.md and docs/reproduction.md show of the committed results: each between its
marker and the next blank line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from i2vae_lib.runs import write_atomically

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *(ROOT / "docs" / name for name in ("performance.md", "reproduction.md")))


def fill(page: str, marker: str, table: str) -> str:
    """A page with what stands after ``<!-- MARKER -->`` written anew; unchanged where it has no such marker."""
    pattern = rf"(<!-- {re.escape(marker)} -->\n)(?:[^\n]+\n)*(\n)"
    return re.sub(pattern, lambda found: f"{found[1]}{table}\n{found[2]}", page)


def table(columns: Sequence[str], align: str, lines: Iterable[Sequence[str]]) -> str:
    """A table as Markdown; ``align`` has a letter for each column: l or r."""
    rule = "".join({"l": "---|", "r": "---:|"}[one] for one in align)
    head, *rest = (f"| {' | '.join(line)} |" for line in (columns, *lines))
    return "\n".join([head, f"|{rule}", *rest])


def rewrite(filled: Callable[[str], str]) -> None:
    """Every page through a function of its text."""
    for path in PAGES:
        text = filled(path.read_text(encoding="utf-8"))
        write_atomically(path, lambda part, text=text: part.write_text(text, encoding="utf-8"))
