"""What CDRIB and DisenCDR share: posteriors of :mod:`i2vae_lib.model.graph_encoders`, and how new users get vectors.

A new user goes through the trained paths of a domain's users. Of the training graph these need only the messages that
the items send, which are frozen.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from i2vae_lib.data.rows import DOMAINS, Rows
from i2vae_lib.data.user_sequences import user_sequences
from i2vae_lib.generators.psg import Generator
from i2vae_lib.model import graph_encoders
from i2vae_lib.model.graph_encoders import Bipartite, UserOrItemPath
from i2vae_lib.model.likelihoods import bernoulli
from i2vae_lib.recommenders.trained import NOTHING, Trained
from i2vae_lib.training import CostAndParts, Stage


def reconstruction(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean BCE of the users' positives and negatives, all [m, d]."""
    return bernoulli((user * positive).sum(dim=1), (user * negative).sum(dim=1, keepdim=True)).mean()


class GraphEncoded(Trained):
    """A system of graph encoders. A loaded one has no training graph, and tables of users without a line."""

    graphs: Mapping[str, Bipartite] = NOTHING
    user_ids: list[str]  # ids of the training users

    @abstractmethod
    def network(self, users: Mapping[str, int]) -> nn.Module:
        """All tables and encoders, for so many users of each domain."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Any], epoch: int, generator: torch.Generator | None) -> CostAndParts:
        """The loss of a batch; KLs are over all users and items. Without a generator nothing is random."""

    @abstractmethod
    def freeze(self) -> None:
        """Put what :meth:`scores` needs of the training graph into ``frozen``.

        Among it the messages [layers, items, d] of each users' path.
        """

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        self.graphs = graph_encoders.bipartites(train, self.device)
        self.user_ids = [str(one) for one in user_sequences(train).users]

    def build(self, weights: torch.Generator) -> nn.Module:
        module = self.network({d: len(self.graphs[d].users) if self.graphs else 0 for d in DOMAINS})
        graph_encoders.initialise_encoders(module, weights, self.params.model.initial_log_variance)
        return module

    def batches(self, rng: np.random.Generator) -> Iterator[Mapping[str, Any]]:
        """One epoch."""
        yield from graph_encoders.interaction_batches(self.graphs, self.own.batch_size, rng)

    def stage(self, name: str) -> Stage:
        """A training on all interactions."""
        rows = sum(len(graph.taken.values) for graph in self.graphs.values())
        return Stage(name, self.module, self.loss, self.batches, rows, -(-rows // self.own.batch_size))

    @torch.no_grad()
    def update_tables(self) -> None:
        if self.graphs:
            self.freeze()

    def users_of(self, domain: str) -> list[str]:
        """Ids of the domain's training users, in the order of its tables."""
        return [self.user_ids[user] for user in self.graphs[domain].users]

    def folded(self, path: UserOrItemPath, name: str, rows: Rows, domain: str) -> tuple[list[Tensor], Tensor]:
        """:meth:`~i2vae_lib.model.graph_encoders.UserOrItemPath.folded` of rows as new users of a domain."""
        pool = graph_encoders.pooling(rows, domain, self.device)
        return path.folded(list(self.frozen[f"messages {name}"]), pool)
