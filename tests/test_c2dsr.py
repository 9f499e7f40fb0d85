"""C2DSR: views and targets, graphs, corruption, the loss against a slow reference, and what it reduces to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Ragged, Rows, other, popularity
from i2vae_lib.generators import graphs
from i2vae_lib.model.encoders import SequenceEncoder
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders import C2DSR
from i2vae_lib.recommenders.systems.c2dsr import MERGED, Shares, corrupted, views
from i2vae_lib.recommenders.systems.separate_or_merged import Merged
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import one_a_user

# toy world: items 1…5 are X's, 6…11 are Y's 1…6
X1, X2, X3, X4, Y1, Y2, Y3, Y4 = 1, 2, 3, 4, 6, 7, 8, 9
TERMS = [f"{term}/{d}" for term in ("shared", "specific", "infomax") for d in DOMAINS]


def catalogue() -> Catalogue:
    ids = {d: np.array([f"{d}{i}" for i in range(n)], dtype=object) for d, n in (("x", 5), ("y", 6))}
    return Catalogue({"x": "North", "y": "South"}, ids, np.zeros((0, 2), dtype=np.int32), dict.fromkeys(DOMAINS))


def rows(world: Catalogue, *, x: list[list[int]], y: list[list[int]], asks: str, target: list[int]) -> Rows:
    history = {"x": Ragged.from_lists(x), "y": Ragged.from_lists(y)}
    number = np.arange(len(asks))
    users = np.array([f"u{i}" for i in number], dtype=object)
    which = np.array([DOMAINS.index(d) for d in asks], dtype=np.int8)
    nothing = Ragged.from_lists([[] for _ in number])
    return Rows(world, users, which, np.array(target, dtype=np.int32), history, nothing, number)


def with_c2dsr(p: Parameters, **changed: Any) -> Parameters:
    return p.model_copy(update={"c2dsr": p.c2dsr.model_copy(update=changed)})


def built(world: Catalogue, train: Rows, p: Parameters) -> C2DSR:
    system = C2DSR(world, p)
    system.popularity = popularity(train)
    system.prepare(train, None)
    system.module = system.build(torch.Generator().manual_seed(0))
    system.update_tables()
    return system


def batch_of(system: C2DSR, sequences: Ragged, seed: int = 0) -> dict[str, Any]:
    return system.batch(sequences, np.random.default_rng(seed)) | {"shares": Shares(dict.fromkeys(TERMS, 1.0))}


def dense(system: C2DSR, name: str) -> Array:
    """A view's graph, [items + 1, items + 1]."""
    graph = system.graphs[name]
    return (graph @ torch.eye(len(graph.matrix.offsets))).numpy()


@pytest.fixture(scope="module")
def toy(tiny: Parameters) -> C2DSR:
    """Untrained, on six training rows; discriminators of the size of the other weights, so that they matter."""
    train = rows(
        catalogue(),
        x=[[1, 2, 3], [4, 1], [5], [2, 3], [1], [2, 5, 4]],
        y=[[1, 2], [3, 4], [], [6, 1], [5, 2], []],
        asks="xyxyyx",
        target=[4, 5, 1, 2, 3, 1],
    )
    return built(train.catalogue, train, with_c2dsr(tiny, balance=0.7))


def numbers(view: Any, name: str) -> list[list[int]]:
    return getattr(view, name).tolist()  # type: ignore[no-any-return]


# --- views ------------------------------------------------------------------------------------------------------------


def test_views_when_domains_alternate() -> None:
    found = views(Merged(catalogue()), Ragged.from_lists([[X1, Y1, X2, Y2, X3]]), 10)
    assert numbers(found[MERGED], "inputs") == [[X1, Y1, X2, Y2]]
    assert numbers(found[MERGED], "targets") == [[Y1, X2, Y2, X3]]
    # X asks: its last item is followed by the target; Y's last item is followed by nothing and not in its view
    assert numbers(found["x"], "inputs") == [[1, 2]] and numbers(found["x"], "targets") == [[2, 3]]
    assert numbers(found["x"], "standing") == [[True, False, True, False]]
    assert numbers(found["y"], "inputs") == [[1]] and numbers(found["y"], "targets") == [[2]]
    assert numbers(found["y"], "standing") == [[False, True, False, False]]


