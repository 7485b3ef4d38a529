"""Projected gradient ascent on images: the worst input within eps of each pixel (Madry et al., arXiv 1706.06083).

Written for one client and one batch, by `torch.func.grad`: the stacked trainer maps it over clients. Eps and step are
shares of a pixel's whole range, 8/255 for instance; inputs are normalised, and `Span` says what the range is there.

Shapes: B samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

__all__ = ["Attack", "Span", "nudge"]

SOFT = 1e-3  # of an image's mean |gradient|: pixels of less than that move by less than a step


@dataclass(frozen=True)
class Span:
    """What normalised pixels may be.

    Attributes:
        low_C11: least value, one a channel: that of a black pixel.
        high_C11: greatest value.
    """

    low_C11: Tensor
    high_C11: Tensor


@dataclass(frozen=True)
class Attack:
    """PGD in the L-infinity norm: `x <- clip(x + step sign(grad figure(x)))`, `steps` times.

    The sign goes through 0 without a jump, over a thousandth of the image's mean gradient: where there is no gradient
    but for rounding, which is another in each trainer, a sign would make a whole step of it.

    Attributes:
        eps: how far a pixel may move, as a share of its range, in [0, 1].
        step: how far it moves at once, likewise.
        steps: how often, at least 0.
    """

    eps: float
    step: float
    steps: int

    def __post_init__(self) -> None:
        if not (0 <= self.eps <= 1 and 0 <= self.step <= 1 and self.steps >= 0):
            raise ValueError(
                f"an attack's eps and step must be shares in [0, 1] and its steps at least 0, got {self.eps}, "
                f"{self.step} and {self.steps}; hint: 8/255 = 0.0314"
            )

    def on(self, figure: Callable[[Tensor], Tensor], x_BCHW: Tensor, span: Span | None, start: Tensor) -> Tensor:
        """Returns inputs within eps of `x_BCHW`, and of the span, at which the figure is greater; nothing flows back.

        Parameters that the figure is computed from get no gradient of it. The figure must change nothing: BatchNorm in
        training mode, which keeps statistics, is refused by torch.

        Args:
            figure: inputs like `x_BCHW` -> a sum over samples, each of which depends on its own input alone.
            x_BCHW: normalised inputs.
            span: of the pixels.
            start: where the ascent starts, in eps away from `x_BCHW`, in [-1, 1]; broadcast.

        Raises:
            ValueError: there is no span, for the inputs are no images.
        """
        if span is None:
            raise ValueError("an attack moves pixels, but the experts read embeddings; hint: experts.model='cnn'")
        unit_C11 = span.high_C11 - span.low_C11
        least = torch.maximum(x_BCHW - self.eps * unit_C11, span.low_C11)
        most = torch.minimum(x_BCHW + self.eps * unit_C11, span.high_C11)
        with torch.no_grad():  # `grad` below looks at what is within itself only
            at_BCHW = torch.minimum(torch.maximum(x_BCHW + self.eps * start * unit_C11, least), most)
            for _ in range(self.steps):
                moved = at_BCHW + self.step * unit_C11 * soft_sign(grad(figure)(at_BCHW))
                at_BCHW = torch.minimum(torch.maximum(moved, least), most)
        return at_BCHW.detach()


def soft_sign(gradient_BCHW: Tensor) -> Tensor:
    """Returns the sign of each value, less than 1 where the value is below a thousandth of its image's mean."""
    size_BCHW = gradient_BCHW.abs()
    least_B111 = SOFT * size_BCHW.mean(dim=(1, 2, 3), keepdim=True) + torch.finfo(gradient_BCHW.dtype).tiny
    return gradient_BCHW / torch.maximum(size_BCHW, least_B111)


def nudge(x_BCHW: Tensor) -> Tensor:
    """Returns a start for figures that are flat at the image itself, as a divergence from it is: (channels, H, W).

    It is `cos(k^2)` at pixel k: as irregular as noise, the same for every sample and drawn from nothing.
    """
    places = torch.arange(x_BCHW[0].numel(), device=x_BCHW.device, dtype=torch.float64)
    return torch.cos(places.square()).to(x_BCHW.dtype).view(x_BCHW.shape[1:])
