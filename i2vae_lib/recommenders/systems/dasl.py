"""DASL: dual attentive sequential learning, two domains that read each other's sequences and share what a user is.

Li, Jiang et al., "Dual attentive sequential learning for cross-domain click-through rate prediction", KDD 2021 (code:
lpworld/DASL). For a row of user u that asks for domain d, with items s_t of its own and c_t of its other history,
item tables V, user tables U and one GRU a domain::

    H = GRU_d([V^d_{s_t}; U^d_u])        C = GRU_o([V^o_{c_t}; U^d_u])                    the GRU is the items' domain's
    alpha = softmax over the steps of both of a . tanh(A z + b)                           dual attention
    p = sum_t alpha_t H_t + sum_t alpha'_t C_t
    logit(i) = MLP([p; V^d_i; U^d_u]) + item bias + user bias                             sigmoid layers
    loss = -log sigmoid(logit(target)) - sum_j log sigmoid(-logit(j)) + dual
    dual = w (1 - cos(U^x_u, U^y_u W)) + w' ||W^T W - I||^2                               dual embedding, users of both

Made for the probability of a click, of users known and busy in both domains, from logs that hold clicks and other
impressions. Here a training row is a positive, with its own history and its other one; uniform items beside it are the
negatives. Rows of one domain may have no other history (attention then has the own steps alone), or, cold, no own one.

Departs
    - both segments are pooled, as the equation has it; the released code adds up the own steps alone, so that a cold
      row would have next to no preference;
    - item tables start at N(0, 1 / d), the code's at Glorot's scale;
    - no target in its own history (the code's windows hold it) and, of timestamped logs, no future of the other domain
      (the code pairs windows by index; the released files do not tell); steps that are padding have no weight; windows
      are of T items (the code: 10, as in the first point of the search);
    - a row's target is its one positive (of the items before it nobody knows what the other domain held by then), and
      negatives are sampled, where the original has labels;
    - Adam steps on a batch of one domain and the dual loss of its users together; the code takes plain SGD steps with
      clipped gradients, on the domains in turn and on the dual loss of one batch an epoch;
    - the cosine distance is one of normalised vectors and the orthogonality is in the loss: the released code has
      neither (an unbounded dot product, and a constraint that no loss contains); W starts as the identity;
    - dropout has rate 0.1 and is off when scoring (the code keeps 10 %, always);
    - no batch normalisation: the code never trains its statistics, so that it is an affine layer before a linear
      one, which is the linear layer;
    - batches of ``training.batch_size`` rows (the code: 32);
    - user vectors and the items' in the MLP have the model's width d, as the GRU has (the code: 64 against 128);
    - evaluation users are unknown: their vector in d is the mean of their items', through a matrix fitted by least
      squares on training users (:func:`.fold_in.mean_mapped`); without an own history it is
      that of the other domain through W (the code maps nobody when scoring); no user bias, which orders nothing.
      Under ``temporal`` known users keep their vectors, but not in validation rows made cold.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib.data.batches import Tensors, as_indices, draw_negatives
from i2vae_lib.data.rows import DOMAINS, PAD, Array, Ragged, Rows, other
from i2vae_lib.data.user_sequences import right_padded, user_sequences
from i2vae_lib.generators.graphs import binary, domain_histories
from i2vae_lib.generators.psg import Generator
from i2vae_lib.model.encoders import dropout, initialise
from i2vae_lib.model.likelihoods import bernoulli
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.systems.fold_in import mean_mapped
from i2vae_lib.recommenders.trained import NOTHING, Trained, stream_stage
from i2vae_lib.training import CostAndParts, Stage

BLOCK = 1 << 22  # float32 numbers of the first layer that are held at once when scoring: 16 MiB


@dataclass(frozen=True)
class _Asked(Tensors):
    """Training rows that ask for one domain. Histories are padded with 0 on the right: a GRU starts at the left."""

    own: Tensor  # int64 [B, L], L <= T
    other: Tensor  # int64 [B, M], M <= T
    user: Tensor  # int64 [B] line of the domain's user table
    items: Tensor  # int64 [B, 1 + k]: the target, then negatives
    pairs: Tensor  # int64 [m, 2] lines in x and in y of those of the users who have both


def shares(logits: Tensor, valid: Tensor) -> Tensor:
    """Softmax over the valid steps: [B, L] each -> [B, L], all 0 where none is valid."""
    lowest = torch.finfo(logits.dtype).min  # not -inf: a row without any step would be NaN, and so its gradient
    return torch.softmax(logits.masked_fill(~valid, lowest), dim=1) * valid


def orthogonality(matrix: Tensor) -> Tensor:
    """||W^T W - I||_F^2."""
    return (matrix.T @ matrix - torch.eye(len(matrix), device=matrix.device)).square().sum()


class _Head(nn.Module):
    """MLP([preference; item; user]). Its first layer is linear, so each part goes through it once, not once a pair."""

    def __init__(self, d: int, hidden: tuple[int, int]):
        super().__init__()
        self.first = nn.Linear(3 * d, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.last = nn.Linear(hidden[1], 1)

    def of_rows(self, preference: Tensor, user: Tensor) -> Tensor:
        """The rows' part of the first layer: [B, d] each -> [B, hidden]."""
        weight = self.first.weight.chunk(3, dim=1)
        return preference @ weight[0].T + user @ weight[2].T + self.first.bias

    def of_items(self, vectors: Tensor) -> Tensor:
        """The items' part: [..., d] -> [..., hidden]."""
        return vectors @ self.first.weight.chunk(3, dim=1)[1].T

    def forward(self, rows: Tensor, items: Tensor) -> Tensor:
        """Both parts, [B, hidden] and [B or 1, k, hidden] -> [B, k]."""
        logits: Tensor = self.last(torch.sigmoid(self.second(torch.sigmoid(rows[:, None] + items))))
        return logits[..., 0]


