"""Synthetic data: two domains whose truth is known, which gives a ceiling and answers to check against.

Topics are *shared* (both domains have items of them) or *specific* to one domain. A user has one interest vector over
the shared topics and one over each domain's specific topics; in domain D the two are mixed with ``shared_weight``.
The next item i of domain D given the interest w (which drifts along the sequence) is drawn with

    p(i) proportional to ( w[topic(i)] / mass(topic(i)) * popularity(i) ) ** dial     (items not taken yet)

where popularity is Zipf within the domain, assigned at random, and mass is the topic's total popularity. ``dial`` = 0
makes every item equally likely (nothing beats chance), 1 is the formula as it stands, above 1 is more predictable.

:func:`generate_log` draws a timestamped log with the truth: the users' interests at their last events and their
interest vectors, item topics and popularities; :func:`next_item_probabilities` turns them into the probability of
every item. :func:`generate` draws published splits of the same data (the released layout, without times, cold-start
test rows included), for what needs such files. They carry no truth: ``strict`` asks for a target that a hash chose,
not for the event whose interests are known.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from i2vae_lib.data.protocols import RawPair
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, EventLog, Events, LogPair, Ragged, Rows, resolution_of
from i2vae_lib.data.splitting import raw_rows
from i2vae_lib.parameter_groups import SyntheticParameters
from i2vae_lib.params import load
from i2vae_lib.runs import write_atomically

HOUR, DAY = 3_600, 86_400  # seconds
_EPOCH = 1_356_998_400  # 2013-01-01

# version of the generating process; part of the source checksum, so that a changed process is another dataset
_GENERATOR = 3


def generate(p: SyntheticParameters) -> RawPair:
    """Draw published splits: training and test rows, no times, no truth.

    Parameters
    ----------
    p
        Sizes, dial and seed (explained in ``params/paper.yaml``).
    """
    rng = np.random.default_rng(p.seed)
    catalogue, _, _, sequences, _ = _world(p, rng)
    in_test = rng.random(p.users) < p.test_share
    takers = [np.flatnonzero(sequences[d].lengths >= 2) for d in DOMAINS]
    users, domains = np.concatenate(takers), np.repeat([0, 1], [*map(len, takers)])
    order = rng.permutation(len(users))
    users, domains = users[order], domains[order]
    # one row per user, as in nearly all of the released rows; two rows for one in four overlapping users
    second = np.ones(len(users), dtype=bool)
    second[np.unique(users, return_index=True)[1]] = False
    stays = ~second | (rng.random(len(users)) < 0.25)
    users, domains = users[stays], domains[stays]
    full = {d: sequences[d].take(users) for d in DOMAINS}
    # cold-start test rows keep only the target of the own sequence; half of them lose the other domain too
    test = in_test[users]
    opposite = np.where(domains == 0, full["y"].lengths, full["x"].lengths) > 0
    lonely = test & (rng.random(len(users)) < p.cold_rows / 2)
    share = p.cold_rows / 2 / max((opposite & ~lonely)[test].mean(), 1e-9)
    bare = lonely | (test & opposite & (rng.random(len(users)) < share))
    for i, d in enumerate(DOMAINS):
        s = full[d]
        own = domains[s.owner] == i
        full[d] = s.keep((~bare[s.owner] | ~own | _is_last(s)) & (~lonely[s.owner] | own))
    names = np.array([f"u{u}" for u in users], dtype=object)
    rows = raw_rows(catalogue, names, domains, full, np.arange(len(users)))
    # the target's linked item in the other history is a leak that only the released files have
    linked = np.zeros(len(rows), dtype=bool)
    for d in DOMAINS:
        linked[rows.history[d].owner[rows.holds_target(d)]] = True
    rows = rows.take(~linked)
    test = test[rows.source]
    return RawPair("synthetic", _source(p), catalogue, rows.take(~test), rows.take(test))


def generate_log(p: SyntheticParameters) -> LogPair:
    """Draw a timestamped log: all users' whole sequences, with times, and the truth.

    Users begin on any day of three years; gaps between a user's events in a domain are exponential with a mean of
    thirty days. A share ``cold_rows / 2`` of the users are newcomers with one event, so a row without any history.

    Returns
    -------
    LogPair
        ``truth`` holds ``topics_x``, ``topics_y`` [n + 1] (topic of each item; -1 for padding; topics 0…S-1 are shared,
        then S…S+P-1 specific), ``popularity_x``, ``popularity_y`` [n + 1]; one line per user and domain (``2 * user +
        domain``) ``interest`` [2 users, S + P] (at the user's last event of the domain, so an oracle exists under
        ``chronological`` only), ``planted_shared`` [2 users, S], ``planted_x``, ``planted_y`` [2 users, P]; and the
        numbers ``dial``, ``focus`` and ``shared_weight``.
    """
    rng = np.random.default_rng(p.seed)
    catalogue, truth, planted, sequences, interests = _world(p, rng)
    sequences = _with_newcomers(p, sequences, rng)
    start = rng.uniform(0, 3 * 365 * DAY, p.users)
    events = {}
    for d in DOMAINS:
        owner = sequences[d].owner
        gaps = HOUR + rng.exponential(30 * DAY, len(owner))
        summed = np.concatenate([[0.0], np.cumsum(gaps)])
        since = summed[1:] - summed[sequences[d].offsets[:-1]][owner]
        times = (_EPOCH + start[owner] + since).astype(np.int64)
        events[d] = Events(owner.astype(np.int32), sequences[d].values, times)
    users = np.array([f"u{u:0{len(str(p.users))}d}" for u in range(p.users)], dtype=object)
    for d in DOMAINS:
        truth[f"planted_{d}"] = np.repeat(planted[d], 2, axis=0)
    truth["planted_shared"] = np.repeat(planted["shared"], 2, axis=0)
    truth["interest"] = np.stack([interests[d] for d in DOMAINS], axis=1).reshape(2 * p.users, -1)
    counts = [
        ("read", catalogue.names[d], len(events[d]), len(np.unique(events[d].user)), len(np.unique(events[d].item)), 0)
        for d in DOMAINS
    ]
    filters = pd.DataFrame(counts, columns=["step", "domain", "events", "users", "items", "removed"])
    return LogPair("synthetic", _source(p), catalogue, EventLog(users, events, resolution_of(events)), filters, truth)


def sample_logs(users: int = 2000, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Two small logs to try things with: ``books`` and ``films``, columns ``user``, ``item`` and ``when``.

    Users and items are integers, each domain numbers its own items, rows are in no order. The data are the synthetic
    ones of the preset ``smoke``, with both domains for every second user and no linked items.
    """
    chosen = {"synthetic.users": users, "synthetic.seed": seed, "synthetic.overlap": 0.5, "synthetic.linked_items": 0}
    log = generate_log(load("smoke", chosen).synthetic).log
    rng, logs = np.random.default_rng(seed), {}
    for name, events in zip(("books", "films"), log.events.values(), strict=True):
        when = pd.to_datetime(events.time, unit="s")
        table = pd.DataFrame({"user": events.user, "item": events.item, "when": when}).astype(
            {"user": int, "item": int}
        )
        logs[name] = table.iloc[rng.permutation(len(table))].reset_index(drop=True)
    return logs


