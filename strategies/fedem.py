"""FedEM: every client is a mixture of a few distributions, in shares of its own."""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import ClientJob, Term
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings

__all__ = ["FedEM"]


@dataclass
class FedEM(ExpertStrategy):
    """Federated expectation maximisation (Marfoq et al., arXiv 2108.10252, algorithm 1).

    Each client gets all M components. It finds its shares of them on its labelled samples (the paper makes one E and
    one M step a round from the last shares; here they are found anew by EM until they stand still, so that nothing need
    be kept), then trains the components by the likelihood of the mixture in these shares. The gradient of that is the
    paper's, each sample weighted by the components' responsibilities, which follow the components as they learn. Shares
    stay with the client.

    The paper finds an unseen client's shares on labelled samples. One without labels cannot have any: it is served by
    all components in equal shares.

    Attributes:
        init: where the components start; from one common start they could never part, so `random` by default.
    """

    init: str = "random"

    ranks_by: ClassVar[str] = "likelihood"

    def pool_size(self, settings: Settings) -> int:
        """Returns M."""
        return settings.experts.num

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns the mixture's likelihood in the client's own shares."""
        shares = self.rankings.get(client_id) or (1 / self.num_experts,) * self.num_experts
        own = {"shares": tuple(shares[i] for i in held)}
        return replace(super().job(round_num, client_id, held), objective=(Term("likelihood"),), given=own)

    def serving(self) -> Serving:
        """Returns: the mean of all components' probabilities."""
        return Serving(top_k=self.num_experts, answer="mixture")

    def ranking_indices(self) -> int:
        """Returns 0: shares stay with the client."""
        return 0
