"""The pseudo-sequence generator (paper 3.1): what a row might also have taken.

**The rule.** A row's pseudo-items depend only on what its histories hold, and training rows and evaluation rows get
theirs alike. So a generator never has a user vector for anybody: a row is *folded in* from its histories, and
cross-fitting sees to it that nothing learnt carries the row's own target. Users are assigned to K folds by a hash;
the table of fold k is learnt from the training interactions of the users of the other folds; every user of fold k,
training or evaluation, is folded in to that table. With K = 1 (the paper's way) one table is learnt from everybody,
a training row's own target included, and that leaks (``tests/test_psg.py`` holds both). Counts need no folds: there a
user's own contribution is taken away exactly (``leave_one_out``, :mod:`i2vae_lib.generators.cooccurrence`).

**The exception.** Protocol ``released`` has the paper's pseudo-sequences (:func:`as_published`): one table, and every
row, of training and evaluation alike, is recalled from its histories *and target*. So the target is never among the
recalled, in no row: the defect of the released files.

**Folding in to LightGCN.** A new user u with history H is a node with a zero layer-0 vector whose edges are H. One
propagation through the learnt graph gives its vector, the mean over layers 0…L,

    u = 1 / (L + 1) sum_{l=0}^{L-1} sum_{i in H} e_i^l / sqrt(|H| deg(i))

with e_i^l the item vectors of layer l; its own effect on the items is left out, so rows cannot see each other.

**Iterative recall.** Round r recalls ``edges_per_round`` items a domain for every user of the graph, adds them as
pseudo-edges and propagates the learnt vectors again, without retraining; a row takes the same rounds with its own
pseudo-edges and is recalled for good in the last. One round is plain recall.

A generator is ``recall(rows, fold) -> (items [rows, n], scores [rows, n])`` in the rows' target domains; everybody asks
:func:`recalled`, which knows the rows' folds and what they are recalled from.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from scipy import sparse

from i2vae_lib.cache import entry_folder, once
from i2vae_lib.data.dataset import rows_digest
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Rows, batched, hashed, history_keys, origins, rejoined
from i2vae_lib.data.user_sequences import with_targets
from i2vae_lib.generators.cooccurrence import LeaveOneOutCounts, best_of, scores_of
from i2vae_lib.generators.graphs import (
    Unified,
    arrays_of,
    best_columns,
    binary,
    cosine,
    folded_in,
    matrix_of,
    seen_items,
    tables_of,
    user_items,
)
from i2vae_lib.generators.lightgcn import train_lightgcn
from i2vae_lib.parameter_groups import PUBLISHED_PSG, PsgParameters
from i2vae_lib.params import ParameterError
from i2vae_lib.runs import LayoutError, read_header, read_json, reading, write_atomically, write_json

_GENERATOR_LAYOUT = 3
_ROWS_AT_ONCE = 512


class Generator:
    """What a recommender that uses pseudo-sequences owns and saves with itself: made of its arrays, which it keeps."""

    # int64 [folds, unified items]: how many users took each item in what each fold learnt from; None: it learns nothing
    taken: Array | None = None

    def __init__(self, p: PsgParameters, catalogue: Catalogue, arrays: dict[str, Array]):
        self.p = p
        self.unified = Unified(catalogue)
        self.learnt = arrays

    @classmethod
    def fit(cls, train: Rows, p: PsgParameters) -> Self:
        """Learn from training rows."""
        return cls(p, train.catalogue, {})

    def recall(self, rows: Rows, fold: Array) -> tuple[Array, Array]:
        """Pseudo-items of the rows' target domains, best first.

        Parameters
        ----------
        rows
            Any rows. Their histories and target domains are read, and who they are of: to leave them out.
        fold
            int [rows] of :func:`fold_of`.

        Returns
        -------
        items, scores
            int32 and float32 [rows, ``p.recalled``]; never an item of the row's histories; 0 (padding) where the
            generator has nothing to go by.
        """
        items = np.zeros((len(rows), self.p.recalled), dtype=np.int32)
        scores = np.zeros(items.shape, dtype=np.float32)
        histories = self.unified.histories(rows)
        for k in np.unique(fold):
            for d in DOMAINS:
                of_domain = rows.of(d)
                positions = of_domain[fold[of_domain] == k]
                for at in batched(positions, _ROWS_AT_ONCE):
                    found, values = self.best(rows.take(at), histories[at], int(k), d)
                    items[at, : found.shape[1]], scores[at, : found.shape[1]] = found, values
        return items, scores

    def best(self, rows: Rows, histories: sparse.csr_matrix, fold: int, domain: str) -> tuple[Array, Array]:
        """:meth:`recall` for rows of one fold that all ask for ``domain``, [rows, at most ``p.recalled``].

        ``histories`` is binary, rows x unified items.
        """
        told = self.recall_scores(rows, histories, fold, domain)
        found, values = top_items(told, histories, self.unified.column[domain], self.p.recalled)
        there = np.isfinite(values)
        return np.where(there, found, 0), np.where(there, values, 0.0)

    def recall_scores(self, rows: Rows, histories: sparse.csr_matrix, fold: int, domain: str) -> Array:
        """What :meth:`best` goes by: scores of the domain's items, float32, minus infinity where it is nothing."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Array]:
        """Everything learnt, for :meth:`save`."""
        return self.learnt

    @classmethod
    def restore(cls, p: PsgParameters, catalogue: Catalogue, arrays: dict[str, Array]) -> Self:
        """Of what :meth:`arrays` gave."""
        return cls(p, catalogue, arrays)

    def digest(self) -> str:
        """SHA-256 of what was fitted: a fit that was made again need not be the same to the bit."""
        found = hashlib.sha256(self.p.model_dump_json().encode())
        for name, array in sorted(self.arrays().items()):
            found.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def save(self, folder: Path, catalogue: Catalogue) -> None:
        """Tables as safetensors, parameters as JSON (written last: its presence means that the rest is whole)."""
        arrays = {k: np.ascontiguousarray(v) for k, v in self.arrays().items()}
        write_atomically(folder / "generator.safetensors", lambda part: save_file(arrays, part))
        header = {"layout": _GENERATOR_LAYOUT, "catalogue": catalogue.digest(), "parameters": self.p.model_dump()}
        write_json(folder / "generator.json", header)


