"""The paper's own processed splits: checksums, local folder or download, and a parser whose errors name lines.

Published by the paper's authors (GitHub ``WujiangXu/IM-VAE``). A file is never used before its SHA-256 is checked.
"""

import csv
import hashlib
import json
import os
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from i2vae_lib.data.protocols import RawPair
from i2vae_lib.data.registry import REGISTRY, SOURCE, ReleasedFile
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, DataError, Ragged
from i2vae_lib.data.splitting import raw_rows
from i2vae_lib.progress import bar
from i2vae_lib.runs import cache_folder, sha256_of

csv.field_size_limit(2**31 - 1)  # a cell holds a whole sequence
MOST_BYTES = 4 * 2**30
# seconds without an answer, and bytes per second after them, at which a server is given up
SILENCE, SLOWEST = 30.0, 1024
COLUMNS = ("user_id", "seq_d1", "seq_d2", "domain_id")


def fetch(url: str, path: Path, sha256: str | None) -> None:
    """Download a file unless it is there, within limits of size and time, and never a web page in place of data.

    Parameters
    ----------
    sha256
        What the file must have, whether downloaded or already there. None: not known.

    Raises
    ------
    ValueError
        The server sent a web page, more than :data:`MOST_BYTES`, or a file with another SHA-256.
    OSError, HTTPException
        No answer, an error status, a broken connection, or fewer than :data:`SLOWEST` bytes per second.
    """
    if path.is_file() and sha256 in (None, sha256_of(path)):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _download(url, part)
        if sha256 not in (None, found := sha256_of(part)):
            raise ValueError(f"{url}: the SHA-256 hash of what came is {found}, expected {sha256}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _download(url: str, path: Path) -> None:
    begun, size = time.monotonic(), 0
    with urllib.request.urlopen(url, timeout=SILENCE) as answer:
        if "html" in answer.headers.get("Content-Type", "").lower():
            raise ValueError(f"{url} sent a web page, not the file")
        total = int(answer.headers.get("Content-Length") or 0)
        with path.open("wb") as stream, bar(f"fetching {Path(url).name}", total, "B") as progress:
            while block := answer.read(1 << 16):
                size += len(block)
                if size == len(block) and block.lstrip()[:1] == b"<":
                    raise ValueError(f"{url} sent a web page, not the file")
                if size > MOST_BYTES:
                    raise ValueError(f"{url} sent more than {MOST_BYTES:,} bytes")
                if (seconds := time.monotonic() - begun) > SILENCE and size < SLOWEST * seconds:
                    raise OSError(f"{url} is too slow: {size:,} bytes in {seconds:.0f} s")
                stream.write(block)
                progress.update(len(block))
    if size < total:
        raise OSError(f"{url} broke off after {size:,} of {total:,} bytes")


def locate(file: ReleasedFile, folder: Path | str | None = None) -> Path:
    """Path of the checked file: in ``folder`` (default: ``I2VAE_DATA_DIR``), else downloaded once with a progress bar.

    Parameters
    ----------
    file
        An entry of :data:`REGISTRY`.
    folder
        Searched directly and under ``released/``.

    Raises
    ------
    DataError
        The file is missing, truncated or altered; the message gives both checksums.
    """
    folder = folder if folder is not None else os.environ.get("I2VAE_DATA_DIR")
    if folder:
        for path in (Path(folder) / "released" / file.name, Path(folder) / file.name):
            if path.is_file():
                sha256 = sha256_of(path)
                if sha256 != file.sha256:
                    raise DataError(
                        f"{path}: wrong checksum: SHA-256 is {sha256}, the published file has {file.sha256} "
                        f"({path.stat().st_size:,} bytes here): truncated or altered; delete it to have it fetched anew"
                    )
                return path
    try:
        fetch(SOURCE + file.name, fetched := cache_folder() / file.name, file.sha256)
    except (OSError, ValueError, HTTPException) as error:
        raise DataError(
            f"{file.name} is not in {folder or 'I2VAE_DATA_DIR (not set)'} and could not be fetched from {SOURCE}: "
            f"{type(error).__name__}: {error}. Put the file into a folder and set I2VAE_DATA_DIR to it"
        ) from None
    return fetched


def load_released(name: str, folder: Path | str | None = None) -> RawPair:
    """A registered pair as published, defects and all (protocols deal with them)."""
    pair = REGISTRY[name]
    paths = {"train": locate(pair.train, folder), "test": locate(pair.test, folder)}
    source = hashlib.sha256(f"{pair.train.sha256}{pair.test.sha256}".encode()).hexdigest()
    return read_pair(name, pair.names, paths["train"], paths["test"], source)


def read_pair(name: str, names: dict[str, str], train: Path, test: Path, source_sha256: str) -> RawPair:
    """Read two tables in the released layout.

    Columns ``user_id`` (int), ``seq_d1``, ``seq_d2`` (JSON lists of item ids, may be empty), ``domain_id`` (0 or 1).
    An id in both domains is one product (ids are unified): it goes into the link table.

    Raises
    ------
    DataError
        A missing column, malformed JSON, negative or non-integer ids of users or items, a row without a target (with
        file and line), an empty domain, or a pair in which no user has both domains.
    """
    tables = {"train": _read_table(train), "test": _read_table(test)}
    offset = len(tables["train"].user)
    flat = {d: np.concatenate([t.sequences[d].values for t in tables.values()]) for d in DOMAINS}
    for d in DOMAINS:
        if not len(flat[d]):
            raise DataError(f"{train.name}, {test.name}: domain {d} ({names[d]}) is empty: no row has an item in it")
    both = sum(int(((t.sequences["x"].lengths > 0) & (t.sequences["y"].lengths > 0)).sum()) for t in tables.values())
    if not both:
        raise DataError(
            f"{train.name}, {test.name}: no overlapping user: no row has items of both {names['x']} and {names['y']}; "
            f"are the two columns of one pair?"
        )
    raw_ids = {d: np.unique(flat[d]) for d in DOMAINS}
    shared = np.intersect1d(raw_ids["x"], raw_ids["y"])
    links = np.stack([np.searchsorted(raw_ids[d], shared) + 1 for d in DOMAINS], axis=1).astype(np.int32)
    ids = {d: np.array([str(number) for number in raw_ids[d]], dtype=object) for d in DOMAINS}
    catalogue = Catalogue(names, ids, links, {d: None for d in DOMAINS})
    rows = {}
    for split, table in tables.items():
        numbered = {
            d: Ragged((np.searchsorted(raw_ids[d], s.values) + 1).astype(np.int32), s.offsets)
            for d, s in table.sequences.items()
        }
        source = np.arange(len(table.user)) + (offset if split == "test" else 0)
        rows[split] = raw_rows(catalogue, table.user, table.domain, numbered, source)
    return RawPair(name, source_sha256, catalogue, rows["train"], rows["test"])


@dataclass(frozen=True)
class _Table:
    user: Array
    domain: Array
    sequences: dict[str, Ragged]


def _read_table(path: Path) -> _Table:
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        reader = csv.DictReader(stream)
        try:
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
            if missing:
                raise DataError(f"{path}: missing column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
            records = [_record(line, f"{path}, line {reader.line_num}") for line in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}, after line {reader.line_num}: not a CSV table: {error}") from None
    if not records:
        raise DataError(f"{path}: no rows")
    users, domains, *sequences = zip(*records, strict=True)
    ragged = {d: Ragged.from_lists(lists) for d, lists in zip(DOMAINS, sequences, strict=True)}
    return _Table(np.array(users, dtype=object), np.array(domains, dtype=np.int8), ragged)


def _record(line: dict[str, Any], where: str) -> tuple[str, int, list[int], list[int]]:
    """User, domain and both sequences of a line."""
    if not "".join(map(str, line.values())).isascii():
        raise DataError(f"{where}: not UTF-8 text, or letters where numbers belong")
    user, domain = line["user_id"], line["domain_id"]
    if not (user and user.isascii() and user.isdigit()):
        raise DataError(f"{where}: user_id is {user!r}; user ids are integers from 0")
    if domain not in ("0", "1"):
        raise DataError(f"{where}: domain_id is {domain!r}, expected 0 or 1")
    x, y = (_sequence(line[column], where, column) for column in ("seq_d1", "seq_d2"))
    if not x and not y:
        raise DataError(f"{where}: both sequences are empty, so the row has no target")
    if not (x, y)[int(domain)]:
        raise DataError(f"{where}: domain_id is {domain} but its sequence is empty, so the row has no target")
    return user, int(domain), x, y


def _sequence(cell: str | None, where: str, column: str) -> list[int]:
    try:
        items = json.loads(cell or "")
    except RecursionError:
        raise DataError(f"{where}: {column} is nested too deep; it is a JSON list of item ids") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: {column} is not a JSON list: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # a number of 5,000 digits
        raise DataError(f"{where}: {column} is not a JSON list of ids: {error}") from None
    if not isinstance(items, list):
        raise DataError(f"{where}: {column} is not a JSON list but {type(items).__name__}")
    for item in items:
        if type(item) is not int or not 0 <= item < 2**31:
            raise DataError(f"{where}: {column} holds {item!r}; item ids are integers from 0 to 2147483647")
    return items
