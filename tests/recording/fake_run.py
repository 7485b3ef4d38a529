"""A made-up run with the shape of a real one: clients with few labels, experts that specialise, a gate that learns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedmoe.recording.environment import describe_environment
from fedmoe.recording.rounds import append_round
from fedmoe.recording.run_folder import MAIN, RunFolder, create_run_folder
from fedmoe.settings import Settings, from_flat

CLASSES = ["aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NUM_CLIENTS, NUM_UNSEEN, PER_ROUND = 30, 10, 10


def spread(values: np.ndarray) -> dict[str, float]:
    worst = np.sort(values)[: max(1, len(values) // 10)]
    return {"mean": float(values.mean()), "std": float(values.std()), "worst_decile": float(worst.mean())}


def fake_evaluation(rng: np.random.Generator, skill: float, num_experts: int, bonus: float) -> dict[str, Any]:
    top = np.clip(0.15 + bonus + 0.7 * skill + rng.normal(0, 0.05, NUM_UNSEEN), 0, 1)
    per_client = {"zero_shot": top, "zero_shot_em": np.clip(top + 0.02, 0, 1)}
    if num_experts > 1:
        per_client |= {
            "mixture": np.clip(top + 0.01, 0, 1),
            "mixture_em": np.clip(top + 0.025, 0, 1),
            "best_expert": np.clip(top + 0.05, 0, 1),
        }
    owner = np.arange(len(CLASSES)) % num_experts
    affinity = rng.dirichlet(np.ones(num_experts), len(CLASSES)).T * (1 - skill)
    affinity[owner, np.arange(len(CLASSES))] += skill
    return {
        "methods": {name: spread(values) for name, values in per_client.items()},
        "clients": [
            {
                "client_id": NUM_CLIENTS + i,
                "experts": sorted(int(e) for e in rng.choice(num_experts, min(2, num_experts), replace=False)),
                "examples": 400,
                **{name: float(values[i]) for name, values in per_client.items()},
            }
            for i in range(NUM_UNSEEN)
        ],
        "affinity": affinity.tolist(),
        "expert_class_accuracy": np.clip(affinity * 0.9, 0, 1).tolist(),
        "routing_entropy": float(np.log(num_experts) * (1 - 0.8 * skill)),
        "dispatch": affinity.mean(axis=1).tolist(),
        "dead_experts": [],
        "routing_stability": float(skill),
    }


def fake_round(
    rng: np.random.Generator, strategy: str, r: int, num_rounds: int, num_experts: int, every: int, dead: int | None
) -> dict[str, Any]:
    skill = 1 - np.exp(-3 * r / num_rounds)
    anchors = min(5, num_experts) if num_experts > 1 else 0
    normal = rng.choice(np.arange(num_experts, NUM_CLIENTS), PER_ROUND - anchors, replace=False)
    alive = [e for e in range(num_experts) if e != dead]
    assignment = {str(a): [a] for a in rng.choice(num_experts, anchors, replace=False) if a != dead}
    for client in normal:
        near = [e for e in {int(client) % num_experts, (int(client) * 7 + 1) % num_experts} if e != dead]
        assignment[str(client)] = sorted(near if near and rng.random() < skill else {int(rng.choice(alive))})
    load = [sum(e in held for held in assignment.values()) for e in range(num_experts)]
    failures = [{"stage": "train", "client": 17, "round": r, "error": "ValueError: loss is nan"}] if r == 3 else []
    return {
        "round": r,
        "strategy": strategy,
        "clients": [int(c) for c in assignment],
        "assignment": assignment,
        "completed": len(assignment) - len(failures),
        "failures": failures,
        "train": {"loss": float(2.3 * (1 - 0.85 * skill)), "examples": 4000},
        "rankings": {c: rng.dirichlet(np.ones(num_experts)).tolist() for c in assignment},
        "load": load,
        "bytes": {"down": 312_000 * sum(load), "up": 312_000 * sum(load), "by_expert": [624_000 * n for n in load]},
        "evaluate": fake_evaluation(rng, skill, num_experts, 0.1 if strategy == "fedjets" else 0.0)
        if r % every == 0 or r == num_rounds
        else None,
        "seconds": {"round": 1.2, "evaluate": 0.3, "personalise": 0.0123},
    }


def fake_rounds(
    strategy: str = "fedjets", num_rounds: int = 40, num_experts: int = 5, every: int = 5, dead: int | None = None
) -> list[dict[str, Any]]:
    rng = np.random.default_rng([7, len(strategy)])
    return [fake_round(rng, strategy, r, num_rounds, num_experts, every, dead) for r in range(1, num_rounds + 1)]


def fake_summary(run: RunFolder, methods: Mapping[str, list[dict[str, Any]]], stand_in: bool) -> dict[str, Any]:
    main = next(iter(methods))
    last = {name: rounds[-1]["evaluate"]["methods"] for name, rounds in methods.items()}
    common = {name: spread(np.full(NUM_UNSEEN, value)) for name, value in {"plain": 0.61, "em": 0.7}.items()}
    unseen = {f"accuracy_{key}": value for key, value in last[main]["zero_shot"].items()}
    return {
        "simulation": "cifar10",
        "strategy": main,
        "dataset": {
            "name": "clusters" if stand_in else "cifar10",
            "real": not stand_in,
            "fingerprint": "5f3c" * 8,
            "stand_in_for": "cifar10" if stand_in else None,
            "classes": len(CLASSES),
            "train": 50_000,
            "test": 10_000,
        },
        "partition": {"name": "random-labels", "hash": "ab12" * 8},
        "seed": 0,
        "rounds": len(methods[main]),
        "unseen": {"clients": NUM_UNSEEN, **unseen, "mixture_mean": 0.9, "common_expert_mean": 0.61},
        "methods": {**last, "common expert": common},
        "bytes": {
            "once": 5_000_000,
            **{way: sum(line["bytes"][way] for line in methods[main]) for way in ("down", "up")},
            "by_method": {
                name: {way: sum(line["bytes"][way] for line in rounds) for way in ("down", "up")}
                for name, rounds in methods.items()
            },
        },
        "seconds": {"total": 123.4, "round_median": 1.2, "personalise": dict.fromkeys(methods, 0.0123)},
        "cold_start": {"common expert": {n: {"plain": spread(np.full(9, 0.5))} for n in ("1", "10")}},
        "routing": {
            name: {"dead_experts": [3], "untrained_experts": [], "routing_stability": 0.875, "specialisation": 0.5}
            for name, rounds in methods.items()
            if len(rounds[-1]["load"]) > 1
        },
        "failures": sum(len(line["failures"]) for line in methods[main]),
        "notes": ["The common expert reached 61.0 % on held-out public samples."],
        "run_folder": str(run.path),
    }


def fake_header(run: RunFolder, stand_in: bool = False) -> dict[str, Any]:
    rounds = fake_rounds(num_rounds=1, every=1)
    summary = fake_summary(run, {"fedjets": rounds}, stand_in)
    return {key: summary[key] for key in ("simulation", "strategy", "dataset", "seed", "notes", "run_folder")} | {
        "baselines": ["fedavg"],
        "partition": "random-labels",
        "clients": {"num": NUM_CLIENTS, "per_round": PER_ROUND, "anchors_per_round": 5, "unseen": NUM_UNSEEN},
        "experts": {"num": 5, "top_k": 2, "model": "cnn", "parameters": 78_042},
        "gate": "mlp",
        "device": "cpu",
        "rounds": 40,
    }


def fake_partition() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    counts = np.zeros((NUM_CLIENTS + NUM_UNSEEN, len(CLASSES)), dtype=int)
    for client, row in enumerate(counts):
        labels = [2 * client, 2 * client + 1] if client < 5 else rng.choice(len(CLASSES), 4, replace=False)
        row[labels] = rng.integers(40, 160, len(labels))
    return {
        "name": "random-labels",
        "hash": "ab12" * 8,
        "classes": CLASSES,
        "counts": counts.tolist(),
        "num_training": NUM_CLIENTS,
        "anchors": {str(e): e for e in range(5)},
    }


def fake_settings(**flat: Any) -> Settings:
    return from_flat({"simulation": "cifar10", "clients.num": NUM_CLIENTS, "data.name": "cifar10"} | flat)


def fake_run(
    output_dir: Path,
    num_rounds: int = 40,
    num_experts: int = 5,
    every: int = 5,
    dead: int | None = None,
    stand_in: bool = False,
    finished: bool = True,
    baselines: tuple[str, ...] = ("fedavg", "fedprox"),
) -> RunFolder:
    """Returns a run folder with all that a run writes; `finished=False` leaves it as a killed run would."""
    main = "fedjets" if num_experts > 1 else "fedavg"
    run = create_run_folder(output_dir, "cifar10", main, 0)
    run.write_settings(fake_settings(**{"strategy.name": main, "evaluate.baselines": ",".join(baselines)}))
    run.write_environment(describe_environment({"device": "cpu"}))
    run.write_partition(fake_partition())
    methods = {main: fake_rounds(main, num_rounds, num_experts, every, dead)}
    methods |= {name: fake_rounds(name, num_rounds, 1, every) for name in baselines}
    for name, rounds in methods.items():
        folder = run.method(MAIN if name == main else name)
        folder.path.mkdir(parents=True, exist_ok=True)
        for line in rounds:
            append_round(folder.path, line)
    if finished:
        run.write_summary(fake_summary(run, methods, stand_in))
        last = methods[main][-1]["evaluate"]["clients"]
        run.write_clients(["client_id", "experts"], ({key: c[key] for key in ("client_id", "experts")} for c in last))
    return run
