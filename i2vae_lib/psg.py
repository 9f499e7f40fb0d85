"""The pseudo-sequence generator (paper 3.1): what a row might also have taken.

**The rule.** A row's pseudo-items depend only on what its histories hold, and training rows and evaluation rows get
theirs alike. So a generator never has a user vector for anybody: a row is *folded in* from its histories, and
cross-fitting sees to it that nothing learnt carries the row's own target. Users are assigned to K folds by a hash;
the table of fold k is learnt from the training interactions of the users of the other folds; every user of fold k,
training or evaluation, is folded in to that table. With K = 1 (the paper's way) one table is learnt from everybody,
a training row's own target included, and that leaks (``tests/test_psg.py`` holds both).

**Folding in to LightGCN.** A new user u with history H is a node with a zero layer-0 vector whose edges are H. One
propagation through the learnt graph gives its vector, the mean over layers 0…L,

    u = 1 / (L + 1) sum_{l=0}^{L-1} sum_{i in H} e_i^l / sqrt(|H| deg(i))

with e_i^l the item vectors of layer l; its own effect on the items is left out, so rows cannot see each other.

**Iterative recall.** Round r recalls ``edges_per_round`` items a domain for every user of the graph, adds them as
pseudo-edges and propagates the learnt vectors again, without retraining; a row takes the same rounds with its own
pseudo-edges and is recalled for good in the last. One round is plain recall.

A generator is ``recall(rows, fold) -> (items [rows, n], scores [rows, n])`` in the rows' target domains.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from filelock import FileLock
from safetensors.numpy import load_file, save_file
from scipy import sparse

from i2vae_lib.data.dataset import (
    DOMAINS,
    Catalogue,
    DataError,
    Int,
    Ragged,
    Rows,
    hashed,
    history_keys,
    interactions,
    origins,
    rows_digest,
)
from i2vae_lib.data.dataset import __file__ as dataset_file
from i2vae_lib.params import PsgParameters
from i2vae_lib.progress import bar
from i2vae_lib.runs import LayoutError, cache_folder, write_atomically, write_json

GENERATOR_LAYOUT = 2


class Generator(Protocol):
    """What a recommender that uses pseudo-sequences owns and saves with itself."""

    p: PsgParameters
    taken: Int | None  # int64 [folds, unified items]: how many users took each item in what each fold learnt from

    def recall(self, rows: Rows, fold: Int) -> tuple[Int, Int]:
        """Pseudo-items of the rows' target domains, best first.

        Parameters
        ----------
        rows
            Any rows; only their histories and target domains are read.
        fold
            int [rows] of :func:`fold_of`.

        Returns
        -------
        items, scores
            int32 and float32 [rows, ``p.recalled``]; never an item of the row's histories; 0 (padding) where the
            generator has nothing to go by.
        """
        ...

    def arrays(self) -> dict[str, Int]:
        """Everything learnt, for :func:`save`."""
        ...


def fold_of(rows: Rows, p: PsgParameters) -> Int:
    """The fold of each row's user, int64 [rows]: a hash of the user's id, the same for training and evaluation.

    The halves of a detached user share the fold of the user: under ``temporal`` a test row must not be folded in to a
    table that learnt from its own user's past.
    """
    users, inverse = np.unique(origins(rows).astype(str), return_inverse=True)
    folds = hashed(users, "psg fold", p.seed) % np.uint64(p.folds)
    return folds.astype(np.int64)[inverse]


class Unified:
    """The unified item set of both domains: linked items are one node (paper 3.1). Numbers 0…n - 1, no padding."""

    def __init__(self, catalogue: Catalogue):
        twin = catalogue.linked("y")[1:]  # number in x of each item of y, 0: none
        new = twin == 0
        numbers_y = np.where(new, catalogue.size("x") + np.cumsum(new) - 1, twin - 1)
        self.of = {
            "x": np.concatenate([[-1], np.arange(catalogue.size("x"))]),
            "y": np.concatenate([[-1], numbers_y]),
        }
        self.size = catalogue.size("x") + int(new.sum())

    def histories(self, rows: Rows) -> sparse.csr_matrix:
        """Binary rows x unified items, both histories."""
        owner = np.concatenate([rows.history[d].owner for d in DOMAINS])
        items = np.concatenate([self.of[d][rows.history[d].values] for d in DOMAINS])
        return binary(owner, items, (len(rows), self.size))


def binary(rows: Int, columns: Int, shape: tuple[int, int]) -> sparse.csr_matrix:
    """CSR with a 1 for each distinct pair."""
    matrix = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def top_items(scores: Int, histories: sparse.csr_matrix, numbers: Int, count: int) -> tuple[Int, Int]:
    """The ``count`` best columns of ``scores`` that are not in the row's histories.

    Parameters
    ----------
    scores
        float32 [rows, items of one domain]; overwritten.
    histories
        rows x unified items.
    numbers
        Unified number of each column.

    Returns
    -------
    items, scores
        Item numbers (1…n) and scores, best first; equal scores in order of item number.
    """
    taken = histories[:, numbers].tocoo()
    scores[taken.row, taken.col] = -np.inf
    count = min(count, scores.shape[1])
    columns = torch.topk(torch.from_numpy(_ordered(scores)), count, dim=1).indices.numpy()
    return (columns + 1).astype(np.int32), np.take_along_axis(scores, columns, axis=1)


def _ordered(scores: Int) -> Int:
    """int64 keys in the order of the scores; of equal ones the first column is highest (topk breaks ties freely)."""
    bits = (scores + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64)
    keys <<= 32
    keys -= np.arange(scores.shape[1])
    return keys


def _pad(items: Int, scores: Int, alive: Int, count: int) -> tuple[Int, Int]:
    """Blank what is not there (no evidence, or fewer items than asked for) and widen to ``count`` columns."""
    missing = ~np.isfinite(scores) | ~alive[:, None]
    items, scores = np.where(missing, 0, items), np.where(missing, 0.0, scores)
    width = count - items.shape[1]
    return (
        np.pad(items, ((0, 0), (0, width))).astype(np.int32),
        np.pad(scores, ((0, 0), (0, width))).astype(np.float32),
    )


class NoGenerator:
    """No pseudo-items: a pseudo-sequence is the real one (an ablation the paper does not run)."""

    taken = None  # learns nothing

    def __init__(self, p: PsgParameters):
        self.p = p

    def recall(self, rows: Rows, fold: Int) -> tuple[Int, Int]:
        return np.zeros((len(rows), 0), dtype=np.int32), np.zeros((len(rows), 0), dtype=np.float32)

    def arrays(self) -> dict[str, Int]:
        return {}

    @classmethod
    def restore(cls, p: PsgParameters, catalogue: Catalogue, arrays: dict[str, Int]) -> Self:
        return cls(p)


class RandomGenerator:
    """Uniform items that are not in the row's histories: the paper's "w/o PSG" (Table 2).

    Which ones follows from a hash of the histories, so a row always gets the same; the scores are 0.
    """

    taken = None  # learns nothing

    def __init__(self, p: PsgParameters, catalogue: Catalogue):
        self.p = p
        self.unified = Unified(catalogue)
        self.sizes = {d: catalogue.size(d) for d in DOMAINS}

    def recall(self, rows: Rows, fold: Int) -> tuple[Int, Int]:
        keys = history_keys(rows.history, "random pseudo-items", self.p.seed)
        items = np.zeros((len(rows), self.p.recalled), dtype=np.int32)
        histories = self.unified.histories(rows)
        for row in np.flatnonzero(histories.getnnz(axis=1)):
            d = DOMAINS[rows.domain[row]]
            taken = np.isin(self.unified.of[d], histories[row].indices)
            draw = np.random.Philox(key=int(keys[row])).random_raw(self.sizes[d] + 1)
            draw[taken] = draw[0] = np.iinfo(np.uint64).max
            count = min(self.p.recalled, self.sizes[d] - int(taken.sum()))
            chosen = np.argpartition(draw, count)[:count]
            items[row, :count] = chosen[np.argsort(draw[chosen])]  # the set alone is the same on every machine
        return items, np.zeros(items.shape, dtype=np.float32)

    def arrays(self) -> dict[str, Int]:
        return {}

    @classmethod
    def restore(cls, p: PsgParameters, catalogue: Catalogue, arrays: dict[str, Int]) -> Self:
        return cls(p, catalogue)


class CooccurrenceGenerator:
    """Items that users took together: cosine with shrinkage, cross-fitted like everything here.

    Score of j given history H: sum over i in H of c_ij / (sqrt(c_i c_j) + shrinkage), with c_ij the users of the other
    folds who took both and c_i those who took i.
    """

    def __init__(self, p: PsgParameters, catalogue: Catalogue, tables: list[sparse.csr_matrix], taken: Int):
        self.p = p
        self.unified = Unified(catalogue)
        self.tables = tables  # one a fold, unified x unified
        self.taken = taken

    @classmethod
    def fit(cls, train: Rows, p: PsgParameters) -> Self:
        unified = Unified(train.catalogue)
        graphs = [user_items(train, unified, keep) for keep in learning_folds(train, p)]
        tables = [cosine(graph, p.shrinkage) for graph in graphs]
        return cls(p, train.catalogue, tables, np.stack([users_of_items(graph) for graph in graphs]))

    def recall(self, rows: Rows, fold: Int) -> tuple[Int, Int]:
        return _by_fold_and_domain(self, rows, fold)

    def scores(self, histories: sparse.csr_matrix, fold: int, numbers: Int) -> Int:
        return (histories @ self.tables[fold])[:, numbers].toarray().astype(np.float32)

    def recall_part(self, histories: sparse.csr_matrix, fold: int, d: str) -> tuple[Int, Int]:
        numbers = self.unified.of[d][1:]
        items, values = top_items(self.scores(histories, fold, numbers), histories, numbers, self.p.recalled)
        values = np.where(values > 0, values, -np.inf)  # a zero is no recall
        return _pad(items, values, histories.getnnz(axis=1) > 0, self.p.recalled)

    def arrays(self) -> dict[str, Int]:
        found: dict[str, Int] = {"taken": self.taken}
        for k, table in enumerate(self.tables):
            found |= {f"{k}/data": table.data, f"{k}/indices": table.indices, f"{k}/indptr": table.indptr}
        return found

    @classmethod
    def restore(cls, p: PsgParameters, catalogue: Catalogue, arrays: dict[str, Int]) -> Self:
        size = Unified(catalogue).size
        tables = [
            sparse.csr_matrix((arrays[f"{k}/data"], arrays[f"{k}/indices"], arrays[f"{k}/indptr"]), shape=(size, size))
            for k in range(p.folds)
        ]
        return cls(p, catalogue, tables, arrays["taken"])


class LightGCNGenerator:
    """LightGCN (He et al., SIGIR 2020) with folding in and iterative recall, as the module docstring has it."""

    def __init__(self, p: PsgParameters, catalogue: Catalogue, tables: dict[str, Int]):
        self.p = p
        self.unified = Unified(catalogue)
        # fold_in [folds, rounds, n, d]: sum_{l<L} e^l / (sqrt(deg) (L + 1)); final [folds, rounds, n, d]: item vectors
        self.tables = tables
        self.taken = tables["taken"]

    @classmethod
    def fit(cls, train: Rows, p: PsgParameters) -> Self:
        unified = Unified(train.catalogue)
        fold_in, final, taken = [], [], []
        for k, keep in enumerate(learning_folds(train, p)):
            graph = user_items(train, unified, keep)
            taken.append(users_of_items(graph))
            rng = np.random.default_rng([p.seed, k])
            start = train_lightgcn(graph, item_domains(unified), p, rng, label=f"LightGCN fold {k + 1}/{p.folds}")
            tables = list(_rounds(graph, start, unified, p))
            fold_in.append([one[0] for one in tables])
            final.append([one[1] for one in tables])
        stacked = {"fold_in": np.array(fold_in, dtype=np.float32), "final": np.array(final, dtype=np.float32)}
        stacked["taken"] = np.stack(taken)
        return cls(p, train.catalogue, stacked)

    def recall(self, rows: Rows, fold: Int) -> tuple[Int, Int]:
        return _by_fold_and_domain(self, rows, fold)

    def user_vectors(self, edges: sparse.csr_matrix, fold: int, round_: int) -> Int:
        """Folded-in users: edges [rows, unified] -> float32 [rows, d]; zero where no edge leads into the graph."""
        return folded_in(edges, self.tables["fold_in"][fold, round_])

    def recall_part(self, histories: sparse.csr_matrix, fold: int, d: str) -> tuple[Int, Int]:
        edges = histories
        for round_ in range(self.p.rounds - 1):
            edges = add_edges(
                self.user_vectors(edges, fold, round_),
                self.tables["final"][fold, round_],
                edges,
                self.unified,
                self.p.edges_per_round,
            )
        vectors = self.user_vectors(edges, fold, self.p.rounds - 1)
        numbers = self.unified.of[d][1:]
        scores = item_scores(vectors, self.tables["final"][fold, self.p.rounds - 1][numbers])
        items, values = top_items(scores, histories, numbers, self.p.recalled)
        return _pad(items, values, (vectors != 0).any(axis=1), self.p.recalled)

    def arrays(self) -> dict[str, Int]:
        return self.tables

    @classmethod
    def restore(cls, p: PsgParameters, catalogue: Catalogue, arrays: dict[str, Int]) -> Self:
        return cls(p, catalogue, arrays)


GENERATORS: dict[str, Any] = {
    "none": NoGenerator,
    "random": RandomGenerator,
    "cooccurrence": CooccurrenceGenerator,
    "lightgcn": LightGCNGenerator,
}


def fit(train: Rows, p: PsgParameters) -> Generator:
    """Fit the generator that ``p.kind`` names, on training rows only."""
    kind = GENERATORS[p.kind]
    generator: Generator = kind.fit(train, p) if hasattr(kind, "fit") else kind.restore(p, train.catalogue, {})
    return generator


def fit_once(train: Rows, p: PsgParameters, cache: Path | str | None = None) -> Generator:
    """:func:`fit`, or read the same fit back: content-addressed by training rows, items, ``p`` and this file's code.

    Parameters
    ----------
    cache
        Folder; default :func:`i2vae_lib.runs.cache_folder`.
    """
    rows, parameters = rows_digest(train), json.dumps(p.model_dump(), sort_keys=True)
    # an edited generator is another one
    code = hashlib.sha256(b"".join(Path(one).read_bytes() for one in (__file__, dataset_file))).hexdigest()
    key = hashlib.sha256(f"{code}|{train.catalogue.digest()}|{rows}|{parameters}".encode()).hexdigest()
    folder = (Path(cache) if cache else cache_folder()) / "generators" / key
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # two processes that want the same fit: one makes it, the other reads it
        if not (folder / "generator.json").is_file():
            save(fit(train, p), folder, train.catalogue)
    return load(folder, train.catalogue)


def save(generator: Generator, folder: Path, catalogue: Catalogue) -> None:
    """Tables as safetensors, parameters as JSON (written last: its presence means that the rest is whole)."""
    arrays = {k: np.ascontiguousarray(v) for k, v in generator.arrays().items()}
    write_atomically(folder / "generator.safetensors", lambda part: save_file(arrays, part))
    header = {"layout": GENERATOR_LAYOUT, "catalogue": catalogue.digest(), "parameters": generator.p.model_dump()}
    write_json(folder / "generator.json", header)


def load(folder: Path, catalogue: Catalogue) -> Generator:
    """Read what :func:`save` wrote.

    Raises
    ------
    LayoutError
        Another layout version, or a catalogue that it was not fitted with.
    """
    header = json.loads((folder / "generator.json").read_text(encoding="utf-8"))
    if header.get("layout") != GENERATOR_LAYOUT:
        raise LayoutError(f"{folder}: generator layout {header.get('layout')}, this version reads {GENERATOR_LAYOUT}")
    if header["catalogue"] != catalogue.digest():
        raise LayoutError(f"{folder}: the generator was fitted with other items or links")
    p = PsgParameters.model_validate(header["parameters"])
    generator: Generator = GENERATORS[p.kind].restore(p, catalogue, load_file(folder / "generator.safetensors"))
    return generator


def user_items(train: Rows, unified: Unified, keep: Int) -> sparse.csr_matrix:
    """Binary users x unified items of the training interactions (targets included) of the rows in ``keep``."""
    part = train.take(keep)
    pairs = interactions(part)
    users = np.concatenate([pairs[d][0] for d in DOMAINS])
    items = np.concatenate([unified.of[d][pairs[d][1]] for d in DOMAINS])
    return binary(users, items, (int(users.max(initial=-1)) + 1, unified.size))


def users_of_items(graph: sparse.csr_matrix) -> Int:
    """How many users took each item, int64 [unified items]."""
    return np.bincount(graph.indices, minlength=graph.shape[1]).astype(np.int64)


def cosine(matrix: sparse.csr_matrix, shrinkage: float) -> sparse.csr_matrix:
    """Item-item cosine with shrinkage, zero diagonal: c_ij / (sqrt(c_i c_j) + shrinkage)."""
    together = (matrix.T @ matrix).tocoo()
    counts = np.asarray(matrix.sum(axis=0)).ravel()
    off = together.row != together.col
    row, column, shared = together.row[off], together.col[off], together.data[off]
    values = shared / (np.sqrt(counts[row] * counts[column]) + shrinkage)
    return sparse.csr_matrix((values.astype(np.float32), (row, column)), shape=together.shape)


def item_domains(unified: Unified) -> dict[str, Int]:
    """Unified numbers of each domain's items."""
    return {d: unified.of[d][1:] for d in DOMAINS}


