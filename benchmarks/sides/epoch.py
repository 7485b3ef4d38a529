"""One epoch of SGD in plain torch, for the peers that bring no training loop of their own."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = ["flat", "one_epoch", "shuffled"]


def shuffled(count: int, batch_size: int) -> tuple[Tensor, ...]:
    """Returns the row numbers of each batch, in a new order each time."""
    return torch.split(torch.randperm(count), batch_size)


def one_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    *,
    layout: torch.memory_format = torch.contiguous_format,
    bf16: bool = False,
) -> float:
    """Trains in place on all samples once, in a new order; returns the mean of the batches' losses.

    Args:
        network: inputs -> logits.
        optimiser: of its parameters.
        x: inputs.
        y: labels.
        batch_size: samples a step.
        layout: memory layout of a batch of images.
        bf16: autocast to bfloat16.
    """
    losses = []
    for rows in shuffled(len(y), batch_size):
        batch = x[rows].contiguous(memory_format=layout) if x.dim() == 4 else x[rows]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = cross_entropy(network(batch), y[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def flat(tensors: Iterable[Tensor]) -> NDArray[np.float32]:
    """Returns a copy of the tensors as one flat array."""
    values: NDArray[np.float32] = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors]).numpy()
    return values.copy()
