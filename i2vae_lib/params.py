"""Parameters: frozen classes, preset files, and one loader that refuses what it does not know.

``params/paper.yaml`` holds *every* value with its origin; any other preset lists only what differs.
The classes of :mod:`i2vae_lib.parameter_groups` hold no values, so each value has one place.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from i2vae_lib import parameter_groups as groups
from i2vae_lib.places import Refusal, not_utf8, preset_folder, preset_names, suggestion
from i2vae_lib.yaml_files import parse, wanted

# the top-level names of a preset file: exactly the parameters that every notebook declares
PRESET_NAMES = ("preset", "data", "protocol", "seed", "epochs", "out", "overrides")


class ParameterError(Refusal):
    """A key, type or value that the kit does not accept; the message names the key and what would be right."""


class Parameters(groups.Group):
    """Everything that decides a run; its ``model_dump()`` goes into ``run.json``."""

    preset: str
    data: str
    protocol: Literal["released", "strict", "chronological", "temporal"]
    system: str  # what is trained: a name of i2vae_lib.recommenders.SYSTEMS
    seed: groups.NonNegative
    # None: runs/<data>-<protocol>-<preset>[-<system>]-seed<seed>[+<what is changed>]
    out: Annotated[str, Field(min_length=1)] | None
    split: groups.SplitParameters
    controls: groups.ControlParameters
    synthetic: groups.SyntheticParameters
    psg: groups.PsgParameters
    evidence: groups.EvidenceParameters
    model: groups.ModelParameters
    objective: groups.ObjectiveParameters
    training: groups.TrainingParameters
    evaluation: groups.EvaluationParameters
    references: groups.ReferenceParameters
    multivae: groups.MultiVAEParameters
    svae: groups.SVAEParameters
    sasrec_bce: groups.SASRecBCEParameters
    sasrec_ce: groups.SASRecCEParameters
    esasrec: groups.ESASRecParameters
    abxi: groups.ABXIParameters
    slist: groups.SLISTParameters
    tale: groups.TALEParameters
    stack: groups.StackParameters
    lightgcn: groups.LightGCNParameters
    emcdr: groups.EMCDRParameters
    pinet: groups.PiNetParameters
    dasl: groups.DASLParameters
    c2dsr: groups.C2DSRParameters
    disencdr: groups.DisenCDRParameters
    savae: groups.SAVAEParameters
    cdrib: groups.CDRIBParameters

    @functools.cached_property
    def as_preset(self) -> Parameters:
        """The same preset, unchanged; :func:`load` stores it here, since two files may use one preset name."""
        return load(self.preset)

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the preset, except ``out`` and the device: key of ``--set``, or name, -> value."""
        keys = [key for key in ("data", "protocol", "seed", *known_keys()) if key != "training.device"]
        pairs = ([functools.reduce(getattr, key.split("."), p) for p in (self.as_preset, self)] for key in keys)
        return {key: now for key, (before, now) in zip(keys, pairs, strict=True) if now != before}

    def is_preset(self, *names: str) -> bool:
        """Whether these are exactly the values of one of the presets, so that bands of results may be asserted."""
        return self.preset in names and not self.changed


def pair_name(data: str) -> str:
    """The name of ``data``: a registered name, or the stem of a pair file's path."""
    return Path(data).stem


def of_result(parameters: Mapping[str, Any], unread: Collection[str] = ()) -> dict[str, Any]:
    """The parameters, nested as in ``run.json``, that a run's result depends on.

    Left out: where values come from (``preset``; a pair file counts by its name, its logs are checked by themselves),
    where the result goes (``out``), the device, and the groups ``unread``, which only other systems read.
    """
    kept = {key: value for key, value in parameters.items() if key not in {"preset", "out", *unread}}
    kept["training"] = {key: value for key, value in kept["training"].items() if key != "device"}
    return kept | {"data": pair_name(kept["data"])}


