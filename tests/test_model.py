"""The model's wiring: which latents a row gets, and what may not change them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from i2vae_lib.data.batches import Side
from i2vae_lib.data.rows import Ragged
from i2vae_lib.model import encoders
from i2vae_lib.model.encoders import masked_mean
from i2vae_lib.model.i2vae import ROLES, I2VAENetwork, Latents, build, latent_name
from i2vae_lib.model.objective import build_objective
from i2vae_lib.parameter_groups import ModelParameters, ObjectiveParameters
from i2vae_lib.params import load

SIZES = {"x": 12, "y": 9}
SAME = {"x": 12, "y": 12}
BOTH, OWN, COLD, NEITHER = range(4)
OWN_LISTS = [[1, 2, 3], [4, 5], [], []]
OTHER_LISTS = [[6, 7], [], [8, 9, 2, 1], []]
PSEUDO_LISTS = [[1, 2, 3, 9, 8], [4, 5, 7], [3, 6], []]


def parameters(**changes: object) -> ModelParameters:
    small = {"d": 8, "T": 6, "T_pseudo": 9, "blocks": 2, "heads": 2, "cross_heads": 4}
    overrides = {f"model.{key}": value for key, value in (small | changes).items()}
    return load("paper", overrides | {"psg.recalled": 3}).model


def objective_parameters(**changes: object) -> ObjectiveParameters:
    return load("paper", {f"objective.{key}": value for key, value in changes.items()}).objective


def model_of(sizes: dict[str, int] = SIZES, seed: int = 0, **changes: object) -> I2VAENetwork:
    """A model whose every weight is random, biases, norms and priors included."""
    generator = torch.Generator().manual_seed(seed)
    model = build(parameters(**changes), sizes, generator)
    for name, weight in model.named_parameters():
        nn.init.normal_(weight, std=0.3, generator=generator)
        if name.startswith("items"):
            with torch.no_grad():
                weight[0] = 0.0
    return model


def left_padded(lists: list[list[int]]) -> torch.Tensor:
    return torch.from_numpy(Ragged.from_lists(lists).last(99)).long()


def side_of(own: list[list[int]], theirs: list[list[int]], pseudo: list[list[int]], shift: int = 0) -> Side:
    rows = len(own)
    return Side(
        own=left_padded(own),
        other=left_padded(theirs),
        pseudo=left_padded(pseudo),
        own_length=torch.tensor([len(one) for one in own]),
        target=1 + (torch.arange(rows) + shift) % 9,
        negatives=1 + (torch.arange(rows)[:, None] + torch.tensor([3, 5])) % 9,
        position=torch.arange(rows),
    )


def mixed() -> Side:
    """One row of each kind: own and other, own only, other only (cold), neither."""
    return side_of(OWN_LISTS, OTHER_LISTS, PSEUDO_LISTS)


def rows_of(side: Side, index: list[int]) -> Side:
    return Side(**{f.name: getattr(side, f.name)[index] for f in dataclasses.fields(side) if f.name != "part"})


def everything(model: I2VAENetwork, side: Side, domain: str) -> dict[str, torch.Tensor]:
    """What inference, drawing and decoding give, without noise."""
    latents = model.infer(side, domain)
    draws = model.draw(latents, None)
    found = {f"{role}/draw": getattr(draws, role) for role in ROLES}
    for role in ("transferable", "auxiliary"):
        gaussian = getattr(latents, role)
        found |= {f"{role}/mean": gaussian.mean, f"{role}/log_variance": gaussian.log_variance}
    for role in ("specific", "augmented"):  # placeholders where there is no own history
        own = latents.has_own[:, None]
        found[f"{role}/log_variance"] = getattr(latents, role).log_variance * own
    found["interest"] = model.decode(draws, domain)
    return found


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0.0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


def states(model: I2VAENetwork, encoder: nn.Module, domain: str, items: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([items])
    return encoder(model.items[domain](ids), ids != 0, None), ids != 0


@pytest.mark.parametrize("domain", ["x", "y"])
def test_latents_when_rows_of_all_kinds_mix(domain: str) -> None:
    """Which latents a row gets by its histories, row by row."""
    model, theirs = model_of(), {"x": "y", "y": "x"}[domain]
    latents = model.infer(mixed(), domain)
    assert latents.has_own.tolist() == [True, True, False, False]
    assert latents.has_other.tolist() == [True, False, True, False]
    q, r = latents.transferable, latents.auxiliary
    for part in ("mean", "log_variance"):
        assert torch.equal(getattr(q, part)[COLD], getattr(r, part)[COLD])
        assert torch.equal(getattr(q, part)[[OWN, NEITHER]], torch.zeros(2, 8))
        assert not torch.isclose(getattr(q, part)[BOTH], getattr(r, part)[BOTH]).any()
    for row in (BOTH, OWN):
        real = masked_mean(*states(model, model.real_encoder[domain], domain, OWN_LISTS[row]))
        pseudo = masked_mean(*states(model, model.pseudo_encoder[domain], domain, PSEUDO_LISTS[row]))
        for found, head, pooled in (
            (latents.specific, model.specific[domain], real),
            (latents.augmented, model.augmented[domain], pseudo),
        ):
            expected = head(pooled)
            torch.testing.assert_close(found.mean[[row]], expected.mean, rtol=0.0, atol=1e-5)
            torch.testing.assert_close(found.log_variance[[row]], expected.log_variance, rtol=0.0, atol=1e-5)
    for row in (BOTH, COLD):
        given = states(model, model.real_encoder[theirs], theirs, OTHER_LISTS[row])
        expected = model.auxiliary[domain](masked_mean(*given))
        torch.testing.assert_close(r.mean[[row]], expected.mean, rtol=0.0, atol=1e-5)
    own = states(model, model.real_encoder[domain], domain, OWN_LISTS[BOTH])
    given = states(model, model.real_encoder[theirs], theirs, OTHER_LISTS[BOTH])
    expected = model.transferable[domain](*own, *given)
    torch.testing.assert_close(q.mean[[BOTH]], expected.mean, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(q.log_variance[[BOTH]], expected.log_variance, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("seed", [None, 0])
def test_draws_when_rows_of_all_kinds_mix(seed: int | None) -> None:
    """Masked latents are 0, and without another history z_t is its prior's mean: in training as in evaluation."""
    model = model_of()
    latents = model.infer(mixed(), "x")
    z = model.draw(latents, None if seed is None else torch.Generator().manual_seed(seed))
    for drawn in (z.specific, z.augmented):
        assert torch.equal(drawn[[COLD, NEITHER]], torch.zeros(2, 8))
        assert (drawn[[BOTH, OWN]] != 0).all()
    assert torch.equal(z.transferable[[OWN, NEITHER]], torch.zeros(2, 8))
    assert (z.transferable[[BOTH, COLD]] != 0).all()
    noisy = [not torch.equal(getattr(z, role)[BOTH], getattr(latents, role).mean[BOTH]) for role in ROLES]
    assert noisy == [seed is not None] * 3


