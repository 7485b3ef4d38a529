"""Self-Tuning Networks: a shared model, and hyper-parameters that each client tunes for itself while it trains."""

from dataclasses import dataclass, replace

from fedmoe.errors import SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import ClientJob, Term, Turn
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.moe.construction import takes_lots
from fedmoe.settings import Settings

__all__ = ["SelfTuning"]

OWN = "hyper*"  # the tensors of an expert that are its hyper-parameters


@dataclass
class SelfTuning(ExpertStrategy):
    """FedAvg over best-response experts (MacKay et al., arXiv 1903.03088); hyper-parameters are each client's own.

    Each batch is stepped on twice. First the weights, on those samples that are not set aside: with hyper-parameters
    drawn around the client's own, and what these make of training (dropout). Then the hyper-parameters, on the fifth of
    the client's samples that is set aside, without either: their gradient goes through the weights' best response. The
    weights are averaged over clients; the hyper-parameters stay with each, and are sent as well, for an unseen client
    has none, and is served by their mean. So bytes are FedAvg's.

    Attributes:
        tune: whether hyper-parameters move; if not, all stay at their start, and all samples train the weights.
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    tune: bool = True
    init: str = "random"

    def check(self, settings: Settings) -> None:
        """Refuses experts that take no numbers by lot: they have no hyper-parameters to tune."""
        if not takes_lots(settings.experts.model):
            raise SettingsError(
                f"self_tuning tunes hyper-parameters that an expert has, got experts.model='{settings.experts.model}'; "
                "hint: experts.model='best_response'"
            )

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns the weights' turn and the hyper-parameters', or the first alone."""
        ours, drawn = super().job(round_num, client_id, held), (Term("drawn"),)
        weights = ("body", "head", f"-{OWN}")
        if not self.tune:
            return replace(ours, objective=drawn, trains=weights)
        turns = (
            Turn(objective=drawn, trains=weights, part="training"),
            Turn(objective=(Term("dense"),), trains=(OWN,), part="validation"),
        )
        return replace(ours, objective=(), turns=turns, private=(OWN,))

    def serving(self) -> Serving:
        """Returns: by the model; a training client with its own hyper-parameters."""
        return Serving(top_k=1, private=(OWN,) if self.tune else ())
