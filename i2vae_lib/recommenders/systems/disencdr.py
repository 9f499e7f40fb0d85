"""DisenCDR: what a user likes in one domain alone, and what it likes in both, as two latents.

Cao et al., "DisenCDR: Learning disentangled representations for cross-domain recommendation", SIGIR 2022 (code:
cjx96/DisenCDR). Posteriors come from graph encoders (:mod:`i2vae_lib.model.graph_encoders`), d is a domain:

    z^d_u, z^d_i ~ VBGE_d            specific users and items, from the graph of d
    z_u ~ q(z | X, Y)                shared: a users' path a domain, mixed after every layer (and so the posteriors' two
                                     parameters) with lambda_u = n^X_u / (n^X_u + n^Y_u), interactions of u
    score(u, i in d) = (z_u + z^d_u) . z^d_i

    loss = sum over d of [BCE(positive) + BCE(one negative)] + kl_weight (
               sum over d of [KL(z^d_u || N(0, I)) + KL(z^d_i || N(0, I))]
               + (1 - beta) KL(q(z | X, Y) || N(0, I)) + beta sum over d of KL(q(z | X, Y) || q(z | d)))

BCE is a mean over interactions, a KL sums over dimensions and is a mean over users or items. q(z | d), a users' path
on the specific users' table, tells the shared latent from one domain: the informative regulariser. The first
``disencdr.warm_up`` epochs learn the specific latents alone.

Made for users that all have both domains, both warm. Here a user needs one: lambda_u is 0 or 1 for a user of one
domain, BCE and KL(.|| q(z | d)) run over the users that d has. A cold row asks with the shared latent alone,
z_u . z^d_i, and its lambda makes that a reading of the other domain. A batch is interactions of both domains, each with
a negative of its own domain, and the whole graph goes through the encoders once a batch.

Departs
    - one log-variance, with which sampling and KL agree, clamped to [-10, 4] and starting at
      ``model.initial_log_variance``. The code has sigma = exp(0.1 + 0.9 softplus(s)) >= 1.1 in the KL but exp(sigma) in
      the sampling, and a prior N(0, 3.6^2) where this is N(0, I): hence ``disencdr.kl_weight``;
    - tables start at N(0, 1 / d), as everywhere in this kit; the code's at N(0, 1);
    - lambda is a user's own (the paper's); the code ends with the last user's for everybody;
    - users are matched by id, not by their position in two files;
    - batches are interactions; in the code each holds a pair of both domains of one user;
    - dropout before every layer; the code has none before the last layer of the shared paths;
    - the warm-up is a stage of its own: validated by the specific latents alone, its best epoch is gone on from;
    - batches of 16,384 interactions (the code: 1024), since each step sends the full graph through: a sixteenth of the
      steps an epoch, seven on cloth_sport, so that 100 epochs may not be enough; the learning rate of
      ``params/tuning.yaml`` goes up with the square root of sixteen;
    - an evaluation row is a new user: zero vectors, edges to its histories, one pass with the items' messages frozen,
      the posterior mean. Under ``temporal`` known users keep their trained means (the specific one where they had
      interactions in that domain), but not in validation rows made cold.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from i2vae_lib.data.rows import DOMAINS, Rows
from i2vae_lib.generators.graphs import Adjacency, domain_histories
from i2vae_lib.generators.psg import Generator
from i2vae_lib.model.encoders import dropout
from i2vae_lib.model.graph_encoders import VBGE, Bipartite, Triples, UserOrItemPath, lines, pooling
from i2vae_lib.model.latents import Gaussian, kl, sample, standard_like
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.systems.graph_encoded import GraphEncoded, reconstruction
from i2vae_lib.recommenders.trained import dot
from i2vae_lib.training import CostAndParts, Stage


class _Disentangled(nn.Module):
    """All tables and encoders; tables of users have a line for each user that the domain has."""

    def __init__(self, users: Mapping[str, int], items: Mapping[str, int], p: Parameters):
        super().__init__()
        d, own = p.model.d, p.disencdr
        self.users = nn.ModuleDict({key: nn.Embedding(users[key], d) for key in DOMAINS})
        self.shared_users = nn.ModuleDict({key: nn.Embedding(users[key], d) for key in DOMAINS})
        self.items = nn.ModuleDict({key: nn.Embedding(items[key], d) for key in DOMAINS})
        self.specific = nn.ModuleDict({key: VBGE(d, own.layers, own.dropout) for key in DOMAINS})
        self.alone = nn.ModuleDict({key: UserOrItemPath(d, own.layers, own.dropout) for key in DOMAINS})
        self.shared = nn.ModuleDict({key: UserOrItemPath(d, own.layers, own.dropout) for key in DOMAINS})


def shares(graphs: Mapping[str, Bipartite], users: int) -> dict[str, Tensor]:
    """Each domain's share of a user's interactions: float32 [m] of its users; lambda_u in X, 1 - lambda_u in Y.

    Parameters
    ----------
    users
        All training users.
    """
    counts = {d: np.zeros(users) for d in graphs}
    for d, graph in graphs.items():
        counts[d][graph.users] = graph.taken.lengths
    total = sum(counts.values())
    return {
        d: torch.from_numpy((counts[d] / total)[graph.users].astype(np.float32)).to(graph.index.device)
        for d, graph in graphs.items()
    }


def mixed(parts: Mapping[str, Any], share: Mapping[str, Tensor], spread: Mapping[str, Any]) -> Any:
    """sum over d of share_d * part_d, of vectors or of a posterior's two parameters.

    Parameters
    ----------
    parts
        [m_d, d] tensors, or Gaussians.
    share
        [m_d].
    spread
        Puts [m_d, d] on the lines of all users.
    """
    if isinstance(next(iter(parts.values())), Gaussian):
        fields = ({d: getattr(one, name) for d, one in parts.items()} for name in ("mean", "log_variance"))
        return Gaussian(*(mixed(one, share, spread) for one in fields))
    return sum(spread[d](share[d][:, None] * one) for d, one in parts.items())


def shared_mean(
    paths: Mapping[str, UserOrItemPath],
    messages: Mapping[str, Any],
    pools: Mapping[str, Adjacency],
    share: Mapping[str, Tensor],
) -> Tensor:
    """:meth:`DisenCDR.shared_posterior` of new users, whose layer-0 vectors are zero: the mean, [rows, d]."""
    spread = dict.fromkeys(paths, nn.Identity())  # all rows have a line in both domains
    both: Any = messages["x"][0].new_zeros(len(share["x"]), messages["x"][0].shape[1])
    for layers in zip(*(zip(path.layers, messages[d], strict=True) for d, path in paths.items()), strict=True):
        parts = {d: layer.receive(pools[d] @ sent, both) for d, (layer, sent) in zip(paths, layers, strict=True)}
        both = mixed(parts, share, spread)
    return both.mean


class DisenCDR(GraphEncoded):
    """``disencdr``."""

    name = "disencdr"

    share: Mapping[str, Tensor]  # of training users, by :func:`shares`
    sharing = True  # the shared latent is in use: after the warm-up

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        super().prepare(train, generator)
        self.share = shares(self.graphs, len(self.user_ids))

    def network(self, users: Mapping[str, int]) -> nn.Module:
        return _Disentangled(users, self.sizes, self.params)

    def stages(self, train: Rows) -> Iterator[Stage]:
        if self.own.warm_up:
            self.sharing = False
            yield replace(self.stage("warm-up"), epochs=self.own.warm_up)
        self.sharing = True
        yield self.stage("disencdr")

    def shared_posterior(self, generator: torch.Generator | None) -> tuple[Gaussian, dict[str, list[Tensor]]]:
        """q(z | X, Y) of all training users, [users, d], and the messages of each domain's layers."""
        count = len(self.user_ids)

        def onto(index: Tensor) -> Any:
            return lambda part: part.new_zeros(count, part.shape[1]).index_copy(0, index, part)

        spread = {d: onto(graph.index) for d, graph in self.graphs.items()}
        vectors = {d: self.module.shared_users[d].weight for d in self.graphs}
        messages: dict[str, list[Tensor]] = {d: [] for d in self.graphs}
        paths = [self.module.shared[d] for d in self.graphs]
        for layers in zip(*(path.layers for path in paths), strict=True):
            parts = {}
            for (d, graph), layer, path in zip(self.graphs.items(), layers, paths, strict=True):
                entering = dropout(vectors[d], path.rate, generator)
                parts[d], sent = layer(entering, graph.to_items, graph.to_users)
                messages[d].append(sent)
            both = mixed(parts, self.share, spread)
            if not isinstance(both, Gaussian):
                vectors = {d: lines(graph.index, both) for d, graph in self.graphs.items()}
        return both, messages

    def loss(self, batch: Mapping[str, Triples], epoch: int, generator: torch.Generator | None) -> CostAndParts:
        own, module = self.params.disencdr, self.module
        parts: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        shared, z_shared = None, None
        if self.sharing:
            shared, _ = self.shared_posterior(generator)
            z_shared = sample(shared, generator)
            parts["kl/shared"] = kl(shared, standard_like(shared)).mean()
            weights["kl/shared"] = own.kl_weight * (1 - own.beta)
        for d, graph in self.graphs.items():
            tables = module.users[d].weight, module.items[d].weight
            users, items = (one.posterior for one in module.specific[d](*tables, graph, generator))
            for name, one in (("users", users), ("items", items)):
                parts[f"kl/{name} {d}"] = kl(one, standard_like(one)).mean()
                weights[f"kl/{name} {d}"] = own.kl_weight
            if shared is not None:
                alone = module.alone[d](tables[0], graph.to_items, graph.to_users, generator).posterior
                both = Gaussian(lines(graph.index, shared.mean), lines(graph.index, shared.log_variance))
                parts[f"kl/informative {d}"] = kl(both, alone).mean()
                weights[f"kl/informative {d}"] = own.kl_weight * own.beta
            z_users, z_items = sample(users, generator), sample(items, generator)
            if d in batch:
                one = batch[d]
                user = lines(one.user, z_users)
                if z_shared is not None:
                    user = user + lines(graph.index[one.user], z_shared)
                positive, negative = lines(one.item, z_items), lines(one.negative, z_items)
                parts[f"reconstruction/{d}"] = reconstruction(user, positive, negative)
        value = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        return value, parts

    def freeze(self) -> None:
        module = self.module
        shared, messages = self.shared_posterior(None)
        self.keep_user_vectors("shared", self.user_ids, shared.mean)
        for d, graph in self.graphs.items():
            users, items = module.specific[d](module.users[d].weight, module.items[d].weight, graph, None)
            self.frozen[f"messages shared {d}"] = torch.stack(messages[d])
            self.frozen[f"messages specific {d}"] = torch.stack(users.messages)
            self.frozen[f"items {d}"] = items.posterior.mean
            self.keep_user_vectors(f"specific {d}", self.users_of(d), users.posterior.mean)

    def scoring_module(self) -> nn.Module:
        module = self.module
        specific = {f"specific {d}": module.specific[d].users for d in DOMAINS}
        return nn.ModuleDict(specific | {f"shared {d}": module.shared[d] for d in DOMAINS})

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        warm = torch.from_numpy(rows.history[domain].lengths > 0).to(self.device)
        users = warm[:, None] * self.specific_users(rows, domain)
        if self.sharing:
            users = users + self.shared_users(rows)
        return dot(users, self.frozen[f"items {domain}"], items)

    def shared_users(self, rows: Rows) -> Tensor:
        """Means of the shared latent, [rows, d]."""
        counts = {d: domain_histories(rows, d).getnnz(axis=1) for d in DOMAINS}
        total = np.maximum(sum(counts.values()), 1)
        share = {d: torch.from_numpy((counts[d] / total).astype(np.float32)).to(self.device) for d in DOMAINS}
        pools = {d: pooling(rows, d, self.device) for d in DOMAINS}
        messages = {d: self.frozen[f"messages shared {d}"] for d in DOMAINS}
        return self.known_or_folded(shared_mean(self.module.shared, messages, pools, share), rows, "shared")

    def specific_users(self, rows: Rows, domain: str) -> Tensor:
        """Means of the specific latent, [rows, d]; of a row without an own history they say nothing."""
        name = f"specific {domain}"
        _, vectors = self.folded(self.module.specific[domain].users, name, rows, domain)
        return self.known_or_folded(vectors, rows, name)
