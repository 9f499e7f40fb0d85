"""EMCDR: the mapping against closed forms, who teaches it, what scores a row, and a domain that is there twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vae_lib import evaluation
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, DataError, Ragged, Rows, joined, other, popularity
from i2vae_lib.data.user_sequences import user_sequences
from i2vae_lib.generators import graphs
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import EMCDR, Popularity
from i2vae_lib.recommenders.systems.emcdr import mapping_of, overlapping, ridge
from i2vae_lib.training import Callbacks, load_parameters, parameters_of
from tests.helpers.worlds import one_a_user


def changed(p: Parameters, group: str, **values: Any) -> Parameters:
    return p.model_copy(update={group: getattr(p, group).model_copy(update=values)})


def fit(train: Rows, validation: Rows, p: Parameters, seed: int = 0) -> EMCDR:
    rng = np.random.default_rng(seed)
    return EMCDR(train.catalogue, p).fit(train, validation, params=p, generator=None, rng=rng, callbacks=Callbacks())


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def without(rows: Rows, side: str) -> Rows:
    """The rows without their own or their other history."""
    history = dict(rows.history)
    for i, d in enumerate(DOMAINS):
        whose = d if side == "own" else other(d)
        history[whose] = history[whose].keep((rows.domain != i)[history[whose].owner])
    return replace(rows, history=history)


def found_in(k: int, system: Any, rows: Rows) -> float:
    """HR@k among 80 negatives: nothing of the own history, also where the row does not show it."""
    ranks = evaluation.rank(system, rows, evaluation.sample_negatives(rows, 80, 0), full=False, batch_size=64)
    return float((ranks.greater_sampled < k).mean())


@pytest.fixture(scope="module")
def linear(tiny: Parameters) -> Parameters:
    return changed(tiny, "emcdr", mapping="linear")


@pytest.fixture(scope="module")
def fitted(dataset: CrossDomainDataset, tiny: Parameters) -> EMCDR:
    """Two epochs each of factors and of the MLP."""
    return fit(dataset.splits["train"], dataset.splits["validation"], tiny)


# --- ridge ------------------------------------------------------------------------------------------------------------


def test_ridge_when_both_domains_are_identical() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    np.testing.assert_allclose(ridge(vectors, vectors, 0.0), np.eye(6), atol=1e-6)


def test_ridge_when_one_domain_is_a_linear_image_of_the_other() -> None:
    rng = np.random.default_rng(1)
    vectors, image = rng.normal(size=(200, 8)), rng.normal(size=(8, 8))
    np.testing.assert_allclose(ridge(vectors, vectors @ image, 0.0), image, atol=1e-3)
    np.testing.assert_allclose(ridge(vectors, vectors @ image, 1e-4), image, atol=1e-3)


def test_ridge_when_it_is_an_optimum() -> None:
    # the gradient of mean |u A - t|^2 + decay / 2 |A|^2 is zero there;
    # one user of length 1 has A = u^T t / (1 + decay / 2)
    rng = np.random.default_rng(2)
    source, target, decay = rng.normal(size=(9, 4)), rng.normal(size=(9, 4)), 0.7
    a = ridge(source, target, decay)
    np.testing.assert_allclose(2 * source.T @ (source @ a - target) / 9 + decay * a, 0, atol=1e-12)
    one, another = np.array([[1.0, 0.0]]), np.array([[3.0, -2.0]])
    np.testing.assert_allclose(ridge(one, another, 1.0), [[2.0, -4 / 3], [0, 0]], atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 3), (4, 4)])
def test_ridge_when_sizes_differ(shape: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"from vectors \(5, 4\) to .*users and d must be the same"):
        ridge(np.zeros((5, 4)), np.zeros(shape), 1.0)


def test_mapping_when_built() -> None:
    mlp = mapping_of("mlp", 8)
    assert [tuple(one.shape) for one in mlp.parameters()] == [(16, 8), (16,), (8, 16), (8,)]
    assert [tuple(one.shape) for one in mapping_of("linear", 8).parameters()] == [(8, 8)]
    first, second = mlp[0], mlp[2]  # type: ignore[index]
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.tanh(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(mlp(x), expected)


# --- who teaches the mapping ------------------------------------------------------------------------------------------


def test_overlapping_when_a_share_is_taken(dataset: CrossDomainDataset) -> None:
    everybody = user_sequences(dataset.splits["train"])
    taken = {d: graphs.domain_takers(dataset.splits["train"], d) for d in DOMAINS}
    both = [u for u in range(len(everybody)) if all(len(everybody.sequences[d][u]) for d in DOMAINS)]
    assert overlapping(taken, 1.0).tolist() == both and 20 < len(both) < len(everybody) / 2
    half = overlapping(taken, 0.5)
    activity = sum(taken[d].getnnz(axis=1) for d in DOMAINS)
    assert len(half) == -(-len(both) // 2) and (np.diff(half) > 0).all()
    assert activity[half].min() >= activity[np.setdiff1d(both, half)].max()


def test_mapping_when_it_is_learnt(dataset: CrossDomainDataset, tiny: Parameters, monkeypatch: Any) -> None:
    # means of the overlapping users alone, scaled to numbers of size 1; the factors stay as the first stage left them
    seen, before = {}, {}
    original = EMCDR.mapping_stage

    def spy(self: EMCDR, pairs: Any) -> Any:
        seen.update(pairs)
        before.update(parameters_of(self.module["factors"]))
        return original(self, pairs)

    monkeypatch.setattr(EMCDR, "mapping_stage", spy)
    train = dataset.splits["train"]
    system = fit(train, dataset.splits["validation"], tiny)
    lines = overlapping(system.taken, 1.0)
    for d in DOMAINS:
        np.testing.assert_array_equal(parameters_of(system.module["factors"])[d], before[d])
        items = system.module["factors"][d].detach().numpy()[len(system.users) :]
        means = np.stack([items[system.taken[d][u].indices].mean(axis=0) for u in lines])
        size = np.sqrt((means**2).mean())
        assert float(system.frozen[f"scale {d}"]) == pytest.approx(size, rel=1e-5)
        np.testing.assert_allclose(seen[d], means / size, atol=1e-5)
    stages = [one["stage"] for one in system.state.history]
    assert stages == [1.0] * 2 + [2.0] * 2


def test_mapping_when_it_is_an_mlp(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # from a domain to itself: most of the variance is explained
    p = changed(changed(tiny, "training", epochs=150, learning_rate=0.01, patience=0), "emcdr", mapping_decay=1e-6)
    system = EMCDR(dataset.catalogue, p)
    system.prepare(dataset.splits["train"], None)
    system.module = system.build(torch.Generator().manual_seed(0))
    vectors = torch.randn(100, p.model.d, generator=torch.Generator().manual_seed(1))
    stage = system.mapping_stage({"x": vectors, "y": vectors})
    optimizer = torch.optim.Adam(stage.module.parameters(), lr=0.01, weight_decay=stage.weight_decay)
    rng, losses = np.random.default_rng(0), []
    for epoch in range(150):
        for batch in stage.batches(rng):
            value, parts = stage.loss(batch, epoch, torch.Generator())
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(parts["mapping/x"].item())
    assert losses[0] > p.model.d and losses[-1] < 0.05 * p.model.d  # |u|^2 is d on average


def factors_set(system: EMCDR, train: Rows, image: Array) -> None:
    """Run ``stages`` with x's items for factors of both domains, those of y multiplied by a matrix."""
    system.prepare(train, None)
    system.module = system.build(torch.Generator().manual_seed(0))
    running = system.stages(train)
    next(running)
    table = system.module["factors"]["x"].detach()
    load_parameters(system.module["factors"], {"x": table, "y": table @ torch.from_numpy(image).float()})
    assert next(running, None) is None  # the mapping is solved, not trained
    system.update_tables()