def write_logs(pair: LogPair, folder: Path) -> tuple[Path, Path]:
    """Write the events of a pair as two CSV files, as a user would bring them, with titles in files beside them.

    Columns ``user_id, item_id, timestamp`` (Unix seconds), rows in no order; returns the paths of X and Y.
    """
    rng, paths = np.random.default_rng(0), []
    for d in DOMAINS:
        events, name = pair.log.events[d], pair.catalogue.names[d]
        columns = {
            "user_id": pair.log.users[events.user],
            "item_id": pair.catalogue.decode(d, events.item),
            "timestamp": events.time,
        }
        tables = {name: pd.DataFrame(columns).iloc[rng.permutation(len(events))]}
        titles = pair.catalogue.titles[d]
        if titles is not None:
            tables[f"{name}_titles"] = pd.DataFrame({"item_id": pair.catalogue.ids[d], "title": titles})
        for stem, table in tables.items():
            write_atomically(folder / f"{stem}.csv", partial(table.to_csv, index=False))
        paths.append(folder / f"{name}.csv")
    return paths[0], paths[1]


_World = tuple[Catalogue, dict[str, Array], dict[str, Array], dict[str, Ragged], dict[str, Array]]


def _world(p: SyntheticParameters, rng: np.random.Generator) -> _World:
    """Catalogue, truth of the items, users' interest vectors, sequences, and interests at their last events."""
    catalogue, truth = _items(p, rng)
    planted = {
        "shared": rng.dirichlet(np.full(p.shared_topics, p.focus), p.users),
        **{d: rng.dirichlet(np.full(p.specific_topics, p.focus), p.users) for d in DOMAINS},
    }
    has = _domains_of_users(p, rng)
    lengths = {d: np.where(has[d], _lengths(p, rng), 0) for d in DOMAINS}
    sequences, interests = {}, {}
    for d in DOMAINS:
        sequences[d], interests[d] = _walk(p, d, lengths[d], planted, truth, rng)
    return catalogue, truth, planted, sequences, interests


