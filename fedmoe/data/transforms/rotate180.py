"""A turn by 180 degrees."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["rotate180"]


def rotate180(x_NCHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the images turned counter-clockwise by 180 degrees."""
    return np.rot90(x_NCHW, 2, axes=(2, 3))
