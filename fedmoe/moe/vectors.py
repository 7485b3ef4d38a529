"""Modules as flat vectors: what travels, what is merged, what is checkpointed."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Part", "Vector", "load_vector", "parts_of", "to_vector", "vector_size"]

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Where one tensor of a module lies in its vector.

    Attributes:
        name: as in `named_parameters` or `named_buffers`.
        shape: its shape.
        offset: its first value's place in the vector.
        trained: whether it is a parameter that takes a gradient.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    trained: bool

    @property
    def size(self) -> int:
        """Returns the number of its values."""
        return prod(self.shape)

    @property
    def is_weight(self) -> bool:
        """Returns whether it is trained and has two axes or more: no bias, no scale of a norm."""
        return self.trained and len(self.shape) > 1


def parts_of(module: nn.Module) -> tuple[Part, ...]:
    """Returns the parts of the module's vector, in order.

    >>> [(part.name, part.offset) for part in parts_of(nn.Linear(2, 3))]
    [('weight', 0), ('bias', 6)]
    """
    named: list[tuple[str, Tensor, bool]] = [
        (name, parameter, parameter.requires_grad) for name, parameter in module.named_parameters()
    ]
    named += [(name, buffer, False) for name, buffer in module.named_buffers() if buffer.is_floating_point()]
    parts, offset = [], 0
    for name, tensor, trained in named:
        parts.append(Part(name, tuple(tensor.shape), offset, trained))
        offset += tensor.numel()
    return tuple(parts)


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
