"""The objective (paper Eq. 4 and 7 to 12): one function a term, one value per row, in nats, as a cost to minimise.

``total`` is the only place where rows are averaged and weights applied. A row that a term does not concern is masked:
its value is exactly 0, its gradient too, and the term's mean is over the other rows.

Constants dropped: H(X) in Eq. 9; the intractable epsilon of Eq. 12.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from i2vae_lib.data.batches import Side
from i2vae_lib.model.i2vae import ROLES, I2VAENetwork, Latents, Network, latent_name
from i2vae_lib.model.latents import Gaussian, annealing, kl, kl_per_dimension, standard_like
from i2vae_lib.model.likelihoods import bernoulli
from i2vae_lib.parameter_groups import ObjectiveParameters
from i2vae_lib.processes import summed

_Reconstruction = Callable[[Any, torch.Tensor, Any, str], torch.Tensor]


@dataclass(frozen=True)
class Term:
    """One value per row, in nats; exactly 0 where ``mask`` is false."""

    value: torch.Tensor  # [B]
    mask: torch.Tensor  # bool [B]

    def mean(self) -> torch.Tensor:
        """Mean over the unmasked rows; 0 if there are none.

        Where several processes have a part of the rows each: this part's share of it.
        """
        return self.value.sum() / summed(self.mask.sum()).clamp(min=1)


def masked(value: torch.Tensor, mask: torch.Tensor) -> Term:
    return Term(torch.where(mask, value, torch.zeros_like(value)), mask)


def reconstruction_bce(model: I2VAENetwork, interest: torch.Tensor, side: Side, domain: str) -> torch.Tensor:
    """Eq. 4, first terms: binary cross-entropy of the target and the sampled negatives, summed: [B].

    -log sigmoid(X_u . E_target) - sum over negatives of log sigmoid(-X_u . E_negative)
    """
    asked = torch.cat([side.target[:, None], side.negatives], dim=1)
    scores = model.score(interest, domain, asked, side)
    return bernoulli(scores[:, 0], scores[:, 1:])


def reconstruction_softmax(model: Network, interest: torch.Tensor, side: Any, domain: str) -> torch.Tensor:
    """-log softmax over all items of the domain, at the target: [B].

    Departs: in place of the paper's BCE; needs no negatives (but for large domains, see ``objective.sampled``).
    """
    return model.surprisal(interest, domain, side)


def kl_to_prior(q: Gaussian, prior: Gaussian, mask: torch.Tensor, free_bits: float = 0.0) -> Term:
    """Eq. 4, one of the six KLs: KL[q || prior], summed over dimensions: [B].

    ``free_bits``: a dimension's KL below that many nats costs that many, so it is not pressed further.
    """
    each = kl_per_dimension(q, prior)
    return masked(each.clamp(min=free_bits).sum(dim=1) if free_bits else each.sum(dim=1), mask)


def joint_information(reconstruction: torch.Tensor, both: torch.Tensor) -> Term:
    """Eq. 9: -L_I(X; Z^X, Z_t^Y), approximated (as the paper does) by the reconstruction of Eq. 4: [B]."""
    return masked(reconstruction, both)


def disentangling(specific: Gaussian, prior: Gaussian, both: torch.Tensor) -> Term:
    """Eq. 10: -L_-I(X; Z^X) = KL[q(z^x | x) || p(z^x)]: [B].

    Minimising I(Z^X; Z_t^Y) is Eq. 6 only because I(Z^X; Z_t^Y | X) = 0 under the factorised q (Proposition 1).
    """
    return masked(kl(specific, prior), both)


def cross_domain(transferable: Gaussian, auxiliary: Gaussian, both: torch.Tensor) -> Term:
    """Eq. 11: -L_-I(X; Z_t^Y | Y) = KL[q(z_t^y | x, y) || r^y(z_t^y | y)]: [B]. Trains r for cold-start rows."""
    return masked(kl(transferable, auxiliary), both)


def denoising_weight(own_length: torch.Tensor, T: int, a: float, b: float) -> torch.Tensor:
    """Adaptive weight lambda_d = exp(a L / T) - b with L = min(own length, T); 0 where the own history is empty: [B].

    Departs: the paper's L is not capped, and the weight would reach 6,904 on phone_elec; capped it is at most 1.43.
    """
    length = own_length.clamp(max=T).to(torch.get_default_dtype())
    return torch.where(own_length > 0, torch.exp(a * length / T) - b, torch.zeros_like(length))


def denoising(specific: Gaussian, augmented: Gaussian, weight: torch.Tensor, mask: torch.Tensor) -> Term:
    """Eq. 12: lambda_d KL[q(z^x | x) || q(z_a^x | x)]: [B]. Not a bound: Eq. 12 drops an intractable epsilon."""
    return masked(weight * kl(specific, augmented), mask)


@dataclass(frozen=True)
class _Objective:
    """The weighted sum of the terms, with its settings."""

    p: ObjectiveParameters
    T: int
    reconstruction: _Reconstruction

    def terms(
        self, model: Network, side: Any, domain: str, latents: Latents, interest: torch.Tensor
    ) -> dict[str, Term]:
        """All terms of the rows of one target domain, unweighted (the adaptive lambda_d is part of its term)."""
        own, both = latents.has_own, latents.has_own & latents.has_other
        prior, augmented_prior = model.prior[domain](), model.augmented_prior[domain]()
        fit = self.reconstruction(model, interest, side, domain)
        weight = denoising_weight(side.own_length, self.T, self.p.a, self.p.b)
        free = self.p.free_bits
        return {
            "reconstruction": Term(fit, torch.ones_like(own)),
            "kl_specific": kl_to_prior(latents.specific, prior, own, free),
            # of the posterior in use: q with both histories, r for a cold row
            "kl_transferable": kl_to_prior(
                latents.transferable, standard_like(latents.transferable), latents.has_other, free
            ),
            "kl_augmented": kl_to_prior(latents.augmented, augmented_prior, own, free),
            "joint": joint_information(fit, both),
            "disentangling": disentangling(latents.specific, prior, both),
            "cross_domain": cross_domain(latents.transferable, latents.auxiliary, both),
            "denoising": denoising(latents.specific, latents.augmented, weight, own),
        }

    def weights(self, epoch: int) -> dict[str, float]:
        """Weight of each term in an epoch (counted from 0)."""
        kl_weight = self.p.kl_weight * annealing(epoch, self.p.kl_annealing_epochs)
        return {
            "reconstruction": 1.0,
            **{f"kl_{role}": kl_weight for role in ROLES},
            "joint": self.p.lambda_c,
            "disentangling": self.p.lambda_c,
            "cross_domain": self.p.lambda_c,
            "denoising": self.p.lambda_a,
        }

    def __call__(
        self, model: Network, batch: Mapping[str, Any], epoch: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and its named parts.

        Returns
        -------
        loss, parts
            Scalar tensor; unweighted means ``term/domain`` (KLs as ``kl/x``, ``kl/t_y``, …), detached.
        """
        found = {}
        for domain, side, latents in model.inferred(batch, generator):
            interest = model.decode(model.draw(latents, generator, side.part), domain)
            found[domain] = self.terms(model, side, domain, latents, interest)
        return total(found, self.weights(epoch))


