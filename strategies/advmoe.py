"""AdvMoE: FedJETs against attacks, experts and router trained jointly or in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedmoe.errors import SettingsError
from fedmoe.federation.job import ClientJob, Term, Turn
from fedmoe.federation.shared import alike, places_of
from fedmoe.federation.state import ServerState
from fedmoe.flower.replies import Replies
from fedmoe.moe.construction import expert_reads, shared_tensors
from fedmoe.settings import Settings
from strategies.fedjets import FedJETs

__all__ = ["AdvMoE"]

TRAINING = ("plain", "joint", "alternating")


@dataclass
class AdvMoE(FedJETs):
    """AdvMoE (arXiv 2308.10110) on FedJETs' mechanism: its sampling, anchors, ranking and assignment.

    The router reads the image (`conv_router`), so that an attack changes the routing. In training every batch is
    attacked (`objectives/trades.py`), and experts and router learn on the same loss as FedJETs' plus TRADES' term:

    - `joint`: both at once, by `loss + beta KL(f(x) || f(x')) + routing KL(g(x) || g(x'))`; with `routing` 0 the attack
      aims at the output alone, which is adversarial training as it is done for one network, the paper's baseline;
    - `alternating`: each batch twice: first the experts by `loss + beta KL(f(x) || f(x'))`, then, attacked anew, the
      router by `loss + beta KL(f(x) || f(x')) + routing KL(g(x) || g(x'))`, the other one standing still;
    - `plain`: by the loss alone. It is FedJETs with this router.

    Where experts have tensors in common (`Expert.shared`, as `channel_group` has) their copies are kept alike: all
    start as the first expert's, and after each round all are the average over every copy that came back.

    Attributes:
        training: `plain`, `joint` or `alternating`.
        eps: how far a pixel may move in training, as a share of its range, above 0 and at most 1.
        attack_step: how far at once, likewise; 0: five eighths of eps, as theirs (5/255 of 8/255).
        attack_steps: of an attack in training, at least 1.
        beta: weight of the output's divergence, at least 0.
        routing: weight of the routing's, at least 0.
        warm: rounds of plain training that come first.
        init: where the experts start: `random`, `common`, or empty: as `experts.init` says.
    """

    training: str = "alternating"
    eps: float = 0.0314
    attack_step: float = 0.0
    attack_steps: int = 2
    beta: float = 6.0
    routing: float = 6.0
    warm: int = 0
    init: str = ""

    gate: ClassVar[str] = "conv_router"

    traits: ClassVar[frozenset[str]] = frozenset({"alike"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.training not in TRAINING:
            raise SettingsError(f"strategy.advmoe.training must be one of {', '.join(TRAINING)}, got '{self.training}'")
        if not (0 < self.eps <= 1 and 0 <= self.attack_step <= 1 and self.attack_steps >= 1):
            raise SettingsError(
                "strategy.advmoe.eps must be above 0, attack-step at least 0, both at most 1, attack-steps at least "
                f"1, got {self.eps}, {self.attack_step} and {self.attack_steps}; hint: 0.0314 is 8/255"
            )
        for name in ("beta", "routing", "warm"):
            if getattr(self, name) < 0:
                raise SettingsError(f"strategy.advmoe.{name} must be at least 0, got {getattr(self, name)}")

    def traits_with(self, settings: Settings) -> frozenset[str]:
        """Returns `alike` where the settings' experts have tensors in common: others may be changed one by one."""
        return self.traits if shared_tensors(settings.experts.model) else self.traits - {"alike"}

    def check(self, settings: Settings) -> None:
        """Refuses experts that do not read images."""
        super().check(settings)
        if expert_reads(settings.experts.model) != "image":
            raise SettingsError(
                f"advmoe attacks images, got experts.model='{settings.experts.model}', which reads embeddings; hint: "
                "experts.model='channel_group'"
            )

    def begin(self, round_num: int, state: ServerState) -> ServerState:
        """Returns the state with the first expert's copies of what is shared in all, which they are after a merge."""
        return alike(state, self._shared(), {0: 1})

    def job(self, round_num: int, client_id: int, held: tuple[int, ...]) -> ClientJob:
        """Returns FedJETs' job, under attack."""
        job = super().job(round_num, client_id, held)
        if self.training == "plain" or round_num <= self.warm:
            return job
        alone = self.training == "joint" and self.routing == 0
        whole = (*job.objective, self._term(self.routing, "output" if alone else "both"))
        if self.training == "joint":
            return replace(job, objective=whole)
        experts = Turn(objective=(*job.objective, self._term(0.0, "both")), trains=("body", "head"))
        return replace(job, objective=(), turns=(experts, Turn(objective=whole, trains=("gate",))))

    def merge(self, round_num: int, state: ServerState, updates: Replies) -> ServerState:
        """Returns the averages over holders; what is shared is averaged over all copies."""
        merged = super().merge(round_num, state, updates)
        weights = {i: updates.sums.weights.get(f"expert/{i}", 0) for i in range(self.num_experts)}
        return alike(merged, self._shared(), weights)

    def _term(self, routing: float, aim: str) -> Term:
        attack = {"eps": self.eps, "step": self.attack_step or 5 / 8 * self.eps, "steps": self.attack_steps}
        return Term("trades", {**attack, "beta": self.beta, "routing": routing, "output": self.output, "aim": aim})

    def _shared(self) -> Sequence[slice]:
        return places_of(self.federation.layout["expert"], shared_tensors(self.federation.settings.experts.model))
