"""AdaMoLE (arXiv 2405.00361) federated: low-rank experts, and as many of them for a sample as reach a learnt threshold.

FedJETs on the digits; all five experts are held, as all of a layer's are in the paper. Rows differ in what experts are,
and in the largest threshold tau_max, told as a multiple of 1/M.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import dealt, federated_run, summary_of

__all__ = ["EXPERIMENT", "ROWS"]

EXPERTS, ROUNDS = 5, 40
LOW: Mapping[str, Any] = {"experts.model": "low_rank", "common-expert.model": "mlp"}
THRESHOLDS = {"1/(2M)": 0.5, "1/M": 1.0, "3/(2M)": 1.5, "2/M": 2.0, "1": float(EXPERTS)}


def threshold(largest: float) -> dict[str, Any]:
    """Returns the settings of the gate with this largest threshold, times M."""
    return {"gate.name": "adaptive_threshold", "gate.adaptive_threshold.largest": largest}


ROWS: Mapping[str, Mapping[str, Any]] = {
    "whole experts, gate `mlp`": {},
    "low rank, gate `mlp`": LOW,
    "whole experts, threshold up to 1/M": threshold(1.0),
    **{f"low rank, threshold up to {name}": {**LOW, **threshold(value)} for name, value in THRESHOLDS.items()},
}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracies on unseen clients (percent), experts that are active for a sample, and the traffic."""
    with federated_run({"seed": seed, "experts.top-k": EXPERTS, **ROWS[row]}, 4 if small else ROUNDS) as run:
        told, weights = summary_of(run), dealt(run)
    return {
        "zero_shot": 100 * told["unseen"]["accuracy_mean"],
        "mixture": 100 * told["unseen"]["mixture_mean"],
        "common": 100 * told["unseen"]["common_expert_mean"],
        "megabytes": (told["bytes"]["down"] + told["bytes"]["up"]) / 1e6,
        "once": told["bytes"]["once"] / 1e6,
        **weights,
    }


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracy over traffic, and accuracy and active experts over the largest threshold."""
    left, right = figure.subplots(1, 2)
    for row in [*list(ROWS)[:2], "low rank, threshold up to 1/M"]:
        runs, label = results[row], row.replace("`", "")
        left.errorbar(
            np.mean([run["megabytes"] for run in runs]),
            np.mean([run["mixture"] for run in runs]),
            yerr=np.std([run["mixture"] for run in runs], ddof=min(1, len(runs) - 1)),
            fmt="o",
            label=label,
        )
    common = np.mean([run["common"] for runs in results.values() for run in runs])
    left.axhline(common, color="0.6", ls="--", lw=1, label="common expert alone")
    left.set_xlim(left=0)
    left.set_xlabel("MB sent in the whole run")
    left.set_ylabel("mixture on unseen clients, %")
    left.legend(frameon=False, fontsize=8, loc="lower left")
    rows = [results[f"low rank, threshold up to {name}"] for name in THRESHOLDS]
    places = list(THRESHOLDS.values())
    right.plot(places, [np.mean([run["active"] for run in runs]) for runs in rows], "o-", color="C3")
    right.set_ylabel("active experts a sample", color="C3")
    right.set_ylim(bottom=0)
    right.set_xlabel("largest threshold times M")
    beside = right.twinx()
    beside.plot(places, [np.mean([run["mixture"] for run in runs]) for runs in rows], "s-", color="C0")
    beside.set_ylabel("mixture on unseen clients, %", color="C0")


EXPERIMENT = Experiment(
    name="adamole",
    title="Experts and gate",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "zero_shot": "best expert, %",
        "mixture": "mixture, %",
        "active": "active of 5",
        "by_common": "by the common expert, %",
        "megabytes": "MB",
    },
    digits={"zero_shot": 1, "mixture": 1, "by_common": 1, "megabytes": 1},
)

if __name__ == "__main__":
    main(EXPERIMENT)
