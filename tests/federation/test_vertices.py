"""Laws of finding corners: planted ones are found, by any affine map of the points, against a slow search."""

from itertools import combinations

import numpy as np
import pytest

from fedmoe.errors import RoundError
from fedmoe.federation.grouping import print_of
from fedmoe.federation.vertices import purest, vertices, whitened_means


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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("few", [1, 3, 8])
def test_clients_of_few_samples_are_not_taken_for_pure(seed: int, few: int) -> None:
    rng = np.random.default_rng(seed)
    mean_SD, rows = mixtures(seed, 4, points=30, width=12)
    sizes = [60] * 30 + [few] * 5
    centre_SD = np.concatenate([6 * mean_SD, 6 * mean_SD[rng.permutation(30)[:5]]])
    values = [(rng.standard_normal((n, 12)) + c).astype(np.float32) for n, c in zip(sizes, centre_SD, strict=True)]
    assert set(purest({100 + i: print_of(own) for i, own in enumerate(values)}, 4)) == {100 + row for row in rows}


def test_where_too_few_are_large_all_may_be_taken() -> None:
    rng = np.random.default_rng(0)
    prints = {i: print_of(rng.standard_normal((n, 3)).astype(np.float32)) for i, n in enumerate((50, 50, 4))}
    assert sorted(purest(prints, 3)) == [0, 1, 2]


def test_an_embedding_that_is_too_narrow_is_told() -> None:
    rng = np.random.default_rng(0)
    prints = {i: print_of(rng.standard_normal((9, 1)).astype(np.float32) + i) for i in range(6)}
    with pytest.raises(RoundError, match=r"3 clients that differ .* span 2 directions, got 1; hint: fewer experts.num"):
        purest(prints, 3)


@pytest.mark.parametrize("num", [0, 4])
def test_no_more_corners_than_points(num: int) -> None:
    with pytest.raises(ValueError, match=f"got {num}"):
        vertices(np.eye(3), num)


def test_points_on_a_line_have_two_corners() -> None:
    line = np.outer(np.arange(5.0), [1.0, 2.0])
    assert set(vertices(line, 2)) == {0, 4}
    with pytest.raises(ValueError, match="span 2 directions, got 1"):
        vertices(line, 3)
