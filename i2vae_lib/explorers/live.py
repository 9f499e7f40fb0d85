"""Widgets of the explorers that ipywidgets does not have: a figure that is never blank, and named radio buttons.

Both are anywidgets (``live_figure.js``, ``live_choice.js``). The figure hands plotly.js a whole figure each time
(``Plotly.react``), so that a view which opens early, late or twice shows what the kernel has now; plotly's own
``FigureWidget`` sends changes, and a view that misses one stays empty.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs


class _Library(anywidget.AnyWidget):
    """plotly.js: five megabytes that all figures of a kernel share."""

    _esm = "export default {};"
    source = traitlets.Unicode().tag(sync=True)


@cache
def _library() -> _Library:
    return _Library(source=get_plotlyjs())


class LiveFigure(anywidget.AnyWidget):
    """A plotly figure on a page, redrawn as a whole when :meth:`draw` gives it another one.

    Text takes the colour of the page's theme. The figure as Python has it is ``shown``.

    Parameters
    ----------
    figure
        What it shows first.
    """

    _esm = Path(__file__).with_name("live_figure.js").read_text(encoding="utf-8")
    library = traitlets.Instance(widgets.Widget).tag(sync=True, **widgets.widget_serialization)
    figure = traitlets.Unicode().tag(sync=True)
    description = traitlets.Unicode().tag(sync=True)

    def __init__(self, figure: go.Figure):
        super().__init__(library=_library(), **_state(figure))
        self.shown = figure

    def draw(self, figure: go.Figure) -> None:
        """Show another figure in every view."""
        self.shown = figure
        with self.hold_sync():
            for name, value in _state(figure).items():
                setattr(self, name, value)

    @property
    def data(self) -> tuple[Any, ...]:
        """The traces of the figure that is shown."""
        return tuple(self.shown.data)


def _state(figure: go.Figure) -> dict[str, str]:
    """A figure for the browser, and in words for a screen reader."""
    names = ", ".join(dict.fromkeys(str(one.name) for one in figure.data if one.name))
    title = figure.layout.title.text or "an empty figure"
    return {"figure": str(figure.to_json()), "description": f"{title}: {names}" if names else title}


class RadioButtons(anywidget.AnyWidget):
    """One of a few words. The browser's own radio buttons in a fieldset: a screen reader reads name and state.

    Parameters
    ----------
    description
        Name of the group.
    options
        What can be chosen; the first one is.
    """

    _esm = Path(__file__).with_name("live_choice.js").read_text(encoding="utf-8")
    _css = """
    fieldset { border: 1px solid rgba(127, 127, 127, 0.5); border-radius: 4px; color: inherit; margin: 0; }
    fieldset label { padding-right: 0.8rem; white-space: nowrap; }
    """
    description = traitlets.Unicode().tag(sync=True)
    options = traitlets.List(traitlets.Unicode()).tag(sync=True)
    value = traitlets.Unicode().tag(sync=True)

    def __init__(self, description: str, options: Sequence[str]):
        super().__init__(description=description, options=list(options), value=options[0])

    @traitlets.validate("value")
    def _known(self, proposal: Any) -> str:
        if proposal["value"] not in self.options:
            raise traitlets.TraitError(
                f"{self.description}: {proposal['value']!r} is none of {', '.join(self.options)}"
            )
        return str(proposal["value"])
