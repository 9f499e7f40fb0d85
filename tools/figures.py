"""Figures of README, drawn from docs/results as SVG: a few kilobytes, no browser, readable on light and dark pages.

python tools/figures.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import pandas as pd

from i2vae_lib.runs import committed_path, write_atomically

FOLDER = Path(__file__).parent.parent / "docs" / "figures"
STYLE = (
    "text{font:14px sans-serif;fill:#1f2328}.quiet{fill:#59636e}.released{fill:#bc4c00}.log{fill:#0969da}"
    "@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.quiet{fill:#9198a1}.released{fill:#f0883e}.log{fill:#58a6ff}}"
)


def bars(title: str, lines: list[tuple[str, float, str, str]]) -> str:
    """Horizontal bars: (label, value from 0 to 1, what is written behind the bar, class) from top to bottom."""
    left, wide, high, top = 210, 380, 26, 44
    largest = max(value for _, value, _, _ in lines)
    parts = [f'<text x="0" y="18">{escape(title)}</text>']
    for at, (label, value, said, kind) in enumerate(lines):
        y, length = top + at * high, max(1.5, wide * value / largest)
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" height="18" rx="2"/>')
        parts.append(f'<text class="quiet" x="{left + length + 8:.1f}" y="{y + 14}">{escape(said)}</text>')
    size = f'width="760" height="{top + len(lines) * high}" viewBox="0 0 760 {top + len(lines) * high}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def item_order(table: pd.DataFrame) -> str:
    """Of the pairs of items that two or more people took: how often in the order that fewer of them had."""
    lines = [
        (f"{one.pair}, {one.domain}", one.share, f"{one.share:.1%} of {one.observations:,}", one.source)
        for one in table.itertuples()
    ]
    return bars("Two people took the same two items: how often in the other order?", lines)


FIGURES = {"item_order": item_order}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        text = draw(pd.read_csv(committed_path(name)))
        write_atomically(FOLDER / f"{name}.svg", lambda part, text=text: part.write_text(text, encoding="utf-8"))
        print(FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()
