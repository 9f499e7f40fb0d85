"""Widgets of the explorers that ipywidgets does not have: a figure that is never blank, and named radio buttons.

Both are anywidgets of a few lines of JavaScript. The figure hands plotly.js a whole figure each time
(``Plotly.react``), so that a view which opens early, late or twice shows what the kernel has now; plotly's own
``FigureWidget`` sends changes, and a view that misses one stays empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

_DRAW = """
function plotly(model) {  // once per page, whatever draws first
  globalThis.i2vaePlotly ??= (async () => {
    const library = await model.widget_manager.get_model(model.get("library").slice("IPY_MODEL_".length));
    const url = URL.createObjectURL(new Blob([library.get("source")], {type: "text/javascript"}));
    await import(url);
    URL.revokeObjectURL(url);
    return window.Plotly;
  })();
  return globalThis.i2vaePlotly;
}
function render({model, el}) {
  const frame = document.createElement("div");
  frame.setAttribute("role", "img");
  frame.textContent = "drawing …";
  el.append(frame);
  let last = Promise.resolve(), drawn = false, closed = false;
  const draw = async () => {
    const Plotly = await plotly(model);
    if (closed) return;
    const {data, layout} = JSON.parse(model.get("figure"));  // a copy: plotly.js writes into what it gets
    const font = {color: getComputedStyle(el).color};  // of the theme; the template's own would win
    layout.font = {...layout.font, ...font};
    layout.template.layout.font = {...layout.template.layout.font, ...font};
    layout.autosize = true;
    frame.setAttribute("aria-label", model.get("description"));
    if (!drawn) frame.textContent = "";
    drawn = true;
    await Plotly.react(frame, data, layout, {displaylogo: false});
  };
  const redraw = () => { last = last.then(draw).catch(error => { frame.textContent = `not drawn: ${error}`; }); };
  model.on("change:figure", redraw);
  const resized = new ResizeObserver(() => drawn && el.clientWidth && globalThis.Plotly.Plots.resize(frame));
  resized.observe(el);
  const themed = new MutationObserver(redraw);
  themed.observe(document.body, {attributes: true, attributeFilter: ["data-jp-theme-light"]});
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  redraw();
  return () => {
    closed = true;
    model.off("change:figure", redraw);
    resized.disconnect();
    themed.disconnect();
    dark.removeEventListener("change", redraw);
    if (drawn) globalThis.Plotly.purge(frame);
  };
}
export default {render};
"""

_CHOOSE = """
function render({model, el}) {
  const group = document.createElement("fieldset"), name = `choice-${Math.random()}`;
  group.innerHTML = "<legend></legend>";
  group.firstChild.textContent = model.get("description");
  const buttons = model.get("options").map(option => {
    const label = document.createElement("label"), button = document.createElement("input");
    Object.assign(button, {type: "radio", name, value: option});
    button.addEventListener("change", () => { model.set("value", option); model.save_changes(); });
    label.append(button, option);
    group.append(label);
    return button;
  });
  const show = () => buttons.forEach(one => { one.checked = one.value === model.get("value"); });
  model.on("change:value", show);
  show();
  el.append(group);
  return () => model.off("change:value", show);
}
export default {render};
"""


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

    _esm = _DRAW
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

    _esm = _CHOOSE
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
