"""The leak audit finds what the released files have, and each leak that is planted, one row in a thousand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from i2vae_lib.audit.fitted import audit_counts, audit_references, audit_start, recalled_shares
from i2vae_lib.audit.leaks import Leak, audit, fired, refuse_leaks
from i2vae_lib.data import DOMAINS, Catalogue, Ragged, load_dataset, protocols, splitting, synthetic
from i2vae_lib.data.released import load_released
from i2vae_lib.data.rows import interactions, joined, popularity
from i2vae_lib.experiments.leak_worth import planted as planted_leaks
from i2vae_lib.generators import psg
from i2vae_lib.generators.cooccurrence import item_vectors
from i2vae_lib.labels import label
from i2vae_lib.params import load
from i2vae_lib.recommenders import EASE, ItemKNN, OrderedCounts, Popularity
from tests.helpers.worlds import fitted

USER = "user also in training"
TARGET = "target in the user's training rows"
OWN = "target in own history"
OTHER = "target in other history"
DUPLICATED = "duplicated row"
UNSEEN = "target seen in no earlier split"
LATE = "event not before its target"
CUT = "target no later than training's"
GRAPH = "interactions beside the training rows in the generator's graph"
COUNTS = "interactions beside the training rows in the popularity counts"
RECALLED = "target recalled in training and here alike"
TABLES = "entries beside the training rows in the generator's tables"
START = "vectors beside the training rows among the item vectors at the start"
COPIED = "row of 8 items or more under another name"
COPIED_SHORT = "row of fewer than 8 items under another name"
DRAWN = "event not before its target, as an epoch draws the rows"
ONLY = "the only own item, and so the target, is the file's last"
ORDER = "one order of items in "
FEWEST = "fewest training takers ahead of chance in "
MADE = "validation row made of training users"
BLIND = "row that sees nothing of the other domain"
DESCRIBES = ("cold row", "row without any history", "history in order of item ids", MADE, ONLY, COPIED_SHORT, BLIND)
LEAKS = (USER, TARGET, OWN, OTHER, COPIED)
README = {  # counted from the released files when they were put down: what the audit must find by itself
    "cloth_sport": {
        "users": 609,
        OTHER: (100, 145),
        "unseen": {"released": 179, "strict": 174},  # strict asks other items: rows are sets
        "links": (639, 638),  # in all files; in train and validation rows, which are the train file
        "bare": 308,
        "cold": 616,
        "order": (7_653, 43_748),
        "copies": 3,
        "zero": 15,
    },
    "phone_elec": {
        "users": 312,
        OTHER: (79, 90),
        "unseen": {"released": 247, "strict": 252},
        "links": (326, 321),  # 322 in the train file; validation rows made cold lost one
        "bare": 301,
        "cold": 602,
        "order": (37_937, 94_380),
        "copies": 0,
        "zero": 2,
    },
}
PAIRS = pytest.mark.parametrize("name", README)


@pytest.fixture(scope="module")
def released(released_folder):
    """Both pairs under both protocols, as (name, protocol) -> dataset."""
    split, controls, found = load("paper").split, load("paper").controls, {}
    for name in README:
        raw = load_released(name, released_folder)
        found |= {
            (name, protocol): protocols.apply(protocol, raw, split, controls) for protocol in ("released", "strict")
        }
    return found


@pytest.fixture(scope="module")
def clean():
    """A planted world with more than a thousand test rows, under strict."""
    return load_dataset(load("smoke", {"synthetic.users": 6000}, protocol="strict"))


def counts(dataset, **learnt) -> dict[tuple[str, str], int]:
    """What fired: (check, split) -> rows, without the notes that describe any pair."""
    found = audit(dataset, **learnt)
    of_pair = (found["split"] == "catalogue") | found["check"].str.startswith(FEWEST)
    describes = found["check"].isin(DESCRIBES) | (of_pair & (found["severity"] == "note"))
    found = found[(found["count"] > 0) & ~describes]
    return {(check, split): count for check, split, count in zip(found["check"], found["split"], found["count"])}


def names(released, name) -> list[str]:
    return list(released[name, "released"].catalogue.names.values())


def planted(dataset, split: str, rows):
    return replace(dataset, splits={**dataset.splits, split: rows})


def with_user(rows, at, users):
    changed = rows.user.copy()
    changed[at] = users
    return replace(rows, user=changed)


def with_event(rows, at, domain: str, items):
    """Rows at ``at`` with one more item at the end of their history in ``domain``."""
    extra = dict(zip(at, items, strict=True))
    before = rows.history[domain]
    history = Ragged.from_lists([[*before[i], *([extra[i]] if i in extra else [])] for i in range(len(rows))])
    return replace(rows, history={**rows.history, domain: history})


def strangers(dataset, rows, at, split: str) -> list[str]:
    """For each row a user of another split who has nothing to do with the row's target."""
    pool = dataset.splits[split]
    users = list(dict.fromkeys(pool.user))
    found = []
    for i in at:
        d = DOMAINS[rows.domain[i]]
        held = {users[u] for u, item in zip(*interactions(pool)[d], strict=True) if item == rows.target[i]}
        held |= {pool.user[j] for j in range(len(pool)) if rows.target[i] in pool.excluded[j]}
        found.append(next(user for user in users if user not in held and user not in found))
    return found


