"""i2VAE at every position: what a position sees, its scores against slow loops, and nothing of the future in them."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, other
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.generators import psg
from i2vae_lib.model import i2vae
from i2vae_lib.model.every_position import EveryPosition, PositionBatch
from i2vae_lib.model.i2vae import Draws
from i2vae_lib.params import ParameterError, Parameters, load, read_preset
from i2vae_lib.recommenders import I2VAERecommender, positions
from i2vae_lib.recommenders.positions import Proposal, TrainingPositions, drop_evidence
from tests.helpers.worlds import TINY, asked_by_event, fitted

CHOSEN = {key: value for key, value in read_preset("tuned")["overrides"].items() if key not in ("model.d", "model.T")}


@pytest.fixture(scope="module")
def recipe() -> Parameters:
    changed = {"model.T": 12, "objective.blank_share": 0.5, "evidence.pooled": []}
    return load("smoke", TINY | CHOSEN | changed, epochs=2)


@pytest.fixture(scope="module")
def recommender(dataset: CrossDomainDataset, recipe: Parameters) -> I2VAERecommender:
    """Trained a little, then every weight disturbed, so that no zero or identity of the start hides a term."""
    found = fitted(
        I2VAERecommender(dataset.catalogue, recipe), dataset, recipe, psg.fit(dataset.splits["train"], recipe.psg)
    )
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in found.module.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=draw)
        for d in DOMAINS:
            found.module.items[d].weight[0] = 0.0
    return found


@pytest.fixture(scope="module")
def lessons(recommender: I2VAERecommender, dataset: CrossDomainDataset, recipe: Parameters) -> TrainingPositions:
    return TrainingPositions.of(dataset.splits["train"], recipe.model.T, recommender.row_inputs)


def network(recommender: I2VAERecommender) -> EveryPosition:
    assert isinstance(recommender.module, EveryPosition)
    return recommender.module


@torch.no_grad()
def test_a_position_when_compared_with_its_row(
    recommender: I2VAERecommender, lessons: TrainingPositions, recipe: Parameters
) -> None:
    """What training asks at a position, by one pass over the sequence, is what evaluation would ask of the event's row.

    Positions of sequences that fit are compared, distances from the end aside: those are of the sequence's end in one
    case and of the position in the other, so position vectors are silenced.
    """
    model = network(recommender)
    model.encoder.position.weight.zero_()
    compared = {d: 0 for d in DOMAINS}
    for batch in lessons.batches(64, 0.5, {}, np.random.default_rng(0)):
        for d, side, latents in model.inferred(batch, None):
            draws = model.draw(latents, None)
            found = model.score_all(model.decode(draws, d), d, side)
            events = lessons.rows(np.arange(lessons.hidden.max() + 1))
            for i in range(0, len(side.target), 7):
                whole = int((side.sequences[side.line[i], : side.step[i] + 1] != 0).sum())
                if whole != int(side.own_length[i] + side.other_length[i]):
                    continue  # a window, or a second block that the row does not show
                at = np.flatnonzero(
                    (events.target == int(side.target[i]))
                    & (events.domain == DOMAINS.index(d))
                    & (events.lengths("own") == int(side.own_length[i]))
                    & (events.lengths("other") == int(side.other_length[i]))
                    & (lessons.kept.evidence.moment == int(side.moment[i]))
                )
                alike = [lessons.kept.last_positions(np.array([one]), recipe.model.T)[d] for one in at]
                scores = torch.cat([_scores(model, one, d) for one in alike])
                assert (torch.abs(scores - found[i]).amax(dim=1) < 1e-3).any()
                compared[d] += 1
    assert min(compared.values()) > 20


def _scores(model: EveryPosition, side: object, d: str) -> torch.Tensor:
    return model.score_all(model.decode(model.draw(model.infer(side, d), None), d), d, side)


def test_batches_when_an_epoch_is_drawn_ask_every_event_that_may_be_asked(
    lessons: TrainingPositions, dataset: CrossDomainDataset, recipe: Parameters
) -> None:
    """Rows of events and of hidden ones; a hidden row shows nothing of the domain that it asks for."""
    asked, hidden = 0, 0
    for batch in lessons.batches(64, 0.5, {}, np.random.default_rng(0)):
        for d, side in batch.items():
            low = dataset.catalogue.size("x") if d == "y" else 0
            inside = (side.sequences > low) & (side.sequences <= low + dataset.catalogue.size(d))
            seen = torch.stack([inside[i, : j + 1].sum() for i, j in zip(side.line, side.step, strict=True)])
            asked += len(side.target)
            blank = side.own_length == 0
            hidden += int(blank.sum())
            assert (seen[blank] == 0).all()
            assert (seen <= side.own_length).all()  # never more of the own domain than the row shows
    users = lessons.orders.users
    assert asked > users and hidden > 0.1 * users


def test_training_when_later_events_change(recommender: I2VAERecommender, lessons: TrainingPositions) -> None:
    """The state after an event does not depend on what stands after it."""
    model, items = network(recommender), lessons.item
    inputs, _ = lessons.orders.draw(np.arange(32), 12, 0.0, np.random.default_rng(0))
    sequences = torch.from_numpy(items[inputs])
    changed = sequences.clone()
    changed[:, -2:] = torch.where(changed[:, -2:] > 0, changed[:, -2:] % 200 + 1, 0)
    with torch.no_grad():
        one, another = model.states(sequences, None), model.states(changed, None)
    for name in one:
        torch.testing.assert_close(one[name][:, :-2], another[name][:, :-2])
        assert not torch.equal(one[name][:, -1], another[name][:, -1])


@torch.no_grad()
def test_streams_when_the_other_domain_changes(recommender: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    """X's stream hears X alone, Y's Y alone; the stream of both hears either."""
    model, low = network(recommender), dataset.catalogue.size("x")
    sequences = torch.tensor([[3, low + 5, 7, low + 2]])
    for number, d in enumerate(DOMAINS):
        changed = sequences.clone()
        at = (sequences > low) == bool(number)
        changed[at] = changed[at] + 1
        one, another = model.states(sequences, None), model.states(changed, None)
        assert torch.equal(one[other(d)], another[other(d)])
        assert not torch.equal(one[d], another[d]) and not torch.equal(one["both"], another["both"])


@pytest.fixture(params=[0.0, 2.0], ids=["alone", "pooled"])
def pool(request: pytest.FixtureRequest, recommender: I2VAERecommender, monkeypatch: pytest.MonkeyPatch) -> float:
    for d in DOMAINS:
        monkeypatch.setattr(network(recommender).scores[d], "pool", request.param)
    return float(request.param)


@torch.no_grad()
def test_scores_when_compared_with_slow_loops(
    recommender: I2VAERecommender, dataset: CrossDomainDataset, pool: float
) -> None:
    model, rows = network(recommender), dataset.splits["test"]
    for d in DOMAINS:
        at = rows.of(d)[:4]
        [(_, side, latents)] = recommender.infer(rows.take(at))
        interest = model.decode(model.draw(latents, None), d)
        found, part = model.score_all(interest, d, side), model.scores[d]
        table, kernels = model.items[d].weight, part.kernels
        for row in range(len(at)):
            scores = side.evidence_scores[row]
            beginning = part.log_beginning.exp()
            shown = torch.tensor([float(side.own_length[row]), float(side.other_length[row])])
            known = torch.cat([shown, scores.amax(dim=0) * beginning, scores.sum(dim=0) * beginning]).log1p()
            gates = torch.nn.functional.softplus(part.gate(known) + part.OPENING)
            recent = part.recent[side.moment[row]]
            counted = dict(zip(side.evidence_items[row].tolist(), scores.sum(dim=1).tolist()))
            takers = recommender.popularity[d][1:]
            whole = sum(counted.values()) + 0.03 * sum(np.log1p(takers))
            for item in range(1, dataset.catalogue.size(d) + 1):
                adapted = interest[row] + part.adapter.weight @ interest[row] + part.adapter.bias
                expected = float(part.log_scale.exp() * (adapted @ table[item]) + part.bias[item - 1])
                for place in np.flatnonzero(side.evidence_items[row].numpy() == item):
                    for k in range(kernels):
                        score = float(scores[place, k])
                        expected += float(gates[k]) * float(np.log1p(score * float(beginning[k])))
                        expected += float(gates[kernels + k]) * score / max(float(scores[:, k].max()), 1e-9)
                for h in range(part.half_lives):
                    lately = float(recent[h, item - 1])
                    begun = float(part.log_trend_beginning[h].exp())
                    trend = float(part.trend[h]) * float(np.log1p(lately * begun))
                    trend += float(part.trend[part.half_lives + h]) * lately / max(float(recent[h].max()), 1e-9)
                    expected += float(gates[-1]) * trend
                if any(counted.values()):
                    share = (counted.get(item, 0.0) + 0.03 * np.log1p(takers[item - 1])) / whole
                    expected += pool * float(np.log(share + 1e-5))
                assert float(found[row, item - 1]) == pytest.approx(expected, rel=1e-3, abs=1e-3)


@torch.no_grad()
def test_decode_when_latents_are_missing(recommender: I2VAERecommender) -> None:
    """The shares of the latents that are there sum to one."""
    model = network(recommender)
    draw = torch.Generator().manual_seed(1)
    z = [torch.randn(1, 16, generator=draw) for _ in range(3)]
    for present in ([0, 1, 2], [1], [0, 2], []):
        parts = [one if i in present else torch.zeros_like(one) for i, one in enumerate(z)]
        shares = model.shares["x"].softmax(dim=0)[present]
        weighed = sum((share / shares.sum() * z[i] for share, i in zip(shares, present)), torch.zeros(1, 16))
        expected = weighed + model.decoder["x"](torch.cat(parts, dim=1))
        torch.testing.assert_close(model.decode(Draws(*parts), "x"), expected)


def test_silenced_when_evidence_is_there(recommender: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"].take(dataset.splits["test"].of("x")[:3])
    [(_, side, _)] = recommender.infer(rows)
    quiet = drop_evidence(side)
    assert not quiet.evidence_scores.any() and not quiet.moment.any() and side.evidence_scores.any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objective.reconstruction": "bce"}, "objective.reconstruction"),
        ({"psg.recalled": 0}, "psg.recalled"),
        ({"model.positions": "last", "objective.blank_share": 0.0, "evidence.half_lives": []}, "evidence.shrinkage"),
        (
            {
                "model.positions": "last",
                "objective.blank_share": 0.0,
                **{f"evidence.{name}": [] for name in ("shrinkage", "proximity", "backward", "across", "recency")},
                "evidence.half_lives": [],
            },
            "evidence.pooled",
        ),
        ({"evidence.shrinkage": [1.0]}, "one value of each setting"),
    ],
)
def test_load_when_settings_do_not_go_together(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        load("tuned", changes)


def test_asked_rows_when_users_are_new(recommender: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    """A stranger without moments asks now: its recent takers are those after everything."""
    rows = asked_by_event(dataset.splits["train"], 12).take(np.arange(5))
    nameless = replace(rows, moment=None)
    told = recommender.evidence.of(nameless)
    assert (told.moment == len(recommender.evidence.recent.edges)).all()


@pytest.mark.parametrize("kept", ["half_lives", "kernels", "nothing"])
def test_fit_when_evidence_is_taken_away(kept: str, dataset: CrossDomainDataset, recipe: Parameters) -> None:
    """Kernels and recent takers are each there or not."""
    names = ("shrinkage", "proximity", "backward", "across", "recency")
    less = {} if kept == "kernels" else {f"evidence.{name}": [] for name in names}
    less |= {} if kept == "half_lives" else {"evidence.half_lives": []}
    p = load("smoke", TINY | CHOSEN | less, epochs=1)
    found = fitted(I2VAERecommender(dataset.catalogue, p), dataset, p, psg.fit(dataset.splits["train"], p.psg))
    rows = dataset.splits["test"]
    everything = np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))
    assert np.isfinite(found.score(rows, everything)).all()


def test_batches_when_evidence_is_too_large_to_keep(
    recommender: I2VAERecommender,
    lessons: TrainingPositions,
    dataset: CrossDomainDataset,
    recipe: Parameters,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Made with each batch, it is the same to the bit."""
    monkeypatch.setattr(positions, "LARGEST", 0)
    again = TrainingPositions.of(dataset.splits["train"], recipe.model.T, recommender.row_inputs)
    assert lessons.kept is not None and again.kept is None
    both = (one.batches(32, 0.2, {}, np.random.default_rng(0)) for one in (lessons, again))
    for kept, made in zip(*both, strict=True):
        assert kept.keys() == made.keys()
        for d, side in kept.items():
            for field in dataclasses.fields(side)[:-1]:  # all but the part, which is None
                assert torch.equal(getattr(side, field.name), getattr(made[d], field.name)), field.name


