"""Pi-Net: the filter's closed forms, empty histories, clipped gradients; and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.rows import DOMAINS, Ragged, Rows, other, popularity
from i2vae_lib.model.encoders import initialise
from i2vae_lib.params import Parameters, load
from i2vae_lib.recommenders import PiNet
from i2vae_lib.recommenders.contract import gather
from i2vae_lib.recommenders.systems.pinet import Filter, Recurrent, Sessions, clipped
from i2vae_lib.training import Callbacks
from tests.helpers.worlds import TINY


@pytest.fixture(scope="module")
def model(dataset: CrossDomainDataset, tiny: Parameters) -> PiNet:
    """Untrained. Its gradients are each test's own: they are thrown away before use."""
    found = PiNet(dataset.catalogue, tiny)
    found.module = found.build(torch.Generator().manual_seed(3)).to(found.device)
    found.popularity = popularity(dataset.splits["train"])
    return found


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def everything(rows: Rows) -> np.ndarray:
    return np.broadcast_to(np.arange(1, 121, dtype=np.int32), (len(rows), 120))


def unit(d: int = 6, members: int = 3) -> Filter:
    found = Filter(d, members, 0.0)
    initialise(found, noise(5))
    return found


# --- cells ------------------------------------------------------------------------------------------------------------


def test_recurrent_when_nothing_is_dropped() -> None:
    # the steps of training are the cell that scores
    vectors = torch.randn(4, 7, 6, generator=noise())
    cell = Recurrent(6, 1e-9)  # a rate that rounds to nothing, but takes the way of training
    initialise(cell, noise(1))
    torch.testing.assert_close(cell(vectors, noise()), cell(vectors, None), rtol=1e-5, atol=1e-6)
    assert cell(vectors, None).shape == (4, 8, 6) and (cell(vectors, None)[:, 0] == 0).all()


def test_recurrent_when_its_state_is_dropped() -> None:
    cell = Recurrent(200, 0.5)
    initialise(cell, noise(1))
    states = cell(torch.randn(8, 3, 200, generator=noise()), noise(2))
    assert (states[:, 1:] == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)


