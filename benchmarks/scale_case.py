"""One configuration of the scaling benchmark, and the settings that make it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["SAMPLES", "TEST_SAMPLES", "Case"]

SAMPLES = 16  # a client's, on the average
PUBLIC = 1_000
TEST_SAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """How large everything is.

    Attributes:
        clients: training clients, anchors among them.
        per_round: clients sampled in a round.
        experts: M; K is 2.
        nodes: nodes of the in-process grid.
        rounds: rounds; the last one is evaluated.
        workers: processes that share a node's work, a torch thread each; 0: one a core.
        labels: number of classes; at least M, for each expert has an anchor client with labels of its own.
    """

    clients: int
    per_round: int
    experts: int = 5
    nodes: int = 1
    rounds: int = 20
    workers: int = 0
    labels: int = 10

    @property
    def train_samples(self) -> int:
        """Training samples: those of the clients and the public split."""
        return self.clients * SAMPLES + PUBLIC

    def settings(self, data: Path) -> dict[str, Any]:
        """Returns the flat settings, for data in the folder `data`."""
        anchors = min(self.experts, self.per_round // 2)
        return {
            "num-server-rounds": self.rounds,
            "data.name": "benchmarks.scale_data:stored",
            "data.root": str(data),
            "data.public-samples": PUBLIC,
            "clients.num": self.clients,
            "clients.per-round": self.per_round,
            "clients.anchors-per-round": anchors,
            "clients.partition": "iid",
            "clients.unseen": 10,
            "common-expert.epochs": 2,
            "gate.hidden": 16,
            "experts.num": self.experts,
            "experts.top-k": 2,
            "experts.width": 16,
            "train.batch-size": 16,
            "train.workers": self.workers,
            "train.device": "cpu",
            "evaluate.every": 1_000_000,
        }
