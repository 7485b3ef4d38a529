"""Ditto: a global model, and beside it a personal one for each client that stays near it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedmoe.errors import SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import PARTS, ClientJob, Term
from fedmoe.flower.strategy import ExpertStrategy

__all__ = ["Ditto"]


@dataclass
class Ditto(ExpertStrategy):
    """Ditto (Li et al., arXiv 2012.04221, algorithm 1): FedAvg, and `min F_k(v_k) + lambda / 2 ||v_k - w||^2` as well.

    The personal model is trained after the client's share of the global one, from where it was left, kept on disk, and
    never sent: bytes are FedAvg's, work is twice as much. An unseen client has no personal model: the global one serves
    it, so its figures are those of FedAvg.

    Attributes:
        strength: lambda, at least 0.
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    strength: float = 0.1
    init: str = "common"

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise SettingsError(f"strategy.ditto.strength must be at least 0, got {self.strength}")

    def jobs(self, round_num: int, client_id: int, held: tuple[int, ...]) -> Sequence[ClientJob]:
        """Returns FedAvg's job, then the personal model's."""
        ours = self.job(round_num, client_id, held)
        near = Term("prox", {"mu": self.strength})
        return ours, replace(ours, objective=(*ours.objective, near), private=PARTS, sends=False)

    def serving(self) -> Serving:
        """Returns: by the model; a training client by its own."""
        return Serving(top_k=1, private=PARTS)
