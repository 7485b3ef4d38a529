"""A head on the common expert's embedding."""

from math import prod
from typing import ClassVar

from torch import Tensor, nn

from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["HeadExpert"]


class HeadExpert(Expert):
    """One linear layer on the frozen common expert's embedding, which every client has: all that travels is small."""

    reads: ClassVar[str] = "embedding"

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__()
        self.embedding_dim = prod(spec.in_shape)
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the input: it is the embedding already."""
        return x_BCHW.flatten(1)
