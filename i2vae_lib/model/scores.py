"""Scores of items given an interest: the paper's dot product, and what ``model.scores`` may put in its place.

Each is a module a domain. Called with a few items a row it scores those; :meth:`DotProduct.of_all` scores the whole
domain, which for a softmax is one matrix product.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from i2vae_lib.data.batches import Side


class DotProduct(nn.Module):
    """X_u . E_v (paper 3.3.3)."""

    def __init__(self, d: int, items: int):
        super().__init__()

    def forward(self, interest: torch.Tensor, vectors: torch.Tensor, side: Side, items: torch.Tensor) -> torch.Tensor:
        """interest [B, d], items [B, k] and their vectors [B, k, d] -> [B, k]."""
        return torch.bmm(vectors, interest[:, :, None])[:, :, 0]

    def of_all(self, interest: torch.Tensor, table: torch.Tensor, side: Side) -> torch.Tensor:
        """interest [B, d], vectors [n, d] of items 1…n -> [B, n]."""
        return interest @ table.T


class Calibrated(DotProduct):
    """exp(t) X_u . E_v + b_v, with a temperature and a bias an item that are learned.

    The temperature starts at :attr:`START` / sqrt(d), the bias at 0 or where whoever builds the model puts it.

    Departs: the paper has the dot product alone, so that vectors' lengths must carry scale and popularity.
    """

    START = 0.5

    def __init__(self, d: int, items: int):
        super().__init__(d, items)
        self.log_scale = nn.Parameter(torch.tensor(self.START * d**-0.5).log())
        self.bias = nn.Parameter(torch.zeros(items))

    def forward(self, interest: torch.Tensor, vectors: torch.Tensor, side: Side, items: torch.Tensor) -> torch.Tensor:
        return super().forward(interest * self.log_scale.exp(), vectors, side, items) + self.bias[items - 1]

    def of_all(self, interest: torch.Tensor, table: torch.Tensor, side: Side) -> torch.Tensor:
        return torch.addmm(self.bias, interest * self.log_scale.exp(), table.T)


class Copying(Calibrated):
    """:class:`Calibrated` + g_u log(1 + exp(k) s_uv): the generator's scores of what it recalled, by a gate a row.

    g_u = softplus(MLP(log(1 + own length), log(1 + other length), log(1 + exp(k) sum of the scores), log(1 + exp(k)
    largest score))). An item that was not recalled gets nothing. Logarithms, because a softmax multiplies: at g = 1
    and large k, what was recalled is weighed by its scores; the learned k says where they begin to matter.

    Departs: the paper's generator reaches the scores only through z_a.
    """

    HIDDEN, OPENING, BEGINNING = 16, 1.0, 5.0

    def __init__(self, d: int, items: int):
        super().__init__(d, items)
        self.gate = nn.Sequential(nn.Linear(4, self.HIDDEN), nn.ReLU(), nn.Linear(self.HIDDEN, 1))
        self.log_beginning = nn.Parameter(torch.tensor(self.BEGINNING))

    def evidence(self, side: Side) -> torch.Tensor:
        """g_u log(1 + exp(k) s_uv) of the recalled items, [B, c]; 0 beside padding."""
        scores = side.copied_scores * self.log_beginning.exp()
        lengths = torch.stack([side.own_length, (side.other != 0).sum(dim=1)], dim=1).to(scores.dtype)
        known = torch.stack([scores.sum(dim=1).clamp(min=0.0), scores.amax(dim=1).clamp(min=0.0)], dim=1)
        opened = self.gate(torch.cat([lengths, known], dim=1).log1p())
        found: torch.Tensor = F.softplus(opened + self.OPENING) * scores.clamp(min=0.0).log1p()
        return found

    def forward(self, interest: torch.Tensor, vectors: torch.Tensor, side: Side, items: torch.Tensor) -> torch.Tensor:
        same = (items[:, :, None] == side.copied[:, None, :]).to(interest.dtype)
        copied = torch.bmm(same, self.evidence(side)[:, :, None])[:, :, 0]
        return super().forward(interest, vectors, side, items) + copied

    def of_all(self, interest: torch.Tensor, table: torch.Tensor, side: Side) -> torch.Tensor:
        places = (side.copied - 1).clamp(min=0)
        return super().of_all(interest, table, side).scatter_add(1, places, self.evidence(side))
