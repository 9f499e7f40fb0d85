"""Candidates, ranks, metrics by row kind. Every table is computed from the stored ``greater`` and ``ties``.

For a row, ``greater`` counts the candidates scored above the target and ``ties`` those scored equal to it (the target
not counted). A metric is its expectation over a random order of the ties, so a constant scorer has HR@10 = 1 % of
1,000 candidates exactly, and the order in which candidates are stored can never matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from i2vae_lib.data.dataset import DOMAINS, KINDS, DataError, Int, Rows, hashed, popularity
from i2vae_lib.params import ParameterError, suggestion

CUTOFFS = (5, 10, 20)


class Scorer(Protocol):
    """The part of the recommender contract that evaluation needs."""

    name: str

    def score(self, rows: Rows, candidates: Int) -> Int: ...


class NonFiniteScore(ArithmeticError):
    """A score that is NaN or infinite: an error that names model and row, never a rank."""


def sample_negatives(rows: Rows, count: int, data_seed: int) -> Int:
    """Frozen sampled candidates: ``count`` negatives a row, uniform without replacement.

    Drawn from the catalogue of the row's domain less the target and the own history *before* any cold-start removal
    (``rows.excluded``). The draw depends on (catalogue, user, domain, target, data_seed) and on nothing else, so it is
    the same under every protocol and for every model. (Items of the domain get a random key each from Philox, whose
    raw stream NumPy guarantees; the ``count`` smallest keys win.)

    Returns
    -------
    int32 [rows, count], each row ascending

    Raises
    ------
    DataError
        The domain has fewer items than asked for.
    """
    who = [f"{u}|{d}|{rows.catalogue.ids[DOMAINS[d]][t - 1]}" for u, d, t in zip(rows.user, rows.domain, rows.target)]
    keys = hashed(who, "candidates", rows.catalogue.digest(), data_seed)
    check_negatives(rows, count=count)
    found = np.zeros((len(rows), count), dtype=np.int32)
    for row in range(len(rows)):
        d = DOMAINS[rows.domain[row]]
        barred = np.append(rows.excluded[row], rows.target[row])
        order = np.random.Philox(key=int(keys[row])).random_raw(rows.catalogue.size(d) + 1)
        order[barred] = order[0] = np.iinfo(np.uint64).max
        found[row] = np.sort(np.argpartition(order, count)[:count])
    return found


def check_negatives(*splits: Rows, count: int) -> None:
    """Refuse more negatives than a row of these splits has items left, beside its target and its history.

    Raises
    ------
    DataError
        Names the row that has fewest left, and how many that is.
    """
    worst = None
    for rows in splits:
        # distinct barred items of each row: its excluded ones, and the target if it is not among them
        owner = np.concatenate([rows.excluded.owner, np.arange(len(rows))])
        items = np.concatenate([rows.excluded.values, rows.target])
        barred = np.bincount(np.unique(np.stack([owner, items]), axis=1)[0], minlength=len(rows))
        sizes = np.array([rows.catalogue.size(d) for d in DOMAINS])[rows.domain]
        left = sizes - barred
        if len(rows) and (worst is None or left.min() < worst[0]):
            worst = (int(left.min()), rows, int(left.argmin()))
    if worst is not None and worst[0] < count:
        left_, rows, row = worst
        d = DOMAINS[rows.domain[row]]
        raise DataError(
            f"row {row} (user {rows.user[row]}): {count} negatives asked for, but domain {d} "
            f"({rows.catalogue.names[d]}) has {left_} items left beside the target and the history; "
            f"set evaluation.negatives to at most {left_}"
        )


def rank(scorer: Scorer, rows: Rows, negatives: Int | None, *, full: bool, batch_size: int) -> pd.DataFrame:
    """Score the rows and count, for each, the candidates above and equal to the target.

    Parameters
    ----------
    scorer
        Anything with ``score(rows, candidates)``.
    negatives
        int32 [rows, k] of :func:`sample_negatives`, or None to leave sampled ranking out.
    full
        Also rank the whole catalogue of the row's domain, less the row's own history.
    batch_size
        Rows scored at once; changes nothing but speed and memory.

    Returns
    -------
    DataFrame
        One line a row: ``greater_sampled, ties_sampled, greater_full, ties_full`` (int64; -1 where not asked for).

    Raises
    ------
    NonFiniteScore
        Names the scorer and the row.
    """
    out = {key: np.full(len(rows), -1) for key in ("greater_sampled", "ties_sampled", "greater_full", "ties_full")}
    for d in DOMAINS:
        positions = rows.of(d)
        # rows of like length together: a batch is padded to its longest
        positions = positions[np.argsort(rows.lengths("own")[positions], kind="stable")]
        everything = np.arange(1, rows.catalogue.size(d) + 1, dtype=np.int32)
        for start in range(0, len(positions), batch_size):
            at = positions[start : start + batch_size]
            batch = rows.take(at)
            target = batch.target[:, None]
            if full:
                # one matrix product a batch: all rows share the candidates (a broadcast view, no copy)
                scores = scorer.score(batch, np.broadcast_to(everything, (len(at), len(everything))))
                _refuse_non_finite(scorer, scores, batch)
                aim = np.take_along_axis(scores, target - 1, axis=1)
                above, equal = scores > aim, scores == aim
                history = batch.history[d]
                above[history.owner, history.values - 1] = False
                equal[history.owner, history.values - 1] = False
                equal[np.arange(len(at)), batch.target - 1] = False
                out["greater_full"][at], out["ties_full"][at] = above.sum(axis=1), equal.sum(axis=1)
                if negatives is not None:
                    chosen = negatives[at] - 1
                    out["greater_sampled"][at] = np.take_along_axis(above, chosen, axis=1).sum(axis=1)
                    out["ties_sampled"][at] = np.take_along_axis(equal, chosen, axis=1).sum(axis=1)
            elif negatives is not None:
                scores = scorer.score(batch, np.concatenate([target, negatives[at]], axis=1))
                _refuse_non_finite(scorer, scores, batch)
                out["greater_sampled"][at] = (scores[:, 1:] > scores[:, :1]).sum(axis=1)
                out["ties_sampled"][at] = (scores[:, 1:] == scores[:, :1]).sum(axis=1)
    return pd.DataFrame(out)


def _refuse_non_finite(scorer: Scorer, scores: Int, batch: Rows) -> None:
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise NonFiniteScore(
            f"{scorer.name} gave a score that is not finite to source row {batch.source[bad]} "
            f"(user {batch.user[bad]}, domain {DOMAINS[batch.domain[bad]]})"
        )


def hit_rate(greater: Int, ties: Int, k: int | Int) -> Int:
    """HR@k of each row in expectation over the ties: clip((k - greater) / (ties + 1), 0, 1); k may be a row's own."""
    return np.clip((k - greater) / (ties + 1), 0.0, 1.0)


