"""Rows of a pair of domains, vocabularies, events, and keys that depend on contents alone.

A *row* asks for one next item: (history in X, history in Y, target domain, target item). Histories are ragged:
one flat array of items and one of offsets, no padding. Inside, items of a domain are numbered 1…n and 0 is
padding; the data's own ids live in the :class:`Catalogue` and never enter a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib.places import Refusal, quoted

DOMAINS = ("x", "y")
SPLITS = ("train", "validation", "test")
ORDER_FREE = ("strict",)  # protocols under which a row's items are a set
PAD = 0
SUSPICIOUS = "Suspicious: "  # begins each note about a log's ids
DAY = 86_400  # seconds

Array = np.ndarray


class DataError(Refusal):
    """Bad input data; the message says where (file, line, row) and what would be right."""


def listed(what: str, words: Sequence[str]) -> str:
    """The start of an error message: "item id 'a' is", or "item ids 'a', 'b' are", up to five ids, each once."""
    named = ", ".join(quoted(word) for word in list(dict.fromkeys(words))[:5])
    return f"{what} {named} is" if len(set(words)) == 1 else f"{what}s {named} are"


def other(domain: str) -> str:
    """The opposite domain's key."""
    return "y" if domain == "x" else "x"


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths: ``values[offsets[i]:offsets[i + 1]]`` is sequence ``i``, oldest item first."""

    values: Array  # int32 [total]
    offsets: Array  # int64 [n + 1]
    moments: Array | None = None  # int64 [total]: when each event happened, in units of EventLog.resolution

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int] | Array]) -> Ragged:
        arrays = [np.asarray(items, dtype=np.int32) for items in lists]
        return cls.from_lengths(np.concatenate([np.zeros(0, np.int32), *arrays]), np.array([*map(len, arrays)]))

    @classmethod
    def from_lengths(cls, values: Array, lengths: Array, moments: Array | None = None) -> Ragged:
        return cls(values.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), moments)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Array:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> Array:
        """Number of values of each sequence, int64 [n]."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> Array:
        """Each value's sequence number, int64 [total]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def place(self) -> Array:
        """Each value's place in its sequence, from 0: int64 [total]."""
        return np.arange(len(self.values)) - self.offsets[self.owner]

    def take(self, index: Array) -> Ragged:
        """The sequences at ``index``, in that order."""
        index = np.asarray(index)
        return self.slices(self.offsets[:-1][index], self.offsets[1:][index])

    def slices(self, starts: Array, ends: Array) -> Ragged:
        """``values[starts[i]:ends[i]]`` as sequence ``i``; empty unless the end lies above the start."""
        out = Ragged.from_lengths(np.zeros(0), np.maximum(ends - starts, 0))
        positions = np.repeat(starts - out.offsets[:-1], out.lengths) + np.arange(out.offsets[-1])
        return Ragged(self.values[positions], out.offsets, None if self.moments is None else self.moments[positions])

    def recent(self, longest: int) -> Ragged:
        """The last ``longest`` values of each sequence."""
        return self.slices(np.maximum(self.offsets[:-1], self.offsets[1:] - longest), self.offsets[1:])

    def keep(self, mask: Array) -> Ragged:
        """Drop the values where ``mask`` (bool [total]) is false; the order stays."""
        lengths = np.bincount(self.owner[mask], minlength=len(self))
        return Ragged.from_lengths(self.values[mask], lengths, None if self.moments is None else self.moments[mask])

    def emptied(self, mask: Array) -> Ragged:
        """Without what the sequences hold where ``mask`` (bool [n]) is true."""
        return self.keep(~mask[self.owner])

    def distinct(self) -> Ragged:
        """Each sequence as a set: every value once, ascending; without moments."""
        key = int(self.values.max(initial=0)) + 1
        pairs = distinct(self.owner * key + self.values)
        return Ragged.from_lengths(pairs % key, np.bincount(pairs // key, minlength=len(self)))

    def last(self, width: int) -> Array:
        """The most recent ``width`` items, left-padded with 0: int32 [n, min(width, longest)] (at least one column)."""
        width = max(1, min(width, int(self.lengths.max(initial=0))))
        position = self.offsets[1:, None] - np.arange(width, 0, -1)
        valid = position >= self.offsets[:-1, None]
        if not len(self.values):
            return np.zeros((len(self), width), dtype=np.int32)
        return np.where(valid, self.values[np.where(valid, position, 0)], PAD).astype(np.int32)


def stacked(parts: Sequence[Ragged]) -> Ragged:
    """The sequences of all parts, one part after another; with moments if every part has them."""
    values, lengths = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "lengths"))
    known = [part.moments for part in parts if part.moments is not None]
    return Ragged.from_lengths(values, lengths, np.concatenate(known) if len(known) == len(parts) else None)


