"""How far fitted experts are from the true ones, where the truth is known: Voronoi cells and errors in them.

Shapes: M fitted experts, T true ones, Q parameters.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["cell_errors", "voronoi_cells"]

Floats = NDArray[np.float64]


def voronoi_cells(fitted_MQ: Floats, true_TQ: Floats) -> NDArray[np.int64]:
    """Returns, for each fitted expert, the id of the true one that is nearest (Euclid; a tie falls to the lower id).

    Several fitted experts in one cell are copies of one true expert (arXiv 2305.03288, the Voronoi cells A_j). Give the
    experts' own parameters and leave the gate's out: those are known up to a shift alone.
    """
    squares_MT = ((fitted_MQ[:, None, :] - true_TQ[None, :, :]) ** 2).sum(axis=2)
    cells_M: NDArray[np.int64] = squares_MT.argmin(axis=1)
    return cells_M


def cell_errors(
    fitted: Mapping[str, Floats],
    true: Mapping[str, Floats],
    cells_M: NDArray[np.int64],
    usage_M: Floats,
    usage_T: Floats,
) -> dict[str, float]:
    """Returns the error of each kind of parameter, and of the cells' weights (`"usage"`).

    A kind's error is the mean over fitted experts, each weighted by its mean gate weight, of the Euclidean distance to
    the true expert of its cell: the sum in the Voronoi losses, with bounded weights that know no shift in place of
    `exp(b0)`, and without the powers that make rates look alike. The weights' own is the sum over cells of how much the
    weight of the fitted ones differs from the true one's.

    Args:
        fitted: kind -> parameters, a row for each fitted expert.
        true: likewise, a row for each true expert.
        cells_M: from `voronoi_cells`.
        usage_M: mean gate weight of each fitted expert; sums to 1.
        usage_T: likewise of each true one.
    """
    errors = {
        kind: float(usage_M @ np.linalg.norm(fitted[kind].reshape(len(cells_M), -1) - _of(true[kind], cells_M), axis=1))
        for kind in true
    }
    held_T = np.bincount(cells_M, weights=usage_M, minlength=len(usage_T))
    return {**errors, "usage": float(np.abs(held_T - usage_T).sum())}


def _of(true: Floats, cells_M: NDArray[np.int64]) -> Floats:
    rows: Floats = true.reshape(len(true), -1)[cells_M]
    return rows
