"""Expanded gating ranges (A. H. Huang, arXiv 2405.20768): does an activation that may leave 0 and 1 train better?

Every activation in the same perceptron of one hidden layer, at equal parameters (a gated linear unit has fewer units)
and equal steps, on real pictures.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from benchmarks.theory.classification import Recipe, Task, fit, num_parameters, score, seeded, task_of
from benchmarks.theory.experiment import Experiment, Figures, Results, main
from fedmoe.moe.activations import ACTIVATIONS
from fedmoe.moe.experts.expanded import ExpandedExpert

__all__ = ["EXPERIMENT"]

UNITS = 128  # of an activation that reads one number a unit
RECIPES = {"digits": Recipe(epochs=30), "fashion_mnist": Recipe(epochs=4, batch=128)}
MOST = {"digits": 0, "fashion_mnist": 12_000}  # training samples; 0: all
NAMES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST, 12,000"}


def equal_units(task: Task, activation: str, units: int) -> int:
    """Returns how many units give about as many parameters as `units` of an activation that reads one number a unit."""
    pixels, classes = int(np.prod(task.spec.in_shape)), task.spec.num_classes
    reads = 2 if ACTIVATIONS[activation].halves else 1
    return round(units * (pixels + 1 + classes) / (reads * (pixels + 1) + classes))


def measure(activation: str, seed: int, small: bool) -> Figures:
    """Returns accuracy and loss on each data set, and the range that was learnt."""
    figures: dict[str, float] = {}
    for name, recipe in RECIPES.items():
        if small and name != "digits":
            continue
        task = task_of(name, MOST[name])
        spec = replace(task.spec, width=equal_units(task, activation, UNITS))
        expert = seeded(partial(ExpandedExpert, spec, activation=activation), seed)
        fit(expert, task, replace(recipe, epochs=6) if small else recipe, seed)
        figures |= {f"{name} {figure}": value for figure, value in score(expert, task).items()}
        figures[f"{name} parameters"] = num_parameters(expert)
        if expert.activation.range is not None:
            figures[f"{name} range"] = float(expert.activation.range.detach())
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws each activation's test loss, one point a seed, and its learnt range, one row a data set."""
    names = [name for name in RECIPES if f"{name} loss" in next(iter(results.values()))[0]]
    for row, axes in zip(names, figure.subplots(len(names), 2, squeeze=False), strict=True):
        for column, what in zip(axes, ("loss", "range"), strict=True):
            drawn = [name for name, runs in results.items() if f"{row} {what}" in runs[0]]
            for place, name in enumerate(drawn):
                values = [run[f"{row} {what}"] for run in results[name]]
                colour = "tab:orange" if ACTIVATIONS[name].expanded else "tab:blue"
                column.plot([place] * len(values), values, "o", ms=3.5, alpha=0.6, color=colour)
                column.plot([place - 0.3, place + 0.3], [np.mean(values)] * 2, color=colour, lw=2)
            column.set_xticks(range(len(drawn)), drawn, rotation=45, ha="right")
            column.set_title(f"{NAMES[row]}: {'test loss' if what == 'loss' else 'learnt range'}", fontsize=9)
            column.set_ylabel("nats" if what == "loss" else "range")
        axes[1].axhline(0, color="grey", lw=0.8)
    figure.supxlabel("activation (orange: its range is learnt; bars: means over seeds)", fontsize=9)


EXPERIMENT = Experiment(
    name="expanded_ranges",
    title="Activation",
    rows=tuple(ACTIVATIONS),
    measure=measure,
    draw=draw,
    columns={
        f"{name} {figure}": f"{NAMES[name]}: {heading}"
        for name in RECIPES
        for figure, heading in (("accuracy", "accuracy, %"), ("loss", "loss, nats"), ("range", "range"))
    },
    digits={"digits loss": 3, "fashion_mnist loss": 4},
)

if __name__ == "__main__":
    main(EXPERIMENT)
