"""Co-occurrence with the row's own user left out: what others who took these items took as well.

The pseudo-sequence rule demands that nothing learnt carries a row's own target. Cross-fitting by K folds of users obeys
it with tables that each know (K - 1) / K of the users. Counts need no folds: a user's own contribution to a count is
known and can be subtracted exactly, so every row is scored by *all* other training users. That is cross-fitting with
as many folds as users, from one table: a training row sees what a new user with its history would see.

With c_i the number of users who took item i, u_i = 1 if the row's own user is among them, C_ij the sum of w_ij over
the users who took i and j, and s the shrinkage, the score of j given a history H is::

    score(j | H) = sum over i in H of h_i (C_ij - u_i u_j w_ij) / (sqrt((c_i - u_i)(c_j - u_j)) + s)

With w = h = 1 that is ItemKNN's cosine with shrinkage over the other users. Sequences carry more than bags (``psg``):

- w_ij = gap^-``proximity`` for two items of one domain, gap steps apart in that user's sequence, times ``backward``
  if j comes before i; ``across`` for items of two domains (rows do not tell the order between domains);
- h_i = ``recency`` ^ steps from the end of its history.

History items that count the row's user (u_i = 1) are scored with one table of terms C_ij / (sqrt((c_i - 1) c_j) + s);
the few j that the user took too are corrected one by one. A user without training rows (u = 0) has the plain table.

Of a large log (:func:`.graphs.is_large`) an item i has scores for the j that at least ``least[i]`` users took beside i,
and in a row of one of them for the j that as many *others* took: a user's own pairs never help a j to be there.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.linalg import eigsh

from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Ragged, Rows, located, origins, packed, rejoined, unpacked
from i2vae_lib.data.user_sequences import user_sequences
from i2vae_lib.generators.graphs import (
    Unified,
    best_columns,
    cosine,
    differing_entries,
    is_large,
    seen_items,
    together,
    user_items,
)
from i2vae_lib.parameter_groups import PsgParameters

_NOWHERE = -1  # step of an item that is not in the user's longest sequence (only in a shorter row)
_ROUNDING = 1e-9  # smaller scores are rounding errors of adding and subtracting
_AT_ONCE = 4_000_000  # at least so many pairs of a user's items are weighed at once
_SIEVE = 16  # places in the sieve of a large table, for each of its pairs
_NARROW = 4096  # a domain of so many items has dense scores: many of them are known

# float32 [rows, n], scores of the items 1…n of a domain; 0 where nothing is known
Lines: TypeAlias = Any  # Array | sparse.csr_matrix, and scipy has no types


@dataclass(frozen=True)
class Kernel:
    """How the counts are weighed (module docstring); the defaults are those of a bag."""

    shrinkage: float
    proximity: float = 0.0
    backward: float = 1.0
    across: float = 1.0
    recency: float = 1.0


Settings: TypeAlias = Kernel | PsgParameters  # both have the fields of a Kernel


class LeaveOneOutCounts:
    """Scores of items given histories, with each row's own user left out of the counts.

    Parameters
    ----------
    users
        object array of str [n], the training users.
    graph
        Binary users x unified items: what each took, targets included.
    steps
        int64 [2, entries of the graph]: the item's place in the user's sequence of X and of Y, or :data:`_NOWHERE`.
    parted
        bool [n]: the user's two domains are unlinked (``controls.overlap_mode`` = detach), so pairs across them do not
        count; the user is still left out as one person.
    p
        ``shrinkage``, ``proximity``, ``backward``, ``across``, ``recency``.
    """

    def __init__(
        self, catalogue: Catalogue, users: Array, graph: sparse.csr_matrix, steps: Array, parted: Array, p: Settings
    ):
        self.p = p
        self.unified = Unified(catalogue)
        self.taken = graph.getnnz(axis=0)
        self._hold(users, graph, steps, parted)
        self._place(*together(graph))
        self._weigh([self])

    def _hold(self, users: Array, graph: sparse.csr_matrix, steps: Array, parted: Array) -> None:
        """Set the users and what they took."""
        self.users, self.graph, self.steps, self.parted = users, graph, steps, parted
        self._owner = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
        self._line = pd.Index(users, dtype=object)
        self._entries = self._entry_keys(self._owner, graph.indices)
        self._longest = int(steps.max(initial=0))
        self._located: list[tuple[Array, Array, Array]] | None = None if is_large(graph) else []

    def _place(self, both: sparse.csr_matrix, least: Array) -> None:
        """Set the table of pairs, how many users took each and where it stands."""
        self.together, self._counts, self._least = both, both.data, least
        self._rows = np.repeat(np.arange(self.unified.size, dtype=np.int32), np.diff(both.indptr))
        self._keys = self._rows.astype(np.int64) * self.unified.size + both.indices
        self._places = {d: self._places_of(d) for d in DOMAINS}
        self._sieve: Array | None = None
        if self._located is None:
            self._sieve = np.zeros(_SIEVE * len(self._keys) + 1, dtype=bool)
            self._sieve[self._keys % len(self._sieve)] = True
        else:
            self._located = list(self._locate())

    def _locate(self) -> Iterator[tuple[Array, Array, Array]]:
        """For all pairs of items of one user: their places in the table, and their :meth:`_gaps`."""
        for shown, candidate in _pairs_by_part(self.graph, min(max(_AT_ONCE, len(self._keys)), 2 * _AT_ONCE)):
            at, there = self._pair(self.graph.indices[shown], self.graph.indices[candidate])
            yield at.astype(np.int32), *self._gaps(shown[there], candidate[there])

    def _gaps(self, shown: Array, candidate: Array) -> tuple[Array, Array]:
        """Steps in X and in Y from shown to candidate entries of the same user, as indices into :meth:`_by_gap`."""
        nowhere = 2 * self._longest + 1
        x, y = (
            np.where(
                (step[shown] == _NOWHERE) | (step[candidate] == _NOWHERE),
                nowhere,
                step[candidate] - step[shown] + self._longest,
            )
            for step in self.steps
        )
        x[(x == nowhere) & (y == nowhere) & self.parted[self._owner[shown]]] = nowhere + 1
        small = np.min_scalar_type(-nowhere - 1)
        return x.astype(small), y.astype(small)

    def _by_gap(self) -> Array:
        """w_ij by gap, from the longest backward one; then -1 for no common sequence, 0 for unlinked domains."""
        gap = np.arange(-self._longest, self._longest + 1)
        near = np.maximum(np.abs(gap), 1.0) ** -self.p.proximity * np.where(gap > 0, 1.0, self.p.backward)
        return np.concatenate([near, [-1.0, 0.0]])

    def _weights(self, x: Array, y: Array) -> Array:
        """w_ij of these gaps, float64; of linked items, which may share both domains, the larger weight counts."""
        of = self._by_gap()
        best = np.maximum(of[x], of[y])
        return np.where(best >= 0, best, self.p.across)

    def _weigh(self, several: Sequence[Self]) -> None:
        """Set the sums C_ij of several tables of the same users, each under its settings, in one pass."""
        sums = [np.zeros(len(self._keys)) for _ in several]
        for at, x, y in self._locate() if self._located is None else self._located:
            for table, of in zip(several, sums, strict=True):
                of += np.bincount(at, table._weights(x, y), len(of))
        for table, of in zip(several, sums, strict=True):
            table.together = self._like(of)
            table._forget_terms()

    def _places_of(self, domain: str) -> tuple[Array, Array, Array]:
        """The table's entries in columns of a domain's items, with column numbers and line ends as their own matrix."""
        column = self.unified.column[domain][self.together.indices]
        kept = np.flatnonzero(column >= 0)
        ends = np.searchsorted(kept, self.together.indptr)
        small = self.together.indices.dtype
        return kept.astype(small), column[kept].astype(small), ends

    def _forget_terms(self) -> None:
        """Forget the tables of terms of other settings."""
        self._tables: dict[tuple[int, str], sparse.csr_matrix] = {}

    def release(self) -> None:
        """Forget what can be made again when rows are scored or settings change."""
        self._forget_terms()
        self._located = None

    def _terms(self, less: int, domain: str) -> sparse.csr_matrix:
        """:meth:`_table`, made when first asked for: training rows need but those of items that the user took."""
        if (less, domain) not in self._tables:
            self._tables[less, domain] = self._table(less, domain)
        return self._tables[less, domain]

    def reweighted(self, *settings: Settings) -> list[Self]:
        """The same users and interactions under each of these settings; parts that do not depend on them are shared."""
        before, found = self.p, [copy.copy(self) for _ in settings]
        anew = []
        for again, p in zip(found, settings, strict=True):
            again.p = p
            if (p.proximity, p.backward, p.across) != (before.proximity, before.backward, before.across):
                anew.append(again)
            elif p.shrinkage != before.shrinkage:
                again._forget_terms()
        if anew:
            self._weigh(anew)
        return found

    def _like(self, values: Array) -> sparse.csr_matrix:
        """A matrix with these values in the places of the table."""
        return sparse.csr_matrix((values, self.together.indices, self.together.indptr), shape=self.together.shape)

    @classmethod
    def fit(cls, train: Rows, p: Settings) -> Self:
        """Counts of the training interactions, targets included."""
        halves = set(origins(train)[origins(train) != train.user])
        train = rejoined(train)
        unified = Unified(train.catalogue)
        graph = user_items(train, unified)
        graph.sort_indices()
        owner = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
        keys = owner.astype(np.int64) * unified.size + graph.indices
        whole = user_sequences(train)
        steps = np.full((len(DOMAINS), len(keys)), _NOWHERE)
        for number, d in enumerate(DOMAINS):
            sequences = whole.sequences[d]
            at = np.searchsorted(keys, sequences.owner * unified.size + unified.of[d][sequences.values])
            place = np.arange(len(at)) - sequences.offsets[sequences.owner]
            steps[number, at[::-1]] = place[::-1]  # of an item that occurs twice, the first place counts
        return cls(train.catalogue, whole.users, graph, steps, np.array([user in halves for user in whole.users]), p)

    def foreign_counts(self, train: Rows) -> Array:
        """Interactions and counts that do not come from these rows, by unified item: int64 [n]."""
        return self.differences_from(type(self).fit(train, self.p))

    def differences_from(self, other: Self) -> Array:
        """:meth:`foreign_counts` against counts already made under the same settings."""
        return differing_entries(self.graph, other.graph) + differing_entries(self.together, other.together)

    def _entry_keys(self, line: Array, item: Array) -> Array:
        return line.astype(np.int64) * self.unified.size + item

    def _pair(self, shown: Array, candidate: Array) -> tuple[Array, Array]:
        """The table's entries of those pairs that it keeps, and which pairs these are (their positions)."""
        wanted = shown.astype(np.int64) * self.unified.size + candidate
        if self._sieve is None:
            at, there = located(self._keys, wanted)
            return at[there], np.flatnonzero(there)
        # a large table keeps one pair in ten: most others are told without a search
        perhaps = np.flatnonzero(self._sieve[wanted % len(self._sieve)])
        at, there = located(self._keys, wanted[perhaps])
        return at[there], perhaps[there]

    def _table(self, less: int, domain: str) -> sparse.csr_matrix:
        """C_ij / (sqrt((c_i - less) c_j) + s), unified items x items of a domain."""
        kept, columns, ends = self._places[domain]
        taken = self.taken[self._rows[kept]] - less, self.taken[self.together.indices[kept]]
        shape = (self.unified.size, len(self.unified.of[domain]) - 1)
        return sparse.csr_matrix((self._term(self.together.data[kept], *taken), columns, ends), shape=shape)

    def _term(self, both: Array, one: Array, another: Array) -> Array:
        below = np.sqrt(one * another) + self.p.shrinkage
        return np.divide(both, below, out=np.zeros(len(below)), where=below > 0)  # 0 / 0: nobody else took it

    def scores(self, rows: Rows, domain: str) -> Array:
        """Scores of the items 1…n of a domain, float32 [rows, n]; 0 where nothing is known."""
        return dense(scores_of([self], rows, domain)[0])

    def without_users(self) -> Self:
        """The same counts without the users: new users need only the plain tables, and get the same scores."""
        nameless = copy.copy(self)
        nameless._hold(self.users[:0], self.graph[:0], self.steps[:, :0], self.parted[:0])
        return nameless

    def arrays(self) -> dict[str, Array]:
        """What scoring needs: users and what they took or, after :meth:`without_users`, the counts of pairs."""
        if len(self.users):
            graph = {"indices": self.graph.indices, "indptr": self.graph.indptr}
            return {"users": packed(self.users), "steps": self.steps, "parted": self.parted} | graph
        pairs = {"indices": self.together.indices, "indptr": self.together.indptr}
        return {"together": self.together.data, "taken": self.taken} | pairs

    @classmethod
    def restore(cls, catalogue: Catalogue, arrays: Mapping[str, Array], p: Settings) -> Self:
        """Rebuild from :meth:`arrays`."""
        size, indices, indptr = Unified(catalogue).size, arrays["indices"], arrays["indptr"]
        if "users" in arrays:
            users = np.array(unpacked(arrays["users"]), dtype=object)
            ones = np.ones(len(indices), dtype=np.float32)
            graph = sparse.csr_matrix((ones, indices, indptr), shape=(len(users), size))
            return cls(catalogue, users, graph, arrays["steps"], arrays["parted"], p)
        nobody = sparse.csr_matrix((0, size), dtype=np.float32)
        empty = cls(catalogue, np.zeros(0, object), nobody, np.zeros((len(DOMAINS), 0), np.int64), np.zeros(0, bool), p)
        empty.taken = arrays["taken"]
        pairs = sparse.csr_matrix((arrays["together"], indices, indptr), shape=(size, size))
        empty._place(pairs, np.ones(size, dtype=np.int64))
        empty._forget_terms()
        return empty


