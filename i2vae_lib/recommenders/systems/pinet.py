"""Pi-Net: two sequences of a shared account, and gates that filter what one domain's items say for the other.

Ma, Ren, Lin, Chen, Ma & de Rijke, "pi-Net: A parallel information-sharing network for shared-account cross-domain
sequential recommendations", SIGIR 2019 (code: mamuyang/PINet). For a target in domain A, with a_0 = 0, a_1 … a_m the
states of a GRU over A's items, b_1 … b_n those over B's, p_j the number of A's items before the j-th of B, and e_1 …
e_K vectors of the members that the account may have::

    f_jk = sigmoid(W_f [b_j; a_{p_j}; s_{j-1}] + V_f e_k + b_f)        shared-account filter: what is kept,
    g_jk = tanh(W_s [b_j; s_{j-1}] + V_s e_k + b_s)                    and what may replace it
    s_j = 1/K sum_k f_jk s_{j-1} + (1 - f_jk) g_jk                     s_0 = 0
    t = last state of a GRU over s_1 … s_n                             cross-domain transfer, 0 for n = 0
    score(i) = W_i . [t; a_m] + c_i                                    loss = cross-entropy over the items of A

and the same for B with weights of its own. The item vectors and the GRU over a domain's items serve both directions.

Made for accounts that several people share and that are active in both domains, and for the next item of both. Here a
row asks for one domain: the other's loss is not there. A row without an own history has a = 0 and is scored from
[t; 0]; a share of the training rows that have another history is shown without their own, because otherwise no weight
would ever have seen one.

Departs
    - how the two histories interleave is not in a row. Every own item is taken to come before every other one, so
      that p_j = m: all of the own history steers the filter, and nothing of it is later than the target. (Other items
      first, as merged sequences elsewhere have it, would make a_{p_j} = 0 throughout and leave its block of W_f
      without a gradient.)
    - V_s stands in g; the released code makes it and then uses V_f there by a slip;
    - one target a training row, its last, as in the code, which has one instance an account; none at earlier items,
      each of which would need filter and transfer anew (a filter may not see own items after its target);
    - dropout is on the inputs and the carried state of each cell, and on [t; a_m]. The code's third one, on the
      outputs, comes on top of the one on the state, which in a GRU is the same vector;
    - histories are cut to the last T; the epoch is selected on validation, where the code takes the fiftieth;
    - item vectors start at N(0, 1 / d), the code's smaller, Xavier-normal; the GRUs' gate biases start at 0, the
      code's at 1;
    - training rows are blanked (``pinet.blank_share``), see above.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from i2vae_lib.data.batches import Tensors, as_indices, bucketed
from i2vae_lib.data.rows import DOMAINS, PAD, Array, Rows, other
from i2vae_lib.data.user_sequences import right_padded
from i2vae_lib.model.encoders import dropout, initialise
from i2vae_lib.model.likelihoods import categorical_mean
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.trained import Trained, dot
from i2vae_lib.training import CostAndParts, Stage


@dataclass(frozen=True)
class Sessions(Tensors):
    """Rows of one target domain. Sequences are right-padded with 0."""

    own: Tensor  # int64 [B, m]
    other: Tensor  # int64 [B, n]
    pointers: Tensor  # int64 [B, n]: own items before each other one
    target: Tensor  # int64 [B]


class Recurrent(nn.Module):
    """A GRU that may drop its inputs and the state that it carries."""

    def __init__(self, d: int, rate: float):
        super().__init__()
        self.rate = rate
        self.cell = nn.GRU(d, d, batch_first=True)

    def forward(self, vectors: Tensor, generator: torch.Generator | None) -> Tensor:
        """Vectors [B, L, d] -> states [B, 1 + L, d]; the first is 0, which is what an empty sequence has."""
        start = vectors.new_zeros(len(vectors), vectors.shape[2])
        if generator is None or not self.rate:
            return torch.cat([start[:, None], self.cell(vectors)[0]], dim=1)
        # the same cell step by step, for the dropout between steps
        weights = dict(self.cell.named_parameters())
        recurrent, bias = weights["weight_hh_l0"], weights["bias_hh_l0"]
        inputs = nn.functional.linear(
            dropout(vectors, self.rate, generator), weights["weight_ih_l0"], weights["bias_ih_l0"]
        )
        states = [start]
        for step in inputs.unbind(dim=1):
            reset, keep, candidate = step.chunk(3, dim=1)
            from_reset, from_keep, from_candidate = nn.functional.linear(states[-1], recurrent, bias).chunk(3, dim=1)
            share = torch.sigmoid(keep + from_keep)
            new = torch.tanh(candidate + torch.sigmoid(reset + from_reset) * from_candidate)
            states.append(dropout(share * states[-1] + (1 - share) * new, self.rate, generator))
        return torch.stack(states, dim=1)


class Filter(nn.Module):
    """The shared-account filter unit: the other domain's states, gated by what the own ones say, member by member."""

    def __init__(self, d: int, members: int, rate: float):
        super().__init__()
        self.rate = rate
        self.members = nn.Embedding(members, d)
        self.gate = nn.Linear(3 * d, d)  # W_f, b_f
        self.gate_member = nn.Linear(d, d, bias=False)  # V_f
        self.candidate = nn.Linear(2 * d, d)  # W_s, b_s
        self.candidate_member = nn.Linear(d, d, bias=False)  # V_s

    def forward(self, others: Tensor, own: Tensor, generator: torch.Generator | None) -> Tensor:
        """b_j and a_{p_j}, [B, n, d] each -> s_j [B, n, d]."""
        d = others.shape[2]
        others = dropout(others, self.rate, generator)
        own = dropout(own, self.rate, generator)
        # everything that does not wait for the state, of all steps at once; the state's blocks of W_f and W_s are last
        gates = torch.cat([others, own], dim=2) @ self.gate.weight[:, : 2 * d].T + self.gate.bias
        candidates = others @ self.candidate.weight[:, :d].T + self.candidate.bias
        of_gate = self.gate_member(self.members.weight)  # [K, d]
        of_candidate = self.candidate_member(self.members.weight)
        carried = torch.cat([self.gate.weight[:, 2 * d :], self.candidate.weight[:, d:]]).T
        states = [others.new_zeros(len(others), d)]
        for gate, candidate in zip(gates.unbind(dim=1), candidates.unbind(dim=1)):
            from_gate, from_candidate = (states[-1] @ carried).chunk(2, dim=1)
            f = torch.sigmoid((gate + from_gate)[:, None] + of_gate)  # [B, K, d]
            g = torch.tanh((candidate + from_candidate)[:, None] + of_candidate)
            new = (f * states[-1][:, None] + (1 - f) * g).mean(dim=1)
            states.append(dropout(new, self.rate, generator))
        return torch.stack(states[1:], dim=1)


