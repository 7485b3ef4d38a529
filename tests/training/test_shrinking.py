"""The proximal step of an L1 penalty: coordinate by coordinate, and towards the lasso's minimum."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmoe.federation.job import ClientJob
from fedmoe.settings import TrainSettings
from fedmoe.training.optimiser import make_optimiser

SHAPES = ((4, 3), (3,), (), (2, 3, 3))
RATE, GATE_RATE, STRENGTH = 0.25, 0.5, (0.8, 0.6)


def tensors(seed: int, front: tuple[int, ...] = ()) -> list[Tensor]:
    stream = torch.Generator().manual_seed(seed)
    made = [torch.randn((*front, *shape), generator=stream).requires_grad_() for shape in SHAPES]
    for tensor in made:
        tensor.grad = torch.randn(tensor.shape, generator=stream)
    return made


def settings(kind: str) -> TrainSettings:
    return TrainSettings(
        optimiser=kind, learning_rate=RATE, gate_learning_rate=GATE_RATE, momentum=0.9, gate_momentum=0.5
    )


@pytest.mark.parametrize("copies", [0, 2])
@pytest.mark.parametrize("kind", ["sgd", "adamw", "normalised"])
@pytest.mark.parametrize("seed", range(3))
def test_weights_end_where_the_optimiser_leads_and_then_move_towards_zero(seed: int, kind: str, copies: int) -> None:
    front = (3, 2)[:copies]
    own, plain = ((tensors(seed, front), tensors(seed + 9, front)) for _ in range(2))
    for (experts, gate), shrink in ((own, STRENGTH), (plain, (0.0, 0.0))):
        optimiser = make_optimiser(settings(kind), [experts], gate, copies=copies, shrink=shrink)
        optimiser.step()
    zeros = 0
    for shrunk, stepped, rate in zip(
        (*own[0], *own[1]),
        (*plain[0], *plain[1]),
        [RATE * STRENGTH[0]] * 4 + [GATE_RATE * STRENGTH[1]] * 4,
        strict=True,
    ):
        by = rate if stepped.dim() - copies >= 2 else 0.0
        old = stepped.detach().numpy()
        slowly = np.where(old > by, old - by, np.where(old < -by, old + by, 0.0)) if by else old
        np.testing.assert_allclose(shrunk.detach().numpy(), slowly, atol=1e-7)
        zeros += int((shrunk == 0).sum())
    assert zeros > 3, "zeros must be exact"


def test_repeated_steps_reach_the_lasso_whose_optimality_conditions_hold() -> None:
    rng = np.random.default_rng(0)
    x_NP, strength = torch.from_numpy(rng.standard_normal((40, 12))).float(), 0.3
    y_N = x_NP[:, :2].sum(dim=1) + 0.1 * torch.from_numpy(rng.standard_normal(40)).float()
    weight = torch.zeros(1, 12, requires_grad=True)
    plain = TrainSettings(learning_rate=0.1, momentum=0.0)
    optimiser = make_optimiser(plain, [[weight]], [], shrink=(strength, 0.0))
    for _ in range(600):
        optimiser.zero_grad()
        (0.5 * (x_NP @ weight[0] - y_N) ** 2).mean().backward()
        optimiser.step()
    assert weight.grad is not None
    gradient, found = weight.grad[0], weight.detach()[0]
    assert 2 <= int((found != 0).sum()) < 8
    torch.testing.assert_close(gradient[found != 0], -strength * found[found != 0].sign(), atol=1e-4, rtol=0)
    assert bool((gradient[found == 0].abs() <= strength + 1e-4).all())


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shrink must be at least 0, got 0\.0 and -1"):
        ClientJob(client_id=0, round_num=1, experts=(0,), objective=(), gate=False, shrink_gate=-1)
