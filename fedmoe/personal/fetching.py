"""What a client fetches of a trained method: each part once, when it is needed, with its bytes and seconds."""

import time
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from fedmoe.errors import RunFolderError
from fedmoe.federation.heads import HEADS, KEYS, head_for
from fedmoe.moe.vectors import Vector
from fedmoe.personal.trained import Trained

__all__ = ["Fetching"]


class Fetching:
    """One client's downloads, read out of the checkpoint array by array.

    Attributes:
        bytes: what has been read: `gate`, `experts`.
        seconds: that it took.
        experts: those that are here, by id.
    """

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.bytes = {"gate": 0, "experts": 0}
        self.seconds = 0.0
        self.experts: dict[int, Vector] = {}

    def gate(self, known: int, mean_D: NDArray[np.float32]) -> Vector:
        """Returns the gate's vector, or, where there are heads, that of one of them.

        Args:
            known: the client's own head; -1: not known.
            mean_D: the mean of its embeddings, to find the nearest.
        """
        size, heads = self.trained.ledger.gate_size, self.trained.part(f"extra/{HEADS}")
        if heads not in self.trained.checkpoint.shapes:
            return self._read("gate", "gate", size)
        extras = {name: self.trained.checkpoint.read(self.trained.part(f"extra/{name}")) for name in (HEADS, KEYS)}
        return self._checked(heads, "gate", extras[HEADS][head_for(extras, known, mean_D)], size)

    def fetch_experts(self, wanted: Collection[int]) -> None:
        """Gets those of the experts that are not here yet."""
        for expert_id in wanted:
            if expert_id not in self.experts:
                size = self.trained.ledger.expert_size
                self.experts[expert_id] = self._read(f"expert/{expert_id}", "experts", size)

    def _read(self, part: str, kind: str, size: int) -> Vector:
        started = time.perf_counter()
        name = self.trained.part(part)
        vector: NDArray[np.float32] = self.trained.checkpoint.read(name).astype(np.float32, copy=False)
        self.seconds += time.perf_counter() - started
        return self._checked(name, kind, vector, size)

    def _checked(self, name: str, kind: str, vector: NDArray[np.float32], size: int) -> Vector:
        self.bytes[kind] += vector.nbytes
        if vector.shape != (size,) or not np.isfinite(vector).all():
            raise RunFolderError(
                f"'{name}' in '{self.trained.checkpoint.path}' must be {size} finite values, got shape {vector.shape}"
                f"{'' if np.isfinite(vector).all() else ' with values that are not finite'}; hint: a damaged "
                "checkpoint may be removed, there is an older one beside it"
            )
        return vector
