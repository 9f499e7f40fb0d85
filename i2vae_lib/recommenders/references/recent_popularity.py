"""Recent popularity: how many users took an item shortly before the moment that a row asks at.

What a system that knows the time of a question, and nothing of who asks, would show: recent takers
(:mod:`.generators.recency`) by one half-life, which is chosen on the validation rows of the pair at hand. Where the
data have no common time nothing is recent, and the ranking is that of popularity.
"""

from collections.abc import Callable, Mapping

import numpy as np

from i2vae_lib.data.rows import Array, Rows
from i2vae_lib.generators.recency import RecentTakers
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.references.from_histories import Axis, FromHistories, Setting


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

    def evidence(self, rows: Rows, domain: str) -> Array:
        return self.recent.counts[domain][self.recent.at(rows), 0]

    def foreign_counts(self, train: Rows) -> Array:
        return self.unified.summed(self.recent.foreign_counts(train, [self.half_life]))

    def arrays(self) -> dict[str, Array]:
        return self.recent.arrays() | {"half_life": np.array([self.half_life])}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.half_life = float(arrays["half_life"][0])
        self.recent = RecentTakers.restore(arrays)
