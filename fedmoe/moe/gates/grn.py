"""A gate with a gated residual: KAMoE's plain twin, with dense layers where that has splines."""

import torch
from torch import Tensor, nn
from torch.nn.functional import sigmoid

from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["GRNGate"]


class GRNGate(Gate):
    """`scores = LayerNorm(V h + (P u) * sigmoid(Q u))`, `h = relu(W (a * x))`, `u = W2 elu(W1 h)`.

    The gated residual network that KAMoE (arXiv 2409.15161) holds its own against. `a` scales each feature and starts
    at 1; W, V, P, Q, W1 and W2 have biases. u is as wide as the pool. Without their dropout, for a gate draws nothing.

    LayerNorm goes over the pool's M scores: at first none is above `sqrt(M - 1)`, and with M = 2 they are 1 and -1,
    whichever the order, so that next to no gradient passes. It wants three experts.

    Args:
        spec: what it is built from; `spec.hidden` is the width of h.
    """

    def __init__(self, spec: GateSpec) -> None:
        super().__init__(spec)
        hidden, units = spec.hidden, spec.num_experts
        self.scale_D = nn.Parameter(torch.ones(spec.in_features))
        self.hidden = nn.Linear(spec.in_features, hidden)
        self.skip = nn.Linear(hidden, units)
        self.inner = self.make_inner(hidden, units)
        self.value, self.valve = nn.Linear(units, units), nn.Linear(units, units)
        self.norm = nn.LayerNorm(units)

    def make_inner(self, hidden: int, units: int) -> nn.Module:
        """Returns the two layers that make u of h."""
        return nn.Sequential(nn.Linear(hidden, units), nn.ELU(), nn.Linear(units, units))

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM."""
        h_BH = self.hidden(self.scale_D * input_BD).relu()
        u_BM = self.inner(h_BH)
        logits_BM: Tensor = self.norm(self.skip(h_BH) + self.value(u_BM) * sigmoid(self.valve(u_BM)))
        return logits_BM
