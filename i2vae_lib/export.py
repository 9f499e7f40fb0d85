"""Export from the kit: a trained model for other people's machines, a split for other people's models.

An exported model is a folder that ``I2VAE.load`` and ``i2vae recommend`` read: weights, vocabularies and a model card.
It holds no training user's id or history unless asked for, only counts summed over users (how many took an item, how
many took two items together), which are all that a new user's scores need.
"""

import itertools
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from safetensors import safe_open

from i2vae_lib import evaluation, runs
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.loading import load_dataset_once
from i2vae_lib.data.rows import DOMAINS, PAD, Ragged, Rows
from i2vae_lib.labels import label
from i2vae_lib.paper import BIBTEX
from i2vae_lib.params import ParameterError, Parameters
from i2vae_lib.recommenders import SYSTEMS, I2VAERecommender
from i2vae_lib.results import lift, significance
from i2vae_lib.results.differences import compare
from i2vae_lib.results.escaping import escaped
from i2vae_lib.results.reading import METRICS, open_runs
from i2vae_lib.results.text import Captioned, as_csv, document, lines, with_interval

CARD = Path(__file__).with_name("model_card.md.jinja")
KEPT = ("metrics.json", "history.parquet")
# names of arrays in which systems other than i2VAE keep training users
OF_USERS = re.compile(r"(^|/)(people|known|users?|ids)( |/|$)")


def export_run(run: Path | str, out: Path | str, with_users: bool = False, licence: str = "") -> Path:
    """Export the model of a finished run, with a model card.

    Parameters
    ----------
    out
        Must not exist.
    with_users
        Also export the users' ids and histories, so that the model can recommend to known users by id.
    licence
        Licence of the data, for the card; empty: what the kit knows of it.

    Raises
    ------
    LayoutError
        The run is not finished, or ``out`` exists.
    ParameterError
        The model needs its training users (one that keeps their vectors under ``temporal``).
    """
    run, out = Path(run), Path(out)
    record = runs.read_record(run)
    runs.refuse_exported(run, record)
    runs.check_outside_runs(out)
    if "metrics.json" not in record["sha256"]:
        raise runs.LayoutError(f"{run} has no metrics yet (no metrics.json): evaluate it first")
    with runs.new_folder(out) as part:
        for name in (*KEPT, "model", *(["dataset"] if with_users else [])):
            source = runs.checked(run, name, record)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, part / name)
        runs.write_record(part, record | {"exported": True})
        if not with_users:
            forget_users(part)
        table = results(run)
        runs.write_atomically(part / "results.csv", lambda path: as_csv(table, path))
        card = model_card(record, table, with_users, licence)
        runs.write_atomically(part / "README.md", lambda path: path.write_text(card, encoding="utf-8"))
    return out


def forget_users(folder: Path) -> None:
    """Remove the training users from a copy of a run: from its model, and from the examples of its audit.

    Raises
    ------
    ParameterError
        The model needs them.
    """
    record = runs.read_record(folder)
    recommender = SYSTEMS[record["parameters"]["system"]].load(folder / "model")
    if isinstance(recommender, I2VAERecommender):
        recommender.forget_users()
        shutil.rmtree(folder / "model")
        recommender.save(folder / "model")
    else:
        held = [name for name in _arrays(folder / "model") if OF_USERS.search(name)]
        if held:
            raise ParameterError(
                f"{recommender.name} keeps vectors of its training users under {record['protocol']} ({held[0]}): it "
                f"can only be exported with them (--with-users)"
            )
    known = {key: sha256 for key, sha256 in record["sha256"].items() if (folder / key).is_file()}
    model = {path.relative_to(folder).as_posix(): runs.sha256_of(path) for path in (folder / "model").rglob("*.*")}
    audit = [line | {"example": ""} for line in record["audit"]]
    runs.write_record(folder, record | {"audit": audit, "sha256": known | model, "exported": True})