@pytest.mark.parametrize("identical", [True, False])
def test_linear_mapping_when_the_second_domain_is_an_image_of_the_first(
    identical: bool, dataset: CrossDomainDataset, linear: Parameters
) -> None:
    train, _ = doubled(dataset, np.arange(1, 121))
    d = linear.model.d
    image = np.eye(d) if identical else np.random.default_rng(5).normal(size=(d, d)) / np.sqrt(d)
    system = EMCDR(train.catalogue, changed(linear, "emcdr", mapping_decay=1e-7))
    factors_set(system, train, image)
    ratio = float(system.frozen["scale x"] / system.frozen["scale y"])
    found = system.module["mapping"]["x"].weight.detach().numpy().T
    np.testing.assert_allclose(found, image * ratio, atol=1e-3)
    back = system.module["mapping"]["y"].weight.detach().numpy().T
    np.testing.assert_allclose(found @ back, np.eye(d), atol=2e-3)


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["warm", "cold"])
@pytest.mark.parametrize("mapping", ["mlp", "linear"])
def test_scores_when_computed_by_hand(
    side: str, mapping: str, fitted: EMCDR, dataset: CrossDomainDataset, linear: Parameters, tmp_path: Path
) -> None:
    system = fitted
    if mapping == "linear":
        system = fit(dataset.splits["train"], dataset.splits["validation"], linear)
    rows = dataset.splits["test"]
    rows = rows.take(rows.kinds()["overlapping"]).take(np.arange(10))
    rows = rows if side == "warm" else without(rows, "own")
    scores = system.score(rows, everything(rows))
    assert system.can_rank(rows).all()
    tables = {d: system.module["factors"][d].detach().numpy()[len(system.users) :] for d in DOMAINS}
    for row in range(len(rows)):
        d = DOMAINS[rows.domain[row]]
        source = d if side == "warm" else other(d)
        vector = tables[source][np.unique(rows.history[source][row]) - 1].mean(axis=0)
        if side == "cold":
            with torch.no_grad():
                vector = system.module["mapping"][source](torch.from_numpy(vector) / system.frozen[f"scale {source}"])
                vector = (vector * system.frozen[f"scale {d}"]).numpy()
        np.testing.assert_allclose(scores[row], tables[d] @ vector, atol=1e-5)
    system.save(tmp_path)
    np.testing.assert_array_equal(EMCDR.load(tmp_path).score(rows, everything(rows)), scores)


