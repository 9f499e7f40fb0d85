"""Training at every position: what a position may see, cold copies, blocks against slow ones, the loss by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Ragged, Rows, popularity
from i2vae_lib.data.user_sequences import interleaved
from i2vae_lib.evaluation import rank, sample_negatives, selection_metric
from i2vae_lib.model.transformers import CausalTransformer, LiGRBlock, SASRecBlock
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import ESASRecM, ESASRecS, Popularity, SASRecCEM, SASRecCES
from i2vae_lib.recommenders.systems.every_position import Orders, Steps
from i2vae_lib.recommenders.systems.separate_or_merged import Merged
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY

KINDS = pytest.mark.parametrize("kind", [SASRecCES, SASRecCEM, ESASRecS, ESASRecM])


def built(kind: Any, dataset: CrossDomainDataset, params: Parameters) -> Any:
    """Unfitted, every weight and bias random."""
    system = kind(dataset.catalogue, params)
    draw = torch.Generator().manual_seed(0)
    system.module = system.build(draw)
    with torch.no_grad():
        for name, weight in system.module.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.5, generator=draw)
            elif name.endswith("items.weight"):
                weight[1:] = torch.randn(len(weight) - 1, weight.shape[1], generator=draw)
    system.popularity = popularity(dataset.splits["train"])
    return system


def everything(rows: Rows) -> Array:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


# --- order of time ----------------------------------------------------------------------------------------------------


def events(*moments: list[int], first: int = 1) -> Ragged:
    """Items first, first + 1, … at these moments."""
    flat = np.concatenate([np.array(one, dtype=np.int64) for one in moments])
    return Ragged.from_lengths(first + np.arange(len(flat)), np.array([len(one) for one in moments]), flat)


def test_interleaved_when_stamps_are_equal() -> None:
    x, y = events([1, 3, 3], []), events([2, 3, 5], [4], first=11)
    both = interleaved([x, y], np.array([1, 1]))
    assert [both[i].tolist() for i in range(2)] == [[1, 11, 2, 3, 12, 13], [14]]
    assert both.moments is not None and both.moments.tolist() == [1, 2, 3, 3, 3, 5, 4]
    assert interleaved([x, y], np.array([0, 0]))[0].tolist() == [1, 11, 12, 2, 3, 13]


def test_interleaved_when_there_is_no_common_time() -> None:
    x, y = (replace(one, moments=None) for one in (events([1, 3]), events([2], first=11)))
    both = interleaved([x, y], np.array([0]))
    assert both[0].tolist() == [11, 1, 2] and both.moments is not None and both.moments.tolist() == [0, 1, 1]


@pytest.fixture
def timed(dataset: CrossDomainDataset) -> Rows:
    """Rows of a user: X 5 at stamp 9, Y 3 at 9, X 7 at 4, asking for an item of Y or X at stamp 10."""
    rows = dataset.splits["test"].take(np.array([0, 0]))
    x, y = np.array([7, 5], dtype=np.int32), np.array([3], dtype=np.int32)
    history = {
        "x": Ragged.from_lengths(np.tile(x, 2), np.array([2, 2]), np.array([4, 9, 4, 9])),
        "y": Ragged.from_lengths(np.tile(y, 2), np.array([1, 1]), np.array([9, 9])),
    }
    return replace(rows, domain=np.array([0, 1], dtype=np.int8), history=history, moment=np.array([10, 10]))


def test_histories_when_stamps_are_equal(timed: Rows) -> None:
    reading = Merged(timed.catalogue)
    assert reading.histories(timed, "x")[0].tolist() == [7, 123, 5]  # the domain that is asked for stands last
    assert reading.histories(timed, "y")[0].tolist() == [7, 5, 123]


# --- what a position may see ------------------------------------------------------------------------------------------

PRODUCT = np.arange(-1, 20)  # ten items a domain, none linked


def shown(orders: Orders, line: int) -> list[tuple[int, list[int]]]:
    """What is asked for in a line, and what stands before it."""
    start, end = orders.sequences.offsets[line : line + 2]
    values = orders.sequences.values
    return [(int(values[i]), values[start:i].tolist()) for i in range(start, end) if orders.asked[i]]


def test_asked_when_a_stamp_holds_both_domains() -> None:
    x, y = events([1, 3, 3]), events([3, 3, 5], first=11)
    orders = Orders.of([x, y], [10, 10], PRODUCT)
    assert len(orders.sequences) == 2 and orders.users == 1
    # domain 0 last: Y's events of stamp 3 are asked for, X's are not
    assert shown(orders, 0) == [(1, []), (11, [1]), (12, [1, 11]), (13, [1, 11, 12, 2, 3])]
    assert shown(orders, 1) == [(1, []), (2, [1]), (3, [1, 2]), (13, [1, 2, 3, 11, 12])]


def test_asked_when_there_is_no_common_time() -> None:
    x, y = (replace(one, moments=None) for one in (events([0, 0]), events([0, 0], first=11)))
    orders = Orders.of([x, y], [10, 10], PRODUCT)
    assert shown(orders, 0) == [(11, []), (12, [11]), (1, [11, 12]), (2, [11, 12, 1])]


def test_asked_when_a_twin_stands_earlier() -> None:
    product = PRODUCT.copy()
    product[11] = product[1]
    orders = Orders.of([events([1, 4]), events([2, 3], first=11)], [10, 10], product)
    assert [item for item, _ in shown(orders, 0)] == [1, 12, 2]


stamps = st.lists(st.integers(0, 5), max_size=8).map(sorted)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(stamps, stamps), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_draw_when_compared_with_what_evaluation_rows_show(
    users: list[tuple[list[int], list[int]]], length: int, seed: int
) -> None:
    """No position sees an event later than its target, nor one of the other domain and its stamp."""
    x = events(*(one for one, _ in users))
    y = events(*(one for _, one in users), first=101)
    orders = Orders.of([x, y], [100, 100], np.arange(-1, 200))
    if not orders.users:
        return
    assert x.moments is not None and y.moments is not None
    stamp = {int(i): int(t) for one in (x, y) for i, t in zip(one.values, one.moments, strict=True)}
    at = np.arange(orders.users)
    inputs, targets = orders.draw(at, length, 0.999, np.random.default_rng(seed))
    assert inputs.shape == targets.shape and inputs.shape[1] <= length
    for number, (line, asked) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
        assert any(line)
        for i, target in enumerate(asked):
            seen = [j for j in line[: i + 1] if j]
            if not target:
                continue
            assert seen and line[i] and target not in seen
            for j in seen:
                assert stamp[j] <= stamp[target]
                assert stamp[j] < stamp[target] or (j > 100) == (target > 100)
            if number >= len(at):  # a cold copy: the other domain alone, everything of it that the window holds
                assert i == len(asked) - 1 and all((j > 100) != (target > 100) for j in seen)
                assert sum(map(bool, asked)) == 1


def test_draw_when_repeated_covers_every_event() -> None:
    """Events beyond the last T + 1, and either domain of a shared stamp, have their turn."""
    x, y = events([1, 2, 3, 4, 5, 5]), events([5, 5, 6], first=11)
    orders = Orders.of([x, y], [10, 10], PRODUCT)
    rng = np.random.default_rng(0)
    taken, cold, lengths = set(), set(), set()
    for _ in range(300):
        inputs, targets = orders.draw(np.array([0]), 3, 0.3, rng)
        taken |= set(targets[0].tolist())
        lengths.add(int((inputs[0] > 0).sum()))
        if len(inputs) > 1:
            cold.add((tuple(inputs[1].tolist()), int(targets[1, -1])))
    assert taken == {0, *range(2, 7), 11, 12, 13} and lengths == {3}
    assert ((0, 5, 6), 13) in cold or ((0, 6, 5), 13) in cold
    assert all(target != 6 for _, target in cold if target < 11 and (11 in _ or 12 in _))


def test_draw_when_nothing_is_hidden(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    orders = SASRecCEM(dataset.catalogue, tiny).orders(dataset.splits["train"])["xy"]
    at = np.arange(orders.users)
    for share, low, high in ((0.0, 0.0, 0.0), (0.5, 0.05, 0.5)):
        inputs, _ = orders.draw(at, 10, share, np.random.default_rng(0))
        assert low <= len(inputs) / len(at) - 1 <= high
    one = SASRecCES(dataset.catalogue, tiny).orders(dataset.splits["train"])["x"]
    assert len(one.draw(np.arange(one.users), 10, 0.9, np.random.default_rng(0))[0]) == one.users


@KINDS
def test_batches_when_read_for_an_epoch(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    """Each user once a stream, T steps at most, batches weighing by their asked positions."""
    system = built(kind, dataset, tiny)
    [stage] = system.stages(dataset.splits["train"])
    batches = [next(iter(one.items())) for one in stage.batches(np.random.default_rng(0))]
    orders = system.orders(dataset.splits["train"])
    assert len(batches) == stage.steps and stage.rows == sum(one.users for one in orders.values())
    for name in system.reading.streams:
        here = [one for stream, one in batches if stream == name]
        counts = np.array([int((one.targets != 0).sum()) for one in here])
        ratio = np.array([one.share for one in here]) / counts
        np.testing.assert_allclose(ratio, ratio[0])
        assert 0.8 < np.mean([one.share for one in here]) < 1.2
        assert all(one.inputs.shape[1] <= 10 for one in here)
        assert all(((one.inputs != 0) | (one.targets == 0)).all() for one in here)


# --- blocks -----------------------------------------------------------------------------------------------------------


def normed(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def attended(attention: Any, query: torch.Tensor, keys: list[torch.Tensor], heads: int) -> torch.Tensor:
    """One position's answer, head by head."""
    d = len(query)
    q = attention.query(query)
    both = [attention.key_value(key) for key in keys]
    parts = []
    for h in range(heads):
        here = slice(h * d // heads, (h + 1) * d // heads)
        logits = torch.stack([q[here] @ one[:d][here] for one in both]) / math.sqrt(d / heads)
        parts.append(sum(w * one[d:][here] for w, one in zip(logits.softmax(0), both)))
    found: torch.Tensor = attention.output(torch.cat(parts))
    return found


def slow_sasrec(block: SASRecBlock, x: list[torch.Tensor], heads: int) -> list[torch.Tensor]:
    found = []
    for t in range(len(x)):
        q = normed(x[t], block.attention_norm)
        one = q + attended(block.attention, q, x[: t + 1], heads)
        u = normed(one, block.feed_forward_norm)
        found.append(u + block.outer(block.inner(u).clamp(min=0)))
    return found


def slow_ligr(block: LiGRBlock, x: list[torch.Tensor], heads: int) -> list[torch.Tensor]:
    found = []
    for t in range(len(x)):
        keys = [normed(one, block.attention_norm) for one in x[: t + 1]]
        one = x[t] + 1 / (1 + (-block.attention_gate(x[t])).exp()) * attended(block.attention, keys[-1], keys, heads)
        u = normed(one, block.feed_forward_norm)
        a, b = block.inner.weight.chunk(2)
        swish = (a @ u) / (1 + (-(a @ u)).exp())
        fed = block.outer.weight @ (swish * (b @ u))
        found.append(one + 1 / (1 + (-block.feed_forward_gate(one)).exp()) * fed)
    return found


@pytest.fixture(params=["sasrec", "ligr"])
def transformer(request: pytest.FixtureRequest) -> CausalTransformer:
    make = {"sasrec": lambda: SASRecBlock(8, 2), "ligr": lambda: LiGRBlock(8, 2, 3)}[request.param]
    module = CausalTransformer(8, 6, [make(), make()], final_norm=request.param == "sasrec", rate=0.0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.5, generator=draw)
    return module


def test_states_when_compared_with_a_loop(transformer: CausalTransformer) -> None:
    vectors = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1))
    states = transformer(vectors, torch.ones(1, 4, dtype=torch.bool), None)
    with torch.no_grad():
        x = [vectors[0, t] + transformer.position.weight[3 - t] for t in range(4)]
        for block in transformer.blocks:
            x = slow_sasrec(block, x, 2) if isinstance(block, SASRecBlock) else slow_ligr(block, x, 2)
        if isinstance(transformer.final_norm, torch.nn.LayerNorm):
            x = [normed(one, transformer.final_norm) for one in x]
    torch.testing.assert_close(states[0], torch.stack(x), atol=1e-5, rtol=1e-5)


