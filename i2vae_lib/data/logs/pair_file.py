"""The pair file: YAML that says where two logs lie, what their columns mean, and how they are filtered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from i2vae_lib.data.rows import DOMAINS, DataError
from i2vae_lib.places import not_utf8, quoted, shortened, suggestion
from i2vae_lib.yaml_files import parse, wanted

Unit = Literal["s", "ms", "us", "ns", "d", "iso", "date", "order"]
UNITS: dict[Unit, tuple[str, int]] = {  # word, and units a second once a log is staged
    "s": ("seconds", 1),
    "ms": ("milliseconds", 10**3),
    "us": ("microseconds", 10**6),
    "ns": ("nanoseconds", 10**9),
    "d": ("days since 1970", 1),
    "iso": ("dates and times (ISO 8601; without a zone: UTC)", 1),
    "date": ("dates written as digits (YYYYMMDD, with hours, minutes and seconds or without)", 1),
    "order": ("no time, an order inside each file", 1),
}
SIZED: tuple[Unit, ...] = ("s", "ms", "us", "ns")  # Unix times, which their size tells apart
LONGEST_NAME = 100  # characters of a pair's or a domain's name: names of files and heads of tables have to hold them
COLUMNS_EXAMPLE = "columns: {user: …, item: …, timestamp: …, unit: s}"  # as messages propose them


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Part):
    """Names of a log's columns, and what its times are."""

    user: str
    item: str
    timestamp: str | None = None  # None, under ``unit: order`` alone: the order is that of the lines
    unit: Unit
    header: tuple[str, ...] | None = None  # names of all columns of a file without a header line
    domain: str | None = None  # of one file with both domains: the column that says which (``Side.value``)

    @model_validator(mode="after")
    def _a_time_or_none(self) -> Columns:
        if self.timestamp is None and self.unit != "order":
            raise ValueError(f"columns has no timestamp, and its unit is {self.unit}: only unit: order does without")
        return self

    @model_validator(mode="after")
    def _each_its_own(self) -> Columns:
        if twice := [one for one in self.names if self.names.count(one) > 1]:
            raise ValueError(f"columns names {twice[0]!r} twice: user, item, timestamp and domain have a column each")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one for one in (self.user, self.item, self.timestamp, self.domain) if one is not None)


Format = Literal["amazon2014", "amazon2018", "amazon2023", "c2dsr"]
HEADERLESS: dict[Format, tuple[str, ...]] = {  # columns of files without a header; they get these names on reading
    "amazon2014": ("user", "item", "rating", "timestamp"),
    "amazon2018": ("item", "user", "rating", "timestamp"),
}
FORMATS: dict[Format, Columns] = {
    **dict.fromkeys(HEADERLESS, Columns(user="user", item="item", timestamp="timestamp", unit="s")),
    "amazon2023": Columns(user="user_id", item="parent_asin", timestamp="timestamp", unit="ms"),
    "c2dsr": Columns(user="user", item="item", timestamp="timestamp", unit="s"),
}


def other_format(format: str) -> Format:
    """The format without a header that has users and items the other way round."""
    return next(one for one in HEADERLESS if one != format)


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError(f"the name {name!r} holds a character that cannot be printed: leave it out")
    return name


_Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_printable)]
_PairName = Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=LONGEST_NAME)]  # part of folder names


class Side(_Part):
    """One domain: its name for people, its log, and titles of its items if there are any."""

    name: _Name
    path: Path
    more: tuple[Path, ...] = ()  # format c2dsr: further files of the same layout
    items: Path | None = None  # format c2dsr: the domain's items, a line each: id, tab, number in the log
    value: str | None = None  # of ``columns.domain`` in this domain's rows; default: the name
    titles: Path | None = None  # CSV or Parquet: item id and title

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read, the log first."""
        return tuple(one for one in (self.path, *self.more, self.items, self.titles) if one is not None)


class PairFile(_Part):
    """Two logs, how to read them, and the filters. Either ``columns`` or ``format`` says what the columns are."""

    name: _PairName
    x: Side
    y: Side
    columns: Columns | None = None
    format: Format | None = None
    min_user: Annotated[int, Field(strict=True, ge=1)]  # events a user has in the domain
    min_item: Annotated[int, Field(strict=True, ge=1)]  # events an item has
    same_ids_are_same_items: Annotated[bool, Field(strict=True)] = True  # an id in both domains is one product
    one_order: Annotated[bool, Field(strict=True)] = False  # everybody follows one order of items (lectures, episodes)

    @model_validator(mode="after")
    def _one_layout(self) -> PairFile:
        if (self.columns is None) == (self.format is None):
            found = "neither" if self.columns is None else "both"
            raise ValueError(
                f"give either 'columns' or 'format', found {found}: {COLUMNS_EXAMPLE} for files with a header, or "
                f"format: {' | '.join(FORMATS)}, or released for published splits (train, test)"
            )
        for side in (self.x, self.y):
            if (side.items is None) == (self.format == "c2dsr"):
                raise ValueError(
                    f"'items' of {side.name!r}: format c2dsr needs the list of each domain's items, others none"
                )
            if side.more and self.format != "c2dsr":
                raise ValueError(
                    f"'more' of {side.name!r} is of format c2dsr: write the files of other layouts into one"
                )
            if side.value is not None and (self.columns is None or self.columns.domain is None):
                raise ValueError(f"'value' of {side.name!r} is one of a column that columns.domain names; name it")
        if self.x.name == self.y.name:
            raise ValueError(f"x and y are both named {self.x.name!r}: tables tell domains apart by their names")
        if self.x.name == "y" or self.y.name == "x":
            raise ValueError("a domain is named after the other one's key (x, y): commands take keys and names alike")
        return self

    @property
    def layout(self) -> Columns:
        """The columns, or those that the format stands for."""
        if self.columns is not None:
            return self.columns
        assert self.format is not None
        return FORMATS[self.format]

    def side(self, domain: str) -> Side:
        return self.x if domain == "x" else self.y


class _Named(_Part):
    """A domain of published splits."""

    name: _Name


class ReleasedPair(_Part):
    """Two tables in the paper's layout (user_id, seq_d1, seq_d2, domain_id): x is ``seq_d1``, y is ``seq_d2``."""

    name: _PairName
    x: _Named
    y: _Named
    format: Literal["released"]
    train: Path
    test: Path


