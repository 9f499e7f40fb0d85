"""What the latents carry, and whether they are apart: probes, factor-wise scores, interventions.

A number here says nothing without its baseline: the same measure of the untrained model (:func:`untrained`), and of a
model that was trained without a term. Probes and scores read posterior *means*; :func:`latents_of` and
:func:`shared_information` take :func:`sampled` in their place. Means know more: a regularizer that shrinks them against
the posterior's width takes away information from draws that no estimator on means can see.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy  # scipy.stats is imported where it is used: it takes most of a second
import torch
from torch import Tensor

from i2vae_lib.data.batches import Side
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.rows import Array, Rows, other
from i2vae_lib.data.synthetic import next_item_probabilities
from i2vae_lib.disentanglement import information
from i2vae_lib.lazy import require
from i2vae_lib.model.encoders import masked_mean
from i2vae_lib.model.i2vae import ROLES, Latents
from i2vae_lib.model.latents import Gaussian, kl, sample, standard_like
from i2vae_lib.model.objective import active_units
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.recommenders.positions import drop_evidence

Values = Callable[[Gaussian], Tensor]


def means(q: Gaussian) -> Tensor:
    """Posterior means."""
    return q.mean


def sampled(generator: torch.Generator) -> Values:
    """Draws from the posteriors, in place of their means."""
    return partial(sample, generator=generator)


# --- probes -----------------------------------------------------------------------------------------------------------


def _halves(owner: Array, rng: np.random.Generator) -> Array:
    """Which rows a probe is fitted on: those of half of the users, bool [n]."""
    users = np.unique(owner)
    return np.isin(owner, rng.permutation(users)[: len(users) // 2])


def linear_probe(inputs: Array, truth: Array, owner: Array, rng: np.random.Generator, ridge: float = 1.0) -> float:
    """How much of ``truth`` is a linear function of ``inputs``: R² on users that the probe was not fitted on.

    Ridge regression on half of the users, inputs standardised on that half (Alain and Bengio 2017). 1: all of it; 0 or
    below: nothing beyond the mean. A rotation of the inputs changes nothing (up to ``ridge``). Too low where pairs are
    few beside inputs.

    Parameters
    ----------
    inputs, truth
        float [n, d] and [n, k].
    owner
        The user of each row: all rows of one lie on one side.
    ridge
        L2 penalty in rows.
    """
    fitted = _halves(owner, rng)
    x, y = information.standardised(inputs, fitted), truth - truth[fitted].mean(axis=0)
    weights = np.linalg.solve(x[fitted].T @ x[fitted] + ridge * np.eye(x.shape[1]), x[fitted].T @ y[fitted])
    return _explained(y[~fitted], x[~fitted] @ weights)


def neighbour_probe(inputs: Array, truth: Array, owner: Array, rng: np.random.Generator, neighbours: int = 20) -> float:
    """R² of the mean truth of the nearest rows of other users: :func:`linear_probe` for what is not linear.

    Inputs are standardised. Too low in many dimensions, where near rows are far.
    """
    fitted = _halves(owner, rng)
    x, y = information.standardised(inputs, fitted), truth - truth[fitted].mean(axis=0)
    nearest = scipy.spatial.cKDTree(x[fitted]).query(x[~fitted], k=neighbours)[1]
    return _explained(y[~fitted], y[fitted][nearest].mean(axis=1))


def _explained(actual: Array, guess: Array) -> float:
    """R² of a guess, beside 0 as the plain guess."""
    return float(1 - np.square(actual - guess).sum() / np.square(actual).sum())


# --- factor-wise scores -----------------------------------------------------------------------------------------------


class _DCI(NamedTuple):
    """Eastwood and Williams (ICLR 2018), each in [0, 1] (informativeness: R², may be negative).

    Attributes
    ----------
    disentanglement
        1: each code dimension is used for one factor.
    completeness
        1: each factor is captured by one code dimension.
    informativeness
        R² of the factors from the codes, on users that were not fitted.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: Array, factors: Array, owner: Array, rng: np.random.Generator, trees: int = 40) -> _DCI:
    """Importance of each code dimension for each factor, by extremely randomised trees (scikit-learn).

    Departs: the paper fits lasso or random forests. A rotation of perfect codes keeps informativeness and loses the
    other two. Bias: importances of useless dimensions are not zero, so a useless code has disentanglement above 0.

    Parameters
    ----------
    codes, factors
        float [n, d] and [n, k].
    """
    require("measuring how well latents tell factors", "scikit-learn")
    from sklearn.ensemble import ExtraTreesRegressor

    fitted = _halves(owner, rng)
    importances, wrong, total = [], 0.0, 0.0
    for factor in factors.T:
        forest = ExtraTreesRegressor(trees, min_samples_leaf=5, random_state=int(rng.integers(2**31)))
        forest.fit(codes[fitted], factor[fitted])
        importances.append(forest.feature_importances_)
        wrong += float(np.square(factor[~fitted] - forest.predict(codes[~fitted])).sum())
        total += float(np.square(factor[~fitted] - factor[fitted].mean()).sum())
    weight = np.stack(importances, axis=1)  # [d, k]
    return _DCI(_unmixed(weight), _unmixed(weight.T), 1 - wrong / total)


