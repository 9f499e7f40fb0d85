"""Encoders: what padding, order and dropout may and may not change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from i2vae_lib.model.encoders import (
    Block,
    CrossDomainPosterior,
    Decoder,
    GaussianHead,
    ResidualDecoder,
    ResidualHead,
    SequenceEncoder,
    dropout,
    masked_mean,
)

D, LONGEST = 8, 9


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(module: nn.Module) -> nn.Module:
    """Every weight drawn anew, biases and norms included, so that none hides behind its starting value."""
    generator = seeded(0)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.4, generator=generator)
    return module


def encoder(causal: bool) -> nn.Module:
    return randomised(SequenceEncoder(D, LONGEST, blocks=2, heads=2, causal=causal, rate=0.2))


def sequences(lengths: list[int], width: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random item vectors, left-padded with zeros as the padding item's are, and which positions are valid."""
    vectors = torch.randn(len(lengths), width, D, generator=seeded(seed))
    valid = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    return vectors * valid[:, :, None], valid


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.75])
def test_dropout_when_elements_are_many(rate: float) -> None:
    dropped = dropout(torch.ones(1_000_000), rate, seeded(0))
    kept = dropped != 0
    assert float(kept.float().mean()) == pytest.approx(1 - rate, rel=0.006)
    assert float(dropped.mean()) == pytest.approx(1.0, rel=0.005)
    assert dropped[kept].unique().tolist() == [pytest.approx(1 / (1 - rate), rel=0.002)]


def test_dropout_when_each_byte_of_a_word_is_looked_at() -> None:
    """An int64 draw without its bounds has a sign bit of 0, and every eighth element would be dropped more often."""
    kept = dropout(torch.ones(1_600_000), 0.25, seeded(0)).view(-1, 8) != 0
    assert kept.float().mean(dim=0).tolist() == pytest.approx([0.75] * 8, rel=0.006)


def test_dropout_when_there_is_nothing_to_draw() -> None:
    x, generator = torch.ones(4, 4), seeded(0)
    before = generator.get_state()
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, generator) is x
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (3, 5)])
def test_dropout_when_size_is_no_multiple_of_eight(shape: tuple[int, ...]) -> None:
    dropped = dropout(torch.ones(shape), 0.5, seeded(0))
    assert dropped.shape == shape
    assert set(dropped.flatten().tolist()) <= {0.0, 2.0}


def test_dropout_when_it_is_differentiated_keeps_a_byte_an_element() -> None:
    x, kept = torch.randn(64, 100, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.nbytes) or one, lambda one: one):
        found = dropout(x, 0.25, torch.Generator().manual_seed(0))
    assert sum(kept) == 6400
    found.sum().backward()
    assert torch.equal(x.grad, torch.where(found != 0, 256 / 192, 0.0))


def test_dropout_when_rate_is_almost_one() -> None:
    dropped = dropout(torch.ones(100_000), 0.999, seeded(0))
    assert set(dropped.tolist()) == {0.0, 256.0}


def test_masked_mean_when_compared_with_a_loop() -> None:
    states, valid = torch.randn(6, 5, D, generator=seeded(0)), torch.rand(6, 5, generator=seeded(1)) < 0.5
    valid[2] = False
    found = masked_mean(states, valid)
    for row in range(6):
        chosen = [states[row, at] for at in range(5) if valid[row, at]]
        expected = sum(chosen) / len(chosen) if chosen else torch.zeros(D)
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[2], torch.zeros(D))


