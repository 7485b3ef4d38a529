"""Regression data that needs no network: two generated sets, and one that scikit-learn ships.

Shapes: N samples, D features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes, make_friedman1
from torch import Tensor

__all__ = ["SETS", "RegressionSet", "regression_set"]

SETS = ("piecewise", "friedman1", "diabetes")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RegressionSet:
    """Inputs and targets in three parts, 64 : 16 : 20; all standardised by the mean and deviation of the first.

    Attributes:
        train: x_ND, y_N to learn from.
        valid: to choose the epoch by.
        test: to report.
    """

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def regression_set(name: str, seed: int) -> RegressionSet:
    """Returns a set, dealt anew by the seed (and drawn anew, where it is generated).

    `piecewise`: 2000 points of [-1, 1]^4; the angle of the first two coordinates says which of three linear functions
    holds, with normal noise of 0.1. `friedman1`: 2000 samples, 10 features of which 5 count, noise of 1 (scikit-learn).
    `diabetes`: 442 patients, 10 features (shipped with scikit-learn).

    Raises:
        ValueError: there is no such set.
    """
    rng = np.random.default_rng([seed, 11])
    if name == "piecewise":
        x_ND, y_N = piecewise(rng, 2000)
    elif name == "friedman1":
        x_ND, y_N = make_friedman1(2000, n_features=10, noise=1.0, random_state=int(rng.integers(2**31)))
    elif name == "diabetes":
        x_ND, y_N = load_diabetes(return_X_y=True)
    else:
        raise ValueError(f"a regression set must be one of {', '.join(SETS)}, got '{name}'; hint: see SETS")
    train, valid, test = np.split(rng.permutation(len(y_N)), [int(0.64 * len(y_N)), int(0.8 * len(y_N))])
    x_ND = (x_ND - x_ND[train].mean(axis=0)) / x_ND[train].std(axis=0)
    y_N = (y_N - y_N[train].mean()) / y_N[train].std()

    def part(ids: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(x_ND[ids]).float(), torch.from_numpy(y_N[ids]).float()

    return RegressionSet(part(train), part(valid), part(test))


def piecewise(rng: np.random.Generator, num_samples: int) -> tuple[Array, Array]:
    """Returns points and targets of three linear functions, one for each third of the plane of two coordinates."""
    x_ND = rng.uniform(-1, 1, (num_samples, 4))
    piece_N = ((np.arctan2(x_ND[:, 1], x_ND[:, 0]) + np.pi) // (2 * np.pi / 3)).astype(int).clip(0, 2)
    slopes_3D, offsets_3 = rng.normal(0, 2, (3, 4)), rng.normal(0, 1, 3)
    clean_N = (x_ND * slopes_3D[piece_N]).sum(axis=1) + offsets_3[piece_N]
    return x_ND, clean_N + rng.normal(0, 0.1, num_samples)
