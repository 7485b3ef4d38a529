"""What a gate is: embedding -> scores over the pool -> routing.

Shapes: B samples, D features of the gate's input, M experts in the pool.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from fedmoe.moe.routing import Routing, route

__all__ = ["Gate", "GateSpec"]


@dataclass(frozen=True, kw_only=True)
class GateSpec:
    """What a gate is built from.

    Attributes:
        in_features: D, the width of what the gate reads.
        num_experts: M.
        hidden: units of its hidden layer, where it has one.
    """

    in_features: int
    num_experts: int
    hidden: int


class Gate(nn.Module, ABC):
    """A gate; a subclass gives `scores`, in one file under `fedmoe/moe/gates/`.

    It is a pure function of its input and its parameters: it keeps no state and draws nothing.

    Attributes:
        reads: what `scores` is given: `"embedding"` (the common expert's, float), `"group"` (one-hot of the sample's
            true label group or domain, which only a control may see), `"fingerprint"` (what of the embedding the
            common expert's belief in the labels does not explain), or `"lot"` (a number by lot for each expert).
        set_by_strategy: its weights are no training's, but come from the strategy that brings it (`Contract.gate`).
    """

    reads: ClassVar[str] = "embedding"
    set_by_strategy: ClassVar[bool] = False

    def __init__(self, spec: GateSpec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM: the higher, the better the expert suits the sample."""

    def forward(self, input_BD: Tensor, held_M: Tensor | None = None, num_held: int | None = None) -> Routing:
        """Returns the routing over the held experts (bool mask; `None`: all of them; see `route` for `num_held`)."""
        return route(self.scores(input_BD), held_M, num_held=num_held)
