"""Groups of clients by the means of their fingerprints: how many there are, who is in which, how to tell a new client.

Shapes: S clients, D features of a fingerprint, G groups found, M experts in the pool.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

__all__ = ["ClientPrint", "Groups", "find_groups", "print_of"]

RIDGE = 1e-3  # of the mean variance, added to each: directions in which nothing varies must not decide
LEAST = 10  # samples of a client that has a say in what groups there are; the others are put to the nearest one
NEVER = -1e9  # score of an expert that no group has
ALONE = 1.0  # a ratio that counts whatever comes after it: clients differ by more than one client's samples do


@dataclass(frozen=True)
class ClientPrint:
    """What a client says of its fingerprints, or of its embeddings, once.

    Attributes:
        mean_D: their mean.
        covariance_DD: their covariance; zero for a single sample.
        num: how many there are.
    """

    mean_D: NDArray[np.float64]
    covariance_DD: NDArray[np.float64]
    num: int

    def numbers(self) -> list[float]:
        """Returns it as `values_of(D)` numbers: the mean, the covariance's upper triangle, how many."""
        upper = self.covariance_DD[np.triu_indices(len(self.mean_D))]
        # Rounded to what is counted for them, four bytes each.
        numbers: list[float] = np.concatenate([self.mean_D, upper, [self.num]]).astype(np.float32).tolist()
        return numbers

    @staticmethod
    def values_of(width: int) -> int:
        """Returns how many numbers it takes for D = `width`.

        >>> ClientPrint.values_of(2)
        6
        """
        return width + width * (width + 1) // 2 + 1

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> "ClientPrint":
        """Returns what `numbers` made numbers of."""
        values = np.asarray(numbers, dtype=np.float64)
        # the inverse of `values_of`
        width = (math.isqrt(8 * len(values) + 1) - 3) // 2
        covariance_DD = np.zeros((width, width))
        rows, columns = np.triu_indices(width)
        covariance_DD[rows, columns] = covariance_DD[columns, rows] = values[width:-1]
        return cls(values[:width], covariance_DD, int(values[-1]))


def print_of(fingerprint_ND: NDArray[np.float32]) -> ClientPrint:
    """Returns the print of a client with these fingerprints."""
    values_ND = np.asarray(fingerprint_ND, dtype=np.float64)
    centred_ND = values_ND - values_ND.mean(axis=0)
    return ClientPrint(values_ND.mean(axis=0), centred_ND.T @ centred_ND / max(1, len(values_ND) - 1), len(values_ND))


@dataclass(frozen=True)
class Groups:
    """What was found.

    Attributes:
        of: client id -> its group in [0, G).
        ratios: the variance between clients over that within them, in the directions that tell clients apart best,
            chance taken off; descending.
        weight_MD: discriminants, a row an expert; expert m serves group m.
        bias_M: their constants; an expert beyond the groups is never the best.
    """

    of: Mapping[int, int]
    ratios: tuple[float, ...]
    weight_MD: NDArray[np.float64]
    bias_M: NDArray[np.float64]

    @property
    def num(self) -> int:
        """Returns G."""
        return len(set(self.of.values()))


