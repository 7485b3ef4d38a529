"""A node's worker processes: they change no byte, they fail in words, and they end when they should."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest
import torch

import fedmoe.flower.client_app as client
import fedmoe.flower.crew as crew_module
import fedmoe.flower.worker as worker_module
from fedmoe.errors import WorkerError
from fedmoe.federation.state import ServerState
from fedmoe.flower.crew import Crew
from fedmoe.flower.devices import worker_count
from fedmoe.flower.node import Node
from fedmoe.flower.orders import Replies
from fedmoe.flower.strategy import ExpertStrategy
from tests.small import newest_bytes, rounds_of, run_small, small_config

CPU = torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {
    "fedjets": {"evaluate.baselines": "fedavg", "evaluate.ema": 0.5},
    "fedjets, stacked": {"train.trainer": "stacked", "train.epochs": 2, "evaluate.baselines": "fedavg"},
    "random gate, CNN": {"gate.name": "random", "experts.model": "cnn", "experts.width": 2},
    "updates, not sums": {"strategy.name": "tests.flower.test_crew:Median"},
    "ranked by loss": {"strategy.name": "tests.flower.test_serving:ByLoss"},
    "Flower's own": {"strategy.name": "flwr.serverapp.strategy:FedAdam"},
}


@dataclass
class Median(ExpertStrategy):
    """Federated averaging with a median: it needs every client's update."""

    merges: ClassVar[str] = "updates"

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        vectors = np.stack([update.experts[0] for update in updates.updates])
        return replace(state, experts=(np.median(vectors, axis=0).astype(np.float32),))


@pytest.fixture(autouse=True)
def no_crew_is_left() -> Iterator[None]:
    yield
    for crew in client._crews.values():
        crew.close()
    client._crews.clear()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 5])
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, seed: int, kind: str) -> None:
    config = small_config(seed=seed, num_server_rounds=2) | KINDS[kind]
    home, at_work = tmp_path / "home", []

    def hired(node: Node, threads: int) -> worker_module.Worker:
        at_work.append(worker_module.Worker(node, threads))
        return at_work[-1]

    fixed = 2 if kind == "Flower's own" else 0  # to its strategies a node is a client, and one is too few
    one = run_small(tmp_path / "one", nodes=fixed or 1, settings=config, home=home)
    for workers, nodes in ((2, fixed or 1), (3, fixed or 2)):
        at_work.clear()
        with mock.patch.object(crew_module, "Worker", hired):
            other = run_small(
                tmp_path / str(workers), nodes=nodes, settings=config | {"train.workers": workers}, home=home
            )
        assert len(at_work) == workers
        assert newest_bytes(other) == newest_bytes(one)
        assert rounds_of(other) == rounds_of(one)
        assert (other / "clients.csv").read_bytes() == (one / "clients.csv").read_bytes()


def test_what_a_client_does_wrong_in_a_worker_is_named_as_anywhere(tmp_path: Path) -> None:
    config = small_config(num_server_rounds=3, strategy__name="tests.faulty:Faulty")
    config |= {"strategy.faulty.victims": "", "strategy.faulty.kind": "raise"}
    healthy = run_small(tmp_path / "healthy", settings=config)
    victim = str(rounds_of(healthy)[1]["clients"][0])
    runs = [
        run_small(tmp_path / str(n), settings=config | {"strategy.faulty.victims": victim, "train.workers": n})
        for n in (1, 2)
    ]
    assert rounds_of(runs[1]) == rounds_of(runs[0])
    assert newest_bytes(runs[1]) == newest_bytes(runs[0])
    assert "this client cannot count" in rounds_of(runs[1])[1]["failures"][0]["error"]


class Sleepy:
    """What a worker sees of a node; its work is to sleep, to die, to raise, to stop at a breakpoint."""

    def train(self, order: dict[str, Any], arrays: dict[str, Any]) -> Any:
        if "sleep" in order:
            time.sleep(order["sleep"])
        if "die" in order:
            os.kill(os.getpid(), signal.SIGKILL)
        if "raise" in order:
            raise order["raise"]
        if "break" in order:
            breakpoint()
        return os.getpid(), torch.get_num_threads(), {name: array * 2 for name, array in arrays.items()}


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.fixture
def worker() -> Iterator[worker_module.Worker]:
    hired = worker_module.Worker(Sleepy(), 1)  # type: ignore[arg-type]
    yield hired
    hired.close()


