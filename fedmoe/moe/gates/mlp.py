"""FedJETs' gate: a two-layer perceptron with a softmax over the pool."""

from typing import ClassVar

from torch import Tensor, nn

from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["MLPGate"]


class MLPGate(Gate):
    """Two layers, ReLU between them (arXiv 2306.08586, section 3: W_r; its hidden width is not stated there)."""

    shift_rows: ClassVar[tuple[str, ...]] = ("layers.2.weight", "layers.2.bias")

    def __init__(self, spec: GateSpec) -> None:
        super().__init__(spec)
        self.layers = nn.Sequential(
            nn.Linear(spec.in_features, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, spec.num_experts)
        )

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM."""
        logits_BM: Tensor = self.layers(input_BD)
        return logits_BM