def _unmixed(weight: Array) -> float:
    """1 - entropy of each line's shares, lines weighted by their sum."""
    lines = weight.sum(axis=1)
    spread = np.nan_to_num(scipy.stats.entropy(weight, axis=1, base=weight.shape[1]))  # of a line of zeros: nan
    return float(((1 - spread) * lines).sum() / max(lines.sum(), 1e-12))


def mig(codes: Array, factors: Array, bins: int = 20) -> float:
    """Mutual information gap (Chen et al., NeurIPS 2018, Eq. 6), mean over factors, in [0, 1].

    Codes and factors are cut into ``bins`` bins of equal counts; ties stay together. The plug-in estimate of a code
    that knows little is about (bins - 1)² / 2n nats too high, that of one that knows all is right: the gap is too small
    (that of the factors themselves is the ceiling).
    """
    require("measuring how well latents tell factors", "scikit-learn")
    from sklearn.metrics import mutual_info_score

    cut = [_binned(one, bins) for one in codes.T]
    gaps = []
    for factor in factors.T:
        target = _binned(factor, bins)
        known = sorted((mutual_info_score(code, target) for code in cut), reverse=True)
        gap = known[0] - (known[1] if len(known) > 1 else 0.0)
        gaps.append(gap / max(float(scipy.stats.entropy(np.bincount(target))), 1e-12))
    return float(np.mean(gaps))


def sap(codes: Array, factors: Array) -> float:
    """Separated attribute predictability (Kumar, Sattigeri and Balakrishnan, ICLR 2018), mean over factors, in [0, 1].

    The gap between the two code dimensions that explain a factor best, by the squared correlation of each alone.
    """
    x, y = information.standardised(codes), information.standardised(factors)
    explained = np.sort(np.square(x.T @ y / len(x)), axis=0)[::-1]  # [d, k]
    second = explained[1] if len(explained) > 1 else 0.0
    return float((explained[0] - second).mean())


def _binned(values: Array, bins: int) -> Array:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, values, side="right")


# --- a trained model --------------------------------------------------------------------------------------------------


def with_both(rows: Rows) -> Rows:
    """The rows that have a history in both domains: those whose three latents are all inferred."""
    return rows.take(np.flatnonzero((rows.lengths("own") > 0) & (rows.lengths("other") > 0)))


def untrained(recommender: I2VAERecommender, train: Rows, rng: np.random.Generator) -> I2VAERecommender:
    """The same model with the weights that training starts from: the baseline of every measure."""
    fresh = I2VAERecommender(recommender.catalogue, recommender.params)
    fresh.initialise(train, recommender.generator, rng)
    return fresh


def latents_of(recommender: I2VAERecommender, rows: Rows, values: Values = means) -> dict[str, dict[str, Array]]:
    """Values of the latents of rows with both histories, by target domain.

    Returns
    -------
    dict
        Domain -> role (and ``auxiliary``: r) -> float64 [n, d]; ``rows``: the lines of :func:`with_both`, int [n].
    """
    both = with_both(rows)
    found = {}
    for domain, side, latents in recommender.infer(both):
        arrays = {role: _array(values(getattr(latents, role))) for role in (*ROLES, "auxiliary")}
        found[domain] = arrays | {"rows": side.position.cpu().numpy()}
    return found


def _inferred(recommender: I2VAERecommender, rows: Rows) -> Iterator[tuple[str, Rows, Latents]]:
    """By target domain the rows with both histories, and their latents."""
    both = with_both(rows)
    for domain, side, latents in recommender.infer(both):
        yield domain, both.take(side.position.cpu().numpy()), latents


