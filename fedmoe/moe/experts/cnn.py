"""A small convolutional network."""

from torch import Tensor, nn

from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["CNNExpert"]

DEFAULT_CHANNELS = 16
EMBEDDING_UNITS = 128


class CNNExpert(Expert):
    """Two 3x3 convolutions (16 and 32 channels by default), each with ReLU and 2x2 max-pooling, then 128 units."""

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__()
        channels, height, width = spec.in_shape
        first = spec.width or DEFAULT_CHANNELS
        self.embedding_dim = EMBEDDING_UNITS
        self.body = nn.Sequential(
            nn.Conv2d(channels, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, 2 * first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * first * (height // 4) * (width // 4), EMBEDDING_UNITS),
            nn.ReLU(),
        )
        self.head = nn.Linear(EMBEDDING_UNITS, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the activations before the head."""
        embedding_BD: Tensor = self.body(x_BCHW)
        return embedding_BD
