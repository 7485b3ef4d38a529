"""Rankings -> assignment: which client holds which experts."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Assignment", "Rankings", "best_first", "top_k"]

Assignment = Mapping[int, tuple[int, ...]]
"""Client id -> ids of the experts that it holds, best first."""

Rankings = Mapping[int, Sequence[float]]
"""Client id -> its score of every expert; the higher, the better."""


def top_k(scores: Sequence[float], k: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Returns the ids of the k highest scores, best first; ties are broken by lot.

    >>> top_k([0.1, 0.6, 0.3], 2, np.random.default_rng(0))
    (1, 2)
    """
    return best_first(scores, rng.permutation(len(scores)))[:k]


def best_first(scores: Sequence[float], lots: NDArray[np.int64]) -> tuple[int, ...]:
    """Returns all ids by falling score; of equal scores, the one with the lower lot comes first."""
    return tuple(sorted(range(len(scores)), key=lambda i: (-scores[i], lots[i])))
