"""Tidy table -> plotly figure. Nothing is computed here; every figure stands under the table that it draws.

Colours and labels are those of :mod:`i2vae_lib.looks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from i2vae_lib import looks
from i2vae_lib.pictures import training_panels
from i2vae_lib.results.text import as_csv


def _require_lines(table: pd.DataFrame, title: str) -> None:
    """Refuse an empty table.

    Raises
    ------
    ValueError
    """
    if table.empty:
        raise ValueError(f"{title}: nothing to draw, the table has no line")


def _layout(figure: go.Figure, title: str, height: int = 360) -> go.Figure:
    return figure.update_layout(
        title=title,
        height=height,
        template=looks.TEMPLATE,
        margin={"l": 60, "r": 60, "t": 60, "b": 50},
        legend={"orientation": "h", "y": -0.25},
    )


def bars(table: pd.DataFrame, x: str, y: str, colour: str, title: str, y_title: str | None = None) -> go.Figure:
    """Grouped bars: a group for each value of ``x``, in it a bar for each value of ``colour``.

    This and the other figures of this module raise a ValueError on a table without lines.
    """
    _require_lines(table, title)
    figure = go.Figure()
    for i, (name, part) in enumerate(table.groupby(colour, sort=False)):
        figure.add_bar(
            x=part[x].astype(str), y=looks.rounded(part[y]), name=looks.label(str(name)), marker=looks.bar(str(name), i)
        )
    return _layout(figure, title).update_layout(barmode="group", xaxis_title=x, yaxis_title=y_title or y)


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
    _require_lines(table, title)
    figure = go.Figure()
    mode = "lines+markers" if len(table) < 40 else "lines"
    for i, name in enumerate(columns):
        figure.add_scatter(
            x=table[x], y=looks.rounded(table[name]), name=looks.label(name), mode=mode, **looks.line(name, i)
        )
    figure.update_layout(xaxis_title=x, yaxis_title=y_title)
    if log_y:
        figure.update_yaxes(type="log")
    else:
        figure.update_yaxes(range=looks.least_range(table[list(columns)]))
    if log_x:
        figure.update_xaxes(type="log")
    return _layout(figure, title)


def series(
    table: pd.DataFrame,
    x: str,
    y: str,
    colour: str,
    title: str,
    y_title: str,
) -> go.Figure:
    """A line for each value of ``colour``; what has no value is left out."""
    _require_lines(table, title)
    figure = go.Figure()
    for i, (name, part) in enumerate(table.dropna(subset=[y]).groupby(colour, sort=False)):
        own = looks.line(str(name), i)
        figure.add_scatter(
            x=part[x], y=looks.rounded(part[y]), name=looks.label(str(name)), mode="lines+markers", **own
        )
    figure.update_layout(xaxis_title=x, yaxis_title=y_title, showlegend=True)
    figure.update_yaxes(range=looks.least_range(table[y]))
    return _layout(figure, title)


def pair(lengths: pd.DataFrame, popularity: pd.DataFrame, title: str) -> go.Figure:
    """How long histories are (``history, length, rows``) beside how popular items are (``domain, rank, users``)."""
    _require_lines(lengths, title)
    _require_lines(popularity, title)
    figure = make_subplots(rows=1, cols=2, subplot_titles=["rows by length of history", "users by rank of item"])
    for i, (name, part) in enumerate(lengths.groupby("history", sort=False)):
        own = looks.bar(str(name), i)
        figure.add_bar(x=part["length"], y=part["rows"], name=f"{name} history", marker=own, row=1, col=1)
    for i, (name, part) in enumerate(popularity.groupby("domain", sort=False)):
        curve = looks.line(str(name), 2 + i)
        figure.add_scatter(x=part["rank"], y=part["users"], name=str(name), mode="lines+markers", **curve, row=1, col=2)
    figure.update_xaxes(title_text="length (items)", type="category", col=1)
    figure.update_xaxes(title_text="rank of the item", type="log", col=2)
    figure.update_yaxes(title_text="rows", col=1).update_yaxes(title_text="users", type="log", col=2)
    return _layout(figure, title).update_layout(barmode="group")


def surface(table: pd.DataFrame, x: str, y: str, title: str) -> go.Figure:
    """``value`` (per cent) over two axes as shades and numbers; a place without a value is left empty.

    Both axes are categories: values of a grid are seldom evenly spaced, and some are words.
    """
    _require_lines(table, title)
    wide = table.pivot(index=y, columns=x, values="value").sort_index()
    shown = [[None if pd.isna(one) else float(one) for one in line] for line in wide.to_numpy()]  # JSON has no nan
    figure = go.Figure()
    figure.add_heatmap(
        x=[str(one) for one in wide.columns],
        y=[str(one) for one in wide.index],
        z=shown,
        text=[["" if one is None else f"{one:.2f}" for one in line] for line in shown],
        texttemplate="%{text}",
        hovertemplate=f"{x} %{{x}}, {y} %{{y}}: %{{z:.2f}}<extra></extra>",
        colorscale="Cividis",
        colorbar={"title": "per cent"},
    )
    figure.update_xaxes(title_text=x, type="category").update_yaxes(title_text=y, type="category")
    return _layout(figure, title)


def training_curves(history: pd.DataFrame) -> go.Figure:
    """:func:`i2vae_lib.pictures.training_panels` of a history, over epochs."""
    _require_lines(history, "Training")
    panels = training_panels(history)
    figure = make_subplots(rows=2, cols=2, subplot_titles=list(panels), vertical_spacing=0.16)
    for number, (panel, lines) in enumerate(panels.items()):
        for i, (name, (x, y)) in enumerate(lines.items()):
            figure.add_scatter(
                x=x,
                y=looks.rounded(y),
                name=name,
                legendgroup=panel,
                **looks.line(name.split(",")[0], i, 4),
                hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>",
                row=number // 2 + 1,
                col=number % 2 + 1,
            )
        level = looks.least_range([value for _, y in lines.values() for value in y])
        figure.update_yaxes(range=level, row=number // 2 + 1, col=number % 2 + 1)
    figure.update_xaxes(title_text="epoch")
    return _layout(figure, "Training", 620).update_layout(legend={"orientation": "h", "y": -0.12}, hovermode="x")


def results(table: pd.DataFrame, title: str) -> go.Figure:
    """Result table (domain, kind, n, one column a recommender) as two panels of grouped bars, in per cent."""
    _require_lines(table, title)
    domains = list(dict.fromkeys(table["domain"]))
    recommenders = [c for c in table.columns if c not in ("domain", "kind", "n")]
    figure = make_subplots(rows=1, cols=len(domains), subplot_titles=domains, shared_yaxes=True)
    for column, d in enumerate(domains, start=1):
        part = table[table["domain"] == d]
        labels = [f"{kind} (n={n})" for kind, n in zip(part["kind"], part["n"], strict=True)]
        for i, name in enumerate(recommenders):
            figure.add_bar(
                x=labels,
                y=part[name],
                name=looks.label(name),
                legendgroup=name,
                showlegend=column == 1,
                marker=looks.bar(name, i),
                row=1,
                col=column,
            )
    figure.update_yaxes(title_text="per cent", col=1)
    return _layout(figure, title, 420).update_layout(barmode="group", legend={"orientation": "h", "y": -0.45})


def _panels(table: pd.DataFrame, x: str, y: str, low: str, high: str, title: str) -> go.Figure:
    """A panel for each domain: a marker with its interval for each value of ``x`` and each system, side by side."""
    _require_lines(table, title)
    domains, systems = list(dict.fromkeys(table["domain"])), list(dict.fromkeys(table["system"]))
    places = list(dict.fromkeys(table[x]))
    columns = min(2, len(domains))
    rows = -(-len(domains) // columns)
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=domains, shared_yaxes=True, vertical_spacing=0.2)
    for number, d in enumerate(domains):
        for i, name in enumerate(systems):
            part = table[(table["domain"] == d) & (table["system"] == name)]
            beside = 0.0 if x == "system" else 0.7 * ((i + 0.5) / len(systems) - 0.5)
            figure.add_scatter(
                x=[places.index(place) + beside for place in part[x]],
                y=part[y],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": (part[high] - part[y]).clip(lower=0),
                    "arrayminus": (part[y] - part[low]).clip(lower=0),
                },
                name=looks.label(str(name)),
                legendgroup=str(name),
                showlegend=number == 0,
                mode="markers",
                marker=looks.line(str(name), i, 8)["marker"],
                hovertemplate=f"{looks.label(str(name))}: %{{y:.2f}}<extra></extra>",
                row=number // columns + 1,
                col=number % columns + 1,
            )
    figure.add_hline(y=0, line={"width": 1, "dash": "dot"})
    shown = [looks.label(str(one)) for one in places]
    figure.update_xaxes(tickvals=list(range(len(places))), ticktext=shown, range=[-0.5, len(places) - 0.5])
    figure.update_yaxes(title_text="points", col=1)
    return _layout(figure, title, 120 + 300 * rows)


def intervals(table: pd.DataFrame, title: str) -> go.Figure:
    """Differences of systems with their intervals: ``domain, system, difference, interval_low, interval_high``."""
    return _panels(table, "system", "difference", "interval_low", "interval_high", title)


def worth(table: pd.DataFrame, title: str) -> go.Figure:
    """What leaks are worth: ``domain, leak, system, worth, low, high``, in points."""
    return _panels(table, "leak", "worth", "low", "high", title)


def differences(table: pd.DataFrame, title: str) -> go.Figure:
    """Differences with their intervals, a line per system, a colour per domain: columns as for :func:`intervals`.

    For systems with long names, which stand on the left; ``runs``, if it is there, is shown where the pointer is.
    """
    _require_lines(table, title)
    systems, domains = list(dict.fromkeys(table["system"])), list(dict.fromkeys(table["domain"]))
    figure = go.Figure()
    for i, d in enumerate(domains):
        part = table[table["domain"] == d]
        beside = 0.5 * ((i + 0.5) / len(domains) - 0.5)
        figure.add_scatter(
            x=part["difference"],
            y=[systems.index(name) + beside for name in part["system"]],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (part["interval_high"] - part["difference"]).clip(lower=0),
                "arrayminus": (part["difference"] - part["interval_low"]).clip(lower=0),
            },
            customdata=part[["system", "runs"]] if "runs" in part else part[["system"]],
            name=str(d),
            mode="markers",
            marker=looks.line(str(d), i, 8)["marker"],
            hovertemplate="%{customdata[0]}: %{x:.2f}" + "<br>%{customdata[1]}" * ("runs" in part) + "<extra></extra>",
        )
    figure.add_vline(x=0, line={"width": 1, "dash": "dot"})
    shown = [looks.label(str(one)) for one in systems]
    figure.update_yaxes(tickvals=list(range(len(systems))), ticktext=shown, range=[len(systems) - 0.5, -0.5])
    figure.update_xaxes(title_text="points")
    figure = _layout(figure, title, 160 + 34 * len(systems))
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    return figure.update_layout(margin={"l": 280, "r": 40, "t": 90, "b": 50}, legend=legend)


def curves(table: pd.DataFrame, x: str, colour: str, title: str) -> go.Figure:
    """A value over an axis: a panel for each metric and domain, a line with its band for each value of ``colour``.

    Parameters
    ----------
    table
        ``metric, domain``, ``x``, ``colour``; ``mean, low, high`` in per cent (nan: no interval), ``seeds, runs``.
        Lines without a domain are places that have no value yet: they are drawn as missing.
    """
    _require_lines(table, title)
    done, missing = table.dropna(subset=["domain"]), table[table["domain"].isna()]
    metrics, domains, names = (list(dict.fromkeys(done[key])) for key in ("metric", "domain", colour))
    titles = [f"{domain}: {metric}" for metric in metrics for domain in domains] or ["nothing is done yet"]
    rows, columns = max(1, len(metrics)), max(1, len(domains))
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, vertical_spacing=0.14)
    for number, (metric, domain) in enumerate((m, d) for m in metrics for d in domains):
        cell = {"row": number // columns + 1, "col": number % columns + 1}
        for i, name in enumerate(names):
            part = done[(done["metric"] == metric) & (done["domain"] == domain) & (done[colour] == name)].sort_values(x)
            band = part.dropna(subset=["low", "high"])
            figure.add_scatter(
                x=[*band[x], *band[x][::-1]],
                y=[*band["high"], *band["low"][::-1]],
                fill="toself",
                fillcolor=looks.look(str(name), i)["color"],
                opacity=0.18,
                line={"width": 0},
                hoverinfo="skip",
                legendgroup=str(name),
                showlegend=False,
                **cell,
            )
            figure.add_scatter(
                x=part[x],
                y=looks.rounded(part["mean"]),
                name=looks.label(str(name)),
                legendgroup=str(name),
                showlegend=number == 0,
                mode="lines+markers",
                **looks.line(str(name), i, 8),
                customdata=part[["runs"]],
                hovertemplate=f"{name}, {x} %{{x}}: %{{y:.2f}}<br>%{{customdata[0]}}<extra></extra>",
                **cell,
            )
        here = done[(done["metric"] == metric) & (done["domain"] == domain)]
        figure.update_yaxes(range=looks.least_range(here[["mean", "low", "high"]]), **cell)
        for place in dict.fromkeys(missing[x].dropna()):
            # not add_vline, whose annotation cannot stand on an axis of words
            line = {"x0": place, "x1": place, "y0": 0, "y1": 1, "yref": "y domain"}
            figure.add_shape(type="line", line={"width": 1, "dash": "dot"}, **line, **cell)
            word = {"x": place, "y": 0, "yref": "y domain", "yanchor": "bottom", "xanchor": "left"}
            text = {"text": "missing", "textangle": -90, "font": {"size": 9}, "showarrow": False}
            figure.add_annotation(**word, **text, **cell)
    figure.update_xaxes(title_text=x, row=rows)
    figure.update_yaxes(title_text="per cent", col=1)
    return _layout(figure, title, 140 + 260 * rows).update_layout(legend={"orientation": "h", "y": -0.14})


def latent_map(table: pd.DataFrame, colour: str, title: str) -> go.Figure:
    """Two principal components, a panel for each latent: ``latent, first, second`` and ``colour``, which colours."""
    _require_lines(table, title)
    latents, names = (list(dict.fromkeys(table[key])) for key in ("latent", colour))
    first = table.drop_duplicates(colour).set_index(colour)["latent"]  # where a name stands in the legend
    figure = make_subplots(rows=1, cols=len(latents), subplot_titles=latents)
    for number, latent in enumerate(latents, start=1):
        for i, name in enumerate(names):
            part = table[(table["latent"] == latent) & (table[colour] == name)]
            if part.empty:
                continue
            figure.add_scatter(
                x=part["first"].astype("float32"),
                y=part["second"].astype("float32"),
                name=str(name),
                legendgroup=str(name),
                showlegend=first[name] == latent,
                mode="markers",
                marker={
                    "color": looks.PALETTE[i % len(looks.PALETTE)],
                    "symbol": looks.SYMBOLS[i // len(looks.PALETTE)],
                    "size": 4,
                    "opacity": 0.7,
                },
                hovertemplate=f"{colour} {name}<extra></extra>",
                row=1,
                col=number,
            )
    figure.update_xaxes(title_text="first component")
    figure.update_yaxes(title_text="second component", col=1)
    return _layout(figure, title, 420)


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
        as_csv(table, csv)
        figure.write_html(page, include_plotlyjs=True)
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