def chosen(parts: Sequence[Ragged], which: Array) -> Ragged:
    """Sequence ``i`` of ``parts[which[i]]`` for every i, without moments."""
    found = stacked(parts).take(np.arange(len(which)) + which.astype(np.int64) * len(which))
    return replace(found, moments=None)


@dataclass(frozen=True)
class Catalogue:
    """What every model may know about the items: the data's ids, titles, and which items of X and Y are the same."""

    names: Mapping[str, str]  # domain key -> name, e.g. {"x": "Cloth", "y": "Sport"}
    ids: Mapping[str, Array]  # domain key -> object array of str; item number i is ids[i - 1]
    links: Array  # int32 [m, 2]: (item of x, item of y) that are the same product
    titles: Mapping[str, Array | None]  # domain key -> object array of str, or None

    def digest(self) -> str:
        """SHA-256 of ids and links: the identity of the pair's items, the same under every protocol."""
        sha256 = hashlib.sha256(np.ascontiguousarray(self.links).tobytes())
        for d in DOMAINS:
            sha256.update("\n".join(map(str, self.ids[d])).encode() + b"\0")
        return sha256.hexdigest()

    def size(self, domain: str) -> int:
        """Number of items, padding not counted."""
        return len(self.ids[domain])

    def linked(self, domain: str) -> Array:
        """int32 [n + 1]: each item's number in the other domain, 0 where it has none."""
        table = np.zeros(self.size(domain) + 1, dtype=np.int32)
        own = DOMAINS.index(domain)
        table[self.links[:, own]] = self.links[:, 1 - own]
        return table

    def key(self, name: str) -> str:
        """The key of the domain with this name or key.

        Raises
        ------
        DataError
            Neither of the two domains has it.
        """
        keys = [d for d in DOMAINS if name == d] or [d for d in DOMAINS if name == self.names[d]]
        if not keys:
            known = " or ".join(f"'{d}' ({self.names[d]})" for d in DOMAINS)
            raise DataError(f"unknown domain {name!r}: expected {known}")
        return keys[0]

    def numbers(self, domain: str, ids: Sequence[Any]) -> Array:
        """The data's ids to item numbers, int32 [n]; 0 for ids that the domain does not have."""
        wanted = pd.Index([str(item) for item in ids], dtype=object)
        return (pd.Index(self.ids[domain]).get_indexer(wanted) + 1).astype(np.int32)

    def encode(self, domain: str, ids: Sequence[Any]) -> Array:
        """The data's ids to item numbers, int32 [n].

        Raises
        ------
        DataError
            Ids that the domain does not have; the message names up to five.
        """
        numbers = self.numbers(domain, ids)
        if not numbers.all():
            unknown = [str(item) for item, number in zip(ids, numbers, strict=True) if number == PAD]
            raise DataError(
                f"{listed('item id', unknown)} not in the vocabulary of domain {domain} ({self.names[domain]}, "
                f"{self.size(domain):,} items); {len(unknown)} of {len(numbers)} ids are unknown"
            )
        return numbers

    def decode(self, domain: str, items: Array) -> Array:
        """Item numbers to the data's ids (object array; padding is an error)."""
        items = np.asarray(items)
        if (items < 1).any() or (items > self.size(domain)).any():
            raise DataError(f"item numbers of domain {domain} lie in 1…{self.size(domain)}")
        return np.asarray(self.ids[domain], dtype=object)[items - 1]

    def label(self, domain: str, items: Array) -> list[str]:
        """Titles where the data have them, else ids."""
        titles = self.titles[domain]
        if titles is None:
            return [str(item) for item in self.decode(domain, items)]
        return [str(title) for title in np.asarray(titles, dtype=object)[np.asarray(items) - 1]]


