"""The paper's table with our numbers: every system by domain and user type, beside the printed values.

Works on whatever a comparison (:mod:`.experiments.tuning`) has finished so far: missing and failed systems have their
lines too. Every number comes from the runs' ``ranks.parquet`` (:mod:`i2vae_lib.results.differences`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from i2vae_lib import paper
from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.evaluation import COUNTS
from i2vae_lib.experiments.grids import Settings
from i2vae_lib.experiments.tuning import Study, failures, read_study
from i2vae_lib.params import ParameterError
from i2vae_lib.places import suggestion
from i2vae_lib.recommenders import REGISTRY
from i2vae_lib.results import text
from i2vae_lib.results.differences import CELL, compare, places
from i2vae_lib.results.reading import CANDIDATES, CELLS_OF_THE_MEAN, METRICS, Opened, System, open_runs
from i2vae_lib.results.text import Captioned, Number, lines
from i2vae_lib.runs import LayoutError, committed_path, read_json, read_record, write_atomically, write_json
from i2vae_lib.stages import load_history

_BASE = "i2vae"
_FLOOR = "popularity"
_PLACE = {0: "", 1: "best", 2: "second"}
# the paper's "cold-start" combines cold and no-history rows
_OWN_KIND = {"tailed": "tailed", "cold_released": "cold", "all": "all"}


@dataclass(frozen=True)
class Table:
    """The finished part of a comparison.

    Attributes
    ----------
    about
        As :attr:`Comparison.about`; empty while no run is done.
    cells
        One line per system, ``domain`` (name), ``kind, metric, candidates``: ``n, seeds, mean, sd`` (fractions);
        ``place`` (1 best, 2 second, 0; those that read the truth have none); ``by_rule`` (every rank is popularity's);
        ``difference, interval_low, interval_high`` (against i2VAE, sampled, each cell by itself); ``paper_mean,
        paper_sd, flag`` (per cent, as printed; of its cold-start rows, which are cold and no-history ones together).
    systems
        One line per system: ``system, title, family, status`` (done, failed, begun, missing), ``reason, seeds``,
        ``seconds`` (of training with validation and of fitting the generator, if any; mean), ``memory`` (MiB, peak
        while training), ``epochs, best_epoch`` (of the last stage), ``point`` (what validation chose), ``validation``
        (NDCG@10).
    notes
        Remarks that belong beside the table.
    """

    about: dict[str, Any]
    cells: pd.DataFrame
    systems: pd.DataFrame
    notes: tuple[str, ...] = ()

    def filtered(self, systems: Sequence[str] | None = None, kinds: Sequence[str] = HEADLINE) -> Self:
        """Only these systems (None: all) and user types; places and p values remain those of the whole table.

        Raises
        ------
        ParameterError
            A system that is not in the table.
        """
        known = list(self.systems["system"])
        for name in systems or ():
            if name not in known:
                raise ParameterError(f"the table has no system '{name}'{suggestion(name, known)}")
        wanted = known if systems is None else list(systems)
        cells = self.cells[self.cells["system"].isin(wanted) & self.cells["kind"].isin(kinds)]
        listed = self.systems[self.systems["system"].isin(wanted)]
        return replace(self, cells=cells.reset_index(drop=True), systems=listed.reset_index(drop=True))

    def wide(self, metric: str = "HR@10", candidates: str = "sampled", style: str = "text") -> pd.DataFrame:
        """One metric in per cent, as strings: systems down, user types across.

        Parameters
        ----------
        style
            ``text`` marks the best by ¹ and the second by ² and has the paper's figure in brackets; ``markdown`` and
            ``latex`` print them bold and underlined.
        """
        return text.styled(self._wide(metric, candidates), style)

    def _wide(self, metric: str, candidates: str) -> pd.DataFrame:
        part = self.cells[(self.cells["metric"] == metric) & (self.cells["candidates"] == candidates)]
        there = set(zip(part["domain"], part["kind"]))
        columns = [(d, kind) for d in part["domain"].unique() for kind in HEADLINE if (d, kind) in there]
        numbers = {(one.system, one.domain, one.kind): _number(one) for one in lines(part)}
        shown = []
        for one in lines(self.systems):
            cells = {f"{d} {kind}": numbers.get((one.system, d, kind), one.status) for d, kind in columns}
            cost = ("-" if np.isnan(number) else f"{number:,.0f}" for number in (one.seconds, one.memory))
            shown.append({"system": one.title, **cells, "seeds": str(one.seeds), **dict(zip(("seconds", "MiB"), cost))})
        return pd.DataFrame(shown)

    def against_base(self, metric: str = "HR@10") -> pd.DataFrame:
        """Every system less the base (:attr:`about`), in points, best over all rows first.

        Returns
        -------
        DataFrame
            ``domain, kind, n, title, family``; ``difference, interval_low, interval_high`` (95 %, over users);
            ``best``: whether it is the best reference of its domain and kind. Sampled candidates; no ceilings.
        """
        part = self.cells[(self.cells["metric"] == metric) & (self.cells["candidates"] == "sampled")]
        part = part.merge(self.systems[["system", "title", "family"]], on="system")
        part = part[part["family"] != "ceiling"].assign(order=part["kind"].map(["all", "tailed", "cold"].index))
        sides = ["difference", "interval_low", "interval_high"]
        own = part["system"] == self.about["base"]
        part[sides] = 100 * part[sides].mask(own, 0.0)
        reference = part["mean"].where(part["family"] == "reference")
        part["best"] = reference == reference.groupby([part["domain"], part["kind"]]).transform("max")
        part = part.sort_values(["domain", "order", "mean"], ascending=[True, True, False], ignore_index=True)
        return part[["domain", "kind", "n", "title", "family", *sides, "best"]]

    def flat(self) -> pd.DataFrame:
        """For a spreadsheet: :attr:`cells` joined with :attr:`systems`; a system without cells has one line."""
        known = self.systems.drop(columns=["family", "seeds"])
        return known.merge(self.cells, on="system", how="left")

    def written(self, style: str = "text") -> str:
        """The whole table: ``text`` for a terminal, GitHub's ``markdown``, ``latex`` (needs booktabs), or ``csv``."""
        if style == "csv":
            return text.as_csv(self.flat())
        unprinted = ["seeds"] if style == "latex" else []
        tables = [
            Captioned(f"{metric} in per cent, {kind} candidates", self._wide(metric, kind).drop(columns=unprinted))
            for kind in CANDIDATES
            for metric in self.about.get("metrics", [])
        ]
        return text.document([_head(self.about), *tables, "", *_notes(self, style)], style)

    def save(self, path: Path, **made_by: Any) -> None:
        """Write the cells to ``path`` (CSV), and the systems and how the table was made to a JSON file beside it."""
        write_atomically(path, lambda part: text.as_csv(self.cells, part))
        write_json(path.with_suffix(".json"), made_by | {k: v for k, v in self.to_json().items() if k != "cells"})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote."""
        beside = read_json(path.with_suffix(".json"))
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
        """Load ``docs/results/NAME.csv`` (:func:`i2vae_lib.runs.committed_path`)."""
        return cls.load(committed_path(name))

    def to_json(self) -> dict[str, Any]:
        """Everything, as strict JSON."""
        return text.strict(vars(self))


def paper_table(folders: Sequence[Path | str], *, resamples: int = 10_000, rng: np.random.Generator) -> Table:
    """The table of comparisons and runs, as far as they are finished.

    Parameters
    ----------
    folders
        Folders of ``i2vae table``, run directories, or both; all on the same rows and candidates.
    resamples, rng
        As in :func:`i2vae_lib.results.differences.compare`.

    Raises
    ------
    LayoutError
        A folder that holds neither, one of another layout, or runs that cannot be compared.
    """
    states = list(_states([Path(folder) for folder in folders]))
    done = [run for one in states for run in one.pop("done")]
    listed = pd.DataFrame(states)
    if not done:
        return Table({}, pd.DataFrame(columns=["system", *CELL, "candidates"]), _in_order(listed))
    opened = open_runs(done)
    _refuse_variants(opened.systems)
    base = _BASE if _BASE in opened.systems else None
    found = compare(opened, base=base, resamples=resamples, rng=rng)
    cells = found.results[found.results["kind"].isin(HEADLINE)]
    cells = cells.merge(_by_rule(opened), on=["system", "domain", "kind"], how="left")
    cells = cells.assign(place=places(cells))
    tests = found.tests[["system", *CELL, "candidates", "difference", "interval_low", "interval_high"]]
    cells = cells.merge(tests, on=["system", *CELL, "candidates"], how="left")
    cells = cells.merge(_printed(found.about["data"]), on=["system", *CELL], how="left")
    names = [name for name in opened.systems if name not in set(listed["system"])]
    listed = pd.concat([listed, pd.DataFrame([_line(name, status="done") for name in names])], ignore_index=True)
    return Table(found.about, cells, _in_order(listed), (*found.notes, *_overall(found.overall)))


def _overall(overall: pd.DataFrame) -> list[str]:
    """The claims of the table: each system against the base, on the mean over cells."""
    asked = overall[overall["p_holm"].notna()]
    if asked.empty:
        return []
    told = [
        f"{REGISTRY[one.system].title} {text.with_interval(one)}{' *' if one.p_holm < 0.05 else ''}"
        for one in lines(asked)
    ]
    return [
        f"Mean over {asked['cells'].iloc[0]} cells (sampled candidates), less that of "
        f"{REGISTRY[asked['base'].iloc[0]].title}, in points with the 95 % interval of a paired bootstrap over users; "
        f"* p < 0.05 after Holm over these {len(asked)} systems: {'; '.join(told)}. "
        f"{CELLS_OF_THE_MEAN}"
    ]


def _refuse_variants(systems: Mapping[str, System]) -> None:
    """Refuse two variants of one system, for which the table has a single line; names a parameter that differs."""
    known: dict[str, System] = {}
    for one in systems.values():
        first = known.setdefault(one.name, one)
        for key in (key for key in one.differing if one.differing[key] != first.differing[key]):
            raise LayoutError(
                f"{one.folders[0]}: another variant of {one.name} ({key} = {one.differing[key]!r}, not "
                f"{first.differing[key]!r}): the table has one line per system; `i2vae compare` alone has them all"
            )


def _in_order(systems: pd.DataFrame) -> pd.DataFrame:
    order = list(REGISTRY)
    return systems.sort_values("system", key=lambda names: names.map(order.index)).reset_index(drop=True)


def _line(name: str, **known: Any) -> dict[str, Any]:
    entry = REGISTRY[name]
    blank = {"status": "missing", "reason": "", "seeds": 0, "seconds": np.nan, "memory": np.nan, "epochs": np.nan}
    blank |= {"best_epoch": np.nan, "point": "", "validation": np.nan}
    return {"system": name, "title": entry.title, "family": entry.family} | blank | known


def _states(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """One line per system: its state, and the folders of its finished runs under ``done``."""
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
    """The state of a system in two folders: that of the folder which is further, with the reasons of both."""
    if one is None:
        return other
    order = ("done", "failed", "begun", "missing")
    first, second = sorted((one, other), key=lambda said: order.index(said["status"]))
    reasons = dict.fromkeys(said["reason"] for said in (first, second) if said.get("reason"))
    return {**second, **first, "reason": "; ".join(reasons)}


def _progress(study: Study, name: str) -> tuple[list[Path], dict[str, Any]]:
    """The finished runs of one system of a comparison, and its state."""
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
    words = _words(point) + f" (best of {len(tried)})" * (len(tried) > 1)
    status = "done" if done else "failed" if reason else "begun"
    return done, {"status": status, "reason": "; ".join([*missing, *([reason] if reason else [])]), "point": words}


def _words(point: Settings) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items()) or "as the preset"


def trials(folder: Path) -> pd.DataFrame:
    """What a call of ``i2vae table`` tried on validation: every point of every system, in their order.

    Returns
    -------
    DataFrame
        ``system``; ``trial``, from 1; ``point``, its settings; ``validation``, NDCG@10 (nan if not finished);
        ``best_epoch`` and ``epochs``; ``seconds`` of training and validation; ``chosen``; ``reason``, if it failed.
    """
    study, tried = read_study(folder), []
    for name in study.points:
        chosen = study.chosen(name)
        for number, (point, run, value, reason) in enumerate(study.tried(name), start=1):
            line = {"system": name, "trial": number, "point": _words(point), "validation": value}
            line |= {"best_epoch": None, "epochs": None, "seconds": None}
            if value is not None:
                history = load_history(run)
                line |= {"best_epoch": read_record(run)["best_epoch"], "epochs": len(history)}
                line["seconds"] = round(_seconds(history), 1)
            tried.append(line | {"chosen": point == chosen, "reason": reason or ""})
    return pd.DataFrame(tried)


def _seconds(history: pd.DataFrame) -> float:
    return float(history[["seconds", "validation seconds"]].to_numpy().sum())


def _finished(runs: Sequence[Path]) -> dict[str, Any]:
    """Cost and training of the finished runs of a system."""
    records = [read_record(one) for one in runs]
    histories = [load_history(one) for one in runs]
    # from the history, which outlives a kill; the generator may have been fitted by an earlier run
    seconds = [_seconds(history) + record.get("generator_seconds", 0.0) for history, record in zip(histories, records)]
    last = [one[one["stage"] == one["stage"].max()] if "stage" in one else one for one in histories]
    return {
        "seeds": len(runs),
        "seconds": float(np.mean(seconds)),
        "memory": max(one["stages"]["train"]["peak_memory_bytes"] for one in records) / 2**20,
        "epochs": float(np.mean([len(one) for one in last])),
        "best_epoch": float(np.mean([one["best_epoch"] for one in records])),
        "validation": float(np.mean([one["best_validation_ndcg"] for one in records])),
    }


def _by_rule(opened: Opened) -> pd.DataFrame:
    """Cells in which every rank of a system is popularity's, because it fell back on it."""
    found = []
    for run in opened.runs:
        floor = run.ranks[_FLOOR][list(COUNTS)]
        for name, ranks in run.ranks.items():
            equal = (ranks[list(COUNTS)] == floor).all(axis=1).to_numpy()
            for cell, mask in zip(opened.cells, opened.masks.T, strict=True):
                found.append((name, *cell, name != _FLOOR and bool(mask.any() and equal[mask].all())))
    table = pd.DataFrame(found, columns=["system", "domain", "kind", "by_rule"])
    return table.groupby(["system", "domain", "kind"], sort=False)["by_rule"].all().reset_index()


def _printed(pair: str) -> pd.DataFrame:
    """Table 5 of the paper under our names of systems and user types."""
    table = paper.tables().rename(columns={"system": "printed", "mean": "paper_mean", "sd": "paper_sd"})
    table = table[(table["table"] == "5") & (table["pair"] == pair)]
    ours = pd.DataFrame([(name, entry.printed) for name, entry in REGISTRY.items()], columns=["system", "printed"])
    table = table.merge(ours, on="printed").assign(kind=lambda found: found["kind"].map(_OWN_KIND))
    return table.loc[table["kind"].notna(), ["system", *CELL, "paper_mean", "paper_sd", "flag"]]


def _number(cell: Any) -> Number:
    if cell.by_rule:
        return Number(cell.mean, mark="by rule")
    printed = cell.candidates == "sampled" and not np.isnan(cell.paper_mean)
    return Number(cell.mean, cell.sd, _PLACE[cell.place], f" ({cell.paper_mean:.2f})" if printed else "")


def _head(about: Mapping[str, Any]) -> str:
    if not about:
        return "nothing is done yet"
    return (
        f"{about['data']}, protocol {about['protocol']}: {about['rows']} test rows, sampled: 1 + {about['negatives']} "
        f"candidates{'. ' if about['stamp'] else ''}{about['stamp']}"
    )


def _notes(table: Table, style: str) -> Iterator[str]:
    if table.about:
        placed, by_rule = text.LEGEND[style]
        yield (
            f"{placed} of a column (those that read the synthetic truth left out); {by_rule}: every rank is "
            f"popularity's, by rule."
        )
        if table.cells["paper_mean"].notna().any():
            yield "In brackets: what the paper prints, on its split; its cold-start combines cold and no-history rows."
        yield from _under_the_floor(table.cells)
        yield from table.notes
        counts = table.cells.drop_duplicates(["domain", "kind"]).sort_values("domain", kind="stable")
        yield f"Rows: {', '.join(f'{one.domain} {one.kind} {one.n:,}' for one in lines(counts))}."
    for one in lines(table.systems):
        trained = f"{one.point}; {one.epochs:.0f} epochs, the best {one.best_epoch:.0f}" if one.point else ""
        words = [trained, one.status if one.status != "done" else "", one.reason]
        if any(words):
            yield f"{one.title}: {': '.join(filter(None, words))}"


def _under_the_floor(cells: pd.DataFrame) -> Iterator[str]:
    """Names the systems that lose to popularity on cold rows, which cross-domain systems are meant for."""
    cold = cells[(cells["kind"] == "cold") & (cells["metric"] == METRICS[0]) & (cells["candidates"] == "sampled")]
    under = []
    for domain, column in cold.groupby("domain", sort=False):
        means = column.set_index("system")["mean"].round(12)
        names = set(means.index[means < means.get(_FLOOR, np.nan)])
        if names:
            under.append(f"{domain}: {', '.join(entry.title for name, entry in REGISTRY.items() if name in names)}")
    if under:
        yield f"Under popularity on cold rows ({METRICS[0]}, sampled): {'; '.join(under)}."