def find_groups(prints: Mapping[int, ClientPrint], most: int, threshold: float, gap: float, seed: int) -> Groups:
    """Returns the groups: one more than there are directions that tell clients apart.

    Fisher's discriminant analysis with the clients as classes: directions v that make `v B v / v W v` stationary, B
    the covariance of the clients' means, each weighted by how many samples it has, W their pooled covariance. What
    chance alone reaches (`chance_ratio`) is taken off. G groups whose means are in general position span G - 1
    directions, so G - 1 ratios stand out (`telling`); in those directions the clients are clustered by k-means. A
    client of fewer than 10 samples has no say.

    Args:
        prints: by client id; two clients at the least.
        most: M, the most groups.
        threshold: a ratio that is smaller, or smaller than what chance reaches, does not stand out.
        gap: by how many times a ratio has to be larger than the next one to stand out.
        seed: of k-means.

    Raises:
        ValueError: fewer than two clients.
    """
    if len(prints) < 2:
        raise ValueError(f"clients are grouped by their differences, got {len(prints)} client")
    clients = [client for client in sorted(prints) if prints[client].num >= LEAST]
    if len(clients) < 2:
        clients = sorted(prints)
    mean_SD = np.stack([prints[client].mean_D for client in clients])
    within_DD = pooled([prints[client] for client in clients])
    size_S = np.array([prints[client].num for client in clients])
    chance = chance_ratio(size_S.tolist(), mean_SD.shape[1])
    origin_D = np.average(mean_SD, axis=0, weights=size_S)
    between_DD = np.atleast_2d(np.cov(mean_SD.T, bias=True, aweights=size_S))
    found, axes_DD = eigh(between_DD, within_DD)  # ascending; in the axes the within-covariance is the identity
    ratios = found[::-1] - chance
    # Beyond the rank of B there is nothing to tell, and no drop to be seen.
    axes = telling(ratios[: len(clients) - 1], most, max(threshold, chance), gap)
    kept = tuple(float(ratio) for ratio in ratios[:most])
    weight_MD, bias_M = np.zeros((most, mean_SD.shape[1])), np.full(most, NEVER)
    if axes == 0:
        bias_M[0] = 0.0
        return Groups(dict.fromkeys(sorted(prints), 0), kept, weight_MD, bias_M)
    project_DG = axes_DD[:, ::-1][:, :axes]
    group_S, centre_GG = clustered((mean_SD - origin_D) @ project_DG, size_S, axes + 1, seed)
    weight_MD[: axes + 1] = centre_GG @ project_DG.T
    bias_M[: axes + 1] = -(centre_GG**2).sum(axis=1) / 2 - weight_MD[: axes + 1] @ origin_D
    of = {client: int(np.argmax(weight_MD @ own.mean_D + bias_M)) for client, own in prints.items()}
    return Groups(of | dict(zip(clients, group_S.tolist(), strict=True)), kept, weight_MD, bias_M)


def telling(ratios_D: NDArray[np.float64], most: int, threshold: float, gap: float) -> int:
    """Returns how many of the descending ratios stand out, `most` - 1 at the most.

    Those before the last gap, that is, up to the last one that is above `threshold` and `gap` times the next; label
    skew makes ratios that fall off slowly. The last ratio of all has no next one. Besides those above 1 and
    `threshold`, gap or not.

    >>> telling(np.array([0.45, 0.27, 0.23, 0.19, 0.04]), 10, threshold=0.1, gap=4.0)
    4
    >>> telling(np.array([6.4, 0.17, 0.06, 0.05, 0.03]), 10, threshold=0.1, gap=4.0)
    1
    >>> telling(np.array([0.08, 0.06, 0.05, 0.04, 0.03]), 10, threshold=0.1, gap=4.0)
    0
    """
    stands_D = (ratios_D[:-1] > threshold) & (ratios_D[:-1] >= gap * ratios_D[1:])
    last = max(np.flatnonzero(stands_D[: most - 1]), default=-1) + 1
    return int(min(max(last, (ratios_D > max(ALONE, threshold)).sum()), most - 1))


def pooled(prints: Sequence[ClientPrint]) -> NDArray[np.float64]:
    """Returns the clients' covariance, each weighted by its degrees of freedom (n - 1), with a ridge."""
    freedom = sum(own.num - 1 for own in prints)
    width = len(prints[0].mean_D)
    within_DD = np.zeros((width, width))
    for own in prints:
        within_DD += (own.num - 1) / max(1, freedom) * own.covariance_DD
    ridge: NDArray[np.float64] = RIDGE * max(np.trace(within_DD) / width, 1e-12) * np.eye(width)
    return within_DD + ridge


def chance_ratio(sizes: Sequence[int], width: int) -> float:
    """Returns the largest ratio that clients which do not differ reach, for many clients and features.

    The edge of the spectrum of an F matrix (Wachter, Annals of Statistics 8(5), 1980) over the mean of n: a mean of
    n samples has 1/n of their covariance, and weighs n. Infinity where too few samples are there to know that
    covariance. With a handful of samples a client the largest ratio scatters widely around this edge.

    >>> round(chance_ratio([400] * 100, 128), 4)
    0.0114
    """
    clients, inside = len(sizes), sum(size - 1 for size in sizes)
    if inside <= width:
        return float("inf")
    between, within = width / clients, width / inside
    edge = ((1 + np.sqrt(between + within - between * within)) / (1 - within)) ** 2
    return float(edge * clients / sum(sizes))


def clustered(
    point_SG: NDArray[np.float64], weight_S: NDArray[np.int64], groups: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns each point's cluster and the clusters' centres: weighted k-means, the best of ten starts."""
    from sklearn.cluster import KMeans  # here: it takes seconds to import

    found = KMeans(groups, n_init=10, random_state=seed % 2**32).fit(point_SG, sample_weight=weight_S)
    return found.labels_.astype(np.int64), found.cluster_centers_.astype(np.float64)