def as_published(p: PsgParameters) -> PsgParameters:
    """The paper's way, whatever the parameters say: one table, rows recalled from their histories and targets."""
    return p.model_copy(update=PUBLISHED_PSG)


def recalled(generator: Generator, rows: Rows) -> tuple[Array, Array]:
    """Pseudo-items of the rows' target domains, best first: what :meth:`Generator.recall` gives rows in their folds.

    With ``recall_from`` = history_and_target a row's target stands at the end of its own history first (the one that it
    has now, of rows cut short), and so is never recalled. A row whose target is padding asks for somebody whose next
    item nobody knows: it has its histories alone.
    """
    fold = fold_of(rows, generator.p)
    if generator.p.recall_from == "history_and_target":
        rows = replace(rows, history={d: with_targets(rows, d) for d in DOMAINS})
    return generator.recall(rows, fold)


def fold_of(rows: Rows, p: PsgParameters) -> Array:
    """The fold of each row's user, int64 [rows]: a hash of the user's id, the same for training and evaluation.

    The halves of a detached user share the fold of the user: under ``temporal`` a test row must not be folded in to a
    table that learnt from its own user's past.
    """
    numbers, users = pd.factorize(origins(rows))
    folds = hashed(users, "psg fold", p.seed) % np.uint64(p.folds)
    return folds.astype(np.int64)[numbers]