@torch.no_grad()
def test_filter_when_compared_with_a_slow_one() -> None:
    found, d = unit(), 6
    b, c = torch.randn(2, 4, d, generator=noise(1)), torch.randn(2, 4, d, generator=noise(2))
    states = found(b, c, None)
    for row in range(2):
        s = torch.zeros(d)
        for j in range(4):
            parts = []
            for e in found.members.weight:
                f = torch.sigmoid(found.gate(torch.cat([b[row, j], c[row, j], s])) + found.gate_member(e))
                g = torch.tanh(found.candidate(torch.cat([b[row, j], s])) + found.candidate_member(e))
                parts.append(f * s + (1 - f) * g)
            s = torch.stack(parts).mean(dim=0)
            torch.testing.assert_close(states[row, j], s, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_filter_when_its_gate_is_forced() -> None:
    found, d = unit(members=1), 6
    b, c = torch.randn(2, 3, d, generator=noise(1)), torch.randn(2, 3, d, generator=noise(2))
    found.gate.bias.fill_(100.0)  # keeps the state, which is 0
    assert (found(b, c, None) == 0).all()
    found.gate.bias.fill_(-100.0)  # takes the candidate
    s = torch.zeros(2, d)
    for j in range(3):
        member = found.candidate_member(found.members.weight[0])
        s = torch.tanh(found.candidate(torch.cat([b[:, j], s], dim=1)) + member)
        torch.testing.assert_close(found(b, c, None)[:, j], s, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_filter_when_members_are_permuted() -> None:
    found = unit()
    b, c = torch.randn(2, 4, 6, generator=noise(1)), torch.randn(2, 4, 6, generator=noise(2))
    before = found(b, c, None)
    found.members.weight.copy_(found.members.weight[[2, 0, 1]].clone())
    torch.testing.assert_close(found(b, c, None), before, rtol=1e-5, atol=1e-6)
    found.members.weight[0] += 1.0
    assert (found(b, c, None) - before).abs().max() > 1e-3


# --- rows -------------------------------------------------------------------------------------------------------------


def sessions(own: list[list[int]], others: list[list[int]]) -> Sessions:
    padded = []
    for part in (own, others):
        width = max(1, *map(len, part))
        padded.append(torch.tensor([one + [0] * (width - len(one)) for one in part]))
    pointers = torch.where(padded[1] > 0, (padded[0] > 0).sum(dim=1, keepdim=True), 0)
    return Sessions(*padded, pointers, torch.ones(len(own), dtype=torch.int64))


@torch.no_grad()
def test_interest_when_a_history_is_empty(model: PiNet, tiny: Parameters) -> None:
    d = tiny.model.d
    found = model.interest(sessions([[], [4, 5], []], [[7, 8], [], []]), "x", None)
    assert torch.isfinite(found).all()
    assert (found[0, d:] == 0).all() and (found[0, :d] != 0).all()  # [t; 0]
    assert (found[1, :d] == 0).all() and (found[1, d:] != 0).all()  # [0; a_m]
    assert (found[2] == 0).all()


@torch.no_grad()
def test_interest_when_other_rows_are_longer(model: PiNet) -> None:
    together = model.interest(sessions([[1, 2], [3, 4, 5, 6, 7]], [[9], [8, 7, 6, 5]]), "y", None)
    torch.testing.assert_close(model.interest(sessions([[1, 2]], [[9]]), "y", None)[0], together[0])


@torch.no_grad()
def test_interest_when_own_items_come_later(model: PiNet, tiny: Parameters) -> None:
    # a transfer state sees no own item beyond the pointer of its last step
    before, after = sessions([[1, 2, 3]], [[9, 8]]), sessions([[1, 2, 50]], [[9, 8]])
    d = tiny.model.d
    for until, same in ((2, True), (3, False)):
        parts = [replace(one, pointers=torch.tensor([[1, until]])) for one in (before, after)]
        a, b = (model.interest(one, "x", None)[0, :d] for one in parts)
        assert torch.equal(a, b) == same


@torch.no_grad()
def test_states_when_a_later_item_changes(model: PiNet) -> None:
    a, b = (model.module["x"].states(torch.tensor([[4, 8, last]]), None) for last in (15, 16))
    assert torch.equal(a[:, :3], b[:, :3]) and not torch.equal(a, b)


def test_sessions_when_histories_are_long(model: PiNet, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    length = tiny.model.T
    rows = dataset.splits["test"].take(np.arange(2))
    long = {d: Ragged.from_lists([np.arange(1, 31), [5]]) for d in DOMAINS}
    rows = replace(rows, history=long, domain=np.zeros(2, dtype=np.int8))
    found = model.sessions(rows, "x", np.array([False, True]))
    assert found.own[0].tolist() == list(range(31 - length, 31)) and found.own[1].sum() == 0
    assert (found.pointers[0] == length).all() and found.pointers[1].sum() == 0
    assert found.other[1].tolist() == [5] + [0] * (length - 1)
    shorter = {"x": Ragged.from_lists([[3, 4], [6]]), "y": Ragged.from_lists([[7], [8, 9, 1]])}
    found = model.sessions(replace(rows, history=shorter), "x")
    assert found.pointers.tolist() == [[2, 0, 0], [1, 1, 1]]  # all of the own history, each


# --- training ---------------------------------------------------------------------------------------------------------


def gradients(model: PiNet, batch: dict[str, Sessions]) -> dict[str, torch.Tensor | None]:
    for one in model.module.parameters():
        one.grad = None
    model.loss(batch, 0, noise())[0].backward()  # type: ignore[no-untyped-call]
    return {name: one.grad for name, one in model.module.named_parameters()}


def test_loss_when_rows_ask_for_one_domain(model: PiNet) -> None:
    found = gradients(model, {"y": sessions([[1, 2], [3]], [[4], [5, 6]])})
    # of X only what encodes Y's other histories
    touched = {name for name, one in found.items() if one is not None and one.abs().sum() > 0}
    assert {name for name in touched if name.startswith("x.")} == {
        name for name in found if name.startswith(("x.items", "x.encoder"))
    }
    # V_s (unused in the released code), and the own states' block of W_f
    assert "y.filter.candidate_member.weight" in touched and "y.output.weight" in touched
    gate, d = found["y.filter.gate.weight"], model.params.model.d
    assert gate is not None and gate[:, d : 2 * d].abs().sum() > 0


def test_loss_when_both_domains_meet(model: PiNet) -> None:
    batch = {"x": sessions([[1]], [[2]]), "y": sessions([[1, 2], [3], []], [[4], [5, 6], [7]])}
    still = {d: model.loss({d: one}, 0, noise())[1][f"reconstruction/{d}"] for d, one in batch.items()}
    assert all(4.0 < one.item() < 6.0 for one in still.values())  # log 120 = 4.79
    value, parts = model.loss(batch, 0, noise())
    expected = (parts["reconstruction/x"].item() + 3 * parts["reconstruction/y"].item()) / 4
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)


def test_clipped_when_gradients_are_large() -> None:
    linear = torch.nn.Linear(2, 1, bias=False)
    hooks = clipped(linear, 5.0)
    x = torch.tensor([[3.0, -30.0]])
    (linear(x) + linear(x)).sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.tolist() == [[5.0, -5.0]]  # of the sum of both uses, not of each
    for hook in hooks:
        hook.remove()
    linear.weight.grad = None
    linear(x).sum().backward()
    assert linear.weight.grad.tolist() == [[3.0, -30.0]]


def test_stages_when_a_share_is_blanked(dataset: CrossDomainDataset, tiny: Parameters) -> None:
    train = dataset.splits["train"]
    found = PiNet(dataset.catalogue, tiny)
    found.module = found.build(noise())
    stage = next(found.stages(train))
    batches = [one for batch in stage.batches(np.random.default_rng(0)) for one in batch.values()]
    assert sum(len(one.target) for one in batches) == len(train) == stage.rows
    without = sum(int((one.own.sum(dim=1) == 0).sum()) for one in batches)
    nothing = sum(int(((one.own.sum(dim=1) + one.other.sum(dim=1)) == 0).sum()) for one in batches)
    before = train.lengths("own") == 0
    both = int((~before & (train.lengths("other") > 0)).sum())
    assert without - int(before.sum()) == pytest.approx(tiny.pinet.blank_share * both, rel=0.35)
    assert nothing == int(train.kinds()["no_history"].sum())  # no row is left with nothing


# --- the system -------------------------------------------------------------------------------------------------------


def test_score_when_rows_are_cold(model: PiNet, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    cold = rows.take(rows.kinds()["cold"])
    for d in DOMAINS:
        asked = cold.take(cold.of(d))
        scores = model.score(asked, everything(asked))
        assert np.isfinite(scores).all() and (scores.std(axis=0) > 1e-5).all()  # the other history tells


def test_score_when_the_order_changes(model: PiNet, dataset: CrossDomainDataset) -> None:
    rows = dataset.splits["test"]
    rows = rows.take((rows.lengths("own") > 1) & (rows.lengths("other") > 1))
    for side in ("own", "other"):
        histories = dict(rows.history)
        for d in DOMAINS:
            whose = d if side == "own" else other(d)
            asked = rows.domain == DOMAINS.index(d)
            lists = [histories[whose][i][::-1] if asked[i] else histories[whose][i] for i in range(len(rows))]
            histories[whose] = Ragged.from_lists(lists)
        turned = model.score(replace(rows, history=histories), everything(rows))
        assert (np.abs(turned - model.score(rows, everything(rows))).max(axis=1) > 1e-5).mean() > 0.95


def test_score_when_other_items_are_cut_off(model: PiNet, dataset: CrossDomainDataset, tiny: Parameters) -> None:
    # what lies before the last T of the other history has no way through filter and transfer; the T-th from the end has
    rows, length = dataset.splits["test"].take(np.zeros(3, dtype=np.int64)), tiny.model.T
    asked = DOMAINS[int(rows.domain[0])]
    lists = [list(range(1, length + 4)) for _ in range(3)]
    lists[1][:3] = [70, 80, 90]
    lists[2][3] = 70
    histories = {asked: Ragged.from_lists([[5, 6]] * 3), other(asked): Ragged.from_lists(lists)}
    scores = model.score(replace(rows, history=histories), everything(rows))
    np.testing.assert_array_equal(scores[1], scores[0])
    assert np.abs(scores[2] - scores[0]).max() > 1e-5


def test_fit_when_there_are_twenty_users(dataset: CrossDomainDataset) -> None:
    p = load("smoke", TINY | {"training.learning_rate": 1e-2, "training.batch_size": 10}, epochs=40)
    train = dataset.splits["train"]
    rows = train.take(np.flatnonzero((train.lengths("own") > 0) & (train.lengths("other") > 0))[:20])
    found = PiNet(dataset.catalogue, p)
    found.fit(rows, rows, params=p, generator=None, rng=np.random.default_rng(0), callbacks=Callbacks())
    hits = {}
    for name, scores in (
        ("pinet", found.score(rows, everything(rows))),
        ("popularity", gather(popularity(rows), rows, everything(rows))),
    ):
        aim = scores[np.arange(len(rows)), rows.target - 1]
        hits[name] = float(((scores >= aim[:, None]).sum(axis=1) <= 10).mean())  # a tie counts against
    assert hits["pinet"] >= 0.9 and hits["pinet"] > hits["popularity"] + 0.4
    assert all(not one._backward_hooks for one in found.module.parameters())  # clipping ends with the training
