"""Each low-rank expert has a frozen body of its own: moving one moves no other."""

import torch

from fedmoe.moe.construction import build_expert
from fedmoe.moe.expert import ExpertSpec


def test_moving_one_expert_moves_no_other() -> None:
    plain = ExpertSpec(in_shape=(1, 4, 4), num_classes=3, width=5)
    common = build_expert("mlp", plain, 0)
    spec = ExpertSpec(in_shape=(1, 4, 4), num_classes=3, width=5, common=common)
    one, two = (build_expert("low_rank", spec, seed) for seed in (1, 2))
    x_BCHW = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    before = two(x_BCHW)
    assert one.double()(x_BCHW.double()).dtype == torch.float64
    assert torch.equal(two(x_BCHW), before)
    assert common(x_BCHW).dtype == torch.float32
    assert all(parameter.requires_grad for parameter in common.parameters())
