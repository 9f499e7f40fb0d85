"""DisenCDR: the mixture of the shared latent, its loss and its identities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows
from i2vae_lib.generators.graphs import Adjacency
from i2vae_lib.model.graph_encoders import VBGE, Bipartite, Triples, interaction_batches
from i2vae_lib.model.latents import Gaussian, kl, standard_like
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import DisenCDR, Popularity
from i2vae_lib.recommenders.systems.disencdr import mixed, shared_mean, shares
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY, one_a_user

CPU = torch.device("cpu")


def parameters(**own: Any) -> Parameters:
    group, top = {"disencdr.kl_weight": 1.0}, {}
    for name, value in own.items():
        (top if name in ("epochs", "protocol") else group)[name.replace("__", ".")] = value
    return load("smoke", TINY | group, **top)


def unfitted(rows: Rows, p: Parameters) -> DisenCDR:
    """Built on training rows, not trained."""
    found = DisenCDR(rows.catalogue, p)
    found.prepare(rows, None)
    found.module = found.build(torch.Generator().manual_seed(0))
    return found


def fitted(rows: Rows, p: Parameters) -> DisenCDR:
    return DisenCDR(rows.catalogue, p).fit(
        rows, rows, params=p, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks()
    )


def one_batch(system: DisenCDR) -> dict[str, Triples]:
    return next(interaction_batches(system.graphs, 10**6, np.random.default_rng(0)))


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


@pytest.fixture(scope="module")
def train(dataset: CrossDomainDataset) -> Rows:
    return dataset.splits["train"].take(np.arange(120))


@pytest.fixture(scope="module")
def system(train: Rows) -> DisenCDR:
    return unfitted(train, parameters(disencdr__warm_up=0, disencdr__dropout=0.0))


def test_shares_when_there_are_three_users() -> None:
    # user 0 took 3 of x and 1 of y, user 1 only x, user 2 one of x and two of y
    graphs = {
        "x": Bipartite.of(np.array([0, 0, 0, 1, 2]), np.array([1, 2, 3, 1, 1]), 4, CPU),
        "y": Bipartite.of(np.array([0, 2, 2]), np.array([1, 1, 2]), 4, CPU),
    }
    found = shares(graphs, 3)
    torch.testing.assert_close(found["x"], torch.tensor([0.75, 1.0, 1 / 3]))
    torch.testing.assert_close(found["y"], torch.tensor([0.25, 2 / 3]))


def test_mixed_when_posteriors_are_mixed() -> None:
    share = {"x": torch.tensor([0.75, 1.0]), "y": torch.tensor([0.25, 0.0])}
    parts = {d: Gaussian(torch.full((2, 3), v), torch.full((2, 3), -v)) for d, v in (("x", 4.0), ("y", 8.0))}
    found = mixed(parts, share, dict.fromkeys(DOMAINS, torch.nn.Identity()))
    torch.testing.assert_close(found.mean[:, 0], torch.tensor([5.0, 4.0]))
    torch.testing.assert_close(found.log_variance[:, 0], torch.tensor([-5.0, -4.0]))


def test_shared_posterior_when_a_user_has_one_domain(train: Rows) -> None:
    system = unfitted(train, parameters(disencdr__layers=1))
    graphs, tables = system.graphs, system.module.shared_users
    found, _ = system.shared_posterior(None)
    assert found.mean.shape == (len(system.user_ids), 16)
    only_x = np.setdiff1d(graphs["x"].users, graphs["y"].users)
    both = np.intersect1d(graphs["x"].users, graphs["y"].users)
    # lambda is 1: the path of x alone, and nothing of y
    alone = system.module.shared["x"](tables["x"].weight, graphs["x"].to_items, graphs["x"].to_users, None)
    line = np.searchsorted(graphs["x"].users, only_x)
    torch.testing.assert_close(found.mean[only_x], alone.posterior.mean[line])
    for which, reached in ((only_x, False), (both, True)):
        [gradient] = torch.autograd.grad(found.mean[which].sum(), tables["y"].weight, retain_graph=True)
        assert bool(gradient.abs().max() > 0) is reached


def test_loss_when_written_out(system: DisenCDR) -> None:
    own, batch = system.params.disencdr, one_batch(system)
    value, parts = system.loss(batch, 0, None)
    module = system.module
    shared, _ = system.shared_posterior(None)
    expected = own.kl_weight * (1 - own.beta) * kl(shared, standard_like(shared)).mean()
    for d, graph in system.graphs.items():
        encoded, items = module.specific[d](module.users[d].weight, module.items[d].weight, graph, None)
        for q in (encoded.posterior, items.posterior):
            expected = expected + own.kl_weight * kl(q, standard_like(q)).mean()
        q = module.alone[d](module.users[d].weight, graph.to_items, graph.to_users, None).posterior
        own_users = Gaussian(shared.mean[graph.index], shared.log_variance[graph.index])
        expected = expected + own.kl_weight * own.beta * kl(own_users, q).mean()
        user = encoded.posterior.mean[batch[d].user] + shared.mean[graph.index[batch[d].user]]
        for item, label in ((batch[d].item, 1.0), (batch[d].negative, 0.0)):
            logits = (user * items.posterior.mean[item]).sum(dim=1)
            expected = expected + torch.nn.functional.binary_cross_entropy_with_logits(
                logits, torch.full_like(logits, label)
            )
    torch.testing.assert_close(value, expected)
    assert set(parts) == {
        "kl/shared",
        *(f"{name} {d}" for name in ("kl/users", "kl/items", "kl/informative") for d in DOMAINS),
        *(f"reconstruction/{d}" for d in DOMAINS),
    }


def test_loss_when_beta_is_one(train: Rows) -> None:
    found = [unfitted(train, parameters(disencdr__warm_up=0, disencdr__beta=beta)) for beta in (0.0, 0.5, 1.0)]
    values, kls = [], []
    for one in found:
        value, parts = one.loss(one_batch(one), 0, None)
        values.append(value.item())
        kls.append((parts["kl/shared"].item(), sum(parts[f"kl/informative {d}"].item() for d in DOMAINS)))
    weight = found[0].params.disencdr.kl_weight
    assert kls[0] == pytest.approx(kls[2])  # the same weights: only what is made of them differs
    assert values[2] - values[0] == pytest.approx(weight * (kls[0][1] - kls[0][0]), rel=1e-3, abs=1e-4)
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, rel=1e-5)


def test_loss_when_warming_up(train: Rows) -> None:
    system = unfitted(train, parameters(disencdr__warm_up=3))
    stages = system.stages(train)
    for name, epochs, learnt in (("warm-up", 3, False), ("disencdr", None, True)):
        stage = next(stages)
        assert (stage.name, stage.epochs) == (name, epochs)
        system.module.zero_grad()
        stage.loss(one_batch(system), 0, torch.Generator().manual_seed(0))[0].backward()
        for part, weight in system.module.named_parameters():
            expected = learnt or not part.startswith(("shared", "alone"))
            assert (weight.grad is not None and bool(weight.grad.abs().max() > 0)) is expected, part


def test_fit_when_it_warms_up_longer_than_it_trains(train: Rows) -> None:
    # all of the warm-up's epochs, whatever validation says, and never more than training has
    found = fitted(train, parameters(epochs=2, disencdr__warm_up=5, training__patience=1))
    assert [one["stage"] for one in found.state.history][:2] == [1.0, 1.0] and found.sharing
    assert all("kl/shared" in one for one in found.state.history[2:])


def test_training_when_the_shared_latent_is_off(train: Rows) -> None:
    # two VBGEs that know nothing of each other, trained by hand, are what the warm-up trains
    system = unfitted(train, parameters(disencdr__warm_up=9))
    system.sharing = False
    batch = one_batch(system)
    alone: dict[str, Any] = {}
    for d in DOMAINS:
        encoder = VBGE(16, system.params.disencdr.layers, 0.0)
        encoder.load_state_dict(system.module.specific[d].state_dict())
        tables = [t[d].weight.detach().clone().requires_grad_() for t in (system.module.users, system.module.items)]
        optimizer = torch.optim.Adam([*encoder.parameters(), *tables], lr=0.01)
        for _ in range(4):
            users, items = (one.posterior for one in encoder(*tables, system.graphs[d], None))
            user = users.mean[batch[d].user]
            logits = [(user * items.mean[at]).sum(dim=1) for at in (batch[d].item, batch[d].negative)]
            value = torch.nn.functional.softplus(-logits[0]).mean() + torch.nn.functional.softplus(logits[1]).mean()
            for q in (users, items):
                value = value + system.params.disencdr.kl_weight * kl(q, standard_like(q)).mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        alone[d] = encoder(*tables, system.graphs[d], None)
    optimizer = torch.optim.Adam(system.module.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        system.loss(batch, 0, None)[0].backward()
        optimizer.step()
    for d, graph in system.graphs.items():
        module = system.module
        found = module.specific[d](module.users[d].weight, module.items[d].weight, graph, None)
        for mine, expected in zip(found, alone[d], strict=True):
            torch.testing.assert_close(mine.posterior.mean, expected.posterior.mean, rtol=1e-3, atol=1e-4)


def test_shared_mean_when_a_training_user_had_zero_vectors(system: DisenCDR) -> None:
    # folding a training user in with its own edges gives its trained posterior, its layer-0 vectors being zero
    graphs = system.graphs
    both = np.intersect1d(graphs["x"].users, graphs["y"].users)[:4]
    with torch.no_grad():
        line = {d: np.searchsorted(graphs[d].users, both) for d in DOMAINS}
        kept = {d: system.module.shared_users[d].weight.clone() for d in DOMAINS}
        for d in DOMAINS:
            system.module.shared_users[d].weight[line[d]] = 0.0
        found, messages = system.shared_posterior(None)
        for d in DOMAINS:
            system.module.shared_users[d].weight.copy_(kept[d])
        pools = {}
        for d in DOMAINS:
            taken = graphs[d].taken.take(line[d])
            values = torch.from_numpy((1.0 / np.repeat(taken.lengths, taken.lengths)).astype(np.float32))
            offsets = torch.from_numpy(taken.offsets[:-1].astype(np.int32))
            pools[d] = Adjacency(torch.from_numpy(taken.values - 1), offsets, values)
        share = {d: system.share[d][line[d]] for d in DOMAINS}
        paths = {d: system.module.shared[d] for d in DOMAINS}
        mean = shared_mean(paths, messages, pools, share)
    torch.testing.assert_close(mean, found.mean[both], rtol=1e-4, atol=1e-5)


def test_scores_when_a_row_is_cold(system: DisenCDR, dataset: CrossDomainDataset) -> None:
    system.update_tables()
    test = dataset.splits["test"]
    cold = test.take(test.kinds()["cold"] & (test.domain == 0))
    items = torch.arange(1, 121)[None]
    with torch.no_grad():
        found = system.scores(cold, "x", items)
        assert found.shape == (len(cold), 120) and found.std(dim=0).max() > 0
        torch.testing.assert_close(found, system.shared_users(cold) @ system.frozen["items x"].T)
        # nothing of x's users is in it: lambda is 0
        for name in ("messages shared x", "messages specific x"):
            system.frozen[name] = system.frozen[name] + 1.0
        torch.testing.assert_close(system.scores(cold, "x", items), found, rtol=0, atol=0)
        system.update_tables()
        warm = test.take(test.kinds()["overlapping"] & (test.domain == 0))
        expected = system.shared_users(warm) + system.specific_users(warm, "x")
        torch.testing.assert_close(system.scores(warm, "x", items), expected @ system.frozen["items x"].T)


def test_scores_when_histories_are_reordered(system: DisenCDR, dataset: CrossDomainDataset) -> None:
    system.update_tables()
    rows = dataset.splits["test"]
    backwards = {d: Ragged.from_lists([one[i][::-1] for i in range(len(rows))]) for d, one in rows.history.items()}
    system.popularity = {d: np.zeros(121) for d in DOMAINS}
    found = system.score(replace(rows, history=backwards), everything(rows))
    np.testing.assert_allclose(found, system.score(rows, everything(rows)), rtol=1e-4, atol=1e-5)


def test_scores_when_the_protocol_is_temporal(train: Rows, tmp_path: Path) -> None:
    found = fitted(train, parameters(epochs=1, protocol="temporal"))
    stranger = replace(train, user=np.array([f"stranger {i}" for i in range(len(train))], dtype=object))
    rows = train.take(train.kinds()["overlapping"])
    strangers = stranger.take(train.kinds()["overlapping"])
    known = found.score(rows, everything(rows))
    assert (np.abs(known - found.score(strangers, everything(rows))).max(axis=1) > 0).all()
    number = {name: i for i, name in enumerate(found.user_ids)}
    row = rows.take(np.array([0]))
    d = DOMAINS[row.domain[0]]
    at = number[str(row.user[0])]
    line = int(np.searchsorted(found.graphs[d].users, at))
    vector = found.frozen["known shared"][at] + found.frozen[f"known specific {d}"][line]
    np.testing.assert_allclose(known[0], (found.frozen[f"items {d}"] @ vector).numpy(), rtol=1e-4, atol=1e-5)
    found.save(tmp_path)
    np.testing.assert_array_equal(DisenCDR.load(tmp_path).score(rows, everything(rows)), known)
    # elsewhere an id changes nothing
    found.params = found.params.model_copy(update={"protocol": "strict"})
    np.testing.assert_array_equal(found.score(strangers, everything(rows)), found.score(rows, everything(rows)))


def test_fit_when_users_are_renamed(train: Rows) -> None:
    p = parameters(epochs=1)
    renamed = replace(train, user=np.array([f"{one} alias" for one in train.user], dtype=object))
    first, second = (fitted(rows, p).score(train, everything(train)) for rows in (train, renamed))
    np.testing.assert_array_equal(first, second)


def test_fit_when_there_are_twenty_users(dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["train"]
    rows = one_a_user(rows.take(rows.lengths("own") > 0), 20)
    p = parameters(
        epochs=80, training__learning_rate=0.02, disencdr__dropout=0.0, disencdr__kl_weight=1e-4, disencdr__warm_up=5
    )
    hits = []
    for kind in (DisenCDR(rows.catalogue, p), Popularity(rows.catalogue)):
        kind.fit(rows, rows, params=p, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks())
        scores = kind.score(rows, everything(rows))
        target = scores[np.arange(20), rows.target - 1][:, None]
        better = (scores > target).sum(axis=1) + ((scores == target).sum(axis=1) - 1) / 2  # ties: the mean place
        hits.append((better < 10).mean())
    assert hits[0] > 0.65 and hits[0] > hits[1] + 0.2
