"""Ranking and serving many clients at once: chunks show in nothing but memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest

import fedmoe.flower.serving_node as node
from fedmoe.federation.assignment import Assignment, Rankings, top_k
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings
from fedmoe.training.sample_store import SampleStore
from tests.small import newest_bytes, rounds_of, run_small, small_config


@dataclass
class ByLoss(ExpertStrategy):
    """Each client trains the expert that has the lowest loss on its samples (IFCA)."""

    ranks_by: ClassVar[str] = "loss"

    def pool_size(self, settings: Settings) -> int:
        return 3

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        return {client: top_k(scores, 1, rng) for client, scores in rankings.items()}


KINDS = {
    "by the gate": {"evaluate.baselines": "fedavg"},
    "by lot": {"gate.name": "random"},
    "by loss": {"strategy.name": "tests.flower.test_serving:ByLoss"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_how_many_are_served_at_once_changes_no_byte(tmp_path: Path, kind: str) -> None:
    config, runs = small_config(num_server_rounds=2, evaluate__samples=30) | KINDS[kind], []
    for most in (1, 70, 8192):
        with mock.patch.object(node, "MOST_SAMPLES", most), mock.patch.object(node, "chunks", wraps=node.chunks) as cut:
            runs.append(run_small(tmp_path / str(most), settings=config, home=tmp_path / "home"))
        assert {call.args[1] for call in cut.call_args_list} == {most}
    for run in runs[1:]:
        assert newest_bytes(run) == newest_bytes(runs[0])
        assert rounds_of(run) == rounds_of(runs[0])
        assert (run / "clients.csv").read_bytes() == (runs[0] / "clients.csv").read_bytes()
    assert all(line["failures"] == [] for run in runs for line in rounds_of(run))
    assert all(line["rankings"] for line in rounds_of(runs[0]))


@pytest.mark.parametrize(("most", "chunks"), [(1, 3), (119, 3), (120, 2), (180, 1)])
def test_no_more_are_served_at_once_than_memory_shall_hold(tmp_path: Path, most: int, chunks: int) -> None:
    # Three unseen clients of 60 samples each, of which at most 30 are served; the bound counts 60.
    config = small_config(num_server_rounds=1, evaluate__samples=30)
    with (
        mock.patch.object(node, "MOST_SAMPLES", most),
        mock.patch.object(node, "serve_clients", wraps=node.serve_clients) as serve,
    ):
        run_small(tmp_path, nodes=1, settings=config)
    assert len(serve.call_args_list) == chunks
    assert sum(len(call.args[3]) for call in serve.call_args_list) == 3


def test_ranking_by_the_gate_touches_no_image(tmp_path: Path) -> None:
    real, asked = node.ServingNode.rank, []

    def rank(self: node.ServingNode, order: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
        asked.extend(order["clients"])
        with mock.patch.object(SampleStore, "load", side_effect=AssertionError("an image was read")):
            return real(self, order, arrays)

    with mock.patch.object(node.ServingNode, "rank", rank):
        run = run_small(tmp_path, settings=small_config(num_server_rounds=1))
    assert len(asked) == 3
    assert rounds_of(run)[0]["failures"] == []
