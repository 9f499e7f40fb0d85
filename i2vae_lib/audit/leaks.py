"""The leak audit: does anything that training or selection sees depend on a test row?

Each check gives a count, a share and one example. Its severity follows from the protocol: a ``leak`` stops a run, a
``note`` informs. ``released`` data are known to leak: there the tables are stamped instead.

A split is compared with everything before it that training or selection touches: validation with the training rows,
test with training *and* validation rows. What scrubbing or making a row cold took out of it still counts as the row's,
so that the counts describe the pair, not the share that happened to be held out.

Some checks need more than the rows: the log (when everything happened), the fitted generator (its graph and its
tables), the recalled pseudo-items, what a model starts from and falls back to, the tables of the reference rankers.
They run if these are passed.

Out of reach
    - LightGCN's tables, except for which items have a vector. They are propagated from layer-0 vectors that are not
      kept, and where the graph has at least as many users as items, any table can come from *some* layer-0 vectors and
      the right graph. Two safeguards remain: a fit is stored under the digest of the training rows that it was made
      from, and what it recalls is checked (*target recalled in training and here alike*).
    - The weights of a trained model. Layers below the stages cannot name the test split (``tests/test_layers.py``).
    - An order that users follow only in part: the limit of 1 % on the rarer side is a convention, not a proof.
    - One person under two names with different items, or with fewer than :data:`COPY_LENGTH` (counted as a note: by
      chance many are alike).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib.audit.fewest_takers import fewest_takers
from i2vae_lib.audit.fitted import COLUMNS, Line, of_generator, of_recall
from i2vae_lib.audit.item_order import item_orders
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.protocols import NO_COMMON_TIME, blind
from i2vae_lib.data.rows import DOMAINS, SPLITS, SUSPICIOUS, Array, EventLog, Rows, among, belongs, located, origins
from i2vae_lib.data.splitting import COPY_LENGTH, alike, contents
from i2vae_lib.data.user_sequences import EveryEvent, with_targets
from i2vae_lib.generators.psg import Generator
from i2vae_lib.places import brief

LONGEST = 1000  # how many of a history's most recent events the check of an epoch's rows looks at
_AT_ONCE = 5_000_000  # events of histories looked at at once


class Leak(RuntimeError):
    """The audit found a leak where the protocol promises none."""


def audit(
    dataset: CrossDomainDataset, *, pseudo: Mapping[str, Array] | None = None, generator: Generator | None = None
) -> pd.DataFrame:
    """Run every check that the arguments allow.

    Parameters
    ----------
    pseudo
        Recalled items by split, int [rows, n] in the order of the split's rows (``pseudo.parquet``).
    generator
        The fitted pseudo-sequence generator; its graph and tables are compared with the training rows.

    Returns
    -------
    DataFrame
        ``check, split, severity`` ("leak" or "note"), ``count`` (rows concerned), ``share`` of the split's rows,
        ``example`` (source row and user of one, and the number of rows per domain; "" if none).
    """
    lines = [line for split in _Split.all_of(dataset) for line in _of_rows(split)]
    for more in (_of_order, _of_few_takers, _of_catalogue, _of_log):
        lines += more(dataset)
    if generator is not None and generator.taken is not None:
        lines += of_generator(dataset, generator)
    if pseudo is not None:
        lines += of_recall(dataset, pseudo)
    return pd.DataFrame([(*line, brief(example)) for *line, example in lines], columns=COLUMNS)


def fired(found: pd.DataFrame) -> pd.DataFrame:
    """The audit's lines of severity "leak" that found something."""
    return found[(found["severity"] == "leak") & (found["count"] > 0)]


def verdict(records: Sequence[Mapping[str, Any]]) -> str:
    """The audit of ``run.json`` as one line: how many checks, and which leaks they found."""
    leaks = [line for line in records if line["severity"] == "leak" and line["count"]]
    promised = sum(line["severity"] == "leak" for line in records)
    found = "; ".join(f"{line['check']} ({line['split']}): {line['count']}" for line in leaks) or "no leak"
    return f"audit: {promised} checks for leaks, {len(records) - promised} notes: {found}"


