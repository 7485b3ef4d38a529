"""Chen et al.'s data and parts in federated runs: clients hold one cluster each; does the gate find the clusters?

Everything is fedmoe's own: data `clusters_patch`, common expert `patch_sum` (silent), experts `patch_cubic` and
`patch_linear`, gate `noisy_top1`, normalised gradients, strategy `fedjets` with mixed logits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import federated_run, summary_of
from benchmarks.theory.patch_pool import dispatch_entropy
from fedmoe.data.patch_law import directions
from fedmoe.errors import RoundError
from fedmoe.personal import Personalizer

__all__ = ["EXPERIMENT", "found_centres"]

ROUNDS = 40
SHARED: Mapping[str, Any] = {
    "data.name": "clusters_patch",
    "data.public-samples": 1000,
    "clients.num": 40,
    "clients.per-round": 20,
    "clients.partition": "domain",
    "clients.unseen": 8,
    "clients.anchors-per-round": 0,
    "common-expert.model": "patch_sum",
    "common-expert.epochs": 0,
    "experts.patch_sum.silent": True,
    "experts.model": "patch_cubic",
    "experts.num": 8,
    "experts.top-k": 8,
    "gate.name": "noisy_top1",
    "train.optimiser": "normalised",
    "train.batch-size": 64,
    "train.learning-rate": 0.02,
    "train.momentum": 0.0,
    "train.gate-learning-rate": 0.1,
    "train.gate-momentum": 0.0,
    "train.trainer": "stacked",
    "strategy.fedjets.output": "logit",
    "evaluate.ema": 0.0,
}
ONE = {"strategy.name": "fedavg", "strategy.fedavg.init": "random", "experts.num": 1, "experts.top-k": 1}
ANCHORS = {"clients.anchors-per-round": 4, "experts.num": 4, "experts.top-k": 2}
LINEAR = {"experts.model": "patch_linear"}
LARGE = {"experts.patch_cubic.start": 1.0, "experts.patch_linear.start": 1.0}
PLAIN = {"train.optimiser": "sgd", "train.learning-rate": 0.05}
ROWS: Mapping[str, Mapping[str, Any]] = {
    "FedAvg, one linear": {**ONE, **LINEAR},
    "FedAvg, one cubic": ONE,
    "4 anchors, K = 2 of 4, linear": {**ANCHORS, **LINEAR},
    "4 anchors, K = 2 of 4, cubic": ANCHORS,
    "K = 2 of 8, linear": {**LARGE, **LINEAR, "experts.top-k": 2},
    "K = 2 of 8, cubic": {**LARGE, "experts.top-k": 2},
    "all 8, linear": {**LARGE, **LINEAR},
    "all 8, cubic": LARGE,
    "all 8, cubic, plain gradients": {**LARGE, **PLAIN},
    "all 8, cubic, the paper's start": {},
}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracy on unseen clients (percent), dispatch entropy (nats) and how well the gate has found centres.

    Of a run whose weights diverge, only that.
    """
    try:
        with federated_run({**SHARED, **ROWS[row], "seed": seed}, 10 if small else ROUNDS) as run:
            told = summary_of(run)["unseen"]
            if row.startswith("FedAvg"):
                return {"accuracy": 100 * told["accuracy_mean"], "diverged": 0.0}
            cluster_N, expert_N, theta_MD = routed(run)
    except RoundError:
        return {"diverged": 100.0}
    return {
        "diverged": 0.0,
        "accuracy": 100 * told["mixture_mean"],
        "entropy": dispatch_entropy(torch.from_numpy(cluster_N), torch.from_numpy(expert_N)),
        "cosine": found_centres(theta_MD, directions(seed)[1], cluster_N, expert_N),
    }


def routed(run: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Returns the cluster and the expert of each sample of the unseen clients, and the gate's theta_MD."""
    personalizer = Personalizer(run)
    trained = personalizer.trained
    population = trained.preparation.population
    clusters, experts = [], []
    for number, client_id in enumerate(population.unseen):
        served = personalizer.client(number)
        experts.append(np.array(served.experts)[served.weights.argmax(axis=1)])
        home = int(population.domain_N[population.shards[client_id][0]])
        clusters.append(np.full(len(experts[-1]), home))
    theta_MD = trained.checkpoint.read(trained.part("gate")).reshape(trained.num_experts, -1)
    return np.concatenate(clusters), np.concatenate(experts), theta_MD


def found_centres(
    theta_MD: NDArray[Any], centres_KD: NDArray[Any], cluster_N: NDArray[np.int64], expert_N: NDArray[np.int64]
) -> float:
    """Returns the mean over clusters of the cosine between a cluster's centre and the gate's column of its expert.

    Its expert is the one that gets most of its samples. What is the same for all experts, or for all clusters, changes
    no choice: columns and centres are taken less their means. 1: the gate has found all centres.
    """
    columns, centres = theta_MD - theta_MD.mean(axis=0), centres_KD - centres_KD.mean(axis=0)
    cosines = []
    for cluster, centre in enumerate(centres):
        column = columns[np.bincount(expert_N[cluster_N == cluster]).argmax()]
        cosines.append(column @ centre / max(float(np.linalg.norm(column) * np.linalg.norm(centre)), 1e-12))
    return float(np.mean(cosines))


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracy, entropy and cosine, a dot a seed."""
    panels = figure.subplots(1, 3, sharey=True)
    names = {"accuracy": "accuracy on unseen clients, %", "entropy": "dispatch entropy, nats", "cosine": "cosine"}
    rows = list(results)[::-1]
    for panel, (name, label) in zip(panels, names.items(), strict=True):
        for height, row in enumerate(rows):
            values = [run[name] for run in results[row] if name in run]
            colour = "tab:blue" if "linear" in row else "tab:orange"
            panel.plot(values, [height] * len(values), "o", color=colour, alpha=0.5, markersize=5, markeredgewidth=0)
        panel.set_xlabel(label if name != "cosine" else "cosine of gate and centres")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), rows)


EXPERIMENT = Experiment(
    name="chen_federated",
    title="Clients of one cluster each",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "accuracy": "accuracy on unseen clients, %",
        "entropy": "dispatch entropy, nats",
        "cosine": "cosine of gate and centres",
        "diverged": "runs that diverged, %",
    },
    digits={"diverged": 0, "accuracy": 2, "entropy": 3, "cosine": 3},
)

if __name__ == "__main__":
    main(EXPERIMENT)
