"""Candidates, ranks, metrics by row kind. Every table is computed from the stored ``greater`` and ``ties``.

For a row, ``greater`` counts the candidates scored above the target and ``ties`` those scored equal to it (the target
not counted). A metric is its expectation over a random order of the ties, so a constant scorer has HR@10 = 1 % of
1,000 candidates exactly, and the order in which candidates are stored can never matter.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from i2vae_lib.data.kinds import KINDS
from i2vae_lib.data.rows import (
    DOMAINS,
    PAD,
    Array,
    DataError,
    Ragged,
    Rows,
    batched,
    hashed,
    located,
    mixed,
    popularity,
)
from i2vae_lib.data.user_sequences import chained
from i2vae_lib.params import ParameterError
from i2vae_lib.places import suggestion

CUTOFFS = (5, 10, 20)
# what rank counts for each row: the columns of `ranks.parquet` from which everything is computed
COUNTS = tuple(f"{what}_{which}" for which in ("sampled", "full") for what in ("greater", "ties", "candidates"))
DRAWN_AT_ONCE = 1_000_000


class _Scorer(Protocol):
    """The part of the recommender contract that evaluation needs."""

    name: str

    def score(self, rows: Rows, candidates: Array) -> Array: ...


class NonFiniteScore(ArithmeticError):
    """A score that is NaN or infinite. The message names the model and the row."""


def sample_negatives(rows: Rows, count: int, data_seed: int) -> Array:
    """Frozen sampled candidates: ``count`` negatives per row, uniform without replacement, or all remaining items.

    Drawn from the catalogue of the row's domain without the target and the own history *before* any cold-start removal
    (``rows.excluded``). The draw depends on (catalogue, the excluded items, user, domain, target, data_seed) and on
    nothing else: not on the model, the order of the rows or which other rows there are.

    Each row has an endless stream of items (:func:`_stream`); its negatives are the first ``count`` that are new and
    not barred. That costs O(count), whatever the catalogue. Where ``count`` is more than half of the remaining items,
    a stream would mostly repeat itself: there each item gets a key, and the smallest keys win.

    Returns
    -------
    int32 [rows, count], each row ascending, then 0 where it has fewer than ``count`` items left; no wider than the
    larger catalogue

    Raises
    ------
    DataError
        A row has no item left at all.
    """
    who = [f"{u}|{d}|{rows.catalogue.ids[DOMAINS[d]][t - 1]}" for u, d, t in zip(rows.user, rows.domain, rows.target)]
    keys = hashed(who, "candidates", rows.catalogue.digest(), data_seed)
    check_negatives(rows)
    count = min(count, max(rows.catalogue.size(d) for d in DOMAINS))
    barred = _barred(rows)
    negatives = np.zeros((len(rows), count), dtype=np.int32)
    for d in DOMAINS:
        size, at = rows.catalogue.size(d), rows.of(d)
        few = size - barred.lengths[at] < 2 * count
        for draw, part, width in ((_by_key, at[few], size), (_by_stream, at[~few], 2 * count)):
            for some in np.array_split(part, max(1, len(part) * width // DRAWN_AT_ONCE)):
                negatives[some] = draw(keys[some], barred.take(some), size, count)
    return negatives


def check_negatives(*splits: Rows) -> None:
    """Refuse rows whose target and excluded history make up the whole domain: nothing is left to rank against.

    Raises
    ------
    DataError
        Names the first such row.
    """
    for rows in splits:
        nothing = np.flatnonzero(_items_left(rows) == 0)
        if len(nothing):
            row, d = nothing[0], DOMAINS[rows.domain[nothing[0]]]
            raise DataError(
                f"row {row} (user {rows.user[row]}): its target and history are all {rows.catalogue.size(d)} items of "
                f"domain {d} ({rows.catalogue.names[d]}), so no candidate is left beside the target; a domain needs "
                f"more items than any of its histories"
            )


def _items_left(rows: Rows) -> Array:
    """Number of items of each row's domain, without its target and the excluded own history: int64 [rows]."""
    sizes = np.array([rows.catalogue.size(d) for d in DOMAINS])[rows.domain]
    return sizes - _barred(rows).lengths


