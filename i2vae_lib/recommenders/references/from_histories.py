"""What ItemKNN, EASE and ordered counts share: scores from a row's items, the fall-back to popularity, and how their
settings are chosen on validation rows.

**The choice.** By sampled NDCG@10, mean of the two domains, among grids that extend themselves (:func:`search`): a
choice at the edge of its grid says that the grid was too small.

**The fall-back.** Evidence s(j) of a candidate may be positive, zero (nothing speaks for or against it) or negative.
With p(j) in [0, 1) its popularity (:func:`share`) and two small constants,

    s > 0    s (1 + NUDGE p)
    s = 0    FLOOR (p - 1)
    s < 0    s (1 - NUDGE p) - FLOOR

so positive evidence always stands above none and none above negative; candidates without evidence are in order of
popularity, and so are those of equal evidence. Evidence that agrees to about NUDGE, relative, counts as equal: sums
of the same terms in another order differ by some 1e-7, and a step of popularity has to be visible in float32.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Rows, batched, popularity
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.params import Parameters
from i2vae_lib.progress import bar
from i2vae_lib.recommenders import REGISTRY, contract
from i2vae_lib.recommenders.references.popularity import Popularity

NUDGE = 1e-4
FLOOR = 1e-6
CHUNK = 512  # rows scored at once: a dense line of items (EASE: and of users) for each
_STEPS = 3  # how often a grid extends itself at most
_SWEEPS = 2  # how often a search by turns goes through its turns at most

Setting = dict[str, Any]


def share(counts: Mapping[str, Array]) -> dict[str, Array]:
    """Popularity in [0, 1) by domain, ascending in the counts: log(1 + c) / log(2 + max c).

    Logarithmic, because most items have small counts and the steps between those should survive rounding.
    """
    return {d: np.log1p(one) / np.log1p(one.max(initial=0) + 1) for d, one in counts.items()}


def fall_back(evidence: Array, popular: Array) -> Array:
    """Evidence and popularity as one float32 score, as the module docstring has it."""
    nudged = evidence * (1 + NUDGE * np.sign(evidence) * popular)
    scores = np.where(evidence == 0, FLOOR * (popular - 1), nudged - FLOOR * (evidence < 0))
    return scores.astype(np.float32)


@dataclass(frozen=True)
class Axis:
    """A setting and the grid of its values, none negative.

    Attributes
    ----------
    bounds
        Values beyond which there is nothing: no edge of the grid, and no step leads past one.
    zero_is_all
        0 stands for "all", above every other value; the values are whole numbers.
    """

    name: str
    values: tuple[float, ...]
    bounds: tuple[float, ...] = (0,)
    zero_is_all: bool = False

    def beyond(self, values: Sequence[float], chosen: float) -> float | None:
        """What a grid of these values lacks if the best of it is ``chosen``: a value one step out, by the ratio of the
        last two; None where ``chosen`` is no edge, or where a grid of one value says that nothing is to be chosen."""
        ordered = sorted(values, key=lambda value: math.inf if self.zero_is_all and value == 0 else value)
        positive = [value for value in ordered if value > 0]
        if chosen in self.bounds or chosen not in (ordered[0], ordered[-1]) or len(positive) < 2:
            return None
        before = positive[1] if chosen == ordered[0] else positive[-2]
        found = float(f"{chosen * chosen / before:.6g}")
        if self.zero_is_all:
            found = max(1, round(found))
        crossed = [bound for bound in self.bounds if min(chosen, found) < bound < max(chosen, found)]
        found = crossed[0] if crossed else found
        return None if found in values else found


def search(turns: Sequence[Sequence[Axis]], value_of: Callable[[Setting], float]) -> Setting:
    """The best setting of a search by turns, with its grids extended where the best lies at an edge.

    A turn tries all combinations of its axes' values, the other axes at their best so far (at first the middle of
    their grids). While the best lies at the edge of a grid, the grid gets one value more there, at most :data:`_STEPS`.
    The turns are gone through again until nothing changes, :data:`_SWEEPS` times at most.

    Parameters
    ----------
    value_of
        Higher is better; of equals the first that was tried stays. Asked once a setting.

    Returns
    -------
    dict
        The best setting, and of the search ``extended``: axis -> values added to its grid; ``at_edge``: axes whose best
        lies at an edge still.
    """
    axes = {axis.name: axis for turn in turns for axis in turn}
    values = {name: list(axis.values) for name, axis in axes.items()}
    best: Setting = {name: one[len(one) // 2] for name, one in values.items()}
    known: dict[tuple[float, ...], float] = {}

    def beyond(name: str) -> float | None:
        return axes[name].beyond(values[name], best[name])

    for _ in range(_SWEEPS):
        before = best
        for turn in turns:
            names = [axis.name for axis in turn]
            while True:
                for point in product(*(values[name] for name in names)):
                    setting = best | dict(zip(names, point, strict=True))
                    key = tuple(setting.values())
                    if key not in known:
                        known[key] = value_of(setting)
                best = dict(zip(best, max(known.items(), key=lambda one: one[1])[0], strict=True))
                room = [name for name in names if len(values[name]) < len(axes[name].values) + _STEPS]
                more = [(name, value) for name in room if (value := beyond(name)) is not None]
                if not more:
                    break
                for name, value in more:
                    values[name].append(value)
        if best == before:
            break
    added = {name: one[len(axes[name].values) :] for name, one in values.items()}
    extended = {name: one for name, one in added.items() if one}
    return best | {"extended": extended, "at_edge": [name for name in axes if beyond(name) is not None]}


def extensions(chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the searches of rankers (by name, as ``run.json`` has them) say of their grids: a sentence an axis."""
    return [
        f"{REGISTRY[name].title}: the grid of {axis.replace('_', ' ')} extended itself to "
        f"{', '.join(f'{value:g}' for value in added)}; "
        f"{one[axis]:g} was chosen{', at its edge still' if axis in one['at_edge'] else ''}"
        for name, one in chosen.items()
        for axis, added in one["extended"].items()
    ]


