"""A control: every expert is as good as any other."""

from torch import Tensor

from fedmoe.moe.gate import Gate

__all__ = ["UniformGate"]


class UniformGate(Gate):
    """Equal scores for all: the mixture is the plain average of the held experts, and a ranking is a tie."""

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns zeros_BM."""
        return input_BD.new_zeros(input_BD.shape[0], self.spec.num_experts)
