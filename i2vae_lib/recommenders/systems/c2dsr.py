"""C2DSR: three views of a merged sequence, each with its item graph and its encoder, held together by infomax.

Cao et al., "Contrastive cross-domain sequential recommendation", CIKM 2022, arXiv 2304.03891 (code: cjx96/C2DSR). A
user's items of both domains in one sequence M; the views X and Y are its items of one domain. For each of the three an
item table E, a graph A of what follows what (row-normalised, training sequences only; across domains for M, inside the
domain for the views), and an encoder (:class:`i2vae_lib.model.encoders.SequenceEncoder`, that of i2VAE and SASRec):

    E^0 = E, E^{l+1} = A dropout(E^l) + b        G = mean of E^0 … E^L        F = encoder(G[items] + E[items])

One head per domain, lin_d, not tied to E, over all n_d items. At each step t, with F at the step where the view's is:

    shared_d      -log softmax(lin_d(F_t))[M_{t+1}]               where M_{t+1} is of domain d
    specific_d    -log softmax(lin_d(F_t + F^d_t))[next d item]   where M_t is of domain d and a d item comes later
    infomax_d     -log sigmoid D_d(r^d, R^e) - log sigmoid(-D_d(r^d, R~^e))
    loss          lambda sum_d (shared_d + specific_d) + (1 - lambda) sum_d infomax_d

e is the domain that d is not, r^d the mean of F^d and R^e that of F over the steps of view e, R~^e the same as R^e
after uniform items of d took the place of those of d, D_d bilinear. A last item of d that no item of d follows is not
in its view. Only the last ``c2dsr.steps`` steps of M count, except in the means. A row scores lin_d(F_last + F^d_last).

Made for the next item, in its own domain, of users with items in both. Here rows have any histories: those of one
domain train ``shared`` and ``specific`` of that domain. A row without an own history scores lin_d(F_last), which
``shared`` trains where domains change; no fallback is needed.

Departs
    - a training row's sequence is both histories and the target in order of time, of one stamp only the events of the
      row's own domain; where the data have no common time, other history, own history, target. There the own items
      stand after the other view has ended and cannot change R^other, so infomax_own would tell equals apart: a term is
      left out for rows where it is so, and for rows that lack a view (the code drops these rows altogether);
    - all views are views of the last T inputs (the code cuts nothing, a longer row breaks its evaluation);
    - F and F^d are added at the same step in training, and at the last merged and the last own step in scoring, as in
      the code;
    - terms are means over the steps or rows that have them (the code divides by all steps, padding too). Batches are
      of sequences of similar length (the code's of any), so a batch's mean counts by how much it has of what the mean
      is over, against a mean batch: every step weighs the same, as in batches of any length;
    - encoders: padding masked as key, state 0 at padding (in the code, where padding is a key, the bias of the last
      normalisation, and so F^d of an empty view), positions backwards from the end, the rest as ``sasrec_bce``;
    - tables of the views hold their domain's items alone; the code's others are never read;
    - corruption is drawn anew each epoch (in the code once);
    - transitions are weighted by their count, as in the code, where their de-duplication never fires; users with two
      training rows count in both. As in the code, a training row's own transitions are in the graph, so that the vector
      of its last item holds some of its target, which no evaluation row's does;
    - no logit for padding, which is no target; embeddings and biases start as everywhere in this kit;
    - d is 128 (the paper: 256) in the first point of the search: twice the width is far beyond ten minutes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib.data.batches import Tensors, as_indices, bucketed
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows, other
from i2vae_lib.data.user_sequences import windows, with_targets
from i2vae_lib.generators.graphs import Product, successors
from i2vae_lib.generators.psg import Generator
from i2vae_lib.model.encoders import SequenceEncoder, dropout, initialise, masked_mean
from i2vae_lib.model.likelihoods import bernoulli, categorical_mean
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.systems.separate_or_merged import Merged
from i2vae_lib.recommenders.trained import NOTHING, Trained, dot
from i2vae_lib.training import CostAndParts, Stage

MERGED = "xy"


@dataclass(frozen=True)
class _View(Tensors):
    """What a view shows of a batch of B merged sequences of W slots; a view's k-th input is its k-th standing slot."""

    rows: Tensor  # int64 [b], ascending: the sequences that it shows anything of
    inputs: Tensor  # int64 [b, L], left-padded with 0; numbers of the view's own table
    targets: Tensor  # int64 [b, L], what comes next in the view, where its input stands
    standing: Tensor  # bool [b, W]: slots of the merged sequence where its inputs stand


@dataclass(frozen=True)
class _Corrupted(Tensors):
    """Merged sequences in which items of a domain d gave way to random ones, of rows for which that says anything."""

    rows: Tensor  # int64 [c]
    inputs: Tensor  # int64 [c, W]
    own: Tensor  # int64 [c]: their lines in view d
    standing: Tensor  # bool [c, W]: slots of the other view


@dataclass(frozen=True)
class Shares(Tensors):
    """By term: how many steps or rows a batch has of those that it is a mean over, against a mean batch."""

    of: Mapping[str, float]


