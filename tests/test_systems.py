"""What each registered system makes of order and of cold rows. A new system is one line in ``ORDER_MATTERS``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows, other, popularity
from i2vae_lib.generators import psg
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import SYSTEMS
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import fitted

# name -> whether the order of a history may change its scores (and does)
ORDER_MATTERS = {
    "i2vae": True,
    "multivae-s": False,
    "multivae-m": False,
    "svae-s": True,
    "svae-m": True,
    "sasrec-bce-s": True,
    "sasrec-bce-m": True,
    "sasrec-ce-s": True,
    "sasrec-ce-m": True,
    "esasrec-s": True,
    "esasrec-m": True,
    "abxi": True,
    "slist-s": True,
    "slist-m": True,
    "tale-s": True,
    "tale-m": True,
    "stack-counts": True,
    "stack-ce": True,
    "lightgcn-s": False,
    "lightgcn-m": False,
    "emcdr": False,
    "pinet": True,
    "dasl": True,
    "c2dsr": True,
    "disencdr": False,
    "savae": False,
    "ravae": False,
    "cdrib": False,
}

AT_ONCE = {"slist-s", "slist-m", "tale-s", "tale-m", "stack-counts", "stack-ce"}
"""Systems whose last stage is no training by epochs: one line in the history, no checkpoint, made again when killed."""


def order_matters(name: str) -> bool:
    if name not in ORDER_MATTERS:
        pytest.fail(
            f"system {name!r} is registered, but ORDER_MATTERS in {__file__} does not say whether the order of a "
            f"history matters to it: add a line"
        )
    return ORDER_MATTERS[name]


@pytest.fixture(scope="module", params=list(SYSTEMS))
def system(
    request: pytest.FixtureRequest, dataset: CrossDomainDataset, tiny: Parameters, generator: psg.Generator
) -> Any:
    if request.param == "i2vae":
        return request.getfixturevalue("trained")
    return fitted(SYSTEMS[request.param](dataset.catalogue, tiny), dataset, tiny, generator)


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def turned_round(sequences: Ragged) -> Ragged:
    """Each sequence backwards."""
    return Ragged.from_lists([sequences[i][::-1] for i in range(len(sequences))])


def test_order_when_the_table_is_read() -> None:
    for name in SYSTEMS:
        order_matters(name)


def test_order_when_a_name_is_missing() -> None:
    with pytest.raises(pytest.fail.Exception, match="system 'no such thing' is registered, but ORDER_MATTERS"):
        order_matters("no such thing")


def test_score_when_histories_are_turned_round(system: Any, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    # one item at least stands elsewhere, in what even a system of one domain sees and T does not cut
    apart = [
        len(set(own.tolist())) > 1 for own in (rows.history[DOMAINS[d]][i][-10:] for i, d in enumerate(rows.domain))
    ]
    rows = rows.take(np.flatnonzero(apart))
    assert len(rows) > 60 and (rows.lengths("other") > 1).sum() > 10
    before = system.score(rows, everything(rows))
    backwards = replace(rows, history={d: turned_round(rows.history[d]) for d in DOMAINS})
    after = system.score(backwards, everything(rows))
    if order_matters(system.name):
        assert (np.abs(after - before).max(axis=1) > 1e-5).mean() > 0.9
    else:
        np.testing.assert_allclose(after, before, atol=1e-5, rtol=1e-5)


def test_score_when_other_histories_are_turned_round(system: Any, dataset: CrossDomainDataset) -> None:
    """Of cold rows: order reaches a system by the other history too."""
    rows = dataset.splits["test"]
    rows = rows.take(rows.kinds()["cold"] & (rows.lengths("other") > 1))
    assert len(rows) >= 3
    backwards = replace(rows, history={d: turned_round(rows.history[d]) for d in DOMAINS})
    difference = np.abs(system.score(backwards, everything(rows)) - system.score(rows, everything(rows))).max(axis=1)
    if order_matters(system.name) and not system.name.endswith("-s"):
        assert (difference > 1e-6).mean() > 0.8
    else:
        np.testing.assert_allclose(difference, 0.0, atol=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
def test_score_when_rows_are_cold(system: Any, dataset: CrossDomainDataset, domain: str) -> None:
    """Popularity's scores from a system of one domain; from any other what the other history says."""
    rows = dataset.splits["test"]
    rows = rows.take(np.intersect1d(rows.of(domain), np.flatnonzero(rows.kinds()["cold"])))
    scores = system.score(rows, everything(rows))
    counts = popularity(dataset.splits["train"])[domain][1:].astype(np.float32)
    if system.name.endswith("-s"):
        np.testing.assert_array_equal(scores, np.broadcast_to(counts, scores.shape))
        return
    histories = [frozenset(rows.history[other(domain)][i].tolist()) for i in range(len(rows))]
    at = [histories.index(one) for one in dict.fromkeys(histories)]  # one row each
    assert len(at) >= 3
    differing = np.abs(scores[at][:, None] - scores[at][None]).max(axis=2)
    assert (differing[~np.eye(len(at), dtype=bool)] > 1e-6).all()
    assert (np.abs(scores - counts).max(axis=1) > 1e-6).all()


def test_fit_when_killed_after_every_epoch(
    system: Any, dataset: CrossDomainDataset, tiny: Parameters, generator: psg.Generator, tmp_path: Path
) -> None:
    """Each stage goes on where it was: the same weights as without any interruption, to the bit."""
    seen: list[float] = []

    def stop(record: Mapping[str, float]) -> None:
        seen.append(record["epoch"])
        raise KeyboardInterrupt

    again = None
    while again is None:
        try:
            again = SYSTEMS[system.name](dataset.catalogue, tiny).fit(
                dataset.splits["train"],
                dataset.splits["validation"],
                params=tiny,
                generator=generator,
                rng=np.random.default_rng(0),
                callbacks=Callbacks(tmp_path / "last.ckpt", stop),
            )
        except KeyboardInterrupt:
            assert len(seen) <= 4
    at_once = system.name in AT_ONCE
    assert len(seen) + at_once == len(system.state.history) and len(seen) % 2 == 0  # two epochs a stage, none twice
    stages = len(seen) // 2
    assert seen == [1.0, 2.0] * stages and len(list(tmp_path.glob("*.ckpt"))) == stages
    system.save(tmp_path / "whole")
    again.save(tmp_path / "resumed")
    for path in (tmp_path / "whole").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "resumed" / path.relative_to(tmp_path / "whole")).read_bytes()
