"""Pictures cut into square patches, each of them a token.

Shapes: B samples, N patches, D features of a token; pictures are B x channels x height x width.
"""

from torch import Tensor, nn

from fedmoe.errors import SettingsError

__all__ = ["PatchEmbedding", "patch_side"]

SIDES = (4, 2, 1)  # in pixels, the first that fits is taken
LEAST_ALONG = 4  # patches along each side, so that there is something to mix
MOST = 1024  # patches: work grows with their square


def patch_side(height: int, width: int, asked: int = 0, setting: str = "patch") -> int:
    """Returns the side of a patch, in pixels.

    Args:
        height: of a picture.
        width: of a picture.
        asked: the side to take; 0: 4, 2 or 1, the largest that divides both sides and leaves at least 4 patches along
            each: 2 for 8x8 pictures, 4 for 28x28 and 32x32. Where none does, 1.
        setting: what the person has set, for the message.

    Raises:
        SettingsError: the side asked for divides the picture not, or there would be more than 1,024 patches.

    >>> [patch_side(side, side) for side in (4, 8, 28, 32)]
    [1, 2, 4, 4]
    """
    fitting = [s for s in SIDES if height % s == width % s == 0 and min(height, width) >= LEAST_ALONG * s]
    side = asked or (fitting[0] if fitting else 1)
    if side < 1 or height % side or width % side:
        raise SettingsError(
            f"{setting} must divide the height and the width of the pictures ({height}x{width}), got {asked}; "
            "hint: 0 chooses for you"
        )
    if (height // side) * (width // side) > MOST:
        raise SettingsError(
            f"pictures must have at most {MOST} patches, got {(height // side) * (width // side)} of side {side} in "
            f"{height}x{width}; hint: set {setting} to a larger divisor of both sides, or scale the pictures"
        )
    return side


class PatchEmbedding(nn.Module):
    """Every patch through the same linear layer: a convolution with stride = size (arXiv 2010.11929, section 3.1).

    It is written as a linear layer because many clients' copies are then one batched product.

    Args:
        in_shape: channels, height, width of a picture.
        features: D.
        side: of a patch; it must divide height and width.

    Attributes:
        tokens: N, how many patches a picture has.
    """

    def __init__(self, in_shape: tuple[int, int, int], features: int, side: int) -> None:
        super().__init__()
        channels, height, width = in_shape
        self.side = side
        self.tokens = (height // side) * (width // side)
        self.linear = nn.Linear(channels * side * side, features)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns tokens_BND, row by row of the picture."""
        side, (height, width) = self.side, x_BCHW.shape[2:]
        # B, C, rows, side, columns, side
        rows = x_BCHW.reshape(*x_BCHW.shape[:2], height // side, side, width // side, side)
        patches_BNP = rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        tokens_BND: Tensor = self.linear(patches_BNP)
        return tokens_BND
