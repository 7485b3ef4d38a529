"""Updates -> sums -> averages: a node adds up its own clients' updates, the server adds up the nodes' sums.

Float addition is not associative, so in deterministic mode the sums are whole numbers: value x weight x 2**32, rounded
once per client. Such sums are the same in any order and for any split over nodes; an average is off by 1.2e-10 at most.
"""

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


def diverged(update: ClientUpdate) -> str | None:
    """Returns what makes the update unusable (a value that is not finite, or a huge one), or `None`."""
    parts = dict(update.experts) | ({} if update.gate is None else {-1: update.gate})
    for index, vector in parts.items():
        name = "gate" if index < 0 else f"expert {index}"
        if not np.isfinite(vector).all():
            return f"{name} holds NaN or infinite values; hint: lower the learning rate"
        if vector.size and float(np.abs(vector).max()) * update.weight >= LARGEST_TERM:
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

    def add(self, update: ClientUpdate) -> None:
        """Adds one client's update, which must be free of NaN (see `diverged`)."""
        for name, vector in update.vectors().items():
            self._add(name, self._term(vector, update.weight), update.weight)

    def join(self, other: "Sums") -> None:
        """Adds another node's sums."""
        for name, array in other.arrays.items():
            self._add(name, array, other.weights[name])

    def average(self, name: str) -> NDArray[np.float32]:
        """Returns the weighted average of what was added under `name`, float32."""
        scale = SCALE if self.exact else 1.0
        mean = self.arrays[name].astype(np.float64) / (self.weights[name] * scale)
        return mean.astype(np.float32)

    def _term(self, vector: NDArray[np.float32], weight: int) -> NDArray[Any]:
        if self.exact:
            return np.rint(vector.astype(np.float64) * (weight * SCALE)).astype(np.int64)
        return vector.astype(np.float64) * weight

    def _add(self, name: str, term: NDArray[Any], weight: int) -> None:
        if name in self.arrays:
            total = self.arrays[name] + term
            if self.exact and total.size and int(np.abs(total).max()) >= LARGEST_SUM:
                raise RoundError(f"the exact sum of {name} does not fit 64 bits; hint: set deterministic=false")
            self.arrays[name] = total
            self.weights[name] += weight
        else:
            self.arrays[name] = term
            self.weights[name] = weight


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
