"""Pooling that goes before ReLU changes no bit of what an expert computes or learns, or it stays where it was."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedmoe.moe.construction import build_expert
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.pooling import pool_first, swappable

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


class Collecting(Convolutions):
    """An expert that keeps what comes after each ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4 * 12 * 12 + self.embedding_dim, 5)
        self.embedding_dim = self.head.in_features

    def embed(self, x_BCHW: Tensor) -> Tensor:
        first = self.body[1](self.body[0](x_BCHW))
        return torch.cat([first.flatten(1), self.body[2:](first)], dim=1)


class Sure(Convolutions):
    """An expert that looks at its layers."""

    def embed(self, x_BCHW: Tensor) -> Tensor:
        assert isinstance(self.body[1], nn.ReLU)
        return super().embed(x_BCHW)


class TakenApartInTraining(Convolutions):
    """An expert whose forward pass is another one in training."""

    def embed(self, x_BCHW: Tensor) -> Tensor:
        return super().embed(x_BCHW) + (self.body[:2](x_BCHW).mean() if self.training else 0)


@pytest.mark.parametrize("kind", [TakenApart, Collecting, Sure, TakenApartInTraining])
@pytest.mark.parametrize("training", [True, False])
def test_an_expert_that_takes_its_layers_apart_stays_as_it_is(kind: type[Convolutions], training: bool) -> None:
    expert = kind().train(training)
    x_BCHW = torch.randn(4, *SHAPE)
    before, state = expert(x_BCHW), torch.random.get_rng_state()
    assert not pool_first(expert, SHAPE)
    assert torch.equal(expert(x_BCHW), before)
    assert isinstance(expert.body[1], nn.ReLU)
    assert expert.training == training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dropout_is_drawn_as_before_and_moves_nobodys_stream() -> None:
    expert = Convolutions()
    expert.body.insert(3, nn.Dropout(0.5))
    state = torch.random.get_rng_state()
    assert pool_first(expert, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_layers_that_somebody_watches_or_made_stay_where_they_are() -> None:
    hooked, own = Convolutions(), Convolutions()
    for layer in hooked.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda module, inputs, output: None)
    own.body[1], own.body[3][1] = Watched(), Watched()
    assert not any(pool_first(expert, SHAPE) for expert in (hooked, own))
    assert not swappable(nn.ReLU(), nn.MaxPool2d(2, return_indices=True))
    assert not swappable(nn.ReLU(), nn.AvgPool2d(2))
    assert not swappable(nn.GELU(), nn.MaxPool2d(2))
    assert swappable(nn.ReLU(), nn.MaxPool2d(2))


def test_every_expert_is_built_so() -> None:
    expert = build_expert("cnn", ExpertSpec(in_shape=(1, 8, 8), num_classes=4), 0)
    kinds = [type(layer).__name__ for layer in expert.modules()]
    assert kinds.index("MaxPool2d") < kinds.index("ReLU")
