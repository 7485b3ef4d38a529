"""Every gate by its name in one short federated run each: FedJETs on the digits, 20 rounds, K = 3 of M = 5 experts.

Gates are found by `known_names`, so that a new file is a new row. Those whose weights come with a strategy of their own
are left out. Three rows more add a balance loss to the gate `mlp`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import dealt, federated_run, summary_of
from fedmoe.moe.construction import gate_class
from fedmoe.references import known_names

__all__ = ["EXPERIMENT", "ROWS", "settings_of"]

BALANCE = ("importance", "load", "switch")
STRENGTH = 1.0
ROUNDS = 20

ROWS: Mapping[str, Mapping[str, Any]] = {
    name: {"gate.name": name} for name in known_names("fedmoe.moe.gates") if not gate_class(name).set_by_strategy
} | {
    f"mlp + {loss}": {
        "gate.name": "mlp",
        "strategy.fedjets.balance": loss,
        "strategy.fedjets.balance-weight": STRENGTH,
    }
    for loss in BALANCE
}


def settings_of(row: str, seed: int) -> dict[str, Any]:
    """Returns what a row sets over the quickstart's own settings; K is 3, so that there is something to choose from."""
    return {"seed": seed, "experts.top-k": 3, "evaluate.ema": 0.0, **ROWS[row]}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns how a run ended on clients that it never saw, percent, and how its gate dealt samples out."""
    with federated_run(settings_of(row, seed), 2 if small else ROUNDS) as run:
        by_images = gate_class(row.split(" + ")[0]).reads in ("embedding", "image")
        told, shares = summary_of(run), dealt(run) if by_images else {}
    unseen, routing = told["unseen"], told["routing"]["fedjets"]
    return {
        "zero_shot": 100 * unseen["accuracy_mean"],
        "mixture": 100 * unseen["mixture_mean"],
        "common": 100 * unseen["common_expert_mean"],
        "dispatch_entropy": routing["dispatch_entropy"],
        "routing_entropy": routing["routing_entropy"],
        "dead": len(routing["dead_experts"]),
        **{name: shares[name] for name in ("active", "by_common") if name in shares},
    }


def draw(results: Results, figure: Figure) -> None:
    """Draws each gate's accuracy, best last, beside how evenly it deals samples out."""
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    rows = sorted(results, key=lambda row: np.mean([run["zero_shot"] for run in results[row]]))
    places = np.arange(len(rows))
    for panel, name, colour, shift, label in (
        (left, "mixture", "C1", -0.17, "mixture of held experts"),
        (left, "zero_shot", "C0", 0.17, "best held expert"),
        (right, "dispatch_entropy", "C2", 0.0, "of the experts' shares of samples"),
    ):
        runs = np.array([[run[name] for run in results[row]] for row in rows])
        spread = runs.std(axis=1, ddof=min(1, runs.shape[1] - 1))
        panel.errorbar(runs.mean(axis=1), places + shift, xerr=spread, fmt="o", color=colour, label=label, markersize=4)
    common = np.mean([run["common"] for runs in results.values() for run in runs])
    left.axvline(common, color="0.5", linestyle="--", linewidth=1, label="common expert alone")
    right.axvline(np.log(5), color="0.5", linestyle=":", linewidth=1, label="five alike")
    left.set_yticks(places, rows)
    left.set_xlabel("accuracy on unseen clients, %")
    right.set_xlabel("entropy of the load, nats")
    for panel in (left, right):
        panel.grid(axis="x", alpha=0.3)
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=7)


EXPERIMENT = Experiment(
    name="gates",
    title="Gate",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "zero_shot": "unseen, best held expert, %",
        "mixture": "unseen, mixture, %",
        "dispatch_entropy": "entropy of the load, nats",
        "routing_entropy": "gate's entropy, nats",
        "dead": "dead experts",
        "active": "experts of a sample",
        "by_common": "by the common expert, %",
    },
    digits={"zero_shot": 1, "mixture": 1, "dead": 1, "by_common": 1},
)

if __name__ == "__main__":
    main(EXPERIMENT)
