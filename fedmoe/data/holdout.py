"""A fixed test split for data that comes without one."""

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Ids
from fedmoe.seeding import numpy_stream

__all__ = ["hold_out"]


def hold_out(name: str, y_N: NDArray[np.int64], share: float) -> tuple[Ids, Ids]:
    """Returns the ids of the training and of the test samples, each ascending: the same ones for every run.

    The split is part of the data set, so it hangs on its name and not on the run's seed: figures of two runs stand on
    the same test images.

    Args:
        name: the data set's name.
        y_N: labels.
        share: of each class's samples that becomes test samples, rounded to whole ones; at least one stays on each
            side of a class that has two or more.
    """
    test: list[Ids] = []
    for label in np.unique(y_N):
        ids = np.flatnonzero(y_N == label)
        num_test = min(max(round(share * len(ids)), 1), len(ids) - 1)
        test.append(numpy_stream(0, name, "hold-out", int(label)).permutation(ids)[:num_test])
    test_ids = np.sort(np.concatenate(test)).astype(np.int64)
    return np.setdiff1d(np.arange(len(y_N), dtype=np.int64), test_ids), test_ids
