"""A client or a node that fails: named, counted, left out; the round goes on, unless too few are left."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from flwr.app import Message

import fedmoe.flower.serving_node as node
from fedmoe.errors import RoundError
from fedmoe.flower.local_grid import LocalGrid
from fedmoe.recording.checkpoints import load_checkpoint
from tests.small import newest_bytes, rounds_of, run_small, small_config


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which nobody fails."""
    return run_small(tmp_path_factory.mktemp("healthy"), settings=faulty(""))


def faulty(clients: str, kind: str = "raise", **changes: Any) -> dict[str, Any]:
    return small_config(num_server_rounds=3, strategy__name="tests.faulty:Faulty", **changes) | {
        "strategy.faulty.victims": clients,
        "strategy.faulty.kind": kind,
    }


def sampled(run: Path, round_num: int) -> list[int]:
    return rounds_of(run)[round_num - 1]["clients"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [("raise", "ArithmeticError: this client cannot count"), ("nan", "NaN or infinite"), ("1e12", "has grown beyond")],
)
def test_a_failing_client_is_named_and_left_out(tmp_path: Path, healthy: Path, kind: str, told: str) -> None:
    victim, *others = sampled(healthy, 2)
    run = run_small(tmp_path, settings=faulty(str(victim), kind))
    first, second, third = rounds_of(run)
    assert first == rounds_of(healthy)[0]
    assert second["clients"] == [victim, *others]
    (failure,) = second["failures"]
    assert (failure["stage"], failure["client"], failure["round"]) == ("train", victim, 2)
    assert told in failure["error"]
    assert second["completed"] == 4
    assert third["failures"] == []
    assert third["completed"] == 5
    assert json.loads((run / "summary.json").read_text())["failures"] == 1
    state = load_checkpoint(max((run / "checkpoints").iterdir())).arrays
    assert all(np.isfinite(array).all() for array in state.values())


@pytest.mark.parametrize(("kind", "nodes"), [("nan", 1), ("nan", 3), ("1e12", 1)])
def test_however_a_client_fails_the_others_work_is_the_same(
    tmp_path: Path, healthy: Path, kind: str, nodes: int
) -> None:
    # One that raises on its first batch has left nothing behind; one that diverges must not either.
    victim = str(sampled(healthy, 2)[0])
    raised = run_small(tmp_path / "raised", nodes=2, settings=faulty(victim))
    other = run_small(tmp_path / "other", nodes=nodes, settings=faulty(victim, kind))
    assert newest_bytes(other) == newest_bytes(raised) != newest_bytes(healthy)
    for one, two in zip(rounds_of(other), rounds_of(raised), strict=True):
        assert one | {"failures": []} == two | {"failures": []}


def test_too_few_clients_end_the_run(tmp_path: Path, healthy: Path) -> None:
    victims = sampled(healthy, 2)[:3]
    clients = ",".join(map(str, victims))
    with pytest.raises(RoundError, match=r"round 2: at least 50% .*min-completed.* got 2 of 5; first failure: client"):
        run_small(tmp_path, settings=faulty(clients))
    (run,) = (tmp_path / "runs").iterdir()
    assert [line["round"] for line in rounds_of(run)] == [1]
    lenient = run_small(tmp_path / "lenient", settings=faulty(clients, clients__min_completed=0.4))
    assert rounds_of(lenient)[1]["completed"] == 2
    assert sorted(failure["client"] for failure in rounds_of(lenient)[1]["failures"]) == sorted(victims)


def test_a_round_without_any_update_ends_the_run_however_lenient(tmp_path: Path, healthy: Path) -> None:
    everyone = ",".join(map(str, sampled(healthy, 2)))
    with pytest.raises(RoundError, match=r"round 2.* got 0 of 5"):
        run_small(tmp_path, settings=faulty(everyone, clients__min_completed=0.0))


def test_a_client_that_cannot_rank_takes_no_part(tmp_path: Path, healthy: Path) -> None:
    anchors = {0, 1, 2}
    victim = next(client for client in sampled(healthy, 1) if client not in anchors)
    real = node.lots_of

    def lots(seed: int, stage: str, round_num: int, client_id: int, num_experts: int) -> Any:
        if (stage, round_num, client_id) == ("rank", 1, victim):
            raise OSError("no embeddings here")
        return real(seed, stage, round_num, client_id, num_experts)

    with mock.patch.object(node, "lots_of", lots):
        run = run_small(tmp_path, settings=faulty(""))
    line = rounds_of(run)[0]
    (failure,) = line["failures"]
    assert (failure["stage"], failure["client"], failure["round"]) == ("rank", victim, 1)
    assert "OSError: no embeddings here" in failure["error"]
    assert victim in line["clients"]
    assert str(victim) not in line["assignment"]
    assert line["completed"] == 4


def test_an_unseen_client_that_fails_is_named(tmp_path: Path) -> None:
    real = node.served_ids

    def served(population: Any, client_id: int, limit: int, seed: int) -> Any:
        if client_id == 13:
            raise OSError("no samples here")
        return real(population, client_id, limit, seed)

    with mock.patch.object(node, "served_ids", served):
        run = run_small(tmp_path, settings=small_config(num_server_rounds=1))
    (line,) = rounds_of(run)
    (failure,) = line["failures"]
    assert (failure["stage"], failure["client"], failure["round"]) == ("evaluate", 13, 1)
    assert [row["client_id"] for row in line["evaluate"]["clients"]] == [12, 14]
    (note,) = [text for text in json.loads((run / "summary.json").read_text())["notes"] if "2 of 3" in text]
    assert "its means are theirs" in note


class DyingGrid(LocalGrid):
    """Node 1002 fails when it is to train for the second time."""

    def _answer(self, message: Message) -> Message:
        doomed = message.metadata.message_type == "train" and message.metadata.group_id == "2"
        if doomed and message.metadata.dst_node_id == 1002:
            del message.content["text"]
        return super()._answer(message)


class SilentGrid(LocalGrid):
    """Node 1002 never answers when it is to train for the second time."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        kept = [
            message
            for message in messages
            if (message.metadata.message_type, message.metadata.group_id, message.metadata.dst_node_id)
            != ("train", "2", 1002)
        ]
        return super().push_messages(kept)


@pytest.mark.parametrize(("grid", "told"), [(DyingGrid, "the node failed"), (SilentGrid, "did not answer in time")])
def test_every_client_of_a_dead_node_is_named(tmp_path: Path, healthy: Path, grid: type[LocalGrid], told: str) -> None:
    config = small_config(num_server_rounds=3, clients__min_completed=0.2)
    run = run_small(tmp_path, nodes=2, settings=config, grid=grid)
    lines = rounds_of(run)
    lost = [failure["client"] for failure in lines[1]["failures"]]
    assert 0 < len(lost) < 5
    assert set(lost) <= set(lines[1]["clients"])
    assert all(failure["stage"] == "train" and told in failure["error"] for failure in lines[1]["failures"])
    assert lines[1]["completed"] == 5 - len(lost)
    assert lines[2]["failures"] == []
    assert lines[0]["assignment"] == rounds_of(healthy)[0]["assignment"]
