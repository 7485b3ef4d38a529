"""What a gate may do to its input before it scores: bounded functions, element by element."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import softsign

__all__ = ["TRANSFORMS"]

TRANSFORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": softsign,
}
"""Name -> transform: identity is the standard gate's, the others are bounded (softsign: `x / (1 + |x|)`)."""