class FromHistories(Popularity):
    """A recommender whose scores are a function of a row's histories, and whose settings validation chooses.

    Attributes
    ----------
    chosen
        After :meth:`learn`: the settings that validation chose, their ``validation NDCG@10`` (sampled, mean of the
        domains), under ``grid`` the same of everything that was tried, and what :func:`search` says of the grids.
        Saved with the model.
    """

    def __init__(self, catalogue: Catalogue):
        super().__init__(catalogue)
        self.unified = Unified(catalogue)

    def learn(self, train: Rows, validation: Rows, params: Parameters) -> None:
        """Learn from ``train`` under settings of ``params.references``; the best on ``validation`` stays."""
        self.counts = popularity(train)
        negatives = sample_negatives(validation, params.evaluation.negatives, params.split.data_seed)
        turns, learn = self.choices(train, params)
        tried: list[Setting] = []
        best, kept = -1.0, dict[str, Array]()

        def validated(setting: Setting) -> float:
            nonlocal best, kept
            facts = learn(setting)
            ranks = rank(self, validation, negatives, full=False, batch_size=params.evaluation.batch_size)
            value = selection_metric(ranks, validation)["ndcg@10"]
            tried.append(setting | facts | {"validation NDCG@10": value})
            if value > best:  # of equals the first
                best, kept, self.chosen = value, self.arrays(), dict(tried[-1])
            progress.update()
            return value

        progress = bar(self.name, None, "setting", leave=False)
        found = search(turns, validated)
        progress.close()
        self.restore(kept)
        self.chosen |= {"grid": tried, "extended": found["extended"], "at_edge": found["at_edge"]}

    @abstractmethod
    def choices(self, train: Rows, params: Parameters) -> tuple[list[list[Axis]], Callable[[Setting], Setting]]:
        """What there is to choose, as turns of :func:`search`, and a function that learns from ``train`` under one
        setting (then :meth:`evidence` is ready) and returns what else is to be recorded of it."""

    @abstractmethod
    def evidence(self, rows: Rows, domain: str) -> Array:
        """What the histories of rows say of each item of ``domain``: float [rows, n]; 0 says nothing."""

    @abstractmethod
    def foreign_counts(self, train: Rows) -> Array:
        """What was learnt and is not what these training rows give, counted by unified item: int64 [n] (the audit)."""

    def score(self, rows: Rows, candidates: Array) -> Array:
        """Evidence, with popularity where there is none (module docstring)."""
        contract.check_candidates(rows, candidates)
        scores = contract.gather(self.counts, rows, candidates)
        popular = share(self.counts)
        told = ~contract.without_evidence(rows)
        for d in DOMAINS:
            positions = np.flatnonzero(told & (rows.domain == DOMAINS.index(d)))
            for at in batched(positions, CHUNK):
                wanted = candidates[at].astype(np.int64)
                found = self.evidence(rows.take(at), d)
                scores[at] = fall_back(np.take_along_axis(found, wanted - 1, axis=1), popular[d][wanted])
        return scores
