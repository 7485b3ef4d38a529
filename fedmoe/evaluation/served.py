"""Which samples of an unseen client are tested: the same ones for every method and round."""

import numpy as np

from fedmoe.data.contracts import Ids
from fedmoe.data.population import Population
from fedmoe.seeding import numpy_stream

__all__ = ["served_ids"]


def served_ids(population: Population, client_id: int, limit: int, seed: int) -> Ids:
    """Returns the client's sample ids, at most `limit` of them by lot (0: all), sorted."""
    ids = population.shards[client_id]
    if not limit or len(ids) <= limit:
        return ids
    return np.sort(numpy_stream(seed, "evaluate", "samples", client_id).choice(ids, limit, replace=False))
