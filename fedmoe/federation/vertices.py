"""Clients that are as pure as any: the corners of the simplex that the means of clients' embeddings fill.

Shapes: S clients, D features.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedmoe.errors import RoundError
from fedmoe.federation.grouping import ClientPrint, pooled

__all__ = ["purest", "vertices", "whitened_means"]


def purest(prints: Mapping[int, ClientPrint], num: int) -> list[int]:
    """Returns the clients at the corners of the simplex that the clients' whitened means fill.

    Clients with less than half of the median of samples are left out, unless too few would be left: their means lie far
    out by chance.

    Args:
        prints: by client id.
        num: how many clients.

    Raises:
        RoundError: the means do not span enough directions.
    """
    least = np.median([own.num for own in prints.values()]) / 2
    large = {client: own for client, own in prints.items() if own.num >= least}
    able = large if len(large) >= num else prints
    clients = sorted(able)
    try:
        rows = vertices(whitened_means([able[client] for client in clients]), num)
    except ValueError as error:
        raise RoundError(
            f"{num} clients that differ must be found by their embeddings, and {error}; hint: fewer experts.num, or a "
            "common expert with a wider embedding"
        ) from error
    return [clients[row] for row in rows]


def vertices(point_SD: NDArray[np.float64], num: int) -> list[int]:
    """Returns the rows that are corners of the points' convex hull, as far apart as they go: successive projection.

    The first is the farthest from the mean; each further one the farthest from the flat through those before it. Where
    every point is a mixture of `num` corners in general position, and the corners are among the points, these are they
    (Araujo et al., Chemometrics and Intelligent Laboratory Systems 57(2), 2001; for topics' anchor words: Arora et al.,
    arXiv 1212.4777).

    Args:
        point_SD: the points; `num` at least.
        num: how many rows, at least 1.

    Raises:
        ValueError: fewer points than rows asked for, or so many that no direction is left to tell the next.

    >>> vertices(np.array([[0.0, 0.0], [9.0, 1.0], [3.0, 3.0], [1.0, 8.0]]), 3)
    [1, 3, 0]
    """
    if not 1 <= num <= len(point_SD):
        raise ValueError(f"of {len(point_SD)} points at least 1 and at most all can be corners, got {num}")
    away_SD = point_SD - point_SD.mean(axis=0)
    scale, found = float(np.abs(away_SD).max()), []
    for number in range(num):
        distance_S = np.linalg.norm(away_SD, axis=1)
        corner = int(distance_S.argmax())
        if number and distance_S[corner] <= 1e-9 * scale:
            raise ValueError(f"{num} corners need points that span {num - 1} directions, got {number - 1}")
        found.append(corner)
        if number == 0:
            away_SD = point_SD - point_SD[corner]
        else:
            direction_D = away_SD[corner] / distance_S[corner]
            away_SD = away_SD - np.outer(away_SD @ direction_D, direction_D)
    return found


def whitened_means(prints: Sequence[ClientPrint]) -> NDArray[np.float64]:
    """Returns the clients' means, a row each, in axes in which their pooled covariance is the identity."""
    mean_SD = np.stack([own.mean_D for own in prints])
    whitened: NDArray[np.float64] = np.linalg.solve(np.linalg.cholesky(pooled(prints)), mean_SD.T).T
    return whitened
