"""A gate that asks as many experts as it takes to be sure: the likeliest ones, up to a probability."""

import torch
from torch import Tensor

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import GateSpec
from fedmoe.moe.gates.mlp import MLPGate

__all__ = ["TopPGate"]


class TopPGate(MLPGate):
    """The smallest set of held experts whose probabilities reach p, renormalised (arXiv 2403.07652, top-p routing).

    Probabilities are the softmax over the held experts of the scores, which come from FedJETs' two-layer perceptron. A
    sample that one expert is sure of costs one expert, a doubtful one several. p = 1 is the plain softmax.

    Args:
        spec: what it is built from.
        p: what the chosen ones' probabilities must reach, in (0, 1].

    Raises:
        SettingsError: p is not in (0, 1].
    """

    def __init__(self, spec: GateSpec, *, p: float = 0.8) -> None:
        super().__init__(spec)
        if not 0 < p <= 1:
            raise SettingsError(f"gate.top_p.p must lie above 0 and at most at 1, got {p}; hint: 0.8")
        self.p = p

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK that sum to 1; 0 for experts that the set does without."""
        probs_BK = torch.softmax(logits_BM.index_select(1, expert_ids_K), dim=1)
        sorted_BK, order_BK = probs_BK.sort(dim=1, descending=True, stable=True)
        before_BK = sorted_BK.cumsum(dim=1) - sorted_BK  # what the better ones have reached already
        kept_BK = torch.where(before_BK < self.p, sorted_BK, 0.0)
        weights_BK = torch.zeros_like(probs_BK).scatter(1, order_BK, kept_BK)
        return weights_BK / weights_BK.sum(dim=1, keepdim=True)