def digest(*content: Any) -> str:
    """SHA-256, in hex, of the JSON of one value, or of several as a list."""
    text = json.dumps(content[0] if len(content) == 1 else content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def default_of(key: str) -> Any:
    """The value of a dotted key where nothing gives one, as JSON has it; None for most, which every preset gives."""
    group, _, name = key.rpartition(".")
    fields = getattr(Parameters.model_fields.get(group), "annotation", None)
    field = fields.model_fields.get(name) if isinstance(fields, type) and issubclass(fields, groups.Group) else None
    value = None if field is None or field.is_required() else field.get_default()
    return list(value) if isinstance(value, tuple) else value


def known_keys() -> list[str]:
    """All keys that an override may have: ``system`` and the dotted ones."""
    return ["system"] + [
        f"{group}.{key}"
        for group, field in Parameters.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, groups.Group)
        for key in field.annotation.model_fields
    ]


@functools.lru_cache(16)
def _parsed(text: str) -> Any:
    """A preset's YAML, parsed once: parsing takes 40 ms, and a sweep of hundreds of cells asks for the same ones."""
    return parse(text)


def read_yaml(path: Path) -> Any:
    """The content of a file of ``params/``.

    Raises
    ------
    ParameterError
        Malformed YAML.
    """
    try:
        return copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: {not_utf8(error.object)}") from None
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: not valid YAML: {error}") from None


def read_preset(preset: str) -> dict[str, Any]:
    """Read a preset by its name or by the path of a YAML file.

    Raises
    ------
    ParameterError
        Unknown preset (the nearest is suggested), malformed YAML, or top-level names other than
        :data:`PRESET_NAMES`.
    """
    if not isinstance(preset, str):
        raise ParameterError(f"preset is {preset!r}: expected a name, or the path of a YAML file as text")
    folder = preset_folder()
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else folder / f"{preset}.yaml"
    if not os.path.isfile(path):  # False of a name that is too long as well
        known = preset_names()
        raise ParameterError(f"unknown preset '{preset}' (no file {path}){suggestion(preset, known)}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: expected the names {', '.join(PRESET_NAMES)}, found {type(content).__name__}")
    for name in content:
        if name not in PRESET_NAMES:
            raise ParameterError(f"{path}: unknown name '{name}'{suggestion(str(name), list(PRESET_NAMES))}")
    missing = [name for name in PRESET_NAMES if name not in content]
    if missing:
        raise ParameterError(f"{path}: missing {', '.join(missing)}")
    if not isinstance(name := content["preset"], str) or not re.fullmatch(r"[\w.+-]{1,60}", name):
        raise ParameterError(
            f"{path}: 'preset': {str(name)[:80]!r} is no name: letters, digits and . _ + - (it names folders)"
        )
    return content


def _flat(overrides: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping):
        raise ParameterError(f"{where}: overrides must map dotted keys to values, found {repr(overrides)[:200]}")
    known = known_keys()
    for key in overrides:
        if key in PRESET_NAMES:
            raise ParameterError(f"{where}: '{key}' stands beside the overrides (--{key}), not among them")
        if key not in known:
            raise ParameterError(f"{where}: unknown key '{key}'{suggestion(str(key), known)}")
    return dict(overrides)


