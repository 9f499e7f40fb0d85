"""K_o and D_s: what they take, what they leave, and that a smaller ratio takes more of the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from i2vae_lib.audit.leaks import audit, fired
from i2vae_lib.data import DOMAINS, load_dataset
from i2vae_lib.data.rows import belongs, interactions, origins, popularity
from i2vae_lib.data.subsampling import detach
from i2vae_lib.evaluation import sample_negatives
from i2vae_lib.generators import psg
from i2vae_lib.params import ParameterError, load

RATIOS = (0.25, 0.5, 0.75)
EVERY = pytest.mark.parametrize("protocol", ["strict", "chronological", "temporal"])


def world(protocol: str = "strict", **controls):
    named = {f"controls.{key}": value for key, value in controls.items()}
    return load_dataset(load("smoke", {"synthetic.users": 1500} | named, protocol=protocol))


def overlapping(rows) -> set[str]:
    """Users with something in both domains."""
    has = [set(rows.user[(rows.history[d].lengths > 0) | (rows.domain == i)]) for i, d in enumerate(DOMAINS)]
    return {str(user) for user in has[0] & has[1]}


def held(rows) -> dict[str, list[int]]:
    return {d: popularity(rows)[d].astype(int).tolist() for d in DOMAINS}


@EVERY
@pytest.mark.parametrize("mode", ["drop", "detach"])
def test_overlap_when_lowered_keeps_that_share_of_the_overlapping_users(protocol, mode):
    before = overlapping(world(protocol).splits["train"])
    kept = [overlapping(world(protocol, overlap=ratio, overlap_mode=mode).splits["train"]) for ratio in RATIOS]
    assert [len(one) for one in kept] == [round(ratio * len(before)) for ratio in RATIOS]
    assert kept[0] < kept[1] < kept[2] < before  # a smaller ratio keeps some of the same


@EVERY
@pytest.mark.parametrize("mode", ["drop", "detach"])
def test_overlap_when_lowered_leaves_evaluation_rows_and_candidates_alone(protocol, mode):
    before, after = world(protocol), world(protocol, overlap=0.25, overlap_mode=mode)
    for split in ("validation", "test"):
        one, two = before.splits[split], after.splits[split]
        assert one.user.tolist() == two.user.tolist() and one.target.tolist() == two.target.tolist()
        for d in DOMAINS:
            assert one.history[d].values.tolist() == two.history[d].values.tolist()
        np.testing.assert_array_equal(sample_negatives(one, 20, 0), sample_negatives(two, 20, 0))
    assert before.tail == after.tail
    assert fired(audit(after)).empty


def test_drop_when_applied_takes_rows_of_overlapping_users_only():
    before, after = world().splits["train"], world(overlap=0.5, overlap_mode="drop").splits["train"]
    gone = set(map(str, before.user)) - set(map(str, after.user))
    assert gone and gone <= overlapping(before)
    assert set(map(str, after.user)) <= set(map(str, before.user))


@EVERY
def test_detach_when_applied_keeps_every_interaction_and_links_nobody(protocol):
    """Item by item as many users took it as before; the two halves of a user have other names."""
    before, after = (
        world(protocol).splits["train"],
        world(protocol, overlap=0.25, overlap_mode="detach").splits["train"],
    )
    assert held(before) == held(after)
    halves = [user for user in after.user if " only)" in str(user)]
    assert halves and not set(halves) & set(before.user)
    lost = len(overlapping(before)) - len(overlapping(after))
    assert len(set(halves)) == 2 * lost


def test_detach_when_a_user_has_one_row_makes_the_other_from_its_history():
    train = world().splits["train"]
    single = [u for u in overlapping(train) if (train.user == u).sum() == 1][:1]
    one = train.take(np.flatnonzero(train.user == single[0]))
    found = detach(one, np.ones(1, dtype=bool))
    own, across = DOMAINS[one.domain[0]], DOMAINS[1 - one.domain[0]]
    assert len(found) == 2 and found.domain.tolist() == [one.domain[0], 1 - one.domain[0]]
    assert found.target.tolist() == [one.target[0], one.history[across][0][-1]]
    assert found.history[own][0].tolist() == one.history[own][0].tolist() and not len(found.history[across][0])
    assert found.history[across][1].tolist() == one.history[across][0][:-1].tolist() and not len(found.history[own][1])
    names = {d: train.catalogue.names[d] for d in DOMAINS}
    assert found.user.tolist() == [f"{single[0]} ({names[own]} only)", f"{single[0]} ({names[across]} only)"]


@EVERY
def test_density_when_lowered_thins_histories_and_no_target(protocol):
    before = world(protocol)
    total = {s: sum(len(rows.history[d].values) for d in DOMAINS) for s, rows in before.splits.items()}
    for ratio in RATIOS:
        after = world(protocol, density=ratio)
        for split, rows in after.splits.items():
            assert rows.target.tolist() == before.splits[split].target.tolist()
            assert rows.excluded.values.tolist() == before.splits[split].excluded.values.tolist()
            left = sum(len(rows.history[d].values) for d in DOMAINS)
            n = total[split]
            assert abs(left - ratio * n) < 5 * np.sqrt(n * ratio * (1 - ratio))
            assert after.removed[f"events thinned from {split} histories"] == n - left
        assert after.tail == before.tail
        assert fired(audit(after)).empty


def test_density_when_lowered_keeps_some_of_the_same_events():
    parts = [world(density=ratio).splits["train"] for ratio in (*RATIOS, 1.0)]
    for fewer, more in itertools.pairwise(parts):
        for d in DOMAINS:
            for i in range(0, len(fewer), 7):
                wanted = fewer.history[d][i].tolist()
                assert [item for item in more.history[d][i].tolist() if item in wanted] == wanted


def test_density_when_an_event_stands_in_two_rows_decides_once():
    before, after = world("chronological").splits["train"], world("chronological", density=0.5).splits["train"]
    seen = {}
    targets = {(u, i, t) for u, i, t in zip(before.user, before.domain, before.target)}
    for i, d in enumerate(DOMAINS):
        for row in range(len(before)):
            kept = set(after.history[d][row].tolist())
            for item in before.history[d][row].tolist():
                key = (before.user[row], i, item)
                if key not in targets:
                    assert seen.setdefault(key, item in kept) == (item in kept)
    assert 0.4 < np.mean(list(seen.values())) < 0.6


def test_detach_when_users_come_again_keeps_their_fold():
    """Under temporal a user's test row is folded in to a table that did not learn from the user's own past."""
    dataset = world("temporal", overlap=0.25, overlap_mode="detach")
    p = load("smoke", {"psg.folds": 4}).psg
    train, test = dataset.splits["train"], dataset.splits["test"]
    folds = {s: dict(zip(origins(rows), psg.fold_of(rows, p))) for s, rows in (("train", train), ("test", test))}
    halves = [user for user in origins(train) if user not in set(train.user) and user in folds["test"]]
    assert len(halves) > 20
    assert all(folds["train"][user] == folds["test"][user] for user in halves)


def test_controls_when_applied_are_recorded():
    dataset = world(overlap=0.5, overlap_mode="detach", density=0.75)
    assert dataset.controls == {"overlap": 0.5, "overlap_mode": "detach", "density": 0.75}
    assert dataset.removed["overlapping training users (detach)"] > 0
    assert len(interactions(dataset.splits["train"])["x"][0]) > 0


@pytest.mark.parametrize("key", ["overlap", "density"])
@pytest.mark.parametrize("value", [0.0, -0.5, 1.01, "nan"])
def test_ratio_when_outside_its_range_is_an_error(key, value):
    with pytest.raises(ParameterError, match=rf"'controls\.{key}'"):
        load("smoke", {f"controls.{key}": value})


def test_belongs_when_users_are_many_is_as_quick_as_a_table():
    users = np.array([f"u{i}" for i in range(200_000)], dtype=object)
    chosen = users[::3]
    found = belongs(users, chosen)  # np.isin of objects would compare 13 billion pairs
    assert found.tolist() == [i % 3 == 0 for i in range(len(users))]
    assert belongs(users[:2], chosen[:0]).tolist() == [False, False]
