"""What tables and figures call things: one label for each system, kind of row, latent, column and parameter.

Files, options and code have the names themselves (``recent_popularity``, ``tailed_warm``, ``t_y``, ``model.T``).
"""

import re
from typing import Any

import pandas as pd

from i2vae_lib.recommenders.registry import REGISTRY

AFTER = "_after"  # ends the name of a ranker that ranks only what comes after the history's last item
# a latent, or a column of a training's history that is one's. `x` alone may be a domain: see latent
LATENT = re.compile(r"(kl/|active/)?(t_|a_)?([xy])")

_RAISED = {"x": "ˣ", "y": "ʸ"}
_OF_LATENTS = {"kl/": "KL of ", "active/": "active units of "}
_VARIANT = re.compile(r"(\S+)( [(#].*)")  # a system and what tells it from another of that name
_OF_DOMAIN = re.compile(r"(.+)/([xy])")

_TERMS = {
    "reconstruction": "reconstruction",
    "kl_specific": "KL of z",
    "kl_transferable": "KL of z_t",
    "kl_augmented": "KL of z_a",
    "joint": "joint information",
    "disentangling": "disentangling",
    "cross_domain": "cross-domain",
    "denoising": "denoising",
    "ndcg@10": "NDCG@10",
    "hr@10": "HR@10",
}
_WORDS = _TERMS | {
    "tailed_warm": "tailed, warm",
    "no_history": "no history",
    "cold_released": "cold, as released",
    "leave_one_out": "co-occurrence, asker left out",
    "cooccurrence": "co-occurrence",
    "lightgcn": "LightGCN",
    "interval_low": "95 % from",
    "interval_high": "95 % to",
    "p_holm": "p (Holm)",
    "p_t": "p (t-test)",
    "p_t_holm": "p (t-test, Holm)",
    "counts_alone": "counts alone",
    "data_seed": "data seed",
    "paper_mean": "the paper's i2VAE",
    "paper_sd": "its sd",
    "own_before": "owner, before",
    "own_after": "owner, after",
    "partner_before": "partner, before",
    "partner_after": "partner, after",
    "kl": "KL (nats)",
    "lambda_d": "λ_d",
    "gaussian": "Gaussian",
    "gaussian_low": "Gaussian, from",
    "gaussian_high": "Gaussian, to",
    "gaussian_shuffled": "Gaussian, shuffled",
    "gaussian_4": "Gaussian, 4 components",
    "ksg": "KSG, 4 components",
    "contrastive": "InfoNCE",
    "cap": "InfoNCE's cap",
    "hsic_p": "p (HSIC)",
    "cka": "CKA",
    "rows/s": "rows per second",
    "half_life": "half-life",
    "at_edge": "at the edge of its grid",
    "overlap_mode": "the other users",
}
_PARAMETERS = {
    "controls.density": "D_s, share of interactions kept",
    "controls.overlap": "K_o, share of shared users kept",
    "controls.overlap_mode": "the other shared users",
    "split.cold_share": "K_cs, share of shared users who lose a domain",
    "evidence.across": "evidence: weight of pairs across domains",
    "evidence.backward": "evidence: weight of items that came before",
    "evidence.half_lives": "recent takers: half-lives",
    "evidence.pooled": "counts: weights in the pool",
    "evidence.proximity": "evidence: how fast far pairs fade",
    "evidence.recency": "evidence: how fast old items fade",
    "evidence.shrinkage": "evidence: shrinkage of counts",
    "model.T": "T, longest history kept",
    "model.blocks": "blocks of the encoder",
    "model.d": "d, width",
    "model.dropout": "dropout",
    "model.heads": "heads of the encoder",
    "model.initial_log_variance": "log-variance at the start",
    "model.positions": "positions that teach",
    "model.start": "item vectors at the start",
    "objective.blank_share": "share of users shown again as cold",
    "objective.kl_weight": "weight of the KLs",
    "objective.lambda_a": "λ_a, weight of denoising",
    "objective.lambda_c": "λ_c, weight of cross-domain and disentangling",
    "objective.reconstruction": "reconstruction",
    "psg.across": "recall: weight of pairs across domains",
    "psg.backward": "recall: weight of items that came before",
    "psg.kind": "generator of pseudo-sequences",
    "psg.proximity": "recall: how fast far pairs fade",
    "psg.recency": "recall: how fast old items fade",
    "psg.shrinkage": "recall: shrinkage of counts",
    "training.batch_size": "batch size",
    "training.learning_rate": "learning rate",
    "training.patience": "epochs without gain before a stop",
}


def label(name: str) -> str:
    """What tables and figures call a thing; any other name stays as it is.

    Parameters
    ----------
    name
        A system, also of a variant (``i2vae (model.d=64)``) or with :data:`AFTER`; a kind of row; a column of a table
        or of a training's history; a parameter, whose key stays beside the words because a reader has to type it.
    """
    plain = name.removesuffix(AFTER)
    if plain in REGISTRY:
        return REGISTRY[plain].title + (" after the last" if plain != name else "")
    if name in _WORDS:
        return _WORDS[name]
    if name in _PARAMETERS:
        return f"{_PARAMETERS[name]} ({name})"
    if (of_latent := LATENT.fullmatch(name)) and of_latent[1]:
        return _OF_LATENTS[of_latent[1]] + latent(name)
    if (of_domain := _OF_DOMAIN.fullmatch(name)) and of_domain[1] in _TERMS:
        return f"{_TERMS[of_domain[1]]}, {of_domain[2].upper()}"
    variant = _VARIANT.fullmatch(name)
    return label(variant[1]) + variant[2] if variant and variant[1] in REGISTRY else name


def latent(name: str) -> str:
    """The paper's symbol of a latent: ``t_y`` and ``kl/t_y`` are z_tʸ. Any other name stays as it is."""
    known = LATENT.fullmatch(name)
    return f"z{'_' * bool(known[2])}{(known[2] or '')[:1]}{_RAISED[known[3]]}" if known else name


# columns whose values are names
_NAMING = ("system", "recommender", "best", "ranker", "generator", "kind", "base", "row")


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the labels of its columns, of the systems and kinds of row in it, and of its latents."""

    def of(naming: Any) -> Any:
        return lambda value: naming(value) if isinstance(value, str) else value

    shown = {name: table[name].map(of(label)) for name in _NAMING if name in table}
    if "latent" in table:
        shown["latent"] = table["latent"].map(of(latent))
    return table.assign(**shown).rename(columns=of(label))
