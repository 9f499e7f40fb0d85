"""A pair of domains under one protocol: splits of rows, how they came to be, and their files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from i2vae_lib.data.rows import DOMAINS, SPLITS, Array, Catalogue, EventLog, Events, Ragged, Rows
from i2vae_lib.runs import LayoutError, read_header, reading, write_atomically, write_json

_ANEW = "delete it and prepare it anew"
_LAYOUT = 3
_CATALOGUE_LAYOUT = 3
_EVENT = ("user", "item", "time")
_ACCOUNT = ("removed", "controls", "one_order")
# what the header says as it stands
_TOLD = (*_ACCOUNT, "name", "protocol", "data_seed", "source_sha256", "tail", "outside", "notes")


@dataclass(frozen=True)
class CrossDomainDataset:
    """A pair of domains under one protocol: catalogue, splits, and how they came to be.

    ``truth`` exists for synthetic data only: arrays that the oracle and disentanglement measures use, one line per
    source row (see :mod:`i2vae_lib.data.synthetic`). ``log`` exists for timestamped data only.
    """

    name: str
    protocol: str
    data_seed: int
    source_sha256: str  # of the raw input
    catalogue: Catalogue
    splits: Mapping[str, Rows]
    tail: Mapping[str, Mapping[str, float]]  # split -> domain -> L80, in items
    removed: Mapping[str, int]  # what the protocol and the controls removed -> count
    controls: Mapping[str, Any] = field(default_factory=dict)  # K_o, its mode and D_s, as applied
    filters: pd.DataFrame = field(default_factory=pd.DataFrame)  # logs only: what each step of cleaning left
    log: EventLog | None = None  # logs only: when everything happened, for the audit
    truth: Mapping[str, Array] = field(default_factory=dict)
    one_order: bool = False  # see LogPair
    # under ``temporal``: first events in a window of items outside the catalogue, counted (``data/protocols.py``)
    outside: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()  # logs only: sentences for run.json, tables and the audit

    def __repr__(self) -> str:
        size = ", ".join(f"{self.catalogue.names[d]} {self.catalogue.size(d):,} items" for d in DOMAINS)
        rows = ", ".join(f"{s} {len(r):,}" for s, r in self.splits.items())
        return f"CrossDomainDataset({self.name}, {self.protocol}: {size}; rows: {rows})"

    def fingerprint(self) -> str:
        """SHA-256 of everything that training and evaluation read: the identity that a run records."""
        digest = hashlib.sha256(f"{_LAYOUT}|{self.name}|{self.protocol}|{self.data_seed}|{self.source_sha256}".encode())
        digest.update(self.catalogue.digest().encode())
        account = {name: getattr(self, name) for name in _ACCOUNT}
        account["filters"] = self.filters.to_dict(orient="records")
        digest.update(json.dumps([account, self.tail], sort_keys=True).encode())
        for split in self.splits:
            digest.update(rows_digest(self.splits[split]).encode())
        return digest.hexdigest()

    def about(self) -> dict[str, Any]:
        """What it is and how it came to be, for JSON."""
        told = {name: getattr(self, name) for name in _TOLD}
        return told | {"names": self.catalogue.names, "filters": self.filters.to_dict(orient="records")}

    def save(self, folder: Path | str) -> None:
        """Write rows, items, links, log and truth, mostly as Parquet; each file is written aside, then renamed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write_items(self.catalogue, folder)
        for split, rows in self.splits.items():
            _write_parquet(_rows_to_table(rows), folder / f"{split}.parquet")
        if self.log is not None:
            _write_parquet(pa.table({"user": pa.array(self.log.users, pa.string())}), folder / "users.parquet")
            for d, events in self.log.events.items():
                columns = {name: getattr(events, name) for name in _EVENT}
                _write_parquet(pa.table(columns), folder / f"events_{d}.parquet")
        if self.truth:
            write_atomically(folder / "truth.npz", lambda part: _savez(part, self.truth))
        resolution = None if self.log is None else self.log.resolution
        header = {"layout": _LAYOUT, "fingerprint": self.fingerprint(), "resolution": resolution}
        write_json(folder / "dataset.json", header | self.about())

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        LayoutError
            The folder holds no dataset or one of another layout version, a file is missing or damaged, or the contents
            do not match the recorded fingerprint.
        """
        folder = Path(folder)
        header = read_header(folder / "dataset.json", "dataset", _LAYOUT, _ANEW)
        with reading(folder, _ANEW):
            dataset = cls._read(folder, header)
        if dataset.fingerprint() != header["fingerprint"]:
            raise LayoutError(f"{folder}: contents do not match the fingerprint in dataset.json; prepare it anew")
        return dataset

    @classmethod
    def _read(cls, folder: Path, header: Mapping[str, Any]) -> Self:
        catalogue = _read_items(folder, header["names"])
        splits = {s: _rows_from_table(pq.read_table(folder / f"{s}.parquet"), catalogue) for s in SPLITS}
        log = None
        if (folder / "users.parquet").is_file():
            users = np.asarray(pq.read_table(folder / "users.parquet")["user"].to_pylist(), dtype=object)
            tables = {d: pq.read_table(folder / f"events_{d}.parquet") for d in DOMAINS}
            events = {d: Events(*(one[name].to_numpy() for name in _EVENT)) for d, one in tables.items()}
            log = EventLog(users, events, header["resolution"])
        truth: dict[str, Array] = {}
        if (folder / "truth.npz").is_file():
            with np.load(folder / "truth.npz", allow_pickle=False) as stored:
                truth = {key: stored[key] for key in stored.files}
        told = {name: header[name] for name in _TOLD}
        filters = pd.DataFrame(header["filters"])
        return cls(catalogue=catalogue, splits=splits, filters=filters, log=log, truth=truth, **told)


def rows_digest(rows: Rows) -> str:
    """SHA-256 of the rows' contents."""
    digest = hashlib.sha256("\n".join(rows.user).encode())
    arrays = [rows.domain, rows.target, rows.source]
    arrays += [part for one in (rows.excluded, *rows.history.values()) for part in (one.values, one.offsets)]
    arrays += [one for one in (rows.moment, *(history.moments for history in rows.history.values())) if one is not None]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Write vocabularies, titles, names and links beside a saved model, so that its folder is self-contained."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_items(catalogue, folder)
    write_json(folder / "catalogue.json", {"layout": _CATALOGUE_LAYOUT, "names": dict(catalogue.names)})


