"""IFCA: clients gather around the model that fits them best."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedmoe.evaluation.serving import Serving
from fedmoe.federation.assignment import Assignment, Rankings, top_k
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings

__all__ = ["IFCA"]


@dataclass
class IFCA(ExpertStrategy):
    """Iterative federated clustering, model averaging (Ghosh et al., arXiv 2006.04088, algorithm 1, option II).

    Each client gets all M models, finds the one with the least loss on its labelled samples and trains that one. The
    paper has no word on a client without labels: here it takes the model that is surest of its inputs, by the least
    mean entropy of the predictions. Whether that finds the right one is what the figure shows.

    Attributes:
        init: where the models start; from one common start they could never part, so `random` by default.
    """

    init: str = "random"

    ranks_by: ClassVar[str] = "loss"

    def pool_size(self, settings: Settings) -> int:
        """Returns M."""
        return settings.experts.num

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns each client's best model."""
        return {client: top_k(scores, 1, rng) for client, scores in rankings.items()}

    def traffic(self) -> int:
        """Returns M + 1: a client gets all models and sends its own."""
        return self.num_experts + 1

    def serving(self) -> Serving:
        """Returns: the one model that is surest of the client's inputs."""
        return Serving(top_k=1, by="confidence", aggregation="mean-logit")

    def ranking_indices(self) -> int:
        """Returns 1: a client names its cluster."""
        return 1
