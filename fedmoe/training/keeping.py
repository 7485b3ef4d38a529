"""What a client keeps between rounds: where its work starts from, and what stays with it afterwards.

Vectors are whole ones of an expert or the gate; of private parts only the client's own values are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

import numpy as np
from torch import nn

from fedmoe.federation.heads import gate_of
from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.moe.vectors import Part, Vector, parts_of
from fedmoe.settings import TrainSettings
from fedmoe.training.objective import Objective

__all__ = ["HEAD", "Outcome", "Remembering", "Start", "is_trained", "kept_after", "moves", "reach", "start_of"]

HEAD = "head."  # of the names of an expert's last layer


@runtime_checkable
class Remembering(Protocol):
    """An objective that has a memory: what its client keeps, and what it sends, follow from how far it has moved."""

    def after(
        self, moved: Vector, shared: Mapping[str, Vector], memory: Mapping[str, Vector], reach: float
    ) -> tuple[Mapping[str, Vector], Mapping[str, Vector]]:
        """Returns the new memory, and the changes that are sent to the server, by the names that the job gives.

        Args:
            moved: start minus end of an expert or the gate; 0 where nothing is trained.
            shared: the server's vectors for it.
            memory: the client's.
            reach: how far a constant gradient of 1 would have moved it.
        """
        ...


@dataclass(frozen=True)
class Start:
    """Where a client's work starts from.

    Attributes:
        experts: vectors of the experts that it holds, in the job's order.
        gate: the gate's, or `None`.
        memory: what it has kept for its objective, by name: a vector for each expert, then one for the gate.
        shared: the server's vectors, likewise.
    """

    experts: tuple[Vector, ...]
    gate: Vector | None
    memory: Mapping[str, tuple[Vector, ...]]
    shared: Mapping[str, tuple[Vector, ...]]


@dataclass(frozen=True)
class Outcome:
    """What a client's work leads to, beside the vectors that it trained.

    Attributes:
        changes: what else is sent (`ClientUpdate.changes`).
        kept: what stays (`ClientUpdate.kept`).
    """

    changes: Mapping[str, Vector]
    kept: Mapping[str, Vector]


def is_trained(part: Part, job: ClientJob, *, gate: bool) -> bool:
    """Returns whether the job trains this tensor of an expert, or of the gate, in any turn."""
    if not job.turns:  # mostly so, and every client comes by here
        return moves(part, job.trains, gate=gate)
    return any(moves(part, turn.trains, gate=gate) for turn in job.turns)


def moves(part: Part, trains: Sequence[str], *, gate: bool) -> bool:
    """Returns whether this tensor of an expert, or of the gate, moves where `trains` does (`ClientJob.trains`)."""
    if not part.trained:
        return False
    patterns = () if gate else [own for own in trains if "*" in own]
    if any(own.startswith("-") and fnmatchcase(part.name, own[1:]) for own in patterns):
        return False
    return piece_of(part, gate=gate) in trains or any(fnmatchcase(part.name, own) for own in patterns)


def piece_of(part: Part, *, gate: bool) -> str:
    """Returns which of `PARTS` the tensor belongs to."""
    return "gate" if gate else "head" if part.name.startswith(HEAD) else "body"


def own_piece(part: Part, job: ClientJob, *, gate: bool) -> str | None:
    """Returns what the tensor is private as: one of `PARTS`, a pattern of names, or `None` where it is the server's."""
    piece = piece_of(part, gate=gate)
    if piece in job.private:
        return piece
    return None if gate else next((own for own in job.private if fnmatchcase(part.name, own)), None)


def start_of(
    job: ClientJob, state: ServerState, kept: Mapping[str, Vector], expert: nn.Module, gate: nn.Module | None
) -> Start:
    """Returns where the job starts from.

    Args:
        job: the client's.
        state: what the server sent.
        kept: what the client has kept, by name.
        expert: any expert, for its shapes.
        gate: any gate, or `None`.

    Raises:
        ValueError: the job has a gate, and the server's state none; or something kept is not of the right size.
    """
    given = None if gate is None else gate_of(state, job.head)
    if gate is not None and given is None:
        raise ValueError("the job has a gate, but the server's state holds none")
    received = [(name, expert, state.experts[i]) for name, i in zip(_names(job), job.experts, strict=False)]
    if gate is not None and given is not None:
        received.append(("gate", gate, given))
    started = [_mixed(job, name, module, vector, kept) for name, module, vector in received]

    def found(name: str, table: Mapping[str, "Vector | np.ndarray"], prefix: str) -> tuple[Vector, ...]:
        vectors = []
        for part, _, vector in received:
            own = table.get(f"{prefix}{name}/{part}")
            vectors.append(np.zeros_like(vector) if own is None else np.asarray(own, dtype=np.float32))
        return tuple(vectors)

    return Start(
        experts=tuple(started[: len(job.experts)]),
        gate=None if gate is None else started[-1],
        memory={name: found(name, kept, "memory/") for name in job.memory},
        shared={name: found(name, state.extras, "") for name in job.shared},
    )


