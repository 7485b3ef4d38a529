"""The runs of a sweep, a few at a time, each in a process of its own."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedmoe.sweep.grid import to_toml
from fedmoe.sweep.place import Place

__all__ = ["Told", "run_all"]

POLL = 0.1  # seconds between two looks at who has ended


@dataclass(frozen=True)
class Told:
    """What is told of a run.

    Attributes:
        place: whose.
        what: `"skipped"` (it was done before), `"begun"`, `"resumed"`, `"done"` or `"failed"`.
        seconds: that it took, where it has ended.
    """

    place: Place
    what: str
    seconds: float = 0.0


@dataclass
class Running:
    """A run's process."""

    place: Place
    process: "subprocess.Popen[bytes]"
    started: float = field(default_factory=time.monotonic)


def run_all(simulation: Path, places: Sequence[Place], jobs: int, tell: Callable[[Told], None]) -> list[Place]:
    """Runs whatever is not done yet, at most `jobs` at a time, and returns those that failed.

    A run that was cut off is gone on with; one that fails does not stop the others. When this process is interrupted,
    the runs are, too, and the same command goes on with them.
    """
    with ended_by_sigterm():
        return run_some(simulation, list(places), jobs, tell)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM raise, as Ctrl-C does, so that what was begun is ended, too."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_some(simulation: Path, waiting: list[Place], jobs: int, tell: Callable[[Told], None]) -> list[Place]:
    """Runs what waits, and returns what failed."""
    running, failed = list[Running](), list[Place]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                place = waiting.pop(0)
                if place.done() is not None:
                    tell(Told(place, "skipped"))
                    continue
                resumed = place.newest()
                tell(Told(place, "begun" if resumed is None else "resumed"))
                running.append(Running(place, begin(simulation, place, resumed)))
            for own in [own for own in running if own.process.poll() is not None]:
                running.remove(own)
                good = own.process.returncode == 0 and own.place.done() is not None
                failed += [] if good else [own.place]
                tell(Told(own.place, "done" if good else "failed", time.monotonic() - own.started))
            if running:
                time.sleep(POLL)
    finally:
        for own in running:
            own.process.terminate()
        for own in running:
            own.process.wait()
    return failed


def begin(simulation: Path, place: Place, resumed: Path | None) -> "subprocess.Popen[bytes]":
    """Returns the process of a run; what it says goes into the log."""
    place.path.mkdir(parents=True, exist_ok=True)
    settings = place.path / "run-config.toml"
    settings.write_text(to_toml({**place.config, "output-dir": str(place.path)}))
    command = [sys.executable, "-m", "fedmoe", "run", str(simulation), "--run-config", str(settings)]
    if resumed is not None:
        command += ["--resume", str(resumed)]
    with place.log.open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603 - our own
