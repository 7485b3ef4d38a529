"""The networks of the works in plain torch, as a peer's user would write them; the same weights as fedmoe's own.

Nothing here imports fedmoe (see `benchmarks.workloads`). Shapes: B samples, D embedding width, M experts.
"""

from math import gcd

from torch import Tensor, nn

from benchmarks.workloads import Work

__all__ = ["Network", "build_gate", "build_network"]

UNITS = 128  # hidden units of the perceptron
CHANNELS = 16  # of ResNet-8's first stage
GROUPS = 8  # of its group normalisation


class Network(nn.Module):
    """A body and a linear head; what lies between them is the embedding."""

    def __init__(self, body: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, classes)
        self.width = width

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns embedding_BD."""
        embedding_BD: Tensor = self.body(x_BCHW)
        return embedding_BD

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns the class logits."""
        logits: Tensor = self.head(self.embed(x_BCHW))
        return logits


def build_network(work: Work) -> Network:
    """Returns the work's network, its weights drawn from torch's global generator."""
    channels, height, width = work.shape
    if work.network == "perceptron":
        body = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, UNITS), nn.ReLU())
        return Network(body, UNITS, work.classes)
    if work.network == "cnn":
        return Network(convolutions(work.shape), 512, work.classes)
    return Network(residual_body(channels), 4 * CHANNELS, work.classes)


def build_gate(work: Work, width: int) -> nn.Module:
    """Returns FedJETs' gate over embeddings of `width`: embedding_BD -> scores_BM."""
    return nn.Sequential(nn.Linear(width, work.gate_hidden), nn.ReLU(), nn.Linear(work.gate_hidden, work.experts))


def convolutions(shape: tuple[int, int, int]) -> nn.Sequential:
    """Returns two 5x5 convolutions (32 and 64 channels), each pooled, then 512 units (arXiv 1602.05629, section 3)."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512),
        nn.ReLU(),
    )


class Block(nn.Module):
    """Two 3x3 convolutions with group normalisation, and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            group_norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            group_norm(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), group_norm(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns the block's output."""
        out: Tensor = self.body(x_BCHW) + self.shortcut(x_BCHW)
        return out.relu()


def residual_body(channels: int) -> nn.Sequential:
    """Returns ResNet-8 without its head: a stem, three stages of one block, global pooling."""
    stem = [nn.Conv2d(channels, CHANNELS, 3, 1, 1, bias=False), group_norm(CHANNELS), nn.ReLU()]
    stages = [
        Block(CHANNELS, CHANNELS, 1),
        Block(CHANNELS, 2 * CHANNELS, 2),
        Block(2 * CHANNELS, 4 * CHANNELS, 2),
    ]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def group_norm(channels: int) -> nn.GroupNorm:
    """Returns group normalisation of at most eight groups."""
    return nn.GroupNorm(gcd(GROUPS, channels), channels)
