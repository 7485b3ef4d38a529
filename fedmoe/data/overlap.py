"""The check that no sample is in two places: public split, training clients, test pool."""

from collections.abc import Sequence

import numpy as np

from fedmoe.data.contracts import Ids
from fedmoe.data.holdings import Holdings
from fedmoe.errors import DataError

__all__ = ["check_disjoint"]


def check_disjoint(
    public_ids: Ids, training: Sequence[Ids], unseen: Sequence[Ids], *, num_train: int, num_all: int
) -> None:
    """Refuses a population in which samples overlap; unseen clients may share test samples with each other.

    Args:
        public_ids: the public split.
        training: each training client's samples, anchors among them.
        unseen: each unseen client's.
        num_train: ids below it are the training pool.
        num_all: samples of the whole data set.

    Raises:
        DataError: an empty client, an id outside its pool, or a sample in two places.
    """
    trained, tried = Holdings.of(training), Holdings.of(unseen)
    empty = int((trained.sizes == 0).sum() + (tried.sizes == 0).sum())
    if empty:
        raise DataError(f"every client must hold a sample, got none for {empty} clients; hint: fewer clients")
    placed, tested = np.concatenate([public_ids, trained.ids]), tried.ids
    if placed.min() < 0 or placed.max() >= num_train:
        raise DataError(
            f"public and training samples must have ids from 0 to {num_train - 1}, got {placed.min()}..{placed.max()}; "
            "hint: the partition deals test samples to training clients"
        )
    if tested.min() < num_train or tested.max() >= num_all:
        raise DataError(
            f"unseen clients' samples must have ids from {num_train} to {num_all - 1}, got {tested.min()}.."
            f"{tested.max()}; hint: the partition deals training samples to unseen clients"
        )
    uses = np.bincount(placed)
    if uses.max() > 1:
        raise DataError(
            f"a training sample must be in one place (public split or one client), but {int((uses > 1).sum())} are in "
            f"more, the first is {int((uses > 1).argmax())}; hint: the partition deals a sample twice"
        )
    if any(len(np.unique(share)) < len(share) for share in tried):
        raise DataError("an unseen client must hold a sample once; hint: the partition deals a sample twice")
