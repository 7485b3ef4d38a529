"""What images look like, told by frozen random convolutions: nothing to train, nothing to send.

Shapes: N images of channels, height and width CHW; F filters; D features.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, relu

from fedmoe.seeding import numpy_stream
from fedmoe.training.samples import normalised

__all__ = ["VERSION", "Looks"]

VERSION = 1  # of these features: what was found by one means nothing by another
FILTERS = 32
SIDE = 3  # of a filter, in pixels
CELLS = 2  # by so many the image is averaged, along each side
VALUES = 1 << 23  # of the filters' answers at a time: 32 MB


@dataclass(frozen=True)
class Looks:
    """Random convolutional features: 32 filters of 3x3 standard normal numbers, ReLU, the mean over each quarter.

    Untrained filters under a rectifier and pooling tell much of what an image looks like (Jarrett et al., ICCV 2009;
    Saxe et al., ICML 2011): which way it stands, its contrast, its colours, how sharp it is. They are the same in every
    run and on every node. An image smaller than a filter gets a smaller one.

    Attributes:
        mean: per-channel mean of the images.
        std: likewise their standard deviation.
        in_shape: C, H, W.
        filters: F.
        seed: of the filters.
    """

    mean: Tensor
    std: Tensor
    in_shape: tuple[int, int, int]
    filters: int = FILTERS
    seed: int = 0

    @cached_property
    def weight_FCHW(self) -> Tensor:
        """Returns the filters; their scale moves nothing, for discriminants are free of it."""
        channels, height, width = self.in_shape
        shape = (self.filters, channels, min(SIDE, height), min(SIDE, width))
        return torch.from_numpy(numpy_stream(self.seed, "looks").standard_normal(shape).astype(np.float32))

    @property
    def width(self) -> int:
        """Returns D: 128, less for images of fewer than 4 pixels a side."""
        high, wide = self.cells
        return self.filters * high * wide

    @property
    def cells(self) -> tuple[int, int]:
        """Returns by how many the image is averaged along its height and its width."""
        high, wide = (min(CELLS, size - min(SIDE, size) + 1) for size in self.in_shape[1:])
        return high, wide

    def of(self, images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns feature_ND of images, float32."""
        out_ND = np.empty((len(images_NCHW), self.width), dtype=np.float32)
        mean, std = (part.view(-1, 1, 1) for part in (self.mean, self.std))
        rows = max(1, VALUES // (self.filters * self.in_shape[1] * self.in_shape[2]))
        for first in range(0, len(out_ND), rows):
            x_BCHW = normalised(torch.from_numpy(np.array(images_NCHW[first : first + rows])), mean, std)
            seen_BFHW = adaptive_avg_pool2d(relu(conv2d(x_BCHW, self.weight_FCHW), inplace=True), self.cells)
            out_ND[first : first + rows] = seen_BFHW.flatten(1).numpy()
        return out_ND
