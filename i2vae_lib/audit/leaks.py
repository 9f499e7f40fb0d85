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
from i2vae_lib.audit.fitted import COLUMNS, Line, of_graph, of_recall, of_tables
from i2vae_lib.audit.item_order import item_orders
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.protocols import NO_COMMON_TIME, blind
from i2vae_lib.data.rows import DOMAINS, SPLITS, SUSPICIOUS, Array, EventLog, Rows, origins
from i2vae_lib.data.splitting import COPY_LENGTH, contents
from i2vae_lib.data.user_sequences import asked_by_event
from i2vae_lib.generators.psg import Generator

LONGEST = 1000
"""How many of a history's most recent events the check of an epoch's rows looks at."""


class Leak(RuntimeError):
    """The audit found a leak where the protocol promises none."""


def audit(
    dataset: CrossDomainDataset,
    *,
    pseudo: Mapping[str, Array] | None = None,
    generator: Generator | None = None,
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
    numbered = _NumberedUsers.of(dataset)
    lines = [line for split in SPLITS for line in _of_rows(numbered, split)]
    lines += _of_order(dataset)
    lines += _of_few_takers(dataset)
    lines += _of_catalogue(dataset)
    lines += _of_log(dataset)
    if generator is not None and generator.taken is not None:
        lines += [of_graph(dataset, generator), of_tables(dataset, generator)]
    if pseudo is not None:
        lines += of_recall(dataset, pseudo)
    return pd.DataFrame(lines, columns=COLUMNS)


def fired(found: pd.DataFrame) -> pd.DataFrame:
    """The audit's lines of severity "leak" that found something."""
    return found[(found["severity"] == "leak") & (found["count"] > 0)]


def verdict(records: Sequence[Mapping[str, Any]]) -> str:
    """The audit of ``run.json`` as one line: how many checks, and which leaks they found."""
    leaks = [line for line in records if line["severity"] == "leak" and line["count"]]
    promised = sum(line["severity"] == "leak" for line in records)
    found = "; ".join(f"{line['check']} ({line['split']}): {line['count']}" for line in leaks) or "no leak"
    return f"audit: {promised} checks for leaks, {len(records) - promised} notes: {found}"


def refuse_leaks(found: pd.DataFrame, protocol: str) -> None:
    """Stop on a leak, except under ``released``.

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
            f"{len(leaks)} checks fired under protocol {protocol}, which promises none"
        )


@dataclass(frozen=True)
class _NumberedUsers:
    """A dataset with its users numbered over all splits, so that (user, item) is one integer."""

    dataset: CrossDomainDataset
    names: pd.Index  # user number -> name
    users: Mapping[str, Array]  # split -> int64 [rows], user numbers
    in_log: Array | None  # int64 [users]: position in the log, -1 for users that it does not have

    @classmethod
    def of(cls, dataset: CrossDomainDataset) -> _NumberedUsers:
        splits = dataset.splits
        # the two halves of a detached user count as one user
        codes, names = pd.factorize(np.concatenate([origins(splits[s]) for s in SPLITS]))
        ends = np.cumsum([0, *(len(splits[s]) for s in SPLITS)])
        users = {s: codes[ends[i] : ends[i + 1]] for i, s in enumerate(SPLITS)}
        in_log = None if dataset.log is None else pd.Index(dataset.log.users).get_indexer(pd.Index(names))
        return cls(dataset, pd.Index(names), users, in_log)

    def numbers(self, rows: Rows) -> Array:
        """The number of each row's user, int64 [rows], for rows outside the splits."""
        return self.names.get_indexer(pd.Index(origins(rows)))

    def pairs(self, split: str, domain: str, positions: Array, items: Array) -> Array:
        """Each (user, item) of ``domain`` as one number."""
        wide = self.dataset.catalogue.size(domain) + 1
        return self.users[split][positions] * wide + items

    def held(self, split: str, domain: str) -> tuple[Array, Array]:
        """Positions and items of a domain that a split's rows hold: targets, and histories before any became cold."""
        rows = self.dataset.splits[split]
        history, at = rows.held(domain), rows.of(domain)
        # scrubbing took a target's twin from the other history, so the twin counts too; not in a log, where the twin
        # is an event of its own with its own time
        targets = rows.target_in(domain)
        asked = at if self.dataset.log is not None else np.flatnonzero(targets)
        return np.concatenate([history.owner, asked]), np.concatenate([history.values, targets[asked]])


# --- checks of rows: (numbered users, split, earlier splits) -> bool [rows] -------------------------------------------


def _user_in_training(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    return np.isin(numbered.users[split], np.concatenate([numbered.users[before] for before in earlier]))


def _target_in_training(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    rows = numbered.dataset.splits[split]
    hit = np.zeros(len(rows), dtype=bool)
    for d in DOMAINS:
        at = rows.of(d)
        known = [numbered.pairs(before, d, *numbered.held(before, d)) for before in earlier]
        hit[at] = np.isin(numbered.pairs(split, d, at, rows.target[at]), np.concatenate(known))
    return hit


def _target_in_own_history(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    return _target_in_history(numbered.dataset.splits[split], own=True)


def _target_in_other_history(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    return _target_in_history(numbered.dataset.splits[split], own=False)


def _target_in_history(rows: Rows, *, own: bool) -> Array:
    hit = np.zeros(len(rows), dtype=bool)
    for i, d in enumerate(DOMAINS):
        holders = rows.history[d].owner[rows.holds_target(d)]
        hit[holders[(rows.domain[holders] == i) == own]] = True
    return hit


def _duplicated(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    rows = numbered.dataset.splits[split]
    table = pd.DataFrame({"user": numbered.users[split], "domain": rows.domain, "target": rows.target})
    return table.duplicated().to_numpy()


def _copy(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    return _same_items(numbered, split, earlier) & (contents(numbered.dataset.splits[split])[1] >= COPY_LENGTH)


def _short_copy(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    return _same_items(numbered, split, earlier) & (contents(numbered.dataset.splits[split])[1] < COPY_LENGTH)


def _same_items(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    """Rows with the same items, targets included, as another user's row in an earlier split."""
    keys = np.concatenate([contents(numbered.dataset.splits[before])[0] for before in earlier])
    theirs = np.concatenate([numbered.users[before] for before in earlier])
    order = np.lexsort((theirs, keys))
    keys, theirs = keys[order], theirs[order]
    mine, user = contents(numbered.dataset.splits[split])[0], numbered.users[split]
    begin, end = np.searchsorted(keys, mine), np.searchsorted(keys, mine, side="right")
    same = np.flatnonzero(begin < end)
    hit = np.zeros(len(mine), dtype=bool)
    # users are sorted within a key: if the first and the last are the row's own user, all are
    first, last = theirs[begin[same]], theirs[end[same] - 1]
    hit[same] = (first != user[same]) | (last != user[same])
    return hit


def _only_item(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    """Rows that never had an own history: their single item is the target, whatever the hash says."""
    rows = numbered.dataset.splits[split]
    return (rows.lengths("own") == 0) & (rows.excluded.lengths == 0)


def _target_unseen(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    rows = numbered.dataset.splits[split]
    hit = np.zeros(len(rows), dtype=bool)
    for d in DOMAINS:
        seen = np.zeros(rows.catalogue.size(d) + 1, dtype=bool)
        for before in earlier:
            seen[numbered.held(before, d)[1]] = True
        at = rows.of(d)
        hit[at] = ~seen[rows.target[at]]
    return hit


def _cold(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    return numbered.dataset.splits[split].kinds()["cold"]


def _no_history(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    return numbered.dataset.splits[split].kinds()["no_history"]


def _in_item_order(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    """Own histories of five items or more whose item numbers ascend (chance: 1 in 120)."""
    rows = numbered.dataset.splits[split]
    hit = rows.lengths("own") >= 5
    for i, d in enumerate(DOMAINS):
        history = rows.history[d]
        inside = np.diff(history.owner) == 0
        falls = history.owner[1:][inside & (np.diff(history.values) < 0)]
        hit[falls[rows.domain[falls] == i]] = False
    return hit


def _not_before_target(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    """Rows with an event that is not before the target in the log, or not in the log at all.

    In the own domain an event at the target's time may precede it (a hash breaks ties); in the other domain an event
    with the target's stamp (or day: ``EventLog.resolution``) may not.
    """
    return _late(numbered, numbered.dataset.splits[split], numbered.users[split])


def _late_in_an_epoch(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    """:func:`_not_before_target` for the rows of a training epoch (``model.positions`` = every), one per event.

    Returns
    -------
    bool [rows]
        True for every row of a user with a late one.
    """
    rows = asked_by_event(numbered.dataset.splits[split], LONGEST)
    users = numbered.numbers(rows)
    return np.isin(numbered.users[split], users[_late(numbered, rows, users)])


def _late(numbered: _NumberedUsers, rows: Rows, users: Array) -> Array:
    """Rows that hold an event not before their target, bool [rows]; ``users`` are the rows' user numbers."""
    log = numbered.dataset.log
    assert log is not None and numbered.in_log is not None
    user = numbered.in_log[users]
    hit = np.zeros(len(rows), dtype=bool)
    at_target, resolution = _target_times(numbered, rows, users), log.resolution
    for i, d in enumerate(DOMAINS):
        history = rows.history[d]
        time = _times(log, numbered, d, user[history.owner], history.values)
        own, limit = rows.domain[history.owner] == i, at_target[history.owner]
        in_other = time // resolution >= limit // resolution if log.common_time else np.zeros(len(time), dtype=bool)
        late = np.where(own, time > limit, in_other)
        hit[history.owner[(late | (time < 0)) & (user[history.owner] >= 0)]] = True
    return hit | ((at_target < 0) & (user >= 0))


def _before_training_ends(numbered: _NumberedUsers, split: str, earlier: Sequence[str]) -> Array:
    """Rows whose target lies no later than a target of an earlier split (``temporal``: cuts are global)."""
    splits = numbered.dataset.splits
    latest = max(int(_target_times(numbered, splits[one], numbered.users[one]).max(initial=-1)) for one in earlier)
    times = _target_times(numbered, splits[split], numbered.users[split])
    return (times >= 0) & (times <= latest)


def _times(log: EventLog, numbered: _NumberedUsers, domain: str, user: Array, items: Array) -> Array:
    """When ``user[i]`` took ``items[i]``, int64; -1 if the log does not have that event."""
    events, wide = log.events[domain], numbered.dataset.catalogue.size(domain) + 1
    keys = events.user.astype(np.int64) * wide + events.item
    order = np.argsort(keys, kind="stable")
    wanted = user * wide + items
    at = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    return np.where((keys[order[at]] == wanted) & (user >= 0), events.time[order[at]], -1)


def _target_times(numbered: _NumberedUsers, rows: Rows, users: Array) -> Array:
    """When each row's target happened, int64 [rows]; -1 if the log does not have it."""
    log = numbered.dataset.log
    assert log is not None and numbered.in_log is not None
    user, time = numbered.in_log[users], np.full(len(rows), -1)
    for d in DOMAINS:
        at = rows.of(d)
        time[at] = _times(log, numbered, d, user[at], rows.target[at])
    return time


Check = Callable[[_NumberedUsers, str, Sequence[str]], Array]
_EARLIER = {"train": (), "validation": ("train",), "test": ("train", "validation")}


def _checks(dataset: CrossDomainDataset, split: str) -> Iterator[tuple[str, str, Check]]:
    """(name, severity, check) of a split under the dataset's protocol."""
    if split != "train":
        # temporal is about the same users before and after a cut
        yield "user also in training", "note" if dataset.protocol == "temporal" else "leak", _user_in_training
        yield "target in the user's training rows", "leak", _target_in_training
        yield "target in own history", "leak", _target_in_own_history
        yield "target in other history", "leak", _target_in_other_history
        yield "duplicated row", "note", _duplicated
        yield f"row of {COPY_LENGTH} items or more under another name", "leak", _copy
        yield f"row of fewer than {COPY_LENGTH} items under another name", "note", _short_copy
        yield "target seen in no earlier split", "note", _target_unseen
    if dataset.log is not None:
        yield "event not before its target", "leak", _not_before_target
        if split == "train":
            yield "event not before its target, as an epoch draws the rows", "leak", _late_in_an_epoch
        if split != "train" and dataset.protocol == "temporal":
            yield "target no later than training's", "leak", _before_training_ends
    yield "cold row", "note", _cold
    yield "row without any history", "note", _no_history
    yield "history in order of item ids", "note", _in_item_order
    if dataset.protocol == "strict":
        yield "the only own item, and so the target, is the file's last", "note", _only_item


def _of_rows(numbered: _NumberedUsers, split: str) -> Iterator[Line]:
    rows = numbered.dataset.splits[split]
    for name, severity, check in _checks(numbered.dataset, split):
        hit = check(numbered, split, _EARLIER[split])
        first = np.flatnonzero(hit)[:1]
        of = ", ".join(f"{numbered.dataset.catalogue.names[d]} {int(hit[rows.of(d)].sum())}" for d in DOMAINS)
        example = f"row {rows.source[first[0]]}, user {rows.user[first[0]]} ({of})" if len(first) else ""
        if len(first) and check in (_copy, _short_copy):
            lengths, counts = np.unique(contents(rows)[1][hit], return_counts=True)
            example += "; rows by items: " + ", ".join(f"{n} of {length}" for length, n in zip(lengths, counts))
        yield name, split, severity, int(hit.sum()), float(hit.mean()) if len(hit) else 0.0, example


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
        if not found.told:
            yield name, "catalogue", "note", found.observations, share, f"too few to tell: {example}"
        elif dataset.one_order:
            yield name, "catalogue", "note", found.observations, share, f"the pair file says so: {example}"
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
    met = {d: np.zeros(catalogue.size(d) + 1, dtype=bool) for d in DOMAINS}
    for split in ("train", "validation"):
        for d in DOMAINS:
            met[d][splits[split].history[d].values] = True
            met[d][splits[split].target[splits[split].of(d)]] = True
    learnt = int((met["x"][catalogue.links[:, 0]] & met["y"][catalogue.links[:, 1]]).sum())
    example = f"{learnt} of them in both domains of training and validation rows" if shared else ""
    yield "items shared by both domains", "catalogue", "note", shared, shared / smaller, example
    # the raw id 0 is an item like any other: code that pads with raw ids loses it
    zero = {d: set(np.flatnonzero(catalogue.ids[d] == "0") + 1) for d in DOMAINS}
    count, total = 0, sum(len(rows) for rows in splits.values())
    for rows in splits.values():
        hit = np.zeros(len(rows), dtype=bool)
        for d in DOMAINS:
            history, items = rows.history[d], list(zero[d])
            hit[history.owner[np.isin(history.values, items)]] = True
            hit |= (rows.domain == DOMAINS.index(d)) & np.isin(rows.target, items)
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
