"""One client's optimiser, fresh for every client and round; the gate has its own rate and momentum."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedmoe.settings import TrainSettings

__all__ = ["carry_over", "make_optimiser"]


def make_optimiser(
    settings: TrainSettings,
    experts: Sequence[Tensor],
    gate: Sequence[Tensor],
    fused: Callable[[Tensor], bool] = lambda tensor: False,
) -> torch.optim.Optimizer:
    """Returns the optimiser that the settings describe.

    Both kinds work value by value, so that stacked copies of many clients are stepped as if each were alone.

    Args:
        settings: `optimiser`: SGD with momentum (Nesterov's where `nesterov` is set), or AdamW (arXiv 1711.05101) with
            `momentum` as its first beta.
        experts: the experts' trainable tensors.
        gate: the gate's; no weight decay for them.
        fused: says which tensors are stepped in one pass over memory; their gradients must be contiguous.
    """
    if not experts and not gate:
        raise ValueError("a job must train something; hint: ClientJob.trains")
    pairs = (
        (experts, settings.learning_rate, settings.momentum, settings.weight_decay),
        (gate, settings.gate_learning_rate, settings.gate_momentum, 0.0),
    )
    groups = [
        {"params": params, "lr": rate, "weight_decay": decay, "fused": in_one_pass}
        | ({"betas": (momentum, 0.999)} if settings.optimiser == "adamw" else {"momentum": momentum})
        | ({} if settings.optimiser == "adamw" else {"nesterov": settings.nesterov and momentum > 0})
        for tensors, rate, momentum, decay in pairs
        for in_one_pass in (False, True)
        if (params := [tensor for tensor in tensors if fused(tensor) == in_one_pass])
    ]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, lr=settings.learning_rate)


def carry_over(old: torch.optim.Optimizer, new: torch.optim.Optimizer, rows: int) -> None:
    """Gives the new optimiser, whose tensors are the old one's first `rows` rows, those rows of the momenta."""
    befores = [tensor for group in old.param_groups for tensor in group["params"]]
    afters = [tensor for group in new.param_groups for tensor in group["params"]]
    for before, after in zip(befores, afters, strict=True):
        new.state[after] = {
            name: value[:rows] if isinstance(value, Tensor) and value.dim() else value
            for name, value in old.state[before].items()
        }
