"""Evidence and recent takers: against slow loops, and nothing of a row's own user, moment or future in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Catalogue, Ragged, Rows
from i2vae_lib.data.user_sequences import user_sequences
from i2vae_lib.generators.cooccurrence import LeaveOneOutCounts
from i2vae_lib.generators.evidence import Evidence, kernels
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.generators.recency import RecentTakers
from i2vae_lib.parameter_groups import EvidenceParameters
from tests.helpers.worlds import asked_by_event

TWO = EvidenceParameters(
    items=20,
    shrinkage=(10.0, 5.0),
    proximity=(0.0, 0.5),
    backward=(1.0, 0.3),
    across=(1.0, 0.4),
    recency=(1.0, 0.7),
    half_lives=(0.05, 0.5),
)

# --- a row for every event --------------------------------------------------------------------------------------------


def test_asked_by_event_when_compared_with_a_loop(dataset: CrossDomainDataset) -> None:
    train, length = dataset.splits["train"], 4
    found, users = asked_by_event(train, length), user_sequences(train)
    expected = []
    for own, d in enumerate(DOMAINS):
        for user in range(len(users)):
            sequence = users.sequences[d]
            for place, item in enumerate(sequence[user]):
                at = sequence.moments[sequence.offsets[user] + place]
                shown = {d: sequence[user][:place][-length:].tolist()}
                one = users.sequences[DOMAINS[1 - own]]
                moments = one.moments[one.offsets[user] : one.offsets[user + 1]]
                shown[DOMAINS[1 - own]] = one[user][moments < at][-length:].tolist()
                expected.append((users.users[user], own, item, shown["x"], shown["y"], at))
    assert len(found) == len(expected)
    for row, (user, domain, item, x, y, at) in enumerate(expected):
        assert (found.user[row], found.domain[row], found.target[row], found.moment[row]) == (user, domain, item, at)
        assert found.history["x"][row].tolist() == x and found.history["y"][row].tolist() == y


def test_asked_by_event_when_data_have_no_time(published: CrossDomainDataset) -> None:
    """The other history stands whole, as in evaluation."""
    found, users = asked_by_event(published.splits["train"], 1000), user_sequences(published.splits["train"])
    assert found.moment is None
    number = {user: i for i, user in enumerate(users.users)}
    for own, d in enumerate(DOMAINS):
        at = found.of(d)
        theirs = users.sequences[DOMAINS[1 - own]].lengths[[number[user] for user in found.user[at]]]
        assert (found.lengths("other")[at] == theirs).all()


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_evidence_when_compared_with_each_kernel(dataset: CrossDomainDataset) -> None:
    """The kept items are those of the highest sum of relative scores; their scores are the kernels' own."""
    train, rows = dataset.splits["train"], dataset.splits["validation"]
    evidence = Evidence.fit(train, TWO, "chronological")
    told, unified = evidence.of(rows), Unified(dataset.catalogue)
    assert told.items.shape == (len(rows), 20) and told.scores.shape == (len(rows), 20, 2)
    for d in DOMAINS:
        alone = [LeaveOneOutCounts.fit(train, one).scores(rows, d) for one in kernels(TWO, "chronological")]
        for row in rows.of(d)[:40]:
            barred = set(rows.history[d][row].tolist())
            scores = np.stack([one[row] for one in alone], axis=1)
            scores[[item - 1 for item in barred]] = 0.0
            total = (scores / np.maximum(scores.max(axis=0), 1e-9)).sum(axis=1)
            kept = told.items[row][told.items[row] > 0]
            assert not barred & set(kept.tolist())
            np.testing.assert_allclose(told.scores[row, : len(kept)], scores[kept - 1], rtol=1e-5)
            assert (told.scores[row, len(kept) :] == 0).all()
            total[np.isin(unified.of[d][1:], unified.histories(rows.take([row])).indices)] = 0.0  # twins too
            left_out = np.delete(total, kept - 1)
            assert not len(kept) or total[kept - 1].min() >= left_out.max() - 1e-5 or len(kept) < 20


def test_evidence_when_its_user_is_taken_out_of_training(dataset: CrossDomainDataset) -> None:
    """A training row is told what a stranger with its histories would be told without it in the counts."""
    train = dataset.splits["train"]
    one = train.take(np.flatnonzero(train.lengths("own") > 2)[:1])
    without = train.take(np.flatnonzero(train.user != one.user[0]))
    stranger = replace(one, user=np.array(["nobody"], dtype=object))
    known = Evidence.fit(train, TWO, "chronological").of(one)
    there = Evidence.fit(without, TWO, "chronological").of(stranger)
    np.testing.assert_array_equal(known.items, there.items)
    np.testing.assert_allclose(known.scores, there.scores, rtol=1e-5, atol=1e-7)


def test_evidence_when_targets_change(dataset: CrossDomainDataset) -> None:
    train, rows = dataset.splits["train"], dataset.splits["validation"]
    evidence = Evidence.fit(train, TWO, "chronological")
    swapped = replace(rows, target=np.roll(rows.target, 1) % 120 + 1)
    np.testing.assert_array_equal(evidence.of(rows).items, evidence.of(swapped).items)


