"""Which node does which client's work: longest first, always to the node with the least to do."""

from collections.abc import Mapping
from heapq import heapreplace

__all__ = ["place"]


def place(sizes: Mapping[int, int], num_nodes: int) -> tuple[tuple[int, ...], ...]:
    """Returns the clients of each node, sorted, so that the nodes' loads are nearly equal.

    Args:
        sizes: client id -> size of its work (samples x experts, say).
        num_nodes: nodes; some stay empty when there are fewer clients.

    >>> place({0: 5, 1: 3, 2: 3, 3: 1}, 2)
    ((0, 3), (1, 2))
    """
    loads = [(0, node) for node in range(num_nodes)]  # a heap: the least load first, of equal ones the first node
    cohorts: list[list[int]] = [[] for _ in range(num_nodes)]
    for client_id in sorted(sizes, key=lambda client: (-sizes[client], client)):
        load, node = loads[0]
        cohorts[node].append(client_id)
        heapreplace(loads, (load + sizes[client_id], node))
    return tuple(tuple(sorted(cohort)) for cohort in cohorts)
