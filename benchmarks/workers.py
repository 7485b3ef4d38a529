"""The sides' processes as the benchmark sees them: started one after another, asked for rounds, ended in any case."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.workloads import Work

__all__ = ["SideError", "Worker", "WorkerOptions", "workers"]

ROOT = Path(__file__).parents[1]
PATIENCE = 900.0  # seconds for a side to come up, or for a round
GRACE = 30.0  # seconds to end by itself; Ray takes some
TAIL = 25  # lines of its stderr that tell why a side died
# A side's libraries decide these for themselves, as they do for those who use them; a shell's or a test's own values
# would be the same for all sides and typical of none.
UNSET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "PFL_PYTORCH_DEVICE": "cpu",
}


class SideError(RuntimeError):
    """A side could not do its work, or did another work than the others; the message says which and how."""


@dataclass(frozen=True)
class WorkerOptions:
    """How sides are run.

    Attributes:
        threads: torch threads of a side in one process; actors of one thread each of Flower's.
        warm_up: untimed rounds before the first that counts.
        omp_wait_policy: `passive` or `active` for all sides; empty: whatever a side's libraries set.
    """

    threads: int = 2
    warm_up: int = 2
    omp_wait_policy: str = ""

    def environment(self, folder: Path) -> dict[str, str]:
        """Returns the environment of a side's process; caches lie below `folder`."""
        kept = {name: value for name, value in os.environ.items() if name not in UNSET}
        paths = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
        own = {"PYTHONPATH": paths, "FEDMOE_HOME": str(folder / "fedmoe"), "FLWR_HOME": str(folder / "flwr")}
        if self.omp_wait_policy:
            own["OMP_WAIT_POLICY"] = self.omp_wait_policy.upper()
        return kept | QUIET | own


class Worker:
    """One side's process.

    Args:
        name: the side.
        work: what it does.
        options: how.
        folder: where its caches and its stderr go.
    """

    def __init__(self, name: str, work: Work, options: WorkerOptions, folder: Path) -> None:
        self.name, self.work = name, work
        self.log = folder / f"{name}.log"
        numbers = ["--threads", str(options.threads), "--warm-up", str(options.warm_up)]
        command = [
            sys.executable,
            "-m",
            "benchmarks.sides",
            name,
            work.name,
            *numbers,
            *(["--toy"] if work.toy else []),
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - this very interpreter, a side by name
                command,
                env=options.environment(folder),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # so that all its processes can be found again
            )
        self.lines: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self.reader.start()
        self.ready: dict[str, Any] = {}

    def _read(self, stdout: IO[str]) -> None:
        with stdout:
            for line in stdout:
                self.lines.put(line)
        self.lines.put("")

    def wait_ready(self) -> None:
        """Waits until the side is warm, and makes sure that its model moved.

        Raises:
            SideError: it died, or it does not train what it should.
        """
        self.ready = self._answer()
        wanted = self.work.samples_per_round
        if any(samples != wanted for samples in self.ready["samples"]):
            raise SideError(f"{self.name}: a round must train on {wanted} samples, got {self.ready['samples']}")
        if not self.ready["finite"] or not self.ready["moved"] > 0:
            raise SideError(f"{self.name}: its model must move and stay finite, got {self.ready}")

    def go(self) -> float:
        """Has the side do a turn of rounds; returns the seconds of one.

        Raises:
            SideError: it died, or trained on another number of samples.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except OSError as error:
            raise self._failure(f"does not listen: {error}") from error
        table = self._answer()
        wanted = self.work.samples_per_round
        if any(samples != wanted for samples in table["samples"]):
            raise SideError(f"{self.name}: a round must train on {wanted} samples, got {table['samples']}")
        return float(table["seconds"])

    def _answer(self) -> dict[str, Any]:
        try:
            line = self.lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise self._failure(f"did not answer within {PATIENCE:.0f} s") from None
        if not line:
            self.process.wait()
            raise self._failure(f"died with exit status {self.process.returncode}")
        table: dict[str, Any] = json.loads(line)
        return table

    def _failure(self, what: str) -> SideError:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL:])
        return SideError(f"the side '{self.name}' {what}; the last it said:\n{tail or '(nothing)'}")

    def end(self) -> None:
        """Ends the side and every process that it has started."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(GRACE)
        except (OSError, subprocess.TimeoutExpired):
            pass  # it is insisted on below
        finally:
            for sign in (signal.SIGTERM, signal.SIGKILL):
                end_session(self.process.pid, sign)
            self.process.kill()  # where there is no /proc to find it by; else it is gone
            self.process.wait()
            self.reader.join(GRACE)


@contextmanager
def workers(names: Sequence[str], work: Work, options: WorkerOptions, folder: Path) -> Iterator[Mapping[str, Worker]]:
    """Gives the sides, warm and idle, all of them with a model of the same size; ends them in any case.

    Raises:
        SideError: one of them died, or does not do the same work.
    """
    with ExitStack() as stack:
        started: dict[str, Worker] = {}
        for name in names:
            started[name] = Worker(name, work, options, folder)
            stack.callback(started[name].end)
            if not work.toy:  # one by one: fedmoe measures as it warms up, to choose its trainer
                started[name].wait_ready()
        for worker in started.values():
            if not worker.ready:
                worker.wait_ready()
        sizes = {name: worker.ready["parameters"] for name, worker in started.items()}
        if len(set(sizes.values())) > 1:
            raise SideError(f"all sides must train a model of the same size, got {sizes}")
        yield started


def end_session(session: int, sign: signal.Signals, patience: float = 5.0) -> None:
    """Sends a signal to every process of a session (Ray's are in groups of their own), and waits for them to go."""
    deadline = time.monotonic() + patience
    for process in members(session):
        try:
            os.kill(process, sign)
        except ProcessLookupError:
            continue
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.05)


def members(session: int) -> list[int]:
    """Returns the ids of a session's processes that still run; without /proc, none are found but the first."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it has ended in the meantime
        if int(own) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found
