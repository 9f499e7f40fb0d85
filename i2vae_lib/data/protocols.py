"""Protocols: from a raw pair to the rows that training, selection and test may see.

One name, one meaning (``docs/evaluation.md``). Each protocol is a function of a pair and of parameters; its splits
depend on ``data_seed`` and on the rows' contents, never on their order in a file.

===============  ===================  ======================================================================
``released``     the paper's files    as they stand; not leak-free
``strict``       the paper's files    users disjoint, targets scrubbed, sequences are sets (the files hold no time)
``chronological``  a timestamped log  users disjoint; a row sees only what lies before its target
``temporal``     a timestamped log    two global cuts; training, filters included, ends with the first
===============  ===================  ======================================================================
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from i2vae_lib.data import splitting
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.filters import core_until, day_of, whole_core
from i2vae_lib.data.ordered_events import OrderedEvents, in_order, rows_at
from i2vae_lib.data.rows import (
    DOMAINS,
    Array,
    Catalogue,
    DataError,
    EventLog,
    Events,
    LogPair,
    Ragged,
    Rows,
    among,
    belongs,
    distinct,
    hashed,
    mixed,
)
from i2vae_lib.data.splitting import Cut
from i2vae_lib.data.subsampling import control
from i2vae_lib.data.user_sequences import with_targets
from i2vae_lib.parameter_groups import ControlParameters, SplitParameters


@dataclass(frozen=True)
class RawPair:
    """A pair as published: training rows and test rows, histories untouched."""

    name: str
    source_sha256: str
    catalogue: Catalogue
    train: Rows
    test: Rows


def apply(
    protocol: str, pair: RawPair | LogPair, split: SplitParameters, controls: ControlParameters
) -> CrossDomainDataset:
    """Apply a protocol by name, then the controls.

    Raises
    ------
    DataError
        The data cannot serve the protocol (no timestamps, or a log where published splits are needed), or a split has
        no users left.
    """
    check_served(protocol, pair.name, timed=isinstance(pair, LogPair))
    if protocol == "temporal" and isinstance(pair, LogPair) and not pair.log.common_time:
        raise DataError(
            f"protocol temporal cuts at moments, and {pair.name} has none (columns.unit: order): choose chronological"
        )
    if isinstance(pair, RawPair):
        cut = {"released": released, "strict": strict}[protocol](pair, split)
    elif protocol == "chronological":
        pair = whole_core(pair)
        cut = chronological(pair, split)
    else:
        pair, cut = cut_at(pair, *cut_times(pair, split), split)
    for name, rows in cut.splits.items():
        wanted = name != "test" or protocol != "chronological" or split.test_share > 0
        if wanted and not len(rows):
            raise DataError(
                f"{pair.name} under {protocol}: no {name} rows are left; {_account(cut.removed)}; "
                f"{_shares(protocol, split)}"
            )
    dataset = assembled(protocol, pair, cut, split, controls)
    if isinstance(pair, LogPair):
        notes = [*([] if pair.log.common_time else [NO_COMMON_TIME]), *_blind_note(pair, cut)]
        notes += [*_long_note(cut, split.longest), *pair.suspicions]
        # the synthetic interests are those of a user's last events
        truth = pair.truth if protocol == "chronological" else {}
        dataset = replace(
            dataset,
            log=pair.log,
            filters=pair.filters,
            one_order=pair.one_order,
            outside=cut.outside,
            truth=truth,
            notes=notes,
        )
    return dataset


def _shares(protocol: str, split: SplitParameters) -> str:
    """The parameters that say how many rows each split of a protocol gets."""
    shares = {
        "temporal": ("first_cut", "second_cut"),
        "chronological": ("validation_share", "test_share", "cold_share"),
    }
    told = [f"split.{name} = {getattr(split, name):g}" for name in shares.get(protocol, ("validation_share",))]
    return f"give more events, or change {' or '.join(told)}"


def blind(rows: Rows, log: EventLog) -> tuple[int, int]:
    """Of the rows of users with events in both domains: the number that see nothing of the other one, and the total."""
    x, y = (log.events[d].user for d in DOMAINS)
    both = belongs(rows.user, log.users[distinct(x[among(x, y)])])
    return int((both & (rows.lengths("other") == 0)).sum()), int(both.sum())


def _blind_note(pair: LogPair, cut: Cut) -> list[str]:
    """The sentence that counts :func:`blind` rows; it is an error if all of them are blind."""
    empty, of = np.sum([blind(rows, pair.log) for rows in cut.splits.values()], axis=0)
    if 0 < of == empty:
        times = [pair.log.events[d].time for d in DOMAINS]
        equal = all((stamps == stamps[0]).all() for stamps in times if len(stamps))
        why = "all times of each file are equal" if equal else "no event of the other domain lies before a row's target"
        raise DataError(
            f"{pair.name}: none of the {of:,} rows of users with both domains sees anything of the other domain: "
            f"{why}. Are these the events' own times? Without a common time give columns.unit: order"
        )
    if not pair.log.common_time:
        return []
    return [f"{empty:,} of {of:,} rows of users with both domains see nothing of the other domain."]


NO_COMMON_TIME = (
    "No common time: the files have an order each and none between them, so a row sees all of the other domain, "
    "whenever it was."
)


def check_served(protocol: str, name: str, *, timed: bool) -> None:
    """Refuse a protocol that the data ``name`` cannot serve: published splits have no times, logs no published splits.

    Raises
    ------
    DataError
        Says which protocols the data can serve.
    """
    if not timed and protocol not in ("released", "strict"):
        raise DataError(
            f"protocol {protocol} needs timestamps, and {name} has none (published splits without times): choose "
            f"released or strict, or give the YAML file of a pair of logs as data"
        )
    if timed and protocol not in ("chronological", "temporal"):
        raise DataError(
            f"protocol {protocol} is for the paper's published splits, and {name} is a timestamped log: choose "
            f"chronological or temporal"
        )


def assembled(
    protocol: str, pair: RawPair | LogPair, cut: Cut, split: SplitParameters, controls: ControlParameters
) -> CrossDomainDataset:
    """The dataset of a protocol's cut, with long histories shortened and the controls applied."""
    shortened, beyond = splitting.most_recent(cut.splits, split.longest)
    splits, removed = control(shortened, controls, split.data_seed)
    return CrossDomainDataset(
        pair.name,
        protocol,
        split.data_seed,
        pair.source_sha256,
        pair.catalogue,
        splits,
        # before the controls, so that thinned histories do not move the limit of tailed rows
        {name: splitting.tail_limits(rows) for name, rows in cut.splits.items()},
        dict(cut.removed) | beyond | removed,
        controls.model_dump(),
    )


