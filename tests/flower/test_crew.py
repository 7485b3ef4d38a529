"""A node's worker processes: they change no byte, they fail in words, and they end when they should."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from fedmoe.flower.replies import Replies
from fedmoe.flower.slab import Slab
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.flower.worker import Worker
from tests.small import newest_bytes, rounds_of, run_small, small_config

CPU = torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {
    "fedjets": {"evaluate.baselines": "fedavg", "evaluate.ema": 0.5},
    "fedjets, stacked": {"train.trainer": "stacked", "train.epochs": 2, "evaluate.baselines": "fedavg"},
    "random gate, CNN": {
        "gate.name": "random",
        "experts.model": "cnn",
        "experts.width": 2,
        "train.layout": "contiguous",  # it would be measured, and the two layouts differ in the last bits
    },
    "scaffold and ditto": {"strategy.name": "scaffold", "evaluate.baselines": "ditto"},
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


@pytest.mark.parametrize("nodes", [1, 3])
def test_nodes_in_threads_have_a_crew_each_whichever_thread_it_is(monkeypatch: pytest.MonkeyPatch, nodes: int) -> None:
    made: list[int] = []
    monkeypatch.setattr(client, "Node", lambda *_, **__: made.append(1))
    monkeypatch.setattr(client, "Crew", lambda *_: mock.Mock())
    monkeypatch.setattr(client, "_device", lambda _, partition: torch.device("cuda", partition))
    config = small_config()

    def ask(partition: int) -> Any:
        own = {"partition-id": partition, "num-partitions": nodes}
        return client._crew({"plan": {}}, mock.Mock(run_config=config, node_config=own))

    pools = [ThreadPoolExecutor(1) for _ in range(nodes)]
    for turn in range(3):  # each node's order goes to another thread every time
        for partition in range(nodes):
            pools[(partition + turn) % nodes].submit(ask, partition).result()
    for pool in pools:
        pool.shutdown()
    assert len(made) == nodes, "as many crews as nodes, not as threads times nodes"
    monkeypatch.setattr(client, "_device", lambda *_: CPU)
    assert {id(ask(partition)) for partition in range(nodes)} == {id(ask(0))}, "in turn in one thread they share one"
    assert len(made) == nodes + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 5])
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, seed: int, kind: str) -> None:
    config = small_config(seed=seed, num_server_rounds=2) | KINDS[kind]
    home, at_work = tmp_path / "home", []

    def hired(node: Node, threads: int, given: Slab | None) -> Worker:
        at_work.append(Worker(node, threads, given))
        return at_work[-1]

    fixed = 2 if kind == "Flower's own" else 0  # to its strategies a node is a client, and one is too few
    one = run_small(tmp_path / "one", nodes=fixed or 1, settings=config, home=home)
    for workers, nodes in ((2, fixed or 1), (3, fixed or 2)):
        at_work.clear()
        with mock.patch.object(crew_module, "Worker", hired):
            other = run_small(
                tmp_path / str(workers), nodes=nodes, settings=config | {"train.workers": workers}, home=home
            )
        assert len(at_work) == workers - 1  # the node itself is one of them
        assert newest_bytes(other) == newest_bytes(one)
        assert rounds_of(other) == rounds_of(one)
        assert (other / "clients.csv").read_bytes() == (one / "clients.csv").read_bytes()
        assert kept_by_clients(other) == kept_by_clients(one)
    assert bool(kept_by_clients(one)) == ("ditto" in kind)


def kept_by_clients(run: Path) -> dict[str, bytes]:
    """Returns the files of what clients keep, of all methods."""
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("client-states/*/*")}


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
        told = {"process": os.getpid(), "threads": torch.get_num_threads()}
        return told, {name: array * 2 for name, array in arrays.items()}


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.fixture
def worker() -> Iterator[Worker]:
    hired = Worker(Sleepy(), 1, Slab())  # type: ignore[arg-type]
    yield hired
    hired.close()


@pytest.mark.parametrize("fork", [True, False])
def test_a_worker_answers_in_a_process_of_its_own(fork: bool) -> None:
    slab = Slab() if fork else None
    worker = Worker(Sleepy(), 1, slab)  # type: ignore[arg-type]
    for value, size in enumerate((3, 100_000, 0, 20, 200_000)):
        arrays = {"a": np.full((size, 2), value), "b": np.array([value], dtype=np.int64), "c": np.float32(value)[None]}
        worker.give("train", {}, arrays if slab is None else slab.write(arrays))
        told, got, error = worker.answer()
        assert error is None
        assert told["process"] != os.getpid()
        assert told["threads"] == 1
        for name, array in arrays.items():
            assert got[name].dtype == array.dtype
            np.testing.assert_array_equal(got[name], 2 * array)
    worker.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_slab_gives_back_what_was_written_and_keeps_to_its_memory(seed: int) -> None:
    rng, slab = np.random.default_rng(seed), Slab()
    for _ in range(5):
        arrays = {
            str(i): rng.normal(size=rng.integers(0, 50, rng.integers(1, 4))).astype(rng.choice(["f4", "f8", "i8"]))
            for i in range(rng.integers(0, 6))
        }
        table = slab.write(arrays)
        for name, got in slab.read(table).items():
            assert got.dtype == arrays[name].dtype
            assert got.tobytes() == arrays[name].tobytes()
            assert got.ctypes.data % 64 == 0 or got.size == 0
    size = os.fstat(slab.file).st_size
    slab.write({"small": np.zeros(3)})
    assert os.fstat(slab.file).st_size == size
    slab.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(slab.file)


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (ArithmeticError("no"), ArithmeticError, "^no$"),
        (Unpicklable(1, 2), WorkerError, "Unpicklable: 1 and 2"),
    ],
)
def test_what_is_raised_in_a_worker_comes_back(
    worker: Worker, raised: Exception, kind: type[Exception], told: str
) -> None:
    with mock.patch.object(Sleepy, "train", side_effect=raised):
        other = Worker(Sleepy(), 1, Slab())  # type: ignore[arg-type]
    other.give("train", {}, [])
    answer, arrays, error = other.answer()
    other.close()
    assert answer is None
    assert arrays == {}
    assert type(error) is kind
    with pytest.raises(kind, match=told):
        raise error
    worker.give("train", {}, [])
    assert worker.answer()[2] is None


def test_a_breakpoint_in_a_worker_says_what_to_do(worker: Worker) -> None:
    worker.give("train", {"break": True}, [])
    _, _, error = worker.answer()
    assert isinstance(error, WorkerError)
    assert "train.workers=1" in str(error)


def test_a_worker_that_dies_is_told_and_its_crew_works_again(tmp_path: Path) -> None:
    config = small_config(num_server_rounds=3, train__workers=2)
    healthy = run_small(tmp_path / "healthy", settings=config)
    train, here, dead = Node.train, os.getpid(), tmp_path / "dead"

    def dies(node: Node, order: dict[str, Any], arrays: dict[str, Any]) -> Any:
        if os.getpid() != here and order["jobs"][0]["round_num"] == 2 and not dead.exists():
            dead.touch()
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
    hired = Worker(Sleepy(), 1, Slab())  # type: ignore[arg-type]
    process = hired.process.pid
    hired.give("train", {"sleep": 600}, [])
    started = time.monotonic()
    hired.close()
    assert time.monotonic() - started < 60
    assert not Path(f"/proc/{process}").exists()


HIRED = """
import time
import fedmoe.flower.worker as worker
from fedmoe.flower.slab import Slab
worker.LOOK_UP = 0.2
class Talker:
    def rank(self, order, arrays):
        return {"words": "x" * 10_000_000}