def test_views_when_the_target_is_of_the_other_domain() -> None:
    found = views(Merged(catalogue()), Ragged.from_lists([[X1, Y1, X2, Y2, Y3]]), 10)
    assert numbers(found["x"], "inputs") == [[1]] and numbers(found["x"], "targets") == [[2]]
    assert numbers(found["x"], "standing") == [[True, False, False, False]]
    assert numbers(found["y"], "inputs") == [[1, 2]] and numbers(found["y"], "targets") == [[2, 3]]


def test_views_when_sequences_are_long_and_some_are_of_one_domain() -> None:
    lists = [[X1, X2, Y1, X3, X4, Y2], [Y3, Y4], [X1, Y1], [X1, X2, X3, X4, X1]]
    found = views(Merged(catalogue()), Ragged.from_lists(lists), 3)
    assert numbers(found[MERGED], "inputs") == [[Y1, X3, X4], [0, 0, Y3], [0, 0, X1], [X2, X3, X4]]
    assert numbers(found[MERGED], "targets") == [[X3, X4, Y2], [0, 0, Y4], [0, 0, Y1], [X3, X4, X1]]
    assert numbers(found["x"], "rows") == [0, 3]
    assert numbers(found["x"], "inputs") == [[0, 0, 3], [2, 3, 4]]
    assert numbers(found["x"], "targets") == [[0, 0, 4], [3, 4, 1]]
    assert numbers(found["x"], "standing") == [[False, True, False], [True, True, True]]
    assert numbers(found["y"], "rows") == [0, 1]  # the first from its last three inputs
    assert numbers(found["y"], "inputs") == [[1], [3]] and numbers(found["y"], "targets") == [[2], [4]]


def test_views_when_compared_with_the_definition() -> None:
    rng, reading, length = np.random.default_rng(0), Merged(catalogue()), 7
    lists = [rng.integers(1, 12, rng.integers(2, 13)).tolist() for _ in range(200)]
    found = views(reading, Ragged.from_lists(lists), length)
    for d, low, size in (("x", 0, 5), ("y", 5, 6)):
        line = 0
        for row, whole in enumerate(lists):
            recent = whole[-length - 1 :]
            at = [k for k, item in enumerate(recent) if low < item <= low + size]
            if len(at) < 2:
                assert row not in found[d].rows
                continue
            assert found[d].rows[line] == row
            shown = found[d].inputs[line]
            assert shown[shown != 0].tolist() == [recent[k] - low for k in at[:-1]]
            assert found[d].targets[line][shown != 0].tolist() == [recent[k] - low for k in at[1:]]
            width = found[MERGED].inputs.shape[1]
            expected = np.zeros(width, dtype=bool)
            expected[[width - len(recent) + 1 + k for k in at[:-1]]] = True
            assert found[d].standing[line].tolist() == expected.tolist()
            line += 1
        assert line == len(found[d].rows) > 50


# --- corruption -------------------------------------------------------------------------------------------------------


def test_corrupted_when_a_domain_is_replaced() -> None:
    reading = Merged(catalogue())
    shown = views(reading, Ragged.from_lists([[X1, Y1, X2, Y2, X3, Y3]] * 400), 10)
    for d, low, size in (("x", 0, 5), ("y", 5, 6)):
        one = corrupted(reading, shown, d, np.random.default_rng(0))
        before = shown[MERGED].inputs
        inside = (before > low) & (before <= low + size)
        assert len(one.rows) == 400
        assert torch.equal(one.inputs[~inside], before[~inside])
        drawn = np.bincount(one.inputs[inside].numpy() - low, minlength=size + 1)
        assert drawn[0] == 0 and len(drawn) == size + 1  # of the domain, and all of it
        np.testing.assert_allclose(drawn[1:] / drawn.sum(), 1 / size, atol=0.05)


