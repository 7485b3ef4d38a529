"""Attention whose scores are cut off at 0 instead of pushed through a softmax (ReLA), and its softmax twin.

Shapes: B samples, N tokens, D features of a token, H heads, F = D / H features of a head. The two axes of a score are
the token that asks and the token that is asked, both N long.
"""

from math import sqrt

import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError

__all__ = ["Attention", "AttentionBlock", "GatedRMSNorm"]

KINDS = ("relu", "softmax")
TINY = 1e-8  # under the root: rows of zeros stay zeros, with a gradient that is a number


class GatedRMSNorm(nn.Module):
    """`scale * o / rms(o) * sigmoid(gate * o)`, number by number (arXiv 2104.07012).

    Attributes:
        scale: D parameters, at first 1.
        gate: D parameters, at first 1.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))
        self.gate = nn.Parameter(torch.ones(features))

    def forward(self, o_BND: Tensor) -> Tensor:
        """Returns as many numbers; 0 for a row of zeros."""
        inverse_BN1 = torch.rsqrt(o_BND.square().mean(dim=-1, keepdim=True) + TINY)
        return self.scale * (o_BND * inverse_BN1) * torch.sigmoid(self.gate * o_BND)


class Attention(nn.Module):
    """Every token looks at all tokens, with several heads.

    `relu`: weights `max(0, q k / sqrt(F))` as they are; they need not sum to anything, and a token may look at none.
    The heads' outputs together go through `GatedRMSNorm`. `softmax`: the usual weights (arXiv 1706.03762), no norm.

    Args:
        features: D.
        heads: H.
        kind: `"relu"` or `"softmax"`.
    """

    def __init__(self, features: int, heads: int, kind: str) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.query, self.key, self.value = (nn.Linear(features, features) for _ in range(3))
        self.norm: nn.Module = GatedRMSNorm(features) if kind == "relu" else nn.Identity()
        self.out = nn.Linear(features, features)

    def weights(self, x_BND: Tensor) -> Tensor:
        """Returns weights_BHNN, at least 0."""
        query_BHNF, key_BHNF = self._by_head(self.query(x_BND)), self._by_head(self.key(x_BND))
        scores_BHNN = query_BHNF @ key_BHNF.transpose(-1, -2) / sqrt(query_BHNF.shape[-1])
        return torch.relu(scores_BHNN) if self.kind == "relu" else torch.softmax(scores_BHNN, dim=-1)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Returns as many tokens."""
        seen_BHNF = self.weights(x_BND) @ self._by_head(self.value(x_BND))
        out_BND: Tensor = self.out(self.norm(seen_BHNF.transpose(1, 2).flatten(2)))
        return out_BND

    def _by_head(self, x_BND: Tensor) -> Tensor:
        return x_BND.reshape(*x_BND.shape[:2], self.heads, -1).transpose(1, 2)


class AttentionBlock(nn.Module):
    """`x + attention(LN(x))`, then `x + MLP(LN(x))`.

    Args:
        features: D.
        heads: H; it must divide D.
        kind: `"relu"` or `"softmax"`.

    Raises:
        SettingsError: there is no such attention, or H does not divide D.
    """

    def __init__(self, features: int, heads: int, kind: str) -> None:
        super().__init__()
        if kind not in KINDS:
            raise SettingsError(f"attention must be one of {', '.join(KINDS)}, got '{kind}'; hint: 'relu' is ReLA's")
        if heads < 1 or features % heads:
            raise SettingsError(
                f"the number of heads must divide the features of a token ({features}), got {heads}; "
                "hint: set experts.width to a multiple of it"
            )
        self.attention_norm = nn.LayerNorm(features)
        self.attention = Attention(features, heads, kind)
        self.mix_norm = nn.LayerNorm(features)
        self.mix = nn.Sequential(nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, features))

    def forward(self, x_BND: Tensor) -> Tensor:
        """Returns as many tokens."""
        y_BND = x_BND + self.attention(self.attention_norm(x_BND))
        out_BND: Tensor = y_BND + self.mix(self.mix_norm(y_BND))
        return out_BND
