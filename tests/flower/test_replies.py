"""What nodes' replies add up to, whatever the order in which they come."""

import weakref
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from fedmoe.federation.job import ClientUpdate
from fedmoe.federation.merging import sums_of_updates
from fedmoe.flower import replies as gathering
from fedmoe.flower.replies import Replies, gather_rankings, gather_training
from fedmoe.flower.wire import row_of

COHORTS = {1001: (3, 8), 1002: (0, 9, 11), 1003: (5,), 1004: (7, 20)}


def updates(seed: int) -> dict[int, ClientUpdate]:
    rng = np.random.default_rng(seed)

    def vector() -> np.ndarray:
        return (rng.standard_normal(30) * 10.0 ** rng.integers(-6, 3, 30)).astype(np.float32)

    return {
        client: ClientUpdate(
            client_id=client,
            num_examples=7,
            weight=int(rng.integers(1, 300)),
            gate=vector() if client % 2 else None,
            experts={int(i): vector() for i in rng.choice(4, rng.integers(1, 4), replace=False)},
            metrics={"loss": 0.5},
        )
        for cohort in COHORTS.values()
        for client in cohort
    }


def reply(node_id: int, of: dict[int, ClientUpdate], merges: str, exact: bool) -> SimpleNamespace:
    own = [of[client] for client in COHORTS[node_id]]
    rows = [row_of(u) for u in own]
    payload: dict[str, Any] = {"rows": rows, "failures": []}
    if merges == "updates":
        arrays = {f"{u.client_id}/{name}": vector for u in own for name, vector in u.vectors().items()}
    else:
        sums = sums_of_updates(own, exact)
        payload["weights"], arrays = sums.weights, sums.arrays
    return SimpleNamespace(
        metadata=SimpleNamespace(src_node_id=node_id), has_error=lambda: False, told=(payload, arrays)
    )


def gathered(replies: Iterable[SimpleNamespace], merges: str, exact: bool) -> Replies:
    with mock.patch.object(gathering, "decode", lambda one: one.told):
        return gather_training(1, replies, COHORTS, merges, exact)  # type: ignore[arg-type]


@pytest.mark.parametrize("merges", ["sums", "updates"])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_replies_in_any_order_give_the_same_bytes(seed: int, exact: bool, merges: str) -> None:
    of, rng = updates(seed), np.random.default_rng(seed)
    told = []
    for _ in range(4):
        come = [reply(int(node_id), of, merges, exact) for node_id in rng.permutation(list(COHORTS))]
        got = gathered(come, merges, exact)
        told.append({name: array.tobytes() for name, array in got.sums.arrays.items()})
        assert [row["client_id"] for row in got.rows] == sorted(of)
        assert [update.client_id for update in got.updates] == (sorted(of) if merges == "updates" else [])
    assert told[0] == told[1] == told[2] == told[3]
    if exact or merges == "updates":
        assert told[0] == {n: a.tobytes() for n, a in sums_of_updates(of.values(), exact).arrays.items()}


@pytest.mark.parametrize("seed", range(3))
def test_every_update_comes_back_with_its_own_vectors(seed: int) -> None:
    of = updates(seed)
    for got in gathered([reply(node_id, of, "updates", True) for node_id in COHORTS], "updates", True).updates:
        sent = of[got.client_id]
        assert (got.weight, got.num_examples, got.metrics) == (sent.weight, sent.num_examples, sent.metrics)
        assert {name: v.tobytes() for name, v in got.vectors().items()} == {
            name: v.tobytes() for name, v in sent.vectors().items()
        }


def test_one_nodes_arrays_are_in_memory_at_a_time() -> None:
    of, alive = updates(0), []

    def decoded(one: SimpleNamespace) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        # the one before is let go of when the loop takes the next
        assert sum(array() is not None for array in alive) <= 1
        payload, arrays = reply(one.metadata.src_node_id, of, "sums", True).told
        arrays = {name: array.copy() for name, array in arrays.items()}
        alive.append(weakref.ref(next(iter(arrays.values()))))
        return payload, arrays

    with mock.patch.object(gathering, "decode", decoded):
        gather_training(1, [reply(node_id, of, "sums", True) for node_id in COHORTS], COHORTS, "sums", True)  # type: ignore[misc]
    assert len(alive) == len(COHORTS)


def test_clients_of_a_silent_and_of_a_failed_node_are_named() -> None:
    def answer(node_id: int, **facts: Any) -> SimpleNamespace:
        return SimpleNamespace(metadata=SimpleNamespace(src_node_id=node_id), **facts)

    rankings = {"rankings": {"3": [0.25, 0.75], "8": [1.0, 0.0]}, "failures": []}
    failed = answer(1003, has_error=lambda: True, error=SimpleNamespace(reason="out of memory"))
    good = answer(1001, has_error=lambda: False, told=(rankings, {}))
    with mock.patch.object(gathering, "decode", lambda one: one.told):
        got, failures = gather_rankings(4, [failed, good], COHORTS)  # type: ignore[list-item]
    assert got == {3: (0.25, 0.75), 8: (1.0, 0.0)}
    silent = "the node did not answer in time"
    assert {(f.client_id, f.error) for f in failures} == {
        (5, "the node failed: out of memory"),
        *((client, silent) for client in (0, 9, 11, 7, 20)),
    }
    assert {(f.stage, f.round_num) for f in failures} == {("rank", 4)}
