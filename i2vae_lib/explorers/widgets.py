"""Explorers for JupyterLab and for a page without it: widgets over the tables of :mod:`i2vae_lib.explorers.views`.

Each is a column of controls, tables and figures that redraws what a control changed; nothing is computed here. The
keyboard reaches all controls, and a screen reader names them; :mod:`.explorers.live` has the two that ipywidgets lack.
Where nothing answers (papermill, nbval, a page on paper) an explorer shows its tables as they stand.
"""

import asyncio
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.kinds import KINDS
from i2vae_lib.data.rows import DOMAINS, SPLITS, Rows
from i2vae_lib.explorers import views
from i2vae_lib.explorers.contents import contents, named
from i2vae_lib.explorers.live import LiveFigure, RadioButtons
from i2vae_lib.figures import looks, plots
from i2vae_lib.labels import label, labelled
from i2vae_lib.model.i2vae import ROLES
from i2vae_lib.places import brief
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.results import text
from i2vae_lib.results.reading import METRICS
from i2vae_lib.runs import LayoutError, checked, read_record
from i2vae_lib.stages import load_data

_HERE = Path(__file__)
# colours are inherited, so that tables follow the theme; words mark what matters, not colours
STYLE = f"<style>\n{_HERE.with_suffix('.css').read_text(encoding='utf-8')}</style>"
_WIDE = {"description_width": "initial"}


def as_html(table: pd.DataFrame, caption: str) -> str:
    """A table with its caption; what stands in it is escaped."""
    return f'<div class="i2vae">{text.as_html(labelled(table), caption, na_rep="", float_format="{:g}".format)}</div>'


def _row(*children: widgets.Widget) -> widgets.HBox:
    """Controls beside each other, on several lines where the window is narrow."""
    return widgets.HBox(children, layout={"flex_flow": "row wrap"})


def _choice(name: str, options: Sequence[Any] = (), value: Any = None) -> widgets.Dropdown:
    found = widgets.Dropdown(description=name, style=_WIDE)
    _offer(found, options, value)
    return found


def _offer(control: widgets.Dropdown, options: Sequence[Any], value: Any = None) -> None:
    """Give a control other options; it keeps its value where it can."""
    kept = control.value if value is None else value
    control.options = list(options)
    names = [one[1] if isinstance(one, tuple) else one for one in options]
    control.value = kept if kept in names else names[0] if names else None


def _named(names: Iterable[str]) -> list[tuple[str, str]]:
    """Options that are shown by their labels."""
    return [(label(name), name) for name in names]


class _Explorer(widgets.VBox):
    """Controls over tables and figures; ``tables`` holds what stands there now, by caption."""

    def __init__(self) -> None:
        self.tables: dict[str, pd.DataFrame] = {}
        self.said = widgets.HTML()  # one line on what is shown, or what was wrong
        self._busy = False
        super().__init__([])

    def _repr_mimebundle_(self, **words: Any) -> dict[str, Any]:
        found = dict(super()._repr_mimebundle_(**words) or {})
        return found | {"text/plain": type(self).__name__, "text/html": self.static()}

    def static(self) -> str:
        """What a reader without a kernel sees: the tables as they stand."""
        return STYLE + self.said.value + "".join(as_html(table, caption) for caption, table in self.tables.items())

    def _say(self, text: str) -> None:
        # live: a screen reader reads it out when it changes
        self.said.value = f'{STYLE}<div class="i2vae" role="status" aria-live="polite">{html.escape(text)}</div>'

    def _show(self, place: widgets.HTML, tables: Mapping[str, pd.DataFrame]) -> None:
        """Put tables with their captions into a place."""
        self.tables |= tables
        place.value = "".join(as_html(table, caption) for caption, table in tables.items())

    def _watch(self, *controls: widgets.Widget) -> None:
        for one in controls:
            one.observe(lambda change: self._attempt(change.owner), names="value")

    def _attempt(self, control: widgets.Widget) -> None:
        """What a control asks for; where a file is gone, or nobody has that name, say so and change nothing."""
        if self._busy:  # a control that another one set
            return
        self._busy = True
        try:
            self.react(control)
        except (ValueError, OSError) as error:
            self._say(brief(str(error)))
        finally:
            self._busy = False

    def react(self, control: widgets.Widget) -> None:
        """Redraw what hangs on a control."""
        raise NotImplementedError


