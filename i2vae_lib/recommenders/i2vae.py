"""i2VAE (Ning et al., UAI 2025) as a recommender: the model, its objective and its generator under the contract.

Made for: the next item in either of two domains, for warm, one-domain, cold-start and long-tailed users.

Departs (from the paper; each docstring says why)
    - pseudo-sequences are recalled from what the row shows, cross-fitted by user folds (``psg.folds`` = 1 is the
      paper's way), not once from full histories;
    - scores are dot products as in the paper (the released code has an MLP on user and item);
    - padding is masked; real and pseudo sequences have their own encoders (the released code shares one);
    - log-variances, clamped; the adaptive weight's length is capped at T;
    - a row without any history is ranked by training popularity, as from every recommender here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from i2vae_lib import psg, training
from i2vae_lib.data.batches import Batch, Side, collate, epoch_order
from i2vae_lib.data.dataset import (
    DOMAINS,
    Catalogue,
    Int,
    Rows,
    popularity,
    read_catalogue,
    rows_digest,
    save_catalogue,
)
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.model.i2vae import I2VAE, ROLES, Latents, build, latent_name
from i2vae_lib.model.objective import active_units, build_objective
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import contract
from i2vae_lib.runs import LayoutError, write_atomically, write_json
from i2vae_lib.training import Callbacks, State

MODEL_LAYOUT = 1


class I2VAERecommender:
    """The model of the paper under the recommender contract.

    Attributes
    ----------
    state
        After :meth:`fit`: history by epoch and which epoch was selected.
    """

    name = "i2vae"

    def __init__(self, catalogue: Catalogue, params: Parameters):
        self.catalogue = catalogue
        self.params = params
        self.device = training.choose_device(params.training.device)
        self.model: I2VAE
        self.generator: psg.Generator
        self.popularity: Mapping[str, Int] = {}
        self.state = State()

    @property
    def sizes(self) -> dict[str, int]:
        return {d: self.catalogue.size(d) for d in DOMAINS}

    def fit(
        self,
        train: Rows,
        validation: Rows,
        *,
        params: Parameters,
        generator: psg.Generator | None,
        rng: np.random.Generator,
        callbacks: Callbacks,
    ) -> Self:
        """Train with :func:`i2vae_lib.training.train`; the weights of the best validation epoch stay.

        Raises
        ------
        NonFiniteLoss
            Names the term, the epoch and the batch.
        """
        if generator is None:
            raise ValueError("i2vae needs a pseudo-sequence generator; psg.kind = none is one too")
        self.params, self.generator = params, generator
        self.popularity = popularity(train)
        weights = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self.model = build(params.model, self.sizes, weights).to(self.device)
        noise = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        recalled = {id(rows): self._recall(rows) for rows in (train, validation)}
        negatives = sample_negatives(validation, params.evaluation.negatives, params.split.data_seed)
        objective = build_objective(params.objective, params.model.T)
        drawn = params.objective.negatives if params.objective.reconstruction == "bce" else 0
        size = params.training.batch_size

        def batches(rng: np.random.Generator) -> Iterator[Batch]:
            for at in epoch_order(train, size, rng):
                yield collate(train, recalled[id(train)], at, params.model, params.psg.arrangement, drawn, rng)

        def validate() -> dict[str, float]:
            scorer = _Remembering(self, validation, recalled[id(validation)])
            ranks = rank(scorer, validation, negatives, full=False, batch_size=params.evaluation.batch_size)
            return selection_metric(ranks, validation) | scorer.active_units()

        self.state = training.train(
            self.model,
            lambda batch, epoch, generator: objective(self.model, batch, epoch, generator),
            batches,
            validate,
            params.training,
            rng=rng,
            generator=noise,
            identity=_identity(params, train, validation),
            callbacks=callbacks,
            rows=len(train),
            steps=-(-len(train) // size),
        )
        return self

    def _recall(self, rows: Rows) -> Int:
        return self.generator.recall(rows, psg.fold_of(rows, self.generator.p))[0]

    def _sides(self, rows: Rows, recalled: Int) -> dict[str, Side]:
        sides = collate(rows, recalled, np.arange(len(rows)), self.params.model, self.params.psg.arrangement)
        return {d: side.to(self.device) for d, side in sides.items()}

    @torch.no_grad()
    def infer(self, rows: Rows, recalled: Int | None = None) -> Iterator[tuple[str, Side, Latents]]:
        """Posteriors of rows, by target domain (their means and log-variances; nothing is sampled)."""
        recalled = self._recall(rows) if recalled is None else recalled
        for domain, side in self._sides(rows, recalled).items():
            yield domain, side, self.model.infer(side, domain)

    @torch.no_grad()
    def score(self, rows: Rows, candidates: Int, recalled: Int | None = None) -> Int:
        """Dot products of interests (from posterior means) with the candidates' embeddings.

        Parameters
        ----------
        recalled
            Pseudo-items of the rows where the caller has them already; None: recall now.
        """
        return self._score(rows, candidates, self.infer(rows, recalled))

    @torch.no_grad()
    def _score(self, rows: Rows, candidates: Int, inferred: Iterator[tuple[str, Side, Latents]]) -> Int:
        contract.check_candidates(rows, candidates)
        scores = np.empty(candidates.shape, dtype=np.float32)
        shared = candidates.strides[0] == 0
        for domain, side, latents in inferred:
            interest = self.model.decode(self.model.draw(latents, None), domain)
            at = side.position.cpu().numpy()
            wanted = (candidates[:1] if shared else candidates[at]).astype(np.int64)
            items = torch.from_numpy(wanted).to(self.device)
            if shared:
                found = interest @ self.model.items[domain](items[0]).T
            elif 32 * items.shape[1] > self.catalogue.size(domain):
                # gathering k vectors a row costs more than a product with all n until n is some 30 k
                found = self.model.score_all(interest, domain).gather(1, items - 1)
            else:
                found = self.model.score(interest, domain, items)
            scores[at] = found.cpu().numpy()
        blank = contract.without_evidence(rows)
        if blank.any():
            scores[blank] = contract.gather(self.popularity, rows.take(blank), candidates[blank])
        return scores

    def recommend(
        self, histories: Mapping[str, Sequence[Sequence[Any]]], domain: str, k: int
    ) -> list[tuple[list[str], list[float]]]:
        return contract.recommend(self, histories, domain, k)

    def save(self, folder: Path) -> None:
        """Weights, popularity and generator as safetensors, vocabularies and parameters beside them."""
        save_catalogue(self.catalogue, folder)
        psg.save(self.generator, folder / "generator", self.catalogue)
        weights = training.parameters_of(self.model)
        weights |= {f"popularity/{d}": torch.from_numpy(self.popularity[d]) for d in DOMAINS}
        write_atomically(folder / "weights.safetensors", lambda part: save_file(weights, part))
        write_json(folder / "model.json", {"layout": MODEL_LAYOUT, "parameters": self.params.model_dump(mode="json")})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a saved folder; nothing else is needed.

        Raises
        ------
        LayoutError
            Another layout version, or weights that do not fit the vocabulary.
        """
        folder = Path(folder)
        if not (folder / "model.json").is_file():
            raise LayoutError(f"{folder} holds no saved model (no model.json)")
        header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if header.get("layout") != MODEL_LAYOUT:
            raise LayoutError(f"{folder}: model layout {header.get('layout')}, this version reads {MODEL_LAYOUT}")
        params = Parameters.model_validate(header["parameters"])
        found = cls(read_catalogue(folder), params)
        weights = load_file(folder / "weights.safetensors")
        found.popularity = {d: weights.pop(f"popularity/{d}").numpy() for d in DOMAINS}
        found.generator = psg.load(folder / "generator", found.catalogue)
        found.model = build(params.model, found.sizes, torch.Generator().manual_seed(0))
        training.load_parameters(found.model, weights)
        found.model.to(found.device)
        return found