def read_pair_file(path: Path | str) -> PairFile:
    """:func:`read_any_pair` of a pair of logs.

    Raises
    ------
    DataError
        As :func:`read_any_pair`, or the pair is one of published splits.
    """
    pair = read_any_pair(path)
    if isinstance(pair, ReleasedPair):
        raise DataError(f"{path}: format released stands for published splits, and logs are wanted here")
    return pair


def read_any_pair(path: Path | str) -> PairFile | ReleasedPair:
    """Read a YAML file that describes a pair of logs, or of published splits; its paths come back resolved.

    A path is looked up beside the YAML file, then in ``I2VAE_DATA_DIR``, then in its ``logs/``.

    Raises
    ------
    DataError
        No such file, malformed YAML, an unknown key (the nearest is named), a missing or wrong value, both or neither
        of ``columns`` and ``format``, or a log that lies in none of the places.
    """
    path = Path(path)
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such pair file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {not_utf8(error.object)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a pair file: {error}") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the keys {', '.join(PairFile.model_fields)}, found {type(content).__name__}")
    kind: type[PairFile] | type[ReleasedPair] = ReleasedPair if content.get("format") == "released" else PairFile
    try:
        if kind is ReleasedPair:
            splits = ReleasedPair.model_validate(content)
            return splits.model_copy(update={one: _looked_up(getattr(splits, one), path) for one in ("train", "test")})
        pair = PairFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: " + "; ".join(_explained(one, kind) for one in error.errors())) from None
    sides = {d: _resolved(pair.side(d), path) for d in DOMAINS}
    return pair.model_copy(update=sides)


def _explained(error: Any, kind: type[BaseModel]) -> str:
    """One pydantic complaint in the words of the pair file."""
    *inside, key = error["loc"] or ("",)
    where = shortened(".".join(map(str, error["loc"])))
    if error["type"] == "extra_forbidden":
        groups: dict[str, type[BaseModel]] = {"x": Side, "y": Side, "columns": Columns}
        if kind is ReleasedPair:
            groups = {"x": _Named, "y": _Named}
        group = groups.get(str(inside[0]), kind) if inside else kind
        return f"unknown key '{where}'{suggestion(str(key), list(group.model_fields))}"
    if error["type"] == "missing":
        return f"missing key '{where}'"
    told = wanted(error, _Part)
    if error["type"] == "value_error":
        return told
    if where == "format":  # the class of logs does not know the one of published splits
        told = f"Input should be {', '.join(map(repr, FORMATS))} or 'released'"
    return f"'{where}': {told}, found {quoted(error['input'])}"


def _resolved(side: Side, pair_file: Path) -> Side:
    found = {
        name: _looked_up(path, pair_file)
        for name in ("path", "items", "titles")
        if (path := getattr(side, name)) is not None
    }
    return side.model_copy(update={**found, "more": tuple(_looked_up(one, pair_file) for one in side.more)})


def _looked_up(name: Path, pair_file: Path) -> Path:
    folders = [pair_file.resolve().parent]
    if shared := os.environ.get("I2VAE_DATA_DIR"):
        folders += [Path(shared), Path(shared) / "logs"]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).resolve()
        if (folder / name).is_dir():
            raise DataError(f"{folder / name} is a folder: name one file")
        if (folder / name).exists():
            raise DataError(
                f"{folder / name} is a pipe or a device, and a log is read more than once: write it to a file"
            )
    unset = "" if shared else " (I2VAE_DATA_DIR is not set)"
    raise DataError(f"{pair_file}: {name} is in none of {', '.join(map(str, folders))}{unset}")
