"""A control, an upper bound: the gate is told each sample's label group (or domain)."""

import torch
from torch import Tensor

from fedmoe.moe.gate import Gate

__all__ = ["OracleGate"]

CERTAINTY = 20.0  # logit of the right expert; the others have 0


class OracleGate(Gate):
    """The expert whose anchor group holds the sample's label gets nearly all the weight; nothing is learnt.

    Groups beyond the pool (more groups than experts) wrap around.
    """

    reads = "group"

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM from one-hot groups."""
        expert_B = input_BD.argmax(dim=1) % self.spec.num_experts
        return torch.nn.functional.one_hot(expert_B, self.spec.num_experts).to(input_BD) * CERTAINTY
