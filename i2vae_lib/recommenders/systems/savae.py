"""SA-VAE and RA-VAE: the posterior of a source domain's VAE as each user's prior in the target domain.

Salah, Tran & Lauw, "Towards source-aligned variational models for cross-domain recommendation", RecSys 2021 (no code
released). With x_s, x_t a user's bags in the two domains, a Multi-VAE of the source
(:mod:`i2vae_lib.recommenders.systems.multivae`) is trained first and frozen; its posterior is q_s(z | x_s). Then

    RA-VAE (rigid)   loss = mean over u of  E_{z ~ q_s(z | x_s)} -sum_{i in x_t} log softmax f_t(z)_i
    SA-VAE (soft)    loss = mean over u of  E_{z ~ q_t(z | x_t)} -sum_{i in x_t} log softmax f_t(z)_i
                                            + beta KL[q_t(z | x_t) || q_s(z | x_s)]

RA-VAE learns the target decoder f_t alone; SA-VAE also a target encoder, which a user-specific prior pulls towards the
source. A row scores f_t at a mean: SA-VAE at the target's, and at the source's where the row has no own history;
RA-VAE always at the source's.

Made for users of both domains, cold or sparse in the target, one direction. Here both directions are trained,
``savae`` and ``ravae``, in two stages: the source VAEs of both domains, then both target sides. A user is one bag a
domain: everything that it took in training, targets included. Evaluation rows bring their histories: nothing has to be
folded in.

Departs
    - the paper's text could not be read in full: the direction of the KL and the settings are our reading, sizes and
      schedule Multi-VAE's. Stage 1 is ``multivae-s`` with the settings of ``savae``, and each stage has
      ``training.epochs``; stage 1 is selected on how the source VAEs rank their own domains (popularity for the rows
      without own history);
    - users of the target alone are trained on as well, with N(0, I) in place of the source posterior: to SA-VAE they
      are Multi-VAE's users, RA-VAE's decoder learns from them what suits nobody in particular;
    - log-variances of the source posterior are clamped to [-6, 2], for the KL divides by the variance; it is the
      posterior of the clean bag, without dropout;
    - a row without other history has no evidence for RA-VAE, own history or not, and is ranked by popularity;
    - q_s sees the whole source bag of a training user, a bag having no moment; of the released files nobody knows what
      of it came after the target, of logs it is not asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from i2vae_lib.data.batches import Tensors
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows, other
from i2vae_lib.data.user_sequences import user_sequences
from i2vae_lib.model.latents import Gaussian, annealing, sample, standard_like, where
from i2vae_lib.recommenders import contract
from i2vae_lib.recommenders.systems import multivae
from i2vae_lib.recommenders.systems.multivae import Bags, Decoder, Encoder, VariationalAutoencoder
from i2vae_lib.recommenders.systems.separate_or_merged import PerDomain
from i2vae_lib.recommenders.trained import Trained, stream_stage
from i2vae_lib.training import CostAndParts, Stage

LOWEST, HIGHEST = -6.0, 2.0  # of a prior's log-variance


@dataclass(frozen=True)
class Pairs(Tensors):
    """Users of a target domain: their bags in it, and the priors that the source gives them."""

    bags: Bags  # B sets
    mean: Tensor  # [B, d]
    log_variance: Tensor  # [B, d]

    @property
    def prior(self) -> Gaussian:
        return Gaussian(self.mean, self.log_variance)


@torch.no_grad()
def source_prior(encoder: Encoder, bags: Bags) -> Gaussian:
    """The frozen posterior of clean source bags, log-variance clamped; N(0, I) for the empty ones. [B, d]."""
    q = encoder(bags, 0.0, None)
    clamped = Gaussian(q.mean, q.log_variance.clamp(LOWEST, HIGHEST))
    return where(bags.counts > 0, clamped, standard_like(clamped))


class RAVAE(Trained):
    """``ravae``: the source posterior in place of a target encoder."""

    name = "ravae"
    reading_of = PerDomain
    aligned = True  # the target sides are there to score with: always, but for stage 1

    def target_side(self, size: int) -> nn.Module:
        """What is trained for a domain of ``size`` items. Has a ``decoder``."""
        return nn.ModuleDict({"decoder": Decoder(self.params.model.d, self.params.savae.hidden, size)})

    def build(self, weights: torch.Generator) -> nn.Module:
        p = self.params
        sources = {d: VariationalAutoencoder(n, p.savae.hidden, p.model.d) for d, n in self.sizes.items()}
        targets = {d: self.target_side(n) for d, n in self.sizes.items()}
        module = nn.ModuleDict({"source": nn.ModuleDict(sources), "target": nn.ModuleDict(targets)})
        for part in module.values():  # one after another: both systems start from the same sources
            multivae.draw(part, weights)
        return module

    def stages(self, train: Rows) -> Iterator[Stage]:
        size = self.params.training.batch_size
        whole = {d: one.distinct() for d, one in user_sequences(train).sequences.items()}
        takers = {d: np.flatnonzero(one.lengths) for d, one in whole.items()}
        own = {d: whole[d].take(takers[d]) for d in DOMAINS}
        self.aligned = False
        yield multivae.bag_stage("source", self.module["source"], self.source_loss, own, size)
        self.aligned = True
        priors = {}
        for d in DOMAINS:
            bags = Bags.of(whole[other(d)].take(takers[d])).to(self.device)
            priors[d] = source_prior(self.module["source"][other(d)].encoder, bags)

        def collate(d: str, at: Array, rng: np.random.Generator) -> Pairs:
            line = torch.from_numpy(at).to(self.device)
            return Pairs(Bags.of(own[d].take(at)), priors[d].mean[line], priors[d].log_variance[line])

        yield stream_stage("target", self.module["target"], self.loss, own, size, collate, multivae.shuffled)

    def source_loss(self, batch: dict[str, Bags], epoch: int, generator: torch.Generator) -> CostAndParts:
        """Of stage 1: Multi-VAE's."""
        [(d, bags)] = batch.items()
        slots, rate = [self.reading.slots(d)], self.own.dropout
        return self.weighed(d, self.module["source"][d].costs(bags, slots, rate, generator), epoch)

    def weighed(self, domain: str, costs: tuple[Tensor, Tensor], epoch: int) -> CostAndParts:
        """:func:`.multivae.weighed` with the KL's weight in an epoch."""
        return multivae.weighed(domain, costs, self.own.beta * annealing(epoch, self.own.annealing_epochs))

    def loss(self, batch: dict[str, Pairs], epoch: int, generator: torch.Generator) -> CostAndParts:
        """Of stage 2: mean over the users of a batch, which is of one target domain."""
        [(d, pairs)] = batch.items()
        z, decoder = sample(pairs.prior, generator), self.module["target"][d].decoder
        nats = decoder.reconstruction(z, pairs.bags, [self.reading.slots(d)]).mean()
        return nats, {f"reconstruction/{d}": nats}

    def can_rank(self, rows: Rows) -> Array:
        return self.has_evidence(rows) if self.aligned else super().can_rank(rows)

    def has_evidence(self, rows: Rows) -> Array:
        """:meth:`can_rank` once all is trained."""
        return rows.lengths("other") > 0

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        if self.aligned:
            side, z = self.module["target"][domain], self.latent(rows, domain)
        else:
            side = self.module["source"][domain]
            z = self.encoded(side.encoder, rows.history[domain])
        return side.decoder.scores(z, items, self.reading.slots(domain))

    def latent(self, rows: Rows, domain: str) -> Tensor:
        """The mean that rows asking for ``domain`` are decoded from, [B, d]: that of the source posterior."""
        return self.encoded(self.module["source"][other(domain)].encoder, rows.history[other(domain)])

    def encoded(self, encoder: Any, history: Ragged) -> Tensor:
        """Posterior means of clean histories, [B, d]."""
        return encoder(Bags.of(history.distinct()).to(self.device), 0.0, None).mean


class SAVAE(RAVAE):
    """``savae``: an encoder of its own for the target, the source posterior as its prior."""

    name = "savae"

    def target_side(self, size: int) -> nn.Module:
        return VariationalAutoencoder(size, self.params.savae.hidden, self.params.model.d)

    def loss(self, batch: dict[str, Pairs], epoch: int, generator: torch.Generator) -> CostAndParts:
        [(d, pairs)] = batch.items()
        target, slots = self.module["target"][d], [self.reading.slots(d)]
        costs = target.costs(pairs.bags, slots, self.own.dropout, generator, pairs.prior)
        return self.weighed(d, costs, epoch)

    def latent(self, rows: Rows, domain: str) -> Tensor:
        warm = torch.from_numpy(rows.history[domain].lengths > 0).to(self.device)
        own = self.encoded(self.module["target"][domain].encoder, rows.history[domain])
        return torch.where(warm[:, None], own, super().latent(rows, domain))

    def has_evidence(self, rows: Rows) -> Array:
        return ~contract.without_evidence(rows)