def _nothing(why: str) -> go.Figure:
    """A figure that says why it is empty."""
    word = {"text": why, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False}
    hidden = {"visible": False}
    layout = {"title": why, "annotations": [word], "xaxis": hidden, "yaxis": hidden, "height": 200}
    return go.Figure(layout=layout | {"template": looks.TEMPLATE})


# --- a user -----------------------------------------------------------------------------------------------------------


class UserExplorer(_Explorer):
    """One user taken apart: what they took, what was recalled, the first ten in both domains, and what latents say.

    Parameters
    ----------
    recommender
        A trained i2VAE. A partner who lacks a latent has 0 there, so that *swapped* is then *off*.
    rows
        The rows to explore; the widget offers their users.
    tail
        L80 by domain of these rows.
    """

    def __init__(self, recommender: I2VAERecommender, rows: Rows, tail: Mapping[str, float]):
        super().__init__()
        self.recommender, self.all_rows = recommender, rows
        self.kinds = rows.kinds(tail)
        shown = [kind for kind in KINDS if kind in self.kinds and self.kinds[kind].any()]
        named = [(f"{label(kind)} ({int(self.kinds[kind].sum()):,})", kind) for kind in shown]
        self.kind = _choice("rows", named, "overlapping")  # of whom all three latents speak
        self.user = widgets.Combobox(description="user", placeholder="type to search", continuous_update=False)
        self.before = widgets.Button(description="previous user")
        self.after = widgets.Button(description="next user")
        self.line = _choice("asks for")
        self.switches = {role: RadioButtons(role, views.STATES) for role in ROLES}
        counts = bool(recommender.at_every_position and recommender.params.evidence.shrinkage)
        self.evidence = widgets.Checkbox(description="evidence", value=counts, disabled=not counts, indent=False)
        self.partner = widgets.Combobox(description="swap with", continuous_update=False, style=_WIDE)
        self.lists = {d: widgets.HTML() for d in DOMAINS}
        self.figure = LiveFigure(_nothing("reading …"))
        self.react(self.kind)
        self._watch(self.kind, self.user, self.line, *self.switches.values(), self.evidence, self.partner)
        self.before.on_click(lambda _: self._step(-1))
        self.after.on_click(lambda _: self._step(1))
        self.children = (
            _row(self.kind, self.user, self.before, self.after, self.line),
            _row(*self.switches.values()),
            _row(self.evidence, self.partner),
            self.said,
            _row(*self.lists.values()),
            self.figure,
        )

    def _list_users(self) -> None:
        self.rows_of_kind = np.flatnonzero(self.kinds[self.kind.value])
        self.users = [str(one) for one in dict.fromkeys(self.all_rows.user[self.rows_of_kind])]
        self.user.options = self.partner.options = self.users
        if self.user.value not in self.users:
            self.user.value = self.users[0]

    def _choose_partner(self) -> None:
        """The next user, where nobody else is chosen: a swap with oneself changes nothing."""
        if self.partner.value in ("", self.user.value):
            self.partner.value = self.users[(self.users.index(self.user.value) + 1) % len(self.users)]

    def _list_rows(self) -> None:
        lines = np.intersect1d(views.rows_of(self.all_rows, self.user.value), self.rows_of_kind)
        if not len(lines):
            raise ValueError(f"user '{self.user.value}' has no row of kind {self.kind.value}")
        names = self.all_rows.catalogue.names
        lengths = self.all_rows.lengths("own")
        shown = [(f"{names[DOMAINS[self.all_rows.domain[i]]]}, after {lengths[i]} items", int(i)) for i in lines]
        _offer(self.line, shown)

    def _take_apart(self) -> None:
        self.one = views.take_apart(self.recommender, self.all_rows, self.line.value)
        self.everything_on = views.scores(self.recommender, self.one, views.Switches())
        table = views.posteriors(self.recommender, self.one).fillna({"kl": 0.0})
        title = "How far each posterior is from what is known of everybody"
        self.figure.draw(plots.bars(table, "latent", "kl", "domain", title, "KL to the prior (nats)"))

    def _step(self, by: int) -> None:
        place = self.users.index(self.one.user) if self.one.user in self.users else 0
        self.user.value = self.users[(place + by) % len(self.users)]

    def react(self, control: widgets.Widget) -> None:
        if control is self.kind:
            self._list_users()
        if control in (self.kind, self.user):
            self._list_rows()
            self._choose_partner()
        if control in (self.kind, self.user, self.line):
            self._take_apart()
        self._redraw()

    def _redraw(self) -> None:
        """The lists under the switches as they stand."""
        states = {role: one.value for role, one in self.switches.items()}
        partner = None
        if "swapped" in states.values():
            line = views.rows_of(self.all_rows, self.partner.value)[0]
            partner = views.take_apart(self.recommender, self.all_rows, int(line))
        switches = views.Switches(**states, evidence=self.evidence.value)
        scored = views.scores(self.recommender, self.one, switches, partner)
        for d, name in self.one.rows.catalogue.names.items():
            history = self.one.history(d)
            first = views.first_items(self.one, scored, self.everything_on, d)
            tables = {f"{name}: taken (most recent first) and recalled": history, f"{name}: first ten": first}
            self._show(self.lists[d], tables)
        self._say(self._summary(scored))

    def _summary(self, scored: Mapping[str, Any]) -> str:
        one, catalogue = self.one, self.one.rows.catalogue
        [title] = catalogue.label(one.asked, np.array([one.target(one.asked)]))
        now, first = (one.target_rank(found) for found in (scored, self.everything_on))
        where = f"{catalogue.names[one.asked]} ({catalogue.size(one.asked):,} items)"
        rank = f"Its rank: {now:,.0f} ({first:,.0f} with everything on)."
        alone = "" if one.evident else " There is no history: popularity ranks, and switches change nothing."
        return f"User {one.user} took next, in {where}: {title}. {rank}{alone}"


