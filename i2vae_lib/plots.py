"""Tidy table -> plotly figure. Nothing is computed here; every figure stands under the table that it draws.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; text and grid keep the theme's own colours, so
that figures are legible in JupyterLab's dark theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from i2vae_lib.pictures import training_panels
from i2vae_lib.results.text import as_csv

_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "pentagon")
"""Beside the colours, for who cannot tell them apart or prints in black."""


def _layout(figure: go.Figure, title: str, height: int = 360) -> go.Figure:
    return figure.update_layout(
        title=title,
        height=height,
        colorway=_PALETTE,
        template="plotly_white",
        margin={"l": 60, "r": 60, "t": 60, "b": 50},
        legend={"orientation": "h", "y": -0.25},
    )


def bars(table: pd.DataFrame, x: str, y: str, colour: str, title: str, y_title: str | None = None) -> go.Figure:
    """Grouped bars: one group a value of ``x``, one bar a value of ``colour``."""
    figure = go.Figure()
    for name, part in table.groupby(colour, sort=False):
        figure.add_bar(x=part[x].astype(str), y=part[y], name=str(name))
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
    """One line a column of ``table`` over ``x``."""
    figure = go.Figure()
    for name in columns:
        figure.add_scatter(x=table[x], y=table[name], name=name, mode="lines+markers" if len(table) < 40 else "lines")
    figure.update_layout(xaxis_title=x, yaxis_title=y_title)
    if log_y:
        figure.update_yaxes(type="log")
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
    """One line a value of ``colour``, each with its own symbol; what has no value is left out."""
    figure = go.Figure()
    for i, (name, part) in enumerate(table.dropna(subset=[y]).groupby(colour, sort=False)):
        look = {"color": _PALETTE[i % len(_PALETTE)], "symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 6}
        figure.add_scatter(x=part[x], y=part[y], name=str(name), mode="lines+markers", marker=look)
    figure.update_layout(xaxis_title=x, yaxis_title=y_title, showlegend=True)
    return _layout(figure, title)


def pair(lengths: pd.DataFrame, popularity: pd.DataFrame, title: str) -> go.Figure:
    """How long histories are (``history, length, rows``) beside how popular items are (``domain, rank, users``)."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=["rows by length of history", "users by rank of item"])
    for i, (name, part) in enumerate(lengths.groupby("history", sort=False)):
        figure.add_bar(x=part["length"], y=part["rows"], name=f"{name} history", marker_color=_PALETTE[i], row=1, col=1)
    for i, (name, part) in enumerate(popularity.groupby("domain", sort=False)):
        look = {"color": _PALETTE[2 + i], "symbol": _SYMBOLS[i], "size": 6}
        figure.add_scatter(
            x=part["rank"], y=part["users"], name=str(name), mode="lines+markers", marker=look, row=1, col=2
        )
    figure.update_xaxes(title_text="items", type="category", col=1).update_xaxes(title_text="rank", type="log", col=2)
    figure.update_yaxes(title_text="rows", col=1).update_yaxes(title_text="users", type="log", col=2)
    return _layout(figure, title).update_layout(barmode="group")


def surface(table: pd.DataFrame, x: str, y: str, title: str) -> go.Figure:
    """``value`` (per cent) over two axes as shades and numbers; a place without a value is left empty.

    Both axes are categories: values of a grid are seldom evenly spaced, and some are words.
    """
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
    panels = training_panels(history)
    figure = make_subplots(rows=2, cols=2, subplot_titles=list(panels), vertical_spacing=0.16)
    for number, (panel, lines) in enumerate(panels.items()):
        for i, (name, (x, y)) in enumerate(lines.items()):
            figure.add_scatter(
                x=x,
                y=y,
                name=name,
                legendgroup=panel,
                line={"color": _PALETTE[i % len(_PALETTE)]},
                hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>",
                row=number // 2 + 1,
                col=number % 2 + 1,
            )
    figure.update_xaxes(title_text="epoch", row=2)
    return _layout(figure, "Training", 620).update_layout(legend={"orientation": "h", "y": -0.12}, hovermode="x")


