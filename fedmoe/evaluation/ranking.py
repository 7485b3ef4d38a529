"""Scores of one client over the pool, from what the gate says of its samples.

Shapes: B samples, M experts, D width of the gate's input.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.training.samples import ClientSamples

__all__ = ["AGGREGATIONS", "client_scores", "expert_logits", "loss_scores"]

BATCH = 512

AGGREGATIONS = ("mean-probability", "mean-logit", "vote")


@torch.no_grad()
def client_scores(gate: Gate, input_BD: Tensor, aggregation: str) -> list[float]:
    """Returns M scores, one an expert: the higher, the better it suits the client as a whole.

    FedJETs aggregates over the client's samples by a formula that its text does not show; the choices are the mean of
    the softmax probabilities, the mean of the logits, or the share of samples whose best expert it is.

    Raises:
        ValueError: an unknown aggregation.
    """
    logits_BM = gate.scores(input_BD).double()
    if aggregation == "mean-probability":
        scores_M = torch.softmax(logits_BM, dim=1).mean(dim=0)
    elif aggregation == "mean-logit":
        scores_M = logits_BM.mean(dim=0)
    elif aggregation == "vote":
        best_B = logits_BM.argmax(dim=1)
        scores_M = torch.bincount(best_B, minlength=logits_BM.shape[1]).double() / len(best_B)
    else:
        raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got '{aggregation}'")
    return [float(score) for score in scores_M]


@torch.no_grad()
def loss_scores(load_expert: Callable[[int], Expert], num_experts: int, samples: ClientSamples) -> list[float]:
    """Returns minus the mean cross-entropy of each expert on the client's labelled samples (IFCA, arXiv 2006.04088)."""
    return [-float(cross_entropy(expert_logits(load_expert(i), samples), samples.y)) for i in range(num_experts)]


@torch.no_grad()
def expert_logits(expert: Expert, samples: ClientSamples) -> Tensor:
    """Returns logits_BC of all the client's samples, in evaluation mode."""
    expert.eval()
    rows = [slice(start, start + BATCH) for start in range(0, len(samples), BATCH)]
    return torch.cat([expert(samples.inputs(part)) for part in rows])
