"""A gate with a gated residual: KAMoE's plain twin, with dense layers where that has splines."""

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, sigmoid

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["GRNGate"]


class GRNGate(Gate):
    """`scores = LayerNorm(V h + (P u) * sigmoid(Q u))`, `h = relu(W (a * x))`, `u = W2 elu(W1 h)`.

    The gated residual network that KAMoE (arXiv 2409.15161) holds its own against. `a` scales each feature and starts
    at 1; W, V, P, Q, W1 and W2 have biases. u is as wide as the pool. Without their dropout, for a gate draws nothing.

    LayerNorm goes over the pool's M scores: at first none is above `sqrt(M - 1)`, and with M = 2 they are 1 and -1,
    whichever the order, so that next to no gradient passes. It wants three experts.

    KAMoE's weights are `sigmoid(scores)`, whatever their sum; a mixture of probabilities needs a sum of 1, so ours are
    divided by it.

    Args:
        spec: what it is built from; `spec.hidden` is the width of h.
        activation: `"softmax"`, or `"sigmoid"` for `sigmoid(s_m) / sum_k sigmoid(s_k)` over the held experts k.

    Raises:
        SettingsError: another activation.
    """

    def __init__(self, spec: GateSpec, *, activation: str = "softmax") -> None:
        super().__init__(spec)
        if activation not in ("softmax", "sigmoid"):
            raise SettingsError(
                f"a gate's activation must be 'softmax' or 'sigmoid', got '{activation}'; hint: 'softmax'"
            )
        self.activation = activation
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

    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM."""
        h_BH = self.hidden(self.scale_D * input_BX).relu()
        u_BM = self.inner(h_BH)
        logits_BM: Tensor = self.norm(self.skip(h_BH) + self.value(u_BM) * sigmoid(self.valve(u_BM)))
        return logits_BM

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK that sum to 1."""
        if self.activation == "softmax":
            return super().weigh(logits_BM, expert_ids_K)
        # softmax(log sigmoid(s)) is the same, and divides no 0 by 0 where all scores are far below 0
        return super().weigh(logsigmoid(logits_BM), expert_ids_K)
