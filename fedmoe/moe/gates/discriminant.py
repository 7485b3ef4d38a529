"""A gate that takes no gradient: linear discriminants of fingerprints, which the server finds."""

import torch
from torch import Tensor, nn

from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["DiscriminantGate"]


class DiscriminantGate(Gate):
    """Fisher's linear discriminants: `scores = f W + b`, the log-likelihood of a fingerprint f under each group.

    Groups are Gaussians with means mu_m and one covariance S, so that `w_m = S^-1 mu_m` and `b_m = -mu_m S^-1 mu_m / 2`
    (up to what is the same for all). A mean of scores over a client's samples is its log-likelihood per sample, hence
    the aggregation `mean-logit`. Weights come from the server (`fedmoe.federation.grouping`) and stay as they are.
    """

    reads = "fingerprint"
    set_by_strategy = True

    def __init__(self, spec: GateSpec) -> None:
        super().__init__(spec)
        self.weight_MD = nn.Parameter(torch.zeros(spec.num_experts, spec.in_features), requires_grad=False)
        self.bias_M = nn.Parameter(torch.zeros(spec.num_experts), requires_grad=False)

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM."""
        return input_BD @ self.weight_MD.T + self.bias_M
