"""FedMix: all experts go to every client."""

from dataclasses import dataclass

from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import ClientJob, Term
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.settings import Settings

__all__ = ["FedMix"]


@dataclass
class FedMix(ExpertStrategy):
    """A mixture of experts trained whole by every client (FedMix, Reisser et al., arXiv 2105.04485, with K = M).

    The gate reads the common expert's embedding, as in FedJETs, with which it is compared. No anchors, no ranking;
    bytes grow with M. An unseen client gets all the experts and the gate: the weighted mixture of their outputs.

    Attributes:
        output: what is mixed: `probability` or `logit`.
        init: where the experts start: `random`, `common`, or empty: as `experts.init` says.
    """

    output: str = "probability"
    init: str = ""

    has_gate = True

    def pool_size(self, settings: Settings) -> int:
        """Returns M."""
        return settings.experts.num

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns the joint loss of gate and experts."""
        return ClientJob(
            client_id=client_id,
            round_num=round_num,
            experts=held,
            objective=(Term("mixture", {"output": self.output}),),
            gate=True,
            weighting="examples",
        )

    def serving(self) -> Serving:
        """Returns: the mixture of all experts."""
        return Serving(top_k=self.num_experts, output=self.output, answer="mixture")
