"""Rows, ragged storage, vocabularies, and the folder that a dataset is kept in."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib.data import DOMAINS, CrossDomainDataset, DataError, Ragged, load_dataset, load_dataset_once, loading
from i2vae_lib.data.dataset import read_catalogue, save_catalogue
from i2vae_lib.data.rows import among, distinct, interactions, located, popularity
from i2vae_lib.params import load
from i2vae_lib.runs import LayoutError

REPEATED = settings(max_examples=60, deadline=None, derandomize=True, database=None)
LISTS = st.lists(st.lists(st.integers(1, 30), max_size=7), min_size=1, max_size=12)


@pytest.fixture
def saved(dataset, tmp_path):
    dataset.save(tmp_path)
    return tmp_path


def as_lists(ragged: Ragged) -> list[list[int]]:
    return [ragged[i].tolist() for i in range(len(ragged))]


NUMBERS = st.lists(st.integers(-40, 40), max_size=30).map(lambda found: np.array(found, dtype=np.int64))


@given(NUMBERS, NUMBERS.filter(lambda found: len(found) % 2 == 0))
@REPEATED
def test_numbers_when_looked_up_are_found_where_lists_have_them(held, wanted):
    keys = distinct(held)
    assert keys.tolist() == sorted(set(held.tolist()))
    at, there = located(keys, wanted.reshape(-1, 2))
    assert at.shape == there.shape == (len(wanted) // 2, 2)
    assert there.ravel().tolist() == among(wanted, held).tolist() == [one in held.tolist() for one in wanted.tolist()]
    assert keys[at[there]].tolist() == wanted.reshape(-1, 2)[there].tolist()


@given(LISTS, st.data())
@REPEATED
def test_ragged_when_taken_from_equals_lists(lists, data):
    index = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=15))
    found = Ragged.from_lists(lists).take(np.array(index, dtype=int))
    assert as_lists(found) == [lists[i] for i in index]


@given(LISTS, st.integers(0, 30))
@REPEATED
def test_ragged_when_values_are_dropped_keeps_the_order_of_the_rest(lists, least):
    ragged = Ragged.from_lists(lists)
    assert as_lists(ragged.keep(ragged.values > least)) == [[i for i in one if i > least] for one in lists]


@given(LISTS, st.integers(1, 9))
@REPEATED
def test_ragged_last_when_cut_pads_on_the_left(lists, width):
    columns = max(1, min(width, max(map(len, lists))))
    expected = [[0] * (columns - len(one[-width:])) + one[-width:] for one in lists]
    assert Ragged.from_lists(lists).last(width).tolist() == expected


def test_ragged_when_stored_holds_no_padding():
    ragged = Ragged.from_lists([[3, 4, 5], [], [7]])
    assert (ragged.values.tolist(), ragged.offsets.tolist()) == ([3, 4, 5, 7], [0, 3, 3, 4])
    assert (ragged.values.dtype, ragged.offsets.dtype) == (np.int32, np.int64)
    assert ragged.owner.tolist() == [0, 0, 0, 2]


def test_dataset_when_saved_and_loaded_is_equal(dataset, saved):
    found = CrossDomainDataset.load(saved)
    assert found.fingerprint() == dataset.fingerprint()
    for name in ("name", "protocol", "data_seed", "source_sha256", "tail", "removed"):
        assert getattr(found, name) == getattr(dataset, name)
    assert set(found.truth) == set(dataset.truth)
    for key, array in dataset.truth.items():
        np.testing.assert_array_equal(found.truth[key], array)
    for d in DOMAINS:
        assert found.catalogue.titles[d].tolist() == dataset.catalogue.titles[d].tolist()
    assert found.catalogue.digest() == dataset.catalogue.digest()


def test_rows_when_saved_and_loaded_are_equal_array_by_array(dataset, saved):
    for split, rows in CrossDomainDataset.load(saved).splits.items():
        before = dataset.splits[split]
        for name in ("user", "domain", "target", "source"):
            assert getattr(rows, name).dtype == getattr(before, name).dtype
            np.testing.assert_array_equal(getattr(rows, name), getattr(before, name))
        for one, other in [(rows.excluded, before.excluded), *((rows.history[d], before.history[d]) for d in DOMAINS)]:
            assert as_lists(one) == as_lists(other)


def test_dataset_folder_when_written_is_parquet_without_padding(dataset, saved):
    expected = {"items_x", "items_y", "links", "train", "validation", "test", "users", "events_x", "events_y"}
    assert {path.stem for path in saved.glob("*.parquet")} == expected
    table = pq.read_table(saved / "train.parquet")
    for d in DOMAINS:
        flat = table[f"history_{d}"].combine_chunks().flatten().to_numpy()
        assert (len(flat), flat.min()) == (dataset.splits["train"].history[d].lengths.sum(), 1)


def test_fingerprint_when_one_item_changes_is_another(dataset):
    rows = dataset.splits["test"]
    target = rows.target.copy()
    target[-1] = target[-1] % 100 + 1
    changed = replace(dataset, splits={**dataset.splits, "test": replace(rows, target=target)})
    assert changed.fingerprint() != dataset.fingerprint()


def test_fingerprint_when_an_id_or_a_link_changes_is_another(dataset):
    before = dataset.catalogue
    ids = {**before.ids, "y": np.append(before.ids["y"][:-1], "renamed")}
    for catalogue in (replace(before, ids=ids), replace(before, links=before.links[1:])):
        assert replace(dataset, catalogue=catalogue).fingerprint() != dataset.fingerprint()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_dataset_when_a_stored_value_was_altered_is_refused(dataset, saved, split):
    table = pq.read_table(saved / f"{split}.parquet")
    at = table.column_names.index("target")
    targets = table["target"].to_numpy().copy()
    targets[0] = targets[0] % 100 + 1
    pq.write_table(table.set_column(at, table.schema.field(at), [targets]), saved / f"{split}.parquet")
    with pytest.raises(LayoutError, match="do not match the fingerprint"):
        CrossDomainDataset.load(saved)


@pytest.mark.parametrize(
    "name", ["train.parquet", "items_y.parquet", "links.parquet", "truth.npz", "dataset.json", "test.parquet"]
)
def test_dataset_when_a_file_is_cut_is_refused(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(LayoutError, match="damaged"):
        CrossDomainDataset.load(saved)


def test_dataset_when_a_file_is_gone_is_refused_by_name(saved):
    (saved / "validation.parquet").unlink()
    with pytest.raises(LayoutError, match=r"damaged.*validation\.parquet"):
        CrossDomainDataset.load(saved)


def test_dataset_when_it_has_another_layout_is_refused(saved):
    header = json.loads((saved / "dataset.json").read_text())
    (saved / "dataset.json").write_text(json.dumps(header | {"layout": 99}))
    with pytest.raises(LayoutError, match="dataset layout 99, this version reads 3"):
        CrossDomainDataset.load(saved)


def test_dataset_when_the_folder_holds_none_is_refused(tmp_path):
    with pytest.raises(LayoutError, match=r"no dataset\.json"):
        CrossDomainDataset.load(tmp_path)


def test_data_when_its_name_is_unknown_suggests_the_nearest():
    with pytest.raises(DataError, match="did you mean 'cloth_sport'"):
        load_dataset(load("smoke", data="cloth_sports"))


@pytest.mark.parametrize("domain", DOMAINS)
def test_vocabulary_when_encoded_and_decoded_gives_the_ids_back(dataset, domain):
    ids = dataset.catalogue.ids[domain]
    items = dataset.catalogue.encode(domain, ids)
    assert items.tolist() == list(range(1, len(ids) + 1))
    assert dataset.catalogue.decode(domain, items).tolist() == ids.tolist()


def test_vocabulary_when_an_id_is_unknown_names_it(dataset):
    with pytest.raises(DataError, match=r"ids 'nonsense', 'y11' are not in the .* domain x.*; 2 of 3 ids are unknown"):
        dataset.catalogue.encode("x", ["s0", "nonsense", "y11"])


@pytest.mark.parametrize("item", [0, -1, 121])
def test_vocabulary_when_an_item_number_is_outside_is_an_error(dataset, item):
    with pytest.raises(DataError, match="1…120"):
        dataset.catalogue.decode("x", np.array([1, item]))


def test_catalogue_when_saved_beside_a_model_is_read_back_equal(dataset, tmp_path):
    save_catalogue(dataset.catalogue, tmp_path)
    found = read_catalogue(tmp_path)
    assert (found.digest(), found.names) == (dataset.catalogue.digest(), dict(dataset.catalogue.names))
    assert found.titles["y"].tolist() == dataset.catalogue.titles["y"].tolist()


def test_catalogue_when_one_title_is_long_is_no_larger_than_its_text(dataset, tmp_path):
    titles = {d: np.array([f"title {i}" for i in range(len(dataset.catalogue.ids[d]))], dtype=object) for d in DOMAINS}
    titles["x"][3] = "".join(map(chr, np.random.default_rng(0).integers(97, 123, size=100_000)))
    save_catalogue(replace(dataset.catalogue, titles=titles), tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 150_000
    assert read_catalogue(tmp_path).titles["x"].tolist() == titles["x"].tolist()


def test_links_when_looked_up_from_both_sides_agree(dataset):
    there, back = dataset.catalogue.linked("x"), dataset.catalogue.linked("y")
    linked = np.flatnonzero(there)
    assert len(linked) == len(dataset.catalogue.links) == 20
    assert back[there[linked]].tolist() == linked.tolist()
    assert dataset.catalogue.decode("x", linked).tolist() == dataset.catalogue.decode("y", there[linked]).tolist()


def test_interactions_when_counted_slowly_are_the_same_pairs(dataset):
    rows = dataset.splits["validation"]
    expected = {d: set() for d in DOMAINS}
    for row in range(len(rows)):
        for d in DOMAINS:
            expected[d] |= {(rows.user[row], int(item)) for item in rows.history[d][row]}
        expected[DOMAINS[rows.domain[row]]].add((rows.user[row], int(rows.target[row])))
    users = list(dict.fromkeys(rows.user))
    for d, (at, items) in interactions(rows).items():
        pairs = [(users[u], int(i)) for u, i in zip(at, items, strict=True)]
        assert len(pairs) == len(expected[d]) and set(pairs) == expected[d]
        taken = np.bincount([i for _, i in expected[d]], minlength=rows.catalogue.size(d) + 1)
        assert popularity(rows)[d].tolist() == taken.tolist()


def test_kinds_when_told_slowly_are_the_same(dataset):
    rows, tail = dataset.splits["test"], dataset.tail["test"]
    kinds = rows.kinds(tail)
    for row in range(len(rows)):
        d = DOMAINS[rows.domain[row]]
        own, opposite = len(rows.history[d][row]), len(rows.history["y" if d == "x" else "x"][row])
        expected = {
            "all": True,
            "cold": own == 0 and opposite > 0,
            "no_history": own == 0 and opposite == 0,
            "overlapping": own > 0 and opposite > 0,
            "cold_released": own == 0,
            "tailed": own < tail[d],
            "tailed_warm": 0 < own < tail[d],
        }
        assert {kind: bool(mask[row]) for kind, mask in kinds.items()} == expected
    assert all(kinds[kind].any() for kind in expected)  # the world has every kind


def test_dataset_when_asked_for_twice_is_built_once(tiny, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path))
    first = load_dataset_once(tiny)
    assert first.fingerprint() == dataset.fingerprint()
    monkeypatch.setattr(loading, "load_dataset", lambda p: pytest.fail("built again"))
    assert load_dataset_once(tiny.model_copy(update={"seed": 7})).fingerprint() == dataset.fingerprint()
    other = tiny.model_copy(update={"controls": tiny.controls.model_copy(update={"density": 0.5})})
    with pytest.raises(pytest.fail.Exception):
        load_dataset_once(other)


def test_shared_dataset_when_damaged_is_built_anew(tiny, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path))
    load_dataset_once(tiny)
    [shared] = (tmp_path / "datasets").glob("*/train.parquet")
    shared.write_bytes(b"half")
    assert load_dataset_once(tiny).fingerprint() == dataset.fingerprint()
    assert shared.stat().st_size > 100
