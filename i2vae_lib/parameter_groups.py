"""The groups of parameters, one per part and system. They hold no values: these are in ``params/``."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Positive = Annotated[int, Field(ge=1, le=10**7)]
NonNegative = Annotated[int, Field(ge=0, le=2**53)]  # seeds among them; JSON holds no larger whole number exactly
Width = Annotated[int, Field(ge=1, le=16_384)]  # of a layer, whose weights grow with its square
Depth = Annotated[int, Field(ge=1, le=1_000)]  # layers, blocks or rounds, one after another
DepthOrNone = Annotated[int, Field(ge=0, le=1_000)]
Length = Annotated[int, Field(ge=1, le=65_536)]  # of a sequence
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)]  # float32 overflows at 3e38
Rate = Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)]
HalfLife = Annotated[float, Field(gt=0.0, le=1.0)]


class Group(BaseModel):
    """A frozen group of parameters that refuses unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads ``yes`` and ``on`` as true, and pydantic would take true for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        kinds = {kind, *get_args(kind)}
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise ValueError("Input should be a number, not true or false")
        return value


class SplitParameters(Group):
    """How rows become train, validation and test (``docs/evaluation.md``: Protocols)."""

    data_seed: NonNegative  # fixes splits, cold users and candidates; `seed` never does
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)]  # of the training users (chronological: of all users)
    test_share: Annotated[float, Field(ge=0.0, lt=1.0)]  # of all users; chronological only; 0: nothing is held out
    first_cut: Annotated[float, Field(gt=0.0, lt=1.0)]  # temporal only: quantile of event time where training ends
    second_cut: Annotated[float, Field(gt=0.0, lt=1.0)]  # temporal only: where validation ends
    cold_share: Share  # K_cs: held-out users with both domains who lose one
    longest: Positive  # events of a domain that a row shows at most, the most recent


class ControlParameters(Group):
    """What robustness studies remove (:mod:`i2vae_lib.data.subsampling`)."""

    overlap: Annotated[float, Field(gt=0.0, le=1.0)]  # K_o: share of the overlapping training users kept as such
    overlap_mode: Literal["drop", "detach"]  # the others are removed, or become two unlinked one-domain users
    density: Annotated[float, Field(gt=0.0, le=1.0)]  # D_s: probability that an interaction is kept


class SyntheticParameters(Group):
    """Synthetic data (:mod:`i2vae_lib.data.synthetic`)."""

    users: Positive
    items: Annotated[int, Field(ge=1, le=10**6)]  # per domain
    shared_topics: Annotated[int, Field(ge=1, le=1000)]  # of both domains
    specific_topics: Annotated[int, Field(ge=1, le=1000)]  # per domain
    linked_items: NonNegative  # items of both domains
    dial: Annotated[float, Field(ge=0.0)]  # 0: every next item equally likely; 1: by the formula
    focus: Rate  # how few topics a user likes (Dirichlet concentration; small: few)
    shared_weight: Annotated[float, Field(ge=0.0, le=1.0)]  # share of interest in the shared topics
    drift: Weight  # how far interests wander per event
    zipf: Weight  # exponent of item popularity
    overlap: Annotated[float, Field(gt=0.0, le=1.0)]  # users with both domains
    mean_length: Annotated[float, Field(ge=2.0)]  # items, target included
    cold_rows: Share  # test rows whose own history is empty (half of them have no other history either)
    test_share: Annotated[float, Field(gt=0.0, lt=1.0)]
    seed: NonNegative


# the paper's way to recall pseudo-sequences, under protocol `released` whatever a preset says
PUBLISHED_PSG = {"folds": 1, "recall_from": "history_and_target"}


class PsgParameters(Group):
    """The pseudo-sequence generator (paper 3.1, D.1; :mod:`i2vae_lib.generators.psg`)."""

    kind: Literal["lightgcn", "cooccurrence", "leave_one_out", "random", "none"]
    recalled: NonNegative  # items per domain, for the pseudo-sequence
    arrangement: Literal["append", "interleave"]
    folds: Annotated[int, Field(ge=1, le=100)]  # one fit per fold; 4: cross-fitted; 1: the paper's way
    recall_from: Literal["history", "history_and_target"]  # the latter is the paper's way, under `released` alone
    d: Width
    layers: DepthOrNone
    learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]  # too high: the fit itself refuses
    decay: Weight  # L2 on the batch's layer-0 rows
    batch_size: Positive
    epochs: Positive
    patience: Positive  # epochs without a better validation recall
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)]  # of the training interactions
    rounds: Depth  # of recall; 1: plain recall
    edges_per_round: NonNegative  # pseudo-edges per user and domain
    shrinkage: Weight  # cooccurrence and leave_one_out
    # leave_one_out only (:mod:`i2vae_lib.generators.cooccurrence`); the values named first are those of a bag
    proximity: Weight  # 0: all pairs of one sequence count equally; else by gap^-proximity
    backward: Weight  # 1: both directions count equally; else the weight of items earlier in the sequence
    across: Weight  # 1: pairs across domains count like those within one; else their weight
    recency: Annotated[float, Field(gt=0.0, le=1.0)]  # 1: all of a history counts equally; else recency^steps back
    seed: NonNegative  # separate, so that runs with different `seed` share one fit