def _array(values: Tensor) -> Array:
    return values.cpu().numpy().astype(np.float64)


def planted(truth: Mapping[str, Array], rows: Rows, domain: str) -> dict[str, Array]:
    """Planted interests of the users of rows: ``shared`` and ``specific`` to ``domain``, float [n, topics]."""
    return {"shared": truth["planted_shared"][rows.source], "specific": truth[f"planted_{domain}"][rows.source]}


def latent_probes(
    recommender: I2VAERecommender, rows: Rows, truth: Mapping[str, Array], rng: np.random.Generator
) -> pd.DataFrame:
    """Linear probes from the posterior means of rows with both histories to the planted interests of their users.

    Parameters
    ----------
    rows
        Any; those that lack a history are left out. Their targets are not looked at.
    truth
        ``CrossDomainDataset.truth``.

    Returns
    -------
    DataFrame
        ``domain`` (key of the target), ``latent`` (role), ``shared``, ``specific`` (R² to the user's planted interest
        in the shared topics, and in those of the target's domain alone), ``kl`` (mean to the latent's own prior, which
        is learnt for all but the transferable one; nats), ``active`` (units), ``n``.
    """
    lines = []
    for domain, chosen, latents in _inferred(recommender, rows):
        wanted = planted(truth, chosen, domain)
        for role in ROLES:
            q = getattr(latents, role)
            known = {name: linear_probe(_array(q.mean), factors, chosen.user, rng) for name, factors in wanted.items()}
            nats = float(kl(q, prior_of(recommender, role, domain, q)).mean())
            line = {"domain": domain, "latent": role, **known, "kl": nats, "active": active_units(q.mean)}
            lines.append(line | {"n": len(chosen)})
    return pd.DataFrame(lines)


def prior_of(recommender: I2VAERecommender, role: str, domain: str, q: Gaussian) -> Gaussian:
    """The prior of a role's latent for a target domain: learnt; N(0, I) in the shape of ``q`` for what transfers."""
    if role == "transferable":
        return standard_like(q)
    model = recommender.model
    with torch.no_grad():
        prior: Gaussian = (model.augmented_prior if role == "augmented" else model.prior)[domain]()
        return Gaussian(prior.mean.clone(), prior.log_variance.clone())


def measures(recommender: I2VAERecommender, dataset: CrossDomainDataset, rows: Rows, seed: int) -> pd.DataFrame:
    """Every measure of a model on rows whose users' interests are planted; a line a measure and domain.

    Parameters
    ----------
    rows
        Those with both histories are used; targets are not looked at.
    seed
        Of the halves that probes are fitted on, alike for every model that is compared.

    Returns
    -------
    DataFrame
        ``measure, of, domain, value``.
    """
    both, lines = with_both(rows), []
    for domain, values in latents_of(recommender, rows).items():
        chosen = both.take(values["rows"])
        truth, owner = planted(dataset.truth, chosen, domain), chosen.user
        found: dict[tuple[str, str], float] = {}
        for role in ROLES:
            found |= _probed(role, values[role], truth, owner, seed)
        # as the paper means it: transferable codes shared interests, specific the domain's own
        codes = np.hstack([values["transferable"], values["specific"]])
        factors = np.hstack([truth["shared"], truth["specific"]])
        scores = dci(codes, factors, owner, np.random.default_rng(seed))
        found |= {(f"DCI {name}", "both → both"): value for name, value in scores._asdict().items()}
        # below a hundredth a planted weight moves nobody's choices: its digits are no part of the factor
        coarse = np.round(factors, 2)
        found["MIG", "both → both"] = mig(codes, coarse)
        found["MIG ceiling", "factors → factors"] = mig(coarse, coarse)
        found["SAP", "both → both"] = sap(codes, factors)
        lines += [(*key, domain, value) for key, value in found.items()]
    return pd.DataFrame(lines, columns=["measure", "of", "domain", "value"])


def _probed(
    role: str, codes: Array, wanted: Mapping[str, Array], owner: Array, seed: int
) -> dict[tuple[str, str], float]:
    """Both probes from a role's codes to each of what is wanted, by the names of a table of measures."""
    found = {}
    for (name, factors), probe in product(wanted.items(), (linear_probe, neighbour_probe)):
        measure = f"R² {probe.__name__.removesuffix('_probe')}"
        found[measure, f"{role} → {name}"] = probe(codes, factors, owner, np.random.default_rng(seed))
    return found


