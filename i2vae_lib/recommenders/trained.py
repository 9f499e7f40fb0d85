"""What all systems share: scoring, saving and loading (:class:`StoredRecommender`), and training (:class:`Trained`).

A system says what a row's candidates score (:meth:`StoredRecommender.scores`) and what is to be trained
(:meth:`Trained.stages`). The loop is that of :mod:`i2vae_lib.training`, the epoch is selected on validation, and rows
that a system has no evidence for are ranked by popularity.
"""

import hashlib
import json
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from i2vae_lib import training
from i2vae_lib.data.batches import Tensors, bucketed
from i2vae_lib.data.dataset import rows_digest
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Rows, packed, popularity, unpacked
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.generators.psg import Generator
from i2vae_lib.params import Parameters, of_result
from i2vae_lib.recommenders import REGISTRY, contract
from i2vae_lib.recommenders.systems.fold_in import user_vectors
from i2vae_lib.runs import LayoutError, parameters_in, sha256_of
from i2vae_lib.training import Callbacks, Loss, Stage, State

# what a system has of its training rows before it is trained, and after it is loaded
NOTHING: Mapping[str, Any] = MappingProxyType({})


class StoredRecommender(contract.Recommender):
    """A recommender that scores with a module and frozen tables, and lives on in a folder.

    Attributes
    ----------
    name
        The system's name, as ``--set system=…`` takes it.
    reading_of
        How a system of one domain reads rows: separately or merged (:mod:`.systems.separate_or_merged`).
    module
        The weights.
    frozen
        What else scoring needs, saved beside the weights: tables that follow from weights or training rows.
    state
        After ``fit``: the history by epoch (of all stages) and which epoch of the last was selected.
    start
        Vectors of the unified items that training begins with (``cooccurrence.item_vectors`` with ``start_shrinkage``),
        where a system has any; for the audit.
    counted
        Counts of the training rows that score items, each with a ``name`` and ``foreign_counts(train)``; for the audit.
    """

    start: Array | None = None
    start_shrinkage = 10.0
    counted: Sequence[Any] = ()
    reading_of: ClassVar[Any] = None
    module: Any  # an nn.Module; torch's types know no attributes

    def __init__(self, catalogue: Catalogue, params: Parameters):
        self.catalogue = catalogue
        self.params = params
        self.device = training.choose_device(params.training.device)
        self.popularity: Mapping[str, Array] = {}
        self.frozen: dict[str, Tensor] = {}
        self.module = nn.Module()
        self.reading: Any = None if self.reading_of is None else self.reading_of(catalogue)
        self.state = State()

    @property
    def own(self) -> Any:
        """The system's own parameters: the last of the groups that the registry names."""
        return getattr(self.params, REGISTRY[self.name].groups[-1])

    @property
    def sizes(self) -> dict[str, int]:
        """Items by domain, padding not counted."""
        return {d: self.catalogue.size(d) for d in DOMAINS}

    # --- what a system says ---

    def build(self, weights: torch.Generator) -> nn.Module:
        """A new module of the right shapes, every weight drawn from ``weights``."""
        return nn.Module()

    @abstractmethod
    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        """Scores of candidates, [B, k].

        Parameters
        ----------
        rows
            B rows that all ask for ``domain``, and of which :meth:`can_rank` holds.
        items
            int64 [B, k], or [1, k] where all rows share their candidates; 1…n.
        """

    def can_rank(self, rows: Rows) -> Array:
        """Rows that the system can rank for, bool [n]; the others get popularity."""
        return ~contract.without_evidence(rows) if self.reading is None else self.reading.can_rank(rows)

    def update_tables(self) -> None:
        """Compute what :meth:`scores` needs. Called before each validation, after training and after loading."""

    def scoring_module(self) -> nn.Module:
        """The part of ``module`` that scoring needs: what :meth:`save` writes and :meth:`load` reads."""
        return self.module

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Take the saved weights of :meth:`scoring_module`; ``frozen`` is there already."""
        self.module = self.build(torch.Generator().manual_seed(0)).to(self.device)
        training.load_parameters(self.scoring_module(), weights)

    # --- known users ---

    def keep_user_vectors(self, name: str, ids: Sequence[str] | Array, vectors: Tensor) -> None:
        """Under ``temporal``, keep the trained vectors [users, d] of these users."""
        if self.params.protocol == "temporal":
            self.frozen |= {f"known {name}": vectors, f"ids {name}": torch.from_numpy(packed(ids))}

    def known_or_folded(self, folded: Tensor, rows: Rows, name: str) -> Tensor:
        """Folded-in vectors [rows, d]; under ``temporal`` those of known users are the ones they trained."""
        if self.params.protocol != "temporal":
            return folded
        ids, table = unpacked(self.frozen[f"ids {name}"].cpu().numpy()), self.frozen[f"known {name}"].cpu().numpy()
        return torch.from_numpy(user_vectors(rows, ids, table, folded.cpu().numpy())).to(self.device)

    # --- the contract ---

    def validator(self, validation: Rows) -> Callable[[], dict[str, float]]:
        """A function that measures the current weights: sampled NDCG@10 on validation rows."""
        p = self.params
        negatives = sample_negatives(validation, p.evaluation.negatives, p.split.data_seed)

        def validate() -> dict[str, float]:
            self.update_tables()
            ranks = rank(self, validation, negatives, full=False, batch_size=p.evaluation.batch_size)
            return selection_metric(ranks, validation)

        return validate

    def score(self, rows: Rows, candidates: Array) -> Array:
        """:meth:`scores` for the rows of :meth:`can_rank`, training counts for the others."""
        return self.scored(rows, candidates, self.scores)

    @torch.no_grad()
    def scored(self, rows: Rows, candidates: Array, scores: Callable[[Rows, str, Tensor], Tensor]) -> Array:
        """:meth:`score` with another function in place of :meth:`scores`."""
        contract.check_candidates(rows, candidates)
        shared = candidates.strides[0] == 0
        evident = self.can_rank(rows)
        found = np.empty(candidates.shape, dtype=np.float32)
        left = np.flatnonzero(~evident)
        found[left] = contract.gather(self.popularity, rows.take(left), candidates[left])
        for d in DOMAINS:
            at = np.flatnonzero(evident & (rows.domain == DOMAINS.index(d)))
            if len(at):
                wanted = (candidates[:1] if shared else candidates[at]).astype(np.int64)
                items = torch.from_numpy(wanted).to(self.device)
                of_domain = scores(rows.take(at), d, items).cpu().numpy()
                if len(at) == len(rows):  # as in a batch of the evaluation: no copy
                    return of_domain
                found[at] = of_domain
        return found

    def save(self, folder: Path) -> None:
        """Weights, frozen tables and popularity as safetensors, vocabularies and parameters beside them."""
        tensors = dict(self.scoring_module().named_parameters()) | {
            f"frozen/{name}": one for name, one in self.frozen.items()
        }
        tensors |= {f"popularity/{d}": torch.from_numpy(self.popularity[d]) for d in DOMAINS}
        parameters = self.params.model_dump(mode="json")
        contract.save_model(folder, self.catalogue, tensors, system=self.name, parameters=parameters)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a saved folder; nothing else is needed.

        Raises
        ------
        LayoutError
            No saved model, another system's, another layout version, or weights that do not fit the vocabulary.
        """
        with contract.saved_model(Path(folder)) as (header, catalogue, weights):
            if header.get("system") != cls.name:
                raise LayoutError(f"{folder} holds a model of {header.get('system')}, not of {cls.name}")
            found = cls(catalogue, _on_this_machine(parameters_in(header, folder)))
            found.popularity = {d: weights.pop(f"popularity/{d}").numpy() for d in DOMAINS}
            frozen = [name for name in weights if name.startswith("frozen/")]
            found.frozen = {name.removeprefix("frozen/"): weights.pop(name).to(found.device) for name in frozen}
            found.restore(weights)
        found.update_tables()
        return found


