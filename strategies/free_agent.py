"""RLFA: experts on the server have a life cycle: watched by their reward, on probation, replaced by a free agent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fedmoe.errors import SettingsError
from fedmoe.federation.assignment import Assignment, Rankings
from fedmoe.federation.drop_alarm import DropAlarm, threshold_for
from fedmoe.federation.expert_reward import Rewarding, Service, rewards_of
from fedmoe.federation.job import ClientJob
from fedmoe.federation.life_cycle import Duel, Event, Life, LifeCycle, lives_from, lives_to_array
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Federation
from fedmoe.flower.newborn import STARTS
from fedmoe.flower.replies import Replies
from fedmoe.flower.wrapper import Wrapper

__all__ = ["FreeAgent"]

LIVES = "lives"


@dataclass
class FreeAgent(Wrapper):
    """A life cycle for the experts of any strategy (Reinforcement Learning Free Agent, arXiv 2501.17903).

    Clients report, with their training, how good the experts were that they received. The server turns that into a
    reward an expert and round (`Rewarding`); one whose reward drops for good is put on probation (`DropAlarm`): a
    candidate is trained in its place by the same clients on the same samples, beside it and in the shadow: nobody ranks
    it, and no answer is its. Where it beats the incumbent by `margin` in `rounds` rounds in a row it takes its place,
    and the incumbent joins the free agents, from whom the next candidates come; where there are none, a new expert
    does. Where the incumbent is as good as before again, it is cleared.

    Attributes:
        accuracy: alpha in the reward.
        synergy: beta.
        efficiency: gamma.
        penalty: delta.
        false_alarms: how many are to be expected in the whole run if nothing drifts.
        warm_up: an expert's rounds that are only learnt from.
        margin: by what share of the samples a candidate has to be better than the incumbent.
        rounds: rounds in a row in which it has to be.
        trial: rounds after which a candidate is given up, and the next one comes.
        term: rounds after which every expert has to stand up to a candidate; 0: never.
        agents: free agents that are kept at the most, the oldest go.
        newcomer: where a new expert starts: `head`: as the incumbent but for a random last layer; `random`; `common`.
    """

    accuracy: float = 1.0
    synergy: float = 0.1
    efficiency: float = 0.1
    penalty: float = 0.5
    false_alarms: float = 0.01
    warm_up: int = 10
    margin: float = 0.05
    rounds: int = 3
    trial: int = 20
    term: int = 0
    agents: int = 3
    newcomer: str = "head"

    traits: ClassVar[frozenset[str]] = frozenset({"replaces"})
    refuses: ClassVar[Mapping[str, str]] = {
        "asks": "its clients train nothing, so no candidate could be trained",
        "alike": "its experts have tensors in common, so one cannot be replaced alone",
    }

    def __post_init__(self) -> None:
        if self.false_alarms <= 0 or self.warm_up < 2 or self.margin < 0 or min(self.rounds, self.trial) < 1:
            raise SettingsError(
                "strategy.free_agent needs false-alarms > 0, warm-up >= 2, margin >= 0, rounds and trial >= 1, got "
                f"{self.false_alarms}, {self.warm_up}, {self.margin}, {self.rounds} and {self.trial}"
            )
        if min(self.term, self.agents) < 0 or self.newcomer not in STARTS:
            raise SettingsError(
                f"strategy.free_agent needs term and agents >= 0 and newcomer of {', '.join(STARTS)}, got "
                f"{self.term}, {self.agents} and '{self.newcomer}'"
            )

    def bind(self, federation: Federation) -> None:
        """Ties it to a run, whose length and pool say how strict the alarm has to be."""
        super().bind(federation)
        watched = self.num_rounds * self.num_experts
        alarm = DropAlarm(threshold_for(watched, self.false_alarms), self.warm_up)
        self._cycle = LifeCycle(alarm, self.margin, self.rounds, self.trial, self.term)
        self._rewarding = Rewarding(self.accuracy, self.synergy, self.efficiency, self.penalty)
        self._holders: Assignment = {}
        self._told: Mapping[str, Any] = {}

    def begin(self, round_num: int, state: ServerState) -> ServerState:
        """Returns the state, with a life for each expert from the first round on."""
        state = self.inner.begin(round_num, state)
        if LIVES in state.extras:
            return state
        return replace(state, extras={**state.extras, LIVES: lives_to_array([Life()] * self.num_experts)})

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns who holds which experts, and remembers it."""
        self._holders = self.inner.assign(round_num, rankings, rng)
        return self._holders

    def jobs(self, round_num: int, client_id: int, held: tuple[int, ...]) -> Sequence[ClientJob]:
        """Returns the client's jobs, which report, and for experts on probation those again with their candidates."""
        own = self.inner.jobs(round_num, client_id, held)
        trains = [job.sends and not (job.instead or job.question) for job in own]
        found = [replace(job, reports=trained) for job, trained in zip(own, trains, strict=True)]
        for job, trained in zip(own, trains, strict=True):
            instead = {i: shadow(i) for i in job.experts if shadow(i) in self.state.extras}
            if instead and trained:
                found.append(replace(job, instead=instead, reports=True))
        return found

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the merged state, with candidates trained, called or given up, and promoted."""
        merged = self.inner.merge(round_num, state, updates)
        if LIVES not in state.extras:  # merged outside of a round
            return merged
        extras = dict(merged.extras)
        for name in [name for name in extras if f"extra/{name}" in updates.sums.weights and name.startswith("shadow/")]:
            extras[name] = updates.sums.average(f"extra/{name}")
        services, duels = self._services(updates), duels_of(updates, self.num_experts)
        rewards = rewards_of(services, self._rewarding)
        lives, events = self._cycle.round(lives_from(state.extras[LIVES]), round_num, rewards, duels)
        self._told = self._record(services, rewards, duels, lives, events)
        merged = replace(merged, extras={**extras, LIVES: lives_to_array(lives)})
        for event in events:
            merged = self._done(event, merged)
        return merged

    def ranking_record(self) -> Mapping[str, Any]:
        """Returns what `over` tells, and `life_cycle`: rewards, duels and what has happened."""
        return {**self.inner.ranking_record(), "life_cycle": self._told}

    def _services(self, updates: Replies) -> dict[int, Service]:
        lost = {failure.client_id for failure in updates.failures if failure.stage == "train"}
        found = {i: Service() for i in range(self.num_experts)}
        for client, held in self._holders.items():
            told = updates.received.get(client, {})
            for i in held:
                samples, right, mixed = told.get(f"expert/{i}", (0, 0, 0))
                own = found[i]
                found[i] = Service(
                    *(own.samples + samples, own.right + right, own.mixed + mixed),
                    *(own.copies + 1, own.failed + (client in lost)),
                )
        return found

    def _done(self, event: Event, state: ServerState) -> ServerState:
        """Returns the state in which what has happened to an expert is done."""
        own, extras, experts = shadow(event.expert), dict(state.extras), list(state.experts)
        candidate = extras.pop(own, None)
        free = [np.asarray(extras.pop(name), np.float32) for name in sorted(extras) if name.startswith("free/")]
        if event.what == "replaced" and candidate is not None:
            free = [experts[event.expert], *free]
            experts[event.expert] = np.asarray(candidate, np.float32)
            self.replace_average(event.expert, experts[event.expert])
        elif event.what in ("alarm", "term", "next"):
            tried = lives_from(state.extras[LIVES])[event.expert].candidates - 1
            extras[own] = (
                free[tried] if tried < len(free) else self.federation.newborn(self.newcomer, experts[event.expert])
            )
        extras |= {f"free/{number:03d}": vector for number, vector in enumerate(free[: self.agents])}
        return replace(state, experts=tuple(experts), extras=extras)

    def _record(
        self,
        services: Mapping[int, Service],
        rewards: Mapping[int, float],
        duels: Mapping[int, Duel],
        lives: Sequence[Life],
        events: Sequence[Event],
    ) -> dict[str, Any]:
        pool = range(self.num_experts)
        accuracy = {i: own.right / own.samples for i, own in services.items() if own.samples}
        return {
            "reward": [round(rewards[i], 6) if i in rewards else None for i in pool],
            "accuracy": [round(accuracy[i], 6) if i in accuracy else None for i in pool],
            "alarm": [round(life.watch.score, 4) for life in lives],
            "probation": [i for i in pool if lives[i].accused],
            "duels": {str(i): [duel.samples, duel.incumbent, duel.candidate] for i, duel in duels.items()},
            "events": [[event.expert, event.what] for event in events],
        }


def shadow(expert_id: int) -> str:
    """Returns the candidate's name among the server's extras."""
    return f"shadow/expert/{expert_id}"


def duels_of(updates: Replies, num_experts: int) -> dict[int, Duel]:
    """Returns how candidates did beside their incumbents, where a client has measured both."""
    found = {}
    for i in range(num_experts):
        both = [told for told in updates.received.values() if shadow(i) in told and f"expert/{i}" in told]
        samples = sum(told[shadow(i)][0] for told in both)
        if samples:
            right = (sum(told[name][1] for told in both) for name in (f"expert/{i}", shadow(i)))
            found[i] = Duel(samples, *right)
    return found