def history_vectors(rows: Rows, vectors: Mapping[str, Array], domain: str) -> Array:
    """Mean vector of each row's history in a domain, float64 [n, k]; 0 where it has none."""
    history = rows.history[domain]
    found = np.zeros((len(rows), vectors[domain].shape[1]))
    np.add.at(found, history.owner, vectors[domain][history.values])
    return found / np.maximum(history.lengths, 1)[:, None]


def observed_measures(
    recommender: I2VAERecommender, rows: Rows, vectors: Mapping[str, Array], seed: int
) -> pd.DataFrame:
    """What can be measured where no truth is known: of real users.

    Parameters
    ----------
    rows
        Those with both histories are used; targets are not looked at.
    vectors
        A vector per item, domain -> float [items + 1, k] (0: padding), that the model has no part in.

    Returns
    -------
    DataFrame
        ``measure, of, domain, value``: R² of a linear and of a neighbour probe from each latent to the mean vector of
        the own and of the other history; KL to the prior and active units; :func:`cold_agreement`; and for each latent
        that is swapped between users the share of the first ten items that stays (``kept``) and by how much the share
        of the partner's first ten rises (``towards the partner``).
    """
    both = with_both(rows)
    found: list[tuple[str, str, str, float]] = []
    for domain, chosen, latents in _inferred(recommender, both):
        sides = {"own history": domain, "other history": other(domain)}
        histories = {name: history_vectors(chosen, vectors, of) for name, of in sides.items()}
        for role in ROLES:
            q = getattr(latents, role)
            probes = _probed(role, _array(q.mean), histories, chosen.user, seed)
            found += [(measure, of, domain, value) for (measure, of), value in probes.items()]
            found.append(("kl", role, domain, float(kl(q, prior_of(recommender, role, domain, q)).mean())))
            found.append(("active", role, domain, float(active_units(q.mean))))
    for line in cold_agreement(recommender, both).to_dict(orient="records"):
        found += [(name, "r for q", line["domain"], line[name]) for name in ("kl", "distance", "kept")]
    before = top_items(recommender, both)
    for role in ROLES:
        after = top_items(recommender, both, swapped(role, seed))
        for domain, (at, items) in before.items():
            changed, partner = after[domain][1], items[partners(len(at), seed)]
            found.append(("kept", f"{role} swapped", domain, overlap(items, changed)))
            gain = overlap(changed, partner) - overlap(items, partner)
            found.append(("towards the partner", f"{role} swapped", domain, gain))
    return pd.DataFrame(found, columns=["measure", "of", "domain", "value"])


def by_umap(values: Array, seed: int) -> Array:
    """Two dimensions by UMAP (McInnes, Healy and Melville 2018), float [n, 2], in place of two principal components.

    It keeps who is near whom; distances between groups, their sizes and their emptiness between mean nothing.

    Raises
    ------
    MissingLibrary
        UMAP is not installed.
    """
    require("a map of latents by UMAP", "umap-learn")
    from umap import UMAP

    threads = torch.get_num_threads()
    try:  # one thread, so that the seed decides
        return UMAP(random_state=seed, n_jobs=1).fit_transform(values)
    finally:  # numba sets the threads of whatever shares its OpenMP, and weights depend on them in their last bits
        torch.set_num_threads(threads)


def shared_information(
    recommender: I2VAERecommender, rows: Rows, vectors: Mapping[str, Array], seed: int, values: Values = means
) -> pd.DataFrame:
    """What latents know of each other and of the own history, by :func:`i2vae_lib.disentanglement.information.table`.

    Parameters
    ----------
    vectors
        A vector per item, domain -> float [items + 1, k] (0: padding), that the model has no part in: a history is
        their mean.
    values
        :func:`means`, or :func:`sampled`. All latents of a row are functions of its histories: the information of
        means has no bound, and what is reported is what an estimator can resolve.

    Returns
    -------
    DataFrame
        ``domain, of`` (``I(Z; Z_t)``, ``I(history; Z_t)``, ``I(Z; Z_a)``) and the columns of ``information.table``.
    """
    both, lines = with_both(rows), []
    for domain, drawn in latents_of(recommender, rows, values).items():
        chosen = both.take(drawn["rows"])
        history = history_vectors(chosen, vectors, domain)
        pairs = {
            "I(Z; Z_t)": (drawn["specific"], drawn["transferable"]),
            "I(history; Z_t)": (history, drawn["transferable"]),
            "I(Z; Z_a)": (drawn["specific"], drawn["augmented"]),
        }
        for name, (x, y) in pairs.items():
            found = information.table(x, y, chosen.user, np.random.default_rng(seed))
            lines.append({"domain": domain, "of": name, **found})
    return pd.DataFrame(lines)