def top_items(scores: Array, histories: sparse.csr_matrix, column: Array, count: int) -> tuple[Array, Array]:
    """The ``count`` best columns of ``scores`` that are not in the row's histories.

    Parameters
    ----------
    scores
        float32 [rows, items of one domain]; overwritten.
    histories, column
        As in :func:`.graphs.seen_items`.

    Returns
    -------
    items, scores
        Item numbers (1…n) and scores, best first; equal scores in order of item number.
    """
    scores[seen_items(histories, column)] = -np.inf
    columns = best_columns(scores, count)
    return (columns + 1).astype(np.int32), np.take_along_axis(scores, columns, axis=1)


class _NoGenerator(Generator):
    """No pseudo-items: a pseudo-sequence is the real one (an ablation the paper does not run)."""

    def recall(self, rows: Rows, fold: Array) -> tuple[Array, Array]:
        return np.zeros((len(rows), 0), dtype=np.int32), np.zeros((len(rows), 0), dtype=np.float32)


class _RandomGenerator(Generator):
    """Uniform items that are not in the row's histories: the paper's "w/o PSG" (Table 2).

    Which ones follows from a hash of the histories, so a row always gets the same; the scores are 0.
    """

    def recall(self, rows: Rows, fold: Array) -> tuple[Array, Array]:
        keys = history_keys(rows.history, "random pseudo-items", self.p.seed)
        items = np.zeros((len(rows), self.p.recalled), dtype=np.int32)
        histories = self.unified.histories(rows)
        for row in np.flatnonzero(histories.getnnz(axis=1)):
            numbers = self.unified.of[DOMAINS[rows.domain[row]]]
            taken = np.isin(numbers, histories[row].indices)
            draw = np.random.Philox(key=int(keys[row])).random_raw(len(numbers))
            draw[taken] = draw[0] = np.iinfo(np.uint64).max
            count = min(self.p.recalled, len(numbers) - 1 - int(taken.sum()))
            chosen = np.argpartition(draw, count)[:count]
            items[row, :count] = chosen[np.argsort(draw[chosen])]  # the set alone is the same on every machine
        return items, np.zeros(items.shape, dtype=np.float32)


class CooccurrenceGenerator(Generator):
    """Items that users took together: cosine with shrinkage, cross-fitted like everything here.

    Score of j given history H: sum over i in H of c_ij / (sqrt(c_i c_j) + shrinkage), with c_ij the users of the other
    folds who took both and c_i those who took i.
    """

    def __init__(self, p: PsgParameters, catalogue: Catalogue, arrays: dict[str, Array]):
        super().__init__(p, catalogue, arrays)
        self.tables = [matrix_of(str(k), arrays, self.unified.size) for k in range(p.folds)]  # unified x unified
        self.taken = arrays["taken"]

    @classmethod
    def fit(cls, train: Rows, p: PsgParameters) -> Self:
        unified = Unified(train.catalogue)
        graphs = [user_items(part, unified) for part in learning_folds(train, p)]
        arrays = {"taken": np.stack([graph.getnnz(axis=0) for graph in graphs])}
        for k, graph in enumerate(graphs):
            arrays |= arrays_of(str(k), cosine(graph, p.shrinkage))
        return cls(p, train.catalogue, arrays)

    def recall_scores(self, rows: Rows, histories: sparse.csr_matrix, fold: int, domain: str) -> Array:
        scores = (histories @ self.tables[fold])[:, self.unified.items[domain]].toarray().astype(np.float32)
        return np.where(scores > 0, scores, np.float32(-np.inf))  # a zero is no recall


