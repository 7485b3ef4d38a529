"""The router on images: made hard, one held expert answers and the gradient is the softmax's."""

import pytest
import torch

from fedmoe.moe.construction import build_gate
from fedmoe.moe.gate import Gate, GateSpec

SHAPE, POOL = (2, 6, 6), 5


def router(seed: int, hard: bool) -> Gate:
    spec = GateSpec(in_features=72, num_experts=POOL, hidden=1, in_shape=SHAPE, arguments={"hard": hard})
    return build_gate("conv_router", spec, seed)


@pytest.mark.parametrize("held", [(3, 0, 4), (2,)])
@pytest.mark.parametrize("seed", range(3))
def test_a_hard_router_weighs_as_one_and_learns_as_a_soft_one(seed: int, held: tuple[int, ...]) -> None:
    images_BD = torch.randn(20, 72, generator=torch.Generator().manual_seed(seed))
    factors_BK = torch.randn(20, len(held), generator=torch.Generator().manual_seed(seed + 9))
    weights, gradients = {}, {}
    for hard in (False, True):
        gate = router(seed, hard)
        weights[hard] = gate.weigh(gate.scores(images_BD), torch.tensor(held))
        gradients[hard] = torch.autograd.grad((weights[hard] * factors_BK).sum(), list(gate.parameters()))
    assert torch.equal(weights[True].argmax(dim=1), weights[False].argmax(dim=1))
    assert torch.equal(weights[True].sort(dim=1).values[:, -1], torch.ones(20))
    assert torch.equal(weights[True].count_nonzero(dim=1), torch.ones(20, dtype=torch.int64))
    for soft, hard in zip(gradients[False], gradients[True], strict=True):
        assert torch.equal(soft, hard)
