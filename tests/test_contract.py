"""What every recommender keeps. Another one is tested as soon as the registry has it."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vae_lib import evaluation
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.histories import encoded_lists, rows_asking
from i2vae_lib.data.rows import DOMAINS, Array, DataError, Ragged, Rows, other, popularity
from i2vae_lib.generators import psg
from i2vae_lib.params import Parameters, load, read_preset
from i2vae_lib.recommenders import REFERENCES, SYSTEMS, I2VAERecommender, Recommender
from i2vae_lib.runs import LayoutError
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY

# name -> an unfitted recommender of a catalogue
UNFITTED: dict[str, Callable[..., Any]] = {
    **SYSTEMS,
    **{name: (lambda catalogue, params, kind=kind: kind(catalogue)) for name, kind in REFERENCES.items()},
}


def fit(name: str, dataset: CrossDomainDataset, params: Parameters, generator: psg.Generator | None, seed: int) -> Any:
    return UNFITTED[name](dataset.catalogue, params).fit(
        dataset.splits["train"],
        dataset.splits["validation"],
        params=params,
        generator=generator,
        rng=np.random.default_rng(seed),
        callbacks=Callbacks(),
    )


@pytest.fixture(scope="module")
def recipe(tiny: Parameters) -> Parameters:
    """The tuned preset's departures in the tiny world."""
    chosen = {key: value for key, value in read_preset("tuned")["overrides"].items() if key != "model.d"}
    return load("smoke", TINY | chosen, epochs=2)


@pytest.fixture(scope="module", params=[*UNFITTED, "i2vae, tuned", "i2vae, released"])
def recommender(
    request: pytest.FixtureRequest, dataset: CrossDomainDataset, tiny: Parameters, generator: psg.Generator
) -> Any:
    if request.param == "i2vae":
        return request.getfixturevalue("trained")
    if request.param == "i2vae, tuned":
        params = request.getfixturevalue("recipe")
        return fit("i2vae", dataset, params, psg.fit(dataset.splits["train"], params.psg), 0)
    if request.param == "i2vae, released":
        return fit("i2vae", dataset, tiny, psg.fit(dataset.splits["train"], psg.as_published(tiny.psg)), 0)
    return fit(request.param, dataset, tiny, generator, 0)


@pytest.fixture(scope="module")
def rows(dataset: CrossDomainDataset) -> Rows:
    """Test rows: every kind in both domains."""
    rows = dataset.splits["test"]
    for d in DOMAINS:
        kinds = rows.take(rows.of(d)).kinds()
        assert all(kinds[kind].any() for kind in ("cold", "no_history", "overlapping"))
    return rows


@pytest.fixture(scope="module")
def candidates(rows: Rows) -> Array:
    return np.random.default_rng(0).integers(1, 121, (len(rows), 17)).astype(np.int32)


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- fit --------------------------------------------------------------------------------------------------------------


def test_fit_when_its_signature_is_read(recommender: Any) -> None:
    words = inspect.signature(recommender.fit).parameters
    assert list(words) == ["train", "validation", "params", "generator", "rng", "callbacks"]
    assert words.keys() == inspect.signature(Recommender.fit).parameters.keys() - {"self"}
    assert {words[name].kind for name in list(words)[2:]} == {inspect.Parameter.KEYWORD_ONLY}


