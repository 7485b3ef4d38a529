"""The theory's gate: linear scores of the input, or of a bounded transform of it, with a softmax over the pool."""

from typing import ClassVar

from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.transform import TRANSFORMS

__all__ = ["SoftmaxGate"]


class SoftmaxGate(Gate):
    """`scores = b1 . t(x) + b0` (arXiv 2310.14188: their beta_1, beta_0, and M for our t).

    With t the identity this is the standard softmax gate, whose slopes and those of linear experts stand in for each
    other; the modified gate has a bounded t, and experts keep x itself.

    Args:
        spec: what it is built from.
        transform: t: identity, tanh, sigmoid or softsign, `x / (1 + |x|)`; element by element.

    Raises:
        SettingsError: there is no such transform.
    """

    shift_rows: ClassVar[tuple[str, ...]] = ("linear.weight", "linear.bias")

    def __init__(self, spec: GateSpec, *, transform: str = "identity") -> None:
        super().__init__(spec)
        if transform not in TRANSFORMS:
            raise SettingsError(f"gate.softmax.transform must be one of {', '.join(TRANSFORMS)}, got '{transform}'")
        self.transform = transform
        self.linear = nn.Linear(spec.in_features, spec.num_experts)

    def scores(self, input_BX: Tensor) -> Tensor:
        """Returns logits_BM."""
        logits_BM: Tensor = self.linear(TRANSFORMS[self.transform](input_BX))
        return logits_BM
