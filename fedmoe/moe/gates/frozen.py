"""A control: FedJETs' gate with the weights it was born with; nothing is ever learnt."""

from torch import Tensor, nn

from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["FrozenGate"]


class FrozenGate(Gate):
    """A two-layer perceptron with random weights that takes no gradient."""

    def __init__(self, spec: GateSpec) -> None:
        super().__init__(spec)
        self.layers = nn.Sequential(
            nn.Linear(spec.in_features, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, spec.num_experts)
        )
        self.requires_grad_(False)

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM."""
        logits_BM: Tensor = self.layers(input_BD)
        return logits_BM
