"""Parameters: frozen classes, preset files, and one loader that refuses what it does not know.

``params/paper.yaml`` holds *every* value with its origin; another preset lists only where it differs.
The classes below hold no values of their own, so a value stands in one place.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from i2vae_lib.places import preset_folder, preset_names, suggestion
from i2vae_lib.yaml_files import parse

PRESET_NAMES = ("preset", "data", "protocol", "seed", "epochs", "out", "overrides")
"""The top-level names of a preset file: exactly the parameters that every notebook declares."""

Positive = Annotated[int, Field(ge=1, le=10**7)]
NonNegative = Annotated[int, Field(ge=0, le=2**53)]  # seeds among them; JSON holds no larger whole number exactly
Width = Annotated[int, Field(ge=1, le=16_384)]  # of a layer, whose weights grow with its square
Length = Annotated[int, Field(ge=1, le=65_536)]  # of a sequence
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)]  # float32 overflows at 3e38
Rate = Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)]
HalfLife = Annotated[float, Field(gt=0.0, le=1.0)]


class ParameterError(ValueError):
    """A key, type or value that the kit does not accept; the message names the key and what would be right."""


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitParameters(_Group):
    """How rows become train, validation and test (``docs/evaluation.md``: Protocols)."""

    data_seed: NonNegative  # fixes splits, cold users and candidates; `seed` never does
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)]  # of the training users (chronological: of all users)
    test_share: Annotated[float, Field(ge=0.0, lt=1.0)]  # of all users; chronological only; 0: nothing is held out
    first_cut: Annotated[float, Field(gt=0.0, lt=1.0)]  # temporal only: quantile of event time where training ends
    second_cut: Annotated[float, Field(gt=0.0, lt=1.0)]  # temporal only: where validation ends
    cold_share: Share  # K_cs: held-out users with both domains who lose one


class ControlParameters(_Group):
    """What robustness studies take away (:mod:`i2vae_lib.data.controls`)."""

    overlap: Annotated[float, Field(gt=0.0, le=1.0)]  # K_o: share of the overlapping training users kept as such
    overlap_mode: Literal["drop", "detach"]  # the others leave, or stay as two unlinked one-domain users
    density: Annotated[float, Field(gt=0.0, le=1.0)]  # D_s: probability that an interaction is kept


class SyntheticParameters(_Group):
    """The planted world (:mod:`i2vae_lib.data.synthetic`)."""

    users: Positive
    items: Annotated[int, Field(ge=1, le=10**6)]  # a domain
    shared_topics: Annotated[int, Field(ge=1, le=1000)]  # each has a weight an item
    specific_topics: Annotated[int, Field(ge=1, le=1000)]  # a domain
    linked_items: NonNegative  # items that stand in both domains
    dial: Annotated[float, Field(ge=0.0)]  # 0: every next item equally likely; 1: as planted
    focus: Rate  # how few topics a user likes (Dirichlet concentration; small: few)
    shared_weight: Annotated[float, Field(ge=0.0, le=1.0)]  # share of interest in the shared topics
    drift: Weight  # how far interests wander an event
    zipf: Weight  # exponent of item popularity
    overlap: Annotated[float, Field(gt=0.0, le=1.0)]  # users with both domains
    mean_length: Annotated[float, Field(ge=2.0)]  # items, target included
    cold_rows: Share  # test rows whose own history is empty (half of them have no other history either)
    test_share: Annotated[float, Field(gt=0.0, lt=1.0)]
    seed: NonNegative


class PsgParameters(_Group):
    """The pseudo-sequence generator (paper 3.1, D.1; :mod:`i2vae_lib.psg`)."""

    kind: Literal["lightgcn", "cooccurrence", "leave_one_out", "random", "none"]
    recalled: NonNegative  # items a domain, for the pseudo-sequence
    arrangement: Literal["append", "interleave"]
    folds: Annotated[int, Field(ge=1, le=100)]  # a fit each; 4: cross-fitted; 1: the paper's way
    recall_from: Literal["history", "history_and_target"]  # the latter is the paper's way, under `released` alone
    d: Width
    layers: NonNegative
    learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]  # too high: the fit itself refuses
    decay: Weight  # L2 on the batch's layer-0 rows
    batch_size: Positive
    epochs: Positive
    patience: Positive  # epochs without a better validation recall
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)]  # of the training interactions
    rounds: Positive  # of recall; 1: plain recall
    edges_per_round: NonNegative  # pseudo-edges a user and domain
    shrinkage: Weight  # cooccurrence and leave_one_out
    # leave_one_out only (:mod:`i2vae_lib.cooccurrence`); the first values are those of a bag
    proximity: Weight  # 0: items of one sequence count alike; else by gap^-proximity
    backward: Weight  # 1: in both directions; else the weight of what stands before in the sequence
    across: Weight  # 1: items of the two domains count as those of one; else their weight
    recency: Annotated[float, Field(gt=0.0, le=1.0)]  # 1: all of a history speaks alike; else recency^steps back
    seed: NonNegative  # its own, so that runs with different `seed` share one fit


class EvidenceParameters(_Group):
    """Counts that enter the item scores (:mod:`i2vae_lib.evidence`); ``model.positions`` = every only.

    Five settings of as many kernels as they have values; none where they are empty.
    """

    items: Positive  # a row, best first
    shrinkage: tuple[Weight, ...]  # as `psg.shrinkage`, and so the next four
    proximity: tuple[Weight, ...]
    backward: tuple[Weight, ...]
    across: tuple[Weight, ...]
    recency: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...]
    half_lives: tuple[HalfLife, ...]  # of recent takers, shares of the training events

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        lengths = {
            name: len(getattr(self, name)) for name in ("shrinkage", "proximity", "backward", "across", "recency")
        }
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise ValueError(f"a kernel needs one value of each setting, but their numbers differ: {listed}")
        return self


class ModelParameters(_Group):
    """Sizes of i2VAE (paper 3.2, 3.3, D)."""

    positions: Literal["last", "every"]  # that training asks after: a row's last, or every one of a user's sequence
    d: Width
    T: Length  # most recent real items kept
    T_pseudo: Length  # T' of the paper: cap on history + recalled
    blocks: Positive
    heads: Positive  # of the sequence encoder
    cross_heads: Positive  # of the cross-domain attention
    dropout: Share
    start: Literal["random", "cooccurrence"]  # of the item vectors
    path: Literal["mlp", "residual"]  # states, posterior means, decoder: as in the paper, or what was taken + that
    causal: bool  # of the encoder of real sequences; pseudo-sequences are bags
    shared_prior: bool  # z_a shares the prior of its domain's z
    initial_log_variance: Annotated[float, Field(ge=-10.0, le=4.0)]


class ObjectiveParameters(_Group):
    """What training rows ask for, and the weights of the objective (paper 3.4, 3.5, D.1)."""

    blank_share: Share  # of the users, anew each epoch: once more, the last event's domain hidden (every position only)
    reconstruction: Literal["bce", "softmax"]
    negatives: Positive  # sampled a row (bce only)
    lambda_a: Weight  # denoising
    lambda_c: Weight  # cross-domain and disentangling
    a: Weight  # adaptive weight exp(a L / T) - b
    b: Weight
    kl_weight: Weight  # on the six KLs of Eq. 4; 1 in the paper
    kl_annealing_epochs: NonNegative  # epochs of linear warm-up; 0: off
    free_bits: Weight  # nats a dimension below which a KL is not pressed; 0: off


class TrainingParameters(_Group):
    epochs: Positive
    batch_size: Positive
    learning_rate: Rate
    patience: NonNegative  # epochs without a better validation NDCG@10; 0: never stop early
    device: str  # auto, cpu, cuda, cuda:1 …


class EvaluationParameters(_Group):
    negatives: Positive  # sampled candidates beside the target
    batch_size: Positive  # rows scored at once


class ReferenceParameters(_Group):
    """What the reference rankers choose from, on validation (:mod:`i2vae_lib.recommenders.neighbours`).

    A grid whose best value lies at its edge extends itself; a grid of one value stays.
    """

    half_life: Annotated[tuple[HalfLife, ...], Field(min_length=1)]  # recent popularity, a share of the training events
    neighbours: Annotated[tuple[NonNegative, ...], Field(min_length=1)]  # ItemKNN, kept an item; 0: all
    shrinkage: Annotated[tuple[Weight, ...], Field(min_length=1)]  # ItemKNN and ordered counts
    # ordered counts, as the next four: the settings of `psg` that have these names
    proximity: Annotated[tuple[Weight, ...], Field(min_length=1)]
    backward: Annotated[tuple[Weight, ...], Field(min_length=1)]
    recency: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)]
    across: Annotated[tuple[Weight, ...], Field(min_length=1)]
    popularity: Annotated[tuple[Weight, ...], Field(min_length=1)]  # weight of log(1 + takers)
    ease_lambda: Annotated[tuple[Rate, ...], Field(min_length=1)]  # EASE: L2
    ease_limit: Positive  # EASE: largest matrix that is factorised, a side (items or users, whichever are fewer)


class MultiVAEParameters(_Group):
    """Multi-VAE (Liang et al. 2018); its latent has ``model.d`` dimensions."""

    hidden: Width
    dropout: Share  # of the input bag
    beta: Weight  # cap of the KL weight
    annealing_epochs: NonNegative  # epochs until the cap


class SVAEParameters(_Group):
    """SVAE (Sachdeva et al. 2019); its items have ``model.d`` dimensions."""

    recurrent: Width  # GRU state
    hidden: Width
    latent: Width
    next_items: Positive  # k: how many later items a step predicts
    beta: Weight
    annealing_epochs: NonNegative
    weight_decay: Weight


class SASRecBCEParameters(_Group):
    """SASRec with its own loss (Kang & McAuley 2018)."""

    blocks: Positive
    heads: Positive
    dropout: Share
    negatives: Positive  # a step


class EveryPositionParameters(_Group):
    """What is trained at every position of a sequence (:mod:`i2vae_lib.recommenders.every_position`)."""

    heads: Positive
    dropout: Share
    hidden_share: Share  # of the sequences: once more with the domain of the last event hidden (merged only)
    start: Literal["random", "cooccurrence"]  # of the item vectors


class SASRecCEParameters(EveryPositionParameters):
    """SASRec with cross-entropy (Klenitskiy & Vasilev 2023)."""

    blocks: Positive


class ESASRecParameters(EveryPositionParameters):
    """eSASRec (Tikhonovich et al. 2025)."""

    blocks: Positive
    multiplier: Positive  # m: width of the feed-forward net, in d


class ABXIParameters(EveryPositionParameters):
    """ABXI (Bian et al. 2025)."""

    hidden: Width  # of the feed-forward nets
    domain_rank: Positive  # of the adapters to a stream
    invariant_rank: Positive  # of the adapters from both domains to one
    temperature: Rate
    decay: Weight  # AdamW's


class SLISTParameters(_Group):
    """SLIST (Choi et al. 2021)."""

    consistency: Annotated[float, Field(ge=0.0, le=1.0)]  # a; 0: SLIT, 1: SLIS
    decay: Rate  # L2
    source_decay: Rate  # steps, as the next two
    target_decay: Rate
    recency_decay: Rate  # of a history that is scored
    limit: Positive  # largest matrix that is solved, a side


class StackParameters(_Group):
    """A conditional logit over other rankers (:mod:`i2vae_lib.recommenders.stack`)."""

    learning_rate: Rate
    steps: Positive  # of all rows
    decay: Weight  # on the squared weights
    folds: Annotated[int, Field(ge=2)]  # of users, for the validation figures


class LightGCNParameters(_Group):
    """LightGCN (He et al. 2020) as a recommender; the generator's own settings are in ``psg``."""

    layers: NonNegative
    decay: Weight  # L2 on the batch's layer-0 vectors
    batch_size: Positive  # triples


