"""Statistics: what clients may be asked about their samples in place of training, and how they answer."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from fedmoe.federation.job import ClientFailure, ClientJob, ClientUpdate, Question
from fedmoe.federation.state import ServerState
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import Vector, load_vector
from fedmoe.references import load_plugin
from fedmoe.training.one_by_one import one_by_one
from fedmoe.training.samples import ClientSamples
from fedmoe.training.trainer import Workplace

__all__ = ["STATISTIC", "Answer", "Statistic", "answers"]

STATISTIC = "extra/statistic"  # the name under which it is sent


@dataclass(frozen=True)
class Answer:
    """A client's answer.

    Attributes:
        numbers: float32, as many as the job says; means over the client's samples where its weight is their number.
        loss: of the client at the parameters that it received, a mean over samples.
    """

    numbers: Vector
    loss: float


class Statistic(Protocol):
    """What one client computes: one file in `fedmoe/training/statistics/`, a callable without state."""

    def __call__(self, experts: Sequence[Expert], gate: Gate | None, samples: ClientSamples) -> Answer:
        """Returns the answer of a client with these samples, at these experts (in the job's order) and this gate."""
        ...


def answers(place: Workplace, jobs: Iterable[ClientJob], state: ServerState) -> Iterator[ClientUpdate | ClientFailure]:
    """Yields each client's answer, or its failure where it raised; it is the same whatever trainer there is."""
    experts: list[Expert] = []
    return one_by_one(jobs, lambda job: answer(place, job, state, experts))


def answer(place: Workplace, job: ClientJob, state: ServerState, experts: list[Expert]) -> ClientUpdate:
    """Returns one client's answer; `experts` are modules to load, of which more are added where there are too few."""
    started = time.perf_counter()
    while len(experts) < len(job.experts):
        experts.append(place.make_expert())
    gate = place.gate_for(len(state.experts)) if job.gate else None
    held = experts[: len(job.experts)]
    for module, vector in zip(held, (state.experts[i] for i in job.experts), strict=True):
        load_vector(module.eval(), vector)
    if gate is not None and state.gate is not None:
        load_vector(gate.eval(), state.gate)
    samples = place.store.load(place.samples_of(job), None if gate is None else gate.reads)
    if job.question is None:
        raise ValueError(f"client {job.client_id} is asked for no statistic")
    found = statistic_of(job.question)(held, gate, samples)
    if found.numbers.shape != (job.question.size,):
        raise ValueError(
            f"the statistic '{job.question.name}' must have the size that its job says, {job.question.size}, got "
            f"an array of shape {found.numbers.shape}"
        )
    return ClientUpdate(
        client_id=job.client_id,
        num_examples=len(samples),
        weight=len(samples) if job.weighting == "examples" else 1,
        gate=None,
        experts={},
        metrics={"loss": found.loss, "seconds": time.perf_counter() - started},
        changes={STATISTIC: found.numbers.astype(np.float32, copy=False)},
    )


def statistic_of(asked: Question) -> Statistic:
    """Returns the statistic by its name.

    Raises:
        ReferenceError_: the name leads nowhere.
    """
    made = load_plugin("statistic", "fedmoe.training.statistics", asked.name)
    return cast(Statistic, made(**asked.arguments))
