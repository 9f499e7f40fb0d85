"""How figures look: a system and a latent have one colour in every figure of the kit (labels: ``labels.py``).

Colours differ from white and from a dark page by at least 3:1, and figures have no background of their own, so that
they fit light and dark themes.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from i2vae_lib.labels import AFTER, LATENT
from i2vae_lib.recommenders.registry import REGISTRY

# Okabe and Ito's colours, which colour-blind readers can tell apart, the bright ones darkened to 3:1 on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#B87F00", "#CC79A7", "#3A92C4", "#9467BD", "#8F8400", "#797979", "#A0623A")

SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "pentagon")
_PATTERNS = ("", "/", "x", ".")  # beside the colours, for readers who cannot tell them apart and for print in black

GREY, GRID = "#797979", "rgba(127, 127, 127, 0.3)"
_AXIS = {"gridcolor": GRID, "linecolor": GRID, "zerolinecolor": GRID, "automargin": True}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"color": GREY},
        "colorway": PALETTE,
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)

# an axis of values spans at least this share of the largest of them: what hardly moves is drawn as level
_LEAST_SHARE = 0.05

_FIRST = ["i2vae", *(name for name, one in REGISTRY.items() if one.family in ("reference", "ceiling"))]
_SYSTEMS = {name: place for place, name in enumerate(dict.fromkeys([*_FIRST, *REGISTRY]))}
_TITLES = {one.title: name for name, one in REGISTRY.items()}


def look(name: str, place: int) -> dict[str, Any]:
    """Colour, symbol, dash and bar pattern of a name.

    Parameters
    ----------
    name
        A system (key or title) and a latent (``x``, ``t_y``, ``kl/a_x``) look alike in every figure: the colour of a
        latent is its role's, its dash its domain's.
    place
        Where any other name stands in its figure, from 0.
    """
    if latent := LATENT.fullmatch(name):
        place = ("", "t_", "a_").index(latent[2] or "")
        return {**_nth(place), "dash": "solid" if latent[3] == "x" else "dash"}
    plain = name.removesuffix(AFTER)
    own = _nth(_SYSTEMS.get(_TITLES.get(plain, plain), place))
    return own if plain == name else {**own, "symbol": f"{own['symbol']}-open", "dash": "dot"}


def _nth(place: int) -> dict[str, Any]:
    turn, colour = divmod(place, len(PALETTE))
    return {
        "color": PALETTE[colour],
        "symbol": SYMBOLS[(colour + turn) % len(SYMBOLS)],
        "dash": ("solid", "dash", "dot", "dashdot")[turn % 4],
        "pattern": _PATTERNS[turn % len(_PATTERNS)],
    }


def line(name: str, place: int, size: int = 6) -> dict[str, Any]:
    """Marker and line of a named curve."""
    own = look(name, place)
    return {
        "marker": {"color": own["color"], "symbol": own["symbol"], "size": size},
        "line": {"color": own["color"], "dash": own["dash"]},
    }


def bar(name: str, place: int) -> dict[str, Any]:
    own = look(name, place)
    return {"color": own["color"], "pattern": {"shape": own["pattern"]}}


def rounded(values: Any) -> np.ndarray[Any, Any]:
    """Values to four significant digits: noise of the last bits is not drawn as a change. nan stays."""
    found = np.asarray(values, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = np.where(found == 0, 0, 3 - np.floor(np.log10(np.abs(found))))
    finite = np.isfinite(found)
    scale = 10.0 ** np.where(finite, digits, 0)
    return np.where(finite, np.round(found * scale) / scale, found)


def least_range(values: Any) -> list[float] | None:
    """The range of an axis whose values lie closer together than :data:`_LEAST_SHARE`; None: plotly chooses."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    low, high = float(found.min()), float(found.max())
    least = _LEAST_SHARE * max(abs(low), abs(high)) or 1.0
    return None if high - low >= least else [(low + high - least) / 2, (low + high + least) / 2]