def scores_of(tables: Sequence[LeaveOneOutCounts], rows: Rows, domain: str) -> list[Lines]:
    """:meth:`LeaveOneOutCounts.scores` of tables that share their counts (:meth:`LeaveOneOutCounts.reweighted`).

    Of a domain of more than :data:`_NARROW` items, sparse: what is known, with column numbers in any order.
    """
    counts = tables[0]
    back, row, item = _shown(rows, counts.unified)
    line = counts._line.get_indexer(pd.Index(origins(rows), dtype=object))[row]
    entry, own = located(counts._entries, counts._entry_keys(line, item))
    own &= line >= 0  # the row's user is in this item's counts
    # what a user's pair of items is too high by is the same in all rows of that user
    held, mine = np.unique(entry[own], return_inverse=True)
    owner = counts._owner[held]
    which, candidate = with_range(counts.graph.indptr[owner], counts.graph.indptr[owner + 1])
    number = counts.unified.column[domain][counts.graph.indices[candidate]]
    kept = (held[which] != candidate) & (number >= 0)
    which, candidate, number = which[kept], candidate[kept], number[kept]
    at, kept = counts._pair(counts.graph.indices[held[which]], counts.graph.indices[candidate])
    which, candidate, number = which[kept], candidate[kept], number[kept]
    first, second = counts.graph.indices[held[which]], counts.graph.indices[candidate]
    gaps = counts._gaps(held[which], candidate)
    still = counts._counts[at] > counts._least[first]  # without the row's user, the pair is still kept

    def lines(values: Array, columns: Array, of: Array, shape: tuple[int, int]) -> sparse.csr_matrix:
        ends = np.searchsorted(of, np.arange(shape[0] + 1))
        return sparse.csr_matrix((values, columns, ends), shape=shape)

    def plain(scores: sparse.csr_matrix) -> Lines:
        return scores.toarray() if scores.shape[1] <= _NARROW else scores

    shape = (len(rows), counts.unified.size)
    by_setting = []
    for table in tables:
        weight = table.p.recency**back
        scores = plain(lines(weight[~own], item[~own], row[~own], shape) @ table._terms(0, domain))
        if own.any():
            scores = plain(lines(weight[own], item[own], row[own], shape) @ table._terms(1, domain)) + scores
        if len(which):
            both, taken = table.together.data[at], (counts.taken[first] - 1, counts.taken[second])
            right = table._term(np.where(still, both - table._weights(*gaps), 0.0), taken[0], taken[1] - 1)
            repairs = lines(right - table._term(both, *taken), number, which, (len(held), scores.shape[1]))
            scores = scores + plain(lines(weight[own], mine, row[own], (len(rows), len(held))) @ repairs)
        if isinstance(scores, np.ndarray):
            by_setting.append(_rounded(scores))
        else:  # not its own `astype`, which sorts
            whole = (_rounded(scores.data), scores.indices, scores.indptr)
            by_setting.append(sparse.csr_matrix(whole, shape=scores.shape))
    return by_setting