def total(
    terms: Mapping[str, Mapping[str, Term]], weights: Mapping[str, float]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Sum over terms of weight * (mean of X's rows + mean of Y's rows), as Eq. 4 adds the two domains.

    A term of weight 0 is left out exactly. Swapping the domains leaves the sum as it is, to the bit.
    """
    loss = next(iter(next(iter(terms.values())).values())).value.new_zeros(())
    parts: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        means = {domain: by_name[name].mean() for domain, by_name in terms.items()}
        for domain, mean in means.items():
            role = name.removeprefix("kl_")
            parts[f"kl/{latent_name(role, domain)}" if role in ROLES else f"{name}/{domain}"] = mean.detach()
        if weight:
            loss = loss + weight * sum(means.values())
    return loss, parts


def build_objective(p: ObjectiveParameters, T: int) -> _Objective:
    """Pick the reconstruction term that the parameters name."""
    return _Objective(p, T, {"bce": reconstruction_bce, "softmax": reconstruction_softmax}[p.reconstruction])


def active_units(means: torch.Tensor) -> int:
    """Dimensions whose posterior mean varies over rows by more than 0.01 (Burda et al. 2016): means [n, d]."""
    return int((means.var(dim=0, unbiased=False) > 0.01).sum()) if len(means) else 0
