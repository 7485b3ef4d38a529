"""What a strategy is bound to before its first round: the settings, the population, the plan, the place to record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedmoe.data.population import Population
from fedmoe.federation.ledger import Ledger
from fedmoe.federation.state import ServerState
from fedmoe.moe.vectors import Part, Vector
from fedmoe.settings import Settings
from fedmoe.training.speed import TrainerChoice

__all__ = ["Federation", "Recorder"]


class Recorder(Protocol):
    """Who is told of every round, once it is whole, and before the first how clients are trained."""

    def trainer(self, choice: TrainerChoice) -> None:
        """Keeps which trainer was chosen, and the figures behind it; again when a kind of job needs the loop."""
        ...

    def round(self, line: Mapping[str, Any], state: ServerState, average: ServerState | None) -> None:
        """Keeps the round's line, its state and its moving average."""
        ...


def no_expert(start: str, incumbent: Vector) -> Vector:
    """Refuses: what is bound outside of a run has no experts to give."""
    raise ValueError(f"a new expert (start '{start}') needs a run; hint: Federation(newborn=...)")


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Everything that a strategy may know of the run it serves.

    Attributes:
        settings: the run's.
        population: training clients, anchors, unseen clients, and how many samples each one holds.
        plan: what every order carries, so that a node opens the same data: cache keys and partition hash.
        ledger: sizes that the traffic is made of.
        recorder: who is told of every round.
        first_round: 1, or the round after the checkpoint that a resumed run goes on from.
        average: the moving average at that checkpoint, if there is one.
        held: unseen client -> the experts that it held in the last evaluation before `first_round`.
        trainer: what a resumed run's clients were trained by; `None`: it is chosen in the first round.
        states: absolute folder of what clients keep between rounds; empty: nothing may be kept.
        layout: `"expert"` and, where there is one, `"gate"`: of which tensors such a vector consists.
        newborn: where a new expert starts, and the incumbent in its place -> the expert (`newborn_expert`).
        drifted: the same from round `clients.drift-round` on: another plan, other labels; `None`: nothing drifts.
    """

    settings: Settings
    population: Population
    plan: Mapping[str, Any]
    ledger: Ledger
    recorder: Recorder
    first_round: int = 1
    average: ServerState | None = None
    held: Mapping[int, Sequence[int]] = field(default_factory=dict)
    trainer: TrainerChoice | None = None
    states: str = ""
    layout: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    newborn: Callable[[str, Vector], Vector] = no_expert
    drifted: "Federation | None" = None

    def at(self, round_num: int) -> "Federation":
        """Returns what stands in this round."""
        return self if self.drifted is None or round_num < self.settings.clients.drift_round else self.drifted
