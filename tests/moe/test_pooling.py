"""Pooling that goes before ReLU changes no bit of what an expert computes or learns, or it stays where it was."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedmoe.moe.construction import build_expert
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.pooling import pool_first

SHAPE = (3, 12, 12)


class Convolutions(Expert):
    """Convolutions as a user would write them."""

    def __init__(self, padding: int = 0, norm: bool = False) -> None:
        super().__init__()
        self.embedding_dim = 6 * (3 if padding == 0 else 4) ** 2
        middle = [nn.BatchNorm2d(4)] if norm else []
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            *middle,
            nn.ReLU(),
            nn.MaxPool2d(2, padding=padding),
            nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2, padding=padding)),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.embedding_dim, 5)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.body(x_BCHW)
        return out


class TakenApart(Convolutions):
    """An expert that counts on the place of its layers."""

    def embed(self, x_BCHW: Tensor) -> Tensor:
        return super().embed(x_BCHW) + self.body[:2](x_BCHW).mean()


class Watched(nn.ReLU):
    """A layer of somebody's own."""


def trained(expert: Expert, seed: int, channels_last: bool, steps: int = 6) -> list[Tensor]:
    stream = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    expert = expert.to(memory_format=layout).train()
    sgd = torch.optim.SGD(expert.parameters(), 0.1, momentum=0.9)
    for _ in range(steps):
        x_BCHW = torch.randn(8, *SHAPE, generator=stream).round(decimals=0).contiguous(memory_format=layout)  # ties
        loss = nn.functional.cross_entropy(expert(x_BCHW), torch.randint(5, (8,), generator=stream))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return [*expert.parameters(), *expert.buffers()]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_it_trains_to_the_same_bits(seed: int, padding: int, norm: bool, channels_last: bool) -> None:
    torch.manual_seed(seed)
    plain = Convolutions(padding, norm)
    swapped = copy.deepcopy(plain)
    assert pool_first(swapped, SHAPE)
    kinds = [type(layer).__name__ for layer in swapped.modules()]
    assert kinds.index("MaxPool2d") < kinds.index("ReLU")
    assert [name for name, _ in swapped.named_parameters()] == [name for name, _ in plain.named_parameters()]
    pairs = zip(trained(plain, seed, channels_last), trained(swapped, seed, channels_last), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_an_expert_that_takes_its_layers_apart_stays_as_it_is() -> None:
    expert = TakenApart()
    x_BCHW = torch.randn(4, *SHAPE)
    before = expert(x_BCHW)
    assert not pool_first(expert, SHAPE)
    assert torch.equal(expert(x_BCHW), before)
    assert isinstance(expert.body[1], nn.ReLU)
    assert expert.training


def test_layers_that_somebody_watches_or_made_stay_where_they_are() -> None:
    hooked, own, indices = Convolutions(), Convolutions(), Convolutions()
    for layer in hooked.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda module, inputs, output: None)
    own.body[1], own.body[3][1] = Watched(), Watched()
    indices.body = nn.Sequential(nn.ReLU(), nn.AvgPool2d(2))
    assert not any(pool_first(expert, SHAPE) for expert in (hooked, own))
    indices.embed = lambda x_BCHW: indices.body(x_BCHW).flatten(1)[:, : indices.embedding_dim]  # type: ignore[method-assign]
    assert not pool_first(indices, SHAPE)


def test_every_expert_is_built_so() -> None:
    expert = build_expert("cnn", ExpertSpec(in_shape=(1, 8, 8), num_classes=4), 0)
    kinds = [type(layer).__name__ for layer in expert.modules()]
    assert kinds.index("MaxPool2d") < kinds.index("ReLU")