@PAIRS
@pytest.mark.parametrize("protocol", ["released", "strict"])
def test_released_pair_when_audited_has_the_counts_of_its_readme(released, name, protocol):
    found = audit(released[name, protocol]).set_index(["check", "split"])
    users = README[name]["users"] if protocol == "released" else 0
    other = sum(README[name][OTHER]) if protocol == "released" else 0
    assert found.loc[(USER, "test"), "count"] == users
    assert found.loc[(TARGET, "test"), "count"] == users  # in every such case the train row holds the test target
    assert found.loc[(OTHER, "test"), "count"] == other
    assert found.loc[(UNSEEN, "test"), "count"] == README[name]["unseen"][protocol]
    assert found.loc[(OWN, "test"), "count"] == found.loc[(DUPLICATED, "test"), "count"] == 0
    rows = len(released[name, protocol].splits["test"])
    assert found.loc[(UNSEEN, "test"), "share"] == pytest.approx(README[name]["unseen"][protocol] / rows)
    everywhere, learnt = README[name]["links"]
    shared = found.loc[("items shared by both domains", "catalogue")]
    assert shared["count"] == everywhere
    if protocol == "released":
        assert shared["example"].startswith(f"{learnt} of them")
    assert found.loc[("row without any history", "test"), "count"] == README[name]["bare"]
    orders = [found.loc[(ORDER + one, "catalogue")] for one in names(released, name)]
    assert [one["severity"] for one in orders] == ["leak", "leak"]
    assert tuple(one["count"] for one in orders) == (README[name]["order"] if protocol == "released" else (0, 0))
    assert all((one["share"] == 0) == (protocol == "released") for one in orders)
    assert found.loc[(COPIED, "test"), "count"] == (README[name]["copies"] if protocol == "released" else 0)
    assert (ONLY, "test") in found.index if protocol == "strict" else ONLY not in found.index.get_level_values(0)
    if protocol == "strict":
        assert found.loc[(ONLY, "test"), ["severity", "count"]].tolist() == ["note", README[name]["cold"]]
        assert found.loc[(ONLY, "train"), "count"] == found.loc[(ONLY, "validation"), "count"] == 0
    assert found.loc[("cold row", "train"), "count"] == 0
    assert found.loc[("row without timestamps", "catalogue"), "share"] == 1
    assert found.loc[(MADE, "validation"), "count"] == len(released[name, protocol].splits["validation"])
    if protocol == "released":
        assert found.loc[("row with an item whose own id is 0", "catalogue"), "count"] == README[name]["zero"]
        assert found.loc[(OTHER, "test"), "example"].endswith(
            f"({', '.join(f'{n} {c}' for n, c in zip(names(released, name), README[name][OTHER]))})"
        )


@PAIRS
@pytest.mark.parametrize(("i", "domain"), enumerate(DOMAINS))
def test_released_pair_when_audited_by_domain_has_the_counts_of_its_readme(released, name, i, domain):
    dataset = released[name, "released"]
    rows = dataset.splits["test"]
    part = planted(dataset, "test", rows.take(rows.of(domain)))
    assert counts(part)[OTHER, "test"] == README[name][OTHER][i]


@PAIRS
def test_strict_when_audited_has_no_leak_in_any_split(released, name):
    found = audit(released[name, "strict"])
    assert found[found["severity"] == "leak"]["count"].sum() == 0
    refuse_leaks(found, "strict")


@PAIRS
def test_strict_when_it_drops_rows_counts_as_many_as_the_audit_finds(released, released_folder, name):
    removed = released[name, "strict"].removed
    assert removed["training rows of test users"] == README[name]["users"]
    # strict asks other targets than the file: how many of them stand in the other history is another number
    test = load_released(name, released_folder).test
    assert removed["targets scrubbed from test histories"] == sum(
        int(protocols.order_free(test, 0).holds_target(d).sum()) for d in DOMAINS
    )


def test_clean_world_when_audited_has_no_finding(clean):
    assert len(clean.splits["test"]) > 1000
    assert counts(clean) == {}
    refuse_leaks(audit(clean), "strict")