# --- a pair -----------------------------------------------------------------------------------------------------------


class DataExplorer(_Explorer):
    """Lengths, popularity, overlap, and what the audit looked for, by split, domain and row kind.

    Parameters
    ----------
    record
        ``run.json`` of a run of this dataset.
    """

    def __init__(self, dataset: CrossDomainDataset, record: Mapping[str, Any]):
        super().__init__()
        self.dataset, self.record = dataset, record
        names = dataset.catalogue.names
        self.split = _choice("split", list(SPLITS), "test")
        self.domain = _choice("target in", [(names[d], d) for d in DOMAINS])
        kinds = dataset.splits["test"].kinds(dataset.tail["test"])
        self.kind = _choice("rows", _named(kind for kind in KINDS if kind in kinds))
        asked = [("everything", "all"), ("leaks looked for", "leaks"), ("what was found", "found")]
        self.audit = _choice("audit", asked)
        self.curve = views.popularity_curve(dataset)
        self.figure, self.shown, self.found = LiveFigure(_nothing("reading …")), widgets.HTML(), widgets.HTML()
        controls = _row(self.split, self.domain, self.kind)
        self.children = (controls, self.said, self.figure, self.shown, self.audit, self.found)
        self._show(self.shown, {"who has a history where": views.overlap(dataset)})
        self.react(self.split)
        self._watch(self.split, self.domain, self.kind, self.audit)

    def react(self, control: widgets.Widget) -> None:
        split, kind, name = self.split.value, self.kind.value, self.dataset.catalogue.names[self.domain.value]
        if control is not self.audit:
            rows = views.chosen_rows(self.dataset, split, self.domain.value, kind)
            self._say(f"{len(rows):,} {split} rows ask for {name} ({label(kind)}), of {len(set(rows.user)):,} users.")
            title = f"Histories of {split} rows that ask for {name}, {label(kind)}"
            self.figure.draw(plots.pair(views.lengths(rows), self.curve, title))
        self.tables["audit"] = views.checks(self.record, split, self.audit.value)
        caption = "what the audit says" if len(self.tables["audit"]) else f"nothing of that kind in the {split} rows"
        self.found.value = as_html(self.tables["audit"], caption)


