"""A network's blocks, one after another."""

from collections.abc import Callable

from torch import nn

from fedmoe.errors import SettingsError

__all__ = ["stacked_blocks"]


def stacked_blocks(make: Callable[[], nn.Module], layers: int, setting: str) -> nn.Sequential:
    """Returns `layers` blocks in a row, each made anew.

    Args:
        make: gives a block.
        layers: how many, at least 1.
        setting: what the person has set, for the message.

    Raises:
        SettingsError: fewer than one.
    """
    if layers < 1:
        raise SettingsError(f"{setting} must be at least 1, got {layers}; hint: 2 is the default")
    return nn.Sequential(*(make() for _ in range(layers)))