class _Side(nn.Module):
    """What a domain owns: its tables, the GRU of its items, and the attention and head of rows that ask for it."""

    def __init__(self, items: int, users: int, p: Parameters):
        super().__init__()
        d = p.model.d
        self.items = nn.Embedding(items + 1, d, padding_idx=PAD)
        self.users = nn.Embedding(users, d)
        self.item_bias = nn.Parameter(torch.zeros(items + 1))
        self.user_bias = nn.Parameter(torch.zeros(users))
        self.gru = nn.GRU(2 * d, d, batch_first=True)
        self.attention = nn.Sequential(
            nn.Linear(d, p.dasl.attention), nn.Tanh(), nn.Linear(p.dasl.attention, 1, bias=False)
        )
        self.head = _Head(d, p.dasl.hidden)

    def read(self, history: Tensor, user: Tensor) -> Tensor:
        """Item numbers [B, L] of this domain and user vectors [B, d] -> states [B, L, d], 0 for rows without any."""
        some = (history[:, 0] != PAD).nonzero()[:, 0]
        vectors = self.items(history[some])
        steps = torch.cat([vectors, user[some, None].expand_as(vectors)], dim=2)
        empty = steps.new_zeros(*history.shape, vectors.shape[2])
        return empty.index_copy(0, some, self.gru(steps)[0]) if len(some) else empty


class _Dual(nn.Module):
    """Both sides, and the map of user vectors between them."""

    def __init__(self, sizes: Mapping[str, int], users: Mapping[str, int], p: Parameters):
        super().__init__()
        self.x, self.y = (_Side(sizes[d], users[d], p) for d in DOMAINS)
        self.map = nn.Parameter(torch.eye(p.model.d))  # W: of y's user vectors to x's; its transpose leads back

    def side(self, domain: str) -> _Side:
        return self.x if domain == "x" else self.y

    def preference(self, domain: str, own: Tensor, opposite: Tensor, user: Tensor) -> Tensor:
        """Item numbers [B, L] and [B, M], user vectors of the domain [B, d] -> [B, d]; 0 for rows without history."""
        side = self.side(domain)
        states = torch.cat([side.read(own, user), self.side(other(domain)).read(opposite, user)], dim=1)
        valid = torch.cat([own, opposite], dim=1) != PAD
        return torch.bmm(shares(side.attention(states)[:, :, 0], valid)[:, None], states)[:, 0]

    def turned(self, domain: str, vectors: Tensor) -> Tensor:
        """User vectors of the other domain as vectors of this one, [B, d]."""
        return vectors @ (self.map if domain == "x" else self.map.T)

    def distance(self, pairs: Tensor) -> Tensor:
        """Mean cosine distance of users' vectors in x to those of y, mapped: lines [m, 2] -> scalar."""
        found = F.cosine_similarity(self.x.users(pairs[:, 0]), self.turned("x", self.y.users(pairs[:, 1])), dim=1)
        return 1.0 - found.mean() if len(pairs) else found.sum()


