"""LightGCN (He et al., SIGIR 2020): BPR over a propagated table of users and items.

The propagation itself is :func:`.graphs.propagate`. The pseudo-sequence generator trains it here; the
recommender of the same name, and EMCDR's base model (no layers: BPR-MF), train it in the kit's own loop with the same
:func:`terms` and :class:`Triples`.
"""

import math

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from i2vae_lib.data.rows import DOMAINS, Array, DataError, Ragged, batched, located
from i2vae_lib.generators.graphs import Adjacency, binary, normalised, propagate
from i2vae_lib.parameter_groups import PsgParameters
from i2vae_lib.progress import bar


def bpr(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """BPR: softplus(s_uj - s_ui), one value a triple."""
    return torch.nn.functional.softplus((users * (negatives - positives)).sum(dim=1))


def terms(table: Tensor, adjacency: Adjacency | None, layers: int, rows: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """The two terms of the loss of a batch of B triples.

    Parameters
    ----------
    table
        Layer-0 vectors [users + items, d], users first.
    adjacency
        Of the same nodes, normalised; None will do where there are no layers.
    rows
        int64 [3 B]: nodes of the users, of the positives and of the negatives.
    decay
        Of the L2 term, which acts on the batch's layer-0 vectors only (as in the paper of LightGCN, not through the
        optimiser).

    Returns
    -------
    ranking, penalty
        mean BPR, and decay / 2 (|u|^2 + |i|^2 + |j|^2) summed, over B.
    """
    # without layers only the batch's vectors are touched: BPR-MF
    vectors = None
    if layers:
        assert adjacency is not None
        vectors = propagate(adjacency, table, layers).index_select(0, rows)
    layer0 = table.index_select(0, rows)
    user, positive, negative = (layer0 if vectors is None else vectors).chunk(3)
    return bpr(user, positive, negative).mean(), decay * 0.5 * layer0.square().sum() / len(user)


def train_lightgcn(
    graph: sparse.csr_matrix,
    domains: dict[str, Array],
    p: PsgParameters,
    rng: np.random.Generator,
    *,
    label: str = "LightGCN",
) -> tuple[Array, Array]:
    """Learn layer-0 vectors by BPR; best validation recall@20 of up to ``p.epochs`` epochs, with early stop.

    ``p.validation_share`` of the interactions is held out of the graph while learning. An epoch is as many triples as
    there are training interactions: a uniform user, one of its items, a negative of that item's domain that it did
    not take.

    Returns
    -------
    users, items
        float32 [users, d], [items, d]
    """
    users, items = graph.shape
    coo = graph.tocoo()
    held_out = rng.random(coo.nnz) < p.validation_share
    learn = binary(coo.row[~held_out], coo.col[~held_out], graph.shape)
    check = binary(coo.row[held_out], coo.col[held_out], graph.shape)
    adjacency = Adjacency.of(normalised(learn))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    table = torch.nn.Parameter(torch.empty(users + items, p.d).normal_(std=0.1, generator=generator))
    optimizer = torch.optim.Adam([table], lr=p.learning_rate, fused=True)
    sampler = Triples(learn, domains, rng)
    best, best_metric, waited = table.detach().clone(), -math.inf, 0
    progress = bar(label, p.epochs, "epoch", leave=False)
    for _ in range(p.epochs):
        for _ in range(-(-learn.nnz // p.batch_size)):
            user, positive, negative = sampler.draw(p.batch_size)
            rows = torch.from_numpy(np.concatenate([user, users + positive, users + negative]))
            ranking, penalty = terms(table, adjacency, p.layers, rows, p.decay)
            loss = ranking + penalty
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            final = propagate(adjacency, table, p.layers).numpy()
        metric = recall_at(final[:users], final[users:], learn, check, 20)
        waited = 0 if metric > best_metric else waited + 1
        if metric > best_metric:
            best, best_metric = table.detach().clone(), metric
        progress.update()
        progress.set_postfix_str(f"recall@20 {metric:.4f} (best {best_metric:.4f})")
        if waited >= p.patience:
            break
    progress.close()
    numbers = best.numpy()
    return numbers[:users], numbers[users:]


def recall_at(users: Array, items: Array, known: sparse.csr_matrix, wanted: sparse.csr_matrix, k: int) -> float:
    """Mean recall@k over at most 2,000 users with something to find, their known items left out."""
    who = np.flatnonzero(wanted.getnnz(axis=1))
    who = who[:: max(1, len(who) // 2000)][:2000]
    hits = 0.0
    for at in batched(who, 512):
        scores = users[at] @ items.T
        taken = known[at].tocoo()
        scores[taken.row, taken.col] = -np.inf
        top = torch.topk(torch.from_numpy(scores), min(k, scores.shape[1]), dim=1).indices.numpy()
        found = np.asarray(wanted[np.repeat(at, top.shape[1]), top.ravel()]).reshape(top.shape).sum(axis=1)
        hits += float((found / wanted[at].getnnz(axis=1)).sum())
    return hits / max(1, len(who))


class Triples:
    """(user, positive, negative): user uniform, positive uniform of the user, negative not taken, of its domain.

    Parameters
    ----------
    graph
        Binary users x items.
    domains
        Domain -> its items, one domain or both; what is in both counts as x.
    """

    def __init__(self, graph: sparse.csr_matrix, domains: dict[str, Array], rng: np.random.Generator):
        self.rng = rng
        self.items = Ragged(graph.indices.astype(np.int32), graph.indptr.astype(np.int64))
        # a user who took every item of a domain leaves no negative to draw
        rest = np.all([graph[:, pool].getnnz(axis=1) < len(pool) for pool in domains.values()], axis=0)
        self.users = np.flatnonzero((self.items.lengths > 0) & rest)
        if not len(self.users):
            raise DataError("LightGCN: no training user took something but not everything of each domain")
        self.width = graph.shape[1]
        self.taken = np.sort(self.items.owner * self.width + self.items.values)
        self.pools = [domains[d] for d in DOMAINS if d in domains]
        self.side = np.zeros(self.width, dtype=np.int64)
        for number, pool in reversed(list(enumerate(self.pools))):  # x last: a linked item's negatives come from x
            self.side[pool] = number

    def draw(self, count: int) -> tuple[Array, Array, Array]:
        user = self.rng.choice(self.users, count)
        starts, lengths = self.items.offsets[user], self.items.lengths[user]
        positive = self.items.values[starts + (self.rng.random(count) * lengths).astype(np.int64)].astype(np.int64)
        side = self.side[positive]
        negative = self._draw_items(side)
        while True:
            flat = user * self.width + negative
            hit = located(self.taken, flat)[1]
            if not hit.any():
                return user, positive, negative
            negative[hit] = self._draw_items(side[hit])

    def _draw_items(self, side: Array) -> Array:
        uniform = self.rng.random(len(side))
        sizes = np.array([len(pool) for pool in self.pools])
        index = np.minimum((uniform * sizes[side]).astype(np.int64), sizes[side] - 1)
        return np.concatenate(self.pools)[(np.cumsum(sizes) - sizes)[side] + index]
