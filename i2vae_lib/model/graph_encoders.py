"""Variational bipartite graph encoder (VBGE): posteriors of the users and items of one domain's training graph.

Of DisenCDR (Cao et al., SIGIR 2022) and CDRIB (Cao et al., ICDE 2022), which share it. With U the users' vectors,
UV [users, items] and VU [items, users] the binary graph and its transpose, each row divided by its sum, and d
dimensions throughout, a layer of the users' path is a hop to the items and a hop back::

    M = lrelu(VU U W1 + b1)                       messages, one per item
    H = lrelu(UV M W2 + b2)                       what a user hears
    hidden layer: U' = relu([H ; U] W3 + b3)      last layer: mean and log-variance, each with a W2, W3 of its own

and that of the items is the same through UV and then VU. Users hear of co-users through items, never of the items'
own vectors. The leaky ReLU's slope is 0.1.

A user whom no training saw has the zero vector and the edges of its histories. All that its path needs of the
training graph are the layers' messages M, [items, d] each: H is then a mean of M over the row's items, and the rest
is the layer's own (:func:`folded`). So the messages are what a saved model keeps, and no training graph.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib.data.batches import Tensors, draw_others
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows, batched, interactions
from i2vae_lib.generators import graphs
from i2vae_lib.model.encoders import dropout, initialise
from i2vae_lib.model.latents import Gaussian, sample

_SLOPE = 0.1  # of the leaky ReLU


@dataclass(frozen=True)
class Bipartite:
    """One domain's training graph. Only users with an edge are in it, numbered 0…m - 1 (a *line*)."""

    users: Array  # int64 [m]: each line's number among all training users, ascending
    taken: Ragged  # items 1…n of each line
    size: int  # n
    index: Tensor  # ``users`` on the device
    to_users: graphs.Product  # UV [m, n]
    to_items: graphs.Product  # VU [n, m]

    @classmethod
    def of(cls, user: Array, item: Array, size: int, device: torch.device) -> Self:
        """Of distinct pairs of a user (number among all) and an item (1…size), ordered by user."""
        users, line = np.unique(user, return_inverse=True)
        matrix = graphs.binary(line, item - 1, (len(users), size))
        return cls(
            users.astype(np.int64),
            Ragged.from_lengths(item, np.bincount(line, minlength=len(users))),
            size,
            torch.from_numpy(users.astype(np.int64)).to(device),
            graphs.Product.of(graphs.row_normalised(matrix), device),
            graphs.Product.of(graphs.row_normalised(matrix.T.tocsr()), device),
        )


def bipartites(train: Rows, device: torch.device) -> dict[str, Bipartite]:
    """Each domain's graph of the training interactions; users are numbered as ``user_sequences(train)`` has them."""
    pairs = interactions(train)
    return {d: Bipartite.of(*pairs[d], train.catalogue.size(d), device) for d in DOMAINS}


@dataclass(frozen=True)
class Triples(Tensors):
    """Interactions of one domain, each with an item that its user did not take."""

    user: Tensor  # int64 [m], lines of the domain's graph
    item: Tensor  # int64 [m], 0-based
    negative: Tensor  # int64 [m], 0-based


def interaction_batches(
    domains: Mapping[str, Bipartite], batch_size: int, rng: np.random.Generator
) -> Iterator[dict[str, Triples]]:
    """One epoch: every interaction of both domains once, mixed; a domain that a batch does not meet is left out."""
    found = {}
    for d, graph in domains.items():
        user = graph.taken.owner
        negative = draw_others(graph.taken, user, graph.size, 1, rng)[:, 0]
        found[d] = np.stack([user, graph.taken.values - 1, negative - 1]).astype(np.int64)
    keys = list(found)
    columns = np.concatenate([found[d] for d in keys], axis=1)
    domain = np.repeat(np.arange(len(keys)), [found[d].shape[1] for d in keys])
    order = rng.permutation(len(domain))
    for at in batched(order, batch_size):
        parts = {d: columns[:, at[domain[at] == i]] for i, d in enumerate(keys)}
        yield {d: Triples(*map(torch.from_numpy, part)) for d, part in parts.items() if part.shape[1]}


def lines(index: Tensor, table: Tensor) -> Tensor:
    """``table[index]``; the gradient of an embedding is several times faster than that of indexing."""
    return F.embedding(index, table)


# --- layers -----------------------------------------------------------------------------------------------------------


class _Layer(nn.Module):
    """The hop to the other side; what comes back is for the two kinds below."""

    def __init__(self, d: int):
        super().__init__()
        self.away = nn.Linear(d, d)

    def receive(self, heard: Tensor, vectors: Tensor) -> Any:
        """Means of the messages [m, d] and the own vectors [m, d] -> what the layer gives."""
        raise NotImplementedError

    def forward(self, vectors: Tensor, away: graphs.Product, back: graphs.Product) -> tuple[Any, Tensor]:
        """What :meth:`receive` gives, and the other side's messages [n, d], of the own side's vectors [m, d]."""
        # (A x) W in place of A (x W): what was multiplied once serves every W
        sent = F.leaky_relu(self.away(away @ vectors), _SLOPE)
        return self.receive(back @ sent, vectors), sent