def ndcg(greater: Int, ties: Int, k: int) -> Int:
    """NDCG@k of each row (one relevant item, so the ideal is 1): mean gain 1 / log2(rank + 1) over the tied ranks."""
    return _mean_gain(greater, ties, 1.0 / np.log2(np.arange(1, k + 1) + 1.0))


def mrr(greater: Int, ties: Int, k: int) -> Int:
    """MRR@k of each row: mean gain 1 / rank over the tied ranks, 0 beyond k."""
    return _mean_gain(greater, ties, 1.0 / np.arange(1, k + 1))


def _mean_gain(greater: Int, ties: Int, gains: Int) -> Int:
    summed = np.concatenate([[0.0], np.cumsum(gains)])
    k = len(gains)
    result: Int = (summed[np.minimum(greater + ties + 1, k)] - summed[np.minimum(greater, k)]) / (ties + 1)
    return result


METRICS = {"HR": hit_rate, "NDCG": ndcg, "MRR": mrr}


def cutoff_of(name: str) -> tuple[str, int]:
    """``HR@10`` as its measure and cutoff.

    Raises
    ------
    ParameterError
        No such measure (the nearest is named), or no whole cutoff above 0.
    """
    measure, _, cutoff = name.partition("@")
    if measure not in METRICS:
        raise ParameterError(f"unknown metric '{name}'{suggestion(name, [f'{one}@10' for one in METRICS])}")
    if not cutoff.isdecimal() or int(cutoff) < 1:
        raise ParameterError(f"metric '{name}': expected a cutoff of at least 1, as in {measure}@10")
    return measure, int(cutoff)


def row_values(table: pd.DataFrame, candidates: str, cutoffs: Sequence[tuple[str, int]]) -> Int:
    """Metrics of each row, [rows, metrics]; nan where these candidates were not ranked."""
    greater, ties = (table[f"{what}_{candidates}"].to_numpy() for what in ("greater", "ties"))
    ranked = greater >= 0
    columns = [METRICS[name](greater.clip(0), ties.clip(0), k) for name, k in cutoffs]
    return np.where(ranked[:, None], np.stack(columns, axis=1), np.nan)


