"""The pair file: YAML that says where two logs lie, what their columns mean, and how they are filtered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from i2vae_lib.data.dataset import DOMAINS, DataError
from i2vae_lib.places import suggestion
from i2vae_lib.yaml_files import parse

Unit = Literal["s", "ms", "us", "ns"]
UNITS: dict[Unit, tuple[str, int]] = {  # word, and units a second
    "s": ("seconds", 1),
    "ms": ("milliseconds", 10**3),
    "us": ("microseconds", 10**6),
    "ns": ("nanoseconds", 10**9),
}
COLUMNS_EXAMPLE = "columns: {user: …, item: …, timestamp: …, unit: s}"  # as messages propose them


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Part):
    """Names of a log's columns, and the unit of its Unix times."""

    user: str
    item: str
    timestamp: str
    unit: Unit

    @property
    def names(self) -> tuple[str, str, str]:
        return self.user, self.item, self.timestamp


HEADERLESS = {  # columns of files without a header; they get these names on reading
    "amazon2014": ("user", "item", "rating", "timestamp"),
    "amazon2018": ("item", "user", "rating", "timestamp"),
}
FORMATS = {
    **dict.fromkeys(HEADERLESS, Columns(user="user", item="item", timestamp="timestamp", unit="s")),
    "amazon2023": Columns(user="user_id", item="parent_asin", timestamp="timestamp", unit="ms"),
}


def other_format(format: str) -> str:
    """The format without a header that has users and items the other way round."""
    return next(one for one in HEADERLESS if one != format)


class Side(_Part):
    """One domain: its name for people, its log, and titles of its items if there are any."""

    name: Annotated[str, Field(min_length=1)]
    path: Path
    titles: Path | None = None  # CSV or Parquet: item id and title


class PairFile(_Part):
    """Two logs, how to read them, and the filters. Either ``columns`` or ``format`` says what the columns are."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]  # part of folder names
    x: Side
    y: Side
    columns: Columns | None = None
    format: Literal["amazon2014", "amazon2018", "amazon2023"] | None = None
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
                f"format: {' | '.join(FORMATS)}"
            )
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


def read_pair_file(path: Path | str) -> PairFile:
    """Read a YAML file that describes a pair of logs; its paths come back resolved.

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
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a pair file: {error}") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the keys {', '.join(PairFile.model_fields)}, found {type(content).__name__}")
    try:
        pair = PairFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: " + "; ".join(_explained(one) for one in error.errors())) from None
    sides = {d: _resolved(pair.side(d), path) for d in DOMAINS}
    return pair.model_copy(update=sides)


def _explained(error: Any) -> str:
    """One pydantic complaint in the words of the pair file."""
    *inside, key = error["loc"] or ("",)
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        groups: dict[str, type[BaseModel]] = {"x": Side, "y": Side, "columns": Columns}
        group = groups.get(str(inside[0]), PairFile) if inside else PairFile
        return f"unknown key '{where}'{suggestion(str(key), list(group.model_fields))}"
    if error["type"] == "missing":
        return f"missing key '{where}'"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"'{where}': {error['msg']}, found {error['input']!r}"


def _resolved(side: Side, pair_file: Path) -> Side:
    found = {"path": _looked_up(side.path, pair_file)}
    if side.titles is not None:
        found["titles"] = _looked_up(side.titles, pair_file)
    return side.model_copy(update=found)


def _looked_up(name: Path, pair_file: Path) -> Path:
    folders = [pair_file.resolve().parent]
    if shared := os.environ.get("I2VAE_DATA_DIR"):
        folders += [Path(shared), Path(shared) / "logs"]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).resolve()
    unset = "" if shared else " (I2VAE_DATA_DIR is not set)"
    raise DataError(f"{pair_file}: {name} is in none of {', '.join(map(str, folders))}{unset}")
