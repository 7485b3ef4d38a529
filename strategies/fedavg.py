"""FedAvg: one model, averaged."""

from dataclasses import dataclass

from fedmoe.flower.strategy import ExpertStrategy

__all__ = ["FedAvg"]


@dataclass
class FedAvg(ExpertStrategy):
    """Federated averaging weighted by examples (McMahan et al., arXiv 1602.05629, algorithm 1).

    Everything is what `ExpertStrategy` does by default: a pool of one, all clients hold it.

    Attributes:
        init: where the model starts: `common` (as FedJETs' paper starts its baselines), `random`, or empty: as
            `experts.init` says.
    """

    init: str = "common"
