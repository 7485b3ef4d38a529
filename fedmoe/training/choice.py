"""The choice between the trainers, made by measuring them on the real model, data and device, for a moment.

Stacking is worth most where steps are small, and a loss for convolutions on a CPU, where torch computes many clients'
kernels as one grouped convolution. No rule of thumb tells, so both are timed on clients of the first round.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from fedmoe import __version__
from fedmoe.data.storage import home, new_file
from fedmoe.federation.job import ClientJob
from fedmoe.federation.state import ServerState
from fedmoe.settings import TrainSettings
from fedmoe.training.job_kind import kind_of
from fedmoe.training.precision import has_images
from fedmoe.training.schedule import num_steps
from fedmoe.training.speed import Figure, TrainerChoice, figure_of
from fedmoe.training.trainer import Workplace

__all__ = ["choose_trainer", "forced_choice", "is_known"]

WIDTHS = (2, 4, 16, 64, 256)
COMPILE_FROM = 60.0  # seconds of training in a run: compiling takes 10 to 60 a kind of job, and may halve the rest
GIVE_UP = 1.5  # a stack this many times slower than the best ends the search, unless wider ones were gaining
GAIN = 0.9  # of the time that the narrower stack took: then a wider one may be faster still


def forced_choice(settings: TrainSettings, images: bool) -> TrainerChoice | None:
    """Returns the choice that the settings leave no doubt about, or `None` where it must be measured.

    Args:
        settings: the run's.
        images: whether the experts have convolutions.
    """
    if settings.trainer == "stacked" and settings.stack > 0:
        return TrainerChoice(kind="stacked", width=settings.stack, compiled=settings.compile == "on")
    if settings.trainer == "loop" and (settings.layout != "auto" or not images):
        return TrainerChoice(kind="loop", layout="contiguous" if settings.layout == "auto" else settings.layout)
    return None


def choose_trainer(
    place: Workplace, jobs: Sequence[ClientJob], state: ServerState, rounds: int = 1, *, kept: bool = True
) -> TrainerChoice:
    """Returns the fastest trainer for jobs like these, measured now, or at an earlier run on this machine.

    The figures of an earlier run are used again, so that the same run gives the same bytes: the two trainers differ in
    the last bits. They are kept in the cache by what they depend on.

    Args:
        place: where the clients are trained.
        jobs: a round's; the kind with the most work counts. What else cannot be stacked, `StackedTrainer` finds out.
        state: what they get.
        rounds: rounds that are still to come; compiling is tried only where they take long.
        kept: whether the figures go into the cache.
    """
    forced = forced_choice(place.settings, has_images(place.make_expert()))
    if forced is not None:
        return forced
    alike = _main_kind(place, jobs)
    file = _file(place, alike, state)
    known = _known(file)
    figures = _figures(place, alike, state, rounds, known)
    if not any("seconds" in figure for figure in figures):  # the round names what is wrong with its clients
        kind = "stacked" if place.settings.trainer == "stacked" else "loop"
        return TrainerChoice(kind=kind, figures=tuple(figures), clients=len(alike))
    if kept and len(figures) > len(known):
        with new_file(file) as draft:
            draft.write_text(json.dumps(figures, indent=1))
    best = _best(figures, compiled=_compiling_pays(place, alike, rounds, _best(figures, compiled=False)["seconds"]))
    return TrainerChoice(
        kind=best["trainer"],
        width=best["width"],
        layout=best["layout"],
        compiled=best["compiled"],
        figures=tuple(figures),
        clients=len(alike),
        known=len(figures) == len(known),
    )


def is_known(place: Workplace, jobs: Sequence[ClientJob], state: ServerState) -> bool:
    """Returns whether `choose_trainer` has no more to measure than whether compiling pays."""
    if forced_choice(place.settings, has_images(place.make_expert())) is not None:
        return True
    return bool(_known(_file(place, _main_kind(place, jobs), state)))


def _file(place: Workplace, alike: Sequence[ClientJob], state: ServerState) -> Path:
    return home() / "cache" / "trainers" / f"{_key(place, alike, state)}.json"


def _known(file: Path) -> list[Figure]:
    """Returns the figures of an earlier run; none where the file is missing or damaged: they are measured anew."""
    try:
        return list(json.loads(file.read_text()))
    except (OSError, ValueError):
        return []


def _main_kind(place: Workplace, jobs: Sequence[ClientJob]) -> list[ClientJob]:
    """Returns the jobs of the kind that makes the most work, largest clients first: all are timed on full batches."""
    sizes = {job.client_id: len(place.samples_of(job)) for job in jobs}
    work: dict[str, int] = {}
    for job in jobs:
        work[kind_of(job)] = work.get(kind_of(job), 0) + sizes[job.client_id] * len(job.experts)
    most = max(work, key=lambda kind: work[kind])
    alike = [job for job in jobs if kind_of(job) == most]
    return sorted(alike, key=lambda job: (-sizes[job.client_id], job.client_id))


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


def _figures(
    place: Workplace, jobs: Sequence[ClientJob], state: ServerState, rounds: int, known: Sequence[Figure]
) -> list[Figure]:
    """Returns a figure for each candidate that was tried, those known already among them."""
    figures = list(known)
    best = narrower = min((f["seconds"] for f in known if "seconds" in f), default=float("inf"))
    for choice in () if known else _candidates(place, len(jobs)):
        figure = figure_of(place, choice, jobs, state)
        figures.append(figure)
        seconds = figure.get("seconds", float("inf"))
        if choice.kind == "stacked":
            if seconds > max(GIVE_UP * best, GAIN * narrower) or "error" in figure:
                break
            narrower = seconds
        best = min(best, seconds)
    if not any("seconds" in figure for figure in figures):
        return figures
    plain = _best(figures, compiled=False)
    untried = plain["trainer"] == "stacked" and not any(figure["compiled"] for figure in figures)
    if untried and _compiling_pays(place, jobs, rounds, plain["seconds"]):
        compiled = TrainerChoice(kind="stacked", width=plain["width"], compiled=True)
        figures.append(figure_of(place, compiled, jobs, state))
    return figures


def _compiling_pays(place: Workplace, jobs: Sequence[ClientJob], rounds: int, seconds: float) -> bool:
    """Returns whether compiling is allowed and the run is long enough for it, at `seconds` a step and client."""
    steps = sum(num_steps(len(place.samples_of(job)), place.epochs(job), place.settings.batch_size) for job in jobs)
    wanted = place.settings.compile
    if place.deterministic:  # the C++ compiler's vectors round what is left over at the end of a loop in another way
        return False
    return wanted == "on" or (wanted == "auto" and rounds * steps * seconds > COMPILE_FROM)


def _best(figures: Sequence[Figure], compiled: bool) -> Figure:
    timed = [figure for figure in figures if "seconds" in figure and (compiled or not figure["compiled"])]
    return min(timed, key=lambda figure: figure["seconds"])


def _key(place: Workplace, jobs: Sequence[ClientJob], state: ServerState) -> str:
    """Returns a hash of all that the figures depend on, but for what else the machine does."""
    device = place.device
    gate = place.gate_for(len(state.experts)) if jobs[0].gate else None
    words = [
        str(place.make_expert()),
        str(gate),
        kind_of(jobs[0]),
        len(jobs),
        sorted(len(place.samples_of(job)) for job in jobs)[len(jobs) // 2],
        {name: value for name, value in asdict(place.settings).items() if name != "compile"},
        torch.__version__,
        __version__,
        place.store.resident,
        torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        torch.get_num_threads(),
        place.sharers,
        place.store.images.shape[1:],
    ]
    return hashlib.sha256(json.dumps(words, default=str).encode()).hexdigest()[:32]


def _processor() -> str:
    """Returns the processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
