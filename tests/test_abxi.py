"""ABXI: the guided streams by hand, the network against one that goes position by position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders.systems.abxi import ABXI, Network
from i2vae_lib.recommenders.systems.every_position import Steps
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY


@pytest.fixture
def network(tiny: Parameters) -> Network:
    """Items 1…5 of X, 6…9 of Y; every weight random."""
    found, draw = Network(5, 9, 8, 6, tiny.abxi.model_copy(update={"dropout": 0.0})), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in found.parameters():
            weight.normal_(std=0.5, generator=draw)
        found.items.weight[0] = 0.0
    return found


def test_guided_when_domains_alternate(network: Network) -> None:
    inputs = torch.tensor([[0, 2, 6, 7, 3]])
    following = torch.tensor([[0, 1, 1, 0, 1]])  # the last position asks for an item of Y
    assert network.guided(inputs, following, 0).tolist() == [[0, 0, 0, 2, 0]]
    assert network.guided(inputs, following, 1).tolist() == [[0, 0, 6, 0, 7]]


def attention(network: Network, items: list[int]) -> torch.Tensor:
    """h at the last place of a stream that holds these items, head by head: [d]."""
    real = [i for i, item in enumerate(items) if item]
    back = {i: len(real) - 1 - n for n, i in enumerate(real)}
    e = {i: network.items.weight[items[i]] + network.position.weight[back[i]] for i in real}
    layer, last = network.attention, len(items) - 1
    d, size = network.items.weight.shape[1], network.items.weight.shape[1] // layer.heads
    mixed = []
    for head in range(layer.heads):
        at = slice(head * size, (head + 1) * size)
        query = layer.query(e[last])[at]
        keys = {i: layer.key_value(e[i])[:d][at] for i in real}
        values = {i: layer.key_value(e[i])[d:][at] for i in real}
        weights = torch.stack([query @ keys[i] / size**0.5 for i in real]).softmax(dim=0)
        mixed.append(sum(weight * values[i] for weight, i in zip(weights, real, strict=True)))
    return network.norm(e[last] + layer.output(torch.cat(mixed)))


def feed(layer: Any, x: torch.Tensor) -> torch.Tensor:
    gate, linear = layer.inner(x).split(layer.outer.weight.shape[1])
    return layer.outer(gate * torch.sigmoid(gate) * linear)


@pytest.mark.parametrize("domain", [0, 1])
def test_forward_when_compared_position_by_position(network: Network, domain: int) -> None:
    inputs, following = torch.tensor([[0, 2, 6, 7, 3]]), torch.tensor([[0, 1, 1, 0, domain]])
    found = network(inputs, following, None)[0, -1]
    name = "xy"[domain]
    guided = network.guided(inputs, following, domain)[0].tolist()
    h = {"merged": attention(network, inputs[0].tolist()), name: attention(network, guided)}
    adapted = {
        s: network.adapted[s](one + feed(network.shared, one) + network.adapters[s](one)) for s, one in h.items()
    }
    merged, own = adapted["merged"], adapted[name]
    both = network.both(merged + feed(network.invariant, merged) + network.from_both[name](merged))
    expected = both + network.own[name](own + feed(network.specific[name], own))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_forward_when_nothing_of_the_domain_was_taken(network: Network) -> None:
    """The domain's own part is its norm's bias."""
    inputs, following = torch.tensor([[6, 7]]), torch.tensor([[1, 0]])
    before = network(inputs, following, None)[0, -1]
    with torch.no_grad():
        network.own["x"].bias += 1.0
        network.own["x"].weight += 1.0
    torch.testing.assert_close(network(inputs, following, None)[0, -1], before + 1.0)


def test_forward_when_padding_grows(network: Network) -> None:
    inputs, following = torch.tensor([[2, 6, 7]]), torch.tensor([[1, 1, 0]])
    wide = nn.functional.pad(inputs, (3, 0)), nn.functional.pad(following, (3, 0), value=-1)
    torch.testing.assert_close(network(*wide, None)[:, 3:], network(inputs, following, None), atol=1e-5, rtol=1e-5)


def test_loss_when_the_temperature_is_halved(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    """Half the temperature costs what twice the states cost."""
    values, steps = {"dropout": 0.0}, Steps(torch.tensor([[5, 130]]), torch.tensor([[130, 7]]), 1.0)

    def cost(temperature: float, scale: float) -> float:
        own = tiny.abxi.model_copy(update=values | {"temperature": temperature})
        system = ABXI(dataset.catalogue, tiny.model_copy(update={"abxi": own}))
        system.module = system.build(torch.Generator().manual_seed(0))
        with torch.no_grad():
            for norm in (system.module["xy"].both, *system.module["xy"].own.values()):
                norm.weight *= scale
                norm.bias *= scale
        return float(system.loss({"xy": steps}, 0, torch.Generator().manual_seed(0))[0].detach())

    assert cost(0.5, 1.0) == pytest.approx(cost(1.0, 2.0), rel=1e-5)
    assert cost(0.5, 1.0) != pytest.approx(cost(1.0, 1.0), rel=1e-3)


def test_fit_when_there_are_twenty_users(dataset: CrossDomainDataset) -> None:
    values = {"training.learning_rate": 0.01, "training.batch_size": 10, "model.d": 32}
    p = load("smoke", TINY | values | {"abxi.dropout": 0.0, "abxi.decay": 0.0, "abxi.hidden": 32}, epochs=60)
    train = dataset.splits["train"]
    rows = train.take(np.flatnonzero(train.kinds()["overlapping"])[:20])
    negatives = sample_negatives(rows, 49, 0)
    rng = np.random.default_rng(0)
    found = ABXI(dataset.catalogue, p).fit(rows, rows, params=p, generator=None, rng=rng, callbacks=Callbacks())
    assert selection_metric(rank(found, rows, negatives, full=False, batch_size=64), rows)["ndcg@10"] > 0.8
