"""Updates -> sums -> averages: a node adds up its own clients' updates, the server adds up the nodes' sums.

Float addition is not associative, so in deterministic mode the sums are whole numbers: value x weight x 2**32, rounded
once per client. Such sums are the same in any order and for any split over nodes; an average is off by 1.2e-10 at most.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmoe.errors import RoundError
from fedmoe.federation.job import ClientUpdate
from fedmoe.federation.state import ServerState

__all__ = ["Sums", "diverged", "merge_sums", "sums_of_updates"]

SCALE = 2.0**32
LARGEST_TERM = 2.0**30  # of |value x weight|; more is treated as divergence
LARGEST_SUM = 2**62
LOOK = 2.0**61  # where a sum may have come so far, it is looked at; the bound is a float, and not exact at the limit
BLOCK = 16384  # values that are added at a time: they stay in the processor's cache, and scratch does not grow


def diverged(update: ClientUpdate) -> str | None:
    """Returns what makes the update unusable (a value that is not finite, or a huge one), or `None`."""
    for where, vector in (update.vectors() | dict(update.kept)).items():
        largest = _largest(vector)
        if largest * update.weight < LARGEST_TERM:
            continue
        name = where.replace("/", " ")
        if not math.isfinite(largest):
            return f"{name} holds NaN or infinite values; hint: lower the learning rate"
        return f"{name} has grown beyond {LARGEST_TERM:.0f} / weight {update.weight}; hint: lower the learning rate"
    return None


@dataclass
class Sums:
    """Weighted sums of updates, by name (`gate`, `expert/3`), with the sum of weights of each.

    Args:
        exact: whole-number sums (see above), or plain float64 ones in the order of `add`.
    """

    exact: bool
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._bounds: dict[str, float] = {}  # by name, of the sums that are ours to change: no value is larger
        self._scaled = np.empty(BLOCK, dtype=np.float64)
        self._whole = np.empty(BLOCK, dtype=np.int64)

    def add(self, update: ClientUpdate) -> None:
        """Adds one client's update, which must be free of NaN (see `diverged`)."""
        factor = update.weight * (SCALE if self.exact else 1.0)
        for name, vector in update.vectors().items():
            total = self._total(name, vector.size, update.weight)
            for first in range(0, vector.size, BLOCK):
                part = slice(first, first + BLOCK)
                self._add_term(total[part], vector[part], factor)
            if self.exact:
                self._check(name, _largest(vector) * factor + 1.0)

    def join(self, other: "Sums") -> None:
        """Adds another node's sums."""
        for name, array in other.arrays.items():
            total = self._total(name, array.size, other.weights[name])
            total += array
            if self.exact:
                self._check(name, _largest(array))

    def average(self, name: str) -> NDArray[np.float32]:
        """Returns the weighted average of what was added under `name`, float32."""
        scale = SCALE if self.exact else 1.0
        mean = self.arrays[name].astype(np.float64) / (self.weights[name] * scale)
        return mean.astype(np.float32)

    def _total(self, name: str, size: int, weight: int) -> NDArray[Any]:
        """Returns the sum under `name`, ready to be added to in place, with the weight counted."""
        if name not in self._bounds:
            given = self.arrays.get(name)
            # Nothing is -0.0 and not 0.0, which would change a -0.0 that is added to it.
            nothing = np.zeros(size, dtype=np.int64) if self.exact else np.full(size, -0.0)
            self.arrays[name] = nothing if given is None else given.copy()
            self._bounds[name] = 0.0 if given is None else _largest(given)
        self.weights[name] = self.weights.get(name, 0) + weight
        return self.arrays[name]

    def _add_term(self, total: NDArray[Any], values: NDArray[np.float32], factor: float) -> None:
        """Adds values x factor to a part of a sum; in exact mode rounded to whole numbers."""
        scaled = self._scaled[: values.size]
        np.copyto(scaled, values)
        scaled *= factor
        if not self.exact:
            total += scaled
            return
        whole = self._whole[: values.size]
        np.rint(scaled, out=scaled)
        np.copyto(whole, scaled, casting="unsafe")
        total += whole

    def _check(self, name: str, largest: float) -> None:
        """Refuses an exact sum that has left its range, by the largest value that has just been added to it."""
        self._bounds[name] += largest
        if self._bounds[name] >= LOOK:
            reached = _largest(self.arrays[name])
            if reached >= LARGEST_SUM:
                raise RoundError(f"the exact sum of {name} does not fit 64 bits; hint: set deterministic=false")
            self._bounds[name] = reached


def _largest(values: NDArray[Any]) -> float:
    """Returns the largest of all |values|; NaN where there is one, 0 for none. No copy is made for it."""
    return max(float(np.maximum.reduce(values)), -float(np.minimum.reduce(values))) if values.size else 0.0


def sums_of_updates(updates: Iterable[ClientUpdate], exact: bool) -> Sums:
    """Returns the sums of the updates, added in the order of client ids."""
    sums = Sums(exact)
    for update in sorted(updates, key=lambda item: item.client_id):
        sums.add(update)
    return sums


def merge_sums(state: ServerState, sums: Sums) -> ServerState:
    """Returns the state with every averaged part replaced; an expert that nobody held keeps its bytes.

    Averages are over holders only (arXiv 2306.08586, section 3: simple average of the returned copies).
    """
    experts = tuple(
        sums.average(f"expert/{i}") if sums.weights.get(f"expert/{i}", 0) > 0 else expert
        for i, expert in enumerate(state.experts)
    )
    gate = sums.average("gate") if sums.weights.get("gate", 0) > 0 else state.gate
    return replace(state, gate=gate, experts=experts)
