"""CDRIB: a user's vector of one domain must be able to tell what it takes in the other.

Cao et al., "Cross-domain recommendation to cold-start users via variational information bottleneck", ICDE 2022 (code:
cjx96/CDRIB). One graph encoder a domain (:mod:`i2vae_lib.model.graph_encoders`); the vector of a user or an item is
everything that its layers gave, the last one sampled, L d dimensions for L layers:

    r^d_u = [hidden_1 ; ... ; hidden_{L-1} ; z],  r^d_i alike        score of (u, i in d) = r_u . r^d_i

with r_u = r^d_u (in-domain) or, for a user of both domains, that of the other one (cross-domain):

    loss = sum over d of [BCE of in-domain scores + BCE of cross-domain scores]
           + kl_weight sum over d of [beta KL(z^d_u || N(0, I)) + KL(z^d_i || N(0, I))]
           + contrast,

    contrast = mean relu(m - D(r^X_u, r^Y_u) + D(r^X_u, r^Y_v)) + mean relu(m - D(r^X_u, r^Y_u) + D(r^X_w, r^Y_u))

with a BCE of a positive and one negative, means over interactions; KLs sum over dimensions and are means over users or
items; D an MLP with a sigmoid on [r^X ; r^Y], u some users of both domains, v and w random users of Y and of X.

Made for users who are cold in one domain. A cold row asks with the other domain's vector, a warm row with its own
domain's (the literature has no rule for a warm user of both). A batch is interactions of both domains, and the whole
graph goes through the encoders once a batch.

Departs
    - users of both domains are trained in-domain as well as cross-domain, since their warm rows ask in-domain; the
      code trains them cross-domain alone. The in-domain BCE is a mean over all interactions of the domain, the
      cross-domain one over those of users of both;
    - who has both domains is looked up; the code reads it off ranges of numbers, and asks for a warm user with the
      other domain's vector too;
    - partners v and w are never u itself; the contrast is the hinge, the code's default (its BCE variant is left out);
    - log-variances clamped to [-10, 4], starting at ``model.initial_log_variance``, prior N(0, I). The code has
      sigma = exp(0.1 + 0.9 softplus(min(s, 0.4))) >= 1.1 and the prior N(0, 2.5^2): hence ``cdrib.kl_weight``;
    - tables start at N(0, 1 / d), as everywhere in this kit; the code's at N(0, 1);
    - beta weighs the users' KL alone, as in the code; in the paper that of users and items;
    - batches of 16,384 interactions (the code: 1024), since each step sends the full graph through: a sixteenth of the
      steps an epoch, seven on cloth_sport, so that 100 epochs may not be enough; the learning rate of
      ``params/tuning.yaml`` goes up with the square root of sixteen. One rate throughout, one best epoch for both;
    - an evaluation row is a new user: zero vectors, edges to its histories, one pass with the items' messages frozen,
      the posterior mean. Under ``temporal`` known users keep their trained vectors where they had interactions, but not
      in validation rows made cold.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib.data.rows import DOMAINS, Array, Rows, other
from i2vae_lib.generators.psg import Generator
from i2vae_lib.model.graph_encoders import VBGE, Bipartite, Triples, lines
from i2vae_lib.model.latents import kl, standard_like
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.systems.graph_encoded import GraphEncoded, reconstruction
from i2vae_lib.recommenders.trained import dot
from i2vae_lib.training import CostAndParts, Stage

_CRITIC = 100  # units of the discriminator's second layer


class _Bottleneck(nn.Module):
    """All tables and encoders, and the discriminator."""

    def __init__(self, users: Mapping[str, int], items: Mapping[str, int], p: Parameters):
        super().__init__()
        d, own = p.model.d, p.cdrib
        self.users = nn.ModuleDict({key: nn.Embedding(users[key], d) for key in DOMAINS})
        self.items = nn.ModuleDict({key: nn.Embedding(items[key], d) for key in DOMAINS})
        self.encoders = nn.ModuleDict({key: VBGE(d, own.layers, own.dropout) for key in DOMAINS})
        self.critic = nn.Sequential(
            nn.Linear(2 * own.layers * d, d), nn.ReLU(), nn.Linear(d, _CRITIC), nn.ReLU(), nn.Linear(_CRITIC, 1)
        )

    def agreement(self, x: Tensor, y: Tensor) -> Tensor:
        """D of a user of X and one of Y, in 0…1: [k, L d] each -> [k]."""
        return torch.sigmoid(self.critic(torch.cat([x, y], dim=1))[:, 0])


def hinge(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean of relu(margin - positive + negative)."""
    return F.relu(margin - positive + negative).mean()


def counterparts(graphs: Mapping[str, Bipartite], users: int) -> dict[str, Array]:
    """Each domain's users' lines in the other domain, int64 [m]; -1 where they have none."""
    line = {d: np.full(users, -1, dtype=np.int64) for d in graphs}
    for d, graph in graphs.items():
        line[d][graph.users] = np.arange(len(graph.users))
    return {d: line[other(d)][graph.users] for d, graph in graphs.items()}


