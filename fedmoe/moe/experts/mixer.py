"""MLP-Mixer for small pictures."""

from torch import Tensor, nn

from fedmoe.moe.blocks import stacked_blocks
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.mixing import MixerBlock
from fedmoe.moe.patches import PatchEmbedding, patch_side

__all__ = ["MixerExpert"]

DEFAULT_FEATURES = 64


class MixerExpert(Expert):
    """MLP-Mixer (arXiv 2105.01601): patches, blocks of token and channel mixing, normalisation, mean, linear head.

    Without dropout: a pure function of its input.

    Args:
        spec: what it is built from; `spec.width` is the number of features of a patch (64 by default).
        layers: blocks, at least 1.
        hidden: hidden units of both perceptrons of a block; 0: twice the features.
        patch: side of a patch in pixels; 0: chosen by the pictures' size.

    Raises:
        SettingsError: the pictures cannot be cut into such patches, or there is no block.
    """

    def __init__(self, spec: ExpertSpec, *, layers: int = 2, hidden: int = 0, patch: int = 0) -> None:
        super().__init__()
        side = patch_side(*spec.in_shape[1:], patch, "experts.mixer.patch")
        self.embedding_dim = spec.width or DEFAULT_FEATURES
        self.patches = PatchEmbedding(spec.in_shape, self.embedding_dim, side)
        units = hidden or 2 * self.embedding_dim
        self.blocks = stacked_blocks(
            lambda: MixerBlock(self.patches.tokens, self.embedding_dim, units), layers, "experts.mixer.layers"
        )
        self.norm = nn.LayerNorm(self.embedding_dim)
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the mean of the patches' features."""
        features_BND: Tensor = self.norm(self.blocks(self.patches(x_BCHW)))
        return features_BND.mean(dim=1)
