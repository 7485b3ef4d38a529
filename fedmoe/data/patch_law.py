"""The law that Chen et al.'s clusters of patches are drawn from: each cluster has a feature and a centre of its own.

Shapes: N samples, P patches, K clusters, D width of a patch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmoe.seeding import numpy_stream

__all__ = ["CLUSTERS", "LAWS", "PATCHES", "WIDTH", "PatchLaw", "Patches", "directions", "draw_patches"]

CLUSTERS, PATCHES, WIDTH = 4, 4, 50


@dataclass(frozen=True, kw_only=True)
class PatchLaw:
    """How strong the patches of a sample are (arXiv 2208.02813, definition 3.1).

    Attributes:
        alpha: range of the strength of the patch `y alpha v_k`, which alone tells the label.
        beta: of `beta c_k`, which alone tells the cluster.
        gamma: of `eps gamma v_k'`, another cluster's feature with a sign by lot.
        noise: length of a patch of noise, about: its standard deviation is `noise / sqrt(D)` a coordinate.
    """

    alpha: tuple[float, float] = (0.5, 2.0)
    beta: tuple[float, float] = (1.0, 2.0)
    gamma: tuple[float, float] = (0.5, 3.0)
    noise: float = 1.0


LAWS = {
    1: PatchLaw(),
    2: PatchLaw(noise=2.0),
    3: PatchLaw(gamma=(0.5, 2.0)),
    4: PatchLaw(gamma=(0.5, 2.0), noise=2.0),
}
"""The four settings of the paper's synthetic experiments."""


@dataclass(frozen=True)
class Patches:
    """What was drawn.

    Attributes:
        x_NPD: float32 patches, each sample's in an order by lot.
        y_N: int64 labels, 0 and 1 (the paper's -1 and 1).
        cluster_N: int64 cluster of each sample, k.
    """

    x_NPD: NDArray[np.float32]
    y_N: NDArray[np.int64]
    cluster_N: NDArray[np.int64]


def directions(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns features_KD (v_1 .. v_K) and centres_KD (c_1 .. c_K): orthonormal, of a random frame."""
    frame_DE, _ = np.linalg.qr(numpy_stream(seed, "patches", "directions").normal(size=(WIDTH, 2 * CLUSTERS)))
    return frame_DE.T[:CLUSTERS], frame_DE.T[CLUSTERS:]


def draw_patches(law: PatchLaw, num: int, seed: int, part: str) -> Patches:
    """Returns `num` samples, the same for the same seed and part (`"train"`, `"test"`).

    Of the P patches one tells the label, one the cluster, one misleads, and the others are noise.
    """
    features_KD, centres_KD = directions(seed)
    stream = numpy_stream(seed, "patches", part)
    cluster_N = stream.integers(CLUSTERS, size=num)
    other_N = (cluster_N + stream.integers(1, CLUSTERS, size=num)) % CLUSTERS
    y_N = stream.integers(2, size=num)
    eps_N = 2 * stream.integers(2, size=num) - 1
    alpha_N, beta_N, gamma_N = (stream.uniform(*span, size=num) for span in (law.alpha, law.beta, law.gamma))
    x_NPD = stream.normal(scale=law.noise / WIDTH**0.5, size=(num, PATCHES, WIDTH))
    x_NPD[:, 0] = ((2 * y_N - 1) * alpha_N)[:, None] * features_KD[cluster_N]
    x_NPD[:, 1] = beta_N[:, None] * centres_KD[cluster_N]
    x_NPD[:, 2] = (eps_N * gamma_N)[:, None] * features_KD[other_N]
    order_NP1 = stream.random((num, PATCHES)).argsort(axis=1)[:, :, None]
    return Patches(np.take_along_axis(x_NPD, order_NP1, axis=1).astype(np.float32), y_N, cluster_N)
