"""A balance loss: no expert shall have more samples than another."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtr

from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Load"]


@dataclass(frozen=True)
class Load:
    """`weight * CV(load)^2`, load_m the expected number of samples among whose best k held experts m is.

    Counting has no gradient. Shazeer et al. (arXiv 1701.06538, equations 8 to 11) take the chance that fresh noise on
    m's score alone brings m among the best k: `P_m = Phi((s_m - kth_m) / deviation)`, with kth_m the k-th greatest of
    the others' scores. Their deviation is the gate's own, learnt for each expert and sample. An objective sees scores,
    so that here it is a number, and a gate without noise can be balanced too; for small deviations the load is the
    count.

    The variance is over the K held experts, not K - 1. The loss is 0 if and only if all loads are equal. Where the
    client holds no more than k experts, all have all samples, and the loss is 0.

    Attributes:
        weight: strength, at least 0.
        k: how many experts a sample gets.
        deviation: of the noise, in units of a score, above 0.
    """

    weight: float = 0.01
    k: int = 1
    deviation: float = 1.0

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the penalty.

        Raises:
            ValueError: the job has no gate.
        """
        scores_BK = model.scores(batch.gate_BD).index_select(1, model.expert_ids_K)
        chance_BK = chances(scores_BK, self.k, self.deviation)
        load_K = torch.stack([batch.mean(chance_B) for chance_B in chance_BK.unbind(dim=1)])
        return self.weight * load_K.var(correction=0) / load_K.mean().square()


def chances(scores_BK: Tensor, k: int, deviation: float) -> Tensor:
    """Returns, for each sample and expert, the chance that noise on its score brings it among the best k.

    Args:
        scores_BK: of the held experts.
        k: how many are chosen, at least 1.
        deviation: of the normal noise.
    """
    if k >= scores_BK.shape[1]:
        return scores_BK * 0 + 1
    sorted_BK, order_BK = scores_BK.sort(dim=1, descending=True, stable=True)
    chosen_BK = order_BK.argsort(dim=1) < k
    # the k-th greatest of the others: for one of the best k that is the one behind them
    kth_BK = torch.where(chosen_BK, sorted_BK[:, k : k + 1], sorted_BK[:, k - 1 : k])
    chance_BK: Tensor = ndtr((scores_BK - kth_BK) / deviation)
    return chance_BK
