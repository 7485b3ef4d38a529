"""One configuration of the scaling benchmark: `python -m benchmarks.scale_run CASE FOLDER` prints what came out.

It has a process of its own, for a process never gives back the memory that it once took.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.scale_case import Case
from benchmarks.sides.fedmoe_round import bound
from fedmoe.federation.state import ServerState
from fedmoe.flower import client_app
from fedmoe.flower.devices import set_up_torch
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.preparation import Preparation, prepare_run
from fedmoe.flower.wire import record_of
from fedmoe.settings import from_flat
from fedmoe.training.speed import TrainerChoice

__all__ = ["Marks", "run_case"]

EARLY = 2  # the round after which memory is looked at the first time


class Marks:
    """Is told of every round, keeps its seconds and, after the second and the last one, the memory; nothing else.

    Args:
        last: the last round.
    """

    def __init__(self, last: int) -> None:
        self.last = last
        self.trained_by = ""
        self.seconds: list[float] = []
        self.memory: dict[str, dict[str, int]] = {}
        self.completed = 0

    def trainer(self, choice: TrainerChoice) -> None:
        """Keeps which trainer was chosen."""
        self.trained_by = choice.kind + (f" {choice.width}" if choice.width else "")

    def round(self, line: Mapping[str, Any], state: ServerState, average: ServerState | None) -> None:
        """Keeps the round's seconds without its evaluation, and takes a mark."""
        self.seconds.append(line["seconds"]["round"] - line["seconds"]["evaluate"])
        self.completed += line["completed"]
        if line["round"] == EARLY:
            self.mark("early")
        if line["round"] == self.last:
            self.mark("late")

    def mark(self, name: str) -> None:
        """Keeps the memory as it is now."""
        self.memory[name] = memory()


def memory() -> dict[str, int]:
    """Returns bytes: `peak` resident since the start, `resident` now, and `own` now, those that no file stands for.

    Of a worker counts what it does not share with the process that forked it, which has that in its own figures.

    Raises:
        SystemExit: there is no /proc.
    """
    try:
        own = bytes_of(Path("/proc/self/status"))
        for worker in multiprocessing.active_children():
            process = Path(f"/proc/{worker.pid}")
            theirs, pages = bytes_of(process / "status"), bytes_of(process / "smaps_rollup")
            shared = pages["Shared_Clean"] + pages["Shared_Dirty"]
            for name in ("VmHWM", "VmRSS"):
                own[name] += theirs[name] - shared
            own["RssAnon"] += pages["Private_Dirty"]
    except OSError as error:
        raise SystemExit(f"memory is read from /proc, which only Linux has: {error}") from error
    return {name: own[key] for name, key in (("peak", "VmHWM"), ("resident", "VmRSS"), ("own", "RssAnon"))}


def bytes_of(table: Path) -> dict[str, int]:
    """Returns the lines `name: number kB` of a file of /proc, in bytes."""
    pairs = (line.split(":", 1) for line in table.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def run_case(case: Case, data: Path) -> dict[str, Any]:
    """Returns what a run of this size comes to: seconds of set-up and rounds, and memory at its marks, in bytes.

    Args:
        case: the sizes.
        data: the folder with the data set that `scale_data.write` has written.
    """
    flat, marks = case.settings(data), Marks(case.rounds)
    settings = from_flat(flat)
    set_up_torch(settings.train.threads, settings.deterministic)
    marks.mark("imported")
    started = time.perf_counter()
    preparation = prepare_run(settings, torch.device("cpu"), lambda _: None)
    prepared = time.perf_counter() - started
    marks.mark("prepared")
    run_rounds(flat, preparation, marks, case.nodes)
    later = marks.seconds[1:] or marks.seconds  # in the first round trainers are compared, and modules are built
    return {
        "prepare_seconds": round(prepared, 3),
        "round_seconds": marks.seconds,
        "round_median": median(later),
        "trainer": marks.trained_by,
        "updates": marks.completed,
        "memory": marks.memory,
        "samples": len(preparation.data.dataset.y_N),
        "data_bytes": data_bytes(preparation),
    }


def data_bytes(preparation: Preparation) -> int:
    """Returns the bytes of the data itself: images, labels, and the common expert's embeddings and logits."""
    data, table = preparation.data.dataset, preparation.table
    return sum(int(array.nbytes) for array in (data.x_NCHW, data.y_N, table.embeddings, table.logits))


def run_rounds(flat: dict[str, Any], preparation: Preparation, marks: Marks, nodes: int) -> None:
    """Runs all rounds of FedJETs on the in-process grid; `marks` is all that is kept of them."""
    settings = preparation.settings
    strategy = bound(settings, preparation, marks)
    state = preparation.initial_state(settings.experts.num, strategy.has_gate, strategy.init)
    grid = LocalGrid(client_app.app, nodes, flat)
    strategy.start(grid, record_of(state), num_rounds=settings.num_server_rounds)


if __name__ == "__main__":
    print(json.dumps(run_case(Case(**json.loads(sys.argv[1])), Path(sys.argv[2]))))  # noqa: T201 - the parent reads it
