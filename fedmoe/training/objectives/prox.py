"""FedProx's term: stay near what you received."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Prox"]


@dataclass(frozen=True)
class Prox:
    """`mu / 2 * ||w - w_received||^2` over all trainable parameters (Li et al., arXiv 1812.06127, equation 2).

    Attributes:
        mu: strength, at least 0.
    """

    mu: float

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the penalty."""
        pairs = zip(model.trained, model.start(), strict=True)
        return self.mu / 2 * torch.stack([(w - w0).square().sum() for w, w0 in pairs]).sum()
