"""The planted world: its truth generated it, its dials do what they say, its two ends are chance and ceiling."""

from __future__ import annotations

import numpy as np
import pytest

from i2vae_lib import evaluation
from i2vae_lib.data import DOMAINS, DataError, load_dataset, protocols, synthetic
from i2vae_lib.data.dataset import rows_digest
from i2vae_lib.data.rows import joined
from i2vae_lib.data.synthetic import next_item_probabilities
from i2vae_lib.params import load
from i2vae_lib.recommenders import Informed, Oracle, Popularity
from i2vae_lib.training import Callbacks

LARGE = {"users": 30000, "shared_topics": 3, "specific_topics": 2, "linked_items": 0, "overlap": 0.7, "cold_rows": 0.4}
"""Many users over few topics, no links (published splits leave out rows whose target is linked to the history)."""


def settings(**changes):
    return load("smoke", {f"synthetic.{key}": value for key, value in changes.items()}).synthetic


def world(**changes):
    """The log, with its truth."""
    return synthetic.generate_log(settings(**changes))


def published(**changes):
    """The older form: published splits without times."""
    return synthetic.generate(settings(**changes))


def last_rows(pair):
    """Of everybody the row of the last event in each domain, where the interests are known."""
    split = load("smoke", {"split.cold_share": 0.0}).split
    return joined(list(protocols.chronological(pair, split).splits.values()))


def of_truth(pair, key: str):
    """Lines of the truth of users who have the domain: line 2 * user + domain is some row's."""
    return pair.truth[key][last_rows(pair).source]


@pytest.fixture(scope="module")
def smoke():
    return world()


@pytest.fixture(scope="module")
def smoke_splits():
    return published()


@pytest.fixture(scope="module")
def large():
    return world(**LARGE)


@pytest.fixture(scope="module")
def large_splits():
    return published(**LARGE, test_share=0.3)


def binomial_error(share: float, n: int) -> float:
    return float(np.sqrt(share * (1 - share) / n))


def hit_rates(dial: float) -> tuple[dict[str, float], int]:
    parameters = load("smoke", {"synthetic.dial": dial})
    dataset = load_dataset(parameters)
    train, rows = dataset.splits["train"], dataset.splits["test"]
    popular = Popularity(dataset.catalogue).fit(
        train, train, params=parameters, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks()
    )
    negatives = evaluation.sample_negatives(rows, 99, 0)
    found = {}
    for scorer in (popular, *(kind(dataset, popular.counts) for kind in (Oracle, Informed))):
        ranks = evaluation.rank(scorer, rows, negatives, full=False, batch_size=512)
        found[scorer.name] = evaluation.hit_rate(ranks["greater_sampled"], ranks["ties_sampled"], 10).mean()
    return found, len(rows)


def test_world_when_drawn_twice_is_the_same(smoke):
    again = world()
    assert again.source_sha256 == smoke.source_sha256
    assert again.catalogue.digest() == smoke.catalogue.digest()
    assert rows_digest(last_rows(again)) == rows_digest(last_rows(smoke))
    for key, array in smoke.truth.items():
        np.testing.assert_array_equal(again.truth[key], array)


def test_published_splits_when_drawn_twice_are_the_same_and_of_the_same_items(smoke, smoke_splits):
    again = published()
    assert again.catalogue.digest() == smoke_splits.catalogue.digest() == smoke.catalogue.digest()
    for split in ("train", "test"):
        assert rows_digest(getattr(again, split)) == rows_digest(getattr(smoke_splits, split))


@pytest.mark.parametrize("protocol", ["released", "strict", "temporal"])
def test_truth_when_targets_are_no_last_events_is_left_out(protocol):
    dataset = load_dataset(load("smoke", {"synthetic.users": 300}, protocol=protocol))
    assert dataset.truth == {}
    for kind in (Oracle, Informed):
        with pytest.raises(DataError, match=f"{kind.name} ranker exists only for data = synthetic under chronological"):
            kind(dataset, {})


