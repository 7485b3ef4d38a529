"""A network trained on pictures in one place, without a federation: what experiments with single experts need.

Shapes: N samples, B samples of a batch, C classes; pictures are N x channels x height x width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmoe.data.contracts import Loader, LoadRequest
from fedmoe.moe.expert import ExpertSpec
from fedmoe.references import load_plugin
from fedmoe.seeding import torch_stream

__all__ = ["Recipe", "Task", "fit", "num_parameters", "score", "seeded", "task_of"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Task:
    """Pictures and labels, normalised by the training pictures' mean and standard deviation.

    Attributes:
        x_NCHW: training pictures.
        y_N: their labels.
        test_x_NCHW: test pictures.
        test_y_N: their labels.
        spec: what an expert for it is built from; its width is the default.
    """

    x_NCHW: Tensor
    y_N: Tensor
    test_x_NCHW: Tensor
    test_y_N: Tensor
    spec: ExpertSpec


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: Adam, its rate falling to 0 along a cosine; the same batches for the same seed."""

    epochs: int
    batch: int = 64
    rate: float = 0.003


@cache
def task_of(name: str, most: int = 0, most_tests: int = 0) -> Task:
    """Returns the task of one of the house's data sets.

    Args:
        name: `digits`, `fashion_mnist`, ...
        most: training samples, the first ones; 0: all.
        most_tests: test samples, likewise.

    Raises:
        DataMissingError: its files are nowhere.
    """
    load = cast(Loader, load_plugin("data set", "fedmoe.data.datasets", name))
    data = load(LoadRequest(root=None, seed=0, download_timeout=20.0))
    x_NCHW, y_N = torch.from_numpy(data.x_NCHW.copy()).float(), torch.from_numpy(data.y_N.copy())
    train = slice(0, min(most, data.num_train) if most else data.num_train)
    test = slice(data.num_train, data.num_train + most_tests if most_tests else None)
    mean, deviation = x_NCHW[train].mean(), x_NCHW[train].std()
    channels, height, width = x_NCHW.shape[1:]
    return Task(
        (x_NCHW[train] - mean) / deviation,
        y_N[train],
        (x_NCHW[test] - mean) / deviation,
        y_N[test],
        ExpertSpec(in_shape=(channels, height, width), num_classes=len(data.class_names)),
    )


def seeded(make: Callable[[], ModuleT], seed: int) -> ModuleT:
    """Returns what `make` makes with torch's global generator seeded; afterwards that is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def fit(model: nn.Module, task: Task, recipe: Recipe, seed: int) -> None:
    """Trains the model, in place; a last batch that is not full is left out."""
    stream, count = torch_stream(seed, "batches"), len(task.y_N)
    steps = recipe.epochs * (count // recipe.batch)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for _ in range(recipe.epochs):
        order_N = torch.randperm(count, generator=stream)
        for ids_B in torch.split(order_N[: count - count % recipe.batch], recipe.batch):
            optimiser.zero_grad()
            loss = cross_entropy(model(task.x_NCHW[ids_B]), task.y_N[ids_B])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


@torch.no_grad()
def score(model: nn.Module, task: Task) -> dict[str, float]:
    """Returns accuracy (percent) and cross-entropy (nats) on the test pictures."""
    model.eval()
    logits_NC = torch.cat([model(part) for part in torch.split(task.test_x_NCHW, 500)])
    right_N = logits_NC.argmax(dim=1) == task.test_y_N
    return {
        "accuracy": 100 * float(right_N.double().mean()),
        "loss": float(cross_entropy(logits_NC, task.test_y_N)),
    }


def num_parameters(model: nn.Module) -> int:
    """Returns how many numbers of the model are trained."""
    return sum(parameter.numel() for parameter in model.parameters())