def test_corrupted_when_it_says_something() -> None:
    # a view each, and an item of d before the other view ends
    lists = [
        [X1, X2, Y1, Y2, Y3],  # 0: X came first, so Y's states can tell, X's cannot
        [Y1, Y2, X1, X2, X3],  # 1: the other way round
        [X1, X2, X3],  # 2: no Y
        [X1, Y1, Y2, Y3],  # 3: one X is no view
        [X1, Y1, X2, Y2, X3],  # 4: Y's view ends at its first item, which X1 precedes; X's at X2, after Y1
    ]
    reading = Merged(catalogue())
    shown = views(reading, Ragged.from_lists(lists), 10)
    found = {d: corrupted(reading, shown, d, np.random.default_rng(0)) for d in DOMAINS}
    assert found["x"].rows.tolist() == [0, 4] and found["y"].rows.tolist() == [1, 4]
    assert shown["x"].rows[found["x"].own].tolist() == [0, 4]
    assert found["x"].standing[0].tolist() == [False, False, True, True]
    assert found["x"].standing[1].tolist() == [False, True, False, False]
    assert found["y"].standing[0].tolist() == [False, False, True, True]


def test_corrupted_when_an_epoch_is_another(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(dataset.catalogue, dataset.splits["train"], tiny)
    [stage] = system.stages(dataset.splits["train"])
    rng = np.random.default_rng(0)
    first, second = ([one["corrupted x"].inputs.sum() for one in stage.batches(rng)] for _ in range(2))
    assert len(first) == stage.steps and sum(first) != sum(second)
    assert sum(first) == sum(one["corrupted x"].inputs.sum() for one in stage.batches(np.random.default_rng(0)))


def test_infomax_when_the_view_comes_after(toy: C2DSR) -> None:
    # why such rows are left out: items after the other view has ended change nothing of its states
    before, after = (torch.tensor([[Y1, Y2, a, b]]) for a, b in ((X1, X2), (X4, X3)))
    states = [toy.module.streams[MERGED](toy.frozen[MERGED], one, None) for one in (before, after)]
    torch.testing.assert_close(states[0][:, :2], states[1][:, :2])
    assert (states[0][:, 2:] - states[1][:, 2:]).abs().max() > 0.1


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_successors_when_counted_by_hand() -> None:
    found = graphs.successors(Ragged.from_lists([[1, 2, 3], [], [1, 2], [1, 3], [3]]), 4).toarray()
    expected = np.zeros((5, 5))
    expected[1, 2], expected[1, 3], expected[2, 3] = 2 / 3, 1 / 3, 1.0
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32
    assert graphs.successors(Ragged.from_lists([[], [1]]), 2).nnz == 0


def test_product_when_its_gradient_is_taken() -> None:
    rng = np.random.default_rng(0)
    matrix = sparse.random(7, 7, 0.4, "csr", dtype=np.float32, random_state=0)
    vectors = torch.from_numpy(rng.normal(size=(7, 3)).astype(np.float32)).requires_grad_()
    weight = torch.from_numpy(rng.normal(size=(7, 3)).astype(np.float32))
    out = graphs.Product.of(matrix, torch.device("cpu")) @ vectors
    (out * weight).sum().backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(out.detach().numpy(), matrix @ vectors.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vectors.grad, matrix.T @ weight.numpy(), rtol=1e-5, atol=1e-6)  # type: ignore[arg-type]


def test_graphs_when_made_from_training_rows(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    train = dataset.splits["train"]
    # without a common time: other history, own history, target
    train = replace(train, history={d: replace(one, moments=None) for d, one in train.history.items()}, moment=None)
    system = built(dataset.catalogue, train, tiny)
    seen: dict[str, set[tuple[int, int]]] = {MERGED: set(), "x": set(), "y": set()}
    for row in range(len(train)):
        d = DOMAINS[train.domain[row]]
        own = [*train.history[d][row], train.target[row]]
        opposite = list(train.history[other(d)][row])
        seen[d] |= set(pairwise(own))
        seen[other(d)] |= set(pairwise(opposite))
        shift = {"x": 0, "y": 120}
        both = [i + shift[other(d)] for i in opposite] + [i + shift[d] for i in own]
        seen[MERGED] |= set(pairwise(both))
    for name in system.graphs:
        matrix = dense(system, name)
        # every edge is one of a training sequence (none of validation or test, none across domains in x and y)
        assert set(zip(*(one.tolist() for one in matrix.nonzero()), strict=True)) == seen[name]
        total = np.asarray(matrix.sum(axis=1)).ravel()
        np.testing.assert_allclose(total[total > 0], 1.0, rtol=1e-5)
        assert total[0] == 0 and matrix.shape == ((241, 241) if name == MERGED else (121, 121))


def test_vectors_when_there_are_layers(toy: C2DSR) -> None:
    stream, matrix = toy.module.streams["x"], dense(toy, "x")
    torch.nn.init.normal_(stream.biases[0], generator=torch.Generator().manual_seed(1))
    table, bias = stream.items.weight.detach().numpy(), stream.biases[0].detach().numpy()
    expected = table + (table + matrix @ table + bias) / 2  # one layer
    with torch.no_grad():
        found = stream.vectors(toy.graphs["x"], None).numpy()
        torch.nn.init.zeros_(stream.biases[0])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# --- loss -------------------------------------------------------------------------------------------------------------


def slow_loss(system: C2DSR, lists: list[list[int]], shown: Mapping[str, Any]) -> dict[str, float]:
    """One sequence at a time, one step at a time, unpadded."""
    net, steps, T = system.module, system.params.c2dsr.steps, system.params.model.T
    vectors = system.frozen
    sizes = {"x": (0, system.catalogue.size("x")), "y": (system.catalogue.size("x"), system.catalogue.size("y"))}

    def states(name: str, items: list[int]) -> torch.Tensor:
        found: torch.Tensor = net.streams[name](vectors[name], torch.tensor([items]), None)[0]
        return found

    def cost(d: str, state: torch.Tensor, item: int) -> float:
        return float(-torch.log_softmax(net.heads[d](state), dim=0)[item - 1])

    terms: dict[str, list[float]] = {}
    for row, whole in enumerate(lists):
        recent = whole[-T - 1 :]
        inputs = recent[:-1]
        merged = states(MERGED, inputs)
        window = range(max(0, len(inputs) - steps), len(inputs))
        places, own = {}, {}
        for d, (low, size) in sizes.items():
            at = [k for k, item in enumerate(recent) if low < item <= low + size]
            for t in window:
                if t + 1 in at:
                    terms.setdefault(f"shared/{d}", []).append(cost(d, merged[t], recent[t + 1] - low))
            if len(at) < 2:
                continue
            places[d], own[d] = at[:-1], states(d, [recent[k] - low for k in at[:-1]])
            for k, (t, after) in enumerate(pairwise(at)):
                if t in window:
                    terms.setdefault(f"specific/{d}", []).append(cost(d, merged[t] + own[d][k], recent[after] - low))
        for d in DOMAINS:
            line = (shown[f"corrupted {d}"].rows == row).nonzero()
            if len(line):
                wrong = shown[f"corrupted {d}"].inputs[line[0, 0]]
                false = states(MERGED, wrong[wrong != 0].tolist())[places[other(d)]].mean(dim=0)
                true, r = merged[places[other(d)]].mean(dim=0), own[d].mean(dim=0)
                disc = net.discriminators[d]
                scores = [(r @ disc.weight[0] @ one + disc.bias) for one in (true, false)]
                terms.setdefault(f"infomax/{d}", []).append(float(F.softplus(-scores[0]) + F.softplus(scores[1])))
    return {name: float(np.mean(one)) for name, one in terms.items()}


def test_loss_when_compared_with_a_slow_reference(toy: C2DSR) -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 12, rng.integers(2, 14)).tolist() for _ in range(30)]
    toy.params = with_c2dsr(toy.params, steps=4)
    shown = batch_of(toy, Ragged.from_lists(lists))
    with torch.no_grad():
        value, parts = toy.loss(shown, 0, None)
        expected = slow_loss(toy, lists, shown)
    toy.params = with_c2dsr(toy.params, steps=10)
    assert set(parts) == set(expected) == {f"{t}/{d}" for t in ("shared", "specific", "infomax") for d in DOMAINS}
    for name, one in expected.items():
        assert parts[name].item() == pytest.approx(one, rel=1e-4), name
    weighted = sum((0.3 if name.startswith("infomax") else 0.7) * one for name, one in expected.items())
    assert float(value) == pytest.approx(weighted, rel=1e-4)


