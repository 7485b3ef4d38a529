"""An L1 penalty in a federated run: bytes saved against accuracy, over FedJETs and FedPrints, on the digits.

`python -m benchmarks.theory.lasso_federated --output DIR`.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import federated_run, summary_of

__all__ = ["EXPERIMENT", "ROWS"]

ROUNDS = 40
OURS: Mapping[str, Any] = {"train.logit-adjustment": True}
OVER: Mapping[str, Mapping[str, Any]] = {"fedjets": {}, "fedprints": OURS}
STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "fedjets": (0.0, 0.01, 0.03),
    "fedprints": (0.0, 0.002, 0.005),
}
ROWS: Mapping[str, Mapping[str, Any]] = {
    **{
        f"`{over}`, lambda {strength:g}": {**given, "strategy.lasso.over": over, "strategy.lasso.strength": strength}
        for over, given in OVER.items()
        for strength in STRENGTHS[over]
    },
    "`fedjets`, lambda 0.03, the gate's too": {
        "strategy.lasso.over": "fedjets",
        "strategy.lasso.strength": 0.03,
        "strategy.lasso.gate-strength": 1.0,
    },
    "`fedjets`, lambda 0.03, clients alone": {
        "strategy.lasso.over": "fedjets",
        "strategy.lasso.strength": 0.03,
        "strategy.lasso.server": 0.0,
    },
}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracies on unseen clients (percent), the traffic of all rounds, and of the last one."""
    with federated_run(
        {"seed": seed, "strategy.name": "lasso", "train.trainer": "stacked", **ROWS[row]}, 4 if small else ROUNDS
    ) as run:
        told = summary_of(run)
        lines = [json.loads(text) for text in (run / "rounds.jsonl").read_text().splitlines()]
    best = told["methods"]["lasso"]["zero_shot_em" if "train.logit-adjustment" in ROWS[row] else "zero_shot"]["mean"]
    return {
        "zero_shot": 100 * best,
        "mixture": 100 * told["unseen"]["mixture_mean"],
        "megabytes": (told["bytes"]["down"] + told["bytes"]["up"]) / 1e6,
        "down": lines[-1]["bytes"]["down"] / 1e3,
        "up": lines[-1]["bytes"]["up"] / 1e3,
    }


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracy over traffic, a line for each strategy below, a point for each strength."""
    left, right = figure.subplots(1, 2)
    for colour, over in zip(("C0", "C3"), OVER, strict=True):
        rows = [results[f"`{over}`, lambda {strength:g}"] for strength in STRENGTHS[over]]
        share = [np.mean([a["megabytes"] / b["megabytes"] for a, b in zip(own, rows[0], strict=True)]) for own in rows]
        means = [np.mean([run["zero_shot"] for run in own]) for own in rows]
        spread = [np.std([run["zero_shot"] for run in own], ddof=min(1, len(own) - 1)) for own in rows]
        left.errorbar(100 * np.array(share), means, yerr=spread, fmt="o-", color=colour, label=over, capsize=2)
        last = [
            np.mean([(a["up"] + a["down"]) / (b["up"] + b["down"]) for a, b in zip(own, rows[0], strict=True)])
            for own in rows
        ]
        right.plot(STRENGTHS[over], 100 * np.array(share), "o-", color=colour, label=f"{over}, whole run")
        right.plot(
            STRENGTHS[over], 100 * np.array(last), "s--", color=colour, label=f"{over}, last round", markersize=4
        )
    left.set_xlabel("bytes of the whole run, % of those without a penalty")
    left.set_ylabel("accuracy on unseen clients, %")
    left.legend(frameon=False, fontsize=8)
    right.set_xlabel("lambda")
    right.set_ylabel("bytes, % of those without a penalty")
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=7)


EXPERIMENT = Experiment(
    name="lasso_federated",
    title="Strategy and strength",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "zero_shot": "best expert, %",
        "mixture": "mixture, %",
        "megabytes": "MB",
        "down": "last round down, kB",
        "up": "last round up, kB",
    },
    digits=dict.fromkeys(("zero_shot", "mixture", "megabytes", "down", "up"), 1),
)

if __name__ == "__main__":
    main(EXPERIMENT)
