"""Measures of disentanglement on fakes: perfect, useless, duplicated, rotated; and interventions on a tiny model."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import stats

from i2vae_lib.data import DOMAINS, CrossDomainDataset, Rows
from i2vae_lib.data.synthetic import next_item_probabilities
from i2vae_lib.disentanglement import information
from i2vae_lib.disentanglement import measures as disentanglement
from i2vae_lib.disentanglement.measures import (
    as_if_cold,
    by_umap,
    cold_agreement,
    counterfactual,
    dci,
    denoising,
    history_vectors,
    influence,
    latent_probes,
    latents_of,
    linear_probe,
    means,
    measures,
    mig,
    neighbour_probe,
    observed_measures,
    overlap,
    partners,
    sampled,
    sap,
    shared_information,
    swapped,
    top_items,
    untrained,
    with_both,
)
from i2vae_lib.generators import psg
from i2vae_lib.generators.cooccurrence import item_vectors
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.lazy import MissingLibrary
from i2vae_lib.model.latents import kl
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY

N, K = 4000, 3


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, K))


@pytest.fixture
def owner() -> np.ndarray:
    return np.arange(N) // 2


def probe(inputs: np.ndarray, truth: np.ndarray, owner: np.ndarray) -> float:
    return linear_probe(inputs, truth, owner, np.random.default_rng(1))


def test_linear_probe_when_inputs_are_perfect(truth: np.ndarray, owner: np.ndarray) -> None:
    assert probe(truth, truth, owner) == pytest.approx(1.0, abs=1e-5)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(K, K)))[0]
    assert probe(truth @ rotation * 7 + 3, truth, owner) == pytest.approx(1.0, abs=1e-5)


def test_linear_probe_when_inputs_are_useless(truth: np.ndarray, owner: np.ndarray) -> None:
    noise = np.random.default_rng(3).normal(size=(N, 5))
    assert abs(probe(noise, truth, owner)) < 0.01


def test_linear_probe_when_noise_is_known(truth: np.ndarray, owner: np.ndarray) -> None:
    """Signal and noise of equal variance: half of it."""
    noisy = truth + np.random.default_rng(4).normal(size=truth.shape)
    assert probe(noisy, truth, owner) == pytest.approx(0.5, abs=0.03)
    assert probe(np.hstack([noisy, noisy]), truth, owner) == pytest.approx(0.5, abs=0.03)  # duplicated


def test_linear_probe_when_a_user_has_several_rows() -> None:
    """Rows of a user never stand on both sides: a user's own constant helps nobody else."""
    owner = np.repeat(np.arange(200), 20)
    truth = np.random.default_rng(5).normal(size=(200, 1))[owner]
    identity = np.eye(200)[owner]
    assert probe(identity, truth, owner) < 0.05


def test_neighbour_probe_sees_what_is_not_linear(owner: np.ndarray) -> None:
    inputs = np.random.default_rng(6).uniform(-2, 2, size=(N, 2))
    truth = np.cos(2 * inputs[:, :1])
    rng = np.random.default_rng(1)
    assert linear_probe(inputs, truth, owner, rng) < 0.02
    assert neighbour_probe(inputs, truth, owner, rng) > 0.9
    useless = np.random.default_rng(7).normal(size=(N, 2))
    assert abs(neighbour_probe(useless, truth, owner, rng)) < 0.1


# --- factor-wise scores on fakes: four independent factors ---


@pytest.fixture(scope="module")
def factors() -> np.ndarray:
    return np.random.default_rng(8).uniform(size=(3000, 4))


