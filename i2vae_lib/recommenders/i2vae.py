"""i2VAE (Ning et al., UAI 2025) as a recommender: the model, its objective and its generator under the contract.

Made for: the next item in either of two domains, for warm, one-domain, cold-start and long-tailed users.

Departs (from the paper; each docstring says why)
    - pseudo-sequences are recalled from what the row shows, cross-fitted by user folds; the paper's way, once from
      full histories with the target in them, is protocol ``released``'s (``psg.as_published``);
    - scores are dot products as in the paper (the released code has an MLP on user and item), unless
      ``model.positions`` = every;
    - padding is masked; real and pseudo sequences have their own encoders (the released code shares one);
    - log-variances, clamped; the adaptive weight's length is capped at T;
    - a row without any history is ranked by training popularity, as from every recommender here;
    - recall in two rounds, with 5 pseudo-edges a user and domain in the first (the paper gives no number);
    - further ones by choice, each with the paper's value in ``params/paper.yaml``: ``model.positions`` = every (another
      network, :mod:`i2vae_lib.model.every_position`, with evidence and recent takers), ``psg.kind`` (leave_one_out:
      counts in place of LightGCN), ``model.start`` (item vectors begin at a factorisation of counts,
      of the words of titles, or at vectors that people give: :mod:`i2vae_lib.generators.features`), ``model.path``
      (averages with corrections), ``objective.reconstruction`` (softmax over the domain), ``objective.kl_weight``.
      ``params/tuned.yaml`` says which the recipe takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from i2vae_lib.data.batches import bucketed, collate
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Rows
from i2vae_lib.evaluation import ndcg, rank, sample_negatives, selection_metric
from i2vae_lib.generators import psg
from i2vae_lib.generators.cooccurrence import LeaveOneOutCounts, item_vectors
from i2vae_lib.generators.evidence import Evidence
from i2vae_lib.generators.features import given_vectors, title_vectors
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.model import every_position
from i2vae_lib.model.i2vae import ROLES, Draws, Latents, Network, build, latent_name
from i2vae_lib.model.objective import active_units, build_objective
from i2vae_lib.params import Parameters
from i2vae_lib.processes import return_freed_memory
from i2vae_lib.recommenders.positions import WHOLE, Proposal, RowInputs, TrainingPositions
from i2vae_lib.recommenders.trained import Trained, chosen
from i2vae_lib.training import Stage

Batches = Callable[[np.random.Generator], Iterable[dict[str, Any]]]


class I2VAERecommender(Trained):
    """The model of the paper under the recommender contract."""

    name = "i2vae"

    def __init__(self, catalogue: Catalogue, params: Parameters):
        super().__init__(catalogue, params)
        self.generator: psg.Generator
        self.evidence: Evidence
        self.outside_vectors: Array | None = None  # item vectors to start from that no row tells

    @property
    def model(self) -> Network:
        """``module``, by its type."""
        return self.module

    @property
    def at_every_position(self) -> bool:
        """Whether training asks at every position."""
        return self.params.model.positions == "every"

    def prepare(self, train: Rows, generator: psg.Generator | None) -> None:
        if generator is None:
            raise ValueError("i2vae needs a pseudo-sequence generator; psg.kind = none is one too")
        self.generator = generator
        if self.at_every_position:
            self.evidence = Evidence.fit(train, self.params.evidence, self.params.protocol, self._counts_of_generator())
            self.counted = (self.evidence,)
            self._keep_evidence()
        p = self.params.model
        if p.start == "cooccurrence":
            self.start_shrinkage = self.params.psg.shrinkage
            self.start = item_vectors(train, p.d, self.start_shrinkage)
        elif p.start == "titles":
            self.outside_vectors = title_vectors(self.catalogue, p.d)
        elif p.start == "given":
            self.outside_vectors = given_vectors(str(p.vectors), self.catalogue, p.d)

    def _counts_of_generator(self) -> LeaveOneOutCounts | None:
        return self.generator.counts if isinstance(self.generator, psg.LeaveOneOutGenerator) else None

    def build(self, weights: torch.Generator) -> Network:
        unified = Unified(self.catalogue)
        start = self.outside_vectors if self.start is None else self.start
        vectors = None if start is None else {d: start[unified.of[d][1:]] for d in DOMAINS}
        if self.at_every_position:
            return every_position.build(self.params.model, self.sizes, self.evidence, vectors, self.popularity, weights)
        model = build(self.params.model, self.sizes, weights)
        if vectors is not None:
            with torch.no_grad():
                for d in DOMAINS:
                    model.items[d].get_parameter("weight")[1:] = torch.from_numpy(vectors[d])
        return model

    def stages(self, train: Rows) -> Iterator[Stage]:
        p = self.params
        objective = build_objective(p.objective, p.model.T)
        batches, steps = (self._sequences if self.at_every_position else self._rows)(train)

        def loss(batch: dict[str, Any], epoch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            return objective(self.model, batch, epoch, generator)

        yield Stage("i2vae", self.model, loss, batches, len(train), steps)

    def _rows(self, train: Rows) -> tuple[Batches, int]:
        """An epoch of training rows, and its steps."""
        p = self.params
        drawn = p.objective.negatives if p.objective.reconstruction == "bce" else 0
        items = self.recall(train)[0]

        def batches(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
            for at in bucketed(train.lengths("own"), p.training.batch_size, rng):
                yield collate(train, items, at, p.model, p.psg.arrangement, drawn, rng)

        return batches, -(-len(train) // p.training.batch_size)

    def _sequences(self, train: Rows) -> tuple[Batches, int]:
        """An epoch of training users, and its steps."""
        p = self.params
        positions = TrainingPositions.of(train, p.model.T, self.row_inputs)
        if positions.kept is not None:  # until it is trained, nothing is counted any more
            for counts in filter(None, (self._counts_of_generator(), *self.evidence.left_out)):
                counts.release()
            return_freed_memory()
        proposals = {
            d: Proposal.of(self.popularity[d], p.objective.sampled)
            for d in DOMAINS
            if self.sizes[d] > WHOLE * p.objective.sampled
        }

        def batches(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
            yield from positions.batches(p.training.batch_size, p.objective.blank_share, proposals, rng)

        return batches, -(-positions.orders.users // p.training.batch_size)

    def validator(self, validation: Rows) -> Callable[[], dict[str, float]]:
        ranked = self._ranker(validation)

        def validate() -> dict[str, float]:
            ranks, scorer = ranked()
            return selection_metric(ranks, validation) | scorer.active_units()

        return validate

    def _ranker(self, validation: Rows) -> Callable[[], tuple[pd.DataFrame, CachedScorer]]:
        """A function that ranks validation rows by the current weights; what they are shown is made once."""
        p = self.params
        negatives = sample_negatives(validation, p.evaluation.negatives, p.split.data_seed)
        shown = self.row_inputs(validation)

        def ranked() -> tuple[pd.DataFrame, CachedScorer]:
            scorer = CachedScorer(self, shown)
            return rank(scorer, validation, negatives, full=False, batch_size=p.evaluation.batch_size), scorer

        return ranked

    def choose_after_training(self, validation: Rows) -> None:
        if self.at_every_position and self.params.evidence.pooled:
            self.choose_pool_weight(validation)

    def choose_pool_weight(self, validation: Rows) -> None:
        """Choose the weight of plain counts beside the trained model (:class:`.model.every_position.EvidenceScorer`).

        By sampled NDCG@10 among ``evidence.pooled``, one weight for both domains; 0 unless the gain of the best on the
        validation rows is more than its own standard error (after the rule of Breiman et al., Classification and
        Regression Trees, 1984, which is of the error of the best value and not of the gain).
        A weight above 0 stands in the selected epoch's line of the history; ``state.best_metric`` is what it reaches.
        """
        state, ranked = self.state, self._ranker(validation)
        reached, values = {}, {}
        for weight in (0.0, *self.params.evidence.pooled):
            self._pool(weight)
            ranks = ranked()[0]
            reached[weight] = selection_metric(ranks, validation)["ndcg@10"]
            values[weight] = ndcg(ranks["greater_sampled"].to_numpy(), ranks["ties_sampled"].to_numpy(), 10)
        best = max(reached, key=lambda weight: reached[weight])
        gains = [(values[best] - values[0.0])[validation.of(d)] for d in DOMAINS]
        error = np.sqrt(sum(one.var() / max(1, len(one)) for one in gains)) / len(DOMAINS)
        chosen_weight = best if reached[best] - reached[0.0] > error else 0.0
        self._pool(chosen_weight)
        self.frozen["pool"] = torch.tensor(chosen_weight)
        if chosen_weight:
            history = [
                one | ({"pool": chosen_weight} if i == state.best_epoch else {}) for i, one in enumerate(state.history)
            ]
            self.state = replace(state, history=history, best_metric=reached[chosen_weight])

    def _pool(self, weight: float) -> None:
        for module in self.module.modules():
            if isinstance(module, every_position.EvidenceScorer):
                module.pool = weight

    def recall(self, rows: Rows) -> tuple[Array, Array]:
        """Pseudo-items of rows and their scores, int32 and float32 [rows, n]."""
        return psg.recalled(self.generator, rows)

    def row_inputs(self, rows: Rows, recalled: tuple[Array, Array] | None = None) -> RowInputs:
        """Everything that :meth:`infer` looks at.

        Parameters
        ----------
        recalled
            What :meth:`recall` gives, where the caller has it already; None: recall now.
        """
        recalled = self.recall(rows) if recalled is None else recalled
        return RowInputs(rows, recalled, self.evidence.of(rows) if self.at_every_position else None)

    def collated(self, shown: RowInputs, at: Array) -> dict[str, Any]:
        """The rows at ``at`` as tensors, by target domain."""
        p = self.params
        if shown.evidence is not None:
            return shown.last_positions(at, p.model.T)
        return collate(shown.rows, shown.recalled[0], at, p.model, p.psg.arrangement)

    @torch.no_grad()
    def infer(
        self, rows: Rows | RowInputs, recalled: tuple[Array, Array] | None = None
    ) -> Iterator[tuple[str, Any, Latents]]:
        """Posteriors of rows, by target domain (their means and log-variances; nothing is sampled).

        Parameters
        ----------
        rows
            The rows, or what :meth:`row_inputs` gave of them.
        recalled
            As in :meth:`row_inputs`.
        """
        shown = rows if isinstance(rows, RowInputs) else self.row_inputs(rows, recalled)
        for domain, side in self.collated(shown, np.arange(len(shown.rows))).items():
            here = side.to(self.device)
            yield domain, here, self.model.infer(here, domain)

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        """Scores of the candidates given the interests from posterior means."""
        [(_, side, latents)] = self.infer(rows)
        return self.scores_of(latents, side, domain, items)

    def scores_of(self, latents: Latents, side: Any, domain: str, items: Tensor) -> Tensor:
        """:meth:`scores` of rows whose posteriors the caller has."""
        return self.scores_from(self.model.draw(latents, None), side, domain, items)

    def scores_from(self, values: Draws, side: Any, domain: str, items: Tensor) -> Tensor:
        """:meth:`scores` of rows from values of their latents, whatever these are."""
        interest = self.model.decode(values, domain)
        if len(items) > 1 and 32 * items.shape[1] <= self.sizes[domain]:
            return self.model.score(interest, domain, items, side)
        # one product with all n costs less than gathering k vectors a row until n is some 30 k
        found = self.model.score_all(interest, domain, side)
        return chosen(found, items)

    def restore(self, weights: dict[str, Tensor]) -> None:
        if self.at_every_position:
            told = {name.removeprefix("evidence/"): one.cpu().numpy() for name, one in self.frozen.items()}
            self.evidence = Evidence.restore(self.params.evidence, self.params.protocol, self.catalogue, told)
        super().restore(weights)
        if "pool" in self.frozen:
            self._pool(float(self.frozen["pool"]))

    def _keep_evidence(self) -> None:
        arrays = self.evidence.arrays().items()
        told = {f"evidence/{name}": torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays}
        self.frozen = {name: one for name, one in self.frozen.items() if not name.startswith("evidence/")} | told

    def forget_users(self) -> None:
        """Keep what recommending to new users needs, and nothing that names a training user or when one took what."""
        if self.at_every_position:
            self.evidence = self.evidence.without_users()
            self._keep_evidence()
        if isinstance(self.generator, psg.LeaveOneOutGenerator):
            self.generator = self.generator.without_users()

    def save(self, folder: Path) -> None:
        """Weights, popularity and generator as safetensors, vocabularies and parameters beside them."""
        self.generator.save(folder / "generator", self.catalogue)
        super().save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        found = super().load(folder)
        found.generator = psg.load(Path(folder) / "generator", found.catalogue)
        return found


class CachedScorer:
    """Scores rows with what is shown of them made once, and keeps the posterior means for the active units."""

    name = I2VAERecommender.name

    def __init__(self, recommender: I2VAERecommender, shown: RowInputs):
        self.recommender = recommender
        self.where = {int(source): i for i, source in enumerate(shown.rows.source)}
        self.shown = shown
        self.means: dict[str, list[Tensor]] = {}

    def score(self, rows: Rows, candidates: Array) -> Array:
        return self.recommender.scored(rows, candidates, self.scores)

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        at = np.array([self.where[int(source)] for source in rows.source])
        [(_, side, latents)] = self.recommender.infer(self.shown.take(at))
        for role in ROLES:
            self.means.setdefault(latent_name(role, domain), []).append(getattr(latents, role).mean[latents.has(role)])
        return self.recommender.scores_of(latents, side, domain, items)

    def active_units(self) -> dict[str, float]:
        return {f"active/{name}": float(active_units(torch.cat(parts))) for name, parts in self.means.items()}
