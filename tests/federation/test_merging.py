from fractions import Fraction

import numpy as np
import pytest

from fedmoe.errors import RoundError
from fedmoe.federation.job import ClientUpdate
from fedmoe.federation.merging import BLOCK, LARGEST_SUM, SCALE, Sums, diverged, merge_sums, sums_of_updates
from fedmoe.federation.state import ServerState, moving_average

SIZE, POOL = 40, 4
SEEDS = range(5)


def updates_of(seed: int, clients: int = 9, scale: float = 1.0) -> list[ClientUpdate]:
    """Clients with experts of their own choice; expert 3 is nobody's."""
    rng = np.random.default_rng(seed)

    def vector() -> np.ndarray:
        return (scale * rng.standard_normal(SIZE) * 10.0 ** rng.integers(-6, 3, SIZE)).astype(np.float32)

    return [
        ClientUpdate(
            client_id=int(client),
            num_examples=int(examples),
            weight=int(examples),
            gate=vector(),
            experts={int(i): vector() for i in rng.choice(3, rng.integers(1, 4), replace=False)},
            metrics={},
        )
        for client, examples in zip(rng.permutation(clients), rng.integers(1, 300, clients), strict=True)
    ]


def dealt(updates: list[ClientUpdate], nodes: int, seed: int, exact: bool = True) -> Sums:
    """Sums as several nodes make them: clients dealt by lot, nodes that answer in any order."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(nodes, size=len(updates))
    total = Sums(exact)
    for node in rng.permutation(nodes):
        total.join(sums_of_updates([u for u, mine in zip(updates, owner == node, strict=True) if mine], exact))
    return total


def mean_of(updates: list[ClientUpdate], expert_id: int) -> list[Fraction]:
    """The weighted mean, without any rounding."""
    held = [(u.weight, u.experts[expert_id]) for u in updates if expert_id in u.experts]
    total = sum(weight for weight, _ in held)
    return [sum(Fraction(float(v[i])) * weight for weight, v in held) / total for i in range(SIZE)]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_average_is_the_weighted_mean_over_the_holders(seed: int, exact: bool) -> None:
    updates = updates_of(seed)
    sums = sums_of_updates(updates, exact)
    for expert_id in range(3):
        average, expected = sums.average(f"expert/{expert_id}"), mean_of(updates, expert_id)
        assert average.dtype == np.float32
        for got, wanted in zip(average, expected, strict=True):
            # each term is rounded to a multiple of 2**-32 (in exact mode), the result to 24 bits
            rounding = Fraction(len(updates), 2**33) if exact else abs(wanted) / 2**48
            assert abs(Fraction(float(got)) - wanted) <= rounding + abs(wanted) / 2**24 + Fraction(1, 2**150)


@pytest.mark.parametrize("seed", SEEDS)
def test_exact_sums_are_whole_numbers_that_add_up(seed: int) -> None:
    updates = updates_of(seed)
    sums = sums_of_updates(updates, True)
    for index in range(SIZE):
        expected = sum(round(Fraction(float(u.gate[index])) * u.weight * int(SCALE)) for u in updates)
        assert int(sums.arrays["gate"][index]) == expected
    assert sums.weights["gate"] == sum(u.weight for u in updates)


def gates(seed: int, size: int, clients: int = 6) -> list[ClientUpdate]:
    """Updates of one vector each: values of all magnitudes, zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((clients, size)) * 10.0 ** rng.integers(-45, 3, (clients, size))
    vectors[rng.random((clients, size)) < 0.2] = -0.0
    weights = rng.integers(1, 300, clients).tolist()
    return [
        ClientUpdate(client_id=client, num_examples=1, weight=weight, gate=vector, experts={}, metrics={})
        for client, (vector, weight) in enumerate(zip(vectors.astype(np.float32), weights, strict=True))
    ]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("size", [0, 1, 600, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
@pytest.mark.parametrize("seed", SEEDS)
def test_sums_have_the_bytes_of_the_plain_formula(seed: int, size: int, exact: bool) -> None:
    updates, total = gates(seed, size), None
    sums = Sums(exact)
    for update in updates:
        term = update.gate.astype(np.float64) * (update.weight * (SCALE if exact else 1))
        term = np.rint(term).astype(np.int64) if exact else term
        total = term if total is None else total + term
        sums.add(update)
        assert sums.arrays["gate"].tobytes() == total.tobytes()
    assert sums.arrays["gate"].dtype == total.dtype
    assert (Sums(exact).arrays, sums.weights) == ({}, {"gate": sum(update.weight for update in updates)})
    joined = Sums(exact)
    joined.join(sums)
    assert joined.arrays["gate"].tobytes() == total.tobytes()


@pytest.mark.parametrize("exact", [True, False])
def test_sums_that_came_from_elsewhere_are_left_as_they_are(exact: bool) -> None:
    updates = gates(0, 5)
    given = sums_of_updates(updates[:2], exact)
    array = given.arrays["gate"].copy()
    array.setflags(write=False)  # as a message's may be
    received, total = Sums(exact, {"gate": array}, dict(given.weights)), Sums(exact)
    total.join(received)
    for update in updates[2:]:
        received.add(update)
        total.add(update)
    whole = sums_of_updates(updates, exact)
    for sums in (received, total):
        assert (sums.arrays["gate"].tobytes(), sums.weights) == (whole.arrays["gate"].tobytes(), whole.weights)
    assert array.tobytes() == given.arrays["gate"].tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_a_sum_is_refused_at_the_very_update_that_makes_it_too_large(seed: int) -> None:
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], (12, 1), p=[0.2, 0.8]) if seed % 2 else rng.choice([-1, 1], (12, 3))
    values = (signs * rng.uniform(2.0**26, 2.0**29.9, (12, 3))).astype(np.float32)
    terms = [[int(Fraction(float(v)) * int(SCALE)) for v in row] for row in values]
    reached = [max(abs(sum(column)) for column in zip(*terms[: k + 1], strict=True)) for k in range(12)]
    sums, joined = Sums(True), Sums(True)
    for vector, most in zip(values, reached, strict=True):
        update = ClientUpdate(client_id=0, num_examples=1, weight=1, gate=vector, experts={}, metrics={})
        for add in (lambda: sums.add(update), lambda: joined.join(sums_of_updates([update], True))):  # noqa: B023
            if most < LARGEST_SUM:
                add()
                continue
            with pytest.raises(RoundError, match="does not fit 64 bits"):
                add()
        if most >= LARGEST_SUM:
            break


