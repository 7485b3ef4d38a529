"""FedProx: FedAvg whose clients stay near what they received."""

from dataclasses import dataclass, replace

from fedmoe.errors import SettingsError
from fedmoe.federation.job import ClientJob, Term
from fedmoe.flower.strategy import ExpertStrategy

__all__ = ["FedProx"]


@dataclass
class FedProx(ExpertStrategy):
    """FedAvg plus `mu / 2 ||w - w_received||^2` in each client's loss (Li et al., arXiv 1812.06127, equation 2).

    Attributes:
        mu: strength of the proximal term, at least 0.
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    mu: float = 0.01
    init: str = "common"

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise SettingsError(f"strategy.fedprox.mu must be at least 0, got {self.mu}")

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns FedAvg's job with the proximal term."""
        job = super().job(round_num, client_id, held)
        return replace(job, objective=(*job.objective, Term("prox", {"mu": self.mu})))
