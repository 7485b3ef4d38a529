"""Cross-entropy of one expert that goes by numbers drawn for each sample: with what it leaves out in training."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Drawn"]


@dataclass(frozen=True)
class Drawn:
    """Cross-entropy of the client's first expert by the batch's lots, where it takes any (`Expert.draws`).

    A best-response expert draws its hyper-parameters by them, and leaves out inputs and units at the rates that these
    stand for (arXiv 1903.03088: the training step). Of an expert that takes none this is `dense`.
    """

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the mean cross-entropy."""
        lots_BL = batch.lots_BL if batch.lots_BL.shape[-1] else None
        logits_BC = model.logits_KBC(batch.x_BCHW, lots_BL)[0]
        return batch.mean(cross_entropy(logits_BC, batch.y_B, reduction="none"))
