"""Chen et al.'s nonlinear expert: filters on patches, their responses cubed."""

from torch import Tensor

from fedmoe.moe.patch_expert import PatchExpert, patches_of

__all__ = ["PatchCubicExpert"]


class PatchCubicExpert(PatchExpert):
    """`f_c(x) = sum_j sum_p (w_cj . x_p + b_cj)^3` (arXiv 2208.02813, section 3, with the biases of its code)."""

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the cubed responses, summed over patches, embedding_BF."""
        filtered_BPF: Tensor = self.filters(patches_of(x_BCHW))
        return (filtered_BPF * filtered_BPF * filtered_BPF).sum(dim=1)