def _barred(rows: Rows) -> Ragged:
    """Items that are never negatives of a row: its target and ``rows.excluded``, each item once, ascending."""
    return chained(rows.excluded, Ragged.from_lengths(rows.target, np.ones(len(rows)))).distinct()


def _stream(keys: Array, length: int, size: int) -> Array:
    """The first items of each row's stream, int64 [rows, length]: independent and uniform on 1…size.

    A splitmix64 of (key, place) as a fraction of 2^64, times ``size`` (the high half of the 128-bit product): relative
    differences between the items' probabilities stay below size / 2^64, which is 2^-40 at 16 million items.
    """
    drawn = mixed(keys[:, None], np.arange(length, dtype=np.uint64))
    half, size_ = np.uint64(32), np.uint64(size)
    low = ((drawn & np.uint64(2**32 - 1)) * size_) >> half
    return (((drawn >> half) * size_ + low) >> half).astype(np.int64) + 1


def _by_stream(keys: Array, barred: Ragged, size: int, count: int) -> Array:
    """The first ``count`` items of each row's stream that are new and not barred, ascending."""
    negatives = np.zeros((len(keys), count), dtype=np.int32)
    if not len(keys) or not count:
        return negatives
    # the expected length for the row with the most barred items, plus four standard deviations
    left = size - int(barred.lengths.max())
    hit = (left - count) / size
    length = int(size * np.log(left / (left - count)) + 4 * np.sqrt(count * (1 - hit)) / hit) + 2
    todo = np.arange(len(keys))
    while len(todo):
        items, place, fresh = _fresh(_stream(keys[todo], length, size), barred.take(todo), size)
        in_order = np.zeros(items.shape, dtype=bool)
        np.put_along_axis(in_order, place, fresh, axis=1)
        so_far = in_order.cumsum(axis=1)
        last = (so_far < count).sum(axis=1)  # the place of the draw that completes the row
        whole = last < length
        chosen = fresh & (place <= last[:, None]) & whole[:, None]
        negatives[todo[whole]] = items[chosen].reshape(-1, count)
        todo, length = todo[~whole], 2 * length
    return negatives


def _fresh(stream: Array, barred: Ragged, size: int) -> tuple[Array, Array, Array]:
    """A stream sorted by item: (items, their places, whether an item stands there first and is not barred)."""
    rows, length = stream.shape
    bits = int(length).bit_length()
    lines = np.arange(rows)[:, None] * (size + 1)
    coded = np.sort(((lines + stream) << bits) | np.arange(length), axis=1)
    place, coded = coded & (2**bits - 1), coded >> bits
    fresh = np.diff(coded, axis=1, prepend=-1) != 0
    # the codes ascend over all rows: each barred item is looked up at its first occurrence
    flat, wanted = coded.ravel(), barred.owner * (size + 1) + barred.values
    at, there = located(flat, wanted)
    fresh.ravel()[at[there]] = False
    return coded - lines, place, fresh


def _by_key(keys: Array, barred: Ragged, size: int, count: int) -> Array:
    """The ``count`` items with the smallest keys that are not barred (or all of them), ascending, then 0."""
    drawn = mixed(keys[:, None], np.arange(size + 1, dtype=np.uint64)) >> np.uint64(1)
    drawn[:, 0] = drawn[barred.owner, barred.values] = np.iinfo(np.uint64).max  # larger than any other key
    order = np.argpartition(drawn, min(count, size), axis=1)[:, :count]
    order[np.take_along_axis(drawn, order, axis=1) == np.iinfo(np.uint64).max] = size + 1
    order.sort(axis=1)
    order[order == size + 1] = 0
    return np.pad(order, ((0, 0), (0, count - order.shape[1]))).astype(np.int32)


