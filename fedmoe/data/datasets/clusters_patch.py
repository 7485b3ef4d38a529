"""Chen et al.'s clusters of patches, generated: two labels, four clusters, each a domain; 1x4x50, a patch a row."""

import numpy as np
from numpy.typing import NDArray

from fedmoe.data.contracts import Dataset, LoadRequest
from fedmoe.data.patch_law import LAWS, draw_patches

__all__ = ["load_clusters_patch"]

NUM = 16_000  # training samples, and as many for the test: the paper's
ZERO, STEP = 128, 1 / 64  # pixel of the value 0, and what a pixel's next value is worth


def load_clusters_patch(request: LoadRequest) -> Dataset:
    """Returns 16,000 training and 16,000 test samples of the paper's setting 1, the same for the same seed.

    arXiv 2208.02813, definition 3.1 and section 6 (`fedmoe.data.patch_law`). The domain of a sample is its cluster, so
    that clients of the partition `domain` hold one cluster each.

    Values are kept as pixels: `value = (pixel - 128) / 64`, in [-2, 2). Rounding adds an error of standard deviation
    0.0045, where the noise has 0.14. What lies beyond the range is cut to it: no value of seeds 0 to 5, whose largest
    is 1.57.
    """
    parts = [draw_patches(LAWS[1], NUM, request.seed, part) for part in ("train", "test")]
    return Dataset(
        name="clusters_patch",
        real=False,
        x_NCHW=np.concatenate([pixels(part.x_NPD) for part in parts])[:, None],
        y_N=np.concatenate([part.y_N for part in parts]),
        num_train=NUM,
        class_names=("minus", "plus"),
        domain_N=np.concatenate([part.cluster_N for part in parts]),
    )


def pixels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns the values as pixels, of the same shape."""
    found: NDArray[np.uint8] = np.clip(np.rint(values / STEP) + ZERO, 0, 255).astype(np.uint8)
    return found
