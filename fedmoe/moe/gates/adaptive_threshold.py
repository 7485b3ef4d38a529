"""A gate that chooses as many experts as a sample needs: those whose probability reaches a learnt threshold."""

from math import log
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["AdaptiveThresholdGate"]


class AdaptiveThresholdGate(Gate):
    """AdaMoLE's gate (arXiv 2405.00361): `w_i ~ relu(p_i - tau(x))` with `p = softmax(W x)`.

    The threshold is `tau(x) = tau_max sigmoid(v x + c)`. With tau_max of at most 1/M some p_i reaches it for every
    sample; above that a row may be empty. The subtraction gives the threshold a gradient. Scores are
    `log p_i - log tau`, whose softmax is p: an expert is chosen where its score is above 0, and `p_i - tau ~
    exp(score) - 1`. Among the held experts alone, p is their share of each other, and the threshold stays. An empty
    row is the common expert's, as theirs then leaves the frozen model's output as it is. (Our W is their W_g, M
    their N, v and c their threshold's w and b.)

    Args:
        spec: what it is built from.
        largest: tau_max times M, in (0, M]; 1: their default 1/M.

    Raises:
        SettingsError: `largest` is not in (0, M].
    """

    falls_back: ClassVar[bool] = True
    shift_rows: ClassVar[tuple[str, ...]] = ("experts.weight",)

    def __init__(self, spec: GateSpec, *, largest: float = 1.0) -> None:
        super().__init__(spec)
        if not 0 < largest <= spec.num_experts:
            raise SettingsError(
                f"gate.adaptive_threshold.largest must lie above 0 and be at most the number of experts "
                f"({spec.num_experts}), got {largest}; hint: up to 1, each sample has an expert for certain"
            )
        self.largest = largest / spec.num_experts
        self.experts = nn.Linear(spec.in_features, spec.num_experts, bias=False)
        self.threshold = nn.Linear(spec.in_features, 1)

    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM `log p - log tau`: above 0 where an expert of the whole pool is chosen."""
        log_threshold_B1 = log(self.largest) + nn.functional.logsigmoid(self.threshold(input_BX))
        logits_BM: Tensor = torch.log_softmax(self.experts(input_BX), dim=1) - log_threshold_B1
        return logits_BM

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK, 0 below the threshold; each row sums to 1, or to 0 where no held expert reaches it."""
        log_threshold_B1 = -torch.logsumexp(logits_BM, dim=1, keepdim=True)
        p_BK = torch.softmax(logits_BM.index_select(1, expert_ids_K), dim=1)
        above_BK = torch.relu(p_BK - log_threshold_B1.exp())
        sum_B1 = above_BK.sum(dim=1, keepdim=True)
        return above_BK / torch.where(sum_B1 > 0, sum_B1, 1.0)
