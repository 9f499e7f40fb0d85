"""``report.html`` of a run: one file, opens without a network."""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from i2vae_lib import audit, evaluation, experiments, plots, stages
from i2vae_lib.data.protocols import outside_note
from i2vae_lib.data.rows import DOMAINS
from i2vae_lib.grids import Sweep
from i2vae_lib.lazy import MissingLibrary, require
from i2vae_lib.params import ParameterError, load, of_result
from i2vae_lib.places import notebooks_folder
from i2vae_lib.recommenders import from_histories
from i2vae_lib.results import lift, text
from i2vae_lib.results.effects import effects
from i2vae_lib.results.reading import METRICS
from i2vae_lib.runs import flatten, read_record, stamp, write_atomically
from i2vae_lib.stages import irrelevant_groups
from i2vae_lib.workers import environment, isolated

_METRIC = "validation NDCG@10"
TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
 table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }
 th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }
 th { border-bottom: 2px solid #888; }
 td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
 .stamp { border: 2px solid #D55E00; padding: 0.5rem 1rem; } code { background: #f2f2f2; padding: 0 0.25rem; }
 .grid { display: flex; flex-wrap: wrap; gap: 0 3rem; }
 .wide { overflow-x: auto; } details { margin: 1rem 0; }
</style>
<script>{{ plotlyjs }}</script></head><body>
<h1>{{ title }}</h1>
{% if stamp %}<p class="stamp"><b>{{ stamp }}.</b></p>{% endif %}
<p>{{ summary }}</p>
<p><code>{{ command }}</code></p>
<h2>Results</h2>
<p>Test rows, in per cent. <b>Sampled</b>: the target against {{ negatives }} negatives; <b>full</b>: against the whole
catalogue. Row kinds: tailed = own history shorter than {{ tail }}; cold = only the other domain; no_history = neither
(every ranker falls back to popularity there); seen = the target occurs in training. <code>i2vae compare</code> gives
intervals and significance.</p>
{% for line in fewer %}<p>{{ line }}.</p>{% endfor %}
<div class="grid">
{% for heading, table in tables %}
<section><h3>{{ heading }}</h3><div class="wide">{{ table }}</div></section>
{% endfor %}
</div>
{{ results_figure }}
<h2>Training</h2>
<p>{{ training }}</p>
{{ training_figure }}
<details><summary>Every term, by epoch</summary><div class="wide">{{ history }}</div></details>
<h2>Audit</h2>
<p>{{ verdict }}</p><div class="wide">{{ audit }}</div>
{% if filters %}<h2>What cleaning the logs left</h2><div class="wide">{{ filters }}</div>{% endif %}
<h2>What the reference rankers chose on validation</h2>
{% for line in extensions %}<p>{{ line }}.</p>{% endfor %}<div class="wide">{{ references }}</div>
<h2>Where time and memory went</h2>
<div class="wide">{{ stages }}</div>
{% if notebooks %}<h2>Notebooks, executed on this run</h2>
<ul>{% for one in notebooks %}<li><a href="notebooks/{{ one }}">{{ one }}</a></li>{% endfor %}</ul>{% endif %}
<details><summary>Parameters and environment</summary><div class="wide">{{ parameters }}</div></details>
</body></html>
"""


def write_report(folder: Path | str) -> Path:
    """Write the report of a finished run and return its path.

    Raises
    ------
    LayoutError
        No run there, or a stage that is missing.
    """
    folder = Path(folder)
    record = read_record(folder)
    metrics, history = stages.load_metrics(folder), stages.load_history(folder)
    jinja = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = jinja.from_string(TEMPLATE).render(**_content(folder, record, metrics, history))
    path = folder / "report.html"
    write_atomically(path, lambda part: part.write_text(page, encoding="utf-8"))
    return path


def _content(folder: Path, record: dict[str, Any], metrics: dict[str, Any], history: pd.DataFrame) -> dict[str, Any]:
    p, names = record["parameters"], record["names"]
    tables = [
        (f"{metric}, {candidates}", stages.result_table(metrics, names, metric, candidates))
        for metric in ("HR@10", "NDCG@10")
        for candidates in ("sampled", "full")
    ]
    found = pd.DataFrame(record["audit"])
    leaks = len(audit.fired(found))
    flat = pd.json_normalize({"parameters": p, "environment": record["environment"]}, sep=".").T.reset_index()
    flat.columns = pd.Index(["key", "value"])
    pair = f"{names['x']} and {names['y']}"
    rows = ", ".join(f"{n:,} {split}" for split, n in record["rows"].items())
    return {
        "title": f"{p['system']} on {record['data']} ({pair}), {record['protocol']}",
        "stamp": stamp(record),
        "summary": f"Rows: {rows}. Dataset SHA-256 {record['dataset_sha256'][:16]}…, data seed {record['data_seed']}, "
        f"seed {p['seed']}. Kept out: {_removed(record['removed'])}. {outside_note(record['outside'], names)} "
        + " ".join(record.get("notes", ())),
        "command": command_of(p),
        "negatives": p["evaluation"]["negatives"],
        "fewer": evaluation.fewer_candidates(stages.load_ranks(folder), p["evaluation"]["negatives"], names),
        "tail": " and ".join(f"{record['L80']['test'][d]:.2f} ({names[d]})" for d in DOMAINS),
        "tables": [(heading, html(table)) for heading, table in tables],
        "results_figure": figure(plots.results(tables[0][1], "HR@10, sampled")),
        "training": _training(record, history),
        "training_figure": figure(plots.training_curves(history)),
        "history": html(history.round(4)),
        "verdict": "No check fired as a leak." if not leaks else f"{leaks} checks found leaks.",
        "audit": html(found.assign(share=(found["share"] * 100).round(2)).rename(columns={"share": "per cent"})),
        "filters": html(pd.DataFrame(record["filters"])) if record["filters"] else "",
        "extensions": from_histories.extensions(record["references"]),
        "references": html(_chosen(record["references"])),
        "stages": html(seconds_by_stage(record)),
        "notebooks": sorted(one.name for one in (folder / "notebooks").glob("*.html")),
        "parameters": html(flat),
        "plotlyjs": Markup(get_plotlyjs()),
    }


def seconds_by_stage(record: dict[str, Any]) -> pd.DataFrame:
    """What each stage of a run took, and all of them together."""
    spent = pd.DataFrame(
        [(stage, one["seconds"], round(one["peak_memory_bytes"] / 2**20)) for stage, one in record["stages"].items()],
        columns=["stage", "seconds", "peak memory so far (MiB)"],
    )
    total = ("total", round(spent["seconds"].sum(), 2), spent["peak memory so far (MiB)"].max())
    return pd.concat([spent, pd.DataFrame([total], columns=spent.columns)], ignore_index=True)


def _chosen(references: dict[str, Any]) -> pd.DataFrame:
    """One line a ranker and setting that was tried, the chosen one marked."""
    lines = [
        (name, ", ".join(f"{k} {v}" for k, v in tried.items() if k != _METRIC), round(tried[_METRIC], 4), star)
        for name, chosen in references.items()
        for tried in chosen["grid"]
        for star in ["chosen" if all(chosen[key] == value for key, value in tried.items()) else ""]
    ]
    return pd.DataFrame(lines, columns=["ranker", "setting", _METRIC, ""])


def command_of(p: dict[str, Any]) -> str:
    """The command that makes this run, of parameters as ``run.json`` has them: what the preset lacks by ``--set``."""
    try:
        preset = load(p["preset"])
    except ParameterError:  # a file that is not here
        preset = load("paper")
    without = ("seed", *irrelevant_groups([p["system"]]))
    before, now = (flatten(of_result(one, without)) for one in (preset.model_dump(mode="json"), p))
    own = ("data", "protocol", "system", "training.epochs")  # have options of their own
    sets = [f"{key}={_word(value)}" for key, value in now.items() if key not in own and before.get(key) != value]
    words = ["i2vae", "run", *([] if p["system"] == "i2vae" else ["--system", p["system"]])]
    words += ["--data", p["data"], "--protocol", p["protocol"], "--preset", preset.preset, "--seed", str(p["seed"])]
    words += ["--epochs", str(p["training"]["epochs"])]
    return shlex.join([*words, *(word for one in sets for word in ("--set", one))])


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)  # JSON is YAML


def _training(record: dict[str, Any], history: pd.DataFrame) -> str:
    """What the training took; of a system that is trained in stages the last is selected from."""
    last = history.iloc[-1]
    own = history[history["stage"] == last["stage"]] if "stage" in history else history
    earlier = f" of the last stage (after {len(history) - len(own)} of those before)" if len(own) < len(history) else ""
    return (
        f"{len(own)} epochs{earlier} on {record['device']}, {record['weights']:,} weights; epoch "
        f"{record['best_epoch']} was selected by validation NDCG@10 ({record['best_validation_ndcg']:.4f}). "
        f"Last epoch: {last['seconds']:.1f} s, {last['rows/s']:,.0f} rows/s."
    )


def _removed(counts: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing"


def html(table: pd.DataFrame) -> Any:
    """A table as safe HTML."""
    return Markup(text.as_html(table))


def figure(one: Any) -> Any:
    """A figure as HTML that uses the page's own plotly.js."""
    return Markup(pio.to_html(one, include_plotlyjs=False, full_html=False))


@contextmanager
def kernel_settings() -> Iterator[Any]:
    """Configuration of one kernel that executes a notebook: over files, which nobody else can take, instead of TCP.

    jupyter_client picks free ports and lets go of them before the kernel takes them; another process may be faster
    ("Address already in use", and the kernel dies). Files also keep other users of the machine out. They lie in a
    folder of their own, which goes at the end: by default they would lie in the working directory, which the kernel
    may have changed. Windows has no such transport and keeps TCP.
    """
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        over_files = {"transport": "ipc", "ip": str(Path(folder) / "kernel")}
        # beside the isolation that its environment brings: IPython puts the working directory on the path by itself
        client = {"extra_arguments": ["--InteractiveShellApp.ignore_cwd=True"]}
        yield Config({"KernelManager": {} if os.name == "nt" else over_files, "NotebookClient": client})


def execute_notebooks(
    folder: Path, parameters: dict[str, Any], names: tuple[str, ...], say: stages.Say, timeout: int = 86400
) -> list[Path]:
    """Execute notebooks on a finished run with papermill; executed copies and offline HTML go into ``notebooks/``.

    A notebook that fails is a line: what teaches must not fail what works. Its copy stays, for reading. So is the lack
    of what executes notebooks.

    Returns
    -------
    list of Path
        The pages of those that did not fail.
    """
    source, written = notebooks_folder(), []
    try:
        require("executing the notebooks on this run", "papermill", "nbconvert", "ipykernel")
    except MissingLibrary as error:
        say(str(error))
        return []
    with environment({"PLOTLY_RENDERER": "plotly_mimetype+notebook", **isolated()}):
        for name in names:
            say(f"executing the notebook {name} on this run")
            executed = folder / "notebooks" / f"{name}.ipynb"
            try:
                written.append(_execute(source / executed.name, executed, parameters, timeout))
            except Exception as error:  # whatever it is: a cell's, a kernel's, the disk's
                executed.with_suffix(".html").unlink(missing_ok=True)  # an earlier one's
                say(f"a notebook failed: {executed}: {_in_a_line(error)}")
    return written


def _execute(notebook: Path, executed: Path, parameters: dict[str, Any], timeout: int) -> Path:
    """The page of one notebook that was executed with these parameters."""
    import nbconvert
    import papermill

    executed.parent.mkdir(parents=True, exist_ok=True)
    with kernel_settings() as config:
        papermill.execute_notebook(
            notebook,
            executed,
            parameters=parameters,
            kernel_name="python3",
            execution_timeout=timeout,
            progress_bar=False,
            cwd=str(Path.cwd()),
            config=config,
        )
    exporter: Any = nbconvert.HTMLExporter()  # type: ignore[no-untyped-call]
    page, _ = exporter.from_filename(str(executed))
    path = executed.with_suffix(".html")
    write_atomically(path, partial(Path.write_text, data=page, encoding="utf-8"))
    return path


def _in_a_line(error: Exception) -> str:
    """An error as one line; of a cell its own error, not papermill's account of it."""
    name, said = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error))
    return f"{name}: {' '.join(said.split())[:200]}".rstrip(": ")