def test_scores_when_the_other_history_changes(fitted: EMCDR, dataset: CrossDomainDataset) -> None:
    # a cold row lives on it, a warm one does not look
    rows = dataset.splits["test"]
    rows = rows.take(rows.kinds()["overlapping"])
    warm = fitted.score(rows, everything(rows))
    np.testing.assert_array_equal(fitted.score(without(rows, "other"), everything(rows)), warm)
    cold = without(rows, "own")
    scores = fitted.score(cold, everything(cold))
    for d in DOMAINS:
        assert (scores[cold.of(d)].std(axis=0) > 1e-5).all()


def test_scores_when_histories_are_reversed(fitted: EMCDR, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    history = {d: Ragged.from_lists([rows.history[d][i][::-1] for i in range(len(rows))]) for d in DOMAINS}
    found = fitted.score(replace(rows, history=history), everything(rows))
    np.testing.assert_allclose(found, fitted.score(rows, everything(rows)), atol=1e-6)


def test_scores_when_nobody_is_in_both_domains(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # nothing to fit a mapping to: cold rows get popularity
    train = dataset.splits["train"]
    train = train.take(train.lengths("other") == 0)
    single = np.array([f"{user}|{d}" for user, d in zip(train.user, train.domain, strict=True)], dtype=object)
    train = replace(train, user=single)
    system = fit(train, dataset.splits["validation"], tiny)
    assert system.mapping is None
    rows = dataset.splits["test"]
    cold = without(rows.take(rows.kinds()["overlapping"]), "own")
    counts = popularity(train)
    assert not system.can_rank(cold).any()
    expected = np.stack([counts[DOMAINS[d]][1:] for d in cold.domain])
    np.testing.assert_array_equal(system.score(cold, everything(cold)), expected)


def test_scores_when_users_are_known(
    dataset: CrossDomainDataset, tiny: Parameters, fitted: EMCDR, tmp_path: Path
) -> None:
    # under temporal: the trained vector in the own domain, the mapped mean where that is cold
    train, rows = dataset.splits["train"], dataset.splits["test"]
    rows = rows.take(rows.kinds()["overlapping"])
    system = fit(train, dataset.splits["validation"], tiny.model_copy(update={"protocol": "temporal"}))
    line = int(overlapping(system.taken, 1.0)[0])
    known = replace(rows, user=np.full(len(rows), system.users[line], dtype=object))
    scores, cold = (system.score(one, everything(one)) for one in (known, without(known, "own")))
    np.testing.assert_array_equal(cold, system.score(without(rows, "own"), everything(rows)))
    for d in DOMAINS:
        table = system.module["factors"][d].detach().numpy()
        expected = table[len(system.users) :] @ table[line]
        np.testing.assert_allclose(scores[rows.of(d)], np.tile(expected, (len(rows.of(d)), 1)), atol=1e-5)
    np.testing.assert_array_equal(fitted.score(known, everything(rows)), fitted.score(rows, everything(rows)))
    system.save(tmp_path)
    np.testing.assert_array_equal(EMCDR.load(tmp_path).score(known, everything(known)), scores)


# --- learning ---------------------------------------------------------------------------------------------------------


def test_fit_when_there_are_twenty_users(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    rows = one_a_user(dataset.splits["train"], 20)
    p = changed(changed(tiny, "training", epochs=25, learning_rate=0.05, patience=0), "emcdr", batch_size=128)
    popular = Popularity(dataset.catalogue)
    popular.fit(rows, rows, params=p, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks())
    found, theirs = found_in(3, fit(rows, rows, p), rows), found_in(3, popular, rows)
    assert found > 0.8 and found > theirs + 0.2, (found, theirs)


def doubled(dataset: CrossDomainDataset, twin: Array) -> tuple[Rows, Rows]:
    """The planted world's first domain twice: y is x with item i under the number ``twin[i - 1]``, not linked.

    Returns
    -------
    train, test
        Everybody is in both domains and asks in both.
    """
    one = dataset.catalogue
    ids = {"x": one.ids["x"], "y": np.array([f"twin {i}" for i in np.argsort(twin)], dtype=object)}
    catalogue = Catalogue(one.names, ids, np.zeros((0, 2), dtype=np.int32), {"x": None, "y": None})

    def parts(rows: Rows) -> Rows:
        rows = rows.take((rows.domain == 0) & (rows.lengths("own") > 0))
        history = rows.history["x"]
        both = {"x": history, "y": Ragged(twin[history.values - 1].astype(np.int32), history.offsets)}
        first = replace(rows, catalogue=catalogue, history=both)
        target = twin[rows.target - 1].astype(np.int32)
        second = replace(first, domain=np.ones_like(rows.domain), target=target, excluded=both["y"])
        return joined([first, second])

    return parts(dataset.splits["train"]), parts(joined([dataset.splits["validation"], dataset.splits["test"]]))


def test_scores_when_the_factors_of_a_domain_are_there_twice(dataset: CrossDomainDataset, linear: Parameters) -> None:
    # the same factors, turned and under other item numbers: a user cold in y is served as one of x is, to the rank
    twin = np.random.default_rng(3).permutation(120) + 1
    train, test = doubled(dataset, twin)
    p = changed(changed(linear, "training", epochs=10, learning_rate=0.02), "emcdr", mapping_decay=1e-7)
    system = fit(train, test, p)
    table = system.module["factors"]["x"].detach()
    users, size = len(system.users), p.model.d
    turned = np.concatenate([table[:users], table[users:][np.argsort(twin)]])
    turned = turned @ np.linalg.qr(np.random.default_rng(4).normal(size=(size, size)))[0]
    running = system.stages(train)
    next(running)
    load_parameters(system.module["factors"], {"x": table, "y": torch.from_numpy(turned).float()})
    assert next(running, None) is None
    system.update_tables()
    asked = test.take(test.of("y"))
    cold = without(asked, "own")
    assert system.can_rank(cold).all()
    np.testing.assert_allclose(system.score(cold, everything(cold)), system.score(asked, everything(asked)), atol=1e-3)
    assert found_in(10, system, cold) == pytest.approx(found_in(10, system, asked), rel=0.01)


@pytest.mark.parametrize("mapping", ["linear", "mlp"])
def test_fit_selects_by_the_metric_of_the_whole_model(
    mapping: str, dataset: CrossDomainDataset, tiny: Parameters
) -> None:
    # the two mappings are points of one search: both must be measured with their cold rows mapped
    train, test = dataset.splits["train"], dataset.splits["test"]
    system = fit(train, test, changed(tiny, "emcdr", mapping=mapping))
    best = max(one["ndcg@10"] for one in system.state.history if one.get("stage", 2.0) == 2.0)
    assert system.can_rank(test)[test.kinds()["cold"]].any()
    assert system.validator(test)()["ndcg@10"] == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(("mapping", "share"), [("linear", 0.9), ("mlp", 0.75)])
def test_fit_when_a_domain_is_there_twice(
    mapping: str, share: float, dataset: CrossDomainDataset, tiny: Parameters
) -> None:
    # Factors learnt apart from each other, from some 200 users: HR@10 of the base 0.46 and mapped linearly 0.46, by the
    # MLP 0.38; popularity has 0.23.
    train, test = doubled(dataset, np.random.default_rng(3).permutation(120) + 1)
    p = changed(tiny, "training", epochs=40, learning_rate=0.02, patience=0)
    system = fit(train, test, changed(p, "emcdr", mapping=mapping, mapping_decay=1e-3, decay=0.05))
    cold = without(test, "own")
    popular = Popularity(train.catalogue)
    popular.fit(train, test, params=p, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks())
    base, mapped, floor = (found_in(10, *one) for one in ((system, test), (system, cold), (popular, cold)))
    assert mapped > share * base and mapped > 1.3 * floor, (base, mapped, floor)
