"""Rows, vocabularies and splits of a pair of domains.

A *row* asks for one next item: (history in X, history in Y, target domain, target item). Histories are ragged:
one flat array of items and one of offsets, no padding. Inside, items of a domain are numbered 1…n and 0 is
padding; people's own ids live in the :class:`Catalogue` and never enter a model.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from i2vae_lib.runs import LayoutError, check_layout, read_json, reading, write_atomically, write_json

DOMAINS = ("x", "y")
SPLITS = ("train", "validation", "test")
ORDER_FREE = ("strict",)  # protocols under which a row's items are a set
KINDS = ("all", "tailed", "tailed_warm", "cold", "no_history", "overlapping", "seen", "cold_released")
LAYOUT = 3
CATALOGUE_LAYOUT = 3
PAD = 0
SUSPICIOUS = "Suspicious: "  # what a note on a log's ids begins with
DAY = 86_400  # seconds

Int = np.ndarray


class DataError(ValueError):
    """Bad input data; the message says where (file, line, row) and what would be right."""


def listed(what: str, words: Sequence[str]) -> str:
    """The subject of a complaint: "item id 'a' is", or "item ids 'a', 'b' are", up to five of them, each once."""
    named = ", ".join(repr(word) for word in list(dict.fromkeys(words))[:5])
    return f"{what} {named} is" if len(set(words)) == 1 else f"{what}s {named} are"


def other(domain: str) -> str:
    """The opposite domain's key."""
    return "y" if domain == "x" else "x"


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths: ``values[offsets[i]:offsets[i + 1]]`` is sequence ``i``, oldest item first."""

    values: Int  # int32 [total]
    offsets: Int  # int64 [n + 1]
    moments: Int | None = None  # int64 [total]: when each event happened, in units of EventLog.resolution

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int] | Int]) -> Ragged:
        arrays = [np.asarray(one, dtype=np.int32) for one in lists]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(a) for a in arrays], out=offsets[1:])
        return cls(np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32), offsets)

    @classmethod
    def from_lengths(cls, values: Int, lengths: Int, moments: Int | None = None) -> Ragged:
        return cls(values.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), moments)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Int:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> Int:
        """int64 [n]."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> Int:
        """For each value the number of its sequence, int64 [total]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, index: Int) -> Ragged:
        """The sequences at ``index``, in that order."""
        index = np.asarray(index)
        return self.slices(self.offsets[:-1][index], self.offsets[1:][index])

    def slices(self, starts: Int, ends: Int) -> Ragged:
        """``values[starts[i]:ends[i]]`` as sequence ``i``; empty where an end does not lie above its start."""
        out = Ragged.from_lengths(np.zeros(0), np.maximum(ends - starts, 0))
        positions = np.repeat(starts - out.offsets[:-1], out.lengths) + np.arange(out.offsets[-1])
        return Ragged(self.values[positions], out.offsets, None if self.moments is None else self.moments[positions])

    def keep(self, mask: Int) -> Ragged:
        """Drop the values where ``mask`` (bool [total]) is false; the order stays."""
        lengths = np.bincount(self.owner[mask], minlength=len(self))
        return Ragged.from_lengths(self.values[mask], lengths, None if self.moments is None else self.moments[mask])

    def last(self, width: int) -> Int:
        """The most recent ``width`` items, left-padded with 0: int32 [n, min(width, longest)] (at least one column)."""
        width = max(1, min(width, int(self.lengths.max(initial=0))))
        position = self.offsets[1:, None] - np.arange(width, 0, -1)
        valid = position >= self.offsets[:-1, None]
        if not len(self.values):
            return np.zeros((len(self), width), dtype=np.int32)
        return np.where(valid, self.values[np.where(valid, position, 0)], PAD).astype(np.int32)


def chosen(parts: Sequence[Ragged], which: Int) -> Ragged:
    """Sequence i of part ``which[i]``, without moments."""
    ends = np.cumsum([0, *(len(one.values) for one in parts)])
    offsets = [one.offsets[:-1] + end for one, end in zip(parts, ends, strict=False)]
    stacked = Ragged(np.concatenate([one.values for one in parts]), np.concatenate([*offsets, ends[-1:]]))
    return stacked.take(np.arange(len(which)) + which.astype(np.int64) * len(which))


@dataclass(frozen=True)
class Catalogue:
    """What every model may know of the items: people's ids, titles, and which item of X is which item of Y."""

    names: Mapping[str, str]  # domain key -> name, e.g. {"x": "Cloth", "y": "Sport"}
    ids: Mapping[str, Int]  # domain key -> object array of str; item number i is ids[i - 1]
    links: Int  # int32 [m, 2]: (item of x, item of y) that are the same product
    titles: Mapping[str, Int | None]  # domain key -> object array of str, or None

    def digest(self) -> str:
        """SHA-256 of ids and links: the identity of the pair's items, the same under every protocol."""
        found = hashlib.sha256(np.ascontiguousarray(self.links).tobytes())
        for d in DOMAINS:
            found.update("\n".join(map(str, self.ids[d])).encode() + b"\0")
        return found.hexdigest()

    def size(self, domain: str) -> int:
        """Number of items, padding not counted."""
        return len(self.ids[domain])

    def linked(self, domain: str) -> Int:
        """int32 [n + 1]: each item's number in the other domain, 0 where it has none."""
        table = np.zeros(self.size(domain) + 1, dtype=np.int32)
        own = DOMAINS.index(domain)
        table[self.links[:, own]] = self.links[:, 1 - own]
        return table

    def key(self, name: str) -> str:
        """A domain's key, by its name or the key itself.

        Raises
        ------
        DataError
            Neither of the two has that name.
        """
        found = [d for d in DOMAINS if name == d] or [d for d in DOMAINS if name == self.names[d]]
        if not found:
            known = " or ".join(f"'{d}' ({self.names[d]})" for d in DOMAINS)
            raise DataError(f"unknown domain {name!r}: expected {known}")
        return found[0]

    def numbers(self, domain: str, ids: Sequence[Any]) -> Int:
        """People's ids to item numbers, int32 [n]; 0 for what the domain does not have."""
        wanted = pd.Index([str(one) for one in ids], dtype=object)
        return (pd.Index(self.ids[domain]).get_indexer(wanted) + 1).astype(np.int32)

    def encode(self, domain: str, ids: Sequence[Any]) -> Int:
        """People's ids to item numbers.

        Raises
        ------
        DataError
            Ids that the domain does not have; the message names up to five.
        """
        found = self.numbers(domain, ids)
        if not found.all():
            unknown = [str(one) for one, number in zip(ids, found, strict=True) if number == PAD]
            raise DataError(
                f"{listed('item id', unknown)} not in the vocabulary of domain {domain} ({self.names[domain]}, "
                f"{self.size(domain):,} items); {len(unknown)} of {len(found)} ids are unknown"
            )
        return found

    def decode(self, domain: str, items: Int) -> Int:
        """Item numbers to people's ids (object array; padding is an error)."""
        items = np.asarray(items)
        if (items < 1).any() or (items > self.size(domain)).any():
            raise DataError(f"item numbers of domain {domain} lie in 1…{self.size(domain)}")
        return np.asarray(self.ids[domain], dtype=object)[items - 1]

    def label(self, domain: str, items: Int) -> list[str]:
        """Titles where the data has them, else ids: what people read."""
        titles = self.titles[domain]
        if titles is None:
            return [str(one) for one in self.decode(domain, items)]
        return [str(one) for one in np.asarray(titles, dtype=object)[np.asarray(items) - 1]]


