"""The variational bipartite graph encoder of DisenCDR and CDRIB, and the sparse products beneath it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, DataError, Ragged, interactions
from i2vae_lib.data.user_sequences import user_sequences
from i2vae_lib.generators import graphs
from i2vae_lib.model.graph_encoders import (
    VBGE,
    Bipartite,
    bipartites,
    initialise_encoders,
    interaction_batches,
    pooling,
)
from i2vae_lib.model.latents import kl, standard_like

CPU = torch.device("cpu")
D, SIZE = 6, 5
# users 2, 4 and 7 of somebody's numbering take {1, 2}, {2} and {1, 2, 4}; nobody takes 3 and 5
USER, ITEM = np.array([2, 2, 4, 7, 7, 7]), np.array([1, 2, 2, 1, 2, 4])


@pytest.fixture
def graph() -> Bipartite:
    return Bipartite.of(USER, ITEM, SIZE, CPU)


@pytest.fixture
def encoder() -> VBGE:
    found = VBGE(D, layers=3, rate=0.5)
    initialise_encoders(found, torch.Generator().manual_seed(0), -2.0)
    return found


def tables() -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.Generator().manual_seed(1)
    return torch.randn(3, D, generator=weights), torch.randn(SIZE, D, generator=weights)


def test_row_normalised_when_a_line_is_zero() -> None:
    found = graphs.row_normalised(sparse.csr_matrix(np.array([[1.0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]])))
    third = 1 / 3
    np.testing.assert_allclose(found.toarray(), [[third, third, 0, third], [0, 0, 0, 0], [0, 1, 0, 0]], rtol=1e-6)
    assert found.dtype == np.float32


def test_product_when_compared_with_a_dense_one() -> None:
    dense = np.random.default_rng(0).random((4, 7)) * (np.random.default_rng(1).random((4, 7)) < 0.4)
    dense[2] = 0.0
    product = graphs.Product.of(sparse.csr_matrix(dense), CPU)
    matrix = torch.from_numpy(dense.astype(np.float32))
    vectors, pull = torch.randn(7, 3, requires_grad=True), torch.randn(4, 3)
    torch.testing.assert_close(product @ vectors, matrix @ vectors)
    [found] = torch.autograd.grad((product @ vectors * pull).sum(), vectors)
    torch.testing.assert_close(found, matrix.T @ pull)


def test_bipartite_when_users_have_gaps(graph: Bipartite) -> None:
    assert graph.users.tolist() == [2, 4, 7] == graph.index.tolist()
    assert [graph.taken[i].tolist() for i in range(3)] == [[1, 2], [2], [1, 2, 4]]
    third = 1 / 3
    expected = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 1, 0, 0, 0], [third, third, 0, third, 0]])
    torch.testing.assert_close(graph.to_users @ torch.eye(SIZE), expected)
    expected = torch.tensor([[0.5, 0, 0.5], [third, third, third], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    torch.testing.assert_close(graph.to_items @ torch.eye(3), expected)


def test_bipartites_when_users_are_numbered(dataset: CrossDomainDataset) -> None:
    train = dataset.splits["train"]
    everybody, found = user_sequences(train), bipartites(train, CPU)
    for d in DOMAINS:
        assert (np.diff(found[d].users) > 0).all()
        assert len(found[d].taken.values) == len(interactions(train)[d][0])
        for line in (0, 7, len(found[d].users) - 1):
            whole = everybody.sequences[d][found[d].users[line]]
            assert set(whole) <= set(found[d].taken[line])


def test_path_when_written_out(graph: Bipartite, encoder: VBGE) -> None:
    users, items = tables()
    both = encoder(users, items, graph, None)
    to_users, to_items = graph.to_users @ torch.eye(SIZE), graph.to_items @ torch.eye(3)
    for path, x, away, back, encoded in (
        (encoder.users, users, to_items, to_users, both[0]),
        (encoder.items, items, to_users, to_items, both[1]),
    ):
        *hidden, last = path.layers
        for number, layer in enumerate(hidden):
            sent = F.leaky_relu(away @ (x @ layer.away.weight.T) + layer.away.bias, 0.1)
            heard = F.leaky_relu(back @ (sent @ layer.back.weight.T) + layer.back.bias, 0.1)
            x = torch.relu(torch.cat([heard, x], dim=1) @ layer.union.weight.T + layer.union.bias)
            torch.testing.assert_close(encoded.hidden[number], x)
            torch.testing.assert_close(encoded.messages[number], sent)
        sent = F.leaky_relu(away @ (x @ last.away.weight.T) + last.away.bias, 0.1)
        for back_layer, union, found in (
            (last.back_mean, last.union_mean, encoded.posterior.mean),
            (last.back_log_variance, last.union_log_variance, encoded.posterior.log_variance),
        ):
            heard = F.leaky_relu(back @ (sent @ back_layer.weight.T) + back_layer.bias, 0.1)
            torch.testing.assert_close(found, torch.cat([heard, x], dim=1) @ union.weight.T + union.bias)


def test_path_when_there_is_dropout(graph: Bipartite, encoder: VBGE) -> None:
    users, items = tables()
    plain, again = (encoder(users, items, graph, None)[0].posterior.mean for _ in range(2))
    torch.testing.assert_close(plain, again, rtol=0, atol=0)
    noisy = encoder(users, items, graph, torch.Generator().manual_seed(2))[0].posterior.mean
    assert (noisy - plain).abs().max() > 0.01


def test_users_when_item_vectors_change(graph: Bipartite, encoder: VBGE) -> None:
    # users hear of co-users through items, not of the items' own vectors
    users, items = tables()
    before, after = (encoder(users, one, graph, None) for one in (items, items + 1.0))
    torch.testing.assert_close(before[0].posterior.mean, after[0].posterior.mean, rtol=0, atol=0)
    assert (before[1].posterior.mean - after[1].posterior.mean).abs().min() > 0


def test_log_variance_when_it_begins(graph: Bipartite, encoder: VBGE) -> None:
    for encoded in encoder(*tables(), graph, None):
        assert (encoded.posterior.log_variance + 2.0).abs().max() < 0.5
    encoder.users.layers[-1].union_log_variance.bias.data.fill_(90.0)
    assert encoder(*tables(), graph, None)[0].posterior.log_variance.eq(4.0).all()


def test_kl_when_compared_with_torch(graph: Bipartite, encoder: VBGE) -> None:
    q = encoder(*tables(), graph, None)[0].posterior
    normal = torch.distributions.Normal(q.mean, torch.exp(0.5 * q.log_variance))
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl(q, standard_like(q)), expected)
    assert kl(q, q).eq(0).all()


def test_folded_when_a_user_is_a_trained_one_with_a_zero_vector(dataset: CrossDomainDataset, encoder: VBGE) -> None:
    # a training user whose vector is zero in every layer's input but what it heard: the pass itself, item side frozen
    test = dataset.splits["test"]
    warm = test.take(np.flatnonzero(test.history["x"].lengths > 0)[:9])
    graph = bipartites(dataset.splits["train"], CPU)["x"]
    weights = torch.Generator().manual_seed(3)
    users = torch.randn(len(graph.users), D, generator=weights)
    messages = encoder.users(users, graph.to_items, graph.to_users, None).messages
    hidden, mean = encoder.users.folded(messages, pooling(warm, "x", CPU))
    assert [one.shape for one in [*hidden, mean]] == [(9, D)] * 3
    for row in range(9):  # the slow way, one row and one item at a time
        items = sorted(set(warm.history["x"][row] - 1))
        vector = torch.zeros(D)
        for layer, sent, found in zip(encoder.users.layers, messages, [*hidden, mean], strict=True):
            heard = torch.stack([sent[i] for i in items]).mean(dim=0)
            got = layer.receive(heard[None], vector[None])
            vector = (got if isinstance(got, torch.Tensor) else got.mean)[0]
            torch.testing.assert_close(found[row], vector, rtol=1e-4, atol=1e-5)


def test_folded_when_a_training_user_has_that_vector(graph: Bipartite, encoder: VBGE) -> None:
    # user 4 has the zero vector in training and is then folded in with its own edges: the same posterior mean
    users, items = tables()
    users[1] = 0.0
    encoded = encoder(users, items, graph, None)[0]
    pool = graphs.Adjacency.of(graphs.row_normalised(graphs.binary(np.zeros(1, int), np.array([1]), (1, SIZE))))
    hidden, mean = encoder.users.folded(encoded.messages, pool)
    torch.testing.assert_close(mean[0], encoded.posterior.mean[1])
    torch.testing.assert_close(hidden[1][0], encoded.hidden[1][1])


def test_interaction_batches_when_an_epoch_is_counted(dataset: CrossDomainDataset) -> None:
    found = bipartites(dataset.splits["train"], CPU)
    batches = list(interaction_batches(found, 300, np.random.default_rng(0)))
    rows = sum(len(one.taken.values) for one in found.values())
    count = -(-rows // 300)
    assert len(batches) == count and sum(len(one.user) for batch in batches for one in batch.values()) == rows
    assert all(sum(len(one.user) for one in batch.values()) == 300 for batch in batches[:-1])
    for d in DOMAINS:
        user, item, negative = (
            torch.cat([getattr(batch[d], name) for batch in batches if d in batch]).numpy()
            for name in ("user", "item", "negative")
        )
        taken = set(zip(found[d].taken.owner.tolist(), (found[d].taken.values - 1).tolist(), strict=True))
        assert set(zip(user.tolist(), item.tolist(), strict=True)) == taken and len(user) == len(taken)
        assert not taken & set(zip(user.tolist(), negative.tolist(), strict=True))
        assert negative.min() >= 0 and negative.max() < found[d].size


def test_interaction_batches_when_a_user_has_everything() -> None:
    full = Bipartite.of(np.zeros(3, int), np.arange(1, 4), 3, CPU)
    assert isinstance(full.taken, Ragged)
    with pytest.raises(DataError, match="no negatives"):
        next(interaction_batches({"x": full}, 8, np.random.default_rng(0)))


@torch.no_grad()
def test_last_layer_when_log_variances_run_away(encoder: VBGE, graph: Bipartite) -> None:
    """The released codes take any: sigma of 0 or infinity."""
    last = encoder.users.layers[-1]
    for bias, bound in ((-50.0, -10.0), (50.0, 4.0)):
        last.union_log_variance.bias.fill_(bias)
        users, _ = encoder(torch.zeros(3, D), torch.zeros(SIZE, D), graph, None)
        q = users.posterior
        assert (q.log_variance == bound).all()
        # 0.5 (exp(s) + m^2 - 1 - s), summed over dimensions
        expected = 0.5 * (np.exp(bound) + q.mean.square() - 1 - bound).sum(dim=1)
        torch.testing.assert_close(kl(q, standard_like(q)), expected)
