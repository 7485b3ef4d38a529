"""Which samples of a client are tested, the same ones for every method and round, and what falls by lot then."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.data.contracts import Ids
from fedmoe.data.population import Population
from fedmoe.moe.gate import Gate
from fedmoe.seeding import derive_seed, numpy_stream
from fedmoe.training.samples import Lots

__all__ = ["cold_order", "lots_of", "mean_embedding", "seen_clients", "seen_ids", "served_ids", "ties_of"]

SEEN_SAMPLES = 500  # of a training client, where the settings name no other number


def served_ids(population: Population, client_id: int, limit: int, seed: int) -> Ids:
    """Returns the client's sample ids, at most `limit` of them by lot (0: all), sorted."""
    ids = population.shards[client_id]
    if not limit or len(ids) <= limit:
        return ids
    return np.sort(numpy_stream(seed, "evaluate", "samples", client_id).choice(ids, limit, replace=False))


def mean_embedding(embedding_BD: Tensor) -> NDArray[np.float32]:
    """Returns the mean of a client's embeddings, by which its head is chosen (`fedmoe.federation.heads`)."""
    mean_D: NDArray[np.float32] = embedding_BD.double().mean(dim=0).float().cpu().numpy()
    return mean_D


def cold_order(client_id: int, size: int, seed: int) -> Ids:
    """Returns the places of the client's tested samples in the order in which they come in the cold start, by lot."""
    return numpy_stream(seed, "evaluate", "cold-start", client_id).permutation(size)


def seen_clients(population: Population, count: int, seed: int) -> tuple[int, ...]:
    """Returns as many training clients as are tested, by lot, sorted; anchors are as likely as others."""
    every = population.num_training
    lots = numpy_stream(seed, "evaluate", "seen").choice(every, size=min(count, every), replace=False)
    return tuple(sorted(int(client) for client in lots))


def seen_ids(population: Population, client_id: int, test_ids: Ids, limit: int, seed: int) -> Ids:
    """Returns ids of test samples as the client's own are: of its domains, its labels in its shares, by lot, sorted.

    Args:
        population: who holds what.
        client_id: a training client.
        test_ids: all test samples.
        limit: how many at the most; 0: 500. Where a label has too few, there are fewer.
        seed: the run's.
    """
    own = population.shards[client_id]
    labels, counts = np.unique(population.labels_N[own], return_counts=True)
    alike = test_ids
    if len(population.domains) > 1:
        alike = test_ids[np.isin(population.domain_N[test_ids], np.unique(population.domain_N[own]))]
    stream, found = numpy_stream(seed, "evaluate", "seen", client_id), []
    for label, count in zip(labels, counts, strict=True):
        pool = alike[population.labels_N[alike] == label]
        wanted = max(1, round((limit or SEEN_SAMPLES) * count / len(own)))
        found.append(stream.choice(pool, size=min(wanted, len(pool)), replace=False))
    return np.sort(np.concatenate(found))


def lots_of(seed: int, stage: str, round_num: int, client_id: int, gate: Gate) -> Lots:
    """Returns what falls by lot for the gate when it ranks for the client (`"rank"`) or serves it (`"evaluate"`)."""
    return Lots(derive_seed(seed, "gate", stage, round_num, client_id), gate.spec.num_experts, gate.draws)


def ties_of(seed: int, round_num: int, client_id: int) -> np.random.Generator:
    """Returns what breaks ties among the experts when the client is served."""
    return numpy_stream(seed, "evaluate", "ties", round_num, client_id)