def views(reading: Merged, sequences: Ragged, length: int) -> dict[str, _View]:
    """The merged view of sequences, the last ``length`` inputs of them, and each domain's view of that.

    Parameters
    ----------
    sequences
        Merged training sequences, targets included, of two items at least.
    """
    recent = sequences.recent(length + 1)
    inputs, targets = windows(recent, length)
    found = {MERGED: _view(np.arange(len(recent)), inputs, targets, inputs != 0)}
    for d in DOMAINS:
        part = reading.part(recent, d)
        rows = np.flatnonzero(part.lengths > 1)
        # the last item of d is the target of the one before it, so all but the last are inputs
        inside = reading.within(inputs, d)
        standing = inside & (inside.cumsum(axis=1) < part.lengths[:, None])
        found[d] = _view(rows, *windows(part.take(rows), length), standing[rows])
    return found


def corrupted(reading: Merged, batch: Mapping[str, _View], domain: str, rng: np.random.Generator) -> _Corrupted:
    """Random items of ``domain`` in place of the true ones, where r^domain and R^other are both there.

    Only of rows where an item of ``domain`` comes before the last slot of the other view: encoders are causal, so what
    comes later changes nothing of R^other, and true and corrupted would be the same.
    """
    own, opposite = batch[domain], batch[other(domain)]
    both, line, line_opposite = np.intersect1d(own.rows.numpy(), opposite.rows.numpy(), return_indices=True)
    inputs, standing = batch[MERGED].inputs.numpy()[both], opposite.standing.numpy()[line_opposite]
    inside = reading.within(inputs, domain)
    informative = inside.argmax(axis=1) < standing.shape[1] - 1 - standing[:, ::-1].argmax(axis=1)
    inputs, inside = inputs[informative], inside[informative]
    drawn = rng.integers(1, reading.catalogue.size(domain) + 1, inputs.shape) + reading.offset(domain)
    return _Corrupted(
        as_indices(both[informative]),
        as_indices(np.where(inside, drawn, inputs)),
        as_indices(line[informative]),
        torch.from_numpy(standing[informative]),
    )


def _view(rows: Array, inputs: Array, targets: Array, standing: Array) -> _View:
    return _View(as_indices(rows), as_indices(inputs), as_indices(targets), torch.from_numpy(standing))


