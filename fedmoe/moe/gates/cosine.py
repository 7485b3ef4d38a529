"""A gate that looks at directions alone: cosine similarity to a point for each expert."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["CosineGate"]


class CosineGate(Gate):
    """`scores_m = <E_m, W x> / (tau |E_m| |W x|)` (arXiv 2503.07137, the cosine router).

    No score leaves [-1 / tau, 1 / tau], however large the embedding: no expert wins by the length of its weights.
    `spec.hidden` is the width of `W x`; W has no bias, so that a longer embedding is scored as a shorter one.

    Args:
        spec: what it is built from.
        temperature: tau, above 0; the softmax's odds of the best expert to the worst are at most `exp(2 / tau)`.

    Raises:
        SettingsError: the temperature is not above 0.
    """

    def __init__(self, spec: GateSpec, *, temperature: float = 0.1) -> None:
        super().__init__(spec)
        if not temperature > 0:
            raise SettingsError(f"gate.cosine.temperature must be above 0, got {temperature}; hint: 0.1")
        self.temperature = temperature
        self.project = nn.Linear(spec.in_features, spec.hidden, bias=False)
        self.points_MH = nn.Parameter(torch.randn(spec.num_experts, spec.hidden))

    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM in [-1 / tau, 1 / tau]."""
        return normalize(self.project(input_BX), dim=1) @ normalize(self.points_MH, dim=1).T / self.temperature
