"""Chen et al.'s linear expert: filters on patches, nothing else."""

from torch import Tensor

from fedmoe.moe.patch_expert import PatchExpert, patches_of

__all__ = ["PatchLinearExpert"]


class PatchLinearExpert(PatchExpert):
    """`f_c(x) = sum_j sum_p (w_cj . x_p + b_cj)`: as many weights as the cubic one's, but a linear function."""

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the responses summed over patches, embedding_BF: that to the mean patch, times their number."""
        x_BPD = patches_of(x_BCHW)
        summed_BF: Tensor = x_BPD.shape[1] * self.filters(x_BPD.mean(dim=1))
        return summed_BF
