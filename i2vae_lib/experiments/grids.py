"""Sweep files: a grid over parameters, data, systems and seeds, resolved into the cells that have to be run.

.. code-block:: yaml

    preset: tuned             # what every cell starts from
    data: cloth_sport         # optional, as are protocol, epochs and overrides: else the preset's
    seeds: [0, 1, 2]
    grids:
      length:                 # a grid is the product of its parts
        product: {model.T: [10, 20, 30], objective.lambda_a: {start: 0.001, stop: 0.010, step: 0.003}}
      widths:
        paired: {model.d: [32, 64], model.heads: [1, 2]}       # first with first, second with second
      claims:
        rows:                 # named settings
          full: {}
          random pseudo-sequences: {psg.kind: random}
        base: full            # what the other rows are compared with; `against: {ROW: BASE}` overrides it for one row

Two grids that name the same parameters share the cell. Everything is resolved and validated before the first cell runs.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from i2vae_lib.data.loading import source_of
from i2vae_lib.data.rows import DataError
from i2vae_lib.params import (
    PRESET_NAMES,
    ParameterError,
    Parameters,
    declared,
    digest,
    load,
    of_result,
    pair_name,
    read_yaml,
)
from i2vae_lib.places import preset_folder, quoted, suggestion
from i2vae_lib.runs import LayoutError, default_folder, flatten, read_record
from i2vae_lib.stages import check_run, check_tested, irrelevant_groups
from i2vae_lib.yaml_files import wanted

_TOP = ("data", "protocol", "epochs")  # keys of a grid other than the dotted ones

_EPOCHS = {"epochs", "training.epochs"}  # one parameter, two names

# what two runs that are compared row by row must agree on, apart from `evaluation.negatives`
_OTHER_ROWS = ("data", "protocol", "split", "controls", "synthetic", "references")


def ranks_others(key: str) -> bool:
    """Whether a parameter says which rows or candidates are ranked, so that results under its values do not compare."""
    return key.partition(".")[0] in _OTHER_ROWS or key == "evaluation.negatives"


# limits of a range and of a grid: more is a slip, and would fill the memory before the first cell runs
MOST_VALUES, MOST_CELLS = 1_000, 20_000

STUDY_NAMES = (*PRESET_NAMES, "sweep", "seeds", "cells")  # what the notebook of a study declares

Settings = Mapping[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A part of a file, which may hold the names of its fields and no others, and no true or '1' for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Range(Strict):
    """Evenly spaced values from ``start`` to ``stop``, both inclusive: by ``step``, or ``number`` of them."""

    start: Annotated[float, Field(allow_inf_nan=False)]
    stop: Annotated[float, Field(allow_inf_nan=False)]
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    number: Annotated[int, Field(gt=1, le=MOST_VALUES)] | None = None
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.step is None) == (self.number is None):
            raise ValueError("a range has either step or number")
        if self.scale == "log" and (self.step is not None or min(self.start, self.stop) <= 0):
            raise ValueError("a log range has number, and both its ends lie above 0")
        if self.step is not None and self.stop < self.start:
            raise ValueError(f"the start {self.start:g} lies above the stop {self.stop:g}: exchange them")
        if self.step is not None and self.start < self.stop and (self.stop - self.start) / self.step + 1e-9 < 1:
            raise ValueError(
                f"the step {self.step:g} leads beyond the stop {self.stop:g}, so {self.start:g} is the only value: a "
                f"smaller step, or a list of values"
            )
        if self.step is not None and (self.stop - self.start) / self.step >= MOST_VALUES:
            raise ValueError(
                f"from {self.start:g} to {self.stop:g} by {self.step:g} are more than {MOST_VALUES:,} values: a larger "
                f"step, or nearer ends"
            )
        return self

    def values(self) -> list[float | int]:
        if self.number is not None:
            spaced = np.geomspace if self.scale == "log" else np.linspace
            values: Any = spaced(self.start, self.stop, self.number)
        else:
            assert self.step is not None
            count = int(np.floor((self.stop - self.start) / self.step + 1e-9)) + 1
            values = self.start + self.step * np.arange(count)
        rounded = [float(f"{value:.12g}") for value in values]
        whole = all(value.is_integer() for value in (self.start, self.stop, *rounded))
        return [int(value) for value in rounded] if whole else list(rounded)


Values = Range | list[Any] | str | float | int | bool | None


class _Grid(Strict):
    """The product of the rows, the paired values, and the values of each key of ``product``."""

    product: dict[str, Values] = {}
    paired: dict[str, Values] = {}
    rows: dict[str, dict[str, Any]] = {}
    base: str | None = None
    against: dict[str, str] = {}

    def base_of(self, row: str) -> str | None:
        """The row that a row is compared with."""
        base = self.against.get(row, self.base)
        return None if base == row else base

    @property
    def size(self) -> int:
        """The number of points, counted without listing them."""
        pairs = min((len(_listed(value)) for value in self.paired.values()), default=1)
        return max(len(self.rows), 1) * pairs * math.prod(len(_listed(value)) for value in self.product.values())

    def points(self) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Each point as (name of the row, settings of the row, values on the axes)."""
        rows = list(self.rows.items()) or [("", {})]
        values = zip(*map(_listed, self.paired.values()))
        paired = [dict(zip(self.paired, one)) for one in values] if self.paired else [{}]
        lists = [[(key, value) for value in _listed(values)] for key, values in self.product.items()]
        return [
            (row, settings, together | dict(chosen))
            for row, settings in rows
            for together in paired
            for chosen in itertools.product(*lists)
        ]