@dataclass(frozen=True)
class Rows:
    """Rows of one split. Everything a recommender ever sees is one of these."""

    catalogue: Catalogue
    user: Int  # object array of str [n]
    domain: Int  # int8 [n]: 0 = x, 1 = y
    target: Int  # int32 [n], item of the row's domain
    history: Mapping[str, Ragged]  # domain key -> what the row may use
    excluded: Ragged  # own history before a cold-start removal: never among the candidates
    source: Int  # int64 [n]: row of the source table (for messages, and for the planted truth)
    moment: Int | None = None  # int64 [n]: when the target happened, in the units of the histories' moments

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        kinds = {k: int(v.sum()) for k, v in self.kinds().items() if k in ("cold", "no_history", "overlapping")}
        return f"Rows({len(self):,} rows, {len(set(self.user)):,} users, {kinds})"

    def take(self, index: Int) -> Rows:
        index = np.flatnonzero(index) if np.asarray(index).dtype == bool else np.asarray(index, dtype=np.int64)
        return Rows(
            self.catalogue,
            self.user[index],
            self.domain[index],
            self.target[index],
            {d: self.history[d].take(index) for d in DOMAINS},
            self.excluded.take(index),
            self.source[index],
            None if self.moment is None else self.moment[index],
        )

    def of(self, domain: str) -> Int:
        """Positions of the rows whose target lies in ``domain``."""
        return np.flatnonzero(self.domain == DOMAINS.index(domain))

    def lengths(self, side: str) -> Int:
        """Lengths of the ``"own"`` or the ``"other"`` history, int64 [n]."""
        flip = {"own": 0, "other": 1}[side]
        x, y = (self.history[d].lengths for d in DOMAINS)
        return np.where((self.domain ^ flip) == 0, x, y)

    def held(self, domain: str) -> Ragged:
        """Each row's history in ``domain``, with what making the row cold or thinning it took away; no moments."""
        shown = self.history[domain]
        lost = (self.domain == DOMAINS.index(domain)) & (self.excluded.lengths > shown.lengths)
        return chosen([shown, self.excluded], lost)

    def target_in(self, domain: str) -> Int:
        """Each row's target as an item of ``domain``, int32 [n]: in the other domain its twin, 0 if it has none."""
        own = self.domain == DOMAINS.index(domain)
        twins = self.catalogue.linked(other(domain))[np.where(own, PAD, self.target)]
        return np.where(own, self.target, twins)

    def holds_target(self, domain: str) -> Int:
        """Which events of the histories in ``domain`` are their row's target: bool [total]."""
        history = self.history[domain]
        hit: Int = history.values == self.target_in(domain)[history.owner]
        return hit

    def kinds(self, tail: Mapping[str, float] | None = None) -> dict[str, Int]:
        """Row kinds (``docs/evaluation.md``) as boolean arrays; ``tail`` is L80 by domain (None: no tailed kinds)."""
        own, opposite = self.lengths("own") > 0, self.lengths("other") > 0
        kinds = {
            "all": np.ones(len(self), dtype=bool),
            "cold": ~own & opposite,
            "no_history": ~own & ~opposite,
            "overlapping": own & opposite,
            "cold_released": ~own,
        }
        if tail is not None:
            limit = np.where(self.domain == 0, tail["x"], tail["y"])
            kinds["tailed"] = self.lengths("own") < limit
            kinds["tailed_warm"] = kinds["tailed"] & own
        return kinds


