"""Recent popularity: how many users took an item shortly before the moment that a row asks at.

What a system that knows the time of a question, and nothing of who asks, would show: recent takers
(:mod:`i2vae_lib.recency`) by one half-life, which is chosen on the validation rows of the pair at hand. Where the data
have no common time nothing is recent, and the ranking is that of popularity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from i2vae_lib.data.dataset import DOMAINS, Int, Rows
from i2vae_lib.params import Parameters
from i2vae_lib.recency import RecentTakers
from i2vae_lib.recommenders.neighbours import Axis, FromHistories, Setting


class RecentPopularity(FromHistories):
    """Ranks by recent takers, those without any by popularity."""

    name = "recent_popularity"

    recent: RecentTakers

    def choices(self, train: Rows, params: Parameters) -> tuple[list[list[Axis]], Callable[[Setting], Setting]]:
        def learn(setting: Setting) -> Setting:
            self.half_life = setting["half_life"]
            self.recent = RecentTakers.fit(train, [self.half_life])
            return {}

        return [[Axis("half_life", params.references.half_life, (0, 1))]], learn

    def evidence(self, rows: Rows, domain: str) -> Int:
        found: Int = self.recent.counts[domain][self.recent.at(rows), 0]
        return found

    def apart(self, train: Rows) -> Int:
        found = np.zeros(self.unified.size, dtype=np.int64)
        for d, one in self.recent.apart(train, [self.half_life]).items():
            np.add.at(found, self.unified.of[d][1:], one)
        return found

    def arrays(self) -> dict[str, Int]:
        counts = {f"recent/{d}": self.recent.counts[d] for d in DOMAINS}
        return counts | {"edges": self.recent.edges, "half_life": np.array([self.half_life])}

    def restore(self, arrays: Mapping[str, Int]) -> None:
        self.half_life = float(arrays["half_life"][0])
        self.recent = RecentTakers(arrays["edges"], {d: arrays[f"recent/{d}"] for d in DOMAINS})
