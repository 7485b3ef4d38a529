"""Shared memory for the arrays of one message at a time, between a node and its workers: written once, never copied."""

import math
import mmap
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Slab", "Table"]

ALIGNMENT = 64  # bytes: a line of the processor's cache

Table = Sequence[tuple[str, str, tuple[int, ...], int]]
"""Name, type, shape and first byte of each array in a slab."""


class Slab:
    """Memory that a process and those forked from it share; it grows with what is written, and goes with them.

    Raises:
        OSError: the system has no memory left, or none to share (it is Linux's `memfd_create`).
    """

    def __init__(self) -> None:
        self.file = os.memfd_create("fedmoe")
        self._closing = weakref.finalize(self, os.close, self.file)
        os.posix_fallocate(self.file, 0, mmap.PAGESIZE)
        self.memory = mmap.mmap(self.file, mmap.PAGESIZE)

    def write(self, arrays: Mapping[str, NDArray[Any]]) -> Table:
        """Copies the arrays into the slab, over what was there; returns what `read` must be told to find them."""
        table, end = [], 0
        for name, array in arrays.items():
            table.append((name, array.dtype.str, array.shape, end))
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if end > os.fstat(self.file).st_size:
            os.posix_fallocate(self.file, 0, end)  # here it fails if memory is short; later it would kill
        for name, place in self.read(table).items():
            np.copyto(place, arrays[name])
        return table

    def read(self, table: Table) -> dict[str, NDArray[Any]]:
        """Returns the arrays of the table, as views: what is written next changes them."""
        size = os.fstat(self.file).st_size
        if len(self.memory) < size:  # views of the old mapping keep it until they go
            self.memory = mmap.mmap(self.file, size)
        return {
            name: np.frombuffer(self.memory, dtype=dtype, count=math.prod(shape), offset=first).reshape(shape)
            for name, dtype, shape, first in table
        }

    def close(self) -> None:
        """Gives the memory back, as soon as neither this object nor a view of it is left."""
        self._closing()