def joined(overrides: Mapping[str, Any], own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Overrides with those that other arguments stand for, which are in no other place.

    Raises
    ------
    ParameterError
        A key is in both.
    """
    if twice := [key for key in own if key in overrides]:
        raise ParameterError(f"{where} both give '{twice[0]}': which one counts? Give it once")
    return {**overrides, **own}


def load(
    preset: str = "paper",
    overrides: Mapping[str, Any] | None = None,
    *,
    data: str | None = None,
    protocol: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    out: str | None = None,
) -> Parameters:
    """Resolve a preset and its overrides into validated :class:`Parameters`.

    Parameters
    ----------
    preset
        Name of a file in ``params/``, or the path of a preset file. Its ``split`` values hold for its own data alone.
    overrides
        Dotted keys to values, e.g. ``{"model.d": 64}``; strings are coerced (papermill reads ``1e-3`` as one).
    data, protocol, seed, epochs, out
        ``None`` keeps what the preset says. ``epochs`` is ``training.epochs``.

    Raises
    ------
    ParameterError
        Unknown preset or key (the nearest one is suggested), wrong type, value out of range, or both ``epochs`` and
        ``training.epochs``.

    Examples
    --------
    >>> load("paper", {"model.d": "64"}).model.d
    64
    """
    base = read_preset("paper")
    chosen = base if preset == "paper" else read_preset(preset)
    flat = _flat(base["overrides"], "params/paper.yaml") | {"training.epochs": base["epochs"]}
    missing = [key for key in known_keys() if key not in flat]
    if missing:
        raise ParameterError(f"params/paper.yaml must give every value; missing {', '.join(missing)}")
    theirs, ours = _flat(chosen["overrides"], f"preset '{preset}'"), _flat(overrides, "overrides")
    if "training.epochs" in theirs:
        raise ParameterError(f"preset '{preset}': overrides: training.epochs is called epochs there, beside overrides")
    if epochs is not None and "training.epochs" in ours:
        raise ParameterError(
            f"epochs ({epochs}) and training.epochs ({ours['training.epochs']}) are one parameter, and both are given"
        )
    if data not in (None, chosen["data"]):  # the preset's split suits its own data, not another pair
        theirs = {key: value for key, value in theirs.items() if not key.startswith("split.")}
    flat |= theirs | {"training.epochs": chosen["epochs"]}
    names = {name: chosen[name] for name in ("preset", "data", "protocol", "seed", "out")}
    given = {"data": data, "protocol": protocol, "seed": seed, "out": out, "training.epochs": epochs}
    ours |= {name: value for name, value in given.items() if value is not None}
    if ours.get("protocol", names["protocol"]) == "released":
        flat |= {f"psg.{name}": value for name, value in groups.PUBLISHED_PSG.items()}
    as_preset = _validated(names | flat, f"preset '{preset}': ")
    parameters = _validated(names | flat | ours)
    _check_together(parameters)
    parameters.__dict__["as_preset"] = as_preset
    return parameters


def _validated(flat: Mapping[str, Any], where: str = "") -> Parameters:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        group, _, name = key.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[name] = value
    try:
        return Parameters.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = wanted(first, groups.Group)
        raise ParameterError(f"{where}'{key}': {reason} (got {repr(first['input'])[:200]})") from None


def from_notebook(namespace: Mapping[str, Any]) -> Parameters:
    """:func:`load` with the names that a notebook's ``parameters`` cell, and papermill, put into ``globals()``.

    Raises
    ------
    ParameterError
        As :func:`declared`, and whatever :func:`load` refuses.
    """
    given = declared(namespace, PRESET_NAMES)
    return load(given.pop("preset"), given.pop("overrides"), **given)


def declared(namespace: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The parameters of a notebook by name.

    papermill injects any name and only logs those that a notebook does not declare. Here a plain value (number,
    string, list, mapping, None) under any other name is an error if the ``parameters`` cell or papermill's cell behind
    it assigns it. Variables of later cells are ignored, so cells may be run again in any order. In a namespace without
    a record of its cells (outside Jupyter) every plain value counts.

    Raises
    ------
    ParameterError
        An undeclared name (the nearest is suggested), or a missing one.
    """
    plain = (str, int, float, list, tuple, dict, type(None))
    given: dict[str, Any] = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in ("In", "Out") and isinstance(value, plain)
    }
    from_cells = _of_parameter_cells(namespace.get("In", ()), names)
    for name in given:
        if name not in names and (from_cells is None or name in from_cells):
            raise ParameterError(f"unknown parameter '{name}'{suggestion(name, list(names))}")
    missing = [name for name in names if name not in given]
    if missing:
        raise ParameterError(f"the parameters cell must declare {', '.join(missing)}")
    return {name: given[name] for name in names}


def _of_parameter_cells(executed: Sequence[str], names: Sequence[str]) -> set[str] | None:
    """The names assigned by the last executed ``parameters`` cell and the cells of plain values right behind it.

    None: no such cell was executed.
    """
    cells = [_assigned(source) for source in executed]
    at = max((i for i, (assigned, _) in enumerate(cells) if assigned.issuperset(names)), default=None)
    if at is None:
        return None
    behind = itertools.takewhile(lambda cell: cell[1], cells[at + 1 :])
    return cells[at][0].union(*(assigned for assigned, _ in behind))