class Trained(StoredRecommender):
    """A recommender of trained weights."""

    @abstractmethod
    def build(self, weights: torch.Generator) -> nn.Module: ...

    @abstractmethod
    def stages(self, train: Rows) -> Iterator[Stage]:
        """What is to be trained, in order; ``self.module`` is built. When the iterator resumes after a stage, that
        stage has been trained."""

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        """Take from training rows what the module's shapes and constants depend on (a graph, the number of users)."""

    def choose_after_training(self, validation: Rows) -> None:
        """Choose on validation rows what is not trained. Called once, when all stages are trained."""

    def initialise(self, train: Rows, generator: Generator | None, rng: np.random.Generator) -> None:
        """Everything that training starts from: what it takes from the rows, and weights drawn from ``rng``."""
        self.popularity, self.frozen = popularity(train), {}
        self.prepare(train, generator)
        self.module = self.build(torch.Generator().manual_seed(int(rng.integers(2**62)))).to(self.device)

    def fit(
        self,
        train: Rows,
        validation: Rows,
        *,
        params: Parameters,
        generator: Generator | None,
        rng: np.random.Generator,
        callbacks: Callbacks,
    ) -> Self:
        """Train stage after stage with :func:`i2vae_lib.training.train`; the weights of the best epochs stay.

        Raises
        ------
        NonFiniteLoss
            Names the term, the epoch and the batch.
        """
        self.params = params
        self.initialise(train, generator, rng)
        noise = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        validate = self.validator(validation)
        identity = _identity(self, train, validation, generator)
        histories: list[list[dict[str, float]]] = []
        for number, stage in enumerate(self.stages(train)):
            checkpoint = callbacks.checkpoint
            if checkpoint is not None and number:
                checkpoint = checkpoint.with_name(f"{checkpoint.stem}-{stage.name}{checkpoint.suffix}")
            # a later stage starts from what the earlier ones left; a first one from what seed and data say, which are
            # in the identity (and an eigenvector's last bits may differ when it is computed again)
            before = training.digest_of(training.parameters_of(self.module)) if number else ""
            self.state = training.train(
                stage,
                validate,
                params.training,
                rng=rng,
                generator=noise,
                identity=f"{identity} {stage.name} {before}",
                callbacks=Callbacks(checkpoint, callbacks.on_epoch),
            )
            histories.append(self.state.history)
        self.update_tables()
        if len(histories) > 1:
            self.state.history = [
                {"stage": float(number)} | one for number, part in enumerate(histories, start=1) for one in part
            ]
        self.choose_after_training(validation)
        return self


