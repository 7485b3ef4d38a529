"""FedJETs' joint loss: cross-entropy of the gate-weighted output of the held experts."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from fedmoe.moe.mixture import mix, with_common
from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Mixture"]


@dataclass(frozen=True)
class Mixture:
    """`CE(sum_i g_i f(x; W_i), y)` over the held experts i (arXiv 2306.08586, section 3, a normal client's loss).

    Attributes:
        output: mix `"probability"` or `"logit"`; it is also what the gate's gradient passes through.
        renormalise: the gate's rule weighs the held experts alone; else the whole pool, of which the held ones' weights
            sum to at most 1 (the gate then also learns to prefer the held ones).

    Where the gate falls back, the common expert has what is left of the weights; its output is fixed.
    """

    output: str = "probability"
    renormalise: bool = True

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the mean negative log-likelihood of the mixture."""
        if self.renormalise:
            weights_BK = model.weights(batch.gate_BD)
        else:
            pool_M = torch.arange(model.num_experts, device=batch.gate_BD.device)
            weights_BK = model.weights(batch.gate_BD, pool_M).index_select(1, model.expert_ids_K)
        logits_KBC = model.logits_KBC(batch.x_BCHW)
        if model.falls_back:
            logits_KBC, weights_BK = with_common(logits_KBC, weights_BK, model.adjusted(batch.common_BC))
        log_probs_BC = mix(logits_KBC, weights_BK, self.output)
        return batch.mean(nll_loss(log_probs_BC, batch.y_B, reduction="none"))