hired = [worker.Worker(Talker(), 1, Slab()) for _ in range(2)]
print(*(one.process.pid for one in hired), flush=True)
"""
STATES = {"idle": "", "in the middle of an answer": "for one in hired: one.give('rank', {}, [])\n"}


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
@pytest.mark.parametrize("state", STATES)
def test_workers_end_when_their_node_is_killed(state: str) -> None:
    program = f"{HIRED}{STATES[state]}print('given', flush=True)\ntime.sleep(600)\n"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        workers = [int(word) for word in node.stdout.readline().split()]
        assert len(workers) == 2
        node.stdout.readline()
        time.sleep(0.5)  # for an answer to fill the pipe
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
    context = worker_module.multiprocessing.get_context
    with (
        mock.patch.object(crew_module, "can_fork", return_value=False),
        mock.patch.object(worker_module.multiprocessing, "get_context", wraps=context) as asked,
    ):
        two = run_small(tmp_path / "two", settings=config | {"train.workers": 2}, home=tmp_path / "home")
    assert [call.args for call in asked.call_args_list] == [("spawn",)]
    assert newest_bytes(two) == newest_bytes(one)
    assert rounds_of(two) == rounds_of(one)


def test_one_worker_is_the_node_itself() -> None:
    crew = Crew(mock.sentinel.node, 1)
    assert crew.workers == []
    assert crew.node is mock.sentinel.node


def test_an_order_that_is_broken_off_leaves_no_answer_for_the_next_one(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a round, and the same run again in the same process (a notebook)."""
    config = small_config(num_server_rounds=2, train__workers=2)
    whole = run_small(tmp_path / "whole", settings=config, home=tmp_path / "home")
    train, here, broken = Node.train, os.getpid(), []

    def breaks(node: Node, order: dict[str, Any], arrays: dict[str, Any]) -> Any:
        if os.getpid() == here and not broken:
            broken.append(order)
            raise KeyboardInterrupt
        return train(node, order, arrays)

    with mock.patch.object(Node, "train", breaks):
        with pytest.raises(KeyboardInterrupt):
            run_small(tmp_path / "one", settings=config, home=tmp_path / "home")
        again = run_small(tmp_path / "one", settings=config, home=tmp_path / "home")
    assert newest_bytes(again) == newest_bytes(whole)
    assert rounds_of(again) == rounds_of(whole)


def test_several_failures_are_told_in_one_order_whoever_works(tmp_path: Path) -> None:
    config = small_config(num_server_rounds=2, strategy__name="tests.faulty:Faulty", clients__min_completed=0.1)
    config |= {"strategy.faulty.victims": ",".join(map(str, range(0, 12, 2))), "strategy.faulty.kind": "raise"}
    config["train.trainer"] = "stacked"
    runs = [
        run_small(tmp_path / str(n), nodes=nodes, settings=config | {"train.workers": n})
        for n, nodes in ((1, 1), (2, 1), (3, 2))
    ]
    assert len(rounds_of(runs[0])[1]["failures"]) > 1
    assert rounds_of(runs[1]) == rounds_of(runs[0]) == rounds_of(runs[2])
