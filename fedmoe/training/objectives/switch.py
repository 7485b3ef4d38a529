"""Switch Transformer's balance loss: share of samples times mean probability."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Switch"]


@dataclass(frozen=True)
class Switch:
    """`weight * K * sum_m f_m P_m` over the K held experts (Fedus et al., arXiv 2101.03961, equations 4 to 6).

    f_m is the share of samples whose best held expert is m, P_m the mean of the held scores' softmax; only P has a
    gradient. Since both sum to 1, `K sum f P = 1 + K sum (f - 1/K)(P - 1/K)`:

    - it is 1 where f is uniform or P is: then the loss is `weight`;
    - it is at least 1 where the expert of more samples has the greater mean probability (f and P in the same order),
      as where probabilities are 0 or 1 and f = P. There the least is at uniform load alone;
    - it can be below 1 where they disagree: 51 samples of 100 at (0.51, 0.49) and 49 at (0.01, 0.99) give 0.99. It is
      never below `sum f^2`, and so never below 1/K, for the best of K probabilities is at least 1/K.

    The gate's own rule of weights is not asked: a sample counts as its best held expert's whatever its weight.

    Attributes:
        weight: strength, at least 0: their alpha.
    """

    weight: float = 0.01

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the penalty.

        Raises:
            ValueError: the job has no gate.
        """
        scores_BK = model.scores(batch.gate_BD).index_select(1, model.expert_ids_K)
        held = scores_BK.shape[1]
        best_BK = one_hot(scores_BK.argmax(dim=1), held).to(scores_BK)
        probs_BK = torch.softmax(scores_BK, dim=1)
        share_K, mean_K = (
            torch.stack([batch.mean(own_B) for own_B in part_BK.unbind(dim=1)]) for part_BK in (best_BK, probs_BK)
        )
        return self.weight * held * (share_K * mean_K).sum()
