"""Residual networks for small images (He et al., arXiv 1512.03385, section 4.2), with group or batch normalisation."""

from collections.abc import Sequence
from math import gcd

from torch import Tensor, nn

from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["ResidualExpert"]

GROUPS = 8  # of GroupNorm where they divide the channels: at least two channels a group from 16 channels on


def normalisation(kind: str, channels: int) -> nn.Module:
    """Returns a normalisation layer over `channels`.

    GroupNorm keeps no running statistics, which is why it is the default here: averages of BatchNorm's statistics over
    clients with different labels are statistics of nobody's data.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(gcd(GROUPS, channels), channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with normalisation, and a shortcut (projected where the shape changes)."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            normalisation(norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            normalisation(norm, channels),
        )
        same = stride == 1 and channels_in == channels
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), normalisation(norm, channels))
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns the block's output."""
        out_BCHW: Tensor = self.body(x_BCHW) + self.shortcut(x_BCHW)
        return out_BCHW.relu()


class ResidualExpert(Expert):
    """A 3x3 stem, stages of residual blocks (each stage after the first halves height and width), global pooling.

    Args:
        spec: what it is built from; `spec.width` sets the first stage's channels, later stages double them.
        blocks: residual blocks of each stage.
        default_width: channels of the first stage when `spec.width` is 0.
    """

    def __init__(self, spec: ExpertSpec, blocks: Sequence[int], default_width: int) -> None:
        super().__init__()
        width = spec.width or default_width
        layers: list[nn.Module] = [
            nn.Conv2d(spec.in_shape[0], width, 3, 1, 1, bias=False),
            normalisation(spec.norm, width),
            nn.ReLU(),
        ]
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(channels, width * 2**stage, stride, spec.norm))
                channels = width * 2**stage
        self.embedding_dim = channels
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the pooled features."""
        embedding_BD: Tensor = self.body(x_BCHW)
        return embedding_BD
