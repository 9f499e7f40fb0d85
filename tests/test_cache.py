"""Work is done once, never stale, and made anew where it is damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from i2vae_lib import cache, shared
from i2vae_lib.data import CrossDomainDataset, loading
from i2vae_lib.generators import psg
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import CEILINGS, REFERENCES
from i2vae_lib.runs import cache_folder

CODE = ("i2vae_lib.generators.graphs",)


@pytest.fixture
def made() -> list[Path]:
    return []


@pytest.fixture(autouse=True)
def _kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path))


@pytest.fixture
def make(made: list[Path]) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        made.append(folder)
        (folder / "inner").mkdir()
        (folder / "inner" / "table.bin").write_bytes(bytes(range(256)))
        (folder / "about.json").write_text("{}")

    return fill


def test_entry_when_asked_for_again_is_read_back(
    made: list[Path], make: Callable[[Path], None], tmp_path: Path
) -> None:
    first = cache.once("tables", {"a": 1, "b": [2]}, CODE, make)
    assert cache.once("tables", {"b": [2], "a": 1}, CODE, make) == first and made == [first]
    assert first.parent == tmp_path / "tables" and first == cache.entry_folder("tables", {"a": 1, "b": [2]}, CODE)
    cache.once("tables", {"a": 2, "b": [2]}, CODE, make)
    cache.once("others", {"a": 1, "b": [2]}, CODE, make)
    cache.once("tables", {"a": 1, "b": [2]}, ("i2vae_lib.evaluation",), make)
    assert len(set(made)) == len(made) == 4
    assert cache.once("tables", {"a": 1, "b": [2]}, CODE, make) == first and len(made) == 4


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def in_place(path: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda folder: flip(folder / "inner" / "table.bin"),
    "a file cut short": lambda folder: (folder / "inner" / "table.bin").write_bytes(b"\0"),
    "a file is gone": lambda folder: (folder / "about.json").unlink(),
    "a file too many": lambda folder: (folder / ".part").write_text("half"),
    "killed before it was whole": lambda folder: (folder / cache.MANIFEST).unlink(),
    "half a manifest": lambda folder: (folder / cache.MANIFEST).write_text('{"sha256": {'),
    "another manifest": lambda folder: (folder / cache.MANIFEST).write_text("[]"),
    "a deep manifest": lambda folder: (folder / cache.MANIFEST).write_text("[" * 99_999),
    "a manifest of other values": lambda folder: (folder / cache.MANIFEST).write_text('{"sha256": 1}'),
    "a manifest that is no text": lambda folder: (folder / cache.MANIFEST).write_bytes(b"\xff\xfe\xff"),
    "a folder for the manifest": lambda folder: in_place(folder / cache.MANIFEST, Path.mkdir),
    "a pipe for the manifest": lambda folder: in_place(folder / cache.MANIFEST, os.mkfifo),
    "a pipe for the lock": lambda folder: (in_place(folder / ".lock", os.mkfifo), flip(folder / "about.json")),
    "a pipe for a file": lambda folder: in_place(folder / "about.json", os.mkfifo),
    "a pipe for the entry": lambda folder: in_place(folder, os.mkfifo),
    "a folder for the lock": lambda folder: (in_place(folder / ".lock", Path.mkdir), flip(folder / "about.json")),
    "a file for the entry": lambda folder: in_place(folder, Path.touch),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_entry_when_damaged_is_made_anew(
    damage: str, made: list[Path], make: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = cache.once("tables", 0, CODE, make)
    DAMAGE[damage](folder)
    assert cache.once("tables", 0, CODE, make) == folder and made == [folder, folder]
    assert (folder / "inner" / "table.bin").read_bytes() == bytes(range(256)) and not (folder / ".part").exists()
    cache.once("tables", 0, CODE, make)
    assert len(made) == 2


@pytest.mark.parametrize("other", [("tables", 1), ("others", 0)], ids=["another key", "another kind"])
def test_entries_when_exchanged_are_made_anew(
    other: tuple[str, int], made: list[Path], make: Callable[[Path], None]
) -> None:
    folders = [cache.once(*one, CODE, make) for one in (("tables", 0), other)]
    aside = folders[0].rename(folders[0].with_name("aside"))
    folders[1].rename(folders[0])
    aside.rename(folders[1])
    assert [cache.once(*one, CODE, make) for one in (("tables", 0), other)] == folders and made == folders * 2


LINKS = {  # what is made a link: the entry, or something in it
    **{"an entry": "", "its lock": ".lock", "its manifest": cache.MANIFEST},
    **{"a file": "about.json", "a folder": "inner", "a file of another": "another"},
}


@pytest.mark.parametrize("leads_to", ["a folder", "a file", "nothing"])
@pytest.mark.parametrize("link", list(LINKS))
@pytest.mark.parametrize("again", [True, False], ids=["made anew", "cleared"])
def test_entry_when_it_is_or_has_a_link_leaves_what_that_leads_to(
    link: str, leads_to: str, again: bool, make: Callable[[Path], None], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("work", ".lock", cache.MANIFEST, "about.json"):
        (mine / name).write_text("mine")
    target = {"a folder": mine, "a file": mine / "work", "nothing": mine / "absent"}[leads_to]
    folder = cache.once("tables", 0, CODE, make)
    (folder / "another").touch()
    in_place(folder / LINKS[link], lambda path: path.symlink_to(target))
    if again:
        assert cache.once("tables", 0, CODE, make) == folder and not folder.is_symlink()
        assert (folder / "inner" / "table.bin").read_bytes() == bytes(range(256))
    else:
        cache.clear()
    assert {path.name: path.read_text() for path in mine.iterdir()} == dict.fromkeys(
        ("work", ".lock", cache.MANIFEST, "about.json"), "mine"
    )


def test_entry_when_making_fails_is_made_by_the_next_call(
    made: list[Path], make: Callable[[Path], None], tmp_path: Path
) -> None:
    def half(folder: Path) -> None:
        (folder / "inner").mkdir()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        cache.once("tables", 0, CODE, half)
    cache.once("tables", 0, CODE, make)
    assert len(made) == 1


def test_entry_when_wanted_by_several_at_once_is_made_by_one(
    made: list[Path], make: Callable[[Path], None], tmp_path: Path
) -> None:
    def slowly(folder: Path) -> None:
        time.sleep(0.2)
        make(folder)

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: cache.once("tables", 0, CODE, slowly), range(4)))
    assert folders == set(made) and len(made) == 1


# --- the code of an entry ---------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that imports in every way, in the place of the kit."""
    sources = {
        "producer.py": "from i2vae_lib import near\n",
        "near.py": "def f():\n    from i2vae_lib.data.logs.join import (\n        join,\n    )\n",
        "data/__init__.py": "",
        "data/logs/__init__.py": "",
        "data/logs/join.py": "import i2vae_lib.data.deep\nimport numpy as np\n",
        "data/deep.py": "from i2vae_lib.runs import LayoutError\n",
        "runs.py": "from i2vae_lib import apart\n",
        "apart.py": "",
        "__init__.py": "",
    }
    for name, source in sources.items():
        path = tmp_path / "i2vae_lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.setattr(cache, "LIBRARY", tmp_path / "i2vae_lib")
    return tmp_path / "i2vae_lib"


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("producer.py", True),
        ("near.py", True),
        ("data/logs/join.py", True),
        ("data/deep.py", True),
        ("runs.py", False),  # neutral, and nothing is looked for behind it
        ("apart.py", False),
    ],
)
def test_code_when_a_module_is_edited(name: str, counts: bool, library: Path) -> None:
    digest = cache.code_digest.__wrapped__
    before = digest(("i2vae_lib.producer",))
    (library / name).write_text((library / name).read_text() + "# edited\n")
    assert (digest(("i2vae_lib.producer",)) != before) == counts