def _rounded(scores: Array) -> Array:
    """float32, without errors of rounding."""
    scores[scores < _ROUNDING] = 0.0
    return scores.astype(np.float32)


def dense(scores: Lines) -> Array:
    """Scores as an array."""
    return scores if isinstance(scores, np.ndarray) else scores.toarray()


def best_of(
    by_setting: Sequence[Lines], own: Ragged, histories: sparse.csr_matrix, column: Array, count: int
) -> tuple[Array, Array]:
    """The items with the highest sums of scores that are not in a row's histories.

    Each setting's scores are divided by their largest among items that are not in the row's history of the domain.

    Parameters
    ----------
    by_setting
        Of :func:`scores_of`; overwritten.
    own
        The rows' histories in the domain.
    histories, column
        As in :func:`.graphs.seen_items`.

    Returns
    -------
    items
        int32 [rows, at most ``count``], best first, of equal ones the first; 0 where there are fewer.
    scores
        float32 [rows, as many, settings].
    """
    held, taken = (np.zeros(by_setting[0].shape, dtype=bool) for _ in range(2))
    held[own.owner, own.values - 1] = True
    taken[seen_items(histories, column)] = True
    if isinstance(by_setting[0], np.ndarray):
        total = np.zeros_like(by_setting[0])
        for values in by_setting:
            values[held] = 0.0
            total += values / np.maximum(values.max(axis=1, keepdims=True), 1e-9)
        total[taken] = 0.0
        best = best_columns(total, count)
        there = np.take_along_axis(total, best, axis=1) > 0
        scores = [np.take_along_axis(values, best, axis=1) for values in by_setting]
    else:
        of_setting = [_without(values, held) for values in by_setting]
        total = sum((_shares(values) for values in of_setting), start=sparse.csr_matrix(taken.shape, dtype=np.float32))
        best, there = _best_of_sparse(_without(total, taken), count)
        scores = [_values_at(values, best) for values in of_setting]
    return np.where(there, best + 1, 0).astype(np.int32), np.stack(scores, axis=2) * there[:, :, None]


