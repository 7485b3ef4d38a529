"""The sum of an input's patches as its embedding: what Chen et al.'s gate reads."""

from torch import Tensor, nn

from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.patch_expert import patches_of

__all__ = ["PatchSumExpert"]


class PatchSumExpert(Expert):
    """Patches added up, and a linear head on the sum; nothing to learn but the head.

    As the common expert it hands a linear gate `h(x) = sum_p Theta^T x_p` (arXiv 2208.02813, section 3). On the paper's
    data it is also the best that one linear model can be.

    Args:
        spec: what it is built from.
        silent: the head starts at 0. Left untrained (`common-expert.epochs=0`) it has no opinion, and a gate that falls
            back on it gives the paper's `pi f` where logits are mixed.
    """

    def __init__(self, spec: ExpertSpec, *, silent: bool = False) -> None:
        super().__init__()
        self.embedding_dim = spec.in_shape[2]
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)
        if silent:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the sum over patches, embedding_BD."""
        return patches_of(x_BCHW).sum(dim=1)
