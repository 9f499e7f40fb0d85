"""i2VAE at every position of a sequence (``model.positions`` = every): the recipe's network.

The six latents, the two r's, the cold path and the objective are the paper's; what infers them is not. A user's events
of both domains stand in one sequence, in order of time, and one pass through one encoder gives a state after every
event, from three streams of the same weights: what was taken in X alone, in Y alone, and in both. At a position that
asks for an item of X,

    q(z^x | x)        = head(state of X's stream)
    q(z_t^y | x, y)   = head(state of the stream of both)
    r^y(z_t^y | y)    = head(state of Y's stream)
    q(z_a^x | x~)     = head(state of X's stream + mean vector of the recalled items)

    interest          = sum over the latents that are there of their share w + MLP([z, z_t, z_a])

and by symmetry for Y. So every position teaches, at the price of one.

Departs (chosen by hand on validation rows, without a record; what some are worth: docs/results/recipe_films_rows.csv)
    - the encoder is shared by both domains and by all streams, a LiGR block; states are read at the position, not
      averaged; the paper has an encoder a domain, one more for pseudo-sequences, and cross attention for q(z_t | x, y);
    - posterior means and the decoder start at the identity and learn corrections;
    - item scores have a temperature, a bias, and evidence (:class:`EvidenceScorer`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib.data.batches import Part, Tensors
from i2vae_lib.data.rows import DOMAINS, Array, other
from i2vae_lib.generators.evidence import Evidence
from i2vae_lib.model.encoders import ResidualHead, ZeroInitLinear, initialise, masked_mean
from i2vae_lib.model.i2vae import Draws, Latents, Network, Prior
from i2vae_lib.model.latents import where
from i2vae_lib.model.likelihoods import categorical
from i2vae_lib.model.transformers import CausalTransformer, LiGRBlock
from i2vae_lib.parameter_groups import ModelParameters

SCALE = 0.7  # length of an item vector at the start
_POSITION = 0.15  # of position vectors at the start, against what `initialise` draws


@dataclass(frozen=True)
class PositionBatch(Tensors):
    """The positions of sequences that ask for an item of one domain.

    ``sequences`` holds items of X as 1…n and items of Y as n + 1…, left-padded with 0; it is the same tensor for both
    domains of a batch, so that it is encoded once.
    """

    sequences: Tensor  # int64 [S, L]
    line: Tensor  # int64 [B], of the sequence
    step: Tensor  # int64 [B], of the last event that is seen
    own_length: Tensor  # int64 [B]
    other_length: Tensor  # int64 [B]
    pseudo: Tensor  # int64 [B, N] recalled items of the domain, 0-padded
    evidence_items: Tensor  # int64 [B, c] items with evidence, 0-padded on the right
    evidence_scores: Tensor  # float32 [B, c, kernels]
    moment: Tensor  # int64 [B], line of the recent takers
    target: Tensor  # int64 [B]
    position: Tensor  # int64 [B] of each row in what was collated
    drawn: Tensor  # int64 [S] sampled items that estimate the softmax's sum over those without evidence; S = 0: all
    correction: Tensor  # float32 [S] log(times drawn / expected times of an item in all draws)
    part: Part | None = None  # None: all rows of the batch

    def parted(self, number: int, count: int) -> Self:
        """The rows of every ``count``-th sequence, beginning with sequence ``number``."""
        kept = torch.arange(len(self.sequences)) % count == number
        part = Part.of(kept[self.line])
        whole = {"drawn": self.drawn, "correction": self.correction}
        names = {f.name for f in fields(self)} - {"sequences", "part", *whole}
        rows = {name: getattr(self, name)[part.rows] for name in names}
        rows["line"] = rows["line"] // count
        return type(self)(self.sequences[kept], **rows, **whole, part=part)


class EvidenceScorer(nn.Module):
    """Item scores: exp(t) (u + A u) . E_v + b_v + evidence_v + g'' trend_v.

    With s_vk the score of kernel k for item v, evidence_v = sum_k g_k log(1 + exp(c_k) s_vk) + g'_k s_vk / (largest s_k
    of the row): logarithms, because a softmax multiplies; the learned c_k says where scores begin to matter. With p_vh
    the takers of v before the moment that the row asks at, by half-life h (:mod:`.generators.recency`), trend_v = sum_h
    w_h log(1 + exp(c'_h) p_vh) + w'_h p_vh / (largest p_h). All g are positive and follow from how much the row shows:
    softplus(MLP(log(1 + own length), log(1 + other length), for each kernel log(1 + exp(c_k) largest s_k) and
    log(1 + exp(c_k) sum of s_k))).

    The gates are learnt on rows that the latents have fitted, so on new rows they may trust the latents too much. So a
    trained model is pooled with plain counts (log-linear pool: Genest and Zidek, Statistical Science 1986): w
    log(share_v + 1e-5) is added to the score of item v, except in rows that counts say nothing of. share_v is the
    item's part in the sum over all items of sum_k s_kv + 0.03 log(1 + p_v), where p_v training users took v. ``pool``
    is w: 0 in training, then chosen by :meth:`.recommenders.i2vae.I2VAERecommender.choose_pool_weight`.
    """

    HIDDEN, OPENING, BEGINNING, TREND = 16, -1.0, 5.0, 0.2
    POPULARITY, FLOOR = 0.03, 1e-5

    def __init__(self, d: int, items: int, kernels: int, half_lives: int):
        super().__init__()
        self.kernels, self.half_lives = kernels, half_lives
        self.adapter = ZeroInitLinear(d, d)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(items))
        shown, believed = 2 + 2 * kernels, 2 * kernels + 1
        self.gate = nn.Sequential(nn.Linear(shown, self.HIDDEN), nn.ReLU(), nn.Linear(self.HIDDEN, believed))
        self.log_beginning = nn.Parameter(torch.full((kernels,), self.BEGINNING))
        self.trend = nn.Parameter(torch.full((2 * half_lives,), self.TREND))
        self.log_trend_beginning = nn.Parameter(torch.zeros(half_lives))
        self.recent: Tensor
        self.most_recent: Tensor  # the largest of each line of `recent`
        self.spread: Tensor  # 0.03 log(1 + takers), [n]
        self.pool = 0.0
        self.set_takers(torch.zeros(1, half_lives, items), torch.zeros(items))

    def set_takers(self, recent: Tensor, popularity: Tensor) -> None:
        """Set the recent takers, [moments, half-lives, n], and all takers, [n]; without recent ones, no trend."""
        self.timed = bool(recent.any())
        self.register_buffer("spread", self.POPULARITY * popularity.log1p(), persistent=False)
        self.register_buffer("recent", recent, persistent=False)
        self.register_buffer("most_recent", recent.amax(dim=2).clamp(min=1e-9), persistent=False)

    def gates(self, side: PositionBatch) -> Tensor:
        """All g, of evidence and then of the trend: [B, 2 kernels + 1]."""
        known = torch.stack([side.own_length, side.other_length], dim=1).to(self.bias.dtype)
        if self.kernels:
            beginning, scores = self.log_beginning.exp(), side.evidence_scores
            known = torch.cat([known, scores.amax(dim=1) * beginning, scores.sum(dim=1) * beginning], dim=1)
        return F.softplus(self.gate(known.log1p()) + self.OPENING)

    def evidence(self, side: PositionBatch, gates: Tensor) -> Tensor:
        """Of the items that have any, [B, c]; 0 beside padding."""
        logs = (side.evidence_scores * self.log_beginning.exp()).log1p()
        relative = side.evidence_scores / side.evidence_scores.amax(dim=1, keepdim=True).clamp(min=1e-9)
        told = torch.cat([logs, relative], dim=2)
        return torch.bmm(told, gates[:, :, None])[:, :, 0] * (side.evidence_items != 0)

    def trends(self, moments: Tensor, recent: Tensor) -> Tensor:
        """Of items at these moments, from their recent takers [moments, half-lives, n]: [moments, n]."""
        logs = (recent * self.log_trend_beginning.exp()[:, None]).log1p()
        relative = recent / self.most_recent[moments][:, :, None]
        return torch.einsum("f,bfn->bn", self.trend, torch.cat([logs, relative], dim=1))

    def pool_scores(self, side: PositionBatch, told: Tensor, spread: Tensor) -> Tensor:
        """What the pool adds to items, from the sums of their kernels' scores, [B, k], and their ``spread``."""
        whole = side.evidence_scores.sum(dim=(1, 2))[:, None]
        shares = (told + spread) / (whole + self.spread.sum())
        return self.pool * (shares + self.FLOOR).log() * (whole > 0)

    def query(self, interest: Tensor) -> Tensor:
        """exp(t) (u + A u), [B, d]."""
        return (interest + self.adapter(interest)) * self.log_scale.exp()

    def _of_shared(
        self, query: Tensor, table: Tensor, side: PositionBatch, gates: Tensor, items: slice | Tensor
    ) -> Tensor:
        """All but evidence, of 0-based items that all rows share: [B, items]."""
        found = torch.addmm(self.bias[items], query, table[items].T)
        if self.timed:
            moments, at = torch.unique(side.moment, return_inverse=True)
            trends = self.trends(moments, self.recent[moments][:, :, items])
            found.addcmul_(gates[:, -1:], trends[at])
        return found

    def _of_own(self, query: Tensor, table: Tensor, side: PositionBatch, gates: Tensor, items: Tensor) -> Tensor:
        """All but evidence, of 0-based items of each row, int64 [B, k]: [B, k]."""
        found = torch.bmm(F.embedding(items, table), query[:, :, None])[:, :, 0] + self.bias[items]
        if self.timed:
            half_lives = torch.arange(self.half_lives, device=items.device)[:, None]
            recent = self.recent[side.moment[:, None, None], half_lives, items[:, None]]
            found = torch.addcmul(found, gates[:, -1:], self.trends(side.moment, recent))
        return found

    def score_all(self, interest: Tensor, table: Tensor, side: PositionBatch) -> Tensor:
        """interest [B, d], vectors [n, d] of items 1…n -> [B, n]."""
        gates = self.gates(side)
        found = self._of_shared(self.query(interest), table, side, gates, slice(None))
        if self.kernels:
            places = (side.evidence_items - 1).clamp(min=0)
            found.scatter_add_(1, places, self.evidence(side, gates[:, :-1]))
            if self.pool:
                told = torch.zeros_like(found).scatter_add_(1, places, side.evidence_scores.sum(dim=2))
                found = found + self.pool_scores(side, told, self.spread)
        return found

    def score_some(self, interest: Tensor, table: Tensor, side: PositionBatch, items: Tensor) -> Tensor:
        """interest [B, d], vectors [n, d] of items 1…n, items int64 [B, k] -> [B, k]."""
        gates = self.gates(side)
        found = self._of_own(self.query(interest), table, side, gates, items - 1)
        if self.kernels:
            known, order = side.evidence_items.sort(dim=1)
            at = torch.searchsorted(known, items).clamp(max=known.shape[1] - 1)
            place, there = order.gather(1, at), known.gather(1, at) == items
            found = found + self.evidence(side, gates[:, :-1]).gather(1, place) * there
            if self.pool:
                told = side.evidence_scores.sum(dim=2).gather(1, place) * there
                found = found + self.pool_scores(side, told, self.spread[items - 1])
        return found

    def sampled_surprisal(self, interest: Tensor, table: Tensor, side: PositionBatch) -> Tensor:
        """Estimate -log softmax over all items at the target: [B].

        The sum over items is exact over the target and the items with evidence. The others are estimated from
        ``side.drawn``, each weighed by how often it was drawn against how often that was to be expected (importance
        sampling, Bengio and Senécal 2003), so the estimate of the sum has no bias.
        """
        gates, query = self.gates(side), self.query(interest)
        target, listed = side.target[:, None], side.evidence_items
        own = torch.cat([target, listed], dim=1)
        scores = self._of_own(query, table, side, gates, (own - 1).clamp(min=0))
        if self.kernels:
            evidence = self.evidence(side, gates[:, :-1])
            of_target = (evidence * (listed == target)).sum(dim=1, keepdim=True)
            scores = scores + torch.cat([of_target, evidence], dim=1)
        away = (own == 0) | (own == target)
        away[:, 0] = False
        others = self._of_shared(query, table, side, gates, side.drawn - 1) + side.correction
        count = len(side.drawn)
        place = torch.full((len(table) + 1,), count, device=own.device)
        place[side.drawn] = torch.arange(count, device=own.device)
        counted = torch.zeros(len(own), count + 1, dtype=torch.bool, device=own.device)
        counted = counted.scatter(1, place[own], True)[:, :count]  # nothing that a GPU would have to be waited for
        logits = torch.cat([scores.masked_fill(away, -torch.inf), others.masked_fill(counted, -torch.inf)], dim=1)
        return categorical(logits, torch.zeros_like(side.target))


class EveryPosition(Network):
    """The network of this module.

    Parameters
    ----------
    sizes
        Items a domain, padding not counted.
    kernels, half_lives
        How many of each the evidence has.
    """

    def __init__(self, sizes: Mapping[str, int], p: ModelParameters, kernels: int, half_lives: int):
        super().__init__()
        d = p.d

        def head() -> nn.ModuleDict:
            return nn.ModuleDict({one: ResidualHead(d, p.initial_log_variance) for one in DOMAINS})

        self.items = nn.ModuleDict({one: nn.Embedding(sizes[one] + 1, d, padding_idx=0) for one in DOMAINS})
        blocks = [LiGRBlock(d, p.heads, 2) for _ in range(p.blocks)]
        self.encoder = CausalTransformer(d, p.T, blocks, final_norm=False, rate=p.dropout)
        self.norms = nn.ModuleDict({one: nn.LayerNorm(d) for one in (*DOMAINS, "both")})
        # keyed by the target domain
        self.specific, self.transferable, self.augmented, self.auxiliary = head(), head(), head(), head()
        self.prior = nn.ModuleDict({one: Prior(d) for one in DOMAINS})
        self.augmented_prior = self.prior if p.shared_prior else nn.ModuleDict({one: Prior(d) for one in DOMAINS})
        self.shares = nn.ParameterDict({one: nn.Parameter(torch.zeros(3)) for one in DOMAINS})
        self.decoder = nn.ModuleDict(
            {one: nn.Sequential(nn.Linear(3 * d, d), nn.ReLU(), ZeroInitLinear(d, d)) for one in DOMAINS}
        )
        self.scores = nn.ModuleDict({one: EvidenceScorer(d, sizes[one], kernels, half_lives) for one in DOMAINS})

    def states(self, sequences: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """The state after every event, from what was taken in X, in Y and in both: each [S, L, d]."""
        table = torch.cat([self.items["x"].weight, self.items["y"].weight[1:]])  # type: ignore[index, list-item]
        seen = torch.stack([*(self._of_domain(sequences, d) for d in DOMAINS), sequences > 0])
        vectors = table[sequences] * seen[:, :, :, None]
        found = self.encoder(vectors.flatten(0, 1), seen.flatten(0, 1), generator).view_as(vectors)
        return {name: norm(found[i]) for i, (name, norm) in enumerate(self.norms.items())}

    def _of_domain(self, sequences: Tensor, domain: str) -> Tensor:
        """Which events are of a domain, bool [S, L]."""
        first = len(self.items["x"].weight)  # type: ignore[arg-type]
        return sequences >= first if domain == "y" else (sequences > 0) & (sequences < first)

    def _seen(self, side: PositionBatch, domain: str) -> Tensor:
        """Whether anything of a domain stands where each row looks, bool [B]."""
        return self._of_domain(side.sequences, domain).cumsum(dim=1)[side.line, side.step] > 0

    def inferred(
        self, batch: Mapping[str, PositionBatch], generator: torch.Generator | None
    ) -> Iterator[tuple[str, PositionBatch, Latents]]:
        """:meth:`infer` of every domain of a batch, whose sequences are encoded once."""
        states = self.states(next(iter(batch.values())).sequences, generator)
        for domain, side in batch.items():
            yield domain, side, self._latents(side, domain, states)

    def infer(self, side: PositionBatch, domain: str, generator: torch.Generator | None = None) -> Latents:
        """Posteriors at the positions that ask for one domain."""
        return self._latents(side, domain, self.states(side.sequences, generator))

    def _latents(self, side: PositionBatch, domain: str, states: Mapping[str, Tensor]) -> Latents:
        own, theirs, both = (states[one][side.line, side.step] for one in (domain, other(domain), "both"))
        has_own, has_other = (self._seen(side, one) for one in (domain, other(domain)))
        recalled = masked_mean(self.items[domain](side.pseudo), side.pseudo != 0)
        auxiliary = self.auxiliary[domain](theirs)
        transferable = where(has_own, self.transferable[domain](both), auxiliary)
        augmented = self.augmented[domain](own + recalled)
        return Latents(self.specific[domain](own), transferable, augmented, auxiliary, has_own, has_other)

    def decode(self, z: Draws, domain: str) -> Tensor:
        """The interest from the latents that are there (a latent that is 0 everywhere is not): [B, d]."""
        latents = torch.stack([z.specific, z.transferable, z.augmented], dim=1)
        there = (latents != 0).any(dim=2)
        shares = there * self.shares[domain].softmax(dim=0)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)
        return torch.bmm(shares[:, None], latents)[:, 0] + self.decoder[domain](latents.flatten(1))

    def _scorer(self, domain: str) -> tuple[EvidenceScorer, Tensor]:
        """What scores a domain's items, and their vectors [n, d]."""
        return self.scores[domain], self.items[domain].get_parameter("weight")[1:]  # type: ignore[return-value]

    def score_all(self, interest: Tensor, domain: str, side: PositionBatch) -> Tensor:
        scores, table = self._scorer(domain)
        return scores.score_all(interest, table, side)

    def score(self, interest: Tensor, domain: str, items: Tensor, side: PositionBatch) -> Tensor:
        scores, table = self._scorer(domain)
        return scores.score_some(interest, table, side, items)

    def surprisal(self, interest: Tensor, domain: str, side: PositionBatch) -> Tensor:
        if not len(side.drawn):
            return super().surprisal(interest, domain, side)
        scores, table = self._scorer(domain)
        return scores.sampled_surprisal(interest, table, side)


def build(
    p: ModelParameters,
    sizes: Mapping[str, int],
    evidence: Evidence,
    vectors: Mapping[str, Array] | None,
    popularity: Mapping[str, Array],
    generator: torch.Generator,
) -> EveryPosition:
    """A model with every weight drawn from ``generator``, its biases at half of log(1 + popularity).

    Parameters
    ----------
    vectors
        Domain -> [items, d], the directions in which item vectors begin; None: drawn.
    popularity
        Domain -> [items + 1].
    """
    model = EveryPosition(sizes, p, len(evidence.left_out), len(evidence.p.half_lives))
    initialise(model, generator)
    with torch.no_grad():
        model.encoder.position.weight.mul_(_POSITION)
        for d in DOMAINS:
            scores: EvidenceScorer = model.scores[d]  # type: ignore[assignment]
            scores.bias.copy_(torch.from_numpy(0.5 * np.log1p(popularity[d][1:])))
            takers = torch.from_numpy(popularity[d][1:]).to(torch.float32)
            scores.set_takers(torch.from_numpy(evidence.recent.counts[d]), takers)
            table = model.items[d].get_parameter("weight")
            if vectors is not None:
                table[1:] = torch.from_numpy(vectors[d])
            table.mul_(SCALE / (torch.linalg.vector_norm(table, dim=1, keepdim=True) + 1e-3))
    return model