def test_draws_when_a_row_is_masked() -> None:
    model = model_of()
    side = rows_of(mixed(), [COLD, NEITHER])
    latents = model.infer(side, "x", torch.Generator().manual_seed(0))
    model.decode(model.draw(latents, torch.Generator().manual_seed(1)), "x").sum().backward()
    for module in (model.specific, model.augmented, model.transferable, model.pseudo_encoder):
        assert all(w.grad is None or not w.grad.any() for w in module.parameters())
    assert model.auxiliary["x"].mean[0].weight.grad.any()


def test_infer_when_no_row_has_a_history() -> None:
    model = model_of()
    found = everything(model, side_of([[], []], [[], []], [[], []]), "x")
    assert torch.equal(found["interest"][0], found["interest"][1])
    zero = torch.zeros(1, 8)
    torch.testing.assert_close(found["interest"][:1], model.decoder["x"](zero, zero, zero), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("domain", ["x", "y"])
def test_outputs_when_the_batch_is_wider(domain: str) -> None:
    model, side = model_of(), mixed()
    wide = dataclasses.replace(
        side, own=F.pad(side.own, (3, 0)), other=F.pad(side.other, (2, 0)), pseudo=F.pad(side.pseudo, (4, 0))
    )
    assert_same(everything(model, wide, domain), everything(model, side, domain), 1e-6)


@pytest.mark.parametrize("path", ["mlp", "residual"])
@pytest.mark.parametrize("kept", [[0], [1], [2], [3], [3, 0], [2, 1, 0]])
def test_outputs_when_the_batch_is_another(kept: list[int], path: str) -> None:
    model = model_of(path=path)
    whole = everything(model, mixed(), "x")
    part = everything(model, rows_of(mixed(), kept), "x")
    assert_same(part, {name: value[kept] for name, value in whole.items()}, 1e-5)


def test_outputs_when_pseudo_items_of_a_cold_row_change() -> None:
    """Where the own history is empty, z_a is masked, whatever was recalled."""
    model, side = model_of(), mixed()
    changed = side.pseudo.clone()
    changed[COLD] = 5
    found = everything(model, dataclasses.replace(side, pseudo=changed), "x")
    assert_same(found, everything(model, side, "x"), 1e-6)


def tied(model: I2VAENetwork) -> I2VAENetwork:
    """X's modules in Y's place as well."""
    for modules in model.children():
        modules["y"].load_state_dict(modules["x"].state_dict())
    return model


def exchanged(model: I2VAENetwork) -> I2VAENetwork:
    """The same weights with the domains' keys exchanged."""
    found = model_of(SAME)
    for name, modules in model.named_children():
        for domain, opposite in (("x", "y"), ("y", "x")):
            getattr(found, name)[domain].load_state_dict(modules[opposite].state_dict())
    return found


def two_sides() -> tuple[Side, Side]:
    return mixed(), side_of([[9, 8], [], [3]], [[1], [12, 11], [10, 5, 6]], [[9, 8, 1], [2], [3, 7]], shift=4)


def assert_same_bits(a: Latents, b: Latents) -> None:
    for role in (*ROLES, "auxiliary"):
        assert torch.equal(getattr(a, role).mean, getattr(b, role).mean)
        assert torch.equal(getattr(a, role).log_variance, getattr(b, role).log_variance)


@pytest.mark.parametrize("how", ["tied", "exchanged"])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("reconstruction", ["bce", "softmax"])
def test_model_when_domains_are_swapped(how: str, seed: int | None, reconstruction: str) -> None:
    """Symmetric by construction: outputs and parts swap, the total stays, to the bit."""
    model = tied(model_of(SAME)) if how == "tied" else model_of(SAME)
    mirror = model if how == "tied" else exchanged(model)
    first, second = two_sides()
    names = [(latent_name(role, "x"), latent_name(role, "y")) for role in ROLES]
    for side, domain, opposite in ((first, "x", "y"), (second, "y", "x")):
        latents, reflected = model.infer(side, domain), mirror.infer(side, opposite)
        assert_same_bits(latents, reflected)
        interest = model.decode(model.draw(latents, None), domain)
        assert torch.equal(interest, mirror.decode(mirror.draw(reflected, None), opposite))
        found = model.score_all(interest, domain, side)
        assert torch.equal(found, mirror.score_all(interest, opposite, side))
    objective = build_objective(objective_parameters(reconstruction=reconstruction, kl_weight=0.7), 6)
    noise = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
    loss, parts = objective(model, {"x": first, "y": second}, 0, noise[0])
    swapped_loss, swapped_parts = objective(mirror, {"y": first, "x": second}, 0, noise[1])
    assert torch.equal(loss, swapped_loss)
    pairs = [(f"kl/{x}", f"kl/{y}") for x, y in names]
    pairs += [(n, n.replace("/x", "/y")) for n in parts if n.endswith("/x") and not n.startswith("kl")]
    assert len(pairs) == 8
    for x, y in pairs:
        assert torch.equal(parts[x], swapped_parts[y])
        assert torch.equal(parts[y], swapped_parts[x])


def test_latent_name_when_target_is_either_domain() -> None:
    assert [latent_name(role, "x") for role in ROLES] == ["x", "t_y", "a_x"]
    assert [latent_name(role, "y") for role in ROLES] == ["y", "t_x", "a_y"]


@torch.no_grad()
def test_score_when_compared_with_a_loop() -> None:
    model = model_of()
    interest = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    items = torch.tensor([[1, 9, 4], [9, 0, 2]])
    scores = model.score(interest, "y", items, mixed())
    table = model.items["y"].weight
    for row in range(2):
        for column in range(3):
            expected = sum(float(interest[row, i] * table[items[row, column], i]) for i in range(8))
            assert float(scores[row, column]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert float(scores[1, 1]) == 0.0  # padding


@pytest.mark.parametrize("domain", ["x", "y"])
def test_score_all_when_compared_with_score(domain: str) -> None:
    model = model_of()
    interest = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    everyone = torch.arange(1, SIZES[domain] + 1).expand(4, -1)
    found = model.score_all(interest, domain, mixed())
    assert found.shape == (4, SIZES[domain])
    torch.testing.assert_close(found, model.score(interest, domain, everyone, mixed()), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "head", "crossed", "encoder", "decoder"),
    [
        (
            "mlp",
            encoders.GaussianHead,
            encoders.CrossDomainPosterior,
            encoders.SequenceEncoder,
            encoders.Decoder,
        ),
        (
            "residual",
            encoders.ResidualHead,
            encoders.ResidualCrossDomainPosterior,
            encoders.ResidualSequenceEncoder,
            encoders.ResidualDecoder,
        ),
    ],
)
def test_build_when_path_is(path: str, head: type, crossed: type, encoder: type, decoder: type) -> None:
    model = model_of(path=path)
    for domain in ("x", "y"):
        assert {type(part[domain]) for part in (model.specific, model.augmented, model.auxiliary)} == {head}
        assert type(model.transferable[domain]) is crossed
        assert type(model.real_encoder[domain]) is type(model.pseudo_encoder[domain]) is encoder
        assert type(model.decoder[domain]) is decoder


def test_residual_path_when_untrained() -> None:
    """The interest starts as the sum of three means of item vectors: own, other, pseudo; of a cold row: other."""
    model, side = build(parameters(path="residual"), SIZES, torch.Generator().manual_seed(0)), mixed()
    latents = model.infer(side, "x")
    interest = model.decode(model.draw(latents, None), "x")

    def mean(domain: str, ids: torch.Tensor) -> torch.Tensor:
        vectors = model.items[domain].weight[ids[ids != 0]]
        return vectors.mean(dim=0) * 8**0.5 if len(vectors) else torch.zeros(8)

    for row in range(4):
        parts = [mean("y", side.other[row])]
        if (side.own[row] != 0).any():
            parts += [mean("x", side.own[row]), mean("x", side.pseudo[row])]
        torch.testing.assert_close(interest[row], sum(parts), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(latents.transferable.mean[2], latents.auxiliary.mean[2])


def test_build_when_prior_is_shared_or_not() -> None:
    shared, separate = model_of(shared_prior=True), model_of(shared_prior=False)
    assert shared.augmented_prior is shared.prior
    names = {name for name, _ in separate.named_parameters()} - {name for name, _ in shared.named_parameters()}
    assert names == {f"augmented_prior.{d}.{part}" for d in "xy" for part in ("mean", "log_variance")}
    assert not torch.equal(separate.prior["x"].mean, separate.augmented_prior["x"].mean)


@pytest.mark.parametrize("causal", [True, False])
def test_build_when_causal_is(causal: bool) -> None:
    model = model_of(causal=causal)
    assert [model.real_encoder[d].causal for d in "xy"] == [causal, causal]
    assert [model.pseudo_encoder[d].causal for d in "xy"] == [False, False]


def test_build_when_seed_repeats() -> None:
    first, again, differing = (build(parameters(), SIZES, torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    for name, weight in first.named_parameters():
        assert torch.equal(weight, again.get_parameter(name))
    changed = {n for n, w in first.named_parameters() if not torch.equal(w, differing.get_parameter(n))}
    constant = {n for n, w in first.named_parameters() if n.endswith("bias") or "norm" in n or n.startswith("prior")}
    assert changed == {n for n, _ in first.named_parameters()} - constant


def test_build_when_weights_are_fresh() -> None:
    model = build(parameters(d=64, initial_log_variance=-3.0), {"x": 500, "y": 400}, torch.Generator().manual_seed(0))
    table = model.items["x"].weight.detach()
    assert torch.equal(table[0], torch.zeros(64))
    assert float(table[1:].std()) == pytest.approx(64**-0.5, rel=0.01)
    latents = model.infer(mixed(), "x")
    for q, row in ((latents.specific, OWN), (latents.augmented, BOTH), (latents.auxiliary, COLD)):
        assert float(q.log_variance[row].detach().mean()) == pytest.approx(-3.0, abs=0.03)


def test_items_when_padding_is_looked_up() -> None:
    """Row 0 of the item tables never learns."""
    model = model_of()
    latents = model.infer(mixed(), "x", torch.Generator().manual_seed(0))
    model.decode(model.draw(latents, None), "x").square().sum().backward()
    for domain in ("x", "y"):
        gradient = model.items[domain].weight.grad
        assert not gradient[0].any()
        assert gradient[1:].any()
