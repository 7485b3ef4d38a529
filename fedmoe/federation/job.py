"""What a client is asked to do in a round, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PARTS", "ClientFailure", "ClientJob", "ClientUpdate", "Term"]

PARTS = ("body", "head", "gate")
"""What a client's copies consist of: each expert but for its last layer, its last layer, the gate."""


@dataclass(frozen=True)
class Term:
    """One term of an objective: a file of `fedmoe/training/objectives/` by name (or a reference), with arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClientJob:
    """One client's work in a round, or a part of it: a strategy may give a client several jobs, done one after another.

    Attributes:
        client_id: who.
        round_num: 1-based.
        experts: ids of the experts that it holds.
        objective: terms that are added up.
        gate: whether it gets the gate, and sends it back.
        weighting: its weight in the merged averages: `"uniform"` (1) or `"examples"` (its number of samples).
        epochs: passes over its samples; 0: as the settings say.
        trains: which of `PARTS` it trains; the others stay as they are.
        private: which of `PARTS` are the client's own: the work starts from what the client has kept of them (the first
            time from what it received), and it keeps what comes out.
        sends: whether what comes out goes to the server.
        memory: names of the vectors that the client keeps for its objective, one for each expert and gate; at first 0.
        shared: names of the server's vectors (`control` for the extras `control/expert/0`, ...) that the objective
            sees, likewise.
        given: this client's own numbers for its objective.
    """

    client_id: int
    round_num: int
    experts: tuple[int, ...]
    objective: tuple[Term, ...]
    gate: bool
    weighting: str = "uniform"
    epochs: int = 0
    trains: tuple[str, ...] = PARTS
    private: tuple[str, ...] = ()
    sends: bool = True
    memory: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    given: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("trains", "private"):
            if wrong := set(getattr(self, name)) - set(PARTS):
                raise ValueError(f"a job's {name} must be of {', '.join(PARTS)}, got '{min(wrong)}'")
        if self.weighting not in ("uniform", "examples"):
            raise ValueError(f"a job's weighting must be 'uniform' or 'examples', got '{self.weighting}'")

    @property
    def remembers(self) -> bool:
        """Returns whether the client keeps anything from round to round."""
        return bool(self.private or self.memory)

    @property
    def receives(self) -> bool:
        """Returns whether any of the experts' or the gate's values come from the server."""
        return bool({"body", "head"} - set(self.private) or (self.gate and "gate" not in self.private))


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
        changes: what else it sends, by name (`extra/control/expert/0`): summed up with the same weight.
        kept: what it keeps, by name (`private/expert/0`, `memory/control/gate`); does not leave the client.
    """

    client_id: int
    num_examples: int
    weight: int
    gate: NDArray[np.float32] | None
    experts: Mapping[int, NDArray[np.float32]]
    metrics: Mapping[str, float]
    changes: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    kept: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def vectors(self) -> dict[str, NDArray[np.float32]]:
        """Returns all vectors that are sent, by name: `gate`, `expert/3`, and the changes."""
        own: dict[str, NDArray[np.float32]] = {} if self.gate is None else {"gate": self.gate}
        own |= {f"expert/{expert_id}": vector for expert_id, vector in self.experts.items()}
        return own | dict(self.changes)


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