def rank(scorer: _Scorer, rows: Rows, negatives: Array | None, *, full: bool, batch_size: int) -> pd.DataFrame:
    """Score the rows and count, for each, the candidates above and equal to the target.

    Parameters
    ----------
    scorer
        Anything with ``score(rows, candidates)``.
    negatives
        int32 [rows, k] of :func:`sample_negatives` (0: no candidate), or None for no sampled ranking.
    full
        Also rank the whole catalogue of the row's domain, with the same exclusions as sampled candidates.
    batch_size
        Rows scored at once; changes nothing but speed and memory.

    Returns
    -------
    DataFrame
        One line per row, the columns :data:`COUNTS` (int64; -1 where not asked for): how many candidates score above
        the target, how many equal it, and how many there are, the target not counted.

    Raises
    ------
    NonFiniteScore
        Names the scorer and the row.
    """
    out = {key: np.full(len(rows), -1) for key in COUNTS}
    barred = _barred(rows)
    if full:
        out["candidates_full"] = _items_left(rows)
    if negatives is not None:
        out["candidates_sampled"] = (negatives != PAD).sum(axis=1)
    for d in DOMAINS:
        positions = rows.of(d)
        # rows of similar length together: a batch is padded to its longest
        positions = positions[np.argsort(rows.lengths("own")[positions], kind="stable")]
        everything = np.arange(1, rows.catalogue.size(d) + 1, dtype=np.int32)
        for at in batched(positions, batch_size):
            batch = rows.take(at)
            target = batch.target[:, None]
            if full:
                # one matrix product per batch: all rows share the candidates (a broadcast view, no copy)
                scores = scorer.score(batch, np.broadcast_to(everything, (len(at), len(everything))))
                refuse_non_finite(scorer, scores, batch)
                aim = np.take_along_axis(scores, target - 1, axis=1)
                above, equal = scores > aim, scores == aim
                left_out = barred.take(at)
                above[left_out.owner, left_out.values - 1] = equal[left_out.owner, left_out.values - 1] = False
                out["greater_full"][at] = np.count_nonzero(above, axis=1)
                out["ties_full"][at] = np.count_nonzero(equal, axis=1)
                if negatives is not None:
                    # no candidate: the target's own place instead, which is neither above nor tied
                    chosen = np.where(negatives[at] != PAD, negatives[at], target) - 1
                    out["greater_sampled"][at] = np.take_along_axis(above, chosen, axis=1).sum(axis=1)
                    out["ties_sampled"][at] = np.take_along_axis(equal, chosen, axis=1).sum(axis=1)
            elif negatives is not None:
                there = negatives[at] != PAD
                candidates = np.where(there, negatives[at], target)
                scores = scorer.score(batch, np.concatenate([target, candidates], axis=1))
                refuse_non_finite(scorer, scores, batch)
                out["greater_sampled"][at] = ((scores[:, 1:] > scores[:, :1]) & there).sum(axis=1)
                out["ties_sampled"][at] = ((scores[:, 1:] == scores[:, :1]) & there).sum(axis=1)
    return pd.DataFrame(out)


