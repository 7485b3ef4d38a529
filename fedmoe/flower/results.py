"""What came out of a run: header, summary, clients, partition, as the tables that the run folder keeps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fedmoe.evaluation.fairness import spread
from fedmoe.evaluation.priors import public_prior
from fedmoe.evaluation.served import served_ids
from fedmoe.evaluation.zero_shot import common_expert_result
from fedmoe.flower.preparation import Preparation

__all__ = ["client_rows", "common_results", "header_table", "partition_table", "summary_table"]

Lines = Sequence[Mapping[str, Any]]


def header_table(
    preparation: Preparation, names: Sequence[str], run_folder: str, device: str, pool: int, has_gate: bool
) -> dict[str, Any]:
    """Returns what is told at the start; `pool` and `has_gate` are the main strategy's."""
    settings = preparation.settings
    parameters = int(preparation.initial_state(1, False, "random").experts[0].size)
    return {
        "simulation": settings.simulation,
        "strategy": names[0],
        "baselines": list(names[1:]),
        "dataset": dataset_table(preparation),
        "partition": {"name": settings.clients.partition, "hash": preparation.partition},
        "clients": {
            "num": settings.clients.num,
            "per_round": settings.clients.per_round,
            "anchors_per_round": settings.clients.anchors_per_round,
            "unseen": settings.clients.unseen,
        },
        "experts": {
            "num": pool,
            "top_k": min(pool, settings.experts.top_k),
            "model": settings.experts.model,
            "parameters": parameters,
        },
        "gate": settings.gate.name if has_gate else "none",
        "common_expert": dict(preparation.common.report) | {"fingerprint": preparation.common.fingerprint},
        "embeddings_computed": preparation.table.computed,
        "device": device,
        "seed": settings.seed,
        "rounds": settings.num_server_rounds,
        "run_folder": run_folder,
        "notes": [*_stand_in_note(preparation), *preparation.notes],
    }


def _stand_in_note(preparation: Preparation) -> list[str]:
    wanted, got = preparation.data.stand_in_for, preparation.data.dataset.name
    return [] if wanted is None else [f"'{wanted}' could not be had: every figure is of generated data ('{got}')."]


def dataset_table(preparation: Preparation) -> dict[str, Any]:
    """Returns what the data is, and whether it is real."""
    dataset = preparation.data.dataset
    return {
        "name": dataset.name,
        "real": dataset.real,
        "stand_in_for": preparation.data.stand_in_for,
        "fingerprint": preparation.data.fingerprint,
        "classes": len(dataset.class_names),
        "train": dataset.num_train,
        "test": len(dataset.y_N) - dataset.num_train,
    }


def partition_table(preparation: Preparation) -> dict[str, Any]:
    """Returns who holds how many samples of which label."""
    population = preparation.population
    return {
        "name": preparation.settings.clients.partition,
        "hash": preparation.partition,
        "classes": list(preparation.data.dataset.class_names),
        "counts": population.label_counts().tolist(),
        "num_training": population.num_training,
        "anchors": {str(client): expert for client, expert in population.anchors.items()},
        "groups": [list(group) for group in population.groups],
    }


def common_results(preparation: Preparation) -> dict[int, dict[str, float]]:
    """Returns the common expert's accuracies on each unseen client, from the cached logits."""
    population, limit = preparation.population, preparation.settings.evaluate.samples
    prior = torch.from_numpy(public_prior(population))
    results = {}
    for client in population.unseen:
        ids = served_ids(population, client, limit, preparation.settings.seed)
        results[client] = common_expert_result(preparation.store.load(ids), prior)
    return results


def summary_table(
    header: Mapping[str, Any],
    lines: Mapping[str, Lines],
    common: Mapping[int, Mapping[str, float]],
    once: Mapping[str, int],
    seconds: float,
) -> dict[str, Any]:
    """Returns `summary.json`'s table.

    Args:
        header: what was told at the start.
        lines: each method's rounds, the main one first.
        common: the common expert's accuracies by unseen client.
        once: each method's one-time bytes.
        seconds: of the whole run, set-up included.
    """
    main = header["strategy"]
    final = {name: _last_evaluation(rounds) for name, rounds in lines.items()}
    own = final[main]["methods"]
    methods = {name: evaluation["methods"] for name, evaluation in final.items()}
    methods["common expert"] = {k: spread([row[k] for row in common.values()]) for k in ("plain", "em")}
    traffic = {
        name: {way: sum(line["bytes"][way] for line in rounds) for way in ("down", "up")} | {"once": once[name]}
        for name, rounds in lines.items()
    }
    return {
        **{key: header[key] for key in ("simulation", "strategy", "dataset", "partition", "seed")},
        "rounds": len(lines[main]),
        "unseen": {
            "clients": len(common),
            "accuracy_mean": own["zero_shot"]["mean"],
            "accuracy_std": own["zero_shot"]["std"],
            "accuracy_worst_decile": own["zero_shot"]["worst_decile"],
            "mixture_mean": own.get("mixture", own["zero_shot"])["mean"],
            "common_expert_mean": methods["common expert"]["plain"]["mean"],
        },
        "methods": methods,
        "bytes": {**traffic[main], "by_method": traffic},
        "seconds": {
            "total": round(seconds, 3),
            "round_median": float(np.median([line["seconds"]["round"] for line in lines[main]])),
        },
        "failures": sum(len(line["failures"]) for rounds in lines.values() for line in rounds),
        "common_expert": header["common_expert"],
        "embeddings_computed": header["embeddings_computed"],
        "notes": [*header["notes"], *_unserved(final, len(common))],
        "run_folder": header["run_folder"],
    }


def _unserved(final: Mapping[str, Mapping[str, Any]], num_unseen: int) -> list[str]:
    """Returns a note for each method that could not serve every unseen client: its figures are of fewer clients."""
    return [
        f"{name}: {len(evaluation['clients'])} of {num_unseen} unseen clients could be served; its means are theirs."
        for name, evaluation in final.items()
        if len(evaluation["clients"]) < num_unseen
    ]


def client_rows(
    preparation: Preparation, lines: Mapping[str, Lines], common: Mapping[int, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Returns a row per client: what it holds, how often it took part; for unseen ones, how each method served it."""
    population, main = preparation.population, next(iter(lines))
    rounds = Counter(client for line in lines[main] for client in line["clients"])
    rows = []
    for client in [*population.training, *population.unseen]:
        role = "anchor" if client in population.anchors else "normal" if client in population.training else "unseen"
        rows.append(
            {
                "client_id": client,
                "role": role,
                "labels": list(population.labels_of(client)),
                "examples": len(population.shards[client]),
                "rounds": rounds[client],
            }
        )
    for client, accuracies in common.items():
        rows[client] |= {f"common_expert.{name}": value for name, value in accuracies.items()}
    for method, own in lines.items():
        for served in _last_evaluation(own)["clients"]:
            kept = {key: value for key, value in served.items() if key not in ("client_id", "examples")}
            if method == main:
                rows[served["client_id"]]["experts"] = kept["experts"]
            del kept["experts"]
            rows[served["client_id"]] |= {f"{method}.{name}": value for name, value in kept.items()}
    return rows


def _last_evaluation(rounds: Lines) -> Mapping[str, Any]:
    evaluation: Mapping[str, Any] = next(line["evaluate"] for line in reversed(rounds) if line["evaluate"])
    return evaluation
