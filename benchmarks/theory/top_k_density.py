"""The Hellinger distance between two mixtures under top-K gates, by quadrature between the gates' jumps."""

from itertools import combinations

import numpy as np

from fedmoe.federation.logistic_sums import Floats
from fedmoe.federation.top_k_mixture import TopKMixture

__all__ = ["hellinger", "nodes_of"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)
PARTS = 8  # equal ones, between which jumps come in addition
STRIDE = 0.2  # of outputs, in the smallest standard deviation
LEAST_STRIDE = 0.01


def nodes_of(mixtures: tuple[TopKMixture, ...]) -> tuple[Floats, Floats]:
    """Returns inputs in (0, 1) and their weights, which sum to 1: Gauss-Legendre on each piece.

    Pieces end wherever two experts of a mixture have equal scores, and some logits before and after it.
    """
    ends = set(np.linspace(0, 1, PARTS + 1).tolist())
    for mixture in mixtures:
        for (slope, bias), (other_slope, other_bias) in combinations(mixture.gate_MG.tolist(), 2):
            if abs(slope - other_slope) > 1e-9:
                for logits in (-12, -6, -2, 0, 2, 6, 12):
                    ends.add((other_bias - bias + logits) / (slope - other_slope))
    cuts = np.array(sorted(end for end in ends if 0 <= end <= 1))
    half, middle = np.diff(cuts) / 2, (cuts[1:] + cuts[:-1]) / 2
    return (middle[:, None] + half[:, None] * NODES).ravel(), (half[:, None] * WEIGHTS).ravel()


def hellinger(one: TopKMixture, other: TopKMixture) -> float:
    """Returns `sqrt(E_x 1/2 int (sqrt p(y|x) - sqrt q(y|x))^2 dy)` in [0, 1] for x uniform in (0, 1)."""
    x_N, weight_N = nodes_of((one, other))
    features_N2 = np.stack([x_N, np.ones_like(x_N)], axis=1)
    sigmas = np.concatenate([one.sigma_M, other.sigma_M])
    lines = np.concatenate([features_N2 @ own.lines_MF.T for own in (one, other)], axis=1)
    reach = 6 * sigmas.max()
    stride = max(STRIDE * sigmas.min(), LEAST_STRIDE)
    y_Y = np.arange(lines.min() - reach, lines.max() + reach, stride)
    total_N = np.zeros(len(x_N))
    roots = [_root_density(own, features_N2, y_Y) for own in (one, other)]
    total_N = 0.5 * ((roots[0] - roots[1]) ** 2).sum(axis=1) * stride
    return float(np.sqrt(weight_N @ total_N))


def _root_density(mixture: TopKMixture, features_N2: Floats, y_Y: Floats) -> Floats:
    weights_NM = np.exp(mixture.log_gate_NM(features_N2))
    density_NY = np.zeros((len(features_N2), len(y_Y)))
    for m, (line, sigma) in enumerate(zip(mixture.lines_MF, mixture.sigma_M, strict=True)):
        apart_NY = (y_Y[None, :] - (features_N2 @ line)[:, None]) / sigma
        density_NY += weights_NM[:, m, None] * np.exp(-0.5 * apart_NY**2) / (sigma * np.sqrt(2 * np.pi))
    return np.sqrt(density_NY)