def _bucketed_streams(
    lengths: Mapping[str, Array], batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[str, Array]]:
    """:func:`bucketed` over several streams, batches in random order: each stream's name, and positions in it."""
    order = [(name, at) for name, length in lengths.items() for at in bucketed(length, batch_size, rng)]
    yield from (order[i] for i in rng.permutation(len(order)))


def stream_stage(
    name: str,
    module: nn.Module,
    loss: Loss,
    lengths: Mapping[str, Sized],
    batch_size: int,
    collate: Callable[[str, Array, np.random.Generator], Tensors],
    epoch: Callable[..., Iterator[tuple[str, Array]]] = _bucketed_streams,
) -> Stage:
    """A training on sequences of several streams, a batch of one of them.

    Parameters
    ----------
    lengths
        Of each stream's sequences, int [n]; for another ``epoch`` than the default, anything as long.
    collate
        Makes a batch: of which stream, of its sequences at these positions, and what draws.
    epoch
        The batches of an epoch as streams and positions, given ``lengths``, ``batch_size`` and what draws.
    """

    def batches(rng: np.random.Generator) -> Iterator[dict[str, Tensors]]:
        for stream, at in epoch(lengths, batch_size, rng):
            yield {stream: collate(stream, at, rng)}

    steps = sum(-(-len(one) // batch_size) for one in lengths.values())
    return Stage(name, module, loss, batches, sum(map(len, lengths.values())), steps)


def solved_epoch(rows: int, start: float, learnt: float, found: Mapping[str, float]) -> dict[str, float]:
    """The history record of a system that is solved in one go.

    Parameters
    ----------
    rows
        Training rows.
    start, learnt
        ``time.perf_counter()`` before and after the solution; what came since was validation.
    found
        Of :func:`i2vae_lib.evaluation.selection_metric`.
    """
    timed = {"seconds": learnt - start, "rows/s": rows / (learnt - start)}
    return {"epoch": 1.0} | timed | dict(found) | {"validation seconds": time.perf_counter() - learnt}


def _on_this_machine(parameters: Parameters) -> Parameters:
    """Replace a device that this machine lacks by the CPU."""
    try:
        training.choose_device(parameters.training.device)
    except ValueError:
        print(f"{parameters.training.device} is not there: the CPU is taken", file=sys.stderr)
        cpu = parameters.training.model_copy(update={"device": "cpu"})
        return parameters.model_copy(update={"training": cpu})
    return parameters


def _is_whole(items: Tensor, size: int) -> bool:
    """Whether candidates, int64 [k], are all items 1…n in order: then nothing needs to be picked out."""
    return len(items) == size and bool((items == torch.arange(1, size + 1, device=items.device)).all())


def chosen(scores: Tensor, items: Tensor) -> Tensor:
    """Of scores of the items 1…n, [B, n], those of the candidates, int64 [B, k], or [1, k] shared by all rows."""
    if len(items) > 1:
        return scores.gather(1, items - 1)
    return scores if _is_whole(items[0], scores.shape[1]) else scores[:, items[0] - 1]


def dot(vectors: Tensor, table: Tensor, items: Tensor) -> Tensor:
    """Dot products of rows' vectors with their candidates' ones.

    Parameters
    ----------
    vectors
        [B, d].
    table
        [n, d] of items 1…n.
    items
        int64 [B, k], or [1, k] shared by all rows.

    Returns
    -------
    Tensor [B, k]
    """
    if len(items) == 1:
        return vectors @ (table if _is_whole(items[0], len(table)) else table[items[0] - 1]).T
    if 32 * items.shape[1] > len(table):
        # gathering k vectors per row costs more than a product with all n until n is some 30 k
        return (vectors @ table.T).gather(1, items - 1)
    return torch.bmm(table[items - 1], vectors[:, :, None])[:, :, 0]


def _identity(system: Trained, train: Rows, validation: Rows, generator: Generator | None) -> str:
    """What the weights depend on: a checkpoint of anything else is refused."""
    groups = {"split", "controls", "synthetic", "training", "evaluation", *REGISTRY[system.name].groups}
    relevant = of_result(system.params.model_dump(mode="json", include={"data", "protocol", "seed", *groups}))
    parts = [system.name, json.dumps(relevant, sort_keys=True), rows_digest(train), rows_digest(validation)]
    parts += [generator.digest()] if generator is not None else []
    vectors = system.params.model.vectors
    parts += [sha256_of(Path(vectors))] if vectors is not None and Path(vectors).is_file() else []
    return hashlib.sha256("".join(parts).encode()).hexdigest()