def draw_contrast(twins: Mapping[str, Array], count: int, rng: np.random.Generator) -> Tensor | None:
    """Up to ``count`` users of both domains, and partners that are somebody else; None where there is nobody.

    Returns
    -------
    int64 [4, k]
        Lines of the graphs: the users in X and in Y, another user of X and another one of Y.
    """
    overlapping = np.flatnonzero(twins["x"] >= 0)
    if not len(overlapping) or min(len(one) for one in twins.values()) < 2:
        return None
    x = rng.permutation(overlapping)[:count]
    found = [x, twins["x"][x]]
    for d, anchor in zip(DOMAINS, found[:2], strict=True):
        drawn = rng.integers(0, len(twins[d]) - 1, len(anchor))
        found.append(drawn + (drawn >= anchor))  # the anchor's own line is left out
    return torch.from_numpy(np.stack(found))


class CDRIB(GraphEncoded):
    """``cdrib``."""

    name = "cdrib"

    twins: Mapping[str, Tensor]  # of training users, by :func:`counterparts`

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        super().prepare(train, generator)
        twins = counterparts(self.graphs, len(self.user_ids))
        self.twins = {d: torch.from_numpy(one).to(self.device) for d, one in twins.items()}

    def network(self, users: Mapping[str, int]) -> nn.Module:
        return _Bottleneck(users, self.sizes, self.params)

    def stages(self, train: Rows) -> Iterator[Stage]:
        yield replace(self.stage("cdrib"), weight_decay=self.own.weight_decay)

    def batches(self, rng: np.random.Generator) -> Iterator[Mapping[str, Any]]:
        twins = {d: one.cpu().numpy() for d, one in self.twins.items()}
        for batch in super().batches(rng):
            contrast = draw_contrast(twins, self.own.contrasted, rng)
            yield batch if contrast is None else {**batch, "contrast": contrast}

    def loss(self, batch: Mapping[str, Any], epoch: int, generator: torch.Generator | None) -> CostAndParts:
        own, module = self.params.cdrib, self.module
        users, items = {}, {}
        parts: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for d, graph in self.graphs.items():
            of_users, of_items = module.encoders[d](module.users[d].weight, module.items[d].weight, graph, generator)
            users[d], items[d] = of_users.concatenated(generator), of_items.concatenated(generator)
            for name, encoded, weight in (("users", of_users, own.beta), ("items", of_items, 1.0)):
                parts[f"kl/{name} {d}"] = kl(encoded.posterior, standard_like(encoded.posterior)).mean()
                weights[f"kl/{name} {d}"] = own.kl_weight * weight
        for d in DOMAINS:
            if d not in batch:
                continue
            one: Triples = batch[d]
            positive, negative = lines(one.item, items[d]), lines(one.negative, items[d])
            parts[f"in-domain/{d}"] = reconstruction(lines(one.user, users[d]), positive, negative)
            twin = self.twins[d][one.user]
            both = torch.nonzero(twin >= 0)[:, 0]
            if len(both):
                crossing = lines(twin[both], users[other(d)])
                parts[f"cross-domain/{d}"] = reconstruction(crossing, lines(both, positive), lines(both, negative))
        if "contrast" in batch:
            parts["contrast"] = self.contrast(batch["contrast"], users)
        value = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        return value, parts

    def contrast(self, drawn: Tensor, users: Mapping[str, Tensor]) -> Tensor:
        """The hinge of both kinds of partners, over all users' vectors [m, L d] of each domain."""
        margin, agreement = self.params.cdrib.margin, self.module.agreement
        x, y, other_x, other_y = (lines(one, users[d]) for one, d in zip(drawn, "xyxy", strict=True))
        same = agreement(x, y)
        return hinge(same, agreement(x, other_y), margin) + hinge(same, agreement(other_x, y), margin)

    def freeze(self) -> None:
        module = self.module
        for d, graph in self.graphs.items():
            users, items = module.encoders[d](module.users[d].weight, module.items[d].weight, graph, None)
            self.frozen[f"messages {d}"] = torch.stack(users.messages)
            self.frozen[f"items {d}"] = items.concatenated(None)
            self.keep_user_vectors(d, self.users_of(d), users.concatenated(None))

    def scoring_module(self) -> nn.Module:
        return nn.ModuleDict({d: self.module.encoders[d].users for d in DOMAINS})

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        warm = torch.from_numpy(rows.history[domain].lengths > 0).to(self.device)
        users = torch.where(warm[:, None], self.users(rows, domain), self.users(rows, other(domain)))
        return dot(users, self.frozen[f"items {domain}"], items)

    def users(self, rows: Rows, domain: str) -> Tensor:
        """r of the rows as users of a domain, with the posterior mean: [rows, L d]."""
        hidden, mean = self.folded(self.module.encoders[domain].users, domain, rows, domain)
        return self.known_or_folded(torch.cat([*hidden, mean], dim=1), rows, domain)
