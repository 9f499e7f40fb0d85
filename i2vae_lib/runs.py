"""The run directory: written atomically, read back, refused where it does not fit.

``runs/<name>/`` is the only thing that passes between two notebooks, two processes or two machines.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from i2vae_lib.params import Parameters, default_of, digest, of_result, pair_name
from i2vae_lib.places import Refusal, not_utf8, runs_folder
from i2vae_lib.processes import peak_memory_bytes, return_freed_memory, usable_cores

RUN_LAYOUT = 3
# most characters of a folder's name that spell out changed parameters; longer ones are named by their digest
_LONGEST_CHANGE = 60

_FOLDERS = ("dataset", "model")
# results of the stages in a run directory, beside checkpoints and `run.json`, which has the SHA-256 of each file
RESULTS = ("dataset", "pseudo.parquet", "model", "history.parquet", "ranks.parquet", "metrics.json")


# what a run's folder may hold before its record, once it is locked: the engine of cells and the facade write there
_BEGUN = re.compile(r"\.(cell\.)?lock|\..*\.part|log\.txt|logs|vectors\.parquet")
# what :func:`write_atomically` leaves in a run when it is killed, of the files that are written under the run's lock
_PART = re.compile(r"\.(run\.json|metrics\.json|last.*\.ckpt|(pseudo|history|ranks)\.parquet)\.[0-9a-f]{16}\.part")


class LayoutError(Refusal):
    """A folder of another layout version, or one that was made with other data or parameters."""


class Damaged(LayoutError):
    """A file that differs from what the run wrote: cut short, changed, lost, or from another run."""


def _check_layout(what: str, found: Any, known: int, remedy: str = "") -> None:
    """Refuse any layout but this version's. ``remedy`` is for older layouts; newer ones need an upgrade.

    Raises
    ------
    LayoutError
        Says which layout, and what to do.
    """
    if found == known:
        return
    newer = isinstance(found, int) and found > known
    advice = "it was made by a newer version of the kit: upgrade i2vae-kit" if newer else remedy
    raise LayoutError(f"{what} layout {found}, this version reads {known}" + (f": {advice}" if advice else ""))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a file beside ``path``, then rename it, so that a full disk or a kill leaves the previous state.

    The file is flushed to the disk before the rename.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, where a file belongs: move it away, or name another file")
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        part.touch(exist_ok=False)
        mode = part.stat().st_mode  # as the user's umask has it; a library may write the file with other rights
        write(part)
        part.chmod(mode)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    except Exception as error:
        if isinstance(error, ValueError | TypeError | LookupError | ArithmeticError):  # the contents are at fault
            raise
        # libraries report a full disk by errors of their own, without the path, some while they handle the system's
        told = [reason for one in (error, error.__context__) if (reason := getattr(one, "strerror", None))]
        why = told[0] if told else f"{type(error).__name__}: {_first_line(error)}"
        raise OSError(
            f"{path} could not be written ({why}): what was there before is whole; with room for it and the right to "
            f"write there the same command goes on"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


_NO_ROOM = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


def no_room(told: str) -> str:
    """The system's words for a full disk, if a message holds them, whoever wrote it; "" otherwise."""
    return next((words for words in _NO_ROOM if words in told), "")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write strict JSON (no NaN) atomically."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def make_folder(out: Path) -> None:
    """Make a folder of results if it is missing."""
    refuse_file(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{out} cannot be a folder of results ({error.strerror}): choose another OUT") from error


def refuse_file(out: Path) -> None:
    """Refuse a file, or what lies in one, as a folder of results."""
    there = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise NotADirectoryError(f"{out} cannot be a folder of results ({there} is a file): choose another OUT")


def claim(folder: Path) -> None:
    """Make a folder the run's own by a lock file: an empty or missing one, or that of a run that was begun.

    Raises
    ------
    LayoutError
        It holds other files and no run.
    """
    make_folder(folder)
    held = {one.name for one in folder.iterdir()}
    if not held.isdisjoint((".lock", ".cell.lock")):
        held = {name for name in held if not _BEGUN.fullmatch(name)}
    refuse_others(folder, held, "run.json", "run")
    if (folder / "run.json").is_file():
        read_record(folder)  # somebody else's is refused before anything is written beside it
    if (folder / ".lock").is_dir():
        raise LayoutError(f"{folder / '.lock'} is a folder, where a run has a file: remove it, or choose another OUT")
    (folder / ".lock").touch()


def refuse_others(folder: Path, held: Collection[str], mark: str, what: str) -> None:
    """Refuse a folder that holds files without the one by which it is ours.

    Raises
    ------
    LayoutError
    """
    # looked for last: another process that begins here may have made it since its folder was listed
    if held and not (folder / mark).exists():
        listed = ", ".join(sorted(held)[:6]) + ", …" * (len(held) > 6)
        raise LayoutError(
            f"{folder} holds other files ({listed}) but no {mark}, so it is no {what}: choose an OUT that is new or "
            f"empty, or put the {what}'s own {mark} back"
        )


def check_outside_runs(out: Path) -> None:
    """Refuse to write into a run: its own files tell what it is.

    Raises
    ------
    LayoutError
    """
    for folder in out.resolve().parents:
        if (folder / "run.json").is_file():
            raise LayoutError(f"{out} lies inside the run {folder}: choose a folder outside it")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it becomes ``path`` on success and is removed on failure.

    Raises
    ------
    LayoutError
        ``path`` exists.
    OSError
        The disk is full.
    """
    if os.path.lexists(path):  # a symlink to nothing too
        raise LayoutError(f"{path} exists: choose another folder")
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(path)
    except Exception as error:
        if why := no_room(str(error)):  # copying names what it read, or the part
            raise OSError(
                f"{path} could not be written ({why}): nothing of it is left; with room for it the same command goes on"
            ) from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def reading(path: Path, remedy: str = "delete it and make it anew") -> Iterator[None]:
    """Turn any error from reading a file into one that names the file and says what to do.

    Raises
    ------
    Damaged
    """
    try:
        yield
    except (LayoutError, PermissionError):
        raise
    except Exception as error:
        raise Damaged(f"{path} is damaged ({type(error).__name__}: {_first_line(error)}): {remedy}") from error


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0][:200]
    return "it holds more than tensors" if "weights_only" in line else line  # torch's advice is to execute the file


def read_json(path: Path, remedy: str = "delete it and make it anew") -> dict[str, Any]:
    """Read a file that holds one object in strict JSON: in UTF-8, or in UTF-16 or 32, as editors on Windows save it.

    Raises
    ------
    Damaged
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    with reading(path, remedy):
        held = path.read_bytes()
        try:
            content = json.loads(held.decode(json.detect_encoding(held)), parse_constant=refuse)
        except UnicodeDecodeError as error:
            raise ValueError(not_utf8(error.object)) from None
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, found {type(content).__name__}")
        return content


def read_header(path: Path, what: str, layout: int, remedy: str = "delete it and make it anew") -> dict[str, Any]:
    """The JSON file that says what its folder holds.

    Raises
    ------
    LayoutError
        It is missing, damaged, or of another layout version.
    """
    if not path.is_file():
        raise LayoutError(f"{path.parent} holds no {what} (no {path.name})")
    header = read_json(path, remedy)
    _check_layout(f"{path.parent} has {what}", header.get("layout"), layout, remedy)
    return header


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(4096)
def _sha256_of_state(path: Path, *state: int) -> str:
    return sha256_of(path)


def _sha256_once(path: Path) -> str:
    """:func:`sha256_of`, computed once per process while the file stays as it is."""
    state = path.stat()
    return _sha256_of_state(path.absolute(), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def cache_folder() -> Path:
    """Where downloads and fits are kept: ``I2VAE_CACHE_DIR``, else ``i2vae`` in the user's cache folder."""
    if folder := os.environ.get("I2VAE_CACHE_DIR"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "i2vae"
    except RuntimeError:  # a user without a home, as in some containers
        raise OSError("you have no home folder for the cache: set I2VAE_CACHE_DIR to a folder") from None


def environment() -> dict[str, str]:
    """The versions and revision that a result depends on, and the number of threads, which its timings depend on."""
    versions = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in ("i2vae-kit", "torch", "numpy", "scipy", "pandas"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    versions["threads"] = os.environ.get("OMP_NUM_THREADS") or str(usable_cores())
    versions["git"] = revision()
    return versions


@cache
def revision() -> str:
    """The commit of this checkout when the process first asked; ``unknown`` without git.

    Ends in ``-dirty`` if library, parameters or tools were changed since. Pages and kept tables do not count: no
    number comes from them, and a study may write them while its next part runs.
    """

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        sources = [f":/{name}" for name in ("i2vae_lib", "params", "tools")]
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no", "--", *sources) else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def committed_path(name: str) -> Path:
    """``docs/results/NAME.csv`` of this checkout, or the copy of it in an installed wheel."""
    inside = Path(__file__).parent / "kept_tables"
    return (inside if inside.is_dir() else Path(__file__).parents[1] / "docs" / "results") / f"{name}.csv"


def default_folder(p: Parameters, ignored: Collection[str] = ()) -> Path:
    """Default folder of a run: inside :func:`i2vae_lib.places.runs_folder`, named by its parameters.

    ``DATA-PROTOCOL-PRESET[-SYSTEM]-seedN``, then ``+KEY=VALUE`` for what differs from the preset (without the groups
    in ``ignored``). If that is too long, or unfit for a file name: ``+`` and 8 hex digits of the identity.
    """
    data = pair_name(p.data)
    system = "" if p.system == "i2vae" else f"-{p.system}"
    silent = {"data", "protocol", "system", "seed", *ignored}  # the first four stand there already
    changes = [(key, value) for key, value in p.changed.items() if key.split(".")[0] not in silent]
    words = "".join(f"+{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changes)
    if len(words) > _LONGEST_CHANGE or not re.fullmatch(r"[\w.=+-]*", words, re.ASCII):
        words = f"+{digest(of_result(p.model_dump(mode='json'), ignored))[:8]}"
    return runs_folder() / f"{data}-{p.protocol}-{p.preset}{system}-seed{p.seed}{words}"


class Run:
    """A run directory opened for one set of parameters.

    Each stage holds ``lock`` while it checks and works, so that two processes on one folder do not do the same work
    twice.

    Parameters
    ----------
    parameters
        The resolved parameters. A folder that was made with others is refused.
    folder
        Created if missing; None: ``parameters.out``, else :func:`default_folder`.
    ignored
        Groups of parameters that may differ from those that the folder was made with.

    Raises
    ------
    LayoutError
        The folder was made with other parameters (all that differ are named) or by another layout version, or holds
        files and no run.
    """

    def __init__(self, parameters: Parameters, folder: Path | str | None = None, ignored: tuple[str, ...] = ()):
        self.folder = Path(folder or parameters.out or default_folder(parameters, ignored))
        claim(self.folder)
        self.parameters = parameters
        self.lock = FileLock(self.folder / ".lock")
        asked = parameters.model_dump(mode="json")
        begun = {"layout": RUN_LAYOUT, "parameters": asked, "environment": environment(), "stages": {}, "sha256": {}}
        with self.lock:
            for path in self.folder.iterdir():
                if _PART.fullmatch(path.name) and path.is_file():
                    path.unlink()
            self.record = read_record(self.folder) if (self.folder / "run.json").is_file() else {}
            if self.record.keys() > begun.keys():
                both = (self.record["parameters"], asked)
                refuse_changes(self.folder, *(flatten(of_result(one, ignored)) for one in both))
            else:  # new, or stopped before it made anything
                self.record = begun
                self.note()

    def refresh(self) -> None:
        """Read ``run.json`` again: another process may have added to it."""
        self.record = read_record(self.folder)

    def note(self, **entries: Any) -> None:
        """Add entries to ``run.json``."""
        self.record |= entries
        with self.lock:
            write_record(self.folder, self.record)

    def leave(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file or folder of the run with ``write``, and record its SHA-256 in ``run.json``.

        The file gets its final name last, so whatever has that name is whole and recorded.
        """
        target = self.folder / name

        def recorded(part: Path) -> None:
            write(part)
            paths = [path for path in sorted(part.rglob("*")) if path.is_file()] if part.is_dir() else [part]
            own = {(Path(name) / path.relative_to(part)).as_posix(): sha256_of(path) for path in paths}
            others = {key: sha256 for key, sha256 in self.record["sha256"].items() if not _is_of(key, name)}
            self.note(sha256=others | own)

        if name in _FOLDERS:
            shutil.rmtree(target, ignore_errors=True)
            with new_folder(target) as part:
                recorded(part)
        else:
            write_atomically(target, recorded)

    def check_dataset(self, fingerprint: str) -> None:
        """Record the dataset's fingerprint, or refuse one that differs from the recorded one."""
        known = self.record.get("dataset_sha256")
        if known is not None and known != fingerprint:
            raise LayoutError(
                f"{self.folder} was made with another dataset (SHA-256 {known[:12]}…, now {fingerprint[:12]}…): "
                f"choose another OUT, or delete the folder"
            )
        if known is None:
            self.note(dataset_sha256=fingerprint)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage. If it succeeds, its seconds, peak memory and revision go into ``run.json``."""
        start = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - start, 2)
        earlier = self.record["stages"].get(name, {"seconds": 0.0, "peak_memory_bytes": 0})
        self.record["stages"][name] = {
            "seconds": round(earlier["seconds"] + seconds, 2),
            "peak_memory_bytes": max(earlier["peak_memory_bytes"], peak_memory_bytes()),
            "revision": revision(),  # a run may be begun at one and end at another
        }
        self.note()
        return_freed_memory()

    def forget(self, *stages: str) -> None:
        """Drop the recorded times of stages that start again from the beginning."""
        for name in stages:
            self.record["stages"].pop(name, None)

    def took_at_least(self, name: str, seconds: float) -> None:
        """Raise a stage's time to what its result records, since a resumed stage is timed from its last start only."""
        stage = self.record["stages"][name]
        stage["seconds"] = max(stage["seconds"], round(seconds, 2))
        self.note()


def refuse_changes(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()
) -> None:
    """Refuse a folder that was made with other parameters; the device and the groups in ``ignored`` may differ.

    A parameter that came later than the folder has the value by which nothing changed: its default.

    Raises
    ------
    LayoutError
        Names every parameter (dotted key) that differs.
    """
    read = [key for key in sorted({*before, *now}) if key.partition(".")[0] not in ignored and key != "training.device"]
    before = {key: before.get(key, default_of(key)) for key in read}
    differing = [key for key in read if before[key] != now.get(key)]
    if differing:
        listed = "; ".join(f"{key} = {before[key]!r}, now it is {now.get(key)!r}" for key in differing)
        raise LayoutError(f"{folder} was made with {listed}: choose another OUT, or delete the folder")


def refuse_exported(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse the folder of an exported model where a run is wanted."""
    if record.get("exported"):
        raise LayoutError(
            f"{folder} is an exported model and no run: it holds what recommending takes, without the data and the "
            f"ranks; give the run that it is of, or another folder"
        )


def checked(folder: Path | str, name: str, record: Mapping[str, Any] | None = None) -> Path:
    """Path of a file or folder of a run, after checking that it is what the run wrote.

    Parameters
    ----------
    record
        The run's ``run.json`` as :func:`read_record` gave it. None: it is read here.

    Raises
    ------
    Damaged
        A file was changed or lost, or is another run's.
    """
    folder = Path(folder)
    path, record = folder / name, read_record(folder) if record is None else record
    remedy = f"put the run's own file back, or delete {folder} and run it anew"
    own = {key: sha256 for key, sha256 in record["sha256"].items() if _is_of(key, name)}
    if not own:
        refuse_exported(folder, record)
        raise Damaged(f"{path} is not this run's: run.json does not know of it; {remedy}")
    for key, sha256 in own.items():
        if not (folder / key).is_file():
            raise Damaged(f"{folder / key} is {'a folder' if (folder / key).is_dir() else 'missing'}: {remedy}")
        if (found := _sha256_once(folder / key)) != sha256:
            raise Damaged(
                f"{folder / key} is not what this run wrote: damaged, or another run's (SHA-256 {found[:12]}…, "
                f"run.json has {sha256[:12]}…); {remedy}"
            )
    return path


def _is_of(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}/")


def stamp(record: Mapping[str, Any]) -> str:
    """A warning to print beside every table of a run whose data need one; "" otherwise."""
    if record.get("protocol") == "released":
        return "NOT leak-free: protocol released keeps what the published splits leak"
    if record.get("one_order"):
        return "One order of items: everybody follows it, as the pair file says, so the next item is where it goes on"
    return ""


class _Record(dict[str, Any]):
    """``run.json``; an entry that is not there is a fault of the file, and is called one."""

    def __init__(self, content: Mapping[str, Any], path: Path):
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise Damaged(
            f"{self.path}: '{key}' is missing: let the run end, put the run's own back, or run into another OUT"
        )


def parameters_in(record: Mapping[str, Any], folder: Path | str) -> Parameters:
    """The parameters of a ``run.json`` or ``model.json`` that was read from a folder.

    Raises
    ------
    LayoutError
        They are those of another version of the kit; the message names the first that does not fit.
    """
    try:
        return Parameters.model_validate(record["parameters"])
    except ValidationError as error:
        key, reason = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"].lower()
        raise LayoutError(
            f"{folder} was made by a version of the kit with other parameters ('{key}': {reason}): run it anew"
        ) from None


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json`` atomically, with the SHA-256 of its other entries: :func:`read_record` takes no others."""
    write_json(folder / "run.json", {**record, "record_sha256": digest(json.dumps(record))})


def read_record(folder: Path | str) -> dict[str, Any]:
    """``run.json`` of a run directory.

    Raises
    ------
    LayoutError
        No run there, a damaged record, or another layout version.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        held = path.parent.is_dir() and any(path.parent.iterdir())
        remedy = "put it back, or run into another OUT" if held else f"`i2vae run --out {folder}` makes one"
        raise LayoutError(f"{folder} is not a run directory (no run.json): {remedy}")
    remedy = "put the run's own back, or run into another OUT"
    record = _Record(read_json(path, remedy), path)
    if "layout" not in record:
        raise LayoutError(f"{path} is no run's (it has no 'layout'): {remedy}")
    _check_layout(f"{folder} has run", record["layout"], RUN_LAYOUT, "run it anew")
    if record.pop("record_sha256", None) != digest(json.dumps(record)):
        raise Damaged(f"{path} is damaged (its 'record_sha256' is not that of its other entries): {remedy}")
    return record


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as one mapping with the dotted keys of ``--set``."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