@pytest.mark.parametrize("change", [{"seed": 1}, {"dial": 0.9}, {"overlap": 0.5}])
def test_world_when_a_parameter_changes_is_another(smoke, change):
    other = world(**change)
    assert other.source_sha256 != smoke.source_sha256
    assert rows_digest(last_rows(other)) != rows_digest(last_rows(smoke))


@pytest.mark.parametrize("dial", [0.0, 0.5, 1.0, 3.0])
def test_probabilities_when_summed_are_1_and_padding_has_none(dial):
    pair = world(users=300, dial=dial)
    rows = last_rows(pair)
    for d in DOMAINS:
        found = next_item_probabilities(pair.truth, rows, rows.of(d), d)
        assert found.shape == (len(rows.of(d)), 201)
        assert (found[:, 0] == 0).all() and (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)


def test_probabilities_when_the_dial_is_0_are_all_equal():
    pair = world(users=300, dial=0.0)
    rows = last_rows(pair)
    found = next_item_probabilities(pair.truth, rows, rows.of("x"), "x")
    np.testing.assert_allclose(found[:, 1:], 1 / 200, rtol=1e-12)


@pytest.mark.parametrize("domain", DOMAINS)
def test_next_items_when_counted_follow_the_probabilities(large, domain):
    every = last_rows(large)
    rows = every.take(every.of(domain))
    rows = rows.take(rows.lengths("own") > 0)  # what newcomers took before is not theirs to tell
    misfit = misfit_of(large.truth, rows, domain)
    flatter = misfit_of({**large.truth, "dial": np.array(0.8)}, rows, domain)
    assert abs(misfit) < 4
    assert flatter > 8  # the measure can tell a dial of 0.8 from 1


def misfit_of(truth, rows, d: str) -> float:
    """Chi-square of the targets' counts against what was planted, in its own standard deviations."""
    expected = next_item_probabilities(truth, rows, np.arange(len(rows)), d)
    history = rows.history[d]
    expected[history.owner, history.values] = 0.0  # nobody takes an item twice
    expected /= expected.sum(axis=1, keepdims=True)
    counts = np.bincount(rows.target, minlength=expected.shape[1])[1:]
    error = (counts - expected.sum(axis=0)[1:]) ** 2 / (expected * (1 - expected)).sum(axis=0)[1:]
    return float((error.sum() - len(error)) / np.sqrt(2 * len(error)))


def test_interests_when_planted_are_distributions(smoke):
    for key in ("interest", "planted_shared", "planted_x", "planted_y"):
        assert len(smoke.truth[key]) == 2 * 3500
        np.testing.assert_allclose(smoke.truth[key].sum(axis=1), 1.0, atol=1e-9)


def test_interests_when_nothing_drifts_are_the_planted_ones():
    pair = world(users=500, drift=0.0)
    shared = 0.6 * of_truth(pair, "planted_shared")
    own = np.where((last_rows(pair).domain == 0)[:, None], *(of_truth(pair, f"planted_{d}") for d in DOMAINS))
    planted = np.concatenate([shared, 0.4 * own], axis=1) + 1e-4
    expected = planted / planted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(of_truth(pair, "interest"), expected, rtol=1e-9)


def test_interests_when_they_drift_leave_the_planted_ones_further_behind():
    still, slow, fast = (of_truth(world(users=500, drift=drift), "interest") for drift in (0.0, 0.1, 1.0))
    assert 0 < np.abs(slow - still).mean() < np.abs(fast - still).mean()


def test_interests_when_of_one_user_are_planted_once(smoke):
    for key in ("planted_shared", "planted_x", "planted_y"):
        np.testing.assert_array_equal(smoke.truth[key][::2], smoke.truth[key][1::2])