def _arrays(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            yield from file.keys()


def results(run: Path | str) -> pd.DataFrame:
    """The six rows of a finished run with 95 % intervals by the bootstrap over users.

    Returns
    -------
    DataFrame
        ``domain, kind, metric, n``; ``value, value_low, value_high`` (fractions); ``reference`` (the best reference
        ranker of this row), ``reference_value``, ``difference, interval_low, interval_high``.
    """
    opened, rng = open_runs([run]), np.random.default_rng(0)
    comparison = compare(opened, resamples=2_000, rng=rng)
    cells = lift.cells(comparison)
    [own] = opened.values("sampled", [evaluation.cutoff_of(name) for name in METRICS])[comparison.about["base"]]
    nothing = np.zeros_like(own)
    alone = significance.paired_bootstrap(own, nothing, opened.masks, rng=rng, resamples=2_000, cluster=opened.users)
    at = [(opened.cells.index((line.domain, line.kind)), METRICS.index(line.metric)) for line in lines(cells)]
    low, high = ([float(np.clip(side[place], 0, 1)) for place in at] for side in (alone.low, alone.high))
    named = cells.rename(columns={"system": "value", "best": "reference", "reference": "reference_value"})
    named = named.assign(value_low=low, value_high=high)
    columns = ["domain", "kind", "metric", "n", "value", "value_low", "value_high", "reference", "reference_value"]
    return named[[*columns, "difference", "interval_low", "interval_high"]]


def model_card(record: dict[str, Any], table: pd.DataFrame, with_users: bool, licence: str = "") -> str:
    """The card of an exported model as Markdown: data, protocol, metrics with intervals, limits, licence, citation."""
    p, names = record["parameters"], record["names"]
    shown = pd.DataFrame(
        {
            "domain": table["domain"],
            "rows": table["kind"],
            "n": [f"{n:,}" for n in table["n"]],
            "metric": table["metric"],
            "per cent (95 %)": [
                f"{100 * line.value:.2f} ({100 * line.value_low:.2f} to {100 * line.value_high:.2f})"
                for line in lines(table)
            ],
            "best reference": [f"{label(line.reference)} {100 * line.reference_value:.2f}" for line in lines(table)],
            "difference in points (95 %)": [with_interval(line) for line in lines(table)],
        }
    )
    jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["plain"] = partial(escaped, style="markdown")
    return jinja.from_string(CARD.read_text(encoding="utf-8")).render(
        title=label(p["system"]),
        record=record,
        p=p,
        names=names,
        rows=", ".join(f"{n:,} {split}" for split, n in record["rows"].items()),
        stamp=runs.stamp(record),
        metrics=document([Captioned("Test rows, sampled candidates", shown)], "markdown"),
        with_users=with_users,
        licence=licence or _licence_of(p["data"]),
        counts=p["system"] == "i2vae" and p["psg"]["kind"] == "leave_one_out",
        bibtex=BIBTEX,
        versions=runs.environment(),
    )


def _licence_of(data: str) -> str:
    """What the kit knows of the licence of data: the comment at the top of their pair file."""
    if data == "synthetic":
        return "Made by the kit: no data of people."
    path = Path(data)
    written = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    head = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), written))
    return head or "Not recorded. Whoever publishes this model should say here whose data it learnt from."


# --- a split ----------------------------------------------------------------------------------------------------------


def export_split(parameters: Parameters, out: Path | str) -> Path:
    """Write rows and frozen candidates of data under a protocol as Parquet, for other models.

    ``rows_SPLIT.parquet`` has a line per row: ``row, user, domain, target`` and the histories ``history_DOMAIN`` (item
    ids, oldest first). ``candidates_SPLIT.parquet``, for validation and test, has ``row, domain, target, candidates``
    (the ids of the sampled negatives).

    Raises
    ------
    LayoutError
        ``out`` exists.
    """
    out = Path(out)
    with runs.new_folder(out) as part:
        dataset = load_dataset_once(parameters)
        for split, rows in dataset.splits.items():
            table = _rows_table(rows)
            table.to_parquet(part / f"rows_{split}.parquet", index=False)
            if split != "train":
                p = parameters
                negatives = evaluation.sample_negatives(rows, p.evaluation.negatives, p.split.data_seed)
                asked = table[["row", "domain", "target"]].assign(candidates=pd.Series(_ids_of(rows, negatives)))
                asked.to_parquet(part / f"candidates_{split}.parquet", index=False)
        runs.write_json(part / "split.json", _about(dataset, parameters))
    return out


def _rows_table(rows: Rows) -> pd.DataFrame:
    names, catalogue = rows.catalogue.names, rows.catalogue
    domain = np.array([names[d] for d in DOMAINS], dtype=object)[rows.domain]
    lead = {"row": rows.source, "user": rows.user, "domain": domain}
    target = np.empty(len(rows), dtype=object)
    for d in DOMAINS:
        target[rows.of(d)] = catalogue.decode(d, rows.target[rows.of(d)])
    histories = {f"history_{names[d]}": _lists(catalogue.ids[d], rows.history[d]) for d in DOMAINS}
    return pd.DataFrame(lead | {"target": target} | histories)


def _lists(ids: Any, sequences: Ragged) -> list[Any]:
    """Each sequence as an array of the data's ids."""
    return np.split(ids[sequences.values - 1], sequences.offsets[1:-1])[: len(sequences)]  # split never gives no part


def _ids_of(rows: Rows, items: Any) -> list[list[str]]:
    ids = [rows.catalogue.ids[d] for d in DOMAINS]
    return [list(ids[d][line[line != PAD] - 1]) for d, line in zip(rows.domain, items)]


def _about(dataset: CrossDomainDataset, parameters: Parameters) -> dict[str, Any]:
    return {
        "data": dataset.name,
        "protocol": dataset.protocol,
        "domains": dict(dataset.catalogue.names),
        "data_seed": dataset.data_seed,
        "negatives": parameters.evaluation.negatives,
        "rows": {split: len(rows) for split, rows in dataset.splits.items()},
        "dataset_sha256": dataset.fingerprint(),
        "environment": runs.environment(),
    }
