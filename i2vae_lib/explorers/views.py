"""What the explorers show, as tables: a user taken apart, a pair, runs beside each other, a sweep.

No widget comes here: every function works in a script, and :mod:`.explorers.widgets` is a thin shell over them.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from i2vae_lib import stages
from i2vae_lib.data import statistics
from i2vae_lib.data.batches import Side
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, PAD, SPLITS, Array, Rows, popularity
from i2vae_lib.disentanglement import measures
from i2vae_lib.explorers.contents import sweep_files
from i2vae_lib.model.i2vae import ROLES, Draws, Latents, latent_name
from i2vae_lib.model.latents import kl
from i2vae_lib.places import Refusal, suggestion
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.recommenders.positions import drop_evidence
from i2vae_lib.results import inspection
from i2vae_lib.runs import read_record

# --- a user -----------------------------------------------------------------------------------------------------------

STATES = ("on", "off", "swapped")


@dataclass(frozen=True)
class Switches:
    """Which latents speak: ``on``, ``off`` (0, as for a row that has none) or ``swapped`` for a partner's.

    ``evidence``: whether counts enter the item scores, where the model has them (``model.positions`` = every).

    Raises
    ------
    ValueError
        Another state.
    """

    specific: str = "on"
    transferable: str = "on"
    augmented: str = "on"
    evidence: bool = True

    def __post_init__(self) -> None:
        for role in ROLES:
            if getattr(self, role) not in STATES:
                raise ValueError(f"{role} is {getattr(self, role)!r}; one of {', '.join(STATES)}")


@dataclass(frozen=True)
class _UserExplanation:
    """A row taken apart: all that does not depend on switches. Its histories ask for an item of either domain."""

    rows: Rows  # two: the row's histories asking for an item of X and of Y
    asked: str  # the domain that the row itself asks for
    recalled: tuple[Array, Array]  # pseudo-items and their scores, [2, n]
    sides: Mapping[str, Side]
    latents: Mapping[str, Latents]
    evident: bool  # whether there is any history; if not, popularity ranks

    @property
    def user(self) -> str:
        return str(self.rows.user[0])

    def target(self, domain: str) -> int:
        """The row's target as an item of a domain; 0 where that domain does not have it."""
        return int(self.rows.target[DOMAINS.index(domain)])

    def target_rank(self, scored: Mapping[str, Array]) -> float:
        """Rank of the target among all items that the user does not have; ties count half. nan: it is among those."""
        found = scored[self.asked]
        aim = found[self.target(self.asked) - 1]
        if not np.isfinite(aim):
            return float("nan")
        return float(1 + (found > aim).sum() + ((found == aim).sum() - 1) / 2)

    def history(self, domain: str) -> pd.DataFrame:
        """What the user took in a domain, most recent first, beside what was recalled there and its scores."""
        return inspection.side_by_side(self.rows, *self.recalled, DOMAINS.index(domain))


