"""A control: experts are drawn by lot, for the client and for each sample."""

import torch
from torch import Tensor

from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["RandomGate"]

SPREAD = 4.0  # scores lie in [0, 4): a sample's best expert clearly leads
CLIENT_SHARE = 0.25  # how much the client's lot counts beside a sample's: enough to decide a mean over 100 samples


class RandomGate(Gate):
    """Scores drawn from the gate's own stream: one lot per expert and stream, plus one per expert and sample.

    `reseed` starts a new stream, once a client and round: so a client is ranked by lot, and each of its samples falls
    on one of the held experts by lot (the client's favourite a little more often).
    """

    def __init__(self, spec: GateSpec) -> None:
        super().__init__(spec)
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        """Starts the stream `seed` and draws the client's lot."""
        self.generator = torch.Generator().manual_seed(seed)
        self.client_lot_M = torch.rand(self.spec.num_experts, generator=self.generator)

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM in [0, 5)."""
        size = (input_BD.shape[0], self.spec.num_experts)
        sample_lot_BM = torch.rand(size, generator=self.generator)
        return (sample_lot_BM + CLIENT_SHARE * self.client_lot_M).to(input_BD) * SPREAD
