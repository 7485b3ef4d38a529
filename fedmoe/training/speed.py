"""How fast a trainer is on real clients: the seconds of one step of one client, and why a trainer cannot be used."""

import bdb
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fedmoe.federation.job import ClientFailure, ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.training.loop import LoopTrainer
from fedmoe.training.schedule import num_steps
from fedmoe.training.stacked import StackedTrainer
from fedmoe.training.trainer import LocalTrainer, Workplace

__all__ = ["Figure", "TrainerChoice", "figure_of", "make_trainer"]

SHORT = 0.25  # seconds: what takes less is timed again, over more steps
STEPS = 4
LOOPED = 2  # clients that the loop is timed on

Figure = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainerChoice:
    """Which trainer the clients of a run are trained by.

    Attributes:
        kind: `"loop"` or `"stacked"`.
        width: clients of a stack at the most; 0: as many as memory allows.
        layout: memory layout of images in the loop trainer.
        compiled: whether the steps of stacks are compiled by torch.
        figures: what was measured: `trainer`, `width`, `layout`, `compiled`, and `seconds` (of one step of one client)
            or `error`.
        clients: how many clients it was measured on at the most.
        known: whether the figures are those of an earlier run.
        looped: kind of job (`kind_of`) that the stacked trainer has turned over to the loop -> why it had to.
    """

    kind: str
    width: int = 0
    layout: str = "contiguous"
    compiled: bool = False
    figures: tuple[Figure, ...] = field(default=())
    clients: int = 0
    known: bool = False
    looped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "TrainerChoice":
        """Returns the choice that `asdict` made a table of."""
        return cls(**{**table, "figures": tuple(table["figures"])})


def make_trainer(place: Workplace, choice: TrainerChoice, max_steps: int | None = None) -> LocalTrainer:
    """Returns the trainer that was chosen.

    A stacked one that nobody has forced turns over to the loop what cannot be stacked, but where speed is measured.
    """
    if choice.kind == "stacked":
        layout = "contiguous" if place.settings.layout == "auto" else place.settings.layout
        turns = place.settings.trainer == "auto" and max_steps is None
        return StackedTrainer(
            place,
            width=choice.width,
            compiled=choice.compiled,
            max_steps=max_steps,
            loop=LoopTrainer(place, layout=layout) if turns else None,
            looped=choice.looped if turns else None,
        )
    return LoopTrainer(place, layout=choice.layout, max_steps=max_steps)


def figure_of(place: Workplace, choice: TrainerChoice, jobs: Sequence[ClientJob], state: ServerState) -> Figure:
    """Returns how fast a trainer is on the first of the jobs, as many as it takes at once, or why it cannot be used."""
    figure = {
        "trainer": choice.kind,
        "width": choice.width,
        "layout": choice.layout,
        "compiled": choice.compiled,
    }
    try:
        return figure | {"seconds": _seconds_a_step(place, choice, jobs[: max(LOOPED, choice.width)], state)}
    except bdb.BdbQuit:  # a person at the debugger has had enough
        raise
    except Exception as error:  # it cannot be used then; why stands in the records
        return figure | {"error": f"{type(error).__name__}: {error}"}


def _seconds_a_step(place: Workplace, choice: TrainerChoice, jobs: Sequence[ClientJob], state: ServerState) -> float:
    """Returns the seconds of one step of one client, the second time that it is done."""
    first, repetitions = make_trainer(place, choice, 1), 1
    _timed(first, jobs, state, place.device)
    seconds = _timed(first, jobs, state, place.device)
    if seconds > SHORT:
        return seconds / len(jobs)
    several = make_trainer(place, choice, STEPS)
    _timed(several, jobs, state, place.device)
    repetitions = max(1, min(5, int(SHORT / seconds)))
    sizes = [(len(place.samples_of(job)), place.epochs(job)) for job in jobs]
    steps = sum(min(STEPS, num_steps(size, epochs, place.settings.batch_size)) for size, epochs in sizes)
    return min(_timed(several, jobs, state, place.device) for _ in range(repetitions)) / steps


def _timed(trainer: LocalTrainer, jobs: Sequence[ClientJob], state: ServerState, device: torch.device) -> float:
    started = time.perf_counter()
    failures = [outcome for outcome in trainer.train(jobs, state) if isinstance(outcome, ClientFailure)]
    if len(failures) == len(jobs):  # one client at fault says nothing of the trainer
        raise RuntimeError(failures[0].error)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
