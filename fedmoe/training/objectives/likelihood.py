"""FedEM's loss: the likelihood of a mixture of the held experts in the client's own shares."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmoe.training.objective import Batch, LocalModel

__all__ = ["Likelihood"]

LEAST = 1e-8  # of a share: a component that suits nobody must not become impossible


@dataclass(frozen=True)
class Likelihood:
    """`-log sum_m pi_m f(x; W_m)_y` with shares pi that the job gives (`shares`: one for each held expert).

    Its gradient is FedEM's: that of each component's cross-entropy, weighted by the component's responsibility
    `q_m = pi_m f(x; W_m)_y / sum_k pi_k f(x; W_k)_y` (Marfoq et al., arXiv 2108.10252, equations 8 and 10).
    """

    def __call__(self, model: LocalModel, batch: Batch) -> Tensor:
        """Returns the mean negative log-likelihood.

        Raises:
            KeyError: the job gives no `shares`.
        """
        shares_K = model.given["shares"].clamp_min(LEAST).log()
        log_probs_KBC = torch.log_softmax(model.logits_KBC(batch.x_BCHW), dim=2)
        index_KB1 = batch.y_B[None, :, None].expand(len(log_probs_KBC), -1, 1)
        log_probs_KB = log_probs_KBC.gather(2, index_KB1).squeeze(2)
        return batch.mean(-torch.logsumexp(shares_K[:, None] + log_probs_KB, dim=0))
