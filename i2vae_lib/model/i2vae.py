"""i2VAE (Figure 2 of the paper): infer -> decode -> score. Wiring only: no loss, no loop, no device.

A domain is a key. For rows whose target lies in domain X the three latents are z^x, z_a^x and z_t^y (what transfers
from Y to X); for Y by symmetry, through the same code. Together a mixed batch has all six.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from i2vae_lib.data.batches import Part, Side
from i2vae_lib.data.rows import DOMAINS, other
from i2vae_lib.model.encoders import (
    CrossDomainPosterior,
    Decoder,
    GaussianHead,
    ResidualCrossDomainPosterior,
    ResidualDecoder,
    ResidualHead,
    ResidualSequenceEncoder,
    SequenceEncoder,
    initialise,
    masked_mean,
)
from i2vae_lib.model.latents import Gaussian, sample, scatter, where
from i2vae_lib.model.likelihoods import categorical
from i2vae_lib.parameter_groups import ModelParameters

# a batch of so many scores or more makes them anew in the backward pass, so that it holds those of one domain only
AGAIN_FROM = 2**23
ROLES = ("specific", "transferable", "augmented")


def latent_name(role: str, domain: str) -> str:
    """The paper's name of a latent by its role for target domain ``domain``: x, t_y, a_x for X; y, t_x, a_y for Y."""
    return {"specific": domain, "transferable": f"t_{other(domain)}", "augmented": f"a_{domain}"}[role]


@dataclass(frozen=True)
class Latents:
    """What inference says of the rows of one target domain (for X: z^x, z_t^y, z_a^x). Each Gaussian [B, d].

    ``transferable`` is q(z_t^y | x, y) where a row has both histories, r^y(z_t^y | y) where it has only the other (cold
    start), and a placeholder where it has no other. Where a row has no own history, ``specific`` and ``augmented`` are
    placeholders too. All are masked downstream.
    """

    specific: Gaussian
    transferable: Gaussian
    augmented: Gaussian
    auxiliary: Gaussian  # r, where the row has another history
    has_own: Tensor  # bool [B]
    has_other: Tensor  # bool [B]

    def has(self, role: str) -> Tensor:
        """Which rows have the latent of a role: bool [B]."""
        return self.has_other if role == "transferable" else self.has_own


@dataclass(frozen=True)
class Draws:
    """Values of the three latents, [B, d] each.

    Specific and augmented are 0 where a row has no own history; transferable is its prior's mean, 0, where a row has no
    other.
    """

    specific: Tensor
    transferable: Tensor
    augmented: Tensor


class Prior(nn.Module):
    """Learnable N(mean, sigma^2) of a domain's specific latents (paper 3.3.2), N(0, I) at the start."""

    def __init__(self, d: int):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(d))
        self.log_variance = nn.Parameter(torch.zeros(d))

    def forward(self) -> Gaussian:
        return Gaussian(self.mean, self.log_variance)


@dataclass(frozen=True)
class _Modules:
    """The modules on the way from a sequence to an interest: the paper's, or others that stand in their places."""

    encoder: type[SequenceEncoder] = SequenceEncoder
    head: type[GaussianHead] = GaussianHead  # of z, z_a and r
    crossed: type[CrossDomainPosterior] = CrossDomainPosterior  # of q(z_t | x, y)
    decoder: type[Decoder] = Decoder


_PATHS = {
    "mlp": _Modules(),
    "residual": _Modules(ResidualSequenceEncoder, ResidualHead, ResidualCrossDomainPosterior, ResidualDecoder),
}


class Network(nn.Module):
    """What infers latents, decodes an interest from them and scores items; keyed by domain throughout."""

    items: nn.ModuleDict
    prior: nn.ModuleDict
    augmented_prior: nn.ModuleDict

    def infer(self, side: Any, domain: str, generator: torch.Generator | None = None) -> Latents:
        """Posteriors of the rows of one target domain (Eq. 2). The generator drives dropout; None: no dropout."""
        raise NotImplementedError

    def inferred(
        self, batch: Mapping[str, Any], generator: torch.Generator | None
    ) -> Iterator[tuple[str, Any, Latents]]:
        """:meth:`infer` of every domain of a batch, one after another."""
        for domain, side in batch.items():
            yield domain, side, self.infer(side, domain, generator)

    def draw(self, latents: Latents, generator: torch.Generator | None, part: Part | None = None) -> Draws:
        """Samples from the generator (training), of the rows of a part of a batch, or the means (None)."""
        own, theirs = latents.has_own[:, None], latents.has_other[:, None]
        return Draws(
            sample(latents.specific, generator, part) * own,
            sample(latents.transferable, generator, part) * theirs,
            sample(latents.augmented, generator, part) * own,
        )

    def decode(self, z: Draws, domain: str) -> Tensor:
        """The interest X_u reconstructed from the three latents (paper 3.3.3): [B, d]."""
        raise NotImplementedError

    def score_all(self, interest: Tensor, domain: str, side: Any) -> Tensor:
        """Scores of every item 1…n of the domain: [B, n]."""
        raise NotImplementedError

    def score(self, interest: Tensor, domain: str, items: Tensor, side: Any) -> Tensor:
        """Scores of a few items per row: interest [B, d], items int64 [B, k] -> [B, k]."""
        raise NotImplementedError

    def surprisal(self, interest: Tensor, domain: str, side: Any) -> Tensor:
        """-log softmax over all items of the domain, at the target: [B]."""

        def found(interest: Tensor) -> Tensor:
            return categorical(self.score_all(interest, domain, side), side.target - 1)

        if len(interest) * len(self.items[domain].get_parameter("weight")) < AGAIN_FROM:
            return found(interest)
        return checkpoint(found, interest, use_reentrant=False, preserve_rng_state=False)


