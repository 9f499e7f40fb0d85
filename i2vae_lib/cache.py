"""Work that is done once: stored in a folder named by what it depends on, and read back when asked for again.

The name is the SHA-256 of a key and of the code that makes the entry, so an entry is never stale; every file's SHA-256
is kept beside it, so a damaged entry is made anew.
"""

import ast
import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from i2vae_lib.runs import cache_folder, read_json, sha256_of, write_json

LIBRARY = Path(__file__).parent
# No entry depends on the code of these (names, folders, bars, files, who trains). Parameters enter keys by value.
NEUTRAL = frozenset(
    f"i2vae_lib.{name}" for name in ("cache", "lazy", "params", "places", "processes", "progress", "runs", "yaml_files")
)

MANIFEST = "entry.json"
_LOCK = ".lock"


def once(kind: str, key: Any, code: tuple[str, ...], make: Callable[[Path], object]) -> Path:
    """The folder of an entry, made if it is missing or damaged. If two processes want it at once, one makes it.

    Parameters
    ----------
    kind
        Name of the folder of all entries of the kind.
    key
        Everything that the entry depends on apart from code, as JSON.
    code
        The modules that make it, by full name; the kit's modules that they import, at any depth, count too.
    make
        Fills the folder.
    """
    folder = entry_folder(kind, key, code)
    try:
        if folder.is_symlink() or not folder.is_dir():
            _remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise OSError(
            f"the cache {folder} cannot be made ({error.strerror}): set I2VAE_CACHE_DIR to a folder that can be written"
        ) from error
    with lock:
        if not _is_whole(folder):
            for path in folder.iterdir():  # damaged, or left by a killed call
                if path.name != _LOCK:
                    _remove(path)
            make(folder)
            # written last: its presence means that the rest is whole
            write_json(folder / MANIFEST, _manifest(folder))
    return folder


def entry_folder(kind: str, key: Any, code: tuple[str, ...]) -> Path:
    """Where :func:`once` keeps an entry."""
    text = json.dumps([key, code_digest(code)], sort_keys=True)
    return cache_folder() / kind / hashlib.sha256(text.encode()).hexdigest()


def contents(downloads: Collection[str] = ()) -> list[tuple[str, int, int]]:
    """The cache's entries by kind: (name, count, bytes); files named in ``downloads`` are the kind ``downloads``."""
    sizes_of: dict[str, list[int]] = {}
    for kind, path in _entries(downloads):
        files = [file for file in [path, *path.rglob("*")] if file.is_file()]
        sizes_of.setdefault(kind, []).append(sum(file.stat().st_size for file in files))
    return [(kind, len(sizes), sum(sizes)) for kind, sizes in sizes_of.items()]


def clear(downloads: Collection[str] = ()) -> list[tuple[str, int, int]]:
    """Remove every entry, and nothing else; returns :func:`contents` from before.

    Waits for entries that another process is working on.
    """
    before = contents(downloads)
    for _, path in list(_entries(downloads)):
        if path.is_dir() and not path.is_symlink():
            with _lock(path):
                (path / MANIFEST).unlink(missing_ok=True)  # first: without it the rest is no entry
        _remove(path)
    return before


def _remove(path: Path) -> None:
    """Remove a file, a folder or a link: what a link leads to is not the cache's."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lock(folder: Path) -> FileLock:
    """The lock of an entry; what else is in its place is removed, since locking may empty what a link leads to."""
    path = folder / _LOCK
    if path.is_symlink() or path.is_dir():
        _remove(path)
    path.touch()
    return FileLock(path)


def _entries(downloads: Collection[str]) -> Iterator[tuple[str, Path]]:
    """Kind and path of each entry, kinds in order."""
    folder = cache_folder()
    for path in sorted(folder.glob("*/*")):
        if re.fullmatch("[0-9a-f]{64}", path.name) and (path / _LOCK).is_file():
            yield path.parent.name, path
    yield from (("downloads", folder / name) for name in downloads if (folder / name).is_file())


def _is_whole(folder: Path) -> bool:
    try:
        # nothing but a file is opened: a pipe would be waited for
        return (folder / MANIFEST).is_file() and read_json(folder / MANIFEST) == _manifest(folder)
    except (OSError, ValueError):
        return False


def _manifest(folder: Path) -> dict[str, Any]:
    """Which entry a folder is, so that no other is taken in its place, and what its files hold."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (MANIFEST, _LOCK)]
    sha256 = {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
    return {"entry": f"{folder.parent.name}/{folder.name}", "sha256": sha256}


@functools.cache
def code_digest(modules: tuple[str, ...]) -> str:
    """SHA-256 of the source of :func:`modules_with_imports`, as it stood when the process first asked."""
    digest = hashlib.sha256()
    for name, path in sorted(modules_with_imports(modules).items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def modules_with_imports(modules: tuple[str, ...]) -> dict[str, Path]:
    """These modules and the kit's modules that they import, at any depth, without :data:`NEUTRAL`: name -> file."""
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in files or name in NEUTRAL:
            continue
        path = _file_of(name)
        if path is None:
            raise ValueError(f"{name} is no module of the kit")
        files[name] = path
        waiting += _imported(path)
    return files


def _file_of(name: str) -> Path | None:
    base = LIBRARY.joinpath(*name.split(".")[1:])
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _imported(path: Path) -> Iterator[str]:
    """Modules of the kit that a file imports, at top level or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == LIBRARY.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == LIBRARY.name:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if _file_of(submodule) else str(node.module)