# --- runs -------------------------------------------------------------------------------------------------------------


class TrainingExplorer(_Explorer):
    """Curves of runs beside each other, while they train and after.

    *follow* reads what is there again every two seconds.
    """

    SECONDS = 2.0

    def __init__(self, folders: Sequence[Path | str]):
        super().__init__()
        self.runs, self._reading = named(folders), False
        self.chosen = widgets.SelectMultiple(
            description="runs", options=list(self.runs), value=list(self.runs), rows=min(6, max(2, len(self.runs)))
        )
        self.column = _choice("curve")
        self.again = widgets.Button(description="read again")
        self.follow = widgets.Checkbox(description="follow", indent=False)
        self.figure, self.shown = LiveFigure(_nothing("reading …")), widgets.HTML()
        self.again.on_click(lambda _: self._attempt(self.again))
        controls = _row(self.chosen, widgets.VBox([self.column, self.again, self.follow]))
        self.children = (controls, self.said, self.figure, self.shown)
        self.react(self.again)
        self._watch(self.chosen, self.column)
        self.follow.observe(self._follow, names="value")

    def react(self, control: widgets.Widget) -> None:
        chosen = {name: self.runs[name] for name in self.chosen.value}
        _offer(self.column, _named(views.columns(chosen)))
        self.tables = {}
        self._show(self.shown, {"where they stand": views.progress(chosen)})
        column = self.column.value
        if column is None:
            why = "No run has finished an epoch yet" if chosen else "No run is chosen"
            self._say(f"{why}.")
            self.figure.draw(_nothing(why))
            return
        self.tables[column] = views.curves(chosen, column)
        name = label(column)
        self._say(f"{name} by epoch, {len(chosen)} of {len(self.runs)} runs.")
        self.figure.draw(plots.series(self.tables[column], "epoch", "value", "run", name, name))

    def _follow(self, change: Any) -> None:
        if not self.follow.value or self._reading:
            return
        try:
            self.following = asyncio.get_running_loop().create_task(self._keep_reading())
        except RuntimeError:  # a script: there is no kernel whose loop could come back to it
            self._say("Nothing can be followed without a kernel; read again instead.")

    async def _keep_reading(self) -> None:
        self._reading = True
        try:
            while self.follow.value:
                self._attempt(self.again)
                await asyncio.sleep(self.SECONDS)
        finally:
            self._reading = False

    def static(self) -> str:
        """Where the runs stand; their curves are many lines."""
        return STYLE + self.said.value + self.shown.value


# --- a sweep ----------------------------------------------------------------------------------------------------------


