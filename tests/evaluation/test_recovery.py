"""How well experts are recovered: cells and errors."""

import numpy as np
import pytest

from fedmoe.evaluation.recovery import anchored, cell_errors, voronoi_cells, voronoi_loss

TRUE = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


@pytest.mark.parametrize("seed", range(5))
def test_cells_follow_the_nearest_and_errors_do_not_care_for_order(seed: int) -> None:
    stream = np.random.default_rng(seed)
    ids, usage = stream.integers(3, size=7), stream.dirichlet(np.ones(7))
    fitted = TRUE[ids] + stream.uniform(-3, 3, (7, 2))
    cells = voronoi_cells(fitted, TRUE)
    assert cells.tolist() == ids.tolist()
    order, share = stream.permutation(7), np.bincount(ids, weights=usage, minlength=3)
    errors = cell_errors({"a": fitted}, {"a": TRUE}, cells, usage, share)
    other = cell_errors({"a": fitted[order]}, {"a": TRUE}, cells[order], usage[order], share)
    assert errors == pytest.approx(other)
    assert errors["usage"] == pytest.approx(0)
    by_hand = sum(u * np.sqrt(((f - TRUE[i]) ** 2).sum()) for u, f, i in zip(usage, fitted, ids, strict=True))
    assert errors["a"] == pytest.approx(by_hand)


def test_copies_that_split_a_weight_make_no_error_and_lost_weight_does() -> None:
    kinds = {"a": TRUE[[0, 0, 1]]}
    split = cell_errors(kinds, {"a": TRUE}, np.array([0, 0, 1]), np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.5, 0.0]))
    lost = cell_errors(kinds, {"a": TRUE}, np.array([0, 0, 1]), np.array([0.2, 0.2, 0.6]), np.array([0.5, 0.5, 0.0]))
    assert split == pytest.approx({"a": 0.0, "usage": 0.0})
    assert lost == pytest.approx({"a": 0.0, "usage": 0.2})


GATE = np.array([[2.0, 0.5], [-1.0, 0.3], [0.0, 0.0]])
KINDS = {"slopes": np.array([[1.0], [5.0], [9.0]]), "intercepts": TRUE[:, :1], "variance": np.ones((3, 1))}


def copied(ids: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """The truth with an expert for each id, those of one id sharing its weight; its kinds and its cells."""
    share = np.log([ids.count(i) for i in ids])
    return GATE[ids] - np.c_[np.zeros(len(ids)), share], {kind: own[ids] for kind, own in KINDS.items()}, np.array(ids)


def shifts(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, 2)


@pytest.mark.parametrize("ids", [[0, 1, 2], [2, 0, 1], [0, 1, 1, 2], [0, 0, 0, 2, 1]])
@pytest.mark.parametrize("seed", range(3))
def test_the_voronoi_loss_is_0_at_the_truth_however_it_is_copied_shifted_and_ordered(seed: int, ids: list[int]) -> None:
    gate, kinds, cells = copied(ids)
    assert voronoi_loss(gate + shifts(seed), GATE, kinds, KINDS, cells) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(anchored(gate + shifts(seed), GATE, cells), gate, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_voronoi_loss_knows_no_shift_and_no_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gate, kinds, cells = copied([0, 1, 1, 2])
    gate = gate + rng.normal(0, 0.1, gate.shape)
    kinds = {kind: own + rng.normal(0, 0.1, own.shape) for kind, own in kinds.items()}
    loss, order = voronoi_loss(gate, GATE, kinds, KINDS, cells), rng.permutation(4)
    moved = {kind: own[order] for kind, own in kinds.items()}
    assert loss > 0.01
    assert voronoi_loss(gate[order] + shifts(seed), GATE, moved, KINDS, cells[order]) == pytest.approx(loss)


@pytest.mark.parametrize(
    ("ids", "kind", "power"),
    [
        ([0, 1, 2], "slopes", 1),
        ([0, 1, 2], "intercepts", 1),
        ([0, 0, 1, 2], "slopes", 2),
        ([0, 0, 1, 2], "intercepts", 4),
        ([0, 0, 1, 2], "variance", 2),
        ([0, 0, 0, 1, 2], "slopes", 3),
        ([0, 0, 0, 1, 2], "intercepts", 6),
    ],
)
def test_copies_count_with_the_powers_of_their_cell(ids: list[int], kind: str, power: int) -> None:
    gate, kinds, cells = copied(ids)
    moved = kinds | {kind: kinds[kind] + np.array([[0.3]] + [[0.0]] * (len(ids) - 1))}
    expected = np.exp(gate[0, -1]) * 0.3**power
    assert voronoi_loss(gate, GATE, moved, KINDS, cells) == pytest.approx(expected)


def test_the_gates_slopes_of_two_copies_count_with_the_fourth_power_and_weights_as_they_are() -> None:
    gate, kinds, cells = copied([0, 0, 1, 2])
    apart = gate + np.array([[0.4, 0.0], [-0.4, 0.0], [0.0, 0.0], [0.0, 0.0]])  # their mean stays
    assert voronoi_loss(apart, GATE, kinds, KINDS, cells) == pytest.approx(np.exp(0.5) * 0.4**4)
    lost = gate + np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.5]])
    mass, total = np.exp(GATE[:, 1]), np.exp(GATE[:, 1]).sum()
    others = np.exp(lost[:, 1]) * total / np.exp(lost[:, 1]).sum()
    by_hand = sum(abs(others[cells == j].sum() - mass[j]) for j in range(3))
    assert voronoi_loss(lost, GATE, kinds, KINDS, cells) == pytest.approx(by_hand)


def test_a_cell_of_four_is_refused() -> None:
    gate, kinds, cells = copied([0, 0, 0, 0, 1, 2])
    with pytest.raises(ValueError, match="3 fitted experts at most, got 4"):
        voronoi_loss(gate, GATE, kinds, KINDS, cells)
