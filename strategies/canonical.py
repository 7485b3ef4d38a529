"""Gates in their canonical form over any strategy that trains one, and a merge of gates that needs it: the median."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from flwr.serverapp.strategy import Strategy

from fedmoe.errors import SettingsError
from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.flower.replies import Replies
from fedmoe.flower.wrapper import Wrapper
from fedmoe.moe.construction import gate_class
from fedmoe.settings import Settings

__all__ = ["Canonical"]


@dataclass
class Canonical(Wrapper):
    """The strategy `over`, whose clients send their gates in canonical form: the same functions, chosen alike by all.

    A softmax gate is known up to what is added to all scores (arXiv 2305.03288), so clients may send different gates
    that are one function. For the plain average, and for all that is linear in the gates, it makes no difference which
    (`fedmoe.moe.canonical`); for the median it does. The median of each value over clients, in place of the average,
    is not led astray by a few clients with gates far from the rest (Yin et al., arXiv 1803.01498, algorithm 1).

    Attributes:
        gates: how gates are merged: `mean`, as `over` does it, or `median`, each client counting alike.
        form: whether gates are sent in canonical form; false shows what it is good for.
    """

    gates: str = "mean"
    form: bool = True

    refuses: ClassVar[Mapping[str, str]] = {"asks": "its clients send no gate"}

    def __post_init__(self) -> None:
        if self.gates not in ("mean", "median"):
            raise SettingsError(f"strategy.canonical.gates must be 'mean' or 'median', got '{self.gates}'")

    def settle(self, settings: Settings, build: Callable[[str, Settings], Strategy]) -> None:
        """Builds `inner`, and asks for every client's own gate where the median needs it.

        Raises:
            SettingsError: `over` trains no gate.
        """
        super().settle(settings, build)
        if not self.has_gate or self.gate:
            raise SettingsError(
                f"strategy.canonical works over a strategy whose clients train a gate, got over='{self.over}'; "
                "hint: over='fedjets'"
            )
        if self.gates == "median":
            vars(self)["merges"] = "updates"

    def check(self, settings: Settings) -> None:
        """Refuses a gate whose scores cannot be shifted, where that is all that would change."""
        super().check(settings)
        if self.gates == "mean" and self.form and not gate_class(settings.gate.name).shift_rows:
            raise SettingsError(
                "strategy.canonical needs a gate that stays the same function where all scores are shifted alike, got "
                f"gate.name='{settings.gate.name}', which has one form alone; hint: gate.name='softmax'"
            )

    def jobs(self, round_num: int, client_id: int, held: tuple[int, ...]) -> Sequence[ClientJob]:
        """Returns the client's jobs, their gates to be sent in canonical form."""
        return [replace(job, canonical=self.form) for job in self.inner.jobs(round_num, client_id, held)]

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the next state, with the median of the clients' gates where that is asked for."""
        merged = self.inner.merge(round_num, state, updates)
        gates = [update.gate for update in updates.updates if update.gate is not None]
        if self.gates == "mean" or not gates:
            return merged
        return replace(merged, gate=np.median(np.stack(gates), axis=0).astype(np.float32))