def refuse_non_finite(scorer: _Scorer, scores: Array, batch: Rows) -> None:
    """Raise :class:`NonFiniteScore` for the first row with a NaN or infinite score."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(scores.sum()):  # one pass without a table of truth values; a sum of finite ones may overflow
            return
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise NonFiniteScore(
            f"{scorer.name} gave a score that is not finite to source row {batch.source[bad]} "
            f"(user {batch.user[bad]}, domain {DOMAINS[batch.domain[bad]]})"
        )


def hit_rate(greater: Array, ties: Array, k: int | Array) -> Array:
    """HR@k of each row in expectation over the ties: clip((k - greater) / (ties + 1), 0, 1); k may differ by row."""
    return np.clip((k - greater) / (ties + 1), 0.0, 1.0)


def ndcg(greater: Array, ties: Array, k: int) -> Array:
    """NDCG@k of each row (one relevant item, so the ideal is 1): mean gain 1 / log2(rank + 1) over the tied ranks."""
    return _mean_gain(greater, ties, 1.0 / np.log2(np.arange(1, k + 1) + 1.0))


def _mrr(greater: Array, ties: Array, k: int) -> Array:
    """MRR@k of each row: mean gain 1 / rank over the tied ranks, 0 beyond k."""
    return _mean_gain(greater, ties, 1.0 / np.arange(1, k + 1))


def _mean_gain(greater: Array, ties: Array, gains: Array) -> Array:
    summed = np.concatenate([[0.0], np.cumsum(gains)])
    k = len(gains)
    return (summed[np.minimum(greater + ties + 1, k)] - summed[np.minimum(greater, k)]) / (ties + 1)


METRICS = {"HR": hit_rate, "NDCG": ndcg, "MRR": _mrr}


# `(greater, ties, candidates) -> values`: int64 [rows] each to float [rows]; the target is no candidate
Measure = Callable[[Array, Array, Array], Array]


def measure(name: str) -> Measure:
    """A metric by its name, such as ``HR@10``.

    Raises
    ------
    ParameterError
        As :func:`cutoff_of`.
    """
    of_row, k = cutoff_of(name)
    return lambda greater, ties, candidates: METRICS[of_row](greater, ties, k)


def cutoff_of(name: str) -> tuple[str, int]:
    """Split a name such as ``HR@10`` into measure and cutoff.

    Raises
    ------
    ParameterError
        No such measure (the nearest is named), or the cutoff is not a whole number above 0.
    """
    measure, _, cutoff = name.partition("@")
    if measure not in METRICS:
        raise ParameterError(f"unknown metric '{name}'{suggestion(name, [f'{known}@10' for known in METRICS])}")
    if not cutoff.isdecimal() or int(cutoff) < 1:
        raise ParameterError(f"metric '{name}': expected a cutoff of at least 1, as in {measure}@10")
    return measure, int(cutoff)


def row_values(table: pd.DataFrame, candidates: str, cutoffs: Sequence[tuple[str, int]]) -> Array:
    """Metrics of each row, [rows, metrics]; NaN where these candidates were not ranked."""
    greater, ties = (table[f"{what}_{candidates}"].to_numpy() for what in ("greater", "ties"))
    ranked = greater >= 0
    columns = [METRICS[name](greater.clip(0), ties.clip(0), k) for name, k in cutoffs]
    return np.where(ranked[:, None], np.stack(columns, axis=1), np.nan)


class GivenScores:
    """A scorer that looks up scores provided by the caller, one per row and item.

    Parameters
    ----------
    rows
        The rows to be ranked.
    table
        Columns ``row`` (``Rows.source``), ``item`` (the data's own id, in the row's domain) and ``score``. Items that
        are no candidates are ignored.

    Raises
    ------
    DataError
        A missing column, or two scores of one row and item.
    """

    def __init__(self, name: str, rows: Rows, table: pd.DataFrame):
        self.name = name
        if not isinstance(table, pd.DataFrame):
            raise DataError(f"scores is a {type(table).__name__}: expected a DataFrame with row, item and score")
        if missing := [column for column in ("row", "item", "score") if column not in table]:
            raise DataError(f"scores: no column '{missing[0]}'; expected row, item and score")
        if table.columns.has_duplicates:
            raise DataError(
                f"scores: two columns are named {table.columns[table.columns.duplicated()][0]!r}; rename one"
            )
        for column, kinds, wanted in (("row", "iu", "whole numbers"), ("score", "iuf", "numbers")):
            if table[column].dtype.kind not in kinds:
                raise DataError(f"scores: column '{column}' holds {table[column].dtype}, and should hold {wanted}")
        domain_of = dict(zip(rows.source.tolist(), rows.domain.tolist(), strict=True))
        domain = table["row"].map(domain_of).fillna(-1).to_numpy()
        table = table[domain >= 0]
        items = np.zeros(len(table), dtype=np.int64)
        for i, d in enumerate(DOMAINS):
            of_domain = domain[domain >= 0] == i
            items[of_domain] = rows.catalogue.numbers(d, table.loc[of_domain, "item"].tolist())
        table, items = table[items != PAD], items[items != PAD]
        self.keys = pd.Index((table["row"].to_numpy(np.int64) << 32) + items)
        self.values = table["score"].to_numpy(np.float64)
        if self.keys.has_duplicates:
            row = table.iloc[self.keys.duplicated().argmax()]
            raise DataError(f"scores: row {row['row']} has two of item {row['item']!r}; give one each")

    def score(self, rows: Rows, candidates: Array) -> Array:
        """The given score of each candidate, float64 [rows, k].

        Raises
        ------
        DataError
            A candidate without a score.
        """
        at = self.keys.get_indexer(((rows.source[:, None] << 32) + candidates).ravel()).reshape(candidates.shape)
        if (at < 0).any():
            row, column = np.argwhere(at < 0)[0]
            d = DOMAINS[rows.domain[row]]
            item = rows.catalogue.decode(d, candidates[row, column])
            raise DataError(
                f"scores: none of item {item!r} for row {rows.source[row]} (user {rows.user[row]}, "
                f"{rows.catalogue.names[d]}); every candidate needs one"
            )
        return self.values[at]


def seen_targets(rows: Rows, train: Rows) -> Array:
    """Rows whose target occurs in the training rows, bool [rows]; about the other targets nothing can be learnt."""
    counts = popularity(train)
    seen = np.zeros(len(rows), dtype=bool)
    for d in DOMAINS:
        at = rows.of(d)
        seen[at] = counts[d][rows.target[at]] > 0
    return seen


def rank_table(name: str, rows: Rows, tail: Mapping[str, float], seen: Array, ranks: pd.DataFrame) -> pd.DataFrame:
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


def fewer_candidates(table: pd.DataFrame, asked: int, names: Mapping[str, str]) -> list[str]:
    """Sentences, one per domain, for tables in which some rows have fewer than ``asked`` sampled candidates.

    ``table`` is ``ranks.parquet``, or one recommender's part of it.
    """
    sentences = []
    of_one_recommender = table[table["recommender"] == table["recommender"].iloc[0]]
    for d, part in of_one_recommender.groupby("domain"):
        few = part.loc[part["candidates_sampled"] < asked, "candidates_sampled"]
        if len(few):
            sentences.append(
                f"{names.get(str(d), d)}: {len(few):,} of {len(part):,} rows have fewer than {asked} items left beside "
                f"target and history ({few.min()} to {few.max()}); there sampled is full ranking, and the HR@10 of "
                f"chance, 10 / (candidates + 1), is {100 * (10 / (few + 1)).clip(upper=1).mean():.2f} % on average"
            )
    return sentences


def kind_masks(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Row kinds from the stored flags."""
    own = ~(table["cold"] | table["no_history"])
    derived = {"all": own | True, "tailed_warm": table["tailed"] & own, "cold_released": ~own}
    return {kind: derived[kind] if kind in derived else table[kind] for kind in KINDS}


