"""The canonical one of all gates that are the same function: softmax does not see what is added to all scores alike."""

import numpy as np

from fedmoe.moe.gate import Gate
from fedmoe.moe.vectors import Vector, parts_of

__all__ = ["canonical"]


def canonical(gate: Gate, vector: Vector) -> Vector:
    """Returns the vector with the mean over experts taken out of each of the gate's `shift_rows`.

    Gates that differ by one vector added to all experts' slopes, and one number to all their biases, give the same
    weights (arXiv 2305.03288: identifiable up to translation), to whichever experts are held; their canonical form is
    the same, too. It is an orthogonal projection, so the average of canonical gates is the canonical form of the
    average: a plain average needs none of it. What is not linear in the gates (a median, distances between them,
    averages with weights of each expert's own) does depend on which of them is at hand.

    Args:
        gate: any of the kind, for names and shapes.
        vector: its values; left as it is where the gate has no such freedom.
    """
    free = [part for part in parts_of(gate) if part.name in gate.shift_rows]
    if not free:
        return vector
    moved = vector.copy()
    for part in free:
        rows = vector[part.offset : part.offset + part.size].astype(np.float64).reshape(part.shape[0], -1)
        moved[part.offset : part.offset + part.size] = (rows - rows.mean(axis=0)).ravel()
    return moved
