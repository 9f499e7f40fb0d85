"""Folding in: vectors for rows whose user no training saw.

A system that learns one vector for each user has none for a user whom it meets only in evaluation. Its trained
parameters are frozen, and the row becomes a new user whose edges are that row's histories (i2VAE reads histories and
has no vectors of users, so it needs none of this):

- a graph system propagates once, with a zero layer-0 vector for the new user (:func:`propagated`);
- EMCDR takes the mean of the history's item vectors, and DASL that mean mapped to user space (:func:`mean_mapped`).

Only under ``temporal`` are evaluation users training users too, and they keep their trained vectors
(:func:`user_vectors`).

Edges are a binary matrix [rows, items] without padding: ``graphs.Unified(catalogue).histories(rows)`` for a graph over
both domains, ``graphs.binary(history.owner, history.values - 1, …)`` for one. A row without edges gets the zero vector
from every function here, exactly, and a row's vector depends on no other row. What a zero vector scores is a
constant; a recommender ranks such a row by popularity (``contract.without_evidence`` is the least that it must catch).

Departs: these rules for a newcomer's vector are the kit's own; none of the systems' papers has one.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from i2vae_lib.data.rows import Array, DataError, Rows
from i2vae_lib.generators import graphs


def propagated(edges: sparse.csr_matrix, table: Array) -> Array:
    """New users of a trained graph: one propagation, zero layer-0 vector, no effect on the items.

    ::

        u = 1 / (L + 1) sum_{l=0}^{L-1} sum_{i in H} e_i^l / sqrt(|H| deg(i)) = |H|^-1/2 sum_{i in H} fold_in_i

    (the mean over layers 0 … L of the new node, LightGCN's Eq. 8, its layer 0 being zero). |H| counts all edges,
    those to items that nobody in the graph took as well.

    Parameters
    ----------
    edges
        Binary [rows, items].
    table
        ``fold_in`` of :func:`i2vae_lib.generators.graphs.tables_of`, float32 [items, d]. Another linear propagation
        with weights w_l and normalisation c_i / sqrt(|H|) gives its own table: sum_l w_l c_i e_i^l.

    Returns
    -------
    float32 [rows, d]
    """
    _check(edges, table)
    return graphs.folded_in(edges, table)


def mean_mapped(edges: sparse.csr_matrix, item_vectors: Array, mapping: Array) -> Array:
    """New users of DASL: u = (1 / |H| sum_{i in H} v_i) M, the mean item vector mapped to user space.

    DASL (Li et al., KDD 2021) learns user and item vectors in two spaces and has no user vector for a newcomer. M is
    the recommender's to fit, after training and on training users: from their mean item vectors to their own.

    Parameters
    ----------
    edges
        Binary [rows, items].
    item_vectors
        float32 [items, d].
    mapping
        M, float32 [d, d_user].

    Returns
    -------
    float32 [rows, d_user]
    """
    _check(edges, item_vectors)
    if len(mapping) != item_vectors.shape[1]:
        raise DataError(f"the mapping is {mapping.shape}, but item vectors have {item_vectors.shape[1]} dimensions")
    count = np.maximum(edges.getnnz(axis=1), 1)
    return ((edges @ item_vectors) / count[:, None] @ mapping).astype(np.float32)


def user_vectors(rows: Rows, known: Sequence[str] | Array, table: Array, folded: Array) -> Array:
    """Each row's user vector under ``temporal``: the trained one of a known user, else the folded-in one.

    Under any other protocol an evaluation user may not have been a training user (the audit sees to it), and an id
    must change nothing: there the folded-in vectors are the users' vectors.

    Parameters
    ----------
    rows
        Only their users' ids are read, and which of them were made cold.
    known
        Ids of the training users, in the order of ``table``.
    table
        Trained user vectors, float32 [users, d].
    folded
        The rows' folded-in vectors, float32 [rows, d].

    Returns
    -------
    float32 [rows, d]
        New memory. A row that was made cold (validation) is folded in, whoever asks: its user has trained on what the
        row no longer shows.
    """
    if len(known) != len(table) or folded.shape != (len(rows), table.shape[1]):
        raise DataError(
            f"{len(known)} ids, {table.shape} trained vectors and {folded.shape} folded-in ones of {len(rows)} rows: "
            f"expected {(len(known), table.shape[1])} and {(len(rows), table.shape[1])}"
        )
    vectors: Array = folded.astype(np.float32)
    line = pd.Index(known, dtype=object).get_indexer(pd.Index(rows.user, dtype=object))
    # a row made cold shows nothing of what its user took there in training: the trained vector would
    line[(rows.lengths("own") == 0) & (rows.excluded.lengths > 0)] = -1
    vectors[line >= 0] = table[line[line >= 0]]
    return vectors


def _check(edges: sparse.csr_matrix, items: Array) -> None:
    """Refuse edges that are not binary or lead to other items than there are vectors of."""
    if edges.shape[1] != len(items):
        raise DataError(f"edges lead to {edges.shape[1]:,} items, but there are vectors of {len(items):,}")
    if edges.format != "csr" or not edges.has_canonical_format or (edges.data != 1).any():
        raise DataError("edges must be a binary CSR matrix, each pair once (graphs.binary makes one)")