def test_a_worker_answers_in_a_process_of_its_own(worker: worker_module.Worker) -> None:
    for value in range(3):
        worker.give("train", {}, {"a": np.full(100_000, value)})
        (process, threads, arrays), error = worker.answer()
        assert error is None
        assert process != os.getpid()
        assert threads == 1
        np.testing.assert_array_equal(arrays["a"], np.full(100_000, 2 * value))


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (ArithmeticError("no"), ArithmeticError, "^no$"),
        (Unpicklable(1, 2), WorkerError, "Unpicklable: 1 and 2"),
    ],
)
def test_what_is_raised_in_a_worker_comes_back(
    worker: worker_module.Worker, raised: Exception, kind: type[Exception], told: str
) -> None:
    with mock.patch.object(Sleepy, "train", side_effect=raised):
        other = worker_module.Worker(Sleepy(), 1)  # type: ignore[arg-type]
    other.give("train", {}, {})
    answer, error = other.answer()
    other.close()
    assert answer is None
    assert type(error) is kind
    with pytest.raises(kind, match=told):
        raise error
    worker.give("train", {}, {})
    assert worker.answer()[1] is None


def test_a_breakpoint_in_a_worker_says_what_to_do(worker: worker_module.Worker) -> None:
    worker.give("train", {"break": True}, {})
    _, error = worker.answer()
    assert isinstance(error, WorkerError)
    assert "train.workers=1" in str(error)


def test_a_worker_that_dies_is_told_and_its_crew_works_again(tmp_path: Path) -> None:
    config = small_config(num_server_rounds=3, train__workers=2)
    healthy = run_small(tmp_path / "healthy", settings=config)
    train, fatal = Node.train, set(rounds_of(healthy)[1]["clients"])

    def dies(node: Node, order: dict[str, Any], arrays: dict[str, Any]) -> Any:
        if {job["round_num"] for job in order["jobs"]} == {2} and min(fatal) in {j["client_id"] for j in order["jobs"]}:
            os.kill(os.getpid(), signal.SIGKILL)
        return train(node, order, arrays)

    with mock.patch.object(Node, "train", dies):
        run = run_small(tmp_path, nodes=2, settings=config | {"clients.min-completed": 0.1})
    first, second, third = rounds_of(run)
    assert first == rounds_of(healthy)[0]
    assert 0 < second["completed"] < 5
    assert "exit code -9" in second["failures"][0]["error"]
    assert "train.workers" in second["failures"][0]["error"]
    assert third["completed"] == 5


def test_closing_a_worker_ends_it_though_it_is_at_work() -> None:
    hired = worker_module.Worker(Sleepy(), 1)  # type: ignore[arg-type]
    process = hired.process.pid
    hired.give("train", {"sleep": 600}, {})
    started = time.monotonic()
    hired.close()
    assert time.monotonic() - started < 60
    assert not Path(f"/proc/{process}").exists()


ORPHANS = """
import os, sys, time
import fedmoe.flower.worker as worker
worker.LOOK_UP = 0.2
class Idle: pass
hired = [worker.Worker(Idle(), 1) for _ in range(2)]
print(*(one.process.pid for one in hired), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_workers_end_when_their_node_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        workers = [int(word) for word in node.stdout.readline().split()]
        assert len(workers) == 2
        node.kill()
    deadline = time.monotonic() + 60
    while any(is_running(process) for process in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(process) for process in workers)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("asked", "threads", "device", "booked", "count"),
    [
        (0, 1, "cpu", 0, 6),
        (0, 2, "cpu", 0, 3),
        (0, 8, "cpu", 0, 1),
        (0, 1, "cpu", 4, 4),  # on Ray: those that it has booked
        (3, 1, "cpu", 0, 3),
        (0, 1, "cuda", 0, 1),
        (2, 1, "cuda", 0, 2),
    ],
)
def test_a_node_has_a_worker_for_each_of_its_cores(
    monkeypatch: pytest.MonkeyPatch, asked: int, threads: int, device: str, booked: int, count: int
) -> None:
    monkeypatch.setattr("fedmoe.flower.devices.usable_cores", lambda: 6)
    if booked:
        monkeypatch.setenv("RAY_JOB_ID", "01")
        monkeypatch.setenv("OMP_NUM_THREADS", str(booked))
    assert worker_count(asked, threads, torch.device(device)) == count


def test_a_worker_that_starts_afresh_builds_the_same_node(tmp_path: Path) -> None:
    """Where there is no fork: with several torch threads, which OpenMP does not carry over."""
    config = small_config(num_server_rounds=2)
    one = run_small(tmp_path / "one", settings=config, home=tmp_path / "home")
    started: list[str] = []
    context = worker_module.multiprocessing.get_context

    def afresh(method: str) -> Any:
        started.append("spawn")
        return context("spawn")

    with mock.patch.object(worker_module.multiprocessing, "get_context", afresh):
        two = run_small(tmp_path / "two", settings=config | {"train.workers": 2}, home=tmp_path / "home")
    assert started == ["spawn", "spawn"]
    assert newest_bytes(two) == newest_bytes(one)
    assert rounds_of(two) == rounds_of(one)


def test_one_worker_is_the_node_itself() -> None:
    crew = Crew(mock.sentinel.node, 1)
    assert crew.workers == []
    assert crew.node is mock.sentinel.node
