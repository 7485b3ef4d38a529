"""Pre-gating between rounds: who trains next chooses with this round's gate, and gets its experts ahead of time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedmoe.errors import SettingsError
from fedmoe.federation.assignment import Assignment, Rankings
from fedmoe.federation.job import ClientJob
from fedmoe.federation.ledger import RoundBytes
from fedmoe.federation.state import ServerState
from fedmoe.flower.federation import Federation
from fedmoe.flower.replies import Replies
from fedmoe.flower.wrapper import Wrapper
from fedmoe.seeding import numpy_stream

__all__ = ["Prefetch"]

CLIENTS, SCORES, CHANGED = "ahead/clients", "ahead/scores", "ahead/changed"


@dataclass
class Prefetch(Wrapper):
    """Any strategy, its experts chosen and sent a round ahead (after Pre-gated MoE, arXiv 2308.12066).

    There the gate of block n chooses the experts of block n + 1, which are fetched while block n computes. Here blocks
    are rounds: while round t trains, the clients of round t + 1 are sampled, rank the experts with the gate that
    round t started from, and get those that they choose. Round t + 1 then begins with its training message: no ranking
    exchange holds it up, but in the first round. What the gate of round t + 1 would have chosen a client tells with its
    training report; that is how hits and misses are counted. On a miss it trains what it has.

    Attributes:
        version: what is trained of an expert that round t has changed after it was sent ahead. `ahead`: what the client
            has, as it was before round t; what training has changed of it is added to the expert as it is now.
            `latest`: the expert as it is now, sent once more.
    """

    version: str = "ahead"

    traits: ClassVar[frozenset[str]] = frozenset({"ahead"})
    refuses: ClassVar[Mapping[str, str]] = {
        "asks": "its clients train nothing",
        "varies": "it asks something else in some rounds, which cannot be asked a round ahead",
        "replaces": "an expert that is replaced is not moved by training, so what was sent ahead is of no use",
    }

    def __post_init__(self) -> None:
        if self.version not in ("ahead", "latest"):
            raise SettingsError(f"strategy.prefetch.version must be 'ahead' or 'latest', got '{self.version}'")

    def bind(self, federation: Federation) -> None:
        """Ties it to a run."""
        super().bind(federation)
        self._current: ServerState | None = None  # at the start of the round at hand, whatever its clients train
        self._next: tuple[int, ...] = ()
        self._assigned: Assignment = {}
        self._ranked_ahead: Rankings = {}
        self._again: tuple[int, ...] = ()
        self._asked_now: tuple[int, ...] = ()
        self._extra = RoundBytes(down=0, up=0, by_expert=(0,) * self.num_experts)
        self._told: Mapping[str, Any] = {}

    def sample(self, round_num: int, clients: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
        """Returns the clients that were sampled a round ago, those of `over` in the first round."""
        ahead = self.state.extras.get(CLIENTS)
        return self.inner.sample(round_num, clients, rng) if ahead is None else tuple(ahead.tolist())

    def ranked(self, clients: Sequence[int]) -> Sequence[int]:
        """Returns those that must rank now: all in the first round, later those who could not do so ahead of time."""
        ahead = rankings_ahead(self.state)
        self._asked_now = tuple(client for client in self.inner.ranked(clients) if client not in ahead)
        return self._asked_now

    def begin(self, round_num: int, state: ServerState) -> ServerState:
        """Returns what the round's clients start from: with `version` as `ahead`, the experts of a round ago."""
        self._ranked_ahead = rankings_ahead(state)
        self.rankings = {**self._ranked_ahead, **self.rankings}
        self._current = self.inner.begin(round_num, state)
        return replace(self._current, experts=versions_ahead(self._current))

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns what `over` assigns by the rankings of a round ago."""
        self._assigned = self.inner.assign(round_num, rankings, rng)
        return self._assigned

    def ranked_meanwhile(self, round_num: int, clients: Sequence[int]) -> Sequence[int]:
        """Returns the next round's clients, and those of this one whose choice may be another one by now."""
        self._next = ()
        coming: tuple[int, ...] = ()
        if round_num < self.num_rounds:
            stream = numpy_stream(self.federation.settings.seed, "round", round_num + 1, "server")
            self._next = tuple(self.inner.sample(round_num + 1, self.federation.population.training, stream))
            coming = tuple(self.inner.ranked(self._next))
        self._again = tuple(client for client in self.inner.ranked(clients) if client in self._ranked_ahead)
        return sorted({*coming, *self._again})

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns what `over` merges, by how much it changed what was trained, and what the next round starts with."""
        merged, current = self.inner.merge(round_num, state, updates), self._current
        if current is None:  # merged outside of a round
            return merged
        trios = zip(current.experts, state.experts, merged.experts, strict=True)
        experts = tuple(moved(*trio) for trio in trios)
        self._count(round_num, updates)
        extras = {name: array for name, array in merged.extras.items() if not name.startswith("ahead/")}
        if self._next:
            extras |= {CLIENTS: np.array(self._next), SCORES: score_table(self._next, updates.rankings)}
            pairs = list(zip(current.experts, experts, strict=True))
            extras[CHANGED] = np.array([old.tobytes() != new.tobytes() for old, new in pairs])
            if self.version == "ahead":
                extras |= {f"ahead/expert/{i}": old for i, old in enumerate(current.experts)}
        return replace(merged, experts=experts, extras=extras)

    def sent(self, jobs: Sequence[ClientJob]) -> RoundBytes:
        """Returns the bytes of the round: its experts whenever they were sent, and the rankings for the next one."""
        return super().sent(jobs) + self._extra

    def ranking_record(self) -> Mapping[str, Any]:
        """Returns what `over` tells, and `prefetch`: what was sent ahead, how much of it was right, what was wasted."""
        return {**self.inner.ranking_record(), "prefetch": self._told}

    def _count(self, round_num: int, updates: Replies) -> None:
        """Finds out what was sent ahead for this round, and what it, and ranking for the next one, costs."""
        ledger, pool = self.federation.ledger, range(self.num_experts)
        state = self.state
        now = {client: updates.rankings[client] for client in self._again if client in updates.rankings}
        stream = numpy_stream(self.federation.settings.seed, "prefetch", round_num)
        wanted = self.inner.assign(round_num, now, stream)
        sent = self._assigned.items() if CLIENTS in state.extras else ()
        ahead = {client: held for client, held in sent if client not in self._asked_now}
        copies = [(client, i) for client, held in sorted(ahead.items()) for i in held]
        judged = [(client, i) for client, i in copies if client in wanted]
        hits = [(client, i) for client, i in judged if i in wanted[client]]
        changed = state.extras.get(CHANGED, np.zeros(self.num_experts, dtype=bool))
        outdated = [(client, i) for client, i in copies if changed[i]]
        wasted = {*judged} - {*hits} | ({*outdated} if self.version == "latest" else set())
        size = ledger.copies([1, *[0] * (self.num_experts - 1)]).down
        self._told = {
            "exchanges": 1 + bool(self._asked_now),
            "copies": len(copies),
            "judged": len(judged),
            "hits": len(hits),
            "hit_rate": round(len(hits) / len(judged), 6) if judged else None,
            "bytes_ahead": size * len(copies),
            "bytes_outdated": size * len(outdated),
            "bytes_wasted": size * len(wasted),
        }
        training = {client for client, held in self._assigned.items() if held}
        strangers = [client for client in updates.rankings if client not in training]
        again = [client for client in updates.rankings if client in training]
        indices, by = self.ranking_indices(), self.query()
        anew = again if by in ("loss", "likelihood") else ()  # these need the pool; the gate they have to train
        extra = ledger.round([], strangers, strangers, indices, by) + ledger.round([], anew, again, indices, by)
        if self.version == "latest":
            extra += ledger.copies([sum(expert == i for _, expert in outdated) for i in pool])
        self._extra = extra


def rankings_ahead(state: ServerState) -> dict[int, tuple[float, ...]]:
    """Returns client -> what it ranked a round ago, for the round that starts from this state."""
    if CLIENTS not in state.extras:
        return {}
    rows = zip(state.extras[CLIENTS].tolist(), state.extras[SCORES].tolist(), strict=True)
    return {client: tuple(scores) for client, scores in rows if scores and not np.isnan(scores[0])}


def score_table(clients: Sequence[int], rankings: Rankings) -> NDArray[np.float64]:
    """Returns a row of scores for each client; NaN for one that did not rank."""
    width = max((len(scores) for scores in rankings.values()), default=0)
    nothing = (np.nan,) * width
    rows = [tuple(rankings.get(client, nothing)) for client in clients]
    return np.array(rows, dtype=np.float64).reshape(len(clients), width)


def versions_ahead(state: ServerState) -> tuple[NDArray[np.float32], ...]:
    """Returns each expert as it was sent ahead, or as it is where nothing else was."""
    ahead = [state.extras.get(f"ahead/expert/{i}") for i in range(len(state.experts))]
    return tuple(
        own if old is None else np.asarray(old, dtype=np.float32) for own, old in zip(state.experts, ahead, strict=True)
    )


def moved(current: NDArray[np.float32], before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the expert as it is now, moved by what training has changed of the version that was trained."""
    if current is before or current.tobytes() == before.tobytes():
        return after
    if after is before:
        return current
    change = after.astype(np.float64) - before
    return (current + change).astype(np.float32)
