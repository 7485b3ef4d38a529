"""Normalised gradients: each expert's step is of one length, whatever its gradient, alone or in a stack."""

import pytest
import torch
from torch import Tensor

from fedmoe.settings import TrainSettings
from fedmoe.training.optimiser import make_optimiser, normalise

SHAPES = ((4, 3), (3,), ())
RATE = 0.25


def tensors(seed: int, scale: float = 1.0, front: tuple[int, ...] = ()) -> list[Tensor]:
    stream = torch.Generator().manual_seed(seed)
    made = [torch.randn((*front, *shape), generator=stream).requires_grad_() for shape in SHAPES]
    for tensor in made:
        tensor.grad = scale * torch.randn(tensor.shape, generator=stream)
    return made


def slowly(gradients: list[Tensor]) -> list[Tensor]:
    """The reference: each divided by the sum of their norms, each norm a root of a sum of squares."""
    total = sum(float((gradient.double() ** 2).sum() ** 0.5) for gradient in gradients)
    return [gradient / total for gradient in gradients]


def settings(**changes: object) -> TrainSettings:
    return TrainSettings(optimiser="normalised", learning_rate=RATE, momentum=0.0, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_an_experts_step_has_one_length_however_large_its_gradient(seed: int, scale: float) -> None:
    experts = [tensors(10 * seed, scale), tensors(10 * seed + 1, 7 * scale)]
    gate = [torch.zeros(5, requires_grad=True)]
    gate[0].grad = torch.full((5,), scale)
    before = [[tensor.detach().clone() for tensor in own] for own in experts]
    wanted = [slowly([tensor.grad for tensor in own if tensor.grad is not None]) for own in experts]
    make_optimiser(settings(gate_learning_rate=2.0, gate_momentum=0.0), experts, gate).step()
    for own, start, steps in zip(experts, before, wanted, strict=True):
        moved = [old - tensor.detach() for old, tensor in zip(start, own, strict=True)]
        for move, step in zip(moved, steps, strict=True):
            torch.testing.assert_close(move, RATE * step, rtol=1e-4, atol=1e-6)
        assert sum(float(move.norm()) for move in moved) == pytest.approx(RATE, rel=1e-4)
    torch.testing.assert_close(gate[0].detach(), torch.full((5,), -2 * scale))


@pytest.mark.parametrize("seed", range(3))
def test_each_copy_in_a_stack_is_normalised_as_if_alone(seed: int) -> None:
    stacked = tensors(seed, front=(3, 2))
    with torch.no_grad():
        for tensor in stacked:  # one client's second expert got no sample
            assert tensor.grad is not None
            tensor.grad[1, 1] = 0
    alone = {
        (client, copy): slowly([tensor.grad[client, copy].clone() for tensor in stacked if tensor.grad is not None])
        for client in range(3)
        for copy in range(2)
        if (client, copy) != (1, 1)
    }
    normalise(stacked, copies=2)
    for (client, copy), wanted in alone.items():
        for tensor, step in zip(stacked, wanted, strict=True):
            assert tensor.grad is not None
            torch.testing.assert_close(tensor.grad[client, copy], step)
    assert all((tensor.grad[1, 1] == 0).all() for tensor in stacked if tensor.grad is not None)


def test_momentum_adds_up_normalised_gradients_and_weight_decay_comes_on_top() -> None:
    own = tensors(0)
    ruled = TrainSettings(optimiser="normalised", learning_rate=RATE, momentum=0.5, weight_decay=0.1)
    optimiser = make_optimiser(ruled, [own], [])
    velocity = [torch.zeros_like(tensor) for tensor in own]
    weights = [tensor.detach().clone() for tensor in own]
    for step in range(4):
        for tensor in own:
            tensor.grad = torch.full_like(tensor, 1.0 + step)
        gradients = slowly([torch.full_like(tensor, 1.0 + step) for tensor in weights])
        optimiser.step()
        for i, gradient in enumerate(gradients):
            velocity[i] = 0.5 * velocity[i] + gradient + 0.1 * weights[i]
            weights[i] = weights[i] - RATE * velocity[i]
    for tensor, weight in zip(own, weights, strict=True):
        torch.testing.assert_close(tensor.detach(), weight)


def test_plain_sgd_leaves_gradients_as_they_are() -> None:
    own = tensors(0, 9.0)
    kept = [tensor.grad.clone() for tensor in own if tensor.grad is not None]
    make_optimiser(TrainSettings(optimiser="sgd"), [own], []).step()
    assert all(
        torch.equal(tensor.grad, grad) for tensor, grad in zip(own, kept, strict=True) if tensor.grad is not None
    )


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="must train something"):
        make_optimiser(settings(), [[], []], [])
