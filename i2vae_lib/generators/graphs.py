"""Users and items as a bipartite graph: who took what, its normalised adjacency, and propagation through it.

Shared by the pseudo-sequence generator and by every system that works on a graph or on co-occurrence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from i2vae_lib.data.batches import Tensors
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Ragged, Rows, interactions


class Unified:
    """The unified item set of both domains: linked items are one node (paper 3.1). Numbers 0…n - 1, no padding."""

    def __init__(self, catalogue: Catalogue):
        twin = catalogue.linked("y")[1:]  # number in x of each item of y, 0: none
        new = twin == 0
        numbers_y = np.where(new, catalogue.size("x") + np.cumsum(new) - 1, twin - 1)
        self.of = {"x": np.concatenate([[-1], np.arange(catalogue.size("x"))]), "y": np.concatenate([[-1], numbers_y])}
        self.items = {d: numbers[1:] for d, numbers in self.of.items()}  # without padding
        self.size = catalogue.size("x") + int(new.sum())
        self.column = {d: np.full(self.size, -1) for d in DOMAINS}  # 0-based item of the domain; -1: not of it
        for d in DOMAINS:
            self.column[d][self.items[d]] = np.arange(catalogue.size(d))

    def summed(self, by_domain: Mapping[str, Array]) -> Array:
        """Counts of the items 1…n of each domain by unified item, int64 [size]."""
        found = np.zeros(self.size, dtype=np.int64)
        for d, counts in by_domain.items():
            np.add.at(found, self.items[d], counts)
        return found

    def histories(self, rows: Rows) -> sparse.csr_matrix:
        """Binary rows x unified items, both histories."""
        owner = np.concatenate([rows.history[d].owner for d in DOMAINS])
        items = np.concatenate([self.of[d][rows.history[d].values] for d in DOMAINS])
        return binary(owner, items, (len(rows), self.size))


def binary(rows: Array, columns: Array, shape: tuple[int, int]) -> sparse.csr_matrix:
    """CSR with a 1 for each distinct pair."""
    matrix = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def user_items(train: Rows, unified: Unified) -> sparse.csr_matrix:
    """Binary users x unified items of the training interactions, targets included."""
    pairs = interactions(train)
    users = np.concatenate([pairs[d][0] for d in DOMAINS])
    items = np.concatenate([unified.of[d][pairs[d][1]] for d in DOMAINS])
    return binary(users, items, (int(users.max(initial=-1)) + 1, unified.size))


def domain_histories(rows: Rows, domain: str) -> sparse.csr_matrix:
    """Binary rows x items of one domain (0…n - 1), the histories of that domain alone."""
    history = rows.history[domain]
    return binary(history.owner, history.values - 1, (len(rows), rows.catalogue.size(domain)))


def domain_takers(train: Rows, domain: str) -> sparse.csr_matrix:
    """Binary users x items of one domain (0…n - 1), targets included.

    All users have a line, in the order of their first appearance, so that lines of two domains are the same people.
    """
    users, items = interactions(train)[domain]
    return binary(users, items - 1, (len(dict.fromkeys(train.user)), train.catalogue.size(domain)))


LARGEST = 20_000_000  # pairs of entries of one line up to which together keeps every pair of columns
PARTNERS = 100  # of larger graphs, how many partners a column keeps


def is_large(graph: sparse.csr_matrix) -> bool:
    """Whether :func:`together` keeps but the frequent partners of each column."""
    return int((np.diff(graph.indptr).astype(np.int64) ** 2).sum()) > LARGEST


def together(graph: sparse.csr_matrix) -> tuple[sparse.csr_matrix, Array]:
    """How many lines of a binary graph hold both columns.

    Of a large graph (:func:`is_large`), line i of the result keeps the columns j that at least ``least[i]`` lines hold
    beside i: the lowest number that leaves no more than :data:`PARTNERS` of them. So whether j stays can be told again
    for a graph with one line less, from the count alone.

    Returns
    -------
    counts
        float32 [columns, columns], indices in order, the diagonal left out.
    least
        int64 [columns]; 1 unless the graph is large.
    """
    size, transpose, large = graph.shape[1], graph.T.tocsr(), is_large(graph)
    least = np.ones(size, dtype=np.int64)
    work = np.cumsum(transpose @ np.diff(graph.indptr)) if large else np.zeros(size)
    starts = np.flatnonzero(np.diff(work // LARGEST, prepend=-1))
    parts = []
    for start, end in pairwise([*starts, size]):
        both = (transpose[start:end] @ graph).tocsr()
        line = np.repeat(np.arange(end - start, dtype=np.int32), np.diff(both.indptr))
        kept = line + start != both.indices
        if large:
            least[start:end] = _least(line[kept], both.data[kept], end - start)
            kept &= both.data >= least[start:end][line]
        at = np.flatnonzero(kept)
        ends = np.searchsorted(at, both.indptr)
        parts.append(sparse.csr_matrix((both.data[at], both.indices[at], ends), shape=both.shape))
        parts[-1].sort_indices()
    return sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix((size, size), dtype=np.float32), least


def _least(line: Array, counts: Array, lines: int) -> Array:
    """The lowest count of each line that at most :data:`PARTNERS` of its entries reach, int64 [lines].

    Parameters
    ----------
    line, counts
        Of entries in the order of lines.
    """
    least = np.ones(lines, dtype=np.int64)
    full = np.bincount(line, minlength=lines) > PARTNERS
    least[full] = 2  # unless more than PARTNERS counts lie above 1; most are 1, and need no sorting
    more = np.flatnonzero(full[line] & (counts > 1))
    lengths = np.bincount(line[more], minlength=lines)
    full = lengths > PARTNERS
    more = more[full[line[more]]]
    whole = counts[more].astype(np.int64)
    highest = int(whole.max(initial=0)) + 1
    ordered = np.sort(line[more] * np.int64(highest) + (highest - 1 - whole))
    starts = np.cumsum(lengths[full]) - lengths[full]
    least[full] = highest - ordered[starts + PARTNERS] % highest
    return least


def cosine(matrix: sparse.csr_matrix, shrinkage: float) -> sparse.csr_matrix:
    """Item-item cosine with shrinkage, zero diagonal: c_ij / (sqrt(c_i c_j) + shrinkage), as in :func:`together`."""
    both, _ = together(matrix)
    counts = np.asarray(matrix.sum(axis=0)).ravel()
    line = np.repeat(np.arange(both.shape[0], dtype=np.int32), np.diff(both.indptr))
    values = both.data / (np.sqrt(counts[line] * counts[both.indices]) + shrinkage)
    return sparse.csr_matrix((values.astype(np.float32), both.indices, both.indptr), shape=both.shape)


def seen_items(histories: sparse.csr_matrix, column: Array) -> tuple[Array, Array]:
    """Line and 0-based item of the items of one domain in histories, which are rows x unified items.

    ``column`` is that of each unified item, as in :attr:`Unified.column`: -1 where it is not of the domain.
    """
    held = histories.tocoo()
    own = column[held.col]
    return held.row[own >= 0], own[own >= 0]


def best_columns(scores: Array, count: int) -> Array:
    """The ``count`` best columns of each line (or all there are), best first; of equal ones the first column leads."""
    return torch.topk(torch.from_numpy(_ordered(scores)), min(count, scores.shape[1]), dim=1).indices.numpy()


def _ordered(scores: Array) -> Array:
    """int64 keys in the order of the scores; of equal ones the first column is highest (topk breaks ties freely)."""
    bits = (scores + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64)
    keys <<= 32
    keys -= np.arange(scores.shape[1])
    return keys


def arrays_of(name: str, matrix: sparse.csr_matrix) -> dict[str, Array]:
    """A sparse matrix as named arrays, for safetensors."""
    return {f"{name}/data": matrix.data, f"{name}/indices": matrix.indices, f"{name}/indptr": matrix.indptr}


def matrix_of(name: str, arrays: Mapping[str, Array], columns: int) -> sparse.csr_matrix:
    """What :func:`arrays_of` took apart."""
    parts = tuple(arrays[f"{name}/{part}"] for part in ("data", "indices", "indptr"))
    return sparse.csr_matrix(parts, shape=(len(parts[2]) - 1, columns))


def differing_entries(found: sparse.csr_matrix, expected: sparse.csr_matrix) -> Array:
    """How many entries of each column of two sparse matrices differ by more than rounding, int64 [columns].

    Where one has more lines, they are compared with zeros.
    """
    lines = max(found.shape[0], expected.shape[0])
    one, another = (matrix.copy() for matrix in (found, expected))
    for matrix in (one, another):
        matrix.resize(lines, matrix.shape[1])
    rest = (one - another).tocsr()
    apart = np.abs(rest.data) > 1e-5 * max(1e-30, np.abs(expected.data).max(initial=0))
    return np.bincount(rest.indices[apart], minlength=rest.shape[1])


def successors(sequences: Ragged, size: int) -> sparse.csr_matrix:
    """What comes right after an item, row-normalised: share of the times that j follows i, in line i and column j.

    Parameters
    ----------
    sequences
        Of items 1…size; a transition counts as often as it is there.

    Returns
    -------
    float32 [size + 1, size + 1]
        Items' own numbers are the lines: 0 (padding) is empty, and so is an item that nothing follows.
    """
    owner, values = sequences.owner, sequences.values
    together = owner[1:] == owner[:-1]
    before, after = values[:-1][together], values[1:][together]
    ones = np.ones(len(before), dtype=np.float32)
    counts = sparse.csr_matrix((ones, (before, after)), shape=(size + 1, size + 1))
    counts.sum_duplicates()
    return row_normalised(counts)


def normalised(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """D^-1/2 A D^-1/2 of the bipartite graph, users first; an isolated node's line is 0."""
    adjacency = sparse.bmat([[None, graph], [graph.T, None]], format="csr", dtype=np.float32)
    scale = sparse.diags(_inverse(np.sqrt(np.asarray(adjacency.sum(axis=1)).ravel())))
    return (scale @ adjacency @ scale).tocsr().astype(np.float32)


