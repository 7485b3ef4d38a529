"""Who takes part in a round."""

from collections.abc import Sequence

import numpy as np

from fedmoe.errors import RoundError

__all__ = ["sample_clients"]


def sample_clients(ids: Sequence[int], count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Returns `count` different client ids, sorted, each subset equally likely.

    Raises:
        RoundError: there are fewer than `count`.
    """
    if count > len(ids):
        raise RoundError(f"{count} clients were asked for, but only {len(ids)} can be sampled")
    return tuple(sorted(int(i) for i in rng.choice(np.asarray(ids, dtype=np.int64), size=count, replace=False)))
