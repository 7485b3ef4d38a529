"""What a client is asked to do in a round, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["PARTS", "ClientFailure", "ClientJob", "ClientUpdate", "Question", "Term", "Turn", "in_turn"]

PARTS = ("body", "head", "gate")
"""What a client's copies consist of: each expert but for its last layer, its last layer, the gate."""

SPLITS = ("all", "training", "validation")


class Shards(Protocol):
    """Client id -> ids of its samples."""

    def __getitem__(self, client_id: int, /) -> NDArray[np.int64]:
        """Returns the client's."""
        ...


@dataclass(frozen=True)
class Term:
    """One term of an objective: a file of `fedmoe/training/objectives/` by name (or a reference), with arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """Numbers that a client computes of its samples: a file of `fedmoe/training/statistics/` by name (or a reference).

    Attributes:
        name: which.
        size: how many numbers.
        arguments: of the statistic.
    """

    name: str
    size: int
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One of the turns in which a job steps on each batch, with a loss and parts of its own.

    Attributes:
        objective: terms that are added up.
        trains: what moves in it, as `ClientJob.trains` says it.
        part: which of the batch's samples count: `"all"`, those of the client's own `"validation"` split (a fixed fifth
            of its samples, by lot), or the others, `"training"`. Where there is none, the loss is 0.
    """

    objective: tuple[Term, ...]
    trains: tuple[str, ...] = PARTS
    part: str = "all"

    def __post_init__(self) -> None:
        check_trains(self.trains)
        if self.part not in SPLITS:
            raise ValueError(f"a turn's part must be one of {', '.join(SPLITS)}, got '{self.part}'")


def check_trains(trains: tuple[str, ...]) -> None:
    """Refuses what no part or tensor is called.

    Raises:
        ValueError: a name that is neither one of `PARTS` nor a pattern, or a text in place of a tuple.
    """
    if isinstance(trains, str):
        raise ValueError(f"a job's trains must be a tuple of names, got '{trains}'; hint: a comma")
    if wrong := {piece for piece in trains if "*" not in piece} - set(PARTS):
        raise ValueError(f"a job's trains must be of {', '.join(PARTS)}, or patterns with a *, got '{min(wrong)}'")


