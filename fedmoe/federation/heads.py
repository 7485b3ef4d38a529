"""Several gates on the server, its heads: a row each, and what a client is like whom a head suits.

Shapes: H heads, P values of a gate, D values of an embedding.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmoe.errors import RoundError
from fedmoe.federation.state import ServerState

__all__ = ["HEADS", "KEYS", "gate_of", "head_for", "nearest"]

HEADS = "heads"
"""Name of the heads among the state's extras: float32 (H, P)."""
KEYS = "keys"
"""Name of the mean embedding that each head stands for: float32 (H, D); a row of NaN: nobody has trained that head."""


def gate_of(state: ServerState, head: int) -> NDArray[np.float32] | None:
    """Returns the vector of a head, or, for -1, of the gate.

    Raises:
        ValueError: the state holds no such head.
    """
    if head < 0:
        return state.gate
    heads_HP = state.extras.get(HEADS)
    if heads_HP is None or head >= len(heads_HP):
        raise ValueError(
            f"there must be a head {head} in the state's extras, got {0 if heads_HP is None else len(heads_HP)}"
        )
    vector_P: NDArray[np.float32] = heads_HP[head].astype(np.float32, copy=False)
    return vector_P


def head_for(extras: Mapping[str, NDArray[Any]], known: int, mean_D: NDArray[np.float32]) -> int:
    """Returns which head serves a client: the one that is known to be its own, or the nearest; -1 where there is none.

    Args:
        extras: of the state.
        known: its own head; -1: not known.
        mean_D: the mean of its embeddings.
    """
    if known >= 0 or HEADS not in extras:
        return known
    return nearest(extras[KEYS], mean_D)


def nearest(keys_HD: NDArray[np.float32], mean_D: NDArray[np.float32]) -> int:
    """Returns the row that is nearest to a client's mean embedding; of equally near ones the first.

    Raises:
        RoundError: no row is known.

    >>> nearest(np.array([[0.0, 0.0], [np.nan, np.nan], [3.0, 3.0]]), np.array([2.0, 2.0]))
    2
    """
    far_H = np.square(keys_HD.astype(np.float64) - mean_D).sum(axis=1)
    if np.isnan(far_H).all():
        raise RoundError("no head has been trained, so none is the nearest; hint: let the run get through a round")
    return int(np.nanargmin(far_H))
