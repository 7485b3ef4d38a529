"""Server optimisers: what a round's average changes is taken for a gradient; each expert, and the gate, has its own.

A part that nobody held in a round is not stepped: neither its values nor its momenta change.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmoe.errors import SettingsError
from fedmoe.federation.state import ServerState
from fedmoe.settings import Settings

__all__ = ["Adam", "Momentum", "ServerOptimiser", "no_batch_norm", "stepped"]

Values = NDArray[np.float64]
Kept = dict[str, NDArray[Any]]


class ServerOptimiser(Protocol):
    """How a part moves by the change that a round's average would make."""

    def step(self, change: Values, kept: Mapping[str, NDArray[Any]]) -> tuple[Values, Kept]:
        """Returns by how much the part moves, and what is kept of it; `kept` is what the last step kept, or {}."""
        ...


@dataclass(frozen=True)
class Momentum:
    """FedAvgM (Hsu et al., arXiv 1909.06335, section 4.2): `v <- momentum v + change`, the part moves by `rate v`."""

    rate: float
    momentum: float

    def step(self, change: Values, kept: Mapping[str, NDArray[Any]]) -> tuple[Values, Kept]:
        """Returns the step and the velocity."""
        velocity = self.momentum * kept.get("velocity", 0.0) + change
        return self.rate * velocity, {"velocity": velocity.astype(np.float32)}


@dataclass(frozen=True)
class Adam:
    """FedAdam (Reddi et al., arXiv 2003.00295, algorithm 2), its rate corrected for the momenta's start at 0.

    `m <- b1 m + (1 - b1) change`, `v <- b2 v + (1 - b2) change^2`, and the part moves by `rate' m / (sqrt(v) + tau)`
    with `rate' = rate sqrt(1 - b2^(n+1)) / (1 - b1^(n+1))` at its n-th step (n from 1): what Flower's own FedAdam does.
    """

    rate: float
    beta_1: float
    beta_2: float
    tau: float

    def step(self, change: Values, kept: Mapping[str, NDArray[Any]]) -> tuple[Values, Kept]:
        """Returns the step, both momenta and the number of steps."""
        first = self.beta_1 * kept.get("first", 0.0) + (1 - self.beta_1) * change
        second = self.beta_2 * kept.get("second", 0.0) + (1 - self.beta_2) * change**2
        steps = int(kept["steps"][0]) + 1 if "steps" in kept else 1
        rate = self.rate * np.sqrt(1 - self.beta_2 ** (steps + 1)) / (1 - self.beta_1 ** (steps + 1))
        momenta = {"first": first.astype(np.float32), "second": second.astype(np.float32)}
        return rate * first / (np.sqrt(second) + self.tau), {**momenta, "steps": np.array([steps])}


def no_batch_norm(settings: Settings) -> None:
    """Refuses BatchNorm: its running statistics are part of a vector, and are no weights that may be stepped.

    Raises:
        SettingsError: `experts.norm` is `"batch"`.
    """
    if settings.experts.norm == "batch":
        raise SettingsError(
            "a server optimiser steps all values of an expert, which BatchNorm's variances cannot bear, got "
            "experts.norm='batch'; hint: experts.norm='group'"
        )


def stepped(optimiser: ServerOptimiser, before: ServerState, merged: ServerState, held: Collection[str]) -> ServerState:
    """Returns the merged state with every part moved by the optimiser rather than to its average.

    Args:
        optimiser: keeps what it must from round to round in the state's extras (`velocity/expert/0`, ...).
        before: the state that the clients started from.
        merged: the same with each part replaced by its average.
        held: names of the parts that somebody trained (`gate`, `expert/3`).
    """
    extras = dict(merged.extras)

    def moved(name: str, old: NDArray[np.float32], average: NDArray[np.float32]) -> NDArray[np.float32]:
        if name not in held:
            return average
        kept = {key.removesuffix(f"/{name}"): array for key, array in extras.items() if key.endswith(f"/{name}")}
        step, now = optimiser.step(average.astype(np.float64) - old, kept)
        extras.update({f"{key}/{name}": array for key, array in now.items()})
        return (old + step).astype(np.float32)

    gate = merged.gate
    if gate is not None and before.gate is not None:
        gate = moved("gate", before.gate, gate)
    pairs = enumerate(zip(before.experts, merged.experts, strict=True))
    experts = tuple(moved(f"expert/{i}", old, average) for i, (old, average) in pairs)
    return replace(merged, gate=gate, experts=experts, extras=extras)