@dataclass(frozen=True, kw_only=True)
class ClientJob:
    """One client's work in a round, or a part of it: a strategy may give a client several jobs, done one after another.

    All of a client's jobs of a round receive the same; what one of them keeps, the next one finds.

    Attributes:
        client_id: who.
        round_num: 1-based.
        experts: ids of the experts that it holds.
        objective: terms that are added up.
        gate: whether it gets the gate, and sends it back.
        weighting: its weight in the merged averages: `"uniform"` (1) or `"examples"` (its number of samples).
        epochs: passes over its samples; 0: as the settings say.
        trains: which of `PARTS` it trains, or single tensors of its experts by a pattern of their names; a pattern with
            a `-` in front leaves out what fits. The others stay as they are, but for BatchNorm's statistics, which any
            pass moves.
        turns: where it has several losses that move parts of their own: each batch is stepped on once in each turn, in
            their order. Then `objective` is empty and `trains` not given.
        question: what the client answers in place of training: numbers of its samples at the parameters that it
            received. Averaged over clients they come back as `extra/statistic`; nothing else is sent, or kept.
        private: which of `PARTS`, or single tensors of its experts by a pattern of their names (`"*.range"`), are the
            client's own: the work starts from what the client has kept of them (the first time from what it received),
            and it keeps what comes out.
        sends: whether what comes out goes to the server, and what its objective has to send.
        memory: names of the vectors that the client keeps for its objective, one for each expert and gate; at first 0.
        shared: names of the server's vectors (`control` for the extras `control/expert/0`, ...) that the objective
            sees, likewise.
        given: this client's own numbers for its objective.
        pooled: clients whose samples are put together for this job; empty: the client's own alone.
        shrink: lambda of an L1 penalty on its experts, at least 0: after every step of the optimiser each weight that
            it trains moves towards 0 by its learning rate times lambda and stops there (the proximal step). Weights
            are tensors of two axes or more; biases and scales of norms are left alone. What is sent is then counted as
            sparse.
        shrink_gate: the same of the gate.
        canonical: whether the gate is sent in its canonical form (`fedmoe.moe.canonical`), the same function.
        head: which of the server's heads (`fedmoe.federation.heads`) it gets in the gate's place, a row; -1: the gate.
        instead: expert id -> name of a vector among the server's extras (`shadow/expert/3`) that stands in for the
            expert: the work starts from it, and what comes out of it is sent under its name. Such a job sends nothing
            else of its experts and gate.
        reports: whether the client tells, before it trains, how often each of the experts that it received is right on
            the samples that fall to it (`Replies.received`).
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
    pooled: tuple[int, ...] = ()
    head: int = -1
    instead: Mapping[int, str] = field(default_factory=dict)
    reports: bool = False
    turns: tuple[Turn, ...] = ()
    question: Question | None = None
    shrink: float = 0.0
    shrink_gate: float = 0.0
    canonical: bool = False

    def __post_init__(self) -> None:
        check_trains(self.trains)
        if self.question and (self.objective or self.turns or self.private or self.memory or self.shared):
            raise ValueError(
                "a job with a question trains nothing, so it has no objective and keeps nothing, got "
                f"{self.objective}, {self.turns}, {self.private}, {self.memory}, {self.shared}"
            )
        if self.turns and (self.objective or self.trains != PARTS or self.memory or self.shared):
            raise ValueError(
                "a job with turns has its objective and what it trains in them, and no memory or shared vectors; got "
                f"{self.objective}, {self.trains}, {self.memory}, {self.shared}"
            )
        for name in ("private", "memory", "shared"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"a job's {name} must be a tuple of names, got '{getattr(self, name)}'; hint: a comma")
        if wrong := {piece for piece in self.private if "*" not in piece} - set(PARTS):
            raise ValueError(f"a job's private must be of {', '.join(PARTS)}, got '{min(wrong)}'")
        if self.weighting not in ("uniform", "examples"):
            raise ValueError(f"a job's weighting must be 'uniform' or 'examples', got '{self.weighting}'")
        if min(self.shrink, self.shrink_gate) < 0:
            raise ValueError(f"a job's shrink must be at least 0, got {self.shrink} and {self.shrink_gate}")
        if strangers := set(self.instead) - set(self.experts):
            raise ValueError(f"a job's instead must be for its experts {self.experts}, got expert {min(strangers)}")

    def samples(self, shards: Shards) -> NDArray[np.int64]:
        """Returns the ids of the samples that it trains on.

        Args:
            shards: each client's.
        """
        if not self.pooled:
            return shards[self.client_id]
        return np.concatenate([shards[client] for client in self.pooled])

    def size(self, shards: Shards) -> int:
        """Returns how much work it is: samples times experts."""
        return sum(len(shards[client]) for client in self.pooled or (self.client_id,)) * len(self.experts)

    @property
    def makes_zeros(self) -> bool:
        """Returns whether what it sends has zeros, which then do not travel."""
        return max(self.shrink, self.shrink_gate) > 0

    @property
    def steps(self) -> tuple[Turn, ...]:
        """Returns the turns of a step on a batch: one, where the job has a single objective."""
        return self.turns or (Turn(objective=self.objective, trains=self.trains),)

    @property
    def splits(self) -> bool:
        """Returns whether samples of the client's validation split count otherwise than the others."""
        return any(turn.part != "all" for turn in self.turns)

    @property
    def remembers(self) -> bool:
        """Returns whether the client keeps anything from round to round."""
        return bool(self.private or self.memory)

    def source_of(self, expert_id: int) -> str:
        """Returns the name of the server's vector that the job's copy of an expert starts from, and goes back to."""
        return self.instead.get(expert_id, f"expert/{expert_id}")

    def receives(self, *, gate: bool) -> bool:
        """Returns whether any value of the experts, or of the gate, comes from the server."""
        return bool(({"gate"} if gate else {"body", "head"}) - set(self.private))


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
        kept: what it keeps, by name (`private/head/expert/0`, `memory/control/gate`); does not leave the client.
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

    def nonzeros(self) -> dict[str, int]:
        """Returns how many values of each vector that is sent are not 0."""
        return {name: int(np.count_nonzero(vector)) for name, vector in self.vectors().items()}


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


def in_turn(jobs: Sequence[ClientJob]) -> list[list[ClientJob]]:
    """Returns the clients' first jobs, then the second ones, and so on."""
    seen: dict[int, int] = {}
    turns: list[list[ClientJob]] = []
    for job in jobs:
        number = seen[job.client_id] = seen.get(job.client_id, -1) + 1
        if number == len(turns):
            turns.append([])
        turns[number].append(job)
    return turns
