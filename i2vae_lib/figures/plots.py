"""Tidy table -> plotly figure. Nothing is computed here; every figure stands under the table that it draws.

Colours are those of :mod:`.figures.looks`, labels those of :mod:`i2vae_lib.labels`. Every figure refuses a table
without lines (ValueError).
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from i2vae_lib.figures import looks
from i2vae_lib.figures.pictures import training_panels
from i2vae_lib.labels import label, latent
from i2vae_lib.results.text import as_csv
from i2vae_lib.runs import write_atomically

_DOTTED = {"width": 1, "dash": "dot", "color": looks.GREY}


def _figure(title: str, *tables: pd.DataFrame, height: int = 360) -> go.Figure:
    """A figure that waits for what is drawn of these tables."""
    if any(table.empty for table in tables):
        raise ValueError(f"{title}: nothing to draw, the table has no line")
    return go.Figure().update_layout(
        title=title,
        height=height,
        template=looks.TEMPLATE,
        margin={"l": 60, "r": 60, "t": 60, "b": 50},
        legend={"orientation": "h", "y": -0.25},
    )


def _panels(figure: go.Figure, titles: Sequence[str], columns: int, **words: Any) -> list[dict[str, int]]:
    """Divide a figure into panels, so many in a line; the place of each."""
    figure.set_subplots(rows=-(-len(titles) // columns), cols=columns, subplot_titles=titles, **words)
    return [{"row": number // columns + 1, "col": number % columns + 1} for number in range(len(titles))]


def _one_legend(figure: go.Figure) -> go.Figure:
    """Show each name once, for all of its traces."""
    names = [trace.name for trace in figure.data]
    for at, trace in enumerate(figure.data):
        trace.update(legendgroup=trace.name, showlegend=names.index(trace.name) == at)
    return figure


def _different(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of the table."""
    return list(dict.fromkeys(values))


