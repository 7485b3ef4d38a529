"""A control: FedJETs' gate with the weights it was born with; nothing is ever learnt."""

from fedmoe.moe.gate import GateSpec
from fedmoe.moe.gates.mlp import MLPGate

__all__ = ["FrozenGate"]


class FrozenGate(MLPGate):
    """A two-layer perceptron with random weights that takes no gradient."""

    def __init__(self, spec: GateSpec) -> None:
        super().__init__(spec)
        self.requires_grad_(False)
