"""Which label prior a model was trained under: what prior correction by EM divides by."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.data.population import Population

__all__ = ["federated_prior", "public_prior", "voted_prior"]


def federated_prior(population: Population, logit_adjustment: bool) -> NDArray[np.float64]:
    """Returns the label prior of a model trained by the clients, shape (classes,).

    It is the labels' share over all training clients. With logit adjustment the local losses have taken each client's
    prior out already, so that the model stands under a uniform one (over the labels that any client holds).
    """
    counts = population.label_totals.astype(np.float64)
    weights = (counts > 0).astype(np.float64) if logit_adjustment else counts
    prior: NDArray[np.float64] = weights / weights.sum()
    return prior


def public_prior(population: Population) -> NDArray[np.float64]:
    """Returns the label prior of the common expert: the labels' share in the public split that it was trained on."""
    counts = np.bincount(population.labels_N[population.public_ids], minlength=population.num_classes)
    prior: NDArray[np.float64] = counts / counts.sum()
    return prior


def voted_prior(prior_C: Tensor, population: Population, share: float) -> Tensor:
    """Returns the prior behind predictions in which the common expert has a vote: of both priors, weighted alike."""
    return prior_C if share == 0 else (1 - share) * prior_C + share * torch.from_numpy(public_prior(population))