class EMCDRParameters(_Group):
    """EMCDR (Man et al. 2017) over BPR-MF."""

    decay: Weight  # L2 on the batch's vectors
    batch_size: Positive  # triples
    mapping: Literal["linear", "mlp"]
    mapping_decay: Weight
    active_share: Annotated[float, Field(gt=0.0, le=1.0)]  # the most active overlapping users, for the mapping


class PiNetParameters(_Group):
    """Pi-Net (Ma et al. 2019); its cells have ``model.d`` units."""

    members: Positive  # K latent members of an account
    dropout: Share
    blank_share: Share  # training rows shown without their own history
    clip: Rate  # of each gradient element


class DASLParameters(_Group):
    """DASL (Li et al. 2021); items, users and GRU have ``model.d`` units."""

    attention: Width
    hidden: tuple[Width, Width]  # of the scoring MLP
    negatives: Positive
    dropout: Share
    dual_weight: Weight  # cosine distance of a user's two vectors, one mapped
    orthogonality: Weight  # || W^T W - I ||^2


class C2DSRParameters(_Group):
    """C2DSR (Cao et al. 2022)."""

    layers: NonNegative  # of the item graph
    blocks: Positive
    heads: Positive
    dropout: Share
    balance: Annotated[float, Field(ge=0.0, le=1.0)]  # lambda: of the losses against the infomax terms
    steps: Positive  # only the last so many count