def _source(p: SyntheticParameters) -> str:
    return hashlib.sha256(f"{_GENERATOR}{json.dumps(p.model_dump(), sort_keys=True)}".encode()).hexdigest()


def next_item_probabilities(truth: Mapping[str, Array], rows: Rows, index: Array, domain: str) -> Array:
    """True probability of every item of ``domain`` at the target of rows ``index``: float64 [len(index), n + 1].

    Not renormalised for items already taken, which are never among a row's candidates: rankings are unaffected.
    Column 0 (padding) is 0.
    """
    return item_probabilities(truth["interest"][rows.source[index]], domain, truth)


def item_probabilities(interest: Array, domain: str, truth: Mapping[str, Array]) -> Array:
    """Probability of every item of ``domain`` given interests [rows, S + P]: float64 [rows, n + 1]."""
    weights = _item_weights(interest, domain, truth)
    return weights / weights.sum(axis=1, keepdims=True)


def _item_weights(interest: Array, d: str, truth: Mapping[str, Array]) -> Array:
    """Unnormalised p(i) of the module docstring, [rows, n + 1]."""
    topics, popularity, dial = truth[f"topics_{d}"], truth[f"popularity_{d}"], float(truth["dial"])
    base = np.zeros(len(topics))
    mass = np.bincount(topics[1:], weights=popularity[1:], minlength=interest.shape[1])
    base[1:] = popularity[1:] / mass[topics[1:]]
    weights: Array = (interest[:, topics] * base) ** dial
    weights[:, 0] = 0.0
    return weights


def _items(p: SyntheticParameters, rng: np.random.Generator) -> tuple[Catalogue, dict[str, Array]]:
    total = p.shared_topics + p.specific_topics
    truth: dict[str, Array] = {name: np.array(getattr(p, name)) for name in ("dial", "focus", "shared_weight")}
    # linked items come first in both domains and belong to shared topics: the same product has the same topic
    linked_topics = rng.integers(0, p.shared_topics, p.linked_items)
    ids, titles = {}, {}
    for d in DOMAINS:
        topics = rng.permutation(np.arange(p.items) % total)
        topics[: p.linked_items] = linked_topics
        truth[f"topics_{d}"] = np.concatenate([[-1], topics])
        rank = rng.permutation(p.items) + 1
        truth[f"popularity_{d}"] = np.concatenate([[0.0], rank**-p.zipf])
        ids[d] = np.array([f"s{i}" if i < p.linked_items else f"{d}{i}" for i in range(p.items)], dtype=object)
        titles[d] = np.array([_title(d, i, topics[i], p) for i in range(p.items)], dtype=object)
    pairs = np.repeat(np.arange(1, p.linked_items + 1, dtype=np.int32)[:, None], 2, axis=1)
    return Catalogue({"x": "North", "y": "South"}, ids, pairs, titles), truth


