"""Does one order of items run through everybody's list?

People meet items in different orders: of the pairs of items that two or more users took, 6 to 26 % of the observations
stand on the rarer side in logs of real times. Where (nearly) none does, sequences follow an order of the *items*, a
file's or a catalogue's, and "the next item" says where an item stands in it, not what a person wanted next.

A user's whole list of a domain gives one observation for each pair of its items; items of one time are no pair. Of a
long list the :data:`MOST` items with the least hash count, so that the pairs kept are the same ones for everybody and
the work is linear in the events.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Events, hashed, joined, rejoined
from i2vae_lib.data.user_sequences import user_sequences

MOST = 50  # items a user that are looked at
_LEAST_SHARE = 0.01  # below this share on the rarer side the lists follow one order
LEAST_OBSERVATIONS, LEAST_USERS = 1_000, 100  # with fewer a small share says nothing


@dataclass(frozen=True)
class _Pairs:
    """Pairs of items that somebody took at two times: each pair once, and the observations behind them."""

    lesser: Array  # int64 [pairs], item numbers
    greater: Array  # int64 [pairs], above lesser
    forward: Array  # int64 [pairs]: users who took the lesser first
    backward: Array  # int64 [pairs]: users who took the greater first
    pair: Array  # int64 [observations], position of the pair
    user: Array  # int64 [observations]


@dataclass(frozen=True)
class _ItemOrder:
    """What the lists of one domain say, over the pairs that two or more users took."""

    observations: int
    rarer: int  # of them, those on the rarer side of their pair
    users: int  # who gave them
    example: tuple[int, int, int, int]  # the pair most often seen: first, second item, users who say so, users in all

    @property
    def share(self) -> float:
        """Of the observations those on the rarer side: 0 … 0.5; not a number where there is none."""
        return self.rarer / self.observations if self.observations else float("nan")

    @property
    def enough(self) -> bool:
        """Whether there is enough to tell."""
        return self.observations >= LEAST_OBSERVATIONS and self.users >= LEAST_USERS

    @property
    def one(self) -> bool:
        """Whether the lists follow one order of items."""
        return self.enough and self.share < _LEAST_SHARE


def whole_lists(dataset: CrossDomainDataset) -> dict[str, Events]:
    """Everybody's whole list by domain: of a log its events, else each user's longest list, with places for times.

    A user has up to two rows per split, and one list may hold what another lost (a target that was scrubbed). The
    longest of them, with what a row made cold held before, is taken as it stands: lists put together would stand in an
    order that nobody's list has.
    """
    if dataset.log is not None:
        return dict(dataset.log.events)
    held = [
        replace(rejoined(rows), history={d: rows.held(d) for d in DOMAINS}, moment=None)
        for rows in dataset.splits.values()
    ]
    lists = user_sequences(joined(held)).sequences
    return {d: Events(one.owner, one.values, one.place) for d, one in lists.items()}


def observed_pairs(events: Events, ids: Array, block: int = 2_000_000) -> Iterator[_Pairs]:
    """Every pair of items that a user took at two times, in blocks of some ``block`` observations.

    Parameters
    ----------
    events
        Of one domain; a later event of a user with the same item does not count.
    ids
        object array of str: people's id of item i is ``ids[i - 1]``. Which items of a long list count follows from
        it, not from the item's number.

    Returns
    -------
    Iterator of _Pairs
        A pair stands in one block only.
    """
    user, item, time = _kept(events, hashed(ids, "item order"))
    # the items after an event in its user's list, sorted by number, are its partners; who is asked first is sorted by
    # item, so that all observations of a pair fall into one block
    ends = np.searchsorted(user, user, side="right")
    partners = ends - np.arange(len(user)) - 1
    asked = np.argsort(item, kind="stable")
    # a block ends where the item changes
    done = np.cumsum(partners[asked])
    new = np.flatnonzero(np.diff(item[asked], prepend=-1))
    starts = new[np.flatnonzero(np.diff((done[new] - partners[asked][new]) // block, prepend=-1))]
    for begin, end in pairwise([*starts, len(asked)]):
        at = asked[begin:end]
        count = partners[at]
        one = np.repeat(at, count)
        two = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count)
        apart = time[one] != time[two]
        one, two = one[apart], two[apart]
        keys, pair = np.unique(item[one].astype(np.int64) * (len(ids) + 1) + item[two], return_inverse=True)
        forward = np.bincount(pair[time[one] < time[two]], minlength=len(keys))
        both = np.bincount(pair, minlength=len(keys))
        yield _Pairs(keys // (len(ids) + 1), keys % (len(ids) + 1), forward, both - forward, pair, user[one])


def _kept(events: Events, keys: Array) -> tuple[Array, Array, Array]:
    """User, item and time of the first event of each (user, item), by user, then item; at most MOST a user."""
    order = np.lexsort((events.time, events.item, events.user))
    user, item = events.user[order].astype(np.int64), events.item[order].astype(np.int64)
    first = (np.diff(user, prepend=-1) != 0) | (np.diff(item, prepend=-1) != 0)
    order, user, item = order[first], user[first], item[first]
    by_hash = np.lexsort((keys[item - 1], user))
    rank = np.arange(len(user)) - np.searchsorted(user, user)  # users stay in their places
    kept = np.sort(by_hash[rank < MOST])
    return user[kept], item[kept], events.time[order[kept]]


def item_order(events: Events, ids: Array) -> _ItemOrder:
    """Count the pairs that two or more users took.

    Parameters
    ----------
    events, ids
        As in :func:`observed_pairs`.
    """
    observations = rarer = 0
    gave = np.zeros(int(events.user.max(initial=-1)) + 1, dtype=bool)
    example, most = (0, 0, 0, 0), 1
    for found in observed_pairs(events, ids):
        both = found.forward + found.backward
        shared = both >= 2
        observations += int(both[shared].sum())
        rarer += int(np.minimum(found.forward, found.backward)[shared].sum())
        gave[found.user[shared[found.pair]]] = True
        top = int(both.argmax()) if len(both) else 0
        if len(both) and both[top] > most:
            most = int(both[top])
            pair = int(found.lesser[top]), int(found.greater[top])
            ahead = int(max(found.forward[top], found.backward[top]))
            example = (*(pair if found.forward[top] >= found.backward[top] else pair[::-1]), ahead, most)
    return _ItemOrder(observations, rarer, int(gave.sum()), example)


def item_orders(dataset: CrossDomainDataset) -> dict[str, _ItemOrder]:
    """:func:`item_order` of each domain of a dataset."""
    lists = whole_lists(dataset)
    return {d: item_order(lists[d], dataset.catalogue.ids[d]) for d in DOMAINS}
