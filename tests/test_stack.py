"""Stacks: features by hand, the logit against a loop, and validation figures that no own row was fitted on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, hashed
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import StackCE, StackCounts
from i2vae_lib.recommenders.contract import without_evidence
from i2vae_lib.recommenders.systems.stack import Choices, Logit
from tests.helpers.worlds import fitted


@pytest.fixture(scope="module", params=[StackCounts, StackCE])
def stack(request: pytest.FixtureRequest, dataset: CrossDomainDataset, tiny: Parameters) -> Any:
    return fitted(request.param(dataset.catalogue, tiny), dataset, tiny)


def test_logit_when_compared_with_a_loop() -> None:
    logit = Logit(3)
    with torch.no_grad():
        logit.weights.copy_(torch.tensor([[0.1, 0.2, 0.3], [1.0, -1.0, 0.5]]))
        logit.growth.copy_(torch.tensor([0.0, 0.5, -0.2]))
    features = torch.arange(12.0).view(2, 2, 3)
    found = logit(features, torch.tensor([0, 1]), torch.tensor([0.0, 3.0])).tolist()
    weights, growth = logit.weights.tolist(), logit.growth.tolist()
    for row, (domain, length) in enumerate([(0, 0), (1, 3)]):
        for c in range(2):
            expected = sum(
                weights[domain][f] * math.exp(growth[f] * math.log1p(length)) * x
                for f, x in enumerate(features[row, c].tolist())
            )
            assert found[row][c] == pytest.approx(expected, rel=1e-5)


def test_features_when_made_by_hand(stack: Any, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    rows = rows.take(~without_evidence(rows))
    for d in DOMAINS:
        some = rows.take(rows.of(d)[:6])
        items = np.random.default_rng(0).integers(1, 121, (6, 9))
        found = stack.features(some, d, items)
        assert found.shape == (6, 9, stack.width)
        knn = stack.rankers["itemknn"].evidence(some, d)
        for i in range(6):
            for j, item in enumerate(items[i]):
                s = float(knn[i, item - 1])
                assert found[i, j, 0] == pytest.approx(math.log1p(50 * s), rel=1e-4, abs=1e-6)
                assert found[i, j, 1] == pytest.approx(s / max(float(knn[i].max()), 1e-9), rel=1e-4, abs=1e-6)
                assert found[i, j, 8] == pytest.approx(math.log1p(stack.popularity[d][item]), rel=1e-5)
        assert (found >= 0)[..., :9].all() and (found[..., 1:8:2] <= 1 + 1e-6).all()
        bag, ordered = stack.counts
        assert (bag.p.proximity, bag.p.backward, bag.p.across, bag.p.recency) == (0.0, 1.0, 1.0, 1.0)
        told = ordered.scores(some, d)
        np.testing.assert_allclose(
            found[..., 6], np.log1p(50 * np.take_along_axis(told, items - 1, axis=1)), rtol=1e-4, atol=1e-6
        )
        for learner in stack.learners:
            expected = learner.score(some, items.astype(np.int32))
            np.testing.assert_allclose(found[..., -1], expected, rtol=1e-4, atol=1e-5)


def choices_of(stack: Any, dataset: CrossDomainDataset, tiny: Parameters) -> tuple[Choices, Array]:
    rows = dataset.splits["validation"]
    negatives = sample_negatives(rows, tiny.evaluation.negatives, tiny.split.data_seed)
    return Choices.of(stack, rows, negatives), negatives


def test_validation_figures_when_cross_fitted(stack: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    """What selection sees of a stack is of weights that its users had no part in."""
    rows = dataset.splits["validation"]
    choices, negatives = choices_of(stack, dataset, tiny)
    key = hashed(choices.rows.user, "stack", tiny.split.data_seed)
    utilities = stack.cross_fitted(choices, key)
    part = key % np.uint64(tiny.stack.folds)
    assert len(np.unique(part)) == tiny.stack.folds
    fold = np.flatnonzero(part == 2)
    # other features of the rows of one fold: their own weights stay what they were
    changed = Choices(choices.rows, choices.at, choices.features.clone(), choices.there)
    changed.features[fold] = changed.features[fold].flip(1)
    again = stack.cross_fitted(changed, key)
    np.testing.assert_allclose(again[fold], utilities[fold][:, ::-1], rtol=1e-4, atol=1e-4)
    assert np.abs(again[part != 2] - utilities[part != 2]).max() > 1e-3
    own = selection_metric(rank(stack, rows, negatives, full=False, batch_size=64), rows)["ndcg@10"]
    assert stack.state.best_metric == stack.state.history[-1]["ndcg@10"] != own


def test_cost_when_fitted(stack: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    choices, _ = choices_of(stack, dataset, tiny)
    before, after = (float(choices.cost(one).detach()) for one in (Logit(stack.width), stack.module))
    assert after < before - 0.1 and after == pytest.approx(stack.state.history[-1]["loss"], rel=1e-4)
    logit = choices.utilities(stack.module).detach()
    slow = [-float(line[there].log_softmax(0)[0]) for line, there in zip(logit, choices.there, strict=True)]
    assert after == pytest.approx(np.mean(slow), rel=1e-4)


def test_load_when_parts_were_saved(stack: Any, dataset: CrossDomainDataset, tmp_path: Path) -> None:
    stack.save(tmp_path)
    names = {"itemknn", "ease", "ordered_counts"} | ({"sasrec-ce-m"} if stack.name == "stack-ce" else set())
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == names
    again = type(stack).load(tmp_path)
    rows = dataset.splits["test"]
    everything = np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))
    np.testing.assert_array_equal(again.score(rows, everything), stack.score(rows, everything))
