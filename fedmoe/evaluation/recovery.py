"""How far fitted experts are from the true ones, where the truth is known: Voronoi cells and errors in them.

Shapes: M fitted experts, T true ones, Q parameters.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["anchored", "cell_errors", "voronoi_cells", "voronoi_loss"]

Floats = NDArray[np.float64]

ORDERS = {2: 4.0, 3: 6.0}  # r of a cell, by how many fitted experts are in it
HALVED = ("slopes", "variance")  # kinds of an expert that are recovered faster, and have half the power


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


def anchored(gate_MG: Floats, true_TG: Floats, cells_M: NDArray[np.int64]) -> Floats:
    """Returns the fitted gate's rows `(b1, b0)` moved by what softmax does not see, to be held against the true ones.

    A vector added to all slopes and a number added to all biases change no weight. They are chosen such that the
    weighted mean of the slopes' differences to their cells' true ones is 0, and the sums of `exp(b0)` are equal: at
    the truth nothing is moved, copies of an expert or not.

    Args:
        gate_MG: the fitted gate.
        true_TG: the true one, a row for each true expert.
        cells_M: from `voronoi_cells`.
    """
    mass_M = np.exp(gate_MG[:, -1] - gate_MG[:, -1].max())
    apart_G = mass_M @ (gate_MG[:, :-1] - true_TG[cells_M, :-1]) / mass_M.sum()
    by = np.logaddexp.reduce(gate_MG[:, -1]) - np.logaddexp.reduce(true_TG[:, -1])
    moved: Floats = gate_MG - np.append(apart_G, by)
    return moved


def voronoi_loss(
    gate_MG: Floats,
    true_TG: Floats,
    fitted: Mapping[str, Floats],
    true: Mapping[str, Floats],
    cells_M: NDArray[np.int64],
) -> float:
    """Returns the Voronoi loss of a softmax-gated mixture (arXiv 2305.03288): 0 for the truth alone.

    The sum over true experts j, with A_j the fitted ones in its cell and D the differences to it:
    `|sum_(i in A_j) exp(b0_i) - exp(b0_j)|`, and for each i in A_j, times `exp(b0_i)`: where it is alone the distance
    of each kind, the gate's slopes among them; where it has company the power r of those and of the intercepts, and
    r/2 of the experts' slopes and variances, with r = 4 for two in a cell and 6 for three. With these powers it falls
    like n^(-1/2), though the parameters of copies fall more slowly: like n^(-1/(2r)), and n^(-1/r).

    Args:
        gate_MG: the fitted gate's rows `(b1, b0)`; how it is shifted makes no difference.
        true_TG: the true one's.
        fitted: kind -> an expert's parameters, a row for each fitted one; `slopes` and `variance` take half the power.
        true: likewise.
        cells_M: from `voronoi_cells`.

    Raises:
        ValueError: more than three fitted experts are in one cell; of those the order is not known.
    """
    sizes_T = np.bincount(cells_M, minlength=len(true_TG))
    if sizes_T.max() > max(ORDERS):
        raise ValueError(f"a cell may have {max(ORDERS)} fitted experts at most, got {sizes_T.max()}")
    near_MG = anchored(gate_MG, true_TG, cells_M)
    mass_M, mass_T = np.exp(near_MG[:, -1]), np.exp(true_TG[:, -1])
    loss = float(np.abs(np.bincount(cells_M, weights=mass_M, minlength=len(mass_T)) - mass_T).sum())
    kinds = {"gate": (near_MG[:, :-1], true_TG[:, :-1]), **{kind: (fitted[kind], true[kind]) for kind in true}}
    for kind, (own, wanted) in kinds.items():
        distance_M = np.linalg.norm(own.reshape(len(cells_M), -1) - _of(wanted, cells_M), axis=1)
        order_M = np.array([ORDERS.get(int(sizes_T[cell]), 1.0) for cell in cells_M])
        power_M = np.where(order_M > 1, order_M / 2 if kind in HALVED else order_M, 1.0)
        loss += float(mass_M @ distance_M**power_M)
    return loss


def _of(true: Floats, cells_M: NDArray[np.int64]) -> Floats:
    rows: Floats = true.reshape(len(true), -1)[cells_M]
    return rows
