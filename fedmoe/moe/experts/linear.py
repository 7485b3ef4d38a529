"""The theory's expert: multinomial logistic regression on the input itself."""

from math import prod

from torch import Tensor, nn

from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["LinearExpert"]


class LinearExpert(Expert):
    """The flattened input, straight into the head: `softmax_c(w_c . x + a_c)` (arXiv 2310.14188, equation 1)."""

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__()
        self.embedding_dim = prod(spec.in_shape)
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the flattened input."""
        return x_BCHW.flatten(1)
