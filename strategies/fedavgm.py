"""FedAvgM: one model, moved by the server with momentum."""

from dataclasses import dataclass

from fedmoe.errors import SettingsError
from fedmoe.federation.server_optimiser import Momentum, no_batch_norm, stepped
from fedmoe.federation.state import ServerState
from fedmoe.flower.replies import Replies
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings

__all__ = ["FedAvgM"]


@dataclass
class FedAvgM(ExpertStrategy):
    """FedAvg with server momentum (Hsu et al., arXiv 1909.06335, section 4.2); bytes and serving are FedAvg's.

    Attributes:
        rate: server learning rate, above 0.
        momentum: in [0, 1).
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    rate: float = 1.0
    momentum: float = 0.9
    init: str = "common"

    def __post_init__(self) -> None:
        if self.rate <= 0 or not 0 <= self.momentum < 1:
            raise SettingsError(
                f"strategy.fedavgm needs rate > 0 and momentum in [0, 1), got {self.rate} and {self.momentum}"
            )

    def check(self, settings: Settings) -> None:
        """Refuses BatchNorm, whose variances a server's step could make negative."""
        super().check(settings)
        no_batch_norm(settings)

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the state moved with momentum."""
        merged = super().merge(round_num, state, updates)
        return stepped(Momentum(self.rate, self.momentum), state, merged, updates.sums.weights)
