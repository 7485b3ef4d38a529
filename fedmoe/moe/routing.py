"""What a gate decided for one batch, as data, and the one function that every gate ends in.

Shapes: B samples, M experts in the pool, K experts chosen for a sample.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Routing", "route"]


@dataclass(frozen=True)
class Routing:
    """A batch's routing; returned by a gate, never kept.

    Attributes:
        logits_BM: float scores of all M experts, those not held included.
        expert_ids_BK: int64 ids of the chosen experts, best first; only held ones.
        weights_BK: float weights of the chosen experts, at least 0; each row sums to 1.
    """

    logits_BM: Tensor
    expert_ids_BK: Tensor
    weights_BK: Tensor


def route(
    logits_BM: Tensor, held_M: Tensor | None = None, top_k: int | None = None, num_held: int | None = None
) -> Routing:
    """Returns the routing that softmax scores give: the best `top_k` held experts of each sample, weights renormalised.

    Ties fall to the expert with the lower id.

    Args:
        logits_BM: scores.
        held_M: bool mask of the experts that the client holds; `None`: all.
        top_k: experts a sample; `None`: all held ones.
        num_held: how many are held, where the caller knows: a program for many clients at once cannot count them.

    Raises:
        ValueError: nobody is held, or fewer are held than `top_k`.
    """
    if num_held is None:
        num_held = logits_BM.shape[1] if held_M is None else int(held_M.sum())
    k = num_held if top_k is None else top_k
    if not 1 <= k <= num_held:
        raise ValueError(f"top_k must lie between 1 and the number of held experts ({num_held}), got {k}")
    masked_BM = logits_BM if held_M is None else logits_BM.masked_fill(~held_M, float("-inf"))
    sorted_BM, order_BM = masked_BM.sort(dim=1, descending=True, stable=True)
    return Routing(logits_BM, order_BM[:, :k], torch.softmax(sorted_BM[:, :k], dim=1))
