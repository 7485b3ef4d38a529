"""Laws of finding corners: planted ones are found, by any affine map of the points, against a slow search."""

from itertools import combinations

import numpy as np
import pytest

from fedmoe.federation.grouping import print_of
from fedmoe.federation.vertices import vertices, whitened_means


def mixtures(seed: int, corners: int, points: int = 40, width: int = 7) -> tuple[np.ndarray, set[int]]:
    """Returns points that are mixtures of corners, some corners themselves among them, and which rows those are."""
    rng = np.random.default_rng(seed)
    share_SC = rng.dirichlet(np.full(corners, 0.8), points) * 0.9 + 0.1 / corners
    rows = rng.choice(points, corners, replace=False)
    share_SC[rows] = np.eye(corners)
    return share_SC @ rng.standard_normal((corners, width)), set(rows.tolist())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("corners", [1, 2, 3, 5])
def test_the_corners_of_mixtures_are_found(seed: int, corners: int) -> None:
    point_SD, rows = mixtures(seed, corners)
    found = vertices(point_SD, corners)
    assert len(found) == corners
    if corners > 1:
        assert set(found) == rows


@pytest.mark.parametrize("seed", range(5))
def test_they_move_with_the_points(seed: int) -> None:
    point_SD, rows = mixtures(seed, 4)
    rng = np.random.default_rng(seed)
    turned_SD = point_SD @ (rng.standard_normal((7, 7)) + 2 * np.eye(7)) + rng.standard_normal(7)
    order_S = rng.permutation(len(point_SD))
    assert set(vertices(turned_SD, 4)) == rows
    assert {int(order_S[i]) for i in vertices(point_SD[order_S], 4)} == rows


@pytest.mark.parametrize("seed", range(5))
def test_three_corners_in_a_plane_are_those_of_the_largest_triangle(seed: int) -> None:
    point_SD, _ = mixtures(seed, 3, points=15, width=2)

    def area(rows: tuple[int, ...]) -> float:
        a, b, c = point_SD[list(rows)]
        return abs(float(np.linalg.det(np.stack([b - a, c - a]))))

    assert set(vertices(point_SD, 3)) == set(max(combinations(range(15), 3), key=area))


@pytest.mark.parametrize("seed", range(3))
def test_whitened_means_have_the_clients_own_spread_as_their_unit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    values = [((rng.standard_normal((500, 4)) + i) @ mix).astype(np.float32) for i in range(6)]
    white = np.linalg.solve(np.linalg.cholesky(np.mean([np.cov(own.T) for own in values], axis=0)), np.eye(4)).T
    expected = np.stack([own.mean(axis=0) @ white for own in values])
    np.testing.assert_allclose(whitened_means([print_of(own) for own in values]), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("num", [0, 4])
def test_no_more_corners_than_points(num: int) -> None:
    with pytest.raises(ValueError, match=f"got {num}"):
        vertices(np.eye(3), num)


def test_points_on_a_line_have_two_corners() -> None:
    line = np.outer(np.arange(5.0), [1.0, 2.0])
    assert set(vertices(line, 2)) == {0, 4}
    with pytest.raises(ValueError, match="span 2 directions, got 1"):
        vertices(line, 3)
