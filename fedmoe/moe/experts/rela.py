"""A small vision transformer with rectified linear attention."""

from math import gcd

import torch
from torch import Tensor, nn

from fedmoe.moe.attention import AttentionBlock
from fedmoe.moe.blocks import stacked_blocks
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.patches import PatchEmbedding, patch_side

__all__ = ["ReLAExpert"]

DEFAULT_FEATURES = 64
MOST_HEADS = 4
POSITIONS = 0.02  # standard deviation of the positions' first features


class ReLAExpert(Expert):
    """Patches, learnt positions, blocks of attention (ReLA, arXiv 2104.07012), layer normalisation, mean, linear head.

    Args:
        spec: what it is built from; `spec.width` is the number of features of a patch (64 by default).
        attention: `"relu"`, or `"softmax"` for the twin with the usual attention.
        layers: blocks, at least 1.
        heads: of each attention; they must divide the features; 0: 4, or 2 or 1 where 4 do not.
        patch: side of a patch in pixels; 0: chosen by the pictures' size.

    Raises:
        SettingsError: there is no such attention, heads or patches do not fit, or there is no block.
    """

    def __init__(
        self, spec: ExpertSpec, *, attention: str = "relu", layers: int = 2, heads: int = 0, patch: int = 0
    ) -> None:
        super().__init__()
        side = patch_side(*spec.in_shape[1:], patch, "experts.rela.patch")
        self.embedding_dim = spec.width or DEFAULT_FEATURES
        self.patches = PatchEmbedding(spec.in_shape, self.embedding_dim, side)
        number = heads or gcd(MOST_HEADS, self.embedding_dim)
        self.positions = nn.Parameter(POSITIONS * torch.randn(self.patches.tokens, self.embedding_dim))
        self.blocks = stacked_blocks(
            lambda: AttentionBlock(self.embedding_dim, number, attention), layers, "experts.rela.layers"
        )
        self.norm = nn.LayerNorm(self.embedding_dim)
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the mean of the patches' features."""
        features_BND: Tensor = self.norm(self.blocks(self.patches(x_BCHW) + self.positions))
        return features_BND.mean(dim=1)