def test_topics_when_planted_are_shared_or_of_one_domain(smoke):
    for d in DOMAINS:
        topics = smoke.truth[f"topics_{d}"]
        assert topics[0] == -1 and set(topics[1:]) == set(range(16))
        assert smoke.truth[f"popularity_{d}"][0] == 0
        ranked = np.sort(smoke.truth[f"popularity_{d}"][1:])[::-1]
        np.testing.assert_allclose(ranked, np.arange(1, 201) ** -0.6, rtol=1e-12)
        for item, title in enumerate(smoke.catalogue.titles[d], start=1):
            kind = f"shared topic {topics[item]}," if topics[item] < 8 else f"{d}-only topic {topics[item] - 8},"
            assert title.startswith(kind)


def test_linked_items_when_planted_share_id_and_topic(smoke):
    links = smoke.catalogue.links
    assert len(links) == 10
    topics = [smoke.truth[f"topics_{d}"][links[:, i]] for i, d in enumerate(DOMAINS)]
    assert (topics[0] == topics[1]).all() and (topics[0] < 8).all()
    assert smoke.catalogue.decode("x", links[:, 0]).tolist() == smoke.catalogue.decode("y", links[:, 1]).tolist()
    assert len(set(smoke.catalogue.ids["x"]) & set(smoke.catalogue.ids["y"])) == 10


def test_targets_when_drawn_stand_in_no_history(smoke, smoke_splits):
    for rows in (last_rows(smoke), smoke_splits.train, smoke_splits.test):
        for i in range(len(rows)):
            d = DOMAINS[rows.domain[i]]
            opposite = "y" if d == "x" else "x"
            own = rows.history[d][i]
            assert rows.target[i] not in own and len(set(own)) == len(own)
            twin = rows.catalogue.linked(d)[rows.target[i]]
            assert twin == 0 or twin not in rows.history[opposite][i]


def test_overlap_when_counted_is_as_asked(large):
    x, y = (set(large.log.events[d].user) for d in DOMAINS)
    kept = 0.7 * 0.8  # a fifth are newcomers, who have one domain
    assert len(x | y) == 30000
    assert abs(len(x & y) / 30000 - kept) < 4 * binomial_error(kept, 30000)


def test_sequences_when_measured_have_the_mean_length_asked_for(large_splits):
    longer = published(users=30000, items=600, linked_items=0, mean_length=7.0)
    for mean, raw in ((5.4, large_splits), (7.0, longer)):
        lengths = raw.train.lengths("own") + 1  # the target counts
        assert lengths.min() == 2
        assert lengths.mean() == pytest.approx(mean, rel=0.01)


@pytest.mark.parametrize("kind", ["cold", "no_history"])
def test_cold_rows_when_counted_are_half_of_the_share_asked_for(large_splits, kind):
    mask = large_splits.test.kinds()[kind]
    assert abs(mask.mean() - 0.2) < 4 * binomial_error(0.2, len(mask))
    assert not large_splits.train.kinds()[kind].any()


def test_newcomers_when_counted_are_half_of_the_share_of_cold_rows_and_have_one_event(large):
    count = sum(np.bincount(large.log.events[d].user, minlength=30000) for d in DOMAINS)
    assert abs((count == 1).mean() - 0.2) < 4 * binomial_error(0.2, 30000)
    rows = last_rows(large)
    blank = rows.source[rows.kinds()["no_history"]] // 2
    assert sorted(blank) == np.flatnonzero(count == 1).tolist()


def test_test_users_when_counted_are_the_share_asked_for_and_train_nowhere(large_splits):
    train, test = set(large_splits.train.user), set(large_splits.test.user)
    assert not train & test
    assert len(train | test) == 30000
    assert abs(len(test) / 30000 - 0.3) < 4 * binomial_error(0.3, 30000)


def test_rankers_when_the_dial_is_0_are_at_chance():
    found, n = hit_rates(0.0)
    for name in ("popularity", "informed", "oracle"):
        assert abs(found[name] - 0.1) < 3 * binomial_error(0.1, n), name


def test_rankers_when_the_dial_is_1_leave_popularity_far_below_the_oracle():
    found, n = hit_rates(1.0)
    assert found["popularity"] > 0.1 + 4 * binomial_error(0.1, n)
    assert found["oracle"] > 2 * found["popularity"]
