"""Dark for light."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["negative"]


def negative(x_NCHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the images' negatives."""
    return 255 - x_NCHW