def asked(recommender: I2VAERecommender, dataset: CrossDomainDataset, d: str) -> tuple[PositionBatch, torch.Tensor]:
    """Some test rows that ask for a domain, and their interests."""
    model, rows = network(recommender), dataset.splits["test"]
    [(_, side, latents)] = recommender.infer(rows.take(rows.of(d)[:20]))
    return side, model.decode(model.draw(latents, None), d)


def drawn(side: PositionBatch, items: np.ndarray, correction: np.ndarray) -> PositionBatch:
    return replace(side, drawn=torch.from_numpy(items), correction=torch.from_numpy(correction.astype(np.float32)))


@torch.no_grad()
def test_surprisal_when_items_are_drawn(recommender: I2VAERecommender, dataset: CrossDomainDataset) -> None:
    """Of all items it is exact, whatever has evidence; of few the estimated sum over items is right on average."""
    model, rng = network(recommender), np.random.default_rng(0)
    for d in DOMAINS:
        side, interest = asked(recommender, dataset, d)
        everything = np.arange(1, dataset.catalogue.size(d) + 1)
        exact = model.surprisal(interest, d, side)
        all_drawn = drawn(side, everything, np.zeros(len(everything)))
        torch.testing.assert_close(model.surprisal(interest, d, all_drawn), exact, rtol=1e-4, atol=1e-4)
        proposal = Proposal.of(recommender.popularity[d], 40)
        target = model.score(interest, d, side.target[:, None], side)[:, 0]
        sums = [(model.surprisal(interest, d, drawn(side, *proposal.draw(rng))) + target).exp() for _ in range(300)]
        mean, error = torch.stack(sums).mean(dim=0), torch.stack(sums).std(dim=0) / 300**0.5
        assert (torch.abs(mean - (exact + target).exp()) < 5 * error + 1e-3 * mean).all()
        assert (error > 0).any()