class EvidenceParameters(Group):
    """Counts that enter the item scores (:mod:`i2vae_lib.generators.evidence`); ``model.positions`` = every only.

    The i-th values of the five settings make the i-th kernel; empty tuples: no kernels.
    """

    items: Positive  # per row, best first
    shrinkage: tuple[Weight, ...]  # as `psg.shrinkage`; the next four likewise
    proximity: tuple[Weight, ...]
    backward: tuple[Weight, ...]
    across: tuple[Weight, ...]
    recency: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...]
    half_lives: tuple[HalfLife, ...]  # of recent takers, shares of the training events
    pooled: tuple[Weight, ...] = ()  # of counts, pooled with the trained model: validation chooses one, or 0

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        lengths = {
            name: len(getattr(self, name)) for name in ("shrinkage", "proximity", "backward", "across", "recency")
        }
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise ValueError(f"a kernel needs one value of each setting, but their numbers differ: {listed}")
        return self


class ModelParameters(Group):
    """Sizes of i2VAE (paper 3.2, 3.3, D)."""

    positions: Literal["last", "every"]  # targets in training: a row's last item, or every item of a user's sequence
    d: Width
    T: Length  # most recent real items kept
    T_pseudo: Length  # T' of the paper: cap on history + recalled
    blocks: Depth
    heads: Positive  # of the sequence encoder
    cross_heads: Positive  # of the cross-domain attention
    dropout: Share
    start: Literal["random", "cooccurrence", "titles", "given"]  # of the item vectors
    vectors: str | None  # file of the given ones (:mod:`i2vae_lib.generators.features`)
    path: Literal["mlp", "residual"]  # states, posterior means, decoder: as in the paper, or added to their input
    causal: bool  # the encoder of real sequences; pseudo-sequences are bags
    shared_prior: bool  # z_a shares the prior of its domain's z
    initial_log_variance: Annotated[float, Field(ge=-10.0, le=4.0)]


class ObjectiveParameters(Group):
    """What training rows ask for, and the weights of the objective (paper 3.4, 3.5, D.1)."""

    blank_share: Share  # users drawn each epoch to be shown again, last event's domain hidden (every position only)
    reconstruction: Literal["bce", "softmax"]
    negatives: Positive  # sampled per row (bce only)
    sampled: Positive = 4096  # per batch, for a softmax over more than eight times as many items (every position only)
    lambda_a: Weight  # denoising
    lambda_c: Weight  # cross-domain and disentangling
    a: Weight  # adaptive weight exp(a L / T) - b
    b: Weight
    kl_weight: Weight  # on the six KLs of Eq. 4; 1 in the paper
    kl_annealing_epochs: NonNegative  # epochs of linear warm-up; 0: off
    free_bits: Weight  # nats per dimension below which a KL is not reduced further; 0: off


class TrainingParameters(Group):
    epochs: Positive
    batch_size: Positive
    learning_rate: Rate
    patience: NonNegative  # epochs without a better validation NDCG@10; 0: never stop early
    device: str  # auto, cpu, cuda, cuda:1 …
    devices: Positive = 1  # processes that train i2VAE together, each on its part of every batch
    precision: Literal["32", "bf16-mixed"] = "32"  # bf16-mixed: matrix products of training in bfloat16


class EvaluationParameters(Group):
    negatives: Positive  # sampled candidates beside the target
    batch_size: Positive  # rows scored at once


class ReferenceParameters(Group):
    """What the reference rankers choose from, on validation (:mod:`i2vae_lib.recommenders.references.from_histories`).

    A grid whose best value lies at its edge extends itself; a grid of one value stays.
    """

    half_life: Annotated[tuple[HalfLife, ...], Field(min_length=1)]  # recent popularity, a share of the training events
    neighbours: Annotated[tuple[NonNegative, ...], Field(min_length=1)]  # ItemKNN, kept per item; 0: all
    shrinkage: Annotated[tuple[Weight, ...], Field(min_length=1)]  # ItemKNN and ordered counts
    # ordered counts, down to `popularity`; names that `psg` has too mean the same
    proximity: Annotated[tuple[Weight, ...], Field(min_length=1)]
    backward: Annotated[tuple[Weight, ...], Field(min_length=1)]
    recency: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)]
    across: Annotated[tuple[Weight, ...], Field(min_length=1)]
    popularity: Annotated[tuple[Weight, ...], Field(min_length=1)]  # weight of log(1 + takers)
    ease_lambda: Annotated[tuple[Rate, ...], Field(min_length=1)]  # EASE: L2
    ease_limit: Positive  # EASE: side of the largest matrix that is inverted (items or users, whichever are fewer)


class MultiVAEParameters(Group):
    """Multi-VAE (Liang et al. 2018); its latent has ``model.d`` dimensions."""

    hidden: Width
    dropout: Share  # of the input bag
    beta: Weight  # cap of the KL weight
    annealing_epochs: NonNegative  # epochs until the cap


