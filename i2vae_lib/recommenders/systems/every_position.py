"""Training at every position of a sequence in one pass, with a softmax over the next item's domain.

What :mod:`.systems.sasrec_ce` and :mod:`.systems.esasrec` share: all but the block.
With f_t the state after event t of a user's sequence, i_{t+1} the item of the next event, d its domain and E the item
table (of inputs and outputs alike),

    loss = mean over asked positions of -log softmax_{j in items of d} (f_t . E_j) at i_{t+1}

**What a position may see.** An evaluation row shows nothing later than its target and, in the other domain, nothing of
its target's stamp; so must every position. Of one stamp, a user's events of the two domains stand as two blocks, in an
order that is drawn anew each epoch. The second block's events are not asked for in that epoch: the state before each of
them has seen the first block. The first block's are, and see earlier stamps and, inside their own domain, what stands
before them, as evaluation rows do. Later positions see both blocks. An item whose twin (or itself) stands earlier in a
sequence is not asked for either: evaluation rows are scrubbed of their target's twin. Where data have no common time,
the first block is all of one domain, and the second, which sees all of it, is asked for too: an evaluation row's other
history stands whole.

**Cold rows.** A share of a batch's sequences come once more: the last event is asked for, and of what stands before it
only the other domain is shown, of earlier stamps.

**Long sequences.** Of a sequence of more than T + 1 events, T + 1 consecutive ones, drawn anew each epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from i2vae_lib.data.batches import Tensors
from i2vae_lib.data.rows import PAD, Array, Ragged, Rows, stacked
from i2vae_lib.data.user_sequences import interleaved, stamp_numbers
from i2vae_lib.generators.cooccurrence import item_vectors
from i2vae_lib.generators.graphs import Unified
from i2vae_lib.generators.psg import Generator
from i2vae_lib.model.likelihoods import categorical_mean
from i2vae_lib.model.transformers import CausalTransformer
from i2vae_lib.recommenders.systems.separate_or_merged import mean_steps
from i2vae_lib.recommenders.trained import Trained, dot, stream_stage
from i2vae_lib.training import CostAndParts, Stage


@dataclass(frozen=True)
class Steps(Tensors):
    """Sequences of one stream, left-padded with 0, and what is asked after each of their events."""

    inputs: Tensor  # int64 [B, L]
    targets: Tensor  # int64 [B, L], 0 where nothing is asked
    share: float  # asked positions, against a mean batch of the stream


@dataclass(frozen=True)
class Orders:
    """The users of one stream, each in as many orders as it has domains: which of them stands last in every stamp.

    Parameters
    ----------
    sequences
        Line ``i + n * last`` is user i's whole sequence (two events or more) with domain ``last`` last; moments are
        stamps.
    asked
        bool [total]: whether the event may be asked for.
    domain
        int64 [total]: which of the stream's domains the event belongs to.
    users
        n.
    """

    sequences: Ragged
    asked: Array
    domain: Array
    users: int

    @classmethod
    def of(cls, parts: Sequence[Ragged], sizes: Sequence[int], product: Array) -> Self:
        """Of all users' sequences, a part a domain, by their numbers in the stream.

        Parameters
        ----------
        sizes
            Items of each domain.
        product
            int [numbers + 1]: the product that a number stands for, one for linked items.
        """
        several = np.flatnonzero(np.sum([one.lengths for one in parts], axis=0) > 1)
        parts, users = [one.take(several) for one in parts], len(several)
        sequences = stacked([interleaved(parts, np.full(users, last)) for last in range(len(parts))])
        owner, values = sequences.owner, sequences.values
        domain = np.searchsorted(np.cumsum(sizes), values)
        stamp = stamp_numbers(sequences)
        block = domain[np.unique(stamp, return_index=True)[1]][stamp]  # the domain that a stamp's first event has
        new = np.zeros(len(values), dtype=bool)
        new[np.unique(owner * len(product) + product[values], return_index=True)[1]] = True
        return cls(sequences, (domain == block) & new, domain, users)

    def draw(self, at: Array, length: int, hidden_share: float, rng: np.random.Generator) -> tuple[Array, Array]:
        """Inputs and targets of users at ``length + 1`` consecutive events, or all that there are.

        Returns
        -------
        inputs, targets
            int64 [m, L] each, m >= len(at): sequences with a hidden domain come after the others.
        """
        count = self.sequences.lengths[at]
        lines = at + self.users * rng.integers(0, len(self.sequences) // max(1, self.users), len(at))
        ends = np.where(count > length + 1, rng.integers(np.minimum(count, length + 1), count + 1), count)
        width = int(np.minimum(count, length + 1).max())
        starts = self.sequences.offsets[lines]
        place = (starts + ends)[:, None] - np.arange(width, 0, -1)
        valid = place >= starts[:, None]
        place = np.where(valid, place, 0)
        items = np.where(valid, self.sequences.values[place], PAD).astype(np.int64)
        inputs, earlier, last = items[:, :-1], place[:, :-1], place[:, -1]
        targets = np.where(valid[:, :-1] & self.asked[place[:, 1:]], items[:, 1:], PAD)
        assert self.sequences.moments is not None
        stamps = self.sequences.moments
        shown = valid[:, :-1] & (self.domain[earlier] != self.domain[last][:, None])
        shown &= stamps[earlier] < stamps[last][:, None]
        again = (rng.random(len(at)) < hidden_share) & shown.any(axis=1) & self.asked[last]
        shown = shown[again]
        hidden = np.take_along_axis(
            np.where(shown, inputs[again], PAD), np.argsort(shown, axis=1, kind="stable"), axis=1
        )
        alone = np.zeros_like(hidden)
        alone[:, -1] = items[again, -1]
        return np.concatenate([inputs, hidden]), np.concatenate([targets, alone])


class _Stream(nn.Module):
    """One vocabulary and its transformer."""

    def __init__(self, size: int, d: int, transformer: CausalTransformer):
        super().__init__()
        self.items = nn.Embedding(size + 1, d, padding_idx=PAD)
        self.transformer = transformer

    def forward(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Item numbers [B, L] -> states [B, L, d]."""
        return self.transformer(self.items(inputs), inputs != PAD, generator)


