"""Stacks: a conditional logit over what counts say of a candidate, with or without the score of SASRec-CE-M.

McFadden, "Conditional logit analysis of qualitative choice behavior", 1974. With x_f(c) the features of candidate c in
domain d and L the length of the row's own history,

    U(c) = sum_f w[d, f] exp(g_f log(1 + L)) x_f(c)        loss = mean over rows of -log softmax(U) at the target
                                                                  + decay |w|^2

over the row's target and its sampled candidates. Features: for ItemKNN, EASE, a bag and ordered counts, with evidence
s >= 0, log(1 + 50 s) and s / (largest s in the domain); log(1 + popularity); in ``stack-ce`` also the score of
:mod:`i2vae_lib.recommenders.systems.sasrec_ce`, merged. All w start at .3 and all g at 0; Adam, each step on all rows.

No published system, and no reference: the yardstick of a mere combination. The rankers learn from training rows and
choose on validation rows what they always choose there; w and g are fitted on validation rows, because the counts
already contain the targets of training rows. So that a stack's validation figures are not those of rows that it was
fitted on, they are cross-fitted: users are parted by a hash into ``stack.folds``, and each part is ranked by weights
fitted on the others. The stack that is kept is fitted on all of them.

Departs
    - no part of this is of a paper; settings are those of a prototype;
    - settings of the rankers, and the epoch of SASRec-CE-M, are chosen on all validation rows, as everybody's are, and
      not anew for each part of the users.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib.data.rows import DOMAINS, PAD, Array, Catalogue, Rows, batched, hashed, popularity
from i2vae_lib.evaluation import refuse_non_finite, sample_negatives, selection_metric
from i2vae_lib.generators.cooccurrence import Kernel, dense, scores_of
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.generators.psg import Generator
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import contract
from i2vae_lib.recommenders.references.ease import EASE
from i2vae_lib.recommenders.references.itemknn import ItemKNN
from i2vae_lib.recommenders.references.ordered_counts import OrderedCounts
from i2vae_lib.recommenders.systems.sasrec_ce import SASRecCEM
from i2vae_lib.recommenders.trained import StoredRecommender, Trained, solved_epoch
from i2vae_lib.training import Callbacks, State

SCALE = 50.0  # of evidence inside the logarithm
TINY = 1e-9
CHUNK = 256  # rows at once: a few dense lines of the domain for each


class Logit(nn.Module):
    """Weights of features by domain, and how each grows or falls with the length of the own history."""

    def __init__(self, features: int):
        super().__init__()
        self.weights = nn.Parameter(torch.full((len(DOMAINS), features), 0.3))
        self.growth = nn.Parameter(torch.zeros(features))

    def forward(self, features: Tensor, domain: Tensor, length: Tensor) -> Tensor:
        """features [B, k, f], domain int64 [B], length float [B] -> utilities [B, k]."""
        factors = self.weights[domain] * torch.exp(length.log1p()[:, None] * self.growth)
        return torch.bmm(features, factors[:, :, None])[:, :, 0]


class _Stack(StoredRecommender):
    """Both stacks; a class of its own for each below."""

    RANKERS: ClassVar[tuple[type[Any], ...]] = (ItemKNN, EASE, OrderedCounts)

    def __init__(self, catalogue: Catalogue, params: Parameters):
        super().__init__(catalogue, params)
        self.unified = Unified(catalogue)
        self.rankers: dict[str, Any] = {one.name: one(catalogue) for one in self.RANKERS}
        self.learners = self.learnt_beside()

    def learnt_beside(self) -> tuple[Trained, ...]:
        """Unfitted systems whose scores are features."""
        return ()

    @property
    def width(self) -> int:
        """Features of a candidate: two of each ranker and of a bag, popularity, and one of each learner."""
        return 2 * (len(self.RANKERS) + 1) + 1 + len(self.learners)

    def build(self, weights: torch.Generator) -> nn.Module:
        return Logit(self.width)

    def fit(
        self,
        train: Rows,
        validation: Rows,
        *,
        params: Parameters,
        generator: Generator | None,
        rng: np.random.Generator,
        callbacks: Callbacks,
    ) -> Self:
        """Fit learners (with checkpoints) and rankers on ``train``, then the logit on ``validation``."""
        self.params = params
        for learner in self.learners:
            learner.fit(train, validation, params=params, generator=None, rng=rng, callbacks=callbacks)
        start = time.perf_counter()
        self.popularity = popularity(train)
        for ranker in self.rankers.values():
            ranker.learn(train, validation, params)
        self.part_counts()
        negatives = sample_negatives(validation, params.evaluation.negatives, params.split.data_seed)
        choices = Choices.of(self, validation, negatives)
        self.module = self.fitted(choices)
        utilities = self.cross_fitted(choices, hashed(choices.rows.user, "stack", params.split.data_seed))
        whole = contract.gather(self.popularity, validation, np.concatenate([validation.target[:, None], negatives], 1))
        whole[choices.at] = utilities
        learnt = time.perf_counter()
        refuse_non_finite(self, whole, validation)
        target, others, there = whole[:, :1], whole[:, 1:], negatives != PAD
        counts = {"greater_sampled": others > target, "ties_sampled": others == target}
        ranks = pd.DataFrame({name: (which & there).sum(axis=1) for name, which in counts.items()})
        found = selection_metric(ranks, validation)
        line = solved_epoch(len(train), start, learnt, found) | {"loss": float(choices.cost(self.module).detach())}
        before = [{"stage": 1.0} | one for learner in self.learners for one in learner.state.history]
        self.state = State(1, 0, found["ndcg@10"], {}, [*before, {"stage": 2.0} | line if before else line])
        self.module = self.module.to(self.device)
        return self

    def part_counts(self) -> None:
        """Of fitted rankers: ordered counts without their weight of popularity, and a bag beside them."""
        ordered = self.rankers[OrderedCounts.name].left_out
        self.counts = (*ordered.reweighted(Kernel(ordered.p.shrinkage)), ordered)

    def features(self, rows: Rows, domain: str, items: Array) -> Array:
        """Of candidates [B, k] or [1, k] of rows that all ask for ``domain``: float32 [B, k, features]."""
        told = [self.rankers[one.name].evidence(rows, domain) for one in (ItemKNN, EASE)]
        told += map(dense, scores_of(self.counts, rows, domain))
        items = np.broadcast_to(items, (len(rows), items.shape[1]))
        found = []
        for evidence in told:
            largest = np.maximum(evidence.max(axis=1, keepdims=True), TINY)
            positive = np.maximum(np.take_along_axis(evidence, items - 1, axis=1), 0.0)
            found += [np.log1p(SCALE * positive), positive / largest]
        found.append(np.log1p(self.popularity[domain][items]))
        asked = torch.from_numpy(np.array(items)).to(self.device)
        found += [one.scores(rows, domain, asked).detach().cpu().numpy() for one in self.learners]
        return np.stack(found, axis=2).astype(np.float32)

    def fitted(self, choices: Choices) -> Logit:
        """A logit of these choices."""
        p, logit = self.params.stack, Logit(self.width)
        optimizer = torch.optim.Adam(logit.parameters(), lr=p.learning_rate)
        for _ in range(p.steps):
            optimizer.zero_grad()
            value = choices.cost(logit) + p.decay * logit.weights.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return logit

    def cross_fitted(self, choices: Choices, key: Array) -> Array:
        """Utilities of each row by a logit of the rows whose ``key`` falls into another fold: float32 [n, k]."""
        part = key % np.uint64(self.params.stack.folds)
        found = np.zeros(choices.there.shape, dtype=np.float32)
        for fold in range(self.params.stack.folds):
            inside = np.flatnonzero(part == fold)
            if len(inside):
                logit = self.fitted(choices.take(np.flatnonzero(part != fold)))
                with torch.no_grad():
                    found[inside] = choices.take(inside).utilities(logit).numpy()
        return found

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        parts = []
        for at in batched(np.arange(len(rows)), CHUNK):
            wanted = items.cpu().numpy()[at if len(items) > 1 else [0]]
            features = torch.from_numpy(self.features(rows.take(at), domain, wanted)).to(self.device)
            parts.append(self.module(features, *(one.to(self.device) for one in _asked_by(rows.take(at)))))
        return torch.cat(parts)

    def save(self, folder: Path) -> None:
        """Weights and popularity, and every ranker and learner in a folder of its own."""
        for part in (*self.rankers.values(), *self.learners):
            part.save(folder / part.name)
        super().save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        found = super().load(folder)
        found.rankers = {name: type(one).load(Path(folder) / name) for name, one in found.rankers.items()}
        found.learners = tuple(type(one).load(Path(folder) / one.name) for one in found.learners)
        found.part_counts()
        return found


def _asked_by(rows: Rows) -> tuple[Tensor, Tensor]:
    """Target domain and length of the own history of each row."""
    return torch.from_numpy(rows.domain.astype(np.int64)), torch.from_numpy(rows.lengths("own").astype(np.float32))


@dataclass(frozen=True)
class Choices:
    """Rows that have a history, with the features of what each could have been: the target first."""

    rows: Rows
    at: Array  # their positions among the rows that were given
    features: Tensor  # float32 [n, k, features]
    there: Tensor  # bool [n, k]: a row may have fewer candidates

    @classmethod
    def of(cls, stack: _Stack, rows: Rows, negatives: Array) -> Self:
        at = np.flatnonzero(~contract.without_evidence(rows))
        rows, negatives = rows.take(at), negatives[at]
        there = np.concatenate([np.ones((len(rows), 1), dtype=bool), negatives != PAD], axis=1)
        items = np.concatenate([rows.target[:, None], np.where(there[:, 1:], negatives, rows.target[:, None])], axis=1)
        features = np.zeros((*items.shape, stack.width), dtype=np.float32)
        for d in DOMAINS:
            positions = rows.of(d)
            for here in batched(positions, CHUNK):
                features[here] = stack.features(rows.take(here), d, items[here].astype(np.int64))
        return cls(rows, at, torch.from_numpy(features), torch.from_numpy(there))

    def take(self, index: Array) -> Self:
        return type(self)(self.rows.take(index), self.at[index], self.features[index], self.there[index])

    def utilities(self, logit: nn.Module) -> Tensor:
        return logit(self.features, *_asked_by(self.rows))

    def cost(self, logit: nn.Module) -> Tensor:
        """Mean over rows of -log softmax at the target."""
        found = self.utilities(logit).masked_fill(~self.there, -torch.inf)
        return F.cross_entropy(found, torch.zeros(len(found), dtype=torch.int64))


class StackCounts(_Stack):
    """``stack-counts``: counts alone."""

    name = "stack-counts"


class StackCE(_Stack):
    """``stack-ce``: counts and the score of SASRec-CE-M."""

    name = "stack-ce"

    def learnt_beside(self) -> tuple[Trained, ...]:
        return (SASRecCEM(self.catalogue, self.params),)