def refuse_leaks(found: pd.DataFrame, protocol: str, remedy: str = "") -> None:
    """Stop on a leak, except under ``released``; ``remedy`` is what would be right.

    Raises
    ------
    Leak
        Names the first check that fired, its count and an example.
    """
    leaks = fired(found)
    if len(leaks) and protocol != "released":
        first = leaks.iloc[0]
        raise Leak(
            f"{first['check']} ({first['split']}): {first['count']}, e.g. {first['example']}; "
            f"{len(leaks)} checks fired under protocol {protocol}, which promises none{remedy}"
        )


@dataclass(frozen=True)
class _Split:
    """A split and those before it. Users are numbered over all splits, so that (user, item) is one integer."""

    dataset: CrossDomainDataset
    name: str
    rows: Rows
    users: Array  # int64 [rows], user numbers
    earlier: Sequence[_Split]
    times: _Times | None  # None: no log

    @classmethod
    def all_of(cls, dataset: CrossDomainDataset) -> list[_Split]:
        """In their order."""
        # the two halves of a detached user count as one user
        names = [origins(dataset.splits[split]) for split in SPLITS]
        numbers = np.split(pd.factorize(np.concatenate(names))[0], np.cumsum([*map(len, names)])[:-1])
        times = None if dataset.log is None else _Times(dataset.log)
        found: list[_Split] = []
        for split, users in zip(SPLITS, numbers, strict=True):
            found.append(cls(dataset, split, dataset.splits[split], users, tuple(found), times))
        return found

    def pairs(self, domain: str, positions: Array, items: Array) -> Array:
        """Each (user, item) of ``domain`` as one number."""
        return self.users[positions] * (self.rows.catalogue.size(domain) + 1) + items

    def held(self, domain: str) -> tuple[Array, Array]:
        """Positions and items of a domain that the rows hold: targets, and histories before any became cold."""
        rows = self.rows
        history, at = rows.held(domain), rows.of(domain)
        # scrubbing took a target's twin from the other history, so the twin counts too; not in a log, where the twin
        # is an event of its own with its own time
        targets = rows.target_in(domain)
        asked = at if self.dataset.log is not None else np.flatnonzero(targets)
        return np.concatenate([history.owner, asked]), np.concatenate([history.values, targets[asked]])


# --- checks of rows: split -> bool [rows] -----------------------------------------------------------------------------


def _user_in_training(split: _Split) -> Array:
    return among(split.users, np.concatenate([before.users for before in split.earlier]))


def _target_in_training(split: _Split) -> Array:
    rows, hit = split.rows, np.zeros(len(split.rows), dtype=bool)
    for d in DOMAINS:
        at = rows.of(d)
        known = [before.pairs(d, *before.held(d)) for before in split.earlier]
        hit[at] = among(split.pairs(d, at, rows.target[at]), np.concatenate(known))
    return hit


def _target_in_history(rows: Rows, *, own: bool) -> Array:
    hit = np.zeros(len(rows), dtype=bool)
    for i, d in enumerate(DOMAINS):
        holders = rows.history[d].owner[rows.holds_target(d)]
        hit[holders[(rows.domain[holders] == i) == own]] = True
    return hit


def _duplicated(split: _Split) -> Array:
    table = pd.DataFrame({"user": split.users, "domain": split.rows.domain, "target": split.rows.target})
    return table.duplicated().to_numpy()


def _copy(split: _Split) -> Array:
    return _same_items(split) & (contents(split.rows)[1] >= COPY_LENGTH)


def _short_copy(split: _Split) -> Array:
    return _same_items(split) & (contents(split.rows)[1] < COPY_LENGTH)


