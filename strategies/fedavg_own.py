"""FedAvg whose clients keep a few numbers of the model for themselves."""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from fedmoe.errors import SettingsError
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.job import ClientJob
from fedmoe.flower.strategy import ExpertStrategy
from fedmoe.moe.construction import build_expert, expert_arguments, expert_reads, stands_on_common
from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.vectors import parts_of
from fedmoe.settings import Settings

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

    def check(self, settings: Settings) -> None:
        """Refuses patterns of which none fits the name of a tensor of the experts."""
        super().check(settings)
        model = settings.experts.model
        if stands_on_common(model):  # its tensors are known once there is a common expert
            return
        side = 28  # of a picture that every backbone takes
        shape = (8, 1, 1) if expert_reads(model) == "embedding" else (1, side, side)
        arguments = expert_arguments(settings, model)
        spec = ExpertSpec(in_shape=shape, num_classes=2, width=settings.experts.width, arguments=arguments)
        names = [part.name for part in parts_of(build_expert(model, spec, 0))]
        for pattern in self.patterns():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SettingsError(
                    f"strategy.fedavg_own.own must fit the name of a tensor of experts.model='{model}', got "
                    f"'{pattern}'; hint: it has {', '.join(names)}"
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