def test_states_when_a_later_item_changes_or_padding_grows(transformer: CausalTransformer) -> None:
    vectors = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(3, 4, dtype=torch.bool)
    before = transformer(vectors, valid, None)
    later = vectors.clone()
    later[:, 2] += 1.0
    after = transformer(later, valid, None)
    assert torch.equal(after[:, :2], before[:, :2]) and ((after - before)[:, 2:].abs().amax(dim=2) > 1e-4).all()
    wider = torch.cat([torch.randn(3, 2, 8), vectors], dim=1)
    padded = transformer(wider, torch.cat([torch.zeros(3, 2, dtype=torch.bool), valid], dim=1), None)
    torch.testing.assert_close(padded[:, 2:], before, atol=1e-6, rtol=1e-5)


# --- systems ----------------------------------------------------------------------------------------------------------


def changed(params: Parameters, **values: Any) -> Parameters:
    groups = {group: getattr(params, group).model_copy(update=values) for group in ("sasrec_ce", "esasrec")}
    return params.model_copy(update=groups)


@KINDS
def test_loss_when_compared_with_a_loop(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(kind, dataset, changed(tiny, dropout=0.0))
    name = system.reading.streams[0]
    inputs = torch.tensor([[0, 0, 5], [8, 2, 6]])
    targets = torch.tensor([[0, 0, 9], [130 if name == "xy" else 3, 0, 1]])
    value, parts = system.loss({name: Steps(inputs, targets, 0.5)}, 0, torch.Generator().manual_seed(0))
    states, costs = system.module[name](inputs, None), []
    for line, step in ((0, 2), (1, 0), (1, 2)):
        target = int(targets[line, step])
        low = 120 if target > 120 else 0
        table = system.module[name].items.weight[low + 1 : low + 121]  # of its domain alone
        found = (table @ states[line, step]).tolist()
        costs.append(math.log(sum(math.exp(one) for one in found)) - found[target - low - 1])
    assert float(parts[f"reconstruction/{name}"]) == pytest.approx(sum(costs) / 3, rel=1e-5)
    assert float(value.detach()) == pytest.approx(sum(costs) / 6, rel=1e-5)


@KINDS
def test_score_when_compared_with_states(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(kind, dataset, tiny)
    rows = dataset.splits["test"]
    rows = rows.take(np.flatnonzero(rows.kinds()["overlapping"])[:30])
    found = system.score(rows, everything(rows))
    for i in range(len(rows)):
        d = DOMAINS[rows.domain[i]]
        merged = len(system.reading.streams) == 1
        low = 120 if merged and d == "y" else 0
        stream = system.module[system.reading.stream(d)]
        sequence = system.reading.histories(rows.take(np.array([i])), d)[0][-10:].astype(np.int64)
        state = stream(torch.from_numpy(sequence)[None], None)[0, -1]
        expected = stream.items.weight[low + 1 : low + 121] @ state
        np.testing.assert_allclose(found[i], expected.detach().numpy(), atol=2e-5, rtol=1e-4)


@KINDS
def test_build_when_vectors_start_at_counts(kind: Any, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = kind(dataset.catalogue, changed(tiny, start="cooccurrence"))
    system.prepare(dataset.splits["train"], None)
    module = system.build(torch.Generator().manual_seed(0))
    [(x, y)] = dataset.catalogue.links[:1].tolist()
    tables = {d: module[system.reading.stream(d)].items.weight for d in DOMAINS}
    low = system.reading.offset("y")
    assert tables["x"][x].any() and torch.equal(tables["x"][x], tables["y"][low + y])  # one product, one start
    assert not tables["x"][0].any()


@KINDS
def test_fit_when_there_are_twenty_users(kind: Any, dataset: CrossDomainDataset) -> None:
    values = {"training.learning_rate": 0.01, "training.batch_size": 10, "model.d": 32}
    p = load("smoke", TINY | values | {f"{one}.dropout": 0.0 for one in ("sasrec_ce", "esasrec")}, epochs=60)
    train = dataset.splits["train"]
    rows = train.take(np.flatnonzero(train.kinds()["overlapping"])[:20])
    negatives = sample_negatives(rows, 49, 0)

    def fitted(system: Any) -> float:
        rng = np.random.default_rng(0)
        found = system.fit(rows, rows, params=p, generator=None, rng=rng, callbacks=Callbacks())
        return selection_metric(rank(found, rows, negatives, full=False, batch_size=64), rows)["ndcg@10"]

    assert fitted(kind(dataset.catalogue, p)) > 0.8
    assert fitted(Popularity(dataset.catalogue)) < 0.4