def test_loss_when_a_batch_has_less_than_another(toy: C2DSR) -> None:
    lists = [[X1, X2, Y1, Y2], [Y1, Y2, X1, X2, X3, X4, Y3, Y4]]
    shown, shares = batch_of(toy, Ragged.from_lists(lists)), dict(zip(TERMS, (0.5, 2.0, 1.0, 3.0, 0.25, 4.0)))
    with torch.no_grad():
        value, parts = toy.loss(shown | {"shares": Shares(shares)}, 0, None)
    weighted = sum((0.3 if name.startswith("infomax") else 0.7) * shares[name] * one for name, one in parts.items())
    assert set(parts) == set(TERMS) and float(value) == pytest.approx(float(weighted), rel=1e-5)


def test_every_step_weighs_the_same(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    """In batches of similar length, a mean over a batch's steps alone would give those of short sequences more."""
    p = tiny.model_copy(update={"training": tiny.training.model_copy(update={"batch_size": 16})})
    [stage] = built(dataset.catalogue, dataset.splits["train"], p).stages(dataset.splits["train"])
    batches = [dict(one) for one in stage.batches(np.random.default_rng(0))]
    assert len(batches) == stage.steps > 20
    system = built(dataset.catalogue, dataset.splits["train"], p)
    for term in TERMS:
        counts = np.array([system.counts(one)[term] for one in batches])
        shares = np.array([one["shares"].of[term] for one in batches])
        assert counts.max() > 2 * counts.min() and shares.mean() == pytest.approx(1)
        np.testing.assert_allclose(shares, counts / counts.mean())


def test_loss_when_rows_are_of_one_domain(toy: C2DSR) -> None:
    toy.module.zero_grad()
    value, parts = toy.loss(batch_of(toy, Ragged.from_lists([[X1, X2, X3], [X2, X4]])), 0, None)
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value) and set(parts) == {"shared/x", "shared/y", "specific/x"} and parts["shared/y"] == 0
    for name, weight in toy.module.named_parameters():
        if name.startswith("discriminators") or name.startswith("streams.y"):
            assert weight.grad is None or not weight.grad.any(), name
        else:
            assert weight.grad is None or torch.isfinite(weight.grad).all(), name
    assert toy.module.streams["x"].items.weight.grad.any() and not toy.module.heads["y"].weight.grad.any()