@torch.no_grad()
def test_score_when_compared_with_score_all(
    recommender: I2VAERecommender, dataset: CrossDomainDataset, pool: float
) -> None:
    model, rng = network(recommender), np.random.default_rng(0)
    for d in DOMAINS:
        side, interest = asked(recommender, dataset, d)
        items = torch.from_numpy(rng.integers(1, dataset.catalogue.size(d) + 1, (len(interest), 30)))
        items[:, 0] = side.evidence_items[:, 0].clamp(min=1)
        expected = model.score_all(interest, d, side).gather(1, items - 1)
        torch.testing.assert_close(model.score(interest, d, items, side), expected, rtol=1e-4, atol=1e-5)


def test_listen_when_latents_know_nothing(
    dataset: CrossDomainDataset, recommender: I2VAERecommender, tmp_path: Path
) -> None:
    """Disturbed weights need the counts: they are heard, the history says what they reach, and a saved model hears them
    too. Nothing to gain, nothing heard."""
    rows, p = (
        dataset.splits["validation"],
        load("smoke", TINY | CHOSEN | {"model.T": 12, "evidence.pooled": [1.0, 4.0]}),
    )
    found = copy.deepcopy(recommender)
    found.params = p
    found.choose_pool_weight(rows)
    assert [one.get("pool") in (1.0, 4.0) for one in found.state.history] == [
        epoch == found.state.best_epoch for epoch in range(2)
    ]
    negatives = sample_negatives(rows, p.evaluation.negatives, p.split.data_seed)

    def reached(one: I2VAERecommender) -> float:
        return selection_metric(rank(one, rows, negatives, full=False, batch_size=64), rows)["ndcg@10"]

    assert reached(recommender) < reached(found) == pytest.approx(found.state.best_metric)
    found.save(tmp_path)
    again = I2VAERecommender.load(tmp_path)
    items = np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))
    assert np.array_equal(again.score(rows, items), found.score(rows, items))
    found.params = load("smoke", TINY | CHOSEN | {"model.T": 12, "evidence.pooled": [1e-9]})
    found.choose_pool_weight(rows)
    assert float(found.frozen["pool"]) == 0.0 and reached(found) == reached(recommender)


