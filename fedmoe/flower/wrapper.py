"""A strategy that works over another one: all that it does not change is the other's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flwr.serverapp.strategy import Strategy

from fedmoe.errors import SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.assignment import Assignment, Rankings
from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Federation
from fedmoe.flower.replies import Replies
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings

__all__ = ["Wrapper"]

ALWAYS = {"ahead": "what is sent a round ahead must be the outermost"}

SAID = ("has_gate", "gate", "ranks_by", "served_by", "merges")  # what a wrapper says as `inner` does
SHARED = ("federation", "num_rounds", "rankings", "state")  # what the round sets, `inner` gets as well


@dataclass
class Wrapper(ExpertStrategy):
    """The strategy `over`, unchanged; a subclass overrides what it changes and asks `self.inner` for the rest.

    `inner` is built with the settings of its own table, and may be a wrapper itself. It sees the same round: its
    `federation`, `rankings` and `state` are those of the wrapper.

    >>> from dataclasses import dataclass, replace
    >>> @dataclass
    ... class Twice(Wrapper):
    ...     def job(self, round_num, client_id, held):
    ...         return replace(self.inner.job(round_num, client_id, held), epochs=2)

    A subclass overrides `jobs` rather than `job` where the strategies that it shall work over may give several.

    Attributes:
        over: the strategy to work over: a short name, `module:Class` or `/path/file.py:Class`.
        init: where experts start: `random`, `common`, or empty: as `over` says.
        refuses: trait of a strategy (`Contract.traits_with`) -> why this cannot work over one that has it.
        inner: that strategy, from `settle` on.
    """

    over: str = "fedjets"
    init: str = ""

    refuses: ClassVar[Mapping[str, str]] = {}

    def settle(self, settings: Settings, build: Callable[[str, Settings], Strategy]) -> None:
        """Builds `inner`.

        Args:
            settings: of the run.
            build: name and settings -> strategy.

        Raises:
            SettingsError: `over` is no strategy over experts, or has a trait that this cannot work over.
        """
        inner = build(self.over, settings)
        if not isinstance(inner, ExpertStrategy):
            raise SettingsError(
                f"it works over a strategy of experts, got over='{self.over}', a plain Flower strategy; "
                "hint: over='fedjets'"
            )
        found = inner.traits_with(settings)
        for trait, why in {**ALWAYS, **self.refuses}.items():
            if trait in found:
                raise SettingsError(f"it must work over a strategy that it fits, got over='{self.over}': {why}")
        self.inner = inner
        self.init = self.init or inner.init
        vars(self).update({name: getattr(inner, name) for name in SAID})
        # What is served is the outermost's average. Looked up when it is called, for that may wrap this one yet.
        vars(inner)["replace_average"] = lambda expert_id, vector: self.replace_average(expert_id, vector)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets it, and what the round sets for `inner` too."""
        super().__setattr__(name, value)
        if name in SHARED and "inner" in vars(self):
            setattr(self.inner, name, value)

    def bind(self, federation: Federation) -> None:
        """Ties both strategies to a run."""
        self.inner.bind(federation)
        super().bind(federation)

    def pool_size(self, settings: Settings) -> int:
        """Returns M."""
        return self.inner.pool_size(settings)

    def traits_with(self, settings: Settings) -> frozenset[str]:
        """Returns its own traits and those of `inner`."""
        return self.traits | self.inner.traits_with(settings)

    def check(self, settings: Settings) -> None:
        """Refuses what `inner` refuses."""
        self.inner.check(settings)

    def sample(self, round_num: int, clients: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
        """Returns the clients of a round."""
        return self.inner.sample(round_num, clients, rng)

    def clients_a_round(self, available: int) -> int:
        """Returns how many clients a round has."""
        return self.inner.clients_a_round(available)

    def traffic(self) -> int:
        """Returns how many experts a client gets in a round plus how many it sends."""
        return self.inner.traffic()

    def ranked(self, clients: Sequence[int]) -> Sequence[int]:
        """Returns the clients that are asked to rank."""
        return self.inner.ranked(clients)

    def query(self) -> str:
        """Returns what clients rank by in the round at hand."""
        return self.inner.query()

    def begin(self, round_num: int, state: ServerState) -> ServerState:
        """Returns the state that the round starts from."""
        return self.inner.begin(round_num, state)

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns who holds which experts."""
        return self.inner.assign(round_num, rankings, rng)

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns the client's work."""
        return self.inner.job(round_num, client_id, held)

    def jobs(self, round_num: int, client_id: int, held: tuple[int, ...]) -> Sequence[ClientJob]:
        """Returns the client's jobs."""
        return self.inner.jobs(round_num, client_id, held)

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the next state."""
        return self.inner.merge(round_num, state, updates)

    def serving(self) -> Serving:
        """Returns how an unseen client is served."""
        return self.inner.serving()

    def ranked_meanwhile(self, round_num: int, clients: Sequence[int]) -> Sequence[int]:
        """Returns the clients that rank while the round trains."""
        return self.inner.ranked_meanwhile(round_num, clients)

    def head_of(self, client_id: int) -> int:
        """Returns which of the server's heads is the client's own."""
        return self.inner.head_of(client_id)

    def ranking_indices(self) -> int:
        """Returns how many numbers a client sends in answer to the ranking query."""
        return self.inner.ranking_indices()

    def ranking_record(self) -> Mapping[str, Any]:
        """Returns what the round's line tells of the ranking."""
        return self.inner.ranking_record()