def learning_folds(train: Rows, p: PsgParameters) -> Iterator[Int]:
    """For each fold the positions of the training rows that its table is learnt from (K = 1: all of them)."""
    fold = fold_of(train, p)
    for k in range(p.folds):
        yield np.arange(len(train)) if p.folds == 1 else np.flatnonzero(fold != k)


def _by_fold_and_domain(generator: Any, rows: Rows, fold: Int, chunk: int = 512) -> tuple[Int, Int]:
    """Recall in chunks of rows that share a fold and a target domain."""
    items = np.zeros((len(rows), generator.p.recalled), dtype=np.int32)
    scores = np.zeros(items.shape, dtype=np.float32)
    histories = generator.unified.histories(rows)
    for k in np.unique(fold):
        for i, d in enumerate(DOMAINS):
            positions = np.flatnonzero((fold == k) & (rows.domain == i))
            for start in range(0, len(positions), chunk):
                at = positions[start : start + chunk]
                items[at], scores[at] = generator.recall_part(histories[at], int(k), d)
    return items, scores


def folded_in(edges: sparse.csr_matrix, table: Int) -> Int:
    """New users of a graph: sum of ``table`` over their edges, over the square root of their number.

    With ``table`` [items, d] = sum_{l<L} e^l / (sqrt(deg) (L + 1)) this is one propagation with a zero layer-0 user
    vector (module docstring). float32 [rows, d]; zero where there is no edge.
    """
    degree = np.asarray(edges.sum(axis=1)).ravel()
    scale = 1.0 / np.sqrt(np.maximum(degree, 1.0))
    vectors: Int = (edges @ table) * scale[:, None].astype(np.float32)
    return vectors


