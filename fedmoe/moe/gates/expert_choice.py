"""A gate in which experts choose samples: each takes its best share of the batch."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import GateSpec
from fedmoe.moe.gates.mlp import MLPGate

__all__ = ["ExpertChoiceGate"]


class ExpertChoiceGate(MLPGate):
    """Each of K held experts takes `ceil(capacity B / K)` of a batch's B samples (Zhou et al., arXiv 2202.09368).

    It takes those to which the softmax over the held experts gives it the highest probability, and that probability is
    its weight. So no expert is without work, and none has too much. What is left of a row is the common expert's, as a
    residual connection is in the paper: all of it where nobody has taken the sample. Scores come from FedJETs'
    two-layer perceptron.

    **Its weights depend on the batch.** Which expert answers a sample hangs on the samples beside it. In serving, a
    client's answer for an input changes with what else it asks, and a sample that is alone in its batch is taken by
    all. In training, the rows that fill a batch up would compete for places: the stacked trainer notices that they
    change the gradient, and stacks only clients of equal size.

    Args:
        spec: what it is built from.
        capacity: how many experts take a sample on average, above 0; K and more: all take all, the plain softmax.

    Raises:
        SettingsError: the capacity is not above 0.
    """

    falls_back: ClassVar[bool] = True
    looks_at_batch: ClassVar[bool] = True

    def __init__(self, spec: GateSpec, *, capacity: float = 1.0) -> None:
        super().__init__(spec)
        if not capacity > 0:
            raise SettingsError(f"gate.expert_choice.capacity must be above 0, got {capacity}; hint: 1")
        self.capacity = capacity

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK; a column has `places` that are not 0, a row sums to at most 1."""
        probs_BK = torch.softmax(logits_BM.index_select(1, expert_ids_K), dim=1)
        batch, held = probs_BK.shape
        places = min(batch, math.ceil(self.capacity * batch / held))
        # Places of the sorted order rather than a threshold: a tie must not give an expert more than its share.
        place_BK = probs_BK.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
        return torch.where(place_BK < places, probs_BK, 0.0)