class SVAEParameters(Group):
    """SVAE (Sachdeva et al. 2019); its items have ``model.d`` dimensions."""

    recurrent: Width  # GRU state
    hidden: Width
    latent: Width
    next_items: Positive  # k: how many later items a step predicts
    beta: Weight
    annealing_epochs: NonNegative
    weight_decay: Weight


class SASRecBCEParameters(Group):
    """SASRec with its own loss (Kang & McAuley 2018)."""

    blocks: Depth
    heads: Positive
    dropout: Share
    negatives: Positive  # per step


class _EveryPositionParameters(Group):
    """Systems trained at every position of a sequence (:mod:`i2vae_lib.recommenders.systems.every_position`)."""

    heads: Positive
    dropout: Share
    hidden_share: Share  # sequences shown once more with the last event's domain hidden (merged only)
    start: Literal["random", "cooccurrence"]  # of the item vectors


class SASRecCEParameters(_EveryPositionParameters):
    """SASRec with cross-entropy (Klenitskiy & Vasilev 2023)."""

    blocks: Depth


class ESASRecParameters(_EveryPositionParameters):
    """eSASRec (Tikhonovich et al. 2025)."""

    blocks: Depth
    multiplier: Depth  # m: width of the feed-forward net, in d


class ABXIParameters(_EveryPositionParameters):
    """ABXI (Bian et al. 2025)."""

    hidden: Width  # of the feed-forward nets
    domain_rank: Width  # of the adapters to a stream
    invariant_rank: Width  # of the adapters from both domains to one
    temperature: Rate
    decay: Weight  # AdamW's


class _LinearParameters(Group):
    """Linear models of sequences in closed form."""

    decay: Rate  # L2
    recency_decay: Rate  # steps, in a history that is scored
    limit: Positive  # side of the largest matrix that is solved


class SLISTParameters(_LinearParameters):
    """SLIST (Choi et al. 2021)."""

    consistency: Annotated[float, Field(ge=0.0, le=1.0)]  # a; 0: SLIT, 1: SLIS
    source_decay: Rate  # steps
    target_decay: Rate  # steps


class TALEParameters(_LinearParameters):
    """TALE (Park et al. 2025)."""

    time_decay: Rate  # median gaps between neighbours of a sequence
    floor: Share  # smallest weight of an earlier item


class StackParameters(Group):
    """A conditional logit over other rankers (:mod:`i2vae_lib.recommenders.systems.stack`)."""

    learning_rate: Rate
    steps: Positive  # each over all rows
    decay: Weight  # on the squared weights
    folds: Annotated[int, Field(ge=2)]  # of users, for the validation metrics


class LightGCNParameters(Group):
    """LightGCN (He et al. 2020) as a recommender; the generator's own settings are in ``psg``."""

    layers: DepthOrNone
    decay: Weight  # L2 on the batch's layer-0 vectors
    batch_size: Positive  # triples


class EMCDRParameters(Group):
    """EMCDR (Man et al. 2017) over BPR-MF."""

    decay: Weight  # L2 on the batch's vectors
    batch_size: Positive  # triples
    mapping: Literal["linear", "mlp"]
    mapping_decay: Weight
    active_share: Annotated[float, Field(gt=0.0, le=1.0)]  # the most active overlapping users, for the mapping


class PiNetParameters(Group):
    """Pi-Net (Ma et al. 2019); its cells have ``model.d`` units."""

    members: Positive  # K latent members of an account
    dropout: Share
    blank_share: Share  # training rows shown without their own history
    clip: Rate  # of each gradient element


class DASLParameters(Group):
    """DASL (Li et al. 2021); items, users and GRU have ``model.d`` units."""

    attention: Width
    hidden: tuple[Width, Width]  # of the scoring MLP
    negatives: Positive
    dropout: Share
    dual_weight: Weight  # cosine distance of a user's two vectors, one mapped
    orthogonality: Weight  # || W^T W - I ||^2


class C2DSRParameters(Group):
    """C2DSR (Cao et al. 2022)."""

    layers: DepthOrNone  # of the item graph
    blocks: Depth
    heads: Positive
    dropout: Share
    balance: Annotated[float, Field(ge=0.0, le=1.0)]  # lambda: weight of the losses against the infomax terms
    steps: Positive  # only this many last steps count


class DisenCDRParameters(Group):
    """DisenCDR (Cao et al. 2022)."""

    layers: Depth
    dropout: Share
    beta: Annotated[float, Field(ge=0.0, le=1.0)]  # of the informative regulariser
    kl_weight: Weight
    warm_up: NonNegative  # epochs of specific latents alone
    batch_size: Positive  # interactions


class SAVAEParameters(MultiVAEParameters):
    """SA-VAE and RA-VAE (Salah et al. 2021); latents have ``model.d`` dimensions."""


class CDRIBParameters(Group):
    """CDRIB (Cao et al. 2022)."""

    layers: Depth
    dropout: Share
    beta: Weight  # on the users' KL
    kl_weight: Weight  # on both KLs
    margin: Share  # of the contrastive hinge
    contrasted: Positive  # overlapping users per step
    batch_size: Positive  # interactions
    weight_decay: Weight
