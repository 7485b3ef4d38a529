"""What a gate decided for one batch, as data.

Shapes: B samples, M experts in the pool, K experts held.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Routing", "best_held", "held_softmax", "highest", "ordered"]


@dataclass(frozen=True)
class Routing:
    """A batch's routing; returned by a gate, never kept.

    Attributes:
        logits_BM: float scores of all M experts, those not held included.
        expert_ids_BK: int64 ids of the held experts, best first for each sample.
        weights_BK: their weights, at least 0; each row sums to 1, or to less, if the gate falls back.
    """

    logits_BM: Tensor
    expert_ids_BK: Tensor
    weights_BK: Tensor


def held_softmax(logits_BM: Tensor, expert_ids_K: Tensor) -> Tensor:
    """Returns weights_BK: the softmax of the held experts' scores.

    Args:
        logits_BM: scores over the pool.
        expert_ids_K: int64, which experts are held; the columns follow them.
    """
    return torch.softmax(logits_BM.index_select(1, expert_ids_K), dim=1)


def highest(scores_BK: Tensor) -> Tensor:
    """Returns 1 at the highest of each row, 0 elsewhere; of equal ones the first column's.

    Also within a gradient within `vmap`, where torch's `one_hot` looks at values and fails.
    """
    return torch.zeros_like(scores_BK).scatter(1, scores_BK.argmax(dim=1, keepdim=True), 1.0)


def ordered(logits_BM: Tensor, expert_ids_K: Tensor, weights_BK: Tensor) -> Routing:
    """Returns the routing with each sample's experts best first: by weight, then by score, then by id.

    Args:
        logits_BM: scores over the pool.
        expert_ids_K: the held experts, ascending.
        weights_BK: theirs.
    """
    by_score_BK = logits_BM[:, expert_ids_K].argsort(dim=1, descending=True, stable=True)
    sorted_BK, order_BK = weights_BK.gather(1, by_score_BK).sort(dim=1, descending=True, stable=True)
    return Routing(logits_BM, expert_ids_K[by_score_BK.gather(1, order_BK)], sorted_BK)


def best_held(scores_BK: Tensor, weights_BK: Tensor) -> Tensor:
    """Returns the column of each sample's best held expert: the greatest weight, of equal ones the greatest score.

    Further columns of `weights_BK`, which have no score (the common expert's), win where theirs is the greatest alone.

    >>> best_held(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.4, 0.4, 0.2]]))
    tensor([1])
    """
    missing = weights_BK.shape[1] - scores_BK.shape[1]
    scores_BK = torch.nn.functional.pad(scores_BK, (0, missing), value=float("-inf"))
    leading_BK = weights_BK == weights_BK.max(dim=1, keepdim=True).values
    # an own score may be -inf too: a column that does not lead must lose against it
    ranks_BK = scores_BK.argsort(dim=1, stable=True, descending=True).argsort(dim=1)
    return torch.where(leading_BK, ranks_BK, weights_BK.shape[1]).argmin(dim=1)
