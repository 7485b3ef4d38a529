"""FedRep: a body for all, a head for each client."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedmoe.errors import SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import ClientJob
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.moe.construction import is_head_alone
from fedmoe.settings import Settings

__all__ = ["FedRep"]


@dataclass
class FedRep(ExpertStrategy):
    """FedRep (Collins et al., arXiv 2102.07078, algorithm 1): clients train their own head, then the shared body.

    The head stays on the client's disk. It is also sent, which the paper does not do, for an unseen client has none:
    the mean of all heads on the shared body serves it. So bytes are FedAvg's; the work is that of `head_epochs` more
    epochs.

    Attributes:
        head_epochs: passes over the client's samples with the body held fixed, before those that train the body.
        init: where the model starts: `common`, `random`, or empty: as `experts.init` says.
    """

    head_epochs: int = 1
    init: str = "common"

    def __post_init__(self) -> None:
        if self.head_epochs < 1:
            raise SettingsError(f"strategy.fedrep.head_epochs must be at least 1, got {self.head_epochs}")

    def check(self, settings: Settings) -> None:
        """Refuses experts that are nothing but a head: nothing would be shared."""
        if is_head_alone(settings.experts.model):
            raise SettingsError(
                f"fedrep shares a body, and needs experts that have one, got experts.model='{settings.experts.model}'; "
                "hint: experts.model='mlp', or another strategy"
            )

    def jobs(self, round_num: int, client_id: int, held: tuple[int, ...]) -> Sequence[ClientJob]:
        """Returns the head's job, then the body's."""
        ours = replace(self.job(round_num, client_id, held), private=("head",))
        return (
            replace(ours, trains=("head",), sends=False, epochs=self.head_epochs),
            replace(ours, trains=("body",)),
        )

    def serving(self) -> Serving:
        """Returns: by the model; a training client by its own."""
        return Serving(top_k=1, private=("head",))