def test_kernels_when_rows_are_sets() -> None:
    """Order-free data leave shrinkage and across; kernels that become equal are one."""
    alike = TWO.model_copy(update={"shrinkage": (10.0, 10.0), "across": (1.0, 1.0)})
    assert [(one.shrinkage, one.across) for one in kernels(TWO, "strict")] == [(10.0, 1.0), (5.0, 0.4)]
    assert len(kernels(alike, "strict")) == 1 and len(kernels(alike, "chronological")) == 2
    assert all((one.proximity, one.backward, one.recency) == (0.0, 1.0, 1.0) for one in kernels(TWO, "strict"))


def test_evidence_when_restored(dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["validation"]
    evidence = Evidence.fit(dataset.splits["train"], TWO, "chronological")
    again = Evidence.restore(TWO, "chronological", dataset.catalogue, evidence.arrays())
    for one, another in zip(vars(evidence.of(rows)).values(), vars(again.of(rows)).values(), strict=True):
        np.testing.assert_array_equal(one, another)
    assert not again.foreign_counts(dataset.splits["train"]).any()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_apart_when_other_rows_were_counted(dataset: CrossDomainDataset, split: str) -> None:
    """The planted leak: a held-out split in the counts."""
    leaky = Evidence.fit(dataset.splits[split], TWO, "chronological")
    assert leaky.foreign_counts(dataset.splits["train"]).any()


def test_apart_when_only_the_recent_takers_know_more(dataset: CrossDomainDataset) -> None:
    train = dataset.splits["train"]
    evidence = Evidence.fit(train, TWO, "chronological")
    evidence.recent = RecentTakers.fit(dataset.splits["test"], TWO.half_lives)
    assert evidence.foreign_counts(train).any()


# --- recent takers ----------------------------------------------------------------------------------------------------


ITEMS = {d: np.array([f"{d}{i}" for i in range(9)], dtype=object) for d in DOMAINS}
NINE = Catalogue({d: d for d in DOMAINS}, ITEMS, np.zeros((0, 2), dtype=np.int32), {d: None for d in DOMAINS})


def log_of(events: list[tuple[int, int, int]]) -> Rows:
    """Training rows of one user an event: (domain, item, moment), no history."""
    domain, item, moment = (np.array(one) for one in zip(*events, strict=True))
    empty = Ragged.from_lengths(np.zeros(0, np.int32), np.zeros(len(events), np.int64), np.zeros(0, np.int64))
    return Rows(
        NINE,
        np.array([f"user {i}" for i in range(len(events))], dtype=object),
        domain.astype(np.int8),
        item.astype(np.int32),
        {d: empty for d in DOMAINS},
        empty,
        np.arange(len(events)),
        moment,
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5), st.integers(0, 30)), min_size=1, max_size=40),
    st.integers(-2, 35),
)
def test_recent_takers_when_compared_with_a_loop(events: list[tuple[int, int, int]], moment: int) -> None:
    """With fewer events than edges every moment is an edge of its own: the formula holds exactly at them."""
    half_lives = (0.1, 1.0)
    found = RecentTakers.fit(log_of(events), half_lives)
    asked = replace(log_of([(0, 1, moment)]))
    line = int(found.at(asked)[0])
    edge = max((one for one in [e[2] for e in events] + [max(e[2] for e in events) + 1] if one <= moment), default=None)
    for number, d in enumerate(DOMAINS):
        for h, half_life in enumerate(half_lives):
            for item in range(1, 6):
                total = 0.0
                if edge is not None:
                    clock = sum(e[2] < edge for e in events) / len(events)
                    for domain, taken, at in events:
                        if domain == number and taken == item and at < edge:
                            begun = sum(e[2] < at for e in events) / len(events)
                            total += 0.5 ** ((clock - begun) / half_life)
                assert found.counts[d][line, h, item - 1] == pytest.approx(total, rel=1e-5, abs=1e-7)


def test_recent_takers_when_the_future_changes() -> None:
    """Nothing at or after a moment is counted at it."""
    rng = np.random.default_rng(0)
    events = [(int(rng.integers(2)), int(rng.integers(1, 9)), int(at)) for at in np.sort(rng.integers(0, 5000, 2000))]
    changed = [(d, item if at < 3000 else 9, at) for d, item, at in events]
    one, another = (RecentTakers.fit(log_of(part), (0.05,)) for part in (events, changed))
    asked = log_of([(0, 1, 3000)])
    for d in DOMAINS:
        np.testing.assert_array_equal(one.counts[d][one.at(asked)[0]], another.counts[d][another.at(asked)[0]])
    later = log_of([(0, 1, 4900)])
    assert any((one.counts[d][one.at(later)[0]] != another.counts[d][another.at(later)[0]]).any() for d in DOMAINS)


def test_recent_takers_when_nobody_knows_the_time(dataset: CrossDomainDataset, published: CrossDomainDataset) -> None:
    """Data without time have no recent takers; a row without a moment asks now, after everything."""
    empty = RecentTakers.fit(published.splits["train"], (0.1,))
    assert not any(one.any() for one in empty.counts.values())
    assert (empty.at(published.splits["test"]) == 0).all()
    found = RecentTakers.fit(dataset.splits["train"], (0.1,))
    now = replace(dataset.splits["test"].take(np.arange(3)), moment=None)
    assert (found.at(now) == len(found.edges)).all() and found.counts["x"][-1].any()
