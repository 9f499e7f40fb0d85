"""Item vectors that no row tells: of titles by hand, given ones back, what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from i2vae_lib.data.rows import Catalogue, DataError
from i2vae_lib.generators.features import given_vectors, title_vectors, write_vectors
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.params import ParameterError, load
from tests.helpers.worlds import TINY


def catalogue(x: list[str] | None, y: list[str] | None) -> Catalogue:
    """Four items of X, three of Y; the first of each is one product."""
    ids = {"x": np.array(["a", "b", "c", "d"], dtype=object), "y": np.array(["p", "q", "r"], dtype=object)}
    titles = {
        "x": None if x is None else np.array(x, dtype=object),
        "y": None if y is None else np.array(y, dtype=object),
    }
    return Catalogue({"x": "X", "y": "Y"}, ids, np.array([[1, 1]], dtype=np.int32), titles)


def test_title_vectors_when_words_are_shared() -> None:
    """Cosines of tf-idf, by hand; words of one title alone do not count."""
    pair = catalogue(["Red Shoe", "red  hat!", "blue hat", "unique"], ["Red Shoe", "BLUE shoe shoe", "odd"])
    found, unified = title_vectors(pair, 5), Unified(pair)
    words = {"red": 2, "shoe": 2, "hat": 2, "blue": 2}  # titles of unified items that have it
    texts = [["red", "shoe"], ["red", "hat"], ["blue", "hat"], [], ["blue", "shoe", "shoe"], []]
    table = np.zeros((6, 4))
    for i, text in enumerate(texts):
        for j, word in enumerate(words):
            if word in text:
                table[i, j] = (1 + np.log(text.count(word))) * np.log(6 / words[word])
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    expected = table @ table.T / np.square(table).sum(axis=1).mean()
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-5)
    assert unified.size == 6 and found.shape == (6, 5) and not found[[3, 5]].any()


def test_title_vectors_when_there_are_none() -> None:
    with pytest.raises(ParameterError, match=r"'model.start': titles, but no two items"):
        title_vectors(catalogue(None, ["one", "two", "three"]), 4)


def test_given_vectors_when_written_and_read(tmp_path: Path) -> None:
    rng, pair = np.random.default_rng(0), catalogue(None, None)
    x = pd.DataFrame(rng.normal(size=(3, 3)), index=["b", "d", "not here"])
    y = pd.DataFrame(rng.normal(size=(2, 3)), index=["q", "p"])
    write_vectors({"X": x, "Y": y}, tmp_path / "v.parquet")
    found = given_vectors(tmp_path / "v.parquet", pair, 5)
    table = np.zeros((6, 3))
    table[[1, 3]], table[[4, 0]] = x.to_numpy()[:2], y.to_numpy()
    table /= np.sqrt(np.square(table).sum(axis=1).mean())
    np.testing.assert_allclose(found, np.pad(table, ((0, 0), (0, 2))), atol=1e-6)
    narrow = given_vectors(tmp_path / "v.parquet", pair, 2)
    values, directions = np.linalg.eigh(table @ table.T)  # the nearest that two numbers can come
    nearest = (directions[:, -2:] * values[-2:]) @ directions[:, -2:].T
    scale = np.trace(nearest) / 6
    np.testing.assert_allclose(narrow @ narrow.T, nearest / scale, atol=1e-5)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"domain": ["X"], "item": ["a"]}), "column 'vector' is missing"),
        (pd.DataFrame({"domain": ["X"] * 2, "item": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), "vectors of 1 and 2"),
        (pd.DataFrame({"domain": ["X"], "item": ["a"], "vector": [[np.nan]]}), "the vector of 'a' is not finite"),
        (pd.DataFrame({"domain": ["X"], "item": ["z"], "vector": [[1.0]]}), "none of its 1 items is an item"),
        (pd.DataFrame({"domain": ["Z"], "item": ["a"], "vector": [[1.0]]}), "unknown domain 'Z'"),
    ],
)
def test_given_vectors_when_the_file_is_bad(table: pd.DataFrame, said: str, tmp_path: Path) -> None:
    table.to_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=said):
        given_vectors(tmp_path / "v.parquet", catalogue(None, None), 4)


def test_load_when_vectors_and_start_do_not_go_together() -> None:
    for values in ({"model.start": "given"}, {"model.vectors": "v.parquet"}):
        with pytest.raises(ParameterError, match=r"'model.vectors'"):
            load("smoke", TINY | values)


def test_vectors_when_a_file_is_missing() -> None:
    with pytest.raises(DataError, match=r"'model.vectors': no file nowhere.parquet"):
        given_vectors("nowhere.parquet", catalogue(None, None), 4)
