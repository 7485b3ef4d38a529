"""A rectified gate (after ReLA, arXiv 2104.07012) federated: exact zeros, and samples that no expert answers.

FedJETs on the digits; all five experts are held. Experts are whole ones, from random weights, which are worse than the
common expert for long, or low-rank ones, which start as the common expert.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import dealt, federated_run, summary_of

__all__ = ["EXPERIMENT", "ROWS"]

EXPERTS, ROUNDS = 5, 40
KINDS: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "low rank": {"experts.model": "low_rank", "common-expert.model": "mlp"},
}
GATES: Mapping[str, Mapping[str, Any]] = {
    "softmax (`mlp`)": {"gate.name": "mlp"},
    "`relu`, bias 1": {"gate.name": "relu", "gate.relu.bias": 1.0},
    "`relu`, bias 0": {"gate.name": "relu", "gate.relu.bias": 0.0},
    "`relu`, bias 1, common expert 1": {"gate.name": "relu", "gate.relu.bias": 1.0, "gate.relu.common": 1.0},
}
ROWS: Mapping[str, Mapping[str, Any]] = {
    f"{kind} experts, {gate}": {**own, **settings} for kind, own in KINDS.items() for gate, settings in GATES.items()
}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracies on unseen clients and shares of zero weights, empty rows, common answers, all in percent."""
    with federated_run({"seed": seed, "experts.top-k": EXPERTS, **ROWS[row]}, 4 if small else ROUNDS) as run:
        told, weights = summary_of(run)["unseen"], dealt(run)
    return {
        "zero_shot": 100 * told["accuracy_mean"],
        "mixture": 100 * told["mixture_mean"],
        "common": 100 * told["common_expert_mean"],
        **weights,
    }


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracies, and shares of zeros and of empty rows."""
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(results))[::-1]
    for panel, name, colour, marker, label in (
        (left, "zero_shot", "C0", "o", "best expert"),
        (left, "mixture", "C1", "D", "mixture"),
        (right, "zeros", "C2", "o", "weights that are 0"),
        (right, "empty", "C3", "s", "samples without any expert"),
        (right, "by_common", "C4", "D", "samples that the common expert answers"),
    ):
        runs = np.array([[run[name] for run in own] for own in results.values()])
        spread = runs.std(axis=1, ddof=min(1, runs.shape[1] - 1))
        panel.errorbar(runs.mean(axis=1), places, xerr=spread, fmt=marker, color=colour, label=label, markersize=5)
    common = np.mean([run["common"] for runs in results.values() for run in runs])
    left.axvline(common, color="0.5", linestyle="--", linewidth=1, label="common expert")
    left.set_yticks(places, [row.replace("`", "") for row in results])
    left.set_xlabel("accuracy on unseen clients, %")
    right.set_xlabel("share, %")
    lines: list[tuple[Any, Any]] = []
    for panel in (left, right):
        panel.grid(axis="x", alpha=0.3)
        lines += zip(*panel.get_legend_handles_labels(), strict=True)
    handles, labels = zip(*lines, strict=True)
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    name="relu_gate",
    title="Experts, gate",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "zero_shot": "best expert, %",
        "mixture": "mixture, %",
        "zeros": "weights that are 0, %",
        "empty": "samples without any expert, %",
        "by_common": "answered by the common expert, %",
    },
    digits=dict.fromkeys(("zero_shot", "mixture", "zeros", "empty", "by_common"), 1),
)

if __name__ == "__main__":
    main(EXPERIMENT)
