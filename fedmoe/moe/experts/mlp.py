"""A perceptron with one hidden layer."""

from math import prod

from torch import Tensor, nn

from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["MLPExpert"]

DEFAULT_UNITS = 128


class MLPExpert(Expert):
    """Flatten, one hidden layer with ReLU (128 units by default), linear head."""

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__()
        self.embedding_dim = spec.width or DEFAULT_UNITS
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(prod(spec.in_shape), self.embedding_dim), nn.ReLU())
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the hidden activations."""
        embedding_BD: Tensor = self.body(x_BCHW)
        return embedding_BD
