"""Opens finished runs on the same rows: their systems, their cells, and every metric row by row.

A run is one seed of one trained system; runs that agree in every parameter but the seed are seeds of the same one. The
reference rankers do not depend on the seed and are read from the first run alone. Runs with other rows, candidates or
data are refused.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from i2vae_lib import stages
from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.data.protocols import outside_note
from i2vae_lib.data.rows import DOMAINS, Array
from i2vae_lib.evaluation import COUNTS, fewer_candidates, kind_masks, row_values
from i2vae_lib.params import of_result
from i2vae_lib.runs import LayoutError, flatten, read_record, refuse_exported

# rows that a cell must have to count in that mean, unless there is no larger one: one row more or less moves a cell of
# five rows by twenty points
COUNTED = 100
# the sentence that goes with every mean over cells
CELLS_OF_THE_MEAN = (
    f"A cell is one metric on the {', '.join(HEADLINE[:-1])} or {HEADLINE[-1]} rows of one domain; cells of fewer than "
    f"{COUNTED} rows count only where there are no larger ones."
)
_KINDS = ("all", "seen", "tailed", "tailed_warm", "cold", "overlapping", "no_history")  # in the order of comparisons
CANDIDATES = ("sampled", "full")
METRICS = ("HR@10", "NDCG@10")
_IDENTITY = ["domain", "row", "user"]
_WORLD = ("split.", "controls.", "synthetic.")  # groups of parameters that determine the rows
# share of rows on which a reference may differ between runs: another BLAS orders nearly equal scores differently
_ROUNDING = 0.01


class _Run(NamedTuple):
    """A finished run."""

    folder: Path
    record: dict[str, Any]  # run.json
    parameters: dict[str, Any]  # by dotted key
    ranks: dict[str, pd.DataFrame]  # recommender -> its lines of ranks.parquet, in one order

    @property
    def trained(self) -> str:
        """The recommender that the run trained; all others in its ranks are reference rankers."""
        return str(self.parameters["system"])

    @property
    def rows(self) -> pd.DataFrame:
        return self.ranks[self.trained]

    @property
    def own(self) -> dict[str, Any]:
        """The parameters that distinguish its system: all that its result depends on but the seed and the number of
        rows scored at a time."""
        flat = flatten(of_result(self.record["parameters"], stages.irrelevant_groups([self.trained])))
        return {key: one for key, one in flat.items() if key not in ("seed", "evaluation.batch_size")}

    @property
    def identity(self) -> dict[str, Any]:
        """What runs must share for a row to be the same question in each, with the same candidates."""
        known = {key: self.record.get(key) for key in ("data", "protocol", "data_seed", "dataset_sha256")}
        return known | {"negatives": self.parameters.get("evaluation.negatives")}


class System(NamedTuple):
    """One column of the tables: ranks by seed, in order; a reference ranker has the one seed None."""

    name: str
    runs: dict[int | None, pd.DataFrame]
    folders: tuple[str, ...]
    differing: dict[str, Any]  # parameters in which the variants of the system differ


@dataclass(frozen=True)
class Opened:
    """Runs on the same rows and candidates.

    Attributes
    ----------
    runs
        In the order of the folders.
    systems
        By label: trained systems in the order of the folders, then the reference rankers.
    cells, masks
        (Name of the domain, kind) of every cell, and its rows, bool [rows, cells].
    notes
        Remarks on the data that belong beside every table.
    """

    runs: tuple[_Run, ...]
    systems: dict[str, System]
    cells: list[tuple[str, str]]
    masks: Array
    notes: tuple[str, ...]

    @property
    def users(self) -> Array:
        """The user of each row."""
        first = next(iter(self.systems.values()))
        return next(iter(first.runs.values()))["user"].to_numpy()

    @property
    def headline(self) -> Array:
        """Masks of the cells of :data:`HEADLINE` that count in a mean (:data:`COUNTED`), bool [rows, cells]."""
        masks = self.masks[:, [kind in HEADLINE for _, kind in self.cells]]
        rows = masks.sum(axis=0)
        return masks[:, rows >= (COUNTED if (rows >= COUNTED).any() else 1)]

    def values(self, candidates: str, cutoffs: Sequence[tuple[str, int]]) -> dict[str, Array]:
        """Metrics by label, float64 [seeds, rows, metrics]; nan where a run has no such ranking."""
        return {
            label: np.stack([row_values(table, candidates, cutoffs) for table in system.runs.values()])
            for label, system in self.systems.items()
        }


def open_runs(folders: Sequence[Path | str]) -> Opened:
    """Open finished runs.

    Raises
    ------
    LayoutError
        No folder, a run that is not finished (with the command that finishes it), a run named twice, or runs on other
        rows or candidates (with what differs).
    """
    if not folders:
        raise LayoutError("no run to compare: name at least one run directory")
    runs = tuple(_open(Path(folder)) for folder in folders)
    first, *others = runs
    for other in others:
        _refuse_other_rows(first, other)
    systems = _systems(runs)
    notes = [note for other in others for note in _check_references(first, other)]
    names = first.record.get("names", {})
    notes += fewer_candidates(first.rows, first.identity["negatives"], names)
    if outside := outside_note(first.record.get("outside", ()), names):
        notes.append(outside)
    notes += first.record.get("notes", ())
    return Opened(runs, systems, *_cells(first.rows, names, _KINDS), tuple(notes))


def _cells(rows: pd.DataFrame, names: Mapping[str, str], kinds: Sequence[str]) -> tuple[list[tuple[str, str]], Array]:
    """(Name of the domain, kind) of every cell, and its rows, bool [rows, cells]."""
    by_kind = kind_masks(rows)
    cells = list(itertools.product(DOMAINS, kinds))
    masks = [(rows["domain"] == d) & by_kind[kind].astype(bool) for d, kind in cells]
    return [(str(names.get(d, d)), kind) for d, kind in cells], np.stack(masks, axis=1)


def opened_tables(systems: Mapping[str, pd.DataFrame], names: Mapping[str, str], kinds: Sequence[str]) -> Opened:
    """Rank tables of systems on the same rows, by label, as :func:`open_runs` opens them; they have a ``seed``."""
    found = {}
    for label, table in systems.items():
        by_seed: Any = dict(iter(table.sort_values("row").groupby("seed")))
        found[label] = System(label, by_seed, (), {})
    return Opened((), found, *_cells(next(iter(by_seed.values())), names, kinds), ())


def _open(folder: Path) -> _Run:
    record = read_record(folder)
    refuse_exported(folder, record)
    parameters = flatten(record["parameters"])
    path = folder / "ranks.parquet"
    if not path.is_file():
        named = " ".join(f"--{key} {parameters.get(key)}" for key in ("system", "data", "protocol", "preset", "seed"))
        raise LayoutError(
            f"{folder} is not finished (no ranks.parquet); `i2vae run {named} --out {folder}` goes on with it "
            f"(and --epochs, --set as it was started)"
        )
    table = stages.load_ranks(folder)
    ranks = {
        str(name): part.sort_values(_IDENTITY, kind="stable").reset_index(drop=True)
        for name, part in table.groupby("recommender", sort=False)
    }
    trained = parameters["system"]
    if trained not in ranks:
        raise LayoutError(f"{path} holds no ranks of {trained}, only of {', '.join(ranks) or 'nothing'}")
    for name, part in ranks.items():
        if not part[_IDENTITY].equals(ranks[trained][_IDENTITY]):
            raise LayoutError(f"{path}: {name} and {trained} were not ranked on the same rows")
    return _Run(folder, record, parameters, ranks)


def _refuse_other_rows(first: _Run, other: _Run) -> None:
    a, b, reasons = first.rows, other.rows, []
    if first.identity != other.identity:
        # with the parameters that may be why
        one, two = (
            run.identity | {key: value for key, value in run.parameters.items() if key.startswith(_WORLD)}
            for run in (first, other)
        )
        reasons = [
            f"{key} ({str(one.get(key))[:16]} there, {str(two.get(key))[:16]} here)"
            for key in one | two
            if one.get(key) != two.get(key)
        ]
    elif not a[_IDENTITY].equals(b[_IDENTITY]):
        shared = len(a.merge(b, on=_IDENTITY))
        reasons = [f"the evaluated rows ({len(a)} there, {len(b)} here, {shared} with the same row, user and domain)"]
    if reasons:
        raise LayoutError(
            f"{other.folder} cannot be compared with {first.folder}: they differ in {', '.join(reasons)}; "
            f"only runs on the same rows and candidates are compared"
        )


def _systems(runs: Sequence[_Run]) -> dict[str, System]:
    groups = _by_seeds(runs)
    found = {}
    for own, members in groups:
        name = members[0].trained
        # parameters that only other systems read are no difference
        variants = [known for known, _ in groups if known["system"] == name]
        differing = _differing(variants)
        at = variants.index(own)
        by_seed: dict[int | None, pd.DataFrame] = {int(run.parameters["seed"]): run.rows for run in members}
        folders = tuple(str(run.folder) for run in members)
        found[_labels(name, differing)[at]] = System(name, by_seed, folders, differing[at])
    first = runs[0]
    references = {name: table for name, table in first.ranks.items() if name != first.trained}
    return found | {name: System(name, {None: table}, (str(first.folder),), {}) for name, table in references.items()}


def _by_seeds(runs: Sequence[_Run]) -> list[tuple[dict[str, Any], list[_Run]]]:
    """Runs grouped by the parameters that they share, in the order of their seeds."""
    groups: list[tuple[dict[str, Any], list[_Run]]] = []
    for run in runs:
        own, seed = run.own, run.parameters["seed"]
        members = next((members for known, members in groups if known == own), None)
        if members is None:
            groups.append((own, members := []))
        for twin in (one for one in members if one.parameters["seed"] == seed):
            again = "named twice" if twin.folder.resolve() == run.folder.resolve() else f"the same run as {twin.folder}"
            raise LayoutError(
                f"{run.folder} is {again} (all parameters and seed {seed}): a repetition is no other seed; name it once"
            )
        members.append(run)
        members.sort(key=lambda one: int(one.parameters["seed"]))
    return groups


def _differing(variants: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parameters of each variant that are not the same in all of them."""
    keys = sorted(set().union(*variants))
    keys = [key for key in keys if any(one.get(key) != variants[0].get(key) for one in variants)]
    return [{key: one.get(key, "not recorded") for key in keys} for one in variants]