def test_fit_when_the_seed_is_the_same(
    recommender: Any, dataset: CrossDomainDataset, tiny: Parameters, generator: psg.Generator, tmp_path: Path
) -> None:
    params = getattr(recommender, "params", tiny)
    again = fit(recommender.name, dataset, params, getattr(recommender, "generator", generator), 0)
    recommender.save(tmp_path / "first")
    again.save(tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert len(contents(tmp_path / "first")) >= 3


# --- score ------------------------------------------------------------------------------------------------------------


def test_score_when_rows_are_of_every_kind(recommender: Any, rows: Rows, candidates: Array) -> None:
    scores = recommender.score(rows, candidates)
    assert scores.shape == candidates.shape and scores.dtype == np.float32
    assert np.isfinite(scores).all() and (scores.std(axis=1) > 0).all()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bad", [0, -1, 121, 10_000])
def test_score_when_a_candidate_is_no_item(
    recommender: Any, rows: Rows, candidates: Array, bad: int, shared: bool
) -> None:
    assert recommender.catalogue.size("x") == recommender.catalogue.size("y") == 120
    wrong = candidates.copy()
    wrong[rows.of("x")[-1], 3] = bad
    if shared:
        wrong = np.broadcast_to(wrong[rows.of("x")[-1]], wrong.shape)
    with pytest.raises(DataError, match=r"must lie in 1…120") as error:
        recommender.score(rows, wrong)
    assert str(bad) in str(error.value)


def test_score_when_candidates_are_of_fewer_rows(recommender: Any, rows: Rows, candidates: Array) -> None:
    with pytest.raises(DataError, match=rf"{len(rows)} rows but candidates of shape"):
        recommender.score(rows, candidates[:-1])


def test_score_when_rows_come_one_at_a_time(recommender: Any, rows: Rows, candidates: Array) -> None:
    together = recommender.score(rows, candidates)
    alone = [recommender.score(rows.take(np.array([i])), candidates[[i]])[0] for i in range(len(rows))]
    np.testing.assert_allclose(np.array(alone), together, atol=1e-5, rtol=1e-5)


def test_score_when_candidates_are_broadcast(recommender: Any, rows: Rows) -> None:
    shared = everything(rows)
    assert shared.strides[0] == 0
    explicit = recommender.score(rows, np.ascontiguousarray(shared))
    np.testing.assert_allclose(recommender.score(rows, shared), explicit, atol=1e-5, rtol=1e-5)


def test_score_when_candidates_and_rows_are_permuted(recommender: Any, rows: Rows, candidates: Array) -> None:
    rng = np.random.default_rng(1)
    columns, order = rng.permutation(candidates.shape[1]), rng.permutation(len(rows))
    permuted = recommender.score(rows.take(order), candidates[order][:, columns])
    expected = recommender.score(rows, candidates)[order][:, columns]
    np.testing.assert_allclose(permuted, expected, atol=1e-5, rtol=1e-5)


def test_score_when_targets_and_what_follows_change(recommender: Any, rows: Rows, candidates: Array) -> None:
    blind = replace(
        rows,
        target=(rows.target % 120 + 1).astype(np.int32),
        source=rows.source[::-1].copy(),
        excluded=Ragged.from_lists([[] for _ in range(len(rows))]),
    )
    found, expected = recommender.score(blind, candidates), recommender.score(rows, candidates)
    generator = getattr(recommender, "generator", None)
    if generator is None or generator.p.recall_from == "history":
        np.testing.assert_array_equal(found, expected)
    else:  # protocol released alone: pseudo-sequences are recalled from targets too, the paper's way
        assert (found != expected).any(axis=1)[rows.kinds()["overlapping"]].mean() > 0.5


def test_score_when_there_is_no_history(
    recommender: Any, dataset: CrossDomainDataset, rows: Rows, candidates: Array
) -> None:
    counts = popularity(dataset.splits["train"])
    scores = recommender.score(rows, candidates)
    for row in np.flatnonzero(rows.kinds()["no_history"]):
        expected = counts[DOMAINS[rows.domain[row]]][candidates[row]]
        np.testing.assert_array_equal(scores[row], expected.astype(np.float32))


def test_score_when_weights_are_watched(recommender: Any, rows: Rows, tmp_path: Path) -> None:
    recommender.save(tmp_path / "before")
    evaluation.rank(recommender, rows, None, full=True, batch_size=64)
    recommender.recommend({"x": [[]], "y": [[]]}, "y", 3)
    recommender.save(tmp_path / "after")
    assert contents(tmp_path / "before") == contents(tmp_path / "after")


# --- save and load ----------------------------------------------------------------------------------------------------


def test_load_when_saved_before(recommender: Any, rows: Rows, candidates: Array, tmp_path: Path) -> None:
    recommender.save(tmp_path / "one")
    again = type(recommender).load(tmp_path / "one")
    again.save(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    np.testing.assert_array_equal(again.score(rows, candidates), recommender.score(rows, candidates))


ELSEWHERE = """
import json, pathlib, sys
import i2vae_lib.recommenders
for line in sys.stdin:
    kind, folder, histories = json.loads(line)
    found = getattr(i2vae_lib.recommenders, kind).load(pathlib.Path(folder))
    print(json.dumps(found.recommend(histories, "y", 5)), flush=True)
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A process with nothing but the library and a model's folder at a time: (kind, folder, histories) -> lists."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("I2VAE_")}
    environment |= {"PYTHONPATH": str(Path(psg.__file__).parents[2]), "I2VAE_CACHE_DIR": str(folder / "no cache")}
    with (
        (folder / "said").open("w+", encoding="utf-8") as said,
        subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):

        def ask(*line: Any) -> Any:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, (folder / "said").read_text()
            return json.loads(answer)

        yield ask
        process.kill()


def test_load_when_only_the_folder_is_left(recommender: Any, elsewhere: Any, tmp_path: Path) -> None:
    recommender.save(tmp_path / "original")
    shutil.copytree(tmp_path / "original", tmp_path / "elsewhere" / "model")
    shutil.rmtree(tmp_path / "original")
    ids = recommender.catalogue.ids
    histories = {"x": [ids["x"][[4, 9]].tolist(), []], "y": [[ids["y"][7]], []]}
    found = elsewhere(type(recommender).__name__, str(tmp_path / "elsewhere" / "model"), histories)
    expected = recommender.recommend(histories, "y", 5)
    for (ids_there, scores_there), (ids_here, scores_here) in zip(found, expected, strict=True):
        assert ids_there == ids_here
        assert scores_there == pytest.approx(scores_here, rel=1e-5)


def test_load_when_the_model_is_of_another_layout(trained: I2VAERecommender, tmp_path: Path) -> None:
    trained.save(tmp_path)
    header = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(header | {"layout": 7}))
    with pytest.raises(LayoutError, match=r"model layout 7, this version reads \d"):
        I2VAERecommender.load(tmp_path)
    with pytest.raises(LayoutError, match="holds no saved model"):
        I2VAERecommender.load(tmp_path / "nowhere")


# --- recommend --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def histories(dataset: CrossDomainDataset) -> dict[str, list[list[str]]]:
    """People nobody trained on: both domains, one domain, the other, none, a repeated item."""
    ids = dataset.catalogue.ids
    x = [ids["x"][[3, 50, 7]].tolist(), ids["x"][[11]].tolist(), [], [], [ids["x"][2]] * 3]
    y = [ids["y"][[90, 20]].tolist(), [], ids["y"][[60, 61]].tolist(), [], []]
    return {"x": x, "y": y}


@pytest.mark.parametrize("domain", DOMAINS)
def test_recommend_when_users_are_new(recommender: Any, histories: dict[str, list[list[str]]], domain: str) -> None:
    found = recommender.recommend(histories, domain, 12)
    assert len(found) == 5
    known = set(recommender.catalogue.ids[domain])
    for (ids, scores), own in zip(found, histories[domain], strict=True):
        assert len(ids) == len(scores) == len(set(ids)) == 12
        assert set(ids) <= known and not set(ids) & set(own)
        assert scores == sorted(scores, reverse=True) and all(type(score) is float for score in scores)


def test_recommend_when_compared_with_score(recommender: Any, histories: dict[str, list[list[str]]]) -> None:
    asks = rows_asking(recommender.catalogue, encoded_lists(recommender.catalogue, histories)[0], "x")
    scores = recommender.score(asks, everything(asks))
    for user, (ids, found) in enumerate(recommender.recommend(histories, "x", 120)):
        own = set(histories["x"][user])
        assert len(ids) == 120 - len(own)  # all but the history
        items = recommender.catalogue.encode("x", ids)
        np.testing.assert_allclose(found, scores[user, items - 1], rtol=1e-6, atol=1e-6)


def test_recommend_when_users_come_one_at_a_time(recommender: Any, histories: dict[str, list[list[str]]]) -> None:
    # the same person gets the same list whoever else is asked for
    for domain in DOMAINS:
        together = recommender.recommend(histories, domain, 10)
        for user in range(5):
            [(ids, scores)] = recommender.recommend({d: [histories[d][user]] for d in DOMAINS}, domain, 10)
            assert ids == together[user][0]
            assert scores == pytest.approx(together[user][1], rel=1e-5, abs=1e-6)
        twins = recommender.recommend({d: histories[d][:1] * 8 for d in DOMAINS}, domain, 10)
        assert [ids for ids, _ in twins] == [together[0][0]] * 8


def test_recommend_when_a_domain_is_left_out(recommender: Any, histories: dict[str, list[list[str]]]) -> None:
    short = recommender.recommend({"x": [histories["x"][1]]}, "y", 4)
    assert short == recommender.recommend({"x": [histories["x"][1]], "y": [[]]}, "y", 4)


def test_recommend_when_there_is_no_history(recommender: Any, dataset: CrossDomainDataset) -> None:
    [(ids, scores)] = recommender.recommend({"x": [[]], "y": [[]]}, "y", 6)
    counts = popularity(dataset.splits["train"])["y"][1:]
    assert scores == sorted(counts, reverse=True)[:6]
    assert [counts[recommender.catalogue.encode("y", [one])[0] - 1] for one in ids] == scores


def test_recommend_when_input_is_wrong(recommender: Any) -> None:
    known = recommender.catalogue.ids["y"][0]
    with pytest.raises(DataError, match=r"'no such thing' is not in the vocabulary of domain y .*1 of 2 ids"):
        recommender.recommend({"y": [[known, "no such thing"]]}, "x", 3)
    with pytest.raises(DataError, match=r"unknown domain 'z': expected 'x' \(North\) or 'y' \(South\)"):
        recommender.recommend({"x": [[]]}, "z", 3)
    with pytest.raises(DataError, match="unknown domain 'Z'"):
        recommender.recommend({"x": [[]], "Z": [[]]}, "x", 3)
    with pytest.raises(DataError, match="k is 0"):
        recommender.recommend({"x": [[]]}, "x", 0)
    with pytest.raises(DataError, match="2 users in one domain but 1 in y"):
        recommender.recommend({"x": [[], []], "y": [[]]}, "x", 3)


# --- what is particular to i2VAE --------------------------------------------------------------------------------------


def test_i2vae_when_no_generator_is_given(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    with pytest.raises(ValueError, match="needs a pseudo-sequence generator"):
        fit("i2vae", dataset, tiny, None, 0)


def test_i2vae_when_the_seed_differs(
    trained: I2VAERecommender, dataset: CrossDomainDataset, tiny: Parameters, generator: psg.Generator, rows: Rows
) -> None:
    reseeded = fit("i2vae", dataset, tiny, generator, 1)
    warm = rows.take(rows.lengths("own") > 0)
    assert (reseeded.score(warm, everything(warm)) != trained.score(warm, everything(warm))).mean() > 0.99


@pytest.mark.parametrize("side", ["own", "other"])
def test_i2vae_when_a_history_is_taken_away(trained: I2VAERecommender, rows: Rows, side: str) -> None:
    # a model that ignored one of its inputs would pass all of the above
    overlapping = rows.take(rows.kinds()["overlapping"])
    emptied = dict(overlapping.history)
    for i, d in enumerate(DOMAINS):
        whose = d if side == "own" else other(d)
        emptied[whose] = emptied[whose].keep((overlapping.domain != i)[emptied[whose].owner])
    before = trained.score(overlapping, everything(overlapping))
    after = trained.score(replace(overlapping, history=emptied), everything(overlapping))
    assert (np.abs(after - before).max(axis=1) > 1e-3).all()


def test_first_weights_when_the_seed_is_another_differ(
    monkeypatch: pytest.MonkeyPatch, dataset: CrossDomainDataset, tiny: Parameters, generator: psg.Generator
) -> None:
    class Enough(Exception):
        pass

    seeds = []

    def spy(p: Any, sizes: Any, weights: torch.Generator) -> Any:
        seeds.append(weights.initial_seed())
        raise Enough

    monkeypatch.setattr("i2vae_lib.recommenders.i2vae.build", spy)
    for seed in (0, 1, 0):
        with pytest.raises(Enough):
            fit("i2vae", dataset, tiny, generator, seed)
    assert seeds[0] == seeds[2] != seeds[1]
