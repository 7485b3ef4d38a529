"""A gate with Gumbel noise: explores in training, averages over draws in serving."""

from math import log
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["GumbelGate"]


class GumbelGate(Gate):
    """`softmax((z + G) / tau)`, `G ~ Gumbel(0, 1)` (GG MoE, arXiv 2502.03608; the relaxation: arXiv 1611.01144).

    In training each sample gets one draw a round. In serving the softmax is averaged over `draws` of them, so that its
    scores, the logarithms of the means, have the mixed weights as their softmax; the variance of these falls with one
    over the number of draws. For small tau a draw is one-hot, and the mean tends to `softmax(z)` (the Gumbel trick).

    Args:
        spec: what it is built from.
        temperature: tau, above 0.
        samples: draws in serving, at least 1.
    """

    shift_rows: ClassVar[tuple[str, ...]] = ("layers.2.weight", "layers.2.bias")

    def __init__(self, spec: GateSpec, *, temperature: float = 1.0, samples: int = 10) -> None:
        super().__init__(spec)
        if temperature <= 0:
            raise SettingsError(f"gate.gumbel.temperature must be above 0, got {temperature}; hint: 1.0")
        if samples < 1:
            raise SettingsError(f"gate.gumbel.samples must be at least 1, got {samples}; hint: 10")
        self.temperature, self.samples = temperature, samples
        self.layers = nn.Sequential(
            nn.Linear(spec.in_features, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, spec.num_experts)
        )

    @property
    def draws(self) -> int:
        """Returns `samples` numbers for each expert."""
        return self.samples * self.spec.num_experts

    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM: of one draw in training, of the mean of all in serving."""
        read_BD, lots_BL = self.split(input_BX)
        count = 1 if self.training else self.samples
        lots_BSM = lots_BL.reshape(-1, self.samples, self.spec.num_experts)[:, :count]
        noise_BSM = -torch.log(-torch.log(lots_BSM))
        noisy_BSM = (self.layers(read_BD)[:, None] + noise_BSM) / self.temperature
        logits_BM: Tensor = torch.logsumexp(torch.log_softmax(noisy_BSM, dim=2), dim=1) - log(count)
        return logits_BM