def seen_targets(rows: Rows, train: Rows) -> Int:
    """Rows whose target stands somewhere in the training rows: bool [rows]. Nothing can be learnt of the others."""
    counts = popularity(train)
    seen = np.zeros(len(rows), dtype=bool)
    for d in DOMAINS:
        at = rows.of(d)
        seen[at] = counts[d][rows.target[at]] > 0
    return seen


def rank_table(name: str, rows: Rows, tail: Mapping[str, float], seen: Int, ranks: pd.DataFrame) -> pd.DataFrame:
    """The lines of ``ranks.parquet`` for one recommender: identity, kind flags, and the counts of :func:`rank`.

    ``seen`` is :func:`seen_targets`, bool [rows].
    """
    kinds = rows.kinds(tail) | {"seen": seen}
    lead = {
        "recommender": name,
        "row": rows.source,
        "user": pd.array(rows.user, dtype="str"),
        "domain": [DOMAINS[i] for i in rows.domain],
    }
    flags = {kind: kinds[kind] for kind in ("tailed", "cold", "no_history", "overlapping", "seen")}
    return pd.concat([pd.DataFrame(lead | flags), ranks], axis=1)


def kind_masks(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Row kinds from the stored flags."""
    own = ~(table["cold"] | table["no_history"])
    everyone = pd.Series(True, index=table.index)
    return {
        "all": everyone,
        "tailed": table["tailed"],
        "tailed_warm": table["tailed"] & own,
        "cold": table["cold"],
        "no_history": table["no_history"],
        "overlapping": table["overlapping"],
        "seen": table["seen"],
        "cold_released": ~own,
    }


def metrics(table: pd.DataFrame) -> dict[str, Any]:
    """``metrics.json`` from ``ranks.parquet``.

    Returns
    -------
    dict
        recommender -> domain -> kind -> ``{"n": …, "sampled": {"HR@10": …}, "full": {…}}``; fractions, None where
        n = 0 or these candidates were not ranked (-1 in the table).
    """
    result: dict[str, Any] = {}
    named = [(name, d) for name in table["recommender"].unique() for d in DOMAINS]
    for name, d in named:
        part = table[(table["recommender"] == name) & (table["domain"] == d)]
        masks = kind_masks(part)
        cells: dict[str, Any] = {}
        for kind in KINDS:
            chosen = part[masks[kind]]
            cells[kind] = {"n": len(chosen)}
            for candidates in ("sampled", "full"):
                greater = chosen[f"greater_{candidates}"].to_numpy()
                ties = chosen[f"ties_{candidates}"].to_numpy()
                ranked = len(chosen) > 0 and greater.min() >= 0
                cells[kind][candidates] = {
                    f"{metric}@{k}": float(of_row(greater, ties, k).mean()) if ranked else None
                    for metric, of_row in METRICS.items()
                    for k in CUTOFFS
                }
        result.setdefault(str(name), {})[str(d)] = cells
    return result


def tidy(summary: Mapping[str, Any], names: Mapping[str, str] | None = None) -> pd.DataFrame:
    """``metrics.json`` as a table: one line a recommender, domain, kind, candidates and metric."""
    lines = [
        (name, (names or {}).get(d, d), kind, cell["n"], candidates, metric, value)
        for name, domains in summary.items()
        for d, kinds in domains.items()
        for kind, cell in kinds.items()
        for candidates in ("sampled", "full")
        for metric, value in cell[candidates].items()
    ]
    columns = ["recommender", "domain", "kind", "n", "candidates", "metric", "value"]
    return pd.DataFrame(lines, columns=columns).astype({"value": float})


def selection_metric(ranks: pd.DataFrame, rows: Rows) -> dict[str, float]:
    """What an epoch is selected by: sampled NDCG@10 on validation rows, and its mean over the two domains.

    Returns
    -------
    dict
        ``ndcg@10/x``, ``ndcg@10/y``, ``hr@10/x``, ``hr@10/y`` and ``ndcg@10`` (the mean).
    """
    values: dict[str, float] = {}
    for d in DOMAINS:
        part = ranks.iloc[rows.of(d)]
        greater, ties = part["greater_sampled"].to_numpy(), part["ties_sampled"].to_numpy()
        values[f"ndcg@10/{d}"] = float(ndcg(greater, ties, 10).mean()) if len(part) else 0.0
        values[f"hr@10/{d}"] = float(hit_rate(greater, ties, 10).mean()) if len(part) else 0.0
    values["ndcg@10"] = (values["ndcg@10/x"] + values["ndcg@10/y"]) / 2
    return values
