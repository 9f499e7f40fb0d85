"""SASRec-BCE: causality, padding, tied table, truncation, the loss by hand, and that it learns by heart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows, other
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.model.encoders import initialise
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import Popularity, SASRecBCEM, SASRecBCES
from i2vae_lib.recommenders.systems.sasrec_bce import Stream, Windows
from i2vae_lib.training import Callbacks

KINDS = pytest.mark.parametrize("kind", [SASRecBCES, SASRecBCEM])


def changed(params: Parameters, values: Mapping[str, Mapping[str, Any]]) -> Parameters:
    groups = {group: getattr(params, group).model_copy(update=one) for group, one in values.items()}
    return params.model_copy(update=groups)


def built(kind: Any, dataset: CrossDomainDataset, params: Parameters, seed: int = 0) -> Any:
    """Unfitted, its weights drawn."""
    system = kind(dataset.catalogue, params)
    system.module = system.build(torch.Generator().manual_seed(seed))
    return system


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


@pytest.fixture
def stream(tiny: Parameters) -> Any:
    """Two blocks over 30 items, every weight and bias random."""
    module = Stream(30, changed(tiny, {"sasrec_bce": {"blocks": 2}}))
    draw = torch.Generator().manual_seed(0)
    initialise(module, draw)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.5, generator=draw)
    return module


# --- states -----------------------------------------------------------------------------------------------------------


def test_states_when_a_later_item_changes(stream: Any) -> None:
    items = torch.randint(1, 31, (5, 8), generator=torch.Generator().manual_seed(1))
    before = stream(items, None)
    for t in range(8):
        later = items.clone()
        later[:, t] = items[:, t] % 30 + 1
        after = stream(later, None)
        assert torch.equal(after[:, :t], before[:, :t])
        assert ((after[:, t:] - before[:, t:]).abs().amax(dim=2) > 1e-4).all()


def test_states_when_padded_further(stream: Any) -> None:
    items = torch.randint(1, 31, (5, 4), generator=torch.Generator().manual_seed(1))
    for more in (1, 6):
        wider = torch.cat([torch.zeros(5, more, dtype=torch.int64), items], dim=1)
        torch.testing.assert_close(stream(wider, None)[:, more:], stream(items, None), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("length", [0, 1])
def test_states_when_a_sequence_is_hardly_there(stream: Any, length: int) -> None:
    items = torch.zeros(2, 6, dtype=torch.int64)
    items[0, 6 - length :], items[1] = 3, torch.arange(1, 7)
    states = stream(items, None)
    assert states.isfinite().all() and not states[0, : 6 - length].any()
    states.square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in stream.parameters() if weight.grad is not None)


def test_states_when_vectors_are_scaled(stream: Any) -> None:
    # without blocks: LN(sqrt(d) E + P), positions counted from the end; sqrt(d) is there once
    stream.encoder.blocks = nn.ModuleList()
    items, norm = torch.tensor([[7, 4, 9]]), stream.encoder.final_norm
    x = math.sqrt(16) * stream.items.weight[items[0]] + stream.encoder.position.weight[[2, 1, 0]]
    centred = x - x.mean(dim=1, keepdim=True)
    expected = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(stream(items, None)[0], expected, atol=1e-5, rtol=1e-5)


# --- weights ----------------------------------------------------------------------------------------------------------


@KINDS
def test_table_when_input_and_output_share_it(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(kind, dataset, tiny)
    for name in system.reading.streams:
        lines = system.reading.size(name) + 1
        tables = [weight for weight in system.module[name].parameters() if lines in weight.shape]
        assert len(tables) == 1 and tables[0] is system.module[name].items.weight
        assert tables[0].shape == (lines, 16)


@KINDS
def test_padding_vector_when_trained(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    params = changed(tiny, {"training": {"epochs": 1}})
    system = kind(dataset.catalogue, params)
    train, validation = (dataset.splits[s].take(np.arange(40)) for s in ("train", "validation"))
    rng = np.random.default_rng(0)
    system.fit(train, validation, params=params, generator=None, rng=rng, callbacks=Callbacks())
    first = system.build(torch.Generator().manual_seed(int(np.random.default_rng(0).integers(2**62))))
    for name in system.reading.streams:
        table = system.module[name].items.weight
        assert not table[0].any() and (table[1:] != first[name].items.weight[1:]).any()


# --- loss -------------------------------------------------------------------------------------------------------------


def no_dropout(tiny: Parameters) -> Parameters:
    return changed(tiny, {"sasrec_bce": {"dropout": 0.0, "negatives": 2}})


def test_loss_when_compared_with_a_loop(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(SASRecBCES, dataset, no_dropout(tiny), seed=3)
    inputs = torch.tensor([[0, 0, 5], [8, 2, 6], [0, 0, 0]])
    targets = torch.tensor([[0, 0, 9], [2, 6, 1], [0, 0, 0]])
    negatives = torch.arange(1, 19).view(3, 3, 2) * (targets != 0)[:, :, None]
    one = Windows(inputs, targets, negatives, share=0.5)
    value, parts = system.loss({"x": one}, 0, torch.Generator().manual_seed(0))
    table, states = system.module["x"].items.weight, system.module["x"](inputs, None)
    costs = []
    for row, step in [(0, 2), (1, 0), (1, 1), (1, 2)]:
        scores = (states[row, step] @ table.T).tolist()
        target = int(targets[row, step])
        cost = math.log1p(math.exp(-scores[target]))
        cost += sum(math.log1p(math.exp(scores[int(j)])) for j in negatives[row, step])
        costs.append(cost)
    assert parts["reconstruction/x"].item() == pytest.approx(sum(costs) / 4, rel=1e-5)
    assert value.item() == 0.5 * parts["reconstruction/x"].item()


def test_loss_when_every_score_is_zero(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # the mean over four of nine steps: padding would draw it down, or in
    system = built(SASRecBCES, dataset, no_dropout(tiny))
    with torch.no_grad():
        system.module["x"].items.weight.zero_()
    targets = torch.tensor([[0, 0, 9], [2, 6, 1], [0, 0, 0]])
    negatives = torch.full((3, 3, 2), 4) * (targets != 0)[:, :, None]
    one = Windows(targets.clone(), targets, negatives, share=1.0)
    value, _ = system.loss({"x": one}, 0, torch.Generator().manual_seed(0))
    assert value.item() == pytest.approx(3 * math.log(2), rel=1e-5)


@KINDS
def test_every_step_weighs_the_same(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    """In batches of similar length, a mean over a batch's steps alone would give those of short sequences more."""
    system = built(kind, dataset, changed(tiny, {"training": {"batch_size": 16}}))
    [stage] = system.stages(dataset.splits["train"])
    batches = [next(iter(one.items())) for one in stage.batches(np.random.default_rng(0))]
    assert len(batches) == stage.steps > 20
    for name in system.reading.streams:
        steps = np.array([int((one.targets != 0).sum()) for stream, one in batches if stream == name])
        shares = np.array([one.share for stream, one in batches if stream == name])
        assert steps.max() > 2 * steps.min()
        np.testing.assert_allclose(shares, steps / steps.mean())


