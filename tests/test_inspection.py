"""The counts of a copy path as a ranker."""

from __future__ import annotations

import numpy as np

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.inspection import CountsAlone
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import ItemKNN
from i2vae_lib.training import Callbacks
from tests.conftest import TINY


def test_counts_alone_when_sequences_are_bags_are_itemknn(dataset: CrossDomainDataset) -> None:
    p: Parameters = load("smoke", TINY | {"references.neighbours": [0], "references.shrinkage": [10.0]})
    train, rows = dataset.splits["train"], dataset.splits["test"]
    knn = ItemKNN.unfitted(dataset.catalogue).fit(
        train,
        dataset.splits["validation"],
        params=p,
        generator=None,
        rng=np.random.default_rng(0),
        callbacks=Callbacks(),
    )
    everything = np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))
    alone = CountsAlone(train, p.psg.model_copy(update={"shrinkage": 10.0}))
    np.testing.assert_allclose(alone.score(rows, everything), knn.score(rows, everything), rtol=1e-4, atol=1e-7)
