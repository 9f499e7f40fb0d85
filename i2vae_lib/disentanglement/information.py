"""How much two sets of vectors know of each other, by estimators that know nothing of the training objective.

None is right alone; calibrated on Gaussians of known information (``tests/test_information.py``):

======================  =============================================================================================
:func:`gaussian`        exact for Gaussians, blind to what is no correlation; about d² / 2n too high
:func:`ksg`             right in one or two dimensions; in 4, at 1 nat, a sixth too low of 4,000 pairs and a third of
                        500; refused above
:func:`contrastive`     a lower bound on held-out pairs, never above the log of the batch, its cap; loose where pairs
                        are few (0.5 to 0.9 for 2 nats in 16 dimensions of 500 pairs), 0 where nothing can be learnt
:func:`dependent`       independent or not, and how surely; no amount
:func:`alignment`       linear CKA: likeness of two geometries, no amount either
======================  =============================================================================================

Inputs are float [n, d] and [n, e], a pair per line; estimates in nats.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import digamma
from torch import Tensor, nn
from torch.nn import functional

from i2vae_lib.data.rows import Array

_Estimator = Callable[[Array, Array], float]

_KSG_DIMENSIONS = 4


def reduced(x: Array, dimensions: int = _KSG_DIMENSIONS) -> Array:
    """The first principal components: float [n, min(d, dimensions)]. What lies beyond them is lost."""
    centred = x - x.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:dimensions].T


def standardised(x: Array, fitted: Any = slice(None)) -> Array:
    """Columns less their mean, over their standard deviation, both of the lines ``fitted``."""
    return (x - x[fitted].mean(axis=0)) / np.maximum(x[fitted].std(axis=0), 1e-9)


def gaussian(x: Array, y: Array, ridge: float = 1e-6) -> float:
    """½ log (|Σ_x| |Σ_y| / |Σ_xy|) of the joint sample covariance: the information of Gaussians of that covariance.

    A lower bound where the margins are Gaussian, and blind to dependence without correlation. Too high by about
    d e / 2n under independence.

    Parameters
    ----------
    ridge
        Share of each variance that is added to it, for columns that hang together.
    """
    joint = standardised(np.hstack([x, y]))
    covariance = joint.T @ joint / len(joint) + ridge * np.eye(joint.shape[1])
    d = x.shape[1]
    parts = (covariance[:d, :d], covariance[d:, d:], covariance)
    own, other, both = (float(np.linalg.slogdet(part)[1]) for part in parts)
    return 0.5 * (own + other - both)


def ksg(x: Array, y: Array, neighbours: int = 5) -> float:
    """Kraskov, Stögbauer and Grassberger's first estimator (Phys. Rev. E 69, 2004, Eq. 8).

    Columns are standardised. For a true 2.0 nats it says 0.28 in 32 dimensions: so it is refused above 4.

    Raises
    ------
    ValueError
        More than four columns: reduce them first.
    """
    widest = max(x.shape[1], y.shape[1])
    if widest > _KSG_DIMENSIONS:
        raise ValueError(f"KSG in {widest} dimensions is far too low: reduce to {_KSG_DIMENSIONS} first (reduced)")
    x, y = standardised(x), standardised(y)
    # the k-th neighbour's distance in the maximum norm of the joint space
    joint = np.hstack([x, y])
    distance = cKDTree(joint).query(joint, k=neighbours + 1, p=np.inf)[0][:, -1]
    radius = np.nextafter(distance, 0)  # strictly closer
    # Eq. 8 adds one to a count without the point itself, which is counted here
    near = [cKDTree(one).query_ball_point(one, radius, p=np.inf, return_length=True) for one in (x, y)]
    return float(digamma(neighbours) + digamma(len(x)) - (digamma(near[0]) + digamma(near[1])).mean())


def contrastive(
    x: Array, y: Array, owner: Array, rng: np.random.Generator, *, batch: int = 256, steps: int = 400, width: int = 64
) -> float:
    """InfoNCE (van den Oord, Li and Vinyals 2018) of a critic f(x)·g(y), fitted on half of the users, on the others.

    A lower bound (Poole et al. 2019) that cannot exceed log ``batch`` = :func:`cap`. A fifth of the users that it is
    fitted on choose when to stop: a critic of few pairs soon knows them by heart, and would then say -10 of held-out
    ones. The critic that says nothing (0 nats) is among those to choose from.

    Parameters
    ----------
    owner
        The user of each pair: all pairs of one lie on one side.
    batch
        Pairs a step; fewer where there are fewer.
    """
    users = rng.permutation(np.unique(owner))
    held = np.isin(owner, users[len(users) // 2 :])
    stopping = np.isin(owner, users[: len(users) // 10])
    fitted = ~held & ~stopping
    tensors = [torch.from_numpy(standardised(one, fitted).astype(np.float32)) for one in (x, y)]
    train, stop, held_out = np.flatnonzero(fitted), np.flatnonzero(stopping), np.flatnonzero(held)
    batch = min(batch, len(train), len(held_out))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    critics = nn.ModuleList(_critic(one.shape[1], width, generator) for one in tensors)
    optimizer = torch.optim.Adam(critics.parameters(), lr=2e-3, weight_decay=1e-4)
    best, chosen = 0.0, None
    for step in range(steps):
        loss = -_bound(critics, tensors, rng.choice(train, batch, replace=False))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 10 == 9:
            found = _held_out(critics, tensors, stop, batch)
            if found > best:
                best, chosen = found, copy.deepcopy(critics.state_dict())
    if chosen is None:
        return 0.0
    critics.load_state_dict(chosen)
    return _held_out(critics, tensors, rng.permutation(held_out), batch)


def _held_out(critics: nn.ModuleList, tensors: list[Tensor], pairs: Array, batch: int) -> float:
    """The bound on whole batches of pairs (one smaller batch where there are fewer)."""
    batch = min(batch, len(pairs))
    parts = [pairs[i : i + batch] for i in range(0, len(pairs) - batch + 1, batch)]
    with torch.no_grad():
        return float(np.mean([float(_bound(critics, tensors, at)) for at in parts]))


def cap(pairs: int, batch: int = 256) -> float:
    """What :func:`contrastive` cannot exceed, in nats."""
    return math.log(min(batch, pairs // 2))


def _critic(inputs: int, width: int, generator: torch.Generator) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width // 2))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()
    return layers


def _bound(critics: nn.ModuleList, tensors: list[Tensor], pairs: Array) -> Tensor:
    at = torch.from_numpy(pairs)
    left, right = (critic(one[at]) for critic, one in zip(critics, tensors))
    return math.log(len(at)) - functional.cross_entropy(left @ right.T, torch.arange(len(at)))


def dependent(
    x: Array, y: Array, rng: np.random.Generator, *, permutations: int = 200, most: int = 600
) -> tuple[float, float]:
    """HSIC with Gaussian kernels of median width, and its permutation p (Gretton et al., ALT 2005; NeurIPS 2007).

    Parameters
    ----------
    most
        Pairs that are looked at; more are sampled down to it (the kernels are quadratic in it).

    Returns
    -------
    HSIC (biased, >= 0) and the share of permutations at least as large, itself included.
    """
    if len(x) > most:
        at = rng.choice(len(x), most, replace=False)
        x, y = x[at], y[at]
    left, right = (_kernel(one) for one in (x, y))
    centred = left - left.mean(axis=0) - left.mean(axis=1)[:, None] + left.mean()
    n = len(x)
    found = float((centred * right).sum()) / n**2
    others = []
    for _ in range(permutations):
        order = rng.permutation(n)
        others.append(float((centred * right[np.ix_(order, order)]).sum()) / n**2)
    return found, (1 + sum(one >= found for one in others)) / (1 + permutations)


def _kernel(x: Array) -> Array:
    squares = cdist(x, x, "sqeuclidean")
    width = float(np.median(squares[np.triu_indices(len(x), 1)]))
    return np.exp(-squares / max(width, 1e-12))


def alignment(x: Array, y: Array) -> float:
    """Linear CKA (Kornblith et al., ICML 2019): 1 for the same geometry up to rotation and one scale, 0 for none.

    Biased upwards where columns are many beside pairs.
    """
    x, y = (one - one.mean(axis=0) for one in (x, y))
    cross = np.square(np.linalg.norm(x.T @ y))
    return float(cross / max(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y), 1e-12))


def with_interval(
    estimate: _Estimator, x: Array, y: Array, owner: Array, rng: np.random.Generator, *, halves: int = 20
) -> tuple[float, float, float]:
    """An estimate and its 95 % interval by the delete-half jackknife over users (Shao and Wu, Ann. Statist. 1989).

    The spread of an estimate over random halves of the users is its standard error on all of them. A bootstrap would
    repeat pairs, which neighbour distances cannot bear. The interval is of the estimator, bias and all.
    """
    users = np.unique(owner)
    values = []
    for _ in range(halves):
        at = np.isin(owner, rng.permutation(users)[: len(users) // 2])
        values.append(estimate(x[at], y[at]))
    found, error = estimate(x, y), float(np.std(values, ddof=1))
    return found, found - 1.96 * error, found + 1.96 * error


def table(x: Array, y: Array, owner: Array, rng: np.random.Generator) -> dict[str, Any]:
    """Every measure of a pair of sets: one line.

    Returns
    -------
    dict
        ``pairs``; ``gaussian, gaussian_low, gaussian_high`` on all dimensions and ``gaussian_shuffled``, the same of
        pairs torn apart (its bias); ``gaussian_4`` and ``ksg, ksg_low, ksg_high`` on four principal components each,
        which hold less; ``contrastive`` on
        held-out users and its ``cap``; ``hsic_p``; ``cka``.
    """
    found: dict[str, Any] = {"pairs": len(x)}
    small = (reduced(x), reduced(y))
    for name, estimator, sides in (("gaussian", gaussian, (x, y)), ("ksg", ksg, small)):
        value, low, high = with_interval(estimator, *sides, owner, rng)
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    found |= {"gaussian_4": gaussian(*small), "gaussian_shuffled": gaussian(x, y[rng.permutation(len(y))])}
    found |= {"contrastive": contrastive(x, y, owner, rng), "cap": cap(len(x))}
    found |= {"hsic_p": dependent(x, y, rng)[1], "cka": alignment(x, y)}
    return found