def _same_items(split: _Split) -> Array:
    """Rows with the same items, targets included, as another user's row in an earlier split."""
    keys = np.concatenate([contents(before.rows)[0] for before in split.earlier])
    theirs = np.concatenate([before.users for before in split.earlier])
    return alike(contents(split.rows)[0], split.users, keys, theirs)


def _only_item(split: _Split) -> Array:
    """Rows that never had an own history: their single item is the target, whatever the hash says."""
    return (split.rows.lengths("own") == 0) & (split.rows.excluded.lengths == 0)


def _target_unseen(split: _Split) -> Array:
    rows, hit = split.rows, np.zeros(len(split.rows), dtype=bool)
    for d in DOMAINS:
        at, seen = rows.of(d), np.concatenate([before.held(d)[1] for before in split.earlier])
        hit[at] = ~among(rows.target[at], seen)
    return hit


def _in_item_order(split: _Split) -> Array:
    """Own histories of five items or more whose item numbers ascend (chance: 1 in 120)."""
    rows = split.rows
    hit = rows.lengths("own") >= 5
    for i, d in enumerate(DOMAINS):
        history = rows.history[d]
        inside = np.diff(history.owner) == 0
        falls = history.owner[1:][inside & (np.diff(history.values) < 0)]
        hit[falls[rows.domain[falls] == i]] = False
    return hit


class _Times:
    """When who took what in a log, sorted once for all checks."""

    def __init__(self, log: EventLog):
        self.log, self.names = log, pd.Index(log.users)
        self.keys, self.sorted = {}, {}
        for d, events in log.events.items():
            keys = _pair(events.user, events.item)
            order = np.argsort(keys, kind="stable")
            self.keys[d], self.sorted[d] = keys[order], events.time[order]

    def users(self, rows: Rows) -> Array:
        """Positions of the rows' users in the log, int64 [rows]; -1 for users that it does not have."""
        return self.names.get_indexer(pd.Index(origins(rows)))

    def of(self, domain: str, user: Array, items: Array) -> Array:
        """When ``user[i]`` took ``items[i]``, int64; -1 if the log does not have that event."""
        keys, wanted = self.keys[domain], _pair(user, items)
        found = np.full(len(wanted), -1)
        at, there = located(keys, wanted)
        there &= user >= 0
        found[there] = self.sorted[domain][at[there]]
        return found

    def of_targets(self, rows: Rows, user: Array | None = None) -> Array:
        """When each row's target happened, int64 [rows]; -1 if the log does not have it. ``user``: of :meth:`users`."""
        user, time = self.users(rows) if user is None else user, np.full(len(rows), -1)
        for d in DOMAINS:
            at = rows.of(d)
            time[at] = self.of(d, user[at], rows.target[at])
        return time


def _pair(user: Array, item: Array) -> Array:
    """Each (user, item) as one number, int64."""
    return user.astype(np.int64) << 32 | item


