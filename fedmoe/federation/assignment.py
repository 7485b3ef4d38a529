"""Rankings -> assignment: which client holds which experts."""

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["Assignment", "Rankings", "top_k"]

Assignment = Mapping[int, tuple[int, ...]]
"""Client id -> ids of the experts that it holds, best first."""

Rankings = Mapping[int, Sequence[float]]
"""Client id -> its score of every expert; the higher, the better."""


def top_k(scores: Sequence[float], k: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Returns the ids of the k highest scores, best first; ties are broken by lot.

    >>> top_k([0.1, 0.6, 0.3], 2, np.random.default_rng(0))
    (1, 2)
    """
    lots = rng.permutation(len(scores))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], lots[i]))
    return tuple(order[:k])
