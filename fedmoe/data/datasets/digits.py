"""Handwritten digits, 8x8: 1,797 images inside scikit-learn's own wheel, so they are always there."""

import numpy as np

from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.holdout import hold_out

__all__ = ["load_digits"]


def load_digits(request: LoadRequest) -> Dataset:
    """Returns the digits, 1x8x8 in 0..255, a third of each class held out for the test, always the same third."""
    # Here and not at the top: scikit-learn takes seconds to import, and data from the cache does without it.
    from sklearn.datasets import load_digits as load_arrays

    found = load_arrays()
    x_NCHW = np.rint(found.images[:, None] * (255 / 16)).astype(np.uint8)
    y_N = found.target.astype(np.int64)
    train_ids, test_ids = hold_out("digits", y_N, 1 / 3)
    order = np.concatenate([train_ids, test_ids])
    return Dataset(
        name="digits",
        real=True,
        x_NCHW=x_NCHW[order],
        y_N=y_N[order],
        num_train=len(train_ids),
        class_names=tuple(str(digit) for digit in range(10)),
    )