def fake(name: str, factors: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(9)
    if name == "perfect":
        return factors[:, ::-1] * 3 - 1
    if name == "useless":
        return rng.normal(size=factors.shape)
    if name == "duplicated":
        return np.hstack([factors, factors + 1e-3 * rng.normal(size=factors.shape)])
    return factors @ np.linalg.qr(rng.normal(size=(4, 4)))[0]


@pytest.mark.parametrize(
    ("name", "disentanglement", "completeness", "informativeness", "gap", "separation"),
    [
        ("perfect", (0.9, 1), (0.9, 1), (0.97, 1), (0.8, 1), (0.97, 1)),
        ("useless", (0, 0.05), (0, 0.05), (-0.2, 0.02), (0, 0.05), (0, 0.01)),
        # each factor stands twice: nothing is mixed, nothing stands alone (completeness 1 - log 2 / log 8)
        ("duplicated", (0.9, 1), (0.6, 0.7), (0.97, 1), (0, 0.05), (0, 0.01)),
        ("rotated", (0, 0.6), (0, 0.6), (0.8, 1), (0, 0.4), (0, 0.6)),
    ],
)
def test_factor_wise_scores_on_fakes(
    factors: np.ndarray,
    name: str,
    disentanglement: tuple[float, float],
    completeness: tuple[float, float],
    informativeness: tuple[float, float],
    gap: tuple[float, float],
    separation: tuple[float, float],
) -> None:
    codes = fake(name, factors)
    found = dci(codes, factors, np.arange(len(codes)), np.random.default_rng(0))
    assert disentanglement[0] <= found.disentanglement <= disentanglement[1]
    assert completeness[0] <= found.completeness <= completeness[1]
    assert informativeness[0] <= found.informativeness <= informativeness[1]
    assert gap[0] <= mig(codes, factors) <= gap[1]
    assert separation[0] <= sap(codes, factors) <= separation[1]


def test_mig_is_the_gap_of_plug_in_information() -> None:
    """Two codes of a fair coin: one is the coin, the other agrees with it on three of four throws."""
    coin = np.repeat([0.0, 1.0], 400)
    noisy = np.where(np.arange(800) % 4 == 0, 1 - coin, coin)
    information = np.log(2) + 0.25 * np.log(0.25) + 0.75 * np.log(0.75)
    expected = (np.log(2) - information) / np.log(2)
    assert mig(np.stack([noisy, coin], axis=1), coin[:, None]) == pytest.approx(expected, rel=1e-9)


def test_sap_is_the_gap_of_squared_correlations() -> None:
    x = np.random.default_rng(3).normal(size=(500, 3))
    factor = x @ [1.0, 0.5, 0.0]
    squares = sorted(np.corrcoef(x[:, i], factor)[0, 1] ** 2 for i in range(3))
    assert sap(x, factor[:, None]) == pytest.approx(squares[2] - squares[1], rel=1e-9)


# --- a trained model ---


def test_latent_probes_when_read(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    table = latent_probes(trained, dataset.splits["test"], dataset.truth, np.random.default_rng(0))
    assert list(table["latent"]) == ["specific", "transferable", "augmented"] * 2
    rows = dataset.splits["test"]
    warm = (rows.lengths("own") > 0) & (rows.lengths("other") > 0)
    assert dict(zip(table["domain"], table["n"])) == {
        d: int((warm & (rows.domain == i)).sum()) for i, d in enumerate("xy")
    }
    assert (table[["shared", "specific"]] < 1).all(axis=None) and (table["kl"] > 0).all()
    [(_, _, latents)] = trained.infer(rows.take(np.flatnonzero(warm & (rows.domain == 0))))
    expected = float(kl(latents.specific, trained.model.prior["x"]()).mean().detach())
    assert table["kl"][0] == pytest.approx(expected, rel=1e-5)


def test_latents_by_mean_and_by_draw(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["train"]
    both = with_both(rows)
    found, drawn = latents_of(trained, rows), latents_of(trained, rows, sampled(torch.Generator().manual_seed(0)))
    for domain, _, latents in trained.infer(both):
        np.testing.assert_allclose(found[domain]["specific"], means(latents.specific).numpy(), rtol=1e-6)
        noise = drawn[domain]["specific"] - found[domain]["specific"]
        sigma = np.exp(0.5 * latents.specific.log_variance.numpy())
        error = 1 / np.sqrt(noise.size)
        assert abs((noise / sigma).mean()) < 4 * error and abs((noise / sigma).std() - 1) < 3 * error
        assert (rows.lengths("own") > 0).sum() > len(found[domain]["rows"])


@pytest.mark.parametrize("start", ["random", "cooccurrence"])
def test_untrained_is_where_training_begins(
    dataset: CrossDomainDataset, tiny: Parameters, generator: psg.Generator, start: str
) -> None:
    changes = {"training.learning_rate": 1e-12, "model.start": start}
    still = load("smoke", TINY | changes, epochs=1, seed=tiny.seed)
    splits = dataset.splits["train"], dataset.splits["validation"]
    words = {"params": still, "generator": generator, "rng": np.random.default_rng(3), "callbacks": Callbacks()}
    unmoved = I2VAERecommender(dataset.catalogue, still).fit(*splits, **words)
    fresh = untrained(unmoved, splits[0], np.random.default_rng(3))
    for name, weight in fresh.module.named_parameters():
        np.testing.assert_allclose(weight.detach(), unmoved.module.get_parameter(name).detach(), atol=1e-6)


def test_measures_of_a_model(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["train"]
    found = measures(trained, dataset, rows, seed=0)
    assert set(found["domain"]) == set(DOMAINS) and len(found) == 2 * (3 * 2 * 2 + 6)
    assert (found["value"] <= 1).all()
    scores = found[found["measure"].str.startswith(("DCI d", "DCI c", "MIG", "SAP"))]
    assert len(scores) == 2 * 5 and scores["value"].between(0, 1).all()
    assert measures(trained, dataset, rows, seed=0).equals(found)


def test_shared_information_of_a_model(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    train = dataset.splits["train"]
    unified = Unified(train.catalogue)
    table = item_vectors(train, 4, 10.0)
    vectors = {d: table[unified.of[d]].astype(np.float64) for d in DOMAINS}
    found = shared_information(trained, train, vectors, seed=0)
    assert list(found["of"]) == ["I(Z; Z_t)", "I(history; Z_t)", "I(Z; Z_a)"] * 2
    assert (found["gaussian_low"] <= found["gaussian"]).all() and (found["gaussian"] <= found["gaussian_high"]).all()
    assert (found["contrastive"] <= found["cap"]).all()
    values = latents_of(trained, train)["y"]
    chosen = with_both(train).take(values["rows"])
    history = np.stack([vectors["y"][chosen.history["y"][i]].mean(axis=0) for i in range(len(chosen))])
    by_hand = found[found["domain"] == "y"].set_index("of")["gaussian"]
    assert by_hand["I(history; Z_t)"] == pytest.approx(information.gaussian(history, values["transferable"]), rel=1e-6)
    assert by_hand["I(Z; Z_a)"] == pytest.approx(
        information.gaussian(values["specific"], values["augmented"]), rel=1e-6
    )
    drawn = shared_information(trained, train, vectors, seed=0, values=sampled(torch.Generator().manual_seed(0)))
    agree = [table.set_index(["of", "domain"]).loc["I(Z; Z_a)", "cka"] for table in (drawn, found)]
    assert (agree[0] < 0.9 * agree[1]).all()  # draws agree less than means
    both = with_both(train)
    assert found["pairs"].tolist() == [int((both.domain == i).sum()) for i in (0, 1) for _ in range(3)]


# --- interventions ---


def test_partners_are_everybody_once_and_nobody_oneself() -> None:
    found = partners(50, seed=3)
    assert sorted(found) == list(range(50)) and (found != np.arange(50)).all()


def test_top_items_when_nothing_is_changed_are_the_models(
    trained: I2VAERecommender, dataset: CrossDomainDataset
) -> None:
    rows = with_both(dataset.splits["test"])
    found = top_items(trained, rows)
    for i, d in enumerate(DOMAINS):
        at, items = found[d]
        assert (rows.domain[at] == i).all()
        everything = np.broadcast_to(np.arange(1, trained.sizes[d] + 1, dtype=np.int32), (len(at), trained.sizes[d]))
        scores = trained.score(rows.take(at), everything)
        np.testing.assert_array_equal(
            np.sort(scores, axis=1)[:, ::-1][:, :10], np.take_along_axis(scores, items - 1, 1)
        )


def test_swapped_latents_are_the_partners(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    rows = with_both(dataset.splits["test"])
    for _, _, latents in trained.infer(rows):
        changed = swapped("transferable", 5)(latents)
        order = partners(len(latents.specific.mean), 5)
        assert torch.equal(changed.transferable.mean, latents.transferable.mean[torch.from_numpy(order)])
        assert changed.specific is latents.specific
        assert as_if_cold(latents).transferable is latents.auxiliary


def test_counterfactual_follows_the_partners(
    trained: I2VAERecommender, dataset: CrossDomainDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose lists serve exactly the tastes of whoever's latent a row holds."""
    rows = with_both(dataset.splits["test"])

    def perfect(recommender: I2VAERecommender, rows: Rows, change: object = None) -> dict[str, tuple]:
        found = {}
        for i, d in enumerate(DOMAINS):
            at = np.flatnonzero(rows.domain == i)
            truth = next_item_probabilities(dataset.truth, rows, at, d)
            best = np.argsort(-truth, axis=1)[:, :10]
            found[d] = (at, best if change is None else best[partners(len(at), 4)])
        return found

    monkeypatch.setattr(disentanglement, "top_items", perfect)
    found = counterfactual(trained, dataset, rows, "transferable", seed=4)
    np.testing.assert_allclose(found["partner_after"], found["own_before"], rtol=1e-12)
    assert (found["own_after"] < 0.8 * found["own_before"]).all()
    assert (found["partner_before"] < 0.8 * found["partner_after"]).all()


@pytest.fixture(scope="module")
def vectors(dataset: CrossDomainDataset) -> dict[str, np.ndarray]:
    table, unified = item_vectors(dataset.splits["train"], 6, 10.0), Unified(dataset.catalogue)
    return {d: table[unified.of[d]].astype(np.float64) for d in DOMAINS}


def test_history_vectors_when_averaged_by_hand(dataset: CrossDomainDataset, vectors: dict[str, np.ndarray]) -> None:
    rows = dataset.splits["test"]
    found = history_vectors(rows, vectors, "y")
    for row in range(20):
        items = rows.history["y"][row]
        expected = vectors["y"][items].mean(axis=0) if len(items) else np.zeros(6)
        np.testing.assert_allclose(found[row], expected, atol=1e-12)


def test_observed_measures_when_beside_what_they_are_made_of(
    trained: I2VAERecommender, dataset: CrossDomainDataset, vectors: dict[str, np.ndarray]
) -> None:
    rows = dataset.splits["train"]
    found = observed_measures(trained, rows, vectors, seed=3).set_index(["measure", "of", "domain"])["value"]
    assert found.index.is_unique and np.isfinite(found).all()
    agreement = cold_agreement(trained, rows).set_index("domain")
    for name in ("kl", "distance", "kept"):
        assert found[name, "r for q", "y"] == agreement.at["y", name]
    both = with_both(rows)
    values = latents_of(trained, rows)["x"]
    chosen = both.take(values["rows"])
    for name, domain in (("own history", "x"), ("other history", "y")):
        expected = linear_probe(
            values["specific"], history_vectors(chosen, vectors, domain), chosen.user, np.random.default_rng(3)
        )
        assert found["R² linear", f"specific → {name}", "x"] == pytest.approx(expected)
    # swapped for their own, lists would stay; for a partner's they move towards the partner, or not at all
    assert found.xs("kept").between(0, 1).all() and found.xs("towards the partner").between(-1, 1).all()
    assert found["towards the partner", "augmented swapped", "x"] > 0


@pytest.mark.filterwarnings("ignore::ImportWarning")  # it looks for Tensorflow, which a part needs that is not used
def test_by_umap_when_groups_are_apart() -> None:
    rng, threads = np.random.default_rng(0), torch.get_num_threads()
    group = np.repeat([0, 1], 60)
    found = by_umap(rng.normal(size=(120, 8)) + 20 * group[:, None], seed=1)
    assert found.shape == (120, 2) and np.isfinite(found).all()
    centres = [found[group == g].mean(axis=0) for g in (0, 1)]
    spread = max(found[group == g].std() for g in (0, 1))
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread
    assert torch.get_num_threads() == threads  # else a later training differs in its last bits


def test_by_umap_when_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingLibrary, match=r"pip install umap-learn"):
        by_umap(np.zeros((10, 3)), seed=0)


def test_cold_agreement(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    found = cold_agreement(trained, dataset.splits["test"])
    for line, (_, _, latents) in zip(found.itertuples(), trained.infer(with_both(dataset.splits["test"]))):
        assert line.kl == pytest.approx(float(kl(latents.transferable, latents.auxiliary).mean()), rel=1e-5)
        apart = (latents.transferable.mean - latents.auxiliary.mean).norm(dim=1).mean()
        other = latents.transferable.mean[torch.from_numpy(partners(line.n, 0))]
        spread = (latents.transferable.mean - other).norm(dim=1).mean()
        assert line.distance == pytest.approx(float(apart / spread), rel=1e-5)
        rows = with_both(dataset.splits["test"])
        lists = [top_items(trained, rows, change)[line.domain][1] for change in (None, as_if_cold)]
        assert line.kept == pytest.approx(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*lists)]))


def test_influence_is_what_a_row_loses(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    warm = rows.take(np.flatnonzero(rows.lengths("own") > 0))
    found = influence(trained, rows, most=3)
    items, scores = trained.recall(warm)
    assert set(found["place"]) == {0, 1, 2} and (found["item"] == items[found["row"], found["place"]]).all()
    np.testing.assert_allclose(found.groupby("row")["influence"].mean(), 1.0, rtol=1e-6)
    # one row by hand: beside what a plain mean would do
    line = int(found["row"][0])
    one, ratios = warm.take(np.array([line])), []
    [(domain, side, whole)] = trained.infer(one, (items[line : line + 1], scores[line : line + 1]))
    vectors = trained.model.items[domain].weight.detach()
    for place in range(3):
        left = items[line : line + 1].copy()
        left[0, place] = 0
        [(_, less, latents)] = trained.infer(one, (left, scores[line : line + 1]))
        moved = (latents.augmented.mean - whole.augmented.mean).norm()
        alike = (
            vectors[less.pseudo[less.pseudo != 0]].mean(dim=0) - vectors[side.pseudo[side.pseudo != 0]].mean(dim=0)
        ).norm()
        ratios.append(float(moved / alike))
    first = found[found["row"] == line].sort_values("place")["influence"]
    np.testing.assert_allclose(first, np.array(ratios) / np.mean(ratios), rtol=1e-3)


def test_influence_in_an_encoder_that_weighs_alike(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    """Untrained, with the residual path, z_a is the plain mean: every item has weight 1."""
    fresh = untrained(trained, dataset.splits["train"], np.random.default_rng(0))
    assert fresh.params.model.path == "residual"
    found = influence(fresh, dataset.splits["test"], most=4)
    np.testing.assert_allclose(found["influence"], 1.0, atol=1e-3)


def test_denoising_is_the_rank_correlation_within_rows(trained: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    warm = rows.take(np.flatnonzero(rows.lengths("own") > 0))
    found, table = denoising(trained, dataset, rows, most=6), influence(trained, rows, most=6)
    for line in found.itertuples():
        each = []
        for row, part in table[table["domain"] == line.domain].groupby("row"):
            truth = next_item_probabilities(dataset.truth, warm, np.array([row]), line.domain)[0]
            each.append(stats.spearmanr(part["influence"], truth[part["item"]]).statistic)
        assert line.n == len(each) and line.correlation == pytest.approx(np.mean(each), abs=1e-6)
        assert line.low < line.correlation < line.high and 0 < line.relevant < 2


def test_overlap_of_lists() -> None:
    a = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert overlap(a, a[:, ::-1]) == 1.0
    assert overlap(a, a + 2) == 0.5
    assert overlap(a, a + 100) == 0.0
