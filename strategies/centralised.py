"""Centralised training: the round's clients give their samples away; an upper bound."""

from dataclasses import dataclass, replace

import numpy as np

from fedmoe.federation.assignment import Assignment, Rankings
from fedmoe.federation.job import ClientJob
from fedmoe.flower.strategy import ExpertStrategy

__all__ = ["Centralised"]


@dataclass
class Centralised(ExpertStrategy):
    """SGD on the pooled samples of the round's clients: as many samples and steps as FedAvg's round, one after another.

    No method that keeps samples at home can be asked for more. Momentum starts anew in each round. The ledger counts
    the model to and from one client, which means nothing here.

    Attributes:
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    init: str = "common"

    def assign(self, round_num: int, rankings: Rankings, rng: np.random.Generator) -> Assignment:
        """Returns the model for one client, which does the work for all."""
        self.together = tuple(sorted(rankings))
        return {self.together[0]: (0,)} if self.together else {}

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns the work on everybody's samples."""
        return replace(super().job(round_num, client_id, held), pooled=self.together)
