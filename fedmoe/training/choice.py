"""The choice between the trainers, made by measuring them on the real model, data and device, for a moment.

Stacking is worth most where steps are small, and a loss for convolutions on a CPU, where torch computes many clients'
kernels as one grouped convolution. No rule of thumb tells, so both are timed on clients of the first round.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fedmoe.data.storage import home, new_file
from fedmoe.federation.job import ClientFailure, ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.settings import TrainSettings
from fedmoe.training.job_kind import kind_of
from fedmoe.training.loop import LoopTrainer
from fedmoe.training.precision import has_images
from fedmoe.training.stacked import StackedTrainer
from fedmoe.training.trainer import LocalTrainer, Workplace

__all__ = ["TrainerChoice", "choose_trainer", "forced_choice", "make_trainer"]

WIDTHS = (2, 4, 16, 64, 256)
SHORT = 0.25  # seconds: what takes less is timed again, over more steps
STEPS = 4
GIVE_UP = 1.5  # a stack this many times slower than the best ends the search, unless wider ones were gaining
GAIN = 0.9  # of the time that the narrower stack took: then a wider one may be faster still


@dataclass(frozen=True, kw_only=True)
class TrainerChoice:
    """Which trainer the clients of a run are trained by.

    Attributes:
        kind: `"loop"` or `"stacked"`.
        width: clients of a stack at the most; 0: as many as memory allows.
        layout: memory layout of images in the loop trainer.
        figures: what was measured: `trainer`, `width`, `layout` and `seconds` (of one step of one client), or `error`.
        clients: how many clients it was measured on at the most.
        known: whether the figures are those of an earlier run.
    """

    kind: str
    width: int = 0
    layout: str = "contiguous"
    figures: tuple[Mapping[str, Any], ...] = field(default=())
    clients: int = 0
    known: bool = False

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "TrainerChoice":
        """Returns the choice that `asdict` made a table of."""
        return cls(**{**table, "figures": tuple(table["figures"])})


def make_trainer(place: Workplace, choice: TrainerChoice, max_steps: int | None = None) -> LocalTrainer:
    """Returns the trainer that was chosen."""
    if choice.kind == "stacked":
        return StackedTrainer(place, width=choice.width, max_steps=max_steps)
    return LoopTrainer(place, layout=choice.layout, max_steps=max_steps)


def forced_choice(settings: TrainSettings, images: bool) -> TrainerChoice | None:
    """Returns the choice that the settings leave no doubt about, or `None` where it must be measured.

    Args:
        settings: the run's.
        images: whether the experts have convolutions.
    """
    if settings.trainer == "stacked" and settings.stack > 0:
        return TrainerChoice(kind="stacked", width=settings.stack)
    if settings.trainer == "loop" and (settings.layout != "auto" or not images):
        return TrainerChoice(kind="loop", layout="contiguous" if settings.layout == "auto" else settings.layout)
    return None


def choose_trainer(place: Workplace, jobs: Sequence[ClientJob], state: ServerState) -> TrainerChoice:
    """Returns the fastest trainer for jobs like these, measured now, or at an earlier run on this machine.

    The figures of an earlier run are used again, so that the same run gives the same bytes: the two trainers differ in
    the last bits. They are kept in the cache by what they depend on.

    Args:
        place: where the clients are trained.
        jobs: a round's; the kind with the most work counts.
        state: what they get.

    Raises:
        RuntimeError: no trainer could train them; the text says why.
    """
    forced = forced_choice(place.settings, has_images(place.make_expert()))
    if forced is not None:
        return forced
    alike = _main_kind(place, jobs)
    file = home() / "cache" / "trainers" / f"{_key(place, alike, state)}.json"
    if file.is_file():
        return replace(TrainerChoice.from_json(json.loads(file.read_text())), known=True)
    choice = _fastest(_measured(place, alike, state), len(alike))
    with new_file(file) as draft:
        draft.write_text(json.dumps(asdict(choice), indent=1))
    return choice


def _main_kind(place: Workplace, jobs: Sequence[ClientJob]) -> list[ClientJob]:
    """Returns the jobs of the kind that makes the most work."""
    work: dict[str, int] = {}
    for job in jobs:
        size = len(place.population.shards[job.client_id]) * len(job.experts)
        work[kind_of(job)] = work.get(kind_of(job), 0) + size
    most = max(work, key=lambda kind: work[kind])
    return [job for job in jobs if kind_of(job) == most]


def _candidates(place: Workplace, clients: int) -> Iterator[TrainerChoice]:
    settings = place.settings
    layouts = ("contiguous", "channels-last") if has_images(place.make_expert()) else ("contiguous",)
    if settings.trainer != "stacked":
        for layout in layouts if settings.layout == "auto" else (settings.layout,):
            yield TrainerChoice(kind="loop", layout=layout)
    if settings.trainer != "loop":
        widths = [width for width in WIDTHS if width < clients] + ([clients] if clients > 1 else [])
        if settings.stack:
            widths = [settings.stack]
        yield from (TrainerChoice(kind="stacked", width=width) for width in widths or [1])


def _measured(place: Workplace, jobs: Sequence[ClientJob], state: ServerState) -> list[dict[str, Any]]:
    """Returns a figure for each candidate that was tried."""
    figures: list[dict[str, Any]] = []
    best = narrower = float("inf")
    for choice in _candidates(place, len(jobs)):
        figure: dict[str, Any] = {"trainer": choice.kind, "width": choice.width, "layout": choice.layout}
        figures.append(figure)
        try:
            seconds = _seconds_a_step(place, choice, jobs[: max(1, choice.width)], state)
        except Exception as error:  # it cannot be used then; why stands in the records
            figure["error"] = f"{type(error).__name__}: {error}"
            if choice.kind == "stacked":
                break
            continue
        figure["seconds"] = seconds
        if choice.kind == "stacked":
            if seconds > max(GIVE_UP * best, GAIN * narrower):
                break
            narrower = seconds
        best = min(best, seconds)
    return figures


def _seconds_a_step(place: Workplace, choice: TrainerChoice, jobs: Sequence[ClientJob], state: ServerState) -> float:
    """Returns the seconds of one step of one client, the second time that it is done."""
    first, repetitions = make_trainer(place, choice, 1), 1
    _timed(first, jobs, state)
    seconds = _timed(first, jobs, state)
    if seconds > SHORT:
        return seconds / len(jobs)
    several = make_trainer(place, choice, STEPS)
    _timed(several, jobs, state)
    repetitions = max(1, min(5, int(SHORT / seconds)))
    steps = sum(min(STEPS, -(-len(place.population.shards[j.client_id]) // place.settings.batch_size)) for j in jobs)
    return min(_timed(several, jobs, state) for _ in range(repetitions)) / steps


def _timed(trainer: LocalTrainer, jobs: Sequence[ClientJob], state: ServerState) -> float:
    started = time.perf_counter()
    for outcome in trainer.train(jobs, state):
        if isinstance(outcome, ClientFailure):
            raise RuntimeError(outcome.error)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _fastest(figures: Sequence[Mapping[str, Any]], clients: int) -> TrainerChoice:
    timed = [figure for figure in figures if "seconds" in figure]
    if not timed:
        raise RuntimeError(f"no trainer can train these clients: {figures[0]['error']}")
    best = min(timed, key=lambda figure: figure["seconds"])
    return TrainerChoice(
        kind=best["trainer"], width=best["width"], layout=best["layout"], figures=tuple(figures), clients=clients
    )


def _key(place: Workplace, jobs: Sequence[ClientJob], state: ServerState) -> str:
    """Returns a hash of all that the figures depend on, but for what else the machine does."""
    device = place.device
    gate = place.gate_for(len(state.experts)) if jobs[0].gate else None
    words = [
        str(place.make_expert()),
        str(gate),
        kind_of(jobs[0]),
        len(jobs),
        sorted(len(place.population.shards[job.client_id]) for job in jobs)[len(jobs) // 2],
        asdict(place.settings),
        torch.__version__,
        torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        torch.get_num_threads(),
        place.store.images.shape[1:],
    ]
    return hashlib.sha256(json.dumps(words, default=str).encode()).hexdigest()[:32]


def _processor() -> str:
    """Returns the processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