class DisenCDRParameters(_Group):
    """DisenCDR (Cao et al. 2022)."""

    layers: Positive
    dropout: Share
    beta: Annotated[float, Field(ge=0.0, le=1.0)]  # of the informative regulariser
    kl_weight: Weight
    warm_up: NonNegative  # epochs of specific latents alone
    batch_size: Positive  # interactions


class SAVAEParameters(_Group):
    """SA-VAE and RA-VAE (Salah et al. 2021); latents have ``model.d`` dimensions."""

    hidden: Width
    dropout: Share
    beta: Weight
    annealing_epochs: NonNegative


class CDRIBParameters(_Group):
    """CDRIB (Cao et al. 2022)."""

    layers: Positive
    dropout: Share
    beta: Weight  # on the users' KL
    kl_weight: Weight  # on both KLs
    margin: Share  # of the contrastive hinge
    contrasted: Positive  # overlapping users a step
    batch_size: Positive  # interactions
    weight_decay: Weight


class Parameters(_Group):
    """Everything that decides a run. ``model_dump()`` of it goes into ``run.json``."""

    preset: str
    data: str
    protocol: Literal["released", "strict", "chronological", "temporal"]
    system: str  # what is trained: a name of i2vae_lib.recommenders.SYSTEMS
    seed: NonNegative
    out: str | None  # None: runs/<data>-<protocol>-<preset>[-<system>]-seed<seed>[+<what is changed>]
    split: SplitParameters
    controls: ControlParameters
    synthetic: SyntheticParameters
    psg: PsgParameters
    evidence: EvidenceParameters
    model: ModelParameters
    objective: ObjectiveParameters
    training: TrainingParameters
    evaluation: EvaluationParameters
    references: ReferenceParameters
    multivae: MultiVAEParameters
    svae: SVAEParameters
    sasrec_bce: SASRecBCEParameters
    sasrec_ce: SASRecCEParameters
    esasrec: ESASRecParameters
    abxi: ABXIParameters
    slist: SLISTParameters
    stack: StackParameters
    lightgcn: LightGCNParameters
    emcdr: EMCDRParameters
    pinet: PiNetParameters
    dasl: DASLParameters
    c2dsr: C2DSRParameters
    disencdr: DisenCDRParameters
    savae: SAVAEParameters
    cdrib: CDRIBParameters

    @functools.cached_property
    def as_preset(self) -> Parameters:
        """The same preset, nothing changed; :func:`load` leaves it here, for two files may give one name."""
        return load(self.preset)

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the preset, place and device aside, by the keys of ``--set`` and by name; {}: untouched."""
        keys = [key for key in ("data", "protocol", "seed", *known_keys()) if key != "training.device"]
        pairs = ([functools.reduce(getattr, key.split("."), one) for one in (self.as_preset, self)] for key in keys)
        return {key: now for key, (before, now) in zip(keys, pairs, strict=True) if now != before}

    def is_preset(self, *names: str) -> bool:
        """Whether these are the values of one of the presets, nothing changed: what a band may be asserted of."""
        return self.preset in names and not self.changed


def pair_name(data: str) -> str:
    """What ``data`` is called: a registered name, or that of a pair's file, wherever it lies."""
    return Path(data).stem


