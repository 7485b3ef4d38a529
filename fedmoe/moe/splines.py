"""Cubic B-splines on a fixed grid, and the layer of a Kolmogorov-Arnold network that is built of them.

The grid is the same for all clients and never moves. So a layer is linear in its coefficients, and the average of two
clients' coefficients is the average of their functions; splines whose grids follow the data could not be averaged.

Shapes: B samples, D inputs, U outputs, G intervals of the grid, S = G + 3 splines.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["KANLinear", "cubic_splines"]

DEGREE = 3
GRID = 3  # intervals: S = 6 splines over GRID + 1 + 2 * DEGREE = 10 knots
LOW, HIGH = -1.0, 1.0


def cubic_splines(x: Tensor, intervals: int = GRID, low: float = LOW, high: float = HIGH) -> Tensor:
    """Returns the values of the S uniform cubic B-splines at x, in a new last axis.

    Knots are `low + (j - 3) h`, `h = (high - low) / G`, for j = 0 .. G + 6; spline j stands on the knots j to j + 4. In
    [low, high] they sum to 1; beyond, they fade out within 3 h.

    With v the distance from a spline's middle in steps of h, the recursion of Cox and de Boor comes to
    `max(0, 2 - v)^3 / 6 - 4 max(0, 1 - v)^3 / 6`, in which no large numbers cancel.

    Args:
        x: of any shape.
        intervals: G, at least 1.
        low: where the grid begins.
        high: where it ends.

    Raises:
        ValueError: the grid has no interval, or no length.
    """
    if intervals < 1 or not low < high:
        raise ValueError(
            f"a grid needs an interval and low < high, got {intervals} in [{low}, {high}]; hint: 3 in [-1, 1]"
        )
    middle_S = torch.arange(intervals + DEGREE, dtype=x.dtype, device=x.device) - 1
    steps = (x.unsqueeze(-1) - low) * (intervals / (high - low))
    v = (steps - middle_S).abs()
    return ((2 - v).relu().pow(3) - 4 * (1 - v).relu().pow(3)) / 6


class KANLinear(nn.Module):
    """`base(x) W_b + B(x) W_s`: a learnt curve for each pair of input and output, summed over inputs.

    B are the cubic splines of each input. Outside the grid and its margins only the base is left. First weights are
    Glorot's (uniform), as a layer of D S inputs for W_s. From arXiv 2409.15161, whose grid this is: 3 intervals over
    [-1, 1].

    Args:
        in_features: D.
        out_features: U.
        base: applied to each input.
    """

    def __init__(self, in_features: int, out_features: int, base: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.base = base
        self.base_UD = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_UZ = nn.Parameter(torch.empty(out_features, in_features * (GRID + DEGREE)))  # Z = D S
        nn.init.xavier_uniform_(self.base_UD)
        nn.init.xavier_uniform_(self.spline_UZ)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Returns out_BU."""
        return self.base(x_BD) @ self.base_UD.T + cubic_splines(x_BD).flatten(1) @ self.spline_UZ.T
