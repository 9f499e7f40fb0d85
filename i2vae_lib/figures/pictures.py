"""Pictures as static SVG: a few kilobytes, no browser, no script, legible on light and dark pages.

For ``report.html``, README and the documentation. Notebooks and explorers draw with :mod:`i2vae_lib.figures.plots`.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

# Okabe and Ito's colours, darkened to a contrast of 3:1 on white; each has that on black as well
_LINES = ("#0072B2", "#C77800", "#008A63", "#BB5A95", "#3A8FBF", "#D55E00")

_LETTER = 7.8  # width of a letter of 14 pixels, with room to spare

_STYLE = (
    ".kit{max-width:100%;height:auto}"
    ".kit text{font:14px system-ui,sans-serif;fill:#1f2328}.kit .quiet{fill:#59636e}.kit .axis{stroke:#8c959f}"
    ".kit .released,.kit .below{fill:#bc4c00}.kit .log,.kit .above{fill:#0969da}.kit .level{fill:#59636e}"
    ".kit .below-line{stroke:#bc4c00}.kit .above-line{stroke:#0969da}.kit .level-line{stroke:#59636e}"
    "@media screen and (prefers-color-scheme:dark){.kit text{fill:#f0f6fc}.kit .quiet{fill:#9198a1}"
    ".kit .released,.kit .below{fill:#f0883e}.kit .log,.kit .above{fill:#58a6ff}.kit .level{fill:#9198a1}"
    ".kit .below-line{stroke:#f0883e}.kit .above-line{stroke:#58a6ff}.kit .level-line{stroke:#9198a1}}"
)


class Interval(NamedTuple):
    """A line of :func:`forest`: a value with its interval (nan: none), and what stands to the right of it."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="kit" {size} role="img" aria-label="{escape(title)}">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{" " * bool(more)}{more}>{escape(words)}</text>'


def bars(title: str, lines: Sequence[tuple[str, float, str, str]]) -> str:
    """Horizontal bars from top to bottom.

    Parameters
    ----------
    lines
        Label, value from 0 to 1, what stands behind the bar, and its class in :data:`_STYLE`.
    """
    left, wide, high, top = 210, 380, 26, 44
    largest = max(value for _, value, _, _ in lines)
    parts = [_text(0, 18, title)]
    for at, (label, value, note, kind) in enumerate(lines):
        y, length = top + at * high, max(1.5, wide * value / largest)
        parts.append(_text(left - 8, y + 14, label, 'text-anchor="end"'))
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" height="18" rx="2"/>')
        parts.append(_text(left + length + 8, y + 14, note, 'class="quiet"'))
    return _svg(title, 760, top + len(lines) * high, parts)


