"""MLP-Mixer's two steps (arXiv 2105.01601): patches mixed within each feature, features mixed within each patch.

Shapes: B samples, N patches, D features of a patch. Layer normalisation only: it keeps no statistics of anybody's data,
so that averages of several clients' weights are weights of the same network.
"""

from torch import Tensor, nn

__all__ = ["MixerBlock", "perceptron"]


def perceptron(features: int, hidden: int) -> nn.Sequential:
    """Returns a perceptron of one hidden layer with GELU that gives as many features as it reads."""
    return nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, features))


class MixerBlock(nn.Module):
    """Token mixing, then channel mixing, each `x + MLP(LN(x))` (arXiv 2105.01601, equation 1).

    Args:
        tokens: N.
        features: D.
        hidden: hidden units of both perceptrons.
    """

    def __init__(self, tokens: int, features: int, hidden: int) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(features)
        self.token_mix = perceptron(tokens, hidden)
        self.channel_norm = nn.LayerNorm(features)
        self.channel_mix = perceptron(features, hidden)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Returns as many tokens, each of which has seen all."""
        mixed_BDN: Tensor = self.token_mix(self.token_norm(x_BND).transpose(1, 2))
        y_BND = x_BND + mixed_BDN.transpose(1, 2)
        out_BND: Tensor = y_BND + self.channel_mix(self.channel_norm(y_BND))
        return out_BND