# --- interventions ----------------------------------------------------------------------------------------------------


def top_items(
    recommender: I2VAERecommender, rows: Rows, change: Callable[[Latents], Latents] | None = None, k: int = 10
) -> dict[str, tuple[Array, Array]]:
    """The first k items of each row, from posteriors that ``change`` may have changed.

    Items of the own history are not left out: what is asked is where the interest points. A copy path is silenced: what
    it copies does not come through the latents.

    Returns
    -------
    dict
        Target domain -> lines of ``rows`` (int [n]) and items (int [n, k]).
    """
    found = {}
    with torch.no_grad():
        for domain, side, latents in recommender.infer(rows):
            changed = latents if change is None else change(latents)
            everything = torch.arange(1, recommender.sizes[domain] + 1, device=recommender.device)[None]
            scores = recommender.scores_of(changed, drop_evidence(side), domain, everything)
            best = scores.topk(k, dim=1).indices.cpu().numpy() + 1
            found[domain] = (side.position.cpu().numpy(), best)
    return found


def swapped(role: str, seed: int) -> Callable[[Latents], Latents]:
    """Give every row the latent of another row of its batch; :func:`partners` says of which."""

    def change(latents: Latents) -> Latents:
        q: Gaussian = getattr(latents, role)
        order = torch.from_numpy(partners(len(q.mean), seed)).to(q.mean.device)
        changes: dict[str, Any] = {role: Gaussian(q.mean[order], q.log_variance[order])}
        return replace(latents, **changes)

    return change


