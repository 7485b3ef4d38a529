"""FedJETs' joint loss: cross-entropy of the gate-weighted output of the held experts."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from fedmoe.moe.mixture import mix
from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Mixture"]


@dataclass(frozen=True)
class Mixture:
    """`CE(sum_i g_i f(x; W_i), y)` over the held experts i (arXiv 2306.08586, section 3, a normal client's loss).

    Attributes:
        output: mix `"probability"` or `"logit"`; it is also what the gate's gradient passes through.
        renormalise: weights over the held experts sum to 1; else they are the softmax over the whole pool, whose sum
            over the held ones is at most 1 (the gate then also learns to prefer the held ones).
    """

    output: str = "probability"
    renormalise: bool = True

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the mean negative log-likelihood of the mixture."""
        pool_BM = model.route(batch.gate_BD).logits_BM
        if self.renormalise:
            weights_BK = torch.softmax(pool_BM.index_select(1, model.expert_ids_K), dim=1)
        else:
            weights_BK = torch.softmax(pool_BM, dim=1).index_select(1, model.expert_ids_K)
        log_probs_BC = mix(model.logits_KBC(batch.x_BCHW), weights_BK, self.output)
        return batch.mean(nll_loss(log_probs_BC, batch.y_B, reduction="none"))
