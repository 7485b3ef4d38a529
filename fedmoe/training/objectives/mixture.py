"""FedJETs' joint loss: cross-entropy of the gate-weighted output of the held experts."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from fedmoe.federation.job import ClientJob
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

    def __call__(self, model: LocalModel, batch: Batch, job: ClientJob) -> Tensor:
        """Returns the mean negative log-likelihood of the mixture."""
        routing = model.route(batch.gate_BD)
        pool_BM = routing.logits_BM
        held_BK = pool_BM[:, list(model.expert_ids)]
        weights_BK = (
            torch.softmax(held_BK, dim=1)
            if self.renormalise
            else torch.softmax(pool_BM, dim=1)[:, list(model.expert_ids)]
        )
        return nll_loss(mix(model.logits_KBC(batch.x_BCHW), weights_BK, self.output), batch.y_B)