def test_loss_when_the_balance_is_one(toy: C2DSR) -> None:
    shown = batch_of(toy, Ragged.from_lists([[X1, X2, Y1, Y2, Y3], [Y1, X2, Y3, X1]]))
    gradients = {}
    for balance in (0.7, 1.0):
        system = C2DSR(toy.catalogue, with_c2dsr(toy.params, balance=balance))
        system.graphs = toy.graphs
        system.module = system.build(torch.Generator().manual_seed(0))
        value, parts = system.loss(shown, 0, None)
        value.backward()  # type: ignore[no-untyped-call]
        gradients[balance] = [one.weight.grad for one in system.module.discriminators.values()]
        assert ("infomax/x" in parts) == (balance < 1)
    assert all(one.abs().max() > 0 for one in gradients[0.7]) and gradients[1.0] == [None, None]


def test_loss_when_padding_grows(toy: C2DSR) -> None:
    # a longer neighbour pads a row; its share of the sums stays
    short, long = [X1, X2, Y1, Y2], [Y1, Y2, X1, X2, X3, X4, Y3, Y4]
    with torch.no_grad():
        alone = [toy.loss(batch_of(toy, Ragged.from_lists([one])), 0, None)[1] for one in (short, long)]
        together = toy.loss(batch_of(toy, Ragged.from_lists([short, long])), 0, None)[1]
    # steps with a next X item: 1 and 4; with a next Y item: 2 and 3
    assert float(together["shared/x"]) == pytest.approx(float(alone[0]["shared/x"] + 4 * alone[1]["shared/x"]) / 5)
    assert float(together["shared/y"]) == pytest.approx(float(2 * alone[0]["shared/y"] + 3 * alone[1]["shared/y"]) / 5)