def sweep_figures(sweep: Sweep, table: pd.DataFrame, out: Path) -> dict[str, tuple[go.Figure, pd.DataFrame]]:
    """What a sweep has to show so far: figures by name, each with its table.

    A grid with an axis is drawn as curves over it (the key with most values), by user type; where rows or other axes
    are lines of their own, each user type has a figure. A grid of rows alone is drawn as differences to their bases, a
    figure a user type and metric. Names are the grid's for all rows and HR@10, with what differs after it otherwise.

    Parameters
    ----------
    table
        :func:`i2vae_lib.experiments.results`.
    out
        Folder of the cells.
    """
    axes, found, rows_alone = sweep.axes(), {}, []
    over = experiments.over_seeds(table, axes)
    for grid, part in over.groupby("grid", sort=False):
        varied = sorted((key for key in axes if part[key].nunique() > 1), key=lambda key: -part[key].nunique())
        if varied:
            for kind, drawn, shown in _curves(part, varied, f"{sweep.name}: {grid}"):
                found[_slug(grid, "" if kind == "all" else kind)] = (drawn, shown)
        else:
            rows_alone.append(grid)
    if rows_alone:
        against = lift.in_per_cent(effects(sweep, out, rng=np.random.default_rng(0)))
        compared = against[against["grid"].isin(rows_alone)]
        for key, lines in compared.groupby(["grid", "kind", "metric"], sort=False):
            name, kind, metric = map(str, key)
            shown = lines.assign(system=lines["row"])
            drawn = plots.differences(shown, f"{sweep.name}: {name}, {metric} less the base's, {kind} rows")
            at = _slug(name, "" if kind == "all" else kind, "" if metric == "HR@10" else metric)
            found[at] = (drawn, shown)
    return found


