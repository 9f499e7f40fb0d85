"""States of SASRec-CE and eSASRec against RecTools', from the same weights: skipped, loudly, where it is not installed.

Recorded with rectools 0.19.0 and torch 2.13.0 (CPU): largest difference of a score below 1e-5.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from i2vae_lib.model.encoders import Attention
from i2vae_lib.model.transformers import CausalTransformer, LiGRBlock, SASRecBlock

rectools = pytest.importorskip("rectools.models.nn.transformers", reason="RecTools is not installed: agreement SKIPPED")

from rectools.models.nn.transformers.ligr import LiGRLayers  # noqa: E402
from rectools.models.nn.transformers.net_blocks import LearnableInversePositionalEncoding  # noqa: E402
from rectools.models.nn.transformers.sasrec import SASRecTransformerLayers  # noqa: E402
from rectools.models.nn.transformers.torch_backbone import TransformerTorchBackbone  # noqa: E402

D, HEADS, LENGTH, ITEMS = 16, 2, 7, 30


def copied(theirs: Any, ours: Any) -> None:
    theirs.load_state_dict(ours.state_dict())


def attention(theirs: torch.nn.MultiheadAttention, ours: Attention) -> None:
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    copied(theirs.out_proj, ours.output)


def sasrec(theirs: Any, ours: CausalTransformer) -> None:
    for their, our in zip(theirs.transformer_blocks, ours.blocks, strict=True):
        assert isinstance(our, SASRecBlock)
        attention(their.multi_head_attn, our.attention)
        copied(their.q_layer_norm, our.attention_norm)
        copied(their.ff_layer_norm, our.feed_forward_norm)
        copied(their.feed_forward.ff_linear_1, our.inner)
        copied(their.feed_forward.ff_linear_2, our.outer)
    copied(theirs.last_layernorm, ours.final_norm)


def ligr(theirs: Any, ours: CausalTransformer) -> None:
    for their, our in zip(theirs.transformer_blocks, ours.blocks, strict=True):
        assert isinstance(our, LiGRBlock)
        attention(their.multi_head_attn, our.attention)
        copied(their.layer_norm_1, our.attention_norm)
        copied(their.layer_norm_2, our.feed_forward_norm)
        copied(their.gating_linear_1, our.attention_gate)
        copied(their.gating_linear_2, our.feed_forward_gate)
        with torch.no_grad():
            gate, linear = our.inner.weight.chunk(2)
            their.feed_forward.ff_linear_1.weight.copy_(gate)
            their.feed_forward.ff_linear_3.weight.copy_(linear)
        copied(their.feed_forward.ff_linear_2, our.outer)


@pytest.mark.parametrize("name", ["sasrec", "ligr"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_scores_when_compared_with_rectools(name: str, blocks: int) -> None:
    if name == "sasrec":
        theirs: Any = SASRecTransformerLayers(blocks, D, HEADS, 0.0)
        ours = CausalTransformer(D, LENGTH, [SASRecBlock(D, HEADS) for _ in range(blocks)], final_norm=True, rate=0.0)
    else:
        theirs = LiGRLayers(blocks, D, HEADS, 0.0, ff_factors_multiplier=3)
        ours = CausalTransformer(D, LENGTH, [LiGRBlock(D, HEADS, 3) for _ in range(blocks)], final_norm=False, rate=0.0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.normal_(std=0.5, generator=draw)
    {"sasrec": sasrec, "ligr": ligr}[name](theirs, ours)
    positions = LearnableInversePositionalEncoding(True, LENGTH, D)
    copied(positions.pos_emb, ours.position)
    table = torch.randn(ITEMS + 1, D, generator=draw)
    table[0] = 0.0
    backbone = TransformerTorchBackbone(HEADS, 0.0, None, positions, theirs, None, True, True).eval()
    items = torch.tensor([[0, 0, 0, 0, 3, 9, 4], [5, 6, 7, 8, 9, 10, 11], [0, 0, 0, 0, 0, 0, 2]])
    with torch.no_grad():
        expected = backbone.encode_sessions({"x": items}, table) @ table.T
        found = ours(table[items], items != 0, None) @ table.T
    asked = items != 0
    assert expected[asked].std() > 0.1
    print(f"largest difference: {(found - expected)[asked].abs().max():.1e}")
    torch.testing.assert_close(found[asked], expected[asked], atol=1e-4, rtol=1e-4)