class SweepExplorer(_Explorer):
    """A metric over one or two axes of a sweep.

    Parameters
    ----------
    tables
        :func:`i2vae_lib.explorers.views.sweep_tables`.
    """

    NONE, ALL = "(one axis)", "(all grids)"

    def __init__(self, tables: Mapping[str, pd.DataFrame]):
        super().__init__()
        self.all_tables = tables
        self.table, self.grid = _choice("sweep", list(tables)), _choice("grid")
        self.x, self.y = _choice("across"), _choice("up")
        self.metric, self.domain = _choice("metric", METRICS), _choice("target in")
        self.kind, self.system = _choice("rows"), _choice("system")
        self.figure, self.shown = LiveFigure(_nothing("reading …")), widgets.HTML()
        grid, rows = (self.table, self.grid, self.x, self.y, self.metric), (self.domain, self.kind, self.system)
        self.children = (_row(*grid), _row(*rows), self.said, self.figure, self.shown)
        self.react(self.table)
        self._watch(*grid, *rows)

    def _offer_columns(self, table: pd.DataFrame) -> None:
        axes, done = views.axes(table), table.dropna(subset=["value"])
        if not axes or done.empty:
            raise LayoutError(f"{self.table.value}, {self.grid.value}: nothing varies, or no cell is done yet")
        _offer(self.x, _named(axes), max(axes, key=lambda key: table[key].nunique()))
        _offer(self.y, _named([self.NONE, *axes]), self.NONE)
        _offer(self.domain, list(dict.fromkeys(done["domain"])))
        for control, column in ((self.kind, "kind"), (self.system, "recommender")):
            _offer(control, _named(dict.fromkeys(done[column])))

    def react(self, control: widgets.Widget) -> None:
        if control is self.table:
            grids = list(dict.fromkeys(self.all_tables[self.table.value]["grid"]))
            _offer(self.grid, [*grids, *([self.ALL] if len(grids) > 1 else [])], grids[0])
        table = self.all_tables[self.table.value]
        table = table if self.grid.value == self.ALL else table[table["grid"] == self.grid.value]
        if control in (self.table, self.grid):
            self._offer_columns(table)
        up = None if self.y.value in (self.NONE, self.x.value) else self.y.value
        words = (self.metric.value, self.domain.value, self.kind.value, self.system.value)
        found = views.cells(table, self.x.value, up, *words)
        title = f"{words[0]}, {words[1]}, {label(words[2])} rows, {label(words[3])}"
        self._say(f"{title}: {int((found['runs'] > 0).sum())} of {len(found)} places have a value.")
        if up is None:
            line = found.assign(system=words[3])
            drawn = plots.series(line, self.x.value, "value", "system", title, "per cent")
        else:
            drawn = plots.surface(found, self.x.value, up, title)
        self.figure.draw(drawn)
        self.tables = {}
        self._show(self.shown, {title: found.round({"value": 3, "sd": 3})})


# --- all of them ------------------------------------------------------------------------------------------------------


def of_user(folder: Path | str, split: str = "test") -> UserExplorer:
    """The user explorer of a finished run of i2VAE.

    Raises
    ------
    LayoutError
        Not trained yet, or another system.
    """
    folder = Path(folder)
    read_record(folder)
    if not (folder / "model" / "model.json").is_file():
        raise LayoutError(f"{folder} holds no saved model (no model.json)")
    dataset = load_data(folder)
    return UserExplorer(I2VAERecommender.load(checked(folder, "model")), dataset.splits[split], dataset.tail[split])


def of_data(folder: Path | str) -> DataExplorer:
    """The data explorer of a run that has its dataset.

    Raises
    ------
    LayoutError
        No dataset yet.
    """
    return DataExplorer(load_data(folder), read_record(folder))


class Page(widgets.Tab):
    """Tabs with every explorer that these folders have something for; each is made when its tab is opened.

    Parameters
    ----------
    folders
        Run directories; folders of sweeps, or their tables.

    Raises
    ------
    LayoutError
        A folder that is neither.
    """

    def __init__(self, folders: Sequence[Path | str]):
        self.makers = {title: _maker(*one) for title, one in contents(folders).items()}
        super().__init__([widgets.HTML("reading …") for _ in self.makers], titles=list(self.makers))
        self.made: dict[int, widgets.Widget] = {}
        self.observe(self._open, names="selected_index")
        self._open()

    def _open(self, change: Any = None) -> None:
        place = self.selected_index or 0
        if place not in self.made:
            try:
                self.made[place] = list(self.makers.values())[place]()
            except (ValueError, OSError) as error:  # nothing to see there yet
                self.made[place] = widgets.HTML(html.escape(brief(str(error))))
            self.children = [self.made.get(i, widgets.HTML("reading …")) for i in range(len(self.makers))]


def _maker(kind: str, folders: tuple[Path, ...]) -> Callable[[], _Explorer]:
    """Of a tab's content."""
    if kind == "training":
        return partial(TrainingExplorer, folders)
    [folder] = folders
    if kind == "sweep":
        return lambda: SweepExplorer(views.sweep_tables(folder))
    return partial({"user": of_user, "data": of_data}[kind], folder)
