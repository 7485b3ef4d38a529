"""Canonical gates in a federated run: FedJETs on the digits with a linear gate, and gates averaged or their median.

`python -m benchmarks.theory.canonical_gates --output DIR`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import federated_run, summary_of

__all__ = ["EXPERIMENT", "ROWS"]

ROUNDS = 20
ADAM: Mapping[str, Any] = {
    "train.optimiser": "adamw",
    "train.learning-rate": 0.003,
    "train.gate-learning-rate": 0.003,
}
ROWS: Mapping[str, Mapping[str, Any]] = {
    f"{name}, {gates}, {'canonical' if form else 'as trained'}": {
        **given,
        "strategy.canonical.gates": gates,
        "strategy.canonical.form": form,
    }
    for name, given in (("SGD", {}), ("AdamW", ADAM))
    for gates in (("mean",) if name == "SGD" else ("mean", "median"))
    for form in (False, True)
}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracies on unseen clients, percent."""
    given = {"seed": seed, "strategy.name": "canonical", "gate.name": "softmax", "train.trainer": "stacked"}
    with federated_run({**given, **ROWS[row]}, 3 if small else ROUNDS) as run:
        told = summary_of(run)
    return {"zero_shot": 100 * told["unseen"]["accuracy_mean"], "mixture": 100 * told["unseen"]["mixture_mean"]}


def draw(results: Results, figure: Figure) -> None:
    """Draws the accuracy of each row, seed by seed."""
    axes = figure.subplots()
    for place, (row, runs) in enumerate(results.items()):
        colour = "tab:blue" if "canonical" in row else "tab:orange"
        values = [run["zero_shot"] for run in runs]
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.5)
        axes.plot(np.mean(values), place, "|", color=colour, markersize=18)
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on unseen clients, % (a point a seed, a line at the mean)")


EXPERIMENT = Experiment(
    name="canonical_gates",
    title="Clients' optimiser, merge of gates, form",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={"zero_shot": "best expert, %", "mixture": "mixture, %"},
    digits={"zero_shot": 1, "mixture": 1},
)

if __name__ == "__main__":
    main(EXPERIMENT)
