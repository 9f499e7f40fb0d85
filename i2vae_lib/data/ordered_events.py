"""The events of a log in order, and rows that ask for some of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, EventLog, LogPair, Ragged, Rows, hashed, joined, mixed, other


@dataclass(frozen=True)
class OrderedEvents:
    """Events of one domain, ordered by user, then time, then a seeded hash."""

    user: Array
    item: Array
    time: Array  # seconds
    moment: Array | None  # time // the log's resolution; None without a common time

    def __len__(self) -> int:
        return len(self.user)

    def last_of_user(self, among: Array | None = None) -> Array:
        """Positions of each user's last event (among those in the mask)."""
        at = np.arange(len(self)) if among is None else np.flatnonzero(among)
        return at[np.append(self.user[at][1:] != self.user[at][:-1], True)] if len(at) else at

    def first_of_user(self, among: Array) -> Array:
        """Positions of each user's first event among those in the mask."""
        at = np.flatnonzero(among)
        return at[np.append(True, self.user[at][1:] != self.user[at][:-1])] if len(at) else at

    def between(self, low: int, high: int) -> Array:
        """Which events are later than ``low`` and no later than ``high``, bool."""
        return (low < self.time) & (self.time <= high)

    def before(self, user: Array, moment: Array | None) -> tuple[Array, Array]:
        """Where each user's events before ``moment`` start and end; without a common time, all of the user's events."""
        if self.moment is None or moment is None:
            return np.searchsorted(self.user, user), np.searchsorted(self.user, user, side="right")
        wide = 2**34  # moments lie within 2^33 of zero; those before 1970 are negative
        keys = self.user.astype(np.int64) * wide + self.moment
        wanted = user.astype(np.int64) * wide
        return np.searchsorted(keys, wanted - wide // 2), np.searchsorted(keys, wanted + moment)


def in_order(log: EventLog, catalogue: Catalogue, data_seed: int) -> dict[str, OrderedEvents]:
    """Both domains' events in order; ties of time are broken by a hash of (user, item), never by ids or file order."""
    by_domain, resolution = {}, log.resolution
    user_keys = hashed(log.users, "ties", data_seed)
    for d in DOMAINS:
        events = log.events[d]
        ties = mixed(user_keys[events.user], hashed(catalogue.ids[d], "ties", d)[events.item - 1])
        at = np.lexsort((ties, events.time, events.user))
        moment = events.time[at] // resolution if log.common_time else None
        by_domain[d] = OrderedEvents(events.user[at], events.item[at], events.time[at], moment)
    return by_domain


def rows_at(pair: LogPair, events: Mapping[str, OrderedEvents], targets: Mapping[str, Array]) -> Rows:
    """Rows whose targets are the events at ``targets``, by user and domain; ``source`` is 2 * user + domain."""
    parts = []
    for i, d in enumerate(DOMAINS):
        own, opposite, at = events[d], events[other(d)], targets[d]
        user = own.user[at]
        starts = np.searchsorted(own.user, user)
        flat = {key: Ragged(events[key].item, np.zeros(1, dtype=np.int64), events[key].moment) for key in DOMAINS}
        moment = None if own.moment is None else own.moment[at]
        history = {d: flat[d].slices(starts, at), other(d): flat[other(d)].slices(*opposite.before(user, moment))}
        domain = np.full(len(at), i, dtype=np.int8)
        source = 2 * user.astype(np.int64) + i
        names = pair.log.users[user]
        excluded = replace(history[d], moments=None)
        parts.append(Rows(pair.catalogue, names, domain, own.item[at], history, excluded, source, moment))
    rows = joined(parts)
    return rows.take(np.argsort(rows.source, kind="stable"))
