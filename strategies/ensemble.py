"""Average ensemble: some models trained by federated averaging, apart from each other; their outputs are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedmoe.errors import SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.assignment import Assignment, Rankings
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings

__all__ = ["Ensemble"]


@dataclass
class Ensemble(ExpertStrategy):
    """As many FedAvg models as asked for, averaged when they predict (the baseline of arXiv 2306.08586, table 1).

    Each round the clients are dealt out by lot, equally many to each model, so that bytes and work are FedAvg's. An
    unseen client gets all the models: the mean of their probabilities.

    Attributes:
        models: how many, at least 1; the paper has 2.
        init: where the models start: `common`, `random`, or empty: as `experts.init` says.
    """

    models: int = 2
    init: str = "common"

    def __post_init__(self) -> None:
        if self.models < 1:
            raise SettingsError(f"strategy.ensemble.models must be at least 1, got {self.models}")

    def pool_size(self, settings: Settings) -> int:
        """Returns the number of models."""
        return self.models

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns a model for each client, by lot."""
        clients: Sequence[int] = rng.permutation(sorted(rankings)).tolist()
        return {client: (index % self.models,) for index, client in enumerate(clients)}

    def traffic(self) -> int:
        """Returns 2: a client gets and sends one of the models."""
        return 2

    def serving(self) -> Serving:
        """Returns: the mean of all models' probabilities."""
        return Serving(top_k=self.models, answer="mixture")