def test_code_when_a_module_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match=r"i2vae_lib\.no_such_module is no module of the kit"):
        cache.modules_with_imports(("i2vae_lib.no_such_module",))


PRODUCERS = {
    "datasets": (loading.__name__,),
    "generators": (psg.__name__,),
    "recalled": (shared.__name__,),
    "references": (shared.__name__, *(one.__module__ for one in (*REFERENCES.values(), *CEILINGS.values()))),
}


@pytest.mark.parametrize("kind", ["datasets", "references"])  # the latter holds the other two
def test_code_of_a_producer_has_everything_that_python_imports_for_it(kind: str) -> None:
    """Read from the source; held against what a process has imported in the end."""
    script = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    script += "print(json.dumps([name for name in sys.modules if name.startswith('i2vae_lib.')]))"
    words = [sys.executable, "-c", script, *PRODUCERS[kind]]
    done = subprocess.run(words, cwd=cache.LIBRARY.parent, capture_output=True, text=True, check=True)
    inits = [path.parent.relative_to(cache.LIBRARY.parent) for path in cache.LIBRARY.rglob("*/__init__.py")]
    packages = {".".join(folder.parts) for folder in inits}  # a docstring, and lazy names
    imported = set(json.loads(done.stdout)) - cache.NEUTRAL - packages - {"i2vae_lib.recommenders.registry"}
    assert imported and imported <= set(cache.modules_with_imports(PRODUCERS[kind]))


