"""Who takes part in a round."""

from collections.abc import Sequence

import numpy as np

from fedmoe.errors import RoundError

__all__ = ["sample_clients"]


def sample_clients(ids: Sequence[int], count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Returns `count` different client ids, sorted, each subset equally likely.

    The work and the memory are those of `count` clients, where `ids` is a range or another sequence without a list.

    Raises:
        RoundError: there are fewer than `count`.
    """
    if count > len(ids):
        raise RoundError(f"{count} clients were asked for, but only {len(ids)} can be sampled")
    return tuple(sorted(int(ids[place]) for place in rng.choice(len(ids), size=count, replace=False).tolist()))
