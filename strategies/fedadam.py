"""FedAdam: one model, moved by the server with Adam."""

from dataclasses import dataclass

from fedmoe.errors import SettingsError
from fedmoe.federation.server_optimiser import Adam, no_batch_norm, stepped
from fedmoe.federation.state import ServerState
from fedmoe.flower.replies import Replies
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings

__all__ = ["FedAdam"]


@dataclass
class FedAdam(ExpertStrategy):
    """FedAdam (Reddi et al., arXiv 2003.00295, algorithm 2); bytes and serving are FedAvg's.

    Attributes:
        rate: server learning rate, above 0.
        beta_1: of the change's mean, in [0, 1).
        beta_2: of its square's, in [0, 1).
        tau: how adaptive it is: the smaller, the more; above 0.
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    rate: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 0.001
    init: str = "common"

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.tau <= 0 or not (0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1):
            raise SettingsError(
                "strategy.fedadam needs rate > 0, tau > 0 and both betas in [0, 1), got "
                f"{self.rate}, {self.tau}, {self.beta_1} and {self.beta_2}"
            )

    def check(self, settings: Settings) -> None:
        """Refuses BatchNorm, whose variances a server's step could make negative."""
        super().check(settings)
        no_batch_norm(settings)

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the state moved by Adam."""
        merged = super().merge(round_num, state, updates)
        adam = Adam(self.rate, self.beta_1, self.beta_2, self.tau)
        return stepped(adam, state, merged, updates.sums.weights)
