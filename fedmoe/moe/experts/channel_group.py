"""Experts as channel groups of one convolutional network."""

from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.residual import normalisation

__all__ = ["ChannelGroupExpert"]

DEFAULT_CHANNELS = 16


class ChannelGroupExpert(Expert):
    """One pathway through a convolutional network whose layers hold a group of filters for each expert.

    AdvMoE's experts (arXiv 2308.10110): every convolution of a network but the first has M groups of filters, each of a
    share `ratio` of the network's width; an expert is the same group in every layer. What all have in common is
    `shared`: the first convolution, the normalisations and the classifier. Every expert's vector has a copy of it, for
    experts are sent one by one; a client trains each copy for itself, and a strategy that keeps them alike (`advmoe`)
    averages it over all experts that came back (`shared_alike`).

    A stem of 3x3 filters at full width (16 channels by default), then `layers` of 3x3 convolutions of `ratio` times
    twice that width, each with normalisation, ReLU and 2x2 max-pooling, then the classifier.

    Args:
        spec: what it is built from; `spec.width` is the stem's.
        ratio: width of a pathway over that of the network, above 0 and at most 1.
        layers: convolutions with groups, at least 1.

    Raises:
        SettingsError: the ratio or the layers are out of range, or the images too small for so many poolings.
    """

    shared = ("stem.*", "norms.*", "head.*")

    def __init__(self, spec: ExpertSpec, *, ratio: float = 0.5, layers: int = 2) -> None:
        super().__init__()
        channels, height, width = spec.in_shape
        if not 0 < ratio <= 1:
            raise SettingsError(f"experts.channel_group.ratio must be above 0 and at most 1, got {ratio}; hint: 0.5")
        if layers < 1 or min(height, width) >> layers < 1:
            raise SettingsError(
                f"experts.channel_group.layers must be at least 1, and halve images of {height}x{width} so often, got "
                f"{layers}; hint: 2"
            )
        full = spec.width or DEFAULT_CHANNELS
        group = max(1, round(2 * full * ratio))
        self.stem = nn.Sequential(
            nn.Conv2d(channels, full, 3, padding=1, bias=False), normalisation(spec.norm, full), nn.ReLU()
        )
        self.groups = nn.ModuleList(
            nn.Conv2d(full if layer == 0 else group, group, 3, padding=1, bias=False) for layer in range(layers)
        )
        self.norms = nn.ModuleList(normalisation(spec.norm, group) for _ in range(layers))
        self.embedding_dim = group * (height >> layers) * (width >> layers)
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the activations before the head."""
        out_BCHW = self.stem(x_BCHW)
        for group, norm in zip(self.groups, self.norms, strict=True):
            out_BCHW = nn.functional.max_pool2d(norm(group(out_BCHW)).relu(), 2)
        embedding_BD: Tensor = out_BCHW.flatten(1)
        return embedding_BD
