"""A balance loss: no expert shall have more of the weights than another."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Importance"]

SMALLEST = 1e-9  # mean weight below which nothing is left to balance (all rows are the common expert's)


@dataclass(frozen=True)
class Importance:
    """`weight * CV(sum_b w_b)^2` over the held experts (Shazeer et al., arXiv 1701.06538, equations 6 and 7).

    CV is standard deviation by mean; the variance is over the K experts, not K - 1. It is 0 if and only if the experts'
    sums are equal, and `weight (K - 1)` where one has all. Equal sums are not equal numbers of samples: an expert may
    have few with large weights (see `load`). With one held expert it is 0.

    Attributes:
        weight: strength, at least 0.
    """

    weight: float = 0.01

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the penalty.

        Raises:
            ValueError: the job has no gate.
        """
        weights_BK = model.weights(batch.gate_BD)
        mean_K = torch.stack([batch.mean(weight_B) for weight_B in weights_BK.unbind(dim=1)])
        return self.weight * mean_K.var(correction=0) / mean_K.mean().clamp_min(SMALLEST).square()
