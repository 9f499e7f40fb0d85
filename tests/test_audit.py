"""The leak audit finds what the released files have, and each leak that is planted, one row in a thousand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from i2vae_lib import psg
from i2vae_lib.audit import Leak, audit, audit_counts, fired, recalled_shares, refuse_leaks
from i2vae_lib.data import DOMAINS, Catalogue, Ragged, load_dataset, protocols, synthetic
from i2vae_lib.data.dataset import interactions, joined, popularity
from i2vae_lib.data.released import load_released
from i2vae_lib.leaks import planted as planted_leaks
from i2vae_lib.params import load

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
MADE = "validation row made of training users"
DESCRIBES = ("cold row", "row without any history", "history in order of item ids", MADE, ONLY, COPIED_SHORT)
LEAKS = (USER, TARGET, OWN, OTHER, COPIED)
README = {  # counted from the released files when they were put down: what the audit must find by itself
    "cloth_sport": {
        "users": 609,
        OTHER: (100, 145),
        "unseen": {"released": 179, "strict": 227},
        "links": (639, 638),  # in all files; in train and validation rows, which are the train file
        "bare": 308,
        "zero": 15,
    },
    "phone_elec": {
        "users": 312,
        OTHER: (79, 90),
        "unseen": {"released": 247, "strict": 269},
        "links": (326, 321),  # 322 in the train file; validation rows made cold lost one
        "bare": 301,
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
    return load_dataset(load("smoke", {"synthetic.users": 6000}))


def counts(dataset, **learnt) -> dict[tuple[str, str], int]:
    """What fired: (check, split) -> rows, without the notes that describe any pair."""
    found = audit(dataset, **learnt)
    of_pair = (found["split"] == "catalogue") & (found["severity"] == "note")
    found = found[(found["count"] > 0) & ~of_pair & ~found["check"].isin(DESCRIBES)]
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
def test_strict_when_it_drops_rows_counts_as_many_as_the_audit_finds(released, name):
    removed = released[name, "strict"].removed
    assert removed["training rows of test users"] == README[name]["users"]
    assert removed["targets scrubbed from test histories"] == sum(README[name][OTHER])


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
    assert set(found) == {(GRAPH, "train")}
    assert 3 * (1 + sum(one.history[d].lengths[0] for d in DOMAINS) - linked) <= found[GRAPH, "train"]
    line = audit(clean, generator=generator).set_index("check").loc[GRAPH]
    assert line["severity"] == "leak" and line["example"].startswith("item ")


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
    assert set(found) == {(RECALLED, "validation"), (RECALLED, "test")}


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