def read_catalogue(folder: Path) -> Catalogue:
    """Read what :func:`save_catalogue` wrote."""
    header = read_header(folder / "catalogue.json", "catalogue", _CATALOGUE_LAYOUT)
    with reading(folder):
        return _read_items(folder, header["names"])


def _write_items(catalogue: Catalogue, folder: Path) -> None:
    for d in DOMAINS:
        columns: dict[str, Any] = {"id": pa.array(catalogue.ids[d], pa.string())}
        if catalogue.titles[d] is not None:
            columns["title"] = pa.array(catalogue.titles[d], pa.string())
        _write_parquet(pa.table(columns), folder / f"items_{d}.parquet")
    links = {d: pa.array(catalogue.links[:, i], pa.int32()) for i, d in enumerate(DOMAINS)}
    _write_parquet(pa.table(links), folder / "links.parquet")


def _read_items(folder: Path, names: Mapping[str, str]) -> Catalogue:
    ids: dict[str, Array] = {}
    titles: dict[str, Array | None] = {}
    for d in DOMAINS:
        table = pq.read_table(folder / f"items_{d}.parquet")
        ids[d] = np.asarray(table["id"].to_pylist(), dtype=object)
        titles[d] = np.asarray(table["title"].to_pylist(), dtype=object) if "title" in table.column_names else None
    links = pq.read_table(folder / "links.parquet")
    pairs = np.stack([links[d].to_numpy() for d in DOMAINS], axis=1).astype(np.int32)
    return Catalogue(dict(names), ids, pairs, titles)


def _savez(path: Path, arrays: Mapping[str, Array]) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})


def _write_parquet(table: pa.Table, path: Path) -> None:
    write_atomically(path, lambda part: pq.write_table(table, part, compression="zstd"))


def _list_array(values: Array, offsets: Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _sequences(table: pa.Table, values: str, moments: str = "") -> Ragged:
    """Sequences of a column of lists, with their moments where there is such a column."""
    parts = [table[name].combine_chunks() for name in (values, moments) if name in table.column_names]
    flat = [part.flatten().to_numpy(zero_copy_only=False) for part in parts]
    return Ragged.from_lengths(flat[0], np.diff(parts[0].offsets.to_numpy()), *flat[1:])


def _rows_to_table(rows: Rows) -> pa.Table:
    columns: dict[str, Any] = {"user": pa.array(rows.user, pa.string())}
    columns |= {name: getattr(rows, name) for name in ("domain", "target", "source")}
    if rows.moment is not None:
        columns["moment"] = rows.moment
    for d, history in rows.history.items():
        columns[f"history_{d}"] = _list_array(history.values, history.offsets)
        if history.moments is not None:
            columns[f"moments_{d}"] = _list_array(history.moments, history.offsets)
    return pa.table(columns | {"excluded": _list_array(rows.excluded.values, rows.excluded.offsets)})


def _rows_from_table(table: pa.Table, catalogue: Catalogue) -> Rows:
    columns = {name: table[name].to_numpy() for name in ("domain", "target", "source")}
    return Rows(
        catalogue=catalogue,
        user=np.asarray(table["user"].to_pylist(), dtype=object),
        history={d: _sequences(table, f"history_{d}", f"moments_{d}") for d in DOMAINS},
        excluded=_sequences(table, "excluded"),
        moment=table["moment"].to_numpy() if "moment" in table.column_names else None,
        **columns,
    )