def _long_note(cut: Cut, longest: int) -> list[str]:
    """The sentence that counts the users whose histories ``split.longest`` shortens, and names the longest history."""
    lengths = pd.concat(
        [pd.Series(rows.history[d].lengths, index=rows.user) for rows in cut.splits.values() for d in DOMAINS]
    )
    over = lengths[lengths > longest]
    if not len(over):
        return []
    return [
        f"Users with a history of more than {longest:,} events in a domain: {over.index.nunique():,} (the longest, "
        f"{over.max():,}, is that of {over.idxmax()}). Their rows show the last {longest:,} (split.longest)."
    ]


def _account(removed: Mapping[str, int]) -> str:
    return "removed: " + (", ".join(f"{count} {what}" for what, count in removed.items()) or "nothing")


def released(raw: RawPair, split: SplitParameters) -> Cut:
    """The paper's split as it stands: **not leak-free**; only for numbers beside the paper's tables.

    Test rows are the test file, histories untouched. Training rows are the training file without a share of its users,
    who are held out as validation because the release has none.
    """
    return splitting.held_out(raw.train, raw.test, split, {})


def strict(raw: RawPair, split: SplitParameters) -> Cut:
    """``released`` with its leaks closed.

    A row's items of a domain are a set (:func:`order_free`): the files hold one order of items and no times, so the
    last item is an accident of the file. Training and validation lose the rows of test users, and rows that equal one
    of a later split under another name (:func:`.splitting.without_copies`). A row's target is removed from both of its
    histories, through the link table too. Validation is a share of the remaining training users
    (:func:`.splitting.held_out`), and a user's two rows stay on one side of every split.
    """
    strangers = splitting.without_users(raw.train, raw.test)
    train, scrubbed_train = splitting.scrub(order_free(strangers, split.data_seed))
    test, scrubbed_test = splitting.scrub(order_free(raw.test, split.data_seed))
    train, copies = splitting.without_copies(train, test)
    removed = {
        "training rows of test users": len(raw.train) - len(strangers),
        "targets scrubbed from training histories": scrubbed_train,
        "targets scrubbed from test histories": scrubbed_test,
        "training rows that equal a test row under another name": copies,
    }
    cut = splitting.held_out(train, test, split, removed)
    train, copies = splitting.without_copies(cut.splits["train"], cut.splits["validation"])
    removed = {"training rows that equal a validation row under another name": copies}
    return Cut({**cut.splits, "train": train}, {**cut.removed, **removed})


