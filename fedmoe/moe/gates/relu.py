"""A gate that may choose nobody: rectified scores, whose empty rows are the common expert's."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["ReLUGate"]


class ReLUGate(Gate):
    """Weights `r_i / (1 + sum_j r_j)` with `r = relu(scores)`; the common expert has the rest, `1 / (1 + sum_j r_j)`.

    Rectified linear attention (arXiv 2104.07012) takes `relu` in softmax's place, so that weights are exactly 0 where a
    query does not fit and whole rows may be empty. Here an empty row means: no expert knows this sample, the common
    expert answers. Theirs brings the sum's scale in order by RMS normalisation of the output; probabilities must sum to
    1, so ours divides by the sum, in which the common expert counts as a score of 1. Scores are linear on the hidden
    layer's ReLU, as in the gate `mlp`.

    Args:
        spec: what it is built from.
        bias: every score's first value: above 0, so that all experts learn from the start.
    """

    falls_back: ClassVar[bool] = True

    def __init__(self, spec: GateSpec, *, bias: float = 1.0) -> None:
        super().__init__(spec)
        last = nn.Linear(spec.hidden, spec.num_experts)
        nn.init.constant_(last.bias, bias)
        self.layers = nn.Sequential(nn.Linear(spec.in_features, spec.hidden), nn.ReLU(), last)

    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM; those below 0 leave the expert out."""
        logits_BM: Tensor = self.layers(input_BX)
        return logits_BM

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK, 0 where a score is not above 0."""
        rectified_BK = torch.relu(logits_BM.index_select(1, expert_ids_K))
        return rectified_BK / (1 + rectified_BK.sum(dim=1, keepdim=True))