def joined(parts: list[Rows]) -> Rows:
    """Rows of one catalogue, one after another."""

    def moments(pieces: Sequence[Int | None]) -> Int | None:
        found = [one for one in pieces if one is not None]
        return np.concatenate(found) if found else None

    def ragged(pieces: list[Ragged]) -> Ragged:
        lengths = np.concatenate([one.lengths for one in pieces])
        values = np.concatenate([one.values for one in pieces])
        return Ragged.from_lengths(values, lengths, moments([one.moments for one in pieces]))

    return Rows(
        parts[0].catalogue,
        np.concatenate([one.user for one in parts]),
        np.concatenate([one.domain for one in parts]),
        np.concatenate([one.target for one in parts]),
        {d: ragged([one.history[d] for one in parts]) for d in DOMAINS},
        ragged([one.excluded for one in parts]),
        np.concatenate([one.source for one in parts]),
        moments([one.moment for one in parts]),
    )


@dataclass(frozen=True)
class Events:
    """Events of one domain: who took what when, each (user, item) once."""

    user: Int  # int32 [m], position in EventLog.users
    item: Int  # int32 [m], 1…n
    time: Int  # int64 [m], seconds since 1970 (UTC)

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class EventLog:
    """A timestamped log of both domains."""

    users: Int  # object array of str, ascending: a user's number depends on no row order
    events: Mapping[str, Events]  # domain key -> events, in any order
    # seconds within which the order of events of two domains is unknown; of a part of a log that of the whole.
    # 0: it is never known (``unit: order``), and times tell the order inside each domain alone
    resolution: int

    @property
    def common_time(self) -> bool:
        """Whether the times of both domains are of one clock."""
        return self.resolution > 0


