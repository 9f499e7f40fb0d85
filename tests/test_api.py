"""The facade: DataFrames in, recommendations in the same ids out, and what is wrong with input said clearly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from i2vae_lib import I2VAE, cli, export, sample_logs
from i2vae_lib.api import typed
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.histories import whole_histories
from i2vae_lib.data.logs.frames import write_pair
from i2vae_lib.data.logs.join import load_logs
from i2vae_lib.data.rows import DOMAINS, DataError, other
from i2vae_lib.params import ParameterError
from i2vae_lib.recommenders import contract
from i2vae_lib.runs import LayoutError, read_record
from tests.helpers.planted_runs import recorded

ROOT = Path(__file__).parent.parent
BIG = 10**18 + 1  # no float64 holds such a number
PLAIN = {"user": None, "item": None, "timestamp": None}
QUICK: dict[str, Any] = {
    "preset": "smoke",
    "epochs": 1,
    "overrides": {"psg.epochs": 2, "evaluation.negatives": 49},
}


def small_logs() -> dict[str, pd.DataFrame]:
    logs = sample_logs(users=400)
    return {name: one.rename(columns={"when": "time"}) for name, one in logs.items()}


@pytest.fixture(scope="module")
def logs() -> dict[str, pd.DataFrame]:
    """Books by numbers that no float holds, films by text."""
    found = small_logs()
    found["books"]["item"] += BIG
    found["films"]["item"] = "f" + found["films"]["item"].astype(str)
    return found


@pytest.fixture(scope="module")
def kit(logs: dict[str, pd.DataFrame]) -> I2VAE:
    """A model of these logs after one epoch. Do not change it."""
    return I2VAE.fit(logs, **QUICK)


@pytest.fixture(scope="module")
def saved(kit: I2VAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kit.evaluate()
    return kit.save(tmp_path_factory.mktemp("saved") / "model")


def took(logs: dict[str, pd.DataFrame], domain: str, user: int) -> list[Any]:
    """What a user took in order of time, each item once."""
    table = logs[domain]
    return table[table["user"] == user].sort_values("time")["item"].drop_duplicates().tolist()


# --- recommend --------------------------------------------------------------------------------------------------------


def test_recommend_when_users_are_known(kit: I2VAE, logs: dict[str, pd.DataFrame]) -> None:
    users = logs["books"]["user"].unique()[:7]
    for domain, dtype in (("books", "int64"), ("films", "str")):
        found = kit.recommend(users=users, domain=domain, k=5)
        assert list(found.columns) == ["user", "item", "score", "rank"]
        assert found["user"].dtype == "int64" and found["item"].dtype == dtype
        assert found["user"].drop_duplicates().tolist() == users.tolist()
        assert found["rank"].tolist() == [1, 2, 3, 4, 5] * len(users)
        assert set(found["item"]) <= set(logs[domain]["item"])
        for user, part in found.groupby("user"):
            assert not set(part["item"]) & set(took(logs, domain, int(user)))
            assert part["score"].is_monotonic_decreasing


def test_recommend_when_a_user_is_known_knows_what_the_log_holds_in_order(
    kit: I2VAE, logs: dict[str, pd.DataFrame]
) -> None:
    d = kit.catalogue.key("films")
    for user in logs["films"]["user"].unique()[:20]:
        [at] = np.flatnonzero(kit.people.users == str(user))
        assert kit.catalogue.decode(d, kit.people.sequences[d][at]).tolist() == took(logs, "films", user)


def test_recommend_when_histories_are_given_is_what_the_model_says(kit: I2VAE) -> None:
    films = kit.catalogue.ids["y"]
    histories = {"books": [[BIG + 3, BIG + 5], []], "films": [[], [films[0]]]}
    found = kit.recommend(histories=histories, domain="films", k=4)
    expected = kit.recommender.recommend({"x": histories["books"], "y": histories["films"]}, "y", 4)
    assert [part["item"].tolist() for _, part in found.groupby("user")] == [ids for ids, _ in expected]
    assert np.allclose(found["score"], [score for _, scores in expected for score in scores])
    assert found["user"].tolist() == [0] * 4 + [1] * 4
    alone = kit.recommend(histories={"x": histories["books"][:1]}, domain="y", k=4)
    assert alone["item"].tolist() == found["item"].tolist()[:4]


def test_recommend_when_ids_are_unknown(kit: I2VAE) -> None:
    histories = {"books": [[BIG + 3, *range(7)]], "films": [["f1"]]}
    with pytest.raises(DataError, match=r"ids '0', '1', '2', '3', '4' are not in .*books.* 7 of 8 .*history 0"):
        kit.recommend(histories=histories, domain="books")
    dropped = kit.recommend(histories=histories, domain="books", k=3, unknown="drop")
    assert dropped.attrs == {"dropped": 7}
    clean = kit.recommend(histories={"books": [[BIG + 3]], "films": [["f1"]]}, domain="books", k=3)
    assert dropped.equals(clean) and clean.attrs == {"dropped": 0}
    known = int(kit.people.users[0])
    with pytest.raises(DataError, match=r"users '-1', '-2' are not among the .* users"):
        kit.recommend(users=[-1, known, -2], domain="books")
    found = kit.recommend(users=[-1, known, -2], domain="books", k=2, unknown="drop")
    assert found.attrs == {"dropped": 2} and found["user"].tolist() == [known] * 2
    nobody = kit.recommend(users=[-1], domain="books", unknown="drop")
    assert len(nobody) == 0 and nobody.dtypes.equals(found.dtypes)
    with pytest.raises(DataError, match="unknown is 'ignore': expected 'error' or 'drop'"):
        kit.recommend(users=[known], domain="books", unknown="ignore")


def test_recommend_when_items_are_excluded_or_allowed(kit: I2VAE) -> None:
    asks: dict[str, Any] = {"histories": {"books": [[BIG + 3]], "films": [["f1"]]}, "domain": "films"}
    whole = kit.recommend(**asks, k=1000)
    best, second, third = whole["item"][:3]
    without = kit.recommend(**asks, k=2, exclude=[best])
    assert without["item"].tolist() == [second, third]
    only = kit.recommend(**asks, k=5, only=[third, best, "f1"])
    assert only["item"].tolist() == [best, third]  # f1 is in the history
    np.testing.assert_allclose(only["score"], whole["score"][[0, 2]], rtol=1e-5)
    assert kit.recommend(**asks, k=5, only=[third, best], exclude=[best])["item"].tolist() == [third]
    with pytest.raises(DataError, match="no item of films is left"):
        kit.recommend(**asks, only=[best], exclude=[best])
    with pytest.raises(DataError, match="'nothing' is not in the vocabulary of domain y"):
        kit.recommend(**asks, exclude=["nothing"])


def test_recommend_when_k_is_beyond_the_catalogue(kit: I2VAE) -> None:
    found = kit.recommend(histories={"films": [["f1", "f2", "f1"], []]}, domain="films", k=10**6)
    size = kit.catalogue.size("y")
    assert found["user"].value_counts().to_dict() == {0: size - 2, 1: size}
    assert not {"f1", "f2"} & set(found.loc[found["user"] == 0, "item"])


def test_recommend_when_a_history_has_ten_thousand_items(kit: I2VAE) -> None:
    films = np.random.default_rng(0).choice(kit.catalogue.ids["y"][:150], 10_000).tolist()
    found = kit.recommend(histories={"films": [films]}, domain="films", k=10)
    assert len(found) == 10 and not set(found["item"]) & set(films)


def test_recommend_when_users_are_in_several_blocks(kit: I2VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    users = kit.people.users[:30].tolist()
    whole = kit.recommend(users=users, domain="films", k=4)
    shapes = []
    score = kit.recommender.score
    monkeypatch.setattr(kit.recommender, "score", lambda rows, c: shapes.append(c.shape) or score(rows, c))
    monkeypatch.setattr(contract, "SCORES_AT_ONCE", 4 * kit.catalogue.size("y") + 1)
    parts = kit.recommend(users=users, domain="films", k=4)
    assert [rows for rows, _ in shapes] == [4] * 7 + [2]  # memory is that of a block, however many users there are
    assert parts["item"].tolist() == whole["item"].tolist()
    np.testing.assert_allclose(parts["score"], whole["score"], rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"users": [1], "domain": "music"}, r"unknown domain 'music': expected 'x' \(books\) or 'y' \(films\)"),
        ({"histories": {"music": [[]]}, "domain": "films"}, "unknown domain 'music'"),
        ({"histories": {"x": [[]], "books": [[]]}, "domain": "films"}, "name domain x twice"),
        ({"histories": {"books": [[], []], "films": [[]]}, "domain": "films"}, "2 users in one domain but 1 in y"),
        ({"histories": {"films": ["f1"]}, "domain": "films"}, "history 0 .* of domain y is 'f1': expected a list"),
        ({"histories": {"films": [1]}, "domain": "films"}, "history 0 .* is 1: expected a list"),
        ({"histories": [[3]], "domain": "films"}, "histories is a list: expected lists of ids by domain"),
        ({"histories": {"films": 5}, "domain": "films"}, "histories of domain films are 5: expected a list"),
        ({"histories": {"films": [{"f1", "f2"}]}, "domain": "films"}, "history 0 .*: expected a list"),  # has no order
        ({"users": "12", "domain": "films"}, "users is '12': expected a list"),
        ({"users": [1], "domain": "films", "k": 0}, "k is 0"),
    ],
)
def test_recommend_when_asked_wrongly(kit: I2VAE, words: dict[str, Any], message: str) -> None:
    if words.get("users") == [1]:
        words = words | {"users": [int(kit.people.users[0])]}
    with pytest.raises(DataError, match=message):
        kit.recommend(**words)


def test_recommend_when_neither_or_both_are_given(kit: I2VAE) -> None:
    for words in ({}, {"users": [1], "histories": {"books": [[]]}}):
        with pytest.raises(ParameterError, match="either users or histories"):
            kit.recommend(domain="films", **words)


def test_known_users_when_data_have_no_times_are_those_of_all_splits(published: CrossDomainDataset) -> None:
    found, longest = whole_histories(published), {}
    for rows in published.splits.values():
        for i, user in enumerate(rows.user):
            for number, d in enumerate(DOMAINS):
                shown = rows.history[d][i].tolist() + [int(rows.target[i])] * int(rows.domain[i] == number)
                longest[user, d] = max(longest.get((user, d), []), shown, key=len)
    assert {user for user, _ in longest} == set(found.users) and len(found) == len(set(found.users))
    for at, user in enumerate(found.users):
        assert {d: found.sequences[d][at].tolist() for d in DOMAINS} == {d: longest[user, d] for d in DOMAINS}


# --- what it learnt ---------------------------------------------------------------------------------------------------


def test_similar_items_when_compared_with_a_loop(kit: I2VAE) -> None:
    vectors = kit.item_vectors("films")
    assert vectors.shape == (kit.catalogue.size("y"), kit.run.parameters.model.d)
    table = kit.recommender.module.items["y"].weight.detach().numpy()
    np.testing.assert_array_equal(vectors.loc["f7"], table[kit.catalogue.encode("y", ["f7"])[0]])
    cosines = {
        one: float(vectors.loc[one] @ vectors.loc["f7"])
        / float(np.linalg.norm(vectors.loc[one]) * np.linalg.norm(vectors.loc["f7"]))
        for one in vectors.index.drop("f7")
    }
    best = sorted(cosines, key=lambda one: -cosines[one])[:6]
    found = kit.similar_items("films", "f7", k=6)
    assert found["item"].tolist() == best and found["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(found["score"], [cosines[one] for one in best], rtol=1e-5)
    assert kit.item_vectors("books").index.dtype == "int64"
    assert len(kit.similar_items("films", "f7", k=10**6)) == len(vectors) - 1


def test_latents_when_histories_differ(kit: I2VAE) -> None:
    films = kit.catalogue.ids["y"]
    found = kit.latents(histories={"books": [[BIG + 3], [BIG + 3], []], "films": [[films[0]], [], []]})
    lines = [tuple(one) for one in found[["user", "domain", "latent"]].to_numpy()]
    both = [(0, d, role) for d in ("books", "films") for role in ("specific", "transferable", "augmented")]
    cold = [(1, "books", "specific"), (1, "books", "augmented"), (1, "films", "transferable")]
    assert sorted(lines) == sorted(both + cold)  # nothing of somebody without any history
    assert found.shape[1] == 3 + kit.run.parameters.model.d
    rows = kit.asked(None, {"books": [[BIG + 3]], "films": [[films[0]]]}).rows(kit.catalogue, "x")
    [(_, _, latents)] = kit.recommender.infer(rows)
    line = found[(found["user"] == 0) & (found["domain"] == "books") & (found["latent"] == "transferable")]
    np.testing.assert_allclose(line.iloc[0, 3:].to_numpy(float), latents.transferable.mean[0], rtol=1e-5, atol=1e-6)


def test_explain_when_compared_with_a_loop(kit: I2VAE) -> None:
    lengths = {d: kit.people.sequences[d].lengths for d in DOMAINS}
    at = int(np.flatnonzero((lengths["x"] > 1) & (lengths["y"] > 1))[0])
    user, item = int(kit.people.users[at]), "f11"
    found = kit.explain(user, "films", item)
    histories = {d: kit.people.sequences[d][at].tolist() for d in DOMAINS}
    number = kit.catalogue.encode("y", [item])

    def score(shown: dict[str, list[int]]) -> float:
        asked = kit.asked([user], None)
        one = {d: type(asked.took[d]).from_lists([shown[d]]) for d in DOMAINS}
        rows = contract.rows_asking(kit.catalogue, one, "y", asked.ids)
        return float(kit.recommender.score(rows, number[None])[0, 0])

    assert found.attrs["score"] == pytest.approx(score(histories), rel=1e-5)
    assert len(found) == sum(map(len, histories.values())) and found["difference"].is_monotonic_decreasing
    for d in DOMAINS:
        for place, number_of_event in enumerate(histories[d]):
            name = str(kit.catalogue.decode(d, np.array([number_of_event]))[0])
            left = {d: histories[d][:place] + histories[d][place + 1 :], other(d): histories[other(d)]}
            line = found[(found["domain"] == kit.domains[d]) & (found["item"].astype(str) == name)]
            expected = score(histories) - score(left)
            assert line["difference"].tolist() == pytest.approx([expected], rel=1e-3, abs=1e-4)
    assert len(kit.explain(user, "films", item, most=1)) == 2


# --- how good it is ---------------------------------------------------------------------------------------------------


def test_evaluate_when_the_metric_is_ones_own(kit: I2VAE) -> None:
    table = kit.evaluate()
    assert set(table["domain"]) == {"books", "films"} and {"i2vae", "popularity", "itemknn"} <= set(
        table["recommender"]
    )

    def hits(greater: Any, ties: Any, candidates: Any) -> Any:
        assert (greater + ties <= candidates).all()
        return np.clip((10 - greater) / (ties + 1), 0, 1)

    own = kit.evaluate(metric=hits)
    assert set(own["metric"]) == {"hits"}
    named = kit.evaluate(metric="HR@10")
    pd.testing.assert_series_equal(own["value"], named["value"])
    expected = table[table["metric"] == "HR@10"].reset_index(drop=True)
    pd.testing.assert_frame_equal(named.reset_index(drop=True), expected)
    with pytest.raises(ParameterError, match="metric 'wrong' gave"):

        def wrong(greater: Any, ties: Any, candidates: Any) -> Any:
            return 1.0

        kit.evaluate(metric=wrong)
    with pytest.raises(ParameterError, match="unknown metric 'hr@10'"):
        kit.evaluate(metric="hr@10")


def test_evaluate_when_scores_are_anybodys(kit: I2VAE) -> None:
    frame = kit.candidates()
    negatives = kit.run.parameters.evaluation.negatives
    assert frame.groupby("row")["target"].agg(["sum", "count"]).drop_duplicates().to_numpy().tolist() == [
        [1, negatives + 1]
    ]

    def given(scores: Any, frame: pd.DataFrame = frame) -> pd.DataFrame:
        found = kit.evaluate(metric="HR@10", scores=frame.assign(score=scores))
        return found[(found["recommender"] == "given") & (found["kind"] == "all")].set_index(["candidates", "domain"])

    perfect = given(frame["target"].astype(float))["value"]
    assert perfect["sampled"].tolist() == [1.0, 1.0] and perfect["full"].isna().all()
    chance = given(np.zeros(len(frame)))["value"]
    assert chance["sampled"].tolist() == pytest.approx([10 / (negatives + 1)] * 2)
    counts = {d: kit.recommender.popularity[kit.catalogue.key(d)] for d in ("books", "films")}
    numbers = np.zeros(len(frame), dtype=int)
    for d in ("books", "films"):
        numbers[frame["domain"] == d] = kit.catalogue.encode(
            kit.catalogue.key(d), frame.loc[frame["domain"] == d, "item"].tolist()
        )
    popular = [counts[d][n] for d, n in zip(frame["domain"], numbers, strict=True)]
    table = kit.evaluate(metric="HR@10")
    reference = table[
        (table["recommender"] == "popularity") & (table["kind"] == "all") & (table["candidates"] == "sampled")
    ]
    assert given(popular)["value"]["sampled"].tolist() == pytest.approx(reference["value"].tolist())
    shuffled = frame.sample(frac=1, random_state=0)
    assert given(shuffled["target"].astype(float), shuffled)["value"]["sampled"].tolist() == [1.0, 1.0]
    with pytest.raises(DataError, match=rf"none of item '{frame['item'].iloc[-1]}' for row {frame['row'].iloc[-1]}"):
        kit.evaluate(scores=frame.assign(score=0.0).iloc[:-1])
    with pytest.raises(DataError, match=rf"row {frame['row'].iloc[0]} has two of item"):
        kit.evaluate(scores=pd.concat([frame, frame[:1]]).assign(score=0.0))
    with pytest.raises(DataError, match="no column 'score'; expected row, item and score"):
        kit.evaluate(scores=frame)


def test_evaluate_when_no_rows_were_kept(logs: dict[str, pd.DataFrame], kit: I2VAE) -> None:
    everybody = I2VAE.fit(logs, protocol=None, **QUICK)
    for ask in (everybody.evaluate, everybody.candidates, everybody.report):
        with pytest.raises(DataError, match="nothing is left to evaluate on"):
            ask()
    rows = everybody.dataset.splits
    assert len(rows["train"]) > len(kit.dataset.splits["train"]) and len(rows["validation"]) and not len(rows["test"])
    assert len(everybody.recommend(users=logs["films"]["user"][:2], domain="books", k=3)) == 6


def test_timings_and_report_when_asked_for(kit: I2VAE) -> None:
    page = kit.report()
    assert isinstance(page, Path) and page.name == "report.html" and page.is_file()
    assert page._repr_html_().startswith("<iframe srcdoc=") and "<html" not in page._repr_html_()
    found = kit.timings()
    assert list(found.columns) == ["stage", "seconds", "peak memory so far (MiB)"]
    assert {"prepare", "train", "evaluate"} <= set(found["stage"]) and (found["peak memory so far (MiB)"] > 50).all()


def test_fit_when_the_system_is_another(logs: dict[str, pd.DataFrame]) -> None:
    other_kit = I2VAE.fit(logs, system="multivae-m", **QUICK)
    assert len(other_kit.recommend(users=logs["books"]["user"][:1], domain="films", k=3)) == 3
    assert len(other_kit.explain(logs["books"]["user"][0], "films", "f1")) > 0
    for ask in (lambda: other_kit.item_vectors("films"), lambda: other_kit.latents(histories={"x": [[]]})):
        with pytest.raises(ParameterError, match=r"multivae-m has no .*: only i2vae does"):
            ask()


# --- save and load ----------------------------------------------------------------------------------------------------


def test_load_when_saved_before(kit: I2VAE, saved: Path) -> None:
    again = I2VAE.load(saved)
    users = kit.people.users[:5].tolist()
    pd.testing.assert_frame_equal(
        again.recommend(users=users, domain="books"), kit.recommend(users=users, domain="books")
    )
    pd.testing.assert_frame_equal(again.evaluate(), kit.evaluate())
    assert not list(saved.glob("last*.ckpt")) and not (saved / "logs").exists()
    with pytest.raises(LayoutError, match="exists: choose another folder"):
        kit.save(saved)


def test_load_when_a_file_of_its_rows_is_lost(kit: I2VAE, tmp_path: Path) -> None:
    saved = kit.save(tmp_path / "whole")
    (saved / "dataset" / "dataset.json").unlink()
    with pytest.raises(LayoutError, match=r"dataset\.json"):
        I2VAE.load(saved).evaluate()


def test_load_when_saved_without_histories(kit: I2VAE, tmp_path: Path) -> None:
    again = I2VAE.load(kit.save(tmp_path / "bare", histories=False))
    histories = {"books": [[BIG + 3]], "films": [["f1"]]}
    expected = kit.recommend(histories=histories, domain="films")
    pd.testing.assert_frame_equal(again.recommend(histories=histories, domain="films"), expected)
    for ask in (lambda: again.recommend(users=[1], domain="films"), again.evaluate, again.report):
        with pytest.raises(DataError, match="was saved without users' histories"):
            ask()
    tables = [pd.read_parquet(path) for path in (tmp_path / "bare").rglob("*.parquet")]
    assert tables and not any("user" in table.columns for table in tables)
    assert any("user" in one["example"] for one in kit.run.record["audit"])
    assert not any(one["example"] for one in again.run.record["audit"])


def test_load_when_made_by_a_newer_version(saved: Path, tmp_path: Path) -> None:
    for name in ("run.json", "model/model.json", "dataset/dataset.json", "model/catalogue.json"):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(saved, folder)
        header = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(header | {"layout": 99}))
        if name != "run.json":
            recorded(folder)  # as that version left it
        with pytest.raises(LayoutError, match=r"layout 99, .* it was made by a newer version of the kit: upgrade"):
            _ = I2VAE.load(folder).dataset
    folder = tmp_path / "parameters"
    shutil.copytree(saved, folder)
    parameters = read_record(folder)["parameters"]
    parameters["model"]["hyperspace"] = 3
    recorded(folder, parameters=parameters)
    with pytest.raises(LayoutError, match=r"other parameters \('model.hyperspace': "):
        I2VAE.load(folder)
    with pytest.raises(LayoutError, match="is not a run directory"):
        I2VAE.load(tmp_path / "nowhere")


# --- logs in ----------------------------------------------------------------------------------------------------------


def events(logs: dict[str, Any], folder: Path) -> dict[str, list[tuple[str, str, int]]]:
    path, _ = write_pair(logs, folder, PLAIN, 1, None)
    pair = load_logs(path)
    return {
        d: sorted(
            zip(
                pair.log.users[one.user].tolist(),
                pair.catalogue.decode(d, one.item).tolist(),
                one.time.tolist(),
                strict=True,
            )
        )
        for d, one in pair.log.events.items()
    }


SHAPES: dict[str, Callable[[pd.Series], pd.Series]] = {
    "seconds": lambda t: t.astype("int64"),
    "floats": lambda t: t.astype("int64").astype(float),
    "milliseconds": lambda t: t.astype("int64") * 1000,
    "nanoseconds": lambda t: t.astype("datetime64[ns]"),
    "UTC": lambda t: t.dt.tz_localize("UTC"),
    "zone": lambda t: t.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
    "text": lambda t: t.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "objects": lambda t: t.astype(object),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_fit_when_times_have_another_type_they_are_the_same_events(shape: str, tmp_path: Path) -> None:
    plain = {name: one.astype({"time": "datetime64[s]"}).head(200) for name, one in small_logs().items()}
    assert [len(one) for one in events(plain, tmp_path / "a").values()] == [200, 200]
    shaped = {name: one.assign(time=SHAPES[shape](one["time"])) for name, one in plain.items()}
    assert events(shaped, tmp_path / "b") == events(plain, tmp_path / "a")
    mixed = {"books": shaped["books"], "films": plain["films"]}
    if shape in ("UTC", "zone", "text"):
        with pytest.raises(DataError, match=r"'time': .* with a zone in books.* without a zone in films.*which clock"):
            events(mixed, tmp_path / "c")
    else:
        assert events(mixed, tmp_path / "c") == events(plain, tmp_path / "a")


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("int32", "int64"),
        ("uint64", "uint64"),
        ("Int64", "int64"),
        ("str", "str"),
        ("category", "int64"),
        (object, "int64"),
    ],
)
def test_fit_when_ids_have_a_type_they_come_back_in_it(dtype: Any, kind: str, tmp_path: Path) -> None:
    shaped = {name: one.astype({"item": dtype}) for name, one in small_logs().items()}
    path, types = write_pair(shaped, tmp_path, PLAIN, 1, None)
    assert types == {"user": "int64", "x": kind, "y": kind}
    ids = typed(load_logs(path).catalogue.ids["x"], kind)
    assert set(ids) == set(shaped["books"]["item"]) and str(ids.dtype) == ("object" if kind == "str" else kind)
    # numbers of two catalogues are no common items; ids that are text are
    assert (len(load_logs(path).catalogue.links) > 0) == (kind == "str")


def test_fit_when_logs_are_paths(tmp_path: Path) -> None:
    plain = small_logs()
    for name, one in plain.items():
        seconds = one["time"].astype("datetime64[s]").astype("int64")
        one.assign(time=seconds).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {f"my {name}": tmp_path / f"{name}.csv" for name in plain}
    path, types = write_pair(files, tmp_path / "pair", PLAIN, 2, None)
    pair = load_logs(path)
    assert pair.catalogue.names == {"x": "my books", "y": "my films"} and set(types.values()) == {"str"}
    assert (pair.min_user, pair.min_item) == (2, 2)
    assert len(pair.log.events["x"]) == len(plain["books"].drop_duplicates(["user", "item"]))


Change = Callable[[dict[str, pd.DataFrame]], Any]


def with_books(**columns: Callable[[pd.Series], Any]) -> Change:
    def change(logs: dict[str, pd.DataFrame]) -> Any:
        books = logs["books"]
        changed = {name: of_column(books[name]) for name, of_column in columns.items()}
        return logs | {"books": books.assign(**changed)}

    return change


BAD: dict[str, tuple[Change, str]] = {
    "no common user": (with_books(user=lambda s: s + 10**6), "books and films: no user is in both"),
    "duplicate columns": (
        lambda logs: logs | {"books": pd.concat([logs["books"], logs["books"][["user"]]], axis=1)},
        "books: two columns are named 'user'; rename one",
    ),
    "missing ids": (
        with_books(item=lambda s: s.where(s.index > 4)),
        "books: column 'item' holds .*integers that became floats",
    ),
    "floats in one": (with_books(user=lambda s: s * 1.0), "books: column 'user' holds double, not ids; integers that"),
    "complex ids": (with_books(user=lambda s: s * 1j), "books: column 'user' holds complex; ids are all"),
    "no Unicode": (
        with_books(user=lambda s: s.astype(str).astype(object) + "\ud800"),
        "column 'user' holds .* no Unicode text",
    ),
    "times that are no Unicode": (
        with_books(time=lambda s: pd.Series("2014\ud800", s.index, dtype=object)),
        "'2014.*' is no Unicode text, which times, names and paths have to be",
    ),
    "a path that is no Unicode": (lambda logs: {"a": "/tmp/\ud800", "b": "b.csv"}, "'/tmp/.*' is no Unicode text"),
    "complex times": (
        with_books(time=lambda s: s.astype("int64") * 1j),
        "books: column 'time' holds complex128; times",
    ),
    "truths as times": (with_books(time=lambda s: s.index % 2 == 0), "books: column 'time' holds bool; times are"),
    "Unix times as text": (
        with_books(time=lambda s: s.astype("datetime64[s]").astype("int64").astype(str)),
        r"books, row 1: column 'time' holds '\d+', a number in a column of .*: Unix times are integers",
    ),
    **{
        f"Unix times and {odd!r}": (
            with_books(
                time=lambda s, odd=odd: (
                    s.astype("datetime64[s]").astype("int64").astype(object).where(s.index != 4, odd)
                )
            ),
            rf"books, row 5: column 'time' holds {odd!r}, where .* rows hold numbers: keep these",
        )
        for odd in (None, pd.NaT, "x", "2014-12-21")
    },
    "ids of 80 bits": (
        with_books(user=lambda s: pd.Series([2**80 + one for one in s], s.index, dtype=object)),
        "books: column 'user' holds integers that 64 bits cannot hold: make them text, with",
    ),
    "a long name": (lambda logs: {"a" * 300: logs["books"], "b": logs["films"]}, "at most 100 characters"),
    "missing text ids": (
        with_books(user=lambda s: s.astype(str).astype(object).where(s.index != 4, None)),
        "column 'user' holds str in books, int64 in films: the same person needs the same id",
    ),
    "missing nullable ids": (
        with_books(item=lambda s: s.astype("Int64").mask(s.index == 4)),
        r"books, row 5: column 'item' has no id but None; so have 1 of",
    ),
    "mixed ids": (
        with_books(item=lambda s: s.astype(object).where(s.index > 4, "a")),
        "books: column 'item' mixes int and str",
    ),
    "dates as ids": (
        with_books(item=lambda s: pd.to_datetime(s)),
        "books: column 'item' holds .*ids are text or integers",
    ),
    "empty": (lambda logs: logs | {"films": logs["films"].head(0)}, "films: no rows"),
    "one domain": (lambda logs: {"books": logs["books"]}, r"1 logs \(books\): a pair has two domains"),
    "three domains": (lambda logs: logs | {"music": logs["films"]}, r"3 logs \(books, films, music\): a pair has two"),
    "no time": (lambda logs: logs | {"books": logs["books"].drop(columns="time")}, "books: no column 'time'"),
    "times missing": (
        with_books(time=lambda s: s.where(s.index != 4)),
        "books, row 5: column 'time' is empty; 1 of .* rows have no usable time",
    ),
    "one time": (with_books(time=lambda s: s.iloc[0]), "books: column 'time' holds .* in all .* rows: nothing tells"),
    "no times": (with_books(time=lambda s: "soon"), "books, row 1: column 'time' holds 'soon'; times are datetimes"),
    "years and times": (
        with_books(time=lambda s: [f"{t:%Y-%m-%d}" if n else f"{t:%Y}" for n, t in enumerate(pd.to_datetime(s))]),
        "books, row 1: column 'time' holds '20..', a number in a column of",
    ),
    "months": (
        with_books(time=lambda s: pd.to_datetime(s).dt.strftime("%Y-%m")),
        "books, row 1: column 'time' holds '20..-..'; times are datetimes, text with the day at least",
    ),
    "periods": (
        with_books(time=lambda s: pd.to_datetime(s).dt.to_period("M")),
        "books, row 1: column 'time' holds Period.*; times are datetimes, text with the day at least",
    ),
    "digits with the year last": (
        with_books(time=lambda s: pd.to_datetime(s).dt.strftime("%m%d%Y").astype(int)),
        r"books: column 'time' holds .* dates written as digits \(MMDDYYYY\): write them as datetimes, with pandas "
        r"to_datetime\(times.astype\(str\).str.zfill\(8\), format='%m%d%Y'\)$",
    ),
    "another unit": (
        lambda logs: {
            "books": logs["books"].assign(time=logs["books"]["time"].astype("datetime64[s]").astype("int64")),
            "films": logs["films"].assign(time=logs["films"]["time"].astype("datetime64[ms]").astype("int64")),
        },
        "times differ in their unit, by their size: seconds in books, milliseconds in films",
    ),
    "one log twice": (lambda logs: logs | {"films": logs["books"]}, "x and y are the same log"),
    "the other's key": (lambda logs: {"y": logs["books"], "films": logs["films"]}, "named after the other one's key"),
    "a list": (lambda logs: logs | {"films": [1, 2]}, "expected two DataFrames or two paths, found books: DataFrame"),
    "a file that is not there": (
        lambda logs: {"a": "nowhere.csv", "b": "nowhere_else.csv"},
        "nowhere.csv: no such file",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_fit_when_logs_are_bad_says_what_and_where(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    with pytest.raises(DataError, match=message) as error:
        I2VAE.fit(change(small_logs()), out=tmp_path / "run", **QUICK)
    assert str(tmp_path) not in str(error.value)


def test_fit_when_a_column_is_named_wrongly_suggests_the_nearest() -> None:
    with pytest.raises(DataError, match=r"books: no column 'usr'; did you mean 'user'"):
        I2VAE.fit(small_logs(), user="usr", **QUICK)


def test_sample_logs_when_made_twice() -> None:
    one, another = sample_logs(users=300), sample_logs(users=300)
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, another[name])
        assert list(table.columns) == ["user", "item", "when"] and table["user"].dtype.kind == "i"
    shared = set(one["books"]["user"]) & set(one["films"]["user"])
    assert 100 < len(shared) < 200 and not sample_logs(users=300, seed=1)["books"].equals(one["books"])


# --- the command ------------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    capsys.readouterr()
    assert cli.main(["recommend", *words]) == status
    out = capsys.readouterr()
    return out.err if status else out.out


def test_command_when_an_id_holds_a_comma(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = {name: one.assign(item=name[0] + "," + one["item"].astype(str)) for name, one in small_logs().items()}
    kit = I2VAE.fit(logs, out=tmp_path / "run", **QUICK)
    one, *_ = kit.catalogue.ids["x"]
    words = (str(tmp_path / "run"), "--domain", "films")
    told = f"the id {one!r} holds a comma, which separates ids here: give --histories"
    assert told in said(capsys, *words, "--history", f"books={one}", status=2)
    unknown = said(capsys, *words, "--history", f"books=x{one}x", status=2)
    assert "holds a comma" not in unknown and "not in the vocabulary" in unknown  # only a part of what was given
    pd.DataFrame({"books": [[one]], "films": [[]]}).to_parquet(tmp_path / "people.parquet")
    assert "f,1" in said(capsys, *words, "--histories", str(tmp_path / "people.parquet"))


def test_command_when_users_are_known(
    kit: I2VAE, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = [int(one) for one in kit.people.users[:3]]
    expected = kit.recommend(users=users, domain="books", k=4)
    words = [str(saved), "--domain", "books", "--k", "4"]
    found = json.loads(said(capsys, *words, "--user", *map(str, users), "--json"))
    assert [one for line in found for one in line["items"]] == expected["item"].tolist()
    assert type(found[0]["items"][0]) is int
    lines = said(capsys, *words, "--user", str(users[0])).splitlines()
    assert lines[0] == f"user {users[0]}" and lines[1].split()[1] == str(expected["item"][0])
    (tmp_path / "users.txt").write_text("\n".join(map(str, users)) + "\n")
    pd.DataFrame({"user": users}).to_parquet(tmp_path / "users.parquet")
    for name in ("users.txt", "users.parquet"):
        out = tmp_path / f"of {name}.parquet"
        assert said(capsys, *words, "--users", str(tmp_path / name), "--out", str(out)) == f"written: {out}\n"
        pd.testing.assert_frame_equal(pd.read_parquet(out), expected)
    pd.DataFrame({"who": users}).to_parquet(tmp_path / "who.parquet")
    pd.DataFrame({"user": []}).to_parquet(tmp_path / "empty.parquet")
    pd.DataFrame({"books": [], "films": []}, dtype=object).to_parquet(tmp_path / "histories.parquet")
    (tmp_path / "empty.txt").write_text("\n\n")
    for option, name, told in (
        ("--users", "who.parquet", "not one column user among who: give an id a line, or Parquet with a column user"),
        ("--users", "empty.parquet", "it holds no user: give an id a line"),
        ("--users", "empty.txt", "it holds no user: give an id a line"),
        ("--histories", "histories.parquet", "it holds no history: give a row for each user"),
    ):
        assert f"{name}: {told}" in said(capsys, *words, option, str(tmp_path / name), status=2)
    only = said(
        capsys,
        *words,
        "--user",
        str(users[0]),
        "--only",
        str(BIG + 3),
        str(BIG + 4),
        "--json",
        "--exclude",
        str(BIG + 4),
    )
    assert json.loads(only)[0]["items"] in ([BIG + 3], [])
    assert "'nobody' is not among" in said(capsys, *words, "--user", "nobody", status=2)
    assert json.loads(said(capsys, *words, "--user", "nobody", "--unknown", "drop", "--json")) == []
    both = said(capsys, *words, "--user", "1", "--users", "users.txt", status=2)
    assert "--user and --users: one or the other" in both
    assert "no.txt: cannot be read" in said(capsys, *words, "--users", "no.txt", status=2)
    assert "unknown domain 'music'" in said(capsys, str(saved), "--domain", "music", "--user", "1", status=2)


def test_command_when_histories_are_in_a_bad_file(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = pd.read_parquet(saved / "model" / "items_y.parquet")["id"]
    table = pd.DataFrame({"books": [[], None] * 4500, "films": [[ids[0]], [ids[1], ids[2]]] * 4500})
    path = tmp_path / "histories.parquet"
    words = [str(saved), "--histories", str(path), "--domain", "films", "--k", "1"]
    table.to_parquet(path)
    out = tmp_path / "out.parquet"
    said(capsys, *words, "--out", str(out))
    assert pd.read_parquet(out)["user"].tolist() == list(range(9000))
    table.at[8500, "films"] = ["nosuch"]
    table.to_parquet(path)
    unknown = said(capsys, *words, status=2)
    assert str(path) in unknown and "'nosuch'" in unknown and "history 8,500 (from 0)" in unknown
    for value, kind in ((1, "int64"), ("s0", "string")):
        table.assign(films=value).to_parquet(path)
        assert f"{path}: column films holds {'large_' * (kind == 'string')}{kind}; expected a list of ids" in said(
            capsys, *words, status=2
        )
    wide = pa.Table.from_pandas(table)
    pq.write_table(wide.append_column("films", wide["films"]), path)
    assert f"{path}: two columns are domain y, named films and films: keep one" in said(capsys, *words, status=2)
    table.assign(x=table["films"]).to_parquet(path)
    assert f"{path}: two columns are domain x, named books and x: keep one" in said(capsys, *words, status=2)
    path.write_text("no parquet")
    assert "cannot be read as Parquet" in said(capsys, *words, status=2)


# --- the ten lines ----------------------------------------------------------------------------------------------------


def test_ten_lines_of_the_docs_hold_those_of_readme() -> None:
    """They are run where the wheel is all there is (``test_wheel.py``)."""
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/own_data.md", "README.md")]
    snippets = [page.split("```python\n")[1].split("```")[0].splitlines() for page in pages]
    ten, readme = ([line.split("  #")[0] for line in lines if line] for lines in snippets)
    assert len(ten) <= 10 and len(readme) >= 4
    assert [line for line in ten if line in readme] == readme


def test_fit_when_there_is_no_time(logs: dict[str, pd.DataFrame]) -> None:
    """The order of the rows is the order of events; here it is not that of the times."""
    bare = {name: one.sample(frac=1, random_state=0).drop(columns="time") for name, one in logs.items()}
    kit = I2VAE.fit(bare, time=False, **QUICK)
    films = bare["films"]
    [d] = [key for key, name in kit.domains.items() if name == "films"]
    for user in films["user"].value_counts().index[:5]:
        [at] = np.flatnonzero(kit.people.users == str(user))
        expected = films.loc[films["user"] == user, "item"].drop_duplicates().tolist()
        assert kit.catalogue.decode(d, kit.people.sequences[d][at]).tolist() == expected
    assert len(kit.recommend(users=[int(films["user"].iloc[0])], domain="films", k=3)) == 3


def test_fit_when_there_is_no_time_and_none_was_denied(logs: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(DataError, match="'time'"):
        I2VAE.fit({name: one.drop(columns="time") for name, one in logs.items()}, **QUICK)


def test_fit_when_item_vectors_are_given(logs: dict[str, pd.DataFrame]) -> None:
    ids = logs["films"]["item"].unique()
    vectors = pd.DataFrame(np.random.default_rng(0).normal(size=(len(ids), 5)), index=ids)
    kit = I2VAE.fit(logs, item_vectors={"films": vectors}, **QUICK)
    assert kit.run.record["parameters"]["model"]["start"] == "given"
    assert len(kit.recommend(users=[int(logs["books"]["user"].iloc[0])], domain="films", k=3)) == 3
    with pytest.raises(DataError, match="unknown domain 'music'"):
        I2VAE.fit(logs, item_vectors={"music": vectors}, **QUICK)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda kit, user: kit.recommend(users=[user], domain="films", exclude="35"),
            "exclude is '35': ",
        ),
        (lambda kit, user: kit.recommend(users=[user], domain="films", only="35"), "only is '35': .* a list of ids"),
        (lambda kit, user: kit.recommend(users=[user], domain="films", exclude=3), "exclude is 3: .* a list of ids"),
        (lambda kit, user: kit.recommend(users=[user], domain="films", k=2.0), "k is 2.0: expected a whole number"),
        (lambda kit, user: kit.recommend(users=[user], domain="films", k=True), "k is True: expected a whole number"),
        (lambda kit, user: kit.recommend(users=pd.DataFrame({"a": [user]}), domain="films"), "users is a DataFrame"),
        (lambda kit, user: kit.similar_items("films", kit.item_vectors("films").index[0], k=-3), "k is -3; ask for at"),
        (lambda kit, user: kit.explain(user, "films", kit.item_vectors("films").index[0], most=-1), "most is -1; ask"),
    ],
)
def test_question_when_it_would_be_read_as_another_is_refused(
    call: Callable[[I2VAE, Any], Any], message: str, kit: I2VAE
) -> None:
    with pytest.raises(DataError, match=message):
        call(kit, kit.people.users[0])


@pytest.mark.parametrize(
    ("logs", "words", "message"),
    [
        (small_logs, {"time": True}, "time is True: expected the name of a column, or False"),
        (small_logs, {"user": False}, "user is False: expected a column"),
        (
            lambda: list(small_logs().values()),
            {},
            "logs is a list: give two DataFrames",
        ),
        (small_logs, {"overrides": ["model.d"]}, r"overrides is \['model.d'\]"),
        (small_logs, {"overrides": {"system": "svae"}}, "overrides and the argument system both give 'system'"),
        (
            small_logs,
            {"overrides": {"split.test_share": 0.2}, "protocol": None},
            "overrides and protocol=None both give 'split.test_share'",
        ),
        (
            small_logs,
            {"overrides": {"model.start": "titles"}, "item_vectors": {}},
            "overrides and item_vectors both give 'model.start'",
        ),
        (small_logs, {"item_vectors": {"books": pd.DataFrame([[1.0], [2.0]], index=[1, 1])}}, "item 1 stands twice"),
        (small_logs, {"item_vectors": {"books": pd.DataFrame([["a"]])}}, "expected a DataFrame of numbers"),
        (small_logs, {"item_vectors": 5}, "item_vectors is a int: expected DataFrames by domain"),
        (
            small_logs,
            {"item_vectors": {"books": pd.DataFrame([[1.0]], pd.Index(["a\ud800"], dtype=object))}},
            "item_vectors of books: item 'a.*' is no Unicode text",
        ),
        (small_logs, {"out": "/tmp/\ud800"}, "folder is '/tmp/.*': expected the path of a run directory"),
        (small_logs, {"out": "a\0b"}, "folder is 'a.*': expected the path of a run directory"),
        (small_logs, {"item_vectors": {}}, "item_vectors names no domain"),
        (small_logs, {"preset": 5}, "preset is 5: expected a name"),
    ],
)
def test_fit_when_a_word_has_another_type(logs: Callable[[], Any], words: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, LayoutError, ParameterError), match=message):
        I2VAE.fit(logs(), **words)


@pytest.mark.parametrize("unit", ["date", "d", "order", "s"])
def test_frames_are_not_told_of_pair_files(unit: str, tmp_path: Path) -> None:
    write: dict[str, Callable[[pd.Series], Any]] = {
        "date": lambda s: s.dt.strftime("%Y%m%d").astype(int),
        "d": lambda s: s.astype("datetime64[s]").astype("int64") // 86_400,
        "order": lambda s: np.arange(len(s)),
        "s": lambda s: s.astype("datetime64[s]").astype("int64") * np.where(s.index == 3, np.inf, 1),
    }
    frames = {name: one.assign(time=write[unit](one["time"])) for name, one in small_logs().items()}
    with pytest.raises(DataError, match="books") as error:
        I2VAE.fit(frames, out=tmp_path / "run", **QUICK)
    assert "columns." not in str(error.value)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        ("%d%m%Y", r"\(DDMMYYYY\): .* with pandas to_datetime\(.*zfill\(8\), format='%d%m%Y'\)"),
        ("%y%j", r"\(YYDDD\): .* with pandas to_datetime\(.*zfill\(5\), format='%y%j'\)"),
        ("%Y%m%d%H%M", r"dates written as digits: .* with pandas to_datetime\(times, format='%Y%m%d%H%M'\)"),
        ("%s", r"Unix times are integers, to_numeric\(times\)\.astype\('int64'\)"),
    ],
)
def test_frames_with_dates_as_text_of_digits_are_told_how_to_read_them(write: str, told: str, tmp_path: Path) -> None:
    def text(times: pd.Series) -> pd.Series:
        start = times - times.min()
        return (pd.Timestamp("2009-03-05") + start * (pd.Timedelta(days=1500) / start.max())).dt.strftime(write)

    frames = {name: one.assign(time=text(one["time"])) for name, one in small_logs().items()}
    with pytest.raises(DataError, match=rf"^books, row 1: column 'time' holds '\d+', .*{told}") as error:
        I2VAE.fit(frames, out=tmp_path / "run", **QUICK)
    assert "columns." not in str(error.value)


def test_sparse_columns_are_read(tmp_path: Path) -> None:
    plain = small_logs()
    sparse = {name: one.assign(user=pd.arrays.SparseArray(one["user"])) for name, one in plain.items()}
    read = {}
    for name, logs in {"plain": plain, "sparse": sparse}.items():
        path, types = write_pair(logs, tmp_path / name, PLAIN, 1, None)
        read[name] = load_logs(path).log.users.tolist(), types
    assert read["plain"] == read["sparse"]


@pytest.mark.parametrize("folder", [None, 5, b"run", "", ["run"]])
def test_folder_when_it_is_no_path(folder: Any, kit: I2VAE) -> None:
    for call in (I2VAE.load, kit.save, lambda out: I2VAE.fit(small_logs(), out=out, **QUICK)):
        if folder is not None or call in (I2VAE.load, kit.save):
            with pytest.raises(LayoutError, match=r"folder is .*: expected the path"):
                call(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"metric": 5}, "metric is 5: expected a name"),
        ({"metric": lambda greater, ties, candidates: "text"}, r"gave \(\) for"),
        (
            {"metric": lambda greater, ties, candidates: ["a"] * len(greater)},
            "gave .*'a'.* for a row: expected numbers",
        ),
        (
            {"metric": lambda greater, ties, candidates: np.full(len(greater), np.nan)},
            r"gave nan for \d+ of \d+ rows, the first with \d+ greater, \d+ ties .*: expected finite",
        ),
        (
            {"metric": lambda greater, ties, candidates: np.where(np.arange(len(greater)) == 2, np.inf, 1)},
            r"gave inf for 1 of \d+ rows, .*: expected finite",
        ),
        ({"scores": pd.DataFrame({"row": [1.0], "item": ["f1"], "score": [1]})}, "'row' holds float64.*whole numbers"),
        ({"scores": 5}, "scores is a int: expected a DataFrame"),
        ({"scores": pd.DataFrame({"row": [1], "item": ["f1"], "score": ["a"]})}, "'score' holds .* numbers"),
        ({"scores": pd.DataFrame({"row": [1], "item": ["f1"], "score": [1j]})}, "'score' holds complex128"),
        ({"scores": pd.DataFrame([[1, "f1", 1.0, 2.0]], columns=["row", "item", "score", "score"])}, "two columns are"),
    ],
)
def test_evaluate_when_asked_wrongly(words: dict[str, Any], message: str, kit: I2VAE) -> None:
    with pytest.raises((DataError, ParameterError), match=message):
        kit.evaluate(**words)


@pytest.mark.parametrize("words", [{"min_events": 0}, {"same_items": "maybe"}], ids=str)
def test_fit_when_an_argument_is_wrong_it_is_named(words: dict[str, Any], logs: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(DataError, match=f"'{next(iter(words))}'") as told:
        I2VAE.fit(logs, **words, **QUICK)
    assert "min_user" not in str(told.value) and "same_ids" not in str(told.value)


def test_command_writes_nothing_into_a_run(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (saved / "run.json").read_bytes()
    for name in ("run.json", "model/weights.safetensors", "new.parquet"):
        told = said(
            capsys, str(saved), "--history", "books=", "--domain", "films", "--out", str(saved / name), status=2
        )
        assert "lies inside the run" in told and name in told
    assert (saved / "run.json").read_bytes() == before and not (saved / "new.parquet").exists()


def test_command_when_ids_would_steer_the_terminal(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(I2VAE, "ids", lambda kit, d, numbers: np.full(len(numbers), "\x1b]0;owned\x07", dtype=object))
    told = said(capsys, str(saved), "--domain", "films", "--history", "books=", "--k", "3")
    assert told.count("]0;owned") == 3 and "\x1b" not in told and "\x07" not in told


def test_command_when_users_come_from_a_text_of_windows(
    kit: I2VAE, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    user = str(kit.people.users[0])
    (tmp_path / "users.txt").write_bytes(b"\xef\xbb\xbf" + user.encode() + b"\r\n")
    words = (str(saved), "--domain", "films", "--users", str(tmp_path / "users.txt"))
    assert said(capsys, *words).startswith(f"user {user}\n")


def test_columns_when_they_are_numbered(tmp_path: Path) -> None:
    plain = {1: small_logs()["books"], 2: small_logs()["films"]}
    roles = list(next(iter(plain.values())).columns)
    bare = {name: frame.set_axis(range(len(roles)), axis=1) for name, frame in plain.items()}
    numbers = {role: roles.index(role) for role in ("user", "item", "time")}
    with pytest.raises(ParameterError, match="unknown preset"):  # after the logs were read
        I2VAE.fit(bare, **numbers, preset="nowhere")


def test_model_is_not_written_into_its_own_run(kit: I2VAE) -> None:
    with pytest.raises(LayoutError, match="choose a folder outside it"):
        kit.save(kit.folder / "model" / "mine")
    with pytest.raises(LayoutError, match="lies inside the run"):
        export.export_run(kit.folder, kit.folder / "model" / "mine")


def test_model_is_not_written_over_a_link_that_leads_nowhere(kit: I2VAE, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(LayoutError, match="link exists: choose another folder"):
        kit.save(tmp_path / "link")
