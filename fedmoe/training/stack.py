"""Copies of one module for many clients: every tensor of it once, with an axis of copies in front.

Shapes: N clients of a stack, A <= N those still at work, K copies a client (experts; 1 for the gate), P values of the
module's vector.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedmoe.moe.vectors import Vector, parts_of, vector_size

__all__ = ["Stack", "pool_of"]


class Stack:
    """Resident buffers for N x K copies of `module`, filled in place from vectors and read out as vectors.

    Args:
        module: gives names and shapes; its own values are not used.
        width: N.
        copies: K.
        device: where the buffers lie.
    """

    def __init__(self, module: nn.Module, width: int, copies: int, device: torch.device) -> None:
        self.module = module
        self.parts = parts_of(module)
        self.width, self.copies = width, copies
        self.tensors = {part.name: torch.empty((width, copies, *part.shape), device=device) for part in self.parts}

    @torch.no_grad()
    def fill(self, pool: Mapping[str, Tensor], rows_NK: Tensor) -> None:
        """Copies rows of the pool into the first N rows of the buffers.

        Args:
            pool: as `pool_of` gives it.
            rows_NK: which row of the pool each copy starts from.
        """
        count = rows_NK.numel()
        for part in self.parts:
            source = pool[part.name].reshape(len(pool[part.name]), -1)
            target = self.tensors[part.name][: len(rows_NK)].view(count, part.size)
            torch.index_select(source, 0, rows_NK.reshape(-1), out=target)

    @torch.no_grad()
    def set(self, vectors: Sequence[Vector]) -> None:
        """Copies vectors into the first rows of the buffers: one a copy, row after row."""
        for name, rows in pool_of(self.module, vectors, next(iter(self.tensors.values())).device).items():
            count = len(vectors) // self.copies
            self.tensors[name][:count] = rows.view(count, self.copies, *rows.shape[1:])

    def trained(self, rows: int, names: Collection[str]) -> dict[str, Tensor]:
        """Returns the first `rows` rows of the tensors of these names, as leaves that share the buffers' memory."""
        return {p.name: self.tensors[p.name][:rows].detach().requires_grad_() for p in self.parts if p.name in names}

    def fixed(self, rows: int, trained: Collection[str]) -> dict[str, Tensor]:
        """Returns the first `rows` rows of all others: frozen parameters, and buffers, which a pass may change."""
        return {p.name: self.tensors[p.name][:rows] for p in self.parts if p.name not in trained}

    @torch.no_grad()
    def vectors(self, first: int, last: int) -> Tensor:
        """Returns a copy of the rows first .. last-1 as vectors on the CPU, shape (last - first, K, P)."""
        flat = [self.tensors[part.name][first:last].reshape(last - first, self.copies, -1) for part in self.parts]
        if not flat:
            return torch.zeros(last - first, self.copies, 0)
        return torch.cat(flat, dim=2).cpu()


def pool_of(module: nn.Module, vectors: Sequence[Vector], device: torch.device) -> dict[str, Tensor]:
    """Returns vectors as tensors by name, on the device, one row a vector.

    Raises:
        ValueError: a vector is not of the module's size.
    """
    size = vector_size(module)
    wrong = [vector.shape for vector in vectors if vector.shape != (size,)]
    if wrong:
        raise ValueError(f"a vector of shape ({size},) was expected, got {wrong[0]}")
    rows_MP = torch.from_numpy(np.stack(vectors)).to(device)
    return {
        part.name: rows_MP[:, part.offset : part.offset + part.size].reshape(-1, *part.shape)
        for part in parts_of(module)
    }
