"""A perceptron whose activation has a gate that may go beyond 0 and 1."""

from math import prod

from torch import Tensor, nn

from fedmoe.moe.activations import make_activation
from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["ExpandedExpert"]

DEFAULT_UNITS = 128


class ExpandedExpert(Expert):
    """Flatten, one hidden layer (128 units by default) with an activation of choice, linear head (arXiv 2405.20768).

    The activation's range, one trained number where it has any, lies in `activation.range`.

    Args:
        spec: what it is built from; `spec.width` is the number of units behind the activation.
        activation: one of `fedmoe.moe.activations.ACTIVATIONS`; a gated linear unit has twice the weights before it.

    Raises:
        SettingsError: there is no such activation.
    """

    def __init__(self, spec: ExpertSpec, *, activation: str = "xatlu") -> None:
        super().__init__()
        self.embedding_dim = spec.width or DEFAULT_UNITS
        self.activation = make_activation(activation, "experts.expanded.activation")
        inputs = self.embedding_dim * (2 if self.activation.form.halves else 1)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(prod(spec.in_shape), inputs))
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the hidden activations."""
        embedding_BD: Tensor = self.activation(self.body(x_BCHW))
        return embedding_BD