def test_audit_when_run_lists_each_check_for_both_splits(clean):
    found = audit(clean)
    expected = {(check, split) for check in (*LEAKS, DUPLICATED, UNSEEN) for split in ("validation", "test")}
    assert expected <= set(zip(found["check"], found["split"]))
    leaks = found["check"].isin(LEAKS) | found["check"].str.startswith(ORDER)
    assert set(found.loc[leaks, "severity"]) == {"leak"}
    assert set(found.loc[~leaks, "severity"]) == {"note"}
    assert not found.duplicated(["check", "split"]).any()


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize(("split", "earlier"), [("test", "train"), ("test", "validation"), ("validation", "train")])
def test_audit_when_a_user_stands_in_two_splits_finds_that_only(clean, split, earlier, n):
    rows = clean.splits[split]
    at = np.flatnonzero(rows.kinds()["overlapping"])[:n]
    found = counts(planted(clean, split, with_user(rows, at, strangers(clean, rows, at, earlier))))
    assert found == {(USER, split): n}


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("where", ["target", "history", "other row"])
@pytest.mark.parametrize(("split", "earlier"), [("test", "train"), ("test", "validation"), ("validation", "train")])
def test_audit_when_a_target_stands_in_the_users_other_split_finds_it_and_the_user(clean, split, earlier, n, where):
    rows, pool = clean.splits[split], clean.splits[earlier]
    held = {
        "target": lambda j, d: [pool.target[j]] if DOMAINS[pool.domain[j]] == d else [],
        "history": lambda j, d: pool.history[d][j] if DOMAINS[pool.domain[j]] == d else [],
        "other row": lambda j, d: pool.history[d][j] if DOMAINS[pool.domain[j]] != d else [],
    }[where]
    users: dict[int, str] = {}
    for i in range(len(rows)):  # rename a row's user to somebody who took its target
        d = DOMAINS[rows.domain[i]]
        known = [j for j in range(len(pool)) if rows.target[i] in held(j, d) and pool.user[j] not in users.values()]
        if known:
            users[i] = pool.user[known[0]]
        if len(users) == n:
            break
    found = counts(planted(clean, split, with_user(rows, list(users), list(users.values()))))
    assert found == {(USER, split): n, (TARGET, split): n}  # who took the target in training is a user of training


def test_audit_when_a_target_stands_in_what_a_cold_row_lost_finds_it(clean):
    rows, pool = clean.splits["test"], clean.splits["validation"]
    cold = np.flatnonzero(pool.kinds()["cold"])[0]
    d = DOMAINS[pool.domain[cold]]
    assert len(pool.history[d][cold]) == 0 and len(pool.excluded[cold]) > 0
    i = next(i for i in rows.of(d) if rows.target[i] in pool.excluded[cold])
    found = counts(planted(clean, "test", with_user(rows, [i], pool.user[cold])))
    assert found == {(USER, "test"): 1, (TARGET, "test"): 1}


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_audit_when_a_target_stands_in_the_own_history_finds_that_only(clean, split, n):
    rows = clean.splits[split]
    at = rows.of("y")[:n]
    found = counts(planted(clean, split, with_event(rows, at, "y", rows.target[at])))
    assert found == {(OWN, split): n}


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize(("domain", "opposite"), [("x", "y"), ("y", "x")])
def test_audit_when_a_linked_target_stands_in_the_other_history_finds_that_only(clean, split, domain, opposite):
    rows = clean.splits[split]
    twins = rows.catalogue.linked(domain)
    at = [i for i in rows.of(domain) if twins[rows.target[i]]][:1]
    found = counts(planted(clean, split, with_event(rows, at, opposite, twins[rows.target[at]])))
    assert found == {(OTHER, split): 1}


def test_audit_when_an_unlinked_number_stands_in_the_other_history_finds_nothing(clean):
    rows = clean.splits["test"]
    at = [i for i in rows.of("x") if not rows.catalogue.linked("x")[rows.target[i]]][:20]
    assert counts(planted(clean, "test", with_event(rows, at, "y", rows.target[at]))) == {}


def test_audit_when_a_row_stands_twice_notes_that_only(clean):
    rows = clean.splits["test"]
    found = counts(planted(clean, "test", rows.take(np.append(np.arange(len(rows)), 3))))
    assert found == {(DUPLICATED, "test"): 1}


def test_audit_when_a_target_is_new_notes_that_only(clean):
    """An item that only one test row holds."""
    before = clean.catalogue
    ids = {"x": np.append(before.ids["x"], "new"), "y": before.ids["y"]}
    catalogue = Catalogue(before.names, ids, before.links, {d: None for d in DOMAINS})
    splits = {name: replace(rows, catalogue=catalogue) for name, rows in clean.splits.items()}
    rows = splits["test"]
    target = rows.target.copy()
    target[rows.of("x")[0]] = len(ids["x"])
    changed = replace(clean, catalogue=catalogue, splits={**splits, "test": replace(rows, target=target)})
    assert counts(changed) == {(UNSEEN, "test"): 1}


def test_audit_when_a_check_fires_gives_share_and_example(clean):
    rows = clean.splits["test"]
    changed = planted(clean, "test", with_event(rows, [5], DOMAINS[rows.domain[5]], rows.target[[5]]))
    line = audit(changed).set_index(["check", "split"]).loc[(OWN, "test")]
    assert line["share"] == pytest.approx(1 / len(rows))
    d = rows.domain[5]
    assert line["example"] == f"row {rows.source[5]}, user {rows.user[5]} (North {1 - d}, South {d})"


def test_refuse_leaks_when_one_row_leaks_raises_except_under_released(clean):
    rows = clean.splits["test"]
    changed = planted(clean, "test", with_event(rows, [5], DOMAINS[rows.domain[5]], rows.target[[5]]))
    with pytest.raises(Leak, match=rf"{OWN} \(test\): 1, e\.g\. row {rows.source[5]}, user .*; 1 checks fired"):
        refuse_leaks(audit(changed), "strict")
    refuse_leaks(audit(changed), "released")


