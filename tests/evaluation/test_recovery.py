"""How well experts are recovered: cells and errors."""

import numpy as np
import pytest

from fedmoe.evaluation.recovery import cell_errors, voronoi_cells

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
