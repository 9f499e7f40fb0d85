"""What a protocol keeps of a log: the k-core of the whole log, or of the events up to a time."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, DataError, Events, LogPair, among

Lines = list[dict[str, Any]]


def line_of(step: str, name: str, counts: Mapping[str, int], before: int) -> dict[str, Any]:
    """A line of ``LogPair.filters``: a step, a domain's name, the counts that it left, and the events it removed."""
    return {"step": step, "domain": name, **counts, "removed": before - counts["events"]}


def whole_core(pair: LogPair) -> LogPair:
    """The k-core of the whole log: its events, with their users and items.

    Within each domain, users with fewer than ``min_user`` events and items with fewer than ``min_item`` are removed in
    turn until nothing changes, so a user may lose one domain. Catalogue items that the log never had are kept.

    Raises
    ------
    DataError
        Nothing is left of a domain, or no user has both.
    """
    events, items, lines = {}, {}, {}
    for d in DOMAINS:
        events[d], lines[d] = _core(pair, d, np.arange(len(pair.log.events[d])), "")
        had, has = (_present(pair, d, at) for at in (slice(None), events[d]))
        items[d] = has | ~had
        items[d][0] = False
    _check_overlap(pair, events, "", lines)
    return _restricted(pair, events, items, lines)


def core_until(pair: LogPair, until: int) -> LogPair:
    """The k-core of the events up to a time decides on the catalogue; all events of its items stay, later ones too.

    So nothing after that time influences which items there are, and users whom the core dropped keep what they took of
    the catalogue. (The core's own users are those with ``min_user`` or more kept events up to that time: with one more
    such user the core would be larger, and it is the largest.)

    Raises
    ------
    DataError
        As :func:`whole_core`.
    """
    when = f" up to the first cut ({day_of(until)})"
    core, events, items, lines = {}, {}, {}, {}
    for d in DOMAINS:
        log = pair.log.events[d]
        at = np.flatnonzero(log.time <= until)
        core[d], lines[d] = _core(pair, d, at, when)
        items[d] = _present(pair, d, core[d])
        events[d] = np.flatnonzero(items[d][log.item])
    _check_overlap(pair, core, when, lines)
    return _restricted(pair, events, items, lines)


def day_of(seconds: int) -> str:
    """The UTC day of a Unix time, in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _present(pair: LogPair, d: str, at: Array | slice) -> Array:
    """Which items occur in the events at ``at``, bool [n + 1]."""
    counts: Array = np.bincount(pair.log.events[d].item[at], minlength=pair.catalogue.size(d) + 1)
    return counts > 0


def _core(pair: LogPair, d: str, at: Array, when: str) -> tuple[Array, Lines]:
    """Iterate the k-core of the events at ``at`` to its fixed point, which does not depend on the order of removal.

    Returns
    -------
    at, lines
        Positions of its events, ascending, and a line for what ``when`` removed, for both steps of round 1, and for
        those of later rounds that removed something.
    """
    log, name = pair.log.events[d], pair.catalogue.names[d]
    of, least = {"users": log.user, "items": log.item}, {"users": pair.min_user, "items": pair.min_item}
    counts = _counts(of, at)
    lines = [line_of(when.strip(), name, counts, len(log))] if when else []
    round, quiet = 1, 0  # quiet: steps since something was removed
    while quiet < 2:
        for word, column in of.items():
            taken = np.bincount(column[at])
            few = (taken > 0) & (taken < least[word])
            step, before = f"k-core round {round} ({word})", counts
            if few.any():
                at = at[~few[column[at]]]
                counts = _counts(of, at)
            if few.any() or round == 1:
                lines.append(line_of(step, name, counts, before["events"]))
            quiet = 0 if few.any() else quiet + 1
            if not counts["events"]:
                raise DataError(
                    f"{pair.files.get(d, pair.name)}: nothing is left of {name}{when} after '{step}', which keeps "
                    f"{word} with {least[word]} or more events; before it there were {before['events']:,} events, "
                    f"{before['users']:,} users, {before['items']:,} items: {_lower(pair, when)}"
                )
        round += 1
    return at, lines


def _counts(of: Mapping[str, Array], at: Array) -> dict[str, int]:
    return {"events": len(at)} | {word: int((np.bincount(column[at]) > 0).sum()) for word, column in of.items()}


def _lower(pair: LogPair, when: str) -> str:
    """The advice of the errors about a core that leaves too little."""
    later = ", or raise split.first_cut" if when else ""
    if not pair.files:  # a planted pair, which keeps whatever it has
        return f"raise synthetic.users{later}"
    return f"lower min_user ({pair.min_user}) or min_item ({pair.min_item}){later}"


def _check_overlap(pair: LogPair, core: Mapping[str, Array], when: str, lines: Mapping[str, Lines]) -> None:
    users = [pair.log.events[d].user[core[d]] for d in DOMAINS]
    if among(*users).any():
        return
    names = pair.catalogue.names
    x, y = (lines[d][-1]["users"] for d in DOMAINS)
    raise DataError(
        f"{' and '.join(pair.files.values()) or pair.name}: no overlapping user is left by the filters{when}, only "
        f"{x:,} users of {names['x']} and {y:,} others of {names['y']}: {_lower(pair, when)}"
    )


def _restricted(
    pair: LogPair, at: Mapping[str, Array], items: Mapping[str, Array], lines: Mapping[str, Lines]
) -> LogPair:
    """The events at ``at``, their users, and the ``items`` (bool [n + 1], by domain), all numbered anew.

    The numbers keep the order of the ids and have no gaps.
    """
    log, catalogue = pair.log, pair.catalogue
    users = np.zeros(len(log.users), dtype=bool)
    for d in DOMAINS:
        users[log.events[d].user[at[d]]] = True
    number = np.cumsum(users, dtype=np.int32) - np.int32(1)
    item = {d: np.cumsum(items[d], dtype=np.int32) for d in DOMAINS}
    events = {
        d: Events(number[old.user[at[d]]], item[d][old.item[at[d]]], old.time[at[d]]) for d, old in log.events.items()
    }
    links = catalogue.links[items["x"][catalogue.links[:, 0]] & items["y"][catalogue.links[:, 1]]]
    titles = {d: None if own is None else own[items[d][1:]] for d, own in catalogue.titles.items()}
    kept = Catalogue(
        catalogue.names,
        {d: catalogue.ids[d][items[d][1:]] for d in DOMAINS},
        np.stack([item[d][links[:, i]] for i, d in enumerate(DOMAINS)], axis=1),
        titles,
    )
    filters = pd.concat([pair.filters, *(pd.DataFrame(lines[d]) for d in DOMAINS)])
    of_x = (filters["domain"] == catalogue.names["x"]).to_numpy()
    filters = pd.concat([filters[of_x], filters[~of_x]], ignore_index=True)
    return replace(pair, catalogue=kept, log=replace(log, users=log.users[users], events=events), filters=filters)
