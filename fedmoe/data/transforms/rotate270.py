"""A turn by 270 degrees."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["rotate270"]


def rotate270(x_NCHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the images turned counter-clockwise by 270 degrees."""
    return np.rot90(x_NCHW, 3, axes=(2, 3))
