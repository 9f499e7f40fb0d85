"""``report.html`` of a run: one file of static tables and pictures, opens without a network."""

import json
import shlex
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from i2vae_lib import evaluation, stages
from i2vae_lib.audit import leaks as audit
from i2vae_lib.data.protocols import order_note, outside_note
from i2vae_lib.data.rows import DOMAINS
from i2vae_lib.figures import pictures
from i2vae_lib.labels import label, labelled, latent
from i2vae_lib.params import ParameterError, load, of_result
from i2vae_lib.recommenders import CEILINGS
from i2vae_lib.recommenders.references import from_histories
from i2vae_lib.results import lift, text
from i2vae_lib.results.differences import Comparison, compare, six_rows
from i2vae_lib.runs import flatten, read_record, stamp, write_atomically
from i2vae_lib.stages import irrelevant_groups

_METRIC = "validation NDCG@10"
TEMPLATE = Path(__file__).with_name("report.html.jinja")


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
    template = jinja.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        **_results(folder, record, metrics),
        **_training(record, history),
        **_audited(pd.DataFrame(record["audit"])),
        **_made(folder, record),
    )
    path = folder / "report.html"
    write_atomically(path, lambda part: part.write_text(page, encoding="utf-8"))
    return path


def _results(folder: Path, record: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    p, names = record["parameters"], record["names"]
    found = compare([folder], resamples=2_000, rng=np.random.default_rng(0))
    tables = [
        (f"{metric}, {candidates}", stages.result_table(metrics, names, metric, candidates))
        for metric in ("HR@10", "NDCG@10")
        for candidates in ("sampled", "full")
    ]
    negatives = p["evaluation"]["negatives"]
    ceilings = [label(name) for name in CEILINGS if name in metrics]
    return {
        "verdict": lift.verdict(found),
        "negatives": f"{negatives:,}",
        "ceilings": f" ({' and '.join(ceilings)} read the planted truth and do not count)" if ceilings else "",
        "tail": " and ".join(f"{record['L80']['test'][d]:.2f} ({names[d]})" for d in DOMAINS),
        "six_rows": _html(six_rows(found, "HR@10")),
        "forest": _forest(found),
        "fewer": evaluation.fewer_candidates(stages.load_ranks(folder), negatives, names),
        "tables": [_html(labelled(table), heading) for heading, table in tables],
    }


def _forest(found: Comparison) -> Markup:
    """The system less the best reference of each of the six rows, HR@10; empty where there is none."""
    if found.tests.empty:
        return Markup("")
    lines = lift.cells(found)
    lines = lines[lines["metric"] == "HR@10"]
    drawn = [
        pictures.Interval(
            f"{one.domain}, {one.kind} (n = {one.n:,})",
            100 * one.difference,
            100 * one.interval_low,
            100 * one.interval_high,
            f"{100 * one.system:.1f} against {100 * one.reference:.1f} ({label(one.best)})",
        )
        for one in text.lines(lines)
    ]
    system = label(found.about["base"])
    title = f"{system} less the best reference ranker of each line"
    return Markup(pictures.forest(title, "points of HR@10", drawn))  # labels are escaped there


def _training(record: dict[str, Any], history: pd.DataFrame) -> dict[str, Any]:
    panels = {
        panel: {_line(name, record["names"]): line for name, line in lines.items()}
        for panel, lines in pictures.training_panels(history).items()
    }
    return {
        "training": training_of(record, history),
        "curves": [Markup(pictures.curves(panel, "epoch", lines)) for panel, lines in panels.items()],
        "history": _html(labelled(history.round(4))),
    }


def _line(name: str, names: dict[str, str]) -> str:
    """A line of a panel, whose title says what is drawn: ``kl/t_y, stage 2`` is z_tʸ, stage 2."""
    quantity, _, of = name.rpartition("/")
    plain, comma, stage = of.partition(",")
    if quantity in ("kl", "active"):
        return latent(plain) + comma + stage
    return (names[plain] if quantity else "both domains") + comma + stage


def _audited(found: pd.DataFrame) -> dict[str, Any]:
    promised, failed = found["severity"] == "leak", found["count"] > 0
    leaks = len(audit.fired(found))
    state = np.select([promised & failed, promised], ["failed", "passed"], "note")
    shown = found.drop(columns="severity").assign(share=(found["share"] * 100).round(2))
    shown = shown.rename(columns={"share": "per cent"})
    shown.insert(0, "result", state)
    passed = int(promised.sum()) - leaks
    notes = f"{passed} checks passed, {int((~promised).sum())} lines are notes."
    return {
        "audit_verdict": f"{leaks} checks failed: {notes}" if leaks else f"No check failed: {notes}",
        "failed": _html(shown[state == "failed"]) if leaks else "",
        "audit": _html(shown),
    }


def _made(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    p, names = record["parameters"], record["names"]
    flat = flatten({"parameters": p, "environment": record["environment"]})
    pair = f"{names['x']} and {names['y']}"
    rows = ", ".join(f"{n:,} {split}" for split, n in record["rows"].items())
    return {
        "title": f"{label(p['system'])} on {record['data']} ({pair}), {record['protocol']}",
        "stamp": stamp(record),
        "order": order_note(record["protocol"]),
        "summary": f"Rows: {rows}. Dataset SHA-256 {record['dataset_sha256'][:16]}…, data seed {record['data_seed']}, "
        f"seed {p['seed']}. Kept out: {_removed(record['removed'])}. "
        f"{outside_note(record['outside'], names)} " + " ".join(record.get("notes", ())),
        "command": command_of(p),
        "filters": _html(pd.DataFrame(record["filters"])) if record["filters"] else "",
        "extensions": from_histories.extensions(record["references"]),
        "references": _html(labelled(_chosen(record["references"]))),
        "stages": _html(stages.seconds_by_stage(record)),
        "notebooks": sorted(one.name for one in (folder / "notebooks").glob("*.html")),
        "parameters": _html(pd.DataFrame(flat.items(), columns=["key", "value"])),
    }


def _chosen(references: dict[str, Any]) -> pd.DataFrame:
    """One line a ranker and setting that was tried, the chosen one marked."""
    lines = []
    for name, chosen in references.items():
        for tried in chosen["grid"]:
            setting = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in tried.items() if key != _METRIC)
            mark = "chosen" if tried.items() <= chosen.items() else ""
            lines.append((name, setting, round(tried[_METRIC], 4), mark))
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


def training_of(record: dict[str, Any], history: pd.DataFrame) -> str:
    """What the training took; of a system that is trained in stages the last is selected from."""
    last = history.iloc[-1]
    own = history[history["stage"] == last["stage"]] if "stage" in history else history
    earlier = f" of the last stage (after {len(history) - len(own)} of those before)" if len(own) < len(history) else ""
    pool = history["pool"].dropna().tolist() if "pool" in history else []
    pooled = f", pooled with counts of weight {pool[0]:g}" if pool else ""
    return (
        f"{len(own)} {'epoch' if len(own) == 1 else 'epochs'}{earlier} on {record['device']}, {record['weights']:,} "
        f"weights; epoch {record['best_epoch']} was selected by validation NDCG@10 "
        f"({record['best_validation_ndcg']:.4f}{pooled}). "
        f"Last epoch: {last['seconds']:.1f} s, {last['rows/s']:,.0f} rows/s."
    )


def _removed(counts: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing"


def _html(table: pd.DataFrame, caption: str = "") -> Markup:
    """A table as safe HTML."""
    return Markup(text.as_html(table, caption))