@pytest.mark.parametrize("nodes", [1, 2, 3, 9])
@pytest.mark.parametrize("seed", SEEDS)
def test_any_split_over_nodes_and_any_order_give_the_same_bytes(seed: int, nodes: int) -> None:
    updates = updates_of(seed)
    one = sums_of_updates(updates, True)
    for lot in range(3):
        other = dealt(updates, nodes, lot)
        assert set(other.arrays) == set(one.arrays)
        assert other.weights == one.weights
        for name in one.arrays:
            # the sums too: float64 ones in another order would mostly round to the same average
            assert other.arrays[name].tobytes() == one.arrays[name].tobytes()
            assert other.average(name).tobytes() == one.average(name).tobytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_float_sums_agree_over_nodes_but_for_rounding(seed: int) -> None:
    updates = updates_of(seed)
    one, other = sums_of_updates(updates, False), dealt(updates, 3, seed, exact=False)
    np.testing.assert_allclose(other.average("gate"), one.average("gate"), rtol=1e-6)


def test_updates_are_added_in_the_order_of_clients() -> None:
    updates = updates_of(0)
    forwards, backwards = sums_of_updates(updates, False), sums_of_updates(updates[::-1], False)
    assert forwards.arrays["gate"].tobytes() == backwards.arrays["gate"].tobytes()


@pytest.mark.parametrize("exact", [True, False])
def test_adding_updates_leaves_their_vectors_alone(exact: bool) -> None:
    updates = updates_of(1)
    before = [update.gate.copy() for update in updates]
    sums_of_updates(updates, exact)
    assert all(np.array_equal(update.gate, copy) for update, copy in zip(updates, before, strict=True))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_expert_that_nobody_held_keeps_its_bytes(seed: int, exact: bool) -> None:
    updates = updates_of(seed)
    rng = np.random.default_rng(seed)
    state = ServerState(
        gate=rng.standard_normal(SIZE).astype(np.float32),
        experts=tuple(rng.standard_normal(SIZE).astype(np.float32) for _ in range(POOL)),
        extras={"momentum": np.ones(3)},
    )
    merged = merge_sums(state, sums_of_updates(updates, exact))
    assert merged.experts[3].tobytes() == state.experts[3].tobytes()
    assert all(merged.experts[i].tobytes() != state.experts[i].tobytes() for i in range(3))
    assert merged.gate.tobytes() != state.gate.tobytes()
    assert merged.extras is state.extras
    untouched = merge_sums(state, Sums(exact))
    assert untouched.to_arrays().keys() == state.to_arrays().keys()
    assert all(a.tobytes() == state.to_arrays()[n].tobytes() for n, a in untouched.to_arrays().items())