class LightGCNGenerator(Generator):
    """LightGCN (He et al., SIGIR 2020) with folding in and iterative recall, as the module docstring has it.

    Its tables: fold_in [folds, rounds, n, d], sum_{l<L} e^l / (sqrt(deg) (L + 1)), and final [folds, rounds, n, d], the
    item vectors.
    """

    def __init__(self, p: PsgParameters, catalogue: Catalogue, arrays: dict[str, Array]):
        super().__init__(p, catalogue, arrays)
        self.tables, self.taken = arrays, arrays["taken"]

    @classmethod
    def fit(cls, train: Rows, p: PsgParameters) -> Self:
        unified = Unified(train.catalogue)
        fold_in, final, taken = [], [], []
        for k, part in enumerate(learning_folds(train, p)):
            graph = user_items(part, unified)
            taken.append(graph.getnnz(axis=0))
            rng = np.random.default_rng([p.seed, k])
            start = train_lightgcn(graph, unified.items, p, rng, label=f"LightGCN fold {k + 1}/{p.folds}")
            tables = list(_rounds(graph, start, unified, p))
            fold_in.append([one[0] for one in tables])
            final.append([one[1] for one in tables])
        stacked = {"fold_in": np.array(fold_in, dtype=np.float32), "final": np.array(final, dtype=np.float32)}
        return cls(p, train.catalogue, stacked | {"taken": np.stack(taken)})

    def user_vectors(self, edges: sparse.csr_matrix, fold: int, round_: int) -> Array:
        """Folded-in users: edges [rows, unified] -> float32 [rows, d]; zero where no edge leads into the graph."""
        return folded_in(edges, self.tables["fold_in"][fold, round_])

    def recall_scores(self, rows: Rows, histories: sparse.csr_matrix, fold: int, domain: str) -> Array:
        edges, final = histories, self.tables["final"][fold]
        for round_ in range(self.p.rounds - 1):
            vectors = self.user_vectors(edges, fold, round_)
            edges = _add_edges(vectors, final[round_], edges, self.unified, self.p.edges_per_round)
        vectors = self.user_vectors(edges, fold, self.p.rounds - 1)
        scores = _item_scores(vectors, final[self.p.rounds - 1][self.unified.items[domain]])
        scores[~(vectors != 0).any(axis=1)] = -np.inf
        return scores


class LeaveOneOutGenerator(Generator):
    """Co-occurrence with the row's own user left out of the counts: as many folds as users, in one table.

    Scores are those of :class:`i2vae_lib.generators.cooccurrence.LeaveOneOutCounts`. ``folds`` does not matter to it.
    """

    def __init__(self, p: PsgParameters, counts: LeaveOneOutCounts):
        self.p = p
        self.counts, self.unified = counts, counts.unified
        self.taken = counts.taken[None]

    @classmethod
    def fit(cls, train: Rows, p: PsgParameters) -> Self:
        return cls(p, LeaveOneOutCounts.fit(train, p))

    def recall(self, rows: Rows, fold: Array) -> tuple[Array, Array]:
        return super().recall(rows, np.zeros_like(fold))

    def best(self, rows: Rows, histories: sparse.csr_matrix, fold: int, domain: str) -> tuple[Array, Array]:
        scores, column = scores_of([self.counts], rows, domain), self.unified.column[domain]
        items, values = best_of(scores, rows.history[domain], histories, column, self.p.recalled)
        return items, values[:, :, 0]

    def without_users(self) -> Self:
        """The same counts, for new users alone (:meth:`.cooccurrence.LeaveOneOutCounts.without_users`)."""
        return type(self)(self.p, self.counts.without_users())

    def arrays(self) -> dict[str, Array]:
        return self.counts.arrays()

    @classmethod
    def restore(cls, p: PsgParameters, catalogue: Catalogue, arrays: dict[str, Array]) -> Self:
        return cls(p, LeaveOneOutCounts.restore(catalogue, arrays, p))


GENERATORS: dict[str, type[Generator]] = {
    "none": _NoGenerator,
    "random": _RandomGenerator,
    "cooccurrence": CooccurrenceGenerator,
    "leave_one_out": LeaveOneOutGenerator,
    "lightgcn": LightGCNGenerator,
}


def fit(train: Rows, p: PsgParameters) -> Generator:
    """Fit the generator that ``p.kind`` names, on training rows only."""
    with np.errstate(all="ignore"):  # said below, in words
        generator = GENERATORS[p.kind].fit(train, p)
    for name, array in generator.arrays().items():
        # NaN included; dot products of larger ones overflow float32, and what they score is never recalled
        if array.dtype.kind == "f" and array.size and not (array.min() > -1e18 and array.max() < 1e18):
            raise ParameterError(
                f"'psg.learning_rate': {p.learning_rate:g}: the generator's values are not finite, or too large "
                f"({name}); try a lower one, or a lower psg.decay ({p.decay:g})"
            )
    return generator


