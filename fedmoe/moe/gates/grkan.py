"""KAMoE's gate: a gated residual network whose inner layers are splines."""

from torch import nn
from torch.nn.functional import elu, silu

from fedmoe.moe.gates.grn import GRNGate
from fedmoe.moe.splines import KANLinear

__all__ = ["GRKANGate"]


class GRKANGate(GRNGate):
    """The gate `grn` with `u = KAN_silu(KAN_elu(h))` (GRKAN, arXiv 2409.15161).

    The base of the first layer of splines is ELU, that of the second SiLU (the paper's; released versions vary).
    """

    def make_inner(self, hidden: int, units: int) -> nn.Module:
        """Returns the two layers that make u of h."""
        return nn.Sequential(KANLinear(hidden, units, elu), KANLinear(units, units, silu))
