"""What came out of a run: header, summary, clients, partition, as the tables that the run folder keeps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fedmoe.data.holdings import Holdings
from fedmoe.data.population import Population
from fedmoe.evaluation.cold_start import cold_start
from fedmoe.evaluation.fairness import spread
from fedmoe.evaluation.gathering import cold_start_record
from fedmoe.evaluation.predictions import Answers
from fedmoe.evaluation.priors import public_prior
from fedmoe.evaluation.served import cold_order, served_ids
from fedmoe.evaluation.serving import Serving
from fedmoe.evaluation.zero_shot import common_expert_results
from fedmoe.flower.preparation import Preparation
from fedmoe.recording.outcome import Outcome

__all__ = ["client_table", "common_cold_start", "common_results", "header_table", "partition_table", "summary_table"]

HELD = ("client_id", "role", "labels", "examples", "rounds")
ROUTING = ("specialisation", "routing_entropy", "dispatch_entropy", "routing_stability", "dead_experts")
LISTED = 500  # normal clients, and unseen ones, that `partition.json` lists at the most


def header_table(
    preparation: Preparation, names: Sequence[str], run_folder: str, device: str, pool: int, gate: str
) -> dict[str, Any]:
    """Returns what is told at the start; `pool` and `gate` (its name, or `none`) are the main strategy's."""
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
        "gate": gate,
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
    """Returns who holds how many samples of which label; of a large population, for some of the clients.

    All anchors are among those, and others at even steps. A table of all would grow to hundreds of megabytes, and
    `clients.csv` has the labels of each client.
    """
    population = preparation.population
    listed = [client for group in _listed(population) for client in group]
    counts = Holdings.of([population.shards[client] for client in listed]).label_counts(
        population.labels_N, population.num_classes
    )
    return {
        "name": preparation.settings.clients.partition,
        "hash": preparation.partition,
        "classes": list(preparation.data.dataset.class_names),
        "clients": listed,
        "counts": counts.tolist(),
        "num_training": population.num_training,
        "num_unseen": len(population.unseen),
        "anchors": {str(client): expert for client, expert in population.anchors.items()},
        "groups": [list(group) for group in population.groups],
    }