def resolution_of(events: Mapping[str, Events]) -> int:
    """A day where all stamps of either file stand at one time of day (midnight, or any other), else one second."""
    of_day = (one.time % DAY for one in events.values() if len(one))
    return DAY if any((one == one[0]).all() for one in of_day) else 1


@dataclass(frozen=True)
class LogPair:
    """A pair of timestamped logs, the first event of each (user, item).

    As it is read, nothing is filtered: which events the k-core is of is for the protocol to say
    (:mod:`i2vae_lib.data.filters`), and ``chronological`` and ``temporal`` say it differently. ``truth`` is only there
    for the planted world: arrays with one line per user and domain, ``2 * user + domain``.
    """

    name: str
    source_sha256: str
    catalogue: Catalogue
    log: EventLog
    filters: pd.DataFrame  # step, domain (name), and what the step left: events, users, items; removed: events gone
    truth: Mapping[str, Int] = field(default_factory=dict)
    one_order: bool = False  # of the pair file: everybody follows one order of items, and that is no artefact
    min_user: int = 1  # events a user has at least in a domain, of the k-core
    min_item: int = 1
    # int64: times of the events that repeat a (user, item), which the log no longer has
    repeats: Int = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    files: Mapping[str, str] = field(default_factory=dict)  # domain key -> where the events stand, for messages
    suspicions: Sequence[str] = ()  # what looks wrong with the ids, in sentences


def interactions(rows: Rows) -> dict[str, tuple[Int, Int]]:
    """Distinct (user position, item) pairs a domain that the rows hold, targets included.

    Users are numbered by their first appearance (``pd.factorize(rows.user)``). This is what graphs, counts and
    co-occurrence statistics of *training* rows are made of.
    """
    user = pd.factorize(rows.user)[0]
    found = {}
    for d in DOMAINS:
        at, history = rows.of(d), rows.history[d]
        pairs = np.stack(
            [np.concatenate([user[history.owner], user[at]]), np.concatenate([history.values, rows.target[at]])], axis=1
        )
        pairs = np.unique(pairs, axis=0)
        found[d] = (pairs[:, 0], pairs[:, 1])
    return found


def popularity(rows: Rows) -> dict[str, Int]:
    """Number of users who took each item, by domain: float64 [n + 1], index 0 (padding) is 0."""
    return {
        d: np.bincount(items, minlength=rows.catalogue.size(d) + 1).astype(np.float64)
        for d, (_, items) in interactions(rows).items()
    }


def hashed(parts: Iterable[Any], *salt: object) -> Int:
    """A uint64 a key that depends on nothing but the key and the salt: stable across machines and row orders."""
    key = hashlib.blake2b("|".join(str(s) for s in salt).encode()).digest()
    digests = b"".join(hashlib.blake2b(str(one).encode(), key=key, digest_size=8).digest() for one in parts)
    return np.frombuffer(digests, dtype="<u8")


def belongs(users: Int, chosen: Int) -> Int:
    """Which users are among the chosen, bool [n]: by a hash table (``np.isin`` of objects compares each with each)."""
    found: Int = pd.Index(users, dtype=object).isin(pd.Index(chosen, dtype=object))
    return found