def rows_of(rows: Rows, user: str) -> Array:
    """Lines of a user's rows.

    Raises
    ------
    ValueError
        Nobody of that name; names who is near.
    """
    found: Array = np.flatnonzero(rows.user == user)
    if not len(found):
        near = difflib.get_close_matches(user, [str(one) for one in np.unique(rows.user)], n=1)
        raise Refusal(f"no row of user '{user}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    return found


def take_apart(recommender: I2VAERecommender, rows: Rows, line: int) -> _UserExplanation:
    """Infer the latents of one row, as if it asked for either domain. The target is only carried along."""
    own = rows.take(np.array([line, line]))
    targets = np.array([rows.take(np.array([line])).target_in(d)[0] for d in DOMAINS], dtype=np.int32)
    both = replace(own, domain=np.arange(len(DOMAINS), dtype=np.int8), target=targets)
    recalled = recommender.recall(both)
    found = {domain: (side, latents) for domain, side, latents in recommender.infer(both, recalled)}
    return _UserExplanation(
        both,
        DOMAINS[rows.domain[line]],
        recalled,
        {d: side for d, (side, _) in found.items()},
        {d: latents for d, (_, latents) in found.items()},
        bool(recommender.can_rank(both)[0]),
    )


@torch.no_grad()
def scores(
    recommender: I2VAERecommender, one: _UserExplanation, switches: Switches, partner: _UserExplanation | None = None
) -> dict[str, Array]:
    """Scores of every item of each domain, under switches: float32 [items]; -inf on what the user has already.

    Raises
    ------
    ValueError
        Something is swapped and there is no partner.
    """
    swapped = [role for role in ROLES if getattr(switches, role) == "swapped"]
    if swapped and partner is None:
        raise ValueError(f"{swapped[0]} is to be swapped: with whom?")
    found = {}
    for number, d in enumerate(DOMAINS):
        if one.evident:
            own, theirs = (recommender.model.draw(each.latents[d], None) for each in (one, partner or one))
            values, side = _switched(own, theirs, switches), one.sides[d]
            if not switches.evidence:
                side = drop_evidence(side)
            everything = torch.arange(1, recommender.sizes[d] + 1, device=recommender.device)[None]
            scored = recommender.scores_from(values, side, d, everything)[0].cpu().numpy().copy()
        else:
            scored = recommender.popularity[d][1:].astype(np.float32)
        # what was hidden to make the row cold is no candidate either, as in evaluation
        hidden = one.rows.excluded[number] if d == one.asked else np.zeros(0, dtype=np.int32)
        scored[np.append(one.rows.history[d][number], hidden) - 1] = -np.inf
        found[d] = scored
    return found


def _switched(own: Draws, theirs: Draws, switches: Switches) -> Draws:
    """Each latent as its switch says."""
    values = {}
    for role in ROLES:
        state = getattr(switches, role)
        value = getattr(theirs if state == "swapped" else own, role)
        values[role] = torch.zeros_like(value) if state == "off" else value
    return Draws(**values)


def first_items(
    one: _UserExplanation, scored: Mapping[str, Array], before: Mapping[str, Array], domain: str, k: int = 10
) -> pd.DataFrame:
    """The k best items of a domain.

    Parameters
    ----------
    scored, before
        :func:`scores` under the switches, and with everything on.

    Returns
    -------
    DataFrame
        ``place`` (from 1), ``item`` (title or id), ``score``, ``before`` (place with everything on), ``note``
        ("target", "recalled": the generator recalled it).
    """
    order = np.argsort(-scored[domain], kind="stable")[:k]
    order = order[np.isfinite(scored[domain][order])]
    places = np.empty(len(before[domain]), dtype=np.int64)
    places[np.argsort(-before[domain], kind="stable")] = np.arange(1, len(places) + 1)
    pseudo = set(one.recalled[0][DOMAINS.index(domain)].tolist()) - {PAD}
    notes = [
        ", ".join(
            name for name, there in (("target", item == one.target(domain)), ("recalled", item in pseudo)) if there
        )
        for item in (order + 1).tolist()
    ]
    return pd.DataFrame(
        {
            "place": np.arange(1, len(order) + 1),
            "item": one.rows.catalogue.label(domain, order + 1),
            "score": scored[domain][order].round(2),
            "before": places[order],
            "note": notes,
        }
    )


def posteriors(recommender: I2VAERecommender, one: _UserExplanation) -> pd.DataFrame:
    """How much each latent knows of this user, a line per latent.

    Returns
    -------
    DataFrame
        ``domain`` (name of the target's), ``role``, ``latent`` (the paper's name), ``kl`` (to its prior, nats; nan: the
        row does not have it), ``width`` (mean standard deviation).
    """
    lines = []
    for d in DOMAINS:
        latents = one.latents[d]
        for role in ROLES:
            q, there = getattr(latents, role), bool(latents.has(role)[0])
            nats = float(kl(q, measures.prior_of(recommender, role, d, q))[0]) if there else np.nan
            width = float(q.log_variance[0].mul(0.5).exp().mean()) if there else np.nan
            lines.append((one.rows.catalogue.names[d], role, latent_name(role, d), nats, width))
    return pd.DataFrame(lines, columns=["domain", "role", "latent", "kl", "width"])


# --- a pair -----------------------------------------------------------------------------------------------------------


def chosen_rows(dataset: CrossDomainDataset, split: str, domain: str, kind: str = "all") -> Rows:
    """Rows of a split that ask for a domain and are of a kind (``Rows.kinds``)."""
    rows = dataset.splits[split]
    return rows.take(rows.kinds(dataset.tail[split])[kind] & (rows.domain == DOMAINS.index(domain)))


def lengths(rows: Rows) -> pd.DataFrame:
    """How many rows have a history of each length: ``history`` (own, other), ``length`` (items), ``rows``.

    The longest 5 % (of the longer ones of the two) stand together.
    """
    both = {side: rows.lengths(side) for side in ("own", "other")}
    most = max(1, *(int(np.quantile(found, 0.95)) for found in both.values())) if len(rows) else 1
    parts = []
    for side, found in both.items():
        counts = np.bincount(np.minimum(found, most), minlength=most + 1)
        labels = [*map(str, range(most)), f"{most}+"]
        parts.append(pd.DataFrame({"history": side, "length": labels, "rows": counts}))
    return pd.concat(parts, ignore_index=True)


def popularity_curve(dataset: CrossDomainDataset, points: int = 60) -> pd.DataFrame:
    """Users who took the item of a rank, in the training rows: ``domain`` (name), ``rank`` (1: most taken), ``users``.

    Ranks are spaced evenly on a logarithmic scale.
    """
    counts = popularity(dataset.splits["train"])
    curves = {dataset.catalogue.names[d]: statistics.popularity_curve(counts[d], points) for d in DOMAINS}
    return pd.concat(curves, names=["domain"]).reset_index("domain").reset_index(drop=True)


def overlap(dataset: CrossDomainDataset) -> pd.DataFrame:
    """Who has a history where: ``split, domain`` (name of the target's), ``rows``, and how many of them are ``both``,
    ``own only``, ``cold`` (other only), ``no history``."""
    lines = []
    for split in SPLITS:
        for d in DOMAINS:
            rows = chosen_rows(dataset, split, d)
            kinds = rows.kinds()
            alone = (rows.lengths("own") > 0) & ~kinds["overlapping"]
            parts = (kinds["overlapping"], alone, kinds["cold"], kinds["no_history"])
            lines.append((split, dataset.catalogue.names[d], len(rows), *(int(part.sum()) for part in parts)))
    return pd.DataFrame(lines, columns=["split", "domain", "rows", "both", "own only", "cold", "no history"])


def checks(record: Mapping[str, Any], split: str = "all", only: str = "all") -> pd.DataFrame:
    """The audit of a run's record by split, and ``all`` of it, the ``leaks`` it looks for or what it ``found``.

    What is of no split, the catalogue's checks, stands with each.
    """
    table = pd.DataFrame(record["audit"])
    if split != "all":
        table = table[table["split"].isin([split, "catalogue"])]
    if only == "leaks":
        table = table[table["severity"] == "leak"]
    if only == "found":
        table = table[table["count"] > 0]
    return table.assign(share=(100 * table["share"]).round(2)).rename(columns={"share": "per cent"})


# --- runs -------------------------------------------------------------------------------------------------------------


def curves(runs: Mapping[str, Path], column: str = "ndcg@10") -> pd.DataFrame:
    """A column of the histories of runs, as far as they are: ``run`` (and its stage, of several), ``epoch, value``.

    Raises
    ------
    ValueError
        No run has such a column; names the nearest.
    """
    histories = {name: stages.history_so_far(folder) for name, folder in runs.items()}
    known = _columns(histories)
    if column not in known and any(len(one) for one in histories.values()):
        raise Refusal(f"no run has a column '{column}'{suggestion(column, known)}")
    parts = [
        pd.DataFrame({"run": _staged(name, one), "epoch": one["epoch"], "value": one[column]}).dropna()
        for name, one in histories.items()
        if column in one
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["run", "epoch", "value"])


def _staged(name: str, history: pd.DataFrame) -> list[str]:
    """A run's name for each line of its history, with the stage where it is trained in several."""
    if "stage" not in history:
        return [name] * len(history)
    return [f"{name}, stage {stage:.0f}" for stage in history["stage"]]


def columns(runs: Mapping[str, Path]) -> list[str]:
    """What may be drawn of runs over epochs: validation first, then as recorded."""
    return _columns({name: stages.history_so_far(folder) for name, folder in runs.items()})


def _columns(histories: Mapping[str, pd.DataFrame]) -> list[str]:
    found = dict.fromkeys(
        str(one) for history in histories.values() for one in history if one not in ("epoch", "stage")
    )
    return sorted(found, key=lambda one: (one != "ndcg@10", not one.startswith("ndcg")))


def progress(runs: Mapping[str, Path]) -> pd.DataFrame:
    """Where runs stand, or their last stages where they are trained in several.

    Returns
    -------
    DataFrame
        ``run``; ``state``: done, training (it has a checkpoint; it may also have been stopped) or not begun; ``epoch``;
        ``of``: at most; ``best`` (epoch) and its ``ndcg@10`` on validation rows; ``minutes left`` of this stage at
        most (patience, or a warm-up's own number of epochs, may end it earlier).
    """
    lines = []
    for name, folder in runs.items():
        record, history = read_record(folder), stages.history_so_far(folder)
        done = (Path(folder) / "history.parquet").is_file()
        if "stage" in history:
            history = history[history["stage"] == history["stage"].max()]
        most = int(record["parameters"]["training"]["epochs"])
        line: dict[str, Any] = {"run": name, "state": "done" if done else "training" if len(history) else "not begun"}
        line |= {"epoch": len(history), "of": most}
        if len(history):
            best = history.iloc[int(history["ndcg@10"].argmax())]
            seconds = history["seconds"].mean() + history["validation seconds"].mean()
            line |= {"best": int(best["epoch"]), "ndcg@10": round(float(best["ndcg@10"]), 4)}
            line["minutes left"] = 0.0 if done else round((most - len(history)) * float(seconds) / 60, 1)
        lines.append(line)
    return pd.DataFrame(lines, columns=["run", "state", "epoch", "of", "best", "ndcg@10", "minutes left"])


# --- a sweep ----------------------------------------------------------------------------------------------------------


def sweep_tables(folder: Path | str) -> dict[str, pd.DataFrame]:
    """The tidy tables that a sweep's folder holds, or a file that is one, by name.

    Raises
    ------
    LayoutError
        None there.
    """
    return {name: pd.read_csv(path) for name, path in sweep_files(folder).items()}


def axes(table: pd.DataFrame) -> list[str]:
    """What a sweep's table varies: the row and the keys, where they have more than one value."""
    names = [str(one) for one in table.columns]
    keys = ["row", *names[names.index("row") + 1 : names.index("seed")]]
    return [key for key in keys if table[key].nunique() > 1]


def cells(
    table: pd.DataFrame, x: str, y: str | None, metric: str, domain: str, kind: str, recommender: str = "i2vae"
) -> pd.DataFrame:
    """A metric over one or two axes of a sweep, over whatever else it varies.

    Hand in the lines of one grid where grids hold other things fixed: their mean would be no curve of either.

    Returns
    -------
    DataFrame
        A line per pair of values: ``x``, ``y`` (where given), ``value`` (mean, per cent; nan: missing), ``sd`` (points,
        over seeds and what else varies), ``runs`` (how many).
    """
    wanted = {"metric": metric, "domain": domain, "kind": kind, "recommender": recommender}
    if "candidates" in table:
        wanted["candidates"] = "sampled"
    own = table[np.logical_and.reduce([table[key] == value for key, value in wanted.items()])]
    place = [x] if y is None else [x, y]
    own = own.dropna(subset=place).drop_duplicates([*place, "run"])  # a run may stand in several grids
    own = own.assign(value=100 * own["value"])
    found = own.groupby(place, sort=True)["value"].agg(value="mean", sd="std", runs="size").reset_index()
    every = table[place].dropna().drop_duplicates()
    return (
        every.merge(found, on=place, how="left")
        .fillna({"runs": 0})
        .astype({"runs": int})
        .sort_values(place, ignore_index=True)
    )
