"""The zero-shot test of unseen, unlabelled clients; labels are used to count, never to choose.

Shapes: B samples of one client, M experts, K held ones, C classes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmoe.evaluation.cold_start import cold_start
from fedmoe.evaluation.outputs import expert_logits, gate_logits
from fedmoe.evaluation.predictions import Answers, Weighing, accuracies_of, predictions_of
from fedmoe.evaluation.ranking import client_scores
from fedmoe.evaluation.serving import Serving
from fedmoe.federation.assignment import best_first
from fedmoe.moe.expert import Expert
from fedmoe.moe.gate import Gate
from fedmoe.moe.routing import held_softmax
from fedmoe.training.samples import ClientSamples

__all__ = ["ClientResult", "common_expert_results", "confidence", "rank_experts", "rule_of", "serve_clients"]


@dataclass(frozen=True, kw_only=True)
class ClientResult:
    """What one unseen client got.

    Attributes:
        experts: the K experts it was given, best first.
        examples: its samples.
        accuracies: method -> accuracy in [0, 1].
        routed_MC: how many of its samples of class c went to expert m; the common expert answered the missing ones.
        correct_MC: how many samples of class c expert m got right (with hindsight only).
        entropy: mean entropy of the gate's softmax over the pool, nats.
        scores: its score of every expert.
        robust: accuracy under attack by each way to predict, and `flips`, where it was measured.
        cold: number of samples that it is served by at a time -> method -> accuracy.
        seconds: that ranking and predicting took for it: those of all served together, in equal parts. Hindsight,
            cold start and attacks are left out, and what the common expert and the disk take: embeddings and samples
            lie ready.
    """

    experts: tuple[int, ...]
    examples: int
    accuracies: dict[str, float]
    routed_MC: NDArray[np.int64]
    class_count_C: NDArray[np.int64]
    correct_MC: NDArray[np.int64] | None = None
    entropy: float = 0.0
    scores: tuple[float, ...] = field(default=())
    cold: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    robust: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@torch.no_grad()
def serve_clients(
    gate: Gate | None,
    load_expert: Callable[[int], Expert],
    num_experts: int,
    clients: Sequence[ClientSamples],
    serving: Serving,
    train_prior_C: Tensor,
    ties: Sequence[np.random.Generator],
    orders: Sequence[NDArray[np.int64]] = (),
    common: Sequence[Tensor | None] = (),
) -> list[ClientResult]:
    """Returns how each client fares: ranking on its unlabelled inputs, K experts for it, the best one for each sample.

    Methods measured: `zero_shot`: each sample by the best of the K experts (the test of arXiv 2306.08586, section 3),
    or by the common expert where the gate falls back and leaves it more than any of them;
    `mixture`: by the weighted mixture of the K; `..._em`: the same with label-prior correction on the same unlabelled
    batch; `..._guarded`: with the guarded one, if answers are doubted; `best_expert`: the single expert of the pool
    that is best for this client in hindsight, an upper bound for one-expert serving that looks at the labels.

    A client's result does not depend on who else is served with it; the memory that is needed does.

    Args:
        gate: `None` when the pool is one dense model.
        load_expert: gives the expert with this id; valid until the next call.
        num_experts: M.
        clients: the clients' samples, at least one sample each.
        serving: how they are served.
        train_prior_C: label prior of the training population, for the correction.
        ties: what breaks ties in each client's ranking.
        orders: of each client's samples, in which they come in the cold start; needed where there is one.
        common: the common expert's logits_BC of each client's samples, on the CPU; needed where it has a vote, or the
            gate falls back on it.
    """
    started = time.perf_counter()
    logits, scores, outputs = rank_experts(gate, load_expert, num_experts, clients, serving)
    lots = [rng.permutation(num_experts) for rng in ties]
    held = [best_first(own, each)[: serving.top_k] for own, each in zip(scores, lots, strict=True)]
    outputs = outputs or expert_logits(load_expert, held, clients)
    labels = [own.y.cpu() for own in clients]
    votes = common or [None] * len(clients)
    weigh, falls_back = rule_of(gate, serving)
    rule = [(weigh, falls_back)] * len(clients)
    known = zip(held, scores, logits, outputs, labels, votes, rule, strict=True)
    answers = [Answers(*own, *its_rule) for *own, its_rule in known]
    predictions = [predictions_of(own.of_held(), serving, own.common_BC) for own in answers]
    accuracies = accuracies_of(predictions, labels, train_prior_C, serving.doubt)
    seconds = (time.perf_counter() - started) / len(clients)
    if serving.hindsight or serving.cold_start:
        others = [set(range(num_experts)) - set(own.outputs) for own in answers]
        more = expert_logits(load_expert, others, clients)
        answers = [replace(own, outputs={**own.outputs, **new}) for own, new in zip(answers, more, strict=True)]
    results = [result_of(*own, hindsight=serving.hindsight) for own in zip(answers, accuracies, strict=True)]
    cold = [{}] * len(clients) if not serving.cold_start else cold_start(answers, orders, lots, serving, train_prior_C)
    return [replace(result, cold=own, seconds=seconds) for result, own in zip(results, cold, strict=True)]


@torch.no_grad()
def rank_experts(
    gate: Gate | None,
    load_expert: Callable[[int], Expert],
    num_experts: int,
    clients: Sequence[ClientSamples],
    serving: Serving,
) -> tuple[list[Tensor], list[list[float]], list[dict[int, Tensor]]]:
    """Returns what each client's experts are ranked by, without a look at its labels.

    That is: logits_BM of its samples, its score of every expert, and what all experts say of its samples, where they
    had to be asked for it (`by="confidence"`); else the last list is empty, and no expert is loaded.

    Args:
        gate: `None` when nothing ranks, or the experts' own confidence does.
        load_expert: gives the expert with this id; valid until the next call.
        num_experts: M.
        clients: the clients' samples.
        serving: how they are served.
    """
    outputs: list[dict[int, Tensor]] = []
    if serving.by == "confidence":
        outputs = expert_logits(load_expert, [range(num_experts)] * len(clients), clients)
        logits = [confidence(own) for own in outputs]
    elif gate is None:
        logits = [torch.zeros(len(own), num_experts) for own in clients]
        return logits, [[0.0] * num_experts for _ in clients], outputs
    else:
        logits = gate_logits(gate, [own.gate_input for own in clients])
    return logits, [client_scores(own, serving.aggregation) for own in logits], outputs


def rule_of(gate: Gate | None, serving: Serving) -> tuple[Weighing, bool]:
    """Returns the rule by which held experts are weighed, and whether the common expert gets what it leaves."""
    if gate is None or serving.by != "gate":
        return held_softmax, False
    return gate.weigh, gate.falls_back


def confidence(outputs: Mapping[int, Tensor]) -> Tensor:
    """Returns minus the entropy (nats) of what each expert predicts of each sample, logits_BM."""
    log_probs_MBC = torch.log_softmax(torch.stack([outputs[i] for i in range(len(outputs))]), dim=2)
    return (log_probs_MBC.exp() * log_probs_MBC).sum(dim=2).T


def result_of(own: Answers, accuracies: Mapping[str, float], hindsight: bool) -> ClientResult:
    """Returns one client's result; in hindsight every expert is measured."""
    num_experts, num_classes = own.logits_BM.shape[1], own.outputs[own.held[0]].shape[1]
    correct_MC, best = None, {}
    if hindsight:
        hits = [own.y_B[own.outputs[i].argmax(dim=1) == own.y_B] for i in range(num_experts)]
        correct_MC = np.stack([_class_counts(hit, num_classes) for hit in hits])
        best = {"best_expert": float(correct_MC.sum(axis=1).max()) / len(own.y_B)}
    best_B, held_K = own.of_held().best_B, torch.tensor(own.held)
    to_experts_B = best_B < len(held_K)  # the others are the common expert's
    expert_B, y_B = held_K[best_B[to_experts_B]], own.y_B[to_experts_B]
    routed = _class_counts(expert_B * num_classes + y_B, num_experts * num_classes)
    return ClientResult(
        experts=own.held,
        examples=len(own.y_B),
        accuracies={**accuracies, **best},
        routed_MC=routed.reshape(num_experts, num_classes),
        class_count_C=_class_counts(own.y_B, num_classes),
        correct_MC=correct_MC,
        entropy=mean_entropy(own.logits_BM),
        scores=tuple(own.scores),
    )


def common_expert_results(
    logits: Sequence[Tensor], labels: Sequence[Tensor], train_prior_C: Tensor, doubt: float = 0.0
) -> list[dict[str, float]]:
    """Returns each client's accuracies by the common expert alone, `plain` and with prior correction (`em`).

    With doubt above 0 also with the guarded one (`guarded`).

    Args:
        logits: of each client's samples (B, C), on the CPU.
        labels: likewise (B,).
        train_prior_C: label prior of the common expert's own training data.
        doubt: share of its answers that the guarded correction takes to tell nothing.
    """
    found = accuracies_of([{"plain": torch.log_softmax(own, dim=1)} for own in logits], labels, train_prior_C, doubt)
    return [{name.removeprefix("plain_"): share for name, share in own.items()} for own in found]


def mean_entropy(logits_BM: Tensor) -> float:
    """Returns the mean entropy of the rows' softmax, nats."""
    log_probs_BM = torch.log_softmax(logits_BM.double(), dim=1)
    return float(-(log_probs_BM.exp() * log_probs_BM).sum(dim=1).mean())


def _class_counts(y: Tensor, num_classes: int) -> NDArray[np.int64]:
    return torch.bincount(y, minlength=num_classes).numpy()