def packed(words: Sequence[str] | Int) -> Int:
    """Strings as an array for safetensors: UTF-8 bytes, a line each, uint8.

    Raises
    ------
    DataError
        A string of more than one line.
    """
    for word in words:
        if "\n" in str(word):
            raise DataError(f"user id {str(word)!r} holds a line break")
    return np.frombuffer("\n".join(map(str, words)).encode(), dtype=np.uint8).copy()


def unpacked(array: Int) -> list[str]:
    """What :func:`packed` took."""
    return bytes(array).decode().split("\n") if len(array) else []


ONLY = " ({} only)"
"""What the name of a detached user ends with: see :func:`i2vae_lib.data.controls.detach`."""


def origins(rows: Rows) -> Int:
    """The rows' users under the names that they had before any of them was detached, object array of str."""
    x, y = (ONLY.format(rows.catalogue.names[d]) for d in DOMAINS)
    return np.array([str(user).removesuffix(x).removesuffix(y) for user in rows.user], dtype=object)


def rejoined(rows: Rows) -> Rows:
    """The rows with the halves of a detached user as one user again."""
    return replace(rows, user=origins(rows))


def mixed(one: Int, another: Int) -> Int:
    """Two uint64 keys as one (splitmix64's finaliser over their combination), element by element, uint64.

    For keys of pairs where hashing each as a string would take minutes: ten million in a second.
    """
    key = (one ^ (another * np.uint64(0x9E3779B97F4A7C15))) + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Int = key ^ (key >> np.uint64(31))
    return found


def history_keys(history: Mapping[str, Ragged], *salt: object) -> Int:
    """:func:`hashed` of each row's two histories, uint64 [rows]: alike for everybody who took the same."""
    x, y = (history[d] for d in DOMAINS)
    return hashed([x[i].tobytes() + b"|" + y[i].tobytes() for i in range(len(x))], *salt)


