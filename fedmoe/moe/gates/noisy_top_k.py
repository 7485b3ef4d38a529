"""The sparsely gated layer's gate: a linear score, normal noise of a learnt size, and the best k experts."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec

__all__ = ["NoisyTopKGate"]


class NoisyTopKGate(Gate):
    """`H_m = (W_g x)_m + n_m softplus((W_n x)_m)`, n normal, then the softmax over the best k held experts.

    Shazeer et al., arXiv 1701.06538, equations 3 to 5. The noise is there in training alone: experts that are nearly as
    good as the best are tried too, so that the gate finds out. Both maps start at 0, as theirs do, without bias: at
    first all scores are 0, and the noise (of deviation softplus(0) = 0.69) deals samples out evenly.

    Args:
        spec: what it is built from.
        k: experts a sample gets, at least 1; a client that holds fewer uses them all. With k = 1 the one weight is 1,
            and no gradient of the mixture reaches the gate.

    Raises:
        SettingsError: k is below 1.
    """

    shift_rows: ClassVar[tuple[str, ...]] = ("score_MD",)

    def __init__(self, spec: GateSpec, *, k: int = 2) -> None:
        super().__init__(spec)
        if k < 1:
            raise SettingsError(f"gate.noisy_top_k.k must be at least 1, got {k}; hint: 2")
        self.k = k
        self.score_MD = nn.Parameter(torch.zeros(spec.num_experts, spec.in_features))
        self.noise_MD = nn.Parameter(torch.zeros(spec.num_experts, spec.in_features))

    @property
    def draws(self) -> int:
        """Returns one number for each expert."""
        return self.spec.num_experts

    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM, with noise in training."""
        read_BD, lots_BM = self.split(input_BX)
        clean_BM = read_BD @ self.score_MD.T
        if not self.training:
            return clean_BM
        normal_BM = math.sqrt(2) * torch.erfinv(2 * lots_BM - 1)
        return clean_BM + normal_BM * softplus(read_BD @ self.noise_MD.T)

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK that sum to 1, at most k of a row not 0."""
        held_BK = logits_BM.index_select(1, expert_ids_K)
        place_BK = held_BK.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return torch.softmax(held_BK.masked_fill(place_BK >= self.k, float("-inf")), dim=1)
