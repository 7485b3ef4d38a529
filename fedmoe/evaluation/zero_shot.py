"""The zero-shot test of one unseen, unlabelled client; labels are used to count, never to choose.

Shapes: B samples of the client, M experts, K held ones, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.evaluation.prior_em import correct_prior
from fedmoe.evaluation.ranking import client_scores, expert_logits
from fedmoe.federation.assignment import top_k
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.mixture import mix
from fedmoe.training.samples import ClientSamples

__all__ = ["ClientResult", "Serving", "common_expert_result", "serve_client"]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a strategy serves a client that it has never seen.

    Attributes:
        top_k: experts that the client gets.
        aggregation: how the gate's scores are aggregated over its samples.
        output: how the K outputs are mixed for the `mixture` figure.
        hindsight: also measure every expert on every client (costs M/K times the work): `best_expert` and the expert x
            class accuracies.
    """

    top_k: int
    aggregation: str = "mean-probability"
    output: str = "probability"
    hindsight: bool = False


@dataclass(frozen=True, kw_only=True)
class ClientResult:
    """What one unseen client got.

    Attributes:
        experts: the K experts it was given, best first.
        examples: its samples.
        accuracies: method -> accuracy in [0, 1].
        routed_MC: how many of its samples of class c went to expert m.
        correct_MC: how many samples of class c expert m got right (with hindsight only).
        entropy: mean entropy of the gate's softmax over the pool, nats.
    """

    experts: tuple[int, ...]
    examples: int
    accuracies: dict[str, float]
    routed_MC: NDArray[np.int64]
    class_count_C: NDArray[np.int64]
    correct_MC: NDArray[np.int64] | None = None
    entropy: float = 0.0
    scores: tuple[float, ...] = field(default=())


@torch.no_grad()
def serve_client(
    gate: Gate | None,
    load_expert: Callable[[int], Expert],
    num_experts: int,
    samples: ClientSamples,
    serving: Serving,
    train_prior_C: Tensor,
    rng: np.random.Generator,
) -> ClientResult:
    """Returns how the client fares: ranking on its unlabelled inputs, K experts for it, the best one for each sample.

    Methods measured: `zero_shot`: each sample by the best of the K experts (the test of arXiv 2306.08586, section 3);
    `mixture`: by the weighted mixture of the K; `..._em`: the same with label-prior correction on the same unlabelled
    batch; `best_expert`: the single expert of the pool that is best for this client in hindsight, an upper bound for
    one-expert serving that looks at the labels.

    Args:
        gate: `None` when the pool is one dense model.
        load_expert: gives the expert with this id, ready to evaluate; valid until the next call.
        num_experts: M.
        samples: the client's.
        serving: how it is served.
        train_prior_C: label prior of the training population, for the correction.
        rng: breaks ties in the ranking.
    """
    if gate is None:
        logits_BM = torch.zeros(len(samples), num_experts, device=samples.y.device)
        scores: Sequence[float] = [0.0] * num_experts
    else:
        gate.eval()
        scores = client_scores(gate, samples.gate_input, serving.aggregation)
        logits_BM = gate.scores(samples.gate_input)
    held = top_k(scores, serving.top_k, rng)
    wanted = range(num_experts) if serving.hindsight else sorted(held)
    outputs = {i: expert_logits(load_expert(i), samples) for i in wanted}
    held_BK = logits_BM[:, list(held)]
    logits_KBC = torch.stack([outputs[i] for i in held])
    choice_B = held_BK.argmax(dim=1)
    chosen_BC = logits_KBC[choice_B, torch.arange(len(samples), device=choice_B.device)]
    predictions = {"zero_shot": torch.log_softmax(chosen_BC, dim=1)}
    if len(held) > 1:
        predictions["mixture"] = mix(logits_KBC, torch.softmax(held_BK, dim=1), serving.output)
    accuracies = accuracies_of(predictions, samples.y, train_prior_C)
    correct_MC = None
    num_classes = logits_KBC.shape[2]
    if serving.hindsight:
        correct_MC = np.stack(
            [_class_counts(samples.y[outputs[i].argmax(1) == samples.y], num_classes) for i in wanted]
        )
        accuracies["best_expert"] = float(correct_MC.sum(axis=1).max()) / len(samples)
    expert_B = torch.tensor(held, device=choice_B.device)[choice_B]
    routed = np.stack([_class_counts(samples.y[expert_B == i], num_classes) for i in range(num_experts)])
    return ClientResult(
        experts=held,
        examples=len(samples),
        accuracies=accuracies,
        routed_MC=routed,
        class_count_C=_class_counts(samples.y, num_classes),
        correct_MC=correct_MC,
        entropy=mean_entropy(logits_BM),
        scores=tuple(scores),
    )


def common_expert_result(samples: ClientSamples, train_prior_C: Tensor) -> dict[str, float]:
    """Returns the accuracies of the common expert alone, `plain` and with prior correction (`em`)."""
    accuracies = accuracies_of({"plain": torch.log_softmax(samples.common_logits, 1)}, samples.y, train_prior_C)
    return {"plain": accuracies["plain"], "em": accuracies["plain_em"]}


def accuracies_of(predictions: dict[str, Tensor], y_B: Tensor, train_prior_C: Tensor) -> dict[str, float]:
    """Returns the accuracy of each prediction (log_probs_BC) as it is and, under `..._em`, with prior correction."""
    accuracies = {}
    for name, log_probs_BC in predictions.items():
        accuracies[name] = _share(log_probs_BC.argmax(1) == y_B)
        accuracies[f"{name}_em"] = _share(correct_prior(log_probs_BC, train_prior_C).argmax(1) == y_B)
    return accuracies


def mean_entropy(logits_BM: Tensor) -> float:
    """Returns the mean entropy of the rows' softmax, nats."""
    log_probs_BM = torch.log_softmax(logits_BM.double(), dim=1)
    return float(-(log_probs_BM.exp() * log_probs_BM).sum(dim=1).mean())


def _class_counts(y: Tensor, num_classes: int) -> NDArray[np.int64]:
    return torch.bincount(y, minlength=num_classes).cpu().numpy()


def _share(hits_B: Tensor) -> float:
    return float(hits_B.double().mean())