def of_result(parameters: Mapping[str, Any], unread: Collection[str] = ()) -> dict[str, Any]:
    """What a run's result depends on, of parameters as ``run.json`` has them (nested).

    Not where values come from (``preset``; a pair's file counts by its name, its logs are checked by themselves), not
    where the result goes (``out``), not the device, and none of the groups ``unread``, which only other systems read.
    """
    kept = {key: one for key, one in parameters.items() if key not in {"preset", "out", *unread}}
    kept["training"] = {key: one for key, one in kept["training"].items() if key != "device"}
    return kept | {"data": pair_name(kept["data"])}


def digest(*content: Any) -> str:
    """SHA-256, in hex, of what JSON can hold: of one thing, or of several as a list."""
    text = json.dumps(content[0] if len(content) == 1 else content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def known_keys() -> list[str]:
    """All keys that an override may name: dotted ones, and ``system``."""
    return ["system"] + [
        f"{group}.{key}"
        for group, field in Parameters.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Group)
        for key in field.annotation.model_fields
    ]


@functools.lru_cache(16)
def _parsed(text: str) -> Any:
    """YAML of a preset; a sweep of hundreds of cells asks for the same ones, and parsing takes 40 ms."""
    return parse(text)


def read_yaml(path: Path) -> Any:
    """What a file of ``params/`` holds.

    Raises
    ------
    ParameterError
        Malformed YAML.
    """
    try:
        return copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: not UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: not valid YAML: {error}") from None


