"""A sparse gate: each sample's K best held experts, and 0 for the others."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["TopKGate"]

NOT_CHOSEN = 30.0  # logits less: a weight of e^-30, and still a score
ORDERS = ("before", "after")


class TopKGate(Gate):
    """Top-K sparse softmax gating (arXiv 2309.13850, equation 2), with linear scores `b1 . x + b0`.

    Our k, b1 and b0 are their K, beta_1 and beta_0. `order="before"`: the K are chosen, then their weights are the
    softmax over them. `order="after"`: the softmax is over all held experts, and only the K greatest weights are kept;
    the rest is the common expert's. (Scaled up to a sum of 1 they would be those of `before` again.) With k = 1,
    `before` gives the gate no gradient, for the weight is 1 whatever the scores; `after` does. Where a client holds at
    most k experts, all of them are chosen.

    Args:
        spec: what it is built from.
        k: experts a sample, at least 1.
        order: `before` or `after`.
        bias_in_selection: the K are chosen by `b1 . x + b0`, among the held ones; else by `b1 . x`, as the paper writes
            it, among the whole pool, and the softmax still is of `b1 . x + b0`: those not chosen have 30 taken off
            their score, so that a client that holds none of the chosen ones goes by the order of the others.

    Raises:
        SettingsError: k is below 1, there is no such order, or the bias is left out of the choice with `after`.
    """

    falls_back: ClassVar[bool] = True
    shift_rows: ClassVar[tuple[str, ...]] = ("linear.weight", "linear.bias")

    def __init__(self, spec: GateSpec, *, k: int = 2, order: str = "before", bias_in_selection: bool = True) -> None:
        super().__init__(spec)
        if k < 1:
            raise SettingsError(f"gate.top_k.k must be at least 1, got {k}; hint: 1 or 2")
        if order not in ORDERS:
            raise SettingsError(f"gate.top_k.order must be one of {', '.join(ORDERS)}, got '{order}'")
        if order == "after" and not bias_in_selection:
            raise SettingsError(
                "gate.top_k.bias-in-selection must be true with order='after', got false: the choice without the bias "
                "is made in the scores, and the softmax over all held experts would not be the paper's; hint: "
                "order='before'"
            )
        self.k, self.order, self.bias_in_selection = k, order, bias_in_selection
        self.linear = nn.Linear(spec.in_features, spec.num_experts)

    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM."""
        logits_BM: Tensor = self.linear(input_BX)
        if self.bias_in_selection:
            return logits_BM
        return logits_BM - NOT_CHOSEN * ~_best(logits_BM - self.linear.bias, self.k)

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK: 0 for all but the k best; a row sums to 1, or with `after` to at most 1."""
        own_BK = logits_BM.index_select(1, expert_ids_K)
        best_BK = _best(own_BK, self.k)
        if self.order == "after":
            return torch.softmax(own_BK, dim=1) * best_BK
        return torch.softmax(own_BK.masked_fill(~best_BK, float("-inf")), dim=1)


def _best(scores_BM: Tensor, k: int) -> Tensor:
    """Returns whether each score is among the k greatest of its row; ties fall to the earlier column."""
    rank_BM = scores_BM.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    return rank_BM < k