def item_scores(users: Int, items: Int) -> Int:
    """Dot products [rows, items]; minus infinity for an item without a vector, which nobody in the graph took."""
    scores: Int = users @ items.T
    scores[:, ~items.any(axis=1)] = -np.inf
    return scores


def add_edges(users: Int, items: Int, edges: sparse.csr_matrix, unified: Unified, count: int) -> sparse.csr_matrix:
    """Add, for each user and domain, the ``count`` best items that it has no edge to."""
    if count == 0:
        return edges
    rows, columns = [], []
    alive = (users != 0).any(axis=1)
    for numbers in item_domains(unified).values():
        found, values = top_items(item_scores(users, items[numbers]), edges, numbers, count)
        good = np.isfinite(values) & alive[:, None]
        rows.append(np.nonzero(good)[0])
        columns.append(numbers[found[good] - 1])
    added = binary(np.concatenate(rows), np.concatenate(columns), edges.shape)
    return (edges + added).minimum(1.0).tocsr()


def _rounds(
    graph: sparse.csr_matrix, start: tuple[Int, Int], unified: Unified, p: PsgParameters
) -> Iterator[tuple[Int, Int]]:
    """Tables (fold_in, final) of each round of iterative recall; the graph's own users get pseudo-edges too."""
    for round_ in range(p.rounds):
        mean, fold_in, final = tables_of(graph, start, p.layers)
        users = graph.shape[0]
        yield fold_in, final
        if round_ + 1 < p.rounds:
            parts = [
                add_edges(mean[:users][at : at + 512], final, graph[at : at + 512], unified, p.edges_per_round)
                for at in range(0, users, 512)
            ]
            graph = sparse.vstack(parts).tocsr()


