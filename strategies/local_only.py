"""Local training: clients share nothing."""

from dataclasses import dataclass, replace

from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import PARTS, ClientJob
from fedmoe.flower.strategy import ExpertStrategy

__all__ = ["LocalOnly"]


@dataclass
class LocalOnly(ExpertStrategy):
    """Each client trains a model of its own, kept on its disk, and sends nothing: what federation must beat.

    It cannot serve an unseen client, which has only what all start from. With `init='common'` its plain figures are
    therefore those of the common expert alone (prior correction takes another prior for each).

    Attributes:
        init: where the models start: `common`, `random`, or empty: as `experts.init` says.
    """

    init: str = "common"

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns FedAvg's job, of which everything stays with the client."""
        return replace(super().job(round_num, client_id, held), private=PARTS, sends=False)

    def traffic(self) -> int:
        """Returns 0: nothing is sent."""
        return 0

    def serving(self) -> Serving:
        """Returns: by the model; a training client by its own."""
        return Serving(top_k=1, private=PARTS)