def partners(n: int, seed: int) -> Array:
    """Whose latent each of n rows gets: a cycle in random order, so nobody gets the own one. int [n]."""
    order = np.random.default_rng(seed).permutation(n)
    found = np.empty(n, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found


def as_if_cold(latents: Latents) -> Latents:
    """The transferable latent by r, which knows the other domain alone, in place of q, which knows both."""
    return replace(latents, transferable=latents.auxiliary)


def counterfactual(
    recommender: I2VAERecommender, dataset: CrossDomainDataset, rows: Rows, role: str, seed: int
) -> pd.DataFrame:
    """Swap a latent between users: whose planted tastes does the top 10 then serve?

    Returns
    -------
    DataFrame
        ``domain, n``; the mean planted probability of the top 10 times the number of items (1 is chance) under the
        row's own tastes and under its partner's, before and after the swap: ``own_before, own_after, partner_before,
        partner_after``; ``kept``: share of the top 10 that the swap leaves.
    """
    both, lines = with_both(rows), []
    before = top_items(recommender, both)
    after = top_items(recommender, both, swapped(role, seed))
    for domain, (at, items) in before.items():
        truth = next_item_probabilities(dataset.truth, both, at, domain) * dataset.catalogue.size(domain)
        partner = truth[partners(len(at), seed)]
        line: dict[str, Any] = {"domain": domain, "n": len(at)}
        for whose, table in (("own", truth), ("partner", partner)):
            for when, chosen in (("before", items), ("after", after[domain][1])):
                line[f"{whose}_{when}"] = float(np.take_along_axis(table, chosen, axis=1).mean())
        lines.append(line | {"kept": overlap(items, after[domain][1])})
    return pd.DataFrame(lines)


def cold_agreement(recommender: I2VAERecommender, rows: Rows) -> pd.DataFrame:
    """r(z_t | the other domain) beside q(z_t | both), for rows that have both.

    Returns
    -------
    DataFrame
        ``domain, n``; ``kl``: KL(q || r), mean, nats; ``distance``: of the means over the spread of q's means (1: as
        far apart as two users); ``kept``: share of the top 10 that stays when r takes q's place.
    """
    both, lines = with_both(rows), []
    with_q, with_r = top_items(recommender, both), top_items(recommender, both, as_if_cold)
    for domain, _, latents in recommender.infer(both):
        q, r = latents.transferable, latents.auxiliary
        apart = (q.mean - r.mean).norm(dim=1).mean()
        spread = (q.mean - q.mean[torch.from_numpy(partners(len(q.mean), 0))]).norm(dim=1).mean()
        line = {"domain": domain, "n": len(q.mean), "kl": float(kl(q, r).mean()), "distance": float(apart / spread)}
        lines.append(line | {"kept": overlap(with_q[domain][1], with_r[domain][1])})
    return pd.DataFrame(lines)


def influence(recommender: I2VAERecommender, rows: Rows, most: int = 8) -> pd.DataFrame:
    """How far z_a moves when a pseudo-item is taken away, beside an encoder that weighs all items alike.

    The distance that the mean of z_a moves, over the distance that the plain mean of the sequence's item vectors moves:
    1 for a plain mean, whatever the geometry (an item near the others moves a mean little without being ignored).
    Taking an item away also shifts the positions of what lies before it.

    Parameters
    ----------
    rows
        Those without an own history are left out (they have no z_a), as are those whose history is so long that another
        real item would come in for the one taken away.
    most
        The first so many recalled items of each row.

    Returns
    -------
    DataFrame
        ``domain, row`` (line of the rows with an own history), ``place, item``; ``influence``: that ratio over the mean
        of its row's.
    """
    warm = rows.take(np.flatnonzero(rows.lengths("own") > 0))
    items, scores = recommender.recall(warm)
    p = recommender.params
    roomy = warm.lengths("own") + p.psg.recalled <= p.model.T_pseudo
    whole = {
        d: (q.augmented.mean, _plain_mean(recommender, side, d))
        for d, side, q in recommender.infer(warm, (items, scores))
    }
    parts = []
    for place in range(min(most, p.psg.recalled)):
        without = items.copy()
        without[:, place] = 0
        for d, side, q in recommender.infer(warm, (without, scores)):
            at = side.position.cpu().numpy()
            before, plain = whole[d]
            moved = (q.augmented.mean - before).norm(dim=1)
            alike = (_plain_mean(recommender, side, d) - plain).norm(dim=1)
            ratio = (moved / alike.clamp(min=1e-9)).cpu().numpy()
            parts.append(
                pd.DataFrame({"domain": d, "row": at, "place": place, "item": items[at, place], "influence": ratio})
            )
    found = pd.concat(parts, ignore_index=True)
    found = found[(found["item"] != 0) & roomy[found["row"]]].reset_index(drop=True)
    mean = found.groupby("row")["influence"].transform("mean")
    return found.assign(influence=found["influence"] / mean.clip(lower=1e-12))


@torch.no_grad()
def _plain_mean(recommender: I2VAERecommender, side: Side, domain: str) -> Tensor:
    """Mean vector of the items of the pseudo-sequences, [B, d]."""
    return masked_mean(recommender.model.items[domain](side.pseudo), side.pseudo != 0)


def denoising(recommender: I2VAERecommender, dataset: CrossDomainDataset, rows: Rows, most: int = 8) -> pd.DataFrame:
    """Does the encoder listen to the pseudo-items that are relevant? :func:`influence` beside the planted relevance.

    Returns
    -------
    DataFrame
        ``domain, n``; ``correlation`` of ranks within a row, mean over rows, with its 95 % interval ``low, high`` over
        rows; ``relevant``: mean relative influence of the more relevant half of each row's pseudo-items (1: that of
        any).
    """
    warm = rows.take(np.flatnonzero(rows.lengths("own") > 0))
    found, lines = influence(recommender, warm, most), []
    for domain, part in found.groupby("domain", sort=False):
        at = part["row"].to_numpy()
        lines_of, where = np.unique(at, return_inverse=True)
        truth = next_item_probabilities(dataset.truth, warm, lines_of, str(domain))
        part = part.assign(relevance=truth[where, part["item"].to_numpy()])
        ranks = part.groupby("row")[["influence", "relevance"]].rank()
        each: Any = ranks.groupby(part["row"]).corr()["relevance"].xs("influence", level=1).dropna()
        half: Any = part["relevance"] > part.groupby("row")["relevance"].transform("median")
        error = 1.96 * float(each.std(ddof=1)) / np.sqrt(len(each)) if len(each) > 1 else np.nan
        mean, relevant = float(each.mean()), float(part.loc[half, "influence"].mean())
        lines.append((domain, len(each), mean, mean - error, mean + error, relevant))
    return pd.DataFrame(lines, columns=["domain", "n", "correlation", "low", "high", "relevant"])


def overlap(a: Array, b: Array) -> float:
    """Mean share of the items of each line of ``a`` that stand in the same line of ``b``; int [n, k] both."""
    return float((a[:, :, None] == b[:, None, :]).any(axis=2).mean())
