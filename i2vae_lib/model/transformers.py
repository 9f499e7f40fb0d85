"""Causal transformers over item vectors, trained at every position: SASRec's block and eSASRec's.

Beside :mod:`i2vae_lib.model.encoders`, which has the encoder of i2VAE. Here attention has an output projection, vectors
are not scaled, and blocks are as in RecTools, which showed what a softmax does for SASRec, so that
scores agree with it from the same weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib.model.encoders import Attention, attendable, dropout


class SASRecBlock(nn.Module):
    """The block of SASRec's code (its paper puts the residual connections around the normalisation).

    With q = LN(x): x <- q + Dropout(MHA(q, x, x)); then with u = LN(x): x <- u + Dropout(W_2 Dropout(relu(W_1 u))).
    """

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(d)
        self.attention = Attention(d, heads)
        self.feed_forward_norm = nn.LayerNorm(d)
        self.inner = nn.Linear(d, d)
        self.outer = nn.Linear(d, d)

    def forward(self, x: Tensor, attended: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
        query = self.attention_norm(x)
        x = query + dropout(self.attention(query, x, attended), rate, generator)
        u = self.feed_forward_norm(x)
        return u + dropout(self.outer(dropout(F.relu(self.inner(u)), rate, generator)), rate, generator)


class LiGRBlock(nn.Module):
    """The gated block of LiGR (Borisyuk et al. 2025): gates see the unnormalised x, the feed-forward net is a SwiGLU.

    With q = LN(x): x <- x + sigmoid(W_1 x + b_1) * Dropout(MHA(q, q, q)); then with u = LN(x):
    x <- x + sigmoid(W_2 x + b_2) * Dropout(W_c Dropout(SiLU(W_a u) * W_b u)), ``multiplier`` d wide and without biases.
    """

    def __init__(self, d: int, heads: int, multiplier: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(d)
        self.attention = Attention(d, heads)
        self.attention_gate = nn.Linear(d, d)
        self.feed_forward_norm = nn.LayerNorm(d)
        self.inner = nn.Linear(d, 2 * multiplier * d, bias=False)  # W_a and W_b
        self.outer = nn.Linear(multiplier * d, d, bias=False)
        self.feed_forward_gate = nn.Linear(d, d)

    def forward(self, x: Tensor, attended: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
        query = self.attention_norm(x)
        mixed = dropout(self.attention(query, query, attended), rate, generator)
        x = x + torch.sigmoid(self.attention_gate(x)) * mixed
        gate, linear = self.inner(self.feed_forward_norm(x)).chunk(2, dim=-1)
        fed = dropout(self.outer(dropout(F.silu(gate) * linear, rate, generator)), rate, generator)
        return x + torch.sigmoid(self.feed_forward_gate(x)) * fed


class CausalTransformer(nn.Module):
    """Item vectors of a sequence -> the state after each item, from that item and earlier ones alone.

    Positions count from the most recent item backwards, so that the amount of padding on the left changes nothing.
    """

    def __init__(self, d: int, length: int, blocks: Sequence[nn.Module], final_norm: bool, rate: float):
        super().__init__()
        self.rate = rate
        self.position = nn.Embedding(length, d)
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = nn.LayerNorm(d, eps=1e-8) if final_norm else nn.Identity()

    def forward(self, vectors: Tensor, valid: Tensor, generator: torch.Generator | None) -> Tensor:
        """vectors [B, L, d], valid bool [B, L] -> states [B, L, d]; at padding anything finite."""
        length = vectors.shape[1]
        back = torch.arange(length - 1, -1, -1, device=vectors.device)
        x = dropout(vectors + self.position(back), self.rate, generator)
        attended = attendable(valid, causal=True)
        for block in self.blocks:
            x = block(x, attended, self.rate, generator)
        return self.final_norm(x)
