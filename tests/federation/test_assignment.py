import tracemalloc
from collections import Counter

import numpy as np
import pytest

from fedmoe.errors import RoundError
from fedmoe.federation.assignment import top_k
from fedmoe.federation.placement import place
from fedmoe.federation.sampling import sample_clients


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_top_k_are_the_k_best_scores_best_first(seed: int, k: int) -> None:
    scores = np.random.default_rng(seed).permutation(5) / 5
    assert list(top_k(scores.tolist(), k, np.random.default_rng(0))) == np.argsort(-scores)[:k].tolist()


def test_ties_are_broken_by_lot_and_only_ties() -> None:
    scores = [1.0, 0.5, 0.5, 0.5, 0.1]
    seen = Counter(top_k(scores, 2, np.random.default_rng(seed)) for seed in range(600))
    assert set(seen) == {(0, 1), (0, 2), (0, 3)}
    assert min(seen.values()) > 150
    assert top_k(scores, 2, np.random.default_rng(8)) == top_k(scores, 2, np.random.default_rng(8))


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_is_of_different_clients_in_order(seed: int) -> None:
    ids = [3, 9, 12, 40, 41]
    chosen = sample_clients(ids, 3, np.random.default_rng(seed))
    assert len(set(chosen)) == 3
    assert set(chosen) <= set(ids)
    assert list(chosen) == sorted(chosen)
    assert chosen == sample_clients(ids, 3, np.random.default_rng(seed))
    assert sample_clients(ids, 0, np.random.default_rng(seed)) == ()
    assert sample_clients(ids, 5, np.random.default_rng(seed)) == tuple(ids)


@pytest.mark.parametrize(("num", "count"), [(5, 5), (30, 7), (20_000, 10), (20_000, 900), (100_000, 1000)])
@pytest.mark.parametrize("seed", range(3))
def test_a_sample_of_a_range_is_that_of_its_list(seed: int, num: int, count: int) -> None:
    ids = range(7, 7 + num)
    chosen = sample_clients(ids, count, np.random.default_rng(seed))
    assert chosen == sample_clients(list(ids), count, np.random.default_rng(seed))
    lots = np.random.default_rng(seed).choice(np.asarray(ids), size=count, replace=False)
    assert list(chosen) == sorted(lots.tolist())


def test_a_sample_costs_what_it_holds_and_not_what_it_is_drawn_from() -> None:
    tracemalloc.start()
    try:
        assert len(sample_clients(range(10**8), 100, np.random.default_rng(0))) == 100
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_nobody_of_nobody_can_be_sampled() -> None:
    assert sample_clients((), 0, np.random.default_rng(0)) == ()


def test_each_subset_of_clients_is_about_as_likely() -> None:
    seen = Counter(sample_clients(range(4), 2, np.random.default_rng(seed)) for seed in range(1200))
    assert len(seen) == 6
    assert max(seen.values()) < 260
    assert min(seen.values()) > 140


def test_more_clients_than_there_are_cannot_be_sampled() -> None:
    with pytest.raises(RoundError, match="4 clients were asked for, but only 3"):
        sample_clients([1, 2, 3], 4, np.random.default_rng(0))


@pytest.mark.parametrize("nodes", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_every_client_is_placed_once_and_loads_are_even(seed: int, nodes: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {int(client): int(rng.integers(1, 500)) for client in rng.choice(100, 20, replace=False)}
    cohorts = place(sizes, nodes)
    assert len(cohorts) == nodes
    assert sorted(client for cohort in cohorts for client in cohort) == sorted(sizes)
    assert all(list(cohort) == sorted(cohort) for cohort in cohorts)
    loads = [sum(sizes[client] for client in cohort) for cohort in cohorts]
    # A client goes where the least is to do: no node can be ahead of another by more than one client.
    assert max(loads) - min(loads) <= max(sizes.values())


@pytest.mark.parametrize("nodes", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_next_client_goes_to_the_first_of_the_least_loaded_nodes(seed: int, nodes: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {int(client): int(rng.integers(0, 6)) for client in rng.choice(100, 40, replace=False)}
    loads, cohorts = [0] * nodes, [[] for _ in range(nodes)]
    for client in sorted(sizes, key=lambda client: (-sizes[client], client)):
        node = loads.index(min(loads))
        cohorts[node].append(client)
        loads[node] += sizes[client]
    assert place(sizes, nodes) == tuple(tuple(sorted(cohort)) for cohort in cohorts)


def test_placement_does_not_depend_on_the_order_of_the_clients() -> None:
    sizes = {4: 7, 1: 7, 9: 3, 2: 12}
    assert place(sizes, 3) == place(dict(reversed(sizes.items())), 3)
    assert place({}, 2) == ((), ())
