"""Item vectors that are known without any user: given, or made of the items' titles.

Training may start from them instead of at random (``model.start`` = given or titles). Vectors longer than d are
reduced to d by a truncated singular value decomposition, V S of the d largest singular values, which keeps dot
products as well as d dimensions can. They are scaled to a mean squared norm of 1; unknown items have zeros.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.linalg import svds

from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, DataError, listed
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.params import ParameterError
from i2vae_lib.runs import reading, write_atomically


def title_vectors(catalogue: Catalogue, d: int) -> Array:
    """Item vectors from the words of titles, weighted by tf-idf: float32 [unified items, d].

    A word is a run of letters or digits, in lower case; words of a single title link it to no other and do not count.

    Raises
    ------
    ParameterError
        No item of the pair has a title.
    """
    unified = Unified(catalogue)
    titles = np.full(unified.size, "", dtype=object)
    for domain in DOMAINS:
        known = catalogue.titles[domain]
        if known is not None:
            titles[unified.of[domain][1:]] = np.asarray(known, dtype=object).astype(str)
    words = pd.Series(titles).str.lower().str.findall(r"\w+").explode().dropna().reset_index()
    words.columns = pd.Index(["item", "word"])
    counted = words.value_counts().reset_index()
    counted["titles"] = counted.groupby("word")["item"].transform("size")
    counted = counted[counted["titles"] > 1].sort_values(["item", "word"])  # one order on every machine
    if counted.empty:
        raise ParameterError("'model.start': titles, but no two items of this pair share a word of a title")
    weight = (1 + np.log(counted["count"])) * np.log(unified.size / counted["titles"])
    code = pd.factorize(counted["word"])[0]
    table = sparse.csr_matrix((weight, (counted["item"], code)), shape=(unified.size, int(code.max()) + 1))
    lengths = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel())
    return _of_width(sparse.diags(1 / np.maximum(lengths, 1e-12)) @ table, d)


def given_vectors(path: Path | str, catalogue: Catalogue, d: int) -> Array:
    """Item vectors from a Parquet file with columns ``domain``, ``item`` (id), ``vector``: float32 [unified items, d].

    Items that the file lacks have zeros; items that the catalogue lacks are ignored. For an item of both domains the
    vector of the domain that comes last in the file counts.

    Raises
    ------
    DataError
        Vectors of different lengths, or not finite; no item of the catalogue among them.
    """
    if not Path(path).is_file():
        raise DataError(f"'model.vectors': no file {path}")
    with reading(Path(path), "give another"):
        table = pd.read_parquet(path)
    if missing := [name for name in ("domain", "item", "vector") if name not in table]:
        raise DataError(f"{path}: {listed('column', missing)} missing; it needs domain, item and vector")
    lengths = table["vector"].map(len).unique()
    if len(lengths) != 1:
        raise DataError(f"{path}: vectors of {' and '.join(map(str, sorted(lengths)))} numbers; all need equally many")
    vectors = np.stack(table["vector"].tolist()).astype(np.float64)
    if not np.isfinite(vectors).all():
        at = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise DataError(f"{path}: the vector of {table['item'].iloc[at]!r} is not finite")
    unified = Unified(catalogue)
    by_item = np.zeros((unified.size, vectors.shape[1]))
    for name, part in table.groupby("domain", sort=False):
        domain = catalogue.key(str(name))
        numbers = catalogue.numbers(domain, part["item"].tolist())
        known = numbers > 0
        by_item[unified.of[domain][numbers[known]]] = vectors[part.index[known]]
    if not by_item.any():
        raise DataError(f"{path}: none of its {len(table):,} items is an item of this pair")
    return _of_width(sparse.csr_matrix(by_item), d)


def write_vectors(vectors: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Write what :func:`given_vectors` reads: domain -> DataFrame, items as index, one column per dimension."""
    if not isinstance(vectors, Mapping):
        raise DataError(f"item_vectors is a {type(vectors).__name__}: expected DataFrames by domain")
    if not vectors:
        raise DataError("item_vectors names no domain: give a DataFrame for one at least, or leave it out")
    for name, own in vectors.items():
        if not isinstance(own, pd.DataFrame) or not all(map(pd.api.types.is_numeric_dtype, own.dtypes)):
            raise DataError(f"item_vectors of {name}: expected a DataFrame of numbers, items as index")
        if (twice := own.index[own.index.duplicated()]).size:
            raise DataError(f"item_vectors of {name}: item {twice[0]} stands twice; one vector per item")
        if odd := [one for one in own.index if isinstance(one, str) and not _encodable(one)]:
            raise DataError(f"item_vectors of {name}: item {odd[0]!r} is no Unicode text")
    tables = [
        pd.DataFrame({"domain": name, "item": own.index.astype(str), "vector": list(own.to_numpy(dtype=np.float64))})
        for name, own in vectors.items()
    ]
    whole = pd.concat(tables, ignore_index=True)
    write_atomically(path, lambda part: whole.to_parquet(part, index=False))


def _encodable(text: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in text)


def _of_width(table: sparse.csr_matrix, d: int) -> Array:
    """Reduce a table [n, w] to float32 [n, d] that nearly keeps its dot products, at a mean squared norm of 1."""
    wide = np.zeros((table.shape[0], d), dtype=np.float32)
    if table.shape[1] <= d:
        reduced = table.toarray()
    elif table.shape[0] <= d:
        left, values, _ = np.linalg.svd(table.toarray(), full_matrices=False)
        reduced = left * values
    else:
        left, values, _ = svds(table.astype(np.float64), k=d, v0=np.ones(min(table.shape)))
        reduced = (left * values)[:, ::-1]
    reduced = reduced / max(np.sqrt(np.square(reduced).sum(axis=1).mean()), np.finfo(np.float64).tiny)
    wide[:, : reduced.shape[1]] = reduced
    return wide
