"""A control: experts are drawn by lot, for the client and for each sample."""

from torch import Tensor

from fedmoe.moe.gate import Gate

__all__ = ["RandomGate"]

SPREAD = 4.0  # lots lie in [0, 1.25): a sample's best expert clearly leads


class RandomGate(Gate):
    """Scores are the lots that were drawn for the sample, stretched; it has no weights."""

    reads = "lot"

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM in [0, 5)."""
        return input_BD * SPREAD
