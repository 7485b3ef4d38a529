"""NiNformer: a network in a network, a Mixer that gates a linear layer."""

from torch import Tensor, nn

from fedmoe.moe.blocks import stacked_blocks
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.mixing import MixerBlock, perceptron
from fedmoe.moe.patches import PatchEmbedding, patch_side

__all__ = ["NiNformerExpert"]

DEFAULT_FEATURES = 64


class MixerGatingUnit(nn.Module):
    """`(W x + b) * Mixer(x)`: each token's linear image, gated number by number by what a Mixer makes of all tokens."""

    def __init__(self, tokens: int, features: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)
        self.gate = MixerBlock(tokens, features, hidden)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Returns as many tokens."""
        out_BND: Tensor = self.linear(x_BND) * self.gate(x_BND)
        return out_BND


class NiNformerBlock(nn.Module):
    """`x + MGU(LN(x))`, then `x + FFN(LN(x))` with the same layer normalisation, as the authors' code has it."""

    def __init__(self, tokens: int, features: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.unit = MixerGatingUnit(tokens, features, hidden)
        self.feed_forward = perceptron(features, hidden)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Returns as many tokens."""
        y_BND = x_BND + self.unit(self.norm(x_BND))
        out_BND: Tensor = y_BND + self.feed_forward(self.norm(y_BND))
        return out_BND


class NiNformerExpert(Expert):
    """NiNformer (arXiv 2403.02411): patches, blocks with a Mixer for a gate, mean over patches, linear head.

    No code for positions (token mixing tells the patches apart), and, other than the authors', no dropout: a pure
    function of its input. Layer normalisation only.

    Args:
        spec: what it is built from; `spec.width` is the number of features of a patch (64 by default; theirs 256).
        layers: blocks, at least 1 (theirs: 4).
        hidden: hidden units of every perceptron (their d_ffn); 0: twice the features.
        patch: side of a patch in pixels; 0: chosen by the pictures' size (4 for 32x32, as theirs).

    Raises:
        SettingsError: the pictures cannot be cut into such patches, or there is no block.
    """

    def __init__(self, spec: ExpertSpec, *, layers: int = 2, hidden: int = 0, patch: int = 0) -> None:
        super().__init__()
        side = patch_side(*spec.in_shape[1:], patch, "experts.ninformer.patch")
        self.embedding_dim = spec.width or DEFAULT_FEATURES
        self.patches = PatchEmbedding(spec.in_shape, self.embedding_dim, side)
        units = hidden or 2 * self.embedding_dim
        self.blocks = stacked_blocks(
            lambda: NiNformerBlock(self.patches.tokens, self.embedding_dim, units), layers, "experts.ninformer.layers"
        )
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the mean of the patches' features."""
        features_BND: Tensor = self.blocks(self.patches(x_BCHW))
        return features_BND.mean(dim=1)