# --- states and scores ------------------------------------------------------------------------------------------------


def test_states_when_a_later_item_changes(toy: C2DSR) -> None:
    for name, top in ((MERGED, 11), ("x", 5), ("y", 6)):
        items = torch.tensor([[1, 2, 3, 4, 5]])
        changed = items.clone()
        changed[0, 3] = top
        before, after = (toy.module.streams[name](toy.frozen[name], one, None) for one in (items, changed))
        torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-6)
        assert (before[:, 3:] - after[:, 3:]).abs().max() > 0.01


def test_states_when_a_view_is_all_padding(toy: C2DSR) -> None:
    states = toy.module.streams["x"](toy.frozen["x"], torch.zeros(3, 4, dtype=torch.int64), None)
    assert not states.any()


def test_scores_when_written_out(toy: C2DSR) -> None:
    asked = rows(toy.catalogue, x=[[1, 2], [3], []], y=[[4, 5], [], [2, 6]], asks="xxx", target=[1, 1, 1])
    every = np.broadcast_to(np.arange(1, 6, dtype=np.int32), (3, 5))
    found = toy.score(asked, every)
    streams, head = toy.module.streams, toy.module.heads["x"]
    merged = [[5 + 4, 5 + 5, 1, 2], [3], [5 + 2, 5 + 6]]
    own = [[1, 2], [3], []]
    for row in range(3):
        state = streams[MERGED](toy.frozen[MERGED], torch.tensor([merged[row]]), None)[0, -1]
        if own[row]:  # a cold row has no specific state: the merged one alone, as shared_x trains it
            state = state + streams["x"](toy.frozen["x"], torch.tensor([own[row]]), None)[0, -1]
        np.testing.assert_allclose(found[row], head(state).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_scores_when_rows_are_cold(toy: C2DSR) -> None:
    asked = rows(toy.catalogue, x=[[], []], y=[[1, 2], [3, 4]], asks="xx", target=[1, 1])
    found = toy.score(asked, np.broadcast_to(np.arange(1, 6, dtype=np.int32), (2, 5)))
    assert np.isfinite(found).all() and np.abs(found[0] - found[1]).max() > 1e-3


def test_states_when_there_is_no_graph(toy: C2DSR) -> None:
    """Without layers and with balance 1 each view is a SASRec: its encoder on one table (twice E: E itself and G)."""
    p = with_c2dsr(toy.params, layers=0, balance=1.0)
    system = C2DSR(toy.catalogue, p)
    system.graphs = toy.graphs
    system.module = system.build(torch.Generator().manual_seed(3))
    items = torch.tensor([[0, 2, 1], [4, 5, 3]])
    for name in (MERGED, *DOMAINS):
        stream = system.module.streams[name]
        assert len(stream.biases) == 0
        bare = SequenceEncoder(p.model.d, p.model.T, p.c2dsr.blocks, p.c2dsr.heads, causal=True, rate=0.0)
        bare.load_state_dict(stream.encoder.state_dict())
        expected = bare((2 * stream.items.weight)[items], items != 0, None)
        torch.testing.assert_close(stream(stream.vectors(system.graphs[name], None), items, None), expected)


def test_loss_when_it_is_a_sasrec(toy: C2DSR) -> None:
    """Rows of X alone, no graph, balance 1, a merged stream silenced: full-softmax SASRec on X's view."""
    p = with_c2dsr(toy.params, layers=0, balance=1.0)
    system = C2DSR(toy.catalogue, p)
    system.graphs = toy.graphs
    system.module = system.build(torch.Generator().manual_seed(3))
    for weight in system.module.streams[MERGED].encoder.final_norm.parameters():
        torch.nn.init.zeros_(weight)
    lists = [[X1, X2, X3, X4], [X3, X1]]
    with torch.no_grad():
        parts = system.loss(batch_of(system, Ragged.from_lists(lists)), 0, None)[1]
        stream, head = system.module.streams["x"], system.module.heads["x"]
        inputs, targets = torch.tensor([[X1, X2, X3], [0, 0, X3]]), torch.tensor([X2, X3, X4, X1])
        states = stream.encoder((2 * stream.items.weight)[inputs], inputs != 0, None)[inputs != 0]
        expected = F.cross_entropy(head(states), targets - 1)
    assert parts["specific/x"].item() == pytest.approx(float(expected), rel=1e-5)
    assert parts["shared/x"].item() == pytest.approx(np.log(5))


def ranks(scores: Array, target: Array) -> Array:
    own = scores[np.arange(len(target)), target - 1][:, None]
    found: Array = (scores > own).sum(axis=1) + 0.5 * ((scores == own).sum(axis=1) - 1)
    return found


@pytest.fixture(scope="module")
def few(dataset: CrossDomainDataset) -> Rows:
    return one_a_user(dataset.splits["train"], 20)


@pytest.fixture(scope="module")
def overfitted(dataset: CrossDomainDataset, few: Rows, tiny: Parameters) -> C2DSR:
    training = tiny.training.model_copy(update={"epochs": 40, "learning_rate": 0.01})
    p = tiny.model_copy(update={"training": training})
    return C2DSR(dataset.catalogue, p).fit(
        few, few, params=p, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks()
    )


def test_fit_when_twenty_users_are_all_there_is(few: Rows, overfitted: C2DSR) -> None:
    assert len(set(few.user)) == 20 and set(few.domain) == {0, 1}
    every = np.broadcast_to(np.arange(1, 121, dtype=np.int32), (20, 120))
    popular = np.stack([overfitted.popularity[DOMAINS[d]][1:] for d in few.domain])
    assert (ranks(overfitted.score(few, every), few.target) < 10).mean() >= 0.95
    assert (ranks(popular, few.target) < 10).mean() < 0.7


def test_fit_when_padding_is_watched(overfitted: C2DSR) -> None:
    for name in (MERGED, *DOMAINS):
        table = overfitted.module.streams[name].items.weight
        assert not table[0].any() and table[1:].any(dim=1).all()


def test_load_when_the_graph_is_gone(overfitted: C2DSR, tmp_path: Path) -> None:
    overfitted.save(tmp_path)
    again = C2DSR.load(tmp_path)
    for name in (MERGED, *DOMAINS):
        assert len(overfitted.graphs[name].matrix.values) > 0
        assert torch.equal(again.frozen[name], overfitted.frozen[name])


def test_score_when_users_are_others(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    system = built(dataset.catalogue, dataset.splits["train"], tiny)
    asked = dataset.splits["test"]
    every = np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(asked), 120))
    known = replace(asked, user=np.resize(dataset.splits["train"].user, len(asked)))
    np.testing.assert_array_equal(system.score(asked, every), system.score(known, every))