@torch.no_grad()
def test_block_when_compared_with_a_loop() -> None:
    """x + attention(LN(x)), then x + FFN(LN(x)), position by position and head by head."""
    heads, length = 2, 4
    block = randomised(Block(D, heads))
    x = torch.randn(1, length, D, generator=seeded(3))
    attended = torch.ones(length, length, dtype=torch.bool).tril()
    found = block(x, attended, 0.2, None)[0]
    query, key, value = block.query_key_value(block.attention_norm(x))[0].split(D, dim=1)
    mixed = torch.zeros(length, D)
    for head in range(heads):
        part = slice(head * D // heads, (head + 1) * D // heads)
        for i in range(length):
            logits = [float(query[i, part] @ key[j, part]) / math.sqrt(D // heads) for j in range(i + 1)]
            summed = sum(math.exp(logit) for logit in logits)
            mixed[i, part] = sum(math.exp(logit) / summed * value[j, part] for j, logit in enumerate(logits))
    middle = x[0] + mixed
    torch.testing.assert_close(
        found, middle + block.feed_forward(block.feed_forward_norm(middle)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("causal", [True, False])
def test_sequence_encoder_when_padded_further(causal: bool) -> None:
    one = encoder(causal)
    vectors, valid = sequences([4, 1, 3], 4)
    found = one(vectors, valid, None)
    wide = one(F.pad(vectors, (0, 0, 5, 0)), F.pad(valid, (5, 0)), None)
    torch.testing.assert_close(wide[:, 5:], found, rtol=0.0, atol=1e-6)
    assert torch.equal(wide[:, :5], torch.zeros(3, 5, D))


def test_sequence_encoder_when_padding_holds_a_vector() -> None:
    """Padding is masked out, not merely zero."""
    one = encoder(False)
    vectors, valid = sequences([4, 1, 3], 4)
    dirty = vectors + 9.0 * ~valid[:, :, None]
    torch.testing.assert_close(one(dirty, valid, None), one(vectors, valid, None), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_sequence_encoder_when_a_later_item_changes(causal: bool) -> None:
    one = encoder(causal)
    vectors, valid = sequences([5, 3], 5)
    changed = vectors.clone()
    changed[:, 3] = torch.randn(2, D, generator=seeded(7))
    before, after = one(vectors, valid, None), one(changed, valid, None)
    same = (before - after).abs().amax(dim=2) <= 1e-6
    earlier = [[True] * 3, [True] * 3] if causal else [[False] * 3, [True, True, False]]  # padding stays 0
    assert same[:, :3].tolist() == earlier
    assert not same[:, 3:].any()


@pytest.mark.parametrize("causal", [True, False])
def test_sequence_encoder_when_a_row_is_all_padding(causal: bool) -> None:
    one = encoder(causal)
    vectors, valid = sequences([0, 3], 3)
    vectors.requires_grad_()
    states = one(vectors, valid, seeded(0))
    assert torch.equal(states[0], torch.zeros(3, D))
    states.square().sum().backward()
    assert torch.equal(vectors.grad[0], torch.zeros(3, D))
    assert all(torch.isfinite(weight.grad).all() for weight in one.parameters())


def test_sequence_encoder_when_batch_has_one_row() -> None:
    one = encoder(True)
    vectors, valid = sequences([4, 1, 3], 4)
    alone = torch.cat([one(vectors[[row]], valid[[row]], None) for row in range(3)])
    torch.testing.assert_close(alone, one(vectors, valid, None), rtol=0.0, atol=1e-5)


def test_sequence_encoder_when_items_change_places() -> None:
    """Positions tell the two orders of the same items apart, in a bag's encoder too."""
    one = encoder(False)
    vectors, valid = sequences([2], 2)
    pooled = [masked_mean(one(v, valid, None), valid) for v in (vectors, vectors.flip(1))]
    assert not torch.allclose(*pooled, atol=1e-3)


def test_sequence_encoder_when_seed_repeats() -> None:
    one = encoder(True)
    vectors, valid = sequences([4, 1, 3], 4)
    first, again, differing = (one(vectors, valid, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, differing)
    assert not torch.equal(first, one(vectors, valid, None))


def cross() -> nn.Module:
    return randomised(CrossDomainPosterior(D, heads=2, initial_log_variance=-2.0))


def test_cross_domain_posterior_when_either_side_is_padded_further() -> None:
    one = cross()
    own, theirs = sequences([3, 2], 3, seed=1), sequences([1, 4], 4, seed=2)
    found = one(*own, *theirs)
    for pad_own, pad_theirs in ((2, 0), (0, 3), (1, 1)):
        wide = [F.pad(t, (0, 0, n, 0)) for t, n in ((own[0], pad_own), (theirs[0], pad_theirs))]
        valid = [F.pad(t, (n, 0)) for t, n in ((own[1], pad_own), (theirs[1], pad_theirs))]
        dirty = [w + 9.0 * ~v[:, :, None] for w, v in zip(wide, valid)]
        padded = one(dirty[0], valid[0], dirty[1], valid[1])
        torch.testing.assert_close(padded.mean, found.mean, rtol=0.0, atol=1e-5)
        torch.testing.assert_close(padded.log_variance, found.log_variance, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("changed", [0, 2])
def test_cross_domain_posterior_when_a_valid_item_changes(changed: int) -> None:
    one = cross()
    inputs = [*sequences([3, 2], 3, seed=1), *sequences([4, 1], 4, seed=2)]
    found = one(*inputs).mean
    inputs[changed] = inputs[changed].clone()
    inputs[changed][0, -1] += 1.0
    after = one(*inputs).mean
    assert not torch.allclose(after[0], found[0], atol=1e-3)
    assert torch.equal(after[1], found[1])


def test_cross_domain_posterior_when_batch_has_one_row() -> None:
    one = cross()
    inputs = [*sequences([3, 2], 3, seed=1), *sequences([1, 4], 4, seed=2)]
    alone = torch.cat([one(*(t[[row]] for t in inputs)).mean for row in range(2)])
    torch.testing.assert_close(alone, one(*inputs).mean, rtol=0.0, atol=1e-5)


def test_cross_domain_posterior_when_other_has_one_item() -> None:
    """Softmax over one key is 1: every query's answer is that item's value."""
    one = cross()
    own, theirs = sequences([3], 3, seed=1), sequences([1], 1, seed=2)
    value = one.attention.key_value(theirs[0])[:, 0, D:]
    torch.testing.assert_close(
        one(*own, *theirs).mean, one.head(one.attention.output(value)).mean, rtol=1e-5, atol=1e-5
    )


def test_gaussian_head_when_log_variance_leaves_its_range() -> None:
    head = randomised(GaussianHead(D, -2.0))
    pooled = 1000.0 * torch.randn(50, D, generator=seeded(0))
    log_variance = head(pooled).log_variance.detach()
    assert (float(log_variance.min()), float(log_variance.max())) == (-10.0, 4.0)


def test_residual_modules_when_compared_with_the_plain_ones() -> None:
    a, b, c = torch.randn(3, 5, D, generator=seeded(0))
    head, plain_head = randomised(ResidualHead(D, -2.0)), randomised(GaussianHead(D, -2.0))
    assert torch.equal(head(a).mean, a + plain_head(a).mean)
    assert torch.equal(head(a).log_variance, plain_head(a).log_variance)
    decoder, plain_decoder = randomised(ResidualDecoder(D)), randomised(Decoder(D))
    assert torch.equal(decoder(a, b, c), a + b + c + plain_decoder(a, b, c))
