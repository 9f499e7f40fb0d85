"""ItemKNN: items that users took together, the nearest neighbours of what a row holds.

Sarwar, Karypis, Konstan & Riedl, "Item-based collaborative filtering recommendation algorithms", WWW 2001; kept
neighbours as in Deshpande & Karypis, TOIS 2004; shrinkage as in Bell & Koren, ICDM 2007. With c_ij the training users
who took both i and j, and c_i those who took i,

    s_ij = c_ij / (sqrt(c_i c_j) + shrinkage),    score(j) = sum over i in the history of s_ij

where of each i only the ``neighbours`` largest s_ij are kept (0: all).

Made for one catalogue. Here the items are the unified ones of both domains and a user's two histories are one set, so
an item of the other domain is a neighbour like any other: this is what ranks a cold row.

Departs
    - the shrinkage stands beside the root (``graphs.cosine``), not as a factor c / (c + shrinkage);
    - no normalisation of the kept similarities to sum 1 a row;
    - neighbours of equal similarity: the more popular one is kept;
    - ``neighbours`` and ``shrinkage`` are chosen by sampled NDCG@10 on validation;
    - popularity orders candidates of equal score, and those of score 0 (:mod:`.references.from_histories`).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import numpy as np
from scipy import sparse

from i2vae_lib.data.rows import DOMAINS, Array, Rows
from i2vae_lib.generators.graphs import arrays_of, cosine, differing_entries, matrix_of, user_items
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.references.from_histories import Axis, FromHistories, Setting


class ItemKNN(FromHistories):
    """Cosine neighbours over the items of both domains."""

    name = "itemknn"

    def choices(self, train: Rows, params: Parameters) -> tuple[list[list[Axis]], Callable[[Setting], Setting]]:
        ordered = lru_cache(maxsize=1)(partial(_in_order, user_items(train, self.unified)))

        def learn(setting: Setting) -> Setting:
            self._take(nearest(*ordered(setting["shrinkage"]), setting["neighbours"]))
            return {}

        p = params.references
        return [[Axis("shrinkage", p.shrinkage), Axis("neighbours", p.neighbours, zero_is_all=True)]], learn

    def _take(self, table: sparse.csr_matrix) -> None:
        self.table = table
        self.columns = {d: table[:, self.unified.items[d]] for d in DOMAINS}

    def evidence(self, rows: Rows, domain: str) -> Array:
        return (self.unified.histories(rows) @ self.columns[domain]).toarray()

    def foreign_counts(self, train: Rows) -> Array:
        ordered = _in_order(user_items(train, self.unified), self.chosen["shrinkage"])
        return differing_entries(self.table, nearest(*ordered, self.chosen["neighbours"]))

    def arrays(self) -> dict[str, Array]:
        return arrays_of("table", self.table)

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._take(matrix_of("table", arrays, self.unified.size))


def _in_order(matrix: sparse.csr_matrix, shrinkage: float) -> tuple[sparse.csr_matrix, Array]:
    """All similarities of the items of users x items, and :func:`places`."""
    table = cosine(matrix, shrinkage)
    return table, places(table, np.asarray(matrix.sum(axis=0)).ravel())


def places(table: sparse.csr_matrix, popular: Array) -> Array:
    """For each stored value its place in its row, 0 the largest; of equal ones the more popular column is first.

    2 / sqrt(72) and 1 / sqrt(18) differ in the last bit of float32: values that agree to about 1e-4 are equal here.
    """
    rounded = np.rint(np.round(np.log(table.data), 4) * 1e4).astype(np.int64)
    most = int(popular.max(initial=0))
    key = (rounded.max(initial=0) - rounded) * (most + 1) + most - popular[table.indices].astype(np.int64)
    row = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    order = np.lexsort((key, row))  # stable: of equal ones the smaller number is first
    place = np.empty(table.nnz, dtype=np.int64)
    place[order] = np.arange(table.nnz) - table.indptr[row]
    return place


def nearest(table: sparse.csr_matrix, place: Array, neighbours: int) -> sparse.csr_matrix:
    """The ``neighbours`` first of each row (0: all)."""
    if neighbours == 0:
        return table
    keep = place < neighbours
    before = np.concatenate([[0], np.cumsum(keep)])
    return sparse.csr_matrix((table.data[keep], table.indices[keep], before[table.indptr]), shape=table.shape)