def test_refuse_leaks_when_only_notes_fired_does_not_raise(clean):
    rows = clean.splits["test"]
    found = audit(planted(clean, "test", rows.take(np.append(np.arange(len(rows)), 3))))
    assert found["count"].max() > 0
    refuse_leaks(found, "strict")


def renamed_into(dataset, rows, split: str):
    """A dataset whose ``split`` holds these rows too, as a stranger's."""
    return planted(dataset, split, joined([dataset.splits[split], replace(rows, user=rows.user + " again")]))


def asked_otherwise(rows):
    """The same items in another order, and the last of the other domain is what is asked."""
    d, o = DOMAINS[rows.domain[0]], DOMAINS[1 - rows.domain[0]]
    own, across = [rows.target[0], *rows.history[d][0]], rows.history[o][0]
    history = {d: Ragged.from_lists([own]), o: Ragged.from_lists([across[:-1]])}
    return replace(rows, domain=1 - rows.domain, target=across[-1:], history=history, excluded=history[o])


@pytest.mark.parametrize("changed", [lambda rows: rows, asked_otherwise], ids=["alike", "other target"])
@pytest.mark.parametrize(("split", "earlier"), [("test", "train"), ("test", "validation"), ("validation", "train")])
def test_audit_when_a_row_stands_in_another_split_under_another_name_finds_that_only(clean, split, earlier, changed):
    rows = clean.splits[split]
    sizes = splitting.contents(rows)[1]
    alone = ~np.isin(rows.user, [user for user, n in Counter(rows.user).items() if n > 1])  # whose other row is alike
    for size, check in ((8, COPIED), (7, COPIED_SHORT)):
        one = rows.take(np.flatnonzero((sizes == size) & rows.kinds()["overlapping"] & alone)[:1])
        before, dataset = audit(clean), renamed_into(clean, changed(one), earlier)
        found = audit(dataset)
        more = found["count"].to_numpy() - before["count"].to_numpy()
        told = found[(more != 0) & (found["split"] == split) & ~found["check"].isin([UNSEEN])]
        assert told[["check", "severity"]].values.tolist() == [[check, "leak" if size == 8 else "note"]]
        assert told["count"].iloc[0] - before.loc[told.index[0], "count"] == 1
        assert f" of {size}" in told["example"].iloc[0]
        assert counts(dataset) == ({(COPIED, split): 1} if size == 8 else {})


def test_audit_when_the_same_user_asks_the_same_in_two_splits_is_no_copy(clean):
    rows = clean.splits["test"]
    one = rows.take(np.flatnonzero((splitting.contents(rows)[1] >= 8) & (rows.lengths("own") > 0))[:1])
    found = counts(planted(clean, "train", joined([clean.splits["train"], one])))
    assert found == {(USER, "test"): (rows.user == one.user[0]).sum(), (TARGET, "test"): 1}


def test_audit_when_rows_are_strict_counts_targets_that_the_file_chose(clean):
    found = audit(clean).set_index(["check", "split"])
    for split, rows in clean.splits.items():
        line = found.loc[(ONLY, split)]
        bare = (rows.lengths("own") == 0) & (rows.excluded.lengths == 0)
        assert line["severity"] == "note" and line["count"] == bare.sum()
    assert found.loc[(ONLY, "test"), "count"] > 100 and found.loc[(ONLY, "validation"), "count"] == 0


# --- one order of items -----------------------------------------------------------------------------------------------