def test_surprisal_when_scores_are_made_again(
    recommender: I2VAERecommender, dataset: CrossDomainDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and every gradient are the same to the bit, whether the scores of a batch are kept or not."""
    model, found = recommender.model, []
    side, interest = asked(recommender, dataset, "x")
    for kept in (10**9, 0):
        monkeypatch.setattr(i2vae, "AGAIN_FROM", kept)
        model.zero_grad()
        given = interest.detach().clone().requires_grad_()
        cost = model.surprisal(given, "x", side)
        cost.square().sum().backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        found.append({"cost": cost.detach(), "interest": given.grad} | gradients)
    model.zero_grad()
    assert found[0].keys() == found[1].keys() and len(found[0]) > 8
    assert all(torch.equal(one, found[1][name]) for name, one in found[0].items())


def test_fit_when_a_softmax_is_sampled(dataset: CrossDomainDataset) -> None:
    """Domains of 120 items are large if 10 are drawn a batch: it learns, and other draws give other weights."""
    found = []
    for sampled in (10, 15):  # 15: not more than eight times as many, so nothing is drawn
        p = load("smoke", TINY | CHOSEN | {"objective.sampled": sampled}, epochs=2)
        found.append(
            fitted(I2VAERecommender(dataset.catalogue, p), dataset, p, psg.fit(dataset.splits["train"], p.psg))
        )
    sampled, whole = (one.state.history for one in found)
    assert sampled[1]["reconstruction/x"] < sampled[0]["reconstruction/x"]
    assert sampled[0]["reconstruction/x"] != whole[0]["reconstruction/x"]
    assert abs(sampled[1]["reconstruction/x"] - whole[1]["reconstruction/x"]) < 0.5