def test_one_clients_average_is_its_own_vector() -> None:
    (update, *_) = updates_of(2)
    sums = sums_of_updates([update], False)
    assert sums.average("gate").tobytes() == update.gate.tobytes()


def with_gate(value: float, weight: int = 1) -> ClientUpdate:
    gate = np.array([0.5, value], dtype=np.float32)
    return ClientUpdate(client_id=0, num_examples=1, weight=weight, gate=gate, experts={}, metrics={})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**30, -(2.0**31)])
def test_divergence_is_refused(value: float) -> None:
    assert diverged(with_gate(0.0)) is None
    assert "gate" in str(diverged(with_gate(value)))
    expert = ClientUpdate(
        client_id=0, num_examples=1, weight=1, gate=None, experts={2: with_gate(value).gate}, metrics={}
    )
    assert "expert 2" in str(diverged(expert))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1, 7, 999])
def test_one_value_that_is_not_finite_is_seen_wherever_it_stands(at: int, value: float) -> None:
    vector = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    vector[at] = value
    update = ClientUpdate(client_id=0, num_examples=1, weight=1, gate=None, experts={0: vector}, metrics={})
    assert "NaN or infinite" in str(diverged(update))
    nothing = ClientUpdate(client_id=0, num_examples=1, weight=1, gate=vector[:0], experts={}, metrics={})
    assert diverged(nothing) is None


def test_how_large_a_value_may_be_depends_on_its_weight() -> None:
    assert diverged(with_gate(2.0**20, weight=1000)) is None
    assert diverged(with_gate(2.0**20, weight=1024)) is not None


def test_the_largest_value_that_passes_is_summed_exactly() -> None:
    largest = float(np.nextafter(np.float32(2.0**30), np.float32(0)))
    sums = sums_of_updates([with_gate(largest)], True)
    assert sums.average("gate").tolist() == [0.5, largest]


def test_a_sum_that_does_not_fit_is_refused_rather_than_wrapped() -> None:
    huge = with_gate(2.0**29.5)
    with pytest.raises(RoundError, match="deterministic=false"):
        sums_of_updates([huge] * 4, True)
    assert sums_of_updates([huge] * 4, False).average("gate")[1] == huge.gate[1]


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("gated", [True, False])
def test_a_moving_average_blends_gate_and_experts(decay: float, gated: bool) -> None:
    rng = np.random.default_rng(3)

    def state(mark: float) -> ServerState:
        gate, *experts = rng.standard_normal((3, SIZE)).astype(np.float32)
        return ServerState(gate=gate if gated else None, experts=tuple(experts), extras={"mark": np.array(mark)})

    old, new = state(1), state(2)
    average = moving_average(old, new, decay)
    assert average.extras["mark"] == 2
    assert (average.gate is None) != gated
    for name, array in average.to_arrays().items():
        if not name.startswith("extra/"):
            assert array.dtype == np.float32
            by_hand = [
                decay * float(a) + (1 - decay) * float(b)
                for a, b in zip(old.to_arrays()[name], new.to_arrays()[name], strict=True)
            ]
            np.testing.assert_allclose(array, by_hand, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gated", [True, False])
def test_a_state_survives_its_arrays(gated: bool) -> None:
    rng = np.random.default_rng(0)
    state = ServerState(
        gate=rng.standard_normal(3).astype(np.float32) if gated else None,
        experts=tuple(rng.standard_normal(5).astype(np.float32) for _ in range(12)),  # two digits: order matters
        extras={"count": np.array([3, 4])},
    )
    again = ServerState.from_arrays(state.to_arrays())
    assert again.to_arrays().keys() == state.to_arrays().keys()
    assert all(array.tobytes() == state.to_arrays()[name].tobytes() for name, array in again.to_arrays().items())