class _HiddenLayer(_Layer):
    """Deterministic: [m, d] -> [m, d]."""

    def __init__(self, d: int):
        super().__init__(d)
        self.back = nn.Linear(d, d)
        self.union = nn.Linear(2 * d, d)

    def receive(self, heard: Tensor, vectors: Tensor) -> Tensor:
        own = F.leaky_relu(self.back(heard), _SLOPE)
        return F.relu(self.union(torch.cat([own, vectors], dim=1)))


class _LastLayer(_Layer):
    """[m, d] -> a posterior [m, d]."""

    def __init__(self, d: int):
        super().__init__(d)
        self.back_mean = nn.Linear(d, d)
        self.back_log_variance = nn.Linear(d, d)
        self.union_mean = nn.Linear(2 * d, d)
        self.union_log_variance = nn.Linear(2 * d, d)

    def receive(self, heard: Tensor, vectors: Tensor) -> Gaussian:
        mean = F.leaky_relu(self.back_mean(heard), _SLOPE)
        log_variance = F.leaky_relu(self.back_log_variance(heard), _SLOPE)
        return Gaussian(
            self.union_mean(torch.cat([mean, vectors], dim=1)),
            self.union_log_variance(torch.cat([log_variance, vectors], dim=1)).clamp(-10.0, 4.0),
        )


@dataclass(frozen=True)
class _Encoded:
    """What a path gives for all nodes of its side."""

    hidden: list[Tensor]  # [m, d] of each layer but the last
    posterior: Gaussian  # [m, d]
    messages: list[Tensor]  # [n, d] of each layer

    def concatenated(self, generator: torch.Generator | None) -> Tensor:
        """[m, L d] of all nodes; without a generator the posterior mean stands last."""
        return torch.cat([*self.hidden, sample(self.posterior, generator)], dim=1)


class UserOrItemPath(nn.Module):
    """The layers of one side."""

    def __init__(self, d: int, layers: int, rate: float):
        super().__init__()
        self.layers = nn.ModuleList([*(_HiddenLayer(d) for _ in range(layers - 1)), _LastLayer(d)])
        self.rate = rate

    def forward(
        self, vectors: Tensor, away: graphs.Product, back: graphs.Product, generator: torch.Generator | None
    ) -> _Encoded:
        """vectors [m, d], away [n, m], back [m, n]; dropout before each layer."""
        found, messages = [], []
        for layer in self.layers:
            result, sent = layer(dropout(vectors, self.rate, generator), away, back)
            found.append(result)
            messages.append(sent)
            vectors = result
        return _Encoded(found[:-1], found[-1], messages)

    def folded(self, messages: Sequence[Tensor], pool: graphs.Adjacency) -> tuple[list[Tensor], Tensor]:
        """New users through this path of training users, its messages frozen.

        Parameters
        ----------
        messages
            [n, d] of each layer, without dropout (:class:`_Encoded`).
        pool
            [rows, n] of :func:`pooling`.

        Returns
        -------
        hidden, mean
            [rows, d] of each layer but the last, and the posterior mean [rows, d]. A row depends on no other row.
        """
        found: list[Any] = []
        vectors = messages[0].new_zeros(len(pool.offsets), messages[0].shape[1])
        for layer, sent in zip(self.layers, messages, strict=True):
            vectors = layer.receive(pool @ sent, vectors)  # type: ignore[operator]
            found.append(vectors)
        return found[:-1], found[-1].mean


class VBGE(nn.Module):
    """Both sides of one domain."""

    def __init__(self, d: int, layers: int, rate: float):
        super().__init__()
        self.users = UserOrItemPath(d, layers, rate)
        self.items = UserOrItemPath(d, layers, rate)

    def forward(
        self, users: Tensor, items: Tensor, graph: Bipartite, generator: torch.Generator | None
    ) -> tuple[_Encoded, _Encoded]:
        """users [m, d], items [n, d]."""
        return (
            self.users(users, graph.to_items, graph.to_users, generator),
            self.items(items, graph.to_users, graph.to_items, generator),
        )


def initialise_encoders(module: nn.Module, generator: torch.Generator, initial_log_variance: float) -> None:
    """As :func:`i2vae_lib.model.encoders.initialise`; log-variances start near their value, weights a tenth."""
    initialise(module, generator)
    with torch.no_grad():
        for one in module.modules():
            if isinstance(one, _LastLayer):
                one.union_log_variance.weight.mul_(0.1)
                one.union_log_variance.bias.fill_(initial_log_variance)


# --- new users --------------------------------------------------------------------------------------------------------


def pooling(rows: Rows, domain: str, device: torch.device) -> graphs.Adjacency:
    """Rows x items: a product with it is the mean over the distinct items of each row's history; 0 without any."""
    return graphs.Adjacency.of(graphs.row_normalised(graphs.domain_histories(rows, domain))).to(device)