def forest(title: str, axis: str, lines: Sequence[Interval]) -> str:
    """A forest plot: each value with its interval on a common axis, coloured by the side of 0 that the interval is on.

    Parameters
    ----------
    axis
        What the horizontal axis shows, with its unit.
    """
    left = 24 + _LETTER * max(len(one.label) for one in lines)
    right = 24 + _LETTER * max(len(one.note) for one in lines)
    wide, high, top = 320, 28, 44
    bottom = top + len(lines) * high
    ends = [number for one in lines for number in (one.value, one.low, one.high) if math.isfinite(number)]
    ticks = _ticks(min([0.0, *ends]), max([0.0, *ends]))
    first, last = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return left + wide * (value - first) / (last - first)

    parts = [_text(0, 18, title)]
    for tick in ticks:
        dash = "" if tick == 0 else ' stroke-dasharray="2 4" stroke-opacity="0.6"'
        parts.append(f'<path class="axis" d="M{x(tick):.1f} {top - 8}V{bottom}"{dash}/>')
        parts.append(_text(x(tick), bottom + 18, f"{tick:+g}" if tick else "0", 'text-anchor="middle" class="quiet"'))
    parts.append(_text(left + wide / 2, bottom + 40, axis, 'text-anchor="middle" class="quiet"'))
    for at, one in enumerate(lines):
        y = top + at * high + 10
        kind = "above" if one.low > 0 else "below" if one.high < 0 else "level"
        parts.append(_text(left - 12, y + 5, one.label, 'text-anchor="end"'))
        if math.isfinite(one.low):
            span = f"M{x(one.low):.1f} {y}H{x(one.high):.1f}"
            parts.append(f'<path class="{kind}-line" stroke-width="2.5" d="{span}"/>')
        if math.isfinite(one.value):
            parts.append(f'<circle class="{kind}" cx="{x(one.value):.1f}" cy="{y}" r="5"/>')
        parts.append(_text(left + wide + 14, y + 5, one.note, 'class="quiet"'))
    return _svg(title, max(left + wide + right, _LETTER * len(title)), bottom + 50, parts)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover a range, which is widened to one where it is empty."""
    low, high = (low, high) if high > low else (low - 1.0, low + 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


# panel (what its vertical axis shows) -> line -> its x and y
Panels = Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]


def training_panels(history: pd.DataFrame) -> Panels:
    """What a training has to show over its epochs: reconstruction, the KLs, active units, validation.

    A system that is trained in stages, each of which counts its epochs from one, has a line for each of them.
    """
    kinds = {
        "reconstruction (nats per row)": "reconstruction/",
        "KL of each latent (nats per row)": "kl/",
        "active units": "active/",
        "validation NDCG@10": "ndcg@10",
    }
    parts = {"": history}
    if "stage" in history:
        parts = {f", stage {stage:.0f}": part for stage, part in history.groupby("stage")}
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for panel, prefix in kinds.items():
        for name in (str(column) for column in history if str(column).startswith(prefix)):
            for which, part in parts.items():
                line = part[["epoch", name]].dropna()
                if len(line):
                    panels.setdefault(panel, {})[f"{name}{which}"] = (line["epoch"].tolist(), line[name].tolist())
    return panels


def curves(title: str, x_axis: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """One panel: a line for each name, its x and y over a common axis, and the names below."""
    wide, high, names_across = 430, 190, 3
    left, top, right = 46, 28, wide - 18
    xs, ys = (np.concatenate([np.asarray(line[i], dtype=float) for line in lines.values()]) for i in (0, 1))
    known = ys[np.isfinite(ys)] if np.isfinite(ys).any() else np.zeros(1)
    ticks = _ticks(min(0.0, known.min()), known.max(), 4)
    begin, end = float(xs.min()), max(float(xs.max()), float(xs.min()) + 1)

    def across_to(x: float) -> float:
        return left + (right - left) * (x - begin) / (end - begin)

    def up_to(y: float) -> float:
        return high - (high - top) * (y - ticks[0]) / (ticks[-1] - ticks[0])

    parts = [_text(left, 16, title)]
    for tick in ticks:
        parts.append(f'<path class="axis" stroke-opacity="0.35" d="M{left} {up_to(tick):.1f}H{right}"/>')
        parts.append(_text(left - 6, up_to(tick) + 5, f"{tick:g}", 'text-anchor="end" class="quiet"'))
    for side, anchor in ((begin, "start"), (end, "end")):
        parts.append(_text(across_to(side), high + 18, f"{side:.4g}", f'text-anchor="{anchor}" class="quiet"'))
    parts.append(_text((left + right) / 2, high + 18, x_axis, 'text-anchor="middle" class="quiet"'))
    for at, (name, (x_values, y_values)) in enumerate(lines.items()):
        known_points = [(x, y) for x, y in zip(x_values, y_values) if math.isfinite(y)]
        points = " ".join(f"{across_to(x):.1f} {up_to(y):.1f}" for x, y in known_points)
        colour, dash = _LINES[at % len(_LINES)], ' stroke-dasharray="6 3"' if at >= len(_LINES) else ""
        look = f'stroke="{colour}" stroke-width="2"{dash}'
        parts.append(f'<polyline fill="none" {look} points="{points}"/>')
        if len(known_points) == 1:  # which a line does not show
            parts.append(f'<path {look} d="M{points}m-3 0h6m-3 -3v6"/>')
        column, row = left + (at % names_across) * (right - left) / names_across, high + 42 + 18 * (at // names_across)
        parts.append(f'<path {look} d="M{column:.1f} {row - 5}h18"/>')
        parts.append(_text(column + 23, row, name, 'class="quiet"'))
    return _svg(title, wide, high + 42 + 18 * -(-len(lines) // names_across), parts)


def model_picture() -> str:
    """The model as a picture, after Figure 2 of the paper: from two histories to scores in either domain.

    The boxes have light fills and dark letters of their own, so that it can be read on any background.
    """
    return Path(__file__).with_name("model.svg").read_text(encoding="utf-8")
