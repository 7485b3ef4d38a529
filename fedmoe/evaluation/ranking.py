"""Scores of clients over the pool, from what the gate, or each expert's loss, says of their samples.

Shapes: B samples of one client (or of one of its G batches), M experts.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fedmoe.evaluation.outputs import expert_logits
from fedmoe.moe.expert import Expert
from fedmoe.training.samples import ClientSamples

__all__ = ["AGGREGATIONS", "batch_scores", "client_scores", "loss_scores", "mixture_shares"]

STILL = 1e-6  # of the largest change of a share: then EM stands still
MOST_STEPS = 100

AGGREGATIONS = ("mean-probability", "mean-logit", "vote")


def client_scores(logits_BM: Tensor, aggregation: str) -> list[float]:
    """Returns M scores, one an expert: the higher, the better it suits the client as a whole.

    FedJETs aggregates over the client's samples by a formula that its text does not show; the choices are the mean of
    the softmax probabilities, the mean of the logits, or the share of samples whose best expert it is.

    Args:
        logits_BM: the gate's scores of the client's samples.
        aggregation: one of `AGGREGATIONS`.

    Raises:
        ValueError: an unknown aggregation.
    """
    scores: list[float] = batch_scores(logits_BM[None], aggregation)[0].tolist()
    return scores


def batch_scores(logits_GBM: Tensor, aggregation: str) -> Tensor:
    """Returns scores_GM of G batches of equally many samples, each as `client_scores` says; float64.

    Raises:
        ValueError: an unknown aggregation.
    """
    logits_GBM = logits_GBM.double()
    if aggregation == "mean-probability":
        return torch.softmax(logits_GBM, dim=2).mean(dim=1)
    if aggregation == "mean-logit":
        return logits_GBM.mean(dim=1)
    if aggregation == "vote":
        return one_hot(logits_GBM.argmax(dim=2), logits_GBM.shape[2]).double().mean(dim=1)
    raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got '{aggregation}'")


def adjusted(
    outputs: Sequence[Mapping[int, Tensor]], log_priors: Sequence[Tensor | None]
) -> list[Mapping[int, Tensor]]:
    """Returns each client's logits_BC by expert with the log of its label prior added, where there is one."""
    return [
        own if prior_C is None else {i: logits_BC + prior_C.cpu() for i, logits_BC in own.items()}
        for own, prior_C in zip(outputs, log_priors, strict=True)
    ]


def loss_scores(
    load_expert: Callable[[int], Expert],
    num_experts: int,
    clients: Sequence[ClientSamples],
    log_priors: Sequence[Tensor | None],
) -> list[list[float]]:
    """Returns, for each client, minus each expert's mean cross-entropy on its own samples (IFCA, arXiv 2006.04088).

    Args:
        load_expert: gives the expert with this id; valid until the next call.
        num_experts: M.
        clients: their samples.
        log_priors: what each client's loss adds to the logits in training: the log of its label prior, or nothing.
    """
    outputs = adjusted(expert_logits(load_expert, [range(num_experts)] * len(clients), clients), log_priors)
    return [
        [-float(cross_entropy(own[i], samples.y.cpu())) for i in range(num_experts)]
        for own, samples in zip(outputs, clients, strict=True)
    ]


def mixture_shares(
    load_expert: Callable[[int], Expert],
    num_experts: int,
    clients: Sequence[ClientSamples],
    log_priors: Sequence[Tensor | None],
) -> list[list[float]]:
    """Returns each client's shares pi of the experts, under which its labelled samples are likeliest; they sum to 1.

    By expectation maximisation from equal shares with the experts held fixed: `q_bm ~ pi_m f(x_b; W_m)_y`, `pi_m =
    mean_b q_bm` (Marfoq et al., arXiv 2108.10252, equations 8 and 9), until no share moves by more than 1e-6, or 100
    times.

    Args:
        load_expert: gives the expert with this id; valid until the next call.
        num_experts: M.
        clients: their samples.
        log_priors: what each client's loss adds to the logits in training: the log of its label prior, or nothing.
    """
    outputs = adjusted(expert_logits(load_expert, [range(num_experts)] * len(clients), clients), log_priors)
    found = []
    for own, samples in zip(outputs, clients, strict=True):
        y_B = samples.y.cpu()
        log_likelihood_BM = torch.stack(
            [-cross_entropy(own[i].double(), y_B, reduction="none") for i in range(num_experts)], dim=1
        )
        shares_M = torch.full((num_experts,), 1 / num_experts, dtype=torch.float64)
        for _ in range(MOST_STEPS):
            before_M = shares_M
            shares_M = torch.softmax(log_likelihood_BM + before_M.log(), dim=1).mean(dim=0)
            if float((shares_M - before_M).abs().max()) <= STILL:
                break
        found.append(shares_M.tolist())
    return found