def results(table: pd.DataFrame, title: str) -> go.Figure:
    """Result table (domain, kind, n, one column a recommender) as two panels of grouped bars, in per cent."""
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
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker_color=_PALETTE[i % len(_PALETTE)],
                row=1,
                col=column,
            )
    figure.update_yaxes(title_text="per cent", col=1)
    return _layout(figure, title, 420).update_layout(barmode="group", legend={"orientation": "h", "y": -0.45})


def _panels(table: pd.DataFrame, x: str, y: str, low: str, high: str, title: str) -> go.Figure:
    """One panel a domain: a marker with its interval for each value of ``x`` and each system, side by side."""
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
                name=str(name),
                legendgroup=str(name),
                showlegend=number == 0,
                mode="markers",
                marker={"size": 8, "color": _PALETTE[i % len(_PALETTE)]},
                hovertemplate=f"{name}: %{{y:.2f}}<extra></extra>",
                row=number // columns + 1,
                col=number % columns + 1,
            )
    figure.add_hline(y=0, line={"width": 1, "dash": "dot"})
    figure.update_xaxes(tickvals=list(range(len(places))), ticktext=places, range=[-0.5, len(places) - 0.5])
    figure.update_yaxes(title_text="points", col=1)
    return _layout(figure, title, 120 + 300 * rows)


def intervals(table: pd.DataFrame, title: str) -> go.Figure:
    """Differences of systems with their intervals: ``domain, system, difference, interval_low, interval_high``."""
    return _panels(table, "system", "difference", "interval_low", "interval_high", title)


def worth(table: pd.DataFrame, title: str) -> go.Figure:
    """What leaks are worth: ``domain, leak, system, worth, low, high``, in points."""
    return _panels(table, "leak", "worth", "low", "high", title)


def differences(table: pd.DataFrame, title: str) -> go.Figure:
    """Differences with their intervals, a line a system, a colour a domain: columns as for :func:`intervals`.

    For systems with long names, which stand on the left; ``runs``, if it is there, is shown where the pointer is.
    """
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
            marker={"size": 8, "color": _PALETTE[i % len(_PALETTE)]},
            hovertemplate="%{customdata[0]}: %{x:.2f}" + "<br>%{customdata[1]}" * ("runs" in part) + "<extra></extra>",
        )
    figure.add_vline(x=0, line={"width": 1, "dash": "dot"})
    figure.update_yaxes(tickvals=list(range(len(systems))), ticktext=systems, range=[len(systems) - 0.5, -0.5])
    figure.update_xaxes(title_text="points")
    figure = _layout(figure, title, 160 + 34 * len(systems))
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    return figure.update_layout(margin={"l": 280, "r": 40, "t": 90, "b": 50}, legend=legend)


def curves(table: pd.DataFrame, x: str, colour: str, title: str) -> go.Figure:
    """A value over an axis, a panel a metric and domain, a line a value of ``colour`` with its band over seeds.

    Parameters
    ----------
    table
        ``metric, domain``, ``x``, ``colour``; ``mean, low, high`` in per cent (nan: no interval), ``seeds, runs``.
        Lines without a domain are places that have no value yet: they are drawn as missing.
    """
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
                fillcolor=_PALETTE[i % len(_PALETTE)],
                opacity=0.18,
                line={"width": 0},
                hoverinfo="skip",
                legendgroup=str(name),
                showlegend=False,
                **cell,
            )
            figure.add_scatter(
                x=part[x],
                y=part["mean"],
                name=str(name),
                legendgroup=str(name),
                showlegend=number == 0,
                mode="lines+markers",
                marker={"color": _PALETTE[i % len(_PALETTE)], "symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 8},
                customdata=part[["runs"]],
                hovertemplate=f"{name}, {x} %{{x}}: %{{y:.2f}}<br>%{{customdata[0]}}<extra></extra>",
                **cell,
            )
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
    """Two principal components, a panel a latent, coloured by ``colour``: ``latent, first, second``, ``colour``."""
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
                    "color": _PALETTE[i % len(_PALETTE)],
                    "symbol": _SYMBOLS[i // len(_PALETTE)],
                    "size": 4,
                    "opacity": 0.7,
                },
                hovertemplate=f"{colour} {name}<extra></extra>",
                row=1,
                col=number,
            )
    figure.update_xaxes(title_text="first component")
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