class _SweepFile(Strict):
    """A file of ``params/sweeps/``."""

    preset: str
    data: str | None = None
    protocol: str | None = None
    epochs: int | None = None
    overrides: dict[str, Any] = {}
    seeds: list[int] | Range = [0]
    grids: dict[str, _Grid]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        for name, grid in self.grids.items():
            if (count := grid.size * max(len(_listed(self.seeds)), 1)) > MOST_CELLS:
                raise ValueError(f"grid {name} has {count:,} cells; at most {MOST_CELLS:,}")
        return self


@dataclass(frozen=True)
class _Place:
    """Where in a sweep file a cell comes from.

    Attributes
    ----------
    grid, row
        ``row`` is empty in a grid without rows.
    axes
        The values of product and pairs: rows are compared where these agree.
    settings
        ``axes`` and the settings of the row.
    against
        The row that it is compared with.
    number
        Its position in the order of the file.
    """

    grid: str
    row: str
    axes: Settings
    settings: Settings
    against: str | None
    number: int

    def labels(self) -> Iterator[str]:
        """What distinguishes it from the other places of its grid: its row, then its values on the axes."""
        if self.row:
            yield self.row
        yield from (f"{key} = {value}" for key, value in self.axes.items())


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes
    ----------
    address
        Digest of everything that its result depends on; the name of its folder.
    places
        Where it comes from; several places if grids overlap.
    """

    address: str
    parameters: Parameters
    places: tuple[_Place, ...]


@dataclass(frozen=True)
class Sweep:
    """The cells of a sweep file in their order, each once."""

    name: str
    cells: tuple[Cell, ...] = field(repr=False)

    def axes(self) -> list[str]:
        """The keys that the grids vary apart from their rows."""
        return list(dict.fromkeys(key for cell in self.cells for place in cell.places for key in place.axes))


def _file_names(folder: str) -> list[str]:
    """The names of the files in ``params/FOLDER/``."""
    return sorted(path.stem for path in (preset_folder() / folder).glob("*.yaml"))


def read_file(name: str | Path, folder: str) -> tuple[str, Any]:
    """Path and content of a file of ``params/FOLDER/``, given by name or by the path of any such file.

    Raises
    ------
    ParameterError
        No such file (the nearest is named), or malformed YAML.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else preset_folder() / folder / f"{name}.yaml"
    if not path.is_file():
        raise ParameterError(f"unknown file '{name}' (no file {path}){suggestion(str(name), _file_names(folder))}")
    return str(path), read_yaml(path)


