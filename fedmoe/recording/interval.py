"""How sure a mean over a few seeds is."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["interval"]

CONFIDENCE = 0.95


def interval(values: NDArray[np.float64]) -> float:
    """Returns half the width of the mean's 95 % confidence interval (Student's t); NaN for a single value.

    >>> round(interval(np.array([0.0, 0.1])), 4)
    0.6353
    """
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