# --- the kit's own entries --------------------------------------------------------------------------------------------


def test_fit_when_a_bit_of_it_is_flipped_is_fitted_anew(
    dataset: CrossDomainDataset, tiny: Parameters, tmp_path: Path
) -> None:
    train, p = dataset.splits["train"], tiny.psg.model_copy(update={"kind": "cooccurrence"})
    first = psg.fit_once(train, p)
    [path] = tmp_path.rglob("generator.safetensors")
    flip(path)
    again = psg.fit_once(train, p)
    assert again.digest() == first.digest()
    for name, table in first.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], table)


def test_reference_ranks_when_a_bit_is_flipped_are_ranked_anew(
    dataset: CrossDomainDataset, tiny: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path))
    before, _, _ = shared.reference_ranks(dataset, tiny)
    [path] = (tmp_path / "references").rglob("ranks.parquet")
    whole = path.read_bytes()
    flip(path)
    after, _, _ = shared.reference_ranks(dataset, tiny)
    assert path.read_bytes() == whole and before.equals(after)


def test_cache_when_cleared_leaves_what_links_lead_to(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ".lock").touch()
    (mine / "work").write_text("mine")
    folder = cache.once("fits", 1, ("i2vae_lib.places",), lambda entry: (entry / "link").symlink_to(mine))
    (folder.parent / ("0" * 64)).symlink_to(mine)
    cache.clear()
    assert (mine / "work").read_text() == "mine" and cache.contents() == []


def test_cache_when_cleared_holds_no_entry_and_all_else(
    make: Callable[[Path], None], made: list[Path], tmp_path: Path
) -> None:
    for key in (1, 2):
        cache.once("tables", key, CODE, make)
    cache.once("firsts", 1, CODE, make)
    for name in ("tables/notes.txt", "pair.csv", "0" * 64 + "/mine/deep", "folder/" + "0" * 64 + "/not_ours"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x" * 10)
    found = cache.contents(["pair.csv", "absent.csv"])
    assert [(kind, entries) for kind, entries, _ in found] == [("firsts", 1), ("tables", 2), ("downloads", 1)]
    assert found[1][2] == 2 * found[0][2] > 512 and found[2][2] == 10
    assert cache.clear() == found[:2] and cache.contents() == []
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4
    cache.once("firsts", 1, CODE, make)
    assert len(made) == 4


def test_cache_folder_when_it_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I2VAE_CACHE_DIR", str(tmp_path / "told"))
    assert cache_folder() == tmp_path / "told"
    monkeypatch.delenv("I2VAE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "i2vae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "i2vae"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match="no home folder for the cache: set I2VAE_CACHE_DIR"):
        cache_folder()
