"""Chen et al.'s nonlinear expert: filters on patches, their responses cubed."""

from torch import Tensor

from fedmoe.moe.patches import PatchExpert

__all__ = ["PatchCubicExpert"]


class PatchCubicExpert(PatchExpert):
    """`f_c(x) = sum_j sum_p (w_cj . x_p + b_cj)^3` (arXiv 2208.02813, section 3, with the biases of its code)."""

    def activate(self, filtered_BPF: Tensor) -> Tensor:
        """Returns the cubes."""
        return filtered_BPF * filtered_BPF * filtered_BPF
