"""TaskMoE (arXiv 2204.07689) federated: digits whose labels mean something else in each of three groups of clients.

Groups look alike, or each turns its pictures its own way. Dense, shared gate, a head for each client, a head for each
group: as many parameters and rounds, the same clients.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.experiment import Experiment, Figures, Results, main
from benchmarks.theory.federated import federated_run, summary_of

__all__ = ["EXPERIMENT", "ROWS"]

ROUNDS, EXPERTS = 150, 4
LOOKS: Mapping[str, str] = {"alike": "identity,identity,identity", "differ": "identity,rotate90,rotate180"}
ALWAYS: Mapping[str, Any] = {
    "clients.partition": "domain",
    "clients.permute-labels": True,
    "clients.anchors-per-round": 0,
    "clients.unseen": 9,
    "experts.num": EXPERTS,
    "evaluate.seen": 30,
    "common-expert.model": "mlp",
}
ROWS: Mapping[str, Mapping[str, Any]] = {
    "`fedavg`, one network of the pool's size": {
        "strategy.name": "fedavg",
        "experts.width": 128 * EXPERTS,
        "strategy.fedavg.init": "random",
    },
    "`ditto`, likewise": {
        "strategy.name": "ditto",
        "experts.width": 128 * EXPERTS,
        "strategy.ditto.init": "random",
    },
    "`fedmix`, shared gate": {"strategy.name": "fedmix"},
    "`taskmoe`, a head a client": {"strategy.name": "taskmoe"},
    "`taskmoe`, a head a task": {"strategy.name": "taskmoe", "strategy.taskmoe.heads": "task"},
    "`taskmoe`, the same, unseen clients tell their task": {
        "strategy.name": "taskmoe",
        "strategy.taskmoe.heads": "task",
        "strategy.taskmoe.told": True,
    },
}


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracies (percent) of training and of unseen clients where groups look alike and where they differ."""
    figures: dict[str, float] = {}
    for look, domains in LOOKS.items():
        given = {"seed": seed, **ALWAYS, "clients.domains": domains, **ROWS[row]}
        with federated_run(given, 30 if small else ROUNDS) as run:
            told = summary_of(run)
        name = ROWS[row]["strategy.name"]
        figures[f"{look}/seen"] = 100 * told["seen"][name]["zero_shot"]["mean"]
        figures[f"{look}/unseen"] = 100 * told["unseen"]["accuracy_mean"]
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws accuracies of training and unseen clients, groups that look alike on the left."""
    panels = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(results))[::-1]
    for panel, look, title in zip(panels, LOOKS, ("groups look alike", "each group turns its pictures"), strict=True):
        for number, (kind, label) in enumerate((("seen", "training clients"), ("unseen", "unseen clients"))):
            found = np.array([[run[f"{look}/{kind}"] for run in runs] for runs in results.values()])
            spread = found.std(axis=1, ddof=min(1, found.shape[1] - 1))
            marks = {"fmt": "oD"[number], "color": f"C{number}", "markersize": 5, "label": label}
            panel.errorbar(found.mean(axis=1), places - 0.15 * number, xerr=spread, **marks)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("accuracy on test samples, %")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(places, [row.replace("`", "") for row in results])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


EXPERIMENT = Experiment(
    name="task_moe_federated",
    title="Method",
    rows=tuple(ROWS),
    measure=measure,
    draw=draw,
    columns={
        "alike/seen": "alike: training clients, %",
        "alike/unseen": "alike: unseen clients, %",
        "differ/seen": "differ: training clients, %",
        "differ/unseen": "differ: unseen clients, %",
    },
    digits={f"{look}/{kind}": 1 for look in LOOKS for kind in ("seen", "unseen")},
)

if __name__ == "__main__":
    main(EXPERIMENT)
