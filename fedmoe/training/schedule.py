"""The order in which a client sees its samples: shuffles and the augmentation's lots, from the client's own stream."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmoe.training.augmentation import draw_lots

__all__ = ["Epoch", "epochs_of", "filled_size", "num_steps", "validation_split"]

VALIDATION = 0.2  # of a client's samples


@dataclass(frozen=True)
class Epoch:
    """One pass over a client's samples.

    Attributes:
        order_N: a permutation of the rows of its N samples.
        lots_N3: what the augmentation draws for each sample, in that order; `None` without augmentation.
    """

    order_N: Tensor
    lots_N3: Tensor | None


def epochs_of(num_samples: int, epochs: int, augmentation: str, stream: torch.Generator) -> Iterator[Epoch]:
    """Yields the client's epochs; the stream is used for nothing else, so that both trainers see the same order."""
    for _ in range(epochs):
        order_N = torch.randperm(num_samples, generator=stream)
        yield Epoch(order_N, draw_lots(augmentation, num_samples, stream))


def validation_split(num_samples: int, stream: torch.Generator) -> Tensor:
    """Returns which of a client's samples validate, bool: a fifth of them by lot, of two or more one at least."""
    held_N = torch.zeros(num_samples, dtype=torch.bool)
    count = max(round(VALIDATION * num_samples), int(num_samples > 1))
    held_N[torch.randperm(num_samples, generator=stream)[:count]] = True
    return held_N


def filled_size(num_samples: int, batch_size: int) -> int:
    """Returns the rows that each of a client's batches is filled up to in a stack, at most the batch size.

    It depends on nobody else in the stack, or the last bits of a client's result would. Clients smaller than a batch
    are filled up to the next power of two.

    >>> filled_size(70, 32), filled_size(32, 32), filled_size(11, 32), filled_size(19, 20)
    (32, 32, 16, 20)
    """
    return min(batch_size, 1 << (num_samples - 1).bit_length())


def num_steps(num_samples: int, epochs: int, batch_size: int) -> int:
    """Returns a client's number of steps: the last batch of an epoch may be smaller.

    >>> num_steps(70, 2, 32)
    6
    """
    return epochs * -(-num_samples // batch_size)
