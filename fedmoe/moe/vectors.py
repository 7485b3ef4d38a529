"""Modules as flat vectors: what travels, what is merged, what is checkpointed."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Vector", "load_vector", "to_vector", "vector_size"]

Vector = NDArray[np.float32]


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yields the tensors that make up the vector, in order: all parameters, then all floating-point buffers.

    BatchNorm's running mean and variance are such buffers, so they are merged like weights; its integer step counter
    is not, and stays at home.
    """
    yield from (parameter.data for parameter in module.parameters())
    yield from (buffer for buffer in module.buffers() if buffer.is_floating_point())


def vector_size(module: nn.Module) -> int:
    """Returns the number of float32 values in the module's vector."""
    return sum(tensor.numel() for tensor in tensors_of(module))


def to_vector(module: nn.Module) -> Vector:
    """Returns a copy of the module's state as one float32 array of shape (vector_size,)."""
    parts = [tensor.detach().reshape(-1).to(device="cpu", dtype=torch.float32) for tensor in tensors_of(module)]
    return torch.cat(parts).numpy().copy() if parts else np.zeros(0, dtype=np.float32)


@torch.no_grad()
def load_vector(module: nn.Module, vector: Vector) -> None:
    """Copies the vector into the module, in place.

    Raises:
        ValueError: the sizes differ.
    """
    if vector.shape != (vector_size(module),):
        raise ValueError(f"a vector of shape ({vector_size(module)},) was expected, got {vector.shape}")
    source, offset = torch.from_numpy(np.ascontiguousarray(vector)), 0
    for tensor in tensors_of(module):
        tensor.copy_(source[offset : offset + tensor.numel()].view_as(tensor))
        offset += tensor.numel()
