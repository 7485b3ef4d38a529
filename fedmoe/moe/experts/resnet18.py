"""ResNet-18 for small images."""

from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.residual import ResidualExpert

__all__ = ["ResNet18"]


class ResNet18(ResidualExpert):
    """ResNet-18: four stages of two blocks, 64 channels in the first."""

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__(spec, blocks=(2, 2, 2, 2), default_width=64)
