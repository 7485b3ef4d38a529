"""One client's optimiser, fresh for every client and round; the gate has its own rate and momentum."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedmoe.settings import TrainSettings

__all__ = ["carry_over", "make_optimiser"]


def make_optimiser(
    settings: TrainSettings,
    experts: Sequence[Sequence[Tensor]],
    gate: Sequence[Tensor],
    fused: Callable[[Tensor], bool] = lambda tensor: False,
    copies: int = 0,
    shrink: tuple[float, float] = (0.0, 0.0),
) -> torch.optim.Optimizer:
    """Returns the optimiser that the settings describe.

    All kinds work copy by copy, so that stacked copies of many clients are stepped as if each were alone.

    Args:
        settings: `optimiser`: SGD with momentum (Nesterov's where `nesterov` is set), AdamW (arXiv 1711.05101) with
            `momentum` as its first beta, or SGD with momentum on the experts' normalised gradients
            (`normalise`), which leaves the gate's as they are.
        experts: the trainable tensors of each expert; stacked experts are one here.
        gate: the gate's; no weight decay for them.
        fused: says which tensors are stepped in one pass over memory; their gradients must be contiguous.
        copies: how many axes in front of the tensors count copies; 2 (client, expert) where they are stacked.
        shrink: lambdas of the L1 penalty on the experts' and the gate's weights, whose proximal step follows every step
            (`soft_threshold`).
    """
    if not any(experts) and not gate:
        raise ValueError("a job must train something; hint: ClientJob.trains")
    of_experts = [tensor for own in experts for tensor in own]
    pairs = (
        (of_experts, settings.learning_rate, settings.momentum, settings.weight_decay),
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
    optimiser: torch.optim.Optimizer
    if settings.optimiser == "adamw":
        optimiser = torch.optim.AdamW(groups)
    else:
        optimiser = torch.optim.SGD(groups, lr=settings.learning_rate)
    if settings.optimiser == "normalised":
        for own in experts:
            optimiser.register_step_pre_hook(lambda *_, own=own: normalise(own, copies))
    penalties = (
        (of_experts, settings.learning_rate * shrink[0]),
        (list(gate), settings.gate_learning_rate * shrink[1]),
    )
    for tensors, by in penalties:
        if by > 0:
            optimiser.register_step_post_hook(lambda *_, tensors=tensors, by=by: soft_threshold(tensors, by, copies))
    return optimiser


@torch.no_grad()
def soft_threshold(tensors: Sequence[Tensor], by: float, copies: int = 0) -> None:
    """Moves weights by so much towards 0, in place; those that are nearer become 0.

    With `by` = rate x lambda that is the proximal step of lambda times the sum of absolute weights (Parikh and Boyd,
    Proximal Algorithms, section 6.5.2). Weights are tensors of two axes or more, copies not counted: no bias, no scale
    of a norm. One without a gradient has not been stepped, and stays as it is.

    Args:
        tensors: of one expert or gate, or of stacked copies.
        by: how far, above 0.
        copies: how many axes in front count copies.
    """
    for tensor in tensors:
        if tensor.dim() >= copies + 2 and tensor.grad is not None:
            tensor.copy_(torch.nn.functional.softshrink(tensor, by))


@torch.no_grad()
def normalise(tensors: Sequence[Tensor], copies: int = 0) -> None:
    """Divides the gradients of an expert's tensors by the sum of their norms, in place: its steps are of one length.

    So experts learn at one speed, however many samples fall to them (Chen et al., arXiv 2208.02813, section 6 and its
    code; one tensor alone is the paper's `G / |G|_F`). A gradient of 0 stays 0.

    Args:
        tensors: all of one expert, or of stacked copies of it.
        copies: how many axes in front count copies; each is normalised for itself.
    """
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    if not gradients:
        return
    rows = [own.reshape(*own.shape[:copies], -1) for own in gradients]
    length = torch.stack([torch.linalg.vector_norm(row, dim=-1) for row in rows]).sum(dim=0)
    length = torch.where(length > 0, length, 1)
    for own in gradients:
        own.div_(length.reshape(length.shape + (1,) * (own.dim() - copies)))


def carry_over(old: torch.optim.Optimizer, new: torch.optim.Optimizer, rows: int) -> None:
    """Gives the new optimiser, whose tensors are the old one's first `rows` rows, those rows of the momenta."""
    befores = [tensor for group in old.param_groups for tensor in group["params"]]
    afters = [tensor for group in new.param_groups for tensor in group["params"]]
    for before, after in zip(befores, afters, strict=True):
        new.state[after] = {
            name: value[:rows] if isinstance(value, Tensor) and value.dim() else value
            for name, value in old.state[before].items()
        }
