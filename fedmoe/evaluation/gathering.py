"""Many clients' results -> one round's evaluation record.

Shapes: M experts, C classes.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import entr

from fedmoe.evaluation.fairness import spread
from fedmoe.evaluation.zero_shot import ClientResult

__all__ = ["cold_start_record", "evaluation_record", "held_overlap", "held_sets", "seen_record"]


def evaluation_record(
    results: Mapping[int, ClientResult], before: Mapping[int, Collection[int]] | None = None
) -> dict[str, Any]:
    """Returns the `evaluate` part of a line in `rounds.jsonl`.

    `methods`: mean, std and worst decile over clients of each method; `clients`: a row each; `affinity`: M x C share of
    a class's samples that went to each expert; `dispatch`: share of all samples by expert; `routing_entropy`: mean
    entropy of the gate in nats; `dispatch_entropy`: of `dispatch`, the load, in nats; `dead_experts`: ids of those
    that got no sample; `routing_stability`: as `held_overlap`; `specialisation`: mutual information of expert and class
    over the routed samples, nats; `expert_class_accuracy`: M x C, only where every expert was measured; `cold_start`:
    number of samples -> method -> mean, std and worst decile, only where it was measured; `robust`: the same of each
    method under attack, and of `flips`, only where it was.

    Args:
        results: client id -> result; at least one.
        before: client id -> the experts that it held in the evaluation before this one.
    """
    ordered = [results[client_id] for client_id in sorted(results)]
    names = list(ordered[0].accuracies)
    routed_MC = np.sum([result.routed_MC for result in ordered], axis=0)
    dispatched_M = routed_MC.sum(axis=1)
    count_C = np.sum([result.class_count_C for result in ordered], axis=0)
    record: dict[str, Any] = {
        "methods": {name: spread([result.accuracies[name] for result in ordered]) for name in names},
        "clients": [
            {
                "client_id": client_id,
                "experts": list(results[client_id].experts),
                "examples": results[client_id].examples,
            }
            | results[client_id].accuracies
            for client_id in sorted(results)
        ],
        "affinity": _rounded(routed_MC / np.maximum(count_C, 1)),
        "dispatch": _rounded(dispatched_M / max(1, dispatched_M.sum())),
        "dispatch_entropy": count_entropy(dispatched_M),
        "dead_experts": np.flatnonzero(dispatched_M == 0).tolist(),
        "routing_stability": held_overlap(before or {}, {c: result.experts for c, result in results.items()}),
        "routing_entropy": float(np.mean([result.entropy for result in ordered])),
        "specialisation": mutual_information(routed_MC),
    }
    measured = [result.correct_MC for result in ordered if result.correct_MC is not None]
    if len(measured) == len(ordered):
        correct_MC = np.sum(measured, axis=0)
        record["expert_class_accuracy"] = _rounded(correct_MC / np.maximum(count_C, 1))
    if ordered[0].robust:
        names = list(ordered[0].robust)
        record["robust"] = {name: spread([result.robust[name] for result in ordered]) for name in names}
    if ordered[0].cold:
        record["cold_start"] = cold_start_record([result.cold for result in ordered])
    return record


def cold_start_record(clients: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns number of samples -> method -> mean, std and worst decile, from each client's accuracies."""
    return {
        size: {name: spread([own[size][name] for own in clients]) for name in figures}
        for size, figures in clients[0].items()
    }


def seen_record(results: Mapping[int, ClientResult]) -> dict[str, Any]:
    """Returns the `seen` part of an evaluation: `methods` as for unseen clients, `clients` a row each."""
    whole = evaluation_record(results)
    return {"methods": whole["methods"], "clients": whole["clients"]}


def held_sets(evaluation: Mapping[str, Any]) -> dict[int, tuple[int, ...]]:
    """Returns client id -> the experts that it held, from an evaluation's record; none from an empty one."""
    return {row["client_id"]: tuple(row["experts"]) for row in evaluation.get("clients", ())}


def held_overlap(before: Mapping[int, Collection[int]], after: Mapping[int, Collection[int]]) -> float | None:
    """Returns how much of the clients' held experts has stayed, in [0, 1]; `None` where no client is in both.

    The mean over those in both of `|A & B| / |A | B|` (Jaccard), with A the set held before and B the one held after.

    >>> held_overlap({7: (0, 1), 8: (2, 3)}, {7: (1, 0), 8: (2, 4), 9: (0, 1)})
    0.6666666666666666
    """
    pairs = [(set(before[client]), set(after[client])) for client in sorted(set(before) & set(after))]
    return float(np.mean([len(one & two) / len(one | two) for one, two in pairs])) if pairs else None


def count_entropy(counts: "np.ndarray[Any, np.dtype[np.int64]]") -> float:
    """Returns the entropy of the shares that these counts make up, nats: 0 when all fall to one.

    >>> round(count_entropy(np.array([5, 5, 0])), 4)
    0.6931
    """
    return float(entr(counts / max(1, counts.sum())).sum())


def mutual_information(counts_MC: "np.ndarray[Any, np.dtype[np.int64]]") -> float:
    """Returns the mutual information of expert and class in nats, from counts: 0 when routing ignores the class.

    >>> round(mutual_information(np.array([[5, 0], [0, 5]])), 4)
    0.6931
    """
    total = counts_MC.sum()
    if total == 0:
        return 0.0
    joint = counts_MC / total
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    held = joint > 0
    return float((joint[held] * np.log(joint[held] / independent[held])).sum())


def _rounded(values: "np.ndarray[Any, Any]") -> list[Any]:
    rounded: list[Any] = np.round(values, 6).tolist()
    return rounded