class DASL(Trained):
    """``dasl``."""

    name = "dasl"

    users: Mapping[str, Sequence[str]]  # domain -> ids in the order of its user table
    whole: Mapping[str, Ragged] = NOTHING  # domain -> their sequences

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        found = user_sequences(train)
        has = {d: np.flatnonzero(found.sequences[d].lengths) for d in DOMAINS}
        self.users = {d: [str(one) for one in found.users[has[d]]] for d in DOMAINS}
        self.whole = {d: found.sequences[d].take(has[d]) for d in DOMAINS}

    def build(self, weights: torch.Generator) -> nn.Module:
        module = _Dual(self.sizes, {d: len(self.users[d]) for d in DOMAINS}, self.params)
        initialise(module, weights)
        for d in DOMAINS:
            # near 0, as in the released code: what a user's vector then holds is what was learnt of the user
            nn.init.xavier_uniform_(module.side(d).users.weight, generator=weights)
        return module

    def stages(self, train: Rows) -> Iterator[Stage]:
        p = self.params
        lines = {d: pd.Index(np.array(self.users[d], dtype=object)).get_indexer(pd.Index(train.user)) for d in DOMAINS}
        both = np.stack([lines[d] for d in DOMAINS], axis=1)
        rows = {d: train.of(d) for d in DOMAINS}
        lengths = {d: train.lengths("own")[rows[d]] for d in DOMAINS}

        def collate(d: str, inside: Array, rng: np.random.Generator) -> _Asked:
            at = rows[d][inside]
            own, target = train.history[d].take(at), train.target[at]
            negatives = draw_negatives(own, target, self.catalogue.size(d), p.dasl.negatives, rng)
            pairs = np.unique(both[at], axis=0)
            arrays = (
                right_padded(own, p.model.T),
                right_padded(train.history[other(d)].take(at), p.model.T),
                lines[d][at],
                np.concatenate([target[:, None], negatives], axis=1),
                pairs[(pairs >= 0).all(axis=1)],
            )
            return _Asked(*map(as_indices, arrays))

        yield stream_stage("dasl", self.module, self.loss, lengths, p.training.batch_size, collate)

    def loss(self, batch: dict[str, _Asked], epoch: int, generator: torch.Generator) -> CostAndParts:
        """Cross-entropy a row, and the dual embedding of the batch's users."""
        [(d, one)] = batch.items()
        p, side = self.params.dasl, self.module.side(d)
        user = side.users(one.user)
        preference = dropout(self.module.preference(d, one.own, one.other, user), p.dropout, generator)
        logits = side.head(side.head.of_rows(preference, user), side.head.of_items(side.items(one.items)))
        logits = logits + side.item_bias[one.items] + side.user_bias[one.user, None]
        reconstruction = bernoulli(logits[:, 0], logits[:, 1:]).mean()
        distance, skew = self.module.distance(one.pairs), orthogonality(self.module.map)
        parts = {f"reconstruction/{d}": reconstruction, "dual": distance, "orthogonality": skew}
        value = reconstruction + p.dual_weight * distance + p.orthogonality * skew
        return value, parts

    # --- scoring ---

    def update_tables(self) -> None:
        """Fit what newcomers' vectors are mapped with, to the training users' vectors as they are."""
        for d, whole in self.whole.items():
            table = self.module.side(d).items.weight[1:].detach().cpu().numpy()
            edges = binary(whole.owner, whole.values - 1, (len(whole), len(table)))
            means = mean_mapped(edges, table, np.eye(table.shape[1])).astype(np.float64)
            self.keep_user_vectors(d, self.users[d], self.module.side(d).users.weight.detach())
            users = self.module.side(d).users.weight.detach().cpu().numpy().astype(np.float64)
            # the normal equations, d x d: this is done at every validation
            inverse = np.linalg.pinv(means.T @ means, hermitian=True)
            self.frozen[f"mapping {d}"] = torch.from_numpy((inverse @ (means.T @ users)).astype(np.float32))

    def user_vectors(self, rows: Rows, domain: str) -> Tensor:
        """Of rows that ask for ``domain``: [B, d]."""
        found = {}
        for d in DOMAINS:
            table = self.module.side(d).items.weight[1:].detach().cpu().numpy()
            mapping = self.frozen[f"mapping {d}"].cpu().numpy()
            vectors = mean_mapped(domain_histories(rows, d), table, mapping)
            found[d] = self.known_or_folded(torch.from_numpy(vectors).to(self.device), rows, d)
        warm = torch.from_numpy(rows.history[domain].lengths > 0).to(self.device)
        return torch.where(warm[:, None], found[domain], self.module.turned(domain, found[other(domain)]))

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        side, T = self.module.side(domain), self.params.model.T
        own, opposite = (as_indices(right_padded(rows.history[d], T)).to(self.device) for d in (domain, other(domain)))
        user = self.user_vectors(rows, domain)
        asks = side.head.of_rows(self.module.preference(domain, own, opposite, user), user)
        table = side.head.of_items(side.items.weight)
        found = torch.empty(len(rows), items.shape[1], device=self.device)
        step = max(1, BLOCK // (items.shape[1] * table.shape[1]))
        for start in range(0, len(rows), step):
            wanted = items if len(items) == 1 else items[start : start + step]
            logits = side.head(asks[start : start + step], table[wanted])
            found[start : start + step] = logits + side.item_bias[wanted]
        return found

    def restore(self, weights: dict[str, Tensor]) -> None:
        self.users = {d: [""] * len(weights[f"{d}.users.weight"]) for d in DOMAINS}  # nobody will ask who they were
        super().restore(weights)