def validated(kind: type[Model], content: Any, where: str) -> Model:
    """The content of a file as an instance of ``kind``.

    Raises
    ------
    ParameterError
        Names the first name or value that does not fit.
    """
    if not isinstance(content, Mapping):
        raise ParameterError(f"{where}: expected the names {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        # of a value with alternative types, report the likeliest meant: the deepest error, or one of our own checks
        same = [each for each in error.errors() if each["loc"][:1] == first["loc"][:1]]
        first = max(same, key=lambda each: (len(each["loc"]), each["type"] in ("value_error", "extra_forbidden")))
        known = list(kind.model_fields)
        unknown = first["type"] == "extra_forbidden" and len(first["loc"]) == 1
        near = suggestion(str(first["loc"][0]), known) if unknown else ""
        place = _place(content, first)
        meant = [each for each in same if _place(content, each) == place and each["type"] != "value_error"]
        # of several types that a value may have, each is named
        told = [first] if first["type"] in ("value_error", "missing", "extra_forbidden") else meant
        reason = " or ".join(dict.fromkeys(wanted(each, Strict) for each in told)).replace(" or Input should be", " or")
        found = f", found {quoted(first['input'])}" * (told is meant)
        raise ParameterError(": ".join(filter(None, [where, place, f"{reason}{near}{found}"]))) from None


def _place(content: Any, error: Any) -> str:
    """The names that lead to a value in the file.

    pydantic's location also names the alternative types that it tried, such as ``function-after[_one_of(), Range]``.
    """
    names = []
    for part in error["loc"]:
        inside = isinstance(content, Mapping) and part in content
        if inside or (isinstance(content, list | tuple) and isinstance(part, int)):
            content = content[part]
            names.append(str(part))
    if error["type"] == "missing":
        names.append(str(error["loc"][-1]))
    return ".".join(names)


def read_sweep(name: str | Path, given: Settings | None = None) -> Sweep:
    """Read a sweep file and resolve every cell.

    Parameters
    ----------
    name
        Name of a file in ``params/sweeps/``, or the path of a sweep file.
    given
        New values for top-level names of the file (``preset, data, protocol, epochs, overrides, seeds``); None keeps
        the file's value, ``overrides`` are added to the file's.

    Raises
    ------
    ParameterError
        An unknown file or key (the nearest is named), an empty grid, or a value out of range (which cell, and why).
    DataError
        Data that do not exist, or that cannot serve the protocol.
    """
    where, content = read_file(name, "sweeps")
    return resolve(Path(where).stem, content, given, where=where)


def from_notebook(namespace: Mapping[str, Any]) -> tuple[Sweep, Sweep, Path]:
    """The sweep that the ``parameters`` cell of a study's notebook (:data:`STUDY_NAMES`) asks for.

    Returns
    -------
    sweep
        All of its cells, with seeds ``seed`` to ``seed + seeds - 1``.
    here
        Its first ``cells`` cells; all if that is None.
    out
        Folder of the cells.

    Raises
    ------
    ParameterError
        As :func:`i2vae_lib.params.declared` and :func:`read_sweep`.
    """
    given = declared(namespace, STUDY_NAMES)
    top = {name: given[name] for name in ("preset", "data", "protocol", "epochs", "overrides")}
    first, count = int(given["seed"]), int(given["seeds"])
    if given["cells"] is not None and int(given["cells"]) < 1:
        raise ParameterError(f"'cells': {given['cells']}: at least one, or None for all")
    sweep = read_sweep(given["sweep"], top | {"seeds": list(range(first, first + count))})
    here = sweep.cells if given["cells"] is None else sweep.cells[: int(given["cells"])]
    return sweep, Sweep(sweep.name, here), Path(given["out"] or cells_folder(sweep))


def cells_folder(sweep: Sweep) -> Path:
    """Default folder of a sweep, beside runs: ``sweep-FILE-PAIR-PROTOCOL``, or ``sweep-FILE`` for several pairs."""
    pairs = {(pair_name(cell.parameters.data), cell.parameters.protocol) for cell in sweep.cells}
    words = ["sweep", sweep.name, *(pairs.pop() if len(pairs) == 1 else ())]
    return default_folder(sweep.cells[0].parameters).with_name("-".join(words))


def resolve(name: str, content: Any, given: Settings | None = None, *, where: str = "grid") -> Sweep:
    """:func:`read_sweep` for the content of a file."""
    changed = {key: value for key, value in (given or {}).items() if value is not None}
    ours = changed.pop("overrides", {})
    outside = {*changed, *ours}
    if outside & _EPOCHS:
        outside |= _EPOCHS
    if isinstance(content, Mapping):
        theirs = content.get("overrides") or {}
        if isinstance(theirs, Mapping):
            theirs = {key: value for key, value in theirs.items() if key not in outside} | ours
        content = {key: value for key, value in content.items() if key not in outside} | changed
        content["overrides"] = theirs
    file = validated(_SweepFile, content, where)
    for name_of_grid, grid in file.grids.items():
        for key in sorted((grid.product.keys() | grid.paired.keys()) & outside):
            raise ParameterError(f"{where}: grid {name_of_grid} varies {key}, so it cannot be given from outside")
    return Sweep(name, tuple(_cells(file, where)))


def _cells(file: _SweepFile, where: str) -> list[Cell]:
    for complaint in _complaints(file):
        raise ParameterError(f"{where}: {complaint}")
    planned = [
        (grid, row, axes, own | axes, seed)
        for grid, content in file.grids.items()
        for row, own, axes in content.points()
        for seed in _listed(file.seeds)
    ]
    cells: dict[str, Cell] = {}
    sources: dict[str, str | None] = {}
    places: set[str] = set()
    for number, (grid, row, axes, settings, seed) in enumerate(planned, start=1):
        head = f"{where}: cell {number} of {len(planned)} (grid {grid}{f', {row}' if row else ''}, seed {seed})"
        try:
            p = _parameters(file, settings, seed)
        except (ParameterError, DataError) as error:
            raise type(error)(f"{head}: {error}") from None
        axes, settings = (_as_resolved(one, p) for one in (axes, settings))
        here = json.dumps([grid, row, seed, axes], sort_keys=True)
        if here in places:
            raise ParameterError(f"{head}: a value stands twice: {', '.join(f'{k} = {v}' for k, v in axes.items())}")
        places.add(here)
        if p.data not in sources:
            sources[p.data] = source_of(p)
        address = address_of(p, sources[p.data])
        before = cells[address].places if address in cells else ()
        place = _Place(grid, row, axes, settings, file.grids[grid].base_of(row), number)
        cells[address] = Cell(address, p, (*before, place))
    return list(cells.values())


def _parameters(file: _SweepFile, settings: Settings, seed: int) -> Parameters:
    """The checked parameters of a cell."""
    top: dict[str, Any] = {"data": file.data, "protocol": file.protocol, "epochs": file.epochs}
    if "training.epochs" in settings:
        top["epochs"] = None
    top |= {key: settings[key] for key in _TOP if key in settings}
    overrides = {key: value for key, value in settings.items() if key not in _TOP}
    parameters = load(file.preset, file.overrides | overrides, seed=seed, **top)
    check_run(parameters)
    check_tested(parameters)
    return parameters


def _as_resolved(settings: Settings, parameters: Parameters) -> dict[str, Any]:
    """Settings with numbers that YAML reads as text, such as 1e-3, replaced by the parameter's resolved value."""
    flat = flatten(parameters.model_dump(mode="json"))
    return {
        key: flat[key] if isinstance(value, str) and not isinstance(flat.get(key, ""), str) else value
        for key, value in settings.items()
    }


def _complaints(file: _SweepFile) -> Iterator[str]:
    """What is wrong with a file, apart from its parameters."""
    seeds = _listed(file.seeds)
    if not seeds:
        yield "seeds: none; [0] is one"
    if len(set(seeds)) < len(seeds) or any(seed != int(seed) for seed in seeds):
        yield f"seeds: {seeds}: whole numbers, each once"
    if not file.grids:
        yield "grids: none, so there is nothing to run"
    for name in (*file.grids, *itertools.chain(*(grid.rows for grid in file.grids.values()))):
        if not name.strip() or not name.isprintable():
            yield f"the name {name!r} of a grid or a row: name it by letters that tables can show on one line"
    for name, grid in file.grids.items():
        for complaint in itertools.chain(_unknown(grid), _no_points(grid), _twice(grid), _not_comparable(grid)):
            yield f"grid {name}: {complaint}"
        if not grid.points() or not (grid.product or grid.paired or grid.rows):
            yield f"grid {name} is empty: give product, paired or rows at least one value"


def _unknown(grid: _Grid) -> Iterator[str]:
    for row in (*grid.against, *grid.against.values(), *([grid.base] if grid.base else [])):
        if row not in grid.rows:
            yield f"base or against: no row '{row}'{suggestion(row, list(grid.rows))}"


def _no_points(grid: _Grid) -> Iterator[str]:
    for key, value in (*grid.product.items(), *grid.paired.items()):
        if any(isinstance(one, list | dict) for one in _listed(value)):
            yield f"{key}: a list is no point of an axis; name it as a row"
    lengths = {key: len(_listed(value)) for key, value in grid.paired.items()}
    if len(set(lengths.values())) > 1:
        yield f"paired values of different numbers: {lengths}"


def _twice(grid: _Grid) -> Iterator[str]:
    kinds = {"product": {*grid.product}, "paired": {*grid.paired}, "rows": {*itertools.chain(*grid.rows.values())}}
    for one, other in itertools.combinations(kinds, 2):
        if twice := kinds[one] & kinds[other]:
            yield f"{min(twice)} stands under {one} and under {other}"


def _not_comparable(grid: _Grid) -> Iterator[str]:
    """Rows that change which test rows or candidates are ranked, and stand beside a base with others."""
    for row, settings in grid.rows.items():
        base = grid.rows.get(grid.base_of(row) or row, {})
        for key in sorted(settings.keys() | base.keys()):
            if ranks_others(key) and settings.get(key) != base.get(key):
                yield (
                    f"{row} sets {key}, so it ranks other rows or candidates than {grid.base_of(row)}, with which it "
                    f"is to be compared: make {key} an axis (product)"
                )


def _listed(value: Values) -> list[Any]:
    if isinstance(value, Range):
        return value.values()
    return list(value) if isinstance(value, list) else [value]


def address_of(parameters: Parameters, source: str | None) -> str:
    """Digest of what a run's result depends on: the parameters that its system reads, and the logs' contents now."""
    return address_of_record(parameters.model_dump(mode="json"), source)


def address_of_record(parameters: Mapping[str, Any], source: str | None) -> str:
    """:func:`address_of` for the parameters in a ``run.json``; groups of other systems may be of another version."""
    return digest(of_result(parameters, irrelevant_groups([parameters["system"]])), source)[:16]


def check_cell(folder: Path, parameters: Parameters) -> None:
    """Refuse the folder of a cell that holds the trained run of another one.

    Raises
    ------
    LayoutError
    """
    if not (folder / "model" / "model.json").is_file():
        return
    held = read_record(folder)["parameters"]
    if address_of_record(held, None) != address_of(parameters, None):
        raise LayoutError(
            f"{folder} holds the run of another cell ({held['system']}, seed {held['seed']}): delete it, and the same "
            f"command makes the right one"
        )