class _Stream(nn.Module):
    """A view's table, what its graph adds, and its encoder."""

    def __init__(self, size: int, p: Parameters):
        super().__init__()
        self.rate = p.c2dsr.dropout
        self.items = nn.Embedding(size + 1, p.model.d, padding_idx=0)
        self.biases = nn.ParameterList(torch.zeros(p.model.d) for _ in range(p.c2dsr.layers))
        self.encoder = SequenceEncoder(
            p.model.d, p.model.T, p.c2dsr.blocks, p.c2dsr.heads, causal=True, rate=p.c2dsr.dropout
        )

    def vectors(self, graph: Product, generator: torch.Generator | None) -> Tensor:
        """E + G, [items + 1, d]: what the encoder reads. An item takes from those that follow it."""
        layer = total = self.items.weight
        for bias in self.biases:
            layer = graph @ dropout(layer, self.rate, generator) + bias
            total = total + layer
        return self.items.weight + total / (1 + len(self.biases))

    def forward(self, vectors: Tensor, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Item numbers [B, L] -> states [B, L, d], 0 at padding."""
        return self.encoder(F.embedding(inputs, vectors), inputs != 0, generator)


class C2DSR(Trained):
    """``c2dsr``."""

    name = "c2dsr"
    reading_of = Merged

    graphs: Mapping[str, Product] = NOTHING  # of each view, [items + 1, items + 1]

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        edges = {MERGED: successors(self.reading.sequences(train)[MERGED], self.reading.size(MERGED))}
        edges |= {d: successors(with_targets(train, d), self.catalogue.size(d)) for d in DOMAINS}
        self.graphs = {name: Product.of(one, self.device) for name, one in edges.items()}

    def build(self, weights: torch.Generator) -> nn.Module:
        sizes, d = {MERGED: self.reading.size(MERGED)} | self.sizes, self.params.model.d
        streams = nn.ModuleDict({name: _Stream(size, self.params) for name, size in sizes.items()})
        heads = nn.ModuleDict({name: nn.Linear(d, sizes[name]) for name in DOMAINS})
        discriminators = nn.ModuleDict({name: nn.Bilinear(d, d, 1) for name in DOMAINS})
        module = nn.ModuleDict({"streams": streams, "heads": heads, "discriminators": discriminators})
        initialise(module, weights)
        for one in discriminators.values():
            nn.init.xavier_uniform_(one.get_parameter("weight"), generator=weights)
            nn.init.zeros_(one.get_parameter("bias"))
        return module

    def stages(self, train: Rows) -> Iterator[Stage]:
        size, sequences = self.params.training.batch_size, self.reading.sequences(train)[MERGED]
        steps = -(-len(sequences) // size)
        total = self.counts(self.batch(sequences, np.random.default_rng(0)))  # whatever the corruption

        def batches(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
            for at in bucketed(sequences.lengths, size, rng):
                found = self.batch(sequences.take(at), rng)
                shares = {name: count * steps / max(1, total[name]) for name, count in self.counts(found).items()}
                yield found | {"shares": Shares(shares)}

        yield Stage("c2dsr", self.module, self.loss, batches, len(sequences), steps, beta2=0.98)

    def batch(self, sequences: Ragged, rng: np.random.Generator) -> dict[str, _View | _Corrupted]:
        """The views of merged training sequences, and their corruption."""
        shown = views(self.reading, sequences, self.params.model.T)
        return shown | {f"corrupted {d}": corrupted(self.reading, shown, d, rng) for d in DOMAINS}

    def counts(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """By term: the steps or rows of a batch that have it."""
        found = {}
        for d in DOMAINS:
            found[f"shared/{d}"] = int(self.asked(batch, d).sum())
            found[f"specific/{d}"] = int(self.standing(batch, d)[2].sum())
            found[f"infomax/{d}"] = len(batch[f"corrupted {d}"].rows)
        return found

    def loss(self, batch: Mapping[str, Any], epoch: int, generator: torch.Generator | None) -> CostAndParts:
        """The weighted sum of the terms that the batch has anything for."""
        streams, balance = self.module.streams, self.params.c2dsr.balance
        vectors = {name: stream.vectors(self.graphs[name], generator) for name, stream in streams.items()}
        states = {
            name: stream(vectors[name], batch[name].inputs, generator)
            for name, stream in streams.items()
            if len(batch[name].rows)
        }
        parts = self.predictions(batch, states)
        weights = dict.fromkeys(parts, balance)
        if balance < 1:
            contrasts = self.contrasts(batch, states, vectors[MERGED], generator)
            parts |= contrasts
            weights |= dict.fromkeys(contrasts, 1 - balance)
        shares = batch["shares"].of
        value = torch.stack([weights[name] * shares[name] * one for name, one in parts.items()]).sum()
        return value, parts

    def recent(self, width: int, device: torch.device) -> Tensor:
        """Which slots of merged sequences count, bool [W]."""
        return torch.arange(width, device=device) >= width - self.params.c2dsr.steps

    def asked(self, batch: Mapping[str, Any], domain: str) -> Tensor:
        """Merged slots whose next item is of a domain, bool [B, W]."""
        targets = batch[MERGED].targets
        return self.recent(targets.shape[1], targets.device) & self.reading.within(targets, domain)

    def standing(self, batch: Mapping[str, Any], domain: str) -> tuple[Tensor, Tensor, Tensor]:
        """The inputs of a domain's view, row after row: line of the view, merged slot, and whether it counts."""
        line, slot = batch[domain].standing.nonzero(as_tuple=True)
        return line, slot, self.recent(batch[domain].standing.shape[1], slot.device)[slot]

    def predictions(self, batch: Mapping[str, Any], states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """shared_d and specific_d, over the last steps."""
        parts = {}
        merged, targets = states[MERGED], batch[MERGED].targets
        for d in DOMAINS:
            head, asked = self.module.heads[d], self.asked(batch, d)
            items = targets[asked] - self.reading.offset(d) - 1
            parts[f"shared/{d}"] = categorical_mean(merged[asked], head.weight, head.bias, items)
            if d in states:
                view = batch[d]
                line, slot, counts = self.standing(batch, d)
                valid = view.inputs != 0
                both = states[d][valid][counts] + merged[view.rows[line[counts]], slot[counts]]
                parts[f"specific/{d}"] = categorical_mean(both, head.weight, head.bias, view.targets[valid][counts] - 1)
        return parts

    def contrasts(
        self, batch: Mapping[str, Any], states: Mapping[str, Tensor], vectors: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """infomax_d of the rows that have it."""
        parts = {}
        for d in DOMAINS:
            one: _Corrupted = batch[f"corrupted {d}"]
            if not len(one.rows):
                continue
            discriminate = self.module.discriminators[d]
            specific = masked_mean(states[d][one.own], batch[d].inputs[one.own] != 0)
            true = masked_mean(states[MERGED][one.rows], one.standing)
            false = masked_mean(self.module.streams[MERGED](vectors, one.inputs, generator), one.standing)
            cost = bernoulli(discriminate(specific, true)[:, 0], discriminate(specific, false))
            parts[f"infomax/{d}"] = cost.mean()
        return parts

    @torch.no_grad()
    def update_tables(self) -> None:
        """The vectors that encoders read, without dropout. A loaded model has them and no graph."""
        if self.graphs:
            self.frozen = {name: one.vectors(self.graphs[name], None) for name, one in self.module.streams.items()}

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        shown = {MERGED: self.reading.histories(rows, domain), domain: rows.history[domain]}
        last = torch.zeros(len(rows), self.params.model.d, device=self.device)
        for name, sequences in shown.items():
            inputs = as_indices(sequences.last(self.params.model.T)).to(self.device)
            last = last + self.module.streams[name](self.frozen[name], inputs, None)[:, -1]
        head = self.module.heads[domain]
        return dot(last, head.weight, items) + head.bias[items - 1]
