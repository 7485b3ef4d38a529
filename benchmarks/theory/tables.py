"""Tables that scikit-learn ships, dealt out to train, choose and test on."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_classification
from torch import Tensor

__all__ = ["TABLES", "LabelledTable", "labelled_table"]

TABLES = ("breast cancer", "wine", "digits", "clusters")
"""Three real ones, and a generated one: two classes in eight clusters of 12 features, 5 % of the labels wrong."""


@dataclass(frozen=True)
class LabelledTable:
    """Features of mean 0 and deviation 1 (on the training part), float32, and labels; N samples, D features.

    Attributes:
        train: x_ND, y_N.
        valid: likewise.
        test: likewise.
        classes: C.
    """

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int


def labelled_table(name: str, seed: int) -> LabelledTable:
    """Returns a table in three parts by lot: 60, 15 and 25 percent.

    Args:
        name: one of `TABLES`.
        seed: of the parts, and of what is generated.
    """
    if name == "clusters":
        x_ND, y_N = make_classification(
            3000, 12, n_informative=8, n_redundant=2, n_clusters_per_class=4, flip_y=0.05, random_state=seed
        )
    else:
        load = {"breast cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}[name]
        x_ND, y_N = load(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y_N))
    parts = np.split(order, [int(0.6 * len(order)), int(0.75 * len(order))])
    mean_D, std_D = x_ND[parts[0]].mean(axis=0), x_ND[parts[0]].std(axis=0)
    scaled_ND = torch.from_numpy((x_ND - mean_D) / np.where(std_D > 0, std_D, 1)).float()
    labels_N = torch.from_numpy(y_N).long()
    train, valid, test = ((scaled_ND[rows], labels_N[rows]) for rows in parts)
    return LabelledTable(train, valid, test, int(y_N.max()) + 1)
