"""Choices of samples that keep the labels: a subset that holds every label, a split in the labels' proportions."""

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Ids

__all__ = ["choose_keeping_labels", "choose_stratified"]


def choose_keeping_labels(ids: Ids, labels_N: NDArray[np.int64], size: int, stream: np.random.Generator) -> Ids:
    """Returns `size` of `ids` (all if there are fewer), sorted, at random but with a sample of each label first.

    So a client that is capped keeps its label combination, on which the unseen clients' novelty stands, as long as
    `size` is no smaller than its number of labels.
    """
    if len(ids) <= size:
        return np.sort(ids)
    order = stream.permutation(ids)
    _, firsts = np.unique(labels_N[order], return_index=True)
    rest = np.delete(order, firsts)
    return np.sort(np.concatenate([stream.permutation(order[firsts]), rest])[:size])


def choose_stratified(ids: Ids, labels_N: NDArray[np.int64], size: int, stream: np.random.Generator) -> Ids:
    """Returns `size` of `ids`, sorted, at random, each label in its proportion (to within one sample)."""
    order = stream.permutation(ids)
    order = order[np.argsort(labels_N[order], kind="stable")]
    # Systematic sampling: every (n / size)-th of the samples in the order of their labels, from a random start.
    step = len(order) / size
    picked = np.floor((np.arange(size) + stream.random()) * step).astype(np.int64)
    return np.sort(order[np.minimum(picked, len(order) - 1)])
