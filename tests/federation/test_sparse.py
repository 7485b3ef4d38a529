"""Vectors with zeros: what they cost against encoders that are written out, and the server's step towards zero."""

from dataclasses import replace

import numpy as np
import pytest

from fedmoe.federation.job import ClientJob, Term
from fedmoe.federation.ledger import Ledger
from fedmoe.federation.sparse import NonZeros, nonzeros_of, shrunk, sparse_bytes
from fedmoe.federation.state import ServerState


def job(client_id: int, experts: tuple[int, ...], shrink: float = 0.1, **more: object) -> ClientJob:
    own = {"client_id": client_id, "round_num": 1, "experts": experts, "objective": (Term("dense"),), "gate": True}
    return ClientJob(**(own | {"shrink": shrink} | more))  # type: ignore[arg-type]


def encodings(vector: np.ndarray) -> list[bytes]:
    """The reference: the vector as bytes, in three ways."""
    there = vector != 0
    values = vector[there].tobytes()
    return [
        vector.tobytes(),
        np.packbits(there).tobytes() + values,
        np.flatnonzero(there).astype(np.int32).tobytes() + values,
    ]


def decoded(encoded: bytes, size: int) -> np.ndarray:
    """What the bitmap's encoding says."""
    there = np.unpackbits(np.frombuffer(encoded[: -(-size // 8)], np.uint8), count=size).astype(bool)
    vector = np.zeros(size, np.float32)
    vector[there] = np.frombuffer(encoded[-(-size // 8) :], np.float32)
    return vector


@pytest.mark.parametrize("share", [0.0, 0.003, 0.02, 0.2, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000, 4097])
def test_the_count_is_the_length_of_the_shortest_encoding(size: int, share: float) -> None:
    rng = np.random.default_rng([size, int(1000 * share)])
    vector = (rng.standard_normal(size) * (rng.random(size) < share)).astype(np.float32)
    ways = encodings(vector)
    np.testing.assert_array_equal(decoded(ways[1], size), vector)
    assert sparse_bytes(size, int(np.count_nonzero(vector))) == min(map(len, ways)) <= 4 * size


@pytest.mark.parametrize("seed", range(4))
def test_a_sparse_round_costs_what_its_vectors_do_client_by_client(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ledger = Ledger(gate_size=30, expert_size=200, num_experts=3, common_size=0)

    def vector(size: int) -> np.ndarray:
        return (rng.standard_normal(size) * (rng.random(size) < rng.random())).astype(np.float32)

    state = ServerState(gate=vector(30), experts=tuple(vector(200) for _ in range(3)))
    jobs = [job(client, tuple(rng.permutation(3)[:2].tolist())) for client in range(5)]
    made = {c.client_id: {"gate": vector(30)} | {f"expert/{i}": vector(200) for i in c.experts} for c in jobs}
    del made[3]  # its update was lost: who knows what it would have been
    rows = [{"client_id": c, "nonzeros": {n: np.count_nonzero(v) for n, v in own.items()}} for c, own in made.items()]
    sent = ledger.round(jobs, [0, 1, 9], [0, 1], 2, nonzeros=nonzeros_of(jobs, state, rows))

    def cost(vector: np.ndarray) -> int:
        return min(map(len, encodings(vector)))

    told = state.to_arrays()
    names = {one.client_id: ["gate", *(f"expert/{i}" for i in one.experts)] for one in jobs}
    down = sum(cost(told[name]) for own in names.values() for name in own) + cost(told["gate"])
    lost = 4 * (30 + 200 * 2)
    up = sum(cost(v) for own in made.values() for v in own.values()) + lost + 2 * 2 * 4
    assert (sent.down, sent.up) == (down, up)
    gates = sum(cost(made[c]["gate"]) for c in made) + 4 * 30 + 6 * cost(told["gate"])
    assert sum(sent.by_expert) == down + up - gates - 2 * 2 * 4


@pytest.mark.parametrize("ranks_by", ["gate", "loss", "fingerprint"])
def test_vectors_without_zeros_cost_what_dense_ones_do(ranks_by: str) -> None:
    ledger = Ledger(gate_size=5, expert_size=11, num_experts=4, common_size=0)
    jobs = [job(0, (1, 2)), job(1, (0,), shared=("control",)), replace(job(2, (3,)), gate=False)]
    dense = ledger.round(jobs, [0, 1, 7], [0, 1], 2, ranks_by)
    assert dense == ledger.round(jobs, [0, 1, 7], [0, 1], 2, ranks_by, NonZeros({}))
    half = ledger.round(jobs, [0, 1, 7], [0, 1], 2, ranks_by, NonZeros({f"expert/{i}": 0 for i in range(4)}))
    assert half.down == dense.down - 4 * 11 * {"gate": 4, "loss": 3 * 4 + 1, "fingerprint": 4}[ranks_by]
    assert half.up == dense.up
    assert half.by_expert[0] >= 2 * 4 * 11, "what is shared beside the weights travels dense"


def test_a_round_in_which_no_job_makes_zeros_is_dense() -> None:
    state = ServerState(gate=None, experts=(np.zeros(5, np.float32),))
    assert nonzeros_of([job(0, (0,), shrink=0.0)], state) is None
    assert nonzeros_of([job(0, (0,), shrink=0.0), job(1, (0,))], state) == NonZeros({"expert/0": 0})


@pytest.mark.parametrize("seed", range(3))
def test_the_server_shrinks_the_weights_of_the_parts_that_are_named(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = ServerState(
        gate=rng.standard_normal(6).astype(np.float32),
        experts=tuple(rng.standard_normal(10).astype(np.float32) for _ in range(3)),
    )
    weights = {"expert": (slice(0, 4), slice(7, 9)), "gate": (slice(2, 6),)}
    after = shrunk(state, {"gate", "expert/1"}, weights, {"expert": 0.5, "gate": 0.25})
    for i in (0, 2):
        assert after.experts[i].tobytes() == state.experts[i].tobytes()
    for own, before, where, by in (
        (after.experts[1], state.experts[1], (0, 1, 2, 3, 7, 8), 0.5),
        (after.gate, state.gate, (2, 3, 4, 5), 0.25),
    ):
        for place, (new, old) in enumerate(zip(own, before, strict=True)):
            slowly = old if place not in where else 0.0 if abs(old) <= by else old - by if old > 0 else old + by
            assert new == pytest.approx(slowly, abs=1e-7)
            assert (new == 0) == (slowly == 0)
        assert own.dtype == np.float32
    same = shrunk(state, {"gate", "expert/1"}, weights, {"expert": 0.0, "gate": 0.0})
    assert all(a.tobytes() == b.tobytes() for a, b in zip(same.experts, state.experts, strict=True))
