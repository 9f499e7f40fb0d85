"""EASE: a linear model from a user's items to themselves with no weight from an item to itself, in closed form.

Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019. With X the binary users x items and

    P = (X^T X + lambda I)^-1,    B = I - P diag(1 / diag P),    scores of a history h:  h B

the diagonal of B is zero. Made for one catalogue; here X is over the unified items of both domains and a user's two
histories are one line.

The inverse is exact, over items or over users, whichever are fewer (only those with a training interaction count). By
Woodbury, with M = (X X^T + lambda I)^-1,

    lambda P = I - X^T M X,    lambda h P = h - (h X^T) M X,    lambda P_jj = 1 - x_j^T M x_j

so items x items is never formed where users are fewer, and (h X^T) is sparse. A scale common to P and diag P cancels:
h B = h - h P / diag P. One Cholesky factorisation and inversion a lambda, in place: n^3 operations and no second
matrix, where one eigendecomposition, which would serve all lambdas, takes about ten times that and three matrices.

**Beyond** ``references.ease_limit`` users *and* items, time and memory of an inverse are out of reach. Column j of B is
the ridge regression of item j on the other items, exactly; there it is the regression on the :data:`NEAR` items that
explain most of j by themselves (of the largest G_ij^2 / (G_ii + lambda), G = X^T X; only items taken together with j),

    B_Nj = (G_NN + lambda I)^-1 G_Nj,    0 elsewhere

so every item is learnt, and B is sparse.

Departs
    - ``lambda`` is chosen by sampled NDCG@10 on validation;
    - beyond the limit weights are those of neighbourhoods, as above; ``chosen`` says so under ``inverted``;
    - float32;
    - popularity orders candidates of equal score, and those of score 0 (:mod:`.references.from_histories`).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from i2vae_lib.data.rows import DOMAINS, Array, DataError, Rows
from i2vae_lib.generators.graphs import arrays_of, differing_entries, matrix_of, user_items
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.references.from_histories import Axis, FromHistories, Setting

NEAR = 200  # items of a neighbourhood at most, beyond `references.ease_limit`
_PROBES = 8
_TOLERANCE = 5e-5  # of a probe in float32: rounding leaves 3e-6, one row too many at lambda = 30,000 leaves 2e-4


class EASE(FromHistories):
    """The closed form over the items of both domains.

    Attributes
    ----------
    kept
        Unified numbers of the items learnt, ascending; nothing is said of the others.
    inverse
        P over ``kept``, or M over users: float32, symmetric.
    diagonal
        diag P, or lambda diag P: float32 [kept].
    users
        X, where ``inverse`` is M; else None.
    weights
        B over all unified items, where it is that of neighbourhoods; then there is nothing of the others.
    """

    name = "ease"

    weights: sparse.csr_matrix | None

    def choices(self, train: Rows, params: Parameters) -> tuple[list[list[Axis]], Callable[[Setting], Setting]]:
        matrix, p = user_items(train, self.unified), params.references
        kept = np.flatnonzero(matrix.getnnz(axis=0))
        if min(matrix.shape[0], len(kept)) > p.ease_limit:
            return [[Axis("lambda", p.ease_lambda)]], self._of_neighbourhoods(matrix, p.ease_lambda)
        x = matrix[:, kept]
        by_users = x.shape[0] < x.shape[1]
        gram = x @ x.T if by_users else x.T @ x

        def learn(setting: Setting) -> Setting:
            # room for the new one, unless the old one is the best so far: then the caller holds it
            self.inverse = np.zeros((0, 0), dtype=np.float32)
            inverse = inverse_of(gram, setting["lambda"])
            diagonal = _diagonal_by_users(x, inverse) if by_users else inverse.diagonal().copy()
            if not (diagonal > 0).all():
                raise _too_small(setting["lambda"])
            self._take(kept, inverse, diagonal, x if by_users else None)
            return {"inverted": "users" if by_users else "items"}

        return [[Axis("lambda", p.ease_lambda)]], learn

    def _of_neighbourhoods(self, matrix: sparse.csr_matrix, grid: Sequence[float]) -> Callable[[Setting], Setting]:
        """What learns under one lambda; the whole grid is solved in one pass, what it is extended by in more."""
        known: dict[float, sparse.csr_matrix] = {}
        middle = sorted(grid)[len(grid) // 2]

        def learn(setting: Setting) -> Setting:
            strength = setting["lambda"]
            if strength not in known:
                new = [one for one in dict.fromkeys([strength, *grid]) if one not in known]
                known.update(zip(new, neighbourhoods(matrix, new, middle), strict=True))
            self._take_weights(known[strength])
            return {"inverted": "neighbourhoods", "neighbours at lambda": middle}

        return learn

    def _take_weights(self, weights: sparse.csr_matrix) -> None:
        self.weights = weights
        self.of_domain = {d: weights[:, self.unified.items[d]] for d in DOMAINS}

    def _take(self, kept: Array, inverse: Array, diagonal: Array, users: sparse.csr_matrix | None) -> None:
        self.kept, self.inverse, self.diagonal, self.users = kept, inverse, diagonal, users
        self.weights = None
        position = np.full(self.unified.size, -1)
        position[kept] = np.arange(len(kept))
        # by domain: which of its items are learnt (columns), and as which number of kept
        numbers = {d: position[self.unified.items[d]] for d in DOMAINS}
        self.columns = {d: np.flatnonzero(numbers[d] >= 0) for d in DOMAINS}
        self.positions = {d: numbers[d][self.columns[d]] for d in DOMAINS}
        by_items = None if users is None else users.T.tocsr()
        self.takers = {d: None if by_items is None else by_items[self.positions[d]] for d in DOMAINS}

    def evidence(self, rows: Rows, domain: str) -> Array:
        histories = self.unified.histories(rows)
        if self.weights is not None:
            return (histories @ self.of_domain[domain]).toarray()
        learnt, at, takers = histories[:, self.kept], self.positions[domain], self.takers[domain]
        own = learnt[:, at].toarray()
        if self.users is None:
            product = (learnt @ self.inverse)[:, at]
        else:
            product = own - (takers @ ((learnt @ self.users.T) @ self.inverse).T).T
        found = np.zeros((histories.shape[0], len(self.unified.of[domain]) - 1), dtype=np.float32)
        found[:, self.columns[domain]] = own - product / self.diagonal[at]
        return found

    def foreign_counts(self, train: Rows) -> Array:
        """No inverse is made again: P (X^T X + lambda I) z = z for the X of these rows and random z of -1 and 1, and M
        alike; there X itself and the diagonal are compared too. Weights of neighbourhoods are made again."""
        if self.weights is not None:
            chosen, at = self.chosen["lambda"], self.chosen["neighbours at lambda"]
            [again] = neighbourhoods(user_items(train, self.unified), [chosen], at)
            return differing_entries(self.weights, again)
        x, users = user_items(train, self.unified)[:, self.kept], self.users
        strength, found = np.float32(self.chosen["lambda"]), np.zeros(self.unified.size, dtype=np.int64)
        if users is not None and users.shape != x.shape:
            found[self.kept] = differing_entries(users, x)
            return found
        signs = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.float32), (len(self.inverse), _PROBES))
        image = x.T @ (x @ signs) if users is None else x @ (x.T @ signs)
        wrong = (np.abs(self.inverse @ (image + strength * signs) - signs) > _TOLERANCE).any(axis=1)
        if users is None:
            found[self.kept] = wrong | (self.diagonal != self.inverse.diagonal())
        else:
            different = np.abs(_diagonal_by_users(x, self.inverse) - self.diagonal) > _TOLERANCE
            found[self.kept] = differing_entries(users, x) + x[wrong].getnnz(axis=0) + different
        return found

    def arrays(self) -> dict[str, Array]:
        if self.weights is not None:
            return arrays_of("weights", self.weights)
        arrays = {"kept": self.kept, "inverse": self.inverse, "diagonal": self.diagonal}
        return arrays if self.users is None else arrays | arrays_of("users", self.users)

    def restore(self, arrays: Mapping[str, Array]) -> None:
        if "weights/indptr" in arrays:
            self._take_weights(matrix_of("weights", arrays, self.unified.size))
            return
        inverse = arrays["inverse"]
        if inverse.ndim == 1:
            half, size = inverse, int(np.sqrt(2 * len(inverse)))
            inverse = np.empty((size, size), dtype=np.float32)
            inverse[_upper(size)] = half
            _mirror(inverse)
        users = matrix_of("users", arrays, len(arrays["kept"])) if "users/indptr" in arrays else None
        self._take(arrays["kept"], inverse, arrays["diagonal"], users)

    def packed(self) -> dict[str, Array]:
        """The inverse is symmetric: half of it goes to the disk."""
        if self.weights is not None:
            return self.arrays()
        return self.arrays() | {"inverse": self.inverse[_upper(len(self.inverse))]}


def neighbourhoods(matrix: sparse.csr_matrix, strengths: Sequence[float], at: float) -> list[sparse.csr_matrix]:
    """B of the module docstring for each strength, a regression on at most :data:`NEAR` items for every item.

    The same items serve all strengths: those of the strength ``at``. Memory is that of the pairs that somebody took,
    time that of ``NEAR`` cubed an item and strength.
    """
    gram = (matrix.T @ matrix).tocsr()
    gram.sort_indices()
    takers = gram.diagonal()
    parts: list[list[Array]] = [[] for _ in strengths]
    chosen = []
    for item in range(gram.shape[0]):
        line = slice(gram.indptr[item], gram.indptr[item + 1])
        near, both = gram.indices[line], gram.data[line]
        other = near != item
        near, both = near[other], both[other]
        if len(near) > NEAR:
            most = np.argpartition(-(both**2) / (takers[near] + at), NEAR)[:NEAR]
            most.sort()
            near, both = near[most], both[most]
        chosen.append(near)
        square = gram[near][:, near].toarray() if len(near) else np.zeros((0, 0), dtype=np.float32)
        for part, strength in zip(parts, strengths, strict=True):
            part.append(_ridge(square, both, strength))
    indices, ends = np.concatenate(chosen), np.cumsum([0, *map(len, chosen)])
    return [sparse.csc_matrix((np.concatenate(part), indices, ends), shape=gram.shape).tocsr() for part in parts]


def _ridge(square: Array, right: Array, strength: float) -> Array:
    """(square + strength I)^-1 right, float32 [n]."""
    if not len(right):
        return right
    shifted = square + np.float32(strength) * np.eye(len(right), dtype=np.float32)
    _, found, failed = lapack.sposv(shifted, right, overwrite_a=1)
    if failed:
        raise _too_small(strength)
    return found


def _too_small(strength: float) -> DataError:
    return DataError(f"references.ease_lambda = {strength} is too small for this data in float32")


def inverse_of(gram: sparse.csr_matrix, strength: float) -> Array:
    """(gram + strength I)^-1, float32 [n, n], exactly symmetric; one matrix of that size is all the memory it needs.

    Raises
    ------
    DataError
        Not positive definite in float32: the strength is too small.
    """
    full = gram.toarray(order="F")
    full[np.diag_indices(len(full))] += np.float32(strength)
    # LAPACK through SciPy works in place; torch.cholesky_inverse holds three copies
    factor, failed = lapack.spotrf(full, lower=1, overwrite_a=1, clean=0)
    if failed:
        raise _too_small(strength)
    inverse: Array = lapack.spotri(factor, lower=1, overwrite_c=1)[0].T  # C order, the upper triangle is filled
    _mirror(inverse)
    return inverse


def _upper(size: int) -> Array:
    """Which entries of a square matrix lie on its diagonal or above, bool [size, size]."""
    return np.tri(size, dtype=bool).T


def _mirror(matrix: Array, block: int = 1024) -> None:
    """Copy the upper triangle to the lower one, in place."""
    for start in range(0, len(matrix), block):
        end = min(start + block, len(matrix))
        square = np.triu(matrix[start:end, start:end])
        matrix[start:end, start:end] = square + np.triu(square, 1).T
        matrix[end:, start:end] = matrix[start:end, end:].T


def _diagonal_by_users(x: sparse.csr_matrix, inverse: Array) -> Array:
    """lambda P_jj = 1 - x_j^T M x_j of every item: the sum of M over the pairs of users who took it."""
    by_item = x.tocsc()
    parts = np.split(by_item.indices, by_item.indptr[1:-1])
    return np.array([1.0 - inverse[np.ix_(at, at)].sum(dtype=np.float64) for at in parts]).astype(np.float32)