def _without(scores: sparse.csr_matrix, those: Array) -> sparse.csr_matrix:
    """Sparse scores with column numbers in order; 0 at ``those``, bool [rows, n]."""
    line = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    scores.data[those[line, scores.indices]] = 0.0
    return scores.tocsc().tocsr()  # faster than sorting


def _values_at(scores: sparse.csr_matrix, columns: Array) -> Array:
    """Sparse scores, column numbers in order, at some columns of each line, [lines, k]."""
    line, count = np.arange(len(columns))[:, None], scores.shape[1]
    known = np.repeat(line[:, 0], np.diff(scores.indptr)) * count + scores.indices
    at, there = located(known, line * count + columns)
    return np.append(scores.data, np.float32(0))[np.where(there, at, -1)]


def _shares(scores: sparse.csr_matrix) -> sparse.csr_matrix:
    """Sparse scores, each divided by the largest of its line."""
    largest = np.maximum(scores.max(axis=1).toarray()[:, 0], 1e-9)
    shares = scores.data / np.repeat(largest, np.diff(scores.indptr))
    return sparse.csr_matrix((shares, scores.indices, scores.indptr), shape=scores.shape)


def _best_of_sparse(scores: sparse.csr_matrix, count: int) -> tuple[Array, Array]:
    """The ``count`` best columns of each line and whether their scores lie above 0, [lines, at most ``count``]."""
    lengths = np.diff(scores.indptr)
    place = np.arange(scores.nnz) - np.repeat(scores.indptr[:-1], lengths)
    padded = np.zeros((len(lengths), max(1, int(lengths.max(initial=0)))), dtype=np.float32)
    padded[np.repeat(np.arange(len(lengths)), lengths), place] = scores.data
    best = best_columns(padded, count)
    there = np.take_along_axis(padded, best, axis=1) > 0
    at = np.where(there, scores.indptr[:-1, None] + best, 0)
    return np.append(scores.indices, 0)[np.where(there, at, -1)], there


