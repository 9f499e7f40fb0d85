"""The leak audit finds what the released files have, and each leak that is planted, one row in a thousand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from i2vae_lib.audit import Leak, audit, refuse_leaks
from i2vae_lib.data import DOMAINS, Catalogue, Ragged, load_dataset, protocols
from i2vae_lib.data.dataset import interactions
from i2vae_lib.data.released import load_released
from i2vae_lib.params import load

USER = "user also in training"
TARGET = "target in the user's training rows"
OWN = "target in own history"
OTHER = "target in other history"
DUPLICATED = "duplicated row"
UNSEEN = "target never seen in training"
LEAKS = (USER, TARGET, OWN, OTHER)
README = {  # counted from the released files when they were put down: what the audit must find by itself
    "cloth_sport": {"users": 609, OTHER: (100, 145), "unseen": {"released": 179, "strict": 227}, "links": 639},
    "phone_elec": {"users": 312, OTHER: (79, 90), "unseen": {"released": 247, "strict": 269}, "links": 326},
}
PAIRS = pytest.mark.parametrize("name", README)


@pytest.fixture(scope="module")
def released(released_folder):
    """Both pairs under both protocols, as (name, protocol) -> dataset."""
    split, found = load("paper").split, {}
    for name in README:
        raw = load_released(name, released_folder)
        found |= {(name, protocol): protocols.apply(protocol, raw, split) for protocol in ("released", "strict")}
    return found


@pytest.fixture(scope="module")
def clean():
    """A planted world with more than a thousand test rows, under strict."""
    return load_dataset(load("smoke", {"synthetic.users": 6000}))


def counts(dataset) -> dict[tuple[str, str], int]:
    """What fired: (check, split) -> rows, for checks of rows only."""
    found = audit(dataset)
    found = found[(found["count"] > 0) & (found["split"] != "catalogue")]
    return {(check, split): count for check, split, count in zip(found["check"], found["split"], found["count"])}


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
    assert found.loc[("items shared by both domains", "catalogue"), "count"] == README[name]["links"]


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
    assert set(zip(found["check"], found["split"])) == expected | {("items shared by both domains", "catalogue")}
    assert set(found.loc[found["check"].isin(LEAKS), "severity"]) == {"leak"}
    assert set(found.loc[~found["check"].isin(LEAKS), "severity"]) == {"note"}


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
    assert line["example"] == f"row {rows.source[5]}, user {rows.user[5]}"


def test_refuse_leaks_when_one_row_leaks_raises_except_under_released(clean):
    rows = clean.splits["test"]
    changed = planted(clean, "test", with_event(rows, [5], DOMAINS[rows.domain[5]], rows.target[[5]]))
    with pytest.raises(Leak, match=rf"{OWN} \(test\): 1 rows, e\.g\. row {rows.source[5]}, user .*; 1 checks fired"):
        refuse_leaks(audit(changed), "strict")
    refuse_leaks(audit(changed), "released")


def test_refuse_leaks_when_only_notes_fired_does_not_raise(clean):
    rows = clean.splits["test"]
    found = audit(planted(clean, "test", rows.take(np.append(np.arange(len(rows)), 3))))
    assert found["count"].max() > 0
    refuse_leaks(found, "strict")
