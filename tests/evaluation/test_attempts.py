"""Chunks of clients, and clients that fail among others."""

import bdb
import logging
from collections.abc import Sequence

import numpy as np
import pytest

from fedmoe.evaluation.attempts import attempt
from fedmoe.evaluation.chunks import chunks


@pytest.mark.parametrize("seed", range(20))
def test_chunks_are_as_large_as_they_may_be(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, limit = rng.integers(0, 30, rng.integers(0, 40)).tolist(), int(rng.integers(0, 60))
    parts = list(chunks(sizes, limit))
    assert [n for part in parts for n in range(len(sizes))[part]] == list(range(len(sizes)))
    for part in parts:
        own = sizes[part]
        assert own
        assert sum(own) <= limit or len(own) == 1
        assert part.stop == len(sizes) or sum(sizes[part.start : part.stop + 1]) > limit


@pytest.mark.parametrize("seed", range(20))
def test_who_fails_is_named_and_the_others_are_served(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(seed)
    clients = rng.permutation(100)[: rng.integers(1, 40)].tolist()
    bad = set(rng.choice(clients, int(rng.integers(0, len(clients) + 1)), replace=False).tolist())
    parts = [clients[part] for part in chunks([1] * len(clients), int(rng.integers(1, 20)))]

    def work(some: Sequence[int]) -> list[int]:
        if bad & set(some):
            raise OSError(f"no samples of {sorted(bad & set(some))}")
        return [client * client for client in some]

    with caplog.at_level(logging.CRITICAL):
        done, failures = attempt("rank", 7, parts, work)
    assert done == {client: client * client for client in clients if client not in bad}
    assert [failure.client_id for failure in failures] == [client for client in clients if client in bad]
    assert all((failure.stage, failure.round_num) == ("rank", 7) for failure in failures)
    assert [failure.error for failure in failures] == [f"OSError: no samples of [{f.client_id}]" for f in failures]


def test_a_result_too_few_is_a_failure_not_a_mix_up() -> None:
    done, failures = attempt("rank", 1, [(3, 4)], lambda some: [0] if len(some) == 2 else [some[0]])
    assert done == {3: 3, 4: 4}
    assert failures == []


def test_a_person_at_the_debugger_may_leave() -> None:
    def work(some: Sequence[int]) -> list[int]:
        raise bdb.BdbQuit

    with pytest.raises(bdb.BdbQuit):
        attempt("rank", 1, [(1, 2)], work)
