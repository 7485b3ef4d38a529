"""A perceptron that is regularised by a hyper-parameter of its own, and knows what it would be under others."""

from math import log, prod

import torch
from torch import Tensor, nn

from fedmoe.errors import SettingsError
from fedmoe.moe.best_response import BestResponse
from fedmoe.moe.expert import Expert, ExpertSpec

__all__ = ["BestResponseExpert"]

DEFAULT_UNITS = 128
MOST = 0.9  # of what dropout may leave out
HYPER = 1  # one rate, of inputs and hidden units: two would stand in for each other


class BestResponseExpert(Expert):
    """Flatten, one hidden best-response layer with ReLU (128 units by default), linear head (arXiv 1903.03088).

    Its hyper-parameter h is the rate of dropout, of the inputs and of the hidden units, unconstrained:
    `rate = 0.9 sigmoid(h)`. It is a tensor of the expert as any other, `hyper`, which a strategy may keep with the
    client and move by another objective than the weights: `self_tuning` does. To be trained in the paper's way the
    layer needs chance: numbers that come with each sample (`draws`), by which its h is drawn around `hyper`, and
    inputs and units are left out. Without them nothing is drawn and nothing left out: so it is served.

    The hidden units respond, and the head does not: for two linear layers and an L2 penalty the exact best response is
    a gating of the hidden units (their abstract).

    Args:
        spec: what it is built from; `spec.width` is the number of hidden units.
        rate: of dropout at first, above 0 and below 0.9.
        spread: standard deviation of the drawn h, above 0; fixed, where the paper tunes it.
        pace: how many times as far as a weight h moves by a step: h is `pace` times the tensor that is trained.
    """

    def __init__(self, spec: ExpertSpec, *, rate: float = 0.3, spread: float = 0.5, pace: float = 3.0) -> None:
        super().__init__()
        if not 0 < rate < MOST:
            raise SettingsError(f"experts.best_response.rate must be above 0 and below {MOST}, got {rate}")
        if spread <= 0 or pace <= 0:
            raise SettingsError(f"experts.best_response.spread and pace must be above 0, got {spread} and {pace}")
        self.embedding_dim, self.inputs = spec.width or DEFAULT_UNITS, prod(spec.in_shape)
        self.spread, self.pace = spread, pace
        self.hyper = nn.Parameter(torch.full((HYPER,), log(rate / (MOST - rate)) / pace))
        self.body = BestResponse(self.inputs, self.embedding_dim, HYPER)
        self.head = nn.Linear(self.embedding_dim, spec.num_classes)

    @property
    def draws(self) -> int:
        """Returns a number for the hyper-parameter, each input and each hidden unit."""
        return HYPER + self.inputs + self.embedding_dim

    def rate_of(self, hyper_BH: Tensor) -> Tensor:
        """Returns the rate of dropout that a hyper-parameter stands for, in (0, 0.9)."""
        return MOST * torch.sigmoid(hyper_BH)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Returns the hidden activations under the expert's own hyper-parameters."""
        return torch.relu(self.body(x_BCHW.flatten(1), self.pace * self.hyper[None]))

    def forward(self, x_BCHW: Tensor, lots_BL: Tensor | None = None) -> Tensor:
        """Returns logits_BC.

        Args:
            x_BCHW: inputs.
            lots_BL: `draws` numbers for each sample, drawn evenly from [0, 1): by them each sample's hyper-parameter is
                drawn, and what it goes without; `None`: neither.
        """
        if lots_BL is None:
            return super().forward(x_BCHW)
        lots = torch.split(lots_BL, [HYPER, self.inputs, self.embedding_dim], dim=1)
        normal_BH = torch.special.ndtri(lots[0].clamp(1e-6, 1 - 1e-6))
        hyper_BH = self.pace * self.hyper + self.spread * normal_BH
        rate_B1 = self.rate_of(hyper_BH.detach())
        kept_BI = without(x_BCHW.flatten(1), rate_B1, lots[1])
        embedding_BD = without(torch.relu(self.body(kept_BI, hyper_BH)), rate_B1, lots[2])
        logits_BC: Tensor = self.head(embedding_BD)
        return logits_BC


def without(values_BN: Tensor, rate_B1: Tensor, lots_BN: Tensor) -> Tensor:
    """Returns the values, 0 where a lot falls below the rate, the others scaled up to the same mean."""
    return values_BN * (lots_BN >= rate_B1) / (1 - rate_B1)