def order_free(rows: Rows, data_seed: int) -> Rows:
    """Rows whose items of a domain are a set, ordered by a seeded hash of (user, item); the last own one is the target.

    A user's rows share one order, an item id sorts alike in both domains, and the order in the file changes nothing.
    A row with only one item of its own domain keeps it as its target.
    """
    user_keys = hashed(rows.user, "order of items", data_seed)
    sequences = {}
    for d in DOMAINS:
        whole = with_targets(rows, d)
        keys = mixed(user_keys[whole.owner], hashed(rows.catalogue.ids[d], "order of items")[whole.values - 1])
        at = np.lexsort((whole.values, keys, whole.owner))
        owner, values = whole.owner[at], whole.values[at]
        first = np.append(True, (owner[1:] != owner[:-1]) | (values[1:] != values[:-1]))[: len(at)]
        sequences[d] = Ragged.from_lengths(values[first], np.bincount(owner[first], minlength=len(rows)))
    return splitting.raw_rows(rows.catalogue, rows.user, rows.domain, sequences, rows.source)


def chronological(pair: LogPair, split: SplitParameters) -> Cut:
    """Users split by a hash; a row's target is a user's last event in a domain.

    Its histories hold only what lies before: in its own domain earlier events (a seeded hash orders events of the same
    time), in the other domain events of earlier stamps (days, where all stamps of either file share one time of day).
    Validation and test get cold rows by :func:`.splitting.make_cold`. A target's linked twin is scrubbed from the other
    history, and rows that equal one of a later split are removed, as under ``strict``.
    """
    events = in_order(pair.log, pair.catalogue, split.data_seed)
    rows, scrubbed = splitting.scrub(rows_at(pair, events, {d: events[d].last_of_user() for d in DOMAINS}))
    users = pair.log.users
    order = np.argsort(hashed(users, "users", split.data_seed), kind="stable")
    test, validation = round(split.test_share * len(users)), round(split.validation_share * len(users))
    group = np.zeros(len(users), dtype=np.int8)  # 0: train
    group[order[:test]], group[order[test : test + validation]] = 2, 1
    of_row = group[rows.source // 2]
    removed = {"targets scrubbed from histories": scrubbed}
    splits = {name: rows.take(of_row == number) for number, name in enumerate(("train", "validation", "test"))}
    splits["train"], of_later = splitting.without_copies(splits["train"], splits["validation"], splits["test"])
    splits["validation"], of_test = splitting.without_copies(splits["validation"], splits["test"])
    for name in ("validation", "test"):
        splits[name], dropped = splitting.make_cold(splits[name], split.cold_share, split.data_seed)
        removed[f"{name} rows of users made cold"] = dropped
    removed["validation rows that equal a test row under another name"] = of_test
    removed["training rows that equal a later row under another name"] = of_later
    return Cut(splits, removed)


def cut_times(pair: LogPair, split: SplitParameters) -> tuple[int, int]:
    """The two cuts: quantiles of the times of all events of both files, before any filter.

    Raises
    ------
    DataError
        The cuts, or the second cut and the last event, fall on one time.
    """
    times = np.sort(np.concatenate([*(pair.log.events[d].time for d in DOMAINS), pair.repeats]))
    first, second = (int(times[int(q * (len(times) - 1))]) for q in (split.first_cut, split.second_cut))
    if not first < second < times[-1]:
        raise DataError(
            f"{pair.name}: the cuts of protocol temporal fall on one time ({first} and {second}, last event "
            f"{times[-1]}): move split.first_cut = {split.first_cut} and split.second_cut = {split.second_cut} apart"
        )
    return first, second


def cut_at(pair: LogPair, first: int, second: int, split: SplitParameters) -> tuple[LogPair, Cut]:
    """Cut a pair at two moments; the catalogue holds the items in the k-core of the events up to the first cut.

    Events of other items are not shown. A training row's target is a core user's last event of a domain up to the
    first cut. A held-out row's target is the first event of a user and domain inside a window (validation between the
    cuts, test after the second), whether or not the user is in the core; its history is all earlier events, in the
    other domain those of earlier stamps. Users occur in several splits, as in life. Of rows that are equal under
    different user names (:func:`.splitting.without_copies`) only those of the earliest split stay.

    Raises
    ------
    DataError
        The core is empty, or a window has no row of a domain.
    """
    kept = core_until(pair, first)
    events = in_order(kept.log, kept.catalogue, split.data_seed)
    windows = {"validation": (first, second), "test": (second, np.iinfo(np.int64).max)}
    targets = {"train": {d: events[d].last_of_user(_of_core(events[d], first, pair.min_user)) for d in DOMAINS}}
    targets |= {
        name: {d: events[d].first_of_user(events[d].between(*window)) for d in DOMAINS}
        for name, window in windows.items()
    }
    unknown = _outside(pair, kept, windows, split.data_seed)
    for line in unknown:
        if not len(targets[line["split"]][line["domain"]]):
            d, days = line["domain"], f"{day_of(first)} and {day_of(second)}"
            raise DataError(
                f"{pair.name} under temporal: no {line['split']} row of {kept.catalogue.names[d]} is left: of "
                f"{line['first_events']:,} users with events in that window (the cuts are {days}) none took one of the "
                f"{kept.catalogue.size(d):,} items of the catalogue, which come from the events up to the first cut: "
                f"move split.first_cut = {split.first_cut} or split.second_cut = {split.second_cut}, or lower min_user "
                f"({pair.min_user}) or min_item ({pair.min_item})"
            )
    splits, scrubbed = dict[str, Rows](), 0
    for name, at in targets.items():
        splits[name], count = splitting.scrub(rows_at(kept, events, at))
        scrubbed += count
    late = sum(int((events[d].time > second).sum()) for d in DOMAINS) - len(splits["test"])
    # of two equal rows the later leaves: what training sees must not hang on what came after it
    splits["test"], of_earlier = splitting.without_copies(splits["test"], splits["train"], splits["validation"])
    validation, of_train = splitting.without_copies(splits["validation"], splits["train"])
    splits["validation"], dropped = splitting.make_cold(validation, split.cold_share, split.data_seed)
    removed = {
        "targets scrubbed from histories": scrubbed,
        "later events of test users, beyond their row": late,
        "validation rows of users made cold": dropped,
        "validation rows that equal a training row under another name": of_train,
        "test rows that equal an earlier row under another name": of_earlier,
    }
    return kept, Cut(splits, removed, unknown)


def _of_core(events: OrderedEvents, until: int, min_user: int) -> Array:
    """Which events of catalogue items belong to the core (:func:`i2vae_lib.data.filters.core_until`), bool [events]."""
    early = events.time <= until
    enough: Array = np.bincount(events.user[early], minlength=int(events.user.max(initial=-1)) + 1) >= min_user
    return early & enough[events.user]


def _outside(
    pair: LogPair, kept: LogPair, windows: Mapping[str, tuple[int, int]], data_seed: int
) -> list[dict[str, Any]]:
    """How many of the first events in each window are of items outside the catalogue, which no row can ask for.

    Returns
    -------
    list of dict
        One per window and domain: ``split``, ``domain`` (key), ``first_events`` (users with events there), ``outside``
        (those of them whose first event is of an item outside the catalogue), ``share``.
    """
    start = min(low for low, _ in windows.values())
    late = {d: Events(*(a[e.time > start] for a in (e.user, e.item, e.time))) for d, e in pair.log.events.items()}
    events = in_order(replace(pair.log, events=late), pair.catalogue, data_seed)
    counts = []
    for d in DOMAINS:
        known = belongs(pair.catalogue.ids[d], kept.catalogue.ids[d])
        for name, window in windows.items():
            items = events[d].item[events[d].first_of_user(events[d].between(*window))]
            count, total = int((~known[items - 1]).sum()), len(items)
            share = count / total if total else 0.0
            counts.append({"split": name, "domain": d, "first_events": total, "outside": count, "share": share})
    return counts


def order_note(protocol: str) -> str:
    """What *order of time* means under a protocol, as a sentence to print beside tables; "" where it needs none."""
    users = "Users are split, not time: events stand in the order of time within a user, not between users."
    return users if protocol == "chronological" else ""


def outside_note(found: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """The counts of :func:`_outside` as a sentence to print beside tables; "" under the other protocols."""
    if not found:
        return ""
    of = {
        split: ", ".join(
            f"{names[line['domain']]} {line['outside']:,} of {line['first_events']:,} ({line['share']:.1%})"
            for line in found
            if line["split"] == split
        )
        for split in ("validation", "test")
    }
    return (
        f"First events of items outside the catalogue, which no row asks for: test {of['test']}; validation "
        f"{of['validation']}. Filters made before the files were got may have known the future."
    )