def bars(table: pd.DataFrame, x: str, y: str, colour: str, title: str, y_title: str | None = None) -> go.Figure:
    """Grouped bars: a group for each value of ``x``, in it a bar for each value of ``colour``."""
    figure = _figure(title, table).update_layout(barmode="group", xaxis_title=label(x), yaxis_title=y_title or label(y))
    # the names below may be long, and turn: the legend stands above
    figure.update_layout(margin={"t": 90}, legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"})
    naming = latent if x == "latent" else label
    for i, (name, part) in enumerate(table.groupby(colour, sort=False)):
        figure.add_bar(
            x=part[x].astype(str).map(naming),
            y=looks.rounded(part[y]),
            name=label(str(name)),
            marker=looks.bar(str(name), i),
        )
    return figure


def lines(
    table: pd.DataFrame,
    x: str,
    columns: Sequence[str],
    title: str,
    y_title: str,
    *,
    log_y: bool = False,
    log_x: bool = False,
) -> go.Figure:
    """A line over ``x`` for each of ``columns``."""
    parts = [table[[x]].assign(curve=name, value=table[name]) for name in columns]
    figure = series(pd.concat(parts), x, "value", "curve", title, y_title)
    if log_y:
        figure.update_yaxes(type="log", range=None)
    return figure.update_xaxes(type="log") if log_x else figure


def series(table: pd.DataFrame, x: str, y: str, colour: str, title: str, y_title: str) -> go.Figure:
    """A line for each value of ``colour``; what has no value is left out."""
    figure = _figure(title, table).update_layout(xaxis_title=label(x), yaxis_title=y_title, showlegend=True)
    for i, (name, part) in enumerate(table.dropna(subset=[y]).groupby(colour, sort=False)):
        figure.add_scatter(
            x=part[x],
            y=looks.rounded(part[y]),
            name=label(str(name)),
            mode="lines+markers" if len(part) < 40 else "lines",
            **looks.line(str(name), i),
        )
    return figure.update_yaxes(range=looks.least_range(table[y]))


def pair(lengths: pd.DataFrame, popularity: pd.DataFrame, title: str) -> go.Figure:
    """How long histories are (``history, length, rows``) beside how popular items are (``domain, rank, users``)."""
    figure = _figure(title, lengths, popularity).update_layout(barmode="group")
    left, right = _panels(figure, ["rows by length of history", "users by rank of item"], 2)
    for i, (name, part) in enumerate(lengths.groupby("history", sort=False)):
        own = looks.bar(str(name), i)
        figure.add_bar(x=part["length"], y=part["rows"], name=f"{name} history", marker=own, **left)
    for i, (name, part) in enumerate(popularity.groupby("domain", sort=False)):
        curve = looks.line(str(name), 2 + i)
        figure.add_scatter(x=part["rank"], y=part["users"], name=str(name), mode="lines+markers", **curve, **right)
    figure.update_xaxes(title_text="length (items)", type="category", col=1)
    figure.update_xaxes(title_text="rank of the item", type="log", col=2)
    return figure.update_yaxes(title_text="rows", col=1).update_yaxes(title_text="users", type="log", col=2)


def surface(table: pd.DataFrame, x: str, y: str, title: str) -> go.Figure:
    """``value`` (per cent) over two axes as shades and numbers; a place without a value is left empty.

    Both axes are categories: values of a grid are seldom evenly spaced, and some are words.
    """
    figure = _figure(title, table)
    wide = table.pivot(index=y, columns=x, values="value").sort_index()
    shown = [[None if pd.isna(one) else float(one) for one in line] for line in wide.to_numpy()]  # JSON has no nan
    figure.add_heatmap(
        x=[str(one) for one in wide.columns],
        y=[str(one) for one in wide.index],
        z=shown,
        text=[["" if one is None else f"{one:.2f}" for one in line] for line in shown],
        texttemplate="%{text}",
        hovertemplate=f"{label(x)} %{{x}}, {label(y)} %{{y}}: %{{z:.2f}}<extra></extra>",
        colorscale="Cividis",
        colorbar={"title": "per cent"},
    )
    across = label(y).replace(" (", "<br>(")  # the axis is short, and the key of a parameter long
    return figure.update_xaxes(title_text=label(x), type="category").update_yaxes(title_text=across, type="category")


def training_curves(history: pd.DataFrame) -> go.Figure:
    """:func:`i2vae_lib.figures.pictures.training_panels` of a history, over epochs."""
    figure = _figure("Training", history, height=620)
    panels = training_panels(history)
    places = _panels(figure, [*panels, *[""] * (4 - len(panels))], 2, vertical_spacing=0.16)
    for place, (panel, lines) in zip(places, panels.items()):
        for i, (name, (x, y)) in enumerate(lines.items()):
            plain, _, stage = name.partition(", ")
            look, shown = looks.line(plain, i, 4), label(plain) + f", {stage}" * bool(stage)
            hover = f"{shown}: %{{y:.4g}}<extra></extra>"
            figure.add_scatter(
                x=x, y=looks.rounded(y), name=shown, legendgroup=panel, hovertemplate=hover, **look, **place
            )
        figure.update_yaxes(range=looks.least_range([value for _, y in lines.values() for value in y]), **place)
    figure.update_xaxes(title_text="epoch", row=-(-len(panels) // 2))  # above, it would cover a panel's title
    return figure.update_layout(legend={"orientation": "h", "y": -0.12}, hovermode="x")


def results(table: pd.DataFrame, title: str) -> go.Figure:
    """Result table (domain, kind, n, one column a recommender) as two panels of grouped bars, in per cent."""
    figure = _figure(title, table, height=420).update_layout(barmode="group", legend={"orientation": "h", "y": -0.45})
    domains = _different(table["domain"])
    recommenders = [c for c in table.columns if c not in ("domain", "kind", "n")]
    for place, d in zip(_panels(figure, domains, len(domains), shared_yaxes=True), domains):
        part = table[table["domain"] == d]
        labels = [f"{label(kind)} (n={n})" for kind, n in zip(part["kind"], part["n"], strict=True)]
        for i, name in enumerate(recommenders):
            figure.add_bar(x=labels, y=part[name], name=label(name), marker=looks.bar(name, i), **place)
    return _one_legend(figure).update_yaxes(title_text="per cent", col=1)


def _around(part: pd.DataFrame, value: str, low: str, high: str) -> dict[str, Any]:
    """The error bars of values that lie in their intervals."""
    above, below = (part[high] - part[value]).clip(lower=0), (part[value] - part[low]).clip(lower=0)
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _beside(i: int, count: int, width: float) -> float:
    """Where the i-th of several markers stands that share a place of that width."""
    return width * ((i + 0.5) / count - 0.5)


def _markers(table: pd.DataFrame, x: str, y: str, low: str, high: str, title: str) -> go.Figure:
    """A panel for each domain: a marker with its interval for each value of ``x`` and each system, side by side."""
    figure = _figure(title, table)
    domains, systems, groups = (_different(table[key]) for key in ("domain", "system", x))
    places = _panels(figure, domains, min(2, len(domains)), shared_yaxes=True, vertical_spacing=0.2)
    for place, d in zip(places, domains):
        for i, name in enumerate(systems):
            part = table[(table["domain"] == d) & (table["system"] == name)]
            aside = 0.0 if x == "system" else _beside(i, len(systems), 0.7)
            figure.add_scatter(
                x=[groups.index(group) + aside for group in part[x]],
                y=part[y],
                error_y=_around(part, y, low, high),
                name=label(str(name)),
                mode="markers",
                marker=looks.line(str(name), i, 8)["marker"],
                hovertemplate=f"{label(str(name))}: %{{y:.2f}}<extra></extra>",
                **place,
            )
    _one_legend(figure).add_hline(y=0, line=_DOTTED)
    shown = [label(str(one)) for one in groups]
    figure.update_xaxes(tickvals=list(range(len(groups))), ticktext=shown, range=[-0.5, len(groups) - 0.5])
    figure.update_yaxes(title_text="points", col=1)
    return figure.update_layout(height=120 + 300 * places[-1]["row"])


def intervals(table: pd.DataFrame, title: str) -> go.Figure:
    """Differences of systems with their intervals: ``domain, system, difference, interval_low, interval_high``."""
    return _markers(table, "system", "difference", "interval_low", "interval_high", title)


def worth(table: pd.DataFrame, title: str, unit: str = "points") -> go.Figure:
    """What leaks are worth: ``domain, leak, system, worth, low, high``, in this unit."""
    return _markers(table, "leak", "worth", "low", "high", title).update_yaxes(title_text=unit, col=1)


def differences(table: pd.DataFrame, title: str) -> go.Figure:
    """Differences with their intervals, a line per system, a colour per domain: columns as for :func:`intervals`.

    For systems with long names, which stand on the left; ``runs``, if it is there, is shown where the pointer is.
    """
    figure = _figure(title, table)
    systems, domains = _different(table["system"]), _different(table["domain"])
    for i, d in enumerate(domains):
        part = table[table["domain"] == d]
        figure.add_scatter(
            x=part["difference"],
            y=[systems.index(name) + _beside(i, len(domains), 0.5) for name in part["system"]],
            error_x=_around(part, "difference", "interval_low", "interval_high"),
            customdata=part[["system", "runs"]] if "runs" in part else part[["system"]],
            name=str(d),
            mode="markers",
            marker=looks.line(str(d), i, 8)["marker"],
            hovertemplate="%{customdata[0]}: %{x:.2f}" + "<br>%{customdata[1]}" * ("runs" in part) + "<extra></extra>",
        )
    figure.add_vline(x=0, line=_DOTTED)
    shown = [label(str(one)) for one in systems]
    figure.update_yaxes(tickvals=list(range(len(systems))), ticktext=shown, range=[len(systems) - 0.5, -0.5])
    figure.update_xaxes(title_text="points")
    margin, legend = {"l": 280, "r": 40, "t": 90, "b": 50}, {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    return figure.update_layout(height=160 + 34 * len(systems), margin=margin, legend=legend)


def systems(table: pd.DataFrame, title: str) -> go.Figure:
    """Many systems less one of them: a line of panels for each domain, a panel for each kind, a dot for each system.

    Parameters
    ----------
    table
        ``domain, kind, title, family, difference, interval_low, interval_high, best`` (marked by a ring), in the order
        of the lines from top to bottom: that of the first kind of a domain.
    """
    figure = _figure(title, table)
    domains, kinds, families = (_different(table[key]) for key in ("domain", "kind", "family"))
    cells = [(d, kind) for d in domains for kind in kinds]
    size = {cell: len(part) for cell, part in table.groupby(["domain", "kind"])}
    most = max(size.values())
    drawn = len(domains) * (60 + 18 * most)  # between the margins
    titles = [f"{d}, {label(kind)}" for d, kind in cells]
    places = _panels(figure, titles, len(kinds), vertical_spacing=60 / drawn)
    for place, (d, kind) in zip(places, cells):
        lines = _different(table.loc[table["domain"] == d, "title"])
        here = table[(table["domain"] == d) & (table["kind"] == kind)]
        here = here.assign(line=here["title"].map(lines.index))
        for i, family in enumerate(families):
            part = here[here["family"] == family]
            figure.add_scatter(
                x=part["difference"],
                y=part["line"],
                error_x=_around(part, "difference", "interval_low", "interval_high") | {"thickness": 1, "width": 0},
                customdata=part[["title"]],
                name=family or "i2VAE",
                mode="markers",
                marker=looks.line(family or "i2vae", i + 1, 7)["marker"],
                hovertemplate="%{customdata[0]}: %{x:.2f}<extra></extra>",
                **place,
            )
        ring = {"symbol": "circle-open", "size": 14, "color": looks.GREY, "line": {"width": 2}}
        best = here[here["best"]]
        words = {"name": "best reference", "mode": "markers", "hoverinfo": "skip"}
        figure.add_scatter(x=best["difference"], y=best["line"], marker=ring, **words, **place)
        ticks = {"tickvals": list(range(len(lines))), "range": [most - 0.5, -0.5]}
        figure.update_yaxes(**ticks, ticktext=lines, showticklabels=place["col"] == 1, **place)
    _one_legend(figure).add_vline(x=0, line=_DOTTED)
    figure.update_xaxes(title_text="points", row=places[-1]["row"])
    legend = {"orientation": "h", "x": 0, "y": -60 / drawn, "yanchor": "top"}
    return figure.update_layout(height=190 + drawn, margin={"l": 150, "r": 20, "t": 80, "b": 110}, legend=legend)


def curves(table: pd.DataFrame, x: str, colour: str, title: str) -> go.Figure:
    """A value over an axis: a panel for each metric and domain, a line with its band for each value of ``colour``.

    Parameters
    ----------
    table
        ``metric, domain``, ``x``, ``colour``; ``mean, low, high`` in per cent (nan: no interval), ``seeds, runs``.
        Lines without a domain are places that have no value yet: they are drawn as missing.
    """
    figure = _figure(title, table)
    done, missing = table.dropna(subset=["domain"]), table[table["domain"].isna()]
    metrics, domains, names = (_different(done[key]) for key in ("metric", "domain", colour))
    cells = [(metric, domain) for metric in metrics for domain in domains]
    titles = [f"{domain}: {metric}" for metric, domain in cells] or ["nothing is done yet"]
    places = _panels(figure, titles, max(1, len(domains)), vertical_spacing=0.14)
    for place, (metric, domain) in zip(places, cells):
        here = done[(done["metric"] == metric) & (done["domain"] == domain)]
        for i, name in enumerate(names):
            part = here[here[colour] == name].sort_values(x)
            band = part.dropna(subset=["low", "high"])
            figure.add_scatter(
                x=part[x],
                y=looks.rounded(part["mean"]),
                name=label(str(name)),
                mode="lines+markers",
                **looks.line(str(name), i, 8),
                customdata=part[["runs"]],
                hovertemplate=f"{label(str(name))}, {x} %{{x}}: %{{y:.2f}}<br>%{{customdata[0]}}<extra></extra>",
                **place,
            )
            figure.add_scatter(
                x=[*band[x], *band[x][::-1]],
                y=[*band["high"], *band["low"][::-1]],
                name=label(str(name)),
                fill="toself",
                fillcolor=looks.look(str(name), i)["color"],
                opacity=0.18,
                line={"width": 0},
                hoverinfo="skip",
                **place,
            )
        figure.update_yaxes(range=looks.least_range(here[["mean", "low", "high"]]), **place)
        for gap in _different(missing[x].dropna()):
            # not add_vline, whose annotation cannot stand on an axis of words
            figure.add_shape(type="line", x0=gap, x1=gap, y0=0, y1=1, yref="y domain", line=_DOTTED, **place)
            word = {"x": gap, "y": 0, "yref": "y domain", "yanchor": "bottom", "xanchor": "left"}
            text = {"text": "missing", "textangle": -90, "font": {"size": 9}, "showarrow": False}
            figure.add_annotation(**word, **text, **place)
    _one_legend(figure).update_xaxes(title_text=label(x), row=places[-1]["row"])
    figure.update_yaxes(title_text="per cent", col=1)
    return figure.update_layout(height=140 + 260 * places[-1]["row"], legend={"orientation": "h", "y": -0.14})


def latent_map(table: pd.DataFrame, colour: str, title: str) -> go.Figure:
    """Two principal components, a panel for each latent: ``latent, first, second`` and ``colour``, which colours."""
    figure = _figure(title, table, height=420)
    latents, names = _different(table["latent"]), _different(table[colour])
    for place, role in zip(_panels(figure, latents, len(latents)), latents):
        for i, name in enumerate(names):
            part = table[(table["latent"] == role) & (table[colour] == name)]
            if part.empty:
                continue
            turn, hue = divmod(i, len(looks.PALETTE))
            figure.add_scatter(
                x=part["first"].astype("float32"),
                y=part["second"].astype("float32"),
                name=str(name),
                mode="markers",
                marker={"color": looks.PALETTE[hue], "symbol": looks.SYMBOLS[turn], "size": 4, "opacity": 0.7},
                hovertemplate=f"{colour} {name}<extra></extra>",
                **place,
            )
    _one_legend(figure).update_yaxes(title_text="second component", col=1)
    return figure.update_xaxes(title_text="first component")


def write_figures(drawn: Mapping[str, tuple[go.Figure, pd.DataFrame]], folder: Path) -> list[Path]:
    """Figures as files: each one's table as CSV, a page that opens offline, and an image where a Chromium is installed.

    Parameters
    ----------
    drawn
        Name -> figure and table.

    Returns
    -------
    list of Path
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, images = [], []
    for name, (figure, table) in drawn.items():
        csv, page, image = (folder / f"{name}.{kind}" for kind in ("csv", "html", "png"))
        write_atomically(csv, functools.partial(as_csv, table))
        write_atomically(page, functools.partial(figure.write_html, include_plotlyjs=True))
        written += [csv, page]
        size = {"format": "png", "width": 1000, "height": figure.layout.height or 500, "scale": 2}
        images.append({"fig": figure, "path": image, "opts": size})
    try:
        import kaleido
    except ImportError:  # an extra
        return written
    try:
        # one browser for all of them; Figure.write_image() would start one each, and ask a network for MathJax
        kaleido.write_fig_from_object_sync(images, kopts={"mathjax": False}, cancel_on_error=True)
    except (RuntimeError, ValueError):  # no browser for it
        return written
    return [*written, *(one["path"] for one in images)]
