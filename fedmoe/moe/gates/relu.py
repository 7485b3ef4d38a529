"""A gate that may choose nobody: rectified scores, whose empty rows are the common expert's."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["ReLUGate"]


class ReLUGate(Gate):
    """Weights `r_i / (c + sum_j r_j)` with `r = relu(scores)`; the common expert has the rest, all of an empty row.

    Rectified linear attention (arXiv 2104.07012) takes `relu` in softmax's place, so that weights are exactly 0 where a
    query does not fit and whole rows may be empty. Here an empty row means: no expert knows this sample, the common
    expert answers. Theirs brings the sum's scale in order by RMS normalisation of the output; probabilities must sum to
    1, so ours divides by the sum. With c above 0 the common expert takes part in every row, as an expert whose score is
    always c. Scores are linear on the hidden layer's ReLU, as in the gate `mlp`.

    Args:
        spec: what it is built from.
        bias: every score's first value: above 0, so that all experts learn from the start.
        common: c, at least 0.

    Raises:
        SettingsError: c is below 0.
    """

    falls_back: ClassVar[bool] = True

    def __init__(self, spec: GateSpec, *, bias: float = 1.0, common: float = 0.0) -> None:
        super().__init__(spec)
        if common < 0:
            raise SettingsError(f"gate.relu.common must be at least 0, got {common}; hint: 0 or 1")
        self.common = common
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
        sum_B1 = self.common + rectified_BK.sum(dim=1, keepdim=True)
        return rectified_BK / torch.where(sum_B1 > 0, sum_B1, 1.0)
