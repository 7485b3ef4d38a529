"""Experts chosen and sent a round ahead, in small runs: what is saved, what is wasted, what stays the same."""

import shutil
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from flwr.app import Message

from fedmoe.flower.local_grid import LocalGrid
from fedmoe.flower.node import Node
from fedmoe.settings import from_flat
from strategies.prefetch import moved
from tests.by_hand import ByHand
from tests.small import BackwardsGrid, newest_bytes, newest_state, rounds_of, run_small, small_config

ROUNDS = 4


def config_of(over: str = "fedjets", version: str = "ahead", **changes: Any) -> dict[str, Any]:
    own = {"strategy.prefetch.over": over, "strategy.prefetch.version": version}
    return small_config(strategy__name="prefetch", num_server_rounds=ROUNDS, **changes) | own


def alone(folder: Path, over: str = "fedjets", **changes: Any) -> Path:
    return run_small(folder, settings=small_config(strategy__name=over, num_server_rounds=ROUNDS, **changes))


class CountingGrid(LocalGrid):
    """A grid that counts messages by their type."""

    counts: ClassVar[Counter[tuple[str, str]]] = Counter()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        listed = list(messages)
        for message in listed:
            self.counts[message.metadata.message_type, message.metadata.group_id] += 1
        return super().push_messages(listed)


def asked(run: Path) -> set[str]:
    return {round_num for kind, round_num in CountingGrid.counts if kind == "query.rank"}


@pytest.mark.parametrize(("over", "wanted"), [("fedjets", {"1"}), ("fedprints", {"1"})])
@pytest.mark.parametrize("version", ["ahead", "latest"])
def test_only_the_first_round_waits_for_rankings(tmp_path: Path, over: str, wanted: set[str], version: str) -> None:
    census = {"strategy.fedprints.census": 4}
    CountingGrid.counts = Counter()
    plain = run_small(
        tmp_path, grid=CountingGrid, settings=small_config(strategy__name=over, num_server_rounds=ROUNDS) | census
    )
    assert asked(plain) >= {"1"} | ({"2"} if over != "fedprints" else set())
    CountingGrid.counts = Counter()
    run = run_small(
        tmp_path / "ahead", grid=CountingGrid, settings=config_of(over, version) | census, home=tmp_path / "home"
    )
    assert asked(run) == wanted
    assert [line["prefetch"]["exchanges"] for line in rounds_of(run)] == [2, 1, 1, 1]
    assert [line["clients"] for line in rounds_of(run)] == [line["clients"] for line in rounds_of(plain)]


def test_a_round_goes_by_the_rankings_of_the_gate_before(tmp_path: Path) -> None:
    everybody = {"clients__per_round": 12, "clients__anchors_per_round": 3}
    lines = rounds_of(run_small(tmp_path, settings=config_of(version="latest", **everybody)))
    plain = rounds_of(alone(tmp_path / "plain", **everybody))
    assert lines[0]["rankings"] == lines[1]["rankings"] == plain[0]["rankings"], "both by the first gate"
    assert lines[1]["assignment"] == lines[0]["assignment"]
    assert lines[2]["rankings"] != lines[1]["rankings"]
    for line, following in pairwise(lines[1:]):
        # who is in both rounds has ranked once, by the gate of the first: that is hit and miss of this round
        both = [c for c in line["rankings"] if c in following["rankings"]]
        hits = sum(len(set(line["assignment"][c]) & set(following["assignment"][c])) for c in both)
        told = line["prefetch"]
        assert (told["hits"], told["judged"]) == (hits, 2 * len(both)), "K = 2; anchors are not judged"
        assert told["hit_rate"] == pytest.approx(hits / told["judged"], abs=1e-6)
        assert told["copies"] == 2 * len(both) + 3
    assert lines[0]["prefetch"]["copies"] == 0


def test_where_the_choice_never_changes_the_latest_version_is_the_strategy_alone_to_the_byte(tmp_path: Path) -> None:
    plain = alone(tmp_path, "fedprints")
    run = run_small(tmp_path / "ahead", settings=config_of("fedprints", "latest"), home=tmp_path / "home")
    one, two = newest_state(plain), newest_state(run)
    for own, other in zip(one.experts, two.experts, strict=True):
        assert own.tobytes() == other.tobytes()
    for mine, theirs in zip(rounds_of(plain), rounds_of(run), strict=True):
        assert mine["evaluate"] == theirs["evaluate"]
        told = theirs["prefetch"]
        assert told["bytes_wasted"] == told["bytes_outdated"], "each group's expert goes twice where it has changed"
        assert theirs["bytes"]["down"] - mine["bytes"]["down"] == told["bytes_outdated"]
        assert theirs["bytes"]["up"] == mine["bytes"]["up"]


