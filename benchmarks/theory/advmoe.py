"""AdvMoE (arXiv 2308.10110) federated: accuracy under attack of plain, joint and alternating adversarial training.

The strategy `advmoe` on FedJETs' mechanism, with small convolutional experts and a router that reads the image, on the
quickstart's digits (with a weighted mean of experts, with one expert a sample, and with experts that are channel groups
of one network) and on Fashion-MNIST; unseen clients are attacked by PGD-10 within the same eps as in training.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import evaluation_of, federated_run, summary_of

__all__ = ["EXPERIMENT", "FEW", "ROWS", "settings_of"]

EPS = 0.1  # of a pixel's range
FASHION_SEEDS = (1, 2, 3)  # run on Fashion-MNIST too; it was looked at with others
ROUNDS = {"digits": 60, "Fashion-MNIST": 40}
FEW = {"evaluate.samples": 20, "strategy.advmoe.warm": 1}  # where three rounds are all
WEIGHTS = {"strategy.advmoe.beta": 3.0, "strategy.advmoe.routing": 3.0, "strategy.advmoe.warm": 20}
TRAINING: Mapping[str, Mapping[str, Any]] = {
    "plain": {"strategy.advmoe.training": "plain"},
    "joint, output alone": {"strategy.advmoe.training": "joint", **WEIGHTS, "strategy.advmoe.routing": 0.0},
    "joint": {"strategy.advmoe.training": "joint", **WEIGHTS},
    "joint, twice the epochs": {"strategy.advmoe.training": "joint", "train.epochs": 2, **WEIGHTS},
    "alternating": {"strategy.advmoe.training": "alternating", **WEIGHTS},
}
DATA: Mapping[str, Mapping[str, Any]] = {
    "digits": {},
    "digits, hard": {"gate.conv_router.hard": True},
    "digits, channel groups": {"experts.model": "channel_group"},
    "Fashion-MNIST": {
        "data.name": "fashion_mnist",
        "data.public-samples": 500,
        "clients.samples": 64,
        "evaluate.samples": 60,
        "experts.width": 4,
        "train.gate-learning-rate": 0.05,
    },
}
ALL: Mapping[str, Any] = {
    "strategy.name": "advmoe",
    "strategy.advmoe.eps": EPS,
    "experts.model": "cnn",
    "experts.width": 8,
    "common-expert.model": "mlp",
    "train.trainer": "stacked",
    "train.batch-size": 32,
    "train.gate-learning-rate": 0.2,
    "evaluate.samples": 120,
    "evaluate.attack-eps": EPS,
}
ROWS = tuple(f"{data}: {training}" for data in DATA for training in TRAINING if data == "digits" or "," not in training)


def settings_of(row: str, seed: int) -> dict[str, Any]:
    """Returns what a row sets over the quickstart's own settings."""
    data, training = row.split(": ")
    milder = {} if data.startswith("digits") else {"strategy.advmoe.beta": 1.0, "strategy.advmoe.routing": 1.0}
    return {**ALL, **DATA[data], **TRAINING[training], **milder, "seed": seed}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracy of unseen clients, clean and attacked, and the share of samples routed anew, percent."""
    data = row.split(": ")[0]
    if data == "Fashion-MNIST" and seed not in FASHION_SEEDS:
        return {}
    rounds = 3 if small else ROUNDS[data.split(",")[0]]
    with federated_run(settings_of(row, seed) | (FEW if small else {}), rounds) as run:
        found, megabytes = evaluation_of(run), sum(summary_of(run)["bytes"][way] for way in ("down", "up")) / 1e6
    robust = found["robust"]
    return {
        "zero_shot": 100 * found["methods"]["zero_shot"]["mean"],
        "mixture": 100 * found["methods"]["mixture"]["mean"],
        "robust": 100 * robust["zero_shot"]["mean"],
        "robust_mixture": 100 * robust["mixture"]["mean"],
        "flips": 100 * robust["flips"]["mean"],
        "dead": len(found["dead_experts"]),
        "megabytes": megabytes,
    }


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracy under attack over clean accuracy, a panel a data set, and below it the share of flips."""
    above, below = figure.subplots(2, len(DATA), height_ratios=(3, 1))
    for data, both, flips in zip(DATA, above, below, strict=True):
        for place, training in enumerate(TRAINING):
            runs = [run for run in results.get(f"{data}: {training}", ()) if run]
            if not runs:
                continue
            deviation = {name: np.std([run[name] for run in runs], ddof=min(1, len(runs) - 1)) for name in runs[0]}
            means = {name: np.mean([run[name] for run in runs]) for name in runs[0]}
            both.errorbar(
                means["zero_shot"],
                means["robust"],
                xerr=deviation["zero_shot"],
                yerr=deviation["robust"],
                fmt="oPs^D"[place],
                label=training,
                color=f"C{place}",
            )
            flips.bar(place, means["flips"], yerr=deviation["flips"], color=f"C{place}")
        both.set_title(data, fontsize=9)
        both.set_xlabel("clean accuracy, %")
        both.grid(alpha=0.3)
        flips.set_xticks([])
    above[0].set_ylabel("under PGD-10, %")
    below[0].set_ylabel("routed anew, %")
    handles = above[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(TRAINING), frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    name="advmoe",
    title="Data and training",
    rows=ROWS,
    measure=measure,
    draw=draw,
    columns={
        "zero_shot": "best expert, %",
        "robust": "under PGD-10, %",
        "mixture": "mixture, %",
        "robust_mixture": "mixture under PGD-10, %",
        "flips": "routed anew, %",
    },
    digits={"zero_shot": 1, "mixture": 1, "robust": 1, "robust_mixture": 1, "flips": 1},
)

if __name__ == "__main__":
    main(EXPERIMENT)
