"""Controls of the robustness studies: overlap ratio K_o and density D_s (``docs/evaluation.md``).

Both act before anything is learnt. A hash decides which users and events stay, so that a smaller ratio keeps a subset
of what a larger one keeps, and the input's order changes nothing.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from i2vae_lib.data.rows import DOMAINS, ONLY, Array, Rows, belongs, hashed, joined, mixed, other
from i2vae_lib.data.splitting import by_hash, raw_rows
from i2vae_lib.parameter_groups import ControlParameters


def control(splits: Mapping[str, Rows], p: ControlParameters, data_seed: int) -> tuple[dict[str, Rows], dict[str, int]]:
    """Apply D_s to every split and K_o to the training rows.

    Returns
    -------
    splits, removed
        The rows, and what was removed -> count.
    """
    kept, removed = dict(splits), {}
    if p.density < 1:
        for split, rows in splits.items():
            kept[split], removed[f"events thinned from {split} histories"] = _thin(rows, p.density, data_seed)
    if p.overlap < 1:
        chosen = _unlinked_users(kept["train"], p.overlap, data_seed)
        what = f"overlapping training users ({p.overlap_mode})"
        removed[what] = len(chosen)
        at = belongs(kept["train"].user, chosen)
        kept["train"] = kept["train"].take(~at) if p.overlap_mode == "drop" else detach(kept["train"], at)
    return kept, removed


def _thin(rows: Rows, density: float, data_seed: int) -> tuple[Rows, int]:
    """D_s: keep each interaction with probability ``density``, never touching a target.

    An interaction (user, domain, item) in two rows of a user is kept in both or removed from both.

    Returns
    -------
    rows, count
        The rows, and how many events were removed.
    """
    user_keys = hashed(rows.user, "density", data_seed)
    histories, gone = {}, 0
    for d, history in rows.history.items():
        item_keys = hashed(rows.catalogue.ids[d], "density", d)
        kept = mixed(user_keys[history.owner], item_keys[history.values - 1]) / 2.0**64 < density
        histories[d] = history.keep(kept)
        gone += int((~kept).sum())
    return replace(rows, history=histories), gone


def _unlinked_users(train: Rows, overlap: float, data_seed: int) -> Array:
    """K_o: the overlapping training users that are *not* kept as such, object array."""
    present = {d: set(train.user[(train.history[d].lengths > 0) | (train.domain == i)]) for i, d in enumerate(DOMAINS)}
    users = np.array(sorted(present["x"] & present["y"]), dtype=object)
    return by_hash(users, "overlap", data_seed)[round(overlap * len(users)) :]


def detach(train: Rows, at: Array) -> Rows:
    """K_o, mode ``detach``: each user of the rows ``at`` becomes two one-domain users, who keep what they took.

    A row keeps its own history under a new user name. A user without a row in the other domain gets one, made of the
    history there: its last item is the target.
    """
    picked = np.flatnonzero(at)
    # in a domain without rows of the user, the user's longest history becomes a row
    has_row = {d: train.user[train.of(d)] for d in DOMAINS}
    extra: list[Rows] = []
    for i, d in enumerate(DOMAINS):
        lengths = train.history[d].lengths[picked]
        candidates = picked[(lengths > 0) & (train.domain[picked] != i) & ~belongs(train.user[picked], has_row[d])]
        if not len(candidates):
            continue
        order = np.lexsort((-train.history[d].lengths[candidates], train.user[candidates].astype(str)))
        first = np.unique(train.user[candidates[order]].astype(str), return_index=True)[1]
        part = train.take(candidates[order][first])
        whole = {d: part.history[d], other(d): part.history[d].recent(0)}
        made = raw_rows(part.catalogue, _named(part, d), np.full(len(part), i), whole, part.source)
        times = part.history[d].moments
        extra.append(replace(made, moment=None if times is None else times[part.history[d].offsets[1:] - 1]))
    histories, names = dict(train.history), train.user.copy()
    for i, d in enumerate(DOMAINS):
        own = at & (train.domain == i)
        names[own] = _named(train.take(own), d)
        histories[d] = train.history[d].emptied(at & ~own)
    return joined([replace(train, user=names, history=histories), *extra])


def _named(rows: Rows, d: str) -> Array:
    return np.array([f"{user}{ONLY.format(rows.catalogue.names[d])}" for user in rows.user], dtype=object)