@dataclass(frozen=True)
class CrossDomainDataset:
    """A pair of domains under one protocol: catalogue, splits, and how they came to be.

    ``truth`` is only there for the planted world: arrays that the oracle and disentanglement measures use, one line
    a source row (see :mod:`i2vae_lib.data.synthetic`). ``log`` is only there for timestamped data.
    """

    name: str
    protocol: str
    data_seed: int
    source_sha256: str  # of the raw input
    catalogue: Catalogue
    splits: Mapping[str, Rows]
    tail: Mapping[str, Mapping[str, float]]  # split -> domain -> L80, in items
    removed: Mapping[str, int]  # what the protocol and the controls removed, counted
    controls: Mapping[str, Any] = field(default_factory=dict)  # K_o, its mode and D_s, as they were applied
    filters: pd.DataFrame = field(default_factory=pd.DataFrame)  # of a log: what each step of cleaning left
    log: EventLog | None = None  # of a log: when everything happened, for the audit
    truth: Mapping[str, Int] = field(default_factory=dict)
    one_order: bool = False  # see LogPair
    # under ``temporal``: of the first events in a window, those of items outside the catalogue (protocols.outside)
    outside: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()  # of a log: sentences that stand in run.json, tables and the audit

    def __repr__(self) -> str:
        size = ", ".join(f"{self.catalogue.names[d]} {self.catalogue.size(d):,} items" for d in DOMAINS)
        rows = ", ".join(f"{s} {len(r):,}" for s, r in self.splits.items())
        return f"CrossDomainDataset({self.name}, {self.protocol}: {size}; rows: {rows})"

    def fingerprint(self) -> str:
        """SHA-256 of everything that training and evaluation read; the identity that a run records."""
        digest = hashlib.sha256(f"{LAYOUT}|{self.name}|{self.protocol}|{self.data_seed}|{self.source_sha256}".encode())
        digest.update(self.catalogue.digest().encode())
        digest.update(json.dumps([self._account(), self._tail()], sort_keys=True).encode())
        for split in self.splits:
            digest.update(rows_digest(self.splits[split]).encode())
        return digest.hexdigest()

    def _account(self) -> dict[str, Any]:
        """What was removed, and by which control; what the pair file says of the order."""
        filters = json.loads(self.filters.to_json(orient="records"))
        return {
            "removed": dict(self.removed),
            "controls": dict(self.controls),
            "filters": filters,
            "one_order": self.one_order,
        }

    def _tail(self) -> dict[str, dict[str, float]]:
        return {split: dict(limits) for split, limits in self.tail.items()}

    def save(self, folder: Path | str) -> None:
        """Write the dataset as Parquet, file by file beside its name and renamed (rows, items, links, truth)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write_items(self.catalogue, folder)
        for split, rows in self.splits.items():
            _write_parquet(_rows_to_table(rows), folder / f"{split}.parquet")
        if self.log is not None:
            _write_parquet(pa.table({"user": pa.array(self.log.users, pa.string())}), folder / "users.parquet")
            for d, events in self.log.events.items():
                columns = {"user": events.user, "item": events.item, "time": events.time}
                _write_parquet(pa.table(columns), folder / f"events_{d}.parquet")
        if self.truth:
            write_atomically(folder / "truth.npz", lambda part: _savez(part, self.truth))
        header = {
            "layout": LAYOUT,
            "name": self.name,
            "protocol": self.protocol,
            "data_seed": self.data_seed,
            "source_sha256": self.source_sha256,
            "names": dict(self.catalogue.names),
            "tail": self._tail(),
            **self._account(),
            "outside": [dict(one) for one in self.outside],
            "notes": list(self.notes),
            "resolution": None if self.log is None else self.log.resolution,
            "fingerprint": self.fingerprint(),
        }
        write_json(folder / "dataset.json", header)

    @classmethod
    def load(cls, folder: Path | str) -> CrossDomainDataset:
        """Read what :meth:`save` wrote.

        Raises
        ------
        LayoutError
            Not a dataset folder, another layout version, a file that is missing or damaged, or contents that do not
            match the recorded fingerprint.
        """
        folder = Path(folder)
        if not (folder / "dataset.json").is_file():
            raise LayoutError(f"{folder} holds no dataset (no dataset.json)")
        try:
            header = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
            if header.get("layout") == LAYOUT:
                dataset = cls._read(folder, header)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise LayoutError(
                f"{folder} is damaged ({type(error).__name__}: {error}): delete it and prepare it anew"
            ) from error
        check_layout(f"{folder} has dataset", header.get("layout"), LAYOUT, "prepare it anew")
        if dataset.fingerprint() != header["fingerprint"]:
            raise LayoutError(f"{folder}: contents do not match the fingerprint in dataset.json; prepare it anew")
        return dataset

    @classmethod
    def _read(cls, folder: Path, header: Mapping[str, Any]) -> CrossDomainDataset:
        catalogue = _read_items(folder, header["names"])
        splits = {s: _rows_from_table(pq.read_table(folder / f"{s}.parquet"), catalogue) for s in SPLITS}
        log = None
        if (folder / "users.parquet").is_file():
            users = np.asarray(pq.read_table(folder / "users.parquet")["user"].to_pylist(), dtype=object)
            events = {d: _read_events(folder / f"events_{d}.parquet") for d in DOMAINS}
            log = EventLog(users, events, header["resolution"])
        truth: dict[str, Int] = {}
        if (folder / "truth.npz").is_file():
            with np.load(folder / "truth.npz", allow_pickle=False) as stored:
                truth = {key: stored[key] for key in stored.files}
        return cls(
            header["name"],
            header["protocol"],
            header["data_seed"],
            header["source_sha256"],
            catalogue,
            splits,
            header["tail"],
            header["removed"],
            header["controls"],
            pd.DataFrame(header["filters"]),
            log,
            truth,
            header["one_order"],
            header["outside"],
            header.get("notes", ()),
        )


def _read_events(path: Path) -> Events:
    table = pq.read_table(path)
    return Events(*(table[name].to_numpy() for name in ("user", "item", "time")))


def rows_digest(rows: Rows) -> str:
    """SHA-256 of the rows' contents."""
    digest = hashlib.sha256("\n".join(rows.user).encode())
    for array in (rows.domain, rows.target, rows.source, rows.excluded.values, rows.excluded.offsets):
        digest.update(np.ascontiguousarray(array).tobytes())
    for one in rows.history.values():
        digest.update(one.values.tobytes())
        digest.update(one.offsets.tobytes())
    for moments in (rows.moment, *(one.moments for one in rows.history.values())):
        if moments is not None:
            digest.update(np.ascontiguousarray(moments).tobytes())
    return digest.hexdigest()