class EveryPosition(Trained):
    """What is trained at every position; a system says which blocks it has and reads which way."""

    final_norm = True  # whether a normalisation follows the last block

    def block(self) -> nn.Module:
        """A new block of a transformer."""
        raise NotImplementedError

    def network(self, stream: str) -> nn.Module:
        """A new one for a stream: item numbers [B, L] -> states [B, L, d], and its item vectors as ``items``."""
        p, model = self.own, self.params.model
        blocks = [self.block() for _ in range(p.blocks)]
        transformer = CausalTransformer(model.d, model.T, blocks, self.final_norm, p.dropout)
        return _Stream(self.reading.size(stream), model.d, transformer)

    def states(self, stream: str, inputs: Tensor, following: Tensor, generator: torch.Generator | None) -> Tensor:
        """States after each event, [B, L, d].

        Parameters
        ----------
        following
            int64 [B, L]: which of the stream's domains the next event belongs to; -1 where there is none.
        """
        return self.module[stream](inputs, generator)

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        if self.own.start == "cooccurrence":
            self.start = item_vectors(train, self.params.model.d, self.start_shrinkage)

    def build(self, weights: torch.Generator) -> nn.Module:
        module = nn.ModuleDict({s: self.network(s) for s in self.reading.streams})
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if weight.dim() > 1:  # norms and biases start at 1 and 0
                    nn.init.xavier_normal_(weight, generator=weights)
                elif name.endswith("bias"):
                    nn.init.zeros_(weight)
            for name in self.reading.streams:
                table = module[name].get_parameter("items.weight")
                if self.start is not None:
                    table[1:] = torch.from_numpy(self.start[self.products(name)[1:]])
                table[PAD] = 0.0
        return module

    def products(self, stream: str) -> Array:
        """The product that each number of a stream stands for, one for linked items: int64 [numbers + 1]."""
        unified = Unified(self.catalogue)
        return np.concatenate([[-1], *(unified.of[d][1:] for d in self.reading.domains(stream))])

    def orders(self, train: Rows) -> dict[str, Orders]:
        """What each stream is learnt from."""
        sizes = {s: [self.sizes[d] for d in self.reading.domains(s)] for s in self.reading.streams}
        return {s: Orders.of(parts, sizes[s], self.products(s)) for s, parts in self.reading.parts(train).items()}

    def stages(self, train: Rows) -> Iterator[Stage]:
        size, length, orders = self.params.training.batch_size, self.params.model.T, self.orders(train)
        lengths = {s: one.sequences.lengths[: one.users] for s, one in orders.items()}
        mean = {s: mean_steps(one, length, size) for s, one in lengths.items()}

        def collate(stream: str, at: Array, rng: np.random.Generator) -> Steps:
            inputs, targets = orders[stream].draw(at, length, self.own.hidden_share, rng)
            share = float((targets != PAD).sum() / mean[stream])
            return Steps(torch.from_numpy(inputs), torch.from_numpy(targets), share)

        yield replace(stream_stage(self.name, self.module, self.loss, lengths, size, collate), beta2=0.98)

    def loss(self, batch: dict[str, Steps], epoch: int, generator: torch.Generator) -> CostAndParts:
        """Mean over asked positions of -log softmax over the items of the target's domain, by the batch's share."""
        [(name, one)] = batch.items()
        asked = one.targets != PAD
        following = self.domains_of(name, torch.cat([one.inputs[:, 1:], one.targets[:, -1:]], dim=1))
        states, targets = self.states(name, one.inputs, following, generator)[asked], one.targets[asked]
        total = states.new_zeros(())
        for d in self.reading.domains(name):
            at, table = self.reading.within(targets, d), self.table(d)
            items = targets[at] - self.reading.offset(d) - 1
            total = total + at.sum() * categorical_mean(states[at], table, table.new_zeros(len(table)), items)
        value = total / max(1, len(targets))
        return one.share * value, {f"reconstruction/{name}": value.detach()}

    def domains_of(self, stream: str, items: Tensor) -> Tensor:
        """Which of the stream's domains each item number belongs to, -1 for padding."""
        last = np.cumsum([self.sizes[d] for d in self.reading.domains(stream)])
        found = torch.bucketize(items, torch.from_numpy(last).to(items.device))
        return torch.where(items == PAD, -1, found)

    def table(self, domain: str) -> Tensor:
        """Vectors of a domain's items, [n, d]."""
        weight: Tensor = self.module[self.reading.stream(domain)].items.weight[1:]
        return weight[self.reading.slots(domain)]

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        name = self.reading.stream(domain)
        history = self.reading.histories(rows, domain).last(self.params.model.T)
        inputs = torch.from_numpy(history.astype(np.int64)).to(self.device)
        asked = torch.full_like(inputs[:, :1], self.reading.offset(domain) + 1)  # any item of the domain
        states = self.states(name, inputs, self.domains_of(name, torch.cat([inputs[:, 1:], asked], dim=1)), None)
        return dot(states[:, -1], self.table(domain), items)
