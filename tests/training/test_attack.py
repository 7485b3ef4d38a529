"""Attacks: within eps and the pixels' range, upwards, the same under vmap; and TRADES' term built on them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from fedmoe.federation.job import Term
from fedmoe.moe.construction import build_expert, build_gate
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.gate import GateSpec
from fedmoe.training.attack import Attack, Span, nudge, soft_sign
from fedmoe.training.objective import Batch, LocalModel, load_objective
from tests.small import small_settings

SPAN = Span(torch.tensor([-1.0, -2.0]).view(2, 1, 1), torch.tensor([1.5, 2.0]).view(2, 1, 1))
UNIT = SPAN.high_C11 - SPAN.low_C11
SHAPE, CLASSES, POOL, BATCH = (2, 4, 4), 5, 4, 9


def images(seed: int, size: int = BATCH) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return SPAN.low_C11 + UNIT * torch.rand(size, *SHAPE, generator=stream)


def local_model(held: tuple[int, ...] = (2, 0), seed: int = 0, gate: str = "conv_router") -> LocalModel:
    spec = ExpertSpec(in_shape=SHAPE, num_classes=CLASSES, width=3)
    experts = [build_expert("cnn", spec, 10 * seed + i) for i in held]
    module = build_gate(gate, GateSpec(in_features=32, num_experts=POOL, hidden=5, in_shape=SHAPE), seed)
    return LocalModel(
        experts=lambda x_BCHW: torch.stack([expert(x_BCHW) for expert in experts]),
        gate=module,
        expert_ids_K=torch.tensor(held),
        num_experts=POOL,
        trained=[p for part in [*experts, module] for p in part.parameters()],
        start=list,
        log_prior_C=None,
        span=SPAN,
    )


def batch(seed: int = 0) -> Batch:
    x_BCHW = images(seed)
    return Batch(x_BCHW, torch.arange(BATCH) % CLASSES, x_BCHW.flatten(1))


def figures(seed: int) -> list:
    model, data = local_model(seed=seed), batch(seed)
    weight = images(seed + 50, 1)
    return [lambda x: (x * weight).sum(), lambda x: -model.logits_KBC(x)[:, range(len(x)), data.y_B[: len(x)]].sum()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("attack", [Attack(0.1, 0.03, 10), Attack(0.5, 0.5, 3), Attack(0.01, 0.01, 1)])
def test_an_attack_stays_near_and_makes_the_figure_greater(seed: int, attack: Attack) -> None:
    x_BCHW = images(seed)
    for figure in figures(seed):
        moved = attack.on(figure, x_BCHW, SPAN, torch.zeros(SHAPE))
        assert ((moved - x_BCHW).abs() <= attack.eps * UNIT + 1e-6).all()
        assert (moved >= SPAN.low_C11).all()
        assert (moved <= SPAN.high_C11).all()
        assert not moved.requires_grad
        assert float(figure(moved).detach()) > float(figure(x_BCHW).detach())


@pytest.mark.parametrize("seed", range(3))
def test_of_a_linear_figure_every_pixel_goes_as_far_as_it_may(seed: int) -> None:
    x_BCHW, weight = images(seed), images(seed + 9)
    weight = weight + 0.1 * weight.sign()
    moved = Attack(0.2, 0.07, 3).on(lambda x: (x * weight).sum(), x_BCHW, SPAN, torch.zeros(SHAPE))
    wanted = (x_BCHW + 0.2 * UNIT * weight.sign()).clamp(SPAN.low_C11, SPAN.high_C11)
    torch.testing.assert_close(moved, wanted)


def test_the_sign_is_soft_where_there_is_hardly_a_gradient_alone() -> None:
    gradient = torch.tensor([[5.0, -2.0, 1e-4, 0.0]]).view(1, 1, 2, 2)
    found = soft_sign(gradient).flatten()
    assert found[:2].tolist() == [1.0, -1.0]
    assert 0 < float(found[2]) < 0.1
    assert float(found[3]) == 0
    assert torch.equal(soft_sign(torch.zeros(2, 1, 2, 2)), torch.zeros(2, 1, 2, 2))


@pytest.mark.parametrize("seed", range(3))
def test_one_sample_is_attacked_alike_whoever_stands_beside_it(seed: int) -> None:
    x_BCHW, attack = images(seed), Attack(0.1, 0.05, 4)
    model = local_model(seed=seed)

    def figure(x: Tensor) -> Tensor:
        return model.logits_KBC(x).logsumexp(2).sum()

    whole = attack.on(figure, x_BCHW, SPAN, nudge(x_BCHW))
    alone = torch.cat([attack.on(figure, one[None], SPAN, nudge(x_BCHW)) for one in x_BCHW])
    torch.testing.assert_close(whole, alone)


def test_many_clients_are_attacked_at_once_as_each_is_alone() -> None:
    x_NBCHW = torch.stack([images(seed) for seed in range(4)])
    weights = torch.stack([images(seed + 7, 1) for seed in range(4)])
    attack = Attack(0.1, 0.04, 3)

    def attacked(x: Tensor, weight: Tensor) -> Tensor:
        return attack.on(lambda at: (at * weight).sin().sum(), x, SPAN, nudge(x))

    mapped = torch.func.vmap(attacked)(x_NBCHW, weights)
    torch.testing.assert_close(mapped, torch.stack([attacked(*own) for own in zip(x_NBCHW, weights, strict=True)]))


def test_the_start_is_within_one_eps_and_irregular() -> None:
    start = nudge(images(0))
    assert start.shape == SHAPE
    assert float(start.abs().max()) <= 1
    assert float(start.std()) > 0.5
    assert abs(float(np.corrcoef(start.flatten()[:-1], start.flatten()[1:])[0, 1])) < 0.4


@pytest.mark.parametrize("wrong", [(-0.1, 0.1, 1), (1.5, 0.1, 1), (0.1, 2.0, 1), (0.1, 0.1, -1)])
def test_an_attack_out_of_range_is_refused(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match=r"shares in \[0, 1\].*hint"):
        Attack(*wrong)


def test_embeddings_cannot_be_attacked() -> None:
    with pytest.raises(ValueError, match=r"moves pixels.*hint"):
        Attack(0.1, 0.1, 1).on(torch.sum, images(0), None, torch.zeros(SHAPE))


# ---- TRADES --------------------------------------------------------------------------------------


def by_hand(model: LocalModel, data: Batch, attack: Attack, beta: float, routing: float, aims: int = 2) -> Tensor:
    """TRADES' term in plain torch: loops, `autograd.grad`, `kl_div`."""
    assert model.gate is not None

    def at(x: Tensor) -> tuple[Tensor, Tensor]:
        scores = model.gate.scores(x.flatten(1))  # type: ignore[union-attr]
        weights = torch.softmax(scores[:, model.expert_ids_K], dim=1)
        outputs = torch.softmax(model.logits_KBC(x), dim=2)
        return torch.einsum("bk,kbc->bc", weights, outputs).log(), torch.log_softmax(scores, dim=1)

    clean = at(data.x_BCHW)
    x = data.x_BCHW + attack.eps * UNIT * nudge(data.x_BCHW)
    least, most = data.x_BCHW - attack.eps * UNIT, data.x_BCHW + attack.eps * UNIT
    x = x.clamp(SPAN.low_C11, SPAN.high_C11)
    for _ in range(attack.steps):
        x = x.detach().requires_grad_()
        pairs = list(zip(clean, at(x), strict=True))[:aims]
        apart = sum(kl_div(q, p.detach(), log_target=True, reduction="sum") for p, q in pairs)
        (gradient,) = torch.autograd.grad(apart, x)
        x = x + attack.step * UNIT * soft_sign(gradient)
        x = torch.minimum(torch.maximum(x, least), most).clamp(SPAN.low_C11, SPAN.high_C11)
    parts = zip((beta, routing), clean, at(x.detach()), strict=True)
    return sum(w * kl_div(q, p, log_target=True, reduction="batchmean") for w, p, q in parts)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("beta", "routing", "aim"), [(6.0, 0.0, "both"), (0.0, 2.0, "both"), (3.0, 1.5, "both"), (3.0, 1.5, "output")]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_term_and_its_gradient_are_those_by_hand(seed: int, beta: float, routing: float, aim: str) -> None:
    model, data, attack = local_model(seed=seed), batch(seed), Attack(0.1, 0.06, 2)
    arguments = {"eps": 0.1, "step": 0.06, "steps": 2, "beta": beta, "routing": routing, "aim": aim}
    found = load_objective([Term("trades", arguments)])(model, data)
    wanted = by_hand(model, data, attack, beta, routing, {"both": 2, "output": 1}[aim])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    for one, other in zip(
        *(torch.autograd.grad(t, model.trained, allow_unused=True) for t in (found, wanted)), strict=True
    ):
        if other is None:
            assert one is None or not one.any()
        else:
            torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_without_an_attack_there_is_nothing_to_answer_for(seed: int) -> None:
    term = Term("trades", {"eps": 0.0, "step": 0.0, "routing": 4.0})
    assert abs(float(load_objective([term])(local_model(seed=seed), batch(seed)).detach())) < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_a_gate_on_embeddings_keeps_its_routing_and_one_on_images_does_not(seed: int) -> None:
    term = Term("trades", {"eps": 0.3, "step": 0.2, "beta": 0.0, "routing": 1.0})
    image, data = local_model(seed=seed), batch(seed)
    assert float(load_objective([term])(image, data).detach()) > 1e-5
    other = local_model(seed=seed, gate="mlp")
    assert float(load_objective([term])(other, data).detach()) == 0


def test_an_attack_on_neither_is_refused() -> None:
    with pytest.raises(ValueError, match=r"aims at one of both, output, got 'gate'; hint"):
        load_objective([Term("trades", {"aim": "gate"})])


def test_what_was_augmented_is_what_is_attacked() -> None:
    data = batch(0)
    lots = torch.rand(BATCH, 3)
    drawn = replace(data, gate_BD=torch.cat([data.gate_BD, lots], dim=1))
    shifted = data.x_BCHW.flip(3)
    assert torch.equal(drawn.gate_input(shifted, "image"), torch.cat([shifted.flatten(1), lots], dim=1))
    assert torch.equal(drawn.gate_input(shifted, "embedding"), drawn.gate_BD)


def test_settings_ask_for_no_attack() -> None:
    assert small_settings().evaluate.attack_eps == 0
