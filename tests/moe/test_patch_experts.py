"""Experts on patches against sums written out one by one, what they start from, and the sum that the gate reads."""

import pytest
import torch
from torch import Tensor

from fedmoe.moe.construction import build_expert
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.patch_expert import PatchExpert

SHAPE, CLASSES, PER_CLASS = (2, 3, 5), 3, 2
ACTIVATIONS = {"patch_cubic": lambda z: z**3, "patch_linear": lambda z: z}


def make(name: str, seed: int = 0, **arguments: object) -> Expert:
    spec = ExpertSpec(in_shape=SHAPE, num_classes=CLASSES, width=PER_CLASS, arguments=arguments)
    return build_expert(name, spec, seed)


def slowly(expert: PatchExpert, x_CHW: Tensor, activation: object) -> list[float]:
    """The reference: each class's filters on each patch, one after the other, in double precision."""
    weight, bias = expert.filters.weight.double(), expert.filters.bias.double()
    out = []
    for label in range(CLASSES):
        total = 0.0
        for j in range(PER_CLASS):
            for channel in x_CHW.double():
                for patch in channel:
                    row = label * PER_CLASS + j
                    total += ACTIVATIONS[activation](float((weight[row] * patch).sum() + bias[row]))  # type: ignore[index]
        out.append(total)
    return out


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_fresh_expert_is_the_papers_sum(name: str, seed: int) -> None:
    expert = make(name, seed, start=1.0)
    x_BCHW = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        wanted = torch.tensor([slowly(expert, x_CHW, name) for x_CHW in x_BCHW])  # type: ignore[arg-type]
        torch.testing.assert_close(expert(x_BCHW), wanted.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_filters_start_small_and_the_head_as_a_sum(name: str) -> None:
    small, large = make(name), make(name, start=1.0)
    assert isinstance(small, PatchExpert)
    assert isinstance(large, PatchExpert)
    torch.testing.assert_close(1000 * small.filters.weight, large.filters.weight)
    torch.testing.assert_close(1000 * small.filters.bias, large.filters.bias)
    assert 0.8 / 5**0.5 < float(large.filters.weight.detach().abs().max()) <= 1 / 5**0.5
    assert small.head.weight.tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    assert not small.head.bias.any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_fixed_head_takes_no_gradient(name: str) -> None:
    free, fixed = make(name), make(name, fixed_head=True)
    assert all(parameter.requires_grad for parameter in free.parameters())
    assert [label for label, parameter in fixed.named_parameters() if parameter.requires_grad] == [
        "filters.weight",
        "filters.bias",
    ]


@pytest.mark.parametrize("name", ["patch_cubic", "patch_linear", "patch_sum"])
def test_the_order_of_patches_tells_nothing(name: str) -> None:
    arguments = {} if name == "patch_sum" else {"start": 1.0}
    expert, stream = make(name, **arguments), torch.Generator().manual_seed(1)
    x_BCHW = torch.randn(4, *SHAPE, generator=stream)
    flat_BPD = x_BCHW.flatten(1, 2)
    mixed = flat_BPD[:, torch.randperm(6, generator=stream)].reshape(x_BCHW.shape)
    torch.testing.assert_close(expert(mixed), expert(x_BCHW), rtol=1e-4, atol=1e-5)


def test_the_sum_is_the_embedding_and_a_silent_expert_has_no_opinion() -> None:
    x_BCHW = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(2))
    wanted = torch.stack([sum(patch for channel in image for patch in channel) for image in x_BCHW])  # type: ignore[misc]
    torch.testing.assert_close(make("patch_sum").embed(x_BCHW), wanted)
    assert make("patch_sum")(x_BCHW).abs().sum() > 0
    assert not make("patch_sum", silent=True)(x_BCHW).any()