def fit_once(train: Rows, p: PsgParameters) -> Generator:
    """:func:`fit`, or read the same fit back: made once (:mod:`i2vae_lib.cache`) for training rows, items and ``p``."""

    def make(folder: Path) -> None:
        start = time.perf_counter()
        generator = fit(train, p)
        write_json(folder / "fit.json", {"seconds": round(time.perf_counter() - start, 2)})
        generator.save(folder, train.catalogue)

    return load(once("generators", _fit_key(train, p), (__name__,), make), train.catalogue)


def seconds_of_fit(train: Rows, p: PsgParameters) -> float:
    """How long the fit took that :func:`fit_once` made or read back."""
    folder = entry_folder("generators", _fit_key(train, p), (__name__,))
    return float(read_json(folder / "fit.json")["seconds"])


def _fit_key(train: Rows, p: PsgParameters) -> list[Any]:
    return [rows_digest(train), train.catalogue.digest(), p.model_dump(mode="json")]


def load(folder: Path, catalogue: Catalogue) -> Generator:
    """Read what :meth:`Generator.save` wrote.

    Raises
    ------
    LayoutError
        Another layout version, or a catalogue that it was not fitted with.
    """
    header = read_header(folder / "generator.json", "generator", _GENERATOR_LAYOUT)
    if header.get("catalogue") != catalogue.digest():
        raise LayoutError(f"{folder}: the generator was fitted with other items or links")
    with reading(folder / "generator.safetensors"):
        p = PsgParameters.model_validate(header["parameters"])
        return GENERATORS[p.kind].restore(p, catalogue, load_file(folder / "generator.safetensors"))


def learning_folds(train: Rows, p: PsgParameters) -> Iterator[Rows]:
    """For each fold the training rows that its table is learnt from (one table: all, detached halves rejoined)."""
    if p.kind == "leave_one_out":
        yield rejoined(train)
        return
    fold = fold_of(train, p)
    for k in range(p.folds):
        yield train if p.folds == 1 else train.take(np.flatnonzero(fold != k))


def _item_scores(users: Array, items: Array) -> Array:
    """Dot products [rows, items]; minus infinity for an item without a vector, which nobody in the graph took."""
    scores: Array = users @ items.T
    scores[:, ~items.any(axis=1)] = -np.inf
    return scores


def _add_edges(users: Array, items: Array, edges: sparse.csr_matrix, unified: Unified, count: int) -> sparse.csr_matrix:
    """Add, for each user and domain, the ``count`` best items that it has no edge to."""
    if count == 0:
        return edges
    rows, columns = [], []
    alive = (users != 0).any(axis=1)
    for d, numbers in unified.items.items():
        found, values = top_items(_item_scores(users, items[numbers]), edges, unified.column[d], count)
        good = np.isfinite(values) & alive[:, None]
        rows.append(np.nonzero(good)[0])
        columns.append(numbers[found[good] - 1])
    added = binary(np.concatenate(rows), np.concatenate(columns), edges.shape)
    return (edges + added).minimum(1.0).tocsr()


def _rounds(
    graph: sparse.csr_matrix, start: tuple[Array, Array], unified: Unified, p: PsgParameters
) -> Iterator[tuple[Array, Array]]:
    """Tables (fold_in, final) of each round of iterative recall; the graph's own users get pseudo-edges too."""
    for round_ in range(p.rounds):
        mean, fold_in, final = tables_of(graph, start, p.layers)
        users = graph.shape[0]
        yield fold_in, final
        if round_ + 1 < p.rounds:
            parts = [
                _add_edges(mean[:users][at], final, graph[at], unified, p.edges_per_round)
                for at in batched(np.arange(users), _ROWS_AT_ONCE)
            ]
            graph = sparse.vstack(parts).tocsr()
