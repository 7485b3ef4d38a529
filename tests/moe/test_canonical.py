"""The canonical form of a gate: the same function, one for all that are the same, and what it may be averaged with."""

import numpy as np
import pytest
import torch

from fedmoe.moe.canonical import canonical
from fedmoe.moe.construction import build_gate, gate_class
from fedmoe.moe.gate import Gate, GateSpec
from fedmoe.moe.vectors import Vector, load_vector, parts_of, to_vector
from fedmoe.training.samples import Lots
from tests.moe.test_gates import GATES

EXPERTS, WIDTH, SEEDS = 5, 4, range(3)
NAMES = [name for name, row in GATES.items() if gate_class(name).reads in ("embedding", "fingerprint", "image")]
FREE = [name for name in NAMES if GATES[name].shifts and GATES[name].trains]
HELD = (torch.arange(EXPERTS), torch.tensor([3, 0]), torch.tensor([1, 2, 4]))


def gate_of(name: str, seed: int, **arguments: object) -> Gate:
    gate = build_gate(name, GateSpec(in_features=WIDTH, num_experts=EXPERTS, hidden=6, arguments=arguments), seed)
    vector = np.random.default_rng(seed).standard_normal(len(to_vector(gate))).astype(np.float32)
    load_vector(gate, vector)
    return gate.eval()


def weights_of(gate: Gate, vector: Vector, seed: int) -> list[np.ndarray]:
    load_vector(gate, vector)
    x_BD = torch.randn(60, WIDTH, generator=torch.Generator().manual_seed(seed))
    x_BX = torch.cat([x_BD, Lots(seed, EXPERTS, gate.draws).numbers(len(x_BD))], dim=1)
    with torch.no_grad():
        return [gate.weigh(gate.scores(x_BX), held).numpy() for held in HELD]


def shifted(gate: Gate, vector: Vector, seed: int) -> Vector:
    """The same gate with one vector added to all experts' rows."""
    rng, moved = np.random.default_rng(seed + 99), vector.copy()
    for part in parts_of(gate):
        if part.name in gate.shift_rows:
            rows = moved[part.offset : part.offset + part.size].reshape(part.shape[0], -1)
            rows += rng.standard_normal(rows.shape[1]).astype(np.float32)
    return moved


@pytest.mark.parametrize("name", GATES)
def test_the_row_says_whether_there_is_a_canonical_form(name: str) -> None:
    assert bool(gate_class(name).shift_rows) == GATES[name].shifts


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [name for name in NAMES if GATES[name].shifts])
def test_shift_rows_are_rows_of_the_experts_that_the_gate_has(name: str, seed: int) -> None:
    gate = gate_of(name, seed)
    shapes = {part.name: part.shape for part in parts_of(gate)}
    assert all(shapes[row][0] == EXPERTS for row in gate.shift_rows)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FREE)
def test_gates_that_differ_by_a_shift_are_one_function_and_have_one_canonical_form(name: str, seed: int) -> None:
    gate = gate_of(name, seed)
    vector = to_vector(gate)
    other = shifted(gate, vector, seed)
    assert np.abs(other - vector).max() > 0.5
    one, two = canonical(gate, vector), canonical(gate, other)
    np.testing.assert_allclose(one, two, atol=1e-5)
    np.testing.assert_allclose(canonical(gate, one), one, atol=1e-6)
    for plain, moved, form in zip(*(weights_of(gate, v, seed) for v in (vector, other, one)), strict=True):
        # a tie, or a threshold that is hit within rounding, may fall to either side
        assert (np.abs(plain - moved) > 1e-4).mean() < 0.01
        assert (np.abs(plain - form) > 1e-4).mean() < 0.01


@pytest.mark.parametrize("name", ["relu", "cosine"])
def test_where_a_shift_is_another_function_nothing_is_taken_out(name: str) -> None:
    gate = gate_of(name, 0)
    vector = to_vector(gate)
    assert canonical(gate, vector) is vector


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FREE)
def test_an_average_of_canonical_gates_is_the_canonical_form_of_the_average(name: str, seed: int) -> None:
    gate = gate_of(name, seed)
    rng = np.random.default_rng(seed)
    clients = [rng.standard_normal(to_vector(gate).size).astype(np.float32) for _ in range(4)]
    share = rng.dirichlet(np.ones(4))
    plain = np.einsum("c,cv->v", share, np.stack(clients)).astype(np.float32)
    formed = np.einsum("c,cv->v", share, np.stack([canonical(gate, own) for own in clients])).astype(np.float32)
    np.testing.assert_allclose(formed, canonical(gate, plain), atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_median_depends_on_the_form_and_the_canonical_one_makes_it_forget_shifts(seed: int) -> None:
    gate = gate_of("softmax", seed)
    rng = np.random.default_rng(seed)
    clients = [to_vector(gate) + rng.normal(0, 0.1, to_vector(gate).size).astype(np.float32) for _ in range(5)]
    moved = [shifted(gate, own, seed + i) for i, own in enumerate(clients)]

    def median(vectors: list[Vector]) -> list[np.ndarray]:
        return weights_of(gate, np.median(np.stack(vectors), axis=0).astype(np.float32), seed)

    def forms(vectors: list[Vector]) -> list[Vector]:
        return [canonical(gate, own) for own in vectors]

    apart = [np.abs(a - b).max() for a, b in zip(median(clients), median(moved), strict=True)]
    same = [np.abs(a - b).max() for a, b in zip(median(forms(clients)), median(forms(moved)), strict=True)]
    assert max(same) < 1e-4 < 0.01 < max(apart)