def _listed(population: Population) -> tuple[Sequence[int], ...]:
    """Returns the anchors, and as many normal and unseen clients as are listed, each ascending."""
    return (
        sorted(population.anchors),
        population.normal[:: max(1, -(-len(population.normal) // LISTED))],
        population.unseen[:: max(1, -(-len(population.unseen) // LISTED))],
    )


def common_results(preparation: Preparation) -> dict[int, dict[str, float]]:
    """Returns the common expert's accuracies on each unseen client, from the cached logits."""
    population, store, settings = preparation.population, preparation.store, preparation.settings
    prior = torch.from_numpy(public_prior(population))
    ids = [served_ids(population, client, settings.evaluate.samples, settings.seed) for client in population.unseen]
    logits, labels = [store.common_logits(own) for own in ids], [store.y(own) for own in ids]
    return dict(
        zip(population.unseen, common_expert_results(logits, labels, prior, settings.evaluate.doubt), strict=True)
    )


def common_cold_start(preparation: Preparation) -> dict[str, Any]:
    """Returns the common expert's figures by how many samples a client has; empty where none are asked for."""
    population, store, settings = preparation.population, preparation.store, preparation.settings
    sizes = settings.evaluate.cold_start_sizes
    if not sizes:
        return {}
    answers, orders = [], []
    for client in population.unseen:
        own = served_ids(population, client, settings.evaluate.samples, settings.seed)
        only = {0: store.common_logits(own)}
        answers.append(
            Answers(held=(0,), scores=(0.0,), logits_BM=torch.zeros(len(own), 1), outputs=only, y_B=store.y(own))
        )
        orders.append(cold_order(client, len(own), settings.seed))
    lots = [np.zeros(1, dtype=np.int64)] * len(answers)
    prior = torch.from_numpy(public_prior(population))
    serving = Serving(top_k=1, cold_start=sizes, doubt=settings.evaluate.doubt)
    found = cold_start_record(cold_start(answers, orders, lots, serving, prior))
    return {size: {_alone(name): share for name, share in told.items()} for size, told in found.items()}


def _alone(name: str) -> str:
    """Returns what the common expert's figure is called: `plain` for `zero_shot`, `em` for `zero_shot_em`."""
    return "plain" if name == "zero_shot" else name.removeprefix("zero_shot_")


def summary_table(
    header: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    common: Mapping[int, Mapping[str, float]],
    common_cold: Mapping[str, Any],
    once: Mapping[str, int],
    seconds: float,
) -> dict[str, Any]:
    """Returns `summary.json`'s table.

    Args:
        header: what was told at the start.
        outcomes: what each method's rounds came to, the main one first.
        common: the common expert's accuracies by unseen client.
        common_cold: its figures in the cold start, if there was one.
        once: each method's one-time bytes.
        seconds: of the whole run, set-up included.
    """
    main = outcomes[header["strategy"]]
    own = main.evaluation["methods"]
    methods = {name: outcome.evaluation["methods"] for name, outcome in outcomes.items()}
    methods["common expert"] = {k: spread([row[k] for row in common.values()]) for k in next(iter(common.values()))}
    by_method = {name: round(float(np.median(outcome.seconds)), 4) for name, outcome in outcomes.items()}
    traffic = {name: {"down": o.down, "up": o.up, "once": once[name]} for name, o in outcomes.items()}
    return {
        **{key: header[key] for key in ("simulation", "strategy", "tables", "starts", "dataset", "partition", "seed")},
        "rounds": main.rounds,
        "unseen": {
            "clients": len(common),
            "accuracy_mean": own["zero_shot"]["mean"],
            "accuracy_std": own["zero_shot"]["std"],
            "accuracy_worst_decile": own["zero_shot"]["worst_decile"],
            "mixture_mean": own.get("mixture", own["zero_shot"])["mean"],
            "common_expert_mean": methods["common expert"]["plain"]["mean"],
        },
        "methods": methods,
        **_seen(outcomes),
        "routing": _routing(outcomes),
        "remarks": {name: list(outcome.remarks) for name, outcome in outcomes.items() if outcome.remarks},
        **_cold_start(outcomes, common_cold),
        "bytes": {**traffic[header["strategy"]], "by_method": traffic},
        "seconds": {
            "total": round(seconds, 3),
            "round_median": float(np.median(main.seconds)),
            "by_method": by_method,
            "personalise": {n: round(float(np.median(o.personalise)), 6) for n, o in outcomes.items() if o.personalise},
        },
        "failures": sum(outcome.failures for outcome in outcomes.values()),
        "common_expert": header["common_expert"],
        "embeddings_computed": header["embeddings_computed"],
        "notes": [*header["notes"], *_unserved(outcomes, len(common))],
        "run_folder": header["run_folder"],
    }


def _seen(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Returns each method's figures on training clients, where any were tested."""
    told = {name: o.evaluation["seen"]["methods"] for name, o in outcomes.items() if "seen" in o.evaluation}
    return {"seen": told} if told else {}


def _routing(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, Any]]:
    """Returns how each method that has several experts routes unseen clients, and which experts it does not train."""
    return {
        name: {key: outcome.evaluation.get(key) for key in ROUTING} | {"untrained_experts": list(outcome.untrained)}
        for name, outcome in outcomes.items()
        if len(outcome.evaluation["dispatch"]) > 1
    }


def _cold_start(outcomes: Mapping[str, Outcome], common: Mapping[str, Any]) -> dict[str, Any]:
    """Returns each method's figures by the number of samples, where they were measured."""
    told = {name: o.evaluation["cold_start"] for name, o in outcomes.items() if "cold_start" in o.evaluation}
    return {"cold_start": told | {"common expert": common}} if told else {}


def _unserved(outcomes: Mapping[str, Outcome], num_unseen: int) -> list[str]:
    """Returns a note for each method that could not serve every unseen client: its figures are of fewer clients."""
    served = {name: len(outcome.evaluation["clients"]) for name, outcome in outcomes.items()}
    return [
        f"{name}: {number} of {num_unseen} unseen clients could be served; its means are theirs."
        for name, number in served.items()
        if number < num_unseen
    ]


def client_table(
    preparation: Preparation, outcomes: Mapping[str, Outcome], common: Mapping[int, Mapping[str, float]]
) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Returns the columns of `clients.csv` and its rows, which are made one after another.

    A row tells what a client holds and how often it took part; for an unseen one also how each method served it.
    """
    population, took_part = preparation.population, next(iter(outcomes.values())).took_part
    served = _served(outcomes, common)

    def rows() -> Iterator[dict[str, Any]]:
        label_sets = population.shards.label_sets(population.labels_N)
        for client, (labels, size) in enumerate(zip(label_sets, population.shards.sizes, strict=True)):
            role = "anchor" if client in population.anchors else "normal" if client in population.training else "unseen"
            own = (client, role, list(labels), int(size), took_part.get(client, 0))
            yield dict(zip(HELD, own, strict=True)) | served.get(client, {})

    return [*HELD, *dict.fromkeys(key for row in served.values() for key in row)], rows()


def _served(outcomes: Mapping[str, Outcome], common: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, Any]]:
    """Returns, by unseen client, the main method's experts and the accuracies of all."""
    found: dict[int, dict[str, Any]] = {
        client: {f"common_expert.{name}": value for name, value in accuracies.items()}
        for client, accuracies in common.items()
    }
    for number, (method, outcome) in enumerate(outcomes.items()):
        for row in outcome.evaluation["clients"]:
            own = found[row["client_id"]]
            if number == 0:
                own["experts"] = row["experts"]
            told = {key: value for key, value in row.items() if key not in ("client_id", "examples", "experts")}
            own |= {f"{method}.{name}": value for name, value in told.items()}
    return found
