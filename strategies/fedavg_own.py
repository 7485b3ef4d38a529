"""FedAvg whose clients keep a few numbers of the model for themselves."""

from dataclasses import dataclass, replace

from fedmoe.errors import SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import ClientJob
from fedmoe.flower.strategy import ExpertStrategy

__all__ = ["FedAvgOwn"]


@dataclass
class FedAvgOwn(ExpertStrategy):
    """FedAvg, but for the tensors that fit `own`: of them each client trains and keeps its own copy.

    That is how FedBN (Li et al., arXiv 2102.07623) keeps normalisation; here it is, for one, the range of an expanded
    activation (`experts.model='expanded'`). What is kept is also sent, for an unseen client has none: the clients' mean
    serves it. So bytes and work are FedAvg's.

    Attributes:
        own: patterns of names of the expert's tensors, separated by commas; `*` stands for anything.
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    own: str = "*.range"
    init: str = "common"

    def __post_init__(self) -> None:
        if not all("*" in pattern for pattern in self.patterns()):
            raise SettingsError(
                f"strategy.fedavg_own.own must be patterns with a *, got '{self.own}'; hint: '*.range', '*.bias'"
            )

    def patterns(self) -> tuple[str, ...]:
        """Returns the patterns, one by one."""
        return tuple(pattern.strip() for pattern in self.own.split(","))

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns FedAvg's job with private tensors."""
        return replace(super().job(round_num, client_id, held), private=self.patterns())

    def serving(self) -> Serving:
        """Returns: by the model; a training client with its own tensors."""
        return Serving(top_k=1, private=self.patterns())
