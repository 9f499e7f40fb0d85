"""What there is to choose from: presets, pairs, systems, parameters with origins, runs. Imports nothing heavy.

Files of ``params/`` are read as text, for their comments say why.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from i2vae_lib.data import registry as pair_registry
from i2vae_lib.places import preset_folder, preset_names, runs_folder
from i2vae_lib.recommenders.registry import REGISTRY
from i2vae_lib.yaml_files import parse

Line = dict[str, str]
VALUE = re.compile(r"^ *([\w.]+): +(.*?) *(?:# *(.*))?$")


def _values(path: Path) -> Iterator[tuple[str, str, str]]:
    """Key, value and comment of each line of a preset."""
    matches = (VALUE.match(line) for line in path.read_text(encoding="utf-8").splitlines())
    yield from ((key, value, comment or "") for key, value, comment in (one.groups() for one in matches if one))


def _first_sentence(path: Path) -> str:
    """Of the comment that a file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return re.split(r"(?<=\.) ", " ".join(line.strip("# ") for line in head))[0]


def _presets() -> list[Line]:
    """Name, data, protocol and epochs of each preset, and what it is for."""
    found = []
    for name in preset_names():
        path = preset_folder() / f"{name}.yaml"
        values = {key: value for key, value, _ in _values(path)}
        chosen = {key: values[key] for key in ("data", "protocol", "epochs")}
        found.append({"preset": name} | chosen | {"about": _first_sentence(path)})
    return found


def _pairs() -> list[Line]:
    """What ``--data`` takes: the planted world, released pairs, the pair files of ``params/pairs/``."""
    found = [{"data": "synthetic", "x": "North", "y": "South", "about": "a planted world; serves every protocol"}]
    for name, pair in pair_registry.REGISTRY.items():
        found.append({"data": name, **pair.names, "about": "released; `i2vae fetch` downloads it"})
    for path in sorted((preset_folder() / "pairs").glob("*.yaml")):
        content = parse(path.read_text(encoding="utf-8"))
        names = {d: content[d]["name"] for d in ("x", "y")}
        found.append({"data": str(path), **names, "about": _first_sentence(path)})
    return found


def _systems() -> list[Line]:
    """What ``--system`` takes, in the order of the tables; rankers that are not trained stand in every table."""
    return [
        {"system": name, "title": one.title, "family": one.family, "parameters": " ".join(one.groups)}
        for name, one in REGISTRY.items()
    ]


def _parameters() -> list[Line]:
    """Every key of ``--set``, its value in ``params/paper.yaml`` and where that comes from.

    [p] the paper (section), [c] its released code, [o] a baseline's own paper or code, [k] the kit's choice.
    """
    lines = _values(preset_folder() / "paper.yaml")
    named = ("preset", "overrides", "out")  # where values come from and where the result goes
    return [{"key": key, "value": value, "origin": origin} for key, value, origin in lines if key not in named]


def _runs() -> list[Line]:
    """The run directories of ``I2VAE_RUNS_DIR``, and its folders of several runs (sweeps, tables, searches)."""
    found, blank = [], dict.fromkeys(("data", "protocol", "system", "seed"), "")
    for folder in sorted(path for path in runs_folder().glob("*") if path.is_dir()):
        cells = [*folder.glob("*/run.json"), *folder.glob("cells/*/run.json")]
        if (folder / "run.json").is_file():
            about, state = _of_run(folder)
            found.append({"run": str(folder)} | blank | about | {"state": state})
        elif cells:
            states = [_of_run(path.parent)[1] for path in cells]
            told = f"{states.count(_FINISHED)} of {len(states)} runs finished"
            told += f", {states.count(_DAMAGED)} with a damaged run.json" * (_DAMAGED in states)
            found.append({"run": str(folder)} | blank | {"state": told})
    return found


_FINISHED, _DAMAGED = "finished", "run.json is damaged"


def _of_run(folder: Path) -> tuple[Line, str]:
    """What a run is of, and its state; nothing of a record that is not as it was written."""
    from i2vae_lib.runs import Damaged, LayoutError, read_record  # takes time, and only where there are runs

    try:
        p = read_record(folder)["parameters"]
    except Damaged:
        return {}, _DAMAGED
    except LayoutError:
        return {}, "made by another version of the kit"
    except OSError as error:
        return {}, f"run.json cannot be read ({error.strerror})"
    about = {"data": Path(p["data"]).stem} | {key: str(p[key]) for key in ("protocol", "system", "seed")}
    return about, _FINISHED if (folder / "metrics.json").is_file() else "begun"


LISTS: dict[str, Callable[[], list[Line]]] = {
    "presets": _presets,
    "pairs": _pairs,
    "systems": _systems,
    "parameters": _parameters,
    "runs": _runs,
}


def text(lines: list[Line]) -> str:
    """Columns under their names; what is too long for its column is the last one's."""
    if not lines:
        return "none"
    table = [list(lines[0]), *(list(line.values()) for line in lines)]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip() for row in table)
