"""Plain cross-entropy of one expert: FedAvg's objective."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense:
    """Cross-entropy of the client's first expert (McMahan et al., arXiv 1602.05629)."""

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the mean cross-entropy."""
        return batch.mean(cross_entropy(model.logits_KBC(batch.x_BCHW)[0], batch.y_B, reduction="none"))
