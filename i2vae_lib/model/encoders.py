"""Sequence encoder and the posteriors on top of it (paper 3.2, D.2). Padding is never attended to nor averaged in.

Dropout draws from the generator that is handed in; without one there is none. No module here has a train/eval mode.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib.model.latents import Gaussian


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout from an explicit generator; the identity without one.

    The rate is rounded to 1/256 (at most 255/256): one random byte an element is eight times cheaper than a float.
    """
    threshold = min(round(rate * 256), 255)
    if generator is None or threshold == 0:
        return x
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits; without bounds the sign bit would stay 0
    keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return (x * keep).mul_(256.0 / (256 - threshold))  # for the backward pass a byte an element is kept


def masked_mean(states: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid positions: states [B, L, d], valid [B, L] -> [B, d]; 0 where none is."""
    weight = valid.to(states.dtype)
    summed = torch.bmm(weight[:, None, :], states)[:, 0]
    return summed / weight.sum(dim=1, keepdim=True).clamp(min=1.0)


class ZeroInitLinear(nn.Linear):
    """Output layer of a residual branch. Initialised to zero, so training starts from the unmodified input."""


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight: linear layers and GRUs Xavier-uniform with zero bias, embeddings N(0, 1 / d), padding 0.

    A :class:`ZeroInitLinear` is zero.

    The log-variance of a :class:`GaussianHead` starts near its ``initial_log_variance``, with weights a tenth of
    Xavier's.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ZeroInitLinear):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=module.embedding_dim**-0.5, generator=generator)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0.0
            elif isinstance(module, nn.GRU):
                for name, weight in module.named_parameters():
                    nn.init.zeros_(weight) if "bias" in name else nn.init.xavier_uniform_(weight, generator=generator)
        for module in model.modules():
            if isinstance(module, GaussianHead):
                last = module.log_variance[-1]
                last.get_parameter("weight").mul_(0.1)
                last.get_parameter("bias").fill_(module.initial_log_variance)


def _attention(query: Tensor, key_value: Tensor, heads: int, attended: Tensor) -> Tensor:
    """Scaled dot-product attention in several heads, before any output projection.

    Parameters
    ----------
    query
        [B, L, d], projected.
    key_value
        [B, M, 2 d], projected: keys, then values.
    attended
        bool [B, 1, L or 1, M]: what each query may attend to.

    Returns
    -------
    Tensor [B, L, d]
    """
    batch, length, d = query.shape
    query = query.view(batch, length, heads, d // heads).transpose(1, 2)
    key, value = key_value.view(batch, key_value.shape[1], 2, heads, d // heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attended)  # [B, heads, L, d / heads]
    return mixed.transpose(1, 2).reshape(batch, length, d)


class Attention(nn.Module):
    """Multi-head attention: W_o [softmax(q W_q (x W_k)^T / sqrt(d / heads)) x W_v], every projection with a bias."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d, d)
        self.key_value = nn.Linear(d, 2 * d)
        self.output = nn.Linear(d, d)

    def forward(self, asks: Tensor, x: Tensor, attended: Tensor) -> Tensor:
        """Queries from ``asks``, keys and values from ``x`` [B, L, d]; attended bool [B, 1, L, L]."""
        return self.output(_attention(self.query(asks), self.key_value(x), self.heads, attended))


class Block(nn.Module):
    """One SASRec block, as its paper writes it: x + Dropout(attention(LN(x))), then x + Dropout(FFN(LN(x)))."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(d)
        self.query_key_value = nn.Linear(d, 3 * d)
        self.feed_forward_norm = nn.LayerNorm(d)
        self.feed_forward = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))

    def forward(self, x: Tensor, attended: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
        d = x.shape[2]
        query, key_value = self.query_key_value(self.attention_norm(x)).split([d, 2 * d], dim=2)
        x = x + dropout(_attention(query, key_value, self.heads, attended), rate, generator)
        return x + dropout(self.feed_forward(self.feed_forward_norm(x)), rate, generator)


def attendable(valid: Tensor, causal: bool) -> Tensor:
    """What each position may attend to: what is not padding and, if ``causal``, does not come later.

    A padded query attends to itself, so that no row of the softmax is empty.

    Parameters
    ----------
    valid
        bool [B, L].

    Returns
    -------
    Tensor
        bool [B, 1, L, L].
    """
    length = valid.shape[1]
    found = valid[:, None, None, :].expand(-1, 1, length, -1)
    if causal:
        found = found & torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    return found | torch.eye(length, dtype=torch.bool, device=valid.device)


class SequenceEncoder(nn.Module):
    """Item vectors of a sequence -> states h of the paper's 3.2.

    Positions count from the most recent item backwards, so that a sequence's states do not depend on how far it is
    padded. ``causal`` states see only earlier items (real sequences); a bag's see all (pseudo-sequences).

    Departs: SASRec attends to no padding only by accident of zero vectors; here it is masked out.
    """

    def __init__(self, d: int, length: int, blocks: int, heads: int, causal: bool, rate: float):
        super().__init__()
        self.causal = causal
        self.rate = rate
        self.position = nn.Embedding(length, d)
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(blocks))
        self.final_norm = nn.LayerNorm(d)

    def forward(self, vectors: Tensor, valid: Tensor, generator: torch.Generator | None) -> Tensor:
        """vectors [B, L, d], valid [B, L] -> states [B, L, d], 0 at padding."""
        length, d = vectors.shape[1:]
        back = torch.arange(length - 1, -1, -1, device=vectors.device)
        x = dropout(vectors * d**0.5 + self.position(back), self.rate, generator)
        attended = attendable(valid, self.causal)
        for block in self.blocks:
            x = block(x, attended, self.rate, generator)
        return self.final_norm(x) * valid[:, :, None]


class ResidualSequenceEncoder(SequenceEncoder):
    """States = item vectors + a correction by the encoder, zero at the start (``model.path`` = residual).

    A pooled sequence then starts as the mean of what was taken, in the space of the items.

    Departs: SASRec, and so the paper, passes on the final layer norm alone, in which an item's own vector drowns.
    """

    def __init__(self, d: int, length: int, blocks: int, heads: int, causal: bool, rate: float):
        super().__init__(d, length, blocks, heads, causal, rate)
        self.correction = ZeroInitLinear(d, d)

    def forward(self, vectors: Tensor, valid: Tensor, generator: torch.Generator | None) -> Tensor:
        states = super().forward(vectors, valid, generator)
        return (vectors * vectors.shape[2] ** 0.5 + self.correction(states)) * valid[:, :, None]


class GaussianHead(nn.Module):
    """mu = MLP(S), log sigma^2 = MLP(S) (paper D.2).

    Departs: the paper names no activation for sigma; here an MLP gives the log-variance, clamped to [-10, 4] and small
    at the start (the released code keeps sigma above 1).
    """

    last: type[nn.Linear] = nn.Linear

    def __init__(self, d: int, initial_log_variance: float):
        super().__init__()
        self.initial_log_variance = initial_log_variance
        self.mean = nn.Sequential(nn.Linear(d, d), nn.ReLU(), self.last(d, d))
        self.log_variance = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))

    def forward(self, pooled: Tensor) -> Gaussian:
        """pooled [B, d] -> q [B, d]."""
        return Gaussian(self.mean(pooled), self.log_variance(pooled).clamp(-10.0, 4.0))


class ResidualHead(GaussianHead):
    """mu = S + MLP(S): the posterior starts at what was taken and learns corrections (``model.path`` = residual).

    Departs: the paper has mu = MLP(S).
    """

    last = ZeroInitLinear

    def forward(self, pooled: Tensor) -> Gaussian:
        q = super().forward(pooled)
        return Gaussian(pooled + q.mean, q.log_variance)


class Decoder(nn.Module):
    """The interest from the three latents of a domain: MLP([z, z_t, z_a]) (paper 3.3.3)."""

    last: type[nn.Linear] = nn.Linear

    def __init__(self, d: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3 * d, d), nn.ReLU(), self.last(d, d))

    def forward(self, specific: Tensor, transferable: Tensor, augmented: Tensor) -> Tensor:
        """Each [B, d] -> interest [B, d]."""
        return self.mlp(torch.cat([specific, transferable, augmented], dim=1))


class ResidualDecoder(Decoder):
    """Sum of the latents + MLP (``model.path`` = residual). Departs: the paper has the MLP alone."""

    last = ZeroInitLinear

    def forward(self, specific: Tensor, transferable: Tensor, augmented: Tensor) -> Tensor:
        return specific + transferable + augmented + super().forward(specific, transferable, augmented)


class CrossDomainPosterior(nn.Module):
    """q(z_t | x, y): own states query the other domain's, the answers are averaged (paper D.2).

    mu = MLP(Mean-Pooling(Attention(S', S_other', S_other'))), sigma alike. A row without own items has no query; such
    rows never come here (they take r instead).
    """

    gaussian: type[GaussianHead] = GaussianHead

    def __init__(self, d: int, heads: int, initial_log_variance: float):
        super().__init__()
        self.attention = Attention(d, heads)
        self.head = self.gaussian(d, initial_log_variance)

    def forward(self, own: Tensor, own_valid: Tensor, other: Tensor, other_valid: Tensor) -> Gaussian:
        """own [B, L, d], other [B, M, d] -> q [B, d]."""
        answers = self.attention(own, other, other_valid[:, None, None, :])
        return self.head(masked_mean(answers, own_valid))


class _CorrectingHead(GaussianHead):
    """A :class:`GaussianHead` whose mean starts at zero and is added to another mean."""

    last = ZeroInitLinear


class ResidualCrossDomainPosterior(CrossDomainPosterior):
    """mu = mean of the other domain's states + what the attention answers (``model.path`` = residual).

    So q(z_t | x, y) starts where r(z_t | y) does: at the mean of what was taken in the other domain.

    Departs: the paper has the attention alone.
    """

    gaussian = _CorrectingHead

    def forward(self, own: Tensor, own_valid: Tensor, other: Tensor, other_valid: Tensor) -> Gaussian:
        q = super().forward(own, own_valid, other, other_valid)
        return Gaussian(masked_mean(other, other_valid) + q.mean, q.log_variance)
