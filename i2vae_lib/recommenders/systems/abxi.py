"""ABXI: one attention layer for the merged sequence and for each domain's, low-rank adapters, an invariant part.

Bian et al., "ABXI: Invariant interest adaptation for task-guided cross-domain sequential recommendation", WWW 2025
(code: DiMarzioBian/ABXI, 72e52c9). Three streams of a user's merged sequence share one attention layer: X is the
sequence itself; A is *task-guided*: at a position whose next event is of domain A it holds the latest item of A so far,
elsewhere padding; B likewise. With E the item table and P a vector for the number of items from the stream's end,

    e   = Dropout(E + P)                                         h = LN(e + Dropout(MHA(e, e, e)))        (causal)
    h_s = LN_s(h + Dropout(FFN h) + Dropout(L_s h))              s in X, A, B: FFN shared, L_s of low rank
    f_A = LN(h_X + Dropout(FFN_i h_X) + Dropout(L_A^i h_X)) + LN(h_A + Dropout(FFN_A h_A))       f_B alike
    score(t, i) = f_t . E_i / temperature, where f_t is that of the domain of the next event

Every FFN is a SwiGLU without biases. The loss is that of :mod:`.systems.every_position`, as is what a
position may see. At a row's last position the domain of the next event is the one that the row asks for.

Made for the next item in either of two domains.

Departs
    - the softmax is over all items of the next event's domain, in place of the target and 128 negatives of either;
    - every asked position weighs alike; the code averages over a user's positions of a domain first;
    - events of one stamp are handled as in ``sasrec_ce`` (the code takes those of one day in the order of item ids),
      and a share of the sequences comes once more without the last event's domain (``abxi.hidden_share``): cold rows
      go through stream X, and LN's bias stands for h_A;
    - T + 1 consecutive events of a longer sequence are drawn anew each epoch;
    - a constant learning rate and the kit's early stop; the code warms up, then lowers the rate, for up to 500 epochs;
    - weights are drawn as in ``sasrec_ce`` (Xavier); the adapters as in the code: one factor small, the other zero.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib.data.rows import DOMAINS, PAD, Rows
from i2vae_lib.model.encoders import Attention, attendable, dropout
from i2vae_lib.parameter_groups import ABXIParameters
from i2vae_lib.recommenders.systems.every_position import EveryPosition
from i2vae_lib.recommenders.systems.separate_or_merged import Merged
from i2vae_lib.training import Stage

MERGED = "merged"


class _LowRank(nn.Sequential):
    """x -> x U V with U [d, r] and V [r, d]."""

    def __init__(self, d: int, rank: int):
        super().__init__(nn.Linear(d, rank, bias=False), nn.Linear(rank, d, bias=False))


class _SwiGLU(nn.Module):
    """x -> (SiLU(x W_a) * x W_b) W_c."""

    def __init__(self, d: int, hidden: int):
        super().__init__()
        self.inner = nn.Linear(d, 2 * hidden, bias=False)  # W_a and W_b
        self.outer = nn.Linear(hidden, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, linear = self.inner(x).chunk(2, dim=-1)
        return self.outer(F.silu(gate) * linear)


class Network(nn.Module):
    """All of ABXI but its scores."""

    def __init__(self, first: int, items: int, d: int, length: int, p: ABXIParameters):
        """``first``: items of X, which are the numbers 1…first; ``items``: of both."""
        super().__init__()
        self.first, self.rate = first, p.dropout
        self.items = nn.Embedding(items + 1, d, padding_idx=PAD)
        self.position = nn.Embedding(length, d)
        self.attention = Attention(d, p.heads)
        self.norm = nn.LayerNorm(d)
        self.shared = _SwiGLU(d, p.hidden)
        self.adapters = nn.ModuleDict({s: _LowRank(d, p.domain_rank) for s in (MERGED, *DOMAINS)})
        self.adapted = nn.ModuleDict({s: nn.LayerNorm(d) for s in (MERGED, *DOMAINS)})
        self.invariant = _SwiGLU(d, p.hidden)
        self.from_both = nn.ModuleDict({s: _LowRank(d, p.invariant_rank) for s in DOMAINS})
        self.both = nn.LayerNorm(d)
        self.specific = nn.ModuleDict({s: _SwiGLU(d, p.hidden) for s in DOMAINS})
        self.own = nn.ModuleDict({s: nn.LayerNorm(d) for s in DOMAINS})

    def guided(self, inputs: Tensor, following: Tensor, number: int) -> Tensor:
        """The stream of a domain, int64 [B, L]: its latest item so far, where the next event is of it."""
        of_domain = (inputs > self.first) == bool(number)
        place = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
        latest = torch.where(of_domain & (inputs != PAD), place, -1).cummax(dim=1).values
        held = inputs.gather(1, latest.clamp(min=0))
        return torch.where((latest >= 0) & (following == number), held, PAD)

    def attended(self, items: Tensor, generator: torch.Generator | None) -> Tensor:
        """h of one stream: [B, L, d]."""
        valid = items != PAD
        back = (valid.flip(1).cumsum(dim=1).flip(1) - 1).clamp(min=0)
        e = dropout(self.items(items) + self.position(back), self.rate, generator)
        mixed = self.attention(e, e, attendable(valid, causal=True))
        return self.norm(e + dropout(mixed, self.rate, generator))

    def forward(self, inputs: Tensor, following: Tensor, generator: torch.Generator | None) -> Tensor:
        """Item numbers and the domain of the next event, int64 [B, L] each -> f [B, L, d]."""
        streams = {MERGED: inputs} | {d: self.guided(inputs, following, i) for i, d in enumerate(DOMAINS)}
        h = self.attended(torch.cat(list(streams.values())), generator)
        fed = h + dropout(self.shared(h), self.rate, generator)
        adapted = {}
        for (name, items), part, base in zip(streams.items(), h.chunk(3), fed.chunk(3), strict=True):
            found = self.adapted[name](base + dropout(self.adapters[name](part), self.rate, generator))
            adapted[name] = torch.where(items[:, :, None] == PAD, 0.0, found)
        merged = adapted[MERGED]
        merged_fed = merged + dropout(self.invariant(merged), self.rate, generator)
        outputs = []
        for d in DOMAINS:
            both = self.both(merged_fed + dropout(self.from_both[d](merged), self.rate, generator))
            own = self.own[d](adapted[d] + dropout(self.specific[d](adapted[d]), self.rate, generator))
            outputs.append(both + own)
        return torch.where(following[:, :, None] == 1, outputs[1], outputs[0])


class ABXI(EveryPosition):
    """The network of this module under the recommender contract."""

    name = "abxi"
    reading_of = Merged

    def network(self, stream: str) -> Network:
        p = self.params
        return Network(self.sizes["x"], self.reading.size(stream), p.model.d, p.model.T, self.own)

    def build(self, weights: torch.Generator) -> nn.Module:
        module = super().build(weights)
        for one in module.modules():
            if isinstance(one, _LowRank):
                nn.init.normal_(one[0].get_parameter("weight"), std=1 / 50, generator=weights)
                nn.init.zeros_(one[1].get_parameter("weight"))
        return module

    def stages(self, train: Rows) -> Iterator[Stage]:
        for stage in super().stages(train):
            yield replace(stage, decoupled_decay=self.own.decay, beta2=0.999)

    def states(self, stream: str, inputs: Tensor, following: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.module[stream](inputs, following, generator) / self.own.temperature
