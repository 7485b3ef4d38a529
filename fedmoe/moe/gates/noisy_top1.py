"""Chen et al.'s gate: linear, zero at first, noise by lot in training; each sample goes to one expert."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.routing import highest

__all__ = ["NoisyTop1Gate"]


class NoisyTop1Gate(Gate):
    """Scores `h(x) + r`: `h(x) = Theta^T x`, Theta 0 at first, r uniform in [0, 1) (arXiv 2208.02813, section 3).

    With the common expert `patch_sum`, x is the sum of the patches, as there. The held expert of the highest score gets
    the softmax of the held scores as its weight, pi, and the others get nothing. What is left, 1 - pi, is the common
    expert's: if it has no opinion (logits of 0) and logits are mixed, the output is the paper's `pi f`. Were pi made up
    to 1 instead, the gate would have no gradient. In serving there is no noise.

    In training pi is the softmax of the scores with their noise, as in the paper's code for images; in the paper
    itself, of those without.

    Args:
        spec: what it is built from.
        noise: what lots are multiplied by; 0: none, and then all samples start with one expert.

    Raises:
        SettingsError: the noise is below 0.
    """

    falls_back: ClassVar[bool] = True
    shift_rows: ClassVar[tuple[str, ...]] = ("theta_MD",)

    def __init__(self, spec: GateSpec, *, noise: float = 1.0) -> None:
        super().__init__(spec)
        if not noise >= 0:
            raise SettingsError(f"gate.noisy_top1.noise must be at least 0, got {noise}; hint: 1.0")
        self.noise = noise
        self.theta_MD = nn.Parameter(torch.zeros(spec.num_experts, spec.in_features))

    @property
    def draws(self) -> int:
        """Returns a number for each expert."""
        return self.spec.num_experts

    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM, noisy in training."""
        read_BD, lots_BM = self.split(input_BX)
        clean_BM = read_BD @ self.theta_MD.T
        return clean_BM + self.noise * lots_BM if self.training else clean_BM

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK, of which one in a row is above 0; of equal scores the first column's wins."""
        held_BK = logits_BM.index_select(1, expert_ids_K)
        return torch.softmax(held_BK, dim=1) * highest(held_BK)