def kept_after(
    job: ClientJob,
    terms: Sequence[Objective],
    start: Start,
    trained: Sequence[Vector],
    expert: nn.Module,
    gate: nn.Module | None,
    settings: TrainSettings,
    steps: int,
) -> Outcome:
    """Returns what the job leads to beside what it trained.

    Args:
        job: the client's.
        terms: of its objective.
        start: where it started.
        trained: what came out: a vector for each expert, then the gate's.
        expert: any expert, for its shapes.
        gate: any gate, or `None`.
        settings: how it was trained.
        steps: how many steps it made.
    """
    changes: dict[str, Vector] = {}
    kept: dict[str, Vector] = {}
    begun = (*start.experts, *(() if start.gate is None else (start.gate,)))
    for index, (name, before, after) in enumerate(zip(_names(job), begun, trained, strict=True)):
        is_gate = name == "gate"
        module = gate if is_gate and gate is not None else expert
        for piece, own in _private(job, module, is_gate).items():
            kept[f"private/{piece}/{name}"] = np.concatenate([after[where] for where in own])
        for term in terms:
            if not isinstance(term, Remembering):
                continue
            moved = before - after
            for part in parts_of(module):
                if not is_trained(part, job, gate=is_gate):
                    moved[part.offset : part.offset + part.size] = 0
            shared = {key: vectors[index] for key, vectors in start.shared.items()}
            memory = {key: vectors[index] for key, vectors in start.memory.items()}
            remembered, sent = term.after(moved, shared, memory, reach(settings, steps, gate=is_gate))
            kept |= {f"memory/{key}/{name}": vector for key, vector in remembered.items()}
            changes |= {f"extra/{key}/{name}": vector for key, vector in sent.items()}
    return Outcome(changes, kept)


def reach(settings: TrainSettings, steps: int, *, gate: bool) -> float:
    """Returns how far SGD moves a value whose gradient is 1 in every step: the sum of its steps' sizes.

    Without momentum that is steps x rate. With momentum b the j-th step is rate x (1 + b + ... + b^(j-1)), with
    Nesterov's one power more.

    >>> round(reach(TrainSettings(learning_rate=0.1, momentum=0.5), 2, gate=False), 6)
    0.25
    """
    rate = settings.gate_learning_rate if gate else settings.learning_rate
    momentum = settings.gate_momentum if gate else settings.momentum
    size, total = 0.0, 0.0
    for _ in range(steps):
        size = momentum * size + 1.0
        total += 1.0 + momentum * size if settings.nesterov and momentum > 0 else size
    return rate * total


def _names(job: ClientJob) -> list[str]:
    return [*(f"expert/{i}" for i in job.experts), *(["gate"] if job.gate else [])]


def _private(job: ClientJob, module: nn.Module, is_gate: bool) -> dict[str, list[slice]]:
    """Returns where the client's own values lie in a vector of this module, by what they are private as.

    Raises:
        ValueError: a pattern fits the name of none of an expert's tensors.
    """
    found: dict[str, list[slice]] = {}
    parts = parts_of(module)
    for part in parts:
        if (piece := own_piece(part, job, gate=is_gate)) is not None:
            found.setdefault(piece, []).append(slice(part.offset, part.offset + part.size))
    for pattern in () if is_gate else (piece for piece in job.private if "*" in piece):
        if not any(fnmatchcase(part.name, pattern) for part in parts):
            names = ", ".join(part.name for part in parts)
            raise ValueError(f"'{pattern}' must fit the name of a tensor that is private; hint: experts have {names}")
    return found


def _mixed(job: ClientJob, name: str, module: nn.Module, received: Vector, kept: Mapping[str, Vector]) -> Vector:
    """Returns what was received, with the client's own values where it has any."""
    own = {piece: kept[key] for piece in job.private if (key := f"private/{piece}/{name}") in kept}
    if not own:  # mostly so, and every client comes by here
        return received
    mixed, places = received.copy(), _private(job, module, name == "gate")
    for piece, values in own.items():
        first = 0
        for where in places[piece]:
            mixed[where] = values[first : first + where.stop - where.start]
            first += where.stop - where.start
        if first != values.size:
            raise ValueError(
                f"client {job.client_id} has kept {values.size} values of the {piece} of {name}, not {first}"
            )
    return mixed