def read_preset(preset: str) -> dict[str, Any]:
    """Read a preset by name or by path of a YAML file.

    Raises
    ------
    ParameterError
        Unknown preset (with the nearest name), malformed YAML, or top-level names other than
        :data:`PRESET_NAMES`.
    """
    folder = preset_folder()
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else folder / f"{preset}.yaml"
    if not path.is_file():
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
        if key not in known:
            raise ParameterError(f"{where}: unknown key '{key}'{suggestion(str(key), known)}")
    return dict(overrides)


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
    """Resolve a preset and what overrides it into validated :class:`Parameters`.

    Parameters
    ----------
    preset
        Name of a file in ``params/`` or the path of one.
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
    flat |= theirs | {"training.epochs": chosen["epochs"]}
    names = {name: chosen[name] for name in ("preset", "data", "protocol", "seed", "out")}
    given = {"data": data, "protocol": protocol, "seed": seed, "out": out, "training.epochs": epochs}
    ours |= {name: value for name, value in given.items() if value is not None}
    parameters = _validated(names | flat | ours)
    _check_together(parameters)
    parameters.__dict__["as_preset"] = _validated(names | flat)
    return parameters


def _validated(flat: Mapping[str, Any]) -> Parameters:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        group, _, name = key.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[name] = value
    try:
        return Parameters.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ParameterError(f"'{key}': {first['msg']} (got {repr(first['input'])[:200]})") from None


def from_notebook(namespace: Mapping[str, Any]) -> Parameters:
    """:func:`load` with what a notebook's ``parameters`` cell, and papermill, put into ``globals()``.

    Raises
    ------
    ParameterError
        As :func:`declared`, and whatever :func:`load` refuses.
    """
    given = declared(namespace, PRESET_NAMES)
    return load(given.pop("preset"), given.pop("overrides"), **given)


def declared(namespace: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The parameters of a notebook by name.

    papermill injects any name and only logs the ones that a notebook does not declare. Here a plain value (number,
    string, list, mapping, None) under any other name is an error, where it comes from the ``parameters`` cell or from
    what papermill put behind it: variables of later cells are none of ours, so cells may be run again in any order. In
    a namespace without a record of its cells (not Jupyter's) every plain value counts.

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
    """What the ``parameters`` cell that was executed last assigns, and the cells of plain values right behind it.

    None: no such cell was executed.
    """
    cells = [_assigned(source) for source in executed]
    at = max((i for i, (assigned, _) in enumerate(cells) if assigned.issuperset(names)), default=None)
    if at is None:
        return None
    behind = itertools.takewhile(lambda cell: cell[1], cells[at + 1 :])
    return cells[at][0].union(*(assigned for assigned, _ in behind))


def _assigned(source: str) -> tuple[set[str], bool]:
    """The names that a cell assigns, and whether it does nothing else, with values that hang on no other name."""
    try:
        lines = ast.parse(source).body
    except SyntaxError:
        return set(), False
    found, only = set(), True
    for line in lines:
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            found |= {one.id for one in targets if isinstance(one, ast.Name)}
            # papermill writes float('nan')
            only &= all(one.id == "float" for one in ast.walk(line.value) if isinstance(one, ast.Name))
        else:
            only = False
    return found, only


def _check_positions(p: Parameters) -> None:
    """What goes with asking at every position, and what only with it."""
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
    }
    for key, given in alone.items():
        if given and not every:
            raise ParameterError(f"'{key}': only model.positions = every reads it, and it is {p.model.positions}")


def _check_together(p: Parameters) -> None:
    """Rules that tie two values."""
    attending = {
        "i2vae": {"model.heads": p.model.heads, "model.cross_heads": p.model.cross_heads},
        "sasrec-bce": {"sasrec_bce.heads": p.sasrec_bce.heads},
        "sasrec-ce": {"sasrec_ce.heads": p.sasrec_ce.heads},
        "stack-ce": {"sasrec_ce.heads": p.sasrec_ce.heads},
        "esasrec": {"esasrec.heads": p.esasrec.heads},
        "abxi": {"abxi.heads": p.abxi.heads},
        "c2dsr": {"c2dsr.heads": p.c2dsr.heads},
    }
    for key, heads in attending.get(p.system.removesuffix("-s").removesuffix("-m"), {}).items():
        if p.model.d % heads:
            raise ParameterError(f"'{key}': {heads} heads do not divide model.d = {p.model.d}")
    if p.system == "i2vae":
        _check_positions(p)
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