def _labels(name: str, variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short unique labels: the system's name with the one or two differing parameters that tell all variants apart.

    An ellipsis stands for differing parameters that are left out; ``Comparison.systems`` has them all.
    """
    if len(variants) == 1:
        return [name]
    keys = list(variants[0])
    for shown in [*itertools.combinations(keys, 1), *itertools.combinations(keys, 2)]:
        more = ["…"] if len(shown) < len(keys) else []
        labels = [f"{name} ({', '.join([*(f'{key}={one[key]}' for key in shown), *more])})" for one in variants]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{name} #{number}" for number in range(1, len(variants) + 1)]


def _check_references(first: _Run, other: _Run) -> list[str]:
    """Notes on reference rankers that are missing or differ in a few rows; more than :data:`_ROUNDING` is refused."""
    missing = [name for name in other.ranks if name not in first.ranks and name != other.trained]
    notes = [f"{name} is left out: {other.folder} has it, {first.folder} has not" for name in missing]
    for name in [name for name in first.ranks if name != first.trained and name in other.ranks]:
        unequal = (first.ranks[name][list(COUNTS)] != other.ranks[name][list(COUNTS)]).any(axis=1)
        where = f"has other ranks in {int(unequal.sum())} of {len(unequal)} rows"
        if unequal.mean() > _ROUNDING:
            raise LayoutError(
                f"{other.folder} cannot be compared with {first.folder}: the reference ranker {name} {where}, though "
                f"it does not depend on the seed; the data, the parameters `references` or the code differ. Make both "
                f"runs with one version"
            )
        if unequal.any():
            notes.append(
                f"{name} {where} of {other.folder} (scores that are nearly equal, rounded on another machine?); those "
                f"of {first.folder} are shown"
            )
    return notes
