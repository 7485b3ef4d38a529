"""The check that no sample is in two places: public split, training clients, test pool."""

from collections.abc import Sequence

import numpy as np

from fedmoe.data.contracts import Ids
from fedmoe.errors import DataError

__all__ = ["check_disjoint"]


def check_disjoint(
    public_ids: Ids, training: Sequence[Ids], unseen: Sequence[Ids], num_train: int, num_all: int
) -> None:
    """Refuses a population in which samples overlap: law 7 of the data.

    Unseen clients may share test samples with each other. Costs one pass over the ids.

    Args:
        public_ids: the public split.
        training: each training client's samples, anchors among them.
        unseen: each unseen client's.
        num_train: ids below it are the training pool.
        num_all: samples of the whole data set.

    Raises:
        DataError: an empty client, an id outside its pool, or a sample in two places.
    """
    for kind, shares in (("training", training), ("unseen", unseen)):
        empty = [place for place, share in enumerate(shares) if len(share) == 0]
        if empty:
            raise DataError(
                f"every client must hold a sample, got none for {kind} client {empty[0]}; hint: fewer clients"
            )
    placed = np.concatenate([public_ids, *training])
    tested = np.concatenate(unseen)
    if placed.min() < 0 or placed.max() >= num_train:
        raise DataError(
            f"public and training samples must have ids below {num_train}, got {placed.min()}..{placed.max()}"
        )
    if tested.min() < num_train or tested.max() >= num_all:
        raise DataError(
            f"unseen clients must hold ids from {num_train} to {num_all - 1}, got {tested.min()}..{tested.max()}; "
            "hint: the partition deals training samples to unseen clients"
        )
    uses = np.bincount(placed, minlength=num_train)
    if uses.max() > 1:
        raise DataError(
            f"a training sample must be in one place (public split or one client), but {int((uses > 1).sum())} are in "
            f"more, the first is {int(uses.argmax())}; hint: the partition deals a sample twice"
        )
    if any(len(np.unique(share)) < len(share) for share in unseen):
        raise DataError("an unseen client must hold a sample once; hint: the partition deals a sample twice")