class I2VAENetwork(Network):
    """The model of the paper.

    Parameters
    ----------
    sizes
        Items a domain, padding not counted.
    p
        Sizes of the layers.
    path
        Which modules it is made of (:func:`build` picks them by ``model.path``).
    """

    def __init__(self, sizes: Mapping[str, int], p: ModelParameters, path: _Modules):
        super().__init__()

        def encoder(length: int, causal: bool) -> SequenceEncoder:
            return path.encoder(p.d, length, p.blocks, p.heads, causal, p.dropout)

        def head() -> nn.ModuleDict:
            return nn.ModuleDict({d: path.head(p.d, p.initial_log_variance) for d in DOMAINS})

        # keyed by the domain whose items go in
        self.items = nn.ModuleDict({d: nn.Embedding(sizes[d] + 1, p.d, padding_idx=0) for d in DOMAINS})
        self.real_encoder = nn.ModuleDict({d: encoder(p.T, p.causal) for d in DOMAINS})
        self.pseudo_encoder = nn.ModuleDict({d: encoder(p.T_pseudo, False) for d in DOMAINS})
        # keyed by the target domain
        self.specific, self.augmented = head(), head()
        self.transferable = nn.ModuleDict(
            {d: path.crossed(p.d, p.cross_heads, p.initial_log_variance) for d in DOMAINS}
        )
        self.auxiliary = head()
        self.prior = nn.ModuleDict({d: Prior(p.d) for d in DOMAINS})
        self.augmented_prior = self.prior if p.shared_prior else nn.ModuleDict({d: Prior(p.d) for d in DOMAINS})
        self.decoder = nn.ModuleDict({d: path.decoder(p.d) for d in DOMAINS})

    def infer(self, side: Side, domain: str, generator: torch.Generator | None = None) -> Latents:
        """Posteriors of the rows of one target domain (Eq. 2). The generator drives dropout; None: no dropout.

        Which latents a row gets follows from which histories it has, row by row (table in ``docs/notation.md``).
        """
        opposite = other(domain)
        rows = len(side.target)
        has_own, has_other = (side.own != 0).any(dim=1), (side.other != 0).any(dim=1)
        warm, helped = has_own.nonzero()[:, 0], has_other.nonzero()[:, 0]

        own, own_valid = self._states(self.real_encoder[domain], domain, side.own[warm], generator)
        specific = self.specific[domain](masked_mean(own, own_valid))
        pseudo, pseudo_valid = self._states(self.pseudo_encoder[domain], domain, side.pseudo[warm], generator)
        augmented = self.augmented[domain](masked_mean(pseudo, pseudo_valid))

        theirs, their_valid = self._states(self.real_encoder[opposite], opposite, side.other[helped], generator)
        auxiliary = scatter(self.auxiliary[domain](masked_mean(theirs, their_valid)), helped, rows)
        both = has_own & has_other
        in_own, in_other = both[warm].nonzero()[:, 0], both[helped].nonzero()[:, 0]
        crossed = self.transferable[domain](own[in_own], own_valid[in_own], theirs[in_other], their_valid[in_other])
        transferable = where(has_own, scatter(crossed, both.nonzero()[:, 0], rows), auxiliary)
        return Latents(
            scatter(specific, warm, rows), transferable, scatter(augmented, warm, rows), auxiliary, has_own, has_other
        )

    def _states(
        self, encoder: nn.Module, domain: str, ids: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        valid = ids != 0
        return encoder(self.items[domain](ids), valid, generator), valid

    def decode(self, z: Draws, domain: str) -> Tensor:
        """The interest X_u reconstructed from the three latents (paper 3.3.3): [B, d]."""
        return self.decoder[domain](z.specific, z.transferable, z.augmented)

    def score(self, interest: Tensor, domain: str, items: Tensor, side: Side) -> Tensor:
        """X_u . E_v (paper 3.3.3)."""
        return torch.bmm(self.items[domain](items), interest[:, :, None])[:, :, 0]

    def score_all(self, interest: Tensor, domain: str, side: Side) -> Tensor:
        return interest @ self.items[domain].get_parameter("weight")[1:].T


def build(p: ModelParameters, sizes: Mapping[str, int], generator: torch.Generator) -> I2VAENetwork:
    """A model with every weight drawn from ``generator``; ``model.path`` picks its modules.

    The log-variance heads start at ``model.initial_log_variance`` (:func:`initialise`).
    """
    model = I2VAENetwork(sizes, p, _PATHS[p.path])
    initialise(model, generator)
    return model