def tables_of(graph: sparse.csr_matrix, start: tuple[Int, Int], layers: int) -> tuple[Int, Int, Int]:
    """What one propagation of layer-0 vectors (users, items) through a graph gives.

    Returns
    -------
    mean
        [users + items, d]: LightGCN's vectors, users first.
    fold_in, final
        float32 [items, d]: the table of :func:`folded_in`, and the item vectors it goes with (zero for an item that
        nobody in the graph took: its layer-0 vector is random, so it is never recalled by it).
    """
    propagated = list(_layers(normalised(graph), np.concatenate(start), layers))
    users = graph.shape[0]
    degree = np.asarray(graph.sum(axis=0)).ravel()
    inverse = np.divide(1.0, np.sqrt(degree), out=np.zeros(len(degree)), where=degree > 0)
    partial = np.sum([one[users:] for one in propagated[:-1]], axis=0) if layers else propagated[0][users:]
    fold_in = partial * inverse[:, None] / (layers + 1)
    mean: Int = np.mean(propagated, axis=0)
    final = np.where(degree[:, None] > 0, mean[users:], 0.0)
    return mean, fold_in.astype(np.float32), final.astype(np.float32)


def normalised(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """D^-1/2 A D^-1/2 of the bipartite graph, users first; an isolated node's line is 0."""
    users, items = graph.shape
    adjacency = sparse.bmat([[None, graph], [graph.T, None]], format="csr", dtype=np.float32)
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    inverse = np.divide(1.0, np.sqrt(degree), out=np.zeros(users + items), where=degree > 0)
    scale = sparse.diags(inverse)
    return (scale @ adjacency @ scale).tocsr().astype(np.float32)


def _layers(adjacency: sparse.csr_matrix, vectors: Int, layers: int) -> Iterator[Int]:
    """E^0 … E^L with E^{l+1} = A_hat E^l."""
    yield vectors
    for _ in range(layers):
        vectors = adjacency @ vectors
        yield vectors


@dataclass(frozen=True)
class Adjacency:
    """A symmetric A_hat in CSR, as tensors."""

    indices: torch.Tensor  # int32
    offsets: torch.Tensor  # int32
    values: torch.Tensor  # float32

    @classmethod
    def of(cls, matrix: sparse.csr_matrix) -> Self:
        return cls(
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.indptr[:-1].astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
        )

    def __matmul__(self, vectors: torch.Tensor) -> torch.Tensor:
        # a weighted embedding bag is this product, six times faster on CPU than a sparse CSR tensor's
        return torch.nn.functional.embedding_bag(
            self.indices, vectors, self.offsets, mode="sum", per_sample_weights=self.values
        )


class _Propagate(torch.autograd.Function):
    """A_hat @ E for a symmetric A_hat: the gradient is A_hat @ (gradient)."""

    @staticmethod
    def forward(context: Any, adjacency: Adjacency, vectors: torch.Tensor) -> torch.Tensor:
        context.adjacency = adjacency
        return adjacency @ vectors

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, context.adjacency @ gradients[0]


def propagate(adjacency: Adjacency, vectors: torch.Tensor, layers: int) -> torch.Tensor:
    """LightGCN: the mean of E^0 … E^L."""
    total = vectors
    for _ in range(layers):
        vectors = _Propagate.apply(adjacency, vectors)  # type: ignore[no-untyped-call]
        total = total + vectors
    return total / (layers + 1)


def bpr(users: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """BPR: softplus(s_uj - s_ui), one value a triple."""
    return torch.nn.functional.softplus((users * (negatives - positives)).sum(dim=1))


def train_lightgcn(
    graph: sparse.csr_matrix,
    domains: dict[str, Int],
    p: PsgParameters,
    rng: np.random.Generator,
    *,
    label: str = "LightGCN",
) -> tuple[Int, Int]:
    """Learn layer-0 vectors by BPR; best validation recall@20 of up to ``p.epochs`` epochs, with early stop.

    ``p.validation_share`` of the interactions is held out of the graph while learning. An epoch is as many triples as
    there are training interactions: a uniform user, one of its items, a negative of that item's domain that it did
    not take. L2 acts on the batch's layer-0 vectors only (as in the paper of LightGCN, not through the optimiser).

    Returns
    -------
    users, items
        float32 [users, d], [items, d]
    """
    users, items = graph.shape
    coo = graph.tocoo()
    held_out = rng.random(coo.nnz) < p.validation_share
    learn = binary(coo.row[~held_out], coo.col[~held_out], graph.shape)
    check = binary(coo.row[held_out], coo.col[held_out], graph.shape)
    adjacency = Adjacency.of(normalised(learn))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    table = torch.nn.Parameter(torch.empty(users + items, p.d).normal_(std=0.1, generator=generator))
    optimizer = torch.optim.Adam([table], lr=p.learning_rate, fused=True)
    sampler = _Triples(learn, domains, rng)
    best, best_metric, waited = table.detach().clone(), -math.inf, 0
    progress = bar(label, p.epochs, "epoch", leave=False)
    for _ in range(p.epochs):
        for _ in range(-(-learn.nnz // p.batch_size)):
            user, positive, negative = sampler.draw(p.batch_size)
            vectors = propagate(adjacency, table, p.layers)
            rows = torch.from_numpy(np.concatenate([user, users + positive, users + negative]))
            u, i, j = vectors.index_select(0, rows).chunk(3)
            layer0 = table.index_select(0, rows)
            loss = bpr(u, i, j).mean() + p.decay * 0.5 * layer0.square().sum() / p.batch_size
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            final = propagate(adjacency, table, p.layers).numpy()
        metric = recall_at(final[:users], final[users:], learn, check, 20)
        waited = 0 if metric > best_metric else waited + 1
        if metric > best_metric:
            best, best_metric = table.detach().clone(), metric
        progress.update()
        progress.set_postfix_str(f"recall@20 {metric:.4f} (best {best_metric:.4f})")
        if waited >= p.patience:
            break
    progress.close()
    numbers = best.numpy()
    return numbers[:users], numbers[users:]


def recall_at(users: Int, items: Int, known: sparse.csr_matrix, wanted: sparse.csr_matrix, k: int) -> float:
    """Mean recall@k over at most 2,000 users with something to find, their known items left out."""
    who = np.flatnonzero(wanted.getnnz(axis=1))
    who = who[:: max(1, len(who) // 2000)][:2000]
    hits = 0.0
    for start in range(0, len(who), 512):
        at = who[start : start + 512]
        scores = users[at] @ items.T
        taken = known[at].tocoo()
        scores[taken.row, taken.col] = -np.inf
        top = torch.topk(torch.from_numpy(scores), min(k, scores.shape[1]), dim=1).indices.numpy()
        found = np.asarray(wanted[np.repeat(at, top.shape[1]), top.ravel()]).reshape(top.shape).sum(axis=1)
        hits += float((found / wanted[at].getnnz(axis=1)).sum())
    return hits / max(1, len(who))


class _Triples:
    """(user, positive, negative): user uniform, positive uniform of the user, negative not taken, of its domain."""

    def __init__(self, graph: sparse.csr_matrix, domains: dict[str, Int], rng: np.random.Generator):
        self.rng = rng
        self.items = Ragged(graph.indices.astype(np.int32), graph.indptr.astype(np.int64))
        # a user who took every item of a domain leaves no negative to draw
        rest = np.all([graph[:, pool].getnnz(axis=1) < len(pool) for pool in domains.values()], axis=0)
        self.users = np.flatnonzero((self.items.lengths > 0) & rest)
        if not len(self.users):
            raise DataError("LightGCN: no training user took something but not everything of each domain")
        self.width = graph.shape[1]
        self.taken = np.sort(self.items.owner * self.width + self.items.values)
        self.pools = [domains[d] for d in DOMAINS]
        self.in_y = np.zeros(self.width, dtype=np.int64)
        self.in_y[domains["y"]] = 1
        self.in_y[domains["x"]] = 0  # a linked item's negatives come from x

    def draw(self, count: int) -> tuple[Int, Int, Int]:
        user = self.rng.choice(self.users, count)
        starts, lengths = self.items.offsets[user], self.items.lengths[user]
        positive = self.items.values[starts + (self.rng.random(count) * lengths).astype(np.int64)].astype(np.int64)
        side = self.in_y[positive]
        negative = self._draw_items(side)
        while True:
            flat = user * self.width + negative
            at = np.minimum(np.searchsorted(self.taken, flat), len(self.taken) - 1)
            hit = self.taken[at] == flat
            if not hit.any():
                return user, positive, negative
            negative[hit] = self._draw_items(side[hit])

    def _draw_items(self, side: Int) -> Int:
        uniform = self.rng.random(len(side))
        sizes = np.array([len(pool) for pool in self.pools])
        index = (uniform * sizes[side]).astype(np.int64)
        return np.where(
            side == 0,
            self.pools[0][np.minimum(index, sizes[0] - 1)],
            self.pools[1][np.minimum(index, sizes[1] - 1)],
        )
