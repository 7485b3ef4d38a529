"""ResNet-34 for small images."""

from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.residual import ResidualExpert

__all__ = ["ResNet34"]


class ResNet34(ResidualExpert):
    """ResNet-34: four stages of 3, 4, 6 and 3 blocks, 64 channels in the first: FedJETs' own."""

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__(spec, blocks=(3, 4, 6, 3), default_width=64)