def _shown(rows: Rows, unified: Unified) -> tuple[Array, Array, Array]:
    """Steps from the end (float64), row and unified item of both histories; of an item twice in a row, the later."""
    lines, items, steps = [], [], []
    for d in DOMAINS:
        history = rows.history[d]
        steps.append(history.offsets[history.owner + 1] - 1 - np.arange(len(history.values)))
        lines.append(history.owner)
        items.append(unified.of[d][history.values])
    line, item, back = (np.concatenate(one) for one in (lines, items, steps))
    order = np.lexsort((back, item, line))
    key = line.astype(np.int64)[order] * unified.size + item[order]
    first = order[np.flatnonzero(np.diff(key, prepend=-1))]
    return back[first].astype(np.float64), line[first], item[first]


def with_range(starts: Array, ends: Array) -> tuple[Array, Array]:
    """Every (number of a range, value in that range), int64 [m] each."""
    lengths = (ends - starts).astype(np.int64)
    number = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.arange(len(number)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return number, starts[number] + offset


def _pairs_by_part(graph: sparse.csr_matrix, largest: int = _AT_ONCE) -> Iterator[tuple[Array, Array]]:
    """Ordered pairs of different entries of one line, int64 [m] each, about ``largest`` at a time."""
    lengths = np.diff(graph.indptr).astype(np.int64)
    part = np.cumsum(lengths**2) // largest
    bounds = np.flatnonzero(np.diff(part, prepend=-1, append=len(part) and part[-1] + 1))
    for begin, end in pairwise(bounds):
        entries = np.arange(graph.indptr[begin], graph.indptr[end])
        line = np.repeat(np.arange(begin, end), lengths[begin:end])
        shown, candidate = with_range(graph.indptr[line], graph.indptr[line + 1])
        shown = entries[shown]
        differ = shown != candidate
        yield shown[differ], candidate[differ]


def item_vectors(train: Rows, d: int, shrinkage: float) -> Array:
    """Vectors whose dot products come nearest to the items' cosines with shrinkage: float32 [unified items, d].

    V sqrt(W) of the d largest eigenvalues W of the table (negative ones count as 0), scaled to a mean squared norm
    of 1. Learnt from all training users, as a start of item embeddings; an item that nobody took together with another
    has the zero vector.
    """
    table = _cosines(train, shrinkage)
    start = np.zeros((table.shape[0], d), dtype=np.float32)
    if not table.nnz:
        return start
    values, vectors = eigsh(table, k=min(d, table.shape[0] - 1), which="LA", v0=np.ones(table.shape[0]))
    scaled = vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0.0))
    scaled /= max(np.sqrt(np.square(scaled).sum(axis=1).mean()), np.finfo(np.float64).tiny)
    start[:, : scaled.shape[1]] = scaled
    return start


