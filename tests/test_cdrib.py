"""CDRIB: who is scored with which vector, its loss, its contrast and its identities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows, other
from i2vae_lib.model.graph_encoders import VBGE, Bipartite, Triples, interaction_batches
from i2vae_lib.model.latents import kl, sample, standard_like
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import CDRIB, Popularity
from i2vae_lib.recommenders.systems.cdrib import counterparts, draw_contrast, hinge, reconstruction
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY, one_a_user

CPU = torch.device("cpu")
D, LAYERS = 16, 3


def parameters(**own: Any) -> Parameters:
    group, top = {"cdrib.kl_weight": 1.0}, {}
    for name, value in own.items():
        (top if name in ("epochs", "protocol") else group)[name.replace("__", ".")] = value
    return load("smoke", TINY | group, **top)


def unfitted(rows: Rows, p: Parameters) -> CDRIB:
    """Built on training rows, not trained."""
    found = CDRIB(rows.catalogue, p)
    found.prepare(rows, None)
    found.module = found.build(torch.Generator().manual_seed(0))
    return found


def fitted(rows: Rows, p: Parameters) -> CDRIB:
    return CDRIB(rows.catalogue, p).fit(
        rows, rows, params=p, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks()
    )


def one_batch(system: CDRIB) -> dict[str, Triples]:
    return next(interaction_batches(system.graphs, 10**6, np.random.default_rng(0)))


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def only(one: Triples, keep: torch.Tensor) -> Triples:
    return Triples(one.user[keep], one.item[keep], one.negative[keep])


@pytest.fixture(scope="module")
def train(dataset: CrossDomainDataset) -> Rows:
    return dataset.splits["train"].take(np.arange(120))


@pytest.fixture(scope="module")
def one_sided(train: Rows) -> Rows:
    """Nobody has both domains."""
    kinds = train.kinds()
    found = train.take(~kinds["overlapping"] & ~kinds["cold"])
    assert all(len(found.of(d)) for d in DOMAINS)
    return found


@pytest.fixture(scope="module")
def system(train: Rows) -> CDRIB:
    return unfitted(train, parameters())


def test_counterparts_when_users_are_a_few() -> None:
    graphs = {
        "x": Bipartite.of(np.array([0, 2, 3]), np.array([1, 1, 1]), 2, CPU),
        "y": Bipartite.of(np.array([1, 3, 5]), np.array([1, 1, 1]), 2, CPU),
    }
    found = counterparts(graphs, 6)
    assert found["x"].tolist() == [-1, -1, 1] and found["y"].tolist() == [-1, 2, -1]


def test_hinge_when_taken_by_hand() -> None:
    # 0.3 - 0.9 + 0.2 < 0; 0.3 - 0.5 + 0.4 = 0.2; 0.3 - 0.1 + 0.6 = 0.8
    found = hinge(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.2, 0.4, 0.6]), 0.3)
    assert found.item() == pytest.approx((0.0 + 0.2 + 0.8) / 3)


def test_contrast_when_written_out(system: CDRIB) -> None:
    twins = {d: one.numpy() for d, one in system.twins.items()}
    drawn = draw_contrast(twins, 4, np.random.default_rng(0))
    assert drawn is not None
    users = {d: torch.randn(len(twins[d]), LAYERS * D) for d in DOMAINS}
    critic, margin, expected = system.module.critic, system.params.cdrib.margin, 0.0

    def agreement(x: torch.Tensor, y: torch.Tensor) -> float:
        return float(torch.sigmoid(critic(torch.cat([x, y]))).detach())

    for x, y, w, v in drawn.T:
        same = agreement(users["x"][x], users["y"][y])
        expected += max(0.0, margin - same + agreement(users["x"][x], users["y"][v])) / 4
        expected += max(0.0, margin - same + agreement(users["x"][w], users["y"][y])) / 4
    assert system.contrast(drawn, users).item() == pytest.approx(expected, rel=1e-4)
    assert critic[0].in_features == 2 * LAYERS * D and critic[2].out_features == 100


def test_draw_contrast_when_partners_are_drawn(system: CDRIB) -> None:
    twins = {d: one.numpy() for d, one in system.twins.items()}
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        drawn = draw_contrast(twins, 8, rng)
        assert drawn is not None and drawn.shape[1] == len(set(drawn[0].tolist())) == 8
        x, y, other_x, other_y = drawn.numpy()
        np.testing.assert_array_equal(twins["x"][x], y)
        assert (other_x != x).all() and (other_y != y).all()
        assert (system.graphs["x"].users[x] == system.graphs["y"].users[y]).all()
        seen |= set(other_x.tolist())
    assert seen == set(range(len(twins["x"])))
    everybody = draw_contrast(twins, 10**6, rng)
    assert everybody is not None and everybody.shape[1] == (twins["x"] >= 0).sum()


def test_draw_contrast_when_nobody_has_both() -> None:
    nobody = {d: np.full(5, -1) for d in DOMAINS}
    assert draw_contrast(nobody, 4, np.random.default_rng(0)) is None


def test_concatenated_when_there_are_three_layers(system: CDRIB) -> None:
    module, graph = system.module, system.graphs["x"]
    users, items = module.encoders["x"](module.users["x"].weight, module.items["x"].weight, graph, None)
    noise = torch.Generator().manual_seed(5)
    found = users.concatenated(noise)
    assert found.shape == (len(graph.users), LAYERS * D) and items.concatenated(None).shape == (120, LAYERS * D)
    z = sample(users.posterior, torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, torch.cat([users.hidden[0], users.hidden[1], z], dim=1))
    torch.testing.assert_close(users.concatenated(None)[:, 2 * D :], users.posterior.mean)


def test_loss_when_written_out(system: CDRIB) -> None:
    own, module, batch = system.params.cdrib, system.module, one_batch(system)
    value, parts = system.loss(batch, 0, None)
    encoded = {
        d: module.encoders[d](module.users[d].weight, module.items[d].weight, graph, None)
        for d, graph in system.graphs.items()
    }
    expected = torch.tensor(0.0)
    for d in DOMAINS:
        users, items = encoded[d]
        for q, weight in ((users.posterior, own.beta), (items.posterior, 1.0)):
            expected = expected + own.kl_weight * weight * kl(q, standard_like(q)).mean()
        r, crossing = users.concatenated(None), encoded[other(d)][0].concatenated(None)
        r_items, one = items.concatenated(None), batch[d]
        twin = system.twins[d][one.user]
        for vectors, keep in ((r[one.user], twin >= -1), (crossing[twin.clamp(min=0)], twin >= 0)):
            for at, label in ((one.item, 1.0), (one.negative, 0.0)):
                logits = (vectors * r_items[at]).sum(dim=1)[keep]
                expected = expected + torch.nn.functional.binary_cross_entropy_with_logits(
                    logits, torch.full_like(logits, label)
                )
    torch.testing.assert_close(value, expected)
    assert own.beta == 1.5 and "contrast" not in parts and len(parts) == 8


@pytest.mark.parametrize("domain", DOMAINS)
def test_scores_when_crossing(system: CDRIB, domain: str) -> None:
    # the cross-domain term of d reaches the users' table of the other domain alone; a one-domain user's its own alone
    module, opposite = system.module, other(domain)
    users, items = {}, {}
    for d, graph in system.graphs.items():
        encoded = module.encoders[d](module.users[d].weight, module.items[d].weight, graph, None)
        users[d], items[d] = (one.concatenated(None) for one in encoded)
    one = one_batch(system)[domain]
    twin = system.twins[domain][one.user]
    both, alone = only(one, twin >= 0), only(one, twin < 0)
    tables = [module.users[domain].weight, module.users[opposite].weight]
    crossing = reconstruction(users[opposite][twin[twin >= 0]], items[domain][both.item], items[domain][both.negative])
    gradients = torch.autograd.grad(crossing, tables, retain_graph=True, allow_unused=True)
    assert gradients[0] is None and gradients[1].abs().max() > 0
    inside = reconstruction(users[domain][alone.user], *(items[domain][at] for at in (alone.item, alone.negative)))
    gradients = torch.autograd.grad(inside, tables, allow_unused=True)
    assert gradients[1] is None and gradients[0].abs().max() > 0
    # and the loss does the same of it
    module.zero_grad()
    _, parts = system.loss({domain: both}, 0, None)
    assert parts[f"cross-domain/{domain}"].item() == pytest.approx(crossing.item(), rel=1e-5)
    _, parts = system.loss({domain: alone}, 0, None)
    assert f"cross-domain/{domain}" not in parts
    assert parts[f"in-domain/{domain}"].item() == pytest.approx(inside.item(), rel=1e-5)


def test_training_when_nobody_has_both(one_sided: Rows) -> None:
    # two VBGEs that know nothing of each other, trained by hand, are what is trained
    system = unfitted(one_sided, parameters())
    assert all((one < 0).all() for one in system.twins.values())
    [stage] = system.stages(one_sided)
    assert all("contrast" not in batch for batch in stage.batches(np.random.default_rng(0)))
    batch, own = one_batch(system), system.params.cdrib
    expected: dict[str, Any] = {}
    for d in DOMAINS:
        encoder = VBGE(D, LAYERS, 0.0)
        encoder.load_state_dict(system.module.encoders[d].state_dict())
        tables = [t[d].weight.detach().clone().requires_grad_() for t in (system.module.users, system.module.items)]
        optimizer = torch.optim.Adam([*encoder.parameters(), *tables], lr=0.01)
        for _ in range(4):
            users, items = encoder(*tables, system.graphs[d], None)
            user, table = users.concatenated(None)[batch[d].user], items.concatenated(None)
            logits = [(user * table[at]).sum(dim=1) for at in (batch[d].item, batch[d].negative)]
            value = torch.nn.functional.softplus(-logits[0]).mean() + torch.nn.functional.softplus(logits[1]).mean()
            for q, weight in ((users.posterior, own.beta), (items.posterior, 1.0)):
                value = value + own.kl_weight * weight * kl(q, standard_like(q)).mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        expected[d] = [one.concatenated(None) for one in encoder(*tables, system.graphs[d], None)]
    optimizer = torch.optim.Adam(system.module.parameters(), lr=0.01)
    for step in range(4):
        optimizer.zero_grad()
        system.loss(batch, step, None)[0].backward()
        optimizer.step()
    assert all(weight.grad is None for weight in system.module.critic.parameters())
    for d, graph in system.graphs.items():
        module = system.module
        found = module.encoders[d](module.users[d].weight, module.items[d].weight, graph, None)
        for mine, theirs in zip(found, expected[d], strict=True):
            torch.testing.assert_close(mine.concatenated(None), theirs, rtol=1e-3, atol=1e-4)


def test_loss_when_nobody_has_both(one_sided: Rows) -> None:
    system = unfitted(one_sided, parameters())
    module, batch = system.module, one_batch(system)
    value, parts = system.loss({"x": batch["x"]}, 0, None)
    kl_weight = system.params.cdrib.kl_weight
    rest = kl_weight * (system.params.cdrib.beta * parts["kl/users y"] + parts["kl/items y"])
    (value - rest).backward()  # what of the loss is x's
    loss_of_y = system.loss({"y": batch["y"]}, 0, None)[1]
    assert loss_of_y["kl/users y"].item() == pytest.approx(parts["kl/users y"].item())
    gradients = torch.autograd.grad(
        system.loss(batch, 0, None)[0] - system.loss({"x": batch["x"]}, 0, None)[0], module.users["x"].weight
    )
    torch.testing.assert_close(gradients[0], torch.zeros_like(gradients[0]), rtol=0, atol=1e-6)


def test_scores_when_rows_are_cold_or_warm(system: CDRIB, dataset: CrossDomainDataset) -> None:
    system.update_tables()
    test = dataset.splits["test"]
    items = torch.arange(1, 121)[None]
    for kind, own in (("cold", False), ("overlapping", True)):
        rows = test.take(test.kinds()[kind] & (test.domain == 0))
        with torch.no_grad():
            vectors = system.users(rows, "x" if own else "y")
            assert vectors.shape == (len(rows), LAYERS * D) and (vectors[0] != vectors[1]).any()
            expected = vectors @ system.frozen["items x"].T
            torch.testing.assert_close(system.scores(rows, "x", items), expected, rtol=0, atol=0)


def test_scores_when_histories_are_reordered(system: CDRIB, dataset: CrossDomainDataset) -> None:
    system.update_tables()
    rows = dataset.splits["test"]
    backwards = {d: Ragged.from_lists([one[i][::-1] for i in range(len(rows))]) for d, one in rows.history.items()}
    system.popularity = {d: np.zeros(121) for d in DOMAINS}
    found = system.score(replace(rows, history=backwards), everything(rows))
    np.testing.assert_allclose(found, system.score(rows, everything(rows)), rtol=1e-4, atol=1e-5)


def test_scores_when_the_protocol_is_temporal(train: Rows, tmp_path: Path) -> None:
    found = fitted(train, parameters(epochs=1, protocol="temporal"))
    overlapping = train.kinds()["overlapping"]
    rows = train.take(overlapping)
    strangers = replace(rows, user=np.array([f"stranger {i}" for i in range(len(rows))], dtype=object))
    known = found.score(rows, everything(rows))
    assert (np.abs(known - found.score(strangers, everything(rows))).max(axis=1) > 0).all()
    d = DOMAINS[rows.domain[0]]
    line = int(np.searchsorted(found.graphs[d].users, found.user_ids.index(str(rows.user[0]))))
    expected = (found.frozen[f"items {d}"] @ found.frozen[f"known {d}"][line]).numpy()
    np.testing.assert_allclose(known[0], expected, rtol=1e-4, atol=1e-5)
    found.save(tmp_path)
    np.testing.assert_array_equal(CDRIB.load(tmp_path).score(rows, everything(rows)), known)
    # elsewhere an id changes nothing
    found.params = found.params.model_copy(update={"protocol": "strict"})
    np.testing.assert_array_equal(found.score(strangers, everything(rows)), found.score(rows, everything(rows)))


def test_stage_when_there_is_weight_decay(train: Rows) -> None:
    system = unfitted(train, parameters(cdrib__weight_decay=0.25))
    [stage] = system.stages(train)
    assert stage.weight_decay == 0.25
    batches = list(stage.batches(np.random.default_rng(0)))
    assert len(batches) == stage.steps and all("contrast" in batch for batch in batches)


def test_fit_when_there_are_twenty_users(dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["train"]
    rows = one_a_user(rows.take(rows.lengths("own") > 0), 20)
    p = parameters(
        epochs=80,
        training__learning_rate=0.02,
        cdrib__dropout=0.0,
        cdrib__kl_weight=1e-4,
        cdrib__weight_decay=0.0,
    )
    hits = []
    for kind in (CDRIB(rows.catalogue, p), Popularity(rows.catalogue)):
        kind.fit(rows, rows, params=p, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks())
        scores = kind.score(rows, everything(rows))
        target = scores[np.arange(20), rows.target - 1][:, None]
        better = (scores > target).sum(axis=1) + ((scores == target).sum(axis=1) - 1) / 2  # ties: the mean place
        hits.append((better < 10).mean())
    assert hits[0] > 0.65 and hits[0] > hits[1] + 0.2