def metrics(table: pd.DataFrame, measures: Mapping[str, Measure] | None = None) -> dict[str, Any]:
    """``metrics.json`` from ``ranks.parquet``.

    Parameters
    ----------
    measures
        Name -> measure; None: :data:`METRICS` at each of :data:`CUTOFFS`.

    Returns
    -------
    dict
        recommender -> domain -> kind -> ``{"n": …, "sampled": {"HR@10": …}, "full": {…}}``; fractions, None where
        n = 0 or these candidates were not ranked (-1 in the table).

    Raises
    ------
    ParameterError
        A measure does not return one finite value per row.
    """
    measures = measures or {f"{name}@{k}": measure(f"{name}@{k}") for name in METRICS for k in CUTOFFS}
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
                counts = [chosen[f"{what}_{candidates}"].to_numpy() for what in ("greater", "ties", "candidates")]
                ranked = len(chosen) > 0 and counts[0].min() >= 0
                cells[kind][candidates] = {
                    metric: _mean_of(metric, of_rows(*counts), counts) if ranked else None
                    for metric, of_rows in measures.items()
                }
        result.setdefault(str(name), {})[str(d)] = cells
    return result


def _mean_of(metric: str, values: Array, counts: Sequence[Array]) -> float:
    found, rows = np.asarray(values), len(counts[0])
    if found.shape != (rows,):
        raise ParameterError(f"metric '{metric}' gave {found.shape} for {rows} rows: expected a value for each")
    if found.dtype.kind not in "buif":
        raise ParameterError(f"metric '{metric}' gave {found.flat[0]!r} for a row: expected numbers")
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        greater, ties, candidates = (int(count[bad[0]]) for count in counts)
        raise ParameterError(
            f"metric '{metric}' gave {found[bad[0]]} for {len(bad)} of {rows} rows, the first with {greater} "
            f"greater, {ties} ties and {candidates} candidates: expected finite numbers"
        )
    return float(np.mean(found))


def tidy(summary: Mapping[str, Any], names: Mapping[str, str] | None = None) -> pd.DataFrame:
    """``metrics.json`` as a table: one line per recommender, domain, kind, candidates and metric."""
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
    """The metric that selects an epoch: sampled NDCG@10 on validation rows, averaged over the two domains.

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
