"""Chen et al.'s linear expert: filters on patches, nothing else."""

from torch import Tensor

from fedmoe.moe.patches import PatchExpert

__all__ = ["PatchLinearExpert"]


class PatchLinearExpert(PatchExpert):
    """`f_c(x) = sum_j sum_p (w_cj . x_p + b_cj)`: as many weights as the cubic one's, but a linear function."""

    def activate(self, filtered_BPF: Tensor) -> Tensor:
        """Returns what the filters give."""
        return filtered_BPF