def row_normalised(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """Each line divided by its sum, so that a product with it is a mean over neighbours; a line of zeros stays 0."""
    return (sparse.diags(_inverse(np.asarray(graph.sum(axis=1)).ravel())) @ graph).tocsr().astype(np.float32)


def _inverse(values: Array) -> Array:
    """1 / v, float64; 0 where v is 0."""
    return np.divide(1.0, values, out=np.zeros(len(values)), where=values > 0)


def tables_of(graph: sparse.csr_matrix, start: tuple[Array, Array], layers: int) -> tuple[Array, Array, Array]:
    """What one propagation of layer-0 vectors (users, items) through a graph gives.

    With e_i^l the item vectors of layer l, E^{l+1} = D^-1/2 A D^-1/2 E^l (He et al., SIGIR 2020, Eq. 7 and 8)::

        fold_in_i = 1 / (L + 1) sum_{l=0}^{L-1} e_i^l / sqrt(deg(i))        final_i = 1 / (L + 1) sum_{l=0}^L e_i^l

    With L = 0 there is nothing to propagate, and ``fold_in`` takes layer 0 in place of the empty sum.

    Returns
    -------
    mean
        [users + items, d]: LightGCN's vectors, users first.
    fold_in, final
        float32 [items, d]: the table of :func:`folded_in`, and the item vectors it goes with (zero for an item that
        nobody in the graph took: its layer-0 vector is random, so it is never recalled by it).
    """
    adjacency, propagated, users = normalised(graph), [np.concatenate(start)], graph.shape[0]
    for _ in range(layers):
        propagated.append(adjacency @ propagated[-1])  # E^{l+1} = A_hat E^l
    degree = np.asarray(graph.sum(axis=0)).ravel()
    partial = np.sum([one[users:] for one in propagated[:-1]], axis=0) if layers else propagated[0][users:]
    fold_in = partial * _inverse(np.sqrt(degree))[:, None] / (layers + 1)
    mean: Array = np.mean(propagated, axis=0)
    final = np.where(degree[:, None] > 0, mean[users:], 0.0)
    return mean, fold_in.astype(np.float32), final.astype(np.float32)


def folded_in(edges: sparse.csr_matrix, table: Array) -> Array:
    """New users of a graph: sum of ``table`` over their edges, over the square root of their number.

    With ``table`` [items, d] = sum_{l<L} e^l / (sqrt(deg) (L + 1)) this is one propagation with a zero layer-0 user
    vector (:func:`i2vae_lib.recommenders.systems.fold_in.propagated`). float32 [rows, d]; zero where there is no edge.
    """
    degree = np.asarray(edges.sum(axis=1)).ravel()
    scale = 1.0 / np.sqrt(np.maximum(degree, 1.0))
    return (edges @ table) * scale[:, None].astype(np.float32)


@dataclass(frozen=True)
class Adjacency(Tensors):
    """A matrix in CSR, as tensors."""

    indices: Tensor  # int32
    offsets: Tensor  # int32
    values: Tensor  # float32

    @classmethod
    def of(cls, matrix: sparse.csr_matrix) -> Self:
        return cls(
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.indptr[:-1].astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
        )

    def __matmul__(self, vectors: Tensor) -> Tensor:
        # a weighted embedding bag is this product, six times faster on CPU than a sparse CSR tensor's
        return torch.nn.functional.embedding_bag(
            self.indices, vectors, self.offsets, mode="sum", per_sample_weights=self.values
        )


@dataclass(frozen=True)
class Product:
    """A sparse matrix that multiplies dense ones with a gradient; of any shape, so its transpose is kept beside it."""

    matrix: Adjacency
    transpose: Adjacency

    @classmethod
    def of(cls, matrix: sparse.csr_matrix, device: torch.device) -> Self:
        """Of a matrix [m, n]."""
        return cls(*(Adjacency.of(one).to(device) for one in (matrix.tocsr(), matrix.T.tocsr())))

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """[n, d] -> [m, d]."""
        return _Multiply.apply(self, vectors)  # type: ignore[no-untyped-call]


class _Multiply(torch.autograd.Function):
    """A @ E: the gradient is A^T @ (gradient)."""

    @staticmethod
    def forward(context: Any, product: Product, vectors: Tensor) -> Tensor:
        context.transpose = product.transpose
        return product.matrix @ vectors

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, context.transpose @ gradients[0].contiguous()


def propagate(adjacency: Adjacency, vectors: Tensor, layers: int) -> Tensor:
    """LightGCN: the mean of E^0 … E^L, for a symmetric A_hat."""
    product, total = Product(adjacency, adjacency), vectors
    for _ in range(layers):
        vectors = product @ vectors
        total = total + vectors
    return total / (layers + 1)
