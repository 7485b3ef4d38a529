"""ResNet-8 for small images."""

from fedmoe.moe.expert import ExpertSpec
from fedmoe.moe.residual import ResidualExpert

__all__ = ["ResNet8"]


class ResNet8(ResidualExpert):
    """ResNet-8: three stages of one block, 16 channels in the first (78,000 weights for 10 classes)."""

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__(spec, blocks=(1, 1, 1), default_width=16)
