"""A small convolutional router that reads the image itself."""

from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.routing import highest

__all__ = ["ConvRouter"]


class ConvRouter(Gate):
    """3x3 convolutions with ReLU, all but the first of stride 2, then a linear layer on what is left of the image.

    AdvMoE's router (arXiv 2308.10110) is a residual network on the raw image; this one is as small as the experts here.
    A gate that reads the image can be attacked through it: with every step of an attack the routing is another one,
    which it is not where embeddings were computed before. It needs no common expert.

    Without normalisation: it keeps no statistics of anybody's data.

    Args:
        spec: what it is built from.
        channels: of the first convolution; the others have twice as many. At least 1.
        layers: convolutions, at least 1.
        hard: as theirs, each sample goes to the one held expert of the highest score, with a weight of 1; the gradient
            is that of the softmax over the held scores (straight-through, arXiv 1308.3432).

    Raises:
        SettingsError: there is no channel, or no layer.
    """

    reads = "image"

    def __init__(self, spec: GateSpec, *, channels: int = 8, layers: int = 3, hard: bool = False) -> None:
        super().__init__(spec)
        self.hard = hard
        for name, value in (("channels", channels), ("layers", layers)):
            if value < 1:
                raise SettingsError(f"gate.conv_router.{name} must be at least 1, got {value}")
        self.in_shape = spec.in_shape or (spec.in_features, 1, 1)
        count, height, width = self.in_shape
        steps: list[nn.Module] = []
        for layer in range(layers):
            stride, out = (1, channels) if layer == 0 else (2, 2 * channels)
            steps += [nn.Conv2d(count, out, 3, stride, padding=1), nn.ReLU()]
            count, height, width = out, -(-height // stride), -(-width // stride)
        self.layers = nn.Sequential(*steps, nn.Flatten())
        self.last = nn.Linear(count * height * width, spec.num_experts)

    def scores(self, input_BD: Tensor) -> Tensor:
        """Returns logits_BM."""
        logits_BM: Tensor = self.last(self.layers(input_BD.reshape(-1, *self.in_shape)))
        return logits_BM

    def weigh(self, logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
        """Returns weights_BK: the softmax of the held scores; of a `hard` router its highest alone, made 1."""
        soft_BK = super().weigh(logits_BM, expert_ids_K)
        return highest(soft_BK) + (soft_BK - soft_BK.detach()) if self.hard else soft_BK
