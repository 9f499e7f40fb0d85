"""The main job on disk: what a run leaves, that nothing is done twice, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from i2vae_lib import evaluation, shared, stages
from i2vae_lib.audit import leaks
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.kinds import KINDS
from i2vae_lib.data.rows import DOMAINS, SPLITS, Rows
from i2vae_lib.generators import psg
from i2vae_lib.params import ParameterError, Parameters
from i2vae_lib.recommenders import EASE, I2VAERecommender, ItemKNN, OrderedCounts, Popularity
from i2vae_lib.runs import LayoutError, Run
from i2vae_lib.training import Callbacks

FILES = ["run.json", "pseudo.parquet", "last.ckpt", "history.parquet", "ranks.parquet", "metrics.json"]
NAMES = ["i2vae", "popularity", "recent_popularity", "copy", "itemknn", "ease", "ordered_counts", "oracle", "informed"]
COUNTS = ["greater_sampled", "ties_sampled", "candidates_sampled", "greater_full", "ties_full", "candidates_full"]


def opened(tiny: Parameters, folder: Path, **changes: Any) -> Run:
    return stages.open_run(tiny.model_copy(update=changes), folder)


@pytest.fixture(scope="module")
def finished(tiny: Parameters, whole_run: tuple[Path, list[str]]) -> Run:
    """A whole run of the tiny world. Do not change it."""
    folder, said = whole_run
    assert len(said) == 7 and said[0] == "preparing synthetic under chronological"
    assert [line for line in said if line.startswith("audit: ")] == [
        "audit: 16 checks for leaks, 20 notes: no leak",
        "audit: 20 checks for leaks, 20 notes: no leak",
    ]
    return opened(tiny, folder)


@pytest.fixture(scope="module")
def ranks(finished: Run) -> pd.DataFrame:
    return pd.read_parquet(finished.folder / "ranks.parquet")


def stamps(folder: Path) -> dict[str, int]:
    found = {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    return {path: stamp for path, stamp in found.items() if not path.endswith(".lock")}


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_run_all_when_finished(finished: Run, tiny: Parameters, dataset: CrossDomainDataset) -> None:
    assert all((finished.folder / name).is_file() for name in FILES)
    assert (finished.folder / "dataset" / "dataset.json").is_file()
    assert (finished.folder / "model" / "weights.safetensors").is_file()
    record = json.loads((finished.folder / "run.json").read_text())
    assert record["parameters"] == tiny.model_dump(mode="json")
    assert record["dataset_sha256"] == dataset.fingerprint()
    assert (record["protocol"], record["data_seed"], record["parameters"]["seed"]) == ("chronological", 0, 0)
    assert record["rows"] == {split: len(rows) for split, rows in dataset.splits.items()}
    assert record["L80"] == {split: dict(limits) for split, limits in dataset.tail.items()}
    assert record["removed"] == dict(dataset.removed)
    assert set(record["stages"]) == {"prepare", "generator", "recall", "train", "references", "evaluate"}
    assert all(one["seconds"] >= 0 and one["peak_memory_bytes"] > 2**26 for one in record["stages"].values())
    assert {"python", "torch", "numpy", "git"} <= set(record["environment"])


def test_dataset_when_read_back(finished: Run, dataset: CrossDomainDataset) -> None:
    assert CrossDomainDataset.load(finished.folder / "dataset").fingerprint() == dataset.fingerprint()


def test_pseudo_when_compared_with_the_saved_generator(finished: Run, dataset: CrossDomainDataset) -> None:
    table = pd.read_parquet(finished.folder / "pseudo.parquet")
    assert len(table) == sum(len(rows) for rows in dataset.splits.values())
    generator = I2VAERecommender.load(finished.folder / "model").generator
    for split in SPLITS:
        rows, part = dataset.splits[split], table[table["split"] == split]
        items, scores = psg.recalled(generator, rows)
        np.testing.assert_array_equal(np.stack(part["items"].to_list()), items)
        np.testing.assert_array_equal(np.stack(part["scores"].to_list()), scores)
        np.testing.assert_array_equal(part["row"], rows.source)


@pytest.mark.parametrize("name", ["pseudo.parquet", "history.parquet", "ranks.parquet"])
def test_tables_when_their_files_are_elsewhere(finished: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((finished.folder / name).read_bytes())
    assert pd.read_parquet(tmp_path / name).attrs == {"data": "synthetic", "protocol": "chronological", "data_seed": 0}


def test_recalled_when_another_run_agrees(finished: Run, tiny: Parameters, tmp_path: Path) -> None:
    other = Run(tiny.model_copy(update={"seed": 5}), tmp_path / "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages.leaks, "audit", lambda *words, **named: pytest.fail("recalled again"))
        patch.setattr(stages, "prepare", lambda run: CrossDomainDataset.load(finished.folder / "dataset"))
        stages.recall(other)
    here, there = (one / "pseudo.parquet" for one in (tmp_path / "other", finished.folder))
    assert here.read_bytes() == there.read_bytes()
    assert not here.samefile(there)  # or what damages one run would damage the other
    assert other.record["audit"] == stages.read_record(finished.folder)["audit"][: len(other.record["audit"])]


def test_recalled_when_the_shared_file_is_damaged(
    finished: Run, dataset: CrossDomainDataset, tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path / "cache"))
    stages.recall(Run(tiny, tmp_path / "one"), dataset)
    [shared] = (tmp_path / "cache" / "recalled").glob("*/pseudo.parquet")
    (tmp_path / "one" / "pseudo.parquet").unlink()
    shared.write_bytes(b"half")
    stages.recall(Run(tiny, tmp_path / "two"), dataset)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "two" / "pseudo.parquet"), pd.read_parquet(finished.folder / "pseudo.parquet")
    )


def test_history_when_training_took_two_epochs(finished: Run, tiny: Parameters) -> None:
    history = stages.load_history(finished.folder)
    assert history["epoch"].tolist() == [1, 2] and tiny.training.epochs == 2
    for prefix, count in (("kl/", 6), ("active/", 6), ("reconstruction/", 2), ("ndcg@10", 3)):
        assert sum(column.startswith(prefix) for column in history.columns) == count
    assert np.isfinite(history.to_numpy()).all() and (history["rows/s"] > 0).all()
    record = finished.record
    assert record["best_epoch"] == history["ndcg@10"].argmax() + 1
    assert record["best_validation_ndcg"] == history["ndcg@10"].max()


def test_ranks_when_finished(ranks: pd.DataFrame, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    kinds = ["tailed", "cold", "no_history", "overlapping", "seen"]
    assert ranks.columns.tolist() == ["recommender", "row", "user", "domain", *kinds, *COUNTS]
    assert list(dict.fromkeys(ranks["recommender"])) == NAMES
    flags = rows.kinds(dataset.tail["test"]) | {"seen": evaluation.seen_targets(rows, dataset.splits["train"])}
    for _, part in ranks.groupby("recommender"):
        np.testing.assert_array_equal(part["row"], rows.source)
        np.testing.assert_array_equal(part["user"], rows.user)
        for kind in kinds:
            np.testing.assert_array_equal(part[kind], flags[kind])
    assert (ranks["candidates_sampled"] == 49).all() and (ranks["candidates_full"] > 49).all()
    for which in ("sampled", "full"):
        assert (ranks[f"greater_{which}"] + ranks[f"ties_{which}"] <= ranks[f"candidates_{which}"]).all()
    assert (ranks[COUNTS] >= 0).all(axis=None)


def test_metrics_when_recomputed_from_ranks(finished: Run, ranks: pd.DataFrame) -> None:
    stored = stages.load_metrics(finished.folder)
    assert evaluation.metrics(ranks) == stored
    for name in NAMES:
        for d in ("x", "y"):
            part = ranks[(ranks["recommender"] == name) & (ranks["domain"] == d) & ranks["cold"]]
            cell = stored[name][d]["cold"]
            hits = [min(max((10 - g) / (t + 1), 0), 1) for g, t in zip(part["greater_full"], part["ties_full"])]
            assert cell["n"] == len(part) > 0
            assert cell["full"]["HR@10"] == pytest.approx(np.mean(hits), rel=1e-12)


def test_ranks_when_there_is_no_history(ranks: pd.DataFrame) -> None:
    # nobody wins by a fallback: the same popularity for everybody
    bare = ranks[ranks["no_history"]]
    popular, *others = (part[COUNTS].to_numpy() for _, part in bare.groupby("recommender", sort=False))
    assert len(popular) >= 5 and len(others) == len(NAMES) - 1
    for other in others:
        np.testing.assert_array_equal(other, popular)


def test_result_table_when_finished(finished: Run) -> None:
    stored = stages.load_metrics(finished.folder)
    table = stages.result_table(stored, finished.record["names"], "NDCG@10", "full")
    assert table.columns.tolist() == ["domain", "kind", "n", *NAMES]
    kinds = [kind for kind in KINDS if kind != "cold_released"]
    assert table["kind"].tolist() == kinds * 2
    assert table["domain"].tolist() == ["North"] * len(kinds) + ["South"] * len(kinds)
    cell = stored["i2vae"]["y"]["tailed"]
    line = table[(table["domain"] == "South") & (table["kind"] == "tailed")].iloc[0]
    assert line["n"] == cell["n"] and line["i2vae"] == round(100 * cell["full"]["NDCG@10"], 2)


def test_result_table_when_a_kind_is_empty(finished: Run) -> None:
    stored = stages.load_metrics(finished.folder)
    for domains in stored.values():
        domains["x"]["cold"] = {"n": 0} | {
            candidates: dict.fromkeys(domains["x"]["cold"][candidates]) for candidates in ("sampled", "full")
        }
    table = stages.result_table(stored, finished.record["names"])
    line = table[(table["domain"] == "North") & (table["kind"] == "cold")]
    assert len(line) == 1 and line["n"].item() == 0 and line[["i2vae", "oracle"]].isna().all(axis=None)


# --- once, and on where it was ----------------------------------------------------------------------------------------


def test_run_all_when_everything_is_done(
    finished: Run, tiny: Parameters, ranks: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*words: Any, **named: Any) -> None:
        raise AssertionError("done anew")

    for owner, name in ((psg, "fit"), (I2VAERecommender, "fit"), (Popularity, "fit"), (evaluation, "rank")):
        monkeypatch.setattr(owner, name, never)
    monkeypatch.setattr(stages, "load_dataset_once", never)
    monkeypatch.setattr(psg.LightGCNGenerator, "recall", never)
    before = stamps(finished.folder)
    pd.testing.assert_frame_equal(stages.run_all(opened(tiny, finished.folder)), ranks)
    assert stamps(finished.folder) == before  # run.json too: the seconds of a stage are those of the work


def test_run_all_when_no_test_rows_are_kept_is_refused_at_the_start(tiny: Parameters, tmp_path: Path) -> None:
    split = tiny.split.model_copy(update={"test_share": 0.0})
    with pytest.raises(ParameterError, match=r"split\.test_share.*--only-train"):
        stages.run_all(opened(tiny, tmp_path, split=split))
    assert not (tmp_path / "dataset").exists()
    stages.run_all(opened(tiny, tmp_path, split=split.model_copy(update={"test_share": 0.2})))


def test_evaluate_when_it_is_all_that_is_called(finished: Run, tiny: Parameters, tmp_path: Path) -> None:
    stages.evaluate(opened(tiny, tmp_path))
    assert (tmp_path / "metrics.json").read_bytes() == (finished.folder / "metrics.json").read_bytes()


@pytest.mark.parametrize("epochs", [1, 2])
def test_train_when_interrupted_after_an_epoch(finished: Run, tiny: Parameters, tmp_path: Path, epochs: int) -> None:
    def stop(record: Any) -> None:
        if record["epoch"] == epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.train(opened(tiny, tmp_path), on_epoch=stop)
    assert (tmp_path / "last.ckpt").is_file() and not (tmp_path / "model").exists()
    again: list[float] = []
    stages.train(opened(tiny, tmp_path), on_epoch=lambda record: again.append(record["epoch"]))
    assert again == [2.0][epochs - 1 :]  # the epochs that were not done
    stages.run_all(opened(tiny, tmp_path))
    assert (tmp_path / "metrics.json").read_bytes() == (finished.folder / "metrics.json").read_bytes()
    weights = "model/weights.safetensors"
    assert (tmp_path / weights).read_bytes() == (finished.folder / weights).read_bytes()


def test_prepare_when_killed_right_after_saving(
    finished: Run, tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = CrossDomainDataset.save

    def saved_and_killed(dataset: CrossDomainDataset, folder: Path) -> None:
        save(dataset, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CrossDomainDataset, "save", saved_and_killed)
        with pytest.raises(KeyboardInterrupt):
            stages.prepare(opened(tiny, tmp_path))
    run = opened(tiny, tmp_path)
    stages.prepare(run)
    # the finished run was audited again, with what was learnt
    assert len(run.record["audit"]) == len(finished.record["audit"]) - 15
    for name in ("names", "rows", "L80", "removed", "source_sha256", "dataset_sha256"):
        assert run.record[name] == finished.record[name]


def test_evaluate_when_metrics_are_missing(finished: Run, tiny: Parameters, tmp_path: Path) -> None:
    run = opened(tiny, tmp_path)
    stages.evaluate(run)
    (tmp_path / "metrics.json").unlink()
    stages.evaluate(opened(tiny, tmp_path))
    assert (tmp_path / "metrics.json").read_bytes() == (finished.folder / "metrics.json").read_bytes()


def test_load_when_a_stage_is_missing(tiny: Parameters, tmp_path: Path) -> None:
    opened(tiny, tmp_path)
    with pytest.raises(LayoutError, match=r"has no history yet \(no history.parquet\): train it first"):
        stages.load_history(tmp_path)
    with pytest.raises(LayoutError, match=r"has no metrics yet \(no metrics.json\): evaluate it first"):
        stages.load_metrics(tmp_path)


# --- what training may see --------------------------------------------------------------------------------------------


class Stop(Exception):
    """Ends a fit before it begins."""


@pytest.mark.parametrize("kind", [I2VAERecommender, Popularity, ItemKNN, EASE, OrderedCounts])
def test_fit_when_experiments_call_it(
    kind: Any, tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: CrossDomainDataset
) -> None:
    seen: list[Any] = []

    def spy(recommender: Any, *given: Any, **named: Any) -> None:
        seen.extend([*given, *named.values()])
        raise Stop

    monkeypatch.setattr(kind, "fit" if kind is I2VAERecommender else "learn", spy)
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path / "cache"))  # nobody's fit to read back
    stage = stages.train if kind is I2VAERecommender else stages.evaluate
    with pytest.raises(Stop):
        stage(opened(tiny, tmp_path))
    rows = [one for one in seen if isinstance(one, Rows)]
    assert [set(one.user) for one in rows] == [set(dataset.splits[s].user) for s in ("train", "validation")]
    assert not any(set(one.user) & set(dataset.splits["test"].user) for one in rows)
    assert not any(isinstance(one, CrossDomainDataset | Run) for one in seen)


def test_reference_ranks_when_asked_again_are_read_back(
    tiny: Parameters, dataset: CrossDomainDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path))
    table, chosen, found = shared.reference_ranks(dataset, tiny)
    assert [(one["count"], one["severity"]) for one in found] == 10 * [(0, "leak")]  # six counts, four tables
    assert list(chosen) == ["recent_popularity", "itemknn", "ease", "ordered_counts"]
    assert chosen["itemknn"]["shrinkage"] in tiny.references.shrinkage
    with monkeypatch.context() as patch:
        patch.setattr(shared, "references", lambda dataset, p: pytest.fail("fitted again"))
        other_model = tiny.model_copy(update={"seed": 9, "model": tiny.model.model_copy(update={"d": 8})})
        again, same, audited = shared.reference_ranks(dataset, other_model)
        pd.testing.assert_frame_equal(again, table)
        assert same == chosen and audited == found
        with pytest.raises(pytest.fail.Exception, match="fitted again"):
            grid = tiny.references.model_copy(update={"neighbours": (5,)})
            shared.reference_ranks(dataset, tiny.model_copy(update={"references": grid}))


def test_recall_when_the_generator_is_fitted(
    tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: CrossDomainDataset
) -> None:
    def spy(train: Rows, p: Any, cache: Any = None) -> None:
        assert set(train.user) == set(dataset.splits["train"].user) and p.folds == tiny.psg.folds == 2
        raise Stop

    monkeypatch.setattr(psg, "fit_once", spy)
    with pytest.raises(Stop):
        stages.recall(opened(tiny, tmp_path))


def test_recall_when_it_leaks_without_folds_names_them(
    tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"check": "target recalled", "split": "test", "severity": "leak", "count": 3, "share": 0.1, "example": ""}
    monkeypatch.setattr(stages, "recalled", lambda *given: (tmp_path, [found]))
    one = tiny.psg.model_copy(update={"folds": 1, "epochs": 1})
    with pytest.raises(leaks.Leak, match=r"psg\.folds = 1 .* give 2 or more"):
        stages.recall(opened(tiny, tmp_path, psg=one))


def test_recall_when_the_fit_was_made_again(tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(tiny, tmp_path)
    first = stages.recall(run)
    assert stages.recall(run).digest() == first.digest() == run.record["generator_sha256"]
    train = stages.prepare(run).splits["train"]
    other = psg.fit(train.take(np.arange(len(train) - 1)), tiny.psg)
    monkeypatch.setattr(psg, "fit_once", lambda train, p: other)
    with pytest.raises(LayoutError, match="differs from the one whose pseudo-sequences the run holds"):
        stages.recall(run)


def test_train_when_it_was_killed_before_the_model_was_saved(
    tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(tiny, tmp_path)

    def killed(self: I2VAERecommender, folder: Path) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(I2VAERecommender, "save", killed)
        with pytest.raises(Stop):
            stages.train(run)
    stages.train(run)
    checks = [(line["check"], line["split"]) for line in run.record["audit"]]
    assert len(set(checks)) == len(checks) == 41


def test_recall_when_the_protocol_is_released(tiny: Parameters, tmp_path: Path) -> None:
    run = opened(tiny, tmp_path, protocol="released", psg=psg.as_published(tiny.psg))  # as `load` has it
    generator = stages.recall(run)
    assert generator.p == tiny.psg.model_copy(update={"folds": 1, "recall_from": "history_and_target"})
    assert generator.arrays()["final"].shape[0] == 1
    dataset = stages.prepare(run)
    assert dataset.protocol == run.record["protocol"] == "released"
    pseudo = stages.load_pseudo(run.folder)
    for split, rows in dataset.splits.items():
        np.testing.assert_array_equal(pseudo[split], psg.recalled(generator, rows)[0])
        assert (pseudo[split] > 0).any() and not (pseudo[split] == rows.target[:, None]).any()


@pytest.mark.parametrize("protocol", ["strict", "released"])
def test_prepare_when_the_audit_finds_a_leak(
    protocol: str, tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pd.DataFrame([("target in own history", "test", "leak", 3, 0.1, "row 7, user u7")], columns=leaks.COLUMNS)
    monkeypatch.setattr(leaks, "audit", lambda dataset: found)
    run = opened(tiny, tmp_path, protocol=protocol)
    if protocol == "released":
        stages.prepare(run)
        assert run.record["audit"] == found.to_dict(orient="records")
        return
    with pytest.raises(leaks.Leak, match=r"target in own history \(test\): 3, e.g. row 7, user u7"):
        stages.prepare(run)
    assert not (tmp_path / "dataset" / "dataset.json").exists()


def test_checkpoint_when_the_generator_is_another(
    tiny: Parameters, tmp_path: Path, dataset: CrossDomainDataset
) -> None:
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    p = tiny.model_copy(update={"training": tiny.training.model_copy(update={"epochs": 1})})

    def fit(generator: psg.Generator) -> None:
        I2VAERecommender(dataset.catalogue, p).fit(
            train,
            validation,
            params=p,
            generator=generator,
            rng=np.random.default_rng(0),
            callbacks=Callbacks(tmp_path / "last.ckpt"),
        )

    fit(psg.fit(train, p.psg))
    fit(psg.fit(train, p.psg))
    with pytest.raises(LayoutError, match="is a checkpoint of other data, parameters or layout"):
        fit(psg.fit(train.take(np.arange(len(train) - 1)), p.psg))


def test_prepare_when_item_vectors_are_to_come_from_titles_that_are_not_there(
    tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(tiny, tmp_path)
    whole = stages.load_dataset_once
    bare = {d: None for d in DOMAINS}
    monkeypatch.setattr(
        stages,
        "load_dataset_once",
        lambda p: replace(whole(p), catalogue=replace(whole(p).catalogue, titles=bare)),
    )
    run.parameters = run.parameters.model_copy(
        update={"model": run.parameters.model.model_copy(update={"start": "titles"})}
    )
    with pytest.raises(ParameterError, match=r"'model\.start': titles, but .* has none.*titles: book_titles\.csv"):
        stages.prepare(run)
    run.parameters = run.parameters.model_copy(update={"system": "multivae-m"})  # which has no item vectors to start
    stages.prepare(run)