class _Domain(nn.Module):
    """What belongs to one domain: its items and their GRU; and, for targets in it, filter, transfer and output."""

    def __init__(self, size: int, p: Parameters):
        super().__init__()
        d, rate = p.model.d, p.pinet.dropout
        self.items = nn.Embedding(size + 1, d, padding_idx=PAD)
        self.encoder = Recurrent(d, rate)
        self.filter = Filter(d, p.pinet.members, rate)
        self.transfer = Recurrent(d, rate)
        self.output = nn.Linear(2 * d, size)

    def states(self, items: Tensor, generator: torch.Generator | None) -> Tensor:
        """Item numbers [B, L], right-padded -> 0 and the GRU's states [B, 1 + L, d]."""
        return self.encoder(self.items(items), generator)


def _at(states: Tensor, index: Tensor) -> Tensor:
    """States [B, L, d] at index [B, n] -> [B, n, d]."""
    return states.gather(1, index[:, :, None].expand(-1, -1, states.shape[2]))


def _last(states: Tensor, items: Tensor) -> Tensor:
    """The state [B, d] after the last of each row's items, of [B, 1 + L, d]; the one before them all where none is."""
    return _at(states, (items != PAD).sum(dim=1)[:, None])[:, 0]


class PiNet(Trained):
    """``pinet``."""

    name = "pinet"

    def build(self, weights: torch.Generator) -> nn.Module:
        module = nn.ModuleDict({d: _Domain(self.sizes[d], self.params) for d in DOMAINS})
        initialise(module, weights)
        for one in module.modules():
            if isinstance(one, Filter):
                nn.init.ones_(one.gate.bias)
                nn.init.ones_(one.candidate.bias)
        return module

    def stages(self, train: Rows) -> Iterator[Stage]:
        p, size = self.params, self.params.training.batch_size
        lengths = train.lengths("own")

        def batches(rng: np.random.Generator) -> Iterator[dict[str, Sessions]]:
            blank = (rng.random(len(train)) < p.pinet.blank_share) & (train.lengths("other") > 0)
            for here in bucketed(lengths, size, rng):
                rows, hidden = train.take(here), blank[here]
                found = {d: rows.of(d) for d in DOMAINS}
                yield {d: self.sessions(rows.take(one), d, hidden[one]) for d, one in found.items() if len(one)}

        hooks = clipped(self.module, p.pinet.clip)
        yield Stage("pinet", self.module, self.loss, batches, len(train), -(-len(train) // size))
        for hook in hooks:
            hook.remove()

    def sessions(self, rows: Rows, domain: str, blank: Array | None = None) -> Sessions:
        """Rows that all ask for ``domain``; where ``blank`` [B] is true, without their own history."""
        own, others = rows.history[domain], rows.history[other(domain)]
        if blank is not None:
            own = own.emptied(blank)
        items = [right_padded(one, self.params.model.T) for one in (own, others)]
        before = (items[0] != PAD).sum(axis=1, keepdims=True)  # every own item comes before every other one
        return Sessions(*map(as_indices, (*items, np.where(items[1] != PAD, before, 0), rows.target)))

    def interest(self, batch: Sessions, domain: str, generator: torch.Generator | None) -> Tensor:
        """[t; a_m] of rows that ask for ``domain``: [B, 2 d]."""
        module = self.module[domain]
        own = module.states(batch.own, generator)
        transferred = torch.zeros_like(own[:, 0])
        some = (batch.other[:, 0] != PAD).nonzero()[:, 0]  # of most rows there is nothing to filter
        if len(some):
            items = batch.other[some]
            others = self.module[other(domain)].states(items, generator)[:, 1:]
            filtered = module.filter(others, _at(own[some], batch.pointers[some]), generator)
            transferred = transferred.index_copy(0, some, _last(module.transfer(filtered, generator), items))
        return torch.cat([transferred, _last(own, batch.own)], dim=1)

    def loss(self, batch: dict[str, Sessions], epoch: int, generator: torch.Generator) -> CostAndParts:
        """Mean cross-entropy of the rows' targets, each over the items of its domain."""
        total, count, parts = torch.zeros((), device=self.device), 0, {}
        for d, one in batch.items():
            interest = dropout(self.interest(one, d, generator), self.params.pinet.dropout, generator)
            output = self.module[d].output
            cost = categorical_mean(interest, output.weight, output.bias, one.target - 1)
            total, count = total + cost * len(interest), count + len(interest)
            parts[f"reconstruction/{d}"] = cost
        return total / count, parts

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        interest = self.interest(self.sessions(rows, domain).to(self.device), domain, None)
        output = self.module[domain].output
        return dot(interest, output.weight, items) + output.bias[items - 1]


def clipped(module: nn.Module, limit: float) -> list[torch.utils.hooks.RemovableHandle]:
    """Clip each element of each gradient to [-limit, limit], from now until the handles are removed."""
    return [one.register_hook(lambda gradient: gradient.clamp(-limit, limit)) for one in module.parameters()]  # type: ignore[no-untyped-call]