def _assigned(source: str) -> tuple[set[str], bool]:
    """The names that a cell assigns, and whether it only assigns values that depend on no other name."""
    try:
        lines = ast.parse(source).body
    except SyntaxError:
        return set(), False
    names, only = set(), True
    for line in lines:
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
            # papermill writes float('nan')
            only &= all(node.id == "float" for node in ast.walk(line.value) if isinstance(node, ast.Name))
        else:
            only = False
    return names, only


def _check_positions(p: Parameters) -> None:
    """Refuse what does not go with ``model.positions`` = every, and without it what only it reads."""
    every = p.model.positions == "every"
    if every and p.objective.reconstruction != "softmax":
        raise ParameterError("'objective.reconstruction': model.positions = every has no negatives; choose softmax")
    if every and not p.psg.recalled:
        raise ParameterError(
            "'psg.recalled': 0 items; model.positions = every needs room for at least 1 (psg.kind = none)"
        )
    alone = {
        "objective.blank_share": p.objective.blank_share > 0,
        "evidence.shrinkage": bool(p.evidence.shrinkage),
        "evidence.half_lives": bool(p.evidence.half_lives),
        "evidence.pooled": bool(p.evidence.pooled),
    }
    for key, given in alone.items():
        if given and not every:
            raise ParameterError(f"'{key}': only model.positions = every reads it, and it is {p.model.positions}")


def _check_devices(p: Parameters) -> None:
    """Refuse several processes, or another precision, for what cannot have them."""
    if p.training.batch_size < p.training.devices:
        raise ParameterError(
            f"'training.devices': {p.training.devices} cannot share batches of {p.training.batch_size} "
            f"(training.batch_size)"
        )
    if p.system != "i2vae" and (p.training.devices, p.training.precision) != (1, "32"):
        raise ParameterError(
            f"'training.{'devices' if p.training.devices > 1 else 'precision'}': {p.system} is trained by one process, "
            f"in 32 bits; only i2vae knows others"
        )


def _check_together(p: Parameters) -> None:
    """Check the rules that involve more than one value."""
    group = {"i2vae": "model", "stack-ce": "sasrec_ce"}.get(p.system, re.sub("-[sm]$", "", p.system).replace("-", "_"))
    for name in ("heads", "cross_heads"):
        if p.model.d % (heads := getattr(getattr(p, group, None), name, 1)):
            raise ParameterError(f"'{group}.{name}': {heads} heads do not divide model.d = {p.model.d}")
    _check_devices(p)
    if p.system == "i2vae":
        _check_positions(p)
        if (p.model.start == "given") != (p.model.vectors is not None):
            raise ParameterError(
                f"'model.vectors': {p.model.vectors or 'null'} with model.start = {p.model.start}; a file of vectors "
                f"and model.start = given go together"
            )
    for name, value in groups.PUBLISHED_PSG.items() if p.protocol == "released" else ():
        if getattr(p.psg, name) != value:
            raise ParameterError(
                f"'psg.{name}': {getattr(p.psg, name)} under protocol released, whose pseudo-sequences are the paper's "
                f"({value}): leave it out, or choose another protocol"
            )
    if p.psg.kind != "none" and p.psg.recalled >= p.model.T_pseudo:
        raise ParameterError(
            f"'psg.recalled': {p.psg.recalled} leaves no room for real items under model.T_pseudo = {p.model.T_pseudo}"
        )
    if p.psg.recall_from != "history" and p.protocol != "released":
        raise ParameterError(
            f"'psg.recall_from': {p.psg.recall_from} shows evaluation rows' targets to the generator; only protocol "
            f"released does so, and there it is always set"
        )
    if p.split.first_cut >= p.split.second_cut:
        raise ParameterError(
            f"'split.second_cut': {p.split.second_cut} must lie above split.first_cut = {p.split.first_cut}"
        )
    if p.split.validation_share + p.split.test_share >= 1:
        raise ParameterError(
            f"'split.test_share': {p.split.test_share} and split.validation_share = {p.split.validation_share} "
            f"leave no training users"
        )
    if p.synthetic.linked_items > p.synthetic.items:
        raise ParameterError(
            f"'synthetic.linked_items': {p.synthetic.linked_items} exceeds synthetic.items = {p.synthetic.items}"
        )