@KINDS
def test_batches_when_read_for_an_epoch(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    """Each sequence of two items or more once; every target follows its input; T steps at most."""
    system = built(kind, dataset, tiny)
    train = dataset.splits["train"]
    (stage,) = system.stages(train)
    expected: dict[str, list[tuple[int, ...]]] = {s: [] for s in system.reading.streams}
    for s, sequences in system.reading.sequences(train).items():
        expected[s] = sorted(
            tuple(sequences[i][-11:].tolist()) for i in range(len(sequences)) if sequences.lengths[i] > 1
        )
    found: dict[str, list[tuple[int, ...]]] = {s: [] for s in system.reading.streams}
    batches = list(stage.batches(np.random.default_rng(0)))
    taken = {s: [set(one[i].tolist()) for i in range(len(one))] for s, one in system.reading.sequences(train).items()}
    for batch in batches:
        [(s, one)] = batch.items()
        assert one.inputs.shape == one.targets.shape and one.inputs.shape[1] <= 10
        assert one.negatives.shape == (*one.inputs.shape, 1)
        assert ((one.inputs == 0) == (one.targets == 0)).all() and (
            (one.negatives[..., 0] == 0) == (one.inputs == 0)
        ).all()
        for inputs, targets in zip(one.inputs.tolist(), one.targets.tolist(), strict=True):
            shown = [i for i in inputs if i]
            assert [i for i in targets if i][:-1] == shown[1:]
            found[s].append((*shown, targets[-1]))
        edge = system.reading.offset("y") if s == "xy" else 0  # of the merged numbers
        for negatives, targets in zip(one.negatives[..., 0].tolist(), one.targets.tolist(), strict=True):
            for negative, target in zip(negatives, targets, strict=True):
                assert target == 0 or (negative > edge) == (target > edge)  # of the target's domain
            windows = {i for i in targets if i}
            holders = [items for items in taken[s] if windows <= items]
            assert any(not items & {i for i in negatives if i} for items in holders)  # nothing of its own sequence
    assert {s: sorted(one) for s, one in found.items()} == expected
    assert len(batches) == stage.steps and sum(map(len, found.values())) == stage.rows


# --- scores -----------------------------------------------------------------------------------------------------------


@KINDS
def test_score_when_compared_with_states(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    """The last state and the unscaled item table; merged: both histories in order of time, and a part of the table."""
    system = built(kind, dataset, tiny)
    rows = dataset.splits["test"]
    rows = rows.take(np.flatnonzero(rows.kinds()["overlapping"])[:30])
    system.popularity = {d: np.zeros(121) for d in DOMAINS}
    scores = system.score(rows, everything(rows))
    for i in range(len(rows)):
        d = DOMAINS[rows.domain[i]]
        shift = {"x": 0, "y": 120 if kind is SASRecBCEM else 0}
        parts = (other(d), d) if kind is SASRecBCEM else (d,)
        events = [
            (moment, part == d, int(item) + shift[part])  # of one moment the own event last
            for part in parts
            for one in [rows.history[part].take(np.array([i]))]
            for item, moment in zip(one.values, one.moments, strict=True)
        ]
        sequence = [item for _, _, item in sorted(events, key=lambda event: event[:2])][-10:]
        stream = system.module["xy" if kind is SASRecBCEM else d]
        state = stream(torch.tensor([sequence]), None)[0, -1]
        expected = stream.items.weight[shift[d] + 1 : shift[d] + 121] @ state
        np.testing.assert_allclose(scores[i], expected.detach().numpy(), atol=1e-5, rtol=1e-5)


@KINDS
def test_score_when_items_lie_before_the_last_T(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(kind, dataset, tiny)
    system.popularity = {d: np.zeros(121) for d in DOMAINS}
    rows = dataset.splits["test"].take(np.arange(4))
    draw = np.random.default_rng(0)
    recent = [draw.integers(1, 121, 10).tolist() for _ in range(4)]

    def preceded(by: int) -> Array:
        both = Ragged.from_lists([[*draw.integers(1, 121, by), *one] for one in recent])
        return system.score(replace(rows, history={d: both for d in DOMAINS}), everything(rows))

    np.testing.assert_array_equal(preceded(25), preceded(0))
    np.testing.assert_array_equal(preceded(1), preceded(0))


@KINDS
def test_score_when_asked_twice(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(kind, dataset, tiny)
    system.popularity = {d: np.zeros(121) for d in DOMAINS}
    rows = dataset.splits["test"]
    np.testing.assert_array_equal(system.score(rows, everything(rows)), system.score(rows, everything(rows)))


@KINDS
def test_fit_when_there_are_twenty_users(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    values = {"training": {"epochs": 50, "learning_rate": 0.02}, "sasrec_bce": {"dropout": 0.0}}
    params = changed(tiny, values)
    train = dataset.splits["train"]
    rows = train.take(np.flatnonzero(train.kinds()["overlapping"])[:20])
    negatives = sample_negatives(rows, 49, 0)

    def fitted(system: Any) -> float:
        rng = np.random.default_rng(0)
        found = system.fit(rows, rows, params=params, generator=None, rng=rng, callbacks=Callbacks())
        ranks = rank(found, rows, negatives, full=False, batch_size=64)
        return selection_metric(ranks, rows)["ndcg@10"]

    assert fitted(kind(dataset.catalogue, params)) > 0.8
    assert fitted(Popularity(dataset.catalogue)) < 0.4  # though these rows' targets are in its counts