def _curves(part: pd.DataFrame, varied: list[str], head: str) -> Iterator[tuple[str, go.Figure, pd.DataFrame]]:
    """The figures of one grid over the first of the keys that it varies: for which rows, figure and table."""
    axis, *others = varied
    own = lift.in_per_cent(experiments.own_cells(part, *METRICS))
    gaps = part[part["seeds"] == 0]
    named = own["row"].astype(str)
    for key in others:
        named = named + ", " + own[key].astype(str)
    own = own.assign(line=named.str.strip(", "))
    if own["line"].str.len().any():
        for kind in dict.fromkeys(own["kind"]):
            shown = pd.concat([own[own["kind"] == kind], gaps])
            yield kind, plots.curves(shown, axis, "line", f"{head}, {kind} rows"), shown
    else:
        shown = pd.concat([own, gaps])
        yield "all", plots.curves(shown, axis, "kind", head), shown


def write_sweep_figures(sweep: Sweep, table: pd.DataFrame, out: Path) -> list[Path]:
    """:func:`sweep_figures`, each as CSV, offline page and (where there is a Chromium) image, in ``out/figures``.

    Returns
    -------
    list of Path
        What was written.
    """
    return plots.write_figures(sweep_figures(sweep, table, out), out / "figures")


def _slug(*words: object) -> str:
    return re.sub("[^a-z0-9]+", "-", " ".join(map(str, words)).lower()).strip("-")