@pytest.mark.parametrize("trainer", ["loop", "stacked"])
def test_a_model_sent_ahead_is_moved_by_what_training_has_changed_of_its_version_before(
    tmp_path: Path, trainer: str
) -> None:
    config = config_of("fedavg", train__trainer=trainer) | {"strategy.fedavg.init": "random"}
    hand, run = ByHand(from_flat(config)), run_small(tmp_path, settings=config)
    before = now = hand.start
    for r in range(1, ROUNDS + 1):
        clients = hand.sampled(r)
        sizes = torch.tensor([len(hand.who.shards[client]) for client in clients], dtype=torch.float32)
        ends = torch.stack([hand.train(client, r, before) for client in clients])
        change = (ends * sizes[:, None]).sum(dim=0) / sizes.sum() - before
        before, now = now, now + change
    np.testing.assert_allclose(newest_state(run).experts[0], now, rtol=0, atol=3e-5)


@pytest.mark.parametrize("version", ["ahead", "latest"])
def test_the_ledger_counts_the_gate_for_those_who_rank_and_what_is_sent_again(tmp_path: Path, version: str) -> None:
    run = run_small(tmp_path, settings=config_of(version=version))
    state, lines = newest_state(run), rounds_of(run)
    gate, expert, indices = 4 * state.gate.size, 4 * state.experts[0].size, 4 * 2  # type: ignore[union-attr]
    normal = [{c for c in line["clients"] if c >= 3} for line in lines]
    for number, line in enumerate(lines):
        copies = sum(len(held) for held in line["assignment"].values())
        following = normal[number + 1] if number + 1 < ROUNDS else set()
        strangers = following - set(line["clients"])
        again = normal[number] if number else following & normal[number]
        down = gate * (len(line["clients"]) + len(strangers)) + expert * copies
        down += line["prefetch"]["bytes_outdated"] if version == "latest" else 0
        up = (
            gate * len(line["clients"])
            + expert * copies
            + indices * len(strangers | (again | following & normal[number]))
        )
        up += 0 if number else indices * len(normal[0])
        assert (line["bytes"]["down"], line["bytes"]["up"]) == (down, up), number
        told = line["prefetch"]
        misses = expert * (told["judged"] - told["hits"])
        assert told["bytes_ahead"] == (expert * copies if number else 0)
        assert misses <= told["bytes_wasted"] <= told["bytes_ahead"]
        assert told["bytes_wasted"] == misses or version == "latest"


@pytest.mark.parametrize("over", ["fedjets", "fedprints", "ifca"])
@pytest.mark.parametrize(("nodes", "grid", "workers"), [(1, LocalGrid, 1), (4, BackwardsGrid, 1), (2, LocalGrid, 2)])
def test_nodes_and_workers_change_no_byte(
    tmp_path: Path, over: str, nodes: int, grid: type[LocalGrid], workers: int
) -> None:
    one = run_small(tmp_path / "one", settings=config_of(over))
    other = run_small(
        tmp_path / "other",
        nodes=nodes,
        grid=grid,
        settings=config_of(over, train__workers=workers),
        home=tmp_path / "one" / "home",
    )
    assert newest_bytes(one) == newest_bytes(other)
    assert [line["prefetch"] for line in rounds_of(one)] == [line["prefetch"] for line in rounds_of(other)]


@pytest.mark.parametrize("version", ["ahead", "latest"])
def test_a_resumed_run_goes_on_with_what_was_sent_ahead(tmp_path: Path, version: str) -> None:
    whole = run_small(tmp_path / "whole", settings=config_of(version=version))
    cut_off = tmp_path / "cut off"
    shutil.copytree(whole, cut_off)
    (cut_off / "checkpoints" / f"round-{ROUNDS:06d}.safetensors").unlink()
    run = run_small(
        tmp_path, settings=config_of(version=version) | {"resume": str(cut_off)}, home=tmp_path / "whole" / "home"
    )
    assert newest_bytes(run) == newest_bytes(whole)
    assert rounds_of(run) == rounds_of(whole)


def test_who_cannot_rank_ahead_of_time_is_asked_when_its_round_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gone = Node.rank, 0

    def rank(self: Node, order: Any, arrays: Any) -> dict[str, Any]:
        nonlocal gone
        if order["round"] != 1 or "jobs" not in order:
            return real(self, order, arrays)
        gone = max(gone, len(order["clients"]))
        lost = [
            {"stage": "rank", "client_id": client, "round_num": order["round"], "error": "gone"}
            for client in order["clients"]
        ]
        return {"rankings": {}, "failures": lost}

    monkeypatch.setattr(Node, "rank", rank)
    lines = rounds_of(run_small(tmp_path, settings=config_of()))
    assert gone
    assert [line["prefetch"]["exchanges"] for line in lines] == [2, 2, 1, 1]
    assert all(line["completed"] == 5 for line in lines), "a ranking that failed ahead of time costs no training"
    assert {failure["stage"] for failure in lines[0]["failures"]} == {"rank"}


@pytest.mark.parametrize("seed", range(5))
def test_what_is_moved(seed: int) -> None:
    rng = np.random.default_rng(seed)
    current, before, after = (rng.standard_normal(50).astype(np.float32) for _ in range(3))
    found = moved(current, before, after)
    np.testing.assert_allclose(found, current + (after - before), rtol=0, atol=1e-6)
    assert found.dtype == np.float32
    assert moved(current, before, before) is current, "an expert that nobody trained keeps its bytes"
    assert moved(current, current.copy(), after) is after, "one that is not outdated is merged as ever"
