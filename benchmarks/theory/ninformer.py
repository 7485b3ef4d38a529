"""NiNformer (arXiv 2403.02411) against MLP-Mixer at equal parameters and steps: does a Mixer do better as a gate?

Two Mixers, for there are two ways to spend the parameters that the gated linear layers and the perceptrons behind them
take: as many blocks with more hidden units, or more blocks.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.theory.classification import Recipe, Task, fit, num_parameters, score, seeded, task_of
from benchmarks.theory.experiment import Experiment, Figures, Results, main
from fedmoe.moe.expert import Expert, ExpertSpec
from fedmoe.moe.experts.mixer import MixerExpert
from fedmoe.moe.experts.ninformer import NiNformerExpert

__all__ = ["EXPERIMENT", "NETWORKS", "closest"]

FEATURES = 32
RECIPES = {"digits": Recipe(epochs=20), "fashion_mnist": Recipe(epochs=5)}
MOST = {"digits": (0, 0), "fashion_mnist": (3000, 2000)}  # training and test samples: what a minute affords
NAMES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST, 3,000"}
COLOURS = ("tab:orange", "tab:blue", "tab:cyan")


def closest(wanted: int, make: Callable[[int], Expert], sizes: range) -> Expert:
    """Returns the network whose number of parameters is closest to what is wanted."""
    return min((make(size) for size in sizes), key=lambda expert: abs(num_parameters(expert) - wanted))


def wider(spec: ExpertSpec) -> Expert:
    """Returns a Mixer of as many blocks as NiNformer has, with more hidden units."""
    wanted = num_parameters(NiNformerExpert(spec))
    return closest(wanted, lambda hidden: MixerExpert(spec, hidden=hidden), range(2 * FEATURES, 8 * FEATURES))


def deeper(spec: ExpertSpec) -> Expert:
    """Returns a Mixer of four blocks, whose hidden units take what parameters are left."""
    wanted = num_parameters(NiNformerExpert(spec))
    return closest(
        wanted, lambda hidden: MixerExpert(spec, layers=4, hidden=hidden), range(FEATURES // 2, 4 * FEATURES)
    )


NETWORKS: Mapping[str, Callable[[ExpertSpec], Expert]] = {
    "NiNformer, 2 blocks": NiNformerExpert,
    "Mixer, 2 wider blocks": wider,
    "Mixer, 4 blocks": deeper,
}


def operations(expert: Expert, task: Task) -> int:
    """Returns the multiplications and additions of matrix products that one picture takes."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expert(task.x_NCHW[:1])
    return int(counter.get_total_flops())


def measure(row: str, seed: int, small: bool) -> Figures:
    """Returns accuracy, loss, parameters and operations on each data set."""
    figures: dict[str, float] = {}
    for name, recipe in RECIPES.items():
        if small and name != "digits":
            continue
        task = task_of(name, *MOST[name])
        spec = replace(task.spec, width=FEATURES)
        expert = seeded(partial(NETWORKS[row], spec), seed)
        fit(expert, task, replace(recipe, epochs=8) if small else recipe, seed)
        figures |= {f"{name} {figure}": value for figure, value in score(expert, task).items()}
        figures[f"{name} parameters"] = num_parameters(expert)
        figures[f"{name} operations"] = operations(expert, task) / 1e6
    return figures


def draw(results: Results, figure: Figure) -> None:
    """Draws the accuracies, one point a seed, one panel a data set."""
    names = [name for name in RECIPES if f"{name} accuracy" in next(iter(results.values()))[0]]
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        for place, (runs, colour) in enumerate(zip(results.values(), COLOURS, strict=True)):
            values = [run[f"{name} accuracy"] for run in runs]
            axes.plot([place] * len(values), values, "o", color=colour, alpha=0.6)
            axes.plot([place - 0.25, place + 0.25], [np.mean(values)] * 2, color=colour, lw=2)
            note = f"{runs[0][f'{name} parameters'] / 1000:.1f}k\n{runs[0][f'{name} operations']:.2f} M"
            axes.annotate(note, (place, 0.02), xycoords=("data", "axes fraction"), ha="center", fontsize=8)
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.3 * (high - low), high)
        axes.set_xlim(-0.5, len(results) - 0.5)
        axes.set_xticks(range(len(results)), [row.replace(", ", "\n") for row in results])
        axes.set_title(NAMES[name])
        axes.set_ylabel("test accuracy, %")
    figure.supxlabel("one point a seed, bar: mean; below: parameters, operations a picture", fontsize=8)


EXPERIMENT = Experiment(
    name="ninformer",
    title="Network",
    rows=tuple(NETWORKS),
    measure=measure,
    draw=draw,
    columns={
        f"{name} {figure}": f"{NAMES[name]}: {heading}"
        for name in RECIPES
        for figure, heading in (
            ("accuracy", "accuracy, %"),
            ("loss", "loss, nats"),
            ("parameters", "parameters"),
            ("operations", "operations, M"),
        )
    },
    digits={f"{name} {figure}": n for name in RECIPES for figure, n in (("loss", 3), ("parameters", 0))},
)

if __name__ == "__main__":
    main(EXPERIMENT)
