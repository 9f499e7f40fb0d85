"""The studies of the latents: all measures of one model, with and without a planted truth."""

import numpy as np
import pandas as pd
import torch

from i2vae_lib.data import DOMAINS, CrossDomainDataset
from i2vae_lib.disentanglement import measures as disentanglement
from i2vae_lib.generators.cooccurrence import item_vectors
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.model.i2vae import ROLES
from i2vae_lib.recommenders import I2VAERecommender

_DIMENSIONS = 8  # of the item vectors by which histories are summed up


def _item_vectors_by_domain(recommender: I2VAERecommender, dataset: CrossDomainDataset) -> dict[str, np.ndarray]:
    """Vectors of the items of each domain, float64 [items + 1, 8], from counts of the training rows."""
    train = dataset.splits["train"]
    table, unified = item_vectors(train, _DIMENSIONS, recommender.params.psg.shrinkage), Unified(train.catalogue)
    return {d: table[unified.of[d]].astype(np.float64) for d in DOMAINS}


def with_untrained(
    trained: I2VAERecommender, dataset: CrossDomainDataset, row: str, seed: int
) -> dict[str, I2VAERecommender]:
    """A row's model by its name; with the full model also the one that its training starts from."""
    if row != "full":
        return {row: trained}
    untrained = disentanglement.untrained(trained, dataset.splits["train"], np.random.default_rng(seed))
    return {row: trained, "untrained": untrained}


def planted_measures(recommender: I2VAERecommender, dataset: CrossDomainDataset) -> dict[str, pd.DataFrame]:
    """Every measure of :mod:`i2vae_lib.disentanglement.measures` that needs the planted truth, on the training rows.

    Returns
    -------
    dict
        ``disentanglement``: ``measure, of, domain, value``; ``disentanglement_information``: what latents know of each
        other and of the histories, of their means and of draws.
    """
    train, vectors = dataset.splits["train"], _item_vectors_by_domain(recommender, dataset)
    cold = disentanglement.cold_agreement(recommender, train).melt(["domain", "n"], ["kl", "distance", "kept"])
    parts = [disentanglement.measures(recommender, dataset, train, seed=0)]
    parts.append(cold.assign(of="r for q").rename(columns={"variable": "measure"}))
    for role in ROLES:
        swap = disentanglement.counterfactual(recommender, dataset, train, role, seed=0)
        values = [name for name in swap.columns if name not in ("domain", "n")]
        parts.append(swap.melt(["domain", "n"], values, "measure").assign(of=f"{role} swapped"))
    heard = disentanglement.denoising(recommender, dataset, train)
    parts.append(heard.melt(["domain", "n"], ["correlation", "relevant"], "measure").assign(of="pseudo-items"))
    probes = disentanglement.latent_probes(recommender, train, dataset.truth, np.random.default_rng(0))
    nats = probes.melt(["domain", "latent"], ["kl", "active"], "measure").rename(columns={"latent": "of"})
    measures = pd.concat([*parts, nats], ignore_index=True)[["measure", "of", "domain", "value"]]
    draws = disentanglement.sampled(torch.Generator().manual_seed(0))
    information = pd.concat(
        disentanglement.shared_information(recommender, train, vectors, seed=0, values=values).assign(values=name)
        for name, values in {"means": disentanglement.means, "draws": draws}.items()
    )
    return {"disentanglement": measures, "disentanglement_information": information}


def observed_measures(recommender: I2VAERecommender, dataset: CrossDomainDataset) -> pd.DataFrame:
    """The measures that need no truth, on test rows with both histories, whose targets are not looked at."""
    vectors = _item_vectors_by_domain(recommender, dataset)
    return disentanglement.observed_measures(recommender, dataset.splits["test"], vectors, seed=0)
