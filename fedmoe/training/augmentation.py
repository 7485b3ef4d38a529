"""Random crops and mirror images, made on the device from lots of each client's own stream."""

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["AUGMENTATIONS", "augment", "draw_lots"]

AUGMENTATIONS = ("none", "crop-flip")
MARGIN = 4  # pixels that a crop may move (Krizhevsky; He et al., arXiv 1512.03385, section 4.2)


def draw_lots(augmentation: str, num_samples: int, stream: torch.Generator) -> Tensor | None:
    """Returns int64 lots of shape (num_samples, 3): rows and columns to move by, and whether to mirror.

    Raises:
        ValueError: an unknown augmentation.
    """
    if augmentation == "none":
        return None
    if augmentation != "crop-flip":
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got '{augmentation}'")
    moves_N2 = torch.randint(2 * MARGIN + 1, (num_samples, 2), generator=stream)
    return torch.cat([moves_N2, torch.randint(2, (num_samples, 1), generator=stream)], dim=1)


def augment(x_BCHW: Tensor, lots_B3: Tensor | None) -> Tensor:
    """Returns each image cropped out of itself with a margin of 4 zeros, and mirrored where its lot says so.

    Args:
        x_BCHW: normalised inputs, so that zero is the mean colour.
        lots_B3: as `draw_lots` gives them; `None`: the inputs come back as they are.
    """
    if lots_B3 is None:
        return x_BCHW
    size, _, height, width = x_BCHW.shape
    rows_BH = lots_B3[:, 0:1] + torch.arange(height, device=x_BCHW.device)
    straight_W = torch.arange(width, device=x_BCHW.device)
    columns_BW = lots_B3[:, 1:2] + torch.where(lots_B3[:, 2:3] == 1, width - 1 - straight_W, straight_W)
    images_B = torch.arange(size, device=x_BCHW.device)
    padded_BHWC = pad(x_BCHW, (MARGIN,) * 4).permute(0, 2, 3, 1)
    return padded_BHWC[images_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)