def _cosines(train: Rows, shrinkage: float) -> sparse.csr_matrix:
    """Of all unified items, float64; a pair that one of its items keeps in a large log counts for both."""
    table = cosine(user_items(train, Unified(train.catalogue)), shrinkage).astype(np.float64)
    return table.maximum(table.T).tocsr()


def differing_start(train: Rows, vectors: Array, shrinkage: float) -> Array:
    """Items whose vectors are not those that :func:`item_vectors` makes of these rows: bool [unified items].

    No eigenvector is computed: each column v must solve T v = w v for the table T of these rows, with w its Rayleigh
    quotient, and the columns' squared norms must be proportional to their w. An item is marked if its line of
    T v - w v is larger than float32 explains. Not detected: columns that are other eigenvectors of T.
    """
    table = _cosines(train, shrinkage)
    v = vectors.astype(np.float64)
    norms = np.square(v).sum(axis=0)
    image = table @ v
    values = np.divide((v * image).sum(axis=0), norms, out=np.zeros(len(norms)), where=norms > 0)
    # a column of zeros: its eigenvalue is not positive, or there are fewer than d
    scale = values.sum() / max(norms.sum(), np.finfo(np.float64).tiny)
    wrong = np.abs(values - scale * norms) > 1e-4 * values.max(initial=0)
    residual = np.abs(image - v * values)
    limit = 1e-5 * max(values.max(initial=0), np.finfo(np.float32).tiny) * np.abs(v).max(axis=0)
    return (residual > limit).any(axis=1) | (np.abs(v[:, wrong]) > 0).any(axis=1)
