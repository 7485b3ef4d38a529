"""What a client is asked to do in a round, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClientFailure", "ClientJob", "ClientUpdate", "Term"]


@dataclass(frozen=True)
class Term:
    """One term of an objective: a file of `fedmoe/training/objectives/` by name (or a reference), with arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClientJob:
    """One client's work in a round.

    Attributes:
        client_id: who.
        round_num: 1-based.
        experts: ids of the experts that it holds.
        objective: terms that are added up.
        gate: whether it gets the gate, and sends it back.
        weighting: its weight in the merged averages: `"uniform"` (1) or `"examples"` (its number of samples).
        epochs: passes over its samples; 0: as the settings say.
    """

    client_id: int
    round_num: int
    experts: tuple[int, ...]
    objective: tuple[Term, ...]
    gate: bool
    weighting: str = "uniform"
    epochs: int = 0

    def __post_init__(self) -> None:
        if self.weighting not in ("uniform", "examples"):
            raise ValueError(f"a job's weighting must be 'uniform' or 'examples', got '{self.weighting}'")


@dataclass(frozen=True, kw_only=True)
class ClientUpdate:
    """What a client gives back: its copies of the gate and of its experts as flat vectors, and what it saw.

    Attributes:
        client_id: who.
        num_examples: samples it trained on.
        weight: its weight in the merged averages, a whole number.
        gate: the trained gate, or `None`.
        experts: expert id -> the trained expert.
        metrics: `loss` (mean over its steps) and the like.
    """

    client_id: int
    num_examples: int
    weight: int
    gate: NDArray[np.float32] | None
    experts: Mapping[int, NDArray[np.float32]]
    metrics: Mapping[str, float]

    def vectors(self) -> dict[str, NDArray[np.float32]]:
        """Returns all vectors by name: `gate`, `expert/3`."""
        experts = {f"expert/{expert_id}": vector for expert_id, vector in self.experts.items()}
        return experts if self.gate is None else {"gate": self.gate} | experts


@dataclass(frozen=True, kw_only=True)
class ClientFailure:
    """A client whose work is left out of the round: where it failed, and how.

    Attributes:
        stage: `"rank"`, `"train"` or `"evaluate"`.
        client_id: who.
        round_num: 1-based.
        error: type and message of what it raised, or what was wrong with what it gave back.
    """

    stage: str
    client_id: int
    round_num: int
    error: str