def ordered_log(rank, per_day: int = 1):
    """The planted world with everybody's times risen by the rank of their items, ``per_day`` of them a day."""
    pair = synthetic.generate_log(load("smoke", {"synthetic.users": 3000}).synthetic)
    events = {}
    for d in DOMAINS:
        one = pair.log.events[d]
        ranks = rank(pair.catalogue.size(d))[one.item - 1]
        at = np.lexsort((ranks, one.user))
        place = np.arange(len(at)) - np.searchsorted(one.user[at], one.user[at])
        times = np.empty(len(at), dtype=np.int64)
        times[at] = 86_400 * (15_000 + place // per_day) + (0 if per_day > 1 else 3_600 * (one.user[at] % 20))
        events[d] = replace(one, time=times)
    return replace(pair, log=replace(pair.log, events=events))


def ranks(count: int):
    return np.random.default_rng(count).permutation(count)


@pytest.mark.parametrize(("rank", "per_day"), [(np.arange, 1), (ranks, 1), (np.arange, 3)], ids=["id", "any", "days"])
def test_audit_when_everybody_follows_one_order_finds_that_only(rank, per_day):
    p = load("smoke", protocol="chronological")
    pair = ordered_log(rank, per_day)
    dataset = protocols.apply("chronological", pair, p.split, p.controls)
    found = counts(dataset)
    assert set(found) == {(ORDER + name, "catalogue") for name in ("North", "South")}
    line = audit(dataset).set_index("check").loc[ORDER + "North"]
    assert line["share"] == 0 and line["count"] >= 1000
    assert line["example"].startswith(f"{line['count']:,} observations of ")
    with pytest.raises(Leak, match="one order of items in North"):
        refuse_leaks(audit(dataset), "chronological")
    # a pair file may say that it is real: then it is told, and stops nothing
    declared = protocols.apply("chronological", replace(pair, one_order=True), p.split, p.controls)
    found = audit(declared).set_index("check")
    assert declared.one_order and fired(found).empty
    assert (found.loc[ORDER + "North", "severity"], found.loc[ORDER + "North", "count"]) == ("note", line["count"])
    assert found.loc[ORDER + "North", "example"].startswith("the pair file says so: ")


def test_audit_when_too_few_are_observed_says_that_it_cannot_tell(clean):
    few = planted(clean, "train", clean.splits["train"].take(np.arange(40)))
    few = replace(few, splits={s: rows.take(np.arange(40)) for s, rows in few.splits.items()})
    found = audit(few).set_index("check")
    for name in ("North", "South"):
        assert found.loc[ORDER + name, "severity"] == "note"
        assert found.loc[ORDER + name, "example"].startswith("too few to tell: ")


def test_one_order_when_a_dataset_is_saved_survives(clean, tmp_path):
    declared = replace(clean, one_order=True)
    declared.save(tmp_path)
    assert type(clean).load(tmp_path).one_order
    assert declared.fingerprint() != clean.fingerprint()


# --- timestamped logs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["chronological", "temporal"])
def timed(request):
    """The planted world as a log, with more than a thousand test rows."""
    users = {"chronological": 9000, "temporal": 9000}[request.param]
    return load_dataset(load("smoke", {"synthetic.users": users, "split.test_share": 0.2}, protocol=request.param))


def test_timed_world_when_audited_has_no_leak(timed):
    assert len(timed.splits["test"]) > 1000
    assert {check for check, _ in counts(timed)} <= {USER}  # a note under temporal
    assert fired(audit(timed)).empty
    shared = counts(timed).get((USER, "test"), 0)
    assert (shared > 0) == (timed.protocol == "temporal")


def later_item(dataset, rows, i: int, domain: str):
    """An item that the user of row ``i`` took in ``domain`` after the target."""
    user = np.flatnonzero(dataset.log.users == rows.user[i])[0]
    target_domain = DOMAINS[rows.domain[i]]
    own, events = dataset.log.events[target_domain], dataset.log.events[domain]
    target_time = own.time[(own.user == user) & (own.item == rows.target[i])][0]
    mine = events.user == user
    late = mine & (events.time > target_time) & (events.item != rows.target_in(domain)[i])
    found = events.item[late]
    return found[:1]


def test_audit_when_one_event_lies_after_its_target_finds_that_only(timed):
    rows = timed.splits["test"]
    base = counts(timed)
    for domain in DOMAINS:
        at = next(i for i in range(len(rows)) if len(later_item(timed, rows, i, domain)))
        item = later_item(timed, rows, at, domain)
        found = counts(planted(timed, "test", with_event(rows, [at], domain, item)))
        assert {k: v for k, v in found.items() if base.get(k) != v} == {(LATE, "test"): 1}


def test_audit_when_an_event_of_the_targets_day_stands_in_the_other_history_finds_that_only(timed):
    """Same day is not before, in the other domain; the very same time may stand in the own."""
    rows, log = timed.splits["train"], timed.log
    i = next(i for i in range(len(rows)) if rows.lengths("other")[i] > 0)
    d, o = DOMAINS[rows.domain[i]], DOMAINS[1 - rows.domain[i]]
    user = np.flatnonzero(log.users == rows.user[i])[0]
    target_time = log.events[d].time[(log.events[d].user == user) & (log.events[d].item == rows.target[i])][0]
    for domain, expected in ((o, 1), (d, 0)):
        history = rows.history[domain][i]
        if not len(history):
            continue
        events = log.events[domain]
        time = events.time.copy()
        time[(events.user == user) & (events.item == history[-1])] = target_time
        moved = replace(log, events={**log.events, domain: replace(events, time=time)})
        found = counts(replace(timed, log=moved))
        assert found.get((LATE, "train"), 0) == expected


def test_audit_when_rows_are_cut_at_wrong_moments_finds_that_only(timed):
    """Rows are right as they stand; but of a few the other history says that it happened long ago, so that an earlier
    target of the own one is shown with what came after it."""
    rows = timed.splits["train"]
    after = np.zeros(len(rows), dtype=bool)
    for i, d in enumerate(DOMAINS):
        own, across = rows.history[d], rows.history[DOMAINS[1 - i]]
        both = np.flatnonzero((rows.domain == i) & (own.lengths > 1) & (across.lengths > 0))
        # all of the other history lies after all of the own: wherever the row is cut, it shows too much
        after[both] = across.moments[across.offsets[both]] > own.moments[own.offsets[both + 1] - 1]
    at = np.flatnonzero(after)[:10]
    assert len(at) >= 3
    history = {}
    for i, d in enumerate(DOMAINS):
        one = rows.history[d]
        wrong = np.isin(one.owner, at) & (rows.domain[one.owner] != i)
        history[d] = replace(one, moments=np.where(wrong, 0, one.moments))
    base, found = counts(timed), counts(planted(timed, "train", replace(rows, history=history)))
    [new] = {k: v for k, v in found.items() if base.get(k) != v}.items()
    assert new[0] == (DRAWN, "train") and 1 <= new[1] <= len(at)  # one in so many keeps its last target


def test_audit_when_an_event_is_not_in_the_log_finds_that_only(timed):
    rows, base = timed.splits["validation"], counts(timed)
    i = int(np.flatnonzero(rows.kinds()["overlapping"])[0])
    user = np.flatnonzero(timed.log.users == rows.user[i])[0]
    d = DOMAINS[1 - rows.domain[i]]
    events = timed.log.events[d]
    never = np.setdiff1d(np.arange(1, 200), [*events.item[events.user == user], rows.target_in(d)[i]])[:1]
    found = counts(planted(timed, "validation", with_event(rows, [i], d, never)))
    assert {k: v for k, v in found.items() if base.get(k) != v} == {(LATE, "validation"): 1}


def test_audit_when_a_training_target_lies_after_the_cut_finds_that_only():
    clean = load_dataset(load("smoke", {"synthetic.users": 2000}, protocol="temporal"))
    train, test = clean.splits["train"], clean.splits["test"]
    late = test.take(np.flatnonzero(test.kinds()["no_history"])[:1])
    train = joined([train, replace(late, user=late.user)])
    base, found = counts(clean), counts(replace(clean, splits={**clean.splits, "train": train}))
    new = {k: v for k, v in found.items() if base.get(k) != v}
    assert new.pop((TARGET, "test")) == 1  # the row itself stands there twice now
    assert new.pop((CUT, "validation")) > 0 and new.pop((CUT, "test")) > 0
    assert {check for check, _ in new} <= {USER}


def test_audit_when_later_rows_made_the_catalogue_finds_that_only():
    """Two items more in the catalogue, which nobody took before the cut: two test rows in a hundred ask for them."""
    clean = load_dataset(load("smoke", {"synthetic.users": 3000}, protocol="temporal"))
    found = audit(clean).set_index("check")
    assert found.loc[[FEWEST + "North", FEWEST + "South"], "severity"].tolist() == ["leak", "leak"]
    rows, size = clean.splits["test"], clean.catalogue.size("x")
    once = [
        i
        for i in rows.of("x")
        if (rows.user == rows.user[i]).sum() == 1 and not clean.catalogue.linked("x")[rows.target[i]]
    ]
    at = np.array(once[: len(rows.of("x")) // 20])
    new = size + 1 + np.arange(len(at)) % 2
    before, log = clean.catalogue, clean.log
    ids = {"x": np.append(before.ids["x"], ["new one", "new two"]), "y": before.ids["y"]}
    catalogue = Catalogue(before.names, ids, before.links, {d: None for d in DOMAINS})
    item, target = log.events["x"].item.copy(), rows.target.copy()
    for i, one in zip(at, new, strict=True):
        user = np.flatnonzero(log.users == rows.user[i])[0]
        item[(log.events["x"].user == user) & (item == rows.target[i])] = one
        target[i] = one
    splits = {**clean.splits, "test": replace(rows, target=target)}
    changed = replace(
        clean,
        catalogue=catalogue,
        splits={name: replace(one, catalogue=catalogue) for name, one in splits.items()},
        log=replace(log, events={**log.events, "x": replace(log.events["x"], item=item)}),
    )
    assert fired(audit(changed))[["check", "split"]].values.tolist() == [[FEWEST + "North", "test"]]
    with pytest.raises(Leak, match=FEWEST):
        refuse_leaks(audit(changed), "temporal")


# --- what was learnt --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learnt(clean):
    """A generator and its pseudo-items on the clean world."""
    p = load("smoke", {"psg.kind": "cooccurrence", "psg.folds": 4}).psg
    generator = psg.fit(clean.splits["train"], p)
    return generator, recalled(clean, generator)


def recalled(dataset, generator):
    return {s: generator.recall(rows, psg.fold_of(rows, generator.p))[0] for s, rows in dataset.splits.items()}


def test_audit_when_generator_and_counts_are_clean_finds_nothing(clean, learnt):
    generator, pseudo = learnt
    assert counts(clean, generator=generator, pseudo=pseudo) == {}
    assert audit_counts(clean, popularity(clean.splits["train"]))["count"].tolist() == [0]


@pytest.mark.parametrize("kind", ["cooccurrence", "lightgcn"])
def test_audit_when_the_graph_holds_one_test_row_finds_that_only(clean, kind):
    one = clean.splits["test"].take(np.flatnonzero(clean.splits["test"].kinds()["overlapping"])[:1])
    p = load("smoke", {"psg.kind": kind, "psg.folds": 4, "psg.epochs": 1}).psg
    generator = psg.fit(joined([clean.splits["train"], one]), p)
    found = counts(clean, generator=generator)
    # its events and its target, in the tables of the three folds that it is not folded in to
    linked = sum(clean.catalogue.linked("y")[one.history["y"].values] > 0)
    # what counts alone tells of is in their tables too; LightGCN's vectors do not tell who took an item
    assert set(found) == {(GRAPH, "train")} | ({(TABLES, "train")} if kind == "cooccurrence" else set())
    assert 3 * (1 + sum(one.history[d].lengths[0] for d in DOMAINS) - linked) <= found[GRAPH, "train"]
    line = audit(clean, generator=generator).set_index("check").loc[GRAPH]
    assert line["severity"] == "leak" and line["example"].startswith("item ")


@pytest.mark.parametrize("kind", ["cooccurrence", "leave_one_out"])
def test_audit_when_tables_know_more_than_the_generator_says_finds_that_only(clean, kind):
    one = clean.splits["test"].take(np.flatnonzero(clean.splits["test"].kinds()["overlapping"])[:1])
    p = load("smoke", {"psg.kind": kind, "psg.folds": 4}).psg
    honest = psg.fit(clean.splits["train"], p)
    assert counts(clean, generator=honest) == {}
    knowing = psg.fit(joined([clean.splits["train"], one]), p)
    boast, knowing.taken = knowing.taken, honest.taken
    found = audit(clean, generator=knowing)
    assert set(counts(clean, generator=knowing)) == {(TABLES, "train")}
    line = found.set_index("check").loc[TABLES]
    assert line["severity"] == "leak" and line["count"] > 10 and line["example"].startswith("item ")
    # the other way round: it says more than its tables hold
    honest.taken = boast
    assert set(counts(clean, generator=honest)) == {(GRAPH, "train")}


def test_audit_when_lightgcn_has_a_vector_of_an_item_that_nobody_took_finds_that_only(clean):
    p = load("smoke", {"psg.kind": "lightgcn", "psg.folds": 1, "psg.epochs": 1}).psg
    rare = clean.catalogue.size("y")  # nobody of the training rows here took it
    train = clean.splits["train"]
    holds = (train.target_in("y") == rare) | np.isin(
        np.arange(len(train)), train.history["y"].owner[train.history["y"].values == rare]
    )
    dataset = planted(clean, "train", train.take(~holds))
    generator = psg.fit(dataset.splits["train"], p)
    number = generator.unified.of["y"][rare]
    base = counts(dataset, generator=generator)
    assert (TABLES, "train") not in base and not generator.tables["final"][0, :, number].any()
    generator.tables["final"][0, 0, number] = 0.1
    assert counts(dataset, generator=generator) == base | {(TABLES, "train"): 1}


def test_audit_start_when_vectors_know_a_test_row_finds_it(clean):
    train, test = clean.splits["train"], clean.splits["test"]
    for shrinkage in (0.0, 10.0):
        line = audit_start(clean, item_vectors(train, 16, shrinkage), shrinkage).iloc[0]
        assert (line["check"], line["severity"], line["count"]) == (START, "leak", 0)
        for n in (1, 7):
            rows = test.take(np.flatnonzero(test.kinds()["overlapping"])[:n])
            line = audit_start(clean, item_vectors(joined([train, rows]), 16, shrinkage), shrinkage).iloc[0]
            assert line["count"] > 0 and line["example"].startswith("item ")
    one = item_vectors(train, 16, 10.0)
    one[5] *= 1.01
    assert audit_start(clean, one, 10.0)["count"].iloc[0] > 0
    assert audit_start(clean, np.zeros((len(one), 4), dtype=np.float32), 10.0)["count"].iloc[0] == 0


@pytest.mark.parametrize("kind", [ItemKNN, EASE, OrderedCounts])
@pytest.mark.parametrize("users", [None, 50], ids=["all users", "fewer users than items"])
def test_audit_references_when_a_table_knows_a_test_row_finds_that_only(clean, kind, users):
    settings = {
        "ease_lambda": 30_000.0 if users is None else 100.0,
        "shrinkage": 10.0,
        "popularity": 0.0,
        "across": 0.3,
    }
    grids = {f"references.{name}": [one] for name, one in settings.items()}
    p = load("smoke", {"synthetic.users": 6000} | grids)
    train, test = clean.splits["train"].take(np.arange(users or len(clean.splits["train"]))), clean.splits["test"]
    dataset = planted(clean, "train", train)
    one = test.take(np.flatnonzero(test.kinds()["overlapping"] & (test.lengths("own") > 3))[:1])

    def fit(rows):
        found = kind(clean.catalogue)
        return fitted(found, planted(dataset, "train", rows), p)

    clean_lines = audit_references(dataset, [fit(train)])
    assert (clean_lines["count"] == 0).all() and set(clean_lines["severity"]) == {"leak"}
    table = f"entries beside the training rows in the table of {label(kind.name)}"
    assert clean_lines["check"].tolist() == [f"{COUNTS} of {label(kind.name)}", table]
    knowing = fit(joined([train, one]))
    knowing.counts = popularity(train)
    # two sets of users cannot be told apart by a table over users: renamed to one of the training users, it can
    for found in (knowing, fit(with_user(joined([train, one]), [len(train)], train.user[0]))):
        found.counts = popularity(train)
        lines = audit_references(dataset, [found]).set_index("check")
        assert lines.loc[f"{COUNTS} of {label(kind.name)}", "count"] == 0
        assert lines.loc[table, "count"] > 0 and lines.loc[table, "example"].startswith("item ")


def test_audit_references_when_counts_know_a_test_target_finds_that_only(clean):
    ranker = Popularity(clean.catalogue)
    ranker.counts = popularity(clean.splits["train"])
    ranker.counts["x"][3] += 1
    lines = audit_references(clean, [ranker])
    assert lines[["check", "count"]].values.tolist() == [[f"{COUNTS} of Popularity", 1]]


def test_audit_when_the_paper_recalls_a_target_notes_it():
    raw = synthetic.generate(load("smoke", {"synthetic.users": 3000}).synthetic)
    p = load("smoke", {"psg.kind": "cooccurrence"}, protocol="released")
    dataset = protocols.apply("released", raw, p.split, p.controls)
    generator = psg.fit(dataset.splits["train"], psg.as_published(p.psg))
    pseudo = {split: psg.recalled(generator, rows)[0] for split, rows in dataset.splits.items()}
    lines = audit(dataset, generator=generator, pseudo=pseudo).set_index(["check", "split"])
    for split in dataset.splits:
        line = lines.loc[("target recalled", split)]
        assert (line["severity"], line["count"], line["example"]) == ("note", 0, "never, as published")
    pseudo["test"][2, 0] = dataset.splits["test"].target[2]
    line = audit(dataset, pseudo=pseudo).set_index(["check", "split"]).loc[("target recalled", "test")]
    assert line["count"] == 1 and line["example"].startswith(f"row {dataset.splits['test'].source[2]}, ")


def test_audit_counts_when_one_test_target_is_counted_finds_it(clean):
    known = popularity(clean.splits["train"])
    test = clean.splits["test"].take(clean.splits["test"].of("y"))
    known["y"][test.target[0]] += 1
    found = audit_counts(clean, known)
    assert found[["check", "split", "severity", "count"]].values.tolist() == [[COUNTS, "train", "leak", 1]]
    assert found["example"][0].startswith(f"item {clean.catalogue.decode('y', test.target[:1])[0]} of South")


def test_audit_when_the_target_is_recalled_in_training_only_finds_that_only(clean):
    """The generator's way of the paper: one fold, a training row's own target in what it learnt from."""
    p = load("smoke", {"psg.kind": "cooccurrence", "psg.folds": 1}).psg
    generator = psg.fit(clean.splits["train"], p)
    found = counts(clean, generator=generator, pseudo=recalled(clean, generator))
    assert {(RECALLED, "test")} <= set(found) <= {(RECALLED, "validation"), (RECALLED, "test")}


def test_audit_when_test_rows_never_recall_their_target_finds_that_only(clean, learnt):
    """As in the released pseudo-sequences: recalled with the target in the history, it is never among them."""
    _, pseudo = learnt
    test = clean.splits["test"]
    blanked = np.where(pseudo["test"] == test.target[:, None], 0, pseudo["test"])
    found = counts(clean, pseudo={**pseudo, "test": blanked})
    assert set(found) == {(RECALLED, "test")}
    assert (pseudo["test"] == test.target[:, None]).any(axis=1).sum() >= 50


def test_audit_when_recall_drifts_under_temporal_notes_it_only():
    """What comes after a cut is recalled less often: the world moved, nothing leaked."""
    dataset = load_dataset(load("smoke", {"synthetic.users": 3000}, protocol="temporal"))
    always = {s: np.repeat(rows.target[:, None], 2, axis=1) for s, rows in dataset.splits.items()}
    found = audit(dataset, pseudo={**always, "test": np.zeros_like(always["test"])})
    line = found[(found["check"] == RECALLED) & (found["split"] == "test")].iloc[0]
    assert line["count"] > 100 and line["severity"] == "note"
    refuse_leaks(found, "temporal")


@pytest.mark.parametrize("protocol", ["released", "temporal"])
def test_audit_when_users_are_detached_still_knows_them(protocol):
    """Renaming the halves of a user must not hide that the user stands in two splits."""
    overrides = {"synthetic.users": 3000, "controls.overlap_mode": "detach"}
    raw = leaky_world() if protocol == "released" else None
    shared = []
    for overlap in (1.0, 0.05):
        p = load("smoke", overrides | {"controls.overlap": overlap}, protocol=protocol)
        dataset = protocols.apply(protocol, raw, p.split, p.controls) if raw else load_dataset(p)
        shared.append(counts(dataset)[USER, "test"])
    assert shared[0] == shared[1] > 20


def leaky_world():
    return planted_leaks(synthetic.generate(load("smoke", {"synthetic.users": 3000}).synthetic), 1.0, 0)


def test_recalled_shares_when_lengths_differ_compares_like_with_like(clean, learnt):
    _, pseudo = learnt
    found = recalled_shares(clean, pseudo).loc["test"]
    train, test = clean.splits["train"], clean.splits["test"]
    hits = {s: (pseudo[s] == clean.splits[s].target[:, None]).any(axis=1) for s in ("train", "test")}
    own = {"train": np.minimum(train.lengths("own"), 10), "test": np.minimum(test.lengths("own"), 10)}
    expected, total = 0.0, int((own["test"] > 0).sum())
    for length in range(1, 11):
        expected += hits["train"][own["train"] == length].mean() * (own["test"] == length).sum() / total
    assert found["training share"] == pytest.approx(expected, rel=1e-12)
    assert found["share"] == pytest.approx(hits["test"][own["test"] > 0].mean(), rel=1e-12)
    assert found["rows"] == total
