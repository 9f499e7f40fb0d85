"""The paper's table, made anew: every system by domain and user type, beside what the paper prints.

Works on whatever a comparison has finished so far (:mod:`i2vae_lib.tuning`): what is missing or failed is a line of
the table too. Every number comes from the runs' ``ranks.parquet`` through :mod:`i2vae_lib.compare`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from i2vae_lib import paper
from i2vae_lib.compare import compare, own_parameters
from i2vae_lib.data.dataset import DOMAINS
from i2vae_lib.evaluation import COUNTS, kind_masks
from i2vae_lib.lift import KINDS, METRICS
from i2vae_lib.params import ParameterError
from i2vae_lib.places import suggestion
from i2vae_lib.recommenders import CEILINGS, REGISTRY
from i2vae_lib.runs import LayoutError, committed_path, read_record, write_atomically, write_json
from i2vae_lib.tuning import Study, failures, read_study

CELL = ["domain", "kind", "metric", "candidates"]
BASE = "i2vae"
FLOOR = "popularity"
PAPER_KIND = {"tailed": "tailed", "cold": "cold_released", "all": "all"}
"""The paper's "cold-start" are cold and no-history rows together."""

SUPERSCRIPT = {1: "¹", 2: "²"}


@dataclass(frozen=True)
class Table:
    """What is done of a comparison.

    Attributes
    ----------
    about
        As :attr:`compare.Comparison.about`; empty while no run is done.
    cells
        A line a system, ``domain`` (name), ``kind``, ``metric`` and ``candidates``: ``n, seeds, mean, sd`` (fractions);
        ``place`` (1 best, 2 second, 0; those that read the truth have none); ``by_rule`` (every rank is popularity's);
        ``difference, interval_low, interval_high`` (against i2VAE, sampled, each cell by itself); ``paper_mean,
        paper_sd, flag`` (per cent, as printed; of its cold-start rows, which are cold and no-history ones together).
    systems
        A line a system: ``system, title, family, status`` (done, failed, begun, missing), ``reason, seeds, seconds``
        (of training with its validations, and of fitting the generator where there is one; mean), ``memory`` (MiB, peak
        while training), ``epochs, best_epoch`` (of the last stage), ``point`` (what validation chose), ``validation``
        (NDCG@10).
    notes
        What a reader should know beside the table.
    """

    about: dict[str, Any]
    cells: pd.DataFrame
    systems: pd.DataFrame
    notes: tuple[str, ...] = ()

    def filtered(self, systems: Sequence[str] | None = None, kinds: Sequence[str] = KINDS) -> Table:
        """Only these systems (None: all) and user types; places and p-values stay those of the whole table.

        Raises
        ------
        ParameterError
            A system that the table has not.
        """
        known = list(self.systems["system"])
        for name in systems or ():
            if name not in known:
                raise ParameterError(f"the table has no system '{name}'{suggestion(name, known)}")
        wanted = known if systems is None else list(systems)
        cells = self.cells[self.cells["system"].isin(wanted) & self.cells["kind"].isin(kinds)]
        listed = self.systems[self.systems["system"].isin(wanted)]
        return Table(self.about, cells.reset_index(drop=True), listed.reset_index(drop=True), self.notes)

    def wide(self, metric: str = "HR@10", candidates: str = "sampled", style: str = "text") -> pd.DataFrame:
        """One metric, systems down and user types across, in per cent: strings to be read.

        Parameters
        ----------
        style
            ``text`` marks the best by ¹ and the second by ² and has the paper's figure in brackets; ``markdown`` and
            ``latex`` print them bold and underlined.
        """
        part = self.cells[(self.cells["metric"] == metric) & (self.cells["candidates"] == candidates)]
        columns = part.drop_duplicates(["domain", "kind"]).sort_values("kind", key=lambda kinds: kinds.map(KINDS.index))
        columns = columns.sort_values("domain", kind="stable", key=lambda names: names.map(list(names.unique()).index))
        lines = []
        for one in _lines(self.systems):
            line = {"system": one.title}
            for cell in _lines(columns):
                own = part[
                    (part["system"] == one.system) & (part["domain"] == cell.domain) & (part["kind"] == cell.kind)
                ]
                line[f"{cell.domain} {cell.kind}"] = _written(next(_lines(own)), style) if len(own) else one.status
            line["seeds"] = str(one.seeds)
            line["seconds"] = "-" if np.isnan(one.seconds) else f"{one.seconds:,.0f}"
            line["MiB"] = "-" if np.isnan(one.memory) else f"{one.memory:,.0f}"
            lines.append(line)
        return pd.DataFrame(lines)

    def _tables(self) -> Iterator[tuple[str, str]]:
        return itertools.product(("sampled", "full"), self.about.get("metrics", []))

    def flat(self) -> pd.DataFrame:
        """A line a cell and system for a spreadsheet: :attr:`cells` with what :attr:`systems` knows; a system without
        any cell has one line."""
        known = self.systems.drop(columns=["family", "seeds"])
        return known.merge(self.cells, on="system", how="left")

    def text(self) -> str:
        """The whole table to be read in a terminal."""
        lines = [_head(self)]
        for candidates, metric in self._tables():
            lines += ["", f"{metric} in per cent, {candidates} candidates"]
            lines.append(self.wide(metric, candidates).to_string(index=False))
        return "\n".join([*lines, "", *_notes(self, "text")])

    def markdown(self) -> str:
        """GitHub's tables, one a metric and kind of candidates."""
        parts = [_head(self)]
        for candidates, metric in self._tables():
            written = self.wide(metric, candidates, style="markdown").to_markdown(index=False, disable_numparse=True)
            parts.append(f"**{metric}**, per cent, {candidates}\n\n{written}")
        return "\n\n".join([*parts, *_notes(self, "markdown")]) + "\n"

    def latex(self) -> str:
        """A tabular a metric and kind of candidates; needs booktabs."""
        parts = [f"% {line}" for line in [_head(self), *_notes(self, "latex")]]
        for candidates, metric in self._tables():
            wide = self.wide(metric, candidates, style="latex").drop(columns=["seeds"])
            wide.columns = [_for_latex(name) for name in wide.columns]
            parts.append(f"% {metric}, per cent, {candidates}")
            parts.append(wide.to_latex(index=False, escape=False, column_format="l" + "r" * (wide.shape[1] - 1)))
        return "\n".join(parts)

    def save(self, path: Path, **made_by: Any) -> None:
        """``path`` (CSV) with the cells, and beside it JSON with the systems and what made the table."""
        write_atomically(path, lambda part: self.cells.to_csv(part, index=False))
        systems = json.loads(self.systems.to_json(orient="records"))
        write_json(
            path.with_suffix(".json"), {**made_by, "about": self.about, "systems": systems, "notes": list(self.notes)}
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """What :meth:`save` wrote."""
        beside = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        systems = pd.DataFrame(beside["systems"])
        numbers = ["seconds", "memory", "epochs", "best_epoch", "validation"]
        return cls(
            beside["about"],
            pd.read_csv(path),
            systems.astype(dict.fromkeys(numbers, "float64")),
            tuple(beside["notes"]),
        )

    @classmethod
    def committed(cls, name: str) -> Self:
        """``docs/results/NAME.csv`` of this checkout; an installed wheel does not carry it."""
        return cls.load(committed_path(name))

    def to_json(self) -> dict[str, Any]:
        """Everything, as strict JSON."""
        frames = {"cells": self.cells, "systems": self.systems}
        return {
            "about": self.about,
            "notes": list(self.notes),
            **{name: json.loads(one.to_json(orient="records")) for name, one in frames.items()},
        }


def paper_table(
    folders: Sequence[Path | str],
    *,
    metric_names: Sequence[str] = METRICS,
    resamples: int = 10_000,
    rng: np.random.Generator,
) -> Table:
    """The table of comparisons and runs, as far as they are done.

    Parameters
    ----------
    folders
        Folders of ``i2vae table``, run directories, or both; all on the same rows and candidates.
    metric_names, resamples, rng
        As in :func:`i2vae_lib.compare.compare`.

    Raises
    ------
    LayoutError
        A folder that holds neither, one of another layout, or runs that cannot be compared.
    ParameterError
        An unknown metric.
    """
    states = list(_states([Path(folder) for folder in folders]))
    done = [run for one in states for run in one.pop("done")]
    listed = pd.DataFrame(states)
    if not done:
        return Table({}, pd.DataFrame(columns=["system", *CELL]), _in_order(listed))
    trained = _one_variant_each(done)
    base = BASE if BASE in trained else trained[0]
    found = compare(done, metric_names=metric_names, base=base, resamples=resamples, rng=rng)
    cells = found.results[found.results["kind"].isin(KINDS)]
    cells = cells.merge(_by_rule(done), on=["system", "domain", "kind"], how="left")
    cells = cells.assign(place=_places(cells))
    notes = (*found.notes, *_overall(found.overall))
    tests = found.tests[["system", *CELL, "difference", "interval_low", "interval_high"]]
    cells = cells.merge(tests, on=["system", *CELL], how="left")
    cells = cells.merge(_printed(found.about["data"]), on=["system", "domain", "kind", "metric"], how="left")
    names = [name for name in cells["system"].unique() if name not in set(listed["system"])]
    listed = pd.concat([listed, pd.DataFrame([_line(name, status="done") for name in names])], ignore_index=True)
    return Table(found.about, cells.reset_index(drop=True), _in_order(listed), notes)


def _overall(overall: pd.DataFrame) -> list[str]:
    """The claims of the table: each system against the base on the mean over cells."""
    asked = overall[overall["p_holm"].notna()]
    if asked.empty:
        return []
    said = [
        f"{REGISTRY[one.system].title} {100 * one.difference:+.2f} ({100 * one.interval_low:+.2f} to "
        f"{100 * one.interval_high:+.2f}){' *' if one.p_holm < 0.05 else ''}"
        for one in _lines(asked)
    ]
    return [
        f"Mean over the {asked['cells'].iloc[0]} cells of {', '.join(KINDS)} rows (sampled), less that of "
        f"{REGISTRY[asked['base'].iloc[0]].title}, in points with the 95 % interval of a paired bootstrap over users; "
        f"* p < 0.05 after Holm over these {len(asked)} systems: {'; '.join(said)}."
    ]


def _one_variant_each(runs: Sequence[Path]) -> list[str]:
    """The systems of runs, in their order; two variants of one are refused, for a table has one line for it."""
    variants: dict[str, dict[str, Any]] = {}
    for run in runs:
        own = own_parameters(read_record(run))
        known = variants.setdefault(own["system"], own)
        differing = [key for key in sorted(own | known) if own.get(key) != known.get(key)]
        if differing:
            raise LayoutError(
                f"{run}: another variant of {own['system']} ({differing[0]} = {own.get(differing[0])!r}, not "
                f"{known.get(differing[0])!r}): the table has one line a system; `i2vae compare` alone has them all"
            )
    return list(variants)


def _in_order(systems: pd.DataFrame) -> pd.DataFrame:
    order = list(REGISTRY)
    return systems.sort_values("system", key=lambda names: names.map(order.index)).reset_index(drop=True)


def _line(name: str, **known: Any) -> dict[str, Any]:
    entry = REGISTRY[name]
    blank = {"status": "missing", "reason": "", "seeds": 0, "seconds": np.nan, "memory": np.nan, "epochs": np.nan}
    blank |= {"best_epoch": np.nan, "point": "", "validation": np.nan}
    return {"system": name, "title": entry.title, "family": entry.family} | blank | known


def _states(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Where each system stands, and the folders of its finished runs under ``done``: one line a system."""
    done: dict[str, list[Path]] = {}
    words: dict[str, dict[str, Any]] = {}
    for folder in folders:
        if (folder / "study.json").is_file():
            study = read_study(folder)
            for name in study.points:
                found, said = _progress(study, name)
                done.setdefault(name, []).extend(found)
                words[name] = _furthest(words.get(name), said)
        elif (folder / "run.json").is_file():
            name = read_record(folder)["parameters"]["system"]
            done.setdefault(name, []).append(folder)
            words[name] = _furthest(words.get(name), {"status": "done"})
        else:
            raise LayoutError(f"{folder} holds no comparison and no run; `i2vae table --out {folder}` makes one")
    for name, runs in done.items():
        yield _line(name, done=runs, **words[name], **(_finished(runs) if runs else {}))


def _furthest(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """What is said of a system that stands in two folders: by the one that is further, with both reasons."""
    if one is None:
        return other
    order = ("done", "failed", "begun", "missing")
    first, second = sorted((one, other), key=lambda said: order.index(said["status"]))
    reasons = dict.fromkeys(said["reason"] for said in (first, second) if said.get("reason"))
    return {**second, **first, "reason": "; ".join(reasons)}


def _progress(study: Study, name: str) -> tuple[list[Path], dict[str, Any]]:
    """The finished runs of a system of a comparison, and how far it is."""
    tried = study.tried(name)
    reason = next(iter(failures(study, name).values()), "")
    point = study.chosen(name)
    if point is None:
        begun = any((one.folder / "run.json").is_file() for one in tried)
        return [], {"status": "failed" if reason else "begun" if begun else "missing", "reason": reason}
    asked = [study.run_folder(name, point, seed) for seed in study.seeds]
    done = [one for one in asked if (one / "metrics.json").is_file()]
    lost = sum(one.value is None for one in tried)
    missing = [f"{lost} of {len(tried)} points failed"] if lost else []
    missing += [f"{len(done)} of {len(asked)} seeds done"] if len(done) < len(asked) else []
    words = ", ".join(f"{key}={value}" for key, value in point.items()) or "as the preset"
    status = "done" if done else "failed" if reason else "begun"
    return done, {"status": status, "reason": "; ".join([*missing, *([reason] if reason else [])]), "point": words}


def _finished(runs: Sequence[Path]) -> dict[str, Any]:
    """Cost and training of a system's finished runs, its seeds."""
    for one in runs:
        if not (one / "history.parquet").is_file():
            raise LayoutError(f"{one} is not trained yet (no history.parquet): the table has finished runs alone")
    records = [read_record(one) for one in runs]
    histories = [pd.read_parquet(one / "history.parquet") for one in runs]
    # from the history, which outlives a kill; the generator may have been fitted by an earlier run
    seconds = [
        float(history[["seconds", "validation seconds"]].to_numpy().sum()) + record.get("generator_seconds", 0.0)
        for history, record in zip(histories, records)
    ]
    last = [one[one["stage"] == one["stage"].max()] if "stage" in one else one for one in histories]
    return {
        "seeds": len(runs),
        "seconds": float(np.mean(seconds)),
        "memory": max(one["stages"]["train"]["peak_memory_bytes"] for one in records) / 2**20,
        "epochs": float(np.mean([len(one) for one in last])),
        "best_epoch": float(np.mean([one["best_epoch"] for one in records])),
        "validation": float(np.mean([one["best_validation_ndcg"] for one in records])),
    }


def _by_rule(runs: Sequence[Path]) -> pd.DataFrame:
    """Where every rank of a system is popularity's: it had nothing to say and took the fall-back."""
    lines = []
    counts = list(COUNTS)
    for run in runs:
        record, table = read_record(run), pd.read_parquet(run / "ranks.parquet")
        floor = table[table["recommender"] == FLOOR].set_index(["domain", "row", "user"])[counts]
        for name, part in table.groupby("recommender", sort=False):
            ranks = part.set_index(["domain", "row", "user"])
            equal = (ranks[counts] == floor.loc[ranks.index]).all(axis=1).to_numpy()
            masks = kind_masks(part)
            for d in DOMAINS:
                for kind in KINDS:
                    mask = (part["domain"] == d).to_numpy() & masks[kind].to_numpy(dtype=bool)
                    by_rule = name != FLOOR and bool(mask.any() and equal[mask].all())
                    lines.append((name, record["names"][d], kind, by_rule))
    table = pd.DataFrame(lines, columns=["system", "domain", "kind", "by_rule"])
    return table.groupby(["system", "domain", "kind"], sort=False)["by_rule"].all().reset_index()


def _places(cells: pd.DataFrame) -> pd.Series:
    """1 for the best mean of a cell, 2 for the second, 0 else; equal means share a place."""
    ranked = cells["mean"].where(~cells["system"].isin(CEILINGS)).round(12)
    keys = [cells[name] for name in CELL]
    place = ranked.groupby(keys).rank(method="dense", ascending=False)
    return place.where(place <= 2, 0).fillna(0).astype(int)


def _printed(pair: str) -> pd.DataFrame:
    """The paper's cells of Table 5 under our names of systems and user types."""
    table = paper.tables()
    table = table[(table["table"] == "5") & (table["pair"] == pair)]
    named = pd.DataFrame(
        [(name, entry.printed) for name, entry in REGISTRY.items() if entry.printed], columns=["own", "system"]
    )
    kinds = pd.DataFrame(list(PAPER_KIND.items()), columns=["own_kind", "kind"])
    joined = table.merge(named, on="system").merge(kinds, on="kind")
    columns = {"own": "system", "own_kind": "kind", "mean": "paper_mean", "sd": "paper_sd"}
    joined = joined[["own", "domain", "own_kind", "metric", "mean", "sd", "flag"]].rename(columns=columns)
    return joined


def _written(cell: Any, style: str) -> str:
    if np.isnan(cell.mean):
        return "-"
    number = f"{100 * cell.mean:.2f}"
    spread = "" if np.isnan(cell.sd) else f" ± {100 * cell.sd:.2f}"
    if cell.by_rule:
        return {"latex": f"\\textit{{{number}}}"}.get(style, f"{number} =pop")
    beside = "" if np.isnan(cell.paper_mean) or cell.candidates != "sampled" else f" ({cell.paper_mean:.2f})"
    if style == "text":
        return f"{number}{SUPERSCRIPT.get(cell.place, '')}{spread}{beside}"
    bold, underline = {"markdown": ("**{}**", "<u>{}</u>"), "latex": ("\\textbf{{{}}}", "\\underline{{{}}}")}[style]
    number = {1: bold, 2: underline}.get(cell.place, "{}").format(number)
    if style == "latex":
        return number + spread.replace(" ± ", "$\\pm$") + beside
    return f"{number}{spread}{beside}"


def _for_latex(name: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", name)


def _head(table: Table) -> str:
    about = table.about
    if not about:
        return "nothing is done yet"
    return (
        f"{about['data']}, protocol {about['protocol']}: {about['rows']} test rows, sampled: 1 + {about['negatives']} "
        f"candidates{'. ' if about['stamp'] else ''}{about['stamp']}"
    )


MARKS = {
    "text": ("¹ best and ² second", "=pop"),
    "markdown": ("Bold: best, underlined: second", "=pop"),
    "latex": ("bold: best, underlined: second", "italics"),
}


def _notes(table: Table, style: str) -> list[str]:
    lines = []
    if table.about:
        places, by_rule = MARKS[style]
        lines.append(
            f"{places} of a column (those that read the planted truth left out); {by_rule}: every rank is "
            f"popularity's, by rule."
        )
        if table.cells["paper_mean"].notna().any():
            lines.append(
                "In brackets: what the paper prints, on its split; its cold-start is cold and no-history rows together."
            )
        lines += _under_the_floor(table)
        lines += table.notes
        counts = table.cells.drop_duplicates(["domain", "kind"]).sort_values("domain", kind="stable")
        lines.append("Rows: " + ", ".join(f"{one.domain} {one.kind} {one.n:,}" for one in _lines(counts)) + ".")
    for one in _lines(table.systems):
        words = [f"{one.point}; {one.epochs:.0f} epochs, the best {one.best_epoch:.0f}"] if one.point else []
        words += [one.status] if one.status != "done" else []
        words += [one.reason] if one.reason else []
        if words:
            lines.append(f"{one.title}: {': '.join(words)}")
    return lines


def _under_the_floor(table: Table) -> list[str]:
    """Cold rows are what systems of two domains are for: whoever loses to popularity there is named."""
    cells = table.cells
    cold = cells[(cells["kind"] == "cold") & (cells["metric"] == METRICS[0]) & (cells["candidates"] == "sampled")]
    under = []
    for domain, column in cold.groupby("domain", sort=False):
        means = column.set_index("system")["mean"].round(12)
        names = set(means.index[means < means.get(FLOOR, np.nan)])
        if names:
            under.append(f"{domain}: {', '.join(entry.title for name, entry in REGISTRY.items() if name in names)}")
    return [f"Under popularity on cold rows ({METRICS[0]}, sampled): {'; '.join(under)}."] if under else []


def _lines(table: pd.DataFrame) -> Any:
    return table.itertuples()