@dataclass(frozen=True)
class Rows:
    """Rows of one split: the only form in which a recommender ever sees data."""

    catalogue: Catalogue
    user: Array  # object array of str [n]
    domain: Array  # int8 [n]: 0 = x, 1 = y
    target: Array  # int32 [n], item of the row's domain
    history: Mapping[str, Ragged]  # domain key -> what the row may use
    excluded: Ragged  # own history before a cold-start removal: never among the candidates
    source: Array  # int64 [n]: row of the source table (for messages, and for the truth of synthetic data)
    moment: Array | None = None  # int64 [n]: when the target happened, in the units of the histories' moments

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        kinds = {k: int(v.sum()) for k, v in self.kinds().items() if k in ("cold", "no_history", "overlapping")}
        return f"Rows({len(self):,} rows, {len(set(self.user)):,} users, {kinds})"

    def take(self, index: Array) -> Rows:
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

    def of(self, domain: str) -> Array:
        """Positions of the rows whose target lies in ``domain``."""
        return np.flatnonzero(self.domain == DOMAINS.index(domain))

    def lengths(self, side: str) -> Array:
        """Lengths of the ``"own"`` or the ``"other"`` history, int64 [n]."""
        flip = {"own": 0, "other": 1}[side]
        x, y = (self.history[d].lengths for d in DOMAINS)
        return np.where((self.domain ^ flip) == 0, x, y)

    def held(self, domain: str) -> Ragged:
        """Each row's history in ``domain`` as it was before the row was made cold or thinned; without moments."""
        shown = self.history[domain]
        lost = (self.domain == DOMAINS.index(domain)) & (self.excluded.lengths > shown.lengths)
        return chosen([shown, self.excluded], lost)

    def target_in(self, domain: str) -> Array:
        """Each row's target as an item of ``domain``, int32 [n]; for rows of the other domain its twin, or 0."""
        own = self.domain == DOMAINS.index(domain)
        twins = self.catalogue.linked(other(domain))[np.where(own, PAD, self.target)]
        return np.where(own, self.target, twins)

    def holds_target(self, domain: str) -> Array:
        """Which events of the histories in ``domain`` are their row's target: bool [total]."""
        history = self.history[domain]
        return history.values == self.target_in(domain)[history.owner]

    def kinds(self, tail: Mapping[str, float] | None = None) -> dict[str, Array]:
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
    """Concatenate rows of one catalogue."""
    moments = [rows.moment for rows in parts if rows.moment is not None]
    return Rows(
        parts[0].catalogue,
        np.concatenate([rows.user for rows in parts]),
        np.concatenate([rows.domain for rows in parts]),
        np.concatenate([rows.target for rows in parts]),
        {d: stacked([rows.history[d] for rows in parts]) for d in DOMAINS},
        stacked([rows.excluded for rows in parts]),
        np.concatenate([rows.source for rows in parts]),
        np.concatenate(moments) if moments else None,
    )


@dataclass(frozen=True)
class Events:
    """Events of one domain: who took which item when, each (user, item) once."""

    user: Array  # int32 [m], position in EventLog.users
    item: Array  # int32 [m], 1…n
    time: Array  # int64 [m], seconds since 1970 (UTC)

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class EventLog:
    """A timestamped log of both domains."""

    users: Array  # object array of str, ascending: a user's number depends on no row order
    events: Mapping[str, Events]  # domain key -> events, in any order
    # seconds within which the order of events of two domains is unknown; a part of a log keeps that of the whole.
    # 0: that order is never known (``unit: order``), and times only order the events within a domain
    resolution: int

    @property
    def common_time(self) -> bool:
        """Whether the times of both domains come from one clock."""
        return self.resolution > 0


def resolution_of(events: Mapping[str, Events]) -> int:
    """A day if all stamps of either file share one time of day (midnight or any other), else one second."""
    of_day = (part.time % DAY for part in events.values() if len(part))
    return DAY if any((seconds == seconds[0]).all() for seconds in of_day) else 1


@dataclass(frozen=True)
class LogPair:
    """A pair of timestamped logs, with the first event of each (user, item).

    Nothing is filtered on reading: ``chronological`` and ``temporal`` take the k-core of different events
    (:mod:`i2vae_lib.data.filters`). ``truth`` is there for synthetic data only: arrays with one line per user and
    domain, at ``2 * user + domain``.
    """

    name: str
    source_sha256: str
    catalogue: Catalogue
    log: EventLog
    filters: pd.DataFrame  # step, domain (name); events, users and items that the step left; removed: events gone
    truth: Mapping[str, Array] = field(default_factory=dict)
    one_order: bool = False  # the pair file says that everybody really follows one order of items
    min_user: int = 1  # k-core: fewest events of a user in a domain
    min_item: int = 1
    # int64: times of the events that repeat a (user, item), which the log no longer has
    repeats: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    files: Mapping[str, str] = field(default_factory=dict)  # domain key -> file of the events, for messages
    suspicions: Sequence[str] = ()  # what looks wrong with the ids, in sentences


def interactions(rows: Rows) -> dict[str, tuple[Array, Array]]:
    """Distinct (user position, item) pairs in the rows by domain, targets included.

    Users are numbered by their first appearance (``pd.factorize(rows.user)``). Graphs, counts and co-occurrence
    statistics are made of the interactions of *training* rows.
    """
    user = pd.factorize(rows.user)[0]
    by_domain = {}
    for d in DOMAINS:
        at, history = rows.of(d), rows.history[d]
        taker = np.concatenate([user[history.owner], user[at]])
        key = rows.catalogue.size(d) + 1
        by_domain[d] = np.divmod(distinct(taker * key + np.concatenate([history.values, rows.target[at]])), key)
    return by_domain