def _title(d: str, i: int, topic: int, p: SyntheticParameters) -> str:
    kind = f"shared topic {topic}" if topic < p.shared_topics else f"{d}-only topic {topic - p.shared_topics}"
    return f"{kind}, item {i}"


def _domains_of_users(p: SyntheticParameters, rng: np.random.Generator) -> dict[str, Array]:
    draw = rng.random(p.users)
    only_x = (1 - p.overlap) / 2
    return {"x": draw < p.overlap + only_x, "y": (draw < p.overlap) | (draw >= p.overlap + only_x)}


def _lengths(p: SyntheticParameters, rng: np.random.Generator) -> Array:
    """At least two items, most lengths like the released pairs', a lognormal tail; the mean is ``mean_length``."""
    spread = 0.9
    mean = p.mean_length - 2 + 0.5  # rounding down loses half an item on average
    extra = np.floor(rng.lognormal(np.log(mean) - spread**2 / 2, spread, p.users))
    return np.minimum(2 + extra.astype(np.int64), p.items // 4)


def _walk(
    p: SyntheticParameters,
    d: str,
    lengths: Array,
    planted: Mapping[str, Array],
    truth: Mapping[str, Array],
    rng: np.random.Generator,
) -> tuple[Ragged, Array]:
    """The sequences of one domain and the users' last interests, drawn event by event for all users at once."""
    mixed = np.concatenate([p.shared_weight * planted["shared"], (1 - p.shared_weight) * planted[d]], axis=1)
    logits = np.log(mixed + 1e-4)
    last = mixed.copy()
    rank = np.argsort(-lengths, kind="stable")  # longest first: active users are a prefix
    steps: list[Array] = []
    for step in range(int(lengths.max())):
        active = rank[: int((lengths > step).sum())]
        logits[active] += p.drift * rng.standard_normal((len(active), logits.shape[1]))
        weight = np.exp(logits[active] - logits[active].max(axis=1, keepdims=True))
        last[active] = weight / weight.sum(axis=1, keepdims=True)
        scores = _item_weights(last[active], d, truth)
        for earlier in steps:
            scores[np.arange(len(active)), earlier[: len(active)]] = 0.0
        # Gumbel-free categorical draw: one uniform against the cumulative sum
        cumulative = np.cumsum(scores, axis=1)
        draw = rng.random(len(active)) * cumulative[:, -1]
        steps.append((cumulative > draw[:, None]).argmax(axis=1).astype(np.int32))
    values = np.zeros(int(lengths.sum()), dtype=np.int32)
    ragged = Ragged.from_lengths(values, lengths)
    for step, items in enumerate(steps):
        ragged.values[ragged.offsets[rank[: len(items)]] + step] = items
    return ragged, last


def _is_last(s: Ragged) -> Array:
    """Which values end their sequence: bool [total]."""
    return s.place == s.lengths[s.owner] - 1


def _with_newcomers(
    p: SyntheticParameters, sequences: Mapping[str, Ragged], rng: np.random.Generator
) -> dict[str, Ragged]:
    """The sequences, with those of newcomers cut to the last event of one domain."""
    new, coin = rng.random(p.users) < p.cold_rows / 2, rng.random(p.users) < 0.5
    has = {d: sequences[d].lengths > 0 for d in DOMAINS}
    stays = {"x": has["x"] & (coin | ~has["y"]), "y": has["y"] & (~coin | ~has["x"])}
    return {d: s.keep(~new[s.owner] | (_is_last(s) & stays[d][s.owner])) for d, s in sequences.items()}