def _late(times: _Times, rows: Rows) -> Array:
    """Rows with an event that is not before the target in the log, or not in the log at all.

    In the own domain an event at the target's time may precede it (a hash breaks ties); in the other domain an event
    with the target's stamp (or day: ``EventLog.resolution``) may not.
    """
    user, resolution = times.users(rows), times.log.resolution
    at_target = times.of_targets(rows, user)
    hit = np.zeros(len(rows), dtype=bool)
    for i, d in enumerate(DOMAINS):
        history = rows.history[d]
        owner = history.owner
        time, limit, own = times.of(d, user[owner], history.values), at_target[owner], rows.domain[owner] == i
        late = (time < 0) | own & (time > limit)
        if times.log.common_time:
            late |= ~own & (time // resolution >= limit // resolution)
        hit[owner[late & (user[owner] >= 0)]] = True
    return hit | ((at_target < 0) & (user >= 0))


def _late_in_an_epoch(times: _Times, rows: Rows) -> Array:
    """:func:`_late` for the rows of a training epoch (``model.positions`` = every), one per event.

    Returns
    -------
    bool [rows]
        True for every row of a user with a late one.
    """
    every = EveryEvent.of(rows)
    part = np.cumsum(np.minimum(every.seen, LONGEST).sum(axis=0)) // _AT_ONCE
    late = []
    for at in np.split(np.arange(len(part)), np.flatnonzero(np.diff(part)) + 1):
        asked = every.rows(at, LONGEST)
        late.append(origins(asked)[_late(times, asked)])
    return belongs(origins(rows), np.concatenate(late))


def _before_training_ends(times: _Times, split: _Split) -> Array:
    """Rows whose target lies no later than a target of an earlier split (``temporal``: cuts are global)."""
    latest = max(int(times.of_targets(before.rows).max(initial=-1)) for before in split.earlier)
    found = times.of_targets(split.rows)
    return (found >= 0) & (found <= latest)


Check = Callable[[_Split], Array]


def _checks(dataset: CrossDomainDataset, split: str, times: _Times | None) -> Iterator[tuple[str, str, Check]]:
    """(name, severity, check) of a split under the dataset's protocol; ``times`` are those of its log."""
    if split != "train":
        # temporal is about the same users before and after a cut
        yield "user also in training", "note" if dataset.protocol == "temporal" else "leak", _user_in_training
        yield "target in the user's training rows", "leak", _target_in_training
        yield "target in own history", "leak", lambda one: _target_in_history(one.rows, own=True)
        yield "target in other history", "leak", lambda one: _target_in_history(one.rows, own=False)
        yield "duplicated row", "note", _duplicated
        yield f"row of {COPY_LENGTH} items or more under another name", "leak", _copy
        yield f"row of fewer than {COPY_LENGTH} items under another name", "note", _short_copy
        yield "target seen in no earlier split", "note", _target_unseen
    if times is not None:
        yield "event not before its target", "leak", lambda one: _late(times, one.rows)
        if split == "train":
            what = "event not before its target, as an epoch draws the rows"
            yield what, "leak", lambda one: _late_in_an_epoch(times, one.rows)
        if split != "train" and dataset.protocol == "temporal":
            yield "target no later than training's", "leak", lambda one: _before_training_ends(times, one)
    yield "cold row", "note", lambda one: one.rows.kinds()["cold"]
    yield "row without any history", "note", lambda one: one.rows.kinds()["no_history"]
    yield "history in order of item ids", "note", _in_item_order
    if dataset.protocol == "strict":
        yield "the only own item, and so the target, is the file's last", "note", _only_item


def _of_rows(split: _Split) -> Iterator[Line]:
    rows = split.rows
    for name, severity, check in _checks(split.dataset, split.name, split.times):
        hit = check(split)
        first = np.flatnonzero(hit)[:1]
        of = ", ".join(f"{rows.catalogue.names[d]} {int(hit[rows.of(d)].sum())}" for d in DOMAINS)
        example = f"row {rows.source[first[0]]}, user {rows.user[first[0]]} ({of})" if len(first) else ""
        if len(first) and check in (_copy, _short_copy):
            lengths, counts = np.unique(contents(rows)[1][hit], return_counts=True)
            example += "; rows by items: " + ", ".join(f"{n} of {length}" for length, n in zip(lengths, counts))
        yield name, split.name, severity, int(hit.sum()), float(hit.mean()) if len(hit) else 0.0, example


def _of_order(dataset: CrossDomainDataset) -> Iterator[Line]:
    """Do all users follow one order of items? One line per domain; the share is that of the rarer side."""
    for d, found in item_orders(dataset).items():
        name = f"one order of items in {dataset.catalogue.names[d]}"
        first, second, ahead, users = found.example
        example = f"{found.observations:,} observations of {found.users:,} users"
        if users:
            one, another = dataset.catalogue.decode(d, np.array([first, second]))
            example += f", e.g. item {one} before {another} in {ahead:,} of {users:,} lists"
        share = found.share if found.observations else 0.0
        if not found.enough:
            yield name, "catalogue", "note", found.observations, share, f"too few to tell: {example}"
        elif dataset.one_order:
            said = "the pair file says so" if found.one else "the pair file says so, but the data do not have one"
            yield name, "catalogue", "note", found.observations, share, f"{said}: {example}"
        else:
            yield name, "catalogue", "leak", found.observations if found.one else 0, share, example


def _of_few_takers(dataset: CrossDomainDataset) -> Iterator[Line]:
    """Does the catalogue reveal which items test rows ask for? A line per domain; its share is a control's hit rate."""
    severity = "leak" if dataset.protocol == "temporal" else "note"
    for found in fewest_takers(dataset).to_dict(orient="records"):
        name = f"fewest training takers ahead of chance in {found['domain']}"
        if not found["rows"]:
            yield name, "test", severity, 0, 0.0, "no rows"
            continue
        example = (
            f"{found['hit_rate']:.2%} of {found['rows']:,} rows, chance {found['chance']:.0%} ± {found['error']:.2%}"
        )
        example += "" if severity == "leak" else "; the catalogue comes from all rows, so an item is there for some row"
        count = round(found["hit_rate"] * found["rows"]) if found["above"] else 0
        yield name, "test", severity, count, found["hit_rate"], example


def _of_catalogue(dataset: CrossDomainDataset) -> Iterator[Line]:
    catalogue, splits = dataset.catalogue, dataset.splits
    shared = len(catalogue.links)
    smaller = min(catalogue.size(d) for d in DOMAINS)
    met = []
    for i, d in enumerate(DOMAINS):
        items = np.concatenate([with_targets(splits[split], d).values for split in ("train", "validation")])
        met.append(among(catalogue.links[:, i], items))
    learnt = int((met[0] & met[1]).sum())
    example = f"{learnt} of them in both domains of training and validation rows" if shared else ""
    yield "items shared by both domains", "catalogue", "note", shared, shared / smaller, example
    # the raw id 0 is an item like any other: code that pads with raw ids loses it
    zero = {d: catalogue.numbers(d, ["0"]) for d in DOMAINS}
    count, total = 0, sum(len(rows) for rows in splits.values())
    for rows in splits.values():
        hit = np.zeros(len(rows), dtype=bool)
        for d in DOMAINS:
            whole = with_targets(rows, d)
            hit[whole.owner[whole.values == zero[d]]] = True
        count += int(hit.sum())
    yield "row with an item whose own id is 0", "catalogue", "note", count, count / max(total, 1), ""
    if dataset.log is None:
        example = "the order is the file's, and nothing says that it is time's"
        if dataset.protocol == "strict":
            example = (
                "rows are sets: nothing in them is later than a target, and a row cut short keeps the other history"
            )
        yield "row without timestamps", "catalogue", "note", total, 1.0, example
        # released and strict: the published splits have no validation file
        count = len(splits["validation"])
        example = "the data have no validation rows; these were held out of the training users"
        yield "validation row made of training users", "validation", "note", count, 1.0, example


def _of_log(dataset: CrossDomainDataset) -> Iterator[Line]:
    """What readers of a log's results should know: rows blind to the other domain, and the dataset's notes."""
    if dataset.log is None:
        return
    empty, of = np.sum([blind(rows, dataset.log) for rows in dataset.splits.values()], axis=0)
    example = f"of {of:,} rows of users with both domains"
    yield "row that sees nothing of the other domain", "all", "note", int(empty), float(empty / max(of, 1)), example
    if not dataset.log.common_time:
        yield "no common time", "all", "note", int(of), 1.0, NO_COMMON_TIME
    for note in dataset.notes:
        if note.startswith(SUSPICIOUS):
            yield "suspicious", "log", "note", 1, 0.0, note
