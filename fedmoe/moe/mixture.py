"""Outputs of several experts mixed into one.

Shapes: K held experts, B samples, C classes.
"""

import torch
from torch import Tensor

__all__ = ["mix", "with_common"]


def mix(logits_KBC: Tensor, weights_BK: Tensor, output: str = "probability") -> Tensor:
    """Returns log_probs_BC of the weighted mixture.

    Args:
        logits_KBC: each expert's class logits.
        weights_BK: each sample's weights, aligned with the first axis of `logits_KBC`.
        output: `"probability"` mixes softmax outputs (a mixture of experts in the strict sense), `"logit"` mixes
            logits. FedJETs (arXiv 2306.08586) says "weighted average of the output" and leaves open which.

    Raises:
        ValueError: `output` is neither.
    """
    if output == "probability":
        log_weights_KB1 = weights_BK.clamp_min(torch.finfo(weights_BK.dtype).tiny).log().T.unsqueeze(-1)
        return torch.logsumexp(log_weights_KB1 + torch.log_softmax(logits_KBC, dim=-1), dim=0)
    if output == "logit":
        return torch.log_softmax((weights_BK.T.unsqueeze(-1) * logits_KBC).sum(dim=0), dim=-1)
    raise ValueError(f"output must be 'probability' or 'logit', got '{output}'")


def with_common(logits_KBC: Tensor, weights_BK: Tensor, common_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Returns logits and weights with the common expert behind the held ones: it gets what is left of each row.

    Args:
        logits_KBC: each held expert's class logits.
        weights_BK: each sample's weights, of a sum of at most 1.
        common_BC: the common expert's class logits.
    """
    rest_B1 = (1 - weights_BK.sum(dim=1, keepdim=True)).clamp_min(0)
    return torch.cat([logits_KBC, common_BC.to(logits_KBC)[None]]), torch.cat([weights_BK, rest_B1], dim=1)