def popularity(rows: Rows) -> dict[str, Array]:
    """Number of users who took each item, by domain: float64 [n + 1], index 0 (padding) is 0."""
    return {
        d: np.bincount(items, minlength=rows.catalogue.size(d) + 1).astype(np.float64)
        for d, (_, items) in interactions(rows).items()
    }


def hashed(parts: Iterable[Any], *salt: object) -> Array:
    """A uint64 per part that depends on the part and the salt alone: stable across machines and row orders."""
    key = hashlib.blake2b("|".join(str(s) for s in salt).encode()).digest()
    digests = b"".join(hashlib.blake2b(str(part).encode(), key=key, digest_size=8).digest() for part in parts)
    return np.frombuffer(digests, dtype="<u8")


def distinct(numbers: Array) -> Array:
    """Every number once, ascending; ``np.unique`` takes up to a hundred times as long where most are different."""
    ascending = np.sort(numbers)
    return ascending[np.concatenate([np.ones(len(numbers[:1]), dtype=bool), ascending[1:] != ascending[:-1]])]


def batched(positions: Array, size: int) -> Iterator[Array]:
    """At most ``size`` of the positions at a time, in their order."""
    return (positions[start : start + size] for start in range(0, len(positions), size))


def located(keys: Array, wanted: Array) -> tuple[Array, Array]:
    """Where each wanted number stands in ascending ``keys``, and whether it does: int64, and bool of its shape.

    Where it does not, the place is that of another key.
    """
    if not len(keys):
        return np.zeros(wanted.shape, dtype=np.int64), np.zeros(wanted.shape, dtype=bool)
    # in ascending order neighbours look at the same keys; in any order each look-up in a long table misses the cache
    ascending, order = _ascending(wanted.ravel())
    at = np.empty(wanted.size, dtype=np.int64)
    at[order] = np.searchsorted(keys, ascending)
    at = np.minimum(at.reshape(wanted.shape), len(keys) - 1)
    return at, keys[at] == wanted


def _ascending(numbers: Array) -> tuple[Array, Array]:
    """Integers in ascending order, and where each stood."""
    bits = len(numbers).bit_length()
    if len(numbers) and numbers.min() >= 0 and int(numbers.max()) < 2 ** (63 - bits):
        # number and place in one integer: NumPy sorts these six times as fast as it finds an order
        coded = np.sort(numbers.astype(np.int64) << bits | np.arange(len(numbers)))
        return coded >> bits, coded & (2**bits - 1)
    order = np.argsort(numbers)
    return numbers[order], order


def among(numbers: Array, chosen: Array) -> Array:
    """Which numbers are among the chosen ones, both in any order, bool [n]."""
    return located(distinct(chosen), numbers)[1]


def belongs(users: Array, chosen: Array) -> Array:
    """Which users are among the chosen, bool [n]; a hash table, as ``np.isin`` compares all pairs of objects."""
    return pd.Index(users, dtype=object).isin(pd.Index(chosen, dtype=object))


def packed(words: Sequence[str] | Array) -> Array:
    """Strings as a uint8 array for safetensors: UTF-8, one per line.

    Raises
    ------
    DataError
        A string of more than one line.
    """
    for word in words:
        if "\n" in str(word):
            raise DataError(f"user id {str(word)!r} holds a line break")
    return np.frombuffer("\n".join(map(str, words)).encode(), dtype=np.uint8).copy()


def unpacked(array: Array) -> list[str]:
    """Inverse of :func:`packed`."""
    return bytes(array).decode().split("\n") if len(array) else []


ONLY = " ({} only)"  # how the name of a detached user ends: see subsampling.detach


def origins(rows: Rows) -> Array:
    """The rows' users under the names that they had before being detached, object array of str."""
    x, y = (ONLY.format(rows.catalogue.names[d]) for d in DOMAINS)
    text = "\n".join(map(str, rows.user))
    if x not in text and y not in text:  # nobody was detached: no name has to be looked at
        return rows.user
    return np.array([str(user).removesuffix(x).removesuffix(y) for user in rows.user], dtype=object)


def rejoined(rows: Rows) -> Rows:
    """The rows with the two halves of each detached user joined again."""
    return replace(rows, user=origins(rows))


def mixed(one: Array, another: Array) -> Array:
    """Combine two uint64 keys into one, element by element (splitmix64's finaliser over their combination): uint64.

    For keys of pairs, where hashing each as a string would take minutes: ten million per second.
    """
    key = (one ^ (another * np.uint64(0x9E3779B97F4A7C15))) + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


def history_keys(history: Mapping[str, Ragged], *salt: object) -> Array:
    """:func:`hashed` of each row's two histories, uint64 [rows]: equal for users with the same histories."""
    x, y = (history[d] for d in DOMAINS)
    return hashed([x[i].tobytes() + b"|" + y[i].tobytes() for i in range(len(x))], *salt)
