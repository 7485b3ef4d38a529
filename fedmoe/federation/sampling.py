"""Who takes part in a round."""

from collections.abc import Sequence

import numpy as np

from fedmoe.errors import RoundError
from fedmoe.settings import ClientsSettings

__all__ = ["census_of", "matched_count", "sample_clients"]


def census_of(ids: Sequence[int], count: int, rng: np.random.Generator) -> Sequence[int]:
    """Returns `count` of the clients by lot, or all of them where there are no more, or `count` is 0.

    >>> census_of(range(3), 5, np.random.default_rng(0))
    range(0, 3)
    """
    return ids if count == 0 or count >= len(ids) else sample_clients(ids, count, rng)


def matched_count(clients: ClientsSettings, top_k: int, traffic: int, available: int) -> int:
    """Returns how many clients a method may sample a round for the bytes of experts that FedJETs sends, at least 1.

    Of FedJETs' n clients a are anchors with an expert each, the others hold K, and each expert goes down and up: that
    is `2 (a + (n - a) K)` experts. A method whose clients get and send `traffic` experts can pay for that many times
    `1 / traffic` clients, rounded down. Gates and rankings are left out.

    >>> matched_count(ClientsSettings(per_round=10, anchors_per_round=5), top_k=2, traffic=2, available=100)
    15

    Args:
        clients: n, a.
        top_k: K.
        traffic: experts that one of the method's clients gets, plus those that it sends; 0: there is nothing to match.
        available: clients that can be sampled.
    """
    if not traffic:
        return clients.per_round
    paid = 2 * (clients.anchors_per_round + (clients.per_round - clients.anchors_per_round) * top_k)
    return max(1, min(available, paid // traffic))


def sample_clients(ids: Sequence[int], count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Returns `count` different client ids, sorted, each subset equally likely.

    The work and the memory are those of `count` clients, where `ids` is a range or another sequence without a list.

    Raises:
        RoundError: there are fewer than `count`.
    """
    if count > len(ids):
        raise RoundError(f"{count} clients were asked for, but only {len(ids)} can be sampled")
    return tuple(sorted(int(ids[place]) for place in rng.choice(len(ids), size=count, replace=False).tolist()))
