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

    z are the scores without noise (the paper's are linear, ours have a hidden layer), `samples` is S. In training each
    sample gets one draw a round. In serving the softmax is averaged over `samples` of them, so that its scores, the
    logarithms of the means, have the mixed weights as their softmax; the variance of these falls with one over the
    number of draws. For small tau a draw is one-hot, and the mean tends to `softmax(z)` (the Gumbel trick). How far
    the draws lie apart is the uncertainty of the routing (`spread`).

    Args:
        spec: what it is built from.
        temperature: tau, above 0.
        samples: draws in serving, at least 1.

    Raises:
        SettingsError: the temperature is not above 0, or there is no draw.
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
        count = 1 if self.training else self.samples
        logits_BM: Tensor = torch.logsumexp(self._log_weights(input_BX, count), dim=1) - log(count)
        return logits_BM

    def spread(self, input_BX: Tensor) -> Tensor:
        """Returns each sample's routing uncertainty, spread_B: the variance over its draws of its weights, summed.

        The sum is over the whole pool, `sum_m Var_s(w_sm)`, unbiased. It is a property of the sample and of tau, which
        more draws tell more exactly; the mean of S draws, which serves, has a variance of `spread / S`. It is 0 where
        the weights are the same however the noise falls, and tends to `1 - sum_m p_m^2`, `p = softmax(z)`, as tau falls
        to 0.

        Args:
            input_BX: as `scores` reads it.

        Raises:
            ValueError: there is one draw alone, which has no spread.
        """
        if self.samples < 2:
            raise ValueError("a spread needs at least 2 draws, got gate.gumbel.samples=1; hint: 10")
        return self._log_weights(input_BX, self.samples).exp().var(dim=1).sum(dim=1)

    def _log_weights(self, input_BX: Tensor, count: int) -> Tensor:
        """Returns log_weights_BSM of the first `count` draws."""
        read_BD, lots_BL = self.split(input_BX)
        lots_BSM = lots_BL.reshape(-1, self.samples, self.spec.num_experts)[:, :count]
        noise_BSM = -torch.log(-torch.log(lots_BSM))
        noisy_BSM = (self.layers(read_BD)[:, None] + noise_BSM) / self.temperature
        return torch.log_softmax(noisy_BSM, dim=2)