class _Remembering:
    """Scores validation rows with pseudo-items recalled once, and keeps the posterior means for the active units."""

    name = I2VAERecommender.name

    def __init__(self, recommender: I2VAERecommender, rows: Rows, recalled: Int):
        self.recommender = recommender
        self.where = {int(source): i for i, source in enumerate(rows.source)}
        self.recalled = recalled
        self.means: dict[str, list[torch.Tensor]] = {}

    def score(self, rows: Rows, candidates: Int) -> Int:
        at = np.array([self.where[int(source)] for source in rows.source])
        inferred = list(self.recommender.infer(rows, self.recalled[at]))
        for domain, _, latents in inferred:
            masks = {"specific": latents.has_own, "transferable": latents.has_other, "augmented": latents.has_own}
            for role in ROLES:
                mean = getattr(latents, role).mean[masks[role]]
                self.means.setdefault(latent_name(role, domain), []).append(mean)
        return self.recommender._score(rows, candidates, iter(inferred))

    def active_units(self) -> dict[str, float]:
        return {f"active/{name}": float(active_units(torch.cat(parts))) for name, parts in self.means.items()}


def _identity(params: Parameters, train: Rows, validation: Rows) -> str:
    """What the weights depend on: a checkpoint of anything else is refused."""
    relevant = params.model_dump(mode="json", exclude={"out": True, "preset": True, "training": {"device"}})
    text = json.dumps(relevant, sort_keys=True) + rows_digest(train) + rows_digest(validation)
    return hashlib.sha256(text.encode()).hexdigest()
