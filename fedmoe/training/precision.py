"""What numbers a client's passes are computed in, and how images lie in memory."""

from contextlib import AbstractContextManager

import torch
from torch import nn

__all__ = ["computing_in", "has_images", "lay_out"]


def computing_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Returns the context for a forward pass: with `bf16`, torch's autocast; weights and losses stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def has_images(module: nn.Module) -> bool:
    """Returns whether the module has convolutions over images: only then does the memory layout matter."""
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def lay_out(layout: str) -> torch.memory_format:
    """Returns torch's memory format for `"contiguous"` or `"channels-last"`."""
    return torch.channels_last if layout == "channels-last" else torch.contiguous_format