def save_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Vocabularies, titles, names and links beside a saved model, so that its folder alone suffices."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_items(catalogue, folder)
    write_json(folder / "catalogue.json", {"layout": CATALOGUE_LAYOUT, "names": dict(catalogue.names)})


def read_catalogue(folder: Path) -> Catalogue:
    """Read what :func:`save_catalogue` wrote."""
    header = read_json(folder / "catalogue.json")
    check_layout(f"{folder}: catalogue", header.get("layout"), CATALOGUE_LAYOUT)
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
    ids: dict[str, Int] = {}
    titles: dict[str, Int | None] = {}
    for d in DOMAINS:
        table = pq.read_table(folder / f"items_{d}.parquet")
        ids[d] = np.asarray(table["id"].to_pylist(), dtype=object)
        titles[d] = np.asarray(table["title"].to_pylist(), dtype=object) if "title" in table.column_names else None
    links = pq.read_table(folder / "links.parquet")
    pairs = np.stack([links[d].to_numpy() for d in DOMAINS], axis=1).astype(np.int32)
    return Catalogue(dict(names), ids, pairs, titles)


def _savez(path: Path, arrays: Mapping[str, Int]) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})


def _write_parquet(table: pa.Table, path: Path) -> None:
    write_atomically(path, lambda part: pq.write_table(table, part, compression="zstd"))


def _list_array(values: Int, offsets: Int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _lists(column: pa.ChunkedArray) -> tuple[Int, Int]:
    """Values and lengths of a column of lists."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array.flatten().to_numpy(zero_copy_only=False), np.diff(array.offsets.to_numpy())


def _history(table: pa.Table, domain: str) -> Ragged:
    moments = f"moments_{domain}"
    timed = moments in table.column_names
    return Ragged.from_lengths(*_lists(table[f"history_{domain}"]), _lists(table[moments])[0] if timed else None)


def _rows_to_table(rows: Rows) -> pa.Table:
    columns = {
        "user": pa.array(rows.user, pa.string()),
        "domain": pa.array(rows.domain, pa.int8()),
        "target": pa.array(rows.target, pa.int32()),
        **{f"history_{d}": _list_array(one.values, one.offsets) for d, one in rows.history.items()},
        "excluded": _list_array(rows.excluded.values, rows.excluded.offsets),
        "source": pa.array(rows.source, pa.int64()),
    }
    for d, one in rows.history.items():
        if one.moments is not None:
            columns[f"moments_{d}"] = _list_array(one.moments, one.offsets)
    if rows.moment is not None:
        columns["moment"] = pa.array(rows.moment, pa.int64())
    return pa.table(columns)


def _rows_from_table(table: pa.Table, catalogue: Catalogue) -> Rows:
    return Rows(
        catalogue,
        np.asarray(table["user"].to_pylist(), dtype=object),
        table["domain"].to_numpy().astype(np.int8),
        table["target"].to_numpy().astype(np.int32),
        {d: _history(table, d) for d in DOMAINS},
        Ragged.from_lengths(*_lists(table["excluded"])),
        table["source"].to_numpy().astype(np.int64),
        table["moment"].to_numpy() if "moment" in table.column_names else None,
    )
